//! The drive on real files.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod drive_support;

use std::time::Instant;

use drive_support::{Bench, format, run, shard, spec, write};
use mesh_core::{
    Buf, ErrorKind,
    op::ShardOp,
    port::{Disk as _, DiskJob},
};
use mesh_dpu_runtime::disk::{FailingDisk, Fault, FileDisk, FileOptions};

const MIB: usize = 1 << 20;

fn options(capacity_bytes: u64) -> FileOptions {
    FileOptions { capacity_bytes, extent_bytes: 8 << 20, ..FileOptions::default() }
}

fn bytes(n: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (at * 7 + n * 13 + at / 253) as u8).collect()
}

#[test]
fn keeps_shards_through_new_starts() {
    let directory = tempfile::tempdir().unwrap();
    let spec = spec(8 << 20);
    let sizes = [10, 5000, 64 << 10, MIB + 1, 2 * MIB];
    for round in 0..3u64 {
        let disk = FileDisk::open(directory.path(), options(80 << 20)).unwrap();
        if round == 0 {
            format(&*disk, &spec);
        }
        let mut bench = Bench::start(disk, &spec);
        for n in 0..round * 10 {
            let expected = if n % 3 == 0 { Err(ErrorKind::NotFound) } else { Ok(bytes(n, sizes[n as usize % 5])) };
            assert!(bench.get(shard(n)) == expected, "shard {n} in round {round}");
        }
        let asked = (round * 10..round * 10 + 10).map(|n| {
            let payload = bytes(n, sizes[n as usize % 5]);
            (write(shard(n), &payload), Buf::copy_of(&payload))
        });
        let asked: Vec<_> = asked.collect();
        let count = asked.len();
        for (op, payload) in asked {
            bench.ask(op, payload);
        }
        for _ in 0..count {
            bench.answer().1.unwrap();
        }
        bench.rest();
        let gone: Vec<_> = (round * 10..round * 10 + 10).filter(|n| n % 3 == 0).map(shard).collect();
        bench.delete(&gone).unwrap();
    }
}

#[test]
fn a_file_system_error_fails_the_drive_and_a_new_start_has_what_was_answered() {
    let directory = tempfile::tempdir().unwrap();
    let spec = spec(4 << 20);
    let disk = FileDisk::open(directory.path(), options(64 << 20)).unwrap();
    format(&*disk, &spec);
    let failing = FailingDisk::new(disk);
    let mut bench = Bench::start(failing.clone(), &spec);
    bench.put(shard(1), &bytes(1, MIB)).unwrap();
    failing.fail(0, Fault::Torn { blocks: 3 });
    assert_eq!(bench.put(shard(2), &bytes(2, MIB)), Err(ErrorKind::DriveFailed));
    assert_eq!(bench.get(shard(1)), Err(ErrorKind::DriveFailed));

    let mut bench = Bench::start(failing.clone(), &spec);
    assert_eq!(bench.shards(), [shard(1)]);
    assert!(bench.get(shard(1)) == Ok(bytes(1, MIB)));
    failing.fail(1, Fault::Io);
    assert_eq!(bench.put(shard(2), &bytes(2, MIB)), Err(ErrorKind::DriveFailed), "its sync fails");
}

/// Shards of 2 MiB through the drive against plain writes of the same bytes to the same medium, in turns.
#[test]
#[ignore = "measures; run it alone: cargo test --release -p mesh-dpu-runtime --test drive_file -- --ignored --nocapture"]
fn speed_of_sequential_shards_against_plain_writes() {
    const SHARDS: u64 = 64;
    const DEPTH: usize = 8;
    const ROUNDS: u64 = 5;
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let spec = spec(64 << 20);
    let payload = Buf::copy_of(&bytes(1, 2 * MIB));
    let (drive, plain) = (directory.path().join("drive"), directory.path().join("plain"));
    std::fs::create_dir(&drive).unwrap();
    std::fs::create_dir(&plain).unwrap();
    let large = FileOptions { capacity_bytes: 1 << 30, ..FileOptions::default() };
    let disk = FileDisk::open(&drive, large.clone()).unwrap();
    let raw = FileDisk::open(&plain, large).unwrap();
    println!("direct: {} (drive), {} (plain)", disk.is_direct(), raw.is_direct());
    format(&*disk, &spec);
    let mut bench = Bench::start(disk, &spec);
    let rate = |seconds: f64| (SHARDS as f64 * 2.0 * MIB as f64) / seconds / 1e6;
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let begun = Instant::now();
        let mut asked = 0;
        let mut answered = 0;
        while answered < SHARDS {
            while asked < SHARDS && asked - answered < DEPTH as u64 {
                bench.ask(write(shard(round * SHARDS + asked), &payload), payload.clone());
                asked += 1;
            }
            bench.answer().1.unwrap();
            answered += 1;
        }
        let ours = begun.elapsed().as_secs_f64();
        bench.rest();
        let ids = (round * SHARDS..(round + 1) * SHARDS).map(shard).collect();
        bench.call(ShardOp::Delete { ids, until: None }, Buf::empty()).unwrap();

        let begun = Instant::now();
        let (sender, receiver) = std::sync::mpsc::channel();
        let mut started = 0;
        for ended in 0..SHARDS {
            while started < SHARDS && started - ended < DEPTH as u64 {
                let sender = sender.clone();
                let job = DiskJob::Write { at: (64 << 20) + started * 2 * MIB as u64, bufs: vec![payload.clone()] };
                raw.start(job, Box::new(move |outcome| drop(sender.send(outcome))));
                started += 1;
            }
            receiver.recv().unwrap().unwrap();
        }
        run(&*raw, DiskJob::Sync).unwrap();
        let theirs = begun.elapsed().as_secs_f64();
        println!("round {round}: drive {:.0} MB/s, plain {:.0} MB/s", rate(ours), rate(theirs));
        // The first round writes space that was never written before.
        if round > 0 {
            ratios.push(theirs / ours);
        }
    }
    ratios.sort_by(f64::total_cmp);
    println!("the drive writes at {:.2} of the plain rate (median of {})", ratios[ratios.len() / 2], ratios.len());
}
