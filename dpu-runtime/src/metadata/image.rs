//! A group's state as it was at one moment, read piece by piece while the group goes on.
//!
//! sled has no snapshots; so whoever changes a row that an image has not read yet first puts the old value aside, in a
//! tree of the image's own. It holds each row at most once, however often it changes, and nothing that was read: so an
//! image always comes to its end, and takes no more than the state did.
//!
//! ```text
//! tree "aside/<group>/<number>"     see super::rows; a value is 0x00 if there was no such row, or 0x01 and the old value
//! ```

use std::{
    collections::BTreeMap,
    io,
    ops::ControlFlow,
    sync::{Arc, Mutex},
};

use mesh_core::id::GroupId;
use tokio::time::Instant;

use super::{
    flush::lock,
    machine::{GroupState, into_io},
    rows::{Digest, TreeTable},
    store::Store,
};
use mesh_actors::metadata::table::{Change, Table, View};

/// Behind every key.
const END: &[u8] = &[0xff];

/// A key and its value.
pub(super) type Row = (Vec<u8>, Vec<u8>);

/// Rows as they were, by key; none if there was no such row.
type Overlay = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// What an image has read, and what changed before it was read.
pub(super) struct Aside {
    store: Arc<Store>,
    name: String,
    /// Rows below this are read.
    cursor: Vec<u8>,
    /// Rows at or above it as they were, once one changed.
    old: Option<TreeTable>,
    spoilt: bool,
    sending: Arc<Sending>,
    /// When the first rows were read.
    begun: Option<Instant>,
}

/// The images of one group that are being read, and how long what follows them must be kept.
#[derive(Default)]
pub(super) struct Sending(Mutex<Sent>);

#[derive(Default)]
struct Sent {
    under_way: u32,
    /// Whoever got an image needs the entries behind it until then.
    kept_until: Option<Instant>,
}

/// Entries behind an image are kept at least this long after it was read.
const KEPT_MIN: core::time::Duration = core::time::Duration::from_secs(30);

impl Sending {
    fn begin(&self) {
        lock(&self.0).under_way += 1;
    }

    fn end(&self, begun: Instant, now: Instant) {
        let mut sent = lock(&self.0);
        sent.under_way = sent.under_way.saturating_sub(1);
        sent.kept_until = sent.kept_until.max(Some(now + (now - begun).max(KEPT_MIN)));
    }

    /// Whether somebody needs the entries behind an image: while it is read, and as long again, in which who got it
    /// catches up if it is twice as fast as what is written.
    pub(super) fn needs_log(&self, now: Instant) -> bool {
        let sent = lock(&self.0);
        sent.under_way > 0 || sent.kept_until.is_some_and(|until| now < until)
    }
}

/// The beginning of the names of a group's trees.
pub(super) fn tree_prefix(group: GroupId) -> String {
    format!("aside/{:016x}/", group.0)
}

/// The group whose tree has this name.
pub(super) fn group_of(name: &str) -> Option<GroupId> {
    let (group, _) = name.strip_prefix("aside/")?.split_once('/')?;
    u64::from_str_radix(group, 16).ok().map(GroupId)
}

impl Aside {
    pub(super) fn new(store: Arc<Store>, name: String, sending: Arc<Sending>) -> Self {
        Self { store, name, cursor: Vec::new(), old: None, spoilt: false, sending, begun: None }
    }

    /// Puts the old values of rows aside that are about to change.
    pub(super) fn keep(&mut self, table: &TreeTable, changes: &[Change]) -> io::Result<()> {
        let mut kept = Vec::new();
        for change in changes {
            if self.spoilt || change.key < self.cursor {
                continue;
            }
            if let Some(old) = &self.old
                && old.get(&change.key).map_err(into_io)?.is_some()
            {
                continue;
            }
            let value = match table.get(&change.key).map_err(into_io)? {
                Some(old) => [&[1], old.as_slice()].concat(),
                None => vec![0],
            };
            kept.push(Change { key: change.key.clone(), value: Some(value) });
        }
        if kept.is_empty() {
            return Ok(());
        }
        if self.old.is_none() {
            self.old = Some(TreeTable::new(self.store.tree(&self.name)?));
        }
        self.old.as_ref().map_or(Ok(()), |old| old.commit(&kept, None))
    }

    /// The state is no more: nothing further can be read.
    pub(super) fn spoil(&mut self) {
        self.spoilt = true;
    }

    /// The next rows as they were, and the key that everything before is read up to.
    fn overlay(&self, bytes_max: usize) -> io::Result<(Overlay, Vec<u8>)> {
        let (mut rows, mut bytes) = (Overlay::new(), 0);
        let Some(old) = &self.old else { return Ok((rows, END.to_vec())) };
        let scanned = old.scan(&self.cursor, END, &mut |key, value| {
            bytes += key.len() + value.len();
            let old = value.split_first().filter(|(there, _)| **there == 1).map(|(_, old)| old.to_vec());
            rows.insert(key.to_vec(), old);
            Ok(if bytes < bytes_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        });
        scanned.map_err(into_io)?;
        let bound = match rows.last_key_value() {
            Some((last, _)) if bytes >= bytes_max => behind(last),
            _ => END.to_vec(),
        };
        Ok((rows, bound))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if let Some(begun) = self.begun {
            self.sending.end(begun, Instant::now());
        }
        if self.old.take().is_some()
            && let Err(error) = self.store.drop_tree(&self.name)
        {
            tracing::debug!(%error, "what an image put aside is dropped when its group is opened again");
        }
    }
}

fn behind(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// A group's state at one moment.
#[derive(Clone)]
pub(crate) struct Image {
    state: Arc<GroupState>,
    aside: Arc<Mutex<Aside>>,
    digest: Digest,
}

impl Image {
    pub(super) const fn new(state: Arc<GroupState>, aside: Arc<Mutex<Aside>>, digest: Digest) -> Self {
        Self { state, aside, digest }
    }

    /// All its rows in one number.
    pub(super) const fn digest(&self) -> Digest {
        self.digest
    }

    /// The next rows, about `bytes_max` of them, at least one. None: the image is read.
    pub(super) fn next_rows(&self, bytes_max: usize) -> io::Result<Vec<Row>> {
        self.state.heed(self.read(bytes_max))
    }

    fn read(&self, bytes_max: usize) -> io::Result<Vec<Row>> {
        self.state.with_table(|table| {
            let mut aside = lock(&self.aside);
            if aside.spoilt {
                return Err(io::Error::other("another state was installed while this one was read; it is read again"));
            }
            if aside.begun.is_none() {
                aside.begun = Some(Instant::now());
                aside.sending.begin();
            }
            let mut rows = Vec::<Row>::new();
            while rows.is_empty() && aside.cursor != END {
                let (overlay, bound) = aside.overlay(bytes_max)?;
                let mut bytes = 0;
                let scanned = View::over(table, overlay).scan(&aside.cursor, &bound, &mut |key, value| {
                    rows.push((key.to_vec(), value.to_vec()));
                    bytes += key.len() + value.len();
                    Ok(if bytes < bytes_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
                });
                scanned.map_err(into_io)?;
                aside.cursor = match rows.last() {
                    Some((last, _)) if bytes >= bytes_max => behind(last),
                    _ => bound,
                };
            }
            Ok(rows)
        })
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    #[test]
    fn what_follows_an_image_is_kept_while_it_is_read_and_as_long_again() {
        let (sending, start) = (Sending::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(!sending.needs_log(start), "nobody reads");
        sending.begin();
        sending.begin();
        sending.end(start, after(1));
        assert!(sending.needs_log(after(50)), "another still reads");
        sending.end(start, after(100));
        assert!(sending.needs_log(after(199)));
        assert!(!sending.needs_log(after(200)));
        sending.begin();
        sending.end(after(300), after(301));
        assert!(sending.needs_log(after(330)), "a short one is given a while too");
        assert!(!sending.needs_log(after(331)));
    }
}
