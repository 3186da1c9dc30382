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
    mark::Claims,
};

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
