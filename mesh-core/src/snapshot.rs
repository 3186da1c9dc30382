//! The state of a function on its way to another node.
//!
//! It goes in pages. The first is asked for without a mark, each further one with the mark of the one before, and a page
//! brings what changed since, up to a bound; while there is [`Snapshot::more`], more is there already. So a large state
//! is carried over while the function goes on working, and what is left at the end is small.

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    limits::{CHAIN_STAGES_MAX, SNAPSHOT_DEPTH_MAX, SNAPSHOT_PAGE_BYTES_MAX},
    meta,
};

/// A point in a function's history, from which a later snapshot can tell what changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mark(pub u64);

/// The state of a function, whole or since a mark. A chain's has one section a stage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Version of the function's own format.
    pub version: u16,
    /// Where this snapshot ends: the `since` of the next.
    pub mark: Mark,
    /// What it was taken since; `None` if it begins anew: what was restored before counts no more.
    pub since: Option<Mark>,
    /// There is more already.
    pub more: bool,
    /// Entries, in the function's own encoding: a later snapshot's entry replaces an earlier one's of the same key.
    pub entries: Entries,
    /// The stages of a chain.
    pub stages: Vec<Self>,
}

/// One snapshot without its stages, and how many those are: a tree in the order of its branches, so that reading it
/// needs no recursion that the bytes decide on.
#[derive(Serialize, Deserialize)]
struct Section<Entries> {
    version: u16,
    mark: Mark,
    since: Option<Mark>,
    more: bool,
    entries: Entries,
    stages: u8,
}

/// Keys with what they have now: `None`, they are gone.
pub type Entries = Vec<(Vec<u8>, Option<Vec<u8>>)>;

impl Snapshot {
    /// Whether there are no entries to carry over.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.stages.iter().all(Self::is_empty)
    }

    /// Whether whoever has restored what came before has all of it: there are no entries, and nothing begins anew, which
    /// would take away what there was.
    #[must_use]
    pub fn says_nothing(&self) -> bool {
        self.since.is_some() && self.entries.is_empty() && self.stages.iter().all(Self::says_nothing)
    }

    /// Entries in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() + self.stages.iter().map(Self::len).sum::<usize>()
    }

    /// The page as bytes.
    ///
    /// # Errors
    /// `TooLarge` over `SNAPSHOT_PAGE_BYTES_MAX`, or nested deeper than `SNAPSHOT_DEPTH_MAX`.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut sections = Vec::new();
        self.flatten(&mut sections, 0)?;
        let bytes = meta::encode(&sections)?;
        if bytes.len() > SNAPSHOT_PAGE_BYTES_MAX {
            return Err(too_large().with("bytes", bytes.len()).with("limit", SNAPSHOT_PAGE_BYTES_MAX));
        }
        Ok(bytes)
    }

    fn flatten<'a>(&'a self, sections: &mut Vec<Section<&'a Entries>>, depth: usize) -> Result<(), Error> {
        if depth >= SNAPSHOT_DEPTH_MAX || self.stages.len() > CHAIN_STAGES_MAX {
            return Err(too_large().with("depth", depth).with("stages", self.stages.len()));
        }
        sections.push(Section {
            version: self.version,
            mark: self.mark,
            since: self.since,
            more: self.more,
            entries: &self.entries,
            // At most CHAIN_STAGES_MAX.
            stages: self.stages.len() as u8,
        });
        self.stages.iter().try_for_each(|stage| stage.flatten(sections, depth + 1))
    }

    /// Reads what [`Self::encode`] made.
    ///
    /// # Errors
    /// `Invalid` for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > SNAPSHOT_PAGE_BYTES_MAX {
            return Err(too_large().with("bytes", bytes.len()).with("limit", SNAPSHOT_PAGE_BYTES_MAX));
        }
        let sections: Vec<Section<Entries>> = meta::decode(bytes)?;
        let mut sections = sections.into_iter();
        let snapshot = Self::grow(&mut sections, 0)?;
        match sections.next() {
            None => Ok(snapshot),
            Some(_) => Err(damaged()),
        }
    }

    fn grow(sections: &mut impl Iterator<Item = Section<Entries>>, depth: usize) -> Result<Self, Error> {
        let section = sections.next().filter(|_| depth < SNAPSHOT_DEPTH_MAX).ok_or_else(damaged)?;
        if usize::from(section.stages) > CHAIN_STAGES_MAX {
            return Err(damaged());
        }
        let stages = (0..section.stages).map(|_| Self::grow(sections, depth + 1)).collect::<Result<_, _>>()?;
        let Section { version, mark, since, more, entries, .. } = section;
        Ok(Self { version, mark, since, more, entries, stages })
    }
}

/// When to stop carrying a state over while its function goes on. Each round brings what has changed in the one before:
/// another one is worth it as long as they get smaller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rounds {
    /// Entries of all rounds but the present one.
    before: u64,
    /// Entries of the last round.
    last: Option<u64>,
}

impl Rounds {
    /// A round has ended, after so many entries in all. Whether it was the last: it brought nothing, or no less than the one
    /// before.
    pub fn end(&mut self, entries: u64) -> bool {
        let round = entries - self.before;
        let enough = round == 0 || self.last.is_some_and(|last| round >= last);
        (self.before, self.last) = (entries, Some(round));
        enough
    }
}

/// The checksum over the pages of one transfer, in order: CRC-64/NVME of the last one's and the page.
#[must_use]
pub fn digest(before: u64, page: &[u8]) -> u64 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    digest.update(&before.to_le_bytes());
    digest.update(page);
    digest.finalize()
}

fn too_large() -> Error {
    Error::new(crate::ErrorKind::TooLarge, "a page of a snapshot is over the limit")
}

fn damaged() -> Error {
    Error::invalid("a page of a snapshot is damaged")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaf(mark: u64) -> Snapshot {
        let entries = vec![(b"key".to_vec(), Some(vec![1, 2])), (b"gone".to_vec(), None)];
        Snapshot { version: 3, mark: Mark(mark), since: Some(Mark(1)), more: true, entries, stages: Vec::new() }
    }

    #[test]
    fn a_tree_is_read_as_it_was_written() {
        let inner = Snapshot { stages: vec![leaf(4)], ..Snapshot::default() };
        let tree = Snapshot { stages: vec![leaf(2), inner, leaf(3)], ..Snapshot::default() };
        assert_eq!(tree.encode().and_then(|bytes| Snapshot::decode(&bytes)), Ok(tree.clone()));
        assert_eq!((tree.len(), tree.is_empty()), (6, false));
    }

    #[test]
    fn a_page_says_nothing_only_if_all_of_it_goes_on_from_before() {
        let (plain, since) = (Snapshot::default(), Some(Mark(3)));
        let on = Snapshot { since, ..plain.clone() };
        let chain = |stages: Vec<Snapshot>| Snapshot { stages, ..on.clone() };
        assert!(on.says_nothing() && chain(vec![on.clone(), on.clone()]).says_nothing());
        // It begins anew, with nothing: that takes away what there was.
        assert!(plain.is_empty() && !plain.says_nothing());
        assert!(!chain(vec![on.clone(), plain]).says_nothing());
        assert!(!chain(vec![leaf(2)]).says_nothing());
    }

    #[test]
    fn what_is_too_deep_or_too_large_is_refused() {
        let deep = (0..=SNAPSHOT_DEPTH_MAX).fold(leaf(1), |inner, _| Snapshot { stages: vec![inner], ..leaf(1) });
        assert_eq!(deep.encode().map_err(|error| error.kind()), Err(crate::ErrorKind::TooLarge));
        let large = Snapshot { entries: vec![(vec![0; SNAPSHOT_PAGE_BYTES_MAX], None)], ..Snapshot::default() };
        assert_eq!(large.encode().map_err(|error| error.kind()), Err(crate::ErrorKind::TooLarge));
    }

    #[test]
    fn rounds_go_on_while_they_get_smaller() {
        let ends = |totals: &[u64]| {
            let mut rounds = Rounds::default();
            totals.iter().map(|total| rounds.end(*total)).collect::<Vec<_>>()
        };
        assert_eq!(ends(&[0]), [true]);
        assert_eq!(ends(&[100, 110, 113, 113]), [false, false, false, true]);
        assert_eq!(ends(&[100, 110, 120]), [false, false, true]);
    }

    #[test]
    fn the_digest_depends_on_every_page_and_on_their_order() {
        let of = |pages: &[&[u8]]| pages.iter().fold(0, |before, page| digest(before, page));
        assert_ne!(of(&[b"a", b"b"]), of(&[b"b", b"a"]));
        assert_ne!(of(&[b"a", b"b"]), of(&[b"ab"]));
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..60_usize, bit in 0..8_u8) {
            drop(Snapshot::decode(&bytes));
            let mut page = Snapshot { stages: vec![leaf(2), leaf(3)], ..Snapshot::default() }.encode().expect("small");
            let at = at % page.len();
            page[at] ^= 1 << bit;
            drop(Snapshot::decode(&page));
        }
    }
}
