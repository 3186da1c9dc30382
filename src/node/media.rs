//! The node's drives: opened, recognised, formatted if blank, registered with the control group, and started.
//!
//! Whatever is wrong with a medium, the node starts without it and says so; nothing on it is overwritten.

use core::time::Duration;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use mesh_actors::{
    drive::{self, Medium},
    registry::{self, Parts},
};
use mesh_core::{
    Answer, Error, ErrorKind, Request, WorkOutcome,
    id::{ActorId, DriveId, Epoch, GroupId},
    meta::{MeshCommand, MetaAnswer, Query},
    op::{DriveReport, ScrubState, ShardOp},
    port::{Disk, DiskJob, Metadata as _, WorkOutput},
    spec::{DriveSpec, FunctionSpec},
    topology::{DriveState, Leaving, NodeInfo},
};
use mesh_dpu_runtime::shell::{ActorSetup, Onward};

use super::{Inner, lock};
use crate::config::DriveConfig;

/// The node's drives, by their place in the configuration.
#[derive(Default)]
pub(super) struct Media(BTreeMap<usize, Slot>);

/// One drive.
struct Slot {
    path: PathBuf,
    drive: Option<DriveId>,
    capacity_bytes: u64,
    /// Whether it was a drive of this cluster when it was opened; `None`: it has not been looked at.
    ours: Option<bool>,
    /// It has an actor.
    started: bool,
    /// Why it is not up.
    reason: Option<String>,
    /// It says less than was written to it, for all that is known.
    behind: bool,
    /// What was last said of it.
    said: Said,
}

/// What the log has heard of a drive: what changes is said once.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Said {
    state: Option<DriveState>,
    corrupt: u64,
    gone: u32,
}

/// Brings up every configured drive, each on its own.
pub(super) fn begin(node: &Arc<Inner>) {
    for (at, config) in node.config.drives.iter().enumerate() {
        let slot = Slot {
            path: config.path.clone(),
            drive: None,
            capacity_bytes: 0,
            ours: None,
            started: false,
            reason: None,
            behind: false,
            said: Said::default(),
        };
        lock(&node.media).0.insert(at, slot);
        let (node, config) = (node.clone(), config.clone());
        let task = node.clone();
        task.spawn(async move {
            let stopped = node.stopped();
            let outcome = tokio::select! {
                () = stopped => return,
                outcome = bring_up(&node, at, &config) => outcome,
            };
            if let Err(error) = outcome {
                tracing::error!(node = %node.id, path = %config.path.display(), %error, "a drive cannot be used; the node runs without it");
                slot_of(&node, at, |slot| slot.reason = Some(error.to_string()));
            }
            node.changed.notify_one();
        });
    }
}

async fn bring_up(node: &Arc<Inner>, at: usize, config: &DriveConfig) -> Result<(), Error> {
    let known = Numbers::load(node)?;
    if let Some((drive, true)) = known.of(config) {
        slot_of(node, at, |slot| slot.drive = Some(drive));
        // A folder that was in use and is gone must not be made anew as if nothing had happened.
        if !node.env.disks.is_present(&config.path) {
            return Err(Error::new(
                ErrorKind::DriveFailed,
                "the drive is missing: bring it back, or remove it from the configuration",
            )
            .with("drive", drive)
            .with("path", config.path.display()));
        }
    }
    let disk = node.env.disks.open(config, &node.pool)?;
    let capacity_bytes = disk.geometry().capacity_bytes;
    let mut reading = drive::Reading::new(0, drive::INSPECT_BYTES);
    let first = loop {
        if let Some(first) = reading.take(io(&*disk, reading.job()).await)? {
            break first;
        }
    };
    let cluster = node.keyring.cluster();
    let mut had = None;
    let (drive, blank) = match drive::inspect(&first, cluster) {
        Medium::Ours { drive, epoch, .. } => match known.of(config) {
            Some((other, true)) if other != drive => {
                return Err(Error::new(
                    ErrorKind::DriveFailed,
                    "another drive of this cluster is where a drive was known; put it back to where it belongs",
                )
                .with("found", drive)
                .with("known", other)
                .with("file", Numbers::path(node).display()));
            }
            _ => {
                had = Some(epoch);
                (drive, false)
            }
        },
        Medium::Blank if !is_blank(&*disk).await? => {
            return Err(Error::new(
                ErrorKind::DriveFailed,
                "the medium holds something else; it is left alone. Wipe it if it is to be used",
            ));
        }
        Medium::Blank => match known.of(config) {
            // A start that was cut short had reserved the number.
            Some((drive, false)) => (drive, true),
            Some((drive, true)) => {
                return Err(Error::new(ErrorKind::DriveFailed, "the medium is blank, but a drive was there; if it was replaced on purpose, take its line out of the file and restart the node")
                    .with("drive", drive)
                    .with("file", Numbers::path(node).display()));
            }
            None => (Numbers::choose(node, config)?, true),
        },
        Medium::Foreign { cluster } => {
            return Err(Error::new(ErrorKind::DriveFailed, "the drive belongs to another cluster and is left alone")
                .with("cluster", cluster));
        }
        Medium::Damaged { why } => {
            let error = Error::new(
                ErrorKind::DriveFailed,
                "the drive's superblock is damaged, or it holds something else; it is left alone",
            );
            return Err(match reading.lost() {
                Some((blocks, cause)) => error.with("unreadable_blocks", blocks).with("cause", cause),
                None => error.with("why", why),
            });
        }
        Medium::Newer { version } => {
            return Err(Error::new(
                ErrorKind::DriveFailed,
                "the drive was written by a newer version; upgrade this node",
            )
            .with("version", version));
        }
    };
    slot_of(node, at, |slot| slot.ours = Some(!blank));
    if !blank {
        Numbers::keep(node, config, drive)?;
    }
    if holds(node, at, drive) {
        return Err(Error::new(ErrorKind::Conflict, "another path of this node has the same drive: is it a copy?")
            .with("drive", drive));
    }
    slot_of(node, at, |slot| {
        slot.drive = Some(drive);
        slot.capacity_bytes = capacity_bytes;
        slot.reason = Some("it waits to be registered with the control group".to_owned());
    });
    let epoch = register(node, drive, capacity_bytes).await?;
    // Each start is given the next epoch, and writes it down before it serves.
    if let Some(had) = had.filter(|had| had.0 + 1 < epoch.0) {
        tracing::warn!(node = %node.id, %drive, had = %had, given = %epoch, "{BEHIND}");
        slot_of(node, at, |slot| slot.behind = true);
    }
    let scrub_every_ms = u64::try_from(node.config.scrub.every.0.as_millis()).unwrap_or(u64::MAX);
    let segment_bytes = segment_bytes(capacity_bytes);
    let spec = DriveSpec { cluster, drive, epoch, capacity_bytes, segment_bytes, scrub_every_ms };
    if blank {
        io(&*disk, DiskJob::Write { at: 0, bufs: vec![drive::superblock(&spec)] }).await?;
        io(&*disk, DiskJob::Sync).await?;
        Numbers::keep(node, config, drive)?;
    }
    let parts = Parts { pool: node.pool.clone(), geometry: Some(disk.geometry()) };
    node.host
        .start(ActorSetup {
            id: ActorId::drive(drive),
            epoch,
            spec: Arc::new(FunctionSpec::Drive(spec)),
            build: Arc::new(move |spec| registry::build(spec, &parts)),
            disk: Some(disk),
            onward: Onward::End,
        })
        .await?;
    slot_of(node, at, |slot| {
        slot.started = true;
        slot.reason = None;
    });
    tracing::info!(node = %node.id, %drive, %epoch, path = %config.path.display(), "a drive is up");
    Ok(())
}

/// Registers a drive, however long the control group takes to be there.
///
/// # Errors
/// `Conflict` if it was declared lost: it stays as it is.
async fn register(node: &Arc<Inner>, drive: DriveId, capacity_bytes: u64) -> Result<Epoch, Error> {
    let mut said = false;
    let mut control = node.metadata.watch_control();
    let start = node.incarnation;
    let is_registered = |info: &NodeInfo| info.incarnation == start;
    // The same command until it is answered: one that is late, or comes twice, gives the same epoch.
    let mut after = None;
    loop {
        // Another start takes no drives: the registered one's would be behind them for ever.
        if control.wait_for(|view| view.nodes.get(&node.id).is_some_and(is_registered)).await.is_err() {
            return Err(Error::new(ErrorKind::Draining, "the metadata ended before the drive was registered"));
        }
        if after.is_none() {
            after = last_epoch(node, drive).await;
        }
        let Some(known) = after else {
            tokio::time::sleep(REGISTER_PAUSE).await;
            continue;
        };
        let command = MeshCommand::TakeDrive { drive, node: node.id, start, capacity_bytes, after: known };
        match node.propose(command).await.as_deref() {
            Ok(MetaAnswer::Epoch(epoch)) => return Ok(*epoch),
            Ok(answer) => tracing::error!(%drive, ?answer, "a drive's registration was answered with something else"),
            Err(error) if error.kind() == ErrorKind::Conflict => {
                if node.metadata.control().lost.contains_key(&drive) {
                    return Err(error.clone());
                }
                after = None;
                tokio::time::sleep(REGISTER_PAUSE).await;
            }
            Err(error) if !said => {
                said = true;
                tracing::debug!(%drive, %error, "a drive waits to be registered");
            }
            Err(_) => {}
        }
        tokio::time::sleep(REGISTER_PAUSE).await;
    }
}

/// The epoch of a drive's last owner, as the control group has it now and not as this node may remember it.
async fn last_epoch(node: &Inner, drive: DriveId) -> Option<Epoch> {
    let (answer, outcome) = tokio::sync::oneshot::channel();
    let deadline = node.env.clock.now() + REGISTER_BUDGET;
    let done = Box::new(move |outcome| drop(answer.send(outcome)));
    node.metadata.query(GroupId::CONTROL, Arc::new(Query::Drive { drive }), deadline, done);
    match outcome.await.ok()?.as_deref() {
        Ok(MetaAnswer::Epoch(epoch)) => Some(*epoch),
        _ => None,
    }
}

/// Whether one of the node's drives was one of this cluster's when the node started. Waits a little until each has been
/// looked at.
pub(super) async fn has_ours(node: &Inner) -> bool {
    let until = node.env.clock.now() + LOOK_MAX;
    loop {
        let looked: Vec<Option<bool>> = lock(&node.media)
            .0
            .values()
            .map(|slot| slot.ours.or_else(|| slot.reason.as_ref().map(|_| false)))
            .collect();
        if looked.contains(&Some(true)) {
            return true;
        }
        if !looked.contains(&None) || node.env.clock.now() >= until {
            return false;
        }
        tokio::time::sleep(REGISTER_PAUSE).await;
    }
}

/// How the drives are now.
pub(super) async fn reports(node: &Arc<Inner>) -> Vec<DriveReport> {
    let slots: Vec<(usize, DriveId, PathBuf, u64, bool, Option<String>)> = lock(&node.media)
        .0
        .iter()
        .filter_map(|(at, slot)| {
            Some((*at, slot.drive?, slot.path.clone(), slot.capacity_bytes, slot.started, slot.reason.clone()))
        })
        .collect();
    let asked = slots.into_iter().map(|(at, drive, path, capacity_bytes, started, reason)| async move {
        let down = |reason: String| DriveReport {
            drive,
            state: DriveState::Down,
            capacity_bytes,
            free_bytes: 0,
            shards: 0,
            corrupt: 0,
            damaged: 0,
            scrub: ScrubState::default(),
            reason: Some(reason),
        };
        if node.metadata.control().lost.contains_key(&drive) {
            // It may be up all the same: the nodes that declared it lost did not see this one.
            return DriveReport { state: DriveState::Lost, ..down(mesh_placement::steward::outlook::LOST.to_owned()) };
        }
        if !node.env.disks.is_present(&path) {
            return down("the drive is missing".to_owned());
        }
        if !started {
            return down(reason.unwrap_or_else(|| "it is being opened".to_owned()));
        }
        let request = Request::system(ShardOp::Stat, node.env.clock.now() + STAT_BUDGET);
        let answer = tokio::time::timeout(STAT_BUDGET, node.host.request(ActorId::drive(drive), request)).await;
        match answer.map(|outcome| outcome.map(|response| response.answer)) {
            Ok(Ok(Answer::Drive { capacity_bytes, free_bytes, shards, corrupt, full, gone, damaged, scrub })) => {
                let state = if full { DriveState::Full } else { DriveState::Up };
                say(node, at, drive, Said { state: Some(state), corrupt, gone });
                let behind = lock(&node.media).0.get(&at).is_some_and(|slot| slot.behind);
                let leaving = node.metadata.control().leaving.get(&drive).copied();
                let reason = how_it_is(full, corrupt, gone, behind, leaving);
                DriveReport { drive, state, capacity_bytes, free_bytes, shards, corrupt, reason, damaged, scrub }
            }
            Ok(Ok(_)) => down("it answered with something else".to_owned()),
            Ok(Err(error)) if error.kind() == ErrorKind::DriveFailed => {
                let said = lock(&node.media).0.get(&at).map(|slot| slot.said).unwrap_or_default();
                if said.state != Some(DriveState::Down) {
                    tracing::error!(node = %node.id, %drive, %error, "a drive has failed");
                }
                slot_of(node, at, |slot| slot.said.state = Some(DriveState::Down));
                down(error.to_string())
            }
            Ok(Err(error)) => down(error.to_string()),
            Err(_) => down("it does not answer, or is being recovered".to_owned()),
        }
    });
    // At once, so that one slow drive does not hold up the node's heartbeat.
    futures_util::future::join_all(asked).await
}

/// Says what has become of a drive since the last time, if it is news.
fn say(node: &Inner, at: usize, drive: DriveId, now: Said) {
    let mut before = now;
    slot_of(node, at, |slot| before = core::mem::replace(&mut slot.said, now));
    let Said { corrupt, gone, .. } = now;
    if gone > before.gone {
        tracing::error!(node = %node.id, %drive, gone, "segments that a drive had are gone: it was emptied or shortened");
    }
    if corrupt > before.corrupt {
        let new = corrupt - before.corrupt;
        tracing::warn!(node = %node.id, %drive, new, corrupt, "damage was found on a drive: what it holds there is read from others");
    }
    match (before.state, now.state) {
        (Some(DriveState::Full), Some(DriveState::Up)) => {
            tracing::info!(node = %node.id, %drive, "a drive has room again");
        }
        (Some(DriveState::Full), _) => {}
        (_, Some(DriveState::Full)) => {
            tracing::warn!(node = %node.id, %drive, "a drive is full: it takes no shards until there is room");
        }
        _ => {}
    }
}

/// What is to be known of a drive that serves, in words.
fn how_it_is(full: bool, corrupt: u64, gone: u32, behind: bool, leaving: Option<Leaving>) -> Option<String> {
    let words = [
        full.then(|| "it is full".to_owned()),
        (gone > 0).then(|| format!("{gone} of its segments are gone: it was emptied or shortened")),
        (corrupt > 0).then(|| format!("{corrupt} damaged places were found")),
        behind.then(|| BEHIND.to_owned()),
        leaving.map(|why| match why {
            Leaving::Asked => "it is being emptied".to_owned(),
            Leaving::Away => "it was away for long, and is used again in a moment".to_owned(),
        }),
    ];
    let words: Vec<String> = words.into_iter().flatten().collect();
    (!words.is_empty()).then(|| words.join("; "))
}

/// Whether a medium holds nothing of others: their formats begin behind our superblocks (btrfs: at 64 KiB) or at the
/// end (md).
async fn is_blank(disk: &dyn Disk) -> Result<bool, Error> {
    let capacity = disk.geometry().capacity_bytes;
    let len = capacity.min(BLANK_BYTES);
    for at in [0, capacity - len] {
        let job = DiskJob::Read { at, len: u32::try_from(len).expect("a MiB at most") };
        let WorkOutput::Bytes(bytes) = io(disk, job).await? else {
            return Err(Error::bug("a read gave no bytes"));
        };
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether another slot has this drive.
fn holds(node: &Inner, at: usize, drive: DriveId) -> bool {
    lock(&node.media).0.iter().any(|(slot, other)| *slot != at && other.drive == Some(drive))
}

async fn io(disk: &dyn Disk, job: DiskJob) -> WorkOutcome {
    let (answer, outcome) = tokio::sync::oneshot::channel();
    disk.start(job, Box::new(move |outcome| drop(answer.send(outcome))));
    outcome.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::DriveFailed, "the disk ended unasked")))
}

/// A segment is a 256th of the drive, within bounds: small enough to compact, large enough to stream.
fn segment_bytes(capacity_bytes: u64) -> u32 {
    let wanted = (capacity_bytes / 256).next_power_of_two().clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
    u32::try_from(wanted).expect("clamped")
}

fn slot_of(node: &Inner, at: usize, change: impl FnOnce(&mut Slot)) {
    if let Some(slot) = lock(&node.media).0.get_mut(&at) {
        change(slot);
    }
}

/// Which drive is at which path: `drives` in the data folder, a line each, such as `1001 /mnt/nvme0`. So a missing or
/// replaced medium is noticed. A number is only reserved (`1001? /mnt/nvme0`) until the drive is formatted.
struct Numbers(BTreeMap<String, (DriveId, bool)>);

impl Numbers {
    fn path(node: &Inner) -> PathBuf {
        node.config.data.join("drives")
    }

    fn load(node: &Inner) -> Result<Self, Error> {
        let path = Self::path(node);
        let kept = node.env.files.read(&path).map_err(|error| {
            Error::new(ErrorKind::DriveFailed, "the drives' numbers cannot be read")
                .with("file", path.display())
                .caused_by(error)
        })?;
        let text = kept.unwrap_or_default();
        let mut numbers = BTreeMap::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let (number, place) = line.split_once(' ').unwrap_or((line, ""));
            let (number, formatted) = number.strip_suffix('?').map_or((number, true), |number| (number, false));
            let number = number.parse().map_err(|_| {
                Error::invalid("a line is not a drive's number and its path")
                    .with("file", path.display())
                    .with("line", line)
            })?;
            numbers.insert(place.to_owned(), (DriveId(number), formatted));
        }
        Ok(Self(numbers))
    }

    fn key(config: &DriveConfig) -> String {
        config.path.to_string_lossy().into_owned()
    }

    fn of(&self, config: &DriveConfig) -> Option<(DriveId, bool)> {
        self.0.get(&Self::key(config)).copied()
    }

    /// Reserves a number that no drive of this node has had.
    fn choose(node: &Inner, config: &DriveConfig) -> Result<DriveId, Error> {
        let _choosing = lock(&node.numbers);
        let mut known = Self::load(node)?;
        let view = node.metadata.control();
        let first = node.id.0 * 1000 + 1;
        let drive = (first..first + 999)
            .map(DriveId)
            .find(|drive| {
                !known.0.values().any(|(other, _)| other == drive)
                    && !view.drives.contains_key(drive)
                    && !view.lost.contains_key(drive)
            })
            .ok_or_else(|| Error::invalid("the node has had 999 drives and has no number left"))?;
        known.0.insert(Self::key(config), (drive, false));
        known.save(node)?;
        Ok(drive)
    }

    fn keep(node: &Inner, config: &DriveConfig, drive: DriveId) -> Result<(), Error> {
        let _keeping = lock(&node.numbers);
        let mut known = Self::load(node)?;
        if known.0.insert(Self::key(config), (drive, true)) == Some((drive, true)) { Ok(()) } else { known.save(node) }
    }

    fn save(&self, node: &Inner) -> Result<(), Error> {
        let text: String = self
            .0
            .iter()
            .map(|(place, (drive, formatted))| format!("{}{} {place}\n", drive.0, if *formatted { "" } else { "?" }))
            .collect();
        let path = Self::path(node);
        node.env.files.replace(&path, &text, 0o644).map_err(|error| {
            Error::new(ErrorKind::DriveFailed, "the drives' numbers cannot be kept")
                .with("file", path.display())
                .caused_by(error)
        })
    }
}

/// What is said of a drive that does not know its last start.
const BEHIND: &str =
    "it was put back from an older copy, or a start of it was cut short: what it lacks is read from others";
const BLANK_BYTES: u64 = 1 << 20;
/// A medium that cannot be looked at within this says nothing.
const LOOK_MAX: Duration = Duration::from_secs(10);
/// For one question to the control group.
const REGISTER_BUDGET: Duration = Duration::from_secs(5);
const REGISTER_PAUSE: Duration = Duration::from_millis(50);
const STAT_BUDGET: Duration = Duration::from_millis(300);
const SEGMENT_BYTES_MIN: u64 = 32 << 20;
const SEGMENT_BYTES_MAX: u64 = 256 << 20;
