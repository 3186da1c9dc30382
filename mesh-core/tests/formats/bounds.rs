//! Decoders allocate within bounds, whatever lengths a frame claims: shown by decoding the worst frames in a process
//! whose address space is small.

use std::process::Command;

use mesh_core::{
    ErrorKind,
    envelope::{Body, Envelope},
    limits::{COMMAND_BYTES_MAX, HEADER_BYTES_MAX, PAYLOAD_BYTES_MAX},
    meta::{self, MetaAnswer, Query},
    wire::{Preamble, crc32c},
};

use crate::wire::frame;

/// What the process may use in all: its code, its stacks and the memory allocator's own included.
const ADDRESS_SPACE_KIB: usize = 512 << 10;
const INSIDE: &str = "MESH_TEST_INSIDE_BOUNDS";

#[test]
fn decoding_allocates_within_bounds() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    let limit = format!("ulimit -v {ADDRESS_SPACE_KIB} && exec \"$0\" --exact --nocapture \"$1\"");
    let run = |name: &str| {
        let this = std::env::current_exe().expect("a test is a program");
        Command::new("sh").args(["-c", &limit]).arg(this).arg(name).env(INSIDE, "1").output()
    };
    let output = match run("bounds::decoding_allocates_within_bounds") {
        Ok(output) => output,
        Err(error) => return println!("SKIPPED decoding_allocates_within_bounds: no sh to set a limit with: {error}"),
    };
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains("ulimit") {
        return println!("SKIPPED decoding_allocates_within_bounds: no limit can be set: {text}");
    }
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains(DONE), "the child ran nothing");

    // The limit bites: more than it allows cannot be had.
    let greedy = run("bounds::more_than_the_bounds_cannot_be_had").expect("it ran before");
    assert!(!greedy.status.success(), "the limit was not in force");
}

#[test]
fn more_than_the_bounds_cannot_be_had() {
    if std::env::var_os(INSIDE).is_some() {
        let greedy: Vec<u8> = Vec::with_capacity(ADDRESS_SPACE_KIB << 10);
        drop(std::hint::black_box(greedy));
    }
}

const DONE: &str = "every frame was borne";

fn inside() {
    claims_of_lengths_are_refused_before_anything_is_allocated();
    counts_that_claim_too_much_allocate_little();
    the_smallest_items_fill_the_largest_header();
    println!("{DONE}");
}

fn claims_of_lengths_are_refused_before_anything_is_allocated() {
    for (header, payload) in [(u32::MAX, 0), (0, u32::MAX), (u32::MAX, u32::MAX)] {
        let mut bytes = [0; 24];
        bytes[..6].copy_from_slice(b"MESH\x04\0");
        bytes[8..12].copy_from_slice(&u32::to_le_bytes(header));
        bytes[16..20].copy_from_slice(&u32::to_le_bytes(payload));
        let crc = crc32c(&bytes[..20]);
        bytes[20..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Preamble::decode(&bytes).expect_err("4 GiB").kind(), ErrorKind::TooLarge);
    }
    // A payload as large as may be, without its checksum.
    assert!(Envelope::decode_whole(&frame(b"", &vec![0; PAYLOAD_BYTES_MAX])).is_err());
}

/// Protobuf fields and postcard sequences whose counts or lengths claim up to 2^64 - 1 with nothing behind them.
fn counts_that_claim_too_much_allocate_little() {
    let claims = [&b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"[..], b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x04"];
    for claim in claims {
        for tag in 0..=255_u8 {
            for second in [1_u8, 4, 5] {
                bear(&[&[tag, second], claim].concat());
            }
            for fill in 0..24 {
                for bytes in [variant(tag, fill, claim), framed(tag, fill, claim)] {
                    let bytes = [&[meta::FORMAT], &bytes[..]].concat();
                    drop((meta::decode::<Query>(&bytes), meta::decode::<MetaAnswer>(&bytes)));
                }
            }
        }
        // Of every family: what stands before its own variant is a bucket (length, number, empty name, tenant, group), or a
        // group.
        for family in [&[0_u8][..], &[1, 4, 1, 0, 1, 1], &[2], &[3, 1], &[4]] {
            for (tag, fill) in (0..=24_u8).flat_map(|tag| (0..24).map(move |fill| (tag, fill))) {
                for bytes in [variant(tag, fill, claim), framed(tag, fill, claim)] {
                    let bytes = [&[meta::FORMAT], family, &bytes].concat();
                    drop(meta::decode::<meta::Command>(&bytes));
                }
            }
        }
    }
}

/// A variant with the smallest items in front of a claim.
fn variant(tag: u8, fill: usize, claim: &[u8]) -> Vec<u8> {
    [&[tag], &vec![1; fill][..], claim].concat()
}

/// The same in a struct that is as long as it says.
fn framed(tag: u8, fill: usize, claim: &[u8]) -> Vec<u8> {
    // Both are far below 128.
    [&[tag, (fill + claim.len()) as u8], &vec![1; fill][..], claim].concat()
}

/// What claims too much is refused, or is none that is known here.
fn bear(header: &[u8]) {
    if let Ok(envelope) = Envelope::decode_whole(&frame(header, b"")) {
        assert!(matches!(envelope.header.body, Body::Unread(_)), "{header:?}");
    }
}

/// A header of the largest size that consists of the smallest items: each byte becomes as much memory as it can.
fn the_smallest_items_fill_the_largest_header() {
    let varint = |mut number: usize| {
        let mut bytes = Vec::new();
        while number > 0x7f {
            bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        bytes.push(number as u8);
        bytes
    };
    let field =
        |number: usize, contents: &[u8]| [&varint(number << 3 | 2)[..], &varint(contents.len()), contents].concat();
    // shard_delete (38) and shards (67): empty messages in a list; placed (66): numbers of one byte.
    let room = HEADER_BYTES_MAX - 16;
    let empties = [0x0a, 0x00].repeat(room / 2);
    let ones = field(1, &vec![1; room - 16]);
    for header in [field(38, &empties), field(67, &empties), field(66, &ones)] {
        assert!(header.len() <= HEADER_BYTES_MAX);
        drop(Envelope::decode_whole(&frame(&header, b"")));
    }
    // Metadata: sequences of as many items as the bytes can hold, of the smallest encoding there is.
    for (variant, item) in [(4, &[0_u8][..]), (10, &[0]), (13, &[0]), (14, &[0]), (16, &[1])] {
        let count = COMMAND_BYTES_MAX / item.len();
        let bytes = [&[meta::FORMAT, variant][..], &varint(count), &item.repeat(count)].concat();
        drop(meta::decode::<MetaAnswer>(&bytes));
    }
    // A layout of empty groups, inside a command: its number, its code, the groups, no domains.
    let layout = [&[1, 2, 2, 1][..], &varint(room), &vec![0; room], &[0]].concat();
    let command = [&[meta::FORMAT, 2, 7][..], &varint(layout.len()), &layout].concat();
    assert!(meta::decode::<meta::Command>(&command).is_ok(), "two million empty groups");
}
