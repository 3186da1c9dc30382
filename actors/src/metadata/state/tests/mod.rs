//! Every command, its errors, and its repetition. [`Group::apply`] applies each command twice and demands the table and
//! the answer of once; so every test here is one of repetition too. Each command that is made has a number of its own.

mod audit;
mod control;
mod deletion;
mod departures;
mod ends;
mod level;
mod limits;
mod listing;
mod namespace;
mod owed;
mod placement;
mod recovery;
mod repair;
mod seats;
mod sessions;
mod stages;
mod twice;
mod uploads;
mod view;

use std::{cell::Cell, sync::Arc};

use mesh_core::{
    ErrorKind,
    id::{ActorId, BucketId, Epoch, GroupId, LayoutId, TenantId, WriteId},
    meta::{
        Attributes, Body, BucketCommand, BucketRef, BucketSettings, Command, Compression, Extent, MeshCommand,
        MetaAnswer, ObjectCommand, ObjectRow, PartRow, Precondition, Proposer, Query, Reference, Session,
        UpkeepCommand, UploadRow,
    },
    time::UnixMillis,
};

use super::{apply, query, repair_after};
use crate::metadata::MemoryTable;

const NAMESPACE: GroupId = GroupId(1);
const TENANT: TenantId = TenantId(1);
const MIB: u64 = 1 << 20;

/// One group and its table.
#[derive(Clone, Debug, Default)]
struct Group {
    table: MemoryTable,
    id: GroupId,
}

impl Group {
    fn control() -> Self {
        Self { table: MemoryTable::default(), id: GroupId::CONTROL }.with_sessions()
    }

    fn namespace() -> Self {
        Self { table: MemoryTable::default(), id: NAMESPACE }.with_sessions()
    }

    fn with_sessions(mut self) -> Self {
        for actor in [1, 2].map(ActorId) {
            assert_eq!(
                self.apply(&Command::OpenSession { group: self.id, actor, session: session(1) }),
                Ok(MetaAnswer::Done)
            );
        }
        self
    }

    fn once(&mut self, command: &(impl Clone + Into<Command>)) -> Result<MetaAnswer, ErrorKind> {
        let command = command.clone().into();
        let (changes, answer) = apply(&self.table, self.id, &command);
        let memory = changes.iter().all(|change| b"AS".contains(&change.key[0]));
        assert!(answer.is_ok() || memory, "{command:?} failed and changed {changes:?}");
        let repair = repair_after(&changes).expect("what was just written can be read");
        self.table.commit(changes);
        if let Some(repair) = repair {
            assert_eq!(self.query(&Query::Repair), Ok(MetaAnswer::Repair(repair)), "{command:?}");
        }
        answer.map_err(|error| error.kind())
    }

    /// Applies a command, twice: the second time must change and say nothing else.
    fn apply(&mut self, command: &(impl Clone + Into<Command>)) -> Result<MetaAnswer, ErrorKind> {
        let command = command.clone().into();
        let answer = self.once(&command);
        let table = self.table.clone();
        assert_eq!(self.once(&command), answer, "sent again: {command:?}");
        assert_eq!(self.table, table, "sent again: {command:?}");
        answer
    }

    fn query(&self, question: &Query) -> Result<MetaAnswer, ErrorKind> {
        query(&self.table, self.id, question).map_err(|error| error.kind())
    }

    fn open_block(&mut self, actor: u64) -> WriteId {
        match self.apply(&Command::Upkeep(self.id, UpkeepCommand::OpenBlock { proposer: proposer(actor) })) {
            Ok(MetaAnswer::Block { first, .. }) => first,
            other => panic!("no block: {other:?}"),
        }
    }

    fn usage(&self) -> (u64, u64) {
        match self.query(&Query::Usage { tenant: TENANT }) {
            Ok(MetaAnswer::Usage { bytes, objects }) => (bytes, objects),
            other => panic!("no usage: {other:?}"),
        }
    }

    /// Writes that are garbage, oldest first.
    fn garbage(&self) -> Vec<(u64, WriteId)> {
        match self.query(&Query::Garbage { before: UnixMillis(u64::MAX), after: None, limit: 1000 }) {
            Ok(MetaAnswer::Garbage(page)) => page.rows.iter().map(|row| (row.since.0, row.extent.write)).collect(),
            other => panic!("no garbage: {other:?}"),
        }
    }

    /// Blocks that are closed and not swept.
    fn closed(&self, after: Option<WriteId>, limit: u32) -> Vec<WriteId> {
        match self.query(&Query::ClosedBlocks { after, limit }) {
            Ok(MetaAnswer::ClosedBlocks(blocks)) => {
                assert!(blocks.iter().all(|(_, count)| *count == mesh_core::limits::WRITE_BLOCK));
                blocks.into_iter().map(|(first, _)| first).collect()
            }
            other => panic!("not told: {other:?}"),
        }
    }

    fn referenced(&self, writes: &[WriteId]) -> Vec<bool> {
        match self.query(&Query::Referenced { writes: writes.to_vec() }) {
            Ok(MetaAnswer::Referenced(all)) => all.iter().map(|reference| *reference != Reference::Nobody).collect(),
            other => panic!("not told: {other:?}"),
        }
    }
}

fn session(life: u64) -> Session {
    Session { epoch: Epoch(1), life }
}

thread_local! {
    static NUMBER: Cell<u64> = const { Cell::new(0) };
}

/// The next command of an actor's first life; some of those before it are waited for still.
fn proposer(actor: u64) -> Proposer {
    let request = NUMBER.replace(NUMBER.get() + 1);
    Proposer { actor: ActorId(actor), session: session(1), request, done_below: request.saturating_sub(1000) }
}

fn bucket() -> BucketRef {
    BucketRef { id: BucketId(7), name: "photos".into(), tenant: TENANT, group: NAMESPACE }
}

fn extent(write: WriteId, len: u64) -> Extent {
    Extent {
        write,
        len,
        stripe_bytes: 1 << 20,
        layout: LayoutId(1),
        key: None,
        runs: Vec::new(),
        compression: Compression::Off,
        code: None,
    }
}

fn object(version: WriteId, len: u64, at: u64) -> ObjectRow {
    ObjectRow {
        version,
        len,
        etag: format!("etag-{version}"),
        modified: UnixMillis(at),
        attributes: Attributes::default(),
        body: Body::Whole(extent(version, len)),
    }
}

fn put(key: &str, row: ObjectRow) -> Command {
    Command::Object(
        bucket(),
        ObjectCommand::PutObject {
            proposer: proposer(1),
            key: key.into(),
            row: row.into(),
            precondition: Precondition::default(),
            quota_bytes: None,
        },
    )
}

fn delete(key: &str, at: u64) -> Command {
    Command::Object(
        bucket(),
        ObjectCommand::DeleteObject {
            proposer: proposer(1),
            key: key.into(),
            at: UnixMillis(at),
            precondition: Precondition::default(),
        },
    )
}

fn committed(version: WriteId) -> Result<MetaAnswer, ErrorKind> {
    Ok(MetaAnswer::Committed { version, etag: format!("etag-{version}") })
}

fn create_upload(upload: WriteId, key: &str) -> Command {
    let row = UploadRow {
        upload,
        key: key.to_owned(),
        attributes: Attributes::default(),
        created: UnixMillis(5),
        principal: "ann".to_owned(),
    };
    Command::Object(bucket(), ObjectCommand::CreateUpload { proposer: proposer(1), row: row.into() })
}

fn part(number: u32, write: WriteId, len: u64) -> PartRow {
    PartRow {
        number,
        offset: 0,
        etag: format!("part-{write}"),
        checksums: Default::default(),
        modified: UnixMillis(6),
        extent: extent(write, len),
    }
}

fn put_part(upload: WriteId, part: PartRow) -> Command {
    Command::Object(
        bucket(),
        ObjectCommand::PutPart { proposer: proposer(1), upload, part: Arc::new(part), quota_bytes: None },
    )
}

fn complete(upload: WriteId, key: &str, parts: &[(u32, WriteId)]) -> Command {
    Command::Object(
        bucket(),
        ObjectCommand::CompleteUpload {
            proposer: proposer(1),
            key: key.into(),
            upload,
            parts: parts.iter().map(|(number, write)| (*number, format!("part-{write}"))).collect(),
            etag: format!("etag-{upload}"),
            checksums: Default::default(),
            at: UnixMillis(9),
            precondition: Precondition::default(),
        },
    )
}

fn after(first: WriteId, count: u64) -> WriteId {
    WriteId(first.0 + count)
}
