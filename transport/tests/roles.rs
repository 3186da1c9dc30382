//! Every operation, asked by everybody over real links, is delivered or refused as `roles.txt` says: the table of
//! [`mesh_core::role`] as it was reviewed. A change of the table shows there: `MESH_BLESS=1 cargo test -p mesh-transport --test roles`
//! writes it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    future::Future,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use mesh_core::{
    Answer, Buf, ErrorKind, Lane, Op, Outcome, Principal,
    envelope::{Body, Envelope},
    function::Entropy,
    id::{ActorId, ClusterId, DriveId, Epoch, GroupId, Incarnation, NodeId, TenantId},
    op::NodeOp,
    port::{CallGuard, Clock, Completion, Inbound, Outbound, Role},
    role::{self, Class, Kind},
    time::{Instant, UnixMillis},
};
use mesh_transport::{Authority, Delivery, MemoryFabric, MemoryOptions, QuicConfig, QuicLink, Validity};
use tokio::sync::oneshot;

#[path = "../../mesh-core/tests/formats/access.rs"]
#[allow(dead_code, reason = "the samples of the formats' tests; answers are not asked")]
mod access;
#[path = "../../mesh-core/tests/formats/audit.rs"]
#[allow(dead_code, reason = "as above")]
mod audit;
#[path = "../../mesh-core/tests/formats/commands.rs"]
#[allow(dead_code, reason = "as above")]
mod commands;
#[path = "../../mesh-core/tests/formats/orders.rs"]
#[allow(dead_code, reason = "as above")]
mod orders;
#[path = "../../mesh-core/tests/formats/places.rs"]
#[allow(dead_code, reason = "as above")]
mod places;
#[path = "../../mesh-core/tests/formats/samples.rs"]
#[allow(dead_code, reason = "as above")]
mod samples;
#[path = "../../mesh-core/tests/formats/view.rs"]
#[allow(dead_code, reason = "as above")]
mod view;

/// Who is asked.
const ONE: NodeId = NodeId(1);

fn who(class: Class) -> Role {
    match class {
        Class::Host => Role::Node(NodeId(2)),
        Class::Dpu => Role::Dpu { node: NodeId(11), host: ONE },
        Class::Admin => Role::Client(Principal::Admin { name: "root".into() }),
        Class::User => Role::Client(Principal::User { tenant: TenantId(41), name: "writer".into() }),
    }
}

/// One of each operation, at an actor that it is for.
fn operations() -> Vec<(Kind, ActorId, Op)> {
    let requests = samples::envelopes().into_iter().filter_map(|(_, envelope)| match envelope.header.body {
        Body::Request(op) => Some(op),
        _ => None,
    });
    let queries = samples::queries().into_iter().map(|query| Op::Query { group: GroupId(1), query: Arc::new(query) });
    let commands = commands::all().into_iter().map(|command| Op::Propose(Arc::new(command)));
    let ops = requests.chain(queries).chain(commands);
    ops.map(|op| {
        let actor = match &op {
            Op::Object(_) => ActorId::ingress(ONE),
            Op::Stripe(_) => ActorId::data(TenantId(41), ONE),
            Op::Shard(_) => ActorId::drive(DriveId(1001)),
            Op::Query { .. } | Op::Propose(_) | Op::Node(_) => ActorId::NODE,
        };
        (Kind::of(&op), actor, op)
    })
    .collect()
}

/// What was reviewed: for each row, what each class may.
fn reviewed() -> BTreeMap<String, [String; 4]> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/roles.txt");
    let table = role::table();
    if std::env::var_os("MESH_BLESS").is_some() {
        fs::write(&path, &table).expect("the table can be written");
    }
    let text = fs::read_to_string(&path).expect("the table is there; MESH_BLESS=1 makes it");
    for (known, now) in text.lines().zip(table.lines()) {
        assert_eq!(known, now, "the table has changed: MESH_BLESS=1 writes it, for a review");
    }
    assert_eq!(text, table, "the table has changed: MESH_BLESS=1 writes it, for a review");
    let row = |line: &str| {
        let mut columns: Vec<String> = line.split_whitespace().rev().take(4).map(str::to_owned).collect();
        columns.reverse();
        let name = line.get(..34).expect("a name has its column").trim_end().to_owned();
        (name, <[String; 4]>::try_from(columns).expect("four classes"))
    };
    text.lines().skip(1).map(row).collect()
}

/// Answers everything, and remembers what came.
#[derive(Default)]
struct Served(Mutex<Vec<(Role, Kind)>>);

impl Inbound for Served {
    fn deliver(&self, from: &Role, envelope: Envelope, done: Completion<Outcome>) -> CallGuard {
        let Body::Request(op) = &envelope.header.body else { panic!("only requests are delivered") };
        if let Role::Client(principal) = from {
            assert_eq!(&envelope.header.principal, principal, "a client speaks in its own name");
        }
        self.0.lock().unwrap().push((from.clone(), Kind::of(op)));
        done(Ok(Answer::Done.into()));
        CallGuard::none()
    }
}

struct Watch(std::time::Instant);

impl Clock for Watch {
    fn now(&self) -> Instant {
        Instant(self.0.elapsed().as_nanos() as u64)
    }

    fn wall(&self) -> UnixMillis {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        UnixMillis(since.as_millis() as u64)
    }
}

fn watch() -> Arc<dyn Clock> {
    Arc::new(Watch(std::time::Instant::now()))
}

struct Dice(u64);

impl Entropy for Dice {
    fn fill(&mut self, target: &mut [u8]) {
        for byte in target {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (self.0 >> 56) as u8;
        }
    }
}

async fn soon<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, event).await.expect("this should have happened long ago")
}

/// Far longer than anything takes here, also on a busy machine.
const LONG: Duration = Duration::from_secs(20);

async fn ask(link: &dyn Outbound, actor: ActorId, op: Op) -> Outcome {
    // It says that it is the mesh itself, which only nodes are believed.
    // A shard comes with what its checksum is of.
    let payload = if matches!(op, Op::Shard(_)) { samples::PAYLOAD } else { b"" };
    let payload = Buf::copy_of(payload);
    let envelope = Envelope::request(actor, Epoch(0), op, payload, Principal::System, Lane::Interactive, LONG);
    let (answer, answered) = oneshot::channel();
    let guard = link.send(ONE, envelope, Box::new(move |outcome| drop(answer.send(outcome))));
    let outcome = soon(answered).await.expect("every call is completed");
    guard.forget();
    outcome
}

/// Asks everything of a node, as everybody.
async fn ask_everything(links: [Arc<dyn Outbound>; 4], served: &Served) {
    let reviewed = reviewed();
    let operations = operations();
    let seen: BTreeSet<Kind> = operations.iter().map(|(kind, ..)| *kind).collect();
    let unasked: Vec<&str> = Kind::ALL.iter().filter(|kind| !seen.contains(kind)).map(|kind| kind.name()).collect();
    assert_eq!(unasked, [""; 0], "operations without a sample");
    for ((at, class), link) in Class::ALL.into_iter().enumerate().zip(links) {
        for (kind, actor, op) in &operations {
            let row = reviewed.get(kind.name()).unwrap_or_else(|| panic!("{} has no row", kind.name()));
            // What goes by way of another is judged by two rows.
            let way = match op {
                Op::Node(op) => match &**op {
                    NodeOp::RelayQuery { query, .. } => Some(Kind::of_query(query)),
                    NodeOp::RelayPropose(command) => Some(Kind::of_command(command)),
                    _ => None,
                },
                _ => None,
            };
            let inner = way.map(|kind| reviewed[kind.name()][at].clone());
            let may = row[at] != "No" && inner.is_none_or(|inner| inner != "No");
            let outcome = ask(&*link, *actor, op.clone()).await;
            let came = std::mem::take(&mut *served.0.lock().unwrap());
            if may {
                assert_eq!(outcome.map(|response| response.answer), Ok(Answer::Done), "{class:?}: {op:?}");
                assert_eq!(came, [(who(class), *kind)]);
            } else {
                assert_eq!(outcome.map_err(|error| error.kind()), Err(ErrorKind::Denied), "{class:?}: {op:?}");
                assert_eq!(came, [], "what is refused is not delivered");
            }
            // At an actor that it is not for nobody may ask it, whoever may ask it elsewhere.
            if let Op::Object(_) | Op::Stripe(_) | Op::Shard(_) | Op::Node(_) = op {
                let elsewhere = ask(&*link, ActorId::keeper(ONE), op.clone()).await;
                assert_eq!(elsewhere.map_err(|error| error.kind()), Err(ErrorKind::Denied), "{class:?}: {op:?}");
            }
        }
    }
    assert!(served.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn everything_is_asked_by_everybody_in_memory() {
    let served = Arc::new(Served::default());
    let fabric = MemoryFabric::new(MemoryOptions { delivery: Delivery::Inline, codec: true }, watch());
    let _one = fabric.join(ONE, served.clone());
    let link = |class| -> Arc<dyn Outbound> {
        match who(class) {
            Role::Client(principal) => fabric.client(principal),
            role => {
                fabric.certify(role.clone());
                fabric.join(role.node().expect("a node"), Arc::new(Served::default()))
            }
        }
    };
    ask_everything(Class::ALL.map(link), &served).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_asked_by_everybody_over_quic() {
    let served = Arc::new(Served::default());
    let authority = Authority::create(ClusterId([7; 16])).unwrap();
    let bind = |role: &Role, inbound: Option<Arc<dyn Inbound>>| {
        let validity = Validity::starting(watch().wall(), Duration::from_secs(3600));
        let identity = authority.issue(role, validity).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = QuicConfig::new(address, identity, Incarnation(1), watch(), Box::new(Dice(1)));
        QuicLink::bind(config, inbound).unwrap()
    };
    let one = bind(&Role::Node(ONE), Some(served.clone()));
    let address = one.local_address().unwrap();
    let link = |class| -> Arc<dyn Outbound> {
        let link = bind(&who(class), None);
        link.set_peer(ONE, address);
        link
    };
    ask_everything(Class::ALL.map(link), &served).await;
    assert!(one.stats().denials > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_on_a_dpu_is_dialled_by_its_number_as_any_other() {
    let authority = Authority::create(ClusterId([7; 16])).unwrap();
    let bind = |role: &Role| {
        let validity = Validity::starting(watch().wall(), Duration::from_secs(3600));
        let identity = authority.issue(role, validity).unwrap();
        let config = QuicConfig::new(
            SocketAddr::from(([127, 0, 0, 1], 0)),
            identity,
            Incarnation(1),
            watch(),
            Box::new(Dice(1)),
        );
        QuicLink::bind(config, Some(Arc::new(Served::default()))).unwrap()
    };
    let (one, dpu) = (bind(&Role::Node(ONE)), bind(&Role::Dpu { node: NodeId(11), host: ONE }));
    let at = dpu.local_address().unwrap();
    assert_eq!(soon(one.meet(at)).await, Ok(NodeId(11)));
    one.set_peer(NodeId(11), at);
    let envelope = |link: Arc<QuicLink>, to| async move {
        let op = Op::Node(Box::new(NodeOp::Status));
        let envelope =
            Envelope::request(ActorId::NODE, Epoch(0), op, Buf::empty(), Principal::System, Lane::Control, LONG);
        let (answer, answered) = oneshot::channel();
        let guard = link.send(to, envelope, Box::new(move |outcome| drop(answer.send(outcome))));
        let outcome = soon(answered).await.expect("every call is completed");
        guard.forget();
        outcome.map(|response| response.answer).map_err(|error| error.kind())
    };
    assert_eq!(envelope(one.clone(), NodeId(11)).await, Ok(Answer::Done));
    // Under its host's number it answers nobody, nor does a host under a DPU's.
    let two = bind(&Role::Node(NodeId(2)));
    two.set_peer(ONE, at);
    assert_eq!(envelope(two.clone(), ONE).await, Err(ErrorKind::Unreachable));
    two.set_peer(NodeId(11), one.local_address().unwrap());
    assert_eq!(envelope(two, NodeId(11)).await, Err(ErrorKind::Unreachable));
}
