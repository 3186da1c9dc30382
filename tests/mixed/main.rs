//! A mesh of two architectures: x86_64 hosts, and an aarch64 DPU node in user-mode emulation. A chain moves between them
//! and back, is lost with the DPU, and comes back to it; what was stored on either side is read on the other.
//!
//! `MESH_AARCH64` names the aarch64 binary `mesh`; `.ci/aarch64` builds it and runs this. Without it this prints `SKIPPED`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../ports/mod.rs"]
mod ports;
mod processes;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use mesh::Client;
use processes::{Actor, DPU, HOSTS, Mixed, until};

/// What was acknowledged: key to seed and length.
type Acknowledged = BTreeMap<String, (u64, usize)>;

const BUCKET: &str = "main";
const HOST: u64 = 1;
/// Tenant 1's chain for what comes in at the host.
const CHAIN: &str = "chain-1-1";
/// Empty, less than a sector, one stripe with and without an odd end, several stripes.
const SIZES: [usize; 6] = [0, 1, 4096, 70_001, 1 << 20, 5_000_011];

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_moves_between_architectures_and_no_byte_changes() {
    let Some(binary) = std::env::var_os("MESH_AARCH64").map(PathBuf::from) else {
        println!("SKIPPED: MESH_AARCH64 names no aarch64 binary; .ci/aarch64 builds one");
        return;
    };
    let mut mixed = Mixed::found(binary);
    for host in 2..=HOSTS {
        mixed.serve(host);
    }
    let client = mixed.client(HOST).await;
    until("the first put", async || client.put_bytes(BUCKET, "first", b"first").await).await;
    let mut stored = Acknowledged::new();
    let mut last = mixed.runs_at(CHAIN, HOST).await;
    put_all(&client, "before any move", &mut stored).await;

    mixed.serve(DPU);
    let began = Instant::now();
    mixed.shows_the_dpu().await;
    println!("the DPU node is up {:.1} s after its start", began.elapsed().as_secs_f64());

    let stop = Arc::new(AtomicBool::new(false));
    let traffic = tokio::spawn(traffic(client.clone(), stop.clone()));

    // There, because DPUs are preferred; back and there again, because somebody says so.
    mixed.admin(&["prefer", "prefer-dpu"]).await;
    last = works_at(&mixed, &client, &mut stored, DPU, last).await;
    mixed.admin(&["move", CHAIN, "node-1"]).await;
    last = works_at(&mixed, &client, &mut stored, HOST, last).await;
    mixed.admin(&["move", CHAIN, "node-11"]).await;
    last = works_at(&mixed, &client, &mut stored, DPU, last).await;

    // Lost while it works: the chain comes back to the host, and to the DPU when that has come back.
    mixed.kill(DPU);
    let began = Instant::now();
    client.put_bytes(BUCKET, "after the loss", b"after the loss").await.unwrap();
    println!("a put was answered {:.2} s after the DPU was killed", began.elapsed().as_secs_f64());
    last = works_at(&mixed, &client, &mut stored, HOST, last).await;
    mixed.serve(DPU);
    last = works_at(&mixed, &client, &mut stored, DPU, last).await;

    stop.store(true, Ordering::Release);
    let (requests, beside) = traffic.await.unwrap();
    println!("{requests} requests of a client beside all that: none failed");
    read_all(&client, &beside, "of those put while the chain moved").await;

    // A client on the other side.
    let (file, copy) = (mixed.path("a-file"), mixed.path("its-copy"));
    let bytes = bytes_of(7, SIZES[5]);
    std::fs::write(&file, &bytes).unwrap();
    mixed.on_the_other_side(&["put", &file.display().to_string(), "from-aarch64"]).await;
    assert!(client.get_bytes(BUCKET, "from-aarch64").await.unwrap() == bytes);
    mixed.on_the_other_side(&["get", "from-aarch64", &copy.display().to_string()]).await;
    assert!(std::fs::read(&copy).unwrap() == bytes);

    // A clean end.
    mixed.terminate(DPU);
    works_at(&mixed, &client, &mut stored, HOST, last).await;
    println!("{}", mixed.admin(&["watch", "--once"]).await.trim_end());
    for host in 1..=HOSTS {
        mixed.terminate(host);
    }
}

/// Waits until the chain runs at a node under a newer epoch, puts through it there, and reads all that was ever stored.
/// What the chain counts shows that it was that node which did it.
async fn works_at(mixed: &Mixed, client: &Client, stored: &mut Acknowledged, node: u64, last: Actor) -> Actor {
    let began = Instant::now();
    let came = mixed.runs_at(CHAIN, node).await;
    let waited = began.elapsed().as_secs_f64();
    assert!(came.epoch > last.epoch, "epochs only grow: {last:?}, then {came:?}");
    assert_eq!(came.functions, ["policy", "compress", "encrypt", "erasure"]);
    let began = Instant::now();
    put_all(client, &format!("at node-{node} under {}", came.epoch), stored).await;
    let asked = read_all(client, stored, &format!("with the chain at node-{node}")).await;
    let left = mixed.runs_at(CHAIN, node).await;
    assert_eq!(left.epoch, came.epoch, "it stayed there: {left:?}");
    let requests = left.requests - came.requests;
    assert!(requests >= asked, "{requests} requests for {asked} objects: it was not that node which did it");
    println!(
        "node-{node}, epoch {}: seen after {waited:.2} s; {} objects right, {requests} requests in {:.1} s",
        left.epoch,
        stored.len(),
        began.elapsed().as_secs_f64(),
    );
    left
}

async fn put_all(client: &Client, name: &str, stored: &mut Acknowledged) {
    for len in SIZES {
        let (key, seed) = (format!("{name}/{len}"), stored.len() as u64);
        client.put_bytes(BUCKET, &key, &bytes_of(seed, len)).await.unwrap_or_else(|error| panic!("{key}: {error}"));
        stored.insert(key, (seed, len));
    }
}

/// Gives how many of them have bytes: an empty one asks nothing of the chain.
async fn read_all(client: &Client, stored: &Acknowledged, when: &str) -> u64 {
    for (key, (seed, len)) in stored {
        let read = client.get_bytes(BUCKET, key).await.unwrap_or_else(|error| panic!("{key} {when}: {error}"));
        assert!(read == bytes_of(*seed, *len), "{key} has other bytes {when}");
    }
    stored.values().filter(|(_, len)| *len > 0).count() as u64
}

/// Puts and gets, one after the other, until told to stop. Nothing may fail, whatever moves or dies meanwhile. Gives the
/// number of requests, and what they have left.
async fn traffic(client: Client, stop: Arc<AtomicBool>) -> (u64, Acknowledged) {
    let (mut requests, mut stored) = (0, Acknowledged::new());
    while !stop.load(Ordering::Acquire) {
        let (key, seed, len) = (format!("traffic/{}", requests % 64), requests, 1 + requests as usize * 4999 % 300_000);
        if let Err(error) = client.put_bytes(BUCKET, &key, &bytes_of(seed, len)).await {
            panic!("a put failed meanwhile: {error}");
        }
        match client.get_bytes(BUCKET, &key).await {
            Ok(read) => assert!(read == bytes_of(seed, len), "{key} has other bytes than were put"),
            Err(error) => panic!("a get failed meanwhile: {error}"),
        }
        stored.insert(key, (seed, len));
        requests += 2;
    }
    (requests, stored)
}

/// Bytes that a seed decides.
fn bytes_of(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
