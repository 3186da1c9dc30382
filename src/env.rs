//! What a node takes from outside: links, doorways, disks, files, clocks, randomness, threads. All of it comes in through one
//! [`Env`], so that a node lives on whatever clock, disks and links it is given. Timers are tokio's, which a simulation can
//! pause.

use core::time::Duration;
use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use mesh_core::{
    Entropy, Error, ErrorKind, Pool,
    figures::Page,
    id::{ClusterId, Incarnation, NodeId},
    meta::{LEVEL, Level},
    port::{Clock, Disk, Inbound, Outbound},
    time::{Instant, UnixMillis},
};
use mesh_dpu_runtime::{
    disk::FileDisk,
    load::{ProcessUse, thread_cpu_time},
    metadata::{Home, SNAPSHOT_EVERY},
    shell::Workers,
};
use mesh_fronts::wire::Listener;
use mesh_transport::{identity::Identity, link};
use tokio::net::TcpListener;

use crate::config::DriveConfig;

/// A random stream of its own for each taker.
pub type Randomness = Arc<dyn Fn() -> Box<dyn Entropy> + Send + Sync>;

/// The world of one node.
#[derive(Clone)]
pub struct Env {
    /// Both clocks.
    pub clock: Arc<dyn Clock>,
    /// Random bytes, fit for keys.
    pub entropy: Randomness,
    /// Media.
    pub disks: Arc<dyn Disks>,
    /// The node's own small files, and its metadata.
    pub files: Arc<dyn Files>,
    /// Links.
    pub links: Arc<dyn Links>,
    /// Where clients of front ends come in.
    pub doorways: Arc<dyn Doorways>,
    /// Threads for compute jobs.
    pub workers: Workers,
    /// The machine and the process.
    pub machine: Arc<dyn Machine>,
    /// Whether a node measures what functions cost on this machine. A simulation has nothing to measure.
    pub calibrates: bool,
    /// What the node says that its build can do. Only who tries builds side by side in one program says anything but
    /// [`LEVEL`].
    pub level: Level,
    /// Entries of a metadata group's log between two snapshots; a fifth of them is kept for those that lag.
    pub snapshot_every: u64,
}

impl core::fmt::Debug for Env {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Env")
    }
}

impl Env {
    /// A start that is later than `last` and than every start before now, so that a lost file does not repeat one: the
    /// wall clock, and random bits below it, so that two machines that start in the same moment from copies of one
    /// folder are two.
    pub(crate) fn new_start(&self, last: Incarnation) -> Incarnation {
        let mut random = [0; 2];
        (self.entropy)().fill(&mut random);
        let random = u64::from(u16::from_le_bytes(random)) % (1 << START_BITS);
        Incarnation(self.starts_until_now().0.saturating_add(random).max(last.0.saturating_add(1)))
    }

    /// All starts that were before now are less than this one.
    pub(crate) fn starts_until_now(&self) -> Incarnation {
        Incarnation(self.clock.wall().0 << START_BITS)
    }

    /// The real world: QUIC, files and devices, the system's clocks and random generator, a worker a core.
    ///
    /// # Errors
    /// If the operating system gives no threads.
    pub fn real() -> Result<Self, Error> {
        Ok(Self {
            clock: Arc::new(SystemClock::default()),
            entropy: Arc::new(|| Box::new(SystemEntropy)),
            disks: Arc::new(FileDisks),
            files: Arc::new(FileSystem),
            links: Arc::new(crate::quic::QuicLinks),
            doorways: Arc::new(Tcp),
            workers: Workers::threads(ThisMachine.cores())?,
            machine: Arc::new(ThisMachine),
            calibrates: true,
            level: LEVEL,
            snapshot_every: SNAPSHOT_EVERY,
        })
    }
}

/// Keeps a node's own small files and its metadata. What it says is kept is durable.
pub trait Files: Send + Sync {
    /// Makes a folder and those above it that are missing.
    ///
    /// # Errors
    /// What the system says.
    fn folder(&self, path: &Path) -> io::Result<()>;

    /// What a file holds; none if it is not there.
    ///
    /// # Errors
    /// What the system says; `InvalidData` if it is no text.
    fn read(&self, path: &Path) -> io::Result<Option<String>>;

    /// Puts a file in place, whatever was there before: whole or not at all. `mode` is who may read and write it.
    ///
    /// # Errors
    /// What the system says; the old file is then as it was.
    fn replace(&self, path: &Path, contents: &str, mode: u32) -> io::Result<()>;

    /// Where the metadata of a folder are.
    fn metadata(&self, folder: &Path) -> Home;
}

/// Lets clients of front ends in.
pub trait Doorways: Send + Sync {
    /// Listens. Gives the address, too, with the port if the system was to choose one.
    ///
    /// # Errors
    /// What the system says: another uses it already, or there is no such address here.
    fn listen(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<(Box<dyn Listener>, SocketAddr)>>;
}

struct Tcp;

impl Doorways for Tcp {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<(Box<dyn Listener>, SocketAddr)>> {
        async move {
            let listener = TcpListener::bind(address).await?;
            let bound = listener.local_addr()?;
            Ok((Box::new(listener) as Box<dyn Listener>, bound))
        }
        .boxed()
    }
}

/// What a node is told of the machine and the process that it runs in.
pub trait Machine: Send + Sync {
    /// Cores that the process is not kept from.
    fn cores(&self) -> usize;

    /// Bytes of memory that there are; none where the system does not say.
    fn memory_bytes(&self) -> Option<u64>;

    /// What the process has used since it started.
    fn used(&self) -> ProcessUse;

    /// CPU time that the calling thread has used.
    fn thread_cpu(&self) -> Duration;

    /// The process's number.
    fn pid(&self) -> u32;
}

/// Opens media.
pub trait Disks: Send + Sync {
    /// Opens a medium for this process alone.
    ///
    /// # Errors
    /// `DriveFailed` if it is missing, read-only, in use or broken; the message says which.
    fn open(&self, drive: &DriveConfig, pool: &Pool) -> Result<Arc<dyn Disk>, Error>;

    /// Whether an open medium is still where it was.
    fn is_present(&self, path: &Path) -> bool;

    /// As what a medium is to be opened that somebody asks for while the node runs. Nothing is changed there.
    ///
    /// # Errors
    /// `Conflict` if it is no place for a drive: it holds what no drive has, or is neither a folder nor a block device.
    fn vacant(&self, drive: &DriveConfig) -> Result<DriveConfig, Error> {
        Ok(drive.clone())
    }
}

/// How a node's link is set up.
#[derive(Clone)]
pub struct LinkSetup {
    /// Where to listen.
    pub address: SocketAddr,
    /// Who the node is.
    pub identity: Identity,
    /// The node.
    pub node: NodeId,
    /// Its start.
    pub incarnation: Incarnation,
    /// The cluster.
    pub cluster: ClusterId,
    /// A peer that is silent for so long is down.
    pub silence: Duration,
    /// The node's clock.
    pub clock: Arc<dyn Clock>,
    /// For jitter.
    pub entropy: Randomness,
    /// For payloads that come in.
    pub pool: Pool,
}

/// Makes links.
pub trait Links: Send + Sync {
    /// Begins to listen.
    fn bind(&self, setup: LinkSetup, inbound: Arc<dyn Inbound>) -> BoxFuture<'static, Result<Arc<dyn Link>, Error>>;
}

/// A node's links to all its peers.
pub trait Link: Outbound {
    /// Where it listens.
    fn address(&self) -> SocketAddr;
    /// Says where a peer is; its connections are made and kept from now on.
    fn set_peer(&self, node: NodeId, address: SocketAddr);
    /// Says which start of a peer is the present one: calls on connections to earlier ones end.
    fn restarted(&self, node: NodeId, incarnation: Incarnation);
    /// What stands between this node and the others, if it is a clock or the dates of a certificate.
    fn complaint(&self) -> Option<Error> {
        None
    }
    /// What it has counted, for who watches the node.
    fn figures(&self, page: &mut Page) {
        link::declare(page);
    }
    /// Ends every connection once what is in flight has ended, within a bound.
    fn close(&self) -> BoxFuture<'static, ()>;
}

/// Random bits of a start. With the milliseconds since 1970 it stays below 2^53 until 2039, so that every reader of JSON
/// reads it as it is.
const START_BITS: u32 = 12;

/// The system's clocks.
#[derive(Debug)]
pub struct SystemClock(std::time::Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(std::time::Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        // A node that runs for 584 years may overflow this.
        Instant(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn wall(&self) -> UnixMillis {
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_millis());
        UnixMillis(u64::try_from(millis).unwrap_or(u64::MAX))
    }
}

/// The operating system's random generator.
#[derive(Debug)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&mut self, target: &mut [u8]) {
        aws_lc_rs::rand::fill(target).expect("the system's random generator works");
    }
}

/// What Linux says.
#[derive(Debug)]
pub struct ThisMachine;

impl Machine for ThisMachine {
    fn cores(&self) -> usize {
        std::thread::available_parallelism().map_or(1, core::num::NonZero::get)
    }

    fn memory_bytes(&self) -> Option<u64> {
        let info = std::fs::read_to_string("/proc/meminfo").ok()?;
        let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    }

    fn used(&self) -> ProcessUse {
        // Where the system does not tell, the functions' own counts are told all the same.
        ProcessUse::read(Path::new("/")).unwrap_or_default()
    }

    fn thread_cpu(&self) -> Duration {
        thread_cpu_time()
    }

    fn pid(&self) -> u32 {
        std::process::id()
    }
}

/// The file system.
#[derive(Debug)]
pub struct FileSystem;

impl Files for FileSystem {
    fn folder(&self, path: &Path) -> io::Result<()> {
        crate::files::folder(path)
    }

    fn read(&self, path: &Path) -> io::Result<Option<String>> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn replace(&self, path: &Path, contents: &str, mode: u32) -> io::Result<()> {
        crate::files::replace(path, contents.as_bytes(), mode)
    }

    fn metadata(&self, folder: &Path) -> Home {
        Home::Folder(folder.to_owned())
    }
}

/// Folders and block devices.
#[derive(Debug)]
pub struct FileDisks;

impl Disks for FileDisks {
    fn open(&self, drive: &DriveConfig, pool: &Pool) -> Result<Arc<dyn Disk>, Error> {
        // A folder has a size and is made; a device that is absent is missing. Whether it may be made is decided before.
        if !drive.path.exists() && drive.capacity.is_some() {
            crate::provision::make_folder(&drive.path)?;
        }
        let options = mesh_dpu_runtime::disk::FileOptions {
            capacity_bytes: drive.capacity.map_or(0, |size| size.0),
            pool: pool.clone(),
            ..mesh_dpu_runtime::disk::FileOptions::default()
        };
        Ok(FileDisk::open(&drive.path, options)?)
    }

    fn is_present(&self, path: &Path) -> bool {
        path.exists()
    }

    fn vacant(&self, drive: &DriveConfig) -> Result<DriveConfig, Error> {
        use std::os::unix::fs::FileTypeExt as _;
        let DriveConfig { path, capacity } = drive;
        let refused = |what: &'static str| Error::new(ErrorKind::Conflict, what).with("path", path.display());
        let cannot = |error| refused("the medium cannot be looked at").caused_by(error);
        match std::fs::metadata(path) {
            Ok(found) if found.file_type().is_block_device() || found.is_file() => Ok(drive.clone()),
            Ok(found) if !found.is_dir() => Err(refused("it is neither a folder nor a block device")),
            // It says itself how large it is. What is refused after all must not have grown.
            Ok(_) if FileDisk::is_at(path) => Ok(DriveConfig { path: path.clone(), capacity: None }),
            Ok(_) => {
                // What a file system made itself is in nobody's way.
                let names =
                    std::fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(cannot)?;
                if names.iter().all(|entry| entry.file_name() == "lost+found") {
                    return Ok(drive.clone());
                }
                Err(refused("the folder holds something else; it is left alone. Empty it if it is to be used"))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => match capacity {
                Some(_) if path.starts_with("/dev") => Err(refused("there is no such device")),
                _ => Ok(drive.clone()),
            },
            Err(error) => Err(cannot(error)),
        }
    }
}
