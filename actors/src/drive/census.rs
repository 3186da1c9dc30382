//! The census: what the superblock says that the medium has, written now and then while the drive serves. So a start
//! can tell what was emptied, shortened or has rotted from what was never written.
//!
//! ```text
//! still ──something is new, and the pause is over──► writing ──► written ──► syncing ──► still
//! ```
//!
//! The copies of the superblock take turns, and the next is begun only when the one before is durable.

use core::time::Duration;
use std::collections::BTreeSet;

use mesh_core::{Cx, Error, ErrorKind, WorkOutcome, port::DiskJob, time::Instant};

use super::{
    format::{Census, Superblock, block},
    medium::COPIES,
    serve::{Serving, Work},
};

/// How long what is new may stay unsaid. Meanwhile the records themselves vouch for each other, but for the last.
const PAUSE: Duration = Duration::from_secs(1);

/// What is counted, and how far it is written.
#[derive(Debug)]
pub(super) struct Counting {
    /// Slots that have never been written durably, or were found gone.
    blank: BTreeSet<u32>,
    gone: u32,
    state: State,
    /// When it is to be written.
    due: Option<Instant>,
    next_copy: usize,
    /// Copies of the superblock that are to be written whatever is new.
    again: [bool; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Still,
    Writing,
    Written,
    Syncing,
}

impl Counting {
    pub(super) fn new(blank: BTreeSet<u32>, gone: u32) -> Self {
        Self { blank, gone, state: State::Still, due: None, next_copy: 0, again: [false; 2] }
    }

    /// Segments that were found gone.
    pub(super) fn gone(&self) -> u32 {
        self.gone
    }

    /// A slot has been written durably.
    pub(super) fn reached(&mut self, slot: u32) {
        self.blank.remove(&slot);
    }

    /// When it wants to be written.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| self.state == State::Still)
    }

    /// A copy of the superblock is damaged, and is written again. `true` if that is news.
    pub(super) fn write_again(&mut self, copy: usize) -> bool {
        let is_news = !self.again[copy];
        self.again[copy] = true;
        is_news
    }

    /// Whether no copy is being written.
    pub(super) fn is_still(&self) -> bool {
        self.state == State::Still
    }

    /// Whether it waits for a sync.
    pub(super) fn is_written(&self) -> bool {
        self.state == State::Written
    }

    /// The sync that covers it has begun.
    pub(super) fn syncing(&mut self) {
        self.state = State::Syncing;
    }

    /// It is durable.
    pub(super) fn synced(&mut self) {
        self.state = State::Still;
    }
}

impl Serving {
    /// What is durable now.
    fn counted(&self) -> Census {
        let old = self.superblock.census;
        let reached = self.census.blank.first().copied().unwrap_or(self.superblock.slots);
        let (seq, durable) = match &self.open {
            Some(open) if open.durable() > 0 => (open.seq, open.durable()),
            // Sealed segments are wholly durable; the newest of them is vouched for.
            _ if self.sealed.0 != 0 => self.sealed,
            _ => (old.seq, old.durable),
        };
        Census { gone: self.census.gone, seq, durable, reached }
    }

    /// Writes the census if something in it is new and the last is long enough ago.
    pub(super) fn count(&mut self, cx: &mut Cx<'_>) {
        if self.census.state != State::Still || self.scrub.reads_superblock() {
            return;
        }
        let census = self.counted();
        let is_new = census != self.superblock.census;
        let is_to_be_said =
            self.census.again.contains(&true) || self.scrub.is_to_be_said(self.superblock.scrubbed, cx.now());
        if !is_new && !is_to_be_said {
            self.census.due = None;
            return;
        }
        let due = *self.census.due.get_or_insert_with(|| cx.now() + PAUSE);
        if cx.now() < due {
            return;
        }
        self.census.due = None;
        let worse = self.census.again.iter().position(|again| *again);
        self.census.next_copy = worse.unwrap_or(self.census.next_copy);
        self.census.again[self.census.next_copy] = false;
        self.scrub.saying(cx.now());
        self.superblock = Superblock { census, scrubbed: self.scrub.now, ..self.superblock };
        let at = COPIES[self.census.next_copy];
        self.census.next_copy = 1 - self.census.next_copy;
        self.census.state = State::Writing;
        let bytes = block(&self.pool, |bytes| self.superblock.encode(bytes));
        self.begin(Work::Census, DiskJob::Write { at, bufs: vec![bytes] }, cx);
    }

    /// The census is written.
    ///
    /// # Errors
    /// The drive has failed.
    pub(super) fn on_census(&mut self, outcome: WorkOutcome) -> Result<(), Error> {
        match outcome {
            Ok(_) => self.census.state = State::Written,
            // The copy that stands says less, which is true too.
            Err(error) if error.kind() == ErrorKind::NoSpace => self.census.state = State::Still,
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
