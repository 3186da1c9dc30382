//! Metadata in memory keep the promises of those in files: openraft's suite, and crashes at any moment.

use core::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use std::collections::BTreeSet;

use openraft::{
    RaftLogReader as _, alias::EntryOf, entry::RaftEntry, storage::IOFlushed, type_config::TypeConfigExt as _,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::metadata::{
    flush::{Durable, lock},
    force::Forced,
    mark::Claims,
};
use mesh_core::op::{Force, LogEnd, Recovery, Waits};

/// Memory in which each step takes up to a few milliseconds.
fn home(seed: u64) -> MemoryHome {
    let dice = std::sync::Mutex::new(StdRng::seed_from_u64(seed));
    MemoryHome::new(Arc::new(move || Duration::from_micros(lock(&dice).next_u64() % 4000)))
}

struct InMemory;

impl StoreBuilder<Types, LogStore, Machine, MemoryHome> for InMemory {
    async fn build(&self) -> Result<(MemoryHome, LogStore, Machine), StorageError<Types>> {
        let home = home(1);
        let (_, log, machine) = open(Home::Memory(home.clone()));
        Ok((home, log, machine))
    }
}

#[tokio::test]
async fn passes_the_conformance_suite_of_openraft() {
    Suite::test_all(InMemory).await.expect("a store as Raft wants it");
}

fn entry(term: u64, index: u64) -> EntryOf<Types> {
    EntryOf::<Types>::new_blank(log_id(term, index))
}

/// Votes and appends until a moment that the seed decides, at which all that was not durable is gone.
async fn crash(seed: u64) -> (usize, usize) {
    let home = home(seed);
    let mut dice = StdRng::seed_from_u64(seed + 1);
    let (mut vote, mut last, mut lost, mut kept) = (0, 0, 0, 0);
    for _ in 0..4 {
        let (store, mut log, _machine) = open(Home::Memory(home.clone()));
        assert!(matches!(store.health(GROUP), Health::Sound | Health::New), "{:?}", store.health(GROUP));
        let at_least = (vote, last);
        let found = log.get_log_reader().await.read_vote().await.unwrap().map_or(0, |vote| vote.leader_id.term);
        let there = log.get_log_state().await.unwrap().last_log_id.map_or(0, |last| last.index);
        assert!(found >= at_least.0 && there >= at_least.1, "seed {seed}: {found} {there} of {at_least:?}");
        (vote, last) = (found, there);
        let promised = Arc::new(std::sync::Mutex::new((vote, last)));
        let (wrote, told) = (promised.clone(), promised.clone());
        let mut pause = StdRng::seed_from_u64(dice.next_u64());
        let (mut next_vote, mut next) = (vote + 1, last + 1);
        let writes = tokio::spawn(async move {
            loop {
                if pause.next_u64() % 4 == 0 {
                    let new = Vote { leader_id: log_id(next_vote, 0).leader_id, committed: false };
                    log.save_vote(&new).await.unwrap();
                    lock(&wrote).0 = next_vote;
                    next_vote += 1;
                } else {
                    let (done, heard) = Types::oneshot();
                    let entries = [entry(next_vote, next)];
                    log.append(entries, IOFlushed::signal(done)).await.unwrap();
                    let (told, index) = (told.clone(), next);
                    tokio::spawn(async move {
                        if matches!(heard.await, Ok(Ok(()))) {
                            let mut promised = lock(&told);
                            promised.1 = promised.1.max(index);
                        }
                    });
                    next += 1;
                }
                tokio::time::sleep(Duration::from_micros(pause.next_u64() % 2000)).await;
            }
        });
        tokio::time::sleep(Duration::from_micros(dice.next_u64() % 60_000)).await;
        writes.abort();
        assert!(writes.await.unwrap_err().is_cancelled(), "it wrote until then");
        home.crash(false);
        drop(store);
        let acknowledged = *lock(&promised);
        lost += usize::from(acknowledged != (vote, last));
        (vote, last) = acknowledged;
        kept += 1;
    }
    (kept, lost)
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_moment_loses_nothing_that_was_acknowledged() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        seen.insert(crash(seed).await);
    }
    assert!(seen.iter().any(|(_, lost)| *lost == 4), "something was acknowledged in between: {seen:?}");
}

/// A medium whose first sync fails.
struct FailsOnce(Arc<dyn Durable>, AtomicBool);

impl Durable for FailsOnce {
    fn flush(&self) -> std::io::Result<()> {
        self.0.flush()
    }

    fn sync(&self) -> std::io::Result<()> {
        if self.1.swap(true, Ordering::Relaxed) { self.0.sync() } else { Err(std::io::Error::other("it breaks")) }
    }

    fn mark(&self, claims: &Claims) -> std::io::Result<()> {
        self.0.mark(claims)
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_failed_sync_nothing_is_promised_any_more_in_files_or_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    for home in [Home::from(folder.path()), Home::Memory(home(1))] {
        let over = |steps| Arc::new(FailsOnce(steps, AtomicBool::default())) as Arc<dyn Durable>;
        let store = Store::open_over(home, NodeId(1), entropy(), over).unwrap();
        let marked = store.marked();
        for _ in 0..3 {
            assert!(store.sync().await.is_err_and(|error| error.to_string().contains("it breaks")));
        }
        assert_eq!(store.marked(), marked);
    }
}

/// Does something about each step to durability.
struct About<F> {
    steps: Arc<dyn Durable>,
    about: F,
}

type Step<'s> = &'s dyn Fn() -> std::io::Result<()>;

impl<F: Fn(Step<'_>) -> std::io::Result<()> + Send + Sync + 'static> Durable for About<F> {
    fn flush(&self) -> std::io::Result<()> {
        (self.about)(&|| self.steps.flush())
    }

    fn sync(&self) -> std::io::Result<()> {
        (self.about)(&|| self.steps.sync())
    }

    fn mark(&self, claims: &Claims) -> std::io::Result<()> {
        (self.about)(&|| self.steps.mark(claims))
    }
}

/// Some entries and rows of a group, and that they are all there.
async fn fill(store: &Arc<Store>, group: GroupId) {
    let mut log = LogStore::open(Arc::clone(store), group).unwrap();
    let state = GroupState::open(Arc::clone(store), group, None).unwrap();
    log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
    log.append((0..8).map(|index| entry(1, index)), IOFlushed::noop()).await.unwrap();
    for index in 0..6 {
        state.commit_for_test(&[put(index as u32, 3)], log_id(1, index)).unwrap();
    }
    log.purge(log_id(1, 3)).await.unwrap();
    store.sync().await.unwrap();
}

async fn expect_full(store: &Arc<Store>, group: GroupId) {
    assert!(matches!(store.health(group), Health::Sound), "{:?}", store.health(group));
    let mut log = LogStore::open(Arc::clone(store), group).unwrap();
    let state = GroupState::open(Arc::clone(store), group, None).unwrap();
    let logged = log.get_log_state().await.unwrap();
    assert_eq!((logged.last_purged_log_id, logged.last_log_id), (Some(log_id(1, 3)), Some(log_id(1, 7))));
    assert_eq!(rows_of(&state).len(), 6);
}

/// A store of two groups, and what a crash would leave before and after each step that makes something durable.
async fn photographed(seed: u64) -> (MemoryHome, Arc<Store>, Arc<std::sync::Mutex<Vec<MemoryHome>>>) {
    let home = home(seed);
    let copies = Arc::new(std::sync::Mutex::new(Vec::<MemoryHome>::new()));
    let watched = |steps: Arc<dyn Durable>| -> Arc<dyn Durable> {
        let (home, copies) = (home.clone(), copies.clone());
        let about = move |step: Step<'_>| {
            lock(&copies).push(home.copy());
            step()?;
            lock(&copies).push(home.copy());
            Ok(())
        };
        Arc::new(About { steps, about })
    };
    let store = Arc::new(Store::open_over(Home::Memory(home.clone()), NodeId(1), entropy(), watched).expect("a store"));
    for group in [GroupId::CONTROL, GROUP] {
        store.replica(group).unwrap();
        fill(&store, group).await;
    }
    (home, store, copies)
}

/// Whenever the machine crashes while a replica is removed: it is there as it was, or nothing of it is; and never is it damaged,
/// for then all others would be made anew with it.
#[tokio::test]
async fn a_replica_that_is_removed_is_there_or_gone_whenever_it_crashes() {
    let (home, store, copies) = photographed(3).await;
    let old = store.replica(GROUP).unwrap();
    lock(&copies).clear();
    store.forget(GROUP, ReplicaId::new(NodeId(1), 1)).unwrap();
    assert!(lock(&copies).is_empty(), "that is another one");
    store.forget(GROUP, old).unwrap();
    store.forget(GROUP, old).unwrap();
    drop(store);
    let mut seen = [0, 0];
    let copies = core::mem::take(&mut *lock(&copies));
    for copy in copies.into_iter().chain([home.clone()]) {
        let open = || Arc::new(Store::open(Home::Memory(copy.clone()), NodeId(1), entropy()).expect("a store"));
        let store = open();
        expect_full(&store, GroupId::CONTROL).await;
        let is_there = store.replicas().contains_key(&GROUP);
        seen[usize::from(is_there)] += 1;
        if is_there {
            assert_eq!(store.replica(GROUP).unwrap(), old);
            expect_full(&store, GROUP).await;
            continue;
        }
        assert!(matches!(store.health(GROUP), Health::New), "{:?}", store.health(GROUP));
        let left = ["log/", "state/", "aside/"].map(|prefix| store.trees_under(prefix));
        assert!(left.iter().flatten().all(|name| !name.contains("0003")), "{left:?}");
        // Another one begins with nothing, and is there after the next crash, and as it was.
        assert_ne!(store.replica(GROUP).unwrap(), old);
        assert_eq!(store.read::<Vote>(GROUP, Slot::Vote).unwrap(), None);
        assert_eq!(store.read::<LogId>(GROUP, Slot::Purged).unwrap(), None);
        fill(&store, GROUP).await;
        drop(store);
        copy.crash(false);
        expect_full(&open(), GROUP).await;
    }
    assert!(seen.iter().all(|seen| *seen > 2), "{seen:?}");
}

/// A store over a medium that takes nothing once it was to make something durable as often as is left.
fn failing(home: MemoryHome) -> (Arc<Store>, Arc<std::sync::atomic::AtomicUsize>) {
    let left = Arc::new(std::sync::atomic::AtomicUsize::new(usize::MAX));
    let over = |steps: Arc<dyn Durable>| -> Arc<dyn Durable> {
        let left = left.clone();
        let about = move |step: Step<'_>| {
            let takes = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            takes.map_err(|_| std::io::Error::other("as planned"))?;
            step()
        };
        Arc::new(About { steps, about })
    };
    let store = Store::open_over(Home::Memory(home), NodeId(1), entropy(), over).expect("a store");
    (Arc::new(store), left)
}

/// The medium takes nothing from some step on while a replica is removed: it is there, or it is damaged; what is left of it is
/// never taken for another one's.
#[tokio::test]
async fn a_replica_that_is_removed_in_part_is_not_begun_anew() {
    let mut seen = [0, 0];
    for fails_after in 0..12 {
        let (store, left) = failing(home(4));
        let old = store.replica(GROUP).unwrap();
        fill(&store, GROUP).await;
        left.store(fails_after, Ordering::SeqCst);
        if store.forget(GROUP, old).is_ok() {
            continue;
        }
        let is_there = store.replicas().get(&GROUP) == Some(&old);
        seen[usize::from(is_there)] += 1;
        if !is_there {
            assert!(matches!(store.health(GROUP), Health::Damaged(_)), "after {fails_after}");
            store.replica(GROUP).expect_err("what is left is in the way");
        }
    }
    assert!(seen.iter().all(|seen| *seen > 2), "{seen:?}");
}

/// By a clock that says next to nothing.
fn recovery() -> Recovery {
    Recovery { at: mesh_core::time::UnixMillis(1), ..Recovery::default() }
}

/// What a replica is that was made to go on alone: everything is there, under another number, and nobody else has a say.
async fn expect_alone(store: &Arc<Store>, old: ReplicaId, at: LogId) {
    assert!(matches!(store.health(GROUP), Health::Sound), "{:?}", store.health(GROUP));
    assert_ne!(store.replica(GROUP).unwrap(), old);
    let mut log = LogStore::open(Arc::clone(store), GROUP).unwrap();
    let logged = log.get_log_state().await.unwrap();
    assert_eq!((logged.last_purged_log_id, logged.last_log_id), (Some(at), Some(at)));
    let vote = log.get_log_reader().await.read_vote().await.unwrap().expect("a vote");
    assert_eq!((vote.leader_id, vote.committed), (at.leader_id, false));
    let state = GroupState::open(Arc::clone(store), GROUP, None).unwrap();
    let (applied, members) = Machine(Arc::clone(&state)).applied_state().await.unwrap();
    let voters: Vec<u64> = members.membership().voter_ids().collect();
    assert_eq!((applied, voters), (Some(at), vec![store.replica(GROUP).unwrap().0]));
    // The six that there were, where its writes go on from, and that it went through this.
    assert_eq!(rows_of(&state).len(), 8);
    assert!(!state.history().timeline.is_first());
}

/// What was restored waits until it has been of more than one; also where nobody can read whether it has.
#[tokio::test]
async fn what_was_restored_waits_until_it_has_gone_on() {
    let all = || BTreeSet::from([GroupId::CONTROL, GROUP]);
    for (members, is_read, takes, held) in [
        (1, true, true, all()),
        (2, true, true, BTreeSet::new()),
        // What says so cannot be taken away.
        (2, true, false, BTreeSet::new()),
        // What cannot be read is damaged, and the rest waits with it.
        (2, false, true, BTreeSet::from([GROUP])),
    ] {
        let (store, left) = failing(home(7));
        for group in all() {
            fill(&store, group).await;
        }
        let voters = (1..=members).collect::<BTreeSet<u64>>();
        let nodes: BTreeMap<u64, ()> = voters.iter().map(|voter| (*voter, ())).collect();
        let members = openraft::Membership::new(vec![voters], nodes).unwrap();
        let state = GroupState::open(Arc::clone(&store), GroupId::CONTROL, None).unwrap();
        let at = Some(log_id(1, 6));
        state.commit(&[], at, openraft::StoredMembership::new(at, members)).unwrap();
        drop(state);
        store.write(GroupId::CONTROL, Slot::Restored, &()).unwrap();
        store.finish().unwrap();
        if !is_read {
            store.note(GroupId::CONTROL, "as planned");
        }
        if !takes {
            left.store(0, Ordering::SeqCst);
        }
        Forced::go_on(&store);
        assert_eq!((store.held(), store.waits()), (held.clone(), (!held.is_empty()).then_some(Waits::Restored)));
    }
}

/// Whenever the machine crashes while a replica is made to go on alone: it is as it was, or it goes on when it starts again.
#[tokio::test]
async fn a_replica_goes_on_alone_or_is_as_it_was_whenever_it_crashes() {
    goes_on_alone(&[]).await;
}

/// So does one that goes on without others; but where it starts again in between, it waits until somebody knows that none of those is
/// there: they may have come back before it did.
#[tokio::test]
async fn a_replica_that_is_to_go_on_without_others_waits_when_it_starts_again() {
    goes_on_alone(&[NodeId(2), NodeId(3)]).await;
}

async fn goes_on_alone(lost: &[NodeId]) {
    let (home, store, copies) = photographed(5).await;
    let old = store.replica(GROUP).unwrap();
    lock(&copies).clear();
    let force = |replica, index| Force {
        group: GROUP,
        survivor: Some((replica, LogEnd { term: 1, index })),
        recovery: Recovery { lost: lost.to_vec(), ..recovery() },
    };
    for other in [force(ReplicaId::new(NodeId(1), 1), 7), force(old, 6), Force { survivor: None, ..force(old, 7) }] {
        let refused = Forced::carry_out(&store, &other).expect_err("it is not so");
        assert_eq!(refused.kind(), ErrorKind::Conflict);
    }
    assert!(lock(&copies).is_empty(), "nothing was written");
    let new = Forced::carry_out(&store, &force(old, 7)).expect("it goes on");
    // Behind its eight entries, by a term that nobody had.
    let at = |replica: ReplicaId| LogId {
        leader_id: openraft::impls::leader_id_adv::LeaderId { term: 2, node_id: replica.0 },
        index: 8,
    };
    expect_alone(&store, old, at(new)).await;
    drop(store);
    let mut seen = [0, 0];
    let copies = core::mem::take(&mut *lock(&copies));
    for copy in copies.into_iter().chain([home.clone()]) {
        let store = Arc::new(Store::open(Home::Memory(copy.clone()), NodeId(1), entropy()).expect("a store"));
        assert!(matches!(store.health(GROUP), Health::Sound), "{:?}", store.health(GROUP));
        let is_begun = store.groups_with(Slot::Forced).contains(&GROUP) || store.replica(GROUP).unwrap() == new;
        seen[usize::from(is_begun)] += 1;
        let is_under_way = store.groups_with(Slot::Forced).contains(&GROUP);
        Forced::go_on(&store);
        let waits = is_under_way && !lost.is_empty();
        assert_eq!(store.held(), waits.then_some(GROUP).into_iter().collect());
        if waits {
            assert!(matches!(store.health(GROUP), Health::Damaged(_)), "it serves nobody");
            assert!(store.groups_with(Slot::Forced).contains(&GROUP), "nothing was done");
            assert_eq!(Forced::let_go_on(&store).expect("it goes on"), [GROUP].into());
        }
        expect_full(&store, GroupId::CONTROL).await;
        if !is_begun {
            assert_eq!(store.replica(GROUP).unwrap(), old);
            expect_full(&store, GROUP).await;
            continue;
        }
        expect_alone(&store, old, at(new)).await;
        assert!(store.groups_with(Slot::Forced).is_empty());
        drop(store);
        copy.crash(false);
        let store = Arc::new(Store::open(Home::Memory(copy), NodeId(1), entropy()).expect("a store"));
        expect_alone(&store, old, at(new)).await;
    }
    assert!(seen[0] > 0 && seen[1] > 8, "{seen:?}");
}

/// The medium takes nothing from some step on while a replica is made to go on alone: it votes and serves again only as what it
/// was, or as what it is to be.
#[tokio::test]
async fn a_replica_that_goes_on_in_part_serves_nobody() {
    let mut seen = BTreeSet::new();
    for fails_after in 0..40 {
        let home = home(6);
        let (store, left) = failing(home.clone());
        let old = store.replica(GROUP).unwrap();
        fill(&store, GROUP).await;
        left.store(fails_after, Ordering::SeqCst);
        let survivor = Some((old, LogEnd { term: 1, index: 7 }));
        let forced = Forced::carry_out(&store, &Force { group: GROUP, survivor, recovery: recovery() });
        assert_eq!(forced.is_err(), matches!(store.health(GROUP), Health::Damaged(_)), "after {fails_after}");
        let again = Forced::carry_out(&store, &Force { group: GROUP, survivor, recovery: recovery() });
        assert!(again.is_err(), "not twice");
        drop(store);
        // At the next start it goes on, if that was said by then.
        home.crash(fails_after % 2 == 1);
        let store = Arc::new(Store::open(Home::Memory(home), NodeId(1), entropy()).expect("a store"));
        Forced::go_on(&store);
        let is_new = store.replica(GROUP).unwrap() != old;
        if is_new {
            let leader_id =
                openraft::impls::leader_id_adv::LeaderId { term: 2, node_id: store.replica(GROUP).unwrap().0 };
            expect_alone(&store, old, LogId { leader_id, index: 8 }).await;
        } else {
            expect_full(&store, GROUP).await;
        }
        seen.insert((forced.is_err(), is_new));
    }
    assert_eq!(seen, [(false, true), (true, false), (true, true)].into(), "{seen:?}");
}
