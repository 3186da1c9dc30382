//! The sides of the comparison: `mesh dev`, the bare server, and a peer that somebody else runs.

use std::{
    env,
    io::{self, BufRead as _, BufReader},
    net::{SocketAddr, ToSocketAddrs as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use crate::client::{Connection, Credentials, Head};

/// One server that takes the load.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) credentials: Credentials,
    pub(crate) bucket: String,
    /// Whether objects of one repetition take the place of those of the one before: memory is dearer than disk.
    pub(crate) overwrites: bool,
    /// With what the command line finds it; nothing: it has none.
    environment: Vec<(String, String)>,
    /// Its processes; none: they are not on this machine, or nobody said.
    processes: Vec<u32>,
    /// Killed with this.
    child: Option<Child>,
}

impl Server {
    /// A mesh of three nodes in one process, in `folder`.
    pub(crate) fn mesh(folder: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mesh"));
        command.args(["dev", "--s3-port", "0", "--data"]).arg(folder);
        let (child, _) = started(&mut command, "is ready");
        let told = std::fs::read_to_string(folder.join("dev.env")).expect("dev.env is there once the mesh is ready");
        let assignments = told.lines().filter_map(|line| line.strip_prefix("export ").unwrap_or(line).split_once('='));
        let environment: Vec<(String, String)> =
            assignments.map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned())).collect();
        let variable = |name: &str| {
            let named = environment.iter().find(|(known, _)| known == name);
            named.expect("dev.env names it").1.clone()
        };
        Self {
            name: "mesh",
            address: address(&variable("AWS_ENDPOINT_URL")),
            credentials: Credentials {
                access: variable("AWS_ACCESS_KEY_ID"),
                secret: variable("AWS_SECRET_ACCESS_KEY"),
                region: variable("AWS_REGION"),
            },
            bucket: variable("MESH_BUCKET"),
            overwrites: false,
            environment,
            processes: vec![child.id()],
            child: Some(child),
        }
    }

    /// What a command about it prints.
    pub(crate) fn command(&self, arguments: &[&str]) -> String {
        let environment = self.environment.iter().map(|(name, value)| (name, value));
        let mut command = Command::new(env!("CARGO_BIN_EXE_mesh"));
        let output = command.args(arguments).envs(environment).output().expect("the command starts");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// This program again, as the bare server.
    pub(crate) fn bare() -> Self {
        let mut command = Command::new(env::current_exe().expect("the path of this program"));
        let (child, line) = started(command.arg(BARE), ":");
        Self {
            name: "bare",
            address: address(&line),
            credentials: Credentials { access: "-".into(), secret: "-".into(), region: "-".into() },
            bucket: "bench".into(),
            overwrites: true,
            environment: Vec::new(),
            processes: vec![child.id()],
            child: Some(child),
        }
    }

    /// The peer that `MESH_BENCH_PEER_S3` names, if it is set.
    pub(crate) fn peer() -> Option<Self> {
        let endpoint = env::var("MESH_BENCH_PEER_S3").ok()?;
        let or = |name: &str, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
        let processes = or("MESH_BENCH_PEER_PIDS", "");
        let processes = processes.split(',').filter(|pid| !pid.is_empty());
        let server = Self {
            name: "peer",
            address: address(&endpoint),
            credentials: Credentials {
                access: or("MESH_BENCH_PEER_ACCESS_KEY", "any"),
                secret: or("MESH_BENCH_PEER_SECRET_KEY", "any"),
                region: or("MESH_BENCH_PEER_REGION", "us-east-1"),
            },
            bucket: or("MESH_BENCH_PEER_BUCKET", "mesh-bench"),
            overwrites: false,
            environment: Vec::new(),
            processes: processes.map(|pid| pid.parse().expect("a process id")).collect(),
            child: None,
        };
        let made = Head::signed("PUT", server.address, &format!("/{}", server.bucket), 0, &server.credentials);
        let mut answer = Vec::new();
        let asked = Connection::open(server.address).and_then(|mut connection| connection.ask(&made, &[], &mut answer));
        let status = asked.expect("the peer answers");
        assert!(matches!(status, 200 | 409), "the bucket at the peer: {status} {}", String::from_utf8_lossy(&answer));
        Some(server)
    }

    /// Seconds of CPU that its processes have used, in user mode and in the kernel; `None` if they are not known.
    pub(crate) fn cpu_seconds(&self) -> Option<f64> {
        let ticks = self.processes.iter().map(|pid| ticks(*pid).expect("a server lives as long as the bench"));
        (!self.processes.is_empty()).then(|| ticks.sum::<u64>() as f64 / TICKS_A_SECOND)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child
            && child.kill().is_ok()
        {
            child.wait().ok();
        }
    }
}

/// Fields 14 and 15 of `/proc/<pid>/stat`, counted after the name, which may hold spaces and parentheses.
fn ticks(pid: u32) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let field = |at: usize| fields.get(at - 3).and_then(|field| field.parse::<u64>().ok());
    field(14).zip(field(15)).map(|(user, system)| user + system).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Starts a server and waits until it prints a line with `sign` in it.
fn started(command: &mut Command, sign: &'static str) -> (Child, String) {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the server starts");
    let output = BufReader::new(child.stdout.take().expect("piped"));
    let (ready, is_ready) = mpsc::channel();
    std::thread::spawn(move || {
        // Read to the end, so that the server never waits for its reader.
        for line in output.lines().map_while(Result::ok) {
            if line.contains(sign) {
                ready.send(line).ok();
            }
        }
    });
    let line = is_ready.recv_timeout(READY_MAX);
    if line.is_err() {
        child.kill().and_then(|()| child.wait()).expect("it can be killed");
    }
    (child, line.expect("a server gets ready in time"))
}

fn address(endpoint: &str) -> SocketAddr {
    let host = endpoint.trim_start_matches("http://").trim_end_matches('/');
    host.to_socket_addrs().ok().and_then(|mut all| all.next()).expect("http://host:port")
}

/// The argument that makes this program the bare server.
pub(crate) const BARE: &str = "--bare-server";
/// `USER_HZ`: part of Linux's ABI on every architecture that the mesh is built for.
const TICKS_A_SECOND: f64 = 100.0;
const READY_MAX: Duration = Duration::from_secs(120);
