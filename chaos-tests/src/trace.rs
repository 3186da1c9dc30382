//! What happened, as one number: a running hash over every event and effect of a world. Two runs of one seed must end
//! with the same.

use mesh_core::{
    Answer, Buf, Error, Op, Outcome, Request, Response, WorkOutcome,
    effect::Job,
    meta,
    op::{ShardOp, StripeOp},
    port::{ComputeJob, DiskJob, WorkOutput},
    topology::mix,
};

/// The running hash, and the log if one is wanted.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// A trace; with `log`, it also keeps a line for every note.
    #[must_use]
    pub fn new(log: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: log.then(Vec::new) }
    }

    /// The hash of everything so far.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// Takes the lines of the log.
    #[must_use]
    pub fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }

    /// Adds numbers to the hash; `line` is asked only if a log is kept.
    pub fn note(&mut self, numbers: &[u64], line: impl FnOnce() -> String) {
        for number in numbers {
            self.hash = mix(self.hash ^ number);
        }
        if let Some(lines) = &mut self.lines {
            lines.push(line());
        }
    }
}

/// Something that has a number which says what it is.
pub trait Digest {
    /// The same for equal values; different, as a rule, for different ones.
    fn digest(&self) -> u64;
}

fn all(parts: &[u64]) -> u64 {
    parts.iter().fold(0x1234_5678, |hash, part| mix(hash ^ part))
}

fn of_bytes(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(mix(bytes.len() as u64), |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(hash ^ u64::from_le_bytes(word))
    })
}

impl Digest for Buf {
    /// Length, both ends, and a word of every 512 bytes: payloads are far larger than all else, and differ everywhere
    /// if they differ at all (the oracle compares every byte).
    fn digest(&self) -> u64 {
        if self.len() <= 64 {
            return of_bytes(self);
        }
        let mut hash = all(&[self.len() as u64, of_bytes(&self[..16]), of_bytes(&self[self.len() - 16..])]);
        for at in (16..self.len() - 8).step_by(512) {
            hash = mix(hash ^ of_bytes(&self[at..at + 8]));
        }
        hash
    }
}

impl Digest for Op {
    fn digest(&self) -> u64 {
        let encoded = |value: Result<Vec<u8>, Error>| value.map_or(0, |bytes| of_bytes(&bytes));
        match self {
            Self::Object(op) => all(&[1, encoded(meta::encode(&**op))]),
            Self::Stripe(op) => {
                let id = op.target().id;
                let kind = match **op {
                    StripeOp::Write(_) => 0,
                    StripeOp::Read { .. } => 1,
                    StripeOp::Delete { .. } => 2,
                };
                all(&[2, kind, id.write.0, u64::from(id.stripe), u64::from(id.attempt)])
            }
            Self::Shard(op) => match &**op {
                ShardOp::Write { id, crc, .. } => all(&[3, encoded(meta::encode(id)), u64::from(*crc)]),
                ShardOp::Read { id } => all(&[4, encoded(meta::encode(id))]),
                ShardOp::Delete { ids, until } => {
                    let head = until.map_or([0; 3], |head| [head.epoch.0, head.start, head.lsn]);
                    all(&[5, encoded(meta::encode(ids)), all(&head)])
                }
                ShardOp::List { after, limit, relies } => {
                    let relies = relies.map_or([0; 2], |of| [of.group.0, of.layout.0]);
                    all(&[6, encoded(meta::encode(after)), u64::from(*limit), all(&relies)])
                }
                ShardOp::Stat => 7,
                ShardOp::Damaged { group, after, limit } => {
                    all(&[12, group.0, encoded(meta::encode(after)), u64::from(*limit)])
                }
                ShardOp::Scrub { rate } => all(&[13, *rate]),
            },
            Self::Query { group, query } => all(&[8, group.0, encoded(meta::encode(&**query))]),
            Self::Propose(command) => all(&[9, encoded(meta::encode(&**command))]),
            Self::Node(op) => match &**op {
                mesh_core::op::NodeOp::Move(step) => all(&[11, encoded(meta::encode(step))]),
                _ => 10,
            },
        }
    }
}

impl Digest for Request {
    fn digest(&self) -> u64 {
        all(&[self.op.digest(), self.payload.digest(), self.deadline.0, self.lane as u64])
    }
}

impl Digest for Error {
    fn digest(&self) -> u64 {
        all(&[1, u64::from(self.kind().number()), of_bytes(self.message().as_bytes())])
    }
}

impl Digest for Answer {
    fn digest(&self) -> u64 {
        match self {
            Self::Done => 1,
            Self::Meta(answer) => all(&[2, meta::encode(&**answer).map_or(0, |bytes| of_bytes(&bytes))]),
            Self::Placed { avoid, shared } => {
                avoid.iter().fold(all(&[3, u64::from(*shared)]), |hash, drive| mix(hash ^ drive.0))
            }
            Self::Shard { sealed_len, crc, .. } => all(&[4, u64::from(*sealed_len), u64::from(*crc)]),
            Self::Shards { page, more, head } => {
                all(&[5, page.len() as u64, u64::from(*more), head.epoch.0, head.start, head.lsn])
            }
            Self::Drive { free_bytes, shards, corrupt, full, .. } => {
                all(&[6, *free_bytes, *shards, *corrupt, u64::from(*full)])
            }
            Self::Begun { write, .. } => all(&[7, write.0]),
            Self::Committed { version, etag } => all(&[8, version.0, of_bytes(etag.as_bytes())]),
            Self::Object(row) => all(&[9, row.version.0, row.len]),
            Self::Pieces(pieces) => all(&[10, pieces.len() as u64]),
            Self::Bucket(row) => all(&[11, row.bucket.id.0]),
            Self::Buckets(rows) => all(&[12, rows.len() as u64]),
            Self::Listing(listing) => all(&[13, listing.entries.len() as u64]),
            Self::Upload(row) => all(&[14, row.upload.0]),
            Self::Uploads(rows, more) => all(&[15, rows.len() as u64, u64::from(*more)]),
            Self::Parts(rows, more) => all(&[16, rows.len() as u64, u64::from(*more)]),
            Self::Report(reports) => all(&[17, reports.len() as u64]),
            Self::Moved(moved) => all(&[18, moved.entries, u64::from(moved.pages), moved.digest]),
            Self::Admin(answer) => all(&[19, of_bytes(format!("{answer:?}").as_bytes())]),
            Self::Left(drives) => drives.iter().fold(20, |hash, drive| mix(hash ^ drive.0)),
            Self::ReportPage { reports, more } => all(&[21, reports.len() as u64, u64::from(*more)]),
            Self::Beat(beat) => {
                all(&[22, beat.node.0, beat.incarnation.0, beat.replica.map_or(0, |replica| replica.0), beat.marked])
            }
        }
    }
}

impl Digest for Outcome {
    fn digest(&self) -> u64 {
        match self {
            Ok(Response { answer, payload }) => all(&[answer.digest(), payload.digest()]),
            Err(error) => error.digest(),
        }
    }
}

impl Digest for WorkOutcome {
    fn digest(&self) -> u64 {
        match self {
            Ok(WorkOutput::Done) => 1,
            Ok(WorkOutput::Bytes(bytes)) => all(&[2, bytes.digest()]),
            Ok(WorkOutput::Key(key)) => all(&[3, key.key.0, of_bytes(&key.sealed)]),
            Ok(WorkOutput::Shards(shards)) => shards.iter().fold(4, |hash, (_, crc)| mix(hash ^ u64::from(*crc))),
            Ok(WorkOutput::Meta(answer)) => Answer::Meta(answer.clone()).digest(),
            Err(error) => error.digest(),
        }
    }
}

impl Digest for Job {
    fn digest(&self) -> u64 {
        match self {
            Self::Disk(DiskJob::Write { at, bufs }) => {
                bufs.iter().fold(all(&[1, *at]), |hash, buf| mix(hash ^ buf.digest()))
            }
            Self::Disk(DiskJob::Read { at, len }) => all(&[2, *at, u64::from(*len)]),
            Self::Disk(DiskJob::Sync) => 3,
            Self::Disk(DiskJob::Discard { at, len }) => all(&[4, *at, *len]),
            Self::Compute(job) => match job {
                ComputeJob::WrapKey { entropy, .. } => all(&[5, of_bytes(entropy)]),
                ComputeJob::Seal { salt, plain, .. } => all(&[6, of_bytes(salt), plain.digest()]),
                ComputeJob::Open { sealed, .. } => all(&[7, sealed.digest()]),
                ComputeJob::Encode { bytes, .. } => all(&[8, bytes.digest()]),
                ComputeJob::Decode { len, shards, .. } => {
                    shards.iter().fold(all(&[9, u64::from(*len)]), |hash, (at, _)| mix(hash ^ u64::from(*at)))
                }
                ComputeJob::Compress { plain } => all(&[11, plain.digest()]),
                ComputeJob::Decompress { packed } => all(&[12, packed.digest()]),
            },
            Self::Propose { command, .. } => all(&[10, meta::encode(&**command).map_or(0, |bytes| of_bytes(&bytes))]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_differs_by_any_of_its_sampled_words_and_its_length() {
        let one = Buf::zeroed(4096);
        let mut other = Buf::zeroed(4096);
        other.make_mut()[16 + 512] = 1;
        assert_ne!(one.digest(), other.digest());
        assert_ne!(one.digest(), Buf::zeroed(4095).digest());
        assert_eq!(one.digest(), Buf::zeroed(4096).digest());
    }

    #[test]
    fn the_order_of_notes_matters() {
        let hash = |notes: &[u64]| {
            let mut trace = Trace::new(false);
            trace.note(notes, String::new);
            trace.hash()
        };
        assert_ne!(hash(&[1, 2]), hash(&[2, 1]));
    }
}
