//! What the format's versions look like on a medium, byte for byte: the newest must be written so, and all must always be
//! readable.
//!
//! `MESH_BLESS=1` writes the newest fixture anew. That is right only for a new version, beside the old ones.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod drive_support;

use std::{fs, path::PathBuf, sync::Arc};

use drive_support::{Bench, format, run, shard, spec};
use mesh_actors::drive::{FORMAT_VERSION, INSPECT_BYTES, Medium, inspect};
use mesh_core::{
    Buf, ErrorKind,
    id::{ClusterId, DriveId, Epoch},
    port::{DiskJob, WorkOutput},
};
use mesh_dpu_runtime::disk::MemoryDisk;

const SEGMENT_BYTES: u32 = 64 << 10;
const CAPACITY_BYTES: u64 = (64 << 10) + 12 * SEGMENT_BYTES as u64;
const LINE: usize = 32;

fn fixture(version: u16) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/drive-v{version}/medium.hex"))
}

/// Mostly zeros, so that the fixture stays small.
fn large() -> Vec<u8> {
    let mut payload = vec![0; 10_000];
    payload[..5].copy_from_slice(b"large");
    payload[9_996..].copy_from_slice(b"tail");
    payload
}

/// A medium as this build makes it: shards inline and beside their headers, tombstones, a closed and an open segment.
fn made() -> Arc<MemoryDisk> {
    let disk = MemoryDisk::new(CAPACITY_BYTES);
    let spec = spec(SEGMENT_BYTES);
    format(&*disk, &spec);
    let mut bench = Bench::start(disk.clone(), &spec);
    bench.put(shard(1), b"inline").unwrap();
    bench.put(shard(2), &large()).unwrap();
    bench.put(shard(3), b"deleted").unwrap();
    bench.delete(&[shard(3)]).unwrap();
    // Closes the segment.
    let mut bench = Bench::start(disk.clone(), &spec);
    bench.put(shard(4), b"in a segment that is not closed").unwrap();
    disk
}

/// The bytes that are not zero: an offset and 32 bytes a line.
fn dump(disk: &MemoryDisk) -> String {
    let Ok(WorkOutput::Bytes(bytes)) = run(disk, DiskJob::Read { at: 0, len: CAPACITY_BYTES as u32 }) else {
        panic!("the medium cannot be read")
    };
    let mut text = String::new();
    for (at, line) in bytes.chunks(LINE).enumerate().filter(|(_, line)| line.iter().any(|&byte| byte != 0)) {
        let hex: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
        text.push_str(&format!("{:06x} {hex}\n", at * LINE));
    }
    text
}

fn load(text: &str) -> Arc<MemoryDisk> {
    let mut medium = Buf::zeroed(CAPACITY_BYTES as usize);
    let bytes = medium.make_mut();
    for line in text.lines() {
        let (at, hex) = line.split_once(' ').expect("an offset and bytes");
        let at = usize::from_str_radix(at, 16).expect("an offset in hex");
        for (byte, digits) in bytes[at..at + LINE].iter_mut().zip(hex.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).expect("bytes in hex");
        }
    }
    let disk = MemoryDisk::new(CAPACITY_BYTES);
    run(&*disk, DiskJob::Write { at: 0, bufs: vec![medium] }).unwrap();
    run(&*disk, DiskJob::Sync).unwrap();
    disk
}

#[test]
fn the_newest_version_is_written_as_it_always_was() {
    let made = dump(&made());
    let path = fixture(FORMAT_VERSION);
    if std::env::var_os("MESH_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &made).unwrap();
    }
    let kept = fs::read_to_string(path).expect("the fixture is there");
    assert!(made == kept, "the format of version {FORMAT_VERSION} has changed; made now:\n{made}");
}

#[test]
fn every_version_is_still_read() {
    for version in 1..=FORMAT_VERSION {
        let disk = load(&fs::read_to_string(fixture(version)).expect("the fixture is there"));
        let Ok(WorkOutput::Bytes(first)) = run(&*disk, DiskJob::Read { at: 0, len: INSPECT_BYTES }) else { panic!() };
        let ours = Medium::Ours {
            drive: DriveId(7),
            epoch: Epoch(3),
            born: Epoch(3),
            segment_bytes: SEGMENT_BYTES,
            segments: 12,
        };
        assert_eq!(inspect(&first, ClusterId([0xc1; 16])), ours);
        let mut bench = Bench::start(disk, &spec(SEGMENT_BYTES));
        assert_eq!(bench.shards(), [shard(1), shard(2), shard(4)]);
        assert_eq!(bench.get(shard(1)), Ok(b"inline".to_vec()));
        assert_eq!(bench.get(shard(2)), Ok(large()));
        assert_eq!(bench.get(shard(3)), Err(ErrorKind::NotFound));
        assert_eq!(bench.get(shard(4)), Ok(b"in a segment that is not closed".to_vec()));
    }
}
