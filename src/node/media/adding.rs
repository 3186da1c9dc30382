//! Drives that come and go while the node runs.

use core::time::Duration;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use mesh_core::{
    Error, ErrorKind, Request,
    id::{ActorId, DriveId},
    limits::BUDGET_DEFAULT,
    meta::ControlView,
    op::{AddedDrive, NewMedium, PATH_BYTES_MAX, ShardOp},
    time::Instant,
};

use super::{Slot, added, bring_up, has_seat_of, numbers::plain, opened, slot_of};
use crate::{
    config::{CAPACITY_MIN, DRIVES_MAX, DriveConfig, Size},
    node::{Inner, lock},
};

/// Uses another drive from now on, in the place of one if it is to be so, and remembers it.
///
/// # Errors
/// `Invalid` for a medium that cannot be one; `Conflict` if it is not as it is to be, or the mesh does not take it, and
/// `DriveFailed` for what is wrong with it: then it is as if nobody had asked, unless the mesh knows of it already, as
/// `mesh status` shows. `Timeout` if that is not known in time.
pub(crate) async fn add(
    node: &Arc<Inner>,
    medium: NewMedium,
    instead_of: Option<DriveId>,
    deadline: Instant,
) -> Result<AddedDrive, Error> {
    let config = described(node, medium)?;
    if let Some(there) = started(node, &config)? {
        if serves(node, &config, there.0).await {
            return there_already(node, there, instead_of);
        }
        if instead_of != Some(there.0) {
            let what =
                "a drive is there that does not answer: if this is another one, say so with `mesh drive replace`";
            return Err(Error::new(ErrorKind::Conflict, what).with("drive", there.0));
        }
        // It is gone, or broken. Whoever has asked it for something hears that it is.
        if let Err(error) = node.host.stop(ActorId::drive(there.0), Duration::ZERO).await {
            tracing::debug!(node = %node.id, drive = %there.0, %error, "a drive that is replaced had ended");
        }
    }
    let (at, former) = take_slot(node, &config)?;
    let (answer, outcome) = tokio::sync::oneshot::channel();
    let (inner, task) = (node.clone(), node.clone());
    task.spawn(async move {
        let stopped = inner.stopped();
        let outcome = tokio::select! {
            () = stopped => return,
            outcome = bring_up(&inner, at, &config, Some(instead_of)) => outcome,
        };
        added(&inner, at, &config, former, outcome.as_ref().err());
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
    let capacity_bytes = lock(&node.media).0.get(&at).map_or(0, |slot| slot.capacity_bytes);
    there_already(node, (drive, capacity_bytes), instead_of)
}

/// The path that a text is, if a drive may be there.
///
/// # Errors
/// `Invalid`.
pub(crate) fn expect_path(text: &str) -> Result<PathBuf, Error> {
    let path = plain(Path::new(text));
    let goes_up = path.components().any(|part| part == std::path::Component::ParentDir);
    if !path.is_absolute() || goes_up || text.len() > PATH_BYTES_MAX || text.contains(char::is_control) {
        let what = "a drive's path is absolute, without `..`, in one line, and at most 4096 bytes long";
        return Err(Error::invalid(what));
    }
    Ok(path)
}

/// What was asked for, if it can be had.
fn described(node: &Inner, medium: NewMedium) -> Result<DriveConfig, Error> {
    let NewMedium { path: text, capacity_bytes } = medium;
    let path = expect_path(&text)?;
    if path.starts_with(plain(&node.config.data)) {
        return Err(Error::invalid("this is the node's own folder").with("path", path.display()));
    }
    if capacity_bytes.is_some_and(|bytes| bytes < CAPACITY_MIN) {
        return Err(Error::invalid("a drive has at least 256MiB").with("path", path.display()));
    }
    Ok(DriveConfig { path, capacity: capacity_bytes.map(Size) })
}

/// The drive that has been started at a path, and its size.
///
/// # Errors
/// `Conflict` while one is being opened there.
fn started(node: &Inner, config: &DriveConfig) -> Result<Option<(DriveId, u64)>, Error> {
    let media = &lock(&node.media).0;
    let Some(slot) = media.values().find(|slot| plain(&slot.config.path) == config.path) else { return Ok(None) };
    expect_not_opening(slot)?;
    Ok(slot.drive.filter(|_| slot.started).map(|drive| (drive, slot.capacity_bytes)))
}

fn expect_not_opening(slot: &Slot) -> Result<(), Error> {
    if !slot.opening {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "the drive is being opened; ask again")
        .with("path", slot.config.path.display()))
}

/// Whether a drive that was started is there and works, as far as it says so in time.
async fn serves(node: &Inner, config: &DriveConfig, drive: DriveId) -> bool {
    let request = Request::system(ShardOp::Stat, node.env.clock.now() + STAT_BUDGET);
    let answer = node.host.request(ActorId::drive(drive), request).await;
    // One that takes long is not gone.
    let is_broken = answer.err().is_some_and(|error| {
        matches!(error.kind(), ErrorKind::DriveFailed | ErrorKind::NoSuchActor | ErrorKind::Restarted)
    });
    node.env.disks.is_present(&config.path) && !is_broken
}

/// The place of a drive that is opened now, and what was in it until now.
///
/// # Errors
/// `Conflict` while one is being opened there, or if there is room for no other one.
fn take_slot(node: &Inner, config: &DriveConfig) -> Result<(usize, Option<Slot>), Error> {
    let control = node.metadata.control();
    let media = &mut lock(&node.media).0;
    if let Some((at, slot)) = media.iter_mut().find(|(_, slot)| plain(&slot.config.path) == config.path) {
        expect_not_opening(slot)?;
        let former = core::mem::replace(slot, Slot::new(config.clone()));
        let reason = former.reason.clone().or_else(|| Some("the drive is missing, or has failed".to_owned()));
        return Ok((*at, Some(Slot { started: false, reason, ..former })));
    }
    let in_use = |slot: &&Slot| slot.drive.is_none_or(|drive| !control.lost.contains_key(&drive));
    if media.values().filter(in_use).count() >= DRIVES_MAX {
        return Err(added::too_many());
    }
    let at = media.keys().next_back().map_or(0, |last| last + 1);
    media.insert(at, Slot::new(config.clone()));
    Ok((at, None))
}

/// It was added, or not: then what was in its place is there again.
fn added(node: &Inner, at: usize, config: &DriveConfig, former: Option<Slot>, error: Option<&Error>) {
    let mut registered = false;
    slot_of(node, at, |slot| registered = slot.registered);
    let Some(error) = error.filter(|_| !registered) else { return opened(node, at, config, error) };
    tracing::warn!(node = %node.id, path = %config.path.display(), %error, "a drive was not added");
    {
        let media = &mut lock(&node.media).0;
        match former {
            Some(former) => drop(media.insert(at, former)),
            None => drop(media.remove(&at)),
        }
    }
    node.changed.notify_one();
}

/// The drive that is used (which, and its size), unless it is not in the place that it is to be in.
fn there_already(
    node: &Inner,
    (drive, capacity_bytes): (DriveId, u64),
    instead_of: Option<DriveId>,
) -> Result<AddedDrive, Error> {
    if let Some(old) = instead_of.filter(|old| !has_seat_of(node, drive, *old)) {
        let what = if old == drive {
            "the drive is there and works: to replace it, put the other one elsewhere, or pull this one first"
        } else {
            "the drive is used already, and not in that one's place: drain the other"
        };
        return Err(Error::new(ErrorKind::Conflict, what).with("drive", drive).with("instead_of", old));
    }
    Ok(AddedDrive { drive, node: node.id, capacity_bytes, instead_of })
}

/// Lets go of drives that are out, so that their media can be taken away.
pub(in crate::node) fn let_go(node: &Arc<Inner>, control: &ControlView) {
    let is_lost = |slot: &&mut Slot| slot.started && slot.drive.is_some_and(|drive| control.lost.contains_key(&drive));
    let mut gone = Vec::new();
    for slot in lock(&node.media).0.values_mut().filter(is_lost) {
        slot.started = false;
        slot.reason = Some(mesh_placement::steward::outlook::LOST.to_owned());
        gone.extend(slot.drive.map(|drive| (drive, slot.config.path.clone())));
    }
    for (drive, path) in gone {
        let (node, task) = (node.clone(), node.clone());
        task.spawn(async move {
            // By its number: another may be at its path before it has ended.
            if let Err(error) = added::forget(&node, drive) {
                tracing::error!(node = %node.id, %drive, %error, "a drive that is out stays in the list");
            }
            if let Err(error) = node.host.stop(ActorId::drive(drive), BUDGET_DEFAULT).await {
                tracing::debug!(node = %node.id, %drive, %error, "a drive that is out had ended");
            }
            tracing::info!(node = %node.id, %drive, path = %path.display(), "a drive is out of the mesh, and closed");
        });
    }
}

const STAT_BUDGET: Duration = Duration::from_secs(2);
