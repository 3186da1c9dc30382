//! One life of an actor at a time, each of its commands once, and bounded memory of both.

use mesh_core::{Redirect, limits::SESSION_REQUESTS_MAX, meta::FORMAT};

use super::*;
use crate::metadata::{Change, keys};

fn open_in(group: GroupId, actor: u64, epoch: u64, life: u64) -> Command {
    Command::OpenSession { group, actor: ActorId(actor), session: Session { epoch: Epoch(epoch), life } }
}

fn open(actor: u64, epoch: u64, life: u64) -> Command {
    open_in(NAMESPACE, actor, epoch, life)
}

/// A delete of the actor 1 in its first life.
fn numbered(request: u64, done_below: u64) -> Command {
    let proposer = Proposer { actor: ActorId(1), session: session(1), request, done_below };
    let (key, at, precondition) = ("a".into(), UnixMillis(1), Precondition::default());
    Command::Object(bucket(), ObjectCommand::DeleteObject { proposer, key, at, precondition })
}

fn answers(group: &Group) -> usize {
    group.table.rows().filter(|(key, _)| key[0] == b'A').count()
}

const NOTHING: Result<MetaAnswer, ErrorKind> = Ok(MetaAnswer::Deleted { existed: false });

#[test]
fn a_later_life_shuts_out_the_earlier_ones_and_an_earlier_one_no_later() {
    for mut group in [Group::namespace(), Group::control()] {
        let open = |epoch, life| open_in(group.id, 1, epoch, life);
        let lives = [open(1, 3), open(1, 2), open(2, 1), open(1, 3), open(1, 9)];
        let [first, earlier, later_epoch, over, late] = lives.map(|command| group.apply(&command));
        assert_eq!((first, earlier), (Ok(MetaAnswer::Done), Err(ErrorKind::Fenced)));
        assert_eq!(later_epoch, Ok(MetaAnswer::Done), "a later epoch comes first");
        assert_eq!((over, late), (Err(ErrorKind::Fenced), Err(ErrorKind::Fenced)));
    }
    let mut group = Group::namespace();
    let first = group.open_block(1);
    let (early, late) = (put("a", object(first, 1, 1)), delete("a", 2));
    assert_eq!(group.apply(&early), committed(first));
    assert_eq!(group.apply(&open(1, 2, 1)), Ok(MetaAnswer::Done));
    for command in [
        early,
        late,
        create_upload(after(first, 1), "b"),
        Command::Upkeep(NAMESPACE, UpkeepCommand::OpenBlock { proposer: proposer(1) }),
    ] {
        assert_eq!(group.apply(&command), Err(ErrorKind::Fenced));
    }
    assert!(group.query(&Query::Object { bucket: bucket(), key: "a".into() }).is_ok());
    assert_eq!(
        group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::OpenBlock { proposer: proposer(7) })),
        Err(ErrorKind::Fenced),
        "it has none"
    );
}

#[test]
fn who_is_shut_out_is_told_in_which_epoch_the_later_life_is() {
    let mut group = Group::namespace();
    assert_eq!(group.apply(&open(1, 3, 1)), Ok(MetaAnswer::Done));
    let there = Redirect { actor: Some(ActorId(1)), epoch: Some(Epoch(3)), ..Redirect::default() };
    for command in [open(1, 2, 9), numbered(0, 0)] {
        let (changes, answer) = apply(&group.table, NAMESPACE, &command);
        let told = answer.map_err(|error| (error.kind(), error.redirect()));
        assert_eq!((changes, told), (vec![], Err((ErrorKind::Fenced, Some(there)))), "{command:?}");
    }
}

#[test]
fn a_number_is_answered_as_it_was_first_also_with_a_refusal() {
    let mut group = Group::namespace();
    let first = group.open_block(1);
    let absent = Command::Object(
        bucket(),
        ObjectCommand::DeleteObject {
            proposer: proposer(1),
            key: "a".into(),
            at: UnixMillis(1),
            precondition: Precondition { absent: false, etag: Some(format!("etag-{first}")) },
        },
    );
    assert_eq!(group.apply(&absent), Err(ErrorKind::Precondition));
    assert_eq!(group.apply(&put("a", object(first, 1, 1))), committed(first));
    assert_eq!(group.apply(&absent), Err(ErrorKind::Precondition), "by now it would hold");
    assert!(group.query(&Query::Object { bucket: bucket(), key: "a".into() }).is_ok());
}

#[test]
fn what_is_waited_for_no_more_is_forgotten_and_refused() {
    let mut group = Group::namespace();
    assert_eq!(answers(&group), 0);
    for request in 0..200 {
        assert_eq!(group.apply(&numbered(request, request)), NOTHING);
        // Not each time: what was said to 64 of them is forgotten together.
        assert_eq!(answers(&group) as u64, request % 64 + 1, "{request}");
    }
    assert_eq!(group.apply(&numbered(3, 3)), Err(ErrorKind::Fenced));
    assert_eq!(group.apply(&numbered(199, 199)), NOTHING);
    assert_eq!(group.apply(&numbered(300, 301)), Err(ErrorKind::Invalid));
    assert_eq!(group.apply(&numbered(300, 300)), NOTHING, "numbers may be left out");
}

#[test]
fn a_session_is_written_only_when_something_is_given_up() {
    let mut group = Group::namespace();
    for (request, done_below, written) in [(0, 0, &b"A"[..]), (1, 0, b"A"), (2, 2, b"AS"), (3, 2, b"A"), (4, 1, b"A")] {
        let (changes, answer) = apply(&group.table, NAMESPACE, &numbered(request, done_below));
        assert_eq!(answer, Ok(MetaAnswer::Deleted { existed: false }));
        assert_eq!(changes.iter().map(|change| change.key[0]).collect::<Vec<_>>(), written, "{request}");
        group.table.commit(changes);
    }
}

#[test]
fn one_that_hangs_holds_up_the_others_only_after_many() {
    let mut group = Group::namespace();
    let last = SESSION_REQUESTS_MAX - 1;
    assert_eq!(group.apply(&numbered(last, 0)), NOTHING);
    assert_eq!(group.apply(&numbered(last + 1, 0)), Err(ErrorKind::Overloaded));
    assert_eq!(group.apply(&numbered(last + 1, 1)), NOTHING, "it was not decided on before");
    assert_eq!(group.apply(&numbered(0, 0)), Err(ErrorKind::Fenced), "its sender has given it up");
}

#[test]
fn a_session_that_is_over_is_forgotten_a_part_at_a_time() {
    let mut group = Group::namespace();
    for request in 0..1000 {
        assert_eq!(group.apply(&numbered(request, 0)), NOTHING);
    }
    assert_eq!(group.apply(&open(1, 2, 5)), Ok(MetaAnswer::Done));
    assert_eq!(answers(&group), 1000 - 256);
    let session = Session { epoch: Epoch(2), life: 5 };
    for request in 0..64 * 8 {
        let proposer = Proposer { actor: ActorId(1), session, request, done_below: request };
        let (key, at, precondition) = ("a".into(), UnixMillis(1), Precondition::default());
        let command = Command::Object(bucket(), ObjectCommand::DeleteObject { proposer, key, at, precondition });
        assert_eq!(group.apply(&command), NOTHING);
    }
    assert!(answers(&group) <= 65 + 64, "{}", answers(&group));
}

#[test]
fn what_cannot_be_read_is_not_remembered() {
    let mut group = Group::namespace();
    let command = numbered(0, 0);
    let broken = Change { key: keys::object(bucket().id, "a"), value: Some(vec![9]) };
    group.table.commit(vec![broken.clone()]);
    assert_eq!(group.apply(&command), Err(ErrorKind::Corrupt));
    assert_eq!(answers(&group), 0);
    group.table.commit(vec![Change { value: None, ..broken }]);
    assert_eq!(group.apply(&command), NOTHING);
}

/// The replica must stop, but it has lost nothing: the build that wrote the row reads it.
#[test]
fn what_only_a_later_build_reads_is_no_damage() {
    let mut group = Group::namespace();
    let command = numbered(0, 0);
    let later = Change { key: keys::answer(ActorId(1), session(1), 0), value: Some(vec![FORMAT, 99]) };
    group.table.commit(vec![later.clone()]);
    let table = group.table.clone();
    assert_eq!(group.apply(&command), Err(ErrorKind::Bug));
    assert_eq!(group.table, table);
    group.table.commit(vec![Change { value: None, ..later }]);
    assert_eq!(group.apply(&command), NOTHING);
}

#[test]
fn what_its_sender_has_given_up_comes_too_late_from_the_next_command_on() {
    let mut group = Group::namespace();
    assert_eq!(group.apply(&open(1, 1, 1)), Ok(MetaAnswer::Done));
    assert_eq!(group.apply(&numbered(5, 5)), NOTHING);
    // The only copy of an earlier one: nobody waits for it any more, and what was acknowledged since stays.
    assert_eq!(group.apply(&numbered(4, 0)), Err(ErrorKind::Fenced));
}
