//! Random histories: each command, applied twice in a row, leaves the table and the answer of once; a copy that comes at
//! any later time gets the first answer or is refused, and has no effect; and the books always balance.

use std::collections::{BTreeMap, BTreeSet};

use mesh_core::id::DriveId;
use proptest::prelude::*;

use super::*;

/// A command in small numbers: `write` counts from a block's first.
#[derive(Clone, Debug)]
enum Step {
    Session {
        actor: u64,
        life: u64,
    },
    Open {
        actor: u64,
        life: u64,
    },
    /// A copy of what was sent before, so many commands ago.
    Late(usize),
    Close {
        block: u64,
    },
    Swept {
        block: u64,
    },
    Put {
        key: u8,
        write: u64,
        len: u64,
        absent: bool,
    },
    Delete {
        key: u8,
        at: u64,
    },
    Create {
        key: u8,
        write: u64,
    },
    Part {
        upload: u64,
        number: u32,
        write: u64,
        len: u64,
    },
    Complete {
        key: u8,
        upload: u64,
        parts: BTreeSet<(u32, u64)>,
    },
    Abort {
        upload: u64,
        at: u64,
    },
    Drop {
        writes: Vec<u64>,
    },
    Owe {
        drive: u64,
        writes: Vec<u64>,
    },
    Pay {
        drive: u64,
        writes: Vec<u64>,
    },
    Seal,
}

fn write() -> impl Strategy<Value = u64> {
    // Two blocks, a few writes in each: ids collide often.
    prop_oneof![0_u64..12, 4096_u64..4100]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (1_u64..3, 0_u64..4).prop_map(|(actor, life)| Step::Session { actor, life }),
        2 => (1_u64..3, 1_u64..4).prop_map(|(actor, life)| Step::Open { actor, life }),
        8 => (0_usize..60).prop_map(Step::Late),
        1 => (0_u64..3).prop_map(|block| Step::Close { block }),
        1 => (0_u64..3).prop_map(|block| Step::Swept { block }),
        6 => (0_u8..3, write(), 0_u64..9, any::<bool>())
            .prop_map(|(key, write, len, absent)| Step::Put { key, write, len, absent: absent && len == 0 }),
        4 => (0_u8..3, 0_u64..20).prop_map(|(key, at)| Step::Delete { key, at }),
        3 => (0_u8..3, write()).prop_map(|(key, write)| Step::Create { key, write }),
        6 => (write(), 1_u32..4, write(), prop_oneof![0_u64..9, Just(5 * MIB)])
            .prop_map(|(upload, number, write, len)| Step::Part { upload, number, write, len }),
        4 => (0_u8..3, write(), proptest::collection::btree_set((1_u32..4, write()), 1..3))
            .prop_map(|(key, upload, parts)| Step::Complete { key, upload, parts }),
        2 => (write(), 0_u64..20).prop_map(|(upload, at)| Step::Abort { upload, at }),
        2 => proptest::collection::vec(write(), 0..12).prop_map(|writes| Step::Drop { writes }),
        2 => (1_u64..3, proptest::collection::vec(write(), 0..12)).prop_map(|(drive, writes)| Step::Owe { drive, writes }),
        1 => (1_u64..3, proptest::collection::vec(write(), 0..12)).prop_map(|(drive, writes)| Step::Pay { drive, writes }),
        1 => Just(Step::Seal),
    ]
}

fn command(step: &Step, clock: u64) -> Command {
    let base = WriteId::new(NAMESPACE, 0);
    let id = |count: u64| after(base, count);
    let name = |key: u8| format!("key-{key}");
    match step {
        Step::Session { actor, life } => {
            Command::OpenSession { group: NAMESPACE, actor: ActorId(*actor), session: session(*life) }
        }
        Step::Open { actor, life } => Command::Upkeep(
            NAMESPACE,
            UpkeepCommand::OpenBlock { proposer: Proposer { session: session(*life), ..proposer(*actor) } },
        ),
        Step::Late(_) => unreachable!("a copy is made of a command"),
        Step::Close { block } => Command::Upkeep(NAMESPACE, UpkeepCommand::CloseBlock { first: id(block * 4096) }),
        Step::Swept { block } => Command::Upkeep(NAMESPACE, UpkeepCommand::SweptBlock { first: id(block * 4096) }),
        Step::Put { key, write, len, absent } => {
            let Command::Object(bucket, ObjectCommand::PutObject { proposer, key, row, quota_bytes, .. }) =
                put(&name(*key), object(id(*write), *len, clock))
            else {
                unreachable!("a put is a put")
            };
            let precondition = Precondition { absent: *absent, etag: None };
            Command::Object(bucket, ObjectCommand::PutObject { proposer, key, row, precondition, quota_bytes })
        }
        Step::Delete { key, at } => delete(&name(*key), *at),
        Step::Create { key, write } => create_upload(id(*write), &name(*key)),
        Step::Part { upload, number, write, len } => put_part(id(*upload), part(*number, id(*write), *len)),
        Step::Complete { key, upload, parts } => {
            let parts: BTreeMap<u32, u64> = parts.iter().copied().collect();
            let parts: Vec<_> = parts.into_iter().map(|(number, write)| (number, id(write))).collect();
            complete(id(*upload), &name(*key), &parts)
        }
        Step::Abort { upload, at } => Command::Object(
            bucket(),
            ObjectCommand::AbortUpload { proposer: proposer(1), upload: id(*upload), at: UnixMillis(*at) },
        ),
        Step::Drop { writes } => {
            Command::Upkeep(NAMESPACE, UpkeepCommand::DropGarbage { writes: writes.iter().copied().map(id).collect() })
        }
        Step::Owe { drive, writes } => Command::Upkeep(
            NAMESPACE,
            UpkeepCommand::OweGarbage { owed: vec![(DriveId(*drive), writes.iter().copied().map(id).collect())] },
        ),
        Step::Pay { drive, writes } => Command::Upkeep(
            NAMESPACE,
            UpkeepCommand::PayOwed { drive: DriveId(*drive), writes: writes.iter().copied().map(id).collect() },
        ),
        Step::Seal => Command::Object(bucket(), ObjectCommand::SealBucket { proposer: proposer(1) }),
    }
}

/// Behind the group's back.
fn unseal() -> crate::metadata::Change {
    crate::metadata::Change { key: crate::metadata::keys::sealed(bucket().id), value: None }
}

/// What the table says a tenant uses, added up from its rows.
fn added_up(group: &Group) -> (u64, u64) {
    let mut unsealed = group.clone();
    unsealed.table.commit(vec![unseal()]);
    let (mut bytes, mut objects) = (0, 0);
    for key in (0..3).map(|key| format!("key-{key}")) {
        if let Ok(MetaAnswer::Object(row)) =
            unsealed.query(&Query::Object { bucket: bucket(), key: key.as_str().into() })
        {
            bytes += row.len;
            objects += 1;
            if let Body::Parts { upload, count } = row.body {
                let question = Query::Extents { bucket: bucket(), upload, offset: 0, limit: 1000 };
                let Ok(MetaAnswer::Parts(parts, false)) = unsealed.query(&question) else { panic!("no parts") };
                assert_eq!(parts.len() as u32, count);
                assert_eq!(parts.iter().map(|part| part.extent.len).sum::<u64>(), row.len);
            }
        }
    }
    let question = Query::Uploads { bucket: bucket(), prefix: String::new(), after: None, limit: 1000 };
    let Ok(MetaAnswer::Uploads(uploads, false)) = unsealed.query(&question) else { panic!("no uploads") };
    for upload in uploads {
        let question = Query::Parts { bucket: bucket(), upload: upload.upload, after: 0, limit: 1000 };
        let Ok(MetaAnswer::Parts(parts, false)) = unsealed.query(&question) else { panic!("no parts") };
        bytes += parts.iter().map(|part| part.extent.len).sum::<u64>();
    }
    (bytes, objects)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn each_command_twice_is_each_command_once(steps in proptest::collection::vec(step(), 1..60)) {
        let mut group = Group::namespace();
        group.open_block(1);
        group.open_block(1);
        let mut gone = BTreeSet::new();
        let mut sent: Vec<(Command, Result<MetaAnswer, ErrorKind>)> = Vec::new();
        for (clock, step) in steps.iter().enumerate() {
            if let Step::Late(ago) = step {
                let Some(at) = sent.len().checked_sub(1 + ago) else { continue };
                let (copy, first) = sent[at].clone();
                let table = group.table.clone();
                let answer = group.once(&copy);
                if first == Err(ErrorKind::Fenced) {
                    // Its session was not open: nothing was decided.
                    sent[at].1 = answer;
                } else if copy.proposer().is_some() {
                    prop_assert!(answer == first || answer == Err(ErrorKind::Fenced), "{:?}: {:?}", copy, answer);
                    prop_assert_eq!(&group.table, &table, "a copy of {:?} has an effect", copy);
                }
                continue;
            }
            // `apply` sends each command twice and compares.
            let command = command(step, clock as u64);
            let answer = group.apply(&command);
            sent.push((command, answer.clone()));
            prop_assert!(!matches!(answer, Err(ErrorKind::Bug | ErrorKind::Corrupt)), "{:?}: {:?}", step, answer);
            prop_assert_eq!(group.usage(), added_up(&group), "after {:?}", step);
            // What is not referred to once, is never again: the sweep deletes it.
            let writes: Vec<WriteId> =
                (0..12).chain(4096..4100).map(|count| after(WriteId::new(NAMESPACE, 0), count)).collect();
            for (write, used) in writes.iter().zip(group.referenced(&writes)) {
                prop_assert!(!(used && gone.contains(write)), "{} is back after {:?}", write, step);
                if !used {
                    gone.insert(*write);
                }
            }
        }
        // Everything deleted, aborted and dropped leaves no row of any write.
        let first = WriteId::new(NAMESPACE, 0);
        group.table.commit(vec![unseal()]);
        let last = Session { epoch: Epoch(2), life: 0 };
        let open = Command::OpenSession { group: NAMESPACE, actor: ActorId(1), session: last };
        prop_assert_eq!(group.once(&open), Ok(MetaAnswer::Done));
        let proposer = || Proposer { session: last, ..proposer(1) };
        for key in 0..3 {
            let delete = Command::Object(bucket(), ObjectCommand::DeleteObject { proposer: proposer(), key: format!("key-{key}").into(), at: UnixMillis(1000), precondition: Precondition::default() });
            let gone = group.apply(&delete);
            prop_assert!(gone.is_ok());
        }
        let question = Query::Uploads { bucket: bucket(), prefix: String::new(), after: None, limit: 1000 };
        let Ok(MetaAnswer::Uploads(uploads, _)) = group.query(&question) else { panic!("no uploads") };
        for upload in uploads {
            let abort = Command::Object(bucket(), ObjectCommand::AbortUpload { proposer: proposer(), upload: upload.upload, at: UnixMillis(1000) });
            prop_assert!(group.apply(&abort).is_ok());
        }
        let writes = group.garbage().into_iter().map(|(_, write)| write).collect();
        let drop = Command::Upkeep(NAMESPACE, UpkeepCommand::DropGarbage { writes });
        prop_assert_eq!(group.apply(&drop), Ok(MetaAnswer::Done));
        for block in 0..3 {
            // A block that was not granted is refused: then there is nothing to close.
            let closed = group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::CloseBlock { first: after(first, block * 4096) }));
            prop_assert!(matches!(closed, Ok(MetaAnswer::Done) | Err(ErrorKind::Invalid)));
        }
        for drive in [1, 2].map(DriveId) {
            let Ok(MetaAnswer::Writes(writes)) = group.query(&Query::Owed { drive, limit: 1000 }) else { panic!("not told") };
            prop_assert_eq!(group.apply(&Command::Upkeep(NAMESPACE, UpkeepCommand::PayOwed { drive, writes })), Ok(MetaAnswer::Done));
        }
        prop_assert!(group.table.rows().all(|(key, _)| !b"WZPGUVKEe".contains(&key[0])), "{:?}", group.table);
        prop_assert_eq!(group.usage(), (0, 0));
    }
}
