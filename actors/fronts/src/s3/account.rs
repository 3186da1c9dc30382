//! What this node holds for its clients, and who may take more of it: pure decisions, without waiting and without a
//! clock. `credit` does the waiting.
//!
//! ```text
//!   limit ├──────────────── bulk ────────────────┼─ small ─┤      every tenant: the same, of its share
//!         │ what requests took │ idle, in the pool│         │
//! ```
//!
//! - A request takes what it needs to get through **once**, before it begins, and keeps it until its end. More than that
//!   (stripes read or sent ahead) it only gets if it is there and nobody waits. So whoever holds something never waits
//!   for more, and there is no deadlock.
//! - The last eighth is for small requests, and half of that for middling ones too: they pass while large ones wait.
//! - Who cannot be served waits in order, but nobody waits for a tenant that has used its share up.
//! - While somebody waits, requests whose client has stopped (it takes or sends nothing) give way, those that stopped
//!   first first, and no more of them than it takes.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use mesh_core::{id::TenantId, limits::STRIPE_BYTES_MAX};
use tokio::time::Instant;

/// A request that holds something or waits for it.
pub(super) type Holder = u64;

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is taken.
    Granted(Holder),
    /// It waits until [`Change::Granted`], or until it is closed.
    Waits(Holder),
    /// Too many wait already.
    Refused,
}

/// What happened to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// One that waited has what it asked for.
    Granted(Holder),
    /// Its client has stopped, and others need what it holds: end it.
    Cut(Holder),
}

/// The account of one node.
#[derive(Debug)]
pub(super) struct Account {
    limit: usize,
    held: usize,
    tenants: BTreeMap<TenantId, usize>,
    holders: BTreeMap<Holder, Held>,
    waiting: VecDeque<Claim>,
    next: Holder,
}

#[derive(Debug)]
struct Held {
    tenant: TenantId,
    bytes: usize,
    /// Since when only its client can do something about it.
    stopped: Option<Instant>,
    cut: bool,
}

#[derive(Clone, Copy, Debug)]
struct Claim {
    holder: Holder,
    tenant: TenantId,
    bytes: usize,
}

impl Account {
    /// An account of so many bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(LIMIT_BYTES_MIN),
            held: 0,
            tenants: BTreeMap::new(),
            holders: BTreeMap::new(),
            waiting: VecDeque::new(),
            next: 0,
        }
    }

    /// Bytes held now.
    pub(super) const fn held(&self) -> usize {
        self.held
    }

    /// Bytes that may be held.
    pub(super) const fn limit(&self) -> usize {
        self.limit
    }

    /// Asks for what a request needs to get through.
    pub(super) fn admit(&mut self, tenant: TenantId, bytes: usize) -> Admission {
        self.next += 1;
        let claim = Claim { holder: self.next, tenant, bytes: bytes.min(CLAIM_BYTES_MAX) };
        // Whoever waits goes first, unless it is for its own tenant's share, or larger than this.
        let before = |other: &Claim| {
            (other.tenant == tenant || self.tenant_fits_with(*other, &Coming::default()))
                && Size::of(other.bytes) <= Size::of(bytes)
        };
        if !self.waiting.iter().any(before) && self.fits(claim) {
            self.grant(claim);
            return Admission::Granted(claim.holder);
        }
        if self.waiting.len() >= WAITING_MAX {
            return Admission::Refused;
        }
        self.waiting.push_back(claim);
        Admission::Waits(claim.holder)
    }

    /// Asks for more than is needed. Granted only if it is there and nobody waits.
    pub(super) fn more(&mut self, holder: Holder, bytes: usize) -> bool {
        let Some(held) = self.holders.get(&holder) else { return false };
        let claim = Claim { holder, tenant: held.tenant, bytes };
        if !self.waiting.is_empty() || held.cut || !self.fits(claim) {
            return false;
        }
        self.take(claim);
        true
    }

    /// Gives back what [`Self::more`] gave.
    pub(super) fn less(&mut self, holder: Holder, bytes: usize) -> Vec<Change> {
        let Some(held) = self.holders.get_mut(&holder) else { return Vec::new() };
        debug_assert!(held.bytes >= bytes, "{holder} gives back {bytes} of {}", held.bytes);
        held.bytes -= bytes.min(held.bytes);
        let tenant = held.tenant;
        self.give(tenant, bytes)
    }

    /// A request is over, or does not wait any more.
    pub(super) fn close(&mut self, holder: Holder) -> Vec<Change> {
        self.waiting.retain(|claim| claim.holder != holder);
        match self.holders.remove(&holder) {
            Some(held) => self.give(held.tenant, held.bytes),
            // Whoever waited behind it may pass now.
            None => self.grant_waiting(),
        }
    }

    /// From now on only the client can do something about this request.
    pub(super) fn waits_for_client(&mut self, holder: Holder, now: Instant) {
        if let Some(held) = self.holders.get_mut(&holder) {
            held.stopped.get_or_insert(now);
        }
    }

    /// Its client has done something, or it is this node's turn.
    pub(super) fn moves(&mut self, holder: Holder) {
        if let Some(held) = self.holders.get_mut(&holder) {
            held.stopped = None;
        }
    }

    /// Who gives way now, so that those who wait get what they wait for.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Change> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let mut stopped: Vec<(Instant, Holder)> = self
            .holders
            .iter()
            .filter_map(|(holder, held)| Some((held.stopped?, *holder, held.cut)))
            .filter(|(since, _, cut)| !cut && now.saturating_duration_since(*since) >= STOPPED_AFTER)
            .map(|(since, holder, _)| (since, holder))
            .collect();
        stopped.sort_unstable();
        // What those who were cut hold is as good as given back.
        let mut coming = Coming::default();
        for held in self.holders.values().filter(|held| held.cut) {
            coming.add(held);
        }
        let mut cut = Vec::new();
        for claim in &self.waiting {
            while !self.fits_with(*claim, &coming) {
                // Of anybody if the node is full, of the tenant's own if that is.
                let own = !self.tenant_fits_with(*claim, &coming);
                let helps =
                    |holder: &Holder| !own || self.holders.get(holder).is_some_and(|h| h.tenant == claim.tenant);
                let Some(at) = stopped.iter().position(|(_, holder)| helps(holder)) else { break };
                let (_, holder) = stopped.remove(at);
                if let Some(held) = self.holders.get(&holder) {
                    coming.add(held);
                }
                cut.push(holder);
            }
            if self.fits_with(*claim, &coming) {
                coming.spend(claim);
            }
        }
        for holder in &cut {
            if let Some(held) = self.holders.get_mut(holder) {
                held.cut = true;
            }
        }
        cut.into_iter().map(Change::Cut).collect()
    }

    /// Who has been stopped for so long that it is given up, whether or not anybody waits.
    pub(super) fn stalled(&mut self, now: Instant, stall_max: Duration) -> Vec<Change> {
        let mut cut = Vec::new();
        for (holder, held) in &mut self.holders {
            let since = held.stopped.filter(|_| !held.cut);
            if since.is_some_and(|since| now.saturating_duration_since(since) >= stall_max) {
                held.cut = true;
                cut.push(Change::Cut(*holder));
            }
        }
        cut
    }

    fn share(&self) -> usize {
        self.limit / 4 * 3
    }

    fn fits(&self, claim: Claim) -> bool {
        self.fits_with(claim, &Coming::default())
    }

    fn fits_with(&self, claim: Claim, coming: &Coming) -> bool {
        self.held as isize + claim.bytes as isize - coming.bytes <= room(self.limit, claim.bytes)
            && self.tenant_fits_with(claim, coming)
    }

    fn tenant_fits_with(&self, claim: Claim, coming: &Coming) -> bool {
        let held = self.tenants.get(&claim.tenant).copied().unwrap_or(0) as isize;
        let coming = coming.tenants.get(&claim.tenant).copied().unwrap_or(0);
        held + claim.bytes as isize - coming <= room(self.share(), claim.bytes)
    }

    fn take(&mut self, claim: Claim) {
        self.held += claim.bytes;
        *self.tenants.entry(claim.tenant).or_default() += claim.bytes;
        if let Some(held) = self.holders.get_mut(&claim.holder) {
            held.bytes += claim.bytes;
        }
        debug_assert!(self.held <= self.limit, "{} held of {}", self.held, self.limit);
    }

    fn grant(&mut self, claim: Claim) {
        self.holders.insert(claim.holder, Held { tenant: claim.tenant, bytes: 0, stopped: None, cut: false });
        self.take(claim);
    }

    fn give(&mut self, tenant: TenantId, bytes: usize) -> Vec<Change> {
        self.held -= bytes.min(self.held);
        if let Some(held) = self.tenants.get_mut(&tenant) {
            *held -= bytes.min(*held);
            if *held == 0 {
                self.tenants.remove(&tenant);
            }
        }
        self.grant_waiting()
    }

    /// In order; a tenant whose first does not fit waits with all its others of that size, and so does everybody if the
    /// node is full.
    fn grant_waiting(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        let (mut at, mut full) = (0, [false; 3]);
        let mut blocked: Vec<(TenantId, Size)> = Vec::new();
        while let Some(claim) = self.waiting.get(at).copied() {
            let size = Size::of(claim.bytes);
            if !full[size as usize] && !blocked.contains(&(claim.tenant, size)) && self.fits(claim) {
                self.waiting.remove(at);
                self.grant(claim);
                changes.push(Change::Granted(claim.holder));
                continue;
            }
            match self.tenant_fits_with(claim, &Coming::default()) {
                true => full[size as usize] = true,
                false => blocked.push((claim.tenant, size)),
            }
            if full == [true; 3] {
                break;
            }
            at += 1;
        }
        changes
    }
}

/// What will be given back, and what of it is spoken for: less than nothing if more is.
#[derive(Default)]
struct Coming {
    bytes: isize,
    tenants: BTreeMap<TenantId, isize>,
}

impl Coming {
    fn add(&mut self, held: &Held) {
        self.bytes += held.bytes as isize;
        *self.tenants.entry(held.tenant).or_default() += held.bytes as isize;
    }

    fn spend(&mut self, claim: &Claim) {
        self.bytes -= claim.bytes as isize;
        *self.tenants.entry(claim.tenant).or_default() -= claim.bytes as isize;
    }
}

/// Which requests wait for each other: the smaller ones pass the larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Size {
    Small,
    Middling,
    Large,
}

impl Size {
    const fn of(bytes: usize) -> Self {
        if bytes <= SMALL_BYTES_MAX {
            Self::Small
        } else if bytes <= MIDDLING_BYTES_MAX {
            Self::Middling
        } else {
            Self::Large
        }
    }
}

/// How much of `limit` requests of this size may fill.
const fn room(limit: usize, bytes: usize) -> isize {
    (match Size::of(bytes) {
        Size::Small => limit,
        Size::Middling => limit / 16 * 15,
        Size::Large => limit / 8 * 7,
    }) as isize
}

/// The least that an account may be: any request fits into it.
pub(super) const LIMIT_BYTES_MIN: usize = 64 << 20;
/// A request that needs no more than this is small.
const SMALL_BYTES_MAX: usize = 128 << 10;
/// A request that needs no more than this is middling: objects up to a megabyte, and multiples of megabytes are not.
pub(super) const MIDDLING_BYTES_MAX: usize = 5 << 18;
/// A request asks for so much at most, to begin with: a copy's two stripes, with room for frames.
const CLAIM_BYTES_MAX: usize = 4 * STRIPE_BYTES_MAX;
/// Claims that wait at most.
const WAITING_MAX: usize = 4096;
/// A client of which nothing came, and that took nothing, for so long has stopped.
const STOPPED_AFTER: Duration = Duration::from_secs(3);

const _: () = assert!(CLAIM_BYTES_MAX <= LIMIT_BYTES_MIN / 4 * 3 / 8 * 7);

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;
    const ONE: TenantId = TenantId(1);
    const TWO: TenantId = TenantId(2);

    /// 64 MiB: 48 for a tenant, of which 42 for bulk; 56 for bulk of all.
    fn account() -> Account {
        Account::new(LIMIT_BYTES_MIN)
    }

    fn granted(admission: Admission) -> Holder {
        match admission {
            Admission::Granted(holder) => holder,
            other => panic!("{other:?}"),
        }
    }

    fn waits(admission: Admission) -> Holder {
        match admission {
            Admission::Waits(holder) => holder,
            other => panic!("{other:?}"),
        }
    }

    fn fill(account: &mut Account, tenant: TenantId, count: usize) -> Vec<Holder> {
        (0..count).map(|_| granted(account.admit(tenant, 4 * MIB))).collect()
    }

    #[test]
    fn who_waits_is_served_in_order_when_something_comes_back() {
        let mut account = account();
        let held = fill(&mut account, ONE, 10);
        let (first, second) = (waits(account.admit(ONE, 4 * MIB)), waits(account.admit(ONE, 3 * MIB)));
        assert_eq!(account.close(held[0]), [Change::Granted(first)]);
        assert_eq!(account.close(held[1]), [Change::Granted(second)]);
        assert_eq!(account.held(), 39 * MIB);
    }

    #[test]
    fn a_tenant_that_has_used_its_share_up_keeps_nobody_else_waiting() {
        let mut account = account();
        fill(&mut account, ONE, 10);
        waits(account.admit(ONE, 4 * MIB));
        assert_eq!(fill(&mut account, TWO, 4).len(), 4);
        waits(account.admit(TWO, 4 * MIB));
    }

    #[test]
    fn small_requests_pass_while_large_ones_wait() {
        let mut account = account();
        fill(&mut account, ONE, 10);
        waits(account.admit(ONE, 4 * MIB));
        granted(account.admit(ONE, SMALL_BYTES_MAX));
        // 42 of 48 MiB for large ones, 45 for middling ones too.
        let middling = MIDDLING_BYTES_MAX;
        assert_eq!((0..3).map(|_| granted(account.admit(ONE, middling))).count(), 3);
        waits(account.admit(ONE, middling));
        granted(account.admit(ONE, SMALL_BYTES_MAX));
        waits(account.admit(ONE, SMALL_BYTES_MAX + 1));
    }

    #[test]
    fn who_has_been_stopped_for_too_long_is_given_up_though_nobody_waits() {
        let mut account = account();
        let held = fill(&mut account, ONE, 3);
        let (now, stall_max) = (Instant::now(), 20 * STOPPED_AFTER);
        account.waits_for_client(held[1], now);
        account.waits_for_client(held[2], now + STOPPED_AFTER);
        assert_eq!(account.stalled(now + stall_max - STOPPED_AFTER, stall_max), []);
        assert_eq!(account.stalled(now + stall_max, stall_max), [Change::Cut(held[1])]);
        assert_eq!(account.stalled(now + stall_max, stall_max), []);
    }

    #[test]
    fn more_is_given_only_while_nobody_waits() {
        let mut account = account();
        let held = fill(&mut account, ONE, 9);
        assert!(account.more(held[0], 4 * MIB));
        assert!(!account.more(held[0], 4 * MIB));
        let first = waits(account.admit(ONE, 4 * MIB));
        assert_eq!(account.close(held[1]), [Change::Granted(first)]);
        let second = waits(account.admit(ONE, 4 * MIB));
        assert!(!account.more(held[0], MIB));
        assert_eq!(account.less(held[0], 4 * MIB), [Change::Granted(second)]);
    }

    #[test]
    fn who_has_stopped_gives_way_first_come_first_and_only_while_somebody_waits() {
        let mut account = account();
        let held = fill(&mut account, ONE, 10);
        let now = Instant::now();
        account.waits_for_client(held[4], now);
        account.waits_for_client(held[2], now + STOPPED_AFTER / 3);
        account.waits_for_client(held[7], now + STOPPED_AFTER);
        let late = now + STOPPED_AFTER * 4 / 3;
        assert_eq!(account.tick(late), []);
        waits(account.admit(ONE, 4 * MIB));
        assert_eq!(account.tick(now), []);
        assert_eq!(account.tick(late), [Change::Cut(held[4])]);
        assert_eq!(account.tick(late), [], "what it holds comes back");
        waits(account.admit(ONE, 4 * MIB));
        waits(account.admit(ONE, 4 * MIB));
        assert_eq!(account.tick(late), [Change::Cut(held[2])], "the third has not stopped for long enough");
    }

    #[test]
    fn who_moves_again_has_not_stopped() {
        let mut account = account();
        let held = fill(&mut account, ONE, 10);
        let now = Instant::now();
        account.waits_for_client(held[0], now);
        account.moves(held[0]);
        account.waits_for_client(held[0], now + STOPPED_AFTER);
        waits(account.admit(ONE, 4 * MIB));
        assert_eq!(account.tick(now + STOPPED_AFTER * 3 / 2), []);
    }

    #[test]
    fn nobody_gives_way_to_a_tenant_whose_own_share_is_full() {
        let mut account = account();
        fill(&mut account, ONE, 10);
        let other = fill(&mut account, TWO, 1);
        let now = Instant::now();
        account.waits_for_client(other[0], now);
        waits(account.admit(ONE, 4 * MIB));
        assert_eq!(account.tick(now + 2 * STOPPED_AFTER), []);
    }

    #[test]
    fn anybody_who_has_stopped_gives_way_when_the_node_is_full() {
        let mut account = account();
        let held = fill(&mut account, ONE, 10);
        fill(&mut account, TWO, 4);
        let now = Instant::now();
        account.waits_for_client(held[0], now);
        let waiting = waits(account.admit(TWO, 4 * MIB));
        assert_eq!(account.tick(now + STOPPED_AFTER), [Change::Cut(held[0])]);
        assert_eq!(account.close(held[0]), [Change::Granted(waiting)]);
    }

    #[test]
    fn whoever_waited_behind_one_that_gave_up_passes() {
        let mut account = account();
        let held = fill(&mut account, ONE, 10);
        let large = waits(account.admit(ONE, 8 * MIB));
        let behind = waits(account.admit(ONE, 4 * MIB));
        assert_eq!(account.close(held[0]), []);
        assert_eq!(account.close(large), [Change::Granted(behind)]);
    }

    #[test]
    fn everything_comes_back() {
        let mut account = account();
        let held = fill(&mut account, ONE, 10);
        assert!(account.more(held[3], MIB));
        let waiting = waits(account.admit(ONE, 4 * MIB));
        for holder in held.into_iter().chain([waiting]) {
            account.close(holder);
        }
        assert_eq!((account.held(), account.tenants.len(), account.holders.len()), (0, 0, 0));
        assert!(account.waiting.is_empty());
    }

    #[test]
    fn those_who_wait_are_bounded() {
        let mut account = account();
        fill(&mut account, ONE, 10);
        for _ in 0..WAITING_MAX {
            waits(account.admit(ONE, 4 * MIB));
        }
        assert_eq!(account.admit(ONE, 4 * MIB), Admission::Refused);
    }
}
