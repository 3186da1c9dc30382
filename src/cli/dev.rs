//! `mesh dev`: a whole mesh in one process, over real links on loopback.

use core::time::Duration;
use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::Args;
use mesh::{
    config::{
        ClusterConfig, CodeText, Config, DriveConfig, NodeNumber, S3Config, Size, Span, TimingConfig, WatchConfig,
    },
    node::Node,
    provision::{FIRST_TENANT, Provision},
};
use mesh_actors::registry::Registry;
use mesh_core::{
    Error, ErrorKind, Principal,
    assignment::{Preference, Scope, Wish},
    op::AdminOp,
    topology::Survival,
};

use super::{
    LogFormat,
    dpus::{self, Dpus},
    exports, quoted, status, told_to_stop, write_private,
};

/// Run a whole mesh of three nodes in this process, with two drives each, over QUIC on loopback.
///
/// Everything is kept in a folder and is there again after a restart. Once the mesh takes data, the lines to try are
/// printed and written to `dev.env` in that folder, for a shell to source: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
/// AWS_SECRET_ACCESS_KEY, AWS_REGION and MESH_BUCKET for any S3 client (with --tls AWS_CA_BUNDLE, too), MESH_CONNECT, MESH_IDENTITY and
/// MESH_ADMIN_IDENTITY for `mesh status`, `mesh actors` and the like, MESH_WATCH with where each node tells what is counted on it
/// (`/metrics`, `/healthz` and `/readyz`), and with --dpus MESH_DEV_SOCKET for `mesh dpu`.
#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// The folder that everything is kept in [default: mesh/dev in your data folder].
    #[arg(long, env = "MESH_DEV_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// The port of the S3 front end on 127.0.0.1; 0: any free one.
    #[arg(long, default_value_t = 9000)]
    s3_port: u16,
    /// S3 over HTTPS, with a certificate of the cluster's own authority: AWS_CA_BUNDLE names that for S3 clients.
    #[arg(long)]
    tls: bool,
    /// Data and parity shards of a stripe; taken when the folder is new.
    #[arg(long, default_value = "2+1", value_name = "K+M")]
    code: CodeText,
    /// How much each of the six drives may hold; space is taken as it is used.
    #[arg(long, default_value = "16GiB", value_name = "SIZE")]
    drive_size: Size,
    /// Deleted data are kept for so long: a GET of what is deleted meanwhile may run for seven eighths of it.
    #[arg(long, default_value = "60s", value_name = "TIME")]
    reclaim_grace: Span,
    /// Emulated DPUs: processes of their own, with a DPU's share of the CPU, plugged into nodes 1, 2, 3, 1, ... in turn.
    /// Chains then prefer them.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=6))]
    dpus: u32,
    /// What the emulated DPUs stand for: bf1, bf2, bf3 or bf4.
    #[arg(long, default_value = "bf3", value_name = "KIND")]
    dpu_kind: mesh_core::bluefield::Generation,
    /// The kinds of function that they run, such as compress,encrypt,erasure: what comes before those stays on their hosts. All of
    /// them without it.
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    dpu_functions: Option<Vec<String>>,
    /// How what is logged is written.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,
}

impl Dev {
    pub(crate) async fn run(self) -> Result<(), Error> {
        let known = Registry::default();
        let unknown = |kind: &&String| !known.kinds().any(|one| one == kind.as_str());
        if let Some(kind) = self.dpu_functions.iter().flatten().find(unknown) {
            let known: Vec<&str> = known.kinds().collect();
            return Err(Error::invalid("there is no such kind of function")
                .with("kind", kind)
                .with("known", known.join(", ")));
        }
        let data = match &self.data {
            Some(data) => data.clone(),
            None => default_folder()?,
        };
        let data = std::path::absolute(&data).map_err(|error| Error::invalid("no such path").caused_by(error))?;
        mesh::provision::make_folder(&data)?;
        let _lock = lock(&data)?;
        let told = data.join("dev.env");
        remove(&told)?;
        let provision =
            if Provision::exists(&data) { Provision::open(&data)? } else { Provision::create(&data, BUCKET)? };

        let began = std::time::Instant::now();
        let mut nodes: Vec<Node> = Vec::new();
        for number in 1..=NODES {
            let node = self.node(&provision, &data, number).await?;
            for other in &nodes {
                other.set_peer(node.id(), node.address());
                node.set_peer(other.id(), other.address());
            }
            nodes.push(node);
        }
        let mut dpus: Option<Dpus> = None;
        let running = async {
            let first = nodes.first().ok_or_else(|| Error::bug("a mesh without nodes"))?;
            mesh::provision::found_once(first, &data).await?;
            for node in &nodes {
                node.ready(READY_MAX).await?;
            }
            let mut variables = self.variables(&provision, &data, &nodes)?;
            if self.dpus > 0 {
                prefer_dpus(first).await?;
                let started = dpus.insert(Dpus::start(self.dpu_setup(&data, &nodes), &provision, self.dpus).await?);
                variables.push(("MESH_DEV_SOCKET", started.socket.display().to_string()));
            }
            write_private(&told, &exports(&variables))?;
            let took = began.elapsed();
            let survival = survival_of(first).await;
            self.print_lines(&told, &variables, took, survival.as_ref());
            told_to_stop().await
        };
        // Told to stop while it starts, it stops as well.
        let outcome = tokio::select! {
            outcome = running => outcome,
            outcome = told_to_stop() => outcome,
        };
        remove(&told)?;
        // First: requests under way need all the nodes.
        futures_util::future::join_all(nodes.iter().map(Node::close_front)).await;
        // What runs there moves to the hosts, which answer what they have after that.
        let emptied = match dpus {
            Some(dpus) => dpus.stop().await,
            None => Ok(()),
        };
        let stopping = nodes.iter().map(|node| node.shutdown(STOP_MAX));
        futures_util::future::join_all(stopping).await;
        outcome.and(emptied)
    }

    async fn node(&self, provision: &Provision, data: &Path, number: u64) -> Result<Node, Error> {
        let folder = data.join(format!("node-{number}"));
        let id = NodeNumber(number);
        provision.equip(id.id(), &folder)?;
        let mut s3 =
            S3Config { memory: Size(S3_MEMORY), ..S3Config::new(SocketAddr::from(([127, 0, 0, 1], self.s3_port))) };
        if self.tls && number == 1 {
            s3.tls = Some(provision.equip_front(&FRONT_NAMES.map(str::to_owned), data)?);
        }
        let s3 = (number == 1).then_some(s3);
        let drives =
            ["drive-a", "drive-b"].map(|name| DriveConfig { path: folder.join(name), capacity: Some(self.drive_size) });
        let config = Config {
            bootstrap: number == 1,
            s3,
            watch: Some(WatchConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)) }),
            drives: drives.to_vec(),
            cluster: ClusterConfig { code: self.code, ..ClusterConfig::default() },
            timing: TimingConfig { reclaim_grace: self.reclaim_grace, ..TimingConfig::default() },
            ..Config::new(id, SocketAddr::from(([127, 0, 0, 1], 0)), folder)
        };
        Node::builder(config).start().await
    }

    fn print_lines(&self, told: &Path, variables: &[(&str, String)], took: Duration, survival: Option<&Survival>) {
        let endpoint = variables.iter().find(|(name, _)| *name == "AWS_ENDPOINT_URL").map_or("", |(_, value)| value);
        let dpus = match self.dpus {
            0 => String::new(),
            1 => format!(", an emulated DPU ({})", self.dpu_kind),
            more => format!(", {more} emulated DPUs ({})", self.dpu_kind),
        };
        println!(
            "The mesh is ready, after {:.1} s: three nodes, six drives{dpus}, S3 on {endpoint}",
            took.as_secs_f64()
        );
        if survival.is_none_or(|survival| !survival.writes) {
            println!("{}", status::survives(survival));
        }
        println!();
        println!("In another shell:");
        println!();
        println!("  source {}", quoted(&told.display().to_string()));
        println!("  echo hello | aws s3 cp - s3://$MESH_BUCKET/hello     # or any other S3 client");
        println!("  aws s3 ls s3://$MESH_BUCKET");
        println!("  mesh status");
        println!("  mesh put README.md readme && mesh ls");
        println!("  curl -s ${{MESH_WATCH%%,*}}/metrics               # and /readyz; one address a node");
        if self.dpus > 0 {
            println!("  mesh actors                 # where each one runs, and why");
            println!("  mesh watch                  # what moves, as it happens");
            println!("  mesh dpu detach             # and attach; or kill -9 its process: mesh dpu list");
        }
        println!();
        println!("Ctrl-C stops it; what is stored is there again the next time.");
    }

    fn dpu_setup(&self, data: &Path, nodes: &[Node]) -> dpus::Setup {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let template = Config {
            functions: self.dpu_functions.clone(),
            timing: TimingConfig { reclaim_grace: self.reclaim_grace, ..TimingConfig::default() },
            ..Config::new(NodeNumber(1), address, data.to_owned())
        };
        dpus::Setup { data: data.to_owned(), nodes: nodes.to_vec(), kind: self.dpu_kind, template }
    }

    fn variables(
        &self,
        provision: &Provision,
        data: &Path,
        nodes: &[Node],
    ) -> Result<Vec<(&'static str, String)>, Error> {
        let credentials = provision.credentials()?;
        let founding = provision.founding()?;
        let identity = data.join("client.pem");
        if !identity.exists() {
            provision.client_identity(FIRST_TENANT, &founding.principal)?.save(&identity)?;
        }
        let admin = data.join("admin.pem");
        if !admin.exists() {
            provision.admin_identity("dev")?.save(&admin)?;
        }
        let s3 = nodes.iter().find_map(Node::s3_address).ok_or_else(|| Error::bug("no S3 front end listens"))?;
        let connect: Vec<String> = nodes.iter().map(|node| node.address().to_string()).collect();
        let watch: Vec<String> =
            nodes.iter().filter_map(Node::watch_address).map(|address| format!("http://{address}")).collect();
        let (scheme, authority) = match self.tls {
            true => ("https", Some(("AWS_CA_BUNDLE", provision.front_authority_file().display().to_string()))),
            false => ("http", None),
        };
        let variables = [
            ("AWS_ENDPOINT_URL", format!("{scheme}://{s3}")),
            ("AWS_ACCESS_KEY_ID", credentials.access),
            ("AWS_SECRET_ACCESS_KEY", credentials.secret),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_DEFAULT_REGION", "us-east-1".to_owned()),
            ("MESH_BUCKET", founding.bucket),
            ("MESH_CONNECT", connect.join(",")),
            ("MESH_IDENTITY", identity.display().to_string()),
            ("MESH_ADMIN_IDENTITY", admin.display().to_string()),
            ("MESH_WATCH", watch.join(",")),
        ];
        Ok(variables.into_iter().chain(authority).collect())
    }
}

/// What the mesh survives. Who leads the metadata has yet to say, at the start, that nothing is to be repaired.
async fn survival_of(node: &Node) -> Option<Survival> {
    let look = || node.status().iter().find_map(|report| report.survival.clone());
    for _ in 0..LOOKS_MAX {
        match look() {
            Some(survival) if survival.reads => return Some(survival),
            _ => tokio::time::sleep(LOOK_PAUSE).await,
        }
    }
    look()
}

/// Chains go to DPUs, unless somebody has said otherwise.
async fn prefer_dpus(node: &Node) -> Result<(), Error> {
    if node.control().wishes.contains_key(&Scope::Mesh) {
        return Ok(());
    }
    let wish = Some(Wish { preference: Preference::PreferDpu, pin: None });
    let client = node.client(Principal::Admin { name: "mesh dev".into() });
    client.administer(AdminOp::Wish { scope: Scope::Mesh, wish }).await.map(drop)
}

/// The user's data folder, as the XDG base directory specification has it.
fn default_folder() -> Result<PathBuf, Error> {
    let base = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".local/share")))
        .ok_or_else(|| Error::invalid("there is no home folder; say where with --data DIR"))?;
    Ok(base.join("mesh/dev"))
}

/// Keeps a second mesh out of the folder.
fn lock(data: &Path) -> Result<File, Error> {
    let path = data.join("lock");
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::DriveFailed, "the folder cannot be locked").with("file", path.display()).caused_by(error)
    };
    let file = File::create(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::new(
            ErrorKind::Conflict,
            "another `mesh dev` runs in this folder; stop it, or choose another with --data",
        )
        .with("folder", data.display())),
        Err(std::fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::new(ErrorKind::DriveFailed, "a file cannot be removed")
                .with("file", path.display())
                .caused_by(error))
        }
        _ => Ok(()),
    }
}

const NODES: u64 = 3;
const BUCKET: &str = "dev";
/// What it goes by with --tls: addresses, path style, and a bucket in front.
const FRONT_NAMES: [&str; 4] = ["127.0.0.1", "localhost", "s3.localhost", "*.s3.localhost"];
/// What S3 requests may hold: three nodes in one process, on a machine that has other things to do.
const S3_MEMORY: u64 = 256 << 20;
const READY_MAX: Duration = Duration::from_secs(60);
/// How often it looks again before it says that the mesh does not survive the loss of a node.
const LOOKS_MAX: u32 = 10;
const LOOK_PAUSE: Duration = Duration::from_millis(200);
const STOP_MAX: Duration = Duration::from_secs(10);
