//! What a stripe costs on one core: the bare primitives, and the same work through [`Software`], in one run.
//!
//! `cargo bench -p mesh-dpu-runtime`. Every figure is the median of many repetitions, the sides taken in turn, so that
//! a slow moment of the machine falls on all of them. Large stripes begin outside the core's own caches on every side:
//! what a side leaves behind there is swept out before the next. GB are 10^9 bytes of the stripe's plaintext.

use std::{hint::black_box, sync::Arc, time::Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use mesh_core::{
    Buf, Pool,
    id::{BucketId, KeyId, StripeId, TenantId, WriteId},
    limits::{SEGMENT_BYTES, STRIPE_BYTES_MAX},
    op::Binding,
    port::{Compute, ComputeJob, Keys, WorkOutput},
    topology::Code,
    wire::crc32c,
};
use mesh_dpu_runtime::offload::{keys, software::Software};
use rusty_erasure::{Coder, Matrix, coder};

const STRIPE: usize = STRIPE_BYTES_MAX;
const REPETITIONS: usize = 61;
/// Far more than a core's own caches.
const SWEEP: usize = 96 << 20;

struct Ring;

impl Keys for Ring {
    fn key(&self, _: KeyId) -> Option<[u8; 32]> {
        Some([9; 32])
    }
}

/// One thing to measure.
struct Side<'a> {
    name: String,
    run: Box<dyn FnMut() + 'a>,
    nanos: Vec<u128>,
}

impl Side<'_> {
    fn gb_per_second(&mut self) -> f64 {
        self.nanos.sort_unstable();
        STRIPE as f64 / self.nanos[self.nanos.len() / 2] as f64
    }
}

fn side<'a>(name: impl Into<String>, run: impl FnMut() + 'a) -> Side<'a> {
    Side { name: name.into(), run: Box::new(run), nanos: Vec::new() }
}

fn measure(sides: &mut [Side<'_>], sweep_bytes: usize) {
    let mut elsewhere = vec![0_u8; sweep_bytes];
    for repetition in 0..=REPETITIONS {
        for side in &mut *sides {
            black_box(&mut elsewhere).fill(repetition as u8);
            let begin = Instant::now();
            (side.run)();
            let took = begin.elapsed().as_nanos();
            // The first one warms up.
            if repetition > 0 {
                side.nanos.push(took);
            }
        }
    }
}

/// The bare primitives, on memory of their own, in place.
struct Bare {
    cipher: LessSafeKey,
    coder: Coder,
    data: usize,
    bytes: Vec<u8>,
    parity: Vec<Vec<u8>>,
}

impl Bare {
    fn new(code: Code) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("a key of 32 bytes");
        let (data, parity) = (usize::from(code.data), usize::from(code.parity));
        Self {
            cipher: LessSafeKey::new(key),
            coder: Matrix::cauchy(data, parity).and_then(coder).expect("a valid code"),
            data,
            bytes: vec![0x5a; STRIPE],
            parity: vec![vec![0; STRIPE / data]; parity],
        }
    }

    fn encrypt(&mut self) {
        for (index, segment) in self.bytes.chunks_mut(SEGMENT_BYTES).enumerate() {
            let mut nonce = [0; 12];
            nonce[..8].copy_from_slice(&(index as u64).to_le_bytes());
            let nonce = Nonce::assume_unique_for_key(nonce);
            drop(black_box(
                self.cipher.seal_in_place_separate_tag(nonce, Aad::from([0; 40]), segment).expect("it fits"),
            ));
        }
    }

    fn encode(&mut self) {
        let data: Vec<&[u8]> = self.bytes.chunks_exact(STRIPE / self.data).collect();
        let mut parity: Vec<&mut [u8]> = self.parity.iter_mut().map(Vec::as_mut_slice).collect();
        self.coder.encode(&data, &mut parity).expect("shards of one length");
    }

    fn check(&self) {
        let data = self.bytes.chunks_exact(STRIPE / self.data);
        data.chain(self.parity.iter().map(Vec::as_slice)).for_each(|shard| {
            black_box(crc32c(shard));
        });
    }

    /// The same work, a segment of every shard at a time, so that each byte comes from memory once: as good as it gets.
    fn column_by_column(&mut self) {
        let mut data: Vec<&mut [u8]> = self.bytes.chunks_exact_mut(STRIPE / self.data).collect();
        let mut parity: Vec<&mut [u8]> = self.parity.iter_mut().map(Vec::as_mut_slice).collect();
        let mut index = 0_u64;
        for start in (0..STRIPE / self.data).step_by(SEGMENT_BYTES) {
            let column = start..(start + SEGMENT_BYTES).min(STRIPE / self.data);
            for shard in &mut data {
                let mut nonce = [0; 12];
                nonce[..8].copy_from_slice(&index.to_le_bytes());
                index += 1;
                let (nonce, associated) = (Nonce::assume_unique_for_key(nonce), Aad::from([0; 40]));
                let segment = &mut shard[column.clone()];
                drop(black_box(self.cipher.seal_in_place_separate_tag(nonce, associated, segment).expect("it fits")));
            }
            let data: Vec<&[u8]> = data.iter().map(|shard| &shard[column.clone()]).collect();
            let mut parity: Vec<&mut [u8]> = parity.iter_mut().map(|shard| &mut shard[column.clone()]).collect();
            self.coder.encode(&data, &mut parity).expect("columns of one length");
            let coded = parity.iter().map(|shard| &**shard);
            data.into_iter().chain(coded).for_each(|part| {
                black_box(crc32c(part));
            });
        }
    }

    fn back_to_back(&mut self) {
        self.encrypt();
        self.encode();
        self.check();
    }
}

fn bytes(output: WorkOutput) -> Buf {
    let WorkOutput::Bytes(bytes) = output else { unreachable!("sealing and joining give bytes") };
    bytes
}

struct Stripe {
    software: Software,
    key: Arc<mesh_core::meta::WrappedKey>,
    binding: Arc<Binding>,
    id: StripeId,
    plain: Buf,
}

impl Stripe {
    fn new(pool: &Pool, len: usize) -> Self {
        let object = "a/key/of/some/length".into();
        let binding = Binding { tenant: TenantId(1), bucket: BucketId(2), bucket_name: "bucket".into(), object };
        let mut plain = pool.take(len, 0);
        plain.make_mut().fill(0x5a);
        Self {
            software: Software::new(Arc::new(Ring), pool.clone()),
            key: Arc::new(keys::wrap(&[9; 32], KeyId(1), [1; 12], &[3; 32]).expect("a short secret")),
            binding: Arc::new(binding),
            id: StripeId { write: WriteId(1), stripe: 0, attempt: 0 },
            plain,
        }
    }

    fn seal(&self) -> Buf {
        let (key, binding, stripe, plain) = (self.key.clone(), self.binding.clone(), self.id, self.plain.clone());
        bytes(self.software.run(ComputeJob::Seal { key, salt: [4; 32], binding, stripe, plain }).expect("it seals"))
    }

    fn encode(&self, code: Code, bytes: Buf) -> Vec<(Buf, u32)> {
        let output = self.software.run(ComputeJob::Encode { code, bytes }).expect("it encodes");
        let WorkOutput::Shards(shards) = output else { unreachable!("encoding gives shards") };
        shards
    }

    fn decode(&self, code: Code, len: usize, shards: Vec<(u8, Buf)>) -> Buf {
        let len = len as u32;
        bytes(self.software.run(ComputeJob::Decode { code, len, shards }).expect("it decodes"))
    }

    fn open(&self, sealed: Buf) -> Buf {
        let (key, binding, stripe) = (self.key.clone(), self.binding.clone(), self.id);
        bytes(self.software.run(ComputeJob::Open { key, binding, stripe, sealed, part: None }).expect("it opens"))
    }
}

fn measure_code(code: Code) {
    let pool = Pool::default();
    let stripe = Stripe::new(&pool, STRIPE);
    let (source, mut target) = (vec![1_u8; STRIPE], vec![0_u8; STRIPE]);
    let mut fused = Bare::new(code);
    let (mut cipher, mut coder, checker, mut all) =
        (Bare::new(code), Bare::new(code), Bare::new(code), Bare::new(code));
    let sealed = stripe.seal();
    let shards: Vec<(u8, Buf)> =
        (0..).zip(stripe.encode(code, sealed.clone())).map(|(place, (shard, _))| (place, shard)).collect();
    let data = shards[..code.data.into()].to_vec();
    let without_first = shards[1..=usize::from(code.data)].to_vec();

    let mut sides = [
        side("memcpy", || target.copy_from_slice(black_box(&source))),
        side("AES-256-GCM, 64 KiB segments, in place", || cipher.encrypt()),
        side(format!("erasure {code}"), || coder.encode()),
        side("CRC-32C of all shards", || checker.check()),
        side("the three back to back, in place", || all.back_to_back()),
        side("the three column by column, in place", || fused.column_by_column()),
        side("Software: Seal, Encode", || drop(black_box(stripe.encode(code, stripe.seal())))),
        side("Software: Seal", || drop(black_box(stripe.seal()))),
        side("Software: Encode, unsealed and shared", || drop(black_box(stripe.encode(code, stripe.plain.clone())))),
        side("Software: Decode data shards, Open", || {
            drop(black_box(stripe.open(stripe.decode(code, sealed.len(), data.clone()))));
        }),
        side("Software: Decode without one, Open", || {
            drop(black_box(stripe.open(stripe.decode(code, sealed.len(), without_first.clone()))));
        }),
    ];
    measure(&mut sides, SWEEP);
    let rates: Vec<(String, f64)> = sides.iter_mut().map(|side| (side.name.clone(), side.gb_per_second())).collect();
    let (memcpy, bare) = (rates[0].1, rates[4].1);
    println!(
        "\n{code}, stripes of {STRIPE} bytes, median of {REPETITIONS}   GB/s   of memcpy   of the bare primitives"
    );
    for (name, rate) in rates {
        println!("  {name:<44} {rate:>12.2} {:>9.0} % {:>12.0} %", 100.0 * rate / memcpy, 100.0 * rate / bare);
    }
}

/// What does not depend on the length: unwrapping the data key, deriving the stripe's, the buffers.
fn measure_small() {
    let pool = Pool::default();
    let code = Code { data: 2, parity: 1 };
    println!("\nsmall stripes, median of {REPETITIONS} rounds of 100                      us");
    let wrapped = keys::wrap(&[9; 32], KeyId(1), [1; 12], &[3; 32]).expect("a short secret");
    let stripes: Vec<Stripe> = [16, 4096, SEGMENT_BYTES].map(|len| Stripe::new(&pool, len)).into();
    let mut sides = vec![side("unwrap a data key", || {
        (0..100).for_each(|_| drop(black_box(keys::data_key(&Ring, &wrapped))));
    })];
    for stripe in &stripes {
        sides.push(side(format!("Seal {} bytes", stripe.plain.len()), || {
            (0..100).for_each(|_| drop(black_box(stripe.seal())));
        }));
        sides.push(side(format!("Seal, Encode {} bytes", stripe.plain.len()), || {
            (0..100).for_each(|_| drop(black_box(stripe.encode(code, stripe.seal()))));
        }));
    }
    measure(&mut sides, 0);
    for side in &mut sides {
        side.nanos.sort_unstable();
        println!("  {:<60} {:>8.2}", side.name, side.nanos[side.nanos.len() / 2] as f64 / 100_000.0);
    }
}

fn main() {
    measure_code(Code { data: 2, parity: 1 });
    measure_code(Code { data: 4, parity: 2 });
    measure_small();
}
