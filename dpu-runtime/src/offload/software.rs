//! The compute back end that is everywhere: SIMD on the calling core.

use std::sync::Arc;

use mesh_core::{
    Error, Pool, WorkOutcome,
    port::{Compute, ComputeJob, Keys, WorkOutput},
};

use super::{erasure::Erasure, keys, pack, seal};

/// Does every [`ComputeJob`] on the calling core. It may be called from many threads at once; they share nothing but
/// the pool and the coders' tables.
pub struct Software {
    keys: Arc<dyn Keys>,
    pool: Pool,
    erasure: Erasure,
}

impl core::fmt::Debug for Software {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Software").field("pool", &self.pool).finish_non_exhaustive()
    }
}

impl Software {
    /// A back end that resolves wrapping keys by `keys` and takes its buffers from `pool`.
    #[must_use]
    pub fn new(keys: Arc<dyn Keys>, pool: Pool) -> Self {
        Self { keys, pool, erasure: Erasure::default() }
    }
}

impl Compute for Software {
    fn run(&self, job: ComputeJob) -> WorkOutcome {
        match job {
            ComputeJob::WrapKey { key, mut entropy } => {
                let wrapped = keys::make_data_key(&*self.keys, key, &entropy);
                keys::erase(&mut entropy);
                Ok(WorkOutput::Key(Arc::new(wrapped?)))
            }
            ComputeJob::Seal { key, salt, binding, stripe, plain } => {
                let key = keys::data_key(&*self.keys, &key)?;
                seal::seal(&self.pool, &key, &salt, &binding, stripe, &plain).map(WorkOutput::Bytes)
            }
            ComputeJob::Open { key, binding, stripe, sealed, part } => {
                let key = keys::data_key(&*self.keys, &key)?;
                seal::open(&self.pool, &key, &binding, stripe, &sealed, part).map(WorkOutput::Bytes)
            }
            ComputeJob::Encode { code, bytes } => self.erasure.encode(&self.pool, code, bytes).map(WorkOutput::Shards),
            ComputeJob::Decode { code, len, shards } => {
                let len = usize::try_from(len).map_err(|_| Error::invalid("a length over this machine's memory"))?;
                self.erasure.decode(&self.pool, code, len, &shards).map(WorkOutput::Bytes)
            }
            ComputeJob::Compress { plain } => pack::pack(&self.pool, &plain).map(WorkOutput::Bytes),
            ComputeJob::Decompress { packed } => pack::unpack(&self.pool, &packed).map(WorkOutput::Bytes),
        }
    }

    fn is_small(&self, job: &ComputeJob) -> bool {
        let bytes = match job {
            ComputeJob::WrapKey { .. } => 0,
            ComputeJob::Seal { plain, .. } => plain.len(),
            ComputeJob::Open { sealed, part, .. } => seal::opened_len(sealed.len(), *part),
            ComputeJob::Encode { bytes, .. } => bytes.len(),
            ComputeJob::Decode { len, .. } => *len as usize,
            // Reckoned as so many times as long as sealing: on the safe side, where it may hold up others.
            ComputeJob::Compress { plain } => plain.len().saturating_mul(8),
            ComputeJob::Decompress { packed } => pack::plain_len(packed).saturating_mul(2),
        };
        bytes <= SMALL_BYTES_MAX
    }
}

/// Sealing so many bytes takes about 10 µs, no more than waking a worker and being woken by it.
const SMALL_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests;
