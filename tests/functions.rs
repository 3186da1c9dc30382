//! Storage functions of the embedding program: where they are refused, and what a chain does with and without them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../examples/filter/content.rs"]
mod content;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use content::{ContentFilter, KIND};
use mesh::{
    Node,
    config::{Config, DpuConfig, DriveConfig, NodeNumber, PeerConfig, Size},
    env::{Env, LinkSetup},
    provision::{FIRST_TENANT, Provision},
};
use mesh_core::{
    Buf, Cx, Error, ErrorKind, Event, Lane, Op, Outcome, Pool, Principal, StorageFunction,
    assignment::{Assignment, MoveId, Preference, Scope, Tail, Wish},
    bluefield::Generation,
    envelope::Envelope,
    id::{ActorId, Epoch, Incarnation, NodeId},
    limits::HEARTBEAT_SILENCE_MAX,
    op::{AdminAnswer, AdminOp, MoveOp, MoveStep, NodeOp, Phase},
    port::{CallGuard, Completion, Inbound, Role},
    snapshot::{Mark, Snapshot},
    spec::CustomSpec,
    topology::NodeState,
};

const BUCKET: &str = "films";
const CHAIN: ActorId = ActorId::data(FIRST_TENANT, NodeId(1));
/// A DPU of node 1.
const DPU: u64 = 4;

fn config(folder: &Path, number: u64) -> Config {
    let data = folder.join(format!("node-{number}"));
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::new(NodeNumber(number), address, data);
    if number == DPU {
        config.dpu = Some(DpuConfig { attached_to: NodeNumber(1), emulated: Some(Generation::Bf3) });
    } else {
        let drive = |name| DriveConfig { path: config.data.join(name), capacity: Some(Size(2 << 30)) };
        config.drives = vec![drive("drive-a"), drive("drive-b")];
    }
    config
}

async fn join(folder: &Path, provision: &Provision, number: u64, knows: bool, nodes: &mut Vec<Node>) {
    enter(config(folder, number), provision, knows, nodes).await;
}

async fn enter(config: Config, provision: &Provision, knows: bool, nodes: &mut Vec<Node>) {
    provision.equip(config.node.id(), &config.data).unwrap();
    let mut builder = Node::builder(config);
    if knows {
        builder = builder.function(KIND, |settings, _| Ok(Box::new(ContentFilter::new(settings)?)));
    }
    let node = builder.start().await.unwrap();
    for other in &*nodes {
        other.set_peer(node.id(), node.address());
        node.set_peer(other.id(), other.address());
    }
    nodes.push(node);
}

/// Hosts, of which some know the content filter.
async fn hosts(folder: &Path, provision: &Provision, knowing: [bool; 3]) -> Vec<Node> {
    let mut nodes = Vec::new();
    for (number, knows) in (1..).zip(knowing) {
        join(folder, provision, number, knows, &mut nodes).await;
    }
    nodes[0].found(&provision.founding().unwrap()).await.unwrap();
    for node in &nodes {
        node.ready(Duration::from_secs(60)).await.unwrap();
    }
    nodes
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

async fn stop(nodes: Vec<Node>) {
    for node in nodes {
        node.shutdown(Duration::from_secs(5)).await;
    }
}

fn somebody() -> Principal {
    Principal::User { tenant: FIRST_TENANT, name: "admin".into() }
}

/// Who says where actors run and what chains are made of; and may read no object.
fn administrator() -> Principal {
    Principal::Admin { name: "operator".into() }
}

fn filter(settings: &str) -> Vec<CustomSpec> {
    vec![CustomSpec::new(KIND, settings.as_bytes())]
}

fn row(node: &Node) -> Option<Assignment> {
    node.control().assignments.get(&CHAIN).copied()
}

/// The functions of the chain where it runs under the epoch that the group says.
fn functions(node: &Node) -> Vec<String> {
    let epoch = row(node).map(|row| row.epoch);
    let reports = node.status();
    let actors = reports.iter().flat_map(|report| &report.actors);
    let mut running = actors.filter(|actor| actor.actor == CHAIN && actor.phase == Phase::Running);
    let found = running.find(|actor| Some(actor.epoch) == epoch);
    found.map(|actor| actor.functions.clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_a_host_lacks_is_refused_with_the_host_and_the_kind() {
    let folder = tempfile::tempdir().unwrap();
    let provision = Provision::create(folder.path(), BUCKET).unwrap();
    let nodes = hosts(folder.path(), &provision, [true, true, false]).await;
    until("every chain has a place", || nodes[0].control().assignments.len() == 3).await;
    let (client, operator) = (nodes[0].client(somebody()), nodes[0].client(administrator()));
    let error = operator.set_stages(Scope::Mesh, filter("SECRET")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("[node=node-3 function=content-filter]"), "{error}");
    assert!(nodes[0].control().stages.is_empty(), "nothing was declared");
    client.put_bytes(BUCKET, "SECRET", b"SECRET").await.unwrap();
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_declared_function_works_in_every_chain_until_it_is_taken_back_and_a_node_without_it_takes_none_in() {
    let folder = tempfile::tempdir().unwrap();
    let provision = Provision::create(folder.path(), BUCKET).unwrap();
    let mut nodes = hosts(folder.path(), &provision, [true; 3]).await;
    join(folder.path(), &provision, DPU, false, &mut nodes).await;
    let known = |node: &Node| node.control().nodes.contains_key(&NodeId(DPU)) && row(node).is_some();
    until("the DPU is a member", || nodes.iter().all(known)).await;
    let (client, operator) = (nodes[0].client(somebody()), nodes[0].client(administrator()));

    let error = operator.set_stages(Scope::Mesh, filter("\n")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "the filter refuses settings without a pattern: {error}");
    let own = Scope::Tenant(FIRST_TENANT);
    operator.set_stages(own, filter("SECRET")).await.unwrap();
    until("the filter stands in the chain", || functions(&nodes[0]).len() == 5).await;
    assert_eq!(functions(&nodes[0]), ["policy", KIND, "compress", "encrypt", "erasure"]);
    let refused = client.put_bytes(BUCKET, "one", b"a SECRET").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    client.put_bytes(BUCKET, "one", b"harmless").await.unwrap();

    // Other settings reach the running function: the count goes on.
    let epoch = row(&nodes[0]).unwrap().epoch;
    operator.set_stages(own, filter("harmless")).await.unwrap();
    let told = async {
        loop {
            match client.put_bytes(BUCKET, "two", b"harmless").await {
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => break error,
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(30), told).await.unwrap();
    assert!(error.to_string().contains("refused=2"), "{error}");
    assert_eq!(row(&nodes[0]).unwrap().epoch, epoch);

    // The planner leaves out a node that lacks the kind, and the node itself refuses.
    let pin = Some(Wish { preference: Preference::Auto, pin: Some(NodeId(DPU)) });
    let wish = AdminOp::Wish { scope: Scope::Actor(CHAIN), wish: pin };
    let error = operator.administer(wish).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains(KIND), "{error}");
    let error = warm(&provision, &nodes[3], row(&nodes[0]).unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("[node=node-4 function=content-filter]"), "{error}");

    operator.set_stages(own, Vec::new()).await.unwrap();
    until("the filter is gone", || functions(&nodes[0]).len() == 4).await;
    client.put_bytes(BUCKET, "two", b"harmless").await.unwrap();
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_does_not_move_to_a_node_without_memory_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let provision = Provision::create(folder.path(), BUCKET).unwrap();
    let mut nodes = hosts(folder.path(), &provision, [false; 3]).await;
    let small = Config { memory: Some(Size(1 << 20)), ..config(folder.path(), DPU) };
    enter(small, &provision, false, &mut nodes).await;
    let reported =
        |node: &Node| node.status().iter().any(|one| one.node == NodeId(DPU) && !one.ability.functions.is_empty());
    until("the DPU is known", || reported(&nodes[0]) && row(&nodes[0]).is_some()).await;
    let (client, operator) = (nodes[0].client(somebody()), nodes[0].client(administrator()));
    let pin = Some(Wish { preference: Preference::Auto, pin: Some(NodeId(DPU)) });
    let error = operator.administer(AdminOp::Wish { scope: Scope::Actor(CHAIN), wish: pin }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("memory"), "{error}");
    // To prefer it moves nothing there either.
    let wish = Some(Wish { preference: Preference::PreferDpu, pin: None });
    let told = operator.administer(AdminOp::Wish { scope: Scope::Mesh, wish }).await.unwrap();
    assert_eq!(told, AdminAnswer::Moves(Vec::new()));
    client.put_bytes(BUCKET, "here", b"here").await.unwrap();
    stop(nodes).await;
}

/// A DPU that may not judge: the policy stays on the host, and the rest of the chain runs on the DPU.
fn deft(folder: &Path) -> Config {
    Config { functions: Some(vec!["encrypt".into(), "erasure".into()]), ..config(folder, DPU) }
}

/// Requests that the tail of the chain has had on the DPU, if it runs there.
fn tail_requests(node: &Node) -> Option<u64> {
    let tail = ActorId::tail(FIRST_TENANT, NodeId(1), 2);
    let reports = node.status();
    let report = reports.iter().find(|report| report.node == NodeId(DPU) && report.state == NodeState::Up)?;
    report.actors.iter().find(|one| one.actor == tail).map(|one| one.requests)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_stages_of_a_chain_run_on_a_dpu_that_lacks_the_first_and_on_the_host_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let provision = Provision::create(folder.path(), BUCKET).unwrap();
    let mut nodes = hosts(folder.path(), &provision, [false; 3]).await;
    enter(deft(folder.path()), &provision, false, &mut nodes).await;
    let (client, operator) = (nodes[0].client(somebody()), nodes[0].client(administrator()));
    let wish = Some(Wish { preference: Preference::PreferDpu, pin: None });
    operator.administer(AdminOp::Wish { scope: Scope::Mesh, wish }).await.unwrap();
    let split = |node: &Node| functions(node) == ["policy", "compress"] && tail_requests(node).is_some();
    until("the chain is split", || split(&nodes[0])).await;
    let tail = nodes[0].control().tails.get(&CHAIN).copied();
    assert_eq!(tail, Some(Tail { cut: 2, node: NodeId(DPU) }));
    assert_eq!(row(&nodes[0]).unwrap().node, NodeId(1));

    let body: Vec<u8> = (0..3_000_000_u32).map(|at| (at * 7 % 251) as u8).collect();
    client.put_bytes(BUCKET, "split", &body).await.unwrap();
    assert_eq!(client.get_bytes(BUCKET, "split").await.unwrap(), body);
    until("the DPU has worked", || tail_requests(&nodes[0]).is_some_and(|requests| requests > 1)).await;

    // Under load it goes and comes back; nobody notices.
    let stopping = Arc::new(AtomicBool::new(false));
    let (busy, told, expected) = (nodes[0].client(somebody()), stopping.clone(), body.clone());
    let load = tokio::spawn(async move {
        let mut count = 0;
        while !told.load(Ordering::Acquire) {
            let key = format!("load-{}", count % 7);
            busy.put_bytes(BUCKET, &key, &expected).await.unwrap();
            assert!(busy.get_bytes(BUCKET, &key).await.unwrap() == expected, "{key}");
            count += 1;
        }
        count
    });
    for _ in 0..3 {
        let dpu = nodes.pop().unwrap();
        dpu.shutdown(Duration::from_secs(5)).await;
        drop(dpu);
        until("the chain is whole", || functions(&nodes[0]).len() == 4).await;
        enter(deft(folder.path()), &provision, false, &mut nodes).await;
        until("the chain is split again", || split(&nodes[0])).await;
    }
    stopping.store(true, Ordering::Release);
    assert!(load.await.unwrap() > 3);
    assert_eq!(client.get_bytes(BUCKET, "split").await.unwrap(), body);
    stop(nodes).await;
}

/// A content filter that breaks down once it is told to, where it works and where it is built.
struct Brittle(ContentFilter, Arc<AtomicBool>);

impl Brittle {
    fn build(settings: &[u8], broken: &Arc<AtomicBool>) -> Result<Box<dyn StorageFunction>, Error> {
        assert!(!broken.load(Ordering::Acquire), "broken where it is built");
        Ok(Box::new(Self(ContentFilter::new(settings)?, broken.clone())))
    }
}

impl StorageFunction for Brittle {
    fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        assert!(!self.1.load(Ordering::Acquire), "broken where it works");
        self.0.on_event(event, cx);
    }

    fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    fn snapshot(&mut self, since: Option<Mark>) -> Snapshot {
        self.0.snapshot(since)
    }

    fn restore(&mut self, page: &Snapshot) -> Result<(), Error> {
        self.0.restore(page)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_that_breaks_down_on_its_host_is_tried_on_the_dpu_and_others_notice_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let provision = Provision::create(folder.path(), BUCKET).unwrap();
    let broken = Arc::new(AtomicBool::new(false));
    let mut nodes = Vec::new();
    for number in [1, 2, 3] {
        if number == 1 {
            let config = config(folder.path(), number);
            provision.equip(config.node.id(), &config.data).unwrap();
            let broken = broken.clone();
            let builder = Node::builder(config).function(KIND, move |settings, _| Brittle::build(settings, &broken));
            nodes.push(builder.start().await.unwrap());
        } else {
            join(folder.path(), &provision, number, true, &mut nodes).await;
        }
    }
    // A DPU has no metadata of its own, and asks those that it was told of.
    let peers =
        nodes.iter().map(|node| PeerConfig { node: NodeNumber(node.id().0), address: node.address() }).collect();
    enter(Config { peers, ..config(folder.path(), DPU) }, &provision, true, &mut nodes).await;
    nodes[0].found(&provision.founding().unwrap()).await.unwrap();
    let (client, operator) = (nodes[0].client(somebody()), nodes[0].client(administrator()));
    for node in &nodes {
        node.ready(Duration::from_secs(60)).await.unwrap();
    }
    let is_ready = |node: &Node| {
        let found = node.status().iter().any(|one| one.node == NodeId(DPU) && !one.ability.functions.is_empty());
        found && row(node).is_some_and(|row| row.node == NodeId(1))
    };
    until("the chain runs on its host, and the DPU is there", || is_ready(&nodes[0])).await;
    operator.set_stages(Scope::Tenant(FIRST_TENANT), filter("SECRET")).await.unwrap();
    until("the filter stands in the chain", || functions(&nodes[0]).len() == 5).await;
    client.put_bytes(BUCKET, "before", b"before").await.unwrap();

    broken.store(true, Ordering::Release);
    let lost = client.put_bytes(BUCKET, "during", b"during").await.map(drop);
    // It failed with its reason, or was sent again and came through; it did not hang.
    let reason = lost.as_ref().err().map(Error::kind);
    assert!(matches!(reason, None | Some(ErrorKind::Restarted | ErrorKind::Timeout)), "{lost:?}");
    let other = nodes[1].client(somebody());
    other.put_bytes(BUCKET, "other", b"other").await.unwrap();
    until("the DPU runs it", || row(&nodes[0]).is_some_and(|row| row.node == NodeId(DPU))).await;
    until("with the filter", || functions(&nodes[0]).len() == 5).await;
    client.put_bytes(BUCKET, "after", b"after").await.unwrap();
    assert_eq!(client.get_bytes(BUCKET, "before").await.unwrap(), b"before");
    match client.get_bytes(BUCKET, "during").await {
        Ok(read) => assert_eq!(read, b"during"),
        Err(error) => assert!(lost.is_err() && error.kind() == ErrorKind::NotFound, "{lost:?}, then {error}"),
    }
    assert_eq!(client.put_bytes(BUCKET, "after", b"SECRET").await.unwrap_err().kind(), ErrorKind::Denied);
    let reports = nodes[1].status();
    let unable: Vec<_> =
        reports.iter().flat_map(|one| one.unable.iter().map(|(actor, _)| (one.node, *actor))).collect();
    assert_eq!(unable, [(NodeId(1), CHAIN)]);
    stop(nodes).await;
}

/// Asks a node to take the chain in, as a controller does.
async fn warm(provision: &Provision, at: &Node, row: Assignment) -> Outcome {
    struct Deaf;
    impl Inbound for Deaf {
        fn deliver(&self, _: &Role, _: Envelope, done: Completion<Outcome>) -> CallGuard {
            done(Err(Error::invalid("nothing is asked here")));
            CallGuard::none()
        }
    }
    let env = Env::real().unwrap();
    let identity = provision.node_identity(NodeId(9)).unwrap();
    let setup = LinkSetup {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        cluster: identity.cluster(),
        identity,
        node: NodeId(9),
        incarnation: Incarnation(1),
        silence: HEARTBEAT_SILENCE_MAX,
        clock: env.clock.clone(),
        entropy: env.entropy.clone(),
        pool: Pool::default(),
    };
    let link = env.links.bind(setup, Arc::new(Deaf)).await.unwrap();
    link.set_peer(at.id(), at.address());
    let step = MoveStep { actor: CHAIN, epoch: row.epoch, id: MoveId(row.moves.0 + 1), what: MoveOp::Warm };
    let asked = async {
        loop {
            let op = Op::Node(Box::new(NodeOp::Move(step)));
            let budget = Duration::from_secs(5);
            let envelope =
                Envelope::request(ActorId::NODE, Epoch(0), op, Buf::empty(), Principal::System, Lane::Control, budget);
            let (answer, outcome) = tokio::sync::oneshot::channel();
            let guard = link.send(at.id(), envelope, Box::new(move |outcome| drop(answer.send(outcome))));
            let outcome = outcome.await.unwrap();
            guard.forget();
            // The link is made meanwhile.
            match outcome {
                Err(error) if error.kind() == ErrorKind::Unreachable => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                outcome => return outcome,
            }
        }
    };
    let outcome = tokio::time::timeout(Duration::from_secs(30), asked).await.unwrap();
    link.close().await;
    outcome
}
