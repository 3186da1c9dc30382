//! A DPU of a real `mesh dev --dpus 1` whose certificate is in the wrong hands: whatever is not its own is refused, by every host,
//! and its chain goes on serving.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod dev;

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use dev::Dev;
use futures_util::future::join_all;
use mesh::{
    env::{Env, Link, LinkSetup},
    provision::Provision,
};
use mesh_core::{
    Answer, Buf, Error, ErrorKind, Lane, Op, Outcome, Pool, Principal,
    assignment::{Assignment, MoveId},
    envelope::Envelope,
    id::{ActorId, BucketId, DriveId, Epoch, GroupId, Incarnation, KeyId, NodeId, TenantId},
    limits::HEARTBEAT_SILENCE_MAX,
    meta::{
        BucketRef, Command, Level, MeshCommand, MetaAnswer, ObjectCommand, PrincipalRow, Proposer, Query, Session,
        TenantLimits, UpkeepCommand, WrappedKey,
    },
    op::{AccessOp, AdminOp, MoveOp, MoveStep, NewMedium, NodeOp, ObjectOp, ShardOp},
    port::{CallGuard, Completion, Inbound, Role},
    topology::{NodeInfo, NodeKind},
};
use mesh_transport::Identity;
use serde_json::Value;

const MESH: &str = env!("CARGO_BIN_EXE_mesh");
/// However slow the machine is.
const PATIENCE: Duration = Duration::from_secs(60);
const DPU: NodeId = NodeId(11);
const CHAIN: ActorId = ActorId::data(TenantId(1), NodeId(1));

struct Deaf;

impl Inbound for Deaf {
    fn deliver(&self, _: &Role, _: Envelope, done: Completion<Outcome>) -> CallGuard {
        done(Err(Error::invalid("nothing is asked here")));
        CallGuard::none()
    }
}

struct Stops(Arc<AtomicBool>);

impl Drop for Stops {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn done(dev: &Dev, arguments: &[&str]) -> String {
    let output = dev.sourced(&[&[MESH], arguments].concat());
    assert!(output.status.success(), "mesh {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(dev: &Dev, what: &str) -> Value {
    serde_json::from_str(&done(dev, &[what, "--json"])).unwrap()
}

fn chain_is_on_the_dpu(dev: &Dev) -> bool {
    let is_there = |one: &Value| one["id"] == "chain-1-1" && one["phase"] == "running" && one["node"] == "node-11";
    json(dev, "actors").as_array().unwrap().iter().any(is_there)
}

/// The hosts, by number.
fn hosts(dev: &Dev) -> Vec<(NodeId, SocketAddr)> {
    let status = json(dev, "status");
    let address = |number: u64| {
        let id = format!("node-{number}");
        let node = status["nodes"].as_array().unwrap().iter().find(|node| node["id"] == *id).unwrap().clone();
        (NodeId(number), node["address"].as_str().unwrap().parse().unwrap())
    };
    (1..=3).map(address).collect()
}

async fn link(identity: Identity, hosts: &[(NodeId, SocketAddr)]) -> Arc<dyn Link> {
    let env = Env::real().unwrap();
    let setup = LinkSetup {
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        cluster: identity.cluster(),
        identity,
        node: DPU,
        incarnation: Incarnation(1),
        silence: HEARTBEAT_SILENCE_MAX,
        clock: env.clock.clone(),
        entropy: env.entropy.clone(),
        pool: Pool::default(),
    };
    let link = env.links.bind(setup, Arc::new(Deaf)).await.unwrap();
    for (node, address) in hosts {
        link.set_peer(*node, *address);
    }
    link
}

async fn ask(link: &Arc<dyn Link>, to: NodeId, actor: ActorId, op: Op) -> Outcome {
    let budget = Duration::from_secs(20);
    let envelope = Envelope::request(actor, Epoch(0), op, Buf::empty(), Principal::System, Lane::Interactive, budget);
    let (answer, outcome) = tokio::sync::oneshot::channel();
    let guard = link.send(to, envelope, Box::new(move |outcome| drop(answer.send(outcome))));
    let outcome = tokio::time::timeout(PATIENCE, outcome).await.unwrap().unwrap();
    guard.forget();
    outcome
}

/// Asks each host until one that leads the control group says something.
async fn ask_the_leader(link: &Arc<dyn Link>, query: Query) -> Arc<MetaAnswer> {
    let began = Instant::now();
    let query = Arc::new(query);
    loop {
        for node in 1..=3 {
            let op = Op::Query { group: GroupId::CONTROL, query: query.clone() };
            match ask(link, NodeId(node), ActorId::NODE, op).await {
                Ok(response) => match response.answer {
                    Answer::Meta(answer) => return answer,
                    other => panic!("{other:?}"),
                },
                Err(error) => assert_ne!(error.kind(), ErrorKind::Denied, "{error}"),
            }
        }
        assert!(began.elapsed() < PATIENCE, "nobody leads");
    }
}

/// What a DPU is never to have done, and what it is not to have done about others: each with the actor that it is asked of.
fn what_is_not_its_own(others: &BucketRef) -> Vec<(ActorId, Op)> {
    let node = |op| Op::Node(Box::new(op));
    let admin = |op| Op::Node(Box::new(NodeOp::Admin(Box::new(op))));
    let query = |group, query| Op::Query { group, query: Arc::new(query) };
    let mesh = |command: MeshCommand| Op::Propose(Arc::new(command.into()));
    let step = |actor, what| NodeOp::Move(MoveStep { actor, epoch: Epoch(1), id: MoveId(1), what });
    let info = |id, kind, attached_to| NodeInfo {
        id,
        kind,
        address: "127.0.0.1:1".into(),
        incarnation: Incarnation(u64::MAX),
        pid: 1,
        draining: false,
        attached_to,
        emulated: None,
        life: 1,
        invitation: 0,
        level: Level(u16::MAX),
        location: None,
    };
    let proposer = |ingress| {
        let actor = ActorId::ingress(NodeId(ingress));
        Proposer { actor, session: Session { epoch: Epoch(u64::MAX), life: 1 }, request: 0, done_below: 0 }
    };
    let seal = |bucket: &BucketRef, ingress| {
        Command::Object(bucket.clone(), ObjectCommand::SealBucket { proposer: proposer(ingress) })
    };
    // It says that another tenant's bucket is its tenant's.
    let forged = BucketRef { tenant: TenantId(1), ..others.clone() };
    let list = |bucket: &BucketRef| Query::List {
        bucket: bucket.clone(),
        prefix: String::new(),
        delimiter: None,
        after: String::new(),
        limit: 10,
    };
    let principal = PrincipalRow { tenant: TenantId(1), name: "mallory".into(), grants: Vec::new() };
    let drive = DriveId(11_001);
    let take = MeshCommand::TakeDrive {
        drive,
        node: DPU,
        start: Incarnation(1),
        capacity_bytes: 1 << 30,
        after: Epoch(0),
        instead_of: None,
    };
    let wrapped = WrappedKey { key: KeyId(1), nonce: [0; 12], sealed: vec![0; 48] };
    let at_node = [
        node(NodeOp::Raft { group: GroupId::CONTROL, rpc: 2, start: Incarnation(1) }),
        node(NodeOp::Raft { group: GroupId(1), rpc: 1, start: Incarnation(1) }),
        node(NodeOp::Status),
        node(step(CHAIN, MoveOp::Warm)),
        node(step(CHAIN, MoveOp::Freeze { to: DPU })),
        node(step(ActorId::data(TenantId(1), NodeId(2)), MoveOp::Install { page: 0, digest: 0 })),
        node(NodeOp::RelayQuery { group: GroupId::CONTROL, query: Arc::new(Query::Control) }),
        node(NodeOp::RelayPropose(Arc::new(seal(others, 1)))),
        query(GroupId::CONTROL, Query::Control),
        query(GroupId::CONTROL, Query::Drive { drive: DriveId(1001) }),
        query(GroupId::CONTROL, Query::Buckets { tenant: TenantId(2) }),
        query(others.group, Query::Usage { tenant: TenantId(1) }),
        query(others.group, Query::Repair),
        query(others.group, list(others)),
        query(others.group, list(&forged)),
        Op::Propose(Arc::new(seal(others, 1))),
        Op::Propose(Arc::new(seal(&forged, 1))),
        // Nor in the name of an ingress whose chain it does not have.
        Op::Propose(Arc::new(seal(&BucketRef { id: BucketId(1), ..forged.clone() }, 3))),
        Op::Propose(Arc::new(Command::Upkeep(others.group, UpkeepCommand::OpenBlock { proposer: proposer(1) }))),
        Op::Propose(Arc::new(Command::OpenSession {
            group: GroupId::CONTROL,
            actor: ActorId::ingress(NodeId(1)),
            session: Session::LAST,
        })),
        mesh(take),
        mesh(MeshCommand::PutDrive { drive, node: DPU, capacity_bytes: 1 << 30 }),
        mesh(MeshCommand::LoseDrive { drive: DriveId(1001) }),
        mesh(MeshCommand::Drain { node: NodeId(1), draining: true }),
        mesh(MeshCommand::RemoveNode { node: NodeId(2), empty: None }),
        mesh(MeshCommand::Invite { node: NodeId(40), invitation: 1 }),
        mesh(MeshCommand::PutPrincipal(principal)),
        mesh(MeshCommand::SetLimits { tenant: TenantId(2), limits: TenantLimits::default() }),
        mesh(MeshCommand::RotateKey { tenant: TenantId(1), after: KeyId(1), wrapped }),
        mesh(MeshCommand::RaiseLevel(Level(u16::MAX))),
        mesh(MeshCommand::Assign(Assignment::new(ActorId::data(TenantId(2), NodeId(1)), DPU, Epoch(2)))),
        mesh(MeshCommand::PutNode(info(NodeId(2), NodeKind::Host, None))),
        mesh(MeshCommand::PutNode(info(DPU, NodeKind::Host, None))),
        mesh(MeshCommand::PutNode(info(NodeId(12), NodeKind::Dpu, Some(NodeId(1))))),
        admin(AdminOp::Drain { node: NodeId(1), draining: true }),
        admin(AdminOp::Events { after: 0 }),
        admin(AdminOp::Invite { node: NodeId(40), invitation: 1 }),
        admin(AdminOp::OpenDrive {
            medium: NewMedium { path: "/tmp/x".into(), capacity_bytes: Some(1 << 30) },
            instead_of: None,
        }),
        admin(AdminOp::Backup { group: GroupId::CONTROL, from: None }),
        admin(AdminOp::Access(AccessOp::CreateKey { tenant: "default".into(), user: "admin".into(), grants: None })),
    ];
    let elsewhere = [
        (ActorId::drive(DriveId(1001)), ShardOp::List { after: None, limit: 10, relies: None }.into()),
        (ActorId::drive(DriveId(1001)), ShardOp::Scrub { rate: 1 }.into()),
        (ActorId::ingress(NodeId(1)), ObjectOp::ListBuckets.into()),
        (CHAIN, query(GroupId::CONTROL, Query::Buckets { tenant: TenantId(1) })),
    ];
    at_node.into_iter().map(|op| (ActorId::NODE, op)).chain(elsewhere).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dpu_s_certificate_orders_nothing_that_is_not_its_own_and_its_chain_goes_on() {
    let dev = Arc::new(Dev::start(&["--dpus", "1"]));
    // Another tenant, with a bucket, whose chains never were on the DPU.
    done(&dev, &["prefer", "host-only"]);
    done(&dev, &["tenant", "create", "other"]);
    done(&dev, &["key", "create", "other", "ann", "--allow", "*=all"]);
    done(&dev, &["prefer", "prefer-dpu", "--tenant", "1"]);
    let began = Instant::now();
    while !chain_is_on_the_dpu(&dev) {
        assert!(began.elapsed() < PATIENCE, "the chain does not come to the DPU");
    }
    let hosts = hosts(&dev);
    let provision = Provision::open(dev.folder()).unwrap();
    let ann = provision.client_identity(TenantId(2), "ann").unwrap();
    let env = Env::real().unwrap();
    let addresses: Vec<SocketAddr> = hosts.iter().map(|(_, address)| *address).collect();
    mesh::quic::connect(&addresses, ann, &env).await.unwrap().create_bucket("others").await.unwrap();

    let stop = Arc::new(AtomicBool::new(false));
    // Also where this test fails.
    let stops = Stops(stop.clone());
    let load = {
        let dev = dev.clone();
        tokio::task::spawn_blocking(move || {
            let file = dev.folder().join("what");
            fs::write(&file, vec![7; 300_000]).unwrap();
            let mut rounds = 0;
            while !stop.load(Ordering::Acquire) || rounds == 0 {
                let key = format!("key-{rounds}");
                done(&dev, &["put", "--quiet", file.to_str().unwrap(), &key]);
                let got = dev.sourced(&[MESH, "get", "--quiet", &key, "-"]);
                assert!(got.status.success() && got.stdout == vec![7; 300_000], "{key}: {got:?}");
                rounds += 1;
            }
        })
    };

    let of_its_own = Identity::load(&dev.folder().join("dpu-1/data/identity.pem")).unwrap();
    // Of before there were certificates for DPUs: those that have such a one go on, and have no more to say.
    let of_a_host = provision.node_identity(DPU).unwrap();
    for identity in [of_its_own, of_a_host] {
        let role = identity.role().clone();
        let link = link(identity, &hosts).await;
        let others = match &*ask_the_leader(&link, Query::Bucket { name: "others".into() }).await {
            MetaAnswer::Bucket(row) => row.bucket.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(others.tenant, TenantId(2));
        let own = ask_the_leader(&link, Query::Buckets { tenant: TenantId(1) }).await;
        assert!(matches!(&*own, MetaAnswer::Buckets(buckets) if !buckets.is_empty()), "{own:?}");
        let all =
            hosts.iter().flat_map(|(host, _)| what_is_not_its_own(&others).into_iter().map(move |ask| (*host, ask)));
        let asked = all.map(async |(host, (actor, op))| {
            let outcome = ask(&link, host, actor, op.clone()).await.map(|response| response.answer);
            let kind = outcome.as_ref().map_err(Error::kind);
            assert_eq!(kind.err(), Some(ErrorKind::Denied), "{role:?} at {host}: {op:?}: {outcome:?}");
        });
        join_all(asked).await;
        link.close().await;
    }
    drop(stops);
    load.await.unwrap();
    assert!(chain_is_on_the_dpu(&dev), "{}", done(&dev, &["actors"]));
    let status = json(&dev, "status");
    assert_eq!(status["nodes"].as_array().unwrap().len(), 4, "{status}");
}
