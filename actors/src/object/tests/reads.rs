//! Head, Plan, Read, List.

use mesh_core::{
    limits::LIST_KEYS_MAX,
    meta::{Body, Compression, Extent, Listing, ObjectRow, PartRow, Run},
    op::{Part, Piece},
    topology::Code,
};

use super::*;

fn object(len: u64, body: Body) -> Arc<ObjectRow> {
    Arc::new(ObjectRow {
        version: WriteId(50),
        len,
        etag: "e".into(),
        modified: WALL,
        attributes: Attributes::default(),
        body,
    })
}

fn plan(object: Arc<ObjectRow>, offset: u64, len: u64) -> ObjectOp {
    ObjectOp::Plan { bucket: "photos".into(), key: "cat".into(), object, offset, len }
}

/// Write, stripe, start, length.
type Cut = (u64, u32, u32, u32);

fn pieces(effects: &[Effect]) -> Vec<Cut> {
    match effects {
        [Effect::Reply { outcome: Ok(Response { answer: Answer::Pieces(pieces), .. }), .. }] => {
            pieces.iter().map(|piece| (piece.extent.write.0, piece.stripe, piece.start, piece.len)).collect()
        }
        other => panic!("no pieces: {other:?}"),
    }
}

#[test]
fn head_asks_the_bucket_s_group() {
    let mut bench = Bench::new(spec());
    bench.know_the_bucket();
    let (id, effects) = bench.ask(ObjectOp::Head { bucket: "photos".into(), key: "cat".into() });
    let query = bench.query(GROUP, Query::Object { bucket: bucket(), key: "cat".into() });
    assert_eq!(effects, [next(bench.last(), query)]);
    let row = object(0, Body::Whole(extent(WriteId(50), 0)));
    let call = bench.last();
    let effects = bench.reply(call, meta(MetaAnswer::Object(row.clone())));
    assert_eq!(effects, [replied(id, Answer::Object(row))]);
}

#[test]
fn a_question_goes_again_after_failures_of_the_way_but_not_after_an_answer() {
    let mut bench = Bench::new(spec());
    bench.know_the_bucket();
    let (id, effects) = bench.ask(ObjectOp::Head { bucket: "photos".into(), key: "cat".into() });
    let call = only_call(&effects);
    assert_eq!(bench.reply(call, failure(ErrorKind::NotLeader)), []);
    let effects = bench.wake(bench.now + Duration::from_millis(10));
    let call = only_call(&effects);
    let effects = bench.reply(call, failure(ErrorKind::NotFound));
    assert_eq!(effects, [Effect::Reply { id, outcome: failure(ErrorKind::NotFound) }]);
}

#[test]
fn a_plan_of_one_write_is_made_without_asking() {
    let row = object(25, Body::Whole(extent(WriteId(50), 25)));
    let table: [(u64, u64, &[Cut]); 5] = [
        (0, 25, &[(50, 0, 0, 10), (50, 1, 0, 10), (50, 2, 0, 5)]),
        (0, 0, &[]),
        (25, 0, &[]),
        (9, 2, &[(50, 0, 9, 1), (50, 1, 0, 1)]),
        (24, 1, &[(50, 2, 4, 1)]),
    ];
    for (offset, len, wanted) in table {
        let mut bench = Bench::new(spec());
        assert_eq!(pieces(&bench.ask(plan(row.clone(), offset, len)).1), wanted);
    }
    let mut bench = Bench::new(spec());
    for (offset, len) in [(0, 26), (26, 0), (u64::MAX, 2)] {
        assert_eq!(refused(&bench.ask(plan(row.clone(), offset, len)).1), ErrorKind::InvalidRange);
    }
}

#[test]
fn a_plan_names_64_pieces_at_most() {
    let mut bench = Bench::new(spec());
    let row = object(10_000, Body::Whole(extent(WriteId(50), 10_000)));
    let first = pieces(&bench.ask(plan(row, 5, 9_000)).1);
    assert_eq!((first.len(), first[0], first[63]), (64, (50, 0, 5, 5), (50, 63, 0, 10)));
}

#[test]
fn a_plan_of_parts_asks_for_a_page_and_skips_nothing() {
    let part = |number, offset, len| {
        Arc::new(PartRow {
            number,
            offset,
            etag: "p".into(),
            checksums: BTreeMap::new(),
            modified: WALL,
            extent: extent(WriteId(60 + u64::from(number)), len),
        })
    };
    let row = object(40, Body::Parts { upload: WriteId(50), count: 4 });
    let ask = |parts: Vec<Arc<PartRow>>, offset, len| {
        let mut bench = Bench::new(spec());
        bench.know_the_bucket();
        let (_, effects) = bench.ask(plan(row.clone(), offset, len));
        let query = Query::Extents { bucket: bucket(), upload: WriteId(50), offset, limit: 64 };
        assert_eq!(effects, [next(bench.last(), bench.query(GROUP, query))]);
        let call = bench.last();
        bench.reply(call, meta(MetaAnswer::Parts(parts, false)))
    };
    let parts = vec![part(1, 0, 15), part(2, 15, 0), part(3, 15, 20), part(4, 35, 5)];
    assert_eq!(
        pieces(&ask(parts.clone(), 12, 20)),
        [(61, 1, 2, 3), (63, 0, 0, 10), (63, 1, 0, 7)],
        "the empty part is passed over"
    );
    // A gap ends the page; with nothing before it there is no page.
    assert_eq!(pieces(&ask(vec![part(1, 0, 15), part(4, 35, 5)], 14, 20)), [(61, 1, 4, 1)]);
    assert_eq!(refused(&ask(vec![part(4, 35, 5)], 14, 20)), ErrorKind::Corrupt);
    assert_eq!(refused(&ask(vec![], 14, 20)), ErrorKind::Corrupt);
}

#[test]
fn a_read_asks_for_the_stored_attempt_and_gives_the_piece_of_it() {
    let mut bench = Bench::new(spec());
    bench.know_the_bucket();
    let run = Run { first: 1, count: 2, attempt: 3, avoid: vec![DriveId(8)], shared: false };
    let extent = Arc::new(Extent { runs: vec![run], ..extent(WriteId(50), 25) });
    let piece = |stripe, start, len| Piece { extent: extent.clone(), stripe, start, len };
    let read = |piece| ObjectOp::Read { bucket: "photos".into(), key: "cat".into(), piece };

    let (id, effects) = bench.ask(read(piece(2, 1, 3)));
    let part = Some(Part { start: 1, len: 3, of: 5 });
    let op = StripeOp::Read { target: target(WriteId(50), 2, 3), avoid: vec![DriveId(8)], part };
    assert_eq!(effects, [next(bench.last(), bench.onward(op, Buf::empty()))]);
    let call = bench.last();
    let effects = bench.reply(call, Ok(Response { answer: Answer::Done, payload: Buf::copy_of(b"vwxyz") }));
    let payload = Buf::copy_of(b"wxy");
    assert_eq!(effects, [Effect::Reply { id, outcome: Ok(Response { answer: Answer::Done, payload }) }]);

    // Whoever opened what is sealed has given the piece alone; of what is not that would be another stripe.
    let alone = || Ok(Response { answer: Answer::Done, payload: Buf::copy_of(b"wxy") });
    let sealed = Arc::new(Extent { key: Some(wrapped()), ..(*extent).clone() });
    let (id, _) = bench.ask(read(Piece { extent: sealed.clone(), ..piece(2, 1, 3) }));
    let call = bench.last();
    assert_eq!(bench.reply(call, alone()), [Effect::Reply { id, outcome: alone() }]);
    for (extent, outcome) in [(extent.clone(), alone()), (sealed, failure(ErrorKind::InvalidRange))] {
        let (_, effects) = bench.ask(read(Piece { extent: extent.clone(), ..piece(2, 1, 3) }));
        let (call, _) = stripe_op(&effects);
        // It is asked for again.
        let effects = bench.reply(call, outcome);
        let query = bench.query(GROUP, Query::Object { bucket: bucket(), key: "cat".into() });
        assert_eq!(effects, [next(bench.last(), query)]);
        let call = bench.last();
        let effects = bench.reply(call, meta(MetaAnswer::Object(object(25, Body::Whole((*extent).clone())))));
        assert_eq!(refused(&effects), ErrorKind::Corrupt);
    }

    let (_, effects) = bench.ask(read(piece(0, 0, 10)));
    let (call, op) = stripe_op(&effects);
    assert_eq!(op, StripeOp::Read { target: target(WriteId(50), 0, 0), avoid: vec![], part: None });
    bench.reply(call, Ok(Response { answer: Answer::Done, payload: Buf::copy_of(b"short") }));
    let (call, whole) = (bench.last(), Body::Whole((*extent).clone()));
    let effects = bench.reply(call, meta(MetaAnswer::Object(object(25, whole))));
    assert_eq!(refused(&effects), ErrorKind::Corrupt);

    for (stripe, start, len) in [(0, 0, 0), (0, 5, 6), (2, 0, 6), (3, 0, 1), (0, u32::MAX, 2)] {
        assert_eq!(refused(&bench.ask(read(piece(stripe, start, len))).1), ErrorKind::InvalidRange);
    }
}

#[test]
fn a_read_says_what_was_said_when_it_was_written_whatever_the_bucket_says_now() {
    let read = |now: Compression, then: Compression| {
        let mut bench = Bench::new(spec());
        bench.know(row_of(bucket(), now));
        let extent = Arc::new(Extent { compression: then, ..extent(WriteId(50), 5) });
        let piece = Piece { extent, stripe: 0, start: 1, len: 3 };
        let (id, effects) = bench.ask(ObjectOp::Read { bucket: "photos".into(), key: "cat".into(), piece });
        let target = StripeTarget { compression: then, ..target(WriteId(50), 0, 0) };
        let op = StripeOp::Read { target, avoid: vec![], part: Some(Part { start: 1, len: 3, of: 5 }) };
        assert_eq!(effects, [next(bench.last(), bench.onward(op, Buf::empty()))]);
        let call = only_call(&effects);
        let effects = bench.reply(call, Ok(Response { answer: Answer::Done, payload: Buf::copy_of(b"vwxyz") }));
        let payload = Buf::copy_of(b"wxy");
        assert_eq!(effects, [Effect::Reply { id, outcome: Ok(Response { answer: Answer::Done, payload }) }]);
    };
    read(Compression::Off, Compression::Auto);
    read(Compression::Auto, Compression::Off);
}

#[test]
fn a_read_goes_again_until_the_deadline() {
    let mut bench = Bench::new(spec());
    bench.know_the_bucket();
    let piece = Piece { extent: Arc::new(extent(WriteId(50), 5)), stripe: 0, start: 0, len: 5 };
    let (id, mut effects) = bench.ask(ObjectOp::Read { bucket: "photos".into(), key: "cat".into(), piece });
    for kind in [ErrorKind::Restarted, ErrorKind::StaleEpoch, ErrorKind::RateLimited, ErrorKind::LinkLost] {
        let (call, _) = stripe_op(&effects);
        effects = bench.reply(call, failure(kind));
        if effects.is_empty() {
            let at = bench.object.wake_at().expect("a pause");
            effects = bench.wake(at);
        }
    }
    let (call, _) = stripe_op(&effects);
    let effects = bench.reply(call, failure(ErrorKind::DriveFailed));
    assert_eq!(effects, [Effect::Reply { id, outcome: failure(ErrorKind::DriveFailed) }]);
}

#[test]
fn what_is_on_drives_that_are_not_seen_is_asked_for_again_for_a_while() {
    let mut bench = Bench::new(spec());
    bench.know_the_bucket();
    let piece = Piece { extent: Arc::new(extent(WriteId(50), 5)), stripe: 0, start: 0, len: 5 };
    let (id, mut effects) = bench.ask(ObjectOp::Read { bucket: "photos".into(), key: "cat".into(), piece });
    let begun = bench.now;
    for _ in 0..4 {
        let (call, _) = stripe_op(&effects);
        assert_eq!(bench.reply(call, failure(ErrorKind::TooFewShards)), []);
        let at = bench.object.wake_at().expect("a pause");
        effects = bench.wake(at);
    }
    assert_eq!(bench.now.since(begun), Duration::from_millis(250 + 500 + 1000 + 1000));
    let (call, _) = stripe_op(&effects);
    let effects = bench.reply(call, failure(ErrorKind::TooFewShards));
    assert_eq!(effects, [Effect::Reply { id, outcome: failure(ErrorKind::TooFewShards) }]);
}

#[test]
fn a_piece_without_a_key_is_refused_where_the_tenant_s_data_are_encrypted() {
    let mut bench = Bench::new(ObjectSpec { keys: BTreeMap::from([(TENANT, Encryption::Key(KeyId(2)))]), ..spec() });
    bench.know_the_bucket();
    let piece = Piece { extent: Arc::new(extent(WriteId(50), 5)), stripe: 0, start: 0, len: 5 };
    let (_, effects) = bench.ask(ObjectOp::Read { bucket: "photos".into(), key: "cat".into(), piece });
    assert_eq!(refused(&effects), ErrorKind::Denied);
}

#[test]
fn a_piece_without_a_key_is_refused_while_nobody_says_how_the_tenant_s_data_are_stored() {
    let mut bench = Bench::new(ObjectSpec { keys: BTreeMap::new(), ..spec() });
    bench.know_the_bucket();
    let piece = Piece { extent: Arc::new(extent(WriteId(50), 5)), stripe: 0, start: 0, len: 5 };
    let (_, effects) = bench.ask(ObjectOp::Read { bucket: "photos".into(), key: "cat".into(), piece });
    assert_eq!(refused(&effects), ErrorKind::Unreachable);
}

#[test]
fn lists_clamp_their_limit() {
    let mut bench = Bench::new(spec());
    bench.know_the_bucket();
    let (id, effects) = bench.ask(ObjectOp::List {
        bucket: "photos".into(),
        prefix: "a/".into(),
        delimiter: Some("/".into()),
        after: "a/b".into(),
        limit: 5000,
    });
    let query = Query::List {
        bucket: bucket(),
        prefix: "a/".into(),
        delimiter: Some("/".into()),
        after: "a/b".into(),
        limit: LIST_KEYS_MAX as u32,
    };
    assert_eq!(effects, [next(bench.last(), bench.query(GROUP, query))]);
    let listing = Arc::new(Listing::default());
    let call = bench.last();
    let effects = bench.reply(call, meta(MetaAnswer::Listing(listing.clone())));
    assert_eq!(effects, [replied(id, Answer::Listing(listing))]);
}

/// A read whose stripe is lost, and the question that it asks then.
fn lost(bench: &mut Bench) -> (Token, Token) {
    bench.know_the_bucket();
    let piece = Piece { extent: Arc::new(extent(WriteId(50), 5)), stripe: 0, start: 0, len: 5 };
    let (id, effects) = bench.ask(ObjectOp::Read { bucket: "photos".into(), key: "cat".into(), piece });
    let (call, _) = stripe_op(&effects);
    let effects = bench.reply(call, failure(ErrorKind::Lost));
    let query = bench.query(GROUP, Query::Object { bucket: bucket(), key: "cat".into() });
    assert_eq!(effects, [next(bench.last(), query)]);
    (id, bench.last())
}

#[test]
fn data_are_lost_if_the_manifest_still_refers_to_them() {
    let mut bench = Bench::new(spec());
    let (id, call) = lost(&mut bench);
    let row = object(5, Body::Whole(extent(WriteId(50), 5)));
    let effects = bench.reply(call, meta(MetaAnswer::Object(row)));
    assert_eq!(effects, [Effect::Reply { id, outcome: failure(ErrorKind::Lost) }]);
}

#[test]
fn what_was_moved_meanwhile_is_read_where_it_is_now() {
    let mut bench = Bench::new(spec());
    let (id, call) = lost(&mut bench);
    let mut now = extent(WriteId(50), 5);
    now.settle(LayoutId(now.layout.0 + 1));
    let row = object(5, Body::Whole(now.clone()));
    let effects = bench.reply(call, meta(MetaAnswer::Object(row.clone())));
    let (call, op) = stripe_op(&effects);
    let StripeOp::Read { target, .. } = op else { panic!("{op:?}") };
    assert_eq!(target.layout, now.layout);
    // And if it is not there either, it is lost.
    bench.reply(call, failure(ErrorKind::Lost));
    let call = bench.last();
    let effects = bench.reply(call, meta(MetaAnswer::Object(row)));
    assert_eq!(effects, [Effect::Reply { id, outcome: failure(ErrorKind::Lost) }]);
}

#[test]
fn what_is_compressed_is_read_by_who_does_not_know_that() {
    let mut bench = Bench::new(spec());
    bench.know_the_bucket();
    let piece = Piece { extent: Arc::new(extent(WriteId(50), 5)), stripe: 0, start: 1, len: 3 };
    let (id, effects) = bench.ask(ObjectOp::Read { bucket: "photos".into(), key: "cat".into(), piece });
    let (call, _) = stripe_op(&effects);
    // As it is stored.
    let stored = |bytes: &[u8]| Ok(Response { answer: Answer::Done, payload: Buf::copy_of(bytes) });
    let effects = bench.reply(call, stored(b"\x50horse\0\0\0\x05MSP1"));
    let query = bench.query(GROUP, Query::Object { bucket: bucket(), key: "cat".into() });
    assert_eq!(effects, [next(bench.last(), query)]);
    let now = Extent { compression: Compression::Auto, ..extent(WriteId(50), 5) };
    let row = object(5, Body::Whole(now));
    let call = bench.last();
    let effects = bench.reply(call, meta(MetaAnswer::Object(row.clone())));
    let (call, op) = stripe_op(&effects);
    let StripeOp::Read { target, .. } = op else { panic!("{op:?}") };
    assert_eq!(target.compression, Compression::Auto);
    let effects = bench.reply(call, stored(b"horse"));
    assert_eq!(effects, [Effect::Reply { id, outcome: stored(b"ors") }]);

    // What is of another length all the same is damaged.
    let piece = Piece { extent: Arc::new(extent(WriteId(50), 5)), stripe: 0, start: 1, len: 3 };
    let (_, effects) = bench.ask(ObjectOp::Read { bucket: "photos".into(), key: "cat".into(), piece });
    let (call, _) = stripe_op(&effects);
    bench.reply(call, stored(b"a horse"));
    let call = bench.last();
    let effects = bench.reply(call, meta(MetaAnswer::Object(object(5, Body::Whole(extent(WriteId(50), 5))))));
    assert_eq!(refused(&effects), ErrorKind::Corrupt);
}

#[test]
fn a_reader_that_was_overtaken_has_lost_nothing() {
    let mut bench = Bench::new(spec());
    let (id, call) = lost(&mut bench);
    let effects = bench.reply(call, failure(ErrorKind::NotFound));
    assert_eq!(effects, [Effect::Reply { id, outcome: failure(ErrorKind::NotFound) }]);

    let mut bench = Bench::new(spec());
    let (_, call) = lost(&mut bench);
    let effects = bench.reply(call, meta(MetaAnswer::Object(object(5, Body::Whole(extent(WriteId(51), 5))))));
    assert_eq!(refused(&effects), ErrorKind::Conflict);
}

#[test]
fn the_parts_of_an_object_are_looked_through_to_their_end() {
    let part = |write: u64, offset: u64| {
        let extent = extent(WriteId(write), 5);
        Arc::new(PartRow {
            number: 1,
            etag: "e".into(),
            modified: UnixMillis(1),
            checksums: BTreeMap::new(),
            offset,
            extent,
        })
    };
    for (last, kind) in [(50, ErrorKind::Lost), (49, ErrorKind::Conflict)] {
        let mut bench = Bench::new(spec());
        let (_, call) = lost(&mut bench);
        let row = object(10, Body::Parts { upload: WriteId(7), count: 2 });
        bench.reply(call, meta(MetaAnswer::Object(row)));
        let extents =
            |offset| Query::Extents { bucket: bucket(), upload: WriteId(7), offset, limit: LIST_KEYS_MAX as u32 };
        let call = bench.last();
        let effects = bench.reply(call, meta(MetaAnswer::Parts(vec![part(48, 0)], true)));
        assert_eq!(effects, [next(bench.last(), bench.query(GROUP, extents(5)))]);
        let call = bench.last();
        let effects = bench.reply(call, meta(MetaAnswer::Parts(vec![part(last, 5)], false)));
        assert_eq!(refused(&effects), kind);
    }
}

#[test]
fn what_the_node_lacks_is_not_an_object_that_is_not_there() {
    let mut bench = Bench::new(spec());
    bench.know_the_bucket();
    let piece = Piece { extent: Arc::new(extent(WriteId(50), 5)), stripe: 0, start: 0, len: 5 };
    let (_, effects) = bench.ask(ObjectOp::Read { bucket: "photos".into(), key: "cat".into(), piece });
    let (call, _) = stripe_op(&effects);
    let effects = bench.reply(call, failure(ErrorKind::NotFound));
    assert_eq!(refused(&effects), ErrorKind::Unreachable);
}

#[test]
fn what_is_in_another_code_is_read_by_who_does_not_know_that() {
    let code = Code { data: 1, parity: 2 };
    let mut bench = Bench::new(spec());
    bench.know_the_bucket();
    let piece = Piece { extent: Arc::new(extent(WriteId(50), 5)), stripe: 0, start: 1, len: 3 };
    let (id, effects) = bench.ask(ObjectOp::Read { bucket: "photos".into(), key: "cat".into(), piece });
    let (call, _) = stripe_op(&effects);
    // Where it was looked for it is not.
    let effects = bench.reply(call, failure(ErrorKind::Lost));
    let query = bench.query(GROUP, Query::Object { bucket: bucket(), key: "cat".into() });
    assert_eq!(effects, [next(bench.last(), query)]);
    let now = Extent { code: Some(code), ..extent(WriteId(50), 5) };
    let call = bench.last();
    let effects = bench.reply(call, meta(MetaAnswer::Object(object(5, Body::Whole(now)))));
    let (call, op) = stripe_op(&effects);
    let StripeOp::Read { target, .. } = op else { panic!("{op:?}") };
    assert_eq!(target, StripeTarget { code: Some(code), ..crate::object::tests::target(WriteId(50), 0, 0) });
    let stored = |bytes: &[u8]| Ok(Response { answer: Answer::Done, payload: Buf::copy_of(bytes) });
    assert_eq!(bench.reply(call, stored(b"horse")), [Effect::Reply { id, outcome: stored(b"ors") }]);
}
