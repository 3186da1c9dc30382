//! Metadata values: golden bytes of every command, query and answer, and a decoder that bears anything.

use mesh_core::{
    ErrorKind,
    limits::COMMAND_BYTES_MAX,
    meta::{self, Command, MetaAnswer, ObjectRow, Query},
};
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};

use crate::{commands, golden, samples};

fn encoded<T: Serialize>(kind: &str, name: &str, value: &T) -> (String, Vec<u8>) {
    (format!("{kind}.{name}"), meta::encode(value).expect("a sample is small"))
}

pub(crate) fn all() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    all.extend(commands::all().iter().map(|value| encoded("command", commands::name(value), value)));
    all.extend(samples::queries().iter().map(|value| encoded("query", samples::query_name(value), value)));
    let answers = samples::meta_answers();
    all.extend(answers.iter().map(|value| encoded("answer", samples::meta_answer_name(value), value)));
    all.extend(samples::objects().iter().map(|(name, value)| encoded("object", name, value)));
    all
}

/// Decodes a value of the kind that its name says, and encodes it again.
pub(crate) fn again(kind: &str, bytes: &[u8]) -> Result<Vec<u8>, mesh_core::Error> {
    fn through<T: Serialize + DeserializeOwned + PartialEq>(bytes: &[u8]) -> Result<Vec<u8>, mesh_core::Error> {
        let value: T = meta::decode(bytes)?;
        let encoded = meta::encode(&value)?;
        assert!(meta::decode::<T>(&encoded).is_ok_and(|back| back == value), "what was decoded encodes to itself");
        Ok(encoded)
    }
    match kind {
        "command" => through::<Command>(bytes),
        "query" => through::<Query>(bytes),
        "answer" => through::<MetaAnswer>(bytes),
        "object" => through::<ObjectRow>(bytes),
        other => panic!("no kind {other}"),
    }
}

const KINDS: [&str; 4] = ["command", "query", "answer", "object"];

pub(crate) fn kind_of(name: &str) -> &str {
    name.split('.').next().expect("a name begins with its kind")
}

#[test]
fn every_value_has_its_golden_bytes() {
    let samples = all();
    golden::cover("command", &commands::names(), &samples);
    golden::cover("query", samples::QUERIES, &samples);
    golden::cover("answer", samples::META_ANSWERS, &samples);
    let golden = golden::check("meta-v3.txt", "Metadata values, format 3: name, bytes.", &samples);
    for command in commands::all() {
        let bytes = &golden[&format!("command.{}", commands::name(&command))];
        assert_eq!(meta::decode::<Command>(bytes).expect("golden bytes decode"), command);
    }
    for query in samples::queries() {
        let bytes = &golden[&format!("query.{}", samples::query_name(&query))];
        assert_eq!(meta::decode::<Query>(bytes).expect("golden bytes decode"), query);
    }
    for answer in samples::meta_answers() {
        let bytes = &golden[&format!("answer.{}", samples::meta_answer_name(&answer))];
        assert_eq!(meta::decode::<MetaAnswer>(bytes).expect("golden bytes decode"), answer);
    }
    for (name, row) in samples::objects() {
        assert_eq!(meta::decode::<ObjectRow>(&golden[&format!("object.{name}")]).expect("golden bytes decode"), row);
    }
}

#[test]
fn refuses_what_is_cut_prolonged_or_of_another_format() {
    for (name, bytes) in all() {
        let kind = kind_of(&name);
        for cut in 0..bytes.len() {
            let error = again(kind, &bytes[..cut]).expect_err("a part of a value is none");
            assert_eq!(error.kind(), ErrorKind::Invalid, "{name} cut to {cut}");
        }
        let prolonged = [&bytes[..], &[0]].concat();
        assert_eq!(again(kind, &prolonged).expect_err("a byte too many").kind(), ErrorKind::Invalid, "{name}");
        for other in [meta::FORMAT - 1, meta::FORMAT + 1] {
            let error = again(kind, &[&[other], &bytes[1..]].concat()).expect_err("another format");
            assert!(error.to_string().contains(&format!("[format={other} supported={}]", meta::FORMAT)), "{error}");
        }
    }
}

#[test]
fn refuses_to_encode_over_the_limit() {
    let fits = Query::Bucket { name: "n".repeat(COMMAND_BYTES_MAX - 8).into() };
    assert_eq!(meta::encode(&fits).expect("as long as may be").len(), COMMAND_BYTES_MAX);
    let over = Query::Bucket { name: "n".repeat(COMMAND_BYTES_MAX - 7).into() };
    assert_eq!(meta::encode(&over).expect_err("a byte over").kind(), ErrorKind::TooLarge);
}

/// Of commands.
const FAMILIES: u8 = 6;
/// More than any of them has.
const VARIANTS: u8 = 40;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn bears_arbitrary_bytes(
        kind in 0..KINDS.len(),
        family in 0_u8..FAMILIES,
        variant in 0_u8..VARIANTS,
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        // Behind the format and a variant that exists, so that decoding gets somewhere.
        let family = if KINDS[kind] == "command" { vec![family] } else { Vec::new() };
        let framed = [&[meta::FORMAT], &family[..], &[variant], &bytes].concat();
        let _: Result<_, _> = again(KINDS[kind], &framed);
        let _: Result<_, _> = again(KINDS[kind], &bytes);
    }

    #[test]
    fn bears_mutated_values(
        which in any::<proptest::sample::Index>(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let samples = all();
        let (name, bytes) = which.get(&samples);
        let mut bytes = bytes.clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _: Result<_, _> = again(kind_of(name), &bytes);
    }
}
