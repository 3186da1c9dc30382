//! What a live move costs by the size of the state that moves, while requests change that state.
//!
//! ```text
//! cargo bench -p mesh --bench moves
//! ```
//!
//! Three nodes in this process: real actor hosts and agents, QUIC with mutual TLS over loopback, a metadata group of three
//! replicas with its log on disk. Node 3 has the clients and drives the moves; a chain of policy and a ledger of N entries
//! of 64 bytes goes to and fro between nodes 1 and 2. The clients send at a steady rate, and every request changes an
//! entry. No drive and no cipher takes part. At the end the ledger has counted exactly the requests that were answered.
//!
//! - *pre-copy*: the state goes over while the chain works;
//! - *pause*: from the request to freeze to the end of the move, without the commit of the metadata group, which stands
//!   beside it;
//! - *frozen*: entries that were carried in the pause;
//! - *waited*: the longest that any client waited for an answer, by move: in the pause with its commit, during the
//!   pre-copy, and in as long a time without a move.
//!
//! | Variable | |
//! |---|---|
//! | `MESH_BENCH_MOVES` | of each size, 40 without it |
//! | `MESH_BENCH_ENTRIES` | sizes, with commas between; `0,1000,10000,100000,1000000` without it |
//! | `MESH_BENCH_RATE` | requests a second of all clients together, 2000 without it |
//! | `MESH_BENCH_DATA` | where the metadata group's log is; without it, where temporary files are |

#[path = "../s3/figures.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared; this bench needs a part of it")]
mod figures;
mod ledger;
mod load;
mod stations;

use std::time::Duration;

use figures::{Samples, short};
use mesh_core::{Error, id::NodeId};

use self::{load::Load, stations::Stations};

fn main() -> Result<(), Error> {
    let moves = number("MESH_BENCH_MOVES", 40)?;
    let rate = number("MESH_BENCH_RATE", 2000)?;
    let sizes = match std::env::var("MESH_BENCH_ENTRIES") {
        Ok(text) => text.split(',').map(parse).collect::<Result<_, _>>()?,
        Err(_) => vec![0, 1000, 10_000, 100_000, 1_000_000],
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::bug("no runtime").caused_by(error))?;
    runtime.block_on(run(&sizes, moves, rate))
}

async fn run(sizes: &[u64], moves: u64, rate: u64) -> Result<(), Error> {
    println!("{moves} moves of each size, {rate} requests a second, times in ms: median (least..p99..most)\n");
    println!(
        "| entries | pre-copy | pause | p99 | commit | frozen | waited in the pause | during pre-copy | without a move |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for entries in sizes {
        println!("{}", size(*entries, moves, rate).await?);
    }
    Ok(())
}

/// The line of one size.
async fn size(entries: u64, moves: u64, rate: u64) -> Result<String, Error> {
    let stations = Stations::start(entries).await?;
    let load = Load::start(stations.at(NodeId(3)), entries, rate);
    tokio::time::sleep(WARM_UP).await;
    let mut seen = Seen::default();
    for round in 0..moves {
        load.worst();
        tokio::time::sleep(QUIET).await;
        seen.quiet.push(millis(load.worst()));
        let to = NodeId(2 - round % 2);
        let moved = stations.move_to(to, || seen.copying.push(millis(load.worst()))).await?;
        // Who waited has his answer.
        tokio::time::sleep(SETTLE).await;
        seen.paused.push(millis(load.worst()));
        seen.copy.push(millis(moved.copy));
        seen.pause.push(millis(moved.pause));
        seen.commit.push(millis(moved.commit));
        seen.frozen.push(moved.carried.frozen as f64);
    }
    let answered = load.stop().await?;
    let counted = stations.counted().await?;
    // The question itself is counted, too.
    if counted != answered + 1 {
        return Err(Error::bug("the ledger lost or repeated a request")
            .with("counted", counted)
            .with("sent", answered));
    }
    stations.stop().await;
    Ok(format!(
        "| {entries} | {} | {} | {} | {} | {} | {} | {} | {} |",
        seen.copy,
        seen.pause,
        short(seen.pause.at(99)),
        seen.commit,
        seen.frozen,
        spread(&seen.paused),
        spread(&seen.copying),
        spread(&seen.quiet),
    ))
}

/// Of each move of one size.
#[derive(Default)]
struct Seen {
    copy: Samples,
    pause: Samples,
    commit: Samples,
    frozen: Samples,
    paused: Samples,
    copying: Samples,
    quiet: Samples,
}

fn spread(samples: &Samples) -> String {
    format!(
        "{} ({}..{}..{})",
        short(samples.median()),
        short(samples.at(0)),
        short(samples.at(99)),
        short(samples.at(100))
    )
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1000.0
}

fn number(variable: &str, otherwise: u64) -> Result<u64, Error> {
    std::env::var(variable).map_or(Ok(otherwise), |text| parse(&text))
}

fn parse(text: &str) -> Result<u64, Error> {
    text.trim().parse().map_err(|error| Error::invalid("a number is wanted").with("got", text).caused_by(error))
}

const WARM_UP: Duration = Duration::from_millis(300);
const QUIET: Duration = Duration::from_millis(30);
const SETTLE: Duration = Duration::from_millis(10);
