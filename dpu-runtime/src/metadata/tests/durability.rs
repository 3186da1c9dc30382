//! Nothing is acknowledged before it is flushed, synced and marked; and the mark never claims what is not there. In
//! every order of two groups' writes and of the steps to durability, each of which waits until the test lets it pass.

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    pin::Pin,
    sync::{Condvar, Mutex, OnceLock},
    task::{Context, Poll, Waker},
};

use openraft::{entry::RaftEntry, storage::IOFlushed, type_config::TypeConfigExt};

use super::*;
use crate::metadata::{
    flush::{Durable, lock},
    home::META,
    log::{Log, TreeLog},
    mark::{Claim, Claims},
    store::read_slot,
    trees::Tree,
};

const GROUPS: [GroupId; 2] = [GroupId(1), GroupId(7)];

/// What a group has: vote's term, last entry.
type Has = BTreeMap<GroupId, (u64, Option<u64>)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Flush,
    Sync,
    Mark,
}

/// Stands before the real files and lets a step pass only if the test says so.
struct Gates {
    files: Arc<dyn Durable>,
    seen: Mutex<Seen>,
    changed: Condvar,
    look: OnceLock<Box<dyn Fn() -> Has + Send + Sync>>,
}

#[derive(Default)]
struct Seen {
    /// None: everything passes.
    passes: Option<BTreeMap<Step, u32>>,
    flushed: Has,
    synced: Has,
    marked: Has,
    wrong: Option<String>,
}

fn claimed(claims: &Claims) -> Has {
    let has =
        |claim: &Claim| (claim.vote.map_or(0, |vote| vote.leader_id.term), claim.last.map(|(last, _)| last.index));
    claims.groups.iter().map(|(group, claim)| (*group, has(claim))).collect()
}

/// Whether one holds all that another does.
fn covers(has: &Has, other: &Has) -> bool {
    other.iter().all(|(group, other)| {
        let has = has.get(group).copied().unwrap_or_default();
        has.0 >= other.0 && has.1 >= other.1
    })
}

impl Gates {
    fn pass(&self, step: Step) {
        let mut seen = lock(&self.seen);
        loop {
            match &mut seen.passes {
                None => return,
                Some(passes) if passes.get(&step).is_some_and(|left| *left > 0) => {
                    passes.entry(step).and_modify(|left| *left -= 1);
                    return;
                }
                Some(_) => seen = self.changed.wait(seen).unwrap(),
            }
        }
    }

    fn let_pass(&self, step: Step) {
        if let Some(passes) = &mut lock(&self.seen).passes {
            *passes.entry(step).or_default() += 1;
        }
        self.changed.notify_all();
    }

    fn open(&self) {
        lock(&self.seen).passes = None;
        self.changed.notify_all();
    }

    fn close(&self) {
        lock(&self.seen).passes = Some(BTreeMap::new());
    }

    fn there(&self) -> Has {
        self.look.get().map(|look| look()).unwrap_or_default()
    }
}

impl Durable for Gates {
    fn flush(&self) -> io::Result<()> {
        self.pass(Step::Flush);
        let there = self.there();
        self.files.flush()?;
        lock(&self.seen).flushed = there;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.pass(Step::Sync);
        self.files.sync()?;
        let mut seen = lock(&self.seen);
        seen.synced = seen.flushed.clone();
        Ok(())
    }

    fn mark(&self, claims: &Claims) -> io::Result<()> {
        self.pass(Step::Mark);
        {
            let mut seen = lock(&self.seen);
            let claimed = claimed(claims);
            if self.look.get().is_some() && !covers(&seen.synced, &claimed) {
                seen.wrong = Some(format!("{claimed:?} is marked, {:?} is durable", seen.synced));
            }
        }
        self.files.mark(claims)?;
        lock(&self.seen).marked = claimed(claims);
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Append(usize, u8),
    Vote(usize),
    Truncate(usize, u8),
    Pass(Step),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let step = prop_oneof![Just(Step::Flush), Just(Step::Sync), Just(Step::Mark)];
    let act = prop_oneof![
        3 => (0_usize..2, 1_u8..4).prop_map(|(group, count)| Act::Append(group, count)),
        1 => (0_usize..2).prop_map(Act::Vote),
        1 => (0_usize..2, 1_u8..4).prop_map(|(group, count)| Act::Truncate(group, count)),
        6 => step.prop_map(Act::Pass),
    ];
    proptest::collection::vec(act, 1..60)
}

/// Something that was asked for, and what must be marked when it is acknowledged.
struct Asked {
    group: usize,
    /// Others of the group wait for it.
    alone: bool,
    wants: Has,
    /// The last entry that the mark may claim then.
    at_most: Option<Option<u64>>,
    done: Pin<Box<dyn Future<Output = io::Result<()>>>>,
}

/// A log that another thread may be adding to or cutting just now, once that is over.
fn whole(tree: &Tree) -> TreeLog {
    let began = std::time::Instant::now();
    loop {
        match TreeLog::open(tree.clone(), None) {
            Ok(log) => return log,
            Err(error) if began.elapsed() > std::time::Duration::from_secs(10) => panic!("{error}"),
            Err(_) => std::thread::yield_now(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn nothing_is_acknowledged_before_it_is_flushed_synced_and_marked(acts in acts()) {
        let dir = tempfile::tempdir().unwrap();
        let gates = OnceLock::new();
        let over = |files| {
            let (seen, changed, look) = (Mutex::default(), Condvar::new(), OnceLock::new());
            let standing = Arc::new(Gates { files, seen, changed, look });
            assert!(gates.set(Arc::clone(&standing)).is_ok());
            standing as Arc<dyn Durable>
        };
        let store = Arc::new(Store::open_over(dir.path(), NodeId(1), entropy(), over).unwrap());
        let gates = Arc::clone(gates.get().unwrap());
        let logs = GROUPS.map(|group| LogStore::open(Arc::clone(&store), group).unwrap());
        let meta = store.tree(META).unwrap();
        let trees = GROUPS.map(|group| store.tree(&crate::metadata::log::tree_name(group)).unwrap());
        let look = move || {
            let has = |(group, tree): (&GroupId, &Tree)| {
                let vote = read_slot::<Vote>(&meta, *group, Slot::Vote).unwrap().map_or(0, |vote| vote.leader_id.term);
                (*group, (vote, whole(tree).last()))
            };
            GROUPS.iter().zip(&trees).map(has).collect::<Has>()
        };
        assert!(gates.look.set(Box::new(look)).is_ok());
        gates.close();

        let (mut terms, mut lasts) = ([0_u64; 2], [None::<u64>; 2]);
        let mut asked: Vec<Asked> = Vec::new();
        let settle = |asked: &mut Vec<Asked>| -> Result<(), TestCaseError> {
            let mut left = Vec::new();
            for mut one in asked.drain(..) {
                match one.done.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Pending => left.push(one),
                    Poll::Ready(outcome) => {
                        outcome.unwrap();
                        let seen = lock(&gates.seen);
                        let group = GROUPS[one.group];
                        if let Some(at_most) = one.at_most {
                            prop_assert!(seen.marked[&group].1 <= at_most, "{:?}", seen.marked);
                        }
                        // A truncation after it may have taken it back.
                        prop_assert!(covers(&seen.marked, &one.wants), "{:?} of {:?}", one.wants, seen.marked);
                        prop_assert!(covers(&seen.synced, &one.wants), "{:?} of {:?}", one.wants, seen.synced);
                    }
                }
            }
            *asked = left;
            let seen = lock(&gates.seen);
            prop_assert!(seen.wrong.is_none(), "{:?}", seen.wrong);
            let marked = seen.marked.clone();
            drop(seen);
            prop_assert!(covers(&gates.there(), &marked), "{:?} is marked, and is not there", marked);
            Ok(())
        };
        for act in acts {
            match act {
                Act::Pass(step) => gates.let_pass(step),
                Act::Append(group, _) | Act::Vote(group) | Act::Truncate(group, _)
                    if asked.iter().any(|asked| asked.group == group && asked.alone) => {}
                Act::Append(group, count) => {
                    let first = lasts[group].map_or(0, |last| last + 1);
                    let entries = (first..first + u64::from(count))
                        .map(|index| openraft::alias::EntryOf::<Types>::new_blank(log_id(1, index)));
                    let (tx, rx) = Types::oneshot();
                    let mut log = logs[group].clone();
                    let appended = log.append(entries.collect::<Vec<_>>(), IOFlushed::signal(tx));
                    let mut appended = Box::pin(appended);
                    assert!(matches!(appended.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(()))));
                    lasts[group] = Some(first + u64::from(count) - 1);
                    let done = Box::pin(async move { rx.await.unwrap() });
                    let wants = BTreeMap::from([(GROUPS[group], (0, lasts[group]))]);
                    asked.push(Asked { group, alone: false, wants, at_most: None, done });
                }
                Act::Vote(group) => {
                    terms[group] += 1;
                    let (term, mut log) = (terms[group], logs[group].clone());
                    let done = Box::pin(async move { log.save_vote(&Vote::new_committed(term, 1)).await });
                    let wants = BTreeMap::from([(GROUPS[group], (term, None))]);
                    asked.push(Asked { group, alone: true, wants, at_most: None, done });
                }
                // Raft takes back only what was acknowledged, or what it no longer waits for.
                Act::Truncate(group, _) if asked.iter().any(|asked| asked.group == group) => {}
                Act::Truncate(group, count) => {
                    let last = lasts[group].and_then(|last| last.checked_sub(u64::from(count)));
                    lasts[group] = last;
                    let mut log = logs[group].clone();
                    let to = last.map(|last| log_id(1, last));
                    let done = Box::pin(async move { log.truncate_after(to).await });
                    asked.push(Asked { group, alone: true, wants: Has::new(), at_most: Some(last), done });
                }
            }
            settle(&mut asked)?;
        }
        gates.open();
        while !asked.is_empty() {
            settle(&mut asked)?;
            std::thread::yield_now();
        }
        drop((logs, store));
    }
}
