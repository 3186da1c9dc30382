//! Starting, killing and looking at real `mesh` processes.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::{Client, env::Env};
use mesh_core::{
    Error,
    op::NodeReport,
    topology::{DriveState, NodeState},
};
use mesh_transport::identity::Identity;

/// Three `mesh serve` in a temporary folder; killed when dropped.
pub(crate) struct Cluster {
    folder: tempfile::TempDir,
    addresses: Vec<SocketAddr>,
    children: Vec<Option<Child>>,
    /// Drives of each node, by their letters.
    letters: &'static [char],
}

impl Cluster {
    /// Founds a cluster of three nodes of two drives and waits until everything is up.
    pub(crate) async fn start() -> Self {
        Self::start_with(str::to_owned).await
    }

    /// The same with every node's configuration changed.
    pub(crate) async fn start_with(change: impl Fn(&str) -> String) -> Self {
        Self::start_of("2+1", &['a', 'b'], change).await
    }

    /// The same of another code, and with other drives in each node.
    pub(crate) async fn start_of(code: &str, letters: &'static [char], change: impl Fn(&str) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let addresses = crate::ports::free(3);
        let mut cluster = Self { folder, addresses, children: vec![None, None, None], letters };
        let mut arguments = vec!["--dir".into(), cluster.dir(1).display().to_string()];
        arguments.extend(["--code".into(), code.into()]);
        arguments.extend(cluster.machine(1));
        mesh("init", &arguments).unwrap();
        cluster.configure(1, &change);
        cluster.serve(1);
        for node in 2..=3 {
            cluster.invite(node).unwrap();
            cluster.join(node);
        }
        for node in 2..=3 {
            cluster.configure(node, &change);
            cluster.serve(node);
        }
        let client = cluster.client(&[1, 2, 3]).await;
        cluster.all_up(&client, 3 * letters.len()).await;
        until("the first put", Duration::from_secs(60), async || client.put_bytes("main", "first", b"first").await)
            .await;
        cluster
    }

    /// One more machine, which joins: its number.
    pub(crate) fn grow(&mut self, change: &impl Fn(&str) -> String) -> u64 {
        let node = self.children.len() as u64 + 1;
        self.addresses.extend(crate::ports::free(1));
        self.children.push(None);
        self.invite(node).unwrap();
        self.join(node);
        self.configure(node, change);
        self.serve(node);
        node
    }

    fn configure(&self, node: u64, change: &impl Fn(&str) -> String) {
        let path = self.dir(node).join("mesh.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, change(&text)).unwrap();
    }

    /// What a machine is given when it becomes a node.
    fn machine(&self, node: u64) -> Vec<String> {
        let address = self.addresses[node as usize - 1].to_string();
        let drive = |name| ["--drive".into(), format!("{}:2GiB", self.drive(node, name).display())];
        ["--address".into(), address].into_iter().chain(self.letters.iter().flat_map(|name| drive(*name))).collect()
    }

    fn invitation(&self, node: u64) -> String {
        self.folder.path().join(format!("node-{node}.invitation")).display().to_string()
    }

    /// Has the mesh give out a number; what it says if it does not.
    pub(crate) fn invite(&self, node: u64) -> Result<(), String> {
        let (first, number) = (self.dir(1).display().to_string(), node.to_string());
        let mut arguments = vec!["--dir".into(), first, "--node".into(), number, "--out".into(), self.invitation(node)];
        let running = self.addresses.iter().zip(&self.children).filter(|(_, child)| child.is_some());
        arguments.extend(running.flat_map(|(address, _)| ["--connect".into(), address.to_string()]));
        mesh("invite", &arguments)
    }

    /// Makes a machine a node by the last invitation for its number.
    pub(crate) fn join(&self, node: u64) {
        let mut arguments = vec!["--dir".into(), self.dir(node).display().to_string()];
        arguments.extend(["--invitation".into(), self.invitation(node)]);
        arguments.extend(self.machine(node));
        mesh("join", &arguments).unwrap();
    }

    pub(crate) fn dir(&self, node: u64) -> PathBuf {
        self.folder.path().join(format!("machine-{node}"))
    }

    /// The folder of a node's metadata.
    pub(crate) fn metadata(&self, node: u64) -> PathBuf {
        self.dir(node).join(format!("node-{node}")).join("metadata")
    }

    /// Whether a node that leads nothing can take over what others lead: its replicas have caught up and vote.
    pub(crate) async fn votes(&self, client: &Client, node: u64) -> Result<(), Error> {
        let status = client.status().await?;
        let replicas: Vec<_> =
            status.iter().filter(|report| report.node.0 == node).flat_map(|report| &report.groups).collect();
        let logs: String = (1..=self.children.len() as u64).map(|node| self.log(node)).collect();
        let votes = |group: &&mesh_core::op::GroupReport| {
            logs.lines().any(|line| line.contains("the voters of") && line.contains(&group.replica.to_string()))
        };
        if replicas.len() >= 2 && replicas.iter().all(votes) {
            return Ok(());
        }
        Err(Error::invalid(format!("not every replica votes: {replicas:?}")))
    }

    /// The number of a drive, as its node remembers it.
    pub(crate) fn number(&self, node: u64, drive: &Path) -> String {
        let known = fs::read_to_string(self.dir(node).join(format!("node-{node}")).join("drives")).unwrap();
        let line = known.lines().find(|line| line.ends_with(&format!(" {}", drive.display()))).unwrap();
        line.split(' ').next().unwrap().to_owned()
    }

    /// The folder of a drive.
    pub(crate) fn drive(&self, node: u64, drive: char) -> PathBuf {
        self.folder.path().join(format!("drive-{node}{drive}"))
    }

    /// Starts a node.
    pub(crate) fn serve(&mut self, node: u64) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join(format!("node-{node}.log")))
            .unwrap();
        self.children[node as usize - 1] = Some(spawn(&self.dir(node), log));
    }

    /// Starts another machine under a node's number: with a copy of its folder, or by its invitation.
    pub(crate) fn serve_twin(&self, node: u64, copy: Option<&Path>) -> Twin {
        let name =
            copy.and_then(Path::file_name).map_or_else(|| "invitation".into(), |name| name.display().to_string());
        let dir = self.folder.path().join(format!("twin-by-{name}"));
        let address = crate::ports::free(1)[0].to_string();
        let drive = |name: char| self.folder.path().join(format!("twin-drive-{name}")).display().to_string();
        match copy {
            Some(copy) => {
                fs::rename(copy, &dir).unwrap();
                let path = dir.join("mesh.toml");
                let mut text = fs::read_to_string(&path).unwrap();
                let own = self.addresses[node as usize - 1].to_string();
                let mut changes =
                    vec![(self.dir(node).display().to_string(), dir.display().to_string()), (own, address)];
                changes.extend(['a', 'b'].map(|name| (self.drive(node, name).display().to_string(), drive(name))));
                for (was, is) in changes {
                    assert!(text.contains(&was), "{was} is not in {text}");
                    text = text.replace(&was, &is);
                }
                fs::write(&path, text).unwrap();
            }
            None => {
                let mut arguments = vec!["--dir".into(), dir.display().to_string(), "--address".into(), address];
                arguments.extend(["--invitation".into(), self.invitation(node)]);
                arguments
                    .extend(['a', 'b'].iter().flat_map(|name| ["--drive".into(), format!("{}:2GiB", drive(*name))]));
                mesh("join", &arguments).unwrap();
            }
        }
        let log = dir.with_extension("log");
        Twin { child: spawn(&dir, File::create(&log).unwrap()), log }
    }

    /// The process of a node that runs.
    pub(crate) fn pid(&self, node: u64) -> u32 {
        self.children[node as usize - 1].as_ref().unwrap().id()
    }

    /// A node that does nothing any more until [`Twin::resume`], and counts no more among those that were started.
    pub(crate) fn pause(&mut self, node: u64) -> Twin {
        let child = self.children[node as usize - 1].take().unwrap();
        let log = self.folder.path().join(format!("node-{node}.log"));
        let twin = Twin { child, log };
        twin.signal("-STOP");
        twin
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, node: u64) {
        let mut child = self.children[node as usize - 1].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and a clean exit.
    pub(crate) fn terminate(&mut self, node: u64) {
        let mut child = self.children[node as usize - 1].take().unwrap();
        let told = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(told.success());
        let status = child.wait().unwrap();
        assert!(status.success(), "node-{node} ended with {status}:\n{}", self.log(node));
    }

    /// A client of some of the nodes, with the identity that `mesh init` made.
    pub(crate) async fn client(&self, nodes: &[u64]) -> Client {
        let identity = Identity::load(&self.dir(1).join("client.pem")).unwrap();
        let addresses: Vec<SocketAddr> = nodes.iter().map(|node| self.addresses[*node as usize - 1]).collect();
        let env = Env::real().unwrap();
        until("a client connects", Duration::from_secs(60), async || {
            mesh::quic::connect(&addresses, identity.clone(), &env).await
        })
        .await
    }

    /// Waits until every node that was started is there, in that start (the others may not have missed the last one yet),
    /// exactly so many drives are up, and nothing else is in doubt.
    pub(crate) async fn all_up(&self, client: &Client, drives: usize) {
        until(&format!("{drives} drives are up"), Duration::from_secs(90), async || {
            let status = client.status().await?;
            for node in self.children.iter().flatten() {
                let is_it = |report: &Arc<NodeReport>| report.pid == node.id() && report.state == NodeState::Up;
                if !status.iter().any(is_it) {
                    return Err(Error::invalid(format!("process {} is not there: {status:?}", node.id())));
                }
            }
            let up =
                status.iter().flat_map(|report| &report.drives).filter(|drive| drive.state == DriveState::Up).count();
            let led = status.iter().flat_map(|report| &report.groups).filter(|group| group.leader.is_some()).count();
            if up == drives && led >= 2 { Ok(()) } else { Err(Error::invalid(format!("{up} drives up: {status:?}"))) }
        })
        .await;
    }

    /// The node that leads a group.
    pub(crate) async fn leader(&self, client: &Client, group: &str) -> u64 {
        until("a leader", Duration::from_secs(60), async || {
            let status = client.status().await?;
            let leader = status
                .iter()
                .flat_map(|report| &report.groups)
                .filter(|known| known.group.to_string() == group)
                .max_by_key(|known| known.term)
                .and_then(|known| known.leader);
            leader.map(|node| node.0).ok_or_else(|| Error::invalid("no leader"))
        })
        .await
    }

    /// A command of administrators.
    pub(crate) fn order(&self, arguments: &[&str]) -> Command {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mesh"));
        command
            .args(arguments)
            .env("MESH_CONNECT", addresses.join(","))
            .env("MESH_ADMIN_IDENTITY", self.dir(1).join("admin.pem"));
        command
    }

    /// Runs a command of administrators that reads this from its standard input: whether it went well, and what it said.
    pub(crate) fn administer(&self, arguments: &[&str], typed: &str) -> (bool, String) {
        use std::io::Write as _;
        let mut child =
            self.order(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Whoever does not ask has ended already.
        child.stdin.take().unwrap().write_all(typed.as_bytes()).ok();
        let output = child.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.success(), said)
    }

    /// Runs a line of a shell in which `mesh` is the binary under test, as an administrator who is a client too: whether it went
    /// well, and what it said.
    pub(crate) fn shell(&self, line: &str) -> (bool, String) {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        let binary = Path::new(env!("CARGO_BIN_EXE_mesh")).parent().unwrap();
        let output = Command::new("sh")
            .args(["-c", line])
            .env("PATH", format!("{}:{}", binary.display(), std::env::var("PATH").unwrap()))
            .env("MESH_CONNECT", addresses.join(","))
            .env("MESH_ADMIN_IDENTITY", self.dir(1).join("admin.pem"))
            .env("MESH_IDENTITY", self.dir(1).join("client.pem"))
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (output.status.success(), said)
    }

    /// What a node has logged.
    pub(crate) fn log(&self, node: u64) -> String {
        fs::read_to_string(self.folder.path().join(format!("node-{node}.log"))).unwrap_or_default()
    }

    /// Files of drives that hold these bytes.
    pub(crate) fn find_on_drives(&self, needle: &[u8]) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut looked = 0;
        for node in 1..=3 {
            for drive in ['a', 'b'] {
                let Ok(entries) = fs::read_dir(self.drive(node, drive)) else { continue };
                for entry in entries {
                    let path = entry.unwrap().path();
                    looked += 1;
                    if contains(&path, needle) {
                        found.push(path);
                    }
                }
            }
        }
        assert!(looked >= 5, "there are drives to look at");
        found
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut ends = String::new();
        for (node, child) in (1..).zip(&mut self.children) {
            let Some(child) = child else { continue };
            if let Ok(Some(status)) = child.try_wait() {
                ends += &format!("node-{node} had ended by itself: {status}\n");
            }
            if child.kill().is_ok() {
                child.wait().ok();
            }
        }
        if std::thread::panicking() {
            for node in 1..=self.children.len() as u64 {
                let log = self.log(node);
                let tail: Vec<&str> = log.lines().rev().take(60).collect();
                eprintln!("--- node-{node} ---");
                tail.iter().rev().for_each(|line| eprintln!("{line}"));
                // What is said of a panic or a failure may have scrolled out of the tail.
                let grave = |line: &&str| line.contains("panicked") || line.contains(" ERROR ");
                log.lines().filter(grave).for_each(|line| ends += &format!("node-{node}: {line}\n"));
            }
            // Last, where whoever sees the end of a long log finds it.
            eprintln!("{ends}");
        }
    }
}

/// Another machine under a node's number; killed when dropped.
pub(crate) struct Twin {
    child: Child,
    log: PathBuf,
}

impl Twin {
    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Has it go on that was paused.
    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
        if std::thread::panicking() {
            eprintln!("--- twin ---\n{}", self.log());
        }
    }
}

/// Starts the node of a machine's folder.
fn spawn(dir: &Path, log: File) -> Child {
    Command::new(env!("CARGO_BIN_EXE_mesh"))
        .args(["serve", "--config"])
        .arg(dir.join("mesh.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// Runs a `mesh` command; what it says if it fails.
fn mesh(command: &str, arguments: &[String]) -> Result<(), String> {
    let output = Command::new(env!("CARGO_BIN_EXE_mesh")).arg(command).args(arguments).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Asks until it is answered well, or the time is up.
pub(crate) async fn until<T>(what: &str, patience: Duration, mut ask: impl AsyncFnMut() -> Result<T, Error>) -> T {
    let began = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) if began.elapsed() > patience => panic!("{what}: not within {patience:?}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Copies a folder.
pub(crate) fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copied(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Bytes that a seed decides.
pub(crate) fn bytes_of(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn contains(path: &Path, needle: &[u8]) -> bool {
    use std::io::Read as _;
    let mut file = File::open(path).unwrap();
    let mut window = vec![0; 1 << 20];
    let mut kept = 0;
    loop {
        let read = file.read(&mut window[kept..]).unwrap();
        if read == 0 {
            return false;
        }
        let have = kept + read;
        if window[..have].windows(needle.len()).any(|part| part == needle) {
            return true;
        }
        kept = (needle.len() - 1).min(have);
        window.copy_within(have - kept..have, 0);
    }
}
