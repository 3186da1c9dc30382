//! Flows with planted failures: whatever fails, however often, no acknowledged object misses a byte, nothing visible
//! misses a stripe, and every request is answered exactly once.

mod object_host;

use core::time::Duration;
use std::collections::BTreeMap;

use mesh_core::{
    Answer, ErrorKind,
    limits::PART_BYTES_MIN,
    meta::{Attributes, Precondition},
    op::{Destination, ObjectOp},
};
use proptest::{collection::vec, prelude::*};

use object_host::{Fault, GRACE, Host, content, whole};

const CERTAIN: [ErrorKind; 6] = [
    ErrorKind::Overloaded,
    ErrorKind::StaleEpoch,
    ErrorKind::Draining,
    ErrorKind::NoSuchActor,
    ErrorKind::Unreachable,
    ErrorKind::RateLimited,
];
const UNCERTAIN: [ErrorKind; 3] = [ErrorKind::LinkLost, ErrorKind::Timeout, ErrorKind::Restarted];
/// After which nobody tries again.
const FINAL: [ErrorKind; 3] = [ErrorKind::TooFewShards, ErrorKind::DriveFailed, ErrorKind::Denied];

fn fault() -> impl Strategy<Value = Fault> {
    let of = |kinds: &'static [ErrorKind]| (0..kinds.len()).prop_map(|at| kinds[at]);
    prop_oneof![
        8 => Just(Fault::None),
        4 => of(&CERTAIN).prop_map(Fault::Refused),
        2 => of(&UNCERTAIN).prop_map(Fault::LostBefore),
        2 => of(&UNCERTAIN).prop_map(Fault::LostAfter),
        2 => of(&UNCERTAIN).prop_map(Fault::Late),
        2 => of(&UNCERTAIN).prop_map(Fault::Partly),
        1 => (0..4_u8).prop_map(Fault::Avoiding),
        1 => Just(Fault::Shared),
    ]
}

fn fatal() -> impl Strategy<Value = Fault> {
    prop_oneof![
        20 => fault(),
        1 => (0..FINAL.len()).prop_map(|at| Fault::Refused(FINAL[at])),
    ]
}

/// Ends a run: failures stop, everything comes to rest, what was acknowledged reads back, and of what came to nothing
/// nothing is left.
fn settle(host: &mut Host, acknowledged: &BTreeMap<String, Vec<u8>>) {
    host.faults.clear();
    host.wait(Duration::from_secs(800) + 2 * GRACE);
    host.assert_at_rest();
    host.assert_nothing_is_missing();
    host.assert_nothing_is_left_over();
    for (key, bytes) in acknowledged {
        assert_eq!(host.get(key, None).as_ref(), Ok(bytes), "{key}");
    }
    host.assert_at_rest();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_acknowledged_object_misses_a_byte(
        faults in vec(fatal(), 0..300),
        sizes in vec(0..700_usize, 1..8),
    ) {
        let mut host = Host::new(100);
        host.faults = faults.into();
        let mut acknowledged = BTreeMap::new();
        for (number, size) in sizes.into_iter().enumerate() {
            let (key, bytes) = (format!("k{number}"), content(size, number as u64));
            if host.put(&key, whole(), &bytes, "e").is_ok() {
                acknowledged.insert(key, bytes);
            }
        }
        settle(&mut host, &acknowledged);
    }

    #[test]
    fn an_object_that_is_overwritten_and_deleted_is_what_was_last_acknowledged(
        faults in vec(fault(), 0..300),
        steps in vec((0..3_u8, 1..400_usize), 1..10),
    ) {
        let mut host = Host::new(100);
        host.faults = faults.into();
        // What the object may be: what was acknowledged last, or anything uncertain after that.
        let mut may: Vec<Option<Vec<u8>>> = vec![None];
        for (number, (what, size)) in steps.into_iter().enumerate() {
            let (wanted, result) = if what == 0 {
                let delete = ObjectOp::Delete {
                    bucket: "photos".into(),
                    key: "k".into(),
                    precondition: Precondition::default(),
                };
                (None, host.run(delete).map(drop))
            } else {
                let bytes = content(size, number as u64);
                let put = host.put("k", whole(), &bytes, "e").map(drop);
                (Some(bytes), put)
            };
            // What a given-up sending brings about later must not be taken for what comes after it.
            host.wait(Duration::from_secs(1));
            match result {
                Ok(()) => may = vec![wanted],
                Err(_) => may.push(wanted),
            }
        }
        settle(&mut host, &BTreeMap::new());
        let found = match host.get("k", None) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => panic!("{error:?}"),
        };
        prop_assert!(may.contains(&found));
    }

    #[test]
    fn what_crashes_and_vanished_clients_leave_behind_is_swept_and_nothing_else(
        faults in vec(fatal(), 0..200),
        steps in vec((0..6_u8, 1..500_usize), 1..14),
    ) {
        let mut host = Host::new(100);
        host.faults = faults.into();
        let mut acknowledged = BTreeMap::new();
        for (number, (what, size)) in steps.into_iter().enumerate() {
            let (key, bytes) = (format!("k{number}"), content(size, number as u64));
            match what {
                // The client sends some of it and is never heard of again.
                0 | 1 => {
                    host.begin_and_vanish(&key, &bytes);
                }
                // So does the process, in the middle of it.
                2 => {
                    host.begin_and_vanish(&key, &bytes);
                    host.crash();
                }
                3 => host.wait(Duration::from_secs(size as u64 / 2)),
                _ => {
                    if host.put(&key, whole(), &bytes, "e").is_ok() {
                        acknowledged.insert(key, bytes);
                    }
                }
            }
        }
        // The first write of a life closes the blocks of those before it.
        host.faults.clear();
        // It may be told to send again while the faults of before are still being worked off.
        let mut put = host.put("last", whole(), b"a block is opened for this", "e");
        for _ in 0..100 {
            if put.is_ok() {
                break;
            }
            host.wait(Duration::from_secs(1));
            put = host.put("last", whole(), b"a block is opened for this", "e");
        }
        put.expect("nothing fails any more");
        settle(&mut host, &acknowledged);
        prop_assert!(host.metadata.closed_blocks().is_empty(), "all were swept");
    }

    #[test]
    fn buckets_come_and_go_without_losing_an_object(
        faults in vec(fault(), 0..100),
        steps in vec(0..4_u8, 1..12),
    ) {
        let mut host = Host::new(100);
        host.faults = faults.into();
        let mut acknowledged = BTreeMap::new();
        for (number, step) in steps.into_iter().enumerate() {
            let bucket = "photos".into();
            match step {
                0 => {
                    if host.run(ObjectOp::DeleteBucket { bucket }).is_ok() {
                        prop_assert!(acknowledged.is_empty(), "a bucket with objects was deleted");
                    }
                }
                1 => drop(host.run(ObjectOp::CreateBucket { bucket })),
                _ => {
                    let (key, bytes) = (format!("k{number}"), content(150, number as u64));
                    if host.put(&key, whole(), &bytes, "e").is_ok() {
                        acknowledged.insert(key, bytes);
                    }
                }
            }
        }
        host.faults.clear();
        if acknowledged.is_empty() {
            // A delete that was cut short may have left it sealed: whoever finds it so takes its name away.
            drop(host.put("found", whole(), b"bytes", "e"));
            host.wait(Duration::from_secs(10));
            drop(host.run(ObjectOp::CreateBucket { bucket: "photos".into() }));
            prop_assert!(host.put("after", whole(), b"bytes", "e").is_ok());
        } else {
            let deleted = host.run(ObjectOp::DeleteBucket { bucket: "photos".into() });
            prop_assert_eq!(deleted.map_err(|error| error.kind()), Err(ErrorKind::BucketNotEmpty));
        }
        settle(&mut host, &acknowledged);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_acknowledged_upload_misses_a_byte(faults in vec(fault(), 0..200)) {
        let mut host = Host::new(1 << 20);
        host.faults = faults.into();
        let mut acknowledged = BTreeMap::new();
        let create = ObjectOp::CreateUpload {
            bucket: "photos".into(),
            key: "big".into(),
            attributes: Attributes::default(),
        };
        if let Ok(Answer::Upload(row)) = host.run(create).map(|response| response.answer) {
            let (mut all, mut parts) = (Vec::new(), Vec::new());
            for (number, len) in [(1, PART_BYTES_MIN as usize), (2, 1_500_000)] {
                let (bytes, etag) = (content(len, u64::from(number)), format!("{number:032x}"));
                let destination = Destination::Part { upload: row.upload, number };
                if host.put("big", destination, &bytes, &etag).is_ok() {
                    all.extend_from_slice(&bytes);
                    parts.push((number, etag));
                }
            }
            let complete = ObjectOp::CompleteUpload {
                bucket: "photos".into(),
                key: "big".into(),
                upload: row.upload,
                parts,
                checksums: BTreeMap::new(),
                precondition: Precondition::default(),
            };
            if host.run(complete).is_ok() {
                acknowledged.insert("big".to_owned(), all);
            }
        }
        settle(&mut host, &acknowledged);
    }
}

#[test]
fn failures_that_pass_leave_neither_litter_nor_errors() {
    // Every stripe fails in every way that passes, before it goes well: the attempts that may have left something are
    // deleted, the object is whole, and nothing else is left.
    let mut host = Host::new(100);
    host.put("warm", whole(), b"so that the bucket and write ids are there", "e").expect("put");
    for kind in CERTAIN {
        host.faults.push_back(Fault::Refused(kind));
    }
    for kind in UNCERTAIN {
        host.faults.extend([Fault::LostBefore(kind), Fault::LostAfter(kind), Fault::Late(kind)]);
    }
    let bytes = content(80, 9);
    host.put("k", whole(), &bytes, "e").expect("put");
    assert!(host.faults.is_empty());
    settle(&mut host, &BTreeMap::from([("k".to_owned(), bytes)]));
    assert_eq!(host.stripes.len(), host.metadata.stripes(true).len());
}

#[test]
fn without_a_sweep_a_crash_leaves_its_shards_for_ever() {
    for sweeps in [true, false] {
        let mut host = if sweeps { Host::new(100) } else { Host::that_does_not_sweep(100) };
        host.begin_and_vanish("k", &content(250, 1));
        host.wait(Duration::from_secs(1));
        host.crash();
        assert_eq!(host.left_over().len(), 9, "three stripes of three shards");
        host.put("last", whole(), b"a block is opened for this", "e").expect("put");
        host.wait(Duration::from_secs(800) + 2 * GRACE);
        assert_eq!(host.left_over().is_empty(), sweeps);
        host.assert_nothing_is_missing();
    }
}

#[test]
fn two_runs_of_one_input_come_to_the_same() {
    let run = || {
        let mut host = Host::new(100);
        host.faults = [Fault::LostAfter(ErrorKind::LinkLost), Fault::Refused(ErrorKind::Draining), Fault::Shared]
            .into_iter()
            .cycle()
            .take(50)
            .collect();
        let put = host.put("k", whole(), &content(950, 1), "e");
        host.wait(GRACE);
        (put, host.now, host.calls, host.stripes.keys().copied().collect::<Vec<_>>())
    };
    assert_eq!(run(), run());
}
