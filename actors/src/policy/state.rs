//! What Policy carries to another node: rate levels, and the names of buckets.
//!
//! ```text
//! key            value
//! 'l'            requests: i128 LE | bytes: i128 LE      levels, in billionths
//! 'b' id: u64 BE name: UTF-8                             a bucket of the tenant
//! ```

use mesh_core::{
    Error,
    id::BucketId,
    snapshot::{Mark, Snapshot},
};

use super::{
    Policy,
    names::{NAMES_MAX, Names},
};

const VERSION: u16 = 1;
const LEVELS: &[u8] = b"l";
const NAME: u8 = b'b';

impl Policy {
    /// Always whole: it is small. Nothing if nothing changed since the mark.
    pub(super) fn save(&self, since: Option<Mark>) -> Snapshot {
        let mark = Mark(self.changes);
        let mut snapshot = Snapshot { version: VERSION, mark, since, ..Snapshot::default() };
        if since == Some(mark) {
            return snapshot;
        }
        let levels = [self.requests.level().to_le_bytes(), self.bytes.level().to_le_bytes()].concat();
        snapshot.entries.push((LEVELS.to_vec(), Some(levels)));
        for (id, name) in self.names.iter() {
            let key = [&[NAME][..], &id.0.to_be_bytes()].concat();
            snapshot.entries.push((key, Some(name.as_bytes().to_vec())));
        }
        snapshot
    }

    pub(super) fn load(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        if snapshot.is_empty() {
            return Ok(());
        }
        let damaged = || Error::invalid("the snapshot of a policy is damaged");
        if snapshot.version != VERSION || !snapshot.stages.is_empty() {
            return Err(Error::invalid("the snapshot is not of this version of Policy")
                .with("version", snapshot.version)
                .with("supported", VERSION));
        }
        let mut levels = None;
        let mut names = Names::default();
        if snapshot.entries.len() > NAMES_MAX + 1 {
            return Err(damaged());
        }
        for (key, value) in &snapshot.entries {
            let value = value.as_deref().ok_or_else(damaged)?;
            match key.split_first() {
                Some((_, [])) if key == LEVELS => {
                    let (requests, bytes) = value.split_at_checked(16).ok_or_else(damaged)?;
                    let level = |bytes: &[u8]| bytes.try_into().map(i128::from_le_bytes).map_err(|_| damaged());
                    levels = Some((level(requests)?, level(bytes)?));
                }
                Some((&NAME, id)) => {
                    let id = u64::from_be_bytes(id.try_into().map_err(|_| damaged())?);
                    let name = core::str::from_utf8(value).map_err(|_| damaged())?;
                    names.keep(BucketId(id), name.into());
                }
                _ => return Err(damaged()),
            }
        }
        let (requests, bytes) = levels.ok_or_else(damaged)?;
        self.requests.set_level(requests);
        self.bytes.set_level(bytes);
        self.names = names;
        Ok(())
    }
}
