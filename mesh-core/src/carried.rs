//! State that moves live: an ordered map that knows what changed since a mark.
//!
//! [`Carried`] is what a function keeps its state in when that state may become large. Each change gets the next version,
//! and a second index has the keys by version: so a page of what changed since a mark costs as much as the page has
//! entries, however many the map has, and what is left when the function is frozen is only what changed since the last
//! page. It owns neither the meaning of the entries nor the time at which they are carried.
//!
//! ```
//! use mesh_core::carried::Carried;
//!
//! let mut here = Carried::new(1);
//! here.insert(b"photos", &7_u64.to_le_bytes())?;
//! let page = here.page(None);
//! here.insert(b"films", &1_u64.to_le_bytes())?;
//!
//! let mut there = Carried::new(1);
//! there.restore(&page)?;
//! // Only what changed since.
//! let rest = here.page(Some(page.mark));
//! assert_eq!(rest.len(), 1);
//! there.restore(&rest)?;
//! assert!(there.iter().eq(here.iter()));
//! # Ok::<(), mesh_core::Error>(())
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use crate::{
    error::{Error, ErrorKind},
    limits::{CARRIED_ENTRY_BYTES_MAX, SNAPSHOT_PAGE_BYTES_MAX, SNAPSHOT_PAGE_ENTRIES},
    snapshot::{Mark, Snapshot},
};

/// An ordered map that knows what changed since a mark. See the module's page.
#[derive(Clone, Debug)]
pub struct Carried {
    /// Of the owner's encoding of keys and values.
    format: u16,
    entries: BTreeMap<Arc<[u8]>, Kept>,
    /// Every key of `entries`, by the version of its last change.
    changes: BTreeMap<u64, Arc<[u8]>>,
    /// Versions of removals, the oldest first.
    removed: BTreeSet<u64>,
    /// Of the last change.
    version: u64,
    /// Removals up to this version are forgotten: what was carried up to an earlier one has to begin anew.
    forgotten: u64,
}

/// What is known of a key.
#[derive(Clone, Debug)]
struct Kept {
    /// `None`: removed, and remembered for a transfer that may be under way.
    value: Option<Vec<u8>>,
    /// Of its last change.
    version: u64,
}

impl Carried {
    /// An empty map. `format` is the version of the owner's encoding of keys and values: pages of another one are
    /// refused.
    #[must_use]
    pub const fn new(format: u16) -> Self {
        Self {
            format,
            entries: BTreeMap::new(),
            changes: BTreeMap::new(),
            removed: BTreeSet::new(),
            version: 0,
            forgotten: 0,
        }
    }

    /// Entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - self.removed.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.entries.get(key)?.value.as_deref()
    }

    /// Entries by key.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries.iter().filter_map(|(key, kept)| Some((&**key, kept.value.as_deref()?)))
    }

    /// Puts an entry, or replaces it.
    ///
    /// # Errors
    /// `TooLarge` if key and value together have more than `CARRIED_ENTRY_BYTES_MAX` bytes; nothing has changed then.
    pub fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        if key.len() + value.len() > CARRIED_ENTRY_BYTES_MAX {
            return Err(Error::new(ErrorKind::TooLarge, "an entry of carried state is over the limit; split it")
                .with("bytes", key.len() + value.len())
                .with("limit", CARRIED_ENTRY_BYTES_MAX));
        }
        self.set(key, Some(value.to_vec()));
        Ok(())
    }

    /// Takes an entry out; whether there was one.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        let present = self.get(key).is_some();
        if present {
            self.set(key, None);
            // Removals are remembered only as long as they do not outgrow what is there.
            while self.removed.len() > REMOVED_MIN.max(self.len()) {
                self.forget_oldest();
            }
        }
        present
    }

    fn set(&mut self, key: &[u8], value: Option<Vec<u8>>) {
        self.version += 1;
        if value.is_none() {
            self.removed.insert(self.version);
        }
        let kept = Kept { value, version: self.version };
        let key: Arc<[u8]> = match self.entries.entry(key.into()) {
            Entry::Occupied(mut entry) => {
                let before = entry.insert(kept).version;
                self.removed.remove(&before);
                // The same memory in both maps.
                self.changes.remove(&before).expect("every entry is in the index under its version")
            }
            Entry::Vacant(entry) => {
                let key = entry.key().clone();
                entry.insert(kept);
                key
            }
        };
        self.changes.insert(self.version, key);
    }

    fn forget_oldest(&mut self) {
        let Some(version) = self.removed.pop_first() else { return };
        let key = self.changes.remove(&version).expect("every entry is in the index under its version");
        self.entries.remove(&key);
        self.forgotten = version;
    }

    /// A page of the entries: from the beginning, or of what changed since the mark of the page before. A mark from
    /// before the oldest removal that is remembered begins anew. What [`StorageFunction::snapshot`] gives back.
    ///
    /// [`StorageFunction::snapshot`]: crate::StorageFunction::snapshot
    #[must_use]
    pub fn page(&self, since: Option<Mark>) -> Snapshot {
        let since = since.filter(|mark| (self.forgotten..=self.version).contains(&mark.0));
        // A map that is filled anew needs to hear of no removals before it.
        let anew = since.is_none();
        let mut page = Snapshot { version: self.format, since, mark: Mark(self.version), ..Snapshot::default() };
        let mut bytes = 0;
        let mut last = since.map_or(0, |mark| mark.0);
        for (version, key) in self.changes.range(last + 1..) {
            let value = &self.entries[key].value;
            bytes += key.len() + value.as_ref().map_or(0, Vec::len) + ENTRY_OVERHEAD_BYTES;
            if page.entries.len() == SNAPSHOT_PAGE_ENTRIES || (bytes > PAGE_BYTES && !page.entries.is_empty()) {
                page.more = true;
                page.mark = Mark(last);
                break;
            }
            if value.is_some() || !anew {
                page.entries.push((key.to_vec(), value.clone()));
            }
            last = *version;
        }
        page
    }

    /// Takes over a page that [`Self::page`] gave. What [`StorageFunction::restore`] does.
    ///
    /// # Errors
    /// `Invalid` for a page of another format, a chain's page, or an entry over the limit; nothing has changed then.
    ///
    /// [`StorageFunction::restore`]: crate::StorageFunction::restore
    pub fn restore(&mut self, page: &Snapshot) -> Result<(), Error> {
        if page.version != self.format || !page.stages.is_empty() {
            return Err(Error::invalid("the page is not of this version of the function; upgrade this node first")
                .with("version", page.version)
                .with("supported", self.format));
        }
        let fits = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| {
            key.len() + value.as_ref().map_or(0, Vec::len) <= CARRIED_ENTRY_BYTES_MAX
        };
        if page.entries.len() > SNAPSHOT_PAGE_ENTRIES || !page.entries.iter().all(fits) {
            return Err(Error::invalid("the page is over the limits of carried state"));
        }
        if page.since.is_none() {
            *self = Self::new(self.format);
        }
        for (key, value) in &page.entries {
            match value {
                Some(value) => self.set(key, Some(value.clone())),
                None => drop(self.remove(key)),
            }
        }
        Ok(())
    }
}

/// Removals that are remembered at least.
const REMOVED_MIN: usize = 1024;
/// Bytes of a page, about: well below the limit, for a chain's page has one of each stage.
const PAGE_BYTES: usize = SNAPSHOT_PAGE_BYTES_MAX / 8;
/// What the encoding adds to an entry at most.
const ENTRY_OVERHEAD_BYTES: usize = 12;

#[cfg(test)]
mod tests;
