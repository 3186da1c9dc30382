use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh_core::{
    Answer, Buf, Error, ErrorKind, Lane, Op, Response,
    id::{ActorId, DriveId, Epoch, TenantId},
    op::{NodeOp, ShardOp},
    time::UnixMillis,
};
use proptest::prelude::*;

use super::*;

#[derive(Default)]
struct Hands(AtomicU64);

impl Clock for Hands {
    fn now(&self) -> Instant {
        Instant(self.0.load(Ordering::Relaxed))
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(0)
    }
}

/// What a node was asked and has not answered; and how many were given up.
#[derive(Default)]
struct Desk {
    asked: Mutex<VecDeque<(Role, Envelope, Completion<Outcome>)>>,
    given_up: Arc<AtomicU64>,
    echo: bool,
}

impl Desk {
    fn echo() -> Arc<Self> {
        Arc::new(Self { echo: true, ..Self::default() })
    }

    fn next(&self) -> (Role, Envelope, Completion<Outcome>) {
        self.asked.lock().unwrap().pop_front().expect("nothing was asked")
    }

    fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }
}

impl Inbound for Desk {
    fn deliver(&self, from: &Role, envelope: Envelope, done: Completion<Outcome>) -> CallGuard {
        if self.echo {
            done(Ok(Response { answer: Answer::Done, payload: envelope.payload }));
        } else {
            self.asked.lock().unwrap().push_back((from.clone(), envelope, done));
        }
        let given_up = self.given_up.clone();
        CallGuard::new(move || {
            given_up.fetch_add(1, Ordering::Relaxed);
        })
    }
}

#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<Result<Buf, ErrorKind>>>>);

impl Heard {
    fn ear(&self) -> Completion<Outcome> {
        let heard = self.0.clone();
        Box::new(move |outcome| {
            let outcome = outcome.map(|response| response.payload).map_err(|error| error.kind());
            heard.lock().unwrap().push(outcome);
        })
    }

    fn take(&self) -> Vec<Result<Buf, ErrorKind>> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

fn status(bytes: &[u8]) -> Envelope {
    let op = Op::Node(Box::new(NodeOp::Status));
    let budget = Duration::from_secs(1);
    Envelope::request(ActorId::NODE, Epoch(0), op, bytes.into(), Principal::System, Lane::Interactive, budget)
}

fn fabric(delivery: Delivery) -> (MemoryFabric, Arc<Hands>) {
    let hands = Arc::new(Hands::default());
    (MemoryFabric::new(MemoryOptions { delivery, codec: true }, hands.clone()), hands)
}

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

#[test]
fn inline_calls_are_answered_before_send_returns() {
    let (fabric, _) = fabric(Delivery::Inline);
    let desk = Desk::echo();
    let _one = fabric.join(ONE, desk.clone());
    let two = fabric.join(TWO, Desk::echo());
    let heard = Heard::default();
    drop(two.send(ONE, status(b"hello"), heard.ear()));
    assert_eq!(heard.take(), vec![Ok(Buf::copy_of(b"hello"))]);
    assert_eq!((fabric.queued(), desk.given_up()), (0, 0), "dropping the guard afterwards cancels nothing");
}

#[test]
fn queued_calls_move_only_when_they_are_taken_off_the_queue_in_any_order() {
    let (fabric, _) = fabric(Delivery::Queued);
    let _one = fabric.join(ONE, Desk::echo());
    let two = fabric.join(TWO, Desk::echo());
    let heard = Heard::default();
    let _a = two.send(ONE, status(b"a"), heard.ear());
    let _b = two.send(ONE, status(b"b"), heard.ear());
    assert_eq!((heard.take(), fabric.queued()), (vec![], 2));
    assert!(fabric.step(1) && fabric.step(1), "b goes there and back");
    assert_eq!(heard.take(), vec![Ok(Buf::copy_of(b"b"))]);
    assert_eq!(fabric.pump(100), 2);
    assert_eq!(heard.take(), vec![Ok(Buf::copy_of(b"a"))]);
    assert!(!fabric.step(0));
}

#[test]
fn a_cut_loses_what_is_on_the_wire_and_refuses_what_comes_later() {
    let (fabric, _) = fabric(Delivery::Queued);
    let desk = Arc::new(Desk::default());
    let _one = fabric.join(ONE, desk.clone());
    let two = fabric.join(TWO, Desk::echo());
    let heard = Heard::default();
    let _on_the_way = two.send(ONE, status(b""), heard.ear());
    fabric.cut(ONE, TWO);
    assert_eq!((heard.take(), fabric.pump(10)), (vec![], 1), "it is told when the test says so");
    assert_eq!((heard.take(), fabric.queued()), (vec![Err(ErrorKind::LinkLost)], 0));
    let _refused = two.send(ONE, status(b""), heard.ear());
    assert_eq!(heard.take(), vec![Err(ErrorKind::Unreachable)]);
    assert_eq!((two.reachable().unwrap(), desk.given_up()), (BTreeSet::new(), 0));

    fabric.heal(TWO, ONE);
    let _served = two.send(ONE, status(b""), heard.ear());
    assert_eq!(fabric.pump(10), 1);
    fabric.cut(TWO, ONE);
    fabric.pump(10);
    assert_eq!((heard.take(), desk.given_up()), (vec![Err(ErrorKind::LinkLost)], 1), "who serves is told");
    let (_, _, late) = desk.next();
    late(Ok(Response::new(Answer::Done)));
    fabric.heal(ONE, TWO);
    assert_eq!((fabric.pump(10), heard.take()), (0, vec![]), "a late answer goes nowhere");
}

#[test]
fn cancelling_and_deadlines_reach_who_serves() {
    let (fabric, hands) = fabric(Delivery::Inline);
    let desk = Arc::new(Desk::default());
    let _one = fabric.join(ONE, desk.clone());
    let two = fabric.join(TWO, Desk::echo());
    let heard = Heard::default();
    drop(two.send(ONE, status(b""), heard.ear()));
    assert_eq!((heard.take(), desk.given_up()), (vec![Err(ErrorKind::Cancelled)], 1));
    let _late = two.send(ONE, status(b""), heard.ear());
    assert_eq!(fabric.wake_at(), Some(Instant(1_000_000_000)));
    fabric.expire();
    assert_eq!(heard.take(), vec![]);
    hands.0.store(1_000_000_000, Ordering::Relaxed);
    fabric.expire();
    assert_eq!((heard.take(), desk.given_up()), (vec![Err(ErrorKind::Timeout)], 2));
    assert_eq!(fabric.wake_at(), None);
}

#[test]
fn a_request_whose_cancellation_overtook_it_is_not_delivered() {
    let (fabric, _) = fabric(Delivery::Queued);
    let desk = Arc::new(Desk::default());
    let _one = fabric.join(ONE, desk.clone());
    let two = fabric.join(TWO, Desk::echo());
    let heard = Heard::default();
    drop(two.send(ONE, status(b""), heard.ear()));
    assert!(fabric.step(1) && fabric.step(0) && !fabric.step(0));
    assert_eq!(heard.take(), vec![Err(ErrorKind::Cancelled)]);
    assert!(desk.asked.lock().unwrap().is_empty());
}

#[test]
fn the_budget_shrinks_on_the_way() {
    let (fabric, hands) = fabric(Delivery::Queued);
    let desk = Arc::new(Desk::default());
    let _one = fabric.join(ONE, desk.clone());
    let two = fabric.join(TWO, Desk::echo());
    let _guard = two.send(ONE, status(b""), Heard::default().ear());
    hands.0.store(400_000_000, Ordering::Relaxed);
    fabric.pump(10);
    assert_eq!(desk.next().1.header.budget_us, 600_000);
}

#[test]
fn a_client_speaks_in_its_own_name_and_may_not_address_a_drive() {
    let (fabric, _) = fabric(Delivery::Inline);
    let desk = Arc::new(Desk::default());
    let _one = fabric.join(ONE, desk.clone());
    let alice = Principal::User { tenant: TenantId(7), name: "alice".into() };
    let client = fabric.client(alice.clone());
    let heard = Heard::default();
    let _guard = client.send(ONE, status(b""), heard.ear());
    let (from, envelope, _) = desk.next();
    assert_eq!((from, envelope.header.principal), (Role::Client(alice.clone()), alice));
    let mut drive = status(b"");
    drive.header.actor = ActorId::drive(DriveId(1));
    drive.header.body = mesh_core::envelope::Body::Request(ShardOp::Stat.into());
    drop(client.send(ONE, drive, heard.ear()));
    assert_eq!(heard.take(), vec![Err(ErrorKind::Denied)]);
    fabric.cut(client.end(), ONE);
    assert_eq!(heard.take(), vec![Err(ErrorKind::LinkLost)]);
}

#[test]
fn what_is_not_known_here_is_answered_and_the_wire_goes_on() {
    // Without the codec: no build can encode what it does not know.
    let options = MemoryOptions { delivery: Delivery::Inline, codec: false };
    let fabric = MemoryFabric::new(options, Arc::new(Hands::default()));
    let desk = Arc::new(Desk::default());
    let _one = fabric.join(ONE, desk.clone());
    let two = fabric.join(TWO, desk.clone());
    let heard = Heard::default();
    let _held = two.send(ONE, status(b""), heard.ear());
    let mut newer = status(b"");
    let unknown = Error::new(ErrorKind::Unsupported, "a newer build asks");
    newer.header.body = mesh_core::envelope::Body::Unread(unknown);
    drop(two.send(ONE, newer, heard.ear()));
    assert_eq!(heard.take(), vec![Err(ErrorKind::Unsupported)]);
    let (_, _, done) = desk.next();
    done(Ok(Response { answer: Answer::Done, payload: Buf::copy_of(b"held") }));
    assert_eq!(heard.take(), vec![Ok(Buf::copy_of(b"held"))], "what was under way goes on");
    assert!(desk.asked.lock().unwrap().is_empty(), "the other was never delivered");
}

#[test]
fn a_restarted_node_starts_without_its_past() {
    let (fabric, _) = fabric(Delivery::Inline);
    let desk = Arc::new(Desk::default());
    let old = fabric.join(ONE, desk.clone());
    let two = fabric.join(TWO, desk.clone());
    let heard = Heard::default();
    let _to = two.send(ONE, status(b""), heard.ear());
    let _from = old.send(TWO, status(b""), heard.ear());
    let _new = fabric.join(ONE, Desk::echo());
    assert_eq!(heard.take(), vec![Err(ErrorKind::LinkLost), Err(ErrorKind::LinkLost)]);
    assert_eq!(desk.given_up(), 2);
    drop(old.send(TWO, status(b""), heard.ear()));
    drop(two.send(ONE, status(b"again"), heard.ear()));
    assert_eq!(heard.take(), vec![Err(ErrorKind::Unreachable), Ok(Buf::copy_of(b"again"))]);
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

#[test]
fn a_start_that_vanishes_answers_nothing_until_that_is_noticed() {
    let (fabric, _) = fabric(Delivery::Queued);
    let desk = Arc::new(Desk::default());
    let old = fabric.listen(ONE, Incarnation(5), at(1), desk.clone()).unwrap();
    let two = fabric.join(TWO, desk.clone());
    let heard = Heard::default();
    let _nowhere = two.send(ONE, status(b""), heard.ear());
    assert_eq!(heard.take(), vec![Err(ErrorKind::Unreachable)], "nobody has said where it is");
    two.set_peer(ONE, at(1));
    let _taken = two.send(ONE, status(b"taken"), heard.ear());
    let _own = old.send(TWO, status(b"own"), heard.ear());
    fabric.pump(1);
    let _under_way = two.send(ONE, status(b"under way"), heard.ear());
    fabric.vanish(old.start());
    let (_, _, late) = desk.next();
    late(Ok(Response::new(Answer::Done)));
    fabric.pump(10);
    // What it had sent arrives; who has asked it hears nothing, and it hears nothing of its own calls.
    assert_eq!((heard.take(), &desk.next().1.payload[..]), (vec![], &b"own"[..]));
    let _dead = old.send(TWO, status(b""), heard.ear());
    assert_eq!(heard.take(), vec![Err(ErrorKind::Unreachable)]);

    // Its next start is there, and who does not know that goes on asking the old one.
    let new = fabric.listen(ONE, Incarnation(7), at(1), Desk::echo()).unwrap();
    let _still = two.send(ONE, status(b""), heard.ear());
    fabric.pump(10);
    two.restarted(ONE, Incarnation(5));
    assert_eq!((fabric.pump(10), heard.take()), (0, vec![]), "that is the one that it knows");
    two.restarted(ONE, Incarnation(7));
    fabric.pump(10);
    assert_eq!(heard.take(), vec![Err(ErrorKind::LinkLost); 3]);
    let _again = two.send(ONE, status(b"again"), heard.ear());
    fabric.pump(10);
    assert_eq!(heard.take(), vec![Ok(Buf::copy_of(b"again"))]);
    assert!(fabric.listen(TWO, Incarnation(1), at(1), Desk::echo()).is_err(), "somebody listens there");

    // Nobody tells them: the silence does.
    let _asked = two.send(ONE, status(b""), heard.ear());
    fabric.vanish(new.start());
    fabric.lost(new.start());
    fabric.pump(10);
    assert_eq!(heard.take(), vec![Err(ErrorKind::LinkLost)]);
    let _none = two.send(ONE, status(b""), heard.ear());
    assert_eq!(heard.take(), vec![Err(ErrorKind::Unreachable)]);
}

#[test]
fn what_has_ended_of_itself_is_told_in_the_order_of_messages() {
    let (fabric, _) = fabric(Delivery::Queued);
    let _one = fabric.join(ONE, Desk::echo());
    let two = fabric.join(TWO, Desk::echo());
    let heard = Heard::default();
    let _asked = two.send(ONE, status(b""), heard.ear());
    fabric.sever(ONE, TWO);
    let under_way = fabric.under_way(0);
    let [ended] = &under_way[..] else { panic!("{under_way:?}") };
    assert_eq!((ended.kind, ended.to, heard.take()), (Kind::Ended, (End::Node(TWO), two.start()), vec![]));
    assert!(fabric.deliver(ended.number) && !fabric.deliver(ended.number));
    assert_eq!(heard.take(), vec![Err(ErrorKind::LinkLost)]);
}

#[test]
fn what_cannot_be_encoded_fails_at_its_sender() {
    let (fabric, _) = fabric(Delivery::Inline);
    let _one = fabric.join(ONE, Desk::echo());
    let two = fabric.join(TWO, Desk::echo());
    let heard = Heard::default();
    let huge = vec![0; mesh_core::limits::PAYLOAD_BYTES_MAX + 1];
    drop(two.send(ONE, status(&huge), heard.ear()));
    assert_eq!(heard.take(), vec![Err(ErrorKind::TooLarge)]);
}

/// A node that asks another while it is being asked.
struct Relay(Mutex<Option<Arc<MemoryLink>>>);

impl Inbound for Relay {
    fn deliver(&self, _: &Role, envelope: Envelope, done: Completion<Outcome>) -> CallGuard {
        let link = self.0.lock().unwrap().clone().expect("linked");
        link.send(TWO, status(&envelope.payload), done)
    }
}

#[test]
fn a_node_may_ask_while_it_is_asked() {
    let (fabric, _) = fabric(Delivery::Inline);
    let relay = Arc::new(Relay(Mutex::new(None)));
    *relay.0.lock().unwrap() = Some(fabric.join(ONE, relay.clone()));
    let _two = fabric.join(TWO, Desk::echo());
    let three = fabric.join(NodeId(3), Desk::echo());
    let heard = Heard::default();
    three.send(ONE, status(b"through"), heard.ear()).forget();
    assert_eq!(heard.take(), vec![Ok(Buf::copy_of(b"through"))]);
}

proptest! {
    /// Whatever is cut, healed, answered or cancelled in whatever order: every call completes exactly once.
    #[test]
    fn every_call_completes_exactly_once(steps in proptest::collection::vec((0..8u8, any::<usize>()), 0..120)) {
        let (fabric, hands) = fabric(Delivery::Queued);
        let desk = Arc::new(Desk::default());
        let _one = fabric.join(ONE, desk.clone());
        let two = fabric.join(TWO, Desk::echo());
        let heard: Arc<Mutex<Vec<usize>>> = Arc::default();
        let (mut guards, mut started) = (Vec::new(), 0);
        for (step, pick) in steps {
            match step {
                0 | 1 => {
                    let (heard, call) = (heard.clone(), started);
                    started += 1;
                    let ear: Completion<Outcome> = Box::new(move |_| heard.lock().unwrap().push(call));
                    guards.push(two.send(ONE, status(b"x"), ear));
                }
                2 | 3 => drop(fabric.step(pick % fabric.queued().max(1))),
                4 => {
                    let asked = desk.asked.lock().unwrap().pop_front();
                    if let Some((_, _, done)) = asked {
                        done(Ok(Response::new(Answer::Done)));
                    }
                }
                5 => {
                    if !guards.is_empty() {
                        drop(guards.swap_remove(pick % guards.len()));
                    }
                }
                6 if pick % 2 == 0 => fabric.cut(ONE, TWO),
                6 => fabric.heal(ONE, TWO),
                _ => {
                    hands.0.fetch_add((pick % 700_000_000) as u64, Ordering::Relaxed);
                    fabric.expire();
                }
            }
        }
        fabric.cut(ONE, TWO);
        fabric.pump(usize::MAX);
        let mut heard = heard.lock().unwrap().clone();
        heard.sort_unstable();
        prop_assert_eq!(heard, (0..started).collect::<Vec<_>>());
        prop_assert_eq!((fabric.queued(), fabric.wake_at()), (0, None));
    }
}
