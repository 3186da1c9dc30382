//! A medium made of files: a directory of extent files, one file of fixed size, or a block device.
//!
//! ```text
//! <directory>/medium          text: "mesh medium 1", extent_bytes, capacity_bytes; written once, grown on request
//! <directory>/extent-000000   bytes 0 .. extent_bytes of the medium
//! <directory>/extent-000001   bytes extent_bytes .. 2 * extent_bytes; made when first written, with its space
//! ...
//! ```
//!
//! Owns the exclusive lock on the medium: two processes, or two `FileDisk`s of one process, never write the same one.

mod calls;
mod extents;
mod workers;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
    sync::Arc,
};

use mesh_core::{
    Buf, Error, ErrorKind, Pool, WorkOutcome,
    limits::ALIGNMENT_BYTES,
    port::{Completion, Disk, DiskJob, Geometry},
};
use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};

pub(super) use calls::Calls;
use calls::Kernel;
use extents::Extents;
use workers::Workers;

/// How often, and with which pause, a held lock is looked at again.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: core::time::Duration = core::time::Duration::from_millis(25);
/// The name of the file that describes a directory medium.
const MEDIUM: &str = "medium";
const MEDIUM_FIRST_LINE: &str = "mesh medium 1";
/// Extents of a medium at most: each keeps a file open.
const EXTENTS_MAX: u64 = 256;
const EXTENT_BYTES_MIN: u64 = ALIGNMENT_BYTES as u64;

/// How a medium is opened.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// Size of a directory medium, bytes. 0: what it had, or, of a new one, what the file system has free. A greater
    /// one grows the medium; a smaller one changes nothing. Files and devices have their own size.
    pub capacity_bytes: u64,
    /// Bytes of an extent of a new directory medium; made greater if there would be too many.
    pub extent_bytes: u64,
    /// Threads that do the I/O.
    pub threads: usize,
    /// Jobs that wait at most; more are refused as `Overloaded`.
    pub queue_max: usize,
    /// Go around the page cache where the file system can.
    pub direct: bool,
    /// Where reads take their memory from.
    pub pool: Pool,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self {
            capacity_bytes: 0,
            extent_bytes: 64 << 20,
            threads: 4,
            queue_max: 1024,
            direct: true,
            pool: Pool::default(),
        }
    }
}

/// A medium made of files. Dropping it ends its threads and gives up the lock, once the jobs it took have ended.
#[derive(Debug)]
pub struct FileDisk {
    geometry: Geometry,
    direct: bool,
    extents: Arc<Extents>,
    workers: Workers,
}

impl FileDisk {
    /// Whether a folder is a medium, as it says itself.
    #[must_use]
    pub fn is_at(folder: &Path) -> bool {
        folder.join(MEDIUM).exists()
    }

    /// Opens a medium: a directory that exists, a file (which has the size of the medium), or a block device.
    ///
    /// # Errors
    /// `DriveFailed`, naming the path: it is missing, may not be written, is in use by another process, or is not a
    /// medium; `NoSpace`: a new directory medium does not fit.
    pub fn open(path: &Path, options: FileOptions) -> Result<Arc<Self>, Error> {
        Self::open_with(path, options, Arc::new(Kernel))
    }

    /// Opens a medium whose writes and syncs go through these calls.
    pub(super) fn open_with(path: &Path, options: FileOptions, calls: Arc<dyn Calls>) -> Result<Arc<Self>, Error> {
        let kind = fs::metadata(path).map_err(|error| failed("the medium cannot be found", path, &error))?.file_type();
        let extents = if kind.is_dir() {
            open_directory(path, &options, calls)?
        } else if kind.is_file() || kind.is_block_device() {
            open_single(path, kind.is_block_device(), &options, calls)?
        } else {
            let error = Error::new(ErrorKind::DriveFailed, "a medium is a directory, a file or a block device");
            return Err(error.with("path", path.display()));
        };
        let geometry = Geometry { capacity_bytes: extents.capacity_bytes(), align_bytes: ALIGNMENT_BYTES as u32 };
        let direct = extents.is_direct();
        let extents = Arc::new(extents);
        let workers = Workers::start(&extents, options.threads.max(1), options.queue_max, options.pool)
            .map_err(|error| failed("the medium's threads cannot be started", path, &error))?;
        Ok(Arc::new(Self { geometry, direct, extents, workers }))
    }

    /// Whether I/O goes around the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Does one job on the calling thread; for tools and for formatting.
    ///
    /// # Errors
    /// As the job's completion would say.
    pub fn run(&self, job: DiskJob) -> WorkOutcome {
        super::check(&job, self.geometry.capacity_bytes)?;
        self.extents.run(job, &Pool::default())
    }
}

impl Disk for FileDisk {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn start(&self, job: DiskJob, done: Completion<WorkOutcome>) {
        match super::check(&job, self.geometry.capacity_bytes) {
            Ok(()) => self.workers.push(job, done),
            Err(error) => done(Err(error)),
        }
    }
}

/// An error that names the path and what the operating system said.
fn failed(message: &'static str, path: &Path, error: &io::Error) -> Error {
    let kind = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT) => ErrorKind::NoSpace,
        _ => ErrorKind::DriveFailed,
    };
    Error::new(kind, message).with("path", path.display()).with("os", error)
}

/// Takes the exclusive lock on a medium. A process that is just ending, or one that forks at this moment, may hold it a
/// little longer than it means to: that much is waited for.
fn lock(file: &File, path: &Path) -> Result<(), Error> {
    for _ in 0..LOCK_TRIES {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            _ => break,
        }
    }
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => {
            let error = Error::new(ErrorKind::DriveFailed, "the medium is in use by another process: stop that first");
            Err(error.with("path", path.display()))
        }
        Err(error) => Err(failed("the medium cannot be locked", path, &error.into())),
    }
}

/// Opens a file of the medium, around the page cache if asked.
fn open_file(path: &Path, create: bool, direct: bool, flags: OFlags) -> io::Result<File> {
    let flags = if direct { flags | OFlags::DIRECT } else { flags };
    OpenOptions::new().read(true).write(true).create(create).custom_flags(flags.bits() as i32).open(path)
}

/// Whether a file can be read around the page cache.
fn can_go_direct(path: &Path) -> bool {
    let Ok(file) = open_file(path, false, true, OFlags::empty()) else { return false };
    let mut buf = Buf::zeroed(ALIGNMENT_BYTES);
    buf.as_mut().is_some_and(|bytes| rustix::io::pread(&file, bytes, 0).is_ok())
}

fn open_single(path: &Path, device: bool, options: &FileOptions, calls: Arc<dyn Calls>) -> Result<Extents, Error> {
    // The kernel refuses O_EXCL on a device that is mounted or otherwise claimed.
    let flags = if device { OFlags::EXCL } else { OFlags::empty() };
    let denied = |error: io::Error| failed("the medium cannot be opened for reading and writing", path, &error);
    let mut file = open_file(path, false, false, flags).map_err(denied)?;
    lock(&file, path)?;
    let len = file.seek(SeekFrom::End(0)).map_err(|error| failed("the medium's size cannot be read", path, &error))?;
    let direct = options.direct && can_go_direct(path);
    let data = if direct {
        open_file(path, false, true, OFlags::empty()).map_err(denied)?
    } else {
        file.try_clone().map_err(denied)?
    };
    Ok(Extents::single(path.to_path_buf(), file, data, len - len % ALIGNMENT_BYTES as u64, direct, calls))
}

fn open_directory(path: &Path, options: &FileOptions, calls: Arc<dyn Calls>) -> Result<Extents, Error> {
    let directory = File::open(path).map_err(|error| failed("the medium cannot be opened", path, &error))?;
    lock(&directory, path)?;
    let file = path.join(MEDIUM);
    let layout = match fs::read_to_string(&file) {
        Ok(text) => {
            // Proves early that the medium may be written.
            open_file(&file, false, false, OFlags::empty())
                .map_err(|error| failed("the medium cannot be opened for reading and writing", &file, &error))?;
            let old = Layout::read(&text)
                .ok_or_else(|| Error::new(ErrorKind::DriveFailed, "the medium's description is damaged"))
                .map_err(|error| error.with("path", file.display()))?;
            let new = Layout { capacity_bytes: old.capacity_bytes.max(aligned(options.capacity_bytes)), ..old };
            if new != old {
                new.write(path, &directory)?;
            }
            new
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if path.join(extents::name(0)).exists() {
                let error = Error::new(ErrorKind::DriveFailed, "the medium has extents and no description of them");
                return Err(error.with("path", file.display()));
            }
            let layout = Layout::of_new(&directory, path, options)?;
            layout.write(path, &directory)?;
            layout
        }
        Err(error) => return Err(failed("the medium's description cannot be read", &file, &error)),
    };
    let direct = options.direct && can_go_direct(&file);
    Extents::directory(path.to_path_buf(), directory, layout.capacity_bytes, layout.extent_bytes, direct, calls)
}

fn aligned(bytes: u64) -> u64 {
    bytes - bytes % ALIGNMENT_BYTES as u64
}

/// What the file `medium` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    extent_bytes: u64,
    capacity_bytes: u64,
}

impl Layout {
    fn of_new(directory: &File, path: &Path, options: &FileOptions) -> Result<Self, Error> {
        let capacity_bytes = match aligned(options.capacity_bytes) {
            0 => {
                let stat = rustix::fs::fstatvfs(directory)
                    .map_err(|error| failed("the file system cannot be asked for its space", path, &error.into()))?;
                // A little is left for what the file system needs itself.
                aligned(stat.f_bavail.saturating_mul(stat.f_frsize) / 20 * 19)
            }
            bytes => bytes,
        };
        let least = capacity_bytes.div_ceil(EXTENTS_MAX).max(EXTENT_BYTES_MIN);
        let extent_bytes = aligned(options.extent_bytes).max(least.next_power_of_two());
        Ok(Self { extent_bytes, capacity_bytes })
    }

    fn read(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next() != Some(MEDIUM_FIRST_LINE) {
            return None;
        }
        let mut number = |name: &str| -> Option<u64> {
            let number: u64 = lines.next()?.strip_prefix(name)?.trim().parse().ok()?;
            number.is_multiple_of(ALIGNMENT_BYTES as u64).then_some(number)
        };
        let layout = Self { extent_bytes: number("extent_bytes")?, capacity_bytes: number("capacity_bytes")? };
        // Bounds the table of extents, whatever the file says.
        (layout.extent_bytes >= EXTENT_BYTES_MIN && layout.capacity_bytes / layout.extent_bytes <= 1 << 20)
            .then_some(layout)
    }

    /// Replaces the file in one step.
    fn write(self, path: &Path, directory: &File) -> Result<(), Error> {
        let new = path.join("medium.new");
        let text = format!(
            "{MEDIUM_FIRST_LINE}\nextent_bytes {}\ncapacity_bytes {}\n",
            self.extent_bytes, self.capacity_bytes
        );
        let replace = || -> io::Result<()> {
            let mut file = File::create(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, path.join(MEDIUM))?;
            directory.sync_all()
        };
        replace().map_err(|error| failed("the medium's description cannot be written", &new, &error))
    }
}

#[cfg(test)]
mod tests;
