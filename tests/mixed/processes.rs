//! Starting, killing and asking the processes of a mesh of two architectures.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use mesh::{
    Client,
    config::{Config, DpuConfig, NodeNumber, Span},
    env::Env,
};
use mesh_core::{Error, ErrorKind, bluefield::Generation};
use mesh_transport::identity::Identity;
use serde::{Deserialize, de::DeserializeOwned};

/// The number of the node that runs in emulation. Below it are hosts.
pub(crate) const DPU: u64 = 11;
pub(crate) const HOSTS: u64 = 3;
/// Whose DPU it is.
const ATTACHED_TO: u64 = 1;
const GENERATION: Generation = Generation::Bf3;

/// What runs programs of the other architecture, and where their libraries are: Debian's places.
const EMULATOR: [&str; 3] = ["qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu"];
/// An emulated core is slow, and other tests may want this machine: what is silent for the usual 300 ms may be alive.
const DPU_SILENCE: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(90);

/// Three hosts with a drive each, EC 2+1, and the DPU of the first, in a temporary folder; killed when dropped.
pub(crate) struct Mixed {
    folder: tempfile::TempDir,
    /// The program of the other architecture.
    foreign: PathBuf,
    addresses: BTreeMap<u64, SocketAddr>,
    children: BTreeMap<u64, Child>,
}

/// An element of `mesh actors --json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Actor {
    id: String,
    pub(crate) functions: Vec<String>,
    node: String,
    pub(crate) epoch: u64,
    phase: String,
    pub(crate) requests: u64,
}

#[derive(Deserialize)]
struct Status {
    nodes: Vec<NodeShown>,
}

#[derive(Debug, Deserialize)]
struct NodeShown {
    id: String,
    kind: String,
    pid: u32,
    state: String,
    attached_to: Option<String>,
    emulated: Option<String>,
}

impl Mixed {
    /// Founds the cluster, starts its first node, which gives out the numbers of the others, and joins those on disk. Each
    /// node's files are made by the program that will run it.
    pub(crate) fn found(foreign: PathBuf) -> Self {
        assert_eq!(machine(&foreign), MACHINE_AARCH64, "MESH_AARCH64 is a program for aarch64");
        let nodes = (1..=HOSTS).chain([DPU]);
        let addresses = nodes.clone().zip(crate::ports::free(nodes.count())).collect();
        let folder = tempfile::tempdir().unwrap();
        let mut mixed = Self { folder, foreign, addresses, children: BTreeMap::new() };
        for node in mixed.addresses.keys().copied().collect::<Vec<_>>() {
            mixed.make(node);
            if node == 1 {
                mixed.serve(node);
            }
        }
        mixed
    }

    fn make(&self, node: u64) {
        let (dir, address) = (self.dir(node).display().to_string(), self.addresses[&node].to_string());
        let drive = format!("{}:2GiB", self.path(&format!("drive-{node}")).display());
        if node == 1 {
            succeeds(self.program(node).args(["init", "--dir", &dir, "--address", &address, "--drive", &drive]));
        } else {
            let (first, number) = (self.dir(1).display().to_string(), node.to_string());
            let invitation = self.path(&format!("{node}.invitation")).display().to_string();
            succeeds(self.program(1).args(["invite", "--dir", &first, "--node", &number, "--out", &invitation]));
            let mut join = self.program(node);
            join.args(["join", "--invitation", &invitation, "--dir", &dir, "--address", &address]);
            if node != DPU {
                join.args(["--drive", &drive]);
            }
            succeeds(&mut join);
        }
        let file = self.dir(node).join("mesh.toml");
        let mut config = Config::load(&file).unwrap();
        config.timing.dpu_silence = Span(DPU_SILENCE);
        config.dpu =
            (node == DPU).then_some(DpuConfig { attached_to: NodeNumber(ATTACHED_TO), emulated: Some(GENERATION) });
        fs::write(&file, config.to_text().unwrap()).unwrap();
    }

    /// A file of this mesh.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn dir(&self, node: u64) -> PathBuf {
        self.path(&format!("machine-{node}"))
    }

    /// The program that runs a node.
    fn program(&self, node: u64) -> Command {
        if node == DPU { emulated(&self.foreign) } else { Command::new(env!("CARGO_BIN_EXE_mesh")) }
    }

    /// Starts a node; it ends with this process, however that ends.
    pub(crate) fn serve(&mut self, node: u64) {
        let log = File::options().create(true).append(true).open(self.log_file(node)).unwrap();
        let mut command = self.program(node);
        command
            .args(["serve", "--with-parent", &std::process::id().to_string(), "--config"])
            .arg(self.dir(node).join("mesh.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.children.insert(node, command.spawn().unwrap());
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, node: u64) {
        let mut child = self.children.remove(&node).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and a clean exit.
    pub(crate) fn terminate(&mut self, node: u64) {
        let mut child = self.children.remove(&node).unwrap();
        succeeds(Command::new("kill").args(["-TERM", &child.id().to_string()]));
        let status = child.wait().unwrap();
        assert!(status.success(), "node-{node} ended with {status}:\n{}", self.log(node));
    }

    /// A client of one host.
    pub(crate) async fn client(&self, host: u64) -> Client {
        let identity = Identity::load(&self.dir(1).join("client.pem")).unwrap();
        let env = Env::real().unwrap();
        until("a client connects", async || mesh::quic::connect(&[self.addresses[&host]], identity.clone(), &env).await)
            .await
    }

    /// Waits until an actor runs at a node, and gives what is shown of it.
    pub(crate) async fn runs_at(&self, id: &str, node: u64) -> Actor {
        until(&format!("{id} runs at node-{node}"), async || {
            let actors: Vec<Actor> = self.asked(&["actors", "--json"]).await?;
            let wanted = |actor: &&Actor| actor.id == id && actor.phase == "running";
            let running: Vec<&Actor> = actors.iter().filter(wanted).collect();
            match running[..] {
                [actor] if actor.node == format!("node-{node}") => Ok(actor.clone()),
                _ => Err(not_yet(format!("{actors:?}"))),
            }
        })
        .await
    }

    /// Waits until the emulated node is shown as what it is.
    pub(crate) async fn shows_the_dpu(&self) {
        let child = self.children[&DPU].id();
        let shown = until("the DPU node is up", async || {
            let status: Status = self.asked(&["status", "--json"]).await?;
            let found = status.nodes.into_iter().find(|node| node.id == format!("node-{DPU}"));
            found.filter(|node| node.state == "up").ok_or_else(|| not_yet("it is not up"))
        })
        .await;
        assert_eq!((shown.kind.as_str(), shown.emulated.as_deref()), ("dpu", Some(GENERATION.name())), "{shown:?}");
        assert_eq!(shown.attached_to, Some(format!("node-{ATTACHED_TO}")), "{shown:?}");
        assert_eq!(shown.pid, child, "the process that was started is the node");
    }

    /// Runs a command as an administrator.
    pub(crate) async fn admin(&self, arguments: &[&str]) -> String {
        self.succeeding(1, arguments).await
    }

    /// Runs a command with the program of the other architecture.
    pub(crate) async fn on_the_other_side(&self, arguments: &[&str]) {
        self.succeeding(DPU, arguments).await;
    }

    /// Runs a command, again if need be: on a machine that is busy, the greeting of a program that is emulated, and begins
    /// with nothing translated, may take longer than nodes wait for it.
    async fn succeeding(&self, program: u64, arguments: &[&str]) -> String {
        until(&format!("mesh {}", arguments.join(" ")), async || {
            let output = self.run(program, arguments).await;
            if !output.status.success() {
                return Err(not_yet(String::from_utf8_lossy(&output.stderr)));
            }
            Ok(String::from_utf8(output.stdout).unwrap())
        })
        .await
    }

    async fn asked<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T, Error> {
        let output = self.run(1, arguments).await;
        if !output.status.success() {
            return Err(not_yet(String::from_utf8_lossy(&output.stderr)));
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    }

    /// Runs a command with the variables of `client.env`, as a shell gets them.
    async fn run(&self, program: u64, arguments: &[&str]) -> Output {
        let program = self.program(program);
        let words = [program.get_program()].into_iter().chain(program.get_args());
        let mut sourced = Command::new("sh");
        sourced
            .args(["-c", ". \"$0\" && exec \"$@\""])
            .arg(self.dir(1).join("client.env"))
            .args(words)
            .args(arguments)
            .stdin(Stdio::null());
        tokio::task::spawn_blocking(move || sourced.output().unwrap()).await.unwrap()
    }

    fn log_file(&self, node: u64) -> PathBuf {
        self.path(&format!("node-{node}.log"))
    }

    fn log(&self, node: u64) -> String {
        fs::read_to_string(self.log_file(node)).unwrap_or_default()
    }
}

impl Drop for Mixed {
    fn drop(&mut self) {
        for child in self.children.values_mut() {
            if child.kill().is_ok() {
                child.wait().ok();
            }
        }
        if std::thread::panicking() {
            for node in self.addresses.keys() {
                let log = self.log(*node);
                let tail: Vec<&str> = log.lines().rev().take(40).collect();
                eprintln!("--- node-{node} ---");
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

fn emulated(program: impl AsRef<OsStr>) -> Command {
    let [emulator, arguments @ ..] = EMULATOR;
    let mut command = Command::new(emulator);
    command.args(arguments).arg(program);
    command
}

/// The machine that a program is for: the field `e_machine` of an ELF file.
fn machine(program: &Path) -> u16 {
    use std::io::Read as _;
    let mut head = [0; 20];
    File::open(program).unwrap().read_exact(&mut head).unwrap();
    assert_eq!(&head[..4], b"\x7fELF");
    u16::from_le_bytes([head[18], head[19]])
}

const MACHINE_AARCH64: u16 = 183;

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn not_yet(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Timeout, what.into())
}

/// Asks until it is answered well, or the time is up.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, Error>) -> T {
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) if began.elapsed() > PATIENCE => panic!("{what}: not within {PATIENCE:?}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
