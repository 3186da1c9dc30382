//! One stripe on its way back, from whichever k shards come first.
//!
//! It asks k drives, those that are up first and data shards first. When a shard fails it asks another at once; when
//! none fails but the answer is late, it asks one more (and again, each time after the delay). A shard that may be on
//! several drives, because it is being moved to a later layout, is missing only once none of them has given it. Shards
//! that disagree about the stripe's length are kept apart: the first k that agree are decoded.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mesh_core::{
    Answer, Buf, Cx, Error, ErrorKind, Job, Outcome, Response, WorkOutcome,
    id::{DriveId, StripeId},
    limits::PAYLOAD_BYTES_MAX,
    op::{ShardOp, StripeTarget},
    port::{ComputeJob, WorkOutput},
    time::Instant,
    topology::Code,
};

use super::{Caller, Drives, Role, Step, Wait, drives::Rank};

/// See the module's page.
#[derive(Debug)]
pub(super) struct Read {
    caller: Caller,
    stripe: StripeId,
    code: Code,
    /// Of each shard the drives that may have it and were not asked yet, the best one first.
    holders: Vec<VecDeque<DriveId>>,
    /// The worst that became of each shard so far.
    failed: Vec<Option<Failed>>,
    /// Shards that can be asked for: first those whose next drive is sound, of these those that were not asked for yet.
    queue: BTreeSet<(Rank, bool, u8)>,
    /// Shards asked for and not answered.
    outstanding: usize,
    /// Shards that came, by what they say of the stripe: its length and theirs.
    found: BTreeMap<(u32, usize), Vec<(u8, Buf)>>,
    /// When one more is asked for.
    hedge_at: Option<Instant>,
    decoding: bool,
    missing: Missing,
}

/// Why a drive gave no shard; where a shard may be on several, the last of these counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Failed {
    NotFound,
    Corrupt,
    Unreachable,
}

/// Shards that will not come, by reason.
#[derive(Debug, Default)]
struct Missing {
    not_found: usize,
    corrupt: usize,
    unreachable: usize,
}

impl Read {
    pub(super) fn begin(
        caller: Caller,
        target: &StripeTarget,
        avoid: &[DriveId],
        drives: &mut Drives,
        cx: &mut Cx<'_>,
    ) -> Result<Self, Error> {
        let layout = drives.layout(target)?;
        let mut holders = drives.holders(target, avoid)?;
        let rank = |drive: &DriveId| drives.rank(*drive, cx.now());
        holders.iter_mut().for_each(|holders| holders.sort_by_key(rank));
        let first = |(shard, holders): (u8, &Vec<DriveId>)| Some((rank(holders.first()?), false, shard));
        let queue: BTreeSet<_> = (0..).zip(&holders).filter_map(first).collect();
        // What lay on a drive that is lost does not come back.
        let missing = Missing { not_found: holders.len() - queue.len(), ..Missing::default() };
        let mut read = Self {
            caller,
            stripe: target.id,
            code: target.code.unwrap_or(layout.code),
            failed: vec![None; holders.len()],
            holders: holders.into_iter().map(VecDeque::from).collect(),
            queue,
            outstanding: 0,
            found: BTreeMap::new(),
            hedge_at: None,
            decoding: false,
            missing,
        };
        if read.queue.len() < usize::from(read.code.data) {
            drives.counted.failed_reads.add(1);
            return Err(read.hopeless(0));
        }
        (0..read.code.data).for_each(|_| read.ask(drives, cx));
        read.arm(drives, cx);
        Ok(read)
    }

    pub(super) fn on_shard(&mut self, shard: u8, outcome: Outcome, drives: &mut Drives, cx: &mut Cx<'_>) -> Step {
        if self.decoding {
            return None;
        }
        self.outstanding -= 1;
        let failed = match outcome {
            Ok(response) => match sealed_len(self.code, &response) {
                Some(sealed_len) => {
                    let key = (sealed_len, response.payload.len());
                    self.found.entry(key).or_default().push((shard, response.payload));
                    return self.advance(drives, cx);
                }
                None => Failed::Corrupt,
            },
            Err(error) => match error.kind() {
                ErrorKind::NotFound => Failed::NotFound,
                ErrorKind::Corrupt => Failed::Corrupt,
                _ => Failed::Unreachable,
            },
        };
        self.fail(shard, failed, drives, cx.now());
        self.advance(drives, cx)
    }

    /// A drive did not give a shard: the next one that may have it is asked in its turn.
    fn fail(&mut self, shard: u8, failed: Failed, drives: &mut Drives, now: Instant) {
        drives.counted.missed_shards.add(1);
        let at = usize::from(shard);
        let worst = self.failed[at].map_or(failed, |known| known.max(failed));
        self.failed[at] = Some(worst);
        if let Some(next) = self.holders[at].front() {
            self.queue.insert((drives.rank(*next, now), true, shard));
            return;
        }
        let Missing { not_found, corrupt, unreachable } = &mut self.missing;
        *match worst {
            Failed::NotFound => not_found,
            Failed::Corrupt => corrupt,
            Failed::Unreachable => unreachable,
        } += 1;
    }

    /// The delay is over: asks one more.
    pub(super) fn on_hedge(&mut self, drives: &mut Drives, cx: &mut Cx<'_>) {
        self.hedge_at = None;
        drives.counted.hedged_shards.add(u64::from(!self.queue.is_empty()));
        self.ask(drives, cx);
        self.arm(drives, cx);
    }

    pub(super) fn on_decoded(&mut self, outcome: WorkOutcome) -> Step {
        Some(match outcome {
            Ok(WorkOutput::Bytes(payload)) => Ok(Response { answer: Answer::Done, payload }),
            Ok(_) => Err(Error::bug("the compute back end answered with something other than bytes")),
            Err(error) if error.kind() == ErrorKind::Invalid => {
                Err(Error::new(ErrorKind::Corrupt, "the stripe's shards do not fit together").caused_by(error))
            }
            Err(error) => Err(error),
        })
    }

    /// Decodes if k shards agree; else sees to it that k still can; else gives up, which is final only if no drive that
    /// has not answered could help.
    fn advance(&mut self, drives: &mut Drives, cx: &mut Cx<'_>) -> Step {
        let wanted = usize::from(self.code.data);
        let complete = self.found.iter().find(|(_, shards)| shards.len() >= wanted).map(|(key, _)| *key);
        if let Some(key) = complete {
            self.disarm(drives);
            let shards = self.found.remove(&key).expect("just found");
            self.found.clear();
            self.decoding = true;
            let work = cx.start(Job::Compute(ComputeJob::Decode { code: self.code, len: key.0, shards }));
            drives.waits.insert(work, Wait { job: self.caller.id, role: Role::Work });
            return None;
        }
        let most = self.found.values().map(Vec::len).max().unwrap_or(0);
        while most + self.outstanding < wanted && !self.queue.is_empty() {
            self.ask(drives, cx);
        }
        if self.queue.is_empty() {
            self.disarm(drives);
        }
        if most + self.outstanding >= wanted {
            return None;
        }
        drives.counted.failed_reads.add(1);
        Some(Err(self.hopeless(most)))
    }

    /// Asks for the next shard, if there is one.
    fn ask(&mut self, drives: &mut Drives, cx: &mut Cx<'_>) {
        let next = self.queue.pop_first();
        let next = next.and_then(|(.., shard)| Some((shard, self.holders[usize::from(shard)].pop_front()?)));
        if let Some(at @ (shard, _)) = next {
            let op = ShardOp::Read { id: self.stripe.shard(shard) };
            drives.ask(&self.caller, at, op, Buf::empty(), PATIENCE, cx);
            self.outstanding += 1;
        }
    }

    /// Has one more asked for after the delay, if there is one.
    fn arm(&mut self, drives: &mut Drives, cx: &Cx<'_>) {
        if !self.queue.is_empty() {
            self.hedge_at = Some(drives.hedge(self.caller.id, cx.now()));
        }
    }

    fn disarm(&mut self, drives: &mut Drives) {
        if let Some(at) = self.hedge_at.take() {
            drives.cancel_hedge(self.caller.id, at);
        }
    }

    fn hopeless(&self, found: usize) -> Error {
        let Missing { not_found, corrupt, unreachable } = self.missing;
        // Drives that have not answered may yet have what they were given.
        if found + unreachable + self.outstanding < usize::from(self.code.data) {
            return Error::new(ErrorKind::Lost, "too few shards of the stripe are left: its data are lost")
                .with("write", self.stripe.write)
                .with("stripe", self.stripe.stripe)
                .with("needed", self.code.data)
                .with("found", found)
                .with("not_there", not_found)
                .with("damaged", corrupt)
                .with("unread", unreachable);
        }
        let text = format!(
            "a stripe cannot be read now: it needs {} of its {} shards; {found} were read, {unreachable} are on drives \
             that cannot be reached, {} had not come yet, {not_found} are not there, {corrupt} are damaged: try again \
             when drives return",
            self.code.data,
            self.code.shards(),
            self.outstanding
        );
        Error::new(ErrorKind::TooFewShards, text)
    }
}

/// What a shard says the sealed length of its stripe is, if it can be a shard of a stripe under this code.
pub(crate) fn sealed_len(code: Code, response: &Response) -> Option<u32> {
    let Answer::Shard { code: said, sealed_len, .. } = response.answer else { return None };
    let (stripe, shard) = (usize::try_from(sealed_len).ok()?, response.payload.len());
    let sound = said == code
        && (1..=PAYLOAD_BYTES_MAX).contains(&stripe)
        && (1..=PAYLOAD_BYTES_MAX).contains(&shard)
        && shard * usize::from(code.data) >= stripe;
    sound.then_some(sealed_len)
}

/// A drive that has not answered within this is given up.
const PATIENCE: Duration = Duration::from_secs(10);
