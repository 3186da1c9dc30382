use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering::SeqCst},
    mpsc,
};

use mesh_core::port::WorkOutput;

use super::*;

const MIB: u64 = 1 << 20;

fn options(capacity_bytes: u64) -> FileOptions {
    FileOptions { capacity_bytes, extent_bytes: MIB, ..FileOptions::default() }
}

fn wait(disk: &FileDisk, job: DiskJob) -> WorkOutcome {
    let (sender, receiver) = mpsc::channel();
    disk.start(job, Box::new(move |outcome| sender.send(outcome).expect("the test waits")));
    receiver.recv().expect("every job ends")
}

fn filled(len: usize, fill: impl Fn(usize) -> u8) -> Buf {
    let mut buf = Buf::zeroed(len);
    buf.make_mut().iter_mut().enumerate().for_each(|(at, byte)| *byte = fill(at));
    buf
}

fn read(disk: &FileDisk, at: u64, len: u32) -> Buf {
    match wait(disk, DiskJob::Read { at, len }) {
        Ok(WorkOutput::Bytes(bytes)) => bytes,
        other => panic!("a read gave {other:?}"),
    }
}

#[test]
fn keeps_writes_that_cross_extents_through_a_reopening() {
    for direct in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let options = FileOptions { direct, ..options(4 * MIB) };
        let at = MIB - 8192;
        let (head, body) = (filled(4096, |_| 7), filled(3 * MIB as usize / 2, |at| (at / 4096) as u8));
        {
            let disk = FileDisk::open(directory.path(), options.clone()).unwrap();
            assert!(!direct || disk.is_direct() || !can_go_direct(&directory.path().join(MEDIUM)));
            let job = DiskJob::Write { at, bufs: vec![head.clone(), body.clone()] };
            assert_eq!(wait(&disk, job), Ok(WorkOutput::Done));
            assert_eq!(wait(&disk, DiskJob::Sync), Ok(WorkOutput::Done));
        }
        assert!(!directory.path().join(extents::name(3)).exists(), "extents are made when they are written");
        let disk = FileDisk::open(directory.path(), FileOptions { capacity_bytes: 0, ..options }).unwrap();
        assert_eq!(disk.geometry(), Geometry { capacity_bytes: 4 * MIB, align_bytes: 4096 });
        assert_eq!(read(&disk, at, 4096), head);
        assert_eq!(read(&disk, at + 4096, body.len() as u32), body);
        assert_eq!(read(&disk, 3 * MIB, MIB as u32), Buf::zeroed(MIB as usize));
        assert_eq!(wait(&disk, DiskJob::Discard { at: 0, len: MIB }), Ok(WorkOutput::Done));
    }
}

#[test]
fn a_file_is_a_medium_of_its_own_size() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("medium.img");
    File::create(&path).unwrap().set_len(2 * MIB + 100).unwrap();
    let disk = FileDisk::open(&path, FileOptions::default()).unwrap();
    assert_eq!(disk.geometry().capacity_bytes, 2 * MIB);
    let bytes = filled(8192, |at| at as u8);
    wait(&disk, DiskJob::Write { at: 2 * MIB - 8192, bufs: vec![bytes.clone()] }).unwrap();
    wait(&disk, DiskJob::Sync).unwrap();
    assert_eq!(read(&disk, 2 * MIB - 8192, 8192), bytes);
    let error = FileDisk::open(&path, FileOptions::default()).unwrap_err();
    assert!(error.message().contains("in use"), "{error}");
}

#[test]
fn what_was_deleted_is_not_synced() {
    let directory = tempfile::tempdir().unwrap();
    let disk = FileDisk::open(directory.path(), options(4 * MIB)).unwrap();
    let write = |at| DiskJob::Write { at, bufs: vec![filled(4096, |_| 7)] };
    wait(&disk, write(0)).unwrap();
    wait(&disk, write(MIB)).unwrap();
    wait(&disk, DiskJob::Sync).unwrap();
    for entry in fs::read_dir(directory.path()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    wait(&disk, write(MIB)).unwrap();
    for _ in 0..2 {
        let error = wait(&disk, DiskJob::Sync).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DriveFailed);
        assert!(error.to_string().contains("deleted while it was in use"), "{error}");
    }
}

/// Notes what is asked of the system, and fails to make names durable if told to.
#[derive(Debug, Default)]
struct Noted {
    calls: Mutex<Vec<&'static str>>,
    loses_names: AtomicBool,
}

impl Noted {
    fn note(&self, call: &'static str) {
        self.calls.lock().unwrap().push(call);
    }

    fn taken(&self) -> Vec<&'static str> {
        core::mem::take(&mut *self.calls.lock().unwrap())
    }
}

impl Calls for Noted {
    fn write(&self, file: &File, slices: &[io::IoSlice<'_>], at: u64) -> io::Result<usize> {
        self.note("write");
        Kernel.write(file, slices, at)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.note("sync");
        Kernel.sync(file)
    }

    fn settle(&self, file: &File) -> io::Result<()> {
        let is_directory = file.metadata()?.is_dir();
        self.note(if is_directory { "names" } else { "file" });
        if is_directory && self.loses_names.load(SeqCst) {
            return Err(Errno::IO.into());
        }
        Kernel.settle(file)
    }
}

/// Else what was written and synced is gone with the power, for its file has no name.
#[test]
fn an_extent_and_its_name_are_durable_before_anything_is_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let noted = Arc::new(Noted::default());
    let disk = FileDisk::open_with(directory.path(), options(4 * MIB), noted.clone()).unwrap();
    assert_eq!(noted.taken(), ["names"], "what an earlier process made and did not sync");
    let write = |at| wait(&disk, DiskJob::Write { at, bufs: vec![filled(4096, |_| 7)] });
    write(0).unwrap();
    assert_eq!(noted.taken(), ["file", "names", "write"]);
    write(4096).unwrap();
    wait(&disk, DiskJob::Sync).unwrap();
    assert_eq!(noted.taken(), ["write", "sync"]);
    noted.loses_names.store(true, SeqCst);
    assert_eq!(write(MIB).unwrap_err().kind(), ErrorKind::DriveFailed);
    noted.loses_names.store(false, SeqCst);
    let error = wait(&disk, DiskJob::Sync).unwrap_err();
    assert!(error.to_string().contains("the sync of a new extent"), "it is said once: {error}");
    assert_eq!(noted.taken(), ["file", "names"]);
}

#[test]
fn a_second_opener_is_refused_until_the_first_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let first = FileDisk::open(directory.path(), options(MIB)).unwrap();
    let error = FileDisk::open(directory.path(), options(MIB)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DriveFailed);
    assert!(error.to_string().contains("in use by another process"), "{error}");
    assert!(error.to_string().contains(&directory.path().display().to_string()), "{error}");
    drop(first);
    FileDisk::open(directory.path(), options(MIB)).unwrap();
}

#[test]
fn says_what_is_wrong_with_a_path() {
    let directory = tempfile::tempdir().unwrap();
    let missing = FileDisk::open(&directory.path().join("nowhere"), options(MIB)).unwrap_err();
    assert!(missing.to_string().contains("cannot be found") && missing.to_string().contains("nowhere"), "{missing}");
    assert!(FileDisk::open(Path::new("/dev/null"), options(MIB)).is_err());
    fs::write(directory.path().join(MEDIUM), "mesh medium 9\n").unwrap();
    let damaged = FileDisk::open(directory.path(), options(MIB)).unwrap_err();
    assert!(damaged.to_string().contains("damaged"), "{damaged}");
    fs::remove_file(directory.path().join(MEDIUM)).unwrap();
    fs::write(directory.path().join(extents::name(0)), "").unwrap();
    assert!(FileDisk::open(directory.path(), options(MIB)).is_err());
}

#[test]
fn grows_and_never_shrinks() {
    let directory = tempfile::tempdir().unwrap();
    let capacity = |bytes| FileDisk::open(directory.path(), options(bytes)).unwrap().geometry().capacity_bytes;
    assert_eq!(capacity(MIB + 8192), MIB + 8192);
    let disk = FileDisk::open(directory.path(), options(0)).unwrap();
    wait(&disk, DiskJob::Write { at: MIB, bufs: vec![filled(8192, |_| 5)] }).unwrap();
    drop(disk);
    assert_eq!(capacity(3 * MIB), 3 * MIB);
    assert_eq!(capacity(MIB), 3 * MIB);
    let disk = FileDisk::open(directory.path(), options(0)).unwrap();
    wait(&disk, DiskJob::Write { at: MIB + 8192, bufs: vec![filled(4096, |_| 6)] }).unwrap();
    assert_eq!(read(&disk, MIB, 16_384)[4096..12_288], [[5; 4096], [6; 4096]].concat());
    assert_eq!(fs::metadata(directory.path().join(extents::name(1))).unwrap().len(), MIB);
}

#[test]
fn a_full_queue_refuses_and_a_drop_ends_what_was_taken() {
    let directory = tempfile::tempdir().unwrap();
    let one = FileOptions { threads: 1, queue_max: 2, ..options(MIB) };
    let disk = FileDisk::open(directory.path(), one).unwrap();
    let (open, gate) = mpsc::channel::<()>();
    let (running, started) = mpsc::channel();
    let ended = Arc::new(Mutex::new(Vec::new()));
    let note = |n: usize| {
        let ended = Arc::clone(&ended);
        move |outcome: WorkOutcome| ended.lock().unwrap().push((n, outcome.map_err(|error| error.kind())))
    };
    let first = note(0);
    let hold = move |outcome| {
        running.send(()).unwrap();
        gate.recv().unwrap();
        first(outcome);
    };
    disk.start(DiskJob::Sync, Box::new(hold));
    started.recv().unwrap();
    for n in 1..4 {
        disk.start(DiskJob::Sync, Box::new(note(n)));
    }
    assert_eq!(*ended.lock().unwrap(), [(3, Err(ErrorKind::Overloaded))]);
    open.send(()).unwrap();
    drop(disk);
    let order: Vec<usize> = ended.lock().unwrap().iter().map(|(n, _)| *n).collect();
    assert_eq!(order, [3, 0, 1, 2]);
}

#[test]
fn a_full_file_system_is_no_space_and_not_a_failure() {
    if !fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0) {
        println!("SKIPPED: mounting a small tmpfs needs root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=3m", "tmpfs"])
        .arg(directory.path())
        .output();
    match mount {
        Ok(output) if output.status.success() => {}
        other => {
            println!("SKIPPED: a tmpfs cannot be mounted: {other:?}");
            return;
        }
    }
    let outcome = std::panic::catch_unwind(|| {
        let disk = FileDisk::open(directory.path(), options(8 * MIB)).unwrap();
        let block = || vec![filled(4096, |_| 9)];
        wait(&disk, DiskJob::Write { at: 0, bufs: block() }).unwrap();
        let error = wait(&disk, DiskJob::Write { at: 5 * MIB, bufs: block() })
            .and_then(|_| wait(&disk, DiskJob::Write { at: 6 * MIB, bufs: block() }))
            .and_then(|_| wait(&disk, DiskJob::Write { at: 7 * MIB, bufs: block() }))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
        assert!(error.to_string().contains("extent-00000"), "{error}");
        wait(&disk, DiskJob::Sync).unwrap();
        wait(&disk, DiskJob::Write { at: MIB / 2, bufs: block() }).expect("what an extent has room for still goes");
    });
    let unmounted = std::process::Command::new("umount").arg(directory.path()).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}
