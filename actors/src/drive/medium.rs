//! What a medium is, before a drive is made on it: blank, ours, or not to be touched.

use mesh_core::{
    Buf,
    id::{ClusterId, DriveId, Epoch},
    spec::DriveSpec,
};

use super::format::{BLOCK, Census, Copy, Identity, SLOTS_START, SUPERBLOCK_B, Scrubbed, Superblock};

/// How many bytes from offset 0 on [`inspect`] wants to see.
pub const INSPECT_BYTES: u32 = SLOTS_START as u32;

/// What a medium is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Medium {
    /// Nothing but zeros where the superblocks belong: it may be formatted with [`superblock`].
    Blank,
    /// A drive of this cluster.
    Ours {
        /// Which.
        drive: DriveId,
        /// Its newest owner's epoch.
        epoch: Epoch,
        /// The epoch in which it was formatted.
        born: Epoch,
        /// Bytes of a segment.
        segment_bytes: u32,
        /// Segments that owners have laid out; 0: none has yet.
        segments: u32,
    },
    /// A drive of another cluster. It must not be written.
    Foreign {
        /// Whose.
        cluster: ClusterId,
    },
    /// Neither blank nor readable. It must not be written.
    Damaged {
        /// What is wrong, for people.
        why: String,
    },
    /// A drive in a format that this build does not know. It must not be written.
    Newer {
        /// The format's version.
        version: u16,
    },
}

/// Says what a medium is, from its first [`INSPECT_BYTES`].
#[must_use]
pub fn inspect(first_bytes: &[u8], cluster: ClusterId) -> Medium {
    match examine(first_bytes, cluster) {
        Ok(Found { superblock: Superblock { identity, epoch, segment_bytes, slots, .. }, .. }) => {
            Medium::Ours { drive: identity.drive, epoch, born: identity.born, segment_bytes, segments: slots }
        }
        Err(medium) => medium,
    }
}

/// What a node writes at offset 0 to make a blank medium the drive of `spec`: [`INSPECT_BYTES`] bytes. It must be
/// synced before a `Drive` is made.
#[must_use]
pub fn superblock(spec: &DriveSpec) -> Buf {
    let superblock = Superblock {
        identity: Identity { cluster: spec.cluster, drive: spec.drive, born: spec.epoch },
        epoch: spec.epoch,
        segment_bytes: spec.segment_bytes,
        slots: 0,
        census: Census::default(),
        scrubbed: Scrubbed::default(),
    };
    let mut area = Buf::zeroed(SLOTS_START as usize);
    let bytes = area.make_mut();
    for at in COPIES {
        superblock.encode(&mut bytes[at as usize..][..BLOCK as usize]);
    }
    area
}

/// Where the copies are.
pub(super) const COPIES: [u64; 2] = [0, SUPERBLOCK_B];

/// The superblock of a drive of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) superblock: Superblock,
    /// Which of [`COPIES`] it was read from: the last to be overwritten.
    pub(super) copy: usize,
    /// Both copies are good and say the same.
    pub(super) whole: bool,
}

/// Finds the superblock, or says what the medium is instead.
pub(super) fn examine(first_bytes: &[u8], cluster: ClusterId) -> Result<Found, Medium> {
    let damaged = |why: &str| Medium::Damaged { why: why.into() };
    let Some(area) = first_bytes.get(..INSPECT_BYTES as usize) else {
        return Err(damaged("it is shorter than its superblocks"));
    };
    let copies = COPIES.map(|at| Superblock::decode(&area[at as usize..][..BLOCK as usize]));
    let found = match copies {
        // An upgrade may have been interrupted between the copies.
        [Copy::Newer(version), _] | [_, Copy::Newer(version)] => return Err(Medium::Newer { version }),
        [Copy::Good(a), Copy::Good(b)] => {
            if a.identity != b.identity || a.segment_bytes != b.segment_bytes {
                return Err(damaged("its two superblocks contradict each other"));
            }
            let age = |copy: &Superblock| (copy.epoch, copy.slots, copy.census, copy.scrubbed);
            let copy = usize::from(age(&b) > age(&a));
            Found { superblock: [a, b][copy], copy, whole: a == b }
        }
        [Copy::Good(superblock), _] => Found { superblock, copy: 0, whole: false },
        [_, Copy::Good(superblock)] => Found { superblock, copy: 1, whole: false },
        [Copy::Damaged(why), _] | [_, Copy::Damaged(why)] => return Err(damaged(why)),
        [Copy::Absent, Copy::Absent] if area.iter().all(|&byte| byte == 0) => return Err(Medium::Blank),
        [Copy::Absent, Copy::Absent] => return Err(damaged("it holds something that is not a superblock")),
    };
    match found.superblock.identity.cluster {
        theirs if theirs != cluster => Err(Medium::Foreign { cluster: theirs }),
        _ => Ok(found),
    }
}
