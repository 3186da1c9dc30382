//! Where rows are in a group's table.
//!
//! A key is one byte that names the kind of row, then what is drawn here; numbers are big-endian, so that keys order
//! as the numbers do. Object keys stand raw at the end of a table key, in UTF-8 byte order, as S3 lists them.
//!
//! ```text
//! every group
//!   'S' actor:8                     Life: the actor's present session
//!   'A' actor:8 session:16 request:8
//!                                   Said: what a command was answered (a session is an epoch:8 and a life:8)
//!   'F'                             History, once it went through a recovery
//!
//! control group
//!   'C'                             Formed: cluster, code, how many namespaces
//!   'c' what:1                      the last number given out ('t' tenants, 'b' buckets, 'k' keys), or behind a gap ('l' layouts)
//!   'v'                             the mesh's level
//!   'm' prefix                      how many rows there are whose keys begin so, if anybody has asked
//!   'n' node:8                      NodeInfo
//!   'i' node:8                      the invitation by which nobody has joined yet
//!   'd' drive:8                     DriveInfo
//!   'x' drive:8                     (empty) the drive was declared lost
//!   'y' drive:8                     Leaving
//!   'z' node:8                      Departure
//!   'l' layout:8                    Layout
//!   'q'                             Codes that buckets have asked for
//!   't' tenant:8                    TenantRow
//!   'T' name                        the tenant's number, also once it was deleted
//!   'u' key:8                       PastKey
//!   'r' tenant:8                    EndedTenant, while something of it is left
//!   'p' tenant:8 name               PrincipalRow
//!   'k' access                      AccessKeyRow
//!   'j' tenant:8 name               a principal was taken out
//!   'J' access                      an access key was revoked
//!   'I' number:8                    an entry of the audit log: its line
//!   'M'                             which entries of the audit log there are
//!   'b' bucket:8                    BucketRow
//!   'B' name                        the bucket's number
//!   'o' tenant:8 name               the bucket's number
//!   'a' actor:8                     Assignment
//!   'w' scope, encoded              Wish, with its Scope
//!   's' scope, encoded              CustomSpecs of data chains, with their Scope
//!   'h' actor:8                     Tail, with its actor
//!
//! namespace groups
//!   'H' actor:8                     the first writes of the open blocks that the actor holds, oldest first
//!   'N'                             how many blocks were granted
//!   'O' first:8                     the actor that holds this open block
//!   'D' first:8                     (empty) a closed block, until it is swept
//!   'W' write:8                     Use: what a write is used for (the live index)
//!   'K' bucket:8 key                ObjectRow
//!   'U' upload:8                    Upload: an upload that is not completed
//!   'V' bucket:8 key' upload:8      (empty) uploads by key; key' is the key, escaped, with an end mark
//!   'P' upload:8 number:4           PartRow of an upload, or of the object it became
//!   'G' since:8 write:8             Waste: garbage by its stamps
//!   'g'                             the last stamp that garbage was given
//!   'E' drive:8 write:8             (empty) the drive is owed the deletion of what it holds of a forgotten write
//!   'e' drive:8                     how many such rows the drive has
//!   'R'                             RepairState
//!   'L' layout:8                    the line that the layout is of
//!   'Y' write:8                     (empty) not all shards of the write may be at their homes
//!   'Q' tenant:8                    Usage
//!   'X' bucket:8                    (empty) the bucket is sealed, for good
//!
//! key' in 'V':  every 0x00 becomes 0x00 0xff; the end mark is 0x00 0x01. So "a" comes before "a\0" and "ab".
//! ```

use mesh_core::assignment::Scope;
use mesh_core::id::{ActorId, BucketId, DriveId, KeyId, LayoutId, NodeId, TenantId, WriteId};
use mesh_core::meta::Session;
use mesh_core::time::UnixMillis;

pub(super) const FORMED: u8 = b'C';
pub(super) const COUNTER: u8 = b'c';
pub(super) const LEVEL: u8 = b'v';
pub(super) const ROWS: u8 = b'm';
pub(super) const NODE: u8 = b'n';
pub(super) const INVITATION: u8 = b'i';
pub(super) const DRIVE: u8 = b'd';
pub(super) const LOST: u8 = b'x';
pub(super) const LEAVING: u8 = b'y';
pub(super) const DEPARTURE: u8 = b'z';
pub(super) const LAYOUT: u8 = b'l';
pub(super) const CODES: u8 = b'q';
pub(super) const TENANT: u8 = b't';
pub(super) const TENANT_NAME: u8 = b'T';
pub(super) const PAST_KEY: u8 = b'u';
pub(super) const ENDED: u8 = b'r';
pub(super) const PRINCIPAL: u8 = b'p';
pub(super) const ACCESS_KEY: u8 = b'k';
pub(super) const PAST_PRINCIPAL: u8 = b'j';
pub(super) const PAST_ACCESS: u8 = b'J';
pub(super) const AUDIT: u8 = b'I';
pub(super) const AUDIT_LOG: u8 = b'M';
pub(super) const BUCKET: u8 = b'b';
pub(super) const BUCKET_NAME: u8 = b'B';
pub(super) const BUCKET_OWNER: u8 = b'o';
pub(super) const ASSIGNMENT: u8 = b'a';
pub(super) const WISH: u8 = b'w';
pub(super) const STAGES: u8 = b's';
pub(super) const TAIL: u8 = b'h';

pub(super) const SESSION: u8 = b'S';
pub(super) const ANSWER: u8 = b'A';
pub(super) const HISTORY: u8 = b'F';
pub(super) const HELD: u8 = b'H';
pub(super) const GRANTED: u8 = b'N';
pub(super) const BLOCK: u8 = b'O';
pub(super) const CLOSED: u8 = b'D';
pub(super) const USE: u8 = b'W';
pub(super) const OBJECT: u8 = b'K';
pub(super) const UPLOAD: u8 = b'U';
pub(super) const UPLOAD_KEY: u8 = b'V';
pub(super) const PART: u8 = b'P';
pub(super) const WASTE: u8 = b'G';
pub(super) const STAMP: u8 = b'g';
pub(super) const OWED: u8 = b'E';
pub(super) const OWING: u8 = b'e';
pub(super) const REPAIR: u8 = b'R';
pub(super) const LINE: u8 = b'L';
pub(super) const UNSETTLED: u8 = b'Y';
pub(super) const USAGE: u8 = b'Q';
pub(super) const SEALED: u8 = b'X';

/// Which counter of the control group.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Counter {
    Tenants = b't',
    Buckets = b'b',
    /// Of tenants' keys but their first ones.
    Keys = b'k',
    /// The newest layout when the group was recovered last: the numbers before it have a gap.
    Layouts = b'l',
}

fn key(kind: u8, pieces: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + pieces.iter().map(|piece| piece.len()).sum::<usize>());
    key.push(kind);
    pieces.iter().for_each(|piece| key.extend_from_slice(piece));
    key
}

/// All rows of a kind begin so.
pub(super) fn all(kind: u8) -> Vec<u8> {
    vec![kind]
}

pub(super) fn formed() -> Vec<u8> {
    key(FORMED, &[])
}

pub(super) fn level() -> Vec<u8> {
    key(LEVEL, &[])
}

pub(super) fn codes() -> Vec<u8> {
    key(CODES, &[])
}

pub(super) fn counter(which: Counter) -> Vec<u8> {
    key(COUNTER, &[&[which as u8]])
}

/// How many rows there are under a prefix.
pub(super) fn rows_under(prefix: &[u8]) -> Vec<u8> {
    key(ROWS, &[prefix])
}

pub(super) fn node(id: NodeId) -> Vec<u8> {
    key(NODE, &[&id.0.to_be_bytes()])
}

pub(super) fn invitation(id: NodeId) -> Vec<u8> {
    key(INVITATION, &[&id.0.to_be_bytes()])
}

pub(super) fn drive(id: DriveId) -> Vec<u8> {
    key(DRIVE, &[&id.0.to_be_bytes()])
}

pub(super) fn lost(id: DriveId) -> Vec<u8> {
    key(LOST, &[&id.0.to_be_bytes()])
}

pub(super) fn leaving(id: DriveId) -> Vec<u8> {
    key(LEAVING, &[&id.0.to_be_bytes()])
}

pub(super) fn departure(id: NodeId) -> Vec<u8> {
    key(DEPARTURE, &[&id.0.to_be_bytes()])
}

/// The number inside a table key of a kind whose keys are a number.
pub(super) fn number(key: &[u8]) -> Option<u64> {
    key.get(1..)?.try_into().ok().map(u64::from_be_bytes)
}

pub(super) fn layout(id: LayoutId) -> Vec<u8> {
    key(LAYOUT, &[&id.0.to_be_bytes()])
}

pub(super) fn tenant(id: TenantId) -> Vec<u8> {
    key(TENANT, &[&id.0.to_be_bytes()])
}

pub(super) fn tenant_name(name: &str) -> Vec<u8> {
    key(TENANT_NAME, &[name.as_bytes()])
}

pub(super) fn principal(tenant: TenantId, name: &str) -> Vec<u8> {
    key(PRINCIPAL, &[&tenant.0.to_be_bytes(), name.as_bytes()])
}

pub(super) fn past_key(id: KeyId) -> Vec<u8> {
    key(PAST_KEY, &[&id.0.to_be_bytes()])
}

/// A tenant that was deleted.
pub(super) fn ended(tenant: TenantId) -> Vec<u8> {
    key(ENDED, &[&tenant.0.to_be_bytes()])
}

/// An access key that was revoked.
pub(super) fn past_access(access: &str) -> Vec<u8> {
    key(PAST_ACCESS, &[access.as_bytes()])
}

/// A principal that was taken out.
pub(super) fn past_principal(tenant: TenantId, name: &str) -> Vec<u8> {
    key(PAST_PRINCIPAL, &[&tenant.0.to_be_bytes(), name.as_bytes()])
}

/// The tenant and the name inside a table key of [`principal`].
pub(super) fn principal_of(key: &[u8]) -> Option<(TenantId, &str)> {
    let (tenant, name) = key.get(1..)?.split_first_chunk::<8>()?;
    Some((TenantId(u64::from_be_bytes(*tenant)), core::str::from_utf8(name).ok()?))
}

pub(super) fn access_key(access: &str) -> Vec<u8> {
    key(ACCESS_KEY, &[access.as_bytes()])
}

/// The public half inside a table key of [`access_key`].
pub(super) fn access_of(key: &[u8]) -> Option<&str> {
    core::str::from_utf8(key.get(1..)?).ok()
}

pub(super) fn audit(number: u64) -> Vec<u8> {
    key(AUDIT, &[&number.to_be_bytes()])
}

pub(super) fn audit_log() -> Vec<u8> {
    key(AUDIT_LOG, &[])
}

pub(super) fn bucket(id: BucketId) -> Vec<u8> {
    key(BUCKET, &[&id.0.to_be_bytes()])
}

pub(super) fn bucket_name(name: &str) -> Vec<u8> {
    key(BUCKET_NAME, &[name.as_bytes()])
}

pub(super) fn bucket_owner(tenant: TenantId, name: &str) -> Vec<u8> {
    key(BUCKET_OWNER, &[&tenant.0.to_be_bytes(), name.as_bytes()])
}

pub(super) fn assignment(actor: ActorId) -> Vec<u8> {
    key(ASSIGNMENT, &[&actor.0.to_be_bytes()])
}

pub(super) fn tail(actor: ActorId) -> Vec<u8> {
    key(TAIL, &[&actor.0.to_be_bytes()])
}

pub(super) fn wish(scope: Scope) -> Vec<u8> {
    scoped(WISH, scope)
}

pub(super) fn stages(scope: Scope) -> Vec<u8> {
    scoped(STAGES, scope)
}

fn scoped(kind: u8, scope: Scope) -> Vec<u8> {
    match scope {
        Scope::Mesh => key(kind, &[b"m"]),
        Scope::Tenant(tenant) => key(kind, &[b"t", &tenant.0.to_be_bytes()]),
        Scope::Actor(actor) => key(kind, &[b"a", &actor.0.to_be_bytes()]),
    }
}

/// The scope inside a table key of [`wish`] or [`stages`].
pub(super) fn scope_of(key: &[u8]) -> Option<Scope> {
    let (kind, number) = key.get(1..)?.split_first()?;
    let number = || number.try_into().ok().map(u64::from_be_bytes);
    match kind {
        b'm' => Some(Scope::Mesh),
        b't' => Some(Scope::Tenant(TenantId(number()?))),
        b'a' => Some(Scope::Actor(ActorId(number()?))),
        _ => None,
    }
}

pub(super) fn session(actor: ActorId) -> Vec<u8> {
    key(SESSION, &[&actor.0.to_be_bytes()])
}

/// What all sessions of an actor were answered: earlier sessions, and then lower numbers, come first.
pub(super) fn answers(actor: ActorId) -> Vec<u8> {
    key(ANSWER, &[&actor.0.to_be_bytes()])
}

pub(super) fn answer(actor: ActorId, session: Session, request: u64) -> Vec<u8> {
    let Session { epoch, life } = session;
    let pieces = [actor.0, epoch.0, life, request].map(u64::to_be_bytes);
    key(ANSWER, &pieces.each_ref().map(|piece| &piece[..]))
}

pub(super) fn held(actor: ActorId) -> Vec<u8> {
    key(HELD, &[&actor.0.to_be_bytes()])
}

pub(super) fn granted() -> Vec<u8> {
    key(GRANTED, &[])
}

pub(super) fn block(first: WriteId) -> Vec<u8> {
    key(BLOCK, &[&first.0.to_be_bytes()])
}

/// A block that is closed and not swept.
pub(super) fn closed(first: WriteId) -> Vec<u8> {
    key(CLOSED, &[&first.0.to_be_bytes()])
}

/// The first write of the block inside a table key of [`closed`].
pub(super) fn closed_block(key: &[u8]) -> Option<WriteId> {
    key.get(1..9)?.first_chunk::<8>().map(|bytes| WriteId(u64::from_be_bytes(*bytes)))
}

pub(super) fn write_use(write: WriteId) -> Vec<u8> {
    key(USE, &[&write.0.to_be_bytes()])
}

/// The write inside a table key of [`write_use`] or [`unsettled`].
pub(super) fn used_write(key: &[u8]) -> Option<WriteId> {
    key.get(1..)?.first_chunk::<8>().map(|bytes| WriteId(u64::from_be_bytes(*bytes)))
}

pub(super) fn history() -> Vec<u8> {
    key(HISTORY, &[])
}

pub(super) fn repair() -> Vec<u8> {
    key(REPAIR, &[])
}

pub(super) fn line_of(layout: LayoutId) -> Vec<u8> {
    key(LINE, &[&layout.0.to_be_bytes()])
}

pub(super) fn unsettled(write: WriteId) -> Vec<u8> {
    key(UNSETTLED, &[&write.0.to_be_bytes()])
}

pub(super) fn object(bucket: BucketId, name: &str) -> Vec<u8> {
    key(OBJECT, &[&bucket.0.to_be_bytes(), name.as_bytes()])
}

/// The object key inside the table key of an object.
pub(super) fn object_name(key: &[u8]) -> Option<&str> {
    core::str::from_utf8(key.get(9..)?).ok()
}

pub(super) fn upload(id: WriteId) -> Vec<u8> {
    key(UPLOAD, &[&id.0.to_be_bytes()])
}

/// The uploads of a bucket whose keys begin with `prefix`.
pub(super) fn uploads_under(bucket: BucketId, prefix: &str) -> Vec<u8> {
    key(UPLOAD_KEY, &[&bucket.0.to_be_bytes(), &escaped(prefix)])
}

pub(super) fn upload_key(bucket: BucketId, name: &str, id: WriteId) -> Vec<u8> {
    key(UPLOAD_KEY, &[&bucket.0.to_be_bytes(), &escaped(name), &[0, 1], &id.0.to_be_bytes()])
}

/// The upload inside a table key of [`upload_key`].
pub(super) fn upload_of(key: &[u8]) -> Option<WriteId> {
    key.last_chunk::<8>().map(|bytes| WriteId(u64::from_be_bytes(*bytes)))
}

pub(super) fn parts(upload: WriteId) -> Vec<u8> {
    key(PART, &[&upload.0.to_be_bytes()])
}

pub(super) fn part(upload: WriteId, number: u32) -> Vec<u8> {
    key(PART, &[&upload.0.to_be_bytes(), &number.to_be_bytes()])
}

/// Garbage that began at or after `since`.
pub(super) fn waste_from(since: UnixMillis) -> Vec<u8> {
    key(WASTE, &[&since.0.to_be_bytes()])
}

pub(super) fn waste(since: UnixMillis, write: WriteId) -> Vec<u8> {
    key(WASTE, &[&since.0.to_be_bytes(), &write.0.to_be_bytes()])
}

/// The write inside a table key of [`waste`].
pub(super) fn waste_write(key: &[u8]) -> Option<WriteId> {
    key.last_chunk::<8>().map(|bytes| WriteId(u64::from_be_bytes(*bytes)))
}

/// The time inside a table key of [`waste`].
pub(super) fn waste_since(key: &[u8]) -> Option<UnixMillis> {
    key.get(1..9)?.first_chunk::<8>().map(|bytes| UnixMillis(u64::from_be_bytes(*bytes)))
}

pub(super) fn stamp() -> Vec<u8> {
    key(STAMP, &[])
}

/// All that a drive is owed.
pub(super) fn owed_by(drive: DriveId) -> Vec<u8> {
    key(OWED, &[&drive.0.to_be_bytes()])
}

pub(super) fn owed(drive: DriveId, write: WriteId) -> Vec<u8> {
    key(OWED, &[&drive.0.to_be_bytes(), &write.0.to_be_bytes()])
}

/// The write inside a table key of [`owed`].
pub(super) fn owed_write(key: &[u8]) -> Option<WriteId> {
    key.last_chunk::<8>().map(|bytes| WriteId(u64::from_be_bytes(*bytes)))
}

pub(super) fn owing(drive: DriveId) -> Vec<u8> {
    key(OWING, &[&drive.0.to_be_bytes()])
}

/// The drive inside a table key of [`owing`].
pub(super) fn owing_drive(key: &[u8]) -> Option<DriveId> {
    key.last_chunk::<8>().map(|bytes| DriveId(u64::from_be_bytes(*bytes)))
}

pub(super) fn usage(tenant: TenantId) -> Vec<u8> {
    key(USAGE, &[&tenant.0.to_be_bytes()])
}

pub(super) fn sealed(bucket: BucketId) -> Vec<u8> {
    key(SEALED, &[&bucket.0.to_be_bytes()])
}

/// The least key that is greater than every key that begins with `prefix`. `prefix` must not be 0xff only; table keys
/// begin with a letter.
pub(super) fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0xff]
}

fn escaped(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for &byte in name.as_bytes() {
        bytes.push(byte);
        if byte == 0 {
            bytes.push(0xff);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_order_by_key_then_number() {
        let names = ["a", "a\0", "a\0b", "ab", "b"];
        let mut keys: Vec<_> = names.iter().map(|name| upload_key(BucketId(1), name, WriteId(9))).collect();
        keys.push(upload_key(BucketId(1), "b", WriteId(10)));
        assert!(keys.is_sorted());
        assert!(keys[..4].iter().all(|key| key.starts_with(&uploads_under(BucketId(1), "a"))));
        assert_eq!(upload_of(&keys[5]), Some(WriteId(10)));
    }

    #[test]
    fn behind_is_the_least_key_above_a_prefix() {
        assert_eq!(behind(b"Ka"), b"Kb");
        assert_eq!(behind(&[b'K', 0xff, 0xff]), b"L");
    }
}
