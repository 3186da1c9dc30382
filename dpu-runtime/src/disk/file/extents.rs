//! The files of a medium: where each byte is, which of them want a sync, and the I/O itself. Blocks its caller.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use mesh_core::{
    Buf, Error, ErrorKind, Pool, WorkOutcome,
    port::{DiskJob, WorkOutput},
};
use rustix::{
    fs::{FallocateFlags, OFlags, fallocate, fstatvfs, ftruncate},
    io::{Errno, pread},
};

use super::{
    calls::{Calls, retried},
    failed, open_file,
};

/// An extent leaves so much of the file system free, or one part in [`FREE_SHARE_MIN`] of a small one.
const FREE_BYTES_MIN: u64 = 1 << 30;
const FREE_SHARE_MIN: u64 = 16;
/// Buffers of one system call at most; the kernel takes 1024.
const SLICES_MAX: usize = 64;

/// The files of a medium.
#[derive(Debug)]
pub(super) struct Extents {
    path: PathBuf,
    /// The locked directory or file; the lock lives as long as it.
    handle: File,
    /// The medium is one file.
    single: bool,
    capacity_bytes: u64,
    extent_bytes: u64,
    direct: bool,
    calls: Arc<dyn Calls>,
    /// Open extents; `None` if it was never written.
    files: RwLock<Vec<Option<Arc<File>>>>,
    /// Only one thread at a time makes an extent.
    making: Mutex<()>,
    /// Extents with writes that have ended and that no sync has begun to cover. A mark is made when its write has
    /// ended and not before: a sync that runs meanwhile would take it away from the next one, which owes the cover.
    dirty: Mutex<BTreeSet<usize>>,
    /// Held during a sync, so that none ends before an earlier one whose files it takes for clean. After a failed one
    /// nothing is known of what the medium kept: all later ones fail too.
    syncing: Mutex<Option<Error>>,
}

/// The name of an extent's file.
pub(super) fn name(extent: usize) -> String {
    format!("extent-{extent:06}")
}

/// Whether a file was deleted. Of a device's node that says nothing: the device is still there.
fn is_nameless(file: &File) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.nlink() == 0)
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that holds one of these locks can leave its value half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Extents {
    /// One file, opened twice: `handle` has the lock, `data` does the I/O.
    pub(super) fn single(
        path: PathBuf,
        handle: File,
        data: File,
        capacity_bytes: u64,
        direct: bool,
        calls: Arc<dyn Calls>,
    ) -> Self {
        let files = vec![Some(Arc::new(data))];
        Self::new(path, handle, true, capacity_bytes, capacity_bytes.max(1), direct, calls, files)
    }

    /// A directory; opens the extents that exist.
    pub(super) fn directory(
        path: PathBuf,
        handle: File,
        capacity_bytes: u64,
        extent_bytes: u64,
        direct: bool,
        calls: Arc<dyn Calls>,
    ) -> Result<Self, Error> {
        // A process that ended between making an extent and syncing the directory left one that may yet vanish.
        calls.settle(&handle).map_err(|error| failed("the medium's directory cannot be synced", &path, &error))?;
        let mut files = Vec::new();
        for extent in 0..capacity_bytes.div_ceil(extent_bytes) as usize {
            let file = path.join(name(extent));
            match open_file(&file, false, direct, OFlags::empty()) {
                Ok(file) => files.push(Some(Arc::new(file))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => files.push(None),
                Err(error) => {
                    return Err(failed("an extent cannot be opened for reading and writing", &file, &error));
                }
            }
        }
        let extents = Self::new(path, handle, false, capacity_bytes, extent_bytes, direct, calls, files);
        extents.name_short_ones();
        Ok(extents)
    }

    #[expect(clippy::too_many_arguments, reason = "the two constructors above name them")]
    fn new(
        path: PathBuf,
        handle: File,
        single: bool,
        capacity_bytes: u64,
        extent_bytes: u64,
        direct: bool,
        calls: Arc<dyn Calls>,
        files: Vec<Option<Arc<File>>>,
    ) -> Self {
        // What an earlier process wrote and did not sync is to be covered by the first sync of this one.
        let dirty = (0..files.len()).filter(|&extent| files[extent].is_some()).collect();
        Self {
            path,
            handle,
            single,
            capacity_bytes,
            extent_bytes,
            direct,
            calls,
            files: RwLock::new(files),
            making: Mutex::new(()),
            dirty: Mutex::new(dirty),
            syncing: Mutex::new(None),
        }
    }

    pub(super) fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    pub(super) fn is_direct(&self) -> bool {
        self.direct
    }

    /// Does one job, which has been checked.
    pub(super) fn run(&self, job: DiskJob, pool: &Pool) -> WorkOutcome {
        match job {
            DiskJob::Write { at, bufs } => self.write(at, &bufs).map(|()| WorkOutput::Done),
            DiskJob::Read { at, len } => self.read(at, len, pool).map(WorkOutput::Bytes),
            DiskJob::Sync => self.sync().map(|()| WorkOutput::Done),
            // The files keep their space, so that a slot that was erased can always be written again.
            DiskJob::Discard { .. } => Ok(WorkOutput::Done),
        }
    }

    fn name_of(&self, extent: usize) -> PathBuf {
        if self.single { self.path.clone() } else { self.path.join(name(extent)) }
    }

    fn file(&self, extent: usize) -> Option<Arc<File>> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.get(extent).cloned().flatten()
    }

    /// The extent and the offset in it of a byte, and how many bytes follow there.
    fn locate(&self, at: u64) -> (usize, u64, u64) {
        let offset = at % self.extent_bytes;
        ((at / self.extent_bytes) as usize, offset, self.extent_bytes - offset)
    }

    fn write(&self, at: u64, bufs: &[Buf]) -> Result<(), Error> {
        let mut at = at;
        let mut rest: Vec<&[u8]> = bufs.iter().map(|buf| &buf[..]).filter(|bytes| !bytes.is_empty()).collect();
        rest.reverse();
        while !rest.is_empty() {
            let (extent, offset, room) = self.locate(at);
            let mut part = Vec::new();
            let mut len = 0;
            while len < room && part.len() < SLICES_MAX {
                let Some(bytes) = rest.pop() else { break };
                let fits = bytes.len().min((room - len) as usize);
                part.push(IoSlice::new(&bytes[..fits]));
                len += fits as u64;
                if fits < bytes.len() {
                    rest.push(&bytes[fits..]);
                }
            }
            let file = self.make(extent)?;
            let outcome = self.write_all(&file, &mut part, offset);
            // Also after a write that failed: it may have done a part.
            held(&self.dirty).insert(extent);
            outcome
                .map_err(|error| failed("the medium failed a write", &self.name_of(extent), &error).with("at", at))?;
            at += len;
        }
        Ok(())
    }

    fn write_all(&self, file: &File, mut slices: &mut [IoSlice<'_>], mut at: u64) -> io::Result<()> {
        while !slices.is_empty() {
            let written = self.calls.write(file, slices, at)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            at += written as u64;
            IoSlice::advance_slices(&mut slices, written);
        }
        Ok(())
    }

    fn read(&self, at: u64, len: u32, pool: &Pool) -> Result<Buf, Error> {
        let mut buf = pool.take(len as usize, 0);
        let mut bytes = buf.as_mut().ok_or_else(|| Error::bug("fresh memory is shared"))?;
        let mut at = at;
        while !bytes.is_empty() {
            let (extent, offset, room) = self.locate(at);
            let part = bytes.len().min(room as usize);
            let (now, later) = bytes.split_at_mut(part);
            match self.file(extent) {
                Some(file) => read_all(&file, now, offset).map_err(|error| {
                    failed("the medium failed a read", &self.name_of(extent), &error).with("at", at)
                })?,
                None => now.fill(0),
            }
            at += part as u64;
            bytes = later;
        }
        Ok(buf)
    }

    fn sync(&self) -> Result<(), Error> {
        let mut broken = held(&self.syncing);
        if let Some(error) = &*broken {
            return Err(error.clone());
        }
        let dirty = core::mem::take(&mut *held(&self.dirty));
        for extent in dirty {
            let Some(file) = self.file(extent) else { continue };
            if let Err(error) = self.calls.sync(&file) {
                let error = failed("the medium failed a sync", &self.name_of(extent), &error);
                *broken = Some(error.clone());
                return Err(error);
            }
            // What has no name any more is gone with this process, synced or not.
            if is_nameless(&file) {
                let error = Error::new(ErrorKind::DriveFailed, "a file of the medium was deleted while it was in use")
                    .with("path", self.name_of(extent).display());
                *broken = Some(error.clone());
                return Err(error);
            }
        }
        Ok(())
    }

    /// The file of an extent; made with all its space if it is not there.
    fn make(&self, extent: usize) -> Result<Arc<File>, Error> {
        if let Some(file) = self.file(extent).filter(|file| self.is_whole(file, extent)) {
            return Ok(file);
        }
        let _one_at_a_time = held(&self.making);
        if let Some(file) = self.file(extent).filter(|file| self.is_whole(file, extent)) {
            return Ok(file);
        }
        let path = self.name_of(extent);
        let file = self.allocate(extent, &path).map_err(|error| failed("an extent cannot be made", &path, &error))?;
        let file = Arc::new(file);
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        files[extent] = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Bytes of an extent: the last may be short.
    fn len(&self, extent: usize) -> u64 {
        (self.capacity_bytes - extent as u64 * self.extent_bytes).min(self.extent_bytes)
    }

    /// A crash, or a medium that grew, leaves an extent shorter than it is to be.
    fn is_whole(&self, file: &File, extent: usize) -> bool {
        self.single || file.metadata().is_ok_and(|metadata| metadata.len() >= self.len(extent))
    }

    /// Says which extents are shorter than they are to be. What is missing reads as zeros: whether anything was there, the
    /// drive knows.
    fn name_short_ones(&self) {
        for extent in 0..self.capacity_bytes.div_ceil(self.extent_bytes) as usize {
            if let Some(file) = self.file(extent).filter(|file| !self.is_whole(file, extent)) {
                let (bytes, expected) = (file.metadata().map_or(0, |metadata| metadata.len()), self.len(extent));
                let path = self.name_of(extent);
                tracing::warn!(path = %path.display(), bytes, expected, "an extent is short: the medium has grown, its process ended while it made it, or somebody has cut it");
            }
        }
    }

    fn allocate(&self, extent: usize, path: &Path) -> io::Result<File> {
        let file = open_file(path, true, self.direct, OFlags::empty())?;
        let len = self.len(extent);
        // The metadata of a node often are on the same file system, and must never find it full.
        let space = fstatvfs(&file)?;
        let reserve = FREE_BYTES_MIN.min(space.f_blocks.saturating_mul(space.f_frsize) / FREE_SHARE_MIN);
        if space.f_bavail.saturating_mul(space.f_frsize) < len.saturating_add(reserve) {
            return Err(Errno::NOSPC.into());
        }
        match retried(|| fallocate(&file, FallocateFlags::empty(), 0, len)) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
                retried(|| ftruncate(&file, len))?;
            }
            Err(error) => return Err(error),
        }
        if let Err(error) = self.calls.settle(&file).and_then(|()| self.calls.settle(&self.handle)) {
            // The system says it once: the same sync made again would report success without having kept anything.
            *held(&self.syncing) = Some(failed("the medium failed the sync of a new extent", path, &error));
            return Err(error);
        }
        Ok(file)
    }
}

/// Fills `bytes`; behind the end of a file there are zeros.
fn read_all(file: &File, mut bytes: &mut [u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let read = retried(|| pread(file, &mut *bytes, at))?;
        if read == 0 {
            bytes.fill(0);
            return Ok(());
        }
        at += read as u64;
        bytes = &mut bytes[read..];
    }
    Ok(())
}
