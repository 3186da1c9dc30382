//! Messages from outside: arbitrary and damaged bytes are refused, without a panic and without large allocations.

use std::sync::Arc;

use mesh_core::meta::{FORMAT, MeshCommand};
use openraft::{
    entry::RaftEntry,
    raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest},
};
use proptest::prelude::*;

use super::super::{
    network::Message,
    rows::Digest,
    staging::Chunk,
    types::{Proposal, SnapshotMeta, Types, Vote, decode, encode},
};
use super::log_id;

fn append() -> Vec<u8> {
    let command = MeshCommand::DropAccessKey { access: "key".into() };
    let entries = vec![
        openraft::alias::EntryOf::<Types>::new_blank(log_id(1, 1)),
        openraft::alias::EntryOf::<Types>::new_normal(log_id(1, 2), Proposal(Arc::new(command.into()))),
    ];
    let request = AppendEntriesRequest::<Types> {
        vote: Vote::new_committed(1, 2),
        prev_log_id: Some(log_id(1, 0)),
        entries,
        leader_commit: None,
    };
    encode(&request).unwrap()
}

fn chunk() -> Vec<u8> {
    let rows = vec![(b"key".to_vec(), vec![7; 30])];
    let vote = Vote::new_committed(1, 2);
    encode(&Chunk { vote, transfer: 1, number: 0, meta: SnapshotMeta::default(), rows, end: Some(Digest::default()) })
        .unwrap()
}

/// Reads bytes as every message there is; which of them could be read.
fn read_as_all(bytes: &[u8]) -> [bool; 4] {
    [
        decode::<AppendEntriesRequest<Types>>(bytes).is_ok(),
        decode::<VoteRequest<Types>>(bytes).is_ok(),
        decode::<TransferLeaderRequest<Types>>(bytes).is_ok(),
        decode::<Chunk>(bytes).is_ok(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn arbitrary_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), format in any::<bool>()) {
        if format && let Some(first) = bytes.first_mut() {
            *first = FORMAT;
        }
        let read = read_as_all(&bytes);
        prop_assert!(bytes.first() == Some(&FORMAT) || read == [false; 4]);
    }

    #[test]
    fn damaged_messages_are_read_or_refused(which in any::<bool>(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = if which { append() } else { chunk() };
        let at = at.index(bytes.len());
        bytes[at] = byte;
        // Whatever it comes to, it must come to an end.
        let _read: [bool; 4] = read_as_all(&bytes);
        let whole = if which { append() } else { chunk() };
        let cut = cut.index(whole.len());
        let read = read_as_all(&whole[..cut]);
        prop_assert!(!read[0] || !which, "an append that is cut short is no append");
    }
}

#[test]
fn the_numbers_of_messages_are_part_of_the_protocol() {
    let known: Vec<u32> = (0..100).filter(|number| Message::from_number(*number).is_some()).collect();
    assert_eq!(known, [1, 2, 3, 4, 5]);
    let all = [Message::Append, Message::Vote, Message::PreVote, Message::Snapshot, Message::Transfer];
    assert!(all.iter().all(|message| Message::from_number(*message as u32) == Some(*message)));
    assert!(read_as_all(&append())[0] && read_as_all(&chunk())[3]);
}
