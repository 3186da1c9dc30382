use super::*;
use crate::{
    buf::Buf,
    effect::Response,
    id::{LayoutId, WriteId},
    meta::{Attributes, Body, Compression, Extent},
    stream::payload_of,
    time::UnixMillis,
};

fn extent(len: u64) -> Extent {
    Extent {
        write: WriteId(3),
        len,
        stripe_bytes: 10,
        layout: LayoutId(1),
        key: None,
        runs: Vec::new(),
        compression: Compression::Off,
        code: None,
    }
}

fn object(len: u64) -> Arc<ObjectRow> {
    Arc::new(ObjectRow {
        version: WriteId(3),
        len,
        etag: "etag".into(),
        modified: UnixMillis(1),
        attributes: Attributes::default(),
        body: Body::Whole(extent(len)),
    })
}

fn place() -> Place {
    Place::new("bucket", "key")
}

fn draw(len: u64, range: Range<u64>, window: usize) -> Draw {
    Draw::new(place(), object(len), range, window).unwrap()
}

fn piece(stripe: u32, len: u32) -> Piece {
    Piece { extent: Arc::new(extent(1000)), stripe, start: 0, len }
}

fn pieces(lens: &[u32]) -> Outcome {
    Ok(Answer::Pieces((0..).zip(lens).map(|(stripe, len)| piece(stripe, *len)).collect()).into())
}

fn plan(len: u64, offset: u64, rest: u64) -> DrawStep {
    let Place { bucket, key } = place();
    DrawStep::Plan(ObjectOp::Plan { bucket, key, object: object(len), offset, len: rest })
}

fn read(number: u32, stripe: u32, len: u32) -> Option<(u32, ObjectOp)> {
    let Place { bucket, key } = place();
    Some((number, ObjectOp::Read { bucket, key, piece: piece(stripe, len) }))
}

const fn hand(number: u32, start: u64, len: u32) -> DrawStep {
    DrawStep::Hand { number, start, len }
}

fn failure(kind: ErrorKind) -> Error {
    Error::new(kind, "on purpose")
}

fn over(kind: ErrorKind) -> DrawStep {
    DrawStep::Over(Err(failure(kind)))
}

/// All that it wants done now, but for reads.
fn steps(draw: &mut Draw) -> Vec<DrawStep> {
    core::iter::from_fn(|| draw.next()).collect()
}

/// All that it wants to read now, by number.
fn reads(draw: &mut Draw) -> Vec<u32> {
    core::iter::from_fn(|| draw.read()).map(|(number, _)| number).collect()
}

#[test]
fn pieces_are_planned_by_page_read_ahead_and_handed_out_in_order() {
    let mut draw = draw(100, 5..40, 2);
    assert_eq!(draw.read(), None, "nothing is planned");
    assert_eq!(steps(&mut draw), [plan(100, 5, 35)]);
    draw.planned(pieces(&[5, 10, 10]));
    assert_eq!(draw.wants(), Some(&piece(0, 5)));
    assert_eq!(draw.read(), read(0, 0, 5));
    assert_eq!(draw.read(), read(1, 1, 10));
    assert_eq!((draw.wants(), draw.ahead(), draw.in_flight()), (None, 2, 2), "the window is full");
    draw.landed(1, Ok(10));
    assert_eq!(steps(&mut draw), [], "the first one comes first");
    draw.landed(0, Ok(5));
    assert_eq!(steps(&mut draw), [hand(0, 5, 5), hand(1, 10, 10)]);
    assert_eq!(draw.read(), read(2, 2, 10));
    assert_eq!(steps(&mut draw), [plan(100, 30, 10)], "the page is used up");
    draw.landed(2, Ok(10));
    assert_eq!(steps(&mut draw), [hand(2, 20, 10)]);
    draw.planned(pieces(&[10]));
    assert_eq!(draw.read(), read(3, 0, 10));
    draw.landed(3, Ok(10));
    assert_eq!(steps(&mut draw), [hand(3, 30, 10), DrawStep::Over(Ok(()))]);
    assert_eq!(steps(&mut draw), [], "that is said once");
}

#[test]
fn of_nothing_nothing_is_asked() {
    for at in [0, 7] {
        assert_eq!(steps(&mut draw(7, at..at, 4)), [DrawStep::Over(Ok(()))]);
    }
}

#[test]
fn a_range_outside_the_object_is_refused() {
    for range in [0..8, 8..8, Range { start: 4, end: 3 }] {
        let refused = Draw::new(place(), object(7), range, 4).map(drop);
        assert_eq!(refused.map_err(|error| error.kind()), Err(ErrorKind::InvalidRange));
    }
}

#[test]
fn a_read_that_fails_ends_it_where_its_piece_would_have_been() {
    let mut draw = draw(100, 0..100, 4);
    assert_eq!(steps(&mut draw), [plan(100, 0, 100)]);
    draw.planned(pieces(&[10; 10]));
    assert_eq!(reads(&mut draw), [0, 1, 2, 3]);
    draw.landed(2, Ok(10));
    draw.landed(1, Err(failure(ErrorKind::TooFewShards)));
    assert_eq!((reads(&mut draw), steps(&mut draw)), (vec![], vec![]), "the piece before it may come still");
    draw.landed(0, Ok(10));
    assert_eq!(steps(&mut draw), [hand(0, 0, 10), over(ErrorKind::TooFewShards)]);
    assert_eq!(draw.in_flight(), 1, "of which the answer is to come");
    draw.landed(3, Err(failure(ErrorKind::Timeout)));
    assert_eq!((draw.in_flight(), steps(&mut draw)), (0, vec![]));
}

#[test]
fn a_plan_that_fails_ends_it_behind_what_was_read() {
    let mut draw = draw(100, 0..100, 4);
    assert_eq!(steps(&mut draw), [plan(100, 0, 100)]);
    draw.planned(pieces(&[10, 10]));
    assert_eq!(reads(&mut draw), [0, 1]);
    assert_eq!(steps(&mut draw), [plan(100, 20, 80)]);
    assert_eq!(steps(&mut draw), [], "one plan at a time");
    draw.planned(Err(failure(ErrorKind::Conflict)));
    assert_eq!(steps(&mut draw), []);
    draw.landed(0, Ok(10));
    draw.landed(1, Ok(10));
    assert_eq!(steps(&mut draw), [hand(0, 0, 10), hand(1, 10, 10), over(ErrorKind::Conflict)]);
}

#[test]
fn a_plan_that_does_not_cover_its_range_is_a_bug() {
    let empty = Ok(Answer::Pieces(Vec::new()).into());
    let strange = Ok(Answer::Done.into());
    let many = pieces(&[1; PLAN_PIECES_MAX + 1]);
    for outcome in [empty, strange, many, pieces(&[50, 51]), pieces(&[10, 0, 10])] {
        let mut draw = draw(100, 0..100, 4);
        assert_eq!(steps(&mut draw), [plan(100, 0, 100)]);
        draw.planned(outcome);
        assert_eq!(draw.wants(), None);
        let [DrawStep::Over(Err(error))] = &steps(&mut draw)[..] else { panic!("not over") };
        assert_eq!(error.kind(), ErrorKind::Bug);
    }
}

#[test]
fn a_piece_of_another_length_or_that_nobody_asked_for_is_a_bug() {
    for (number, bytes) in [(0, 9), (1, 10)] {
        let mut draw = draw(10, 0..10, 1);
        assert_eq!(steps(&mut draw), [plan(10, 0, 10)]);
        draw.planned(pieces(&[10]));
        assert_eq!(draw.read(), read(0, 0, 10));
        draw.landed(number, Ok(bytes));
        if number == 1 {
            draw.landed(0, Ok(10));
            assert_eq!(draw.next(), Some(hand(0, 0, 10)));
        }
        let [DrawStep::Over(Err(error))] = &steps(&mut draw)[..] else { panic!("not over") };
        assert_eq!(error.kind(), ErrorKind::Bug);
    }
}

#[test]
fn heads_and_reads_are_taken_for_what_they_are() {
    assert_eq!(Draw::head(&place()), ObjectOp::Head { bucket: "bucket".into(), key: "key".into() });
    assert_eq!(Draw::headed(Ok(Answer::Object(object(5)).into())), Ok(object(5)));
    assert_eq!(Draw::headed(Ok(Answer::Done.into())).map_err(|error| error.kind()), Err(ErrorKind::Bug));
    assert_eq!(Draw::headed(Err(failure(ErrorKind::NotFound))), Err(failure(ErrorKind::NotFound)));
    let payload = Buf::copy_of(b"bytes");
    assert_eq!(payload_of(Ok(Response { answer: Answer::Done, payload: payload.clone() })), Ok(payload));
    assert_eq!(payload_of(pieces(&[1])).map_err(|error| error.kind()), Err(ErrorKind::Bug));
}
