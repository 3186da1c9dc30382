//! What a request and a byte of each function cost on this machine, measured.
//!
//! Placement decides from these numbers, and not from a table of processors. Each piece of work is done through the
//! [`Compute`] port of the very back end that will do it later, for a small and a large payload in turn, several times
//! over; a line through the two medians is its [`Cost`]. That takes a fifth of a second at most on a machine of today,
//! and the result is kept in a file ([`Calibration::load_or_measure`]) until the processor, the back end or this
//! program's version is another.
//!
//! Time comes from the caller. Give [`thread_cpu_time`](crate::load::thread_cpu_time): then other work on the machine,
//! and a control group's quota, do not count. In a simulation there is nothing to measure: make a [`Calibration`] of
//! numbers that are written down.
//!
//! No key of anybody's is used: the back end gets a key ring of one random key that is forgotten afterwards.

mod file;

use core::{hint::black_box, time::Duration};
use std::{collections::BTreeMap, fs, io, io::Read as _, path::Path, sync::Arc};

use mesh_core::{
    Buf, Entropy, Error, Pool,
    id::{BucketId, KeyId, StripeId, TenantId, WriteId},
    meta::WrappedKey,
    op::Binding,
    port::{Compute, ComputeJob, Keys, WorkOutput},
    topology::Code,
    wire::crc32c,
};
use serde::{Deserialize, Serialize};

use crate::offload::keys::{self, ENTROPY_BYTES, KEY_BYTES};

/// What a piece of work costs: a line through two points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Nanoseconds that a request costs without any payload.
    pub ns_per_request: u64,
    /// Picoseconds that each byte adds: 100 are 10 GB/s.
    pub ps_per_byte: u64,
}

impl Cost {
    /// The line through two measurements, each of bytes and nanoseconds, the second of more bytes. Work that took no
    /// longer for more bytes costs nothing a byte; no cost is negative.
    #[must_use]
    pub fn fit(small: (u64, u64), large: (u64, u64)) -> Self {
        let bytes = u128::from(large.0.saturating_sub(small.0));
        let picos = u128::from(large.1.saturating_sub(small.1)) * 1000;
        let per_byte = (picos + bytes / 2).checked_div(bytes).unwrap_or(0);
        let ps_per_byte = u64::try_from(per_byte).unwrap_or(u64::MAX);
        let of_bytes = u128::from(small.0) * u128::from(ps_per_byte) / 1000;
        let ns_per_request = u128::from(small.1).saturating_sub(of_bytes);
        Self { ns_per_request: u64::try_from(ns_per_request).unwrap_or(0), ps_per_byte }
    }

    /// Nanoseconds of a request with so many bytes.
    #[must_use]
    pub fn ns(&self, bytes: u64) -> u64 {
        let of_bytes = u128::from(self.ps_per_byte) * u128::from(bytes) / 1000;
        self.ns_per_request.saturating_add(u64::try_from(of_bytes).unwrap_or(u64::MAX))
    }

    /// The greater of each number.
    #[must_use]
    pub const fn or_dearer(self, other: Self) -> Self {
        const fn greater(one: u64, other: u64) -> u64 {
            if one > other { one } else { other }
        }
        Self {
            ns_per_request: greater(self.ns_per_request, other.ns_per_request),
            ps_per_byte: greater(self.ps_per_byte, other.ps_per_byte),
        }
    }
}

/// What work costs on a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calibration {
    /// What was measured on: see [`fingerprint`].
    pub machine: String,
    /// By name: `encrypt.seal`, `encrypt.open`, `erasure.encode`, `erasure.decode`, `checksum`, and the names of
    /// [`Bench::fixed`].
    pub costs: BTreeMap<String, Cost>,
}

/// Where a calibration came from.
#[derive(Debug)]
pub enum Origin {
    /// It was measured earlier, and still holds.
    Kept,
    /// It was measured now.
    Measured {
        /// Why the kept one did not do.
        because: String,
        /// Why it could not be kept: the next start measures again.
        not_kept: Option<io::Error>,
    },
}

/// What a calibration is measured with.
pub struct Bench<'a> {
    /// Makes the back end, with a key ring of its own.
    pub backend: &'a dyn Fn(Arc<dyn Keys>, Pool) -> Box<dyn Compute>,
    /// Time that only grows. See the module's page.
    pub clock: &'a dyn Fn() -> Duration,
    /// For a key that is thrown away.
    pub entropy: &'a mut dyn Entropy,
    /// Further work, of functions that start no compute job, such as `policy`. At most 32.
    pub fixed: Vec<Fixed<'a>>,
}

/// Work that costs the same for every request.
pub struct Fixed<'a> {
    /// The function's name.
    pub name: &'a str,
    /// Does one request.
    pub run: Box<dyn FnMut() + 'a>,
}

impl core::fmt::Debug for Fixed<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Fixed({:?})", self.name)
    }
}

impl core::fmt::Debug for Bench<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Bench")
    }
}

impl Calibration {
    /// The cost of a function, as placement wants it: of its dearer direction (a store asks for sealing, a load for
    /// opening, and a chain serves both). `None` if it was not measured.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<Cost> {
        let of_it = |key: &str| key == name || key.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'));
        self.costs.iter().filter(|(key, _)| of_it(key)).map(|(_, cost)| *cost).reduce(Cost::or_dearer)
    }

    /// Measures, in about 200 ms of `bench.clock`'s time at most; on machines so slow that one round takes longer, one
    /// round.
    ///
    /// # Errors
    /// What the back end says if it refuses a job, and `Bug` if it answers another.
    pub fn measure(machine: String, bench: &mut Bench<'_>) -> Result<Self, Error> {
        let mut entropy = [0; KEY_BYTES + ENTROPY_BYTES];
        bench.entropy.fill(&mut entropy);
        let (key, data_key) = entropy.split_at(KEY_BYTES);
        let key = key.try_into().map_err(|_| Error::bug("32 bytes are not 32"))?;
        let pool = Pool::default();
        let compute = (bench.backend)(Arc::new(ThrowAway(key)), pool.clone());
        let work = [SMALL_BYTES, LARGE_BYTES].map(|len| Payload::new(&*compute, &pool, len, data_key.to_vec()));
        keys::erase(&mut entropy);
        let [small, large] = work;
        let (small, large) = (small?, large?);

        let mut samples: BTreeMap<String, [Vec<u64>; 2]> = BTreeMap::new();
        let begin = (bench.clock)();
        // The first round warms up; it counts only where there is no time for a second.
        for round in 0..=ROUNDS {
            if round > 0 && (bench.clock)().saturating_sub(begin) >= BUDGET {
                break;
            }
            if round == 1 {
                samples.clear();
            }
            for step in Step::ALL {
                for (side, (payload, times)) in [(&small, SMALL_TIMES), (&large, 1)].into_iter().enumerate() {
                    let before = (bench.clock)();
                    for _ in 0..times {
                        step.run(&*compute, payload)?;
                    }
                    let took = (bench.clock)().saturating_sub(before);
                    samples.entry(step.name().to_owned()).or_default()[side].push(each(took, times));
                }
            }
            for Fixed { name, run } in bench.fixed.iter_mut().take(FIXED_MAX) {
                let before = (bench.clock)();
                (0..FIXED_TIMES).for_each(|_| run());
                let took = each((bench.clock)().saturating_sub(before), FIXED_TIMES);
                samples.entry(file::name(name)).or_default().iter_mut().for_each(|side| side.push(took));
            }
        }
        let costs = samples.into_iter().map(|(name, sides)| {
            let [small, large] = sides.map(median);
            (name, Cost::fit((SMALL_BYTES as u64, small), (LARGE_BYTES as u64, large)))
        });
        Ok(Self { machine, costs: costs.collect() })
    }

    /// The calibration kept in the folder `dir`, if it is of this `machine` and is not damaged; else measures, and
    /// keeps that there. The folder must exist.
    ///
    /// # Errors
    /// As [`Self::measure`]. A file that cannot be read or written is no error: see [`Origin`].
    pub fn load_or_measure(dir: &Path, machine: String, bench: &mut Bench<'_>) -> Result<(Self, Origin), Error> {
        let path = dir.join(FILE);
        let wanted: Vec<String> = Step::ALL
            .iter()
            .map(|step| step.name().to_owned())
            .chain(bench.fixed.iter().take(FIXED_MAX).map(|fixed| file::name(fixed.name)))
            .collect();
        let because = match file::load(&path) {
            Ok(kept) if kept.machine != file::line(&machine) => "it was measured on another machine".to_owned(),
            Ok(kept) if !wanted.iter().all(|name| kept.costs.contains_key(name)) => {
                "it lacks a function that is to be measured".to_owned()
            }
            Ok(kept) => return Ok((kept, Origin::Kept)),
            Err(why) => why,
        };
        let measured = Self::measure(file::line(&machine), bench)?;
        let not_kept = file::keep(&path, &measured).err();
        Ok((measured, Origin::Measured { because, not_kept }))
    }
}

/// What costs depend on: the processor, its architecture, the back end and this program's version. `root` is `/` but
/// for tests.
#[must_use]
pub fn fingerprint(root: &Path, backend: &str) -> String {
    let mut bytes = Vec::new();
    let read =
        fs::File::open(root.join("proc/cpuinfo")).and_then(|file| file.take(CPUINFO_BYTES_MAX).read_to_end(&mut bytes));
    let info = if read.is_ok() { String::from_utf8_lossy(&bytes) } else { "".into() };
    let field = |wanted: &str| {
        info.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == wanted).then(|| value.trim().to_owned())
        })
    };
    let model =
        field("model name").or_else(|| Some(format!("Arm {} part {}", field("CPU implementer")?, field("CPU part")?)));
    let model = model.unwrap_or_else(|| "unknown processor".to_owned());
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let (arch, version) = (std::env::consts::ARCH, env!("CARGO_PKG_VERSION"));
    file::line(&format!("{model}; {arch}; {backend}; mesh {version} {profile}"))
}

/// A key ring of one key, for one measurement.
struct ThrowAway([u8; KEY_BYTES]);

impl Keys for ThrowAway {
    fn key(&self, id: KeyId) -> Option<[u8; 32]> {
        (id == KEY).then_some(self.0)
    }
}

impl Drop for ThrowAway {
    fn drop(&mut self) {
        keys::erase(&mut self.0);
    }
}

/// One stripe, in every shape that it takes on its way.
struct Payload {
    key: Arc<WrappedKey>,
    binding: Arc<Binding>,
    plain: Buf,
    sealed: Buf,
    shards: Vec<(u8, Buf)>,
}

impl Payload {
    fn new(compute: &dyn Compute, pool: &Pool, len: usize, entropy: Vec<u8>) -> Result<Self, Error> {
        let WorkOutput::Key(key) = compute.run(ComputeJob::WrapKey { key: KEY, entropy })? else {
            return Err(other_answer("a key"));
        };
        let name: Arc<str> = "calibration".into();
        let binding = Binding { tenant: TenantId(0), bucket: BucketId(0), bucket_name: name.clone(), object: name };
        let mut plain = pool.take(len, 0);
        plain.make_mut().iter_mut().zip(0_u32..).for_each(|(byte, at)| *byte = (at % 251) as u8);
        let mut payload = Self { key, binding: Arc::new(binding), plain, sealed: Buf::empty(), shards: Vec::new() };
        payload.sealed = payload.seal(compute)?;
        let coded = payload.encode(compute)?;
        payload.shards = (0..CODE.data).zip(coded.into_iter().map(|(shard, _)| shard)).collect();
        Ok(payload)
    }

    fn seal(&self, compute: &dyn Compute) -> Result<Buf, Error> {
        let (key, binding, plain) = (self.key.clone(), self.binding.clone(), self.plain.clone());
        bytes(compute.run(ComputeJob::Seal { key, salt: [0; 32], binding, stripe: STRIPE, plain })?)
    }

    fn open(&self, compute: &dyn Compute) -> Result<Buf, Error> {
        let (key, binding, sealed) = (self.key.clone(), self.binding.clone(), self.sealed.clone());
        bytes(compute.run(ComputeJob::Open { key, binding, stripe: STRIPE, sealed, part: None })?)
    }

    fn encode(&self, compute: &dyn Compute) -> Result<Vec<(Buf, u32)>, Error> {
        match compute.run(ComputeJob::Encode { code: CODE, bytes: self.plain.clone() })? {
            WorkOutput::Shards(shards) => Ok(shards),
            _ => Err(other_answer("shards")),
        }
    }

    fn decode(&self, compute: &dyn Compute) -> Result<Buf, Error> {
        let len = u32::try_from(self.plain.len()).map_err(|_| Error::bug("a stripe of over 4 GiB"))?;
        bytes(compute.run(ComputeJob::Decode { code: CODE, len, shards: self.shards.clone() })?)
    }
}

/// A piece of work that is measured. Compression is none: what it costs depends on what is put and into which bucket, and it
/// counts for nothing when places are compared.
#[derive(Clone, Copy)]
enum Step {
    Seal,
    Open,
    Encode,
    Decode,
    Checksum,
}

impl Step {
    const ALL: [Self; 5] = [Self::Seal, Self::Open, Self::Encode, Self::Decode, Self::Checksum];

    const fn name(self) -> &'static str {
        match self {
            Self::Seal => "encrypt.seal",
            Self::Open => "encrypt.open",
            Self::Encode => "erasure.encode",
            Self::Decode => "erasure.decode",
            Self::Checksum => "checksum",
        }
    }

    fn run(self, compute: &dyn Compute, payload: &Payload) -> Result<(), Error> {
        match self {
            Self::Seal => drop(black_box(payload.seal(compute)?)),
            Self::Open => drop(black_box(payload.open(compute)?)),
            Self::Encode => drop(black_box(payload.encode(compute)?)),
            Self::Decode => drop(black_box(payload.decode(compute)?)),
            Self::Checksum => {
                black_box(crc32c(black_box(&payload.plain)));
            }
        }
        Ok(())
    }
}

fn bytes(output: WorkOutput) -> Result<Buf, Error> {
    match output {
        WorkOutput::Bytes(bytes) => Ok(bytes),
        _ => Err(other_answer("bytes")),
    }
}

fn other_answer(wanted: &str) -> Error {
    Error::bug("a compute back end answered another job").with("wanted", wanted)
}

fn each(took: Duration, times: u32) -> u64 {
    u64::try_from((took / times).as_nanos()).unwrap_or(u64::MAX)
}

/// Zero without samples.
fn median(mut samples: Vec<u64>) -> u64 {
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().unwrap_or(0)
}

const FILE: &str = "calibration";
const KEY: KeyId = KeyId(1);
const STRIPE: StripeId = StripeId { write: WriteId(1), stripe: 0, attempt: 0 };
/// A common one: what a byte costs grows with parity, and hardly with the number of data shards.
const CODE: Code = Code { data: 4, parity: 2 };
/// Small enough for what is fixed to show, large enough to be a payload.
const SMALL_BYTES: usize = 4 << 10;
/// So that a byte's cost shows, in the cache as it is when a stripe was just received.
const LARGE_BYTES: usize = 1 << 20;
/// What is small is done several times between two looks at the clock.
const SMALL_TIMES: u32 = 16;
const FIXED_TIMES: u32 = 64;
const FIXED_MAX: usize = 32;
/// Rounds that count.
const ROUNDS: u32 = 15;
/// No round begins after so long.
const BUDGET: Duration = Duration::from_millis(150);
const CPUINFO_BYTES_MAX: u64 = 64 << 10;

#[cfg(test)]
mod tests;
