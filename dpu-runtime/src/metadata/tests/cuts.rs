//! A power cut at any step leaves a store that is sound and has everything that was acknowledged by then.

use std::{io, path::PathBuf, sync::Mutex};

use openraft::{RaftLogReader, storage::IOFlushed};

use super::{
    damage::{blank, copy, runtime},
    *,
};
use crate::metadata::{
    flush::{Durable, lock},
    mark::{self, Claims},
};

/// Copies the files before and after every step: what the medium may hold if the power goes there.
struct Camera {
    files: Arc<dyn Durable>,
    dir: PathBuf,
    shots: Mutex<Vec<PathBuf>>,
    acknowledged: Mutex<Acknowledged>,
}

/// What a test was told, by the number of the next shot.
type Acknowledged = Vec<(usize, u64, Option<u64>, Option<u64>)>;

impl Camera {
    fn shoot(&self) {
        let mut shots = lock(&self.shots);
        let to = self.dir.join(format!("shot-{}", shots.len()));
        copy(&self.dir.join("store"), &to);
        shots.push(to);
    }

    fn told(&self, term: u64, last: Option<u64>, applied: Option<u64>) {
        let next = lock(&self.shots).len();
        lock(&self.acknowledged).push((next, term, last, applied));
    }
}

impl Durable for Camera {
    fn flush(&self) -> io::Result<()> {
        self.shoot();
        self.files.flush()?;
        self.shoot();
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.files.sync()
    }

    fn mark(&self, claims: &Claims) -> io::Result<()> {
        self.shoot();
        self.files.mark(claims)?;
        self.shoot();
        Ok(())
    }
}

async fn live(store: &Arc<Store>, camera: &Camera) {
    let mut log = LogStore::open(Arc::clone(store), GROUP).unwrap();
    let mut machine = Machine(GroupState::open(Arc::clone(store), GROUP, None).unwrap());
    let append = async |log: &mut LogStore, term, from: u64, to: u64| {
        log.append((from..to).map(|index| blank(term, index)), IOFlushed::noop()).await.unwrap();
        store.sync().await.unwrap();
    };
    log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
    camera.told(1, None, None);
    append(&mut log, 1, 0, 20).await;
    camera.told(1, Some(19), None);
    for index in 0..12 {
        machine
            .0
            .commit_for_test(&[put(index, index as u8), put(20 + index / 2, 60)], log_id(1, u64::from(index)))
            .unwrap();
    }
    camera.told(1, Some(14), None);
    log.truncate_after(Some(log_id(1, 14))).await.unwrap();
    camera.told(1, Some(14), Some(11));
    log.save_vote(&Vote::new_committed(2, 2)).await.unwrap();
    append(&mut log, 2, 15, 18).await;
    camera.told(2, Some(17), Some(11));
    // What is taken back need not be there any more.
    camera.told(2, Some(13), Some(11));
    log.truncate_after(Some(log_id(1, 13))).await.unwrap();
    append(&mut log, 3, 14, 40).await;
    log.purge(log_id(1, 9)).await.unwrap();
    camera.told(2, Some(39), Some(11));
    // A snapshot from elsewhere, behind the whole log.
    let staged = machine.0.stage().unwrap();
    staged.take((0..40).map(|key| (format!("K{key:05}").into_bytes(), vec![key; 50])).collect()).unwrap();
    let meta = SnapshotMeta { last_log_id: Some(log_id(3, 60)), ..SnapshotMeta::default() };
    machine.install_snapshot(&meta, SnapshotData::Staged(staged)).await.unwrap();
    camera.told(2, Some(39), Some(60));
    log.purge(log_id(3, 60)).await.unwrap();
    append(&mut log, 3, 61, 64).await;
    camera.told(2, Some(63), Some(60));
}

#[test]
fn a_power_cut_at_any_step_damages_nothing() {
    let base = if Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
    let dir = tempfile::tempdir_in(base).unwrap();
    let camera = Mutex::new(None);
    let over = |files| {
        let (shots, acknowledged) = (Mutex::default(), Mutex::default());
        let standing = Arc::new(Camera { files, dir: dir.path().to_owned(), shots, acknowledged });
        *lock(&camera) = Some(Arc::clone(&standing));
        standing as Arc<dyn Durable>
    };
    let store = Arc::new(Store::open_over(dir.path().join("store"), NodeId(1), entropy(), over).unwrap());
    let camera = lock(&camera).take().unwrap();
    runtime().block_on(live(&store, &camera));
    drop(store);
    let (shots, acknowledged) = (lock(&camera.shots).clone(), lock(&camera.acknowledged).clone());
    assert!(shots.len() > 60, "{}", shots.len());
    for (number, shot) in shots.iter().enumerate() {
        // The mark may be half written as well.
        if let Some(next) = shots.get(number + 1) {
            let (before, after) = [shot, next].map(|shot| std::fs::read(mark::path(shot)).unwrap()).into();
            if before != after {
                let torn = dir.path().join("torn");
                copy(shot, &torn);
                let at = before.iter().zip(&after).position(|(before, after)| before != after).unwrap() + 13;
                std::fs::write(mark::path(&torn), [&after[..at], &before[at..]].concat()).unwrap();
                judge(&torn, number, &acknowledged);
                std::fs::remove_dir_all(&torn).unwrap();
            }
        }
        judge(shot, number, &acknowledged);
    }
}

fn judge(shot: &Path, number: usize, acknowledged: &Acknowledged) {
    let store = Arc::new(Store::open(shot, NodeId(1), entropy()).unwrap());
    let told = acknowledged.iter().rfind(|told| told.0 <= number);
    match store.health(GROUP) {
        Health::Damaged(why) => panic!("a power cut at step {number} is taken for damage: {why}"),
        Health::New => assert!(told.is_none(), "step {number}: everything is gone"),
        Health::Sound => {}
    }
    let Some((_, term, last, applied)) = told else { return };
    let mut log = LogStore::open(Arc::clone(&store), GROUP).unwrap();
    let mut machine = Machine(GroupState::open(Arc::clone(&store), GROUP, None).unwrap());
    runtime().block_on(async {
        let vote = log.read_vote().await.unwrap().expect("a vote");
        assert!(vote.leader_id.term >= *term, "step {number}: {vote:?}");
        let has = log.get_log_state().await.unwrap().last_log_id.map(|last| last.index);
        // What came next may have taken some of it back already.
        let kept = acknowledged.iter().find(|later| later.0 > number).map_or(*last, |next| next.2.min(*last));
        assert!(has >= kept, "step {number}: {has:?} instead of {last:?}");
        let state = machine.applied_state().await.unwrap().0.map(|applied| applied.index);
        assert!(state >= *applied, "step {number}: {state:?} instead of {applied:?}");
    });
}
