//! Backups of the metadata of a mesh: what its groups say of tenants, buckets, objects and where those are; not the objects.
//!
//! ```text
//! a backup     "MESHBACK"  frames
//! a frame      kind:1  len:4  crc:4  body:len       crc: CRC-32C of kind, len and body; numbers are little-endian
//!   't'        at:8                                   the first one: when it was begun, in milliseconds since 1970
//!   'g'        group:8  rows as they were read        those of one group follow each other
//!   'e'        group:8  count:8  digest:16            the group is whole
//!   'z'        groups:4                               the backup is whole: nothing follows
//! ```
//!
//! The namespace groups come first and the control group last, each as it was at one moment: so a layout, or a new bucket, that a
//! namespace group names the control group, which is read later, knows. A bucket that was emptied and deleted in between is
//! in the namespace group still, and nobody can name it any more.
//!
//! Keys in it are wrapped by the cluster's key: without `keyring.toml` a backup opens nothing. It is read by
//! [`write()`], and put back by [`restore`]; [`check`] reads it as that does, and puts nothing back.

use std::{
    io::{Read, Write},
    path::PathBuf,
};

use mesh_core::{
    Error, ErrorKind,
    id::{ClusterId, GroupId, NodeId},
    limits::PAYLOAD_BYTES_MAX,
    meta::ControlView,
    op::{AdminAnswer, AdminOp, Recovery},
    time::UnixMillis,
    topology::NodeKind,
    wire::crc32c,
};
use mesh_dpu_runtime::metadata::{Restore, set_aside};

use crate::{
    Client, config::Config, env::Env, keyring::Keyring, node::METADATA, provision::KEYRING, recover::recovery,
};

const MAGIC: [u8; 8] = *b"MESHBACK";
/// A frame's body at most: a page of rows, and its group.
const BODY_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + 8;

/// What a backup has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Metadata groups.
    pub groups: u32,
    /// Their rows.
    pub rows: u64,
    /// Bytes in all.
    pub bytes: u64,
    /// When it was begun.
    pub at: UnixMillis,
}

/// What a backup was found to have that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// How much.
    pub contents: Contents,
    /// The hosts that the mesh had.
    pub hosts: Vec<NodeId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Time = b't',
    Rows = b'g',
    Group = b'e',
    End = b'z',
}

/// Writes a backup of a whole mesh, which is begun `at` this moment.
///
/// # Errors
/// `Denied` to who is no administrator; what keeps a group from being read: nothing of what was written is of use then.
pub async fn write(client: &Client, at: UnixMillis, out: &mut impl Write) -> Result<Contents, Error> {
    let AdminAnswer::Repair(namespaces) = client.administer(AdminOp::Repair).await? else {
        return Err(Error::bug("a question for groups was answered with something else"));
    };
    let mut out = Counted { out, bytes: 0 };
    out.put(&MAGIC)?;
    out.frame(Kind::Time, &[&at.0.to_le_bytes()])?;
    let mut contents = Contents { at, ..Contents::default() };
    for group in namespaces.iter().map(|said| said.group).chain([GroupId::CONTROL]) {
        let mut from = None;
        loop {
            let (page, rows) = client.backup_page(group, from).await?;
            match (page.next, page.end) {
                (Some(next), None) if Some(next) != from => {
                    out.frame(Kind::Rows, &[&group.0.to_le_bytes(), &rows])?;
                    from = Some(next);
                }
                (None, Some((count, digest))) => {
                    out.frame(Kind::Group, &[&group.0.to_le_bytes(), &count.to_le_bytes(), &digest.to_le_bytes()])?;
                    contents.rows += count;
                    break;
                }
                _ => return Err(Error::bug("a page of a backup says neither what follows nor that nothing does")),
            }
        }
        contents.groups += 1;
    }
    out.frame(Kind::End, &[&contents.groups.to_le_bytes()])?;
    out.out.flush().map_err(unwritable)?;
    contents.bytes = out.bytes;
    Ok(contents)
}

/// What was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// What the backup had.
    pub contents: Contents,
    /// Where the metadata are that there were before, if there were any.
    pub before: Option<PathBuf>,
}

/// Makes a node's metadata out of a backup: it is the only one that votes on them until others have learnt them from it. The
/// node must not run, and no other node either that has metadata of its own: those are another mesh from then on, and are to be
/// set aside first ([`empty`]). Nodes in `lost` are out for good. `agree` is asked once all of the backup is there and nothing is
/// changed yet: what it refuses is not done.
///
/// # Errors
/// `Corrupt` for a backup that is damaged or cut short, `Conflict` for one of another mesh, or if the node is no host of it, or
/// runs; what `agree` says: nothing is changed then.
pub fn restore(
    from: &mut impl Read,
    config: &Config,
    env: &Env,
    lost: &[NodeId],
    agree: impl FnOnce(&Found) -> Result<(), Error>,
) -> Result<Restored, Error> {
    let node = config.node.id();
    let keyring = Keyring::load(&config.data.join(KEYRING))?;
    let folder = config.data.join(METADATA);
    let mut from = begin(from)?;
    let mut restore = Restore::begin(&folder, node, (env.entropy)())?;
    let found = read(&mut from, &mut restore, recovery(env, Vec::new())?, |view| {
        expect_member(view, keyring.cluster(), node, lost)?;
        expect_life(view, node, crate::node::life(&config.data, env)?)?;
        Ok(lost.to_vec())
    })?;
    agree(&found)?;
    Ok(Restored { contents: found.contents, before: restore.finish()? })
}

/// Reads all of a backup as [`restore`] does, and makes nothing out of it.
///
/// # Errors
/// `Corrupt` for one that is damaged or cut short.
pub fn check(from: &mut impl Read) -> Result<Found, Error> {
    read(&mut begin(from)?, &mut Restore::check(), Recovery::default(), |_| Ok(Vec::new()))
}

/// Refuses what does not begin as a backup.
fn begin<T: Read>(from: T) -> Result<Counted<T>, Error> {
    let mut from = Counted { out: from, bytes: 0 };
    let mut magic = [0; MAGIC.len()];
    from.fill(&mut magic)?;
    if magic != MAGIC {
        return Err(Error::new(ErrorKind::Corrupt, "this is no backup of a mesh's metadata"));
    }
    Ok(from)
}

/// Reads a backup, from behind its beginning up to its end. `look` sees what the control group says, and says who is lost.
fn read(
    from: &mut Counted<impl Read>,
    restore: &mut Restore,
    mut recovery: Recovery,
    look: impl Fn(&ControlView) -> Result<Vec<NodeId>, Error>,
) -> Result<Found, Error> {
    let (Kind::Time, at) = from.next()? else { return Err(damaged()) };
    let at = UnixMillis(u64::from_le_bytes(at.try_into().map_err(|_| damaged())?));
    let mut contents = Contents { at, ..Contents::default() };
    // Of the control group: how many others there are, and the hosts.
    let mut known: Option<(u64, Vec<NodeId>)> = None;
    loop {
        match from.next()? {
            // Behind the control group.
            (Kind::Rows | Kind::Group, _) if known.is_some() => return Err(damaged()),
            (Kind::Rows, body) => {
                let (group, rows) = group_of(&body)?;
                restore.rows(group, rows)?;
            }
            (Kind::Group, body) => {
                let (group, rest) = group_of(&body)?;
                let (count, digest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
                let digest = <[u8; 16]>::try_from(digest).map_err(|_| damaged())?;
                let count = u64::from_le_bytes(*count);
                recovery.lost.clear();
                if group == GroupId::CONTROL {
                    let view = restore.control()?;
                    recovery.lost = look(&view)?;
                    let hosts = view.nodes.values().filter(|info| info.kind == NodeKind::Host).map(|info| info.id);
                    known = Some((u64::from(view.namespaces), hosts.collect()));
                }
                restore.end(group, (count, u128::from_le_bytes(digest)), &recovery)?;
                contents.groups += 1;
                contents.rows += count;
            }
            (Kind::End, body) if body == contents.groups.to_le_bytes() => break,
            (Kind::Time | Kind::End, _) => return Err(damaged()),
        }
    }
    from.expect_end()?;
    contents.bytes = from.bytes;
    // All of them, and no others.
    let (namespaces, hosts) = known.ok_or_else(damaged)?;
    let all = (1..=namespaces).all(|group| restore.has(GroupId(group)));
    if !all || namespaces + 1 != u64::from(contents.groups) {
        return Err(damaged());
    }
    Ok(Found { contents, hosts })
}

/// Refuses a backup of another mesh, and a node that cannot be the one from which the others learn.
fn expect_member(view: &ControlView, cluster: ClusterId, node: NodeId, lost: &[NodeId]) -> Result<(), Error> {
    let refused = |what: &'static str, node: NodeId| Err(Error::new(ErrorKind::Conflict, what).with("node", node));
    if view.cluster != Some(cluster) {
        return Err(Error::new(ErrorKind::Conflict, "this is a backup of another mesh"));
    }
    let is_host = view.nodes.get(&node).is_some_and(|info| info.kind == NodeKind::Host);
    if lost.contains(&node) || !is_host {
        let what = "this node was no host of the mesh when the backup was made: restore it on one that was";
        return refused(what, node);
    }
    match lost.iter().find(|lost| !view.nodes.contains_key(lost) && !view.is_out(**lost)) {
        Some(unknown) => refused("no node of this number was a member when the backup was made", *unknown),
        None => Ok(()),
    }
}

/// Refuses a data folder under which the mesh would not take the node in: it was registered from another one.
fn expect_life(view: &ControlView, node: NodeId, life: u64) -> Result<(), Error> {
    if view.nodes.get(&node).is_some_and(|info| info.life == life) {
        return Ok(());
    }
    let what = "this node's data folder was another when the backup was made, and the mesh would not take it for the same node: put \
                back the file `life` of that folder, or restore on another host";
    Err(Error::new(ErrorKind::Conflict, what).with("node", node))
}

/// Sets a node's metadata aside, and those that a restore that was cut short left, so that it starts with none and learns them from
/// the others. Gives where they are. The node must not run.
///
/// # Errors
/// `Conflict` if it does, or if too many are kept already.
pub fn empty(config: &Config) -> Result<Vec<PathBuf>, Error> {
    set_aside(&config.data.join(METADATA))
}

struct Counted<T> {
    out: T,
    bytes: u64,
}

impl<T: Write> Counted<T> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes).map_err(unwritable)
    }

    fn frame(&mut self, kind: Kind, parts: &[&[u8]]) -> Result<(), Error> {
        let body = parts.concat();
        let len = u32::try_from(body.len()).ok().filter(|_| body.len() <= BODY_BYTES_MAX);
        let len = len.ok_or_else(|| Error::bug("a page of a backup is longer than a message"))?.to_le_bytes();
        let crc = checksum(kind as u8, len, &body).to_le_bytes();
        [&[kind as u8][..], &len, &crc, &body].into_iter().try_for_each(|part| self.put(part))
    }
}

impl<T: Read> Counted<T> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.bytes += bytes.len() as u64;
        self.out.read_exact(bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::new(ErrorKind::Corrupt, "the backup is cut short"),
            _ => unreadable(error),
        })
    }

    fn next(&mut self) -> Result<(Kind, Vec<u8>), Error> {
        let (mut kind, mut len, mut crc) = ([0; 1], [0; 4], [0; 4]);
        self.fill(&mut kind)?;
        self.fill(&mut len)?;
        self.fill(&mut crc)?;
        let bytes = u32::from_le_bytes(len) as usize;
        if bytes > BODY_BYTES_MAX {
            return Err(damaged());
        }
        let mut body = vec![0; bytes];
        self.fill(&mut body)?;
        if u32::from_le_bytes(crc) != checksum(kind[0], len, &body) {
            return Err(damaged());
        }
        let known = [Kind::Time, Kind::Rows, Kind::Group, Kind::End].into_iter().find(|known| *known as u8 == kind[0]);
        Ok((known.ok_or_else(damaged)?, body))
    }

    /// Nothing follows.
    fn expect_end(&mut self) -> Result<(), Error> {
        match self.out.read_exact(&mut [0]) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(unreadable(error)),
            Ok(()) => Err(damaged()),
        }
    }
}

fn checksum(kind: u8, len: [u8; 4], body: &[u8]) -> u32 {
    crc32c(&[&[kind][..], &len, body].concat())
}

fn group_of(body: &[u8]) -> Result<(GroupId, &[u8]), Error> {
    let (group, rest) = body.split_first_chunk::<8>().ok_or_else(damaged)?;
    Ok((GroupId(u64::from_le_bytes(*group)), rest))
}

fn damaged() -> Error {
    Error::new(ErrorKind::Corrupt, "the backup is damaged: nothing was changed; take another one")
}

fn unreadable(error: std::io::Error) -> Error {
    Error::new(ErrorKind::DriveFailed, "the backup cannot be read").caused_by(error)
}

fn unwritable(error: std::io::Error) -> Error {
    Error::new(ErrorKind::DriveFailed, "the backup cannot be written").caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A backup of two groups, as it is written.
    fn written() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut out = Counted { out: &mut bytes, bytes: 0 };
        out.put(&MAGIC).unwrap();
        out.frame(Kind::Time, &[&1_800_000_000_000_u64.to_le_bytes()]).unwrap();
        for group in [1_u64, 0] {
            out.frame(Kind::Rows, &[&group.to_le_bytes(), b"some rows"]).unwrap();
            let count = 3_u64.to_le_bytes();
            out.frame(Kind::Group, &[&group.to_le_bytes(), &count, &5_u128.to_le_bytes()]).unwrap();
        }
        out.frame(Kind::End, &[&2_u32.to_le_bytes()]).unwrap();
        assert_eq!(out.bytes, bytes.len() as u64);
        bytes
    }

    /// Its frames up to the last one.
    fn frames(bytes: &[u8]) -> Result<Vec<(Kind, Vec<u8>)>, Error> {
        let (mut from, mut all) = (begin(bytes)?, Vec::new());
        while all.last().is_none_or(|(kind, _)| *kind != Kind::End) {
            all.push(from.next()?);
        }
        from.expect_end()?;
        Ok(all)
    }

    #[test]
    fn no_bit_can_be_another_and_no_byte_be_missing() {
        let whole = written();
        let kinds: Vec<Kind> = frames(&whole).unwrap().into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [Kind::Time, Kind::Rows, Kind::Group, Kind::Rows, Kind::Group, Kind::End]);
        assert_eq!(frames(&[&whole[..], &[0]].concat()).unwrap_err().kind(), ErrorKind::Corrupt, "something follows");
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut other = whole.clone();
                other[at] ^= 1 << bit;
                assert_eq!(frames(&other).unwrap_err().kind(), ErrorKind::Corrupt, "byte {at}, bit {bit}");
            }
            assert_eq!(frames(&whole[..at]).unwrap_err().kind(), ErrorKind::Corrupt, "{at} bytes");
        }
    }

    /// Frames as they would be written, of groups that are not there.
    #[test]
    fn a_check_finds_what_is_not_as_a_backup_is() {
        let checked = |frames: &[(Kind, Vec<u8>)]| {
            let mut bytes = Vec::new();
            let mut out = Counted { out: &mut bytes, bytes: 0 };
            out.put(&MAGIC).unwrap();
            frames.iter().for_each(|(kind, body)| out.frame(*kind, &[body]).unwrap());
            check(&mut &bytes[..]).map_err(|error| error.kind())
        };
        let frame = |kind: Kind, parts: &[&[u8]]| (kind, parts.concat());
        let one = 1_u64.to_le_bytes();
        let time = || frame(Kind::Time, &[&7_u64.to_le_bytes()]);
        let end = |groups: u8| frame(Kind::End, &[&[groups, 0, 0, 0]]);
        let group = |count: u64| frame(Kind::Group, &[&one, &count.to_le_bytes(), &[0; 16]]);
        let corrupt = [
            vec![],
            vec![time()],
            vec![end(0)],
            vec![time(), end(0)],
            vec![time(), time()],
            vec![group(0), time(), end(1)],
            // Without a control group.
            vec![time(), group(0), end(1)],
            vec![time(), frame(Kind::Rows, &[&one, b"no rows"]), group(0), end(1)],
            // Fewer than were said.
            vec![time(), group(1), end(1)],
            vec![time(), group(0), group(0), end(2)],
        ];
        for frames in corrupt {
            assert_eq!(checked(&frames), Err(ErrorKind::Corrupt), "{frames:?}");
        }
    }

    #[test]
    fn what_is_no_backup_is_refused() {
        let mut state = 1_u64;
        for round in 0..2000 {
            let mut tail = Vec::new();
            for _ in 0..round % 200 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                tail.push((state >> 56) as u8);
            }
            for bytes in [tail.clone(), [&MAGIC[..], &tail].concat()] {
                assert!(frames(&bytes).is_err() && check(&mut &bytes[..]).is_err(), "round {round}");
            }
        }
    }
}
