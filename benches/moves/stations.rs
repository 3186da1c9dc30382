//! Three nodes less everything that a move does not need, and the moves between them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use mesh::{
    config::NodeNumber,
    env::{Env, Link, LinkSetup},
    keyring::Keyring,
    provision::{FIRST_TENANT, IDENTITY, KEYRING, Provision},
};
use mesh_actors::policy::Policy;
use mesh_core::{
    Answer, Buf, Chain, Error, ErrorKind, Lane, Op, Outcome, Pool, Principal, Request, Trace,
    assignment::{Assignment, MoveId},
    envelope::{Body, Envelope},
    id::{ActorId, BucketId, Epoch, GroupId, Incarnation, LayoutId, NodeId, StripeId, WriteId},
    limits::{BUDGET_DEFAULT, HEARTBEAT_SILENCE_MAX},
    meta::{Compression, MeshCommand, MetaAnswer, TenantLimits},
    op::{Binding, MoveOp, MoveStep, Moved, NodeOp, StripeOp, StripeTarget},
    port::{CallGuard, Completion, Inbound, Metadata as _, Role},
    spec::{FunctionSpec, PolicySpec},
    topology::{Code, NodeInfo, NodeKind},
};
use mesh_dpu_runtime::{
    agent::Agent,
    metadata::{RaftConfig, RaftMetadata},
    offload::software::Software,
    shell::{ActorSetup, Host, Onward, Place, Ports},
};
use mesh_placement::migration::{Ask, Carried, End, Heard, Migration};
use mesh_transport::identity::Identity;
use tempfile::TempDir;

use crate::ledger::Ledger;

/// The chain that moves.
const CHAIN: ActorId = ActorId::data(FIRST_TENANT, NodeId(3));

/// One node.
pub(crate) struct Station {
    id: NodeId,
    env: Env,
    host: Host,
    agent: Agent,
    metadata: Arc<RaftMetadata>,
    link: Arc<dyn Link>,
}

/// All of them.
pub(crate) struct Stations {
    /// Of the metadata groups; goes with the bench.
    _folder: TempDir,
    stations: Vec<Arc<Station>>,
    row: Mutex<Assignment>,
}

/// What one move took.
pub(crate) struct MoveTimes {
    /// The pre-copy.
    pub(crate) copy: Duration,
    /// From the freeze to the end, less the commit.
    pub(crate) pause: Duration,
    /// The commit.
    pub(crate) commit: Duration,
    /// Entries.
    pub(crate) carried: Carried,
}

impl Stations {
    /// Starts them, with the chain and its entries on node 1.
    pub(crate) async fn start(entries: u64) -> Result<Self, Error> {
        let folder = match std::env::var_os("MESH_BENCH_DATA") {
            Some(path) => TempDir::new_in(path),
            None => TempDir::new(),
        };
        let folder = folder.map_err(|error| Error::invalid("no folder for metadata").caused_by(error))?;
        let provision = Provision::create(folder.path(), "bench")?;
        let mut stations = Vec::new();
        for number in 1..=3 {
            stations.push(station(folder.path(), &provision, number).await?);
        }
        for (one, other) in stations.iter().flat_map(|one| stations.iter().map(move |other| (one, other))) {
            if one.id != other.id {
                one.link.set_peer(other.id, other.link.address());
            }
        }
        let row = Assignment::new(CHAIN, NodeId(1), Epoch(1));
        let this = Self { _folder: folder, stations, row: Mutex::new(row) };
        this.form(row).await?;
        let setup = ActorSetup { build: build(entries), ..arriving(Epoch(1)) };
        this.at(NodeId(1)).host.start(setup).await?;
        this.at(NodeId(3)).host.learn(CHAIN, Place { node: NodeId(1), epoch: Epoch(1) });
        Ok(this)
    }

    pub(crate) fn at(&self, node: NodeId) -> &Arc<Station> {
        &self.stations[node.0 as usize - 1]
    }

    /// Makes the metadata group, and says in it where the chain is.
    async fn form(&self, row: Assignment) -> Result<(), Error> {
        let first = self.at(NodeId(3));
        let own = |station: &Arc<Station>| station.metadata.replica_id(GroupId::CONTROL);
        let members = self.stations.iter().filter_map(own).collect();
        first.metadata.initialize(GroupId::CONTROL, &members).await?;
        let code = Code { data: 2, parity: 1 };
        let form = MeshCommand::Form { cluster: mesh_core::id::ClusterId([7; 16]), code, namespaces: 1 };
        let mut tried = first.propose(form.clone()).await;
        // Until somebody leads.
        while tried.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
            tried = first.propose(form.clone()).await;
        }
        for station in &self.stations {
            first.propose(MeshCommand::PutNode(station.info())).await?;
        }
        first.propose(MeshCommand::Assign(row)).await.map(drop)
    }

    /// Moves the chain; `frozen` is called when the pause begins.
    pub(crate) async fn move_to(&self, to: NodeId, mut frozen: impl FnMut()) -> Result<MoveTimes, Error> {
        let row = *self.row.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut machine, asks) = Migration::begin(&row, to);
        let controller = self.at(NodeId(3));
        let mut open: FuturesUnordered<BoxFuture<'static, _>> = FuturesUnordered::new();
        for ask in asks {
            open.push(controller.fulfil(ask));
        }
        let (mut copy, mut commit, mut pause) = (Duration::ZERO, Duration::ZERO, None);
        while let Some((heard, what, took)) = open.next().await {
            match what {
                What::Copy => copy += took,
                What::Commit => commit += took,
                What::Else => {}
            }
            for next in machine.hear(heard) {
                if matches!(&next, Ask::Step(_, MoveStep { what: MoveOp::Freeze { .. }, .. })) {
                    frozen();
                    pause = Some(Instant::now());
                }
                open.push(controller.fulfil(next));
            }
        }
        let Some(End::Arrived(epoch)) = machine.end() else {
            return Err(Error::bug("a move did not arrive").with("end", format!("{:?}", machine.end())));
        };
        let whole = pause.map_or(Duration::ZERO, |at| at.elapsed());
        *self.row.lock().unwrap_or_else(PoisonError::into_inner) =
            Assignment { moves: MoveId(row.moves.0 + 1), ..Assignment::new(CHAIN, to, *epoch) };
        Ok(MoveTimes { copy, pause: whole.saturating_sub(commit), commit, carried: machine.carried() })
    }

    /// What the ledger has counted, this question included.
    pub(crate) async fn counted(&self) -> Result<u64, Error> {
        self.at(NodeId(3)).count(0).await
    }

    pub(crate) async fn stop(self) {
        for station in &self.stations {
            station.host.shutdown(Duration::from_secs(1)).await;
            station.metadata.shutdown().await;
        }
        for station in &self.stations {
            station.link.close().await;
        }
    }
}

/// What an answer was to.
enum What {
    Copy,
    Commit,
    Else,
}

impl Station {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            id: self.id,
            kind: NodeKind::Host,
            address: self.link.address().to_string(),
            incarnation: Incarnation(1),
            pid: std::process::id(),
            draining: false,
            attached_to: None,
            emulated: None,
            life: 1,
            invitation: 0,
            level: mesh_core::meta::LEVEL,
            location: None,
        }
    }

    /// Asks the ledger to count a stripe, wherever it is; gives the sum.
    pub(crate) async fn count(&self, write: u64) -> Result<u64, Error> {
        let target = StripeTarget {
            id: StripeId { write: WriteId(write), stripe: 0, attempt: 0 },
            layout: LayoutId(1),
            binding: Arc::new(Binding {
                tenant: FIRST_TENANT,
                bucket: BucketId(1),
                bucket_name: "bench".into(),
                object: "entry".into(),
            }),
            key: None,
            compression: Compression::Off,
            code: None,
        };
        let deadline = self.env.clock.now() + BUDGET_DEFAULT;
        let request = Request::system(StripeOp::Read { target, avoid: Vec::new(), part: None }, deadline);
        let response = self.host.request(CHAIN, request).await?;
        let sum = response.payload.first_chunk().ok_or_else(|| Error::bug("an answer without its sum"))?;
        Ok(u64::from_le_bytes(*sum))
    }

    async fn propose(&self, command: MeshCommand) -> Result<MetaAnswer, Error> {
        let (answer, outcome) = tokio::sync::oneshot::channel();
        let deadline = self.env.clock.now() + Duration::from_secs(5);
        let done = Box::new(move |outcome| drop(answer.send(outcome)));
        self.metadata.propose(Arc::new(command.into()), deadline, done);
        let answer = outcome.await.map_err(|_| Error::bug("metadata ended unasked"))??;
        Ok((*answer).clone())
    }

    /// What a controller does: the machine's wishes, one by one.
    fn fulfil(self: &Arc<Self>, ask: Ask) -> BoxFuture<'static, (Heard, What, Duration)> {
        let this = self.clone();
        async move {
            let began = Instant::now();
            let what = match &ask {
                Ask::Step(_, MoveStep { what: MoveOp::PreCopy { .. }, .. }) => What::Copy,
                Ask::Propose(MeshCommand::CommitMove { .. }) => What::Commit,
                _ => What::Else,
            };
            let heard = match ask {
                Ask::Propose(command) => Heard::Proposed(this.propose(command).await),
                Ask::Wait(pause) => {
                    tokio::time::sleep(pause).await;
                    Heard::Due
                }
                Ask::Step(at, step) => Heard::Stepped(at, this.step(at, step).await),
            };
            (heard, what, began.elapsed())
        }
        .boxed()
    }

    async fn step(&self, at: NodeId, step: MoveStep) -> Result<Moved, Error> {
        let op = Op::Node(Box::new(NodeOp::Move(step)));
        let budget = Duration::from_secs(120);
        let envelope =
            Envelope::request(ActorId::NODE, Epoch(0), op, Buf::empty(), Principal::System, Lane::Control, budget);
        let (answer, outcome) = tokio::sync::oneshot::channel();
        let guard = self.link.send(at, envelope, Box::new(move |outcome| drop(answer.send(outcome))));
        let outcome: Outcome = outcome.await.map_err(|_| Error::new(ErrorKind::LinkLost, "the link ended unasked"))?;
        guard.forget();
        match outcome?.answer {
            Answer::Moved(moved) => Ok(moved),
            answer => Err(Error::bug("a step was answered with something else").with("answer", format!("{answer:?}"))),
        }
    }
}

async fn station(folder: &Path, provision: &Provision, number: u64) -> Result<Arc<Station>, Error> {
    let id = NodeNumber(number).id();
    let data = folder.join(format!("node-{number}"));
    provision.equip(id, &data)?;
    let env = Env::real()?;
    let keyring = Arc::new(Keyring::load(&data.join(KEYRING))?);
    let gate = Arc::new(Gate::default());
    let pool = Pool::default();
    let setup = LinkSetup {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        identity: Identity::load(&data.join(IDENTITY))?,
        node: id,
        incarnation: Incarnation(1),
        cluster: keyring.cluster(),
        silence: HEARTBEAT_SILENCE_MAX,
        clock: env.clock.clone(),
        entropy: env.entropy.clone(),
        pool: pool.clone(),
    };
    let link = env.links.bind(setup, gate.clone()).await?;
    let raft = RaftConfig {
        groups: vec![GroupId::CONTROL],
        peers: (1..=3).map(NodeId).collect(),
        ..RaftConfig::new(id, data.join("metadata"))
    };
    let metadata = RaftMetadata::start(raft, link.clone(), env.clock.clone(), (env.entropy)()).await?;
    let ports = Ports {
        clock: env.clock.clone(),
        entropy: env.entropy.clone(),
        compute: Arc::new(Software::new(keyring, pool)),
        workers: env.workers.clone(),
        metadata: metadata.clone(),
        outbound: link.clone(),
    };
    let host = Host::new(id, ports);
    let agent = Agent::new(host.clone(), Arc::new(|_, epoch| Ok(arriving(epoch))));
    let station = Arc::new(Station { id, env, host, agent, metadata, link });
    if gate.0.set(Arc::downgrade(&station)).is_err() {
        return Err(Error::bug("a gate is opened once"));
    }
    Ok(station)
}

/// As the chain arrives: without entries, which come over.
fn arriving(epoch: Epoch) -> ActorSetup {
    let limits = TenantLimits::default();
    let policy = PolicySpec { tenant: FIRST_TENANT, principals: BTreeMap::new(), limits };
    let spec = Arc::new(FunctionSpec::Chain(vec![FunctionSpec::Policy(policy)]));
    ActorSetup { id: CHAIN, epoch, spec, build: build(0), disk: None, onward: Onward::End }
}

fn build(entries: u64) -> mesh_dpu_runtime::shell::Build {
    Arc::new(move |spec| {
        let Some(FunctionSpec::Policy(policy)) = spec.parts().next() else {
            return Err(Error::bug("the chain begins with policy"));
        };
        let policy = Policy::new(policy.clone());
        Ok(Box::new(Chain::new(vec![Box::new(policy), Box::new(Ledger::new(entries)?)])))
    })
}

/// The way in.
#[derive(Default)]
struct Gate(OnceLock<Weak<Station>>);

impl Inbound for Gate {
    fn deliver(&self, _: &Role, envelope: Envelope, done: Completion<Outcome>) -> CallGuard {
        let Some(station) = self.0.get().and_then(Weak::upgrade) else {
            done(Err(Error::new(ErrorKind::Draining, "the node is starting or stopping")));
            return CallGuard::none();
        };
        let Envelope { header, payload } = envelope;
        let Body::Request(op) = header.body else {
            done(Err(Error::invalid("only requests are delivered")));
            return CallGuard::none();
        };
        let deadline = station.env.clock.now() + Duration::from_micros(header.budget_us);
        if header.actor != ActorId::NODE {
            let request =
                Request { op, payload, principal: header.principal, deadline, lane: header.lane, trace: Trace::NONE };
            return station.host.ask_local(header.actor, header.epoch, request, done);
        }
        tokio::spawn(async move {
            done(match op {
                Op::Node(op) => match *op {
                    NodeOp::Raft { group, rpc, .. } => station.metadata.handle_raft(group, rpc, payload).await,
                    NodeOp::Move(step) => {
                        station.agent.carry_out(step, payload).await.map(|moved| Answer::Moved(moved).into())
                    }
                    _ => Err(Error::invalid("no part of this bench")),
                },
                op => station.metadata.serve(op, deadline).await,
            });
        });
        CallGuard::none()
    }
}
