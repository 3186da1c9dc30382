//! Real QUIC on the loopback interface. Nothing here sleeps: every wait is for an event, with a limit.

mod calls;
mod faults;
mod floods;
mod refusals;

use std::{future::Future, sync::Arc, time::Duration};

use mesh_core::{
    Answer, Buf, Lane, Op, Outcome, Principal, Response,
    envelope::{Body, Envelope},
    function::Entropy,
    id::{ActorId, ClusterId, Epoch, Incarnation, NodeId, TenantId},
    limits::LINK_JOBS_MAX,
    op::NodeOp,
    port::{CallGuard, Clock, Completion, Inbound, Outbound as _, Role},
    time::{Instant, UnixMillis},
};
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::identity::{Authority, Validity};

/// Far longer than anything takes here, also on a busy machine.
const LONG: Duration = Duration::from_secs(20);

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

/// What an inbound side saw.
enum Seen {
    Request(Role, Box<Envelope>, Completion<Outcome>),
    Cancelled,
}

/// Answers at once with the payload that came, or hands everything to the test.
struct Host(Option<mpsc::UnboundedSender<Seen>>);

impl Inbound for Host {
    fn deliver(&self, from: &Role, envelope: Envelope, done: Completion<Outcome>) -> CallGuard {
        let Some(seen) = &self.0 else {
            assert!(envelope.payload.is_empty() || envelope.payload.is_aligned());
            done(Ok(Response { answer: Answer::Done, payload: envelope.payload }));
            return CallGuard::none();
        };
        seen.send(Seen::Request(from.clone(), Box::new(envelope), done)).ok();
        let seen = seen.clone();
        CallGuard::new(move || drop(seen.send(Seen::Cancelled)))
    }
}

fn echo() -> Arc<dyn Inbound> {
    Arc::new(Host(None))
}

fn hold() -> (Arc<dyn Inbound>, mpsc::UnboundedReceiver<Seen>) {
    let (seen, events) = mpsc::unbounded_channel();
    (Arc::new(Host(Some(seen))), events)
}

fn cluster() -> ClusterId {
    ClusterId([7; 16])
}

fn authority() -> Authority {
    Authority::create(cluster()).unwrap()
}

fn alice() -> Role {
    Role::Client(Principal::User { tenant: TenantId(7), name: "alice".into() })
}

fn node(number: u64) -> Role {
    Role::Node(NodeId(number))
}

fn identity(authority: &Authority, role: &Role) -> Identity {
    authority.issue(role, Validity::starting(watch().wall(), Duration::from_secs(3600))).unwrap()
}

fn config(authority: &Authority, role: &Role) -> QuicConfig {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = QuicConfig::new(address, identity(authority, role), Incarnation(1), watch(), Box::new(Dice(1)));
    config.idle_timeout = LONG;
    config
}

fn serve(authority: &Authority, number: u64, inbound: Arc<dyn Inbound>) -> (Arc<QuicLink>, SocketAddr) {
    let link = QuicLink::bind(config(authority, &node(number)), Some(inbound)).unwrap();
    let address = link.local_address().unwrap();
    (link, address)
}

fn request(lane: Lane, payload: Buf) -> Envelope {
    let op = Op::Node(Box::new(NodeOp::Status));
    Envelope::request(ActorId::NODE, Epoch(0), op, payload, Principal::System, lane, LONG)
}

/// Waits for an event, but not for ever.
async fn soon<T>(event: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, event).await.expect("this should have happened long ago")
}

/// Sends; gives the guard and the answer to come.
fn send(link: &QuicLink, to: u64, envelope: Envelope) -> (CallGuard, oneshot::Receiver<Outcome>) {
    let (answer, answered) = oneshot::channel();
    let guard = link.send(NodeId(to), envelope, Box::new(move |outcome| drop(answer.send(outcome))));
    (guard, answered)
}

async fn call(link: &QuicLink, to: u64, envelope: Envelope) -> Outcome {
    let (guard, answered) = send(link, to, envelope);
    let outcome = soon(answered).await.expect("every call is completed");
    guard.forget();
    outcome
}

async fn next(events: &mut mpsc::UnboundedReceiver<Seen>) -> Seen {
    soon(events.recv()).await.unwrap()
}

/// Waits for a counter, which has no event.
async fn until(condition: impl Fn() -> bool) {
    soon(async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn until_up(link: &QuicLink, number: u64, up: bool) {
    let mut states = link.up();
    soon(states.wait_for(|set| set.contains(&NodeId(number)) == up)).await.unwrap();
}

/// A QUIC client without our manners.
struct Raw {
    endpoint: quinn::Endpoint,
    config: quinn::ClientConfig,
}

impl Raw {
    fn new(identity: &Identity) -> Self {
        let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(tls::client(identity, Expected::AnyNode, &watch()).unwrap()));
        Self { endpoint, config }
    }

    async fn connect(&self, address: SocketAddr) -> quinn::Connection {
        let name = tls::dial_name(Expected::AnyNode, cluster());
        soon(self.endpoint.connect_with(self.config.clone(), address, &name).unwrap()).await.unwrap()
    }

    fn hello(number: u64) -> mesh_core::envelope::Hello {
        let local = Local {
            cluster: cluster(),
            node: NodeId(number),
            incarnation: Incarnation(1),
            capabilities: 0,
            software: String::new(),
        };
        crate::handshake::hello(&local, Lane::Interactive)
    }

    /// A connection on which requests may be made.
    async fn greeted(&self, address: SocketAddr, number: u64) -> quinn::Connection {
        let connection = self.connect(address).await;
        let hello = Envelope::of(0, Lane::Interactive, Body::Hello(Self::hello(number)), Buf::empty());
        let answer = exchange(&connection, &hello.encode().unwrap()).await.unwrap();
        assert!(matches!(answer.header.body, Body::Welcome(_)), "{answer:?}");
        connection
    }
}

/// Writes bytes on a stream of their own and reads the answer.
async fn exchange(connection: &quinn::Connection, bytes: &[u8]) -> Result<Envelope, String> {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    // The other end may close at any byte.
    send.write_all(bytes).await.map_err(|error| error.to_string())?;
    send.finish().map_err(|error| error.to_string())?;
    let answer = soon(recv.read_to_end(8 << 20)).await.map_err(|error| error.to_string())?;
    Envelope::decode_whole(&answer).map_err(|error| error.to_string())
}

/// The code and text with which the other end closed.
async fn closed(connection: &quinn::Connection) -> (VarInt, String) {
    match soon(connection.closed()).await {
        quinn::ConnectionError::ApplicationClosed(close) => {
            (close.error_code, String::from_utf8_lossy(&close.reason).into_owned())
        }
        other => panic!("closed otherwise: {other}"),
    }
}
