//! What builds that differ make of each other's values, on small types that are written as each of them has it. Every real
//! value: `tests/formats`.

use std::collections::BTreeMap;

use super::*;

/// As it was first.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Node {
    id: u64,
    drives: Vec<Drive>,
    state: State,
    note: Option<Box<str>>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Drive {
    free: u32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum State {
    Up,
    Down { since: u64 },
    Moving(Drive, u8),
}

/// As it is in a newer build: fields at the ends, and a variant more.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct NodeNow {
    id: u64,
    drives: Vec<DriveNow>,
    state: StateNow,
    note: Option<Box<str>>,
    #[serde(default)]
    racks: BTreeMap<String, (u8, i64)>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct DriveNow {
    free: u32,
    #[serde(default = "half")]
    worn: f64,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum StateNow {
    Up,
    Down {
        since: u64,
        #[serde(default)]
        why: String,
    },
    Moving(DriveNow, u8),
    Drained,
}

const fn half() -> f64 {
    0.5
}

fn node(state: State) -> Node {
    Node { id: 300, drives: vec![Drive { free: 1 }, Drive { free: 70_000 }], state, note: Some("rack 7".into()) }
}

fn node_now(state: StateNow, worn: f64, racks: &[(&str, (u8, i64))]) -> NodeNow {
    NodeNow {
        id: 300,
        drives: vec![DriveNow { free: 1, worn }, DriveNow { free: 70_000, worn }],
        state,
        note: Some("rack 7".into()),
        racks: racks.iter().map(|(name, what)| ((*name).to_owned(), *what)).collect(),
    }
}

#[test]
fn a_value_looks_as_drawn() {
    let value = node(State::Down { since: 5 });
    let bytes = encode(&value).unwrap();
    let drawn =
        [&[FORMAT, 20][..], &[0xac, 0x02], &[2], &[1, 1], &[3, 0xf0, 0xa2, 0x04], &[1, 1, 5], &[1, 6], b"rack 7"];
    assert_eq!(bytes, drawn.concat());
    // From 128 bytes on the length takes two.
    let long = "n".repeat(200);
    let bytes =
        encode(&Node { id: 1, drives: Vec::new(), state: State::Up, note: Some(long.as_str().into()) }).unwrap();
    assert_eq!((&bytes[..3], bytes.len()), (&[FORMAT, 0xce, 0x01][..], 3 + 206));
}

#[test]
fn what_is_no_struct_is_as_postcard_has_it() {
    let value = (
        (true, -3_i8, 300_u16, -70_000_i32, u64::MAX, i128::MIN),
        (1.5_f32, 'é', "text", [1_u8, 2, 3], Some(vec![(); 0])),
        BTreeMap::from([(1_u8, "one"), (2, "two")]),
    );
    let postcard = postcard::to_extend(&value, vec![FORMAT]).unwrap();
    assert_eq!(encode(&value).unwrap(), postcard);
    let back = decode(&postcard).unwrap();
    assert_eq!(value, back);
}

#[test]
fn an_older_build_passes_over_what_a_newer_one_adds_at_every_depth() {
    let racks = [("a", (1, -1)), ("b", (2, i64::MIN))];
    for (now, then) in [
        (StateNow::Up, State::Up),
        (StateNow::Down { since: 9, why: "pulled".into() }, State::Down { since: 9 }),
        (StateNow::Moving(DriveNow { free: 3, worn: 0.1 }, 4), State::Moving(Drive { free: 3 }, 4)),
    ] {
        let bytes = encode(&node_now(now, 0.25, &racks)).unwrap();
        assert_eq!(decode::<Node>(&bytes).unwrap(), node(then));
    }
}

#[test]
fn a_newer_build_has_defaults_for_what_an_older_one_does_not_say() {
    for (then, now) in [
        (State::Up, StateNow::Up),
        (State::Down { since: 9 }, StateNow::Down { since: 9, why: String::new() }),
        (State::Moving(Drive { free: 3 }, 4), StateNow::Moving(DriveNow { free: 3, worn: 0.5 }, 4)),
    ] {
        let bytes = encode(&node(then)).unwrap();
        assert_eq!(decode::<NodeNow>(&bytes).unwrap(), node_now(now, 0.5, &[]));
    }
}

#[test]
fn a_variant_that_is_not_known_is_said_to_be_of_a_newer_build() {
    let bytes = encode(&node_now(StateNow::Drained, 0.5, &[])).unwrap();
    let error = decode::<Node>(&bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(
        error.to_string(),
        "a newer build says something that this one does not know; upgrade this node, or ask for something else \
         [of=State variant=3]"
    );
}

#[test]
fn a_field_without_default_that_is_not_there_is_said_to_be_of_an_older_build() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Needy {
        free: u32,
        must: u32,
    }
    let bytes = encode(&[Drive { free: 1 }]).unwrap();
    let error = decode::<[Needy; 1]>(&bytes).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(
        error.to_string(),
        "an older build leaves out something that this one cannot do without; upgrade the older node [of=Needy]"
    );
}

#[test]
fn lengths_of_more_than_there_is_are_refused_before_anything_is_allocated() {
    let claims = [&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01][..], &[0x80, 0x80, 0x04], &[3, 0, 0]];
    for claim in claims {
        let bytes = [&[FORMAT], claim].concat();
        let said = [
            decode::<Drive>(&bytes).map(drop),
            decode::<Vec<u8>>(&bytes).map(drop),
            decode::<Vec<()>>(&bytes).map(drop),
            decode::<String>(&bytes).map(drop),
            decode::<BTreeMap<u8, u8>>(&bytes).map(drop),
        ];
        for said in said {
            assert_eq!(said.unwrap_err().kind(), ErrorKind::Invalid, "{claim:?}");
        }
    }
    // A field may not reach out of its struct.
    let error = decode::<(Drive, u8, u8, u8)>(&[FORMAT, 1, 0x80, 0x01, 1, 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}
