//! A store that was damaged, anywhere and in any way, is named damaged or is exactly as it was. Never anything between.
//!
//! `MESH_DAMAGES` says how many damages are tried; a few hundred by default.

use core::ops::Bound;
use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

use openraft::{RaftLogReader, entry::RaftEntry, storage::IOFlushed};

use super::*;

const GROUPS: [GroupId; 2] = [GroupId::CONTROL, GROUP];
const DAMAGES: u64 = 300;
const PATIENCE: Duration = Duration::from_secs(60);

/// Everything that one group holds.
#[derive(Debug, PartialEq)]
struct Contents {
    vote: Option<Vote>,
    purged: Option<LogId>,
    applied: Option<LogId>,
    entries: Vec<openraft::alias::EntryOf<Types>>,
    rows: Vec<Row>,
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

pub(super) fn blank(term: u64, index: u64) -> openraft::alias::EntryOf<Types> {
    let command =
        mesh_core::meta::MeshCommand::DropAccessKey { access: format!("{index}").repeat(1 + index as usize % 9) };
    openraft::alias::EntryOf::<Types>::new_normal(
        log_id(term, index),
        super::super::types::Proposal(Arc::new(command.into())),
    )
}

/// A store that has seen some life: entries, truncations, purges, rows that came, changed and went, restarts.
fn make(dir: &Path) {
    for life in 0..4_u64 {
        let store = Arc::new(Store::open(dir, NodeId(1), entropy()).unwrap());
        runtime().block_on(async {
            for (at, group) in GROUPS.into_iter().enumerate() {
                let mut log = LogStore::open(Arc::clone(&store), group).unwrap();
                let state = GroupState::open(Arc::clone(&store), group, None).unwrap();
                log.save_vote(&Vote::new_committed(life + 1, 1)).await.unwrap();
                let next = log.get_log_state().await.unwrap().last_log_id.map_or(0, |last| last.index + 1);
                log.append((next..next + 70).map(|index| blank(life + 1, index)), IOFlushed::noop()).await.unwrap();
                log.truncate_after(Some(log_id(life + 1, next + 59))).await.unwrap();
                for index in next..next + 50 {
                    let key = |by: u64| ((index * 7 + by) % 150) as u32;
                    let gone = Change { value: None, ..put(key(75), 0) };
                    let changes = [put(key(0), (index % 90) as u8), gone, put(200 + at as u32, life as u8)];
                    state.commit_for_test(&changes, log_id(life + 1, index)).unwrap();
                    if index % 16 == 0 {
                        store.sync().await.unwrap();
                    }
                }
                log.purge(log_id(life + 1, next + 20)).await.unwrap();
                log.append((next + 60..next + 64).map(|index| blank(life + 1, index)), IOFlushed::noop())
                    .await
                    .unwrap();
            }
            store.sync().await.unwrap();
        });
    }
}

fn read(store: &Arc<Store>, group: GroupId) -> std::io::Result<Contents> {
    let mut log = LogStore::open(Arc::clone(store), group)?;
    let mut machine = Machine(GroupState::open(Arc::clone(store), group, None)?);
    let mut rows = Vec::new();
    let image = machine.0.image_for_test();
    loop {
        let some = image.next_rows(1 << 16)?;
        if some.is_empty() {
            break;
        }
        rows.extend(some);
    }
    runtime().block_on(async {
        Ok(Contents {
            vote: log.read_vote().await?,
            purged: log.get_log_state().await?.last_purged_log_id,
            applied: machine.applied_state().await?.0,
            entries: log.try_get_log_entries(..).await?,
            rows,
        })
    })
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// One seed decides everything.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % below.max(1)
    }
}

/// Damages one file below a directory; what was done, in words.
fn damage(dir: &Path, dice: &mut Dice) -> String {
    let files = files(dir);
    // The large file is where most damage is; the small ones must not be forgotten.
    let weights: Vec<u64> = files.iter().map(|file| if file.ends_with("db/db") { 6 } else { 1 }).collect();
    let mut at = dice.roll(weights.iter().sum());
    let chosen = weights.iter().position(|weight| {
        let here = at < *weight;
        at = at.saturating_sub(*weight);
        here
    });
    let path = &files[chosen.unwrap()];
    let bytes = std::fs::read(path).unwrap();
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let name = path.strip_prefix(dir).unwrap().display();
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
    let place = if dice.roll(8) == 0 { dice.roll(bytes.len() as u64) } else { dice.roll(used) };
    match dice.roll(10) {
        0 | 1 => {
            file.set_len(place).unwrap();
            format!("{name} cut to {place} of {}", bytes.len())
        }
        2 | 3 => {
            let block = place / 4096 * 4096;
            let len = 4096.min(bytes.len() as u64 - block);
            file.write_all_at(&vec![0; len as usize], block).unwrap();
            format!("{name} zeroed from {block}")
        }
        _ if bytes.is_empty() => format!("{name} is empty"),
        _ => {
            let bit = dice.roll(8);
            file.write_all_at(&[bytes[place as usize] ^ (1 << bit)], place).unwrap();
            format!("{name} bit {bit} of byte {place} flipped")
        }
    }
}

/// All rows of all trees.
type Dump = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>;

/// What sled says of a directory by itself: whether it opens, with other contents than these.
fn changes_silently(dir: &Path, wanted: &Dump) -> bool {
    super::super::flush::guarded(|| dump(dir)).is_ok_and(|found| found != *wanted)
}

fn dump(dir: &Path) -> std::io::Result<Dump> {
    let db = sled::Config::new().path(dir.join("db")).flush_every_ms(None).open()?;
    let mut trees = BTreeMap::new();
    for name in db.tree_names() {
        let rows = db.open_tree(&name)?.iter().map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())));
        trees.insert(name.to_vec(), rows.collect::<Result<_, _>>()?);
    }
    Ok(trees)
}

/// Judges a damaged store. Some: it was named, with these words. None: it is as it was.
fn judge(dir: &Path, wanted: &BTreeMap<GroupId, Contents>) -> Option<String> {
    let store = Arc::new(Store::open(dir, NodeId(1), entropy()).expect("damage does not keep a store from opening"));
    let mut named = None;
    for (group, wanted) in wanted {
        match store.health(*group) {
            Health::Damaged(why) => {
                assert_eq!(why.kind(), ErrorKind::Corrupt);
                assert!(LogStore::open(Arc::clone(&store), *group).is_err(), "it does not vote");
                assert!(GroupState::open(Arc::clone(&store), *group, None).is_err(), "it does not serve");
                named = Some(why.to_string());
            }
            Health::New => panic!("{group} is taken for new"),
            Health::Sound => assert!(read(&store, *group).expect("a sound group") == *wanted, "{group} has changed"),
        }
    }
    named
}

#[test]
fn whatever_is_damaged_is_named_or_as_it_was() {
    let damages = std::env::var("MESH_DAMAGES").ok().and_then(|count| count.parse().ok()).unwrap_or(DAMAGES);
    let base = if Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
    let dir = tempfile::tempdir_in(base).unwrap();
    let template = dir.path().join("template");
    make(&template);
    let silent = |name: &str| {
        let at = dir.path().join(name);
        copy(&template, &at);
        at
    };
    let raw = dump(&silent("raw")).unwrap();
    let wanted: Arc<BTreeMap<GroupId, Contents>> = {
        let at = silent("sound");
        assert_eq!(judge(&at, &BTreeMap::new()), None);
        let store = Arc::new(Store::open(&at, NodeId(1), entropy()).unwrap());
        Arc::new(GROUPS.iter().map(|group| (*group, read(&store, *group).unwrap())).collect())
    };
    assert!(wanted.values().all(|contents| contents.rows.len() > 50 && contents.entries.len() > 30));
    let (mut named, mut unseen) = (0, 0);
    for seed in 0..damages {
        let at = dir.path().join("damaged");
        copy(&template, &at);
        let said = damage(&at, &mut Dice(seed));
        let other = dir.path().join("other");
        copy(&at, &other);
        let (sender, judged) = mpsc::channel();
        let (wanted, raw, case) = (Arc::clone(&wanted), raw.clone(), at.clone());
        let thread = std::thread::spawn(move || {
            let named = judge(&case, &wanted);
            let silent = named.is_some() && changes_silently(&other, &raw);
            sender.send((named, silent)).unwrap();
        });
        match judged.recv_timeout(PATIENCE) {
            Ok((why, silent)) => {
                named += u64::from(why.is_some());
                unseen += u64::from(silent);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("seed {seed}: it hangs: {said}"),
            Err(mpsc::RecvTimeoutError::Disconnected) => panic!("seed {seed}: wrong: {said}: {:?}", thread.join()),
        }
        std::fs::remove_dir_all(&at).unwrap();
        std::fs::remove_dir_all(dir.path().join("other")).unwrap();
    }
    println!(
        "of {damages} damages {named} were named, of which the database alone had opened {unseen} with other contents"
    );
    assert!(named > damages / 4, "{named} of {damages}");
}

/// What a database holds that went back to an earlier moment is right in itself.
#[test]
fn a_database_from_before_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (now, before) = (dir.path().join("now"), dir.path().join("before"));
    make(&now);
    copy(&now, &before);
    {
        let store = Arc::new(Store::open(&now, NodeId(1), entropy()).unwrap());
        let mut log = LogStore::open(Arc::clone(&store), GROUP).unwrap();
        runtime().block_on(log.save_vote(&Vote::new_committed(9, 1))).unwrap();
    }
    std::fs::remove_dir_all(now.join("db")).unwrap();
    copy(&before.join("db"), &now.join("db"));
    let store = Store::open(&now, NodeId(1), entropy()).unwrap();
    assert!(matches!(store.health(GROUP), Health::Damaged(why) if why.to_string().contains("vote")));
    assert!(matches!(store.health(GroupId::CONTROL), Health::Sound), "the other one is as it was");
}

#[test]
fn a_mark_without_its_database_and_a_database_without_its_mark_are_named() {
    for lost in ["db", "mark"] {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path());
        let marked = Store::open(dir.path(), NodeId(1), entropy()).unwrap().marked();
        std::fs::rename(dir.path().join(lost), dir.path().join("elsewhere")).unwrap();
        let store = Store::open(dir.path(), NodeId(1), entropy()).unwrap();
        // What is damaged is not taken for an older copy besides, as long as there is a mark.
        assert_eq!(store.marked(), if lost == "db" { marked } else { 0 });
        assert!(GROUPS.iter().all(|group| matches!(store.health(*group), Health::Damaged(_))), "{lost}");
        drop(store);
        // Nothing was made in its place, and nothing else was touched.
        assert!(!dir.path().join(lost).exists());
        std::fs::rename(dir.path().join("elsewhere"), dir.path().join(lost)).unwrap();
        let store = Store::open(dir.path(), NodeId(1), entropy()).unwrap();
        assert!(GROUPS.iter().all(|group| matches!(store.health(*group), Health::Sound)), "{lost}");
    }
}

#[test]
fn a_beginning_that_was_interrupted_is_new() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path(), NodeId(1), entropy()).unwrap());
    std::fs::remove_dir_all(dir.path().join("db")).unwrap();
    let store = Store::open(dir.path(), NodeId(1), entropy()).unwrap();
    assert!(matches!(store.health(GROUP), Health::New));
    let replica = store.replica(GROUP).unwrap();
    assert_eq!((replica.node(), store.replica(GROUP).unwrap()), (NodeId(1), replica));
    assert!(matches!(store.health(GROUP), Health::New), "it has a number, and has kept nothing");
    drop(store);
    assert_eq!(Store::open(dir.path(), NodeId(1), entropy()).unwrap().replica(GROUP).unwrap(), replica, "for life");
}

#[test]
fn a_renewed_store_is_new_under_other_numbers_and_keeps_the_damaged_files() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let file = dir.path().join("db/db");
    let mut lost = std::fs::read(&file).unwrap();
    lost.truncate(lost.len() / 2);
    std::fs::write(&file, &lost).unwrap();
    let mut store = Store::open(dir.path(), NodeId(1), entropy()).unwrap();
    let mut numbers = vec![store.replicas()];
    for round in 1..=4 {
        let renewed = store.renew_all().unwrap();
        assert!(store.replica(GroupId(99)).is_err() || round > 1, "the old one is closed");
        store = renewed;
        assert!(GROUPS.iter().all(|group| matches!(store.health(*group), Health::New)));
        assert!(dir.path().join(format!("db.damaged-{round}")).is_dir());
        assert!(dir.path().join(format!("mark.damaged-{round}")).is_file());
        assert_eq!(store.replicas().keys().collect::<Vec<_>>(), GROUPS.iter().collect::<Vec<_>>());
        numbers.push(store.replicas());
    }
    let distinct: std::collections::BTreeSet<_> = numbers.iter().flat_map(|numbers| numbers.values()).collect();
    assert_eq!(distinct.len(), numbers.len() * GROUPS.len(), "no number comes again");
    let refused = store.renew_all().err().expect("too many are kept");
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    drop(store);
    let store = Store::open(dir.path(), NodeId(1), entropy()).unwrap();
    assert_eq!(store.replicas(), numbers[4]);
}

#[test]
fn a_store_in_use_is_not_renewed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, log, machine) = open(dir.path());
    let refused = store.renew_all().err().expect("somebody has it open");
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    drop((log, machine));
    assert!(dir.path().join("db").is_dir());
    drop(store.renew_all().unwrap());
}

/// A row that changes on its way to the drive is found when it is read, and the group answers nothing from then on.
#[test]
fn a_group_whose_row_is_damaged_while_it_runs_stops_and_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path());
    let store = Arc::new(Store::open(dir.path(), NodeId(1), entropy()).unwrap());
    let contents = read(&store, GROUP).unwrap();
    let mut log = LogStore::open(Arc::clone(&store), GROUP).unwrap();
    let state = GroupState::open(Arc::clone(&store), GROUP, None).unwrap();
    let tree = store.tree(&store.trees_under(&format!("state/{:016x}/", GROUP.0))[0]).unwrap();
    let (key, value) = tree.range(Bound::Included(b"rK"), Bound::Unbounded).next().unwrap().unwrap();
    let mut changed = value.to_vec();
    *changed.last_mut().unwrap() ^= 1;
    tree.insert(key, changed).unwrap();
    let image = state.image_for_test();
    assert_eq!(image.next_rows(1).unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    assert!(matches!(store.health(GROUP), Health::Damaged(why) if why.kind() == ErrorKind::Corrupt));
    let refused = runtime().block_on(log.save_vote(&Vote::new_committed(99, 1))).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidData);
    let refused = runtime().block_on(log.append([blank(9, 1000)], IOFlushed::noop())).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidData);
    let question = mesh_core::meta::Query::Control;
    assert_eq!(state.query(&question).unwrap_err().kind(), ErrorKind::Corrupt);
    drop((image, state, log));
    assert!(matches!(store.health(GroupId::CONTROL), Health::Sound));
    assert_eq!(read(&store, GroupId::CONTROL).unwrap().rows.len(), contents.rows.len());
}

/// An older entry that comes back in its place is whole in itself, and is not the one that was kept.
#[test]
fn an_entry_that_was_taken_back_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut log, _machine) = open(dir.path());
    let runtime = runtime();
    runtime.block_on(log.append((0..5).map(|index| blank(1, index)), IOFlushed::noop())).unwrap();
    let tree = store.tree(&super::super::log::tree_name(GROUP)).unwrap();
    let old: Vec<_> = tree.rows().skip(2).map(|row| row.unwrap()).collect();
    runtime.block_on(log.truncate_after(Some(log_id(1, 1)))).unwrap();
    runtime.block_on(log.append((2..6).map(|index| blank(1, index)), IOFlushed::noop())).unwrap();
    runtime.block_on(log.truncate_after(Some(log_id(1, 1)))).unwrap();
    runtime.block_on(log.append((2..6).map(|index| blank(3, index)), IOFlushed::noop())).unwrap();
    for (key, value) in &old[..1] {
        tree.insert(key, value).unwrap();
    }
    let read = runtime.block_on(log.try_get_log_entries(..)).unwrap_err();
    assert_eq!(read.kind(), std::io::ErrorKind::InvalidData);
    assert!(matches!(store.health(GROUP), Health::Damaged(_)));
}
