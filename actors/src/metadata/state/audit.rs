//! Control group: the audit log. Whatever somebody orders is carried out through here, and what it changes is in the log by then.

use mesh_core::{
    Error, ErrorKind,
    audit::{By, Deed, Entry, Log, Page, What, hex},
    meta::{AccessKeyRow, Level, MeshCommand, MetaAnswer, PrincipalRow},
    op::{PATH_BYTES_MAX, Recovery},
    time::UnixMillis,
};
use serde::{Deserialize, Serialize};

use super::{
    control, level,
    rows::{Formed, Rows},
    tenants,
};
use crate::metadata::{audit, keys};

/// Bytes of all lines together, from which on orders are refused: entries are to be kept elsewhere then.
const LOG_BYTES_MAX: u64 = 64 << 20;
/// And for what takes something away, so that nobody keeps what he is not to have because the log is full.
const RESERVE_BYTES: u64 = 8 << 20;
/// Lines that one answer brings at most: bytes of them, but for one that is longer.
const PAGE_BYTES: usize = 256 << 10;
/// Entries that one command takes away at most.
const SWEEP_MAX: u64 = 1024;
/// Deeds that came last, by what was drawn for them: one of these is not noted again.
const NOTED_MAX: usize = 16;

/// The row of the log itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    log: Log,
    /// See [`NOTED_MAX`].
    noted: Vec<u64>,
}

impl Default for Kept {
    fn default() -> Self {
        Self { log: Log { first: 1, next: 1, swept: 1, ..Log::default() }, noted: Vec::new() }
    }
}

fn kept(rows: &Rows<'_>) -> Result<Kept, Error> {
    Ok(rows.find(&keys::audit_log())?.unwrap_or_default())
}

/// What there was before a command, as far as its entry has to say that.
enum Before {
    Nothing,
    Level(Level),
    Revoked(Option<AccessKeyRow>),
    First(u64),
    /// The name of a tenant that is there, or of which something is left.
    Tenant(Option<String>),
}

/// Carries a command out; if it changes something that is of the log, it is there from the same step on. `said`: who has ordered it,
/// and when.
pub(super) fn carry_out(
    rows: &mut Rows<'_>,
    said: Option<(&By, UnixMillis)>,
    command: &MeshCommand,
) -> Result<MetaAnswer, Error> {
    if said.is_some() && !command.is_order() {
        return Err(Error::invalid("nobody orders this: it is the mesh's own"));
    }
    // Of what happens all the time nothing is looked up.
    if !is_of_the_log(rows, command)? {
        return control::mesh(rows, command);
    }
    if said.is_some() {
        expect_room(rows, command)?;
    }
    let before = before(rows, command)?;
    let answer = control::mesh(rows, command)?;
    if level::of_mesh(rows)? < Level::AUDIT || !rows.change_something()? {
        return Ok(answer);
    }
    if let Some(what) = what(rows, command, &answer, before)? {
        let by = said.map_or_else(|| unsaid(command), |(by, _)| by.clone());
        append(rows, said.map(|(_, at)| at), by, what)?;
    }
    Ok(answer)
}

/// Whether a command may have to be in the log.
fn is_of_the_log(rows: &Rows<'_>, command: &MeshCommand) -> Result<bool, Error> {
    Ok(match command {
        // They come with every start of a node; only the first one is news.
        MeshCommand::PutNode(node) => !rows.has(&keys::node(node.id))?,
        MeshCommand::PutDrive { drive, .. } | MeshCommand::TakeDrive { drive, .. } => {
            !rows.has(&keys::drive(*drive))?
        }
        MeshCommand::RaiseLevel(_) | MeshCommand::DropTenant { .. } => true,
        command => command.is_order(),
    })
}

/// Who does what nobody has ordered.
fn unsaid(command: &MeshCommand) -> By {
    match command {
        MeshCommand::PutNode(node) => By::Node { node: node.id },
        MeshCommand::PutDrive { node, .. } | MeshCommand::TakeDrive { node, .. } => By::Node { node: *node },
        _ => By::Mesh,
    }
}

fn before(rows: &Rows<'_>, command: &MeshCommand) -> Result<Before, Error> {
    Ok(match command {
        MeshCommand::RaiseLevel(_) => Before::Level(level::of_mesh(rows)?),
        MeshCommand::DropAccessKey { access } => Before::Revoked(rows.find(&keys::access_key(access))?),
        MeshCommand::ForgetAudit { .. } => Before::First(kept(rows)?.log.first),
        MeshCommand::EndTenant { tenant, .. } | MeshCommand::DropTenant { tenant } => {
            Before::Tenant(tenants::name(rows, *tenant)?)
        }
        _ => Before::Nothing,
    })
}

/// What the log says of a command that was carried out and has changed something.
fn what(rows: &Rows<'_>, command: &MeshCommand, answer: &MetaAnswer, before: Before) -> Result<Option<What>, Error> {
    Ok(Some(match command {
        MeshCommand::PutNode(node) => What::Joined { node: node.id, attached_to: node.attached_to },
        MeshCommand::PutDrive { drive, node, capacity_bytes } => {
            What::DriveAdded { drive: *drive, node: *node, capacity_bytes: *capacity_bytes, instead_of: None }
        }
        MeshCommand::TakeDrive { drive, node, capacity_bytes, instead_of, .. } => {
            What::DriveAdded { drive: *drive, node: *node, capacity_bytes: *capacity_bytes, instead_of: *instead_of }
        }
        MeshCommand::RaiseLevel(level) => match before {
            Before::Level(before) if before >= Level::AUDIT => What::LevelRaised { level: *level },
            _ => began(rows)?,
        },
        MeshCommand::Invite { node, .. } => What::Invited { node: *node },
        MeshCommand::Drain { node, draining } => What::Drained { node: *node, draining: *draining },
        MeshCommand::LeaveNode { node, leaving } => What::Leaves { node: *node, leaving: *leaving },
        MeshCommand::RemoveNode { node, empty } => What::NodeRemoved { node: *node, lost: empty.is_none() },
        MeshCommand::LoseDrive { drive } => What::DriveLost { drive: *drive },
        MeshCommand::DrainDrive { drive, draining } => What::DriveDrained { drive: *drive, draining: *draining },
        MeshCommand::RemoveDrive { drive, .. } => What::DriveRemoved { drive: *drive },
        MeshCommand::CreateTenant(row) => {
            let MetaAnswer::Tenant(made) = answer else {
                return Err(Error::bug("a new tenant was answered with something else"));
            };
            What::TenantMade { tenant: made.id, name: row.name.clone(), limits: row.limits }
        }
        MeshCommand::SetLimits { tenant, limits } => What::Limited { tenant: *tenant, limits: *limits },
        MeshCommand::RotateKey { tenant, .. } => {
            let MetaAnswer::Tenant(row) = answer else {
                return Err(Error::bug("another key was answered with something else"));
            };
            What::KeyRotated { tenant: *tenant, key: row.key }
        }
        MeshCommand::PutPrincipal(PrincipalRow { tenant, name, grants }) => {
            What::Granted { tenant: *tenant, user: name.clone(), grants: grants.clone() }
        }
        MeshCommand::DropPrincipal { tenant, name } => What::UserDropped { tenant: *tenant, user: name.clone() },
        MeshCommand::PutAccessKey(row) => {
            What::AccessKeyMade { tenant: row.tenant, user: row.principal.clone(), access: row.access.clone() }
        }
        MeshCommand::DropAccessKey { access } => {
            let row = if let Before::Revoked(row) = before { row } else { None };
            let (tenant, user) = row.map(|row| (row.tenant, row.principal)).unzip();
            What::AccessKeyRevoked { tenant, user, access: access.clone() }
        }
        MeshCommand::SetWish { scope, wish } => What::Wished { scope: *scope, wish: *wish },
        MeshCommand::SetStages { scope, stages } => {
            What::Staged { scope: *scope, kinds: stages.iter().map(|stage| stage.kind.to_string()).collect() }
        }
        MeshCommand::Noted { deed, .. } => match deed.clone() {
            Deed::BackedUp { group } => What::BackedUp { group },
            Deed::DriveOrdered { node, path, instead_of } => What::DriveOrdered { node, path, instead_of },
        },
        MeshCommand::ForgetAudit { .. } => {
            let Log { first, base, .. } = kept(rows)?.log;
            match before {
                Before::First(before) if before < first => What::Forgotten { first, digest: hex(&base) },
                // What is kept no more goes, which is no news.
                _ => return Ok(None),
            }
        }
        MeshCommand::EndTenant { tenant, everything, .. } => {
            let Before::Tenant(Some(name)) = before else {
                return Err(Error::bug("a tenant was deleted that nobody knew"));
            };
            What::TenantEnded { tenant: *tenant, name, everything: *everything }
        }
        MeshCommand::DropTenant { tenant } => match answer {
            // Some of it goes, which is no news.
            MetaAnswer::Rest { more: false } => What::TenantGone { tenant: *tenant },
            _ => return Ok(None),
        },
        MeshCommand::Form { .. }
        | MeshCommand::PutLayout(_)
        | MeshCommand::Assign(_)
        | MeshCommand::BeginMove { .. }
        | MeshCommand::CommitMove { .. }
        | MeshCommand::AbortMove { .. }
        | MeshCommand::SetTail { .. }
        | MeshCommand::PutOut { .. }
        | MeshCommand::FencedNode { .. } => return Ok(None),
    }))
}

fn began(rows: &Rows<'_>) -> Result<What, Error> {
    let formed: Option<Formed> = rows.find(&keys::formed())?;
    let count = |kind| rows.taken_under(&keys::all(kind));
    Ok(What::Began {
        cluster: formed.map(|formed| formed.cluster.to_string()).unwrap_or_default(),
        tenants: count(keys::TENANT)?,
        users: count(keys::PRINCIPAL)?,
        keys: count(keys::ACCESS_KEY)?,
    })
}

/// Notes a recovery, if the mesh keeps a log.
pub(super) fn recovered(rows: &mut Rows<'_>, recovery: &Recovery) -> Result<(), Error> {
    if level::of_mesh(rows)? < Level::AUDIT {
        return Ok(());
    }
    let what = What::Recovered { lost: recovery.lost.clone(), restored: recovery.restores };
    append(rows, Some(recovery.at), recovery.by.clone().unwrap_or(By::Mesh), what)
}

fn append(rows: &mut Rows<'_>, at: Option<UnixMillis>, by: By, what: What) -> Result<(), Error> {
    let mut kept = kept(rows)?;
    let log = &mut kept.log;
    let line = audit::line(&Entry { number: log.next, before: hex(&log.head), at, by, what })?;
    rows.put(keys::audit(log.next), &line)?;
    log.next += 1;
    log.head = audit::digest(&line);
    log.bytes += line.len() as u64;
    rows.put(keys::audit_log(), &kept)
}

/// Refuses orders while the log is full.
fn expect_room(rows: &Rows<'_>, command: &MeshCommand) -> Result<(), Error> {
    let max = match command {
        MeshCommand::ForgetAudit { .. } => return Ok(()),
        command if command.takes_away() => LOG_BYTES_MAX + RESERVE_BYTES,
        _ => LOG_BYTES_MAX,
    };
    let bytes = kept(rows)?.log.bytes;
    if bytes < max {
        return Ok(());
    }
    let what = "the audit log is full: export it (`mesh audit export`), and have the mesh keep the newer entries only (`mesh audit \
                forget`)";
    Err(Error::new(ErrorKind::QuotaExceeded, what).with("bytes", bytes).with("limit", max))
}

/// Remembers a deed, so that it is not noted twice.
pub(super) fn note(rows: &mut Rows<'_>, deed: &Deed, chance: u64) -> Result<MetaAnswer, Error> {
    if matches!(deed, Deed::DriveOrdered { path, .. } if path.len() > PATH_BYTES_MAX) {
        return Err(Error::invalid("a drive's path is shorter").with("limit", PATH_BYTES_MAX));
    }
    let mut kept = kept(rows)?;
    if !kept.noted.contains(&chance) {
        if kept.noted.len() == NOTED_MAX {
            kept.noted.remove(0);
        }
        kept.noted.push(chance);
        rows.put(keys::audit_log(), &kept)?;
    }
    Ok(MetaAnswer::Done)
}

/// Keeps no entries before one: so many of them go with it, the others when this is said again.
pub(super) fn forget(rows: &mut Rows<'_>, first: u64) -> Result<MetaAnswer, Error> {
    let mut kept = kept(rows)?;
    if first > kept.log.next {
        let what = "there is no such entry of the audit log yet";
        return Err(Error::invalid(what).with("first", first).with("next", kept.log.next));
    }
    let log = &mut kept.log;
    if first > log.first {
        log.base = audit::digest(&line(rows, first - 1)?);
        log.first = first;
    }
    let to = log.first.min(log.swept + SWEEP_MAX);
    for number in log.swept..to {
        log.bytes = log.bytes.saturating_sub(line(rows, number)?.len() as u64);
        rows.remove(keys::audit(number));
    }
    log.swept = to;
    rows.put(keys::audit_log(), &kept)?;
    Ok(MetaAnswer::Done)
}

fn line(rows: &Rows<'_>, number: u64) -> Result<String, Error> {
    rows.find(&keys::audit(number))?.ok_or_else(|| {
        let what = "an entry of the audit log is missing; the replica must be built anew from the others";
        Error::new(ErrorKind::Corrupt, what).with("number", number)
    })
}

/// Entries from one on, as many as fit.
pub(super) fn page(rows: &Rows<'_>, from: u64) -> Result<Page, Error> {
    let Kept { log, .. } = kept(rows)?;
    let (mut lines, mut bytes) = (Vec::new(), 0);
    for number in from.max(log.first)..log.next {
        let line = line(rows, number)?;
        bytes += line.len();
        if bytes > PAGE_BYTES && !lines.is_empty() {
            break;
        }
        lines.push(line);
    }
    Ok(Page { log, lines })
}
