//! Multipart uploads.

use mesh_core::{
    limits::PART_BYTES_MIN,
    meta::{Body, ObjectRow, PartRow, UploadRow},
};

use super::*;

const UPLOAD: WriteId = WriteId(100);
// MD5 of "a" and "b", and of the two digests one after the other.
const A: &str = "0cc175b9c0f1b6a831c399e269772661";
const B: &str = "92eb5ffee6ae2fec3ad71c777531578f";
const AB: &str = "96e024ba2074fe77e8e965ba43a704be-2";

fn upload(key: &str) -> Arc<UploadRow> {
    Arc::new(UploadRow {
        upload: UPLOAD,
        key: key.into(),
        attributes: Attributes::default(),
        created: WALL,
        principal: "ann".into(),
    })
}

fn part(number: u32, etag: &str, len: u64) -> Arc<PartRow> {
    let (checksums, extent) = (BTreeMap::new(), extent(WriteId(u64::from(number)), len));
    Arc::new(PartRow { number, offset: 0, etag: etag.into(), checksums, modified: WALL, extent })
}

fn complete(parts: &[(u32, &str)]) -> ObjectOp {
    ObjectOp::CompleteUpload {
        bucket: "photos".into(),
        key: "cat".into(),
        upload: UPLOAD,
        parts: parts.iter().map(|(number, etag)| (*number, (*etag).to_owned())).collect(),
        checksums: BTreeMap::new(),
        precondition: Precondition::default(),
    }
}

/// A complete whose upload is found; gives the effects after that.
fn found(bench: &mut Bench, parts: &[(u32, &str)]) -> (Token, Vec<Effect>) {
    bench.know_the_bucket();
    let (id, effects) = bench.ask(complete(parts));
    let query = Query::Upload { bucket: bucket(), upload: UPLOAD };
    assert_eq!(effects, [next(bench.last(), bench.query(GROUP, query))]);
    let call = bench.last();
    (id, bench.reply(call, meta(MetaAnswer::Upload(upload("cat")))))
}

#[test]
fn an_upload_is_named_by_a_write_id_and_its_parts_are_bound_to_its_key() {
    let mut bench = Bench::new(spec());
    bench.know_the_bucket();
    let op = ObjectOp::CreateUpload { bucket: "photos".into(), key: "cat".into(), attributes: Attributes::default() };
    let (id, effects) = bench.ask(op);
    let work = only_work(&effects);
    let block = Arc::new(MetaAnswer::Block { first: UPLOAD, count: 4096 });
    let effects = bench.event(Event::Done { work, outcome: Ok(WorkOutput::Meta(block)) });
    let create = Command::Object(bucket(), ObjectCommand::CreateUpload { proposer: proposer(1), row: upload("cat") });
    assert_eq!(effects, [next(bench.last(), bench.proposal(create))]);
    let call = bench.last();
    let effects = bench.reply(call, meta(MetaAnswer::Done));
    assert_eq!(effects, [replied(id, Answer::Upload(upload("cat")))]);

    for (key, good) in [("cat", true), ("dog", false)] {
        let destination = Destination::Part { upload: UPLOAD, number: 1 };
        let (id, effects) = bench.ask(ObjectOp::Begin { bucket: "photos".into(), key: "cat".into(), destination });
        let effects = bench.reply(only_call(&effects), meta(MetaAnswer::Upload(upload(key))));
        if good {
            assert_eq!(effects, [replied(id, Answer::Begun { write: WriteId(101), stripe_bytes: STRIPE })]);
        } else {
            assert_eq!(refused(&effects), ErrorKind::NoSuchUpload);
        }
    }
    bench.store(WriteId(101), 0, 5, vec![], false);
    let (id, effects) = bench.finish(WriteId(101), 5);
    let row = PartRow {
        number: 1,
        offset: 0,
        etag: "e1".into(),
        checksums: BTreeMap::new(),
        modified: WALL,
        extent: extent(WriteId(101), 5),
    };
    let put = Command::Object(
        bucket(),
        ObjectCommand::PutPart { proposer: proposer(2), upload: UPLOAD, part: Arc::new(row), quota_bytes: None },
    );
    assert_eq!(effects, [next(bench.last(), bench.proposal(put))]);
    let call = bench.last();
    let effects = bench.reply(call, meta(MetaAnswer::Done));
    assert_eq!(effects, [replied(id, Answer::Committed { version: WriteId(101), etag: "e1".into() })]);
}

#[test]
fn completing_checks_the_parts_page_by_page_and_hashes_their_hashes() {
    let mut bench = Bench::new(spec());
    let quoted = format!("\"{A}\"");
    let (id, effects) = found(&mut bench, &[(2, &quoted), (9, B)]);
    let page = |after| Query::Parts { bucket: bucket(), upload: UPLOAD, after, limit: 256 };
    assert_eq!(effects, [next(bench.last(), bench.query(GROUP, page(1)))]);
    let rows = vec![part(2, A, PART_BYTES_MIN), part(3, "other", 1)];
    let call = bench.last();
    let effects = bench.reply(call, meta(MetaAnswer::Parts(rows, true)));
    assert_eq!(effects, [next(bench.last(), bench.query(GROUP, page(8)))]);
    let call = bench.last();
    let effects = bench.reply(call, meta(MetaAnswer::Parts(vec![part(9, B, 1)], false)));
    let command = Command::Object(
        bucket(),
        ObjectCommand::CompleteUpload {
            proposer: proposer(0),
            key: "cat".into(),
            upload: UPLOAD,
            parts: vec![(2, A.into()), (9, B.into())],
            etag: AB.into(),
            checksums: BTreeMap::new(),
            at: WALL,
            precondition: Precondition::default(),
        },
    );
    assert_eq!(effects, [next(bench.last(), bench.proposal(command))]);
    let call = bench.last();
    let effects = bench.reply(call, meta(MetaAnswer::Committed { version: UPLOAD, etag: AB.into() }));
    assert_eq!(effects, [replied(id, Answer::Committed { version: UPLOAD, etag: AB.into() })]);
}

#[test]
fn completing_refuses_parts_that_are_missing_different_small_or_out_of_order() {
    let table: [(&[(u32, &str)], ErrorKind); 5] = [
        (&[(2, A), (1, B)], ErrorKind::InvalidPartOrder),
        (&[(1, A), (1, A)], ErrorKind::InvalidPartOrder),
        (&[], ErrorKind::Invalid),
        (&[(0, A)], ErrorKind::InvalidPart),
        (&[(10_001, A)], ErrorKind::InvalidPart),
    ];
    for (parts, kind) in table {
        assert_eq!(refused(&Bench::new(spec()).ask(complete(parts)).1), kind, "{parts:?}");
    }
    let table = [
        (vec![part(1, A, PART_BYTES_MIN)], ErrorKind::InvalidPart),
        (vec![part(1, A, PART_BYTES_MIN), part(3, B, 1)], ErrorKind::InvalidPart),
        (vec![part(1, B, PART_BYTES_MIN), part(2, B, 1)], ErrorKind::InvalidPart),
        (vec![part(1, A, PART_BYTES_MIN - 1), part(2, B, 1)], ErrorKind::PartTooSmall),
        (vec![], ErrorKind::InvalidPart),
    ];
    for (rows, kind) in table {
        let mut bench = Bench::new(spec());
        let (_, effects) = found(&mut bench, &[(1, A), (2, B)]);
        let effects = bench.reply(only_call(&effects), meta(MetaAnswer::Parts(rows, false)));
        assert_eq!(refused(&effects), kind);
    }
}

#[test]
fn completing_again_finds_the_object_that_the_upload_became() {
    for (version, good) in [(UPLOAD, true), (WriteId(5), false)] {
        let mut bench = Bench::new(spec());
        bench.know_the_bucket();
        let (id, effects) = bench.ask(complete(&[(1, A)]));
        let effects = bench.reply(only_call(&effects), failure(ErrorKind::NoSuchUpload));
        let query = Query::Object { bucket: bucket(), key: "cat".into() };
        assert_eq!(effects, [next(bench.last(), bench.query(GROUP, query))]);
        let row = ObjectRow {
            version,
            len: 5,
            etag: AB.into(),
            modified: WALL,
            attributes: Attributes::default(),
            body: Body::Parts { upload: version, count: 1 },
        };
        let call = bench.last();
        let effects = bench.reply(call, meta(MetaAnswer::Object(Arc::new(row))));
        if good {
            assert_eq!(effects, [replied(id, Answer::Committed { version, etag: AB.into() })]);
        } else {
            assert_eq!(refused(&effects), ErrorKind::NoSuchUpload);
        }
    }
}

#[test]
fn what_a_group_says_to_an_abort_is_so_whichever_sending_it_came_to() {
    for first in [ErrorKind::LinkLost, ErrorKind::NotLeader] {
        let mut bench = Bench::new(spec());
        bench.know_the_bucket();
        let (_, effects) = bench.ask(ObjectOp::AbortUpload { bucket: "photos".into(), upload: UPLOAD });
        let abort =
            Command::Object(bucket(), ObjectCommand::AbortUpload { proposer: proposer(0), upload: UPLOAD, at: WALL });
        assert_eq!(effects, [next(bench.last(), bench.proposal(abort))]);
        let call = bench.last();
        let mut effects = bench.reply(call, failure(first));
        if effects.is_empty() {
            effects = bench.wake(bench.now + Duration::from_millis(10));
        }
        let effects = bench.reply(only_call(&effects), failure(ErrorKind::NoSuchUpload));
        assert_eq!(refused(&effects), ErrorKind::NoSuchUpload);
    }
}
