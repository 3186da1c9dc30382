//! Builds of one format side by side: what older ones wrote is read, and what a newer one writes is read as far as it is
//! known here.

use mesh_core::{
    Answer, ErrorKind, Op,
    envelope::{Body, Envelope},
    meta,
    op::NodeOp,
};
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    commands, golden,
    meta::{again, kind_of},
    samples,
    wire::{bear, frame},
};

/// A value, by its name, and whether it is read from the bytes of a build that puts more behind the fields of every struct.
struct Grown {
    name: String,
    encode: Box<Encode>,
    is_read: Box<IsRead>,
}

/// With these bytes behind the fields of every struct.
type Encode = dyn Fn(&[u8]) -> Vec<u8>;
/// Whether these bytes are the value.
type IsRead = dyn Fn(&[u8]) -> bool;

fn grown<T>(name: String, value: T) -> Grown
where
    T: Serialize + DeserializeOwned + PartialEq + Clone + 'static,
{
    let written = value.clone();
    Grown {
        name,
        encode: Box::new(move |behind| meta::encode_as_newer(&written, behind).expect("a sample is small")),
        is_read: Box::new(move |bytes| meta::decode::<T>(bytes).is_ok_and(|read| read == value)),
    }
}

/// Every value that grows: those of groups, and those that stand in frames.
fn all() -> Vec<Grown> {
    let mut all = Vec::new();
    for command in commands::all() {
        all.push(grown(format!("command.{}", commands::name(&command)), command));
    }
    for query in samples::queries() {
        all.push(grown(format!("query.{}", samples::query_name(&query)), query));
    }
    for answer in samples::meta_answers() {
        all.push(grown(format!("answer.{}", samples::meta_answer_name(&answer)), answer));
    }
    for (name, row) in samples::objects() {
        all.push(grown(format!("object.{name}"), row));
    }
    for (name, envelope) in samples::envelopes() {
        let name = format!("frame.{name}");
        match envelope.header.body {
            Body::Request(Op::Object(op)) => all.push(grown(name, op)),
            Body::Request(Op::Stripe(op)) => all.push(grown(name, (*op.target().binding).clone())),
            Body::Request(Op::Node(op)) => match *op {
                NodeOp::Beat(beat) => all.push(grown(name, beat)),
                NodeOp::Move(step) => all.push(grown(name, step)),
                NodeOp::Admin(op) => all.push(grown(name, op)),
                _ => {}
            },
            Body::Answer(Answer::Report(reports) | Answer::ReportPage { reports, .. }) => {
                all.push(grown(name, reports));
            }
            Body::Answer(Answer::Beat(beat)) => all.push(grown(name, beat)),
            Body::Answer(Answer::Moved(moved)) => all.push(grown(name, moved)),
            Body::Answer(Answer::Admin(answer)) => all.push(grown(name, answer)),
            _ => {}
        }
    }
    all
}

#[test]
fn what_builds_of_this_format_have_ever_written_is_read() {
    let (metas, frames) = (golden::ever(&format!("meta-v{}", meta::FORMAT)), golden::ever("wire-v4"));
    assert!(!metas.is_empty() && !frames.is_empty(), "the first build's are there");
    for (file, values) in metas {
        for (name, bytes) in values {
            again(kind_of(&name), &bytes).unwrap_or_else(|error| panic!("{name} of {file}: {error}"));
        }
    }
    for (file, frames) in frames {
        for (name, bytes) in frames {
            let envelope = bear(&bytes).unwrap_or_else(|error| panic!("{name} of {file}: {error}"));
            assert!(!matches!(envelope.header.body, Body::Unread(_)), "{name} of {file} is not known any more");
        }
    }
}

#[test]
fn values_of_a_newer_build_are_read_without_what_it_adds() {
    let behind = b"\x01newer";
    let all = all();
    let bytes: Vec<(String, Vec<u8>)> = all.iter().map(|one| (one.name.clone(), (one.encode)(behind))).collect();
    let about = "Values of format 3 as a newer build has them, with more fields in every struct: name, bytes.";
    let golden = golden::check("newer-meta-v3.txt", about, &bytes);
    for one in all {
        assert!((one.is_read)(&golden[&one.name]), "{}", one.name);
    }
}

/// Frames of which this build knows the form and not the contents: a name, and the header.
fn unknown() -> Vec<(&'static str, Vec<u8>)> {
    // Request 7 of node 0. Lengths and numbers below 128 are their own varints.
    let head = |rest: &[u8]| [&[0x08, 7][..], rest].concat();
    let encoded = |field: u32, value: &[u8]| {
        let tag = field << 3 | 2;
        let tag = if tag < 0x80 { vec![tag as u8] } else { vec![tag as u8 | 0x80, (tag >> 7) as u8] };
        head(&[&tag[..], &[value.len() as u8 + 1, meta::FORMAT], value].concat())
    };
    let metadata = |field: u32, value: &[u8]| {
        let inner = [&[0x08, 1, 0x12, value.len() as u8 + 1, meta::FORMAT], value].concat();
        head(&[&[(field << 3 | 2) as u8 | 0x80, (field >> 4) as u8, inner.len() as u8], &inner[..]].concat())
    };
    vec![
        ("operation", encoded(1000, b"\x01new")),
        ("nothing", head(b"")),
        ("lane", head(&[0x20, 9, 0xc2, 0x02, 0])),
        ("principal", head(&[0x4a, 2, 0x08, 9, 0xc2, 0x02, 0])),
        ("object.operation", encoded(32, &[100, 3, 1, 2, 3])),
        ("admin.operation", encoded(47, &[100])),
        ("move.step", encoded(46, &[5, 1, 2, 3, 100, 0])),
        ("query", metadata(41, &[100, 1, 1])),
        ("relayed.query", metadata(48, &[100, 1, 1])),
        ("command.family", encoded(51, &[100, 1, 1])),
        ("command", encoded(51, &[2, 100, 1, 1])),
        ("relayed.command", encoded(52, &[2, 100, 1, 1])),
        ("answer", encoded(65, &[100, 1, 1])),
        ("object.answer", encoded(70, &[100, 1, 1])),
        ("admin.answer", encoded(75, &[100, 1, 1])),
    ]
}

#[test]
fn frames_of_a_newer_build_that_say_what_is_not_known_are_unread_and_not_damaged() {
    let frames: Vec<(String, Vec<u8>)> =
        unknown().into_iter().map(|(name, header)| (name.to_owned(), frame(&header, b""))).collect();
    let about = "Frames of wire version 4 as a newer build sends them, with what is not known here: name, frame.";
    for (name, bytes) in golden::check("newer-wire-v4.txt", about, &frames) {
        let envelope = Envelope::decode_whole(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(envelope.header.id, 7, "{name}");
        let Body::Unread(error) = envelope.header.body else { panic!("{name} is known: {:?}", envelope.header.body) };
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_stands_behind_the_fields_that_are_known_a_value_is_the_same(
        which in any::<proptest::sample::Index>(),
        behind in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let all = all();
        let one = which.get(&all);
        prop_assert!((one.is_read)(&(one.encode)(&behind)), "{} with {behind:?}", one.name);
    }
}
