//! Metadata commits a second on three nodes in one process, each durable on a majority, at 1, 16 and 64 proposers.
//!
//! `cargo bench -p mesh-dpu-runtime --bench metadata`

#[path = "../tests/metadata_cluster/mod.rs"]
mod metadata_cluster;

use std::{sync::Arc, time::Duration};

use mesh_core::id::WriteId;
use mesh_dpu_runtime::metadata::Timing;
use metadata_cluster::{Cluster, first_of, open_block, open_session, propose, put_object};

const BUDGET: Duration = Duration::from_secs(30);
const SPAN: Duration = Duration::from_secs(3);

fn main() {
    // Test runners list and run benches too; only `cargo bench` measures.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for proposers in [1, 16, 64] {
        let (commits, mut latencies) = runtime.block_on(measure(proposers));
        latencies.sort_unstable();
        let at = |share: usize| latencies[(latencies.len() - 1) * share / 100].as_micros() as f64 / 1000.0;
        let rate = commits as f64 / SPAN.as_secs_f64();
        println!("{proposers:3} proposers: {rate:8.0} commits/s, p50 {:6.2} ms, p99 {:6.2} ms", at(50), at(99));
    }
}

async fn measure(proposers: u64) -> (usize, Vec<Duration>) {
    let cluster = Arc::new(Cluster::start(3, &[1], Timing::default(), 5000).await);
    let leader = cluster.node(cluster.leader(1));
    let until = tokio::time::Instant::now() + SPAN;
    let mut tasks = Vec::new();
    for actor in 1..=proposers {
        let (leader, clock) = (Arc::clone(&leader), Arc::clone(&cluster.clock));
        tasks.push(tokio::spawn(async move {
            let mut latencies = Vec::new();
            let mut first = WriteId(0);
            propose(&leader, &*clock, open_session(1, actor, 1), BUDGET).await.expect("opened");
            for count in 0.. {
                if count % 4096 == 0 {
                    let open = open_block(1, actor, 1, count / 4096);
                    first = first_of(&propose(&leader, &*clock, open, BUDGET).await);
                }
                let begun = tokio::time::Instant::now();
                if begun >= until {
                    break;
                }
                let key = format!("{actor}/{}", count % 1000);
                let put = put_object(actor, 1, &key, WriteId(first.0 + count % 4096), count + 1);
                propose(&leader, &*clock, put, BUDGET).await.expect("committed");
                latencies.push(begun.elapsed());
            }
            latencies
        }));
    }
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await.expect("a proposer"));
    }
    for node in 1..=3 {
        cluster.close(node).await;
    }
    (latencies.len(), latencies)
}
