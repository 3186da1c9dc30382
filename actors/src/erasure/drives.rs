//! What the machines of Erasure share: layouts, the state of drives as seen from here, and who waits for which answer.
//!
//! A drive that failed a request a moment ago is *suspected*: avoided by writes and asked last by reads, until it
//! answers well, until it is configured to be up again, or for [`SUSPICION`].

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    Buf, Cx, Error, ErrorKind, Outcome, Target,
    figures::Count,
    id::{ActorId, DriveId, Token},
    op::{ShardOp, StripeTarget},
    spec::ErasureSpec,
    time::Instant,
    topology::{self, DriveState, Layout},
};

use super::Caller;

/// See the module's page.
#[derive(Debug)]
pub(super) struct Drives {
    spec: ErasureSpec,
    /// Suspected until then. Of drives of known layouts only.
    suspects: BTreeMap<DriveId, Instant>,
    /// How long a read waits before it asks one more.
    pace: Pace,
    /// Who waits for what: calls and work that have not come back.
    pub(super) waits: BTreeMap<Token, Wait>,
    /// When which read asks one more.
    hedges: BTreeSet<(Instant, Token)>,
    pub(super) counted: Counted,
}

mesh_core::figures! {
    /// What did not go as it should.
    pub(crate) struct Counted as "mesh_erasure" {
        /// Shards that reads asked for because others were late.
        pub(super) hedged_shards: Count,
        /// Shards that reads asked for and did not get: not there, damaged, or their drive failed.
        pub(super) missed_shards: Count,
        /// Shards that writes sent elsewhere because a drive failed.
        pub(super) substituted_shards: Count,
        /// Stripes that could not be read, for too few shards came.
        pub(super) failed_reads: Count,
    }
}

/// A call or a piece of work that has not come back.
#[derive(Debug)]
pub(super) struct Wait {
    /// The request it is for, which may have been answered since.
    pub(super) job: Token,
    pub(super) role: Role,
}

#[derive(Debug)]
pub(super) enum Role {
    /// Coding or decoding.
    Work,
    /// A request about one shard.
    Shard { shard: u8, drive: DriveId, asked: Instant },
}

/// How willingly a drive is asked for a shard; the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Sound,
    Suspected,
    Down,
}

impl Drives {
    pub(super) fn new(spec: ErasureSpec) -> Self {
        Self {
            spec,
            suspects: BTreeMap::new(),
            pace: Pace::default(),
            waits: BTreeMap::new(),
            hedges: BTreeSet::new(),
            counted: Counted::default(),
        }
    }

    /// Takes new settings. A drive that comes up is no longer suspected.
    pub(super) fn configure(&mut self, spec: ErasureSpec) {
        let old = core::mem::replace(&mut self.spec, spec);
        let up = |spec: &ErasureSpec, drive: &DriveId| spec.drives.get(drive) == Some(&DriveState::Up);
        self.suspects.retain(|drive, _| up(&old, drive) || !up(&self.spec, drive));
    }

    /// A stripe's layout, which has groups for its code.
    pub(super) fn layout(&self, target: &StripeTarget) -> Result<Arc<Layout>, Error> {
        let id = target.layout;
        let layout = self.spec.layouts.get(&id).ok_or_else(|| {
            let text = "this node has not heard of the layout yet: try again once it has the newest configuration";
            Error::new(ErrorKind::Draining, text).with("layout", id)
        })?;
        match layout.table(target.code) {
            Some(table) if !table.groups().is_empty() && table.code().is_valid() => Ok(layout.clone()),
            _ => {
                Err(Error::invalid("the layout has no groups for the stripe's code, or no valid code")
                    .with("layout", id))
            }
        }
    }

    /// The layouts of the line that came after one.
    pub(super) fn later(&self, layout: &Layout) -> impl Iterator<Item = &Layout> {
        topology::later(&self.spec.layouts, layout)
    }

    /// Where the shards of a stripe may be: of each the drives that are not lost.
    pub(super) fn holders(&self, target: &StripeTarget, avoid: &[DriveId]) -> Result<Vec<Vec<DriveId>>, Error> {
        // A manifest names only sets of drives that left a placement.
        let no_placement =
            || Error::invalid("the stripe's layout has no placement without the drives that are said to be avoided");
        let StripeTarget { id, layout, code, .. } = target;
        let holders = topology::holders(&self.spec.layouts, *layout, *code, *id, avoid);
        let mut holders = holders.ok_or_else(no_placement)?;
        holders.iter_mut().for_each(|holders| holders.retain(|drive| !self.is_lost(*drive)));
        Ok(holders)
    }

    /// Whether a drive takes new shards, as far as is configured.
    pub(super) fn is_up(&self, drive: DriveId) -> bool {
        self.spec.drives.get(&drive) == Some(&DriveState::Up)
    }

    /// Whether a drive is at its reserve.
    pub(super) fn is_full(&self, drive: DriveId) -> bool {
        self.spec.drives.get(&drive) == Some(&DriveState::Full)
    }

    /// Whether a drive failed a moment ago.
    pub(super) fn is_suspected(&self, drive: DriveId, now: Instant) -> bool {
        self.suspects.get(&drive).is_some_and(|until| now < *until)
    }

    /// Whether a drive is lost for good.
    pub(super) fn is_lost(&self, drive: DriveId) -> bool {
        self.spec.drives.get(&drive) == Some(&DriveState::Lost)
    }

    /// How willingly a drive is asked for a shard.
    pub(super) fn rank(&self, drive: DriveId, now: Instant) -> Rank {
        match self.spec.drives.get(&drive) {
            Some(DriveState::Up | DriveState::Full) if self.is_suspected(drive, now) => Rank::Suspected,
            Some(DriveState::Up | DriveState::Full) => Rank::Sound,
            Some(DriveState::Down | DriveState::Lost) | None => Rank::Down,
        }
    }

    /// Learns from an answer.
    pub(super) fn observe(&mut self, drive: DriveId, asked: Instant, outcome: &Outcome, now: Instant) {
        match outcome {
            Ok(response) => {
                self.suspects.remove(&drive);
                if !response.payload.is_empty() {
                    self.pace.observe(now.since(asked));
                }
            }
            Err(error) => {
                let suspicious = match error.kind() {
                    ErrorKind::Unreachable
                    | ErrorKind::NoSuchActor
                    | ErrorKind::LinkLost
                    | ErrorKind::DriveFailed
                    | ErrorKind::Fenced
                    | ErrorKind::NoSpace => true,
                    // A caller in a hurry says nothing about the drive.
                    ErrorKind::Timeout => now.since(asked) >= TIMEOUT_SUSPICIOUS_MIN,
                    _ => false,
                };
                if suspicious {
                    self.suspects.insert(drive, now + SUSPICION);
                }
            }
        }
    }

    /// Asks a drive about one shard, for at most `patience`.
    pub(super) fn ask(
        &mut self,
        caller: &Caller,
        (shard, drive): (u8, DriveId),
        op: ShardOp,
        payload: Buf,
        patience: Duration,
        cx: &mut Cx<'_>,
    ) {
        let asked = cx.now();
        let request = caller.request(op, payload, asked + patience);
        let call = cx.call(Target::Actor(ActorId::drive(drive)), request);
        self.waits.insert(call, Wait { job: caller.id, role: Role::Shard { shard, drive, asked } });
    }

    /// Has `read` woken after the time that most shards take.
    pub(super) fn hedge(&mut self, read: Token, now: Instant) -> Instant {
        let at = now + self.pace.delay();
        self.hedges.insert((at, read));
        at
    }

    /// Has `read` not woken.
    pub(super) fn cancel_hedge(&mut self, read: Token, at: Instant) {
        self.hedges.remove(&(at, read));
    }

    /// A read whose time to ask one more has come.
    pub(super) fn next_hedge(&mut self, now: Instant) -> Option<Token> {
        let (at, _) = *self.hedges.first()?;
        if at <= now { self.hedges.pop_first().map(|(_, read)| read) } else { None }
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.hedges.first().map(|(at, _)| *at)
    }
}

/// The time within which 95 of 100 shards come, learnt by steps: up by 95 parts when one took longer, down by 5 when
/// it did not, so that it rests where one in twenty takes longer. Integers only, so that it replays.
#[derive(Debug)]
struct Pace {
    estimate_ns: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { estimate_ns: 20_000_000 }
    }
}

impl Pace {
    fn observe(&mut self, took: Duration) {
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let part = self.estimate_ns / 800;
        self.estimate_ns =
            if took_ns > self.estimate_ns { self.estimate_ns + 95 * part } else { self.estimate_ns - 5 * part };
        self.estimate_ns = self.estimate_ns.clamp(HEDGE_NS_MIN, HEDGE_NS_MAX);
    }

    const fn delay(&self) -> Duration {
        Duration::from_nanos(self.estimate_ns)
    }
}

/// A drive that failed is avoided for so long: longer than a silent peer takes to be found down.
const SUSPICION: Duration = Duration::from_secs(5);
/// A request that ran out of time after less than this says nothing about the drive.
const TIMEOUT_SUSPICIOUS_MIN: Duration = Duration::from_secs(1);
/// A read waits at least and at most so long before it asks one more.
const HEDGE_NS_MIN: u64 = 2_000_000;
const HEDGE_NS_MAX: u64 = 1_000_000_000;

const _: () = assert!(SUSPICION.as_nanos() > mesh_core::limits::HEARTBEAT_SILENCE_MAX.as_nanos());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_rests_where_one_in_twenty_takes_longer() {
        let mut pace = Pace::default();
        // 19 of 20 take 5 to 8 ms, one takes 50 ms.
        for at in 0..20_000_u64 {
            let took_ns = if at % 20 == 19 { 50_000_000 } else { 5_000_000 + at * 7_919 % 3_000_001 };
            pace.observe(Duration::from_nanos(took_ns));
        }
        let delay_us = pace.delay().as_micros();
        assert!((7_000..=10_000).contains(&delay_us), "{delay_us} us");
    }

    #[test]
    fn the_pace_stays_within_its_bounds() {
        let mut pace = Pace::default();
        (0..5_000).for_each(|_| pace.observe(Duration::ZERO));
        assert_eq!(pace.delay(), Duration::from_millis(2));
        (0..5_000).for_each(|_| pace.observe(Duration::from_secs(3600)));
        assert_eq!(pace.delay(), Duration::from_secs(1));
    }
}
