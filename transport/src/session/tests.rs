use std::{collections::BTreeMap, time::Duration};

use mesh_core::{
    Answer, Buf, Error, ErrorKind, Lane, Op, Outcome, Principal, Response,
    envelope::Envelope,
    id::{ActorId, Epoch},
    op::NodeOp,
    time::Instant,
};
use proptest::prelude::*;

use super::{Action, Calls, Terms};

const WIDE: Terms = Terms { jobs_max: 100, bytes_max: 1 << 20 };

fn request(bytes: usize, budget: Duration) -> Envelope {
    let op = Op::Node(Box::new(NodeOp::Status));
    Envelope::request(ActorId::NODE, Epoch(0), op, Buf::zeroed(bytes), Principal::System, Lane::Bulk, budget)
}

fn second() -> Duration {
    Duration::from_secs(1)
}

fn send(id: u64, bytes: usize, deadline: Instant) -> Action<char> {
    let mut envelope = request(bytes, second());
    envelope.header.id = id;
    Action::Send { id, deadline, envelope: Box::new(envelope) }
}

fn done() -> Outcome {
    Ok(Response::new(Answer::Done))
}

/// Actions, with errors reduced to their kinds.
#[derive(Debug, PartialEq)]
enum Seen {
    Send(u64),
    Good(char),
    Failed(char, ErrorKind),
    Reset(u64),
}

fn seen(actions: Vec<Action<char>>) -> Vec<Seen> {
    let each = |action| match action {
        Action::Send { id, .. } => Seen::Send(id),
        Action::Reset { id } => Seen::Reset(id),
        Action::Complete { caller, outcome: Ok(_) } => Seen::Good(caller),
        Action::Complete { caller, outcome: Err(error) } => Seen::Failed(caller, error.kind()),
    };
    actions.into_iter().map(each).collect()
}

fn connected(terms: Terms) -> Calls<char> {
    let mut calls = Calls::default();
    let mut actions = Vec::new();
    calls.connected(terms, &mut actions);
    assert_eq!(actions, vec![]);
    calls
}

#[test]
fn a_request_waits_for_the_connection_and_goes_out_with_its_deadline() {
    let mut calls = Calls::default();
    let mut actions = Vec::new();
    let now = Instant(5);
    assert_eq!(calls.start(now, request(3, second()), 'a', &mut actions), Some(1));
    assert_eq!(calls.start(now, request(4, second()), 'b', &mut actions), Some(2));
    assert_eq!(actions, vec![]);
    calls.connected(WIDE, &mut actions);
    let deadline = now + second();
    assert_eq!(actions, vec![send(1, 3, deadline), send(2, 4, deadline)]);
    actions.clear();
    assert_eq!(calls.start(now, request(0, second()), 'c', &mut actions), Some(3));
    assert_eq!(actions, vec![send(3, 0, deadline)]);
}

#[test]
fn an_answer_completes_its_call_once_and_late_ones_are_ignored() {
    let mut calls = connected(WIDE);
    let mut actions = Vec::new();
    calls.start(Instant(0), request(0, second()), 'a', &mut actions);
    assert!(calls.sent(1));
    actions.clear();
    calls.answered(1, done(), &mut actions);
    calls.answered(1, done(), &mut actions);
    calls.cancel(1, &mut actions);
    calls.expire(Instant::NEVER, &mut actions);
    calls.broken("cut", &mut actions);
    assert_eq!(actions, vec![Action::Complete { caller: 'a', outcome: done() }]);
    assert_eq!((calls.in_flight(), calls.wake_at()), (0, None));
}

#[test]
fn a_broken_link_says_of_each_call_whether_it_was_sent() {
    let mut calls = connected(WIDE);
    let mut actions = Vec::new();
    calls.start(Instant(0), request(0, second()), 'a', &mut actions);
    calls.start(Instant(0), request(0, second()), 'b', &mut actions);
    assert!(calls.sent(1));
    actions.clear();
    calls.broken("cut", &mut actions);
    assert_eq!(seen(actions), vec![Seen::Failed('a', ErrorKind::LinkLost), Seen::Failed('b', ErrorKind::Unreachable)]);
    assert!(!calls.sent(2), "its last byte must not leave any more");
    let mut actions = Vec::new();
    calls.start(Instant(0), request(0, second()), 'c', &mut actions);
    assert_eq!(actions, vec![], "it waits for the next connection");
    calls.broken("refused", &mut actions);
    assert_eq!(seen(actions), vec![Seen::Failed('c', ErrorKind::Unreachable)]);
}

#[test]
fn a_broken_stream_ends_one_call_only() {
    let mut calls = connected(WIDE);
    let mut actions = Vec::new();
    for caller in ['a', 'b', 'c'] {
        calls.start(Instant(0), request(0, second()), caller, &mut actions);
    }
    assert!(calls.sent(1));
    actions.clear();
    calls.stream_broken(1, "reset", &mut actions);
    calls.stream_broken(2, "reset", &mut actions);
    assert_eq!(seen(actions), vec![Seen::Failed('a', ErrorKind::LinkLost), Seen::Failed('b', ErrorKind::Unreachable)]);
    assert_eq!(calls.in_flight(), 1);
}

#[test]
fn a_cancelled_call_resets_its_stream_only_if_it_has_one() {
    let mut calls = Calls::default();
    let mut actions = Vec::new();
    calls.start(Instant(0), request(0, second()), 'a', &mut actions);
    calls.cancel(1, &mut actions);
    calls.connected(WIDE, &mut actions);
    calls.start(Instant(0), request(0, second()), 'b', &mut actions);
    calls.cancel(2, &mut actions);
    calls.cancel(2, &mut actions);
    assert_eq!(
        seen(actions),
        vec![
            Seen::Failed('a', ErrorKind::Cancelled),
            Seen::Send(2),
            Seen::Reset(2),
            Seen::Failed('b', ErrorKind::Cancelled),
        ]
    );
}

#[test]
fn deadlines_fire_in_order_and_only_when_due() {
    let mut calls = connected(WIDE);
    let mut actions = Vec::new();
    let millis = Duration::from_millis;
    calls.start(Instant(0), request(0, millis(30)), 'a', &mut actions);
    calls.start(Instant(0), request(0, millis(10)), 'b', &mut actions);
    calls.start(Instant(0), request(0, Duration::ZERO), 'c', &mut actions);
    actions.clear();
    assert_eq!(calls.wake_at(), Some(Instant(0) + millis(10)));
    calls.expire(Instant(0) + millis(9), &mut actions);
    assert_eq!(actions, vec![]);
    calls.expire(Instant(0) + millis(30), &mut actions);
    assert_eq!(
        seen(actions),
        vec![
            Seen::Reset(2),
            Seen::Failed('b', ErrorKind::Timeout),
            Seen::Reset(1),
            Seen::Failed('a', ErrorKind::Timeout)
        ]
    );
    assert_eq!(calls.wake_at(), Some(Instant(0) + mesh_core::limits::BUDGET_DEFAULT), "no budget named: the default");
}

#[test]
fn without_credit_a_call_is_refused_at_once() {
    let mut calls = connected(Terms { jobs_max: 2, bytes_max: 100 });
    let mut actions = Vec::new();
    calls.start(Instant(0), request(60, second()), 'a', &mut actions);
    assert_eq!(calls.start(Instant(0), request(41, second()), 'b', &mut actions), None);
    calls.start(Instant(0), request(40, second()), 'c', &mut actions);
    assert_eq!(calls.start(Instant(0), request(0, second()), 'd', &mut actions), None);
    calls.answered(1, done(), &mut actions);
    calls.start(Instant(0), request(60, second()), 'e', &mut actions);
    assert_eq!(
        seen(actions),
        vec![
            Seen::Send(1),
            Seen::Failed('b', ErrorKind::Overloaded),
            Seen::Send(2),
            Seen::Failed('d', ErrorKind::Overloaded),
            Seen::Good('a'),
            Seen::Send(3),
        ]
    );
}

#[test]
fn what_waited_beyond_the_terms_is_refused_when_they_become_known() {
    let mut calls = Calls::default();
    let mut actions = Vec::new();
    for caller in ['a', 'b', 'c'] {
        calls.start(Instant(0), request(10, second()), caller, &mut actions);
    }
    calls.connected(Terms { jobs_max: 2, bytes_max: 100 }, &mut actions);
    assert_eq!(seen(actions), vec![Seen::Send(1), Seen::Send(2), Seen::Failed('c', ErrorKind::Overloaded)]);
    assert_eq!(calls.in_flight(), 2);
}

#[derive(Clone, Debug)]
enum Step {
    Start(u16, u16),
    Connected,
    Sent(u64),
    Answered(u64),
    StreamBroken(u64),
    Cancel(u64),
    Expire(u64),
    Broken,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let id = 1..20u64;
    let step = prop_oneof![
        4 => (0..2000u16, 1..2000u16).prop_map(|(bytes, budget)| Step::Start(bytes, budget)),
        1 => Just(Step::Connected),
        2 => id.clone().prop_map(Step::Sent),
        2 => id.clone().prop_map(Step::Answered),
        1 => id.clone().prop_map(Step::StreamBroken),
        1 => id.prop_map(Step::Cancel),
        1 => (0..500u64).prop_map(Step::Expire),
        1 => Just(Step::Broken),
    ];
    proptest::collection::vec(step, 0..100)
}

proptest! {
    /// Whatever happens in whatever order: every caller hears exactly once, and `Unreachable` only if the driver was
    /// never told that the request may leave.
    #[test]
    fn every_call_completes_exactly_once(steps in steps()) {
        let mut calls: Calls<usize> = Calls::default();
        let mut now = Instant(0);
        let mut started = 0;
        let mut up = false;
        let mut ids = BTreeMap::new();
        let mut told_sent = BTreeMap::new();
        let mut heard: BTreeMap<usize, Result<(), ErrorKind>> = BTreeMap::new();
        let mut actions = Vec::new();
        for step in steps.into_iter().chain([Step::Broken]) {
            match step {
                Step::Start(bytes, budget) => {
                    let envelope = request(bytes.into(), Duration::from_micros(budget.into()));
                    if let Some(id) = calls.start(now, envelope, started, &mut actions) {
                        ids.insert(id, started);
                    }
                    started += 1;
                }
                Step::Connected if up => {}
                Step::Connected => {
                    up = true;
                    calls.connected(Terms { jobs_max: 5, bytes_max: 4000 }, &mut actions);
                }
                Step::Sent(id) if up => {
                    if calls.sent(id) {
                        told_sent.insert(ids[&id], ());
                    }
                }
                Step::Answered(id) if up => calls.answered(id, done(), &mut actions),
                Step::StreamBroken(id) if up => calls.stream_broken(id, "x", &mut actions),
                Step::Sent(_) | Step::Answered(_) | Step::StreamBroken(_) => {}
                Step::Cancel(id) => calls.cancel(id, &mut actions),
                Step::Expire(more) => {
                    now = Instant(now.0 + more * 1000);
                    calls.expire(now, &mut actions);
                    prop_assert!(calls.wake_at().is_none_or(|at| at > now));
                }
                Step::Broken => {
                    up = false;
                    calls.broken("x", &mut actions);
                }
            }
            for action in actions.drain(..) {
                if let Action::Complete { caller, outcome } = action {
                    let before = heard.insert(caller, outcome.map(|_| ()).map_err(|error: Error| error.kind()));
                    prop_assert_eq!(before, None, "heard twice");
                }
            }
        }
        prop_assert_eq!(heard.len(), started);
        prop_assert_eq!((calls.in_flight(), calls.wake_at()), (0, None));
        for (caller, outcome) in heard {
            if outcome == Err(ErrorKind::Unreachable) {
                prop_assert!(!told_sent.contains_key(&caller));
            }
            if outcome == Err(ErrorKind::LinkLost) {
                prop_assert!(told_sent.contains_key(&caller));
            }
        }
    }
}
