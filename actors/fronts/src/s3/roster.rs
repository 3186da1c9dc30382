//! The connections of a front end: which of them are of use, which have been silent for too long, and which gives way
//! to a new one. Decisions are pure; a connection that is to go is told through its [`Link`].
//!
//! ```text
//!   accepted ──► head ──► request, verified or not ──► idle ──► head ──► ...
//!      └──── cut after head_max ┘        never            └ cut after idle_max
//! ```
//!
//! While the house is full, a new connection takes the place of one without a verified request under way: first of
//! those that never had one, the one that has been of no use for the longest first. Those that never had one never
//! have more than half of the house.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::auth::Verified;

/// What is known of one connection.
#[derive(Debug)]
struct Standing {
    phase: Phase,
    /// HTTP/2: what comes between two requests says nothing.
    multiplexed: bool,
    /// When it was accepted, or its last verified request ended.
    of_use: Instant,
    /// It had a verified request.
    known: bool,
    requests: BTreeMap<u64, Verified>,
    next: u64,
}

/// Where a connection without requests is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A head is on its way, or the first is waited for, since then.
    Head(Instant),
    /// Between two requests, since then.
    Idle(Instant),
}

/// How long connections without requests are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// A head, once it began, and the first from the start.
    pub(super) head_max: Duration,
    /// Between two requests.
    pub(super) idle_max: Duration,
}

impl Standing {
    fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Head(now),
            multiplexed: false,
            of_use: now,
            known: false,
            requests: BTreeMap::new(),
            next: 0,
        }
    }

    fn heard(&mut self, first: &[u8], now: Instant) {
        // `PRI * HTTP/2.0`; no method of S3 begins like this.
        self.multiplexed |= !self.known && self.next == 0 && first.starts_with(b"PR");
        if let Phase::Idle(_) = self.phase
            && !self.multiplexed
            && self.requests.is_empty()
        {
            self.phase = Phase::Head(now);
        }
    }

    fn begins(&mut self, verified: Verified) -> u64 {
        self.next += 1;
        self.requests.insert(self.next, verified);
        self.next
    }

    fn ends(&mut self, request: u64, now: Instant) {
        let verified = self.requests.remove(&request).is_some_and(|verified| verified.held());
        if verified {
            self.known = true;
            self.of_use = now;
        }
        if self.requests.is_empty() {
            self.phase = Phase::Idle(now);
        }
    }

    /// Its peer has taken something that waited for it.
    fn took(&mut self, now: Instant) {
        if let Phase::Idle(since) = &mut self.phase {
            *since = now;
        }
    }

    fn is_known(&self) -> bool {
        self.known || self.is_busy()
    }

    fn is_busy(&self) -> bool {
        self.requests.values().any(Verified::held)
    }

    /// Whether it has been without a request for too long.
    fn is_overdue(&self, patience: Patience, now: Instant) -> bool {
        let (since, max) = match self.phase {
            Phase::Head(since) => (since, patience.head_max),
            Phase::Idle(since) => (since, patience.idle_max),
        };
        self.requests.is_empty() && now.saturating_duration_since(since) >= max
    }

    /// Who gives way first; none: it does not.
    fn rank(&self) -> Option<(bool, Instant)> {
        (!self.is_busy()).then_some((self.known, self.of_use))
    }
}

/// One connection, shared by all who have to do with it.
#[derive(Clone, Debug)]
pub(super) struct Link(Arc<Line>);

#[derive(Debug)]
struct Line {
    standing: Mutex<Standing>,
    ends: Notify,
    cut: Mutex<Option<Cut>>,
    /// A request was answered before all of its body was read.
    unread: AtomicBool,
}

/// How a connection was ended from here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// For the log.
    pub(super) why: &'static str,
    /// What its peer has not taken yet goes at once, instead of waiting for it in the kernel.
    pub(super) at_once: bool,
}

impl Link {
    pub(super) fn new(now: Instant) -> Self {
        let standing = Mutex::new(Standing::new(now));
        Self(Arc::new(Line { standing, ends: Notify::new(), cut: Mutex::new(None), unread: AtomicBool::new(false) }))
    }

    /// Bytes came.
    pub(super) fn heard(&self, first: &[u8]) {
        self.standing().heard(first, Instant::now());
    }

    /// The end of an answer may lie here long after its request: who takes of it is not silent.
    pub(super) fn took(&self) {
        self.standing().took(Instant::now());
    }

    /// A request is under way until the guard is dropped.
    pub(super) fn begins(&self, verified: Verified) -> Underway {
        let request = self.standing().begins(verified);
        Underway { link: self.clone(), request }
    }

    /// Ends the connection.
    pub(super) fn cut(&self, cut: Cut) {
        self.0.cut.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(cut);
        self.0.ends.notify_one();
    }

    /// How it was cut, if it was.
    pub(super) fn cut_off(&self) -> Option<Cut> {
        *self.0.cut.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request's body is not read to its end: its peer may still send it, and no further request can come.
    pub(super) fn leaves_unread(&self) {
        self.0.unread.store(true, Relaxed);
    }

    /// Whether its peer may still send what nobody reads.
    pub(super) fn has_unread(&self) -> bool {
        self.0.unread.load(Relaxed)
    }

    /// Ready once it is cut.
    pub(super) async fn is_cut(&self) {
        self.0.ends.notified().await;
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.0.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Underway {
    link: Link,
    request: u64,
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.link.standing().ends(self.request, Instant::now());
    }
}

/// All connections. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Roster(Arc<Book>);

#[derive(Debug)]
struct Book {
    links: Mutex<(u64, BTreeMap<u64, Link>)>,
    connections_max: usize,
}

impl Roster {
    pub(super) fn new(connections_max: usize) -> Self {
        Self(Arc::new(Book { links: Mutex::default(), connections_max: connections_max.max(1) }))
    }

    /// A place for a new connection, which another may have to leave. None: the house is full of requests under way.
    pub(super) fn enter(&self, now: Instant) -> Option<Place> {
        let mut book = self.0.links.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, links) = &mut *book;
        let strangers = links.values().filter(|link| !link.standing().is_known()).count();
        let strangers_max = self.0.connections_max.div_ceil(2);
        if links.len() >= self.0.connections_max || strangers >= strangers_max {
            let first = links.iter().filter_map(|(id, link)| Some((link.standing().rank()?, *id))).min();
            // Where only strangers are too many, there is one that goes before everybody else.
            let (_, id) = first?;
            if let Some(link) = links.remove(&id) {
                link.cut(Cut { why: "it was of no use for the longest, and a new one came", at_once: false });
            }
        }
        *next += 1;
        let (id, link) = (*next, Link::new(now));
        links.insert(id, link.clone());
        Some(Place { roster: self.clone(), id, link })
    }

    /// Cuts those that have been without a request for too long.
    pub(super) fn look(&self, patience: Patience, now: Instant) {
        let book = self.0.links.lock().unwrap_or_else(PoisonError::into_inner);
        for link in book.1.values() {
            if link.standing().is_overdue(patience, now) {
                link.cut(Cut { why: "no request came in time", at_once: false });
            }
        }
    }
}

/// A connection's place in the house, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    roster: Roster,
    id: u64,
    link: Link,
}

impl Place {
    pub(super) const fn link(&self) -> &Link {
        &self.link
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.roster.0.links.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { head_max: Duration::from_secs(5), idle_max: Duration::from_secs(30) };

    fn held() -> Verified {
        let verified = Verified::default();
        verified.hold();
        verified
    }

    #[test]
    fn a_head_must_come_soon_and_between_requests_there_is_more_time() {
        let now = Instant::now();
        let mut standing = Standing::new(now);
        assert!(!standing.is_overdue(PATIENCE, now + Duration::from_secs(4)));
        standing.heard(b"G", now + Duration::from_secs(4));
        assert!(standing.is_overdue(PATIENCE, now + Duration::from_secs(5)), "saying little does not help");
        let request = standing.begins(held());
        assert!(!standing.is_overdue(PATIENCE, now + Duration::from_secs(500)));
        standing.ends(request, now + Duration::from_secs(500));
        assert!(!standing.is_overdue(PATIENCE, now + Duration::from_secs(529)));
        assert!(standing.is_overdue(PATIENCE, now + Duration::from_secs(530)));
        standing.heard(b"G", now + Duration::from_secs(529));
        assert!(!standing.is_overdue(PATIENCE, now + Duration::from_secs(533)));
        assert!(standing.is_overdue(PATIENCE, now + Duration::from_secs(534)));
    }

    #[test]
    fn what_comes_between_two_requests_of_http_2_keeps_nothing_open() {
        let now = Instant::now();
        let mut standing = Standing::new(now);
        standing.heard(b"PRI * HTTP/2.0\r\n", now);
        let request = standing.begins(held());
        standing.ends(request, now);
        for second in 1..30 {
            standing.heard(b"\0\0\x08\x06", now + Duration::from_secs(second));
            assert!(!standing.is_overdue(PATIENCE, now + Duration::from_secs(second)));
        }
        assert!(standing.is_overdue(PATIENCE, now + Duration::from_secs(30)));
    }

    #[test]
    fn strangers_have_half_of_the_house_and_the_oldest_of_them_gives_way() {
        let (roster, now) = (Roster::new(4), Instant::now());
        let places: Vec<Place> =
            (0..3).map(|second| roster.enter(now + Duration::from_secs(second)).expect("a place")).collect();
        let cut: Vec<bool> = places.iter().map(|place| place.link.cut_off().is_some()).collect();
        assert_eq!(cut, [true, false, false]);
    }

    #[test]
    fn a_full_house_keeps_requests_under_way_and_lets_the_longest_idle_go() {
        let (roster, now) = (Roster::new(2), Instant::now());
        let busy = roster.enter(now).expect("a place");
        let under_way = busy.link.begins(held());
        let idle = roster.enter(now).expect("another");
        drop(idle.link.begins(held()));
        let third = roster.enter(now).expect("that of the idle one");
        assert_eq!((busy.link.cut_off().is_some(), idle.link.cut_off().is_some()), (false, true));
        let _more = third.link.begins(held());
        assert!(roster.enter(now).is_none());
        drop(under_way);
        assert!(roster.enter(now).is_some());
        assert!(busy.link.cut_off().is_some());
    }

    #[test]
    fn a_request_that_was_refused_makes_nobody_known() {
        let (roster, now) = (Roster::new(4), Instant::now());
        let stranger = roster.enter(now).expect("a place");
        let known = roster.enter(now).expect("a place");
        drop(stranger.link.begins(Verified::default()));
        drop(known.link.begins(held()));
        let others: Vec<Place> = (1..3).map(|s| roster.enter(now + Duration::from_secs(s)).expect("a place")).collect();
        assert_eq!((stranger.link.cut_off().is_some(), known.link.cut_off().is_some()), (true, false));
        assert!(others.iter().all(|place| place.link.cut_off().is_none()));
    }
}
