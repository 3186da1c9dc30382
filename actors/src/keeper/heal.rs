//! One stripe, some of whose shards are not where they are to be: each is copied from another drive that has it, or rebuilt.
//!
//! It decides what is read, coded and written, and does none of it. A shard that is rebuilt is written only if the stripe,
//! coded anew, agrees with every shard that was read for it. Where too few can be read, it ends as lost only if every drive
//! that may have one has said that it does not.
//!
//! ```text
//! Gather:  read each missing shard elsewhere -> all there ------------------------------> Write -> whole
//!                                            -> some not: read others, to k -> Decode -> Encode -^
//!                                                                -> fewer than k anywhere -> lost
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mesh_core::{
    Answer, Buf, Error, ErrorKind, Outcome, Response, WorkOutcome,
    id::{DriveId, StripeId, TenantId},
    op::ShardOp,
    port::{ComputeJob, WorkOutput},
    topology::Code,
};

use crate::erasure::sealed_len;

/// See the module's page.
#[derive(Debug)]
pub(super) struct Heal {
    stripe: StripeId,
    code: Code,
    /// Where each shard that is missing is to be.
    goals: BTreeMap<u8, DriveId>,
    /// Of each shard the other drives that may have it and were not asked yet, the best one first.
    sources: Vec<VecDeque<DriveId>>,
    /// No drive that may have a shard is missing in these because it is merely away.
    all_asked: bool,
    /// No drive that was asked has left it open whether it has what was asked for.
    all_told: bool,
    /// Nothing brings it back; what is left of it is brought home.
    is_lost: bool,
    asked: BTreeSet<u8>,
    found: BTreeMap<u8, Found>,
    /// Reads or writes that are out.
    pending: usize,
    /// The first write that failed.
    failed: Option<Error>,
    /// Read and written so far.
    bytes: u64,
}

/// A shard, and what its drive says of it.
#[derive(Clone, Debug)]
struct Found {
    payload: Buf,
    crc: u32,
    sealed_len: u32,
    tenant: TenantId,
}

impl Found {
    /// Shards of one stripe agree on this.
    fn form(&self) -> (u32, usize) {
        (self.sealed_len, self.payload.len())
    }
}

/// What is to be done next.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Of a drive.
    Ask(u8, DriveId, ShardOp, Buf),
    Compute(ComputeJob),
}

/// How it goes on: with these steps, or to its end, which is [`ErrorKind::Lost`] if nothing brings the stripe back.
pub(super) enum Course {
    On(Vec<Step>),
    End(Result<(), Error>),
}

impl Heal {
    /// `goals`: where the shards that are missing are to be, one at least; `sources`: of every shard the drives that may have it,
    /// but for those; `all_asked`: no other drive may have any.
    pub(super) fn begin(
        stripe: StripeId,
        code: Code,
        goals: BTreeMap<u8, DriveId>,
        sources: Vec<VecDeque<DriveId>>,
        all_asked: bool,
    ) -> (Self, Course) {
        let mut heal = Self {
            stripe,
            code,
            sources,
            all_asked,
            all_told: true,
            is_lost: false,
            asked: BTreeSet::new(),
            found: BTreeMap::new(),
            pending: 0,
            failed: None,
            bytes: 0,
            goals,
        };
        let goals: Vec<u8> = heal.goals.keys().copied().collect();
        let reads: Vec<Step> = goals.into_iter().filter_map(|shard| heal.read(shard)).collect();
        let course = if reads.is_empty() { heal.advance() } else { Course::On(reads) };
        (heal, course)
    }

    /// Bytes that were read and written for it, whatever came of that.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&mut self, shard: u8) -> Option<Step> {
        self.asked.insert(shard);
        let drive = self.sources.get_mut(usize::from(shard))?.pop_front()?;
        self.pending += 1;
        Some(Step::Ask(shard, drive, ShardOp::Read { id: self.stripe.shard(shard) }, Buf::empty()))
    }

    /// A drive has answered, or will not.
    pub(super) fn hear(&mut self, shard: u8, outcome: Outcome) -> Course {
        self.pending -= 1;
        if self.is_writing() {
            return self.written(outcome);
        }
        let found = match outcome {
            Ok(response) => self.sound(response),
            Err(error) => {
                self.all_told &= matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt);
                None
            }
        };
        match found {
            Some(found) => {
                self.bytes += found.payload.len() as u64;
                self.found.insert(shard, found);
            }
            None => {
                if let Some(again) = self.read(shard) {
                    return Course::On(vec![again]);
                }
            }
        }
        if self.pending > 0 { Course::On(Vec::new()) } else { self.advance() }
    }

    /// Work has ended.
    pub(super) fn done(&mut self, outcome: WorkOutcome) -> Course {
        match outcome {
            Ok(WorkOutput::Bytes(bytes)) => {
                Course::On(vec![Step::Compute(ComputeJob::Encode { code: self.code, bytes })])
            }
            Ok(WorkOutput::Shards(shards)) if shards.len() == self.code.shards() => self.coded(&shards),
            Ok(_) => Course::End(Err(Error::bug("the compute back end answered with something else than was asked"))),
            Err(error) => Course::End(Err(error)),
        }
    }

    /// Everything that was asked for has come, or will not.
    fn advance(&mut self) -> Course {
        if self.goals.keys().all(|shard| self.found.contains_key(shard)) {
            return self.write();
        }
        let mut forms: BTreeMap<(u32, usize), usize> = BTreeMap::new();
        for found in self.found.values() {
            *forms.entry(found.form()).or_default() += 1;
        }
        let wanted = usize::from(self.code.data);
        let agree = forms.len() <= 1;
        let (form, most) = forms.into_iter().max_by_key(|(_, count)| *count).unwrap_or_default();
        if most >= wanted {
            self.found.retain(|_, found| found.form() == form);
            let shards = self.found.iter().take(wanted).map(|(shard, found)| (*shard, found.payload.clone())).collect();
            return Course::On(vec![Step::Compute(ComputeJob::Decode { code: self.code, len: form.0, shards })]);
        }
        let others: Vec<u8> = (0..).take(self.code.shards()).filter(|shard| !self.asked.contains(shard)).collect();
        let mut reads = Vec::new();
        for shard in others {
            if reads.len() == wanted - most {
                break;
            }
            reads.extend(self.read(shard));
        }
        if reads.is_empty() {
            if self.all_asked && self.all_told && agree {
                // What is elsewhere is deleted there once it is counted: of what is left nothing may be only there.
                self.is_lost = true;
                return self.write();
            }
            let text = "too few shards of a stripe can be read to rebuild those that are missing";
            let error = Error::new(ErrorKind::TooFewShards, text).with("stripe", format_args!("{:?}", self.stripe));
            return Course::End(Err(error.with("found", most).with("needed", wanted)));
        }
        Course::On(reads)
    }

    fn coded(&mut self, shards: &[(Buf, u32)]) -> Course {
        let Some(first) = self.found.values().next().cloned() else {
            return Course::End(Err(Error::bug("a stripe was coded anew of which nothing was read")));
        };
        let agree =
            |(shard, found): (&u8, &Found)| shards.get(usize::from(*shard)).is_some_and(|(_, crc)| *crc == found.crc);
        if !self.found.iter().all(agree) {
            let text = "the shards of a stripe do not belong together: nothing of it is rebuilt";
            return Course::End(Err(
                Error::new(ErrorKind::Corrupt, text).with("stripe", format_args!("{:?}", self.stripe))
            ));
        }
        for shard in self.goals.keys() {
            let (payload, crc) = shards[usize::from(*shard)].clone();
            self.found.entry(*shard).or_insert(Found { payload, crc, ..first.clone() });
        }
        self.write()
    }

    fn write(&mut self) -> Course {
        let mut steps = Vec::new();
        for (&shard, &drive) in &self.goals {
            let Some(Found { payload, crc, sealed_len, tenant }) = self.found.get(&shard).cloned() else { continue };
            let op = ShardOp::Write { id: self.stripe.shard(shard), tenant, code: self.code, sealed_len, crc };
            self.bytes += payload.len() as u64;
            steps.push(Step::Ask(shard, drive, op, payload));
        }
        self.pending = steps.len();
        self.goals.clear();
        if steps.is_empty() { self.end() } else { Course::On(steps) }
    }

    /// All that was to be written is, or could not be.
    fn end(&mut self) -> Course {
        let lost = || {
            let text = "fewer shards of a stripe are left than it takes to read it: nothing brings it back";
            Error::new(ErrorKind::Lost, text).with("stripe", format_args!("{:?}", self.stripe))
        };
        Course::End(match self.failed.take() {
            Some(error) => Err(error),
            None if self.is_lost => Err(lost()),
            None => Ok(()),
        })
    }

    /// Whether all that is out are writes.
    fn is_writing(&self) -> bool {
        self.goals.is_empty()
    }

    fn written(&mut self, outcome: Outcome) -> Course {
        let failed = match outcome.map(|response| response.answer) {
            Ok(Answer::Done) => None,
            Ok(_) => Some(Error::bug("a shard's write was answered by something else")),
            Err(error) => Some(error),
        };
        self.failed = self.failed.take().or(failed);
        if self.pending > 0 {
            return Course::On(Vec::new());
        }
        self.end()
    }

    /// What came, if it can be a shard of the stripe.
    fn sound(&self, response: Response) -> Option<Found> {
        let sealed_len = sealed_len(self.code, &response)?;
        let Answer::Shard { crc, tenant, .. } = response.answer else { return None };
        Some(Found { payload: response.payload, crc, sealed_len, tenant })
    }
}
