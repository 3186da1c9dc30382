//! Figures for each tenant, up to a limit.

use core::{
    fmt,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};
use std::sync::OnceLock;

use super::{Figures, Label, Labels, Page};
use crate::{id::TenantId, limits::WATCHED_TENANTS_MAX};

/// The label of the mesh's own requests, and of those whose tenant is not known.
const NOBODY: &str = "";
/// The label of all tenants beyond the limit.
pub(super) const OTHER: &str = "other";

/// A struct of figures for each tenant: of the first [`WATCHED_TENANTS_MAX`] that come; what further ones do is summed, under
/// `tenant="other"`. What is nobody's is told under an empty name.
///
/// Whoever counts finds its tenant's in a table that is never moved: a multiplication and, as a rule, one comparison.
pub struct PerTenant<T> {
    slots: Box<[Slot<T>]>,
    taken: AtomicUsize,
    nobody: T,
    other: T,
}

struct Slot<T> {
    /// The tenant's number and one; 0: free.
    tenant: AtomicU64,
    figures: OnceLock<Box<T>>,
}

/// Twice as many as are used, so that a search ends soon; a power of two.
const SLOTS: usize = 2 * WATCHED_TENANTS_MAX;
const _: () = assert!(SLOTS.is_power_of_two());

impl<T: Default> Default for PerTenant<T> {
    fn default() -> Self {
        let slots = (0..SLOTS).map(|_| Slot { tenant: AtomicU64::new(0), figures: OnceLock::new() }).collect();
        Self { slots, taken: AtomicUsize::new(0), nobody: T::default(), other: T::default() }
    }
}

impl<T> fmt::Debug for PerTenant<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PerTenant({})", self.taken.load(Relaxed))
    }
}

impl<T: Default> PerTenant<T> {
    /// Those of a tenant.
    #[inline]
    pub fn of(&self, tenant: Option<TenantId>) -> &T {
        let Some(tenant) = tenant else { return &self.nobody };
        let key = tenant.0.wrapping_add(1);
        // Numbers count upwards: the multiplication spreads them (Fibonacci hashing).
        let first = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - SLOTS.trailing_zeros())) as usize;
        for step in 0..SLOTS {
            let slot = &self.slots[(first + step) % SLOTS];
            match slot.tenant.load(Relaxed) {
                0 => match self.claim(slot, key) {
                    Some(true) => return slot.figures.get_or_init(Box::default),
                    Some(false) => {}
                    None => return &self.other,
                },
                known if known == key => return slot.figures.get_or_init(Box::default),
                _ => {}
            }
        }
        &self.other
    }

    /// Takes a free slot, if there may be one more tenant. Whether it is this one's now; another may have come before.
    #[cold]
    fn claim(&self, slot: &Slot<T>, key: u64) -> Option<bool> {
        let room = |taken: usize| (taken < WATCHED_TENANTS_MAX).then_some(taken + 1);
        self.taken.fetch_update(Relaxed, Relaxed, room).ok()?;
        match slot.tenant.compare_exchange(0, key, Relaxed, Relaxed) {
            Ok(_) => Some(true),
            Err(known) => {
                self.taken.fetch_sub(1, Relaxed);
                Some(known == key)
            }
        }
    }
}

impl<T> PerTenant<T> {
    /// Those of everybody: of each tenant that has some, of further ones, and of nobody.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let slots = self.slots.iter().filter_map(|slot| slot.figures.get().map(|figures| &**figures));
        slots.chain([&self.nobody, &self.other])
    }
}

impl<T: Figures> PerTenant<T> {
    /// Names the families, without a number.
    pub fn declare(page: &mut Page) {
        T::declare(page);
    }

    /// Adds what they say, each under its tenant.
    pub fn tell(&self, labels: &Labels, page: &mut Page) {
        self.nobody.tell(&labels.clone().word("tenant", NOBODY), page);
        for slot in &self.slots {
            if let (key @ 1.., Some(figures)) = (slot.tenant.load(Relaxed), slot.figures.get()) {
                figures.tell(&labels.clone().with("tenant", Label::Tenant(TenantId(key - 1))), page);
            }
        }
        if self.taken.load(Relaxed) == WATCHED_TENANTS_MAX {
            self.other.tell(&labels.clone().word("tenant", OTHER), page);
        }
    }
}
