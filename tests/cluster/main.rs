//! Real processes: three `mesh serve` of two drives each, EC 2+1, over QUIC on loopback. Few and strong.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod drives;
mod metadata;
mod nodes;
mod parts;
#[path = "../ports/mod.rs"]
mod ports;
mod processes;
mod recovery;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mesh::Client;
use mesh_core::{
    Error, ErrorKind,
    topology::{DriveState, NodeState},
};
use processes::{Cluster, bytes_of, until};

/// What was acknowledged: key to seed and length.
type Acknowledged = Arc<Mutex<BTreeMap<String, (u64, usize)>>>;

const BUCKET: &str = "main";
/// One that keeps copies, where a test makes it.
const COPIES: &str = "copies";
const MARKER: &[u8] = b"this very sentence must not be found on any drive";

/// Puts that failed, and were tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Failures {
    all: u32,
    /// Of one object, at most.
    in_a_row: u32,
}

/// Where a stream puts what has this key.
fn bucket_of(key: &str) -> &'static str {
    if key.starts_with(COPIES) { COPIES } else { BUCKET }
}

/// Puts objects one after another until told to stop; a put that fails is tried again, as an SDK does, and counted.
async fn stream(client: Client, name: &str, acknowledged: Acknowledged, stop: Arc<AtomicBool>) -> Failures {
    let mut failures = Failures::default();
    for count in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let key = format!("{name}/{count:05}");
        let seed = u64::from(name.as_bytes()[0]) << 32 | count;
        let len = [0, 1, 4096, 70_000, 1_000_000, 5_000_000][(count % 6) as usize] + (count as usize % 97);
        for times in 1.. {
            match client.put_bytes(bucket_of(&key), &key, &bytes_of(seed, len)).await {
                Ok(_) => {
                    acknowledged.lock().unwrap().insert(key, (seed, len));
                    break;
                }
                Err(error) => {
                    println!("{key}, attempt {times}: {error}");
                    failures = Failures { all: failures.all + 1, in_a_row: failures.in_a_row.max(times) };
                    assert!(failures.all < 1000, "the stream of puts does not go on: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
    failures
}

async fn read_all(client: &Client, acknowledged: &Acknowledged, when: &str) {
    let all = acknowledged.lock().unwrap().clone();
    for (key, (seed, len)) in &all {
        let read = until(&format!("{key} is read {when}"), Duration::from_secs(60), async || {
            match client.get_bytes(bucket_of(key), key).await {
                Ok(bytes) => Ok(bytes),
                // What is gone or wrong stays so: only what may heal is asked again.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt | ErrorKind::Lost) => {
                    panic!("{key} is lost {when}: {error}")
                }
                Err(error) => Err(error),
            }
        })
        .await;
        assert!(read == bytes_of(*seed, *len), "{key} has other bytes {when}");
    }
    println!("{} objects read back {when}", all.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client(&[1, 2, 3]).await;
    client.put_bytes(BUCKET, "marked", MARKER).await.unwrap();
    client.put_bytes(BUCKET, "marked-large", &MARKER.repeat(100_000)).await.unwrap();

    // A node that leads is killed in the middle of a stream of puts through the others.
    let acknowledged = Acknowledged::default();
    let stop = Arc::new(AtomicBool::new(false));
    let victim = cluster.leader(&client, "group-1").await;
    let others: Vec<u64> = (1..=3).filter(|node| *node != victim).collect();
    let through_others = cluster.client(&others).await;
    // Told of this node alone, a client learns of the others.
    let told_of_one = cluster.client(&[victim]).await;
    until("any one node may be lost", Duration::from_secs(60), async || {
        let survival = told_of_one.status().await?.iter().find_map(|report| report.survival.clone());
        let is_safe = survival.as_ref().is_some_and(|survival| survival.reads && survival.writes);
        is_safe.then_some(()).ok_or_else(|| Error::new(ErrorKind::Timeout, format!("not yet: {survival:?}")))
    })
    .await;
    let streams: Vec<_> = ["a", "b"]
        .map(|name| {
            let (client, acknowledged, stop) = (through_others.clone(), acknowledged.clone(), stop.clone());
            tokio::spawn(async move { stream(client, name, acknowledged, stop).await })
        })
        .into();
    let count = || acknowledged.lock().unwrap().len();
    until("the stream flows", Duration::from_secs(60), async || enough(count(), 10)).await;
    cluster.kill(victim);
    let at_the_kill = count();
    until("the stream goes on", Duration::from_secs(90), async || enough(count(), at_the_kill + 12)).await;
    stop.store(true, Ordering::Release);
    let mut failures = 0;
    for stream in streams {
        failures += stream.await.unwrap().all;
    }
    println!("node-{victim} killed after {at_the_kill} puts; {} in all; {failures} puts were sent again", count());
    read_all(&through_others, &acknowledged, "with one node gone").await;
    let read = until("the client goes to another node", Duration::from_secs(30), async || {
        told_of_one.get_bytes(BUCKET, "marked").await
    });
    assert_eq!(read.await, MARKER);
    let status = through_others.status().await.unwrap();
    assert!(status.iter().any(|report| report.node.0 == victim && report.state == NodeState::Down), "{status:?}");

    // It returns; then another loses a drive's folder.
    cluster.serve(victim);
    cluster.all_up(&client, 6).await;
    let poor = others[0];
    cluster.kill(poor);
    std::fs::remove_dir_all(cluster.drive(poor, 'a')).unwrap();
    cluster.serve(poor);
    cluster.all_up(&client, 5).await;
    let status = client.status().await.unwrap();
    let missing: Vec<_> =
        status.iter().flat_map(|report| &report.drives).filter(|drive| drive.state == DriveState::Down).collect();
    assert_eq!(missing.len(), 1, "{status:?}");
    assert!(missing[0].reason.as_deref().unwrap_or("").contains("missing"), "{missing:?}");
    read_all(&client, &acknowledged, "with one drive deleted").await;

    // All of them at once.
    for node in 1..=3 {
        cluster.kill(node);
    }
    for node in 1..=3 {
        cluster.serve(node);
    }
    cluster.all_up(&client, 5).await;
    read_all(&client, &acknowledged, "after all three were killed at once").await;
    assert_eq!(client.get_bytes(BUCKET, "marked").await.unwrap(), MARKER);

    // Nothing at rest is readable; and a clean end is one.
    for node in 1..=3 {
        cluster.terminate(node);
    }
    let found = cluster.find_on_drives(&MARKER[..24]);
    assert!(found.is_empty(), "plaintext at rest in {found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_drives_refuse_writes_until_they_return() {
    let cluster = Cluster::start().await;
    let client = cluster.client(&[1, 2, 3]).await;
    client.put_bytes(BUCKET, "before", b"before").await.unwrap();
    let away = [(1, 'a'), (1, 'b'), (2, 'a'), (2, 'b')];
    for (node, drive) in away {
        std::fs::rename(cluster.drive(node, drive), cluster.drive(node, drive).with_extension("away")).unwrap();
    }
    cluster.all_up(&client, 2).await;
    let refused = until("a put is refused", Duration::from_secs(30), async || {
        match client.put_bytes(BUCKET, "refused", b"refused").await {
            Err(error) if error.kind() == ErrorKind::TooFewShards => Ok(error),
            Err(error) => Err(error),
            // Nodes learn of each other's drives with the next heartbeat.
            Ok(_) => Err(Error::invalid("not refused")),
        }
    })
    .await;
    assert!(refused.to_string().contains('3'), "it says how many are needed: {refused}");
    for (node, drive) in away {
        std::fs::rename(cluster.drive(node, drive).with_extension("away"), cluster.drive(node, drive)).unwrap();
    }
    cluster.all_up(&client, 6).await;
    until("writes resume", Duration::from_secs(30), async || client.put_bytes(BUCKET, "after", b"after").await).await;
    for key in ["before", "after"] {
        assert_eq!(client.get_bytes(BUCKET, key).await.unwrap(), key.as_bytes());
    }
}

fn enough(have: usize, want: usize) -> Result<(), Error> {
    if have >= want { Ok(()) } else { Err(Error::invalid(format!("{have} of {want}"))) }
}
