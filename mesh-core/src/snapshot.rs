//! The state of a function on its way to another node.

use serde::{Deserialize, Serialize};

/// A point in a function's history, from which a later snapshot can tell what changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mark(pub u64);

/// The state of a function, whole or since a mark. A chain's has one section a stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Version of the function's own format.
    pub version: u16,
    /// Where this snapshot ends: the `since` of the next.
    pub mark: Mark,
    /// What it was taken since; `None` if whole.
    pub since: Option<Mark>,
    /// Entries, in the function's own encoding: a later snapshot's entry replaces an earlier one's of the same key.
    pub entries: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// The stages of a chain.
    pub stages: Vec<Self>,
}

impl Snapshot {
    /// Whether there is nothing to carry over.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.stages.iter().all(Self::is_empty)
    }
}
