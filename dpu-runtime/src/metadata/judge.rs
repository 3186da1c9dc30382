//! Whether a group's files still hold what the mark says that they do.
//!
//! Reads everything of a group once, and changes nothing. What is found wanting is said in words.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    io,
};

use mesh_core::id::GroupId;

use super::{
    flush::guarded,
    home::META,
    log::{self, Log, TreeLog},
    machine,
    mark::{Claim, Claims},
    rows::TreeTable,
    store::{Slot, groups_with, read_slot},
    trees::Trees,
    types::{LogId, Vote},
};

/// What is wrong with a group.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    /// For people.
    pub(super) why: String,
    /// What is on the medium is wrong. Else it could not be read now, and may be found right the next time.
    pub(super) is_proven: bool,
}

impl Flaw {
    fn of(error: &io::Error) -> Self {
        Self { why: error.to_string(), is_proven: is_proven(error) }
    }
}

/// Whether an error is of what is on the medium, and not of reading it.
pub(super) fn is_proven(error: &io::Error) -> bool {
    error.raw_os_error().is_none()
}

/// The groups that are damaged, and why.
///
/// # Errors
/// `Unsupported`: what a newer build wrote is not damaged, and not for this one.
pub(super) fn groups(trees: &Trees, claims: &Claims) -> io::Result<BTreeMap<GroupId, Flaw>> {
    let names: BTreeSet<String> = trees.names().into_iter().collect();
    let mut found = BTreeMap::new();
    for (group, claim) in &claims.groups {
        match judge(trees, &names, *group, claim) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Unsupported => return Err(error),
            Err(error) => drop(found.insert(*group, Flaw::of(&error))),
        }
    }
    // Where these rows cannot be read no group is sound.
    let gone = guarded(|| trees.open(META)).and_then(|meta| groups_with(&meta, Slot::Gone)).unwrap_or_default();
    // A replica gets its number before it keeps anything, and is said to be gone before it loses it.
    for group in names.iter().filter_map(|name| log::group_of(name).or_else(|| machine::group_of(name))) {
        if !claims.groups.contains_key(&group) && !gone.contains(&group) {
            let why = "the mark does not know this replica: its number and its promises are lost".to_owned();
            found.insert(group, Flaw { why, is_proven: true });
        }
    }
    Ok(found)
}

fn judge(trees: &Trees, names: &BTreeSet<String>, group: GroupId, claim: &Claim) -> io::Result<()> {
    let tree = |name: &str| guarded(|| trees.open(name));
    let meta = tree(META)?;
    let vote: Option<Vote> = read_slot(&meta, group, Slot::Vote)?;
    if claim.vote.is_some() && !matches!(vote.partial_cmp(&claim.vote), Some(Ordering::Equal | Ordering::Greater)) {
        return Err(missing("the vote", &claim.vote, &vote));
    }
    let purged: Option<LogId> = read_slot(&meta, group, Slot::Purged)?;
    if purged < claim.purged {
        return Err(missing("the log's purge watermark", &claim.purged, &purged));
    }
    let generation = read_slot::<u64>(&meta, group, Slot::Generation)?.unwrap_or(0);
    if generation < claim.generation {
        return Err(missing("the state's generation", &claim.generation, &generation));
    }
    // Only trees that are there are opened: opening makes them.
    let name = log::tree_name(group);
    let log = if names.contains(&name) { Some(TreeLog::open(tree(&name)?, purged)?) } else { None };
    let name = machine::tree_name(group, generation);
    let state = if names.contains(&name) { Some(TreeTable::new(tree(&name)?)) } else { None };
    let applied = match &state {
        Some(table) => table.verify()?,
        None => None,
    };
    judge_log(log.as_ref(), purged, claim)?;
    let index = |log_id: Option<LogId>| log_id.map(|log_id| log_id.index);
    if index(applied) < index(claim.applied) {
        return Err(missing("the state", &claim.applied, &applied));
    }
    if index(applied) < index(purged) {
        return Err(missing("the state behind the purged log", &purged, &applied));
    }
    Ok(())
}

/// The log reaches to the mark, and is the one that was marked.
fn judge_log(log: Option<&TreeLog>, purged: Option<LogId>, claim: &Claim) -> io::Result<()> {
    let Some((last, crc)) = claim.last else { return Ok(()) };
    if purged.is_some_and(|purged| purged.index >= last.index) {
        return Ok(());
    }
    let found = match log {
        Some(log) => log.checksum(last.index)?,
        None => None,
    };
    if found == Some(crc) { Ok(()) } else { Err(missing("the log's entry", &Some(last), &log.and_then(TreeLog::last))) }
}

fn missing(what: &str, claimed: &impl core::fmt::Debug, found: &impl core::fmt::Debug) -> io::Error {
    let said = format!("{what} is older than what was promised: {claimed:?} was marked, {found:?} is there");
    io::Error::new(io::ErrorKind::InvalidData, said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_read_now_proves_nothing() {
        let of_the_system = [rustix::io::Errno::IO, rustix::io::Errno::NOMEM, rustix::io::Errno::NOSPC];
        for errno in of_the_system {
            assert!(!Flaw::of(&io::Error::from_raw_os_error(errno.raw_os_error())).is_proven, "{errno}");
        }
        let less = missing("the vote", &Some(3), &Some(2));
        assert_eq!(Flaw::of(&less), Flaw { why: less.to_string(), is_proven: true });
    }
}
