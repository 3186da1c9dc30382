//! The node's drives: opened, recognised, formatted if blank, registered with the control group, and started.
//!
//! Whatever is wrong with a medium, the node starts without it and says so; nothing on it is overwritten.

mod added;
mod adding;
mod numbers;

use core::time::Duration;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use mesh_actors::{
    drive::{self, Medium},
    registry::{self, Parts},
};
use mesh_core::{
    Answer, Buf, Error, ErrorKind, Request, WorkOutcome,
    id::{ActorId, DriveId, Epoch, GroupId},
    limits::ALIGNMENT_BYTES,
    meta::{MeshCommand, MetaAnswer, Query},
    op::{DriveReport, ScrubState, ShardOp},
    port::{Disk, DiskJob, Metadata as _, WorkOutput},
    spec::{DriveSpec, FunctionSpec},
    topology::{DriveInfo, DriveState, Leaving, NodeInfo},
};
use mesh_dpu_runtime::shell::{ActorSetup, Onward};

pub(super) use self::adding::let_go;
pub(crate) use self::adding::{add, expect_path};
use self::numbers::{Known, Numbers};
use super::{Inner, lock};
use crate::config::{CAPACITY_MIN, DriveConfig};

/// The node's drives: those of the configuration in their order, then those that were added.
#[derive(Default)]
pub(super) struct Media(BTreeMap<usize, Slot>);

/// One drive.
#[derive(Clone)]
struct Slot {
    config: DriveConfig,
    /// It is being brought up.
    opening: bool,
    drive: Option<DriveId>,
    capacity_bytes: u64,
    /// Whether it was a drive of this cluster when it was opened; `None`: it has not been looked at.
    ours: Option<bool>,
    /// The mesh knows that it is here.
    registered: bool,
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
            registered: false,
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
    let drives: Vec<DriveConfig> = node.config.drives.iter().cloned().chain(added).collect();
    // All at once: whoever asks for another meanwhile gets none of their places.
    lock(&node.media).0.extend(drives.iter().cloned().map(Slot::new).enumerate());
    for (at, config) in drives.into_iter().enumerate() {
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
    let mut drive = None;
    slot_of(node, at, |slot| {
        slot.opening = false;
        if let Some(error) = error {
            slot.reason = Some(error.to_string());
            drive = slot.drive;
        }
    });
    if let Some(drive) = drive.filter(|drive| node.metadata.control().lost.contains_key(drive))
        && let Err(error) = added::forget(node, drive)
    {
        tracing::error!(node = %node.id, %drive, %error, "a drive that is out stays in the list");
    }
    node.changed.notify_one();
}

/// Opens a medium and makes it a drive of the mesh. `asked`: somebody asks for it now, in the place of another if there is one.
async fn bring_up(
    node: &Arc<Inner>,
    at: usize,
    config: &DriveConfig,
    asked: Option<Option<DriveId>>,
) -> Result<DriveId, Error> {
    let Known { formatted, reserved } = Numbers::load(node)?.of(config);
    let is_lost = |drive: DriveId| node.metadata.control().lost.contains_key(&drive);
    let reserved = reserved.filter(|reserved| !is_lost(reserved.drive));
    // What was asked for before this start, and not finished, is still to be done.
    let instead_of = asked.unwrap_or_else(|| reserved.and_then(|reserved| reserved.instead_of));
    // Only who is asked for now: a folder whose medium was pulled is no new drive because its node was started again.
    let formatted = formatted.filter(|drive| instead_of != Some(*drive) && !(asked.is_some() && is_lost(*drive)));
    let opened_as = if asked.is_some() { node.env.disks.vacant(config)? } else { config.clone() };
    if let Some(drive) = formatted {
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
    let disk = node.env.disks.open(&opened_as, &node.pool)?;
    let capacity_bytes = disk.geometry().capacity_bytes;
    if asked.is_some() && capacity_bytes < CAPACITY_MIN {
        return Err(Error::invalid("a drive has at least 256MiB").with("bytes", capacity_bytes));
    }
    let (medium, had) = inspected(node, &*disk).await?.unzip();
    let drive = match (medium, formatted, reserved) {
        (Some(drive), ..)
            if instead_of.is_some_and(|old| {
                !has_seat_of(node, drive, old) && reserved.is_none_or(|reserved| reserved.drive != drive)
            }) =>
        {
            return Err(Error::new(
                ErrorKind::Conflict,
                "the medium is a drive of this mesh, and not in that one's place: wipe it, or add it as it is, without replacing another",
            )
            .with("found", drive));
        }
        (Some(drive), Some(other), _) if other != drive => {
            return Err(Error::new(
                ErrorKind::DriveFailed,
                "another drive of this cluster is where a drive was known; put it back to where it belongs",
            )
            .with("found", drive)
            .with("known", other)
            .with("file", Numbers::path(node).display()));
        }
        (Some(drive), ..) => drive,
        (None, Some(drive), _) => {
            let what = "the medium is blank, but a drive was there; if it was replaced on purpose, say so with \
                        `mesh drive replace`, or, if that one is out of the mesh, with `mesh drive add`";
            return Err(Error::new(ErrorKind::DriveFailed, what).with("drive", drive));
        }
        // What was cut short had reserved the number.
        (None, None, Some(reserved)) if reserved.instead_of == instead_of => reserved.drive,
        (None, None, _) => Numbers::choose(node, config, instead_of)?,
    };
    let blank = medium.is_none();
    slot_of(node, at, |slot| slot.ours = Some(!blank));
    if holds(node, at, drive) {
        return Err(Error::new(ErrorKind::Conflict, "another path of this node has the same drive: is it a copy?")
            .with("drive", drive));
    }
    if blank {
        // The mesh is not told of what cannot be written: the one whose place it takes would be emptied for nothing.
        io(&*disk, DiskJob::Write { at: 0, bufs: vec![Buf::zeroed(ALIGNMENT_BYTES)] }).await?;
        io(&*disk, DiskJob::Sync).await?;
    } else {
        Numbers::keep(node, config, drive)?;
    }
    slot_of(node, at, |slot| {
        slot.drive = Some(drive);
        slot.capacity_bytes = capacity_bytes;
        slot.reason = Some("it waits to be registered with the control group".to_owned());
    });
    let is_new = asked.is_some() && added::keep(node, config, drive)?;
    let instead_of = instead_of.filter(|_| blank);
    let epoch = match register(node, (drive, had), capacity_bytes, instead_of, asked.is_some()).await {
        Ok(epoch) => epoch,
        Err(error) => {
            // It never came in, and the next start is not to try again what was refused.
            if error.kind() == ErrorKind::Conflict || is_final(error.kind()) {
                if blank {
                    Numbers::release(node, config)?;
                }
                if is_new || instead_of.is_some() {
                    added::forget(node, drive)?;
                }
            }
            return Err(error);
        }
    };
    slot_of(node, at, |slot| slot.registered = true);
    // Each start is given the next epoch, and writes it down before it serves.
    if let Some(had) = had.filter(|had| had.0 + 1 < epoch.0) {
        tracing::warn!(node = %node.id, %drive, had = %had, given = %epoch, "{BEHIND}");
        slot_of(node, at, |slot| slot.behind = true);
    }
    let scrub_every_ms = u64::try_from(node.config.scrub.every.0.as_millis()).unwrap_or(u64::MAX);
    let segment_bytes = segment_bytes(capacity_bytes);
    let cluster = node.keyring.cluster();
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

/// The drive of this mesh that a medium is, and its last epoch; or `None` of one that holds nothing.
///
/// # Errors
/// What else it is: then it is left alone.
async fn inspected(node: &Inner, disk: &dyn Disk) -> Result<Option<(DriveId, Epoch)>, Error> {
    let mut reading = drive::Reading::new(0, drive::INSPECT_BYTES);
    let first = loop {
        if let Some(first) = reading.take(io(disk, reading.job()).await)? {
            break first;
        }
    };
    let failed = |what: &'static str| Error::new(ErrorKind::DriveFailed, what);
    match drive::inspect(&first, node.keyring.cluster()) {
        Medium::Ours { drive, epoch, .. } => Ok(Some((drive, epoch))),
        Medium::Blank if is_blank(disk).await? => Ok(None),
        Medium::Blank => Err(failed("the medium holds something else; it is left alone. Wipe it if it is to be used")),
        Medium::Foreign { cluster } => {
            Err(failed("the drive belongs to another cluster and is left alone").with("cluster", cluster))
        }
        Medium::Damaged { why } => {
            let error = failed("the drive's superblock is damaged, or it holds something else; it is left alone");
            Err(match reading.lost() {
                Some((blocks, cause)) => error.with("unreadable_blocks", blocks).with("cause", cause),
                None => error.with("why", why),
            })
        }
        Medium::Newer { version } => {
            Err(failed("the drive was written by a newer version; upgrade this node").with("version", version))
        }
    }
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
/// `Conflict` if it was declared lost: it stays as it is; and if it cannot take the place that it is to take. If somebody waits
/// for it (`asked`), too what another attempt would not cure.
async fn register(
    node: &Arc<Inner>,
    (drive, had): (DriveId, Option<Epoch>),
    capacity_bytes: u64,
    instead_of: Option<DriveId>,
    asked: bool,
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
            // The medium itself may know of a later owner than a control group that was put back to what it was before.
            after = last_epoch(node, drive).await.map(|known| had.map_or(known, |had| had.max(known)));
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
            Err(error) if asked && is_final(error.kind()) => return Err(error.clone()),
            Err(error) if !said => {
                said = true;
                tracing::debug!(%drive, %error, "a drive waits to be registered");
            }
            Err(_) => {}
        }
        tokio::time::sleep(REGISTER_PAUSE).await;
    }
}

const fn is_final(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Unsupported | ErrorKind::QuotaExceeded)
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

/// How the drives were when they were asked last, each with how many segments that it had were gone.
pub(super) fn said_last(node: &Inner) -> Vec<(DriveReport, u32)> {
    let outlook = node.outlook();
    let said = outlook.sight.reports.get(&node.id).map(|own| own.drives.clone()).unwrap_or_default();
    let media = lock(&node.media);
    let gone =
        |drive: DriveId| media.0.values().find(|slot| slot.drive == Some(drive)).map_or(0, |slot| slot.said.gone);
    said.into_iter()
        .map(|report| {
            let gone = gone(report.drive);
            (report, gone)
        })
        .collect()
}

/// Drives that are still being opened, for people. One that cannot be used is not waited for.
pub(super) fn being_opened(node: &Inner) -> Vec<String> {
    let media = lock(&node.media);
    let opening = media.0.values().filter(|slot| slot.opening);
    opening.map(|slot| format!("the drive at {} is still being opened", slot.config.path.display())).collect()
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
