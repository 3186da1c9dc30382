//! What the codec refuses, and why. Golden bytes, round trips and random bytes: `tests/formats`.

use super::*;
use crate::{limits::PARITY_SHARDS_MAX, op::ObjectOp};

/// A preamble with true checksum.
fn preamble(magic: [u8; 4], version: u16, header_len: u32, payload_len: u32) -> [u8; PREAMBLE_BYTES] {
    let mut bytes = [0; PREAMBLE_BYTES];
    bytes[..4].copy_from_slice(&magic);
    bytes[4..6].copy_from_slice(&version.to_le_bytes());
    bytes[8..12].copy_from_slice(&header_len.to_le_bytes());
    bytes[16..20].copy_from_slice(&payload_len.to_le_bytes());
    let crc = crc32c(&bytes[..20]);
    bytes[20..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Decodes a header under true checksums.
fn decode(header: &proto::Header, payload: &[u8]) -> Result<Envelope, Error> {
    let header = header.encode_to_vec();
    let preamble = Preamble { header_len: header.len(), header_crc: crc32c(&header), payload_len: payload.len() };
    Envelope::decode(preamble, &header, Buf::copy_of(payload))
}

fn header(body: proto::header::Body) -> proto::Header {
    proto::Header { body: Some(body), ..Default::default() }
}

fn refusal(header: &proto::Header) -> String {
    let error = decode(header, b"").expect_err("this is refused");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    error.message().to_owned()
}

fn asked(op: impl Into<Op>) -> Envelope {
    let budget = core::time::Duration::from_secs(1);
    Envelope::request(ActorId(1), Epoch(1), op.into(), Buf::empty(), Principal::System, Lane::Bulk, budget)
}

#[test]
fn a_preamble_up_to_the_limits_is_read() {
    let bytes = preamble(MAGIC, VERSION, HEADER_BYTES_MAX as u32, PAYLOAD_BYTES_MAX as u32);
    let expected = Preamble { header_len: HEADER_BYTES_MAX, header_crc: 0, payload_len: PAYLOAD_BYTES_MAX };
    assert_eq!(Preamble::decode(&bytes), Ok(expected));
}

#[test]
fn refuses_another_magic() {
    let error = Preamble::decode(&preamble(*b"HTTP", VERSION, 0, 0)).expect_err("HTTP");
    assert_eq!((error.kind(), error.message()), (ErrorKind::Invalid, "this is not a mesh frame"));
}

#[test]
fn refuses_another_version_and_says_which() {
    let error = Preamble::decode(&preamble(MAGIC, 9, 0, 0)).expect_err("version 9");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(
        error.to_string(),
        "a frame of another wire version; run builds of one wire version on every node [version=9 supported=4]"
    );
}

#[test]
fn refuses_a_preamble_with_any_changed_bit() {
    let whole = preamble(MAGIC, VERSION, 100, 200);
    for at in 0..PREAMBLE_BYTES * 8 {
        let mut bent = whole;
        bent[at / 8] ^= 1 << (at % 8);
        let error = Preamble::decode(&bent).expect_err("a changed bit");
        assert_eq!(error.kind(), ErrorKind::Invalid, "bit {at}");
    }
}

#[test]
fn refuses_lengths_over_the_limits() {
    let over = [(HEADER_BYTES_MAX as u32 + 1, 0), (0, PAYLOAD_BYTES_MAX as u32 + 1), (u32::MAX, u32::MAX)];
    for (header_len, payload_len) in over {
        let error = Preamble::decode(&preamble(MAGIC, VERSION, header_len, payload_len)).expect_err("over");
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert_eq!(error.to_string(), format!("a frame over the limit [header={header_len} payload={payload_len}]"));
    }
}

#[test]
fn refuses_to_encode_over_the_limits() {
    let mut large = asked(ShardOp::Stat);
    large.payload = Buf::zeroed(PAYLOAD_BYTES_MAX);
    assert!(large.encode_head().is_ok());
    large.payload = Buf::zeroed(PAYLOAD_BYTES_MAX + 1);
    assert_eq!(large.encode_head().expect_err("a byte over").kind(), ErrorKind::TooLarge);

    let mut long = asked(ShardOp::Stat);
    long.header.trace = vec![0; HEADER_BYTES_MAX];
    assert_eq!(long.encode_head().expect_err("a header over").kind(), ErrorKind::TooLarge);
    let bucket = "b".repeat(crate::limits::COMMAND_BYTES_MAX).into();
    let value = asked(ObjectOp::CreateBucket { bucket });
    assert_eq!(value.encode_head().expect_err("a value over").kind(), ErrorKind::TooLarge);
}

#[test]
fn refuses_what_does_not_fit_its_preamble() {
    let header = header(proto::header::Body::DriveStat(proto::Done {})).encode_to_vec();
    let preamble = Preamble { header_len: header.len(), header_crc: crc32c(&header), payload_len: 0 };
    assert!(Envelope::decode(preamble, &header, Buf::empty()).is_ok());
    let refused = [
        (Preamble { header_len: header.len() + 1, ..preamble }, "a frame of another length than its preamble says"),
        (Preamble { payload_len: 1, ..preamble }, "a frame of another length than its preamble says"),
        (Preamble { header_crc: !preamble.header_crc, ..preamble }, "a frame's header fails its checksum"),
    ];
    for (preamble, why) in refused {
        let error = Envelope::decode(preamble, &header, Buf::empty()).expect_err(why);
        assert_eq!((error.kind(), error.message()), (ErrorKind::Invalid, why));
    }
    assert_eq!(Envelope::decode_whole(b"MESH").expect_err("4 bytes").message(), "a frame without its preamble");
}

#[test]
fn refuses_a_payload_that_fails_its_checksum_unless_it_is_elsewhere() {
    let mut header = header(proto::header::Body::Done(proto::Done {}));
    header.payload_crc = crc32c(b"payload");
    assert!(decode(&header, b"payload").is_ok());
    let error = decode(&header, b"pAyload").expect_err("a changed byte");
    assert_eq!(error.message(), "a frame's payload fails its checksum");
    // The payload is still to be fetched, and is checked then.
    header.region = Some(proto::Region { address: 1, rkey: 2, length: 7 });
    assert!(decode(&header, b"").is_ok());
}

#[test]
fn refuses_a_shard_whose_checksum_is_not_its_payloads() {
    let shard = |crc| proto::Shard { data: 2, parity: 1, sealed_len: 7, crc, tenant: 5 };
    let write = |crc| proto::ShardWrite {
        id: Some(shard_id(StripeId { write: WriteId(1), stripe: 2, attempt: 3 }.shard(4))),
        tenant: 5,
        data: 2,
        parity: 1,
        sealed_len: 7,
        crc,
    };
    let payload_crc = crc32c(b"payload");
    for (crc, good) in [(payload_crc, true), (!payload_crc, false)] {
        for body in [proto::header::Body::Shard(shard(crc)), proto::header::Body::ShardWrite(write(crc))] {
            let header = proto::Header { payload_crc, ..header(body) };
            assert_eq!(decode(&header, b"payload").is_ok(), good, "{header:?}");
        }
    }
}

#[test]
fn refuses_numbers_out_of_range() {
    use proto::header::Body as B;
    let hello = proto::Hello { cluster: vec![0; 16].into(), ..Default::default() };
    let id = || Some(proto::ShardId { stripe: Some(proto::StripeId::default()), shard: 0 });
    let stripe = |attempt| Some(proto::StripeId { write: 1, stripe: 2, attempt });
    let shard = |data, parity| proto::Shard { data, parity, ..Default::default() };
    let query = |value: &[u8]| proto::Metadata { group: 1, value: value.to_vec().into() };
    assert!(decode(&header(B::Hello(hello.clone())), b"").is_ok());
    assert!(decode(&header(B::Shard(shard(16, 8))), b"").is_ok());
    let refused = [
        (B::Hello(proto::Hello { version_min: 65_536, ..hello.clone() }), "a version over 65,535"),
        (B::Hello(proto::Hello { version_max: u32::MAX, ..hello.clone() }), "a version over 65,535"),
        (B::Hello(proto::Hello { cluster: vec![0; 15].into(), ..hello }), "a cluster id of a wrong length"),
        (B::Welcome(proto::Welcome { version: 65_536, ..Default::default() }), "a version over 65,535"),
        (B::Shard(shard(0, 1)), "a code over the limits"),
        (B::Shard(shard(17, 0)), "a code over the limits"),
        (B::Shard(shard(1, PARITY_SHARDS_MAX as u32 + 1)), "a code over the limits"),
        (B::Shard(shard(256, 0)), "a number over 255"),
        (B::ShardWrite(proto::ShardWrite { id: id(), ..Default::default() }), "a code over the limits"),
        (B::ShardRead(proto::ShardId { stripe: None, shard: 1 }), "no stripe is named"),
        (B::ShardRead(proto::ShardId { stripe: stripe(256), shard: 1 }), "a number over 255"),
        (B::ShardRead(proto::ShardId { stripe: stripe(1), shard: 256 }), "a number over 255"),
        (B::ShardWrite(proto::ShardWrite { data: 1, ..Default::default() }), "no shard is named"),
        (B::StripeRead(proto::StripeOp::default()), "no stripe is named"),
        (B::StripeWrite(proto::StripeOp { id: stripe(1), ..Default::default() }), "an empty metadata value"),
        (
            B::ShardDelete(proto::ShardIds { ids: vec![id().unwrap_or_default(); SHARD_BATCH_MAX + 1], until: None }),
            "too many shards in one request",
        ),
        (
            B::Shards(proto::Shards { ids: vec![id().unwrap_or_default()], lengths: vec![], more: false, head: None }),
            "a list of shards of a wrong length",
        ),
        (B::Query(query(b"")), "an empty metadata value"),
        (B::Query(query(b"\x01\x02")), "a metadata value of another format; run builds of one format on every node"),
        (B::Query(query(b"\x03\x02\x00")), "bytes behind a metadata value"),
        (B::Query(query(b"\x03\x00\x05")), "a metadata value is damaged"),
        (B::Propose(b"\x03"[..].into()), "a metadata value is damaged"),
    ];
    for (body, why) in refused {
        assert_eq!(refusal(&header(body)), why);
    }
}

#[test]
fn what_is_whole_and_not_known_here_is_unread_and_keeps_its_number() {
    use proto::header::Body as B;
    let stat = || header(B::DriveStat(proto::Done {}));
    let principal = Some(proto::Principal { kind: 4, ..Default::default() });
    let value = |bytes: &'static [u8]| bytes::Bytes::from_static(bytes);
    let newer =
        "a newer build sends something that this one does not know; upgrade this node, or ask for something else";
    let within =
        "a newer build says something that this one does not know; upgrade this node, or ask for something else";
    let cases = [
        (proto::Header::default(), newer, "[what=an operation or an answer]"),
        (proto::Header { lane: 3, ..stat() }, newer, "[what=a lane lane=3]"),
        (proto::Header { principal, ..stat() }, newer, "[what=a kind of principal kind=4]"),
        (header(B::Object(value(b"\x03\x7f"))), within, "[of=ObjectOp variant=127]"),
        (header(B::Propose(value(b"\x03\x02\xff\x01"))), within, "[of=MeshCommand variant=255]"),
        (header(B::Meta(value(b"\x03\x7e\x01\x02"))), within, "[of=MetaAnswer variant=126]"),
        (header(B::Admin(value(b"\x03\x40"))), within, "[of=AdminOp variant=64]"),
    ];
    for (header, message, context) in cases {
        let header = proto::Header { id: 7, actor: 8, epoch: 9, budget_us: 10, payload_crc: crc32c(b"p"), ..header };
        let envelope = decode(&header, b"p").expect("the frame is whole");
        assert_eq!(envelope.payload, Buf::copy_of(b"p"));
        let Header { id, actor, epoch, budget_us, body, principal, .. } = envelope.header;
        assert_eq!((id, actor, epoch, budget_us), (7, ActorId(8), Epoch(9), 10));
        assert_eq!(principal, Principal::Anonymous, "nobody is believed who cannot be read");
        let Body::Unread(error) = body else { panic!("{body:?}") };
        assert_eq!((error.kind(), error.to_string()), (ErrorKind::Unsupported, format!("{message} {context}")));
    }
}

#[test]
fn an_answer_that_cannot_be_read_may_have_been_done() {
    let unread = proto::Header { id: 7, ..proto::Header::default() };
    let error = decode(&unread, b"").unwrap().into_outcome().expect("an answer").expect_err("not a good one");
    assert_eq!((error.kind(), error.certainty()), (ErrorKind::Unread, crate::error::Certainty::MaybeProcessed));
    assert!(error.to_string().ends_with("[what=an operation or an answer]"), "{error}");
    // A failure of a kind that is not known is one of its class.
    let failure = proto::Failure { kind: 299, message: "no".into(), ..Default::default() };
    let answer = decode(&header(proto::header::Body::Failure(failure)), b"").unwrap();
    assert_eq!(answer.into_outcome().unwrap().unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(asked(ShardOp::Stat).into_outcome().unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn refuses_a_header_that_is_none() {
    let garbage = b"\xff\xff\xff\xff";
    let preamble = Preamble { header_len: 4, header_crc: crc32c(garbage), payload_len: 0 };
    let error = Envelope::decode(preamble, garbage, Buf::empty()).expect_err("garbage");
    assert_eq!(error.message(), "a frame's header is no protobuf of ours");
}

#[test]
fn a_field_of_a_later_version_is_passed_over() {
    let mut header = header(proto::header::Body::DriveStat(proto::Done {})).encode_to_vec();
    // Field 15, a varint: no version has it yet.
    header.extend_from_slice(&[15 << 3, 7]);
    let preamble = Preamble { header_len: header.len(), header_crc: crc32c(&header), payload_len: 0 };
    let envelope = Envelope::decode(preamble, &header, Buf::empty()).expect("an unknown field");
    assert_eq!(envelope.header.body, Body::Request(ShardOp::Stat.into()));
}

#[test]
fn flags_of_a_later_version_are_passed_over() {
    let mut bytes = preamble(MAGIC, VERSION, 1, 2);
    bytes[6..8].copy_from_slice(&[0xff, 0xff]);
    let crc = crc32c(&bytes[..20]);
    bytes[20..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(Preamble::decode(&bytes), Ok(Preamble { header_len: 1, header_crc: 0, payload_len: 2 }));
}
