//! Rows by type: what one command or query reads and writes, over a [`View`] of the table.

use std::ops::ControlFlow;

use mesh_core::{
    Error, ErrorKind, Redirect,
    id::{BucketId, ClusterId, GroupId, TenantId, WriteId},
    meta::{self, BucketRef, Extent, Shape, UploadRow},
    time::UnixMillis,
    topology::Code,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::metadata::{
    keys,
    table::{Change, Table, View},
};

/// The cluster, once formed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Formed {
    pub(super) cluster: ClusterId,
    pub(super) code: Code,
    pub(super) namespaces: u16,
}

/// What a write is used for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Use {
    /// It is the version of a visible object, whose bytes are these shards (`None`: those of its parts).
    Object { bucket: BucketId, shape: Option<Shape> },
    /// It is the number of an upload that is not completed.
    Upload,
    /// It is the bytes of a part: of an upload, of the object that became of it, or of their garbage.
    Part { upload: WriteId, number: u32 },
    /// It was an object or an upload: garbage since then.
    Garbage { bucket: BucketId, since: UnixMillis, aborted: bool },
    /// It was a part that was replaced or left out: garbage since then.
    GarbagePart { since: UnixMillis },
}

/// An upload that is not completed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Upload {
    pub(super) row: UploadRow,
    pub(super) bucket: BucketId,
    pub(super) tenant: TenantId,
    /// The bytes of its parts: they count in the tenant's usage.
    pub(super) bytes: u64,
}

/// Garbage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waste {
    pub(super) tenant: TenantId,
    /// `None`: the bytes are the part rows under this write.
    pub(super) extent: Option<Extent>,
}

/// What a tenant uses in this group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Usage {
    pub(super) bytes: u64,
    pub(super) objects: u64,
}

/// The rows of one group, for one command or query.
pub(super) struct Rows<'t> {
    table: &'t dyn Table,
    view: View<'t>,
    group: GroupId,
}

impl<'t> Rows<'t> {
    pub(super) fn new(table: &'t dyn Table, group: GroupId) -> Self {
        Self { table, view: View::new(table), group }
    }

    pub(super) fn into_changes(self) -> Vec<Change> {
        self.view.into_changes()
    }

    /// Whether something is to be another than it is.
    pub(super) fn change_something(&self) -> Result<bool, Error> {
        self.view.changes_something()
    }

    /// Takes back what was written so far.
    pub(super) fn undo(&mut self) {
        self.view = View::new(self.table);
    }

    pub(super) const fn group(&self) -> GroupId {
        self.group
    }

    /// Fails unless this is the control group (`control`) or a namespace group.
    pub(super) fn expect_kind(&self, control: bool) -> Result<(), Error> {
        if (self.group == GroupId::CONTROL) == control {
            return Ok(());
        }
        let wanted = if control { "the control group" } else { "a namespace group" };
        Err(Error::invalid("a metadata group of another kind answers this")
            .with("wanted", wanted)
            .with("asked", self.group))
    }

    /// Fails unless this is the group.
    pub(super) fn expect_group(&self, group: GroupId) -> Result<(), Error> {
        if self.group == group {
            return Ok(());
        }
        Err(Error::invalid("this is for another metadata group").with("wanted", group).with("asked", self.group))
    }

    /// The row under a key.
    pub(super) fn find<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, Error> {
        self.view.get(key)?.map(|value| decode(key, &value)).transpose()
    }

    pub(super) fn has(&self, key: &[u8]) -> Result<bool, Error> {
        Ok(self.view.get(key)?.is_some())
    }

    pub(super) fn put<T: Serialize>(&mut self, key: Vec<u8>, row: &T) -> Result<(), Error> {
        let value = meta::encode(row)?;
        self.view.put(key, value);
        Ok(())
    }

    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.view.remove(key);
    }

    /// Visits rows with `from <= key < to` until `visit` breaks.
    pub(super) fn scan<T: DeserializeOwned>(
        &self,
        from: &[u8],
        to: &[u8],
        mut visit: impl FnMut(&[u8], T) -> Result<ControlFlow<()>, Error>,
    ) -> Result<(), Error> {
        self.view.scan(from, to, &mut |key, value| visit(key, decode(key, value)?))
    }

    /// The first rows under a prefix, at most `limit`.
    pub(super) fn first<T: DeserializeOwned>(&self, prefix: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, T)>, Error> {
        let mut found = Vec::new();
        if limit == 0 {
            return Ok(found);
        }
        self.scan(prefix, &keys::behind(prefix), |key, row| {
            found.push((key.to_vec(), row));
            Ok(if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        Ok(found)
    }

    /// Whether there is a row under a prefix.
    pub(super) fn any(&self, prefix: &[u8]) -> Result<bool, Error> {
        let mut any = false;
        self.view.scan(prefix, &keys::behind(prefix), &mut |_, _| {
            any = true;
            Ok(ControlFlow::Break(()))
        })?;
        Ok(any)
    }

    /// Takes the room that the next row under a prefix needs, before the row is put. Rows are counted beside the rows, so
    /// that to add one costs the same however many there are; a table from before they were is looked through once.
    ///
    /// Fails with `QuotaExceeded` if `max` rows stand under the prefix.
    pub(super) fn take_room(&mut self, prefix: &[u8], max: u64, what: &'static str) -> Result<(), Error> {
        let key = keys::rows_under(prefix);
        let count = match self.find::<u64>(&key)? {
            Some(count) => count,
            None => self.count_under(prefix)?,
        };
        if count >= max {
            return Err(Error::new(ErrorKind::QuotaExceeded, "there are as many as may be; remove one first")
                .with("of", what)
                .with("limit", max));
        }
        self.put(key, &(count + 1))
    }

    /// Gives back the room of a row under a prefix that was there and is removed.
    pub(super) fn give_room(&mut self, prefix: &[u8]) -> Result<(), Error> {
        let key = keys::rows_under(prefix);
        match self.find::<u64>(&key)? {
            Some(count) => self.put(key, &count.saturating_sub(1)),
            // Nobody has asked yet: they are counted then.
            None => Ok(()),
        }
    }

    /// How many rows stand under a prefix that room is taken for.
    pub(super) fn taken_under(&self, prefix: &[u8]) -> Result<u64, Error> {
        self.find(&keys::rows_under(prefix))?.map_or_else(|| self.count_under(prefix), Ok)
    }

    fn count_under(&self, prefix: &[u8]) -> Result<u64, Error> {
        let mut count = 0;
        self.view.scan(prefix, &keys::behind(prefix), &mut |_, _| {
            count += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(count)
    }

    /// The next number of a counter, from 1.
    pub(super) fn count(&mut self, which: keys::Counter) -> Result<u64, Error> {
        let key = keys::counter(which);
        let next = self.find::<u64>(&key)?.unwrap_or(0) + 1;
        self.put(key, &next)?;
        Ok(next)
    }

    pub(super) fn usage(&self, tenant: TenantId) -> Result<Usage, Error> {
        Ok(self.find(&keys::usage(tenant))?.unwrap_or_default())
    }

    pub(super) fn use_of(&self, write: WriteId) -> Result<Option<Use>, Error> {
        self.find(&keys::write_use(write))
    }

    pub(super) fn set_use(&mut self, write: WriteId, used: &Use) -> Result<(), Error> {
        self.put(keys::write_use(write), used)
    }

    /// Refuses buckets of other groups.
    pub(super) fn expect_owned(&self, bucket: &BucketRef) -> Result<(), Error> {
        if bucket.group == self.group {
            return Ok(());
        }
        Err(Error::new(ErrorKind::WrongShard, "another namespace group owns this bucket")
            .with("bucket", bucket.id)
            .redirect_to(Redirect { group: Some(bucket.group), ..Redirect::default() }))
    }

    /// Refuses buckets that are sealed.
    pub(super) fn expect_unsealed(&self, bucket: &BucketRef) -> Result<(), Error> {
        if self.has(&keys::sealed(bucket.id))? { Err(no_such_bucket(&bucket.name)) } else { Ok(()) }
    }

    /// What a read of a bucket needs.
    pub(super) fn expect_readable(&self, bucket: &BucketRef) -> Result<(), Error> {
        self.expect_owned(bucket)?;
        self.expect_unsealed(bucket)
    }
}

/// A row's value.
pub(super) fn decode<T: DeserializeOwned>(key: &[u8], value: &[u8]) -> Result<T, Error> {
    meta::decode(value).map_err(|error| {
        let error = match error.kind() {
            // Other replicas may well read it: this one must stop, but has lost nothing.
            ErrorKind::Unsupported => {
                Error::bug("a metadata row is of another build; run the build that wrote it on this node again")
                    .caused_by(error)
            }
            _ => {
                let what = "a metadata row cannot be read; the replica must be built anew from the others";
                Error::new(ErrorKind::Corrupt, what).caused_by(error)
            }
        };
        error.with("row", key.escape_ascii())
    })
}

pub(super) fn no_such_bucket(name: &str) -> Error {
    Error::new(ErrorKind::NoSuchBucket, "there is no such bucket").with("bucket", name)
}

pub(super) fn no_such_upload(upload: WriteId) -> Error {
    Error::new(ErrorKind::NoSuchUpload, "there is no such multipart upload; begin a new one").with("upload", upload)
}
