use super::*;
use crate::{
    error::Certainty,
    limits::STREAM_STRIPES,
    meta::{Attributes, Precondition},
};

const WRITE: WriteId = WriteId(7);

fn destination() -> Destination {
    Destination::Object { attributes: Attributes::default(), precondition: Precondition::default() }
}

/// A write that is open, with stripes of 10 bytes.
fn open(window: usize) -> Pour {
    let (mut pour, begin) = Pour::begin(Place::new("bucket", "key"), destination(), window);
    assert_eq!(
        begin,
        ObjectOp::Begin { bucket: "bucket".into(), key: "key".into(), destination: destination() },
        "it begins by beginning"
    );
    assert_eq!((pour.wants(), pour.next()), (None, None), "nothing goes before Begin is answered");
    pour.hear(begun(10));
    assert_eq!(pour.stripe_bytes(), 10);
    pour
}

fn begun(stripe_bytes: u32) -> Outcome {
    Ok(Answer::Begun { write: WRITE, stripe_bytes }.into())
}

fn done() -> Outcome {
    Ok(Answer::Done.into())
}

fn failure(kind: ErrorKind) -> Error {
    Error::new(kind, "on purpose")
}

fn append(stripe: u32) -> Result<ObjectOp, Error> {
    Ok(ObjectOp::Append { write: WRITE, stripe })
}

fn finish(len: u64) -> PourStep {
    PourStep::Ask(ObjectOp::Finish { write: WRITE, len, etag: "etag".into(), checksums: BTreeMap::new() })
}

fn abort() -> PourStep {
    PourStep::Ask(ObjectOp::Abort { write: WRITE })
}

fn over(kind: ErrorKind) -> PourStep {
    PourStep::Over(Err(failure(kind)))
}

fn end(pour: &mut Pour) {
    pour.end("etag".into(), BTreeMap::new());
}

/// All that it wants done now.
fn steps(pour: &mut Pour) -> Vec<PourStep> {
    core::iter::from_fn(|| pour.next()).collect()
}

/// The kind of the error with which it is over.
fn ended_with(pour: &mut Pour) -> ErrorKind {
    match &steps(pour)[..] {
        [PourStep::Over(Err(error))] => error.kind(),
        steps => panic!("not over: {steps:?}"),
    }
}

#[test]
fn stripes_go_in_a_window_and_the_write_is_finished_once_all_are_stored() {
    let mut pour = open(2);
    assert_eq!((pour.wants(), pour.append(10)), (Some(0), append(0)));
    assert_eq!((pour.wants(), pour.append(10)), (Some(1), append(1)));
    assert_eq!(pour.wants(), None, "two are under way");
    pour.hear(done());
    assert_eq!((pour.wants(), pour.append(3)), (Some(2), append(2)));
    end(&mut pour);
    assert_eq!(steps(&mut pour), [], "two are not stored yet");
    pour.hear(done());
    assert_eq!((pour.wants(), steps(&mut pour)), (None, vec![]), "after the end nothing is wanted");
    pour.hear(done());
    assert_eq!(steps(&mut pour), [finish(23)]);
    pour.hear(Ok(Answer::Committed { version: WriteId(9), etag: "tag".into() }.into()));
    let poured = Poured { version: WriteId(9), etag: "tag".into(), len: 23 };
    assert_eq!(steps(&mut pour), [PourStep::Over(Ok(poured))]);
    assert_eq!(pour.abandon(), None);
}

#[test]
fn nothing_at_all_is_begun_and_finished() {
    let mut pour = open(1);
    end(&mut pour);
    assert_eq!(steps(&mut pour), [finish(0)]);
}

#[test]
fn a_window_is_at_least_one_and_at_most_what_a_stream_may_have() {
    for (asked, given) in [(0, 1), (1, 1), (STREAM_STRIPES + 9, STREAM_STRIPES)] {
        let mut pour = open(asked);
        let taken = core::iter::from_fn(|| pour.wants().map(|_| pour.append(10))).count();
        assert_eq!(taken, given);
    }
}

#[test]
fn a_stripe_that_fails_among_others_aborts_the_write_once_all_are_answered() {
    let mut pour = open(3);
    for stripe in 0..3 {
        assert_eq!(pour.append(10), append(stripe));
    }
    pour.hear(Err(failure(ErrorKind::TooFewShards)));
    assert_eq!(pour.failure(), Some(&failure(ErrorKind::TooFewShards)));
    assert_eq!((pour.wants(), steps(&mut pour)), (None, vec![]));
    end(&mut pour);
    pour.hear(done());
    assert_eq!(steps(&mut pour), [], "one is under way still");
    pour.hear(Err(failure(ErrorKind::Timeout)));
    assert_eq!(steps(&mut pour), [abort()]);
    // Whatever becomes of that.
    pour.hear(Err(failure(ErrorKind::LinkLost)));
    assert_eq!(steps(&mut pour), [over(ErrorKind::TooFewShards)], "the first failure is the reason");
}

#[test]
fn nothing_follows_an_end_of_which_nobody_knows_whether_it_happened() {
    let mut pour = open(1);
    end(&mut pour);
    assert_eq!(steps(&mut pour), [finish(0)]);
    pour.give_up(failure(ErrorKind::Cancelled));
    assert_eq!(steps(&mut pour), [], "it is too late for that");
    pour.hear(Err(failure(ErrorKind::Timeout)));
    assert_eq!(steps(&mut pour), [over(ErrorKind::Timeout)]);
    assert_eq!(failure(ErrorKind::Timeout).certainty(), Certainty::MaybeProcessed);
}

#[test]
fn bytes_that_break_off_are_aborted_also_after_their_end() {
    let mut pour = open(2);
    pour.append(10).unwrap();
    end(&mut pour);
    pour.give_up(failure(ErrorKind::BadDigest));
    pour.hear(done());
    assert_eq!(steps(&mut pour), [abort()]);
    pour.hear(done());
    assert_eq!(steps(&mut pour), [over(ErrorKind::BadDigest)]);
}

#[test]
fn a_write_that_did_not_begin_is_over_and_nothing_is_aborted() {
    let (mut pour, _) = Pour::begin(Place::new("bucket", "key"), destination(), 1);
    pour.hear(Err(failure(ErrorKind::Denied)));
    assert_eq!(pour.failure(), Some(&failure(ErrorKind::Denied)));
    assert_eq!(steps(&mut pour), [over(ErrorKind::Denied)]);
    let (mut pour, _) = Pour::begin(Place::new("bucket", "key"), destination(), 1);
    pour.hear(done());
    assert_eq!(ended_with(&mut pour), ErrorKind::Bug);
}

#[test]
fn an_impossible_stripe_size_aborts_the_write() {
    for bytes in [0, STRIPE_BYTES_MAX as u32 + 1] {
        let (mut pour, _) = Pour::begin(Place::new("bucket", "key"), destination(), 1);
        pour.hear(begun(bytes));
        assert_eq!(pour.wants(), None);
        assert_eq!(steps(&mut pour), [abort()]);
        pour.hear(done());
        assert_eq!(ended_with(&mut pour), ErrorKind::Bug);
    }
}

#[test]
fn answers_to_other_questions_are_bugs() {
    let mut pour = open(1);
    pour.append(1).unwrap();
    pour.hear(begun(10));
    assert_eq!(steps(&mut pour), [abort()]);
    pour.hear(done());
    assert_eq!(ended_with(&mut pour), ErrorKind::Bug);

    let mut pour = open(1);
    end(&mut pour);
    assert_eq!(steps(&mut pour), [finish(0)]);
    pour.hear(done());
    assert_eq!(ended_with(&mut pour), ErrorKind::Bug);

    let mut pour = open(1);
    pour.hear(done());
    assert_eq!(steps(&mut pour), [abort()], "nothing was under way that this could answer");
}

#[test]
fn stripes_of_wrong_lengths_are_refused_and_end_the_write() {
    for (before, bytes) in [(None, 0), (None, 11), (Some(9), 9), (Some(10), 11)] {
        let mut pour = open(4);
        let before = before.map(|bytes| pour.append(bytes).unwrap());
        assert_eq!(pour.append(bytes).map_err(|error| error.kind()), Err(ErrorKind::Bug), "{before:?}, {bytes}");
        before.into_iter().for_each(|_| pour.hear(done()));
        assert_eq!(steps(&mut pour), [abort()]);
    }
    // Stripes may be sent in another order than they are numbered in: the short one need not be the last.
    let mut pour = open(4);
    pour.append(3).unwrap();
    assert_eq!(pour.append(10), append(1));
    // One that is not wanted.
    let mut pour = open(1);
    pour.append(10).unwrap();
    assert_eq!(pour.append(10).map_err(|error| error.kind()), Err(ErrorKind::Bug));
}

#[test]
fn an_object_that_is_too_long_is_refused_with_the_stripe_that_makes_it_so() {
    let (mut pour, _) = Pour::begin(Place::new("bucket", "key"), destination(), 1);
    pour.hear(begun(STRIPE_BYTES_MAX as u32));
    for _ in 0..OBJECT_PUT_BYTES_MAX / STRIPE_BYTES_MAX as u64 {
        pour.append(STRIPE_BYTES_MAX).unwrap();
        pour.hear(done());
    }
    assert_eq!(pour.append(1).map_err(|error| error.kind()), Err(ErrorKind::TooLarge));
    assert_eq!(steps(&mut pour), [abort()]);
    pour.hear(done());
    assert_eq!(ended_with(&mut pour), ErrorKind::TooLarge);
}

#[test]
fn whoever_goes_away_leaves_an_abort_if_a_write_is_open() {
    let (mut pour, _) = Pour::begin(Place::new("bucket", "key"), destination(), 1);
    assert_eq!(pour.abandon(), None, "no write is known");
    let mut pour = open(2);
    pour.append(10).unwrap();
    assert_eq!(pour.abandon(), Some(ObjectOp::Abort { write: WRITE }), "also while a stripe is under way");
    assert_eq!(pour.abandon(), None);
    pour.hear(done());
    assert_eq!((pour.wants(), steps(&mut pour)), (None, vec![]));
    let mut pour = open(1);
    end(&mut pour);
    assert_eq!(steps(&mut pour), [finish(0)]);
    assert_eq!(pour.abandon(), None, "the end was asked for");
}
