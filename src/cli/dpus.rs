//! The emulated DPUs of `mesh dev`: one child process each, with a DPU's share of the CPU, attached and detached while the
//! mesh runs. A child that ends by itself is started again after two seconds. The mesh is never told of that: it notices.

use core::time::Duration;
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use mesh::{
    config::{Config, DpuConfig, NodeNumber, PeerConfig},
    node::Node,
    provision::Provision,
};
use mesh_core::{Error, ErrorKind, Principal, bluefield::Generation, id::NodeId, op::AdminOp, topology::NodeState};
use mesh_dpu_runtime::{cgroup::Cgroup, profile::cpu_quota};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    process::{Child, Command},
    sync::{mpsc, oneshot},
    task::JoinSet,
};

/// The number of the first DPU's node less one: hosts have the numbers below.
const FIRST: u64 = 10;
/// The socket's file in the data folder.
const SOCKET: &str = "dev.socket";

/// What the DPUs of one mesh are made of.
pub(crate) struct Setup {
    pub(crate) data: PathBuf,
    pub(crate) nodes: Vec<Node>,
    pub(crate) kind: Generation,
    pub(crate) template: Config,
}

/// The DPUs of one mesh. Dropped or stopped, their processes end.
pub(crate) struct Dpus {
    slots: Arc<[mpsc::Sender<Order>]>,
    tasks: JoinSet<()>,
    pub(crate) socket: PathBuf,
}

enum Order {
    Attach(oneshot::Sender<Result<String, Error>>),
    Detach(oneshot::Sender<Result<String, Error>>),
    Tell(oneshot::Sender<Result<String, Error>>),
    End,
}

impl Dpus {
    /// Starts them, and listens for `mesh dpu`.
    pub(crate) async fn start(setup: Setup, provision: &Provision, count: u32) -> Result<Self, Error> {
        let setup = Arc::new(setup);
        let mut tasks = JoinSet::new();
        let mut slots = Vec::new();
        for number in 1..=count {
            let slot = Slot::new(setup.clone(), provision, number)?;
            let (sender, orders) = mpsc::channel(8);
            tasks.spawn(slot.run(orders));
            slots.push(sender);
        }
        let slots: Arc<[_]> = slots.into();
        let socket = setup.data.join(SOCKET);
        super::dev::remove(&socket)?;
        let listener = UnixListener::bind(&socket).map_err(|error| {
            Error::new(ErrorKind::DriveFailed, "the control socket cannot be made")
                .with("file", socket.display())
                .caused_by(error)
        })?;
        tasks.spawn(listen(listener, slots.clone()));
        let dpus = Self { slots, tasks, socket };
        for slot in &*dpus.slots {
            // They are there from the start; one that is slow is still coming.
            if let Err(error) = order(slot, Order::Attach).await {
                tracing::warn!(%error, "an emulated DPU is not there yet");
            }
        }
        Ok(dpus)
    }

    /// Ends the processes.
    pub(crate) async fn stop(mut self) -> Result<(), Error> {
        for slot in &*self.slots {
            // One that has ended needs no order.
            drop(slot.send(Order::End).await);
        }
        let ending = async {
            // The listener has no end of its own: it is the last.
            while self.tasks.len() > 1 && self.tasks.join_next().await.is_some() {}
        };
        if tokio::time::timeout(END_MAX, ending).await.is_err() {
            tracing::warn!("an emulated DPU did not end in time and is killed");
        }
        self.tasks.shutdown().await;
        super::dev::remove(&self.socket)
    }
}

async fn order(
    slot: &mpsc::Sender<Order>,
    what: impl FnOnce(oneshot::Sender<Result<String, Error>>) -> Order,
) -> Result<String, Error> {
    let gone = || Error::new(ErrorKind::Draining, "the mesh is stopping");
    let (answer, told) = oneshot::channel();
    slot.send(what(answer)).await.map_err(|_| gone())?;
    told.await.map_err(|_| gone())?
}

/// Takes one command a connection.
async fn listen(listener: UnixListener, slots: Arc<[mpsc::Sender<Order>]>) {
    let mut clients = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) if clients.len() < CLIENTS_MAX => {
                clients.spawn(serve(stream, slots.clone()));
            }
            Ok(_) => tracing::warn!("too many commands for emulated DPUs at once; one was turned away"),
            Err(error) => {
                tracing::warn!(%error, "the control socket is broken; `mesh dpu` cannot reach this mesh any more");
                return;
            }
        }
        while clients.try_join_next().is_some() {}
    }
}

async fn serve(stream: UnixStream, slots: Arc<[mpsc::Sender<Order>]>) {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut read = BufReader::new(read.take(COMMAND_BYTES_MAX));
    if let Err(error) = read.read_line(&mut line).await {
        tracing::debug!(%error, "a command for emulated DPUs cannot be read");
        return;
    }
    let said = match carry_out(line.trim(), &slots).await {
        Ok(said) => said,
        Err(error) => format!("error: {error}"),
    };
    if let Err(error) = write.write_all(format!("{said}\n").as_bytes()).await {
        tracing::debug!(%error, "nobody waits for the answer to a command");
    }
}

async fn carry_out(command: &str, slots: &[mpsc::Sender<Order>]) -> Result<String, Error> {
    let find = |number: &str| {
        let at = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
        at.and_then(|at| slots.get(at))
            .ok_or_else(|| Error::invalid(format!("there are {} DPUs, numbered from 1", slots.len())))
    };
    match command.split_once(' ') {
        Some(("attach", number)) => order(find(number)?, Order::Attach).await,
        Some(("detach", number)) => order(find(number)?, Order::Detach).await,
        None if command == "list" => {
            let mut lines = Vec::new();
            for slot in slots {
                lines.push(order(slot, Order::Tell).await?);
            }
            Ok(lines.join("\n"))
        }
        _ => Err(Error::invalid("a command is attach N, detach N or list")),
    }
}

/// One DPU.
struct Slot {
    setup: Arc<Setup>,
    number: u32,
    node: NodeId,
    host: NodeId,
    folder: PathBuf,
    cgroup: Option<Cgroup>,
    attached: bool,
    /// It was emptied when it was detached.
    drained: bool,
    child: Option<Child>,
    /// When to start it again.
    due: Option<tokio::time::Instant>,
}

impl Slot {
    fn new(setup: Arc<Setup>, provision: &Provision, number: u32) -> Result<Self, Error> {
        let node = NodeId(FIRST + u64::from(number));
        let hosts = setup.nodes.len();
        let host = setup.nodes.get((number as usize - 1) % hosts.max(1)).map(Node::id);
        let host = host.ok_or_else(|| Error::bug("a mesh without nodes"))?;
        let folder = setup.data.join(format!("dpu-{number}"));
        provision.equip(node, &folder.join("data"))?;
        let cgroup = share(&setup, number);
        Ok(Self { setup, number, node, host, folder, cgroup, attached: false, drained: false, child: None, due: None })
    }

    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            let ended = async {
                match &mut self.child {
                    Some(child) => child.wait().await,
                    None => core::future::pending().await,
                }
            };
            let due = self.due;
            let again = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => core::future::pending().await,
                }
            };
            let given = tokio::select! {
                given = orders.recv() => given,
                () = again => {
                    self.due = None;
                    if self.attached && self.child.is_none() && let Err(error) = self.launch() {
                        tracing::error!(node = %self.node, %error, "an emulated DPU cannot be started again yet");
                        self.due = Some(tokio::time::Instant::now() + RESTART_AFTER);
                    }
                    continue;
                }
                status = ended => {
                    self.child = None;
                    match status {
                        Ok(status) => tracing::warn!(node = %self.node, %status, "an emulated DPU has ended"),
                        Err(error) => tracing::warn!(node = %self.node, %error, "an emulated DPU is lost"),
                    }
                    self.due = Some(tokio::time::Instant::now() + RESTART_AFTER);
                    continue;
                }
            };
            // Whoever asked may be gone: it is done all the same.
            match given {
                Some(Order::Attach(answer)) => drop(answer.send(self.attach().await)),
                Some(Order::Detach(answer)) => drop(answer.send(self.detach().await)),
                Some(Order::Tell(answer)) => drop(answer.send(Ok(self.tell()))),
                Some(Order::End) | None => {
                    self.attached = false;
                    self.end().await;
                    return;
                }
            }
        }
    }

    fn tell(&self) -> String {
        let pid = self.child.as_ref().and_then(Child::id);
        let state = match (self.attached, pid) {
            (true, Some(pid)) => format!("attached, pid {pid}"),
            (true, None) => "attached, starting".to_owned(),
            (false, _) => "detached".to_owned(),
        };
        format!("dpu {} {} of {}: emulated {}, {state}", self.number, self.node, self.host, self.setup.kind)
    }

    async fn attach(&mut self) -> Result<String, Error> {
        self.attached = true;
        if self.child.is_none() {
            self.launch()?;
        }
        self.until(NodeState::Up, ATTACH_MAX).await?;
        if self.drained {
            self.drain(false).await?;
        }
        Ok(self.tell())
    }

    /// Empties it first, as one would before pulling a card.
    async fn detach(&mut self) -> Result<String, Error> {
        if !self.attached {
            return Ok(self.tell());
        }
        self.drain(true).await?;
        let empty = async {
            while self.holds_actors() {
                tokio::time::sleep(POLL).await;
            }
        };
        if tokio::time::timeout(DRAIN_MAX, empty).await.is_err() {
            tracing::warn!(node = %self.node, "an emulated DPU is detached with actors on it");
        }
        self.attached = false;
        self.end().await;
        Ok(self.tell())
    }

    async fn drain(&mut self, draining: bool) -> Result<(), Error> {
        let first = self.setup.nodes.first().ok_or_else(|| Error::bug("a mesh without nodes"))?;
        let client = first.client(Principal::Admin { name: "mesh dev".into() });
        client.administer(AdminOp::Drain { node: self.node, draining }).await?;
        self.drained = draining;
        Ok(())
    }

    fn holds_actors(&self) -> bool {
        let control = self.setup.nodes.first().map(Node::control);
        control.is_some_and(|view| view.occupied().contains(&self.node))
    }

    /// Waits until the hosts see it so.
    async fn until(&mut self, state: NodeState, patience: Duration) -> Result<(), Error> {
        let node = self.node;
        let seen = |one: &Node| {
            let reports = one.status();
            let report = reports.iter().find(|report| report.node == node);
            let known = one.control().nodes.contains_key(&node);
            known && report.is_some_and(|report| report.state == state || report.state == NodeState::Draining)
        };
        let began = tokio::time::Instant::now();
        while !self.setup.nodes.iter().all(seen) {
            if let Some(child) = &mut self.child
                && let Ok(Some(status)) = child.try_wait()
            {
                return Err(Error::new(ErrorKind::Conflict, "the emulated DPU has ended; its log says why")
                    .with("status", status)
                    .with("log", self.folder.join("log").display()));
            }
            if began.elapsed() > patience {
                return Err(Error::new(ErrorKind::Timeout, "the mesh does not see the emulated DPU yet")
                    .with("node", node)
                    .with("log", self.folder.join("log").display()));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn launch(&mut self) -> Result<(), Error> {
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::DriveFailed, "an emulated DPU cannot be started").caused_by(error)
        };
        let peers =
            self.setup.nodes.iter().map(|node| PeerConfig { node: NodeNumber(node.id().0), address: node.address() });
        let config = Config {
            node: NodeNumber(self.node.0),
            data: self.folder.join("data"),
            peers: peers.collect(),
            dpu: Some(DpuConfig { attached_to: NodeNumber(self.host.0), emulated: Some(self.setup.kind) }),
            ..self.setup.template.clone()
        };
        let file = self.folder.join("mesh.toml");
        super::write_private(&file, &config.to_text()?)?;
        let log = File::create(self.folder.join("log")).map_err(failed)?;
        let program = std::env::current_exe().map_err(failed)?;
        let child = Command::new(program)
            .args(["serve", "--with-parent", &std::process::id().to_string(), "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        if let (Some(cgroup), Some(pid)) = (&self.cgroup, child.id())
            && let Err(error) = cgroup.add(pid)
        {
            tracing::warn!(node = %self.node, %error, "an emulated DPU has more of the CPU than a DPU would");
        }
        self.child = Some(child);
        Ok(())
    }

    /// Ends its process: asks first.
    async fn end(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid
            && let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::TERM)
        {
            tracing::debug!(%error, "an emulated DPU has ended before it was told to");
        }
        if tokio::time::timeout(END_MAX, child.wait()).await.is_err()
            && let Err(error) = child.kill().await
        {
            tracing::warn!(node = %self.node, %error, "an emulated DPU cannot be killed");
        }
    }
}

/// A DPU's share of this machine's CPU; none where that cannot be had, which is said.
fn share(setup: &Setup, number: u32) -> Option<Cgroup> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let quota = cpu_quota(&setup.kind.profile(), cores);
    // The same name in the next run: what a killed one has left is taken over.
    let folder = mesh_core::wire::crc32c(setup.data.as_os_str().as_encoded_bytes());
    match Cgroup::create(Path::new("/"), &format!("mesh-dev-{folder:08x}-dpu-{number}"), quota) {
        Ok(cgroup) => Some(cgroup),
        Err(error) => {
            tracing::warn!(%error, "emulated DPUs have all of the CPU: no share can be set here");
            None
        }
    }
}

const RESTART_AFTER: Duration = Duration::from_secs(2);
const ATTACH_MAX: Duration = Duration::from_secs(30);
const DRAIN_MAX: Duration = Duration::from_secs(20);
const END_MAX: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(50);
const CLIENTS_MAX: usize = 16;
const COMMAND_BYTES_MAX: u64 = 256;
