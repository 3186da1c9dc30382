//! Backups of the metadata of a mesh: what its groups say of tenants, buckets, objects and where those are; not the objects.
//!
//! ```text
//! a backup     "MESHBACK"  frames
//! a frame      kind:1  len:4  crc:4  body:len       crc: CRC-32C of kind, len and body; numbers are little-endian
//!   'g'        group:8  rows as they were read        those of one group follow each other
//!   'e'        group:8  count:8  digest:16            the group is whole
//!   'z'        groups:4                               the backup is whole
//! ```
//!
//! The namespace groups come first and the control group last, each as it was at one moment: so a layout, or a new bucket, that a
//! namespace group names the control group, which is read later, knows. A bucket that was emptied and deleted in between is
//! in the namespace group still, and nobody can name it any more.
//!
//! Keys in it are wrapped by the cluster's key: without `keyring.toml` a backup opens nothing. It is read by
//! [`write()`], and put back by [`restore`].

use std::{
    io::{Read, Write},
    path::PathBuf,
};

use mesh_core::{
    Error, ErrorKind,
    id::{ClusterId, GroupId, NodeId},
    limits::PAYLOAD_BYTES_MAX,
    meta::ControlView,
    op::{AdminAnswer, AdminOp},
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Rows = b'g',
    Group = b'e',
    End = b'z',
}

/// Writes a backup of a whole mesh.
///
/// # Errors
/// `Denied` to who is no administrator; what keeps a group from being read: nothing of what was written is of use then.
pub async fn write(client: &Client, out: &mut impl Write) -> Result<Contents, Error> {
    let AdminAnswer::Repair(namespaces) = client.administer(AdminOp::Repair).await? else {
        return Err(Error::bug("a question for groups was answered with something else"));
    };
    let mut out = Counted { out, bytes: 0 };
    out.put(&MAGIC)?;
    let mut contents = Contents::default();
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
/// set aside first ([`empty`]). Nodes in `lost` are out for good.
///
/// # Errors
/// `Corrupt` for a backup that is damaged or cut short, `Conflict` for one of another mesh, or if the node is no host of it, or
/// runs: nothing is changed then.
pub fn restore(from: &mut impl Read, config: &Config, env: &Env, lost: &[NodeId]) -> Result<Restored, Error> {
    let node = config.node.id();
    let keyring = Keyring::load(&config.data.join(KEYRING))?;
    let folder = config.data.join(METADATA);
    let mut from = Counted { out: from, bytes: 0 };
    let mut magic = [0; MAGIC.len()];
    from.fill(&mut magic)?;
    if magic != MAGIC {
        return Err(Error::new(ErrorKind::Corrupt, "this is no backup of a mesh's metadata"));
    }
    let mut restore = Restore::begin(&folder, node, (env.entropy)())?;
    let (mut contents, mut namespaces) = (Contents::default(), None);
    let mut recovery = recovery(env, Vec::new());
    loop {
        match from.next()? {
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
                    expect_member(&view, keyring.cluster(), node, lost)?;
                    expect_life(&view, node, crate::node::life(&config.data, env)?)?;
                    recovery.lost = lost.to_vec();
                    namespaces = Some(u64::from(view.namespaces));
                }
                restore.end(group, (count, u128::from_le_bytes(digest)), &recovery)?;
                contents.groups += 1;
                contents.rows += count;
            }
            (Kind::End, body) if body == contents.groups.to_le_bytes() => break,
            (Kind::End, _) => return Err(damaged()),
        }
    }
    contents.bytes = from.bytes;
    // All of them, and no others.
    let all = namespaces.is_some_and(|namespaces| (1..=namespaces).all(|group| restore.has(GroupId(group))));
    if !all || namespaces.map(|namespaces| namespaces + 1) != Some(u64::from(contents.groups)) {
        return Err(damaged());
    }
    Ok(Restored { contents, before: restore.finish()? })
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

/// Sets a node's metadata aside, so that it starts with none and learns them from the others. Gives where they are, if there
/// were any. The node must not run.
///
/// # Errors
/// `Conflict` if it does, or if too many are kept already.
pub fn empty(config: &Config) -> Result<Option<PathBuf>, Error> {
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
            _ => Error::new(ErrorKind::DriveFailed, "the backup cannot be read").caused_by(error),
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
        let known = [Kind::Rows, Kind::Group, Kind::End].into_iter().find(|known| *known as u8 == kind[0]);
        Ok((known.ok_or_else(damaged)?, body))
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
        let mut from = Counted { out: bytes, bytes: 0 };
        let (mut magic, mut all) = ([0; MAGIC.len()], Vec::new());
        from.fill(&mut magic)?;
        if magic != MAGIC {
            return Err(damaged());
        }
        while all.last().is_none_or(|(kind, _)| *kind != Kind::End) {
            all.push(from.next()?);
        }
        Ok(all)
    }

    #[test]
    fn no_bit_can_be_another_and_no_byte_be_missing() {
        let whole = written();
        let kinds: Vec<Kind> = frames(&whole).unwrap().into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [Kind::Rows, Kind::Group, Kind::Rows, Kind::Group, Kind::End]);
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut other = whole.clone();
                other[at] ^= 1 << bit;
                assert_eq!(frames(&other).unwrap_err().kind(), ErrorKind::Corrupt, "byte {at}, bit {bit}");
            }
            assert_eq!(frames(&whole[..at]).unwrap_err().kind(), ErrorKind::Corrupt, "{at} bytes");
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
            assert!(frames(&tail).is_err() && frames(&[&MAGIC[..], &tail].concat()).is_err(), "round {round}");
        }
    }
}
