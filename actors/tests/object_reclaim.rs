//! Reclaim while drives are away: one that does not answer holds up nothing but what it is owed itself.

mod object_host;

use core::time::Duration;

use mesh_core::{id::DriveId, meta::Precondition, op::ObjectOp};

use object_host::{GRACE, Host, whole};

const OBJECTS: usize = 3000;

/// A host with so many objects that were just deleted, while these drives did not answer.
fn deleted(objects: usize, down: &[u64]) -> Host {
    let mut host = Host::that_does_not_sweep(100);
    for number in 0..objects {
        host.put(&format!("k{number}"), whole(), b"some bytes", "e").expect("put");
    }
    host.down = down.iter().copied().map(DriveId).collect();
    for number in 0..objects {
        let (bucket, key) = ("photos".into(), format!("k{number}").into());
        host.run(ObjectOp::Delete { bucket, key, precondition: Precondition::default() }).expect("deleted");
    }
    host
}

/// Shards on these drives.
fn held(host: &Host, drives: &[u64]) -> usize {
    let held = drives.iter().filter_map(|drive| host.shards.get(&DriveId(*drive)));
    held.map(|held| held.len()).sum()
}

/// How long it takes until these drives hold nothing any more.
fn until_nothing_is_held(host: &mut Host, drives: &[u64]) -> Duration {
    let began = host.now;
    while held(host, drives) > 0 {
        assert!(host.now.since(began) < Duration::from_secs(3600), "{} shards after an hour", held(host, drives));
        host.wait(Duration::from_secs(1));
    }
    host.now.since(began)
}

#[test]
fn a_drive_that_is_down_does_not_hold_up_what_others_hold() {
    let healthy = until_nothing_is_held(&mut deleted(OBJECTS, &[]), &[1, 2]);
    let degraded = until_nothing_is_held(&mut deleted(OBJECTS, &[3]), &[1, 2]);
    assert!(healthy < GRACE + Duration::from_secs(15), "{healthy:?}");
    assert!(degraded <= healthy + Duration::from_secs(1), "{degraded:?} with a drive down, {healthy:?} without");
}

#[test]
fn a_drive_that_returns_deletes_what_it_is_owed() {
    let mut host = deleted(OBJECTS, &[3]);
    until_nothing_is_held(&mut host, &[1, 2]);
    host.wait(Duration::from_secs(4 * 3600));
    assert_eq!((held(&host, &[3]), host.metadata.garbage.len(), host.metadata.owed.len()), (OBJECTS, 0, OBJECTS));
    host.down.clear();
    let took = until_nothing_is_held(&mut host, &[3]);
    assert!(took <= Duration::from_secs(40), "{took:?}");
    host.wait(Duration::from_secs(5));
    assert!(host.metadata.owed.is_empty());
    host.assert_at_rest();
}

#[test]
fn drives_that_come_and_go_and_crashes_leave_nothing_behind() {
    let mut host = deleted(600, &[3]);
    for round in 0..30_u64 {
        host.wait(Duration::from_secs(7));
        host.down = [DriveId(1 + round % 3)].into();
        if round % 4 == 3 {
            // Whoever was at it is gone, and somebody else begins with what the groups know.
            host.crash();
        }
    }
    host.down.clear();
    until_nothing_is_held(&mut host, &[1, 2, 3]);
    host.wait(Duration::from_secs(5));
    assert!(host.metadata.owed.is_empty() && host.metadata.garbage.is_empty());
    host.assert_at_rest();
}

#[test]
fn a_lost_drive_is_owed_nothing_any_more() {
    let mut host = deleted(100, &[3]);
    until_nothing_is_held(&mut host, &[1, 2]);
    assert_eq!(host.metadata.owed.len(), 100);
    host.lose(DriveId(3));
    host.wait(Duration::from_secs(40));
    assert_eq!((host.metadata.owed.len(), held(&host, &[3])), (0, 100));
    host.assert_at_rest();
}
