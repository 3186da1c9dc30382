//! The node's drives: opened, recognised, formatted if blank, registered with the control group, and started.
//!
//! Whatever is wrong with a medium, the node starts without it and says so; nothing on it is overwritten.

mod added;
mod numbers;

use core::time::Duration;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use mesh_actors::{
    drive::{self, Medium},
    registry::{self, Parts},
};
use mesh_core::{
    Answer, Error, ErrorKind, Request, WorkOutcome,
    id::{ActorId, DriveId, Epoch, GroupId},
    limits::BUDGET_DEFAULT,
    meta::{ControlView, MeshCommand, MetaAnswer, Query},
    op::{AddedDrive, DriveReport, NewMedium, PATH_BYTES_MAX, ScrubState, ShardOp},
    port::{Disk, DiskJob, Metadata as _, WorkOutput},
    spec::{DriveSpec, FunctionSpec},
    time::Instant,
    topology::{DriveInfo, DriveState, Leaving, NodeInfo},
};
use mesh_dpu_runtime::shell::{ActorSetup, Onward};

use self::numbers::Numbers;
use super::{Inner, lock};
use crate::config::{CAPACITY_MIN, DRIVES_MAX, DriveConfig, Size};

/// The node's drives: those of the configuration in their order, then those that were added.
#[derive(Default)]
pub(super) struct Media(BTreeMap<usize, Slot>);

/// One drive.
struct Slot {
    config: DriveConfig,
    /// It is being brought up.
    opening: bool,
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

impl Slot {
    const fn new(config: DriveConfig) -> Self {
        Self {
            config,
            opening: true,
            drive: None,
            capacity_bytes: 0,
            ours: None,
            started: false,
            reason: None,
            behind: false,
            said: Said { state: None, corrupt: 0, gone: 0 },
        }
    }
}

/// Brings up every drive, each on its own.
pub(super) fn begin(node: &Arc<Inner>) {
    let added = added::load(node).unwrap_or_else(|error| {
        tracing::error!(node = %node.id, %error, "the node runs without the drives that were added to it");
        Vec::new()
    });
    for (at, config) in node.config.drives.iter().cloned().chain(added).enumerate() {
        lock(&node.media).0.insert(at, Slot::new(config.clone()));
        let (node, task) = (node.clone(), node.clone());
        task.spawn(async move {
            let stopped = node.stopped();
            let outcome = tokio::select! {
                () = stopped => return,
                outcome = bring_up(&node, at, &config, None) => outcome,
            };
            opened(&node, at, &config, outcome.as_ref().err());
        });
    }
}

/// It is open, or is not and will not be.
fn opened(node: &Inner, at: usize, config: &DriveConfig, error: Option<&Error>) {
    if let Some(error) = error {
        tracing::error!(node = %node.id, path = %config.path.display(), %error, "a drive cannot be used; the node runs without it");
    }
    slot_of(node, at, |slot| {
        slot.opening = false;
        if let Some(error) = error {
            slot.reason = Some(error.to_string());
        }
    });
    node.changed.notify_one();
}

/// Uses another drive from now on, in the place of one if it is to be so, and remembers it.
///
/// # Errors
/// `Invalid` for a medium that cannot be one; `Conflict` if it is not as it is to be, or the mesh does not take it, and
/// `DriveFailed` for what is wrong with it: then it is as if nobody had asked, unless it has its number already, as
/// `mesh status` shows. `Timeout` if that is not known in time.
pub(crate) async fn add(
    node: &Arc<Inner>,
    medium: NewMedium,
    instead_of: Option<DriveId>,
    deadline: Instant,
) -> Result<AddedDrive, Error> {
    let config = described(medium)?;
    let at = {
        let media = &mut lock(&node.media).0;
        let control = node.metadata.control();
        match media.iter_mut().find(|(_, slot)| slot.config.path == config.path) {
            Some((_, slot)) if slot.opening => {
                return Err(Error::new(ErrorKind::Conflict, "the drive is being opened; ask again")
                    .with("path", config.path.display()));
            }
            Some((_, slot)) if slot.started => {
                return there_already(node, Some((slot.drive, slot.capacity_bytes)), instead_of);
            }
            Some((at, slot)) => {
                *slot = Slot::new(config.clone());
                *at
            }
            None => {
                let in_use = |slot: &&Slot| slot.drive.is_none_or(|drive| !control.lost.contains_key(&drive));
                if media.values().filter(in_use).count() >= DRIVES_MAX {
                    return Err(added::too_many());
                }
                let at = media.keys().next_back().map_or(0, |last| last + 1);
                media.insert(at, Slot::new(config.clone()));
                at
            }
        }
    };
    let (answer, outcome) = tokio::sync::oneshot::channel();
    let (inner, task) = (node.clone(), node.clone());
    task.spawn(async move {
        let stopped = inner.stopped();
        let outcome = tokio::select! {
            () = stopped => return,
            outcome = bring_up(&inner, at, &config, Some(instead_of)) => outcome,
        };
        added(&inner, at, &config, &outcome);
        // Whoever asked may have gone.
        drop(answer.send(outcome));
    });
    let late = || {
        let what = "the drive is not open yet; `mesh status` shows what becomes of it, and asking again does no harm";
        Error::new(ErrorKind::Timeout, what)
    };
    let left = deadline.after(node.env.clock.now());
    let drive = match tokio::time::timeout(left, outcome).await {
        Ok(Ok(outcome)) => outcome?,
        Ok(Err(_)) => return Err(Error::new(ErrorKind::Draining, "the node is stopping; ask again once it runs")),
        Err(_) => return Err(late()),
    };
    // What was decided is known here a moment later.
    let mut control = node.metadata.watch_control();
    let is_known = |view: &Arc<ControlView>| view.drives.contains_key(&drive) || view.lost.contains_key(&drive);
    let left = deadline.after(node.env.clock.now());
    tokio::time::timeout(left, control.wait_for(is_known)).await.map_err(|_| late())?.map_err(|_| late())?;
    let slot = lock(&node.media).0.get(&at).map(|slot| (slot.drive, slot.capacity_bytes));
    there_already(node, slot, instead_of)
}

/// It was added, or not.
fn added(node: &Inner, at: usize, config: &DriveConfig, outcome: &Result<DriveId, Error>) {
    let Err(error) = outcome else { return opened(node, at, config, None) };
    // What the mesh has refused is of no use to be remembered.
    let forgotten = if error.kind() == ErrorKind::Conflict { added::forget(node, config) } else { Ok(()) };
    if forgotten.and_then(|()| added::knows(node, config)).unwrap_or(true) {
        return opened(node, at, config, Some(error));
    }
    tracing::warn!(node = %node.id, path = %config.path.display(), %error, "a drive was not added");
    lock(&node.media).0.remove(&at);
    node.changed.notify_one();
}

/// What was asked for, if it can be had.
fn described(medium: NewMedium) -> Result<DriveConfig, Error> {
    let NewMedium { path, capacity_bytes } = medium;
    if !Path::new(&path).is_absolute() || path.len() > PATH_BYTES_MAX || path.contains(char::is_control) {
        return Err(Error::invalid("a drive's path is absolute, in one line, and at most 4096 bytes long"));
    }
    if capacity_bytes.is_some_and(|bytes| bytes < CAPACITY_MIN) {
        return Err(Error::invalid("a drive has at least 256MiB").with("path", path));
    }
    Ok(DriveConfig { path: path.into(), capacity: capacity_bytes.map(Size) })
}

/// The drive that is used (which, and its size), unless it is not in the place that it is to be in.
fn there_already(
    node: &Inner,
    slot: Option<(Option<DriveId>, u64)>,
    instead_of: Option<DriveId>,
) -> Result<AddedDrive, Error> {
    let Some((Some(drive), capacity_bytes)) = slot else {
        return Err(Error::bug("a drive was added and is not there"));
    };
    if let Some(old) = instead_of.filter(|old| !has_seat_of(node, drive, *old)) {
        let what = "the drive is used already, and not in that one's place: drain the other";
        return Err(Error::new(ErrorKind::Conflict, what).with("drive", drive).with("instead_of", old));
    }
    Ok(AddedDrive { drive, node: node.id, capacity_bytes, instead_of })
}

/// Lets go of drives that are out, so that their media can be taken away.
pub(super) fn let_go(node: &Arc<Inner>, control: &ControlView) {
    let is_lost = |slot: &&mut Slot| slot.started && slot.drive.is_some_and(|drive| control.lost.contains_key(&drive));
    let mut gone = Vec::new();
    for slot in lock(&node.media).0.values_mut().filter(is_lost) {
        slot.started = false;
        slot.reason = Some(mesh_placement::steward::outlook::LOST.to_owned());
        gone.extend(slot.drive.map(|drive| (drive, slot.config.clone())));
    }
    for (drive, config) in gone {
        let (node, task) = (node.clone(), node.clone());
        task.spawn(async move {
            if let Err(error) = node.host.stop(ActorId::drive(drive), BUDGET_DEFAULT).await {
                tracing::debug!(node = %node.id, %drive, %error, "a drive that is out had ended");
            }
            match added::forget(&node, &config) {
                Ok(()) => {
                    tracing::info!(node = %node.id, %drive, path = %config.path.display(), "a drive is out of the mesh, and closed");
                }
                Err(error) => tracing::error!(node = %node.id, %drive, %error, "a drive that is out stays in the list"),
            }
        });
    }
}

/// `added`: somebody asks for it now, in the place of another if there is one.
async fn bring_up(
    node: &Arc<Inner>,
    at: usize,
    config: &DriveConfig,
    added: Option<Option<DriveId>>,
) -> Result<DriveId, Error> {
    let known = Numbers::load(node)?;
    let instead_of = added.flatten();
    // Only who is asked for now: a folder whose medium was pulled is no new drive because its node was started again.
    let is_given_up = |drive: DriveId| {
        instead_of == Some(drive) || (added.is_some() && node.metadata.control().lost.contains_key(&drive))
    };
    if let Some((drive, true)) = known.of(config).filter(|(drive, _)| !is_given_up(*drive)) {
        slot_of(node, at, |slot| slot.drive = Some(drive));
        // A folder that was in use and is gone must not be made anew as if nothing had happened.
        if !node.env.disks.is_present(&config.path) {
            return Err(Error::new(
                ErrorKind::DriveFailed,
                "the drive is missing: bring it back, or, if it is out of the mesh, remove it from the configuration",
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
        Medium::Ours { drive, .. } if instead_of.is_some_and(|old| !has_seat_of(node, drive, old)) => {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the medium is a drive of this mesh, and not in that one's place: wipe it, or add it as it is, without replacing another",
            )
            .with("found", drive));
        }
        Medium::Ours { drive, epoch, .. } => match known.of(config) {
            Some((other, true)) if other != drive && !is_given_up(other) => {
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
        Medium::Blank => match known.of(config).filter(|(drive, _)| !is_given_up(*drive)) {
            // A start that was cut short had reserved the number.
            Some((drive, false)) => (drive, true),
            Some((drive, true)) => {
                let what = "the medium is blank, but a drive was there; if it was replaced on purpose, say so with `mesh drive replace`, or, if that one is out of the mesh, with `mesh drive add`";
                return Err(Error::new(ErrorKind::DriveFailed, what).with("drive", drive));
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
    if added.is_some() {
        added::keep(node, config)?;
    }
    let epoch = register(node, drive, capacity_bytes, instead_of).await?;
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
    // It may have been declared lost meanwhile.
    let_go(node, &node.metadata.control());
    Ok(drive)
}

/// Whether a drive took the place of another, as far as this node knows.
fn has_seat_of(node: &Inner, drive: DriveId, old: DriveId) -> bool {
    let control = node.metadata.control();
    let seat = |drive: &DriveId| control.drives.get(drive).or_else(|| control.lost.get(drive)).map(DriveInfo::seat);
    drive != old && seat(&drive).is_some() && seat(&drive) == seat(&old)
}

/// Registers a drive, however long the control group takes to be there.
///
/// # Errors
/// `Conflict` if it was declared lost: it stays as it is; and if it cannot take the place that it is to take.
async fn register(
    node: &Arc<Inner>,
    drive: DriveId,
    capacity_bytes: u64,
    instead_of: Option<DriveId>,
) -> Result<Epoch, Error> {
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
        let command = MeshCommand::TakeDrive { drive, node: node.id, start, capacity_bytes, after: known, instead_of };
        match node.propose(command).await.as_deref() {
            Ok(MetaAnswer::Epoch(epoch)) => return Ok(*epoch),
            Ok(answer) => tracing::error!(%drive, ?answer, "a drive's registration was answered with something else"),
            Err(error) if error.kind() == ErrorKind::Conflict => {
                // A drive that takes another's place is new, and nobody else's.
                if instead_of.is_some() || node.metadata.control().lost.contains_key(&drive) {
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
            Some((*at, slot.drive?, slot.config.path.clone(), slot.capacity_bytes, slot.started, slot.reason.clone()))
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
