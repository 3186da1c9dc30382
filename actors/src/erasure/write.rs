//! One stripe on its way to k+m drives.
//!
//! A shard that fails is substituted: its drive joins the avoided ones, and the stripe is placed again. Shards that are
//! already where the new placement wants them stay; those that are elsewhere are superfluous, and deleted once the
//! stripe is durable. Nothing is deleted when a write fails: the same bytes may have been sent twice, and the other
//! one may have succeeded. What a failed write leaves behind belongs to no manifest and is reclaimed with its block.

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    Answer, Buf, Cx, Error, ErrorKind, Job, Outcome, WorkOutcome,
    id::{DriveId, StripeId, TenantId},
    limits::PAYLOAD_BYTES_MAX,
    op::{ShardOp, StripeTarget},
    port::{ComputeJob, WorkOutput},
    topology::{Code, Layout, Placement},
};

use super::{Caller, Drives, Role, Step, Wait};

/// See the module's page.
#[derive(Debug)]
pub(super) struct Write {
    caller: Caller,
    stripe: StripeId,
    tenant: TenantId,
    layout: Arc<Layout>,
    code: Code,
    /// Length of the stripe before coding.
    sealed_len: u32,
    /// Coded, each with its CRC; empty until then.
    shards: Vec<(Buf, u32)>,
    /// Drives of the group that cannot be used: not up at the beginning, or failed for this stripe since.
    unusable: BTreeSet<DriveId>,
    /// Those of them that only lack space.
    full: BTreeSet<DriveId>,
    /// Drives of the group that are avoided if the stripe can be placed without them.
    suspected: BTreeSet<DriveId>,
    /// Where the stripe goes at present, and without which drives.
    avoid: Vec<DriveId>,
    placement: Placement,
    /// What became of each shard at each drive it was sent to.
    sent: BTreeMap<(u8, DriveId), Sent>,
    substitutions: usize,
    /// A drive had no room for one more request: the caller had better slow down.
    overloaded: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Pending,
    Durable,
    Failed,
}

impl Write {
    pub(super) fn begin(
        caller: Caller,
        target: StripeTarget,
        payload: Buf,
        drives: &mut Drives,
        cx: &mut Cx<'_>,
    ) -> Result<Self, Error> {
        let layout = drives.layout(&target)?;
        let code = target.code.unwrap_or(layout.code);
        if payload.is_empty() {
            return Err(Error::invalid("a stripe has at least one byte"));
        }
        let sealed_len = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= PAYLOAD_BYTES_MAX);
        let sealed_len = sealed_len.ok_or_else(|| {
            Error::new(ErrorKind::TooLarge, "a stripe is longer than the limit").with("bytes", payload.len())
        })?;
        let group = layout.table(target.code).map_or(&[][..], |table| table.group_of(target.id));
        let mut write = Self {
            stripe: target.id,
            tenant: target.binding.tenant,
            sealed_len,
            shards: Vec::new(),
            unusable: group.iter().copied().filter(|drive| !drives.is_up(*drive)).collect(),
            full: group.iter().copied().filter(|drive| drives.is_full(*drive)).collect(),
            suspected: group.iter().copied().filter(|drive| drives.is_suspected(*drive, cx.now())).collect(),
            avoid: Vec::new(),
            placement: Placement { drives: Vec::new(), shared: false },
            sent: BTreeMap::new(),
            substitutions: 0,
            overloaded: false,
            caller,
            layout,
            code,
        };
        write.place()?;
        let job = ComputeJob::Encode { code, bytes: payload };
        let work = cx.start(Job::Compute(job));
        drives.waits.insert(work, Wait { job: write.caller.id, role: Role::Work });
        Ok(write)
    }

    pub(super) fn on_encoded(&mut self, outcome: WorkOutcome, drives: &mut Drives, cx: &mut Cx<'_>) -> Step {
        match outcome {
            Ok(WorkOutput::Shards(shards)) if shards.len() == self.code.shards() => self.shards = shards,
            Ok(_) => {
                return Some(Err(Error::bug("the compute back end answered with something other than k+m shards")));
            }
            Err(error) => return Some(Err(error)),
        }
        self.send(drives, cx)
    }

    pub(super) fn on_shard(
        &mut self,
        shard: u8,
        drive: DriveId,
        outcome: Outcome,
        drives: &mut Drives,
        cx: &mut Cx<'_>,
    ) -> Step {
        let wanted = self.placement.drives.get(usize::from(shard)) == Some(&drive);
        let error = match outcome {
            Ok(response) if response.answer == Answer::Done => {
                self.sent.insert((shard, drive), Sent::Durable);
                return if wanted { self.finish() } else { None };
            }
            Ok(_) => Error::bug("a drive answered a shard's write with something other than Done"),
            Err(error) => error,
        };
        self.sent.insert((shard, drive), Sent::Failed);
        // Also if it failed with a shard that is superfluous by now: the stripe must not be placed there again.
        self.unusable.insert(drive);
        if error.kind() == ErrorKind::NoSpace {
            self.full.insert(drive);
        }
        if !wanted {
            return None;
        }
        if is_final(error.kind()) {
            return Some(Err(error.with("drive", drive).with("shard", shard)));
        }
        self.overloaded |= error.kind() == ErrorKind::Overloaded;
        self.substitutions += 1;
        drives.counted.substituted_shards.add(1);
        if cx.now() >= self.caller.deadline {
            let text = "the budget ran out before every shard was durable: send the stripe again, as a new attempt";
            return Some(Err(Error::new(ErrorKind::Timeout, text).with("drive", drive).caused_by(error)));
        }
        if self.substitutions > SUBSTITUTIONS_MAX {
            return Some(Err(self.too_few().with("drive", drive).caused_by(error)));
        }
        match self.place() {
            Ok(()) => self.send(drives, cx),
            Err(too_few) => Some(Err(too_few.with("drive", drive).caused_by(error))),
        }
    }

    /// Places the stripe without what is unusable, and without what is suspected if that can be.
    fn place(&mut self) -> Result<(), Error> {
        let careful: Vec<DriveId> = self.unusable.union(&self.suspected).copied().collect();
        let bold: Vec<DriveId> = self.unusable.iter().copied().collect();
        for avoid in [careful, bold] {
            if let Some(placement) = self.without(&avoid) {
                self.placement = placement;
                self.avoid = avoid;
                return Ok(());
            }
        }
        Err(self.too_few())
    }

    /// Where the stripe goes without these drives.
    fn without(&self, avoid: &[DriveId]) -> Option<Placement> {
        self.layout.table(Some(self.code))?.place(self.stripe, avoid)
    }

    /// Sends every shard that is not yet where it belongs.
    fn send(&mut self, drives: &mut Drives, cx: &mut Cx<'_>) -> Step {
        for (shard, drive) in (0..).zip(&self.placement.drives) {
            let at = (shard, *drive);
            if self.sent.contains_key(&at) {
                continue;
            }
            let (payload, crc) = &self.shards[usize::from(shard)];
            let op = ShardOp::Write {
                id: self.stripe.shard(shard),
                tenant: self.tenant,
                code: self.code,
                sealed_len: self.sealed_len,
                crc: *crc,
            };
            drives.ask(&self.caller, at, op, payload.clone(), PATIENCE, cx);
            self.sent.insert(at, Sent::Pending);
        }
        self.finish()
    }

    /// The answer, if every shard is durable where it belongs.
    fn finish(&self) -> Step {
        let placed: BTreeSet<(u8, DriveId)> = (0..).zip(self.placement.drives.iter().copied()).collect();
        if placed.iter().any(|at| self.sent.get(at) != Some(&Sent::Durable)) {
            return None;
        }
        // What has reached a drive that the stripe does not count on stays there: it may be what repair finds at its home, and
        // what is in nobody's way is swept.
        Some(Ok(Answer::Placed { avoid: self.needed_avoid(), shared: self.placement.shared }.into()))
    }

    /// The avoided drives without which the stripe would be placed otherwise. Drives that it would not have gone to
    /// anyway are left out, so that a manifest has no exception for them.
    fn needed_avoid(&self) -> Vec<DriveId> {
        let mut avoid = self.avoid.clone();
        for drive in &self.avoid {
            let fewer: Vec<DriveId> = avoid.iter().copied().filter(|other| other != drive).collect();
            if self.without(&fewer).as_ref() == Some(&self.placement) {
                avoid = fewer;
            }
        }
        avoid
    }

    fn too_few(&self) -> Error {
        if self.overloaded {
            return Error::new(
                ErrorKind::Overloaded,
                "drives have no room for more requests: slow down, then try again",
            );
        }
        let group = self.layout.table(Some(self.code)).map_or(&[][..], |table| table.group_of(self.stripe));
        let up = group.iter().filter(|drive| !self.unusable.contains(*drive)).count();
        let (code, needed) = (self.code, self.code.shards());
        if up + self.full.len() >= needed {
            let text = format!(
                "{} of the {} drives of the stripe's group are full, and {code} needs {needed}: free space, or add drives",
                self.full.len(),
                group.len()
            );
            return Error::new(ErrorKind::NoSpace, text);
        }
        let text = format!(
            "{up} of the {} drives of the stripe's group are up, and {code} needs {needed}: try again when drives return",
            group.len()
        );
        Error::new(ErrorKind::TooFewShards, text)
    }
}

/// Errors that another drive would give too, or that a person must see.
const fn is_final(kind: ErrorKind) -> bool {
    matches!(kind.number(), 200..=299) || matches!(kind, ErrorKind::Bug)
}

/// A drive that has not made a shard durable within this is substituted.
const PATIENCE: Duration = Duration::from_secs(5);
/// Drives that one stripe replaces at most before it fails.
const SUBSTITUTIONS_MAX: usize = 8;
