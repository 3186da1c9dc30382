//! Open writes: what was appended to each, and the manifest that it becomes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_core::{
    Error, ErrorKind, Principal,
    id::{BucketId, DriveId, LayoutId, StripeId, TenantId, WriteId},
    limits::{MANIFEST_RUNS_MAX, OBJECT_PUT_BYTES_MAX, OPEN_WRITES_MAX, STRIPE_ATTEMPTS_MAX, WRITE_IDLE_MAX},
    meta::{BucketRef, BucketSettings, Extent, Run, WrappedKey},
    op::{Binding, Destination, StripeTarget},
    time::Instant,
};

use super::reclaim::Doomed;

/// The open writes of an ingress.
#[derive(Default)]
pub(super) struct Writes {
    open: BTreeMap<WriteId, OpenWrite>,
    /// When each was last touched.
    touched: BTreeSet<(Instant, WriteId)>,
}

/// One open write.
pub(super) struct OpenWrite {
    pub(super) write: WriteId,
    pub(super) principal: Principal,
    pub(super) bucket: BucketRef,
    pub(super) key: Arc<str>,
    pub(super) destination: Destination,
    pub(super) layout: LayoutId,
    pub(super) data_key: Option<Arc<WrappedKey>>,
    pub(super) stripe_bytes: u32,
    pub(super) settings: BucketSettings,
    binding: Arc<Binding>,
    slots: BTreeMap<u32, Slot>,
    /// Why the write cannot be finished any more.
    poison: Option<Error>,
    busy: u32,
    touched: Instant,
}

/// What is known of one stripe.
#[derive(Default)]
struct Slot {
    /// Attempts begun so far, of all appends of this stripe.
    attempts: u8,
    busy: bool,
    stored: Option<Stored>,
}

/// A stripe that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) attempt: u8,
    pub(super) len: u32,
    pub(super) avoid: Vec<DriveId>,
    pub(super) shared: bool,
}

/// What a new write is made of.
pub(super) struct NewWrite {
    pub(super) write: WriteId,
    pub(super) principal: Principal,
    pub(super) bucket: BucketRef,
    pub(super) key: Arc<str>,
    pub(super) destination: Destination,
    pub(super) layout: LayoutId,
    pub(super) data_key: Option<Arc<WrappedKey>>,
    pub(super) stripe_bytes: u32,
    pub(super) settings: BucketSettings,
}

impl OpenWrite {
    fn new(new: NewWrite, now: Instant) -> Self {
        let NewWrite { write, principal, bucket, key, destination, layout, data_key, stripe_bytes, settings } = new;
        let binding = Arc::new(Binding {
            tenant: bucket.tenant,
            bucket: bucket.id,
            bucket_name: bucket.name.clone(),
            object: key.clone(),
        });
        Self {
            write,
            principal,
            bucket,
            key,
            destination,
            layout,
            data_key,
            stripe_bytes,
            settings,
            binding,
            slots: BTreeMap::new(),
            poison: None,
            busy: 0,
            touched: now,
        }
    }

    pub(super) fn target(&self, stripe: u32, attempt: u8) -> StripeTarget {
        StripeTarget {
            id: StripeId { write: self.write, stripe, attempt },
            layout: self.layout,
            binding: self.binding.clone(),
            key: self.data_key.clone(),
            compression: self.settings.compression,
            code: self.settings.code,
        }
    }

    /// The manifest of what was appended, if that is `len` bytes without gaps.
    ///
    /// # Errors
    /// `Invalid` if bytes are missing; what broke an append; `Overloaded` if too many stripes went to other drives
    /// than they should: sending the object again finds calmer times.
    pub(super) fn extent(&self, len: u64) -> Result<Extent, Error> {
        if let Some(error) = &self.poison {
            return Err(error.clone());
        }
        if self.busy > 0 {
            return Err(Error::invalid("a write was finished while appends to it were under way"));
        }
        let mut extent = Extent {
            write: self.write,
            len,
            stripe_bytes: self.stripe_bytes,
            layout: self.layout,
            key: self.data_key.clone(),
            runs: Vec::new(),
            compression: self.settings.compression,
            code: self.settings.code,
        };
        let count = self.slots.len() as u64;
        if len.div_ceil(u64::from(self.stripe_bytes)) != count {
            return Err(self.incomplete(len));
        }
        for (at, (&stripe, slot)) in (0_u64..).zip(&self.slots) {
            let stored = slot.stored.as_ref().ok_or_else(|| self.incomplete(len))?;
            if u64::from(stripe) != at || stored.len != stripe_len(&extent, stripe) {
                return Err(self.incomplete(len).with("stripe", stripe).with("stripe_len", stored.len));
            }
            append_run(&mut extent.runs, stripe, stored);
        }
        if extent.runs.len() > MANIFEST_RUNS_MAX {
            return Err(Error::new(
                ErrorKind::Overloaded,
                "too many stripes had to go elsewhere while this was sent; send it again",
            )
            .with("runs", extent.runs.len())
            .with("limit", MANIFEST_RUNS_MAX));
        }
        Ok(extent)
    }

    fn incomplete(&self, len: u64) -> Error {
        Error::invalid("what was appended is not what is to be finished")
            .with("write", self.write)
            .with("len", len)
            .with("stripes", self.slots.len())
    }

    /// The stripes that are durable, to be deleted.
    pub(super) fn doomed(&self) -> Vec<Doomed> {
        let stored = |(&stripe, slot): (&u32, &Slot)| {
            slot.stored.as_ref().map(|stored| Doomed::new(self.target(stripe, stored.attempt), stored.avoid.clone()))
        };
        self.slots.iter().filter_map(stored).collect()
    }
}

/// Adds a stripe that differs from the nominal to the last run, or begins another.
fn append_run(runs: &mut Vec<Run>, stripe: u32, stored: &Stored) {
    let Stored { attempt, avoid, shared, .. } = stored;
    if *attempt == 0 && avoid.is_empty() && !shared {
        return;
    }
    if let Some(last) = runs.last_mut()
        && last.first + last.count == stripe
        && (last.attempt, &last.avoid, last.shared) == (*attempt, avoid, *shared)
    {
        last.count += 1;
        return;
    }
    runs.push(Run { first: stripe, count: 1, attempt: *attempt, avoid: avoid.clone(), shared: *shared });
}

/// Plaintext bytes of one stripe of an extent.
pub(super) fn stripe_len(extent: &Extent, stripe: u32) -> u32 {
    let start = u64::from(stripe) * u64::from(extent.stripe_bytes);
    // At most `stripe_bytes`.
    extent.len.saturating_sub(start).min(u64::from(extent.stripe_bytes)) as u32
}

impl Writes {
    /// Whether another write may be opened.
    ///
    /// # Errors
    /// `Overloaded`.
    pub(super) fn admit(&self) -> Result<(), Error> {
        if self.open.len() >= OPEN_WRITES_MAX {
            return Err(Error::new(ErrorKind::Overloaded, "too many writes are open here; send again later")
                .with("limit", OPEN_WRITES_MAX));
        }
        Ok(())
    }

    /// How many are open.
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn open(&mut self, new: NewWrite, now: Instant) -> Result<(), Error> {
        self.admit()?;
        let write = new.write;
        self.touched.insert((now, write));
        let before = self.open.insert(write, OpenWrite::new(new, now));
        if before.is_some() { Err(Error::bug("a write id was granted twice").with("write", write)) } else { Ok(()) }
    }

    fn find(&mut self, write: WriteId, principal: &Principal, now: Instant) -> Result<&mut OpenWrite, Error> {
        let open = self.open.get_mut(&write).ok_or_else(|| no_such_write(write))?;
        if open.principal != *principal {
            return Err(Error::new(ErrorKind::Denied, "the write belongs to somebody else")
                .with("principal", principal.name())
                .with("write", write));
        }
        self.touched.remove(&(open.touched, write));
        self.touched.insert((now, write));
        open.touched = now;
        Ok(open)
    }

    /// Begins an append: checks it, and gives the target of its first attempt.
    pub(super) fn claim(
        &mut self,
        write: WriteId,
        stripe: u32,
        len: usize,
        principal: &Principal,
        now: Instant,
    ) -> Result<StripeTarget, Error> {
        let open = self.find(write, principal, now)?;
        if len == 0 || len > open.stripe_bytes as usize {
            return Err(Error::invalid("an append has between 1 and the stripe's bytes")
                .with("bytes", len)
                .with("stripe_bytes", open.stripe_bytes));
        }
        let stripes_max = OBJECT_PUT_BYTES_MAX.div_ceil(u64::from(open.stripe_bytes)).min(STRIPES_MAX);
        if u64::from(stripe) >= stripes_max {
            return Err(Error::new(ErrorKind::TooLarge, "the write is over the limit of one put; use parts")
                .with("stripe", stripe)
                .with("limit", stripes_max));
        }
        if let Some(error) = &open.poison {
            return Err(error.clone());
        }
        let slot = open.slots.entry(stripe).or_default();
        if slot.busy {
            return Err(Error::new(ErrorKind::Conflict, "an append of this stripe is under way").with("stripe", stripe));
        }
        let attempt = slot.attempts;
        if attempt >= STRIPE_ATTEMPTS_MAX {
            return Err(Error::new(ErrorKind::Overloaded, "the stripe was stored too often; send the object again"));
        }
        slot.attempts += 1;
        slot.busy = true;
        open.busy += 1;
        Ok(open.target(stripe, attempt))
    }

    /// The target of the next attempt of a claimed stripe; `None` if there were enough, or the write is gone.
    pub(super) fn next_attempt(&mut self, write: WriteId, stripe: u32) -> Option<StripeTarget> {
        let open = self.open.get_mut(&write)?;
        let slot = open.slots.get_mut(&stripe)?;
        let attempt = slot.attempts;
        if attempt >= STRIPE_ATTEMPTS_MAX {
            return None;
        }
        slot.attempts += 1;
        Some(open.target(stripe, attempt))
    }

    /// Ends an append well. Gives the stripe that it takes the place of. `NotFound` if the write is gone.
    pub(super) fn stored(&mut self, write: WriteId, stripe: u32, stored: Stored) -> Result<Option<Doomed>, Error> {
        let open = self.open.get_mut(&write).ok_or_else(|| no_such_write(write))?;
        let slot = open.slots.get_mut(&stripe).ok_or_else(|| Error::bug("a stripe was stored that nobody claimed"))?;
        slot.busy = false;
        open.busy -= 1;
        let before = slot.stored.replace(stored);
        Ok(before.map(|before| Doomed::new(open.target(stripe, before.attempt), before.avoid)))
    }

    /// Ends an append badly: the write cannot be finished.
    pub(super) fn poison(&mut self, write: WriteId, stripe: u32, error: &Error) {
        let Some(open) = self.open.get_mut(&write) else { return };
        if let Some(slot) = open.slots.get_mut(&stripe) {
            slot.busy = false;
            open.busy -= 1;
        }
        open.poison.get_or_insert_with(|| error.clone());
    }

    /// Takes a write out: it is no longer open.
    pub(super) fn close(&mut self, write: WriteId, principal: &Principal, now: Instant) -> Result<OpenWrite, Error> {
        let touched = self.find(write, principal, now)?.touched;
        self.touched.remove(&(touched, write));
        self.open.remove(&write).ok_or_else(|| no_such_write(write))
    }

    /// Takes out a write that nobody touched for `WRITE_IDLE_MAX`.
    pub(super) fn pop_idle(&mut self, now: Instant) -> Option<OpenWrite> {
        loop {
            let &(touched, write) = self.touched.first()?;
            if touched + WRITE_IDLE_MAX > now {
                return None;
            }
            self.touched.pop_first();
            let open = self.open.get_mut(&write)?;
            if open.busy == 0 {
                return self.open.remove(&write);
            }
            open.touched = now;
            self.touched.insert((now, write));
        }
    }

    /// Whether a write of these is open.
    pub(super) fn any_in(&self, writes: core::ops::Range<WriteId>) -> bool {
        self.open.range(writes).next().is_some()
    }

    pub(super) fn is_open(&self, write: WriteId) -> bool {
        self.open.contains_key(&write)
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.touched.first().map(|(touched, _)| *touched + WRITE_IDLE_MAX)
    }
}

pub(super) fn no_such_write(write: WriteId) -> Error {
    Error::new(ErrorKind::NotFound, "no such write is open here; begin it again").with("write", write)
}

/// What a stripe that is only deleted is bound to: deleting opens nothing, so only the tenant counts.
pub(super) fn binding_of_nobody(tenant: TenantId) -> Arc<Binding> {
    Arc::new(Binding { tenant, bucket: BucketId(0), bucket_name: "".into(), object: "".into() })
}

/// Stripes of one write at most, however small they are: an open write holds a few words for each.
const STRIPES_MAX: u64 = 1 << 17;
