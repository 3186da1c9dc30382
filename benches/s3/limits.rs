//! What the machine itself allows: the disk under the mesh's folder and one core's primitives.

use std::{
    fs::{File, OpenOptions},
    hint::black_box,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::Path,
    time::Instant,
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use md5::{Digest as _, Md5};
use mesh_core::{limits::SEGMENT_BYTES, wire::crc32c};
use rustix::fs::OFlags;

use crate::figures::Samples;

/// Milliseconds a MiB, of one thread alone.
#[derive(Default)]
pub(crate) struct Primitives {
    pub(crate) seal: Samples,
    pub(crate) md5: Samples,
    pub(crate) crc32c: Samples,
    pub(crate) copy: Samples,
}

/// MB/s of objects' bytes that one thread brings to the disk, at 1.5 times the bytes (2+1 shards).
#[derive(Default)]
pub(crate) struct Disk {
    /// A write and an fdatasync for every object.
    pub(crate) one_by_one: Samples,
    /// A write for every object, an fdatasync for 16.
    pub(crate) in_groups: Samples,
}

pub(crate) struct Limits {
    cipher: LessSafeKey,
    from: Vec<u8>,
    to: Vec<u8>,
    file: File,
    pub(crate) primitives: Primitives,
    pub(crate) disk: Disk,
    /// Whether the disk is measured around the page cache.
    pub(crate) direct: bool,
}

impl Limits {
    /// The file is in `folder`, allocated and written once: an overwrite changes no metadata of the file system.
    pub(crate) fn new(folder: &Path) -> Self {
        let path = folder.join("limit");
        let key = UnboundKey::new(&AES_256_GCM, &[7; 32]).expect("a key of 32 bytes");
        let zeroes = vec![0; MIB];
        let file = File::create(&path).expect("a file in the folder");
        (0..FILE / MIB).for_each(|at| file.write_all_at(&zeroes, (at * MIB) as u64).expect("space for a file"));
        file.sync_all().expect("a disk that syncs");
        let flags = i32::try_from(OFlags::DIRECT.bits()).expect("a flag of open(2)");
        let direct = OpenOptions::new().write(true).custom_flags(flags).open(&path);
        let is_direct = direct.is_ok();
        Self {
            cipher: LessSafeKey::new(key),
            from: vec![0x5a; SPREAD],
            to: vec![0xa5; SPREAD],
            file: direct.unwrap_or(file),
            primitives: Primitives::default(),
            disk: Disk::default(),
            direct: is_direct,
        }
    }

    /// Everything once.
    pub(crate) fn measure(&mut self) {
        let Self { cipher, from, to, file, primitives, disk, .. } = self;
        let milliseconds = |begun: Instant| begun.elapsed().as_secs_f64() * 1e3 / (SPREAD / MIB) as f64;

        let begun = Instant::now();
        to.copy_from_slice(black_box(from));
        primitives.copy.push(milliseconds(begun));
        black_box(&to);

        let begun = Instant::now();
        black_box(to.chunks(MIB).map(Md5::digest).fold(0, |sum, digest| sum ^ digest[0]));
        primitives.md5.push(milliseconds(begun));

        let begun = Instant::now();
        black_box(to.chunks(SEGMENT_BYTES).fold(0, |sum, segment| sum ^ crc32c(segment)));
        primitives.crc32c.push(milliseconds(begun));

        let begun = Instant::now();
        for (index, segment) in to.chunks_mut(SEGMENT_BYTES).enumerate() {
            let mut nonce = [0; 12];
            nonce[..8].copy_from_slice(&(index as u64).to_le_bytes());
            let nonce = Nonce::assume_unique_for_key(nonce);
            let tag = cipher.seal_in_place_separate_tag(nonce, Aad::from([0; 40]), segment);
            drop(black_box(tag.expect("it fits")));
        }
        primitives.seal.push(milliseconds(begun));

        // O_DIRECT takes memory at a multiple of the block's size.
        let start = to.as_ptr().align_offset(BLOCK);
        let object = &to[start..start + OBJECT];
        for (group, samples) in [(1, &mut disk.one_by_one), (GROUP, &mut disk.in_groups)] {
            let begun = Instant::now();
            for index in 0..OBJECTS {
                file.write_all_at(object, (index * OBJECT) as u64).expect("a disk that writes");
                if (index + 1) % group == 0 {
                    file.sync_data().expect("a disk that syncs");
                }
            }
            samples.push((OBJECTS * MIB) as f64 / 1e6 / begun.elapsed().as_secs_f64());
        }
    }
}

pub(crate) const MIB: usize = 1 << 20;
/// More than the core's own caches hold.
const SPREAD: usize = 64 * MIB;
/// Of one object of 1 MiB, what comes to the disk.
const OBJECT: usize = MIB + MIB / 2;
const OBJECTS: usize = 64;
const GROUP: usize = 16;
const FILE: usize = OBJECT * OBJECTS;
const BLOCK: usize = 4096;
