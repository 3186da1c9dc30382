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

/// Milliseconds of CPU a MiB, of one thread: what others run meanwhile does not count, as it does not with the servers.
#[derive(Default)]
pub(crate) struct Primitives {
    pub(crate) seal: Samples,
    pub(crate) md5: Samples,
    pub(crate) crc32c: Samples,
    pub(crate) copy: Samples,
}

/// MB/s of objects of 1 MiB between memory and the disk.
#[derive(Default)]
pub(crate) struct Disk {
    /// One thread writes 1.5 times the bytes (2+1 shards), with an fdatasync for every object.
    pub(crate) one_by_one: Samples,
    /// The same with an fdatasync for 16 objects.
    pub(crate) in_groups: Samples,
    /// One thread reads objects.
    pub(crate) read: Samples,
    /// 16 threads do.
    pub(crate) read_by_16: Samples,
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
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("a file in the folder");
        (0..FILE / MIB).for_each(|at| file.write_all_at(&zeroes, (at * MIB) as u64).expect("space for a file"));
        file.sync_all().expect("a disk that syncs");
        let flags = i32::try_from(OFlags::DIRECT.bits()).expect("a flag of open(2)");
        let direct = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path);
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
        let milliseconds = |begun: f64| (cpu_seconds() - begun) * 1e3 / (SPREAD / MIB) as f64;

        let begun = cpu_seconds();
        to.copy_from_slice(black_box(from));
        primitives.copy.push(milliseconds(begun));
        black_box(&to);

        let begun = cpu_seconds();
        black_box(to.chunks(MIB).map(Md5::digest).fold(0, |sum, digest| sum ^ digest[0]));
        primitives.md5.push(milliseconds(begun));

        let begun = cpu_seconds();
        black_box(to.chunks(SEGMENT_BYTES).fold(0, |sum, segment| sum ^ crc32c(segment)));
        primitives.crc32c.push(milliseconds(begun));

        let begun = cpu_seconds();
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
            samples.push(megabytes(OBJECTS, begun));
        }
        for (threads, samples) in [(1, &mut disk.read), (GROUP, &mut disk.read_by_16)] {
            let count = FILE / MIB / threads;
            // Of each thread its own part of the memory, and a block to align it.
            let parts = to.chunks_exact_mut(MIB + BLOCK).take(threads).enumerate();
            let begun = Instant::now();
            std::thread::scope(|scope| {
                for (thread, part) in parts {
                    let file = &*file;
                    scope.spawn(move || {
                        let start = part.as_ptr().align_offset(BLOCK);
                        for index in thread * count..(thread + 1) * count {
                            let target = &mut part[start..start + MIB];
                            file.read_exact_at(target, (index * MIB) as u64).expect("a disk that reads");
                        }
                    });
                }
            });
            samples.push(megabytes(threads * count, begun));
        }
    }
}

/// Seconds that this thread has been on a core.
fn cpu_seconds() -> f64 {
    // The kernel brings the count up to date when a thread yields, and else only now and then.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a kernel that counts");
    let nanos: u64 = text.split(' ').next().and_then(|first| first.parse().ok()).expect("nanoseconds");
    nanos as f64 / 1e9
}

/// MB/s of so many objects since then.
fn megabytes(objects: usize, begun: Instant) -> f64 {
    (objects * MIB) as f64 / 1e6 / begun.elapsed().as_secs_f64()
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
