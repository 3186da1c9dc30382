//! This life of the ingress in each group.

use mesh_core::limits::BUDGET_DEFAULT;

use super::*;

fn head() -> ObjectOp {
    ObjectOp::Head { bucket: "photos".into(), key: "cat".into() }
}

fn delete() -> ObjectOp {
    ObjectOp::Delete { bucket: "photos".into(), key: "cat".into(), precondition: Precondition::default() }
}

fn opening(bench: &Bench, group: GroupId, life: u64) -> Effect {
    let session = Session { epoch: Epoch(9), life };
    let command = Arc::new(Command::OpenSession { group, actor: ActorId::ingress(NodeId(4)), session });
    job(bench.last(), Job::Propose { command, deadline: bench.now + BUDGET_DEFAULT })
}

fn done() -> mesh_core::WorkOutcome {
    Ok(WorkOutput::Meta(Arc::new(MetaAnswer::Done)))
}

#[test]
fn nothing_is_read_or_written_in_a_group_before_the_session_is_open_there() {
    let mut bench = Bench::unopened(spec());
    let (_, effects) = bench.ask(head());
    assert_eq!(effects, [opening(&bench, GroupId::CONTROL, 1)]);
    assert_eq!(bench.ask(head()).1, [], "it waits for the same");
    let effects = bench.event(Event::Done { work: only_work(&effects), outcome: done() });
    let lookup = bench.query(GroupId::CONTROL, Query::Bucket { name: "photos".into() });
    let [Effect::Call { call, .. }, Effect::Call { call: other, .. }] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(effects, [next(call, lookup.clone()), next(other, lookup)]);

    let effects = bench.reply(call, meta(row(bucket())));
    assert_eq!(effects, [opening(&bench, GROUP, 2)], "another group, a session of its own");
    let work = only_work(&effects);
    assert_eq!(bench.reply(other, meta(row(bucket()))), []);
    let query = Query::Object { bucket: bucket(), key: "cat".into() };
    let effects = bench.event(Event::Done { work, outcome: done() });
    assert_eq!(effects.len(), 2);
    assert!(matches!(&effects[0], Effect::Call { request, .. } if *request == bench.query(GROUP, query)));
    assert_eq!(bench.object.in_flight(), 2);
}

#[test]
fn who_waits_for_a_session_in_vain_is_told_at_the_deadline_that_nothing_was_sent() {
    let mut bench = Bench::unopened(spec());
    let (id, effects) = bench.ask(head());
    let deadline = bench.deadline();
    let effects_late = bench.wake(deadline);
    assert_eq!(refused(&effects_late), ErrorKind::Unreachable);
    assert!(matches!(&effects_late[..], [Effect::Reply { id: to, .. }] if *to == id));
    assert_eq!(bench.event(Event::Done { work: only_work(&effects), outcome: done() }), []);
    assert_eq!(bench.object.in_flight(), 0);
}

#[test]
fn a_session_that_is_refused_is_followed_by_a_later_one() {
    let mut bench = Bench::unopened(spec());
    let (_, effects) = bench.ask(head());
    let outcome = Err(Error::new(ErrorKind::Fenced, "planted"));
    let effects = bench.event(Event::Done { work: only_work(&effects), outcome });
    assert_eq!(refused(&effects), ErrorKind::Unreachable);
    bench.now = Instant(50);
    let (_, effects) = bench.ask(head());
    assert_eq!(effects, [opening(&bench, GroupId::CONTROL, 50)]);
}

#[test]
fn an_ingress_that_nobody_uses_begins_its_life_too_and_tries_until_it_has() {
    let mut bench = Bench::unopened(ObjectSpec { namespaces: 1, ..spec() });
    let effects = bench.wake(Instant(0));
    let [Effect::Start { work, .. }, Effect::Start { work: other, .. }] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(bench.event(Event::Done { work, outcome: done() }), []);
    let outcome = Err(Error::new(ErrorKind::Fenced, "planted"));
    assert_eq!(bench.event(Event::Done { work: other, outcome }), []);
    let again = bench.now + Duration::from_secs(10);
    let effects = bench.wake(again);
    assert_eq!(effects, [opening(&bench, GROUP, again.0)]);
    assert_eq!(bench.event(Event::Done { work: only_work(&effects), outcome: done() }), []);
    assert_eq!((bench.object.wake_at(), bench.object.in_flight()), (None, 0));
}

#[test]
fn a_change_of_a_session_that_is_over_may_have_been_made_and_its_blocks_are_gone() {
    let mut bench = Bench::new(spec());
    let write = bench.begin();
    let (_, effects) = bench.ask(delete());
    let effects = bench.reply(only_call(&effects), failure(ErrorKind::Fenced));
    assert_eq!(refused(&effects), ErrorKind::Timeout, "a copy of it may have come before");
    bench.now = Instant(70);
    let (_, effects) = bench.finish(write, 0);
    assert_eq!(effects, [opening(&bench, GROUP, 70)]);
    let effects = bench.event(Event::Done { work: only_work(&effects), outcome: done() });
    let (_, put) = command(&effects);
    let session = Session { epoch: Epoch(9), life: 70 };
    assert_eq!(put.proposer(), Some(&Proposer { session, ..proposer(0) }));
    let (_, effects) = bench.ask(ObjectOp::Begin { bucket: "photos".into(), key: "cat".into(), destination: whole() });
    assert!(
        matches!(&effects[..], [Effect::Start { job: Job::Propose { command, .. }, .. }]
        if matches!(**command, Command::Upkeep(_, UpkeepCommand::OpenBlock { .. }))),
        "no id of the old block: {effects:?}"
    );
}

#[test]
fn a_command_names_the_lowest_that_is_waited_for() {
    let mut bench = Bench::new(spec());
    bench.know_the_bucket();
    let numbers = |effects: &[Effect]| {
        let (call, command) = command(effects);
        let proposer = command.proposer().copied().expect("a numbered one");
        (call, proposer.request, proposer.done_below)
    };
    let (first, ..) = numbers(&bench.ask(delete()).1);
    let (second, request, done_below) = numbers(&bench.ask(delete()).1);
    assert_eq!((request, done_below), (1, 0));
    bench.reply(first, meta(MetaAnswer::Deleted { existed: true }));
    let (_, request, done_below) = numbers(&bench.ask(delete()).1);
    assert_eq!((request, done_below), (2, 1));
    bench.reply(second, failure(ErrorKind::Precondition));
    let (_, request, done_below) = numbers(&bench.ask(delete()).1);
    assert_eq!((request, done_below), (3, 2));
}
