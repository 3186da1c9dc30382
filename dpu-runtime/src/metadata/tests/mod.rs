//! The store by openraft's own suite, images under change, foreign files, damaged messages.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cuts;
mod damage;
mod decoders;
mod durability;
mod memory;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use mesh_core::{
    ErrorKind,
    id::{GroupId, NodeId, ReplicaId},
    meta::FORMAT,
};
use openraft::{
    StorageError,
    storage::{RaftLogStorage, RaftStateMachine},
    testing::log::{StoreBuilder, Suite},
};
use proptest::prelude::*;
use tempfile::TempDir;

use super::{
    home::{Home, MemoryHome},
    image::{Image, Row},
    log::LogStore,
    machine::{GroupState, Machine, SnapshotData},
    staging::{Arrival, Chunk},
    store::{Health, Slot, Store},
    types::{LogId, SnapshotMeta, Types, Vote},
};
use mesh_actors::metadata::table::Change;

const GROUP: GroupId = GroupId(3);

/// What the numbers of replicas are drawn from.
fn entropy() -> super::runtime::Dice {
    struct Drawn;
    impl mesh_core::Entropy for Drawn {
        fn fill(&mut self, target: &mut [u8]) {
            rand::rng().fill_bytes(target);
        }
    }
    super::runtime::Dice::new(Box::new(Drawn))
}

struct Builder;

fn open(home: impl Into<Home>) -> (Arc<Store>, LogStore, Machine) {
    let store = Arc::new(Store::open(home, NodeId(1), entropy()).expect("a store"));
    let log = LogStore::open(Arc::clone(&store), GROUP).expect("a log");
    let state = GroupState::open(Arc::clone(&store), GROUP, None).expect("a state");
    (store, log, Machine(state))
}

impl StoreBuilder<Types, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<Types>> {
        let dir = tempfile::tempdir().expect("a directory");
        let (_, log, machine) = open(dir.path());
        Ok((dir, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passes_the_conformance_suite_of_openraft() {
    Suite::test_all(Builder).await.expect("a store as Raft wants it");
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: openraft::impls::leader_id_adv::LeaderId { term, node_id: 1 }, index }
}

fn put(key: u32, value: u8) -> Change {
    Change { key: format!("K{key:05}").into_bytes(), value: Some(vec![value; 20 + value as usize * 40]) }
}

fn rows_of(state: &Arc<GroupState>) -> Vec<Row> {
    read_rest(&state.image_for_test(), 1 << 20)
}

fn read_rest(image: &Image, bytes: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    loop {
        let some = image.next_rows(bytes).expect("an image that is not broken");
        if some.is_empty() {
            return rows;
        }
        rows.extend(some);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// An image reads as the state was when it was taken, whatever changes between its pieces.
    #[test]
    fn an_image_stays_as_it_was_taken(
        first in proptest::collection::btree_map(0_u32..60, 0_u8..90, 0..60),
        rounds in proptest::collection::vec(proptest::collection::btree_map(0_u32..60, proptest::option::of(0_u8..90), 0..20), 1..12),
        bytes in 1_usize..6000,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (_store, _log, machine) = open(dir.path());
        let state = &machine.0;
        let changes: Vec<Change> = first.into_iter().map(|(key, value)| put(key, value)).collect();
        state.commit_for_test(&changes, log_id(1, 1)).unwrap();
        let before: Vec<Row> = changes.into_iter().map(|change| (change.key, change.value.unwrap())).collect();

        let image = state.image_for_test();
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = before.iter().cloned().collect();
        let mut seen = Vec::new();
        for (round, changed) in rounds.into_iter().enumerate() {
            let changes: Vec<Change> = changed
                .into_iter()
                .map(|(key, value)| value.map_or_else(|| Change { value: None, ..put(key, 0) }, |value| put(key, value)))
                .collect();
            state.commit_for_test(&changes, log_id(1, 2 + round as u64)).unwrap();
            for change in changes {
                match change.value {
                    Some(value) => model.insert(change.key, value),
                    None => model.remove(&change.key),
                };
            }
            seen.extend(image.next_rows(bytes).unwrap());
        }
        seen.extend(read_rest(&image, bytes));
        prop_assert_eq!(seen, before);
        prop_assert_eq!(rows_of(state), model.into_iter().collect::<Vec<_>>());
    }
}

/// More is overwritten while it is read than was ever in memory; and some of it twice.
#[test]
fn an_image_comes_to_its_end_however_much_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _log, machine) = open(dir.path());
    let big = |key: u32, byte: u8| Change { key: format!("K{key:03}").into_bytes(), value: Some(vec![byte; 1 << 20]) };
    (0..66).for_each(|key| machine.0.commit_for_test(&[big(key, 1)], log_id(1, 1)).unwrap());
    let image = machine.0.image_for_test();
    assert_eq!(image.next_rows(1).unwrap().len(), 1);
    for byte in 2..4 {
        (0..if byte == 2 { 66 } else { 3 })
            .for_each(|key| machine.0.commit_for_test(&[big(key, byte)], log_id(1, u64::from(byte))).unwrap());
    }
    let mut rows = 1;
    loop {
        let some = image.next_rows(4 << 20).unwrap();
        assert!(some.iter().all(|(_, value)| value.iter().all(|byte| *byte == 1)), "as it was");
        rows += some.len();
        if some.is_empty() {
            break;
        }
    }
    assert_eq!(rows, 66);
    assert_eq!(store.trees_under("aside/").len(), 1);
    drop(image);
    assert!(store.trees_under("aside/").is_empty(), "what was put aside goes with the image");
}

#[tokio::test]
async fn the_log_is_kept_for_whoever_gets_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, _log, mut machine) = open(dir.path());
    machine.0.commit_for_test(&[put(1, 1), put(2, 2)], log_id(1, 1)).unwrap();
    let image = machine.0.image_for_test();
    assert!(machine.try_create_snapshot_builder(false).await.is_some(), "nobody reads it yet");
    assert_eq!(image.next_rows(1).unwrap().len(), 1);
    assert!(machine.try_create_snapshot_builder(false).await.is_none());
    assert!(machine.try_create_snapshot_builder(true).await.is_some(), "Raft may insist");
    drop(image);
    assert!(machine.try_create_snapshot_builder(false).await.is_none(), "who got it catches up");
}

#[tokio::test]
async fn installing_a_snapshot_replaces_everything_and_survives_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let (_source_store, _source_log, source) = open(other.path());
    source.0.commit_for_test(&[put(1, 1), put(2, 90), put(3, 2)], log_id(2, 9)).unwrap();
    {
        let (_store, _log, mut machine) = open(dir.path());
        machine.0.commit_for_test(&[put(1, 5), put(7, 70)], log_id(1, 4)).unwrap();
        let stale = machine.0.image_for_test();
        let snapshot = source.clone().get_current_snapshot().await.unwrap().expect("a snapshot");
        machine.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
        assert_eq!(rows_of(&machine.0), rows_of(&source.0));
        assert!(stale.next_rows(1).is_err(), "an image of the state that is no more");
        // A transfer that never ends leaves a tree behind.
        machine.0.stage().unwrap().take(rows_of(&source.0)).unwrap();
    }
    let (store, _log, mut machine) = open(dir.path());
    assert_eq!(rows_of(&machine.0), rows_of(&source.0));
    assert_eq!(machine.applied_state().await.unwrap().0, Some(log_id(2, 9)));
    assert_eq!(store.trees_under("state/").len(), 1, "what was left behind is dropped");
}

#[test]
fn a_snapshot_arrives_in_order_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, _log, machine) = open(dir.path());
    let sent = machine.0.stage().unwrap();
    sent.take(vec![(b"K0".to_vec(), vec![0]), (b"K1".to_vec(), vec![1])]).unwrap();
    let digest = sent.table.digest().unwrap();
    let chunk = |term, transfer, number, last: bool| Chunk {
        vote: Vote::new_committed(term, 2),
        transfer,
        number,
        meta: SnapshotMeta::default(),
        rows: vec![(format!("K{number}").into_bytes(), vec![number as u8])],
        end: last.then_some(digest),
    };
    let mut arrival = None;
    let mut accept = |chunk| {
        let staged = Arrival::accept(&mut arrival, chunk, || machine.0.stage());
        staged.map(|staged| staged.is_some()).map_err(|error| error.kind())
    };
    let refused = Err(std::io::ErrorKind::InvalidData);
    assert_eq!(accept(chunk(1, 1, 1, false)), refused);
    assert_eq!(accept(chunk(1, 1, 0, false)), Ok(false));
    assert_eq!(accept(chunk(1, 1, 2, false)), refused, "a gap");
    assert_eq!(accept(chunk(1, 2, 1, false)), refused, "another transfer's");
    assert_eq!(accept(chunk(2, 1, 0, false)), Ok(false), "a later leader begins");
    assert_eq!(accept(chunk(1, 1, 0, false)), refused, "an earlier one may not");
    assert_eq!(accept(chunk(2, 1, 0, false)), Ok(false), "once more: its answer was lost");
    assert_eq!(accept(chunk(2, 1, 1, false)), Ok(false));
    assert_eq!(accept(chunk(2, 1, 2, true)), Err(std::io::ErrorKind::Other), "a row too many");
    assert_eq!(accept(chunk(2, 2, 0, false)), Ok(false), "it begins again");
    assert_eq!(accept(chunk(2, 2, 1, true)), Ok(true));
    assert_eq!(accept(chunk(2, 2, 2, true)), refused, "it is over");
}

#[test]
fn refuses_files_of_another_node_and_leaves_them() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let refused = Store::open(dir.path(), NodeId(2), entropy()).err().expect("another node's files");
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert!(Store::open(dir.path(), NodeId(1), entropy()).is_ok());
}

#[test]
fn refuses_files_that_another_has_open_and_damaged_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (store, log, machine) = open(dir.path());
    let busy = Store::open(dir.path(), NodeId(1), entropy()).err().expect("somebody has it open");
    assert_eq!(busy.kind(), ErrorKind::DriveFailed);
    drop((store, log, machine));
    let file = dir.path().join("db/db");
    let len = std::fs::metadata(&file).unwrap().len();
    std::fs::write(&file, vec![0x5a; len as usize]).unwrap();
    let damaged = Store::open(dir.path(), NodeId(1), entropy()).expect("damage is told, not refused");
    assert!(matches!(damaged.health(GROUP), Health::Damaged(why) if why.kind() == ErrorKind::Corrupt));
    assert!(file.exists());
}

#[test]
fn refuses_files_of_another_format_and_leaves_them_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let path = super::mark::path(dir.path());
    let mut bytes = std::fs::read(&path).unwrap();
    // As drawn in `mark`: what an earlier build wrote is whole, under checksums that are right.
    let half = bytes.len() / 2;
    for slot in bytes.chunks_exact_mut(half) {
        let len = u32::from_le_bytes(slot[12..16].try_into().unwrap()) as usize;
        assert_eq!(slot[24], FORMAT);
        slot[24] = FORMAT - 1;
        let crc = mesh_core::wire::crc32c(&slot[12..24 + len]);
        slot[8..12].copy_from_slice(&crc.to_le_bytes());
    }
    std::fs::write(&path, &bytes).unwrap();
    let database = std::fs::read(dir.path().join("db/db")).unwrap();
    let refused = Store::open(dir.path(), NodeId(1), entropy()).err().expect("an earlier build's");
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    let said = format!("format={} supported={FORMAT}", FORMAT - 1);
    assert!(refused.to_string().contains(&said), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(std::fs::read(dir.path().join("db/db")).unwrap(), database);
}

/// A build that was taken back too far: nothing of what it cannot read is damaged, and nothing is set aside.
#[test]
fn refuses_what_a_newer_build_wrote_and_leaves_it_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (store, log, _) = open(dir.path());
        drop(log);
        let tree = store.tree(&super::log::tree_name(GROUP)).unwrap();
        let log = super::log::TreeLog::open(tree, None).unwrap();
        use openraft::entry::RaftEntry;
        // What is in it is the last that it says.
        let mut newer = super::types::encode(&openraft::alias::EntryOf::<Types>::new_blank(log_id(1, 0))).unwrap();
        *newer.last_mut().unwrap() = 99;
        super::log::Log::append(&log, vec![(0, newer)]).unwrap();
    }
    let refused = Store::open(dir.path(), NodeId(1), entropy()).err().expect("a newer build's");
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    let said = refused.to_string();
    assert!(said.starts_with("the metadata store holds what another build wrote and this one cannot read"), "{said}");
}

#[test]
fn a_store_that_was_not_finished_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("db.new")).unwrap();
    std::fs::write(dir.path().join("db.new/db"), b"half").unwrap();
    drop(open(dir.path()));
    assert!(!dir.path().join("db.new").exists());
}

#[tokio::test]
async fn an_interrupted_purge_is_finished_when_the_log_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (store, mut log, machine) = open(dir.path());
        let entries = (0..10).map(|index| {
            use openraft::entry::RaftEntry;
            openraft::alias::EntryOf::<Types>::new_blank(log_id(1, index))
        });
        log.append(entries, openraft::storage::IOFlushed::noop()).await.unwrap();
        machine.0.commit_for_test(&[put(1, 1)], log_id(1, 8)).unwrap();
        store.write(GROUP, Slot::Purged, &log_id(1, 6)).unwrap();
        store.sync().await.unwrap();
    }
    let (_store, mut log, _machine) = open(dir.path());
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(1, 6)), Some(log_id(1, 9))));
    let left = openraft::RaftLogReader::try_get_log_entries(&mut log, 0..100).await.unwrap();
    assert_eq!(left.len(), 3);
}

#[tokio::test]
async fn an_entry_as_large_as_a_command_may_be_comes_back_whole() {
    use openraft::{RaftLogReader, entry::RaftEntry};
    let dir = tempfile::tempdir().unwrap();
    let (_store, mut log, _machine) = open(dir.path());
    let command = |len: usize| mesh_core::meta::MeshCommand::DropAccessKey { access: "k".repeat(len) };
    let lengths = [10, 2030, 2048, 4096, 1 << 20];
    let entries: Vec<_> = lengths
        .iter()
        .zip(1..)
        .map(|(len, index)| {
            openraft::alias::EntryOf::<Types>::new_normal(
                log_id(1, index),
                super::types::Proposal(Arc::new(command(*len).into())),
            )
        })
        .collect();
    log.append(entries.clone(), openraft::storage::IOFlushed::noop()).await.unwrap();
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), entries);
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(1, 5)));
    let limited = log.limited_get_log_entries(1, 6).await.unwrap();
    assert_eq!(limited.len(), 4, "the large one comes with the next message");
    assert_eq!(log.limited_get_log_entries(5, 6).await.unwrap(), entries[4..]);
    log.truncate_after(Some(log_id(1, 2))).await.unwrap();
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), entries[..2]);
}

impl GroupState {
    fn image_for_test(self: &Arc<Self>) -> Image {
        match self.image().unwrap().snapshot {
            SnapshotData::Image(image) => image,
            SnapshotData::Staged(_) => unreachable!("what is here is an image"),
        }
    }

    fn commit_for_test(&self, changes: &[Change], applied: LogId) -> std::io::Result<()> {
        self.commit(changes, Some(applied), openraft::StoredMembership::default())
    }
}
