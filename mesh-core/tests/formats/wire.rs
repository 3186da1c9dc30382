//! The wire: golden bytes of every message, round trips, and a decoder that bears anything.

use std::sync::Arc;

use mesh_core::{
    Answer, Buf, Error, ErrorKind, Lane, Op, Principal, Redirect,
    envelope::{Body, Envelope, Header, Region},
    id::{
        ActorId, BucketId, DriveId, Epoch, GroupId, Incarnation, LayoutId, NodeId, ShardId, StripeId, TenantId, WriteId,
    },
    meta::Compression,
    op::{Binding, Head, NodeOp, Part, Reliance, ShardOp, StripeOp, StripeTarget},
    topology::Code,
    wire::{PREAMBLE_BYTES, crc32c},
};
use proptest::{prelude::*, sample::Index};

use crate::{commands, golden, samples};

/// A frame around any header, with true lengths and checksums: written from the drawing in `wire.rs`, not with its
/// code.
pub(crate) fn frame(header: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut frame = b"MESH\x04\0\0\0".to_vec();
    frame.extend_from_slice(&u32::try_from(header.len()).expect("small").to_le_bytes());
    frame.extend_from_slice(&crc32c(header).to_le_bytes());
    frame.extend_from_slice(&u32::try_from(payload.len()).expect("small").to_le_bytes());
    let crc = crc32c(&frame);
    frame.extend_from_slice(&crc.to_le_bytes());
    frame.extend_from_slice(header);
    frame.extend_from_slice(payload);
    frame
}

/// The header's bytes of a frame without payload.
fn header_of(frame: &[u8]) -> &[u8] {
    &frame[PREAMBLE_BYTES..]
}

/// Decodes; what decodes must encode again, and to the same message, unless it says what is not known here.
pub(crate) fn bear(frame: &[u8]) -> Result<Envelope, Error> {
    let envelope = Envelope::decode_whole(frame)?;
    if let Body::Unread(error) = &envelope.header.body {
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        return Ok(envelope);
    }
    let again = envelope.encode().expect("what was decoded can be encoded");
    let back = Envelope::decode_whole(&again).expect("what was encoded can be decoded");
    assert_eq!(back, envelope);
    Ok(envelope)
}

#[test]
fn every_message_has_its_golden_bytes() {
    let envelopes = samples::envelopes();
    let encode = |(name, envelope): &(String, Envelope)| (name.clone(), envelope.encode().expect("a sample is small"));
    let encoded: Vec<_> = envelopes.iter().map(encode).collect();
    for (kind, variants) in [
        ("object", samples::OBJECT_OPS),
        ("stripe", samples::STRIPE_OPS),
        ("shard", samples::SHARD_OPS),
        ("node", samples::NODE_OPS),
        ("answer", samples::ANSWERS),
    ] {
        golden::cover(kind, variants, &encoded);
    }
    let golden =
        golden::check("wire-v4.txt", "Frames of wire version 4: name, preamble, header and payload.", &encoded);
    for (name, envelope) in envelopes {
        assert_eq!(Envelope::decode_whole(&golden[&name]).expect("golden bytes decode"), envelope, "{name}");
    }
}

#[test]
fn every_body_of_the_schema_has_a_sample() {
    let schema = include_str!("../../proto/mesh.proto");
    let bodies = schema.split_once("oneof body {").expect("the header has a body").1;
    let bodies = bodies.split_once("\n  }").expect("the list ends").0;
    let numbers = bodies.lines().filter_map(|line| line.split_once(';')?.0.rsplit_once("= ")?.1.parse::<u32>().ok());
    let wanted: Vec<u32> = numbers.collect();
    assert!(wanted.len() > 20, "{wanted:?}");

    let mut seen: Vec<u32> = Vec::new();
    for (name, envelope) in samples::envelopes() {
        let head = envelope.encode_head().expect("a sample is small");
        // The body is the last field of a header: its tag is found from the front.
        seen.push(last_field(header_of(&head)).unwrap_or_else(|| panic!("{name} has no body")));
    }
    for number in wanted {
        assert!(seen.contains(&number), "body {number} of mesh.proto has no sample");
    }
}

/// The number of the last field of a protobuf message.
fn last_field(mut bytes: &[u8]) -> Option<u32> {
    fn varint(bytes: &mut &[u8]) -> Option<u64> {
        let len = bytes.iter().position(|byte| byte & 0x80 == 0)? + 1;
        let (number, rest) = bytes.split_at(len);
        *bytes = rest;
        Some(number.iter().rev().fold(0, |sum, byte| (sum << 7) | u64::from(byte & 0x7f)))
    }
    let mut last = None;
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let skip = match tag & 7 {
            0 => varint(&mut bytes).map(|_| 0)?,
            1 => 8,
            2 => usize::try_from(varint(&mut bytes)?).ok()?,
            5 => 4,
            _ => return None,
        };
        bytes = bytes.get(skip..)?;
        last = u32::try_from(tag >> 3).ok();
    }
    last
}

#[test]
fn a_frame_is_what_the_drawing_says() {
    for (name, envelope) in samples::envelopes() {
        let head = envelope.encode_head().expect("a sample is small");
        assert_eq!(envelope.encode().expect("small"), frame(header_of(&head), &envelope.payload), "{name}");
    }
}

#[test]
fn any_changed_bit_and_any_cut_is_noticed() {
    for (name, envelope) in samples::envelopes() {
        let whole = envelope.encode().expect("a sample is small");
        for cut in 0..whole.len() {
            assert!(Envelope::decode_whole(&whole[..cut]).is_err(), "{name} cut to {cut}");
        }
        assert!(Envelope::decode_whole(&[&whole[..], &[0]].concat()).is_err(), "{name} with a byte more");
        for at in 0..whole.len() {
            let mut bent = whole.clone();
            bent[at] ^= 1 << (at % 8);
            assert!(Envelope::decode_whole(&bent).is_err(), "{name} with another bit in byte {at}");
        }
    }
}

fn stripe_ids() -> impl Strategy<Value = StripeId> {
    (any::<u64>(), any::<u32>(), any::<u8>()).prop_map(|(write, stripe, attempt)| StripeId {
        write: WriteId(write),
        stripe,
        attempt,
    })
}

fn shard_ids() -> impl Strategy<Value = ShardId> {
    (stripe_ids(), any::<u8>()).prop_map(|(stripe, shard)| stripe.shard(shard))
}

fn reliances() -> impl Strategy<Value = Reliance> {
    (any::<u64>(), any::<u64>())
        .prop_map(|(group, layout)| Reliance { group: GroupId(group), layout: LayoutId(layout) })
}

fn drives() -> impl Strategy<Value = Vec<DriveId>> {
    proptest::collection::vec(any::<u64>().prop_map(DriveId), 0..20)
}

fn codes() -> impl Strategy<Value = Code> {
    (1_u8..=16, 0_u8..=8).prop_map(|(data, parity)| Code { data, parity })
}

fn targets() -> impl Strategy<Value = StripeTarget> {
    (stripe_ids(), any::<[u64; 3]>(), ".{0,20}", ".{0,200}").prop_map(|(id, [layout, tenant, bucket], name, object)| {
        let binding = Binding {
            tenant: TenantId(tenant),
            bucket: BucketId(bucket),
            bucket_name: name.into(),
            object: object.into(),
        };
        let compression = if layout % 2 == 0 { Compression::Off } else { Compression::Auto };
        let code = (layout % 3 == 0).then_some(Code { data: 1 + (tenant % 16) as u8, parity: (tenant % 9) as u8 });
        StripeTarget { id, layout: LayoutId(layout), binding: Arc::new(binding), key: None, compression, code }
    })
}

fn failures() -> impl Strategy<Value = Error> {
    let ids = proptest::array::uniform4(any::<Option<u64>>());
    (proptest::sample::select(ErrorKind::ALL), ".{0,100}", ids).prop_map(
        |(kind, message, [actor, epoch, node, group])| {
            let redirect = Redirect {
                actor: actor.map(ActorId),
                epoch: epoch.map(Epoch),
                node: node.map(NodeId),
                group: group.map(GroupId),
            };
            let error = Error::new(kind, message);
            if redirect == Redirect::default() { error } else { error.redirect_to(redirect) }
        },
    )
}

/// Bodies with random contents, for this payload.
fn bodies(payload: &[u8]) -> impl Strategy<Value = Body> + use<> {
    let crc = crc32c(payload);
    let request = |op: Op| Body::Request(op);
    let part = (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(start, len, of)| Part { start, len, of });
    let stripe =
        (targets(), drives(), 0..3, proptest::option::of(part)).prop_map(|(target, avoid, which, part)| match which {
            0 => StripeOp::Write(target),
            1 => StripeOp::Read { target, avoid, part },
            _ => StripeOp::Delete { target, avoid },
        });
    let shard = prop_oneof![
        (shard_ids(), any::<u64>(), codes(), any::<u32>()).prop_map(move |(id, tenant, code, sealed_len)| {
            ShardOp::Write { id, tenant: TenantId(tenant), code, sealed_len, crc }
        }),
        shard_ids().prop_map(|id| ShardOp::Read { id }),
        (proptest::collection::vec(shard_ids(), 0..30), proptest::option::of(heads()))
            .prop_map(|(ids, until)| ShardOp::Delete { ids, until }),
        (proptest::option::of(shard_ids()), any::<u32>(), proptest::option::of(reliances()))
            .prop_map(|(after, limit, relies)| ShardOp::List { after, limit, relies }),
    ];
    prop_oneof![
        stripe.prop_map(move |op| request(op.into())),
        shard.prop_map(move |op| request(op.into())),
        (any::<u64>(), any::<u32>(), any::<u64>()).prop_map(move |(group, rpc, start)| {
            let (group, start) = (GroupId(group), Incarnation(start));
            request(Op::Node(Box::new(NodeOp::Raft { group, rpc, start })))
        }),
        proptest::sample::select(commands::all()).prop_map(move |command| request(Op::Propose(Arc::new(command)))),
        failures().prop_map(Body::Failure),
        any::<u64>().prop_map(Body::Cancel),
        (drives(), any::<bool>()).prop_map(|(avoid, shared)| Body::Answer(Answer::Placed { avoid, shared })),
        (codes(), any::<u32>(), any::<u64>()).prop_map(move |(code, sealed_len, tenant)| Body::Answer(Answer::Shard {
            code,
            sealed_len,
            crc,
            tenant: TenantId(tenant)
        })),
        (proptest::collection::vec((shard_ids(), any::<u32>()), 0..30), any::<bool>(), heads())
            .prop_map(|(page, more, head)| Body::Answer(Answer::Shards { page, more, head })),
    ]
}

fn heads() -> impl Strategy<Value = Head> {
    any::<[u64; 3]>().prop_map(|[epoch, start, lsn]| Head { epoch: Epoch(epoch), start, lsn })
}

fn principals() -> impl Strategy<Value = Principal> {
    prop_oneof![
        Just(Principal::Anonymous),
        Just(Principal::System),
        (any::<u64>(), ".{0,20}")
            .prop_map(|(tenant, name)| Principal::User { tenant: TenantId(tenant), name: name.into() }),
        ".{0,20}".prop_map(|name| Principal::Admin { name: name.into() }),
    ]
}

fn envelopes() -> impl Strategy<Value = Envelope> {
    let lanes = proptest::sample::select(&[Lane::Control, Lane::Interactive, Lane::Bulk][..]);
    let regions = proptest::option::of(any::<(u64, u32, u64)>().prop_map(|(address, rkey, length)| Region {
        address,
        rkey,
        length,
    }));
    let numbers = any::<[u64; 4]>();
    let traces = proptest::collection::vec(any::<u8>(), 0..26);
    proptest::collection::vec(any::<u8>(), 0..300).prop_flat_map(move |payload| {
        let parts = (bodies(&payload), principals(), lanes.clone(), regions.clone(), numbers, traces.clone());
        parts.prop_map(move |(body, principal, lane, region, [id, actor, epoch, budget_us], trace)| Envelope {
            header: Header {
                id,
                actor: ActorId(actor),
                epoch: Epoch(epoch),
                lane,
                budget_us,
                region,
                trace,
                principal,
                body,
            },
            payload: Buf::copy_of(&payload),
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_goes_in_comes_out(envelope in envelopes()) {
        let frame = envelope.encode().expect("small");
        prop_assert_eq!(Envelope::decode_whole(&frame).expect("ours"), envelope);
    }

    #[test]
    fn bears_arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(bear(&bytes).is_err(), "no such luck");
        let _: Result<_, _> = bear(&frame(&bytes, b""));
    }

    #[test]
    fn bears_mutated_headers_under_true_checksums(
        which in any::<Index>(),
        changes in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..4),
        cut in proptest::option::weighted(0.2, any::<Index>()),
    ) {
        let samples = samples::envelopes();
        let (_, envelope) = which.get(&samples);
        let mut header = header_of(&envelope.encode_head().expect("small")).to_vec();
        for (at, byte) in changes {
            let at = at.index(header.len());
            header[at] = byte;
        }
        if let Some(cut) = cut {
            header.truncate(cut.index(header.len()));
        }
        let _: Result<_, _> = bear(&frame(&header, &envelope.payload));
    }

    #[test]
    fn bears_two_headers_in_one(left in any::<Index>(), right in any::<Index>(), from in any::<Index>(), to in any::<Index>()) {
        let samples = samples::envelopes();
        let [left, right] = [left, right].map(|which| {
            let head = which.get(&samples).1.encode_head().expect("small");
            header_of(&head).to_vec()
        });
        let spliced = [&left[..from.index(left.len())], &right[to.index(right.len())..]].concat();
        let _: Result<_, _> = bear(&frame(&spliced, b""));
        let _: Result<_, _> = bear(&frame(&[left, right].concat(), b""));
    }
}
