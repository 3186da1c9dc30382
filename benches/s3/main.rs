//! S3 PUT and GET through a whole mesh, against what the machine allows and, if one is named, against a peer.
//!
//! ```text
//! cargo bench -p mesh --bench s3
//! cargo bench -p mesh --bench s3 -- neighbours
//! ```
//!
//! The second one is what a quiet tenant feels of a noisy one; see that module's page. The first one:
//!
//! A release `mesh dev` (three nodes, six drives, code 2+1, in one process) takes objects from this process over
//! loopback. Beside it, taking turns with it: a bare HTTP server that keeps objects in memory; the disk under the mesh's
//! folder, written by one thread; the primitives on one core; and a peer. A ratio is that of two sides of one
//! repetition; figures are medians with the least and the most. Every answer is checked, and every
//! [`COMPARED`]th body compared byte by byte.
//!
//! | Variable | |
//! |---|---|
//! | `MESH_BENCH_DATA` | where the folder of the mesh and the disk's file are made; without it, where temporary files are |
//! | `MESH_BENCH_REPETITIONS` | how many, 5 without it; one more warms up |
//! | `MESH_BENCH_PEER_S3` | `http://host:port` of another S3 server, made and run by you |
//! | `MESH_BENCH_PEER_ACCESS_KEY`, `_SECRET_KEY`, `_REGION`, `_BUCKET` | for it; the bucket is made if it is not there |
//! | `MESH_BENCH_PEER_PIDS` | its processes, with commas between, so that their CPU is counted |

mod bare;
mod client;
mod figures;
mod limits;
mod neighbours;
mod server;

use std::{
    env,
    sync::Barrier,
    time::{Duration, Instant},
};

use client::{Connection, Head};
use figures::{Samples, short};
use limits::{Limits, MIB};
use server::Server;

/// So many requests by so many clients at once.
struct Load {
    name: &'static str,
    bytes: usize,
    clients: usize,
    /// Of all clients together.
    puts: usize,
    gets: usize,
}

const LOADS: [Load; 4] = [
    Load { name: "1 MiB, 1 client", bytes: MIB, clients: 1, puts: 64, gets: 128 },
    Load { name: "1 MiB, 16 clients", bytes: MIB, clients: 16, puts: 192, gets: 512 },
    Load { name: "4 KiB, 1 client", bytes: 4096, clients: 1, puts: 128, gets: 512 },
    Load { name: "4 KiB, 16 clients", bytes: 4096, clients: 16, puts: 1024, gets: 4096 },
];

/// What one side came to with one load and method.
#[derive(Default)]
struct Outcome {
    requests_a_second: Samples,
    p50_ms: Samples,
    p99_ms: Samples,
    cpu_ms: Samples,
}

fn main() {
    let given = |name: &str| env::args().any(|argument| argument == name);
    if given(server::BARE) {
        bare::serve().expect("the bare server serves");
        return;
    }
    // Test runners list and run benches too; only `cargo bench` measures.
    if !given("--bench") {
        return;
    }
    if given(neighbours::NEIGHBOURS) {
        neighbours::measure();
        return;
    }
    let repetitions = env::var("MESH_BENCH_REPETITIONS").map_or(5, |text| text.parse().expect("a number"));
    let within = env::var_os("MESH_BENCH_DATA").map_or_else(env::temp_dir, Into::into);
    let folder = tempfile::Builder::new().prefix("mesh-bench-").tempdir_in(within).expect("a folder for the bench");
    let mut limits = Limits::new(folder.path());
    let mut servers = vec![Server::mesh(&folder.path().join("mesh")), Server::bare()];
    servers.extend(Server::peer());
    // Not to be pressed together by anybody.
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    let bytes: Vec<u8> = core::iter::repeat_with(|| next(&mut noise)).take(MIB).collect();
    println!("load average {}", load_average());

    let mut outcomes: Vec<[Outcome; 2]> =
        core::iter::repeat_with(Default::default).take(LOADS.len() * servers.len()).collect();
    for repetition in 0..=repetitions {
        if repetition > 0 {
            limits.measure();
        }
        for (at, load) in LOADS.iter().enumerate() {
            for (side, server) in servers.iter().enumerate() {
                let outcome = &mut outcomes[at * servers.len() + side];
                for (method, outcome) in ["PUT", "GET"].into_iter().zip(outcome) {
                    // The first one warms up.
                    let mut of_no_account = Outcome::default();
                    let outcome = if repetition > 0 { outcome } else { &mut of_no_account };
                    phase(server, load, method, repetition, &bytes, outcome);
                }
            }
        }
    }
    let idle = idle_cores(&servers[0]);
    println!("load average {}\n", load_average());
    print_limits(&limits);
    for (load, sides) in LOADS.iter().zip(outcomes.chunks(servers.len())) {
        for (at, method) in ["PUT", "GET"].into_iter().enumerate() {
            let sides: Vec<&Outcome> = sides.iter().map(|side| &side[at]).collect();
            print_sides(load, method, &servers, &sides, &limits);
        }
    }
    println!("An idle mesh takes {} of a core.", short(idle));
}

/// All clients' requests of one method, from the first one's start to the last one's end.
fn phase(server: &Server, load: &Load, method: &str, repetition: usize, bytes: &[u8], outcome: &mut Outcome) {
    let count = if method == "PUT" { load.puts } else { load.gets } / load.clients;
    let generation = if server.overwrites { 0 } else { repetition };
    let (ready, begin) = (Barrier::new(load.clients + 1), Barrier::new(load.clients + 1));
    let mut cpu = None;
    let (mut latencies, took) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..load.clients)
            .map(|client| {
                let (ready, begin) = (&ready, &begin);
                scope.spawn(move || {
                    let keys = (0..count).map(|index| {
                        let object = index % (load.puts / load.clients);
                        (object, format!("/{}/{}/{generation}/{client}/{object}", server.bucket, load.bytes))
                    });
                    let length = if method == "PUT" { load.bytes } else { 0 };
                    let sign = |path: &str| Head::signed(method, server.address, path, length, &server.credentials);
                    let requests: Vec<_> = keys.map(|(object, path)| (object, sign(&path))).collect();
                    let connection = Connection::open(server.address).expect("the server listens");
                    ready.wait();
                    begin.wait();
                    run(connection, load, method, client, &requests, bytes)
                })
            })
            .collect();
        ready.wait();
        cpu = server.cpu_seconds();
        let begun = Instant::now();
        begin.wait();
        let latencies: Vec<Duration> =
            clients.into_iter().flat_map(|client| client.join().expect("every answer is right")).collect();
        (latencies, begun.elapsed())
    });
    let cpu = server.cpu_seconds().zip(cpu).map(|(after, before)| after - before);
    latencies.sort_unstable();
    let at = |share: usize| latencies[(latencies.len() - 1) * share / 100].as_secs_f64() * 1e3;
    outcome.requests_a_second.push(latencies.len() as f64 / took.as_secs_f64());
    outcome.p50_ms.push(at(50));
    outcome.p99_ms.push(at(99));
    outcome.cpu_ms.push(cpu.map_or(f64::NAN, |cpu| cpu * 1e3 / latencies.len() as f64));
}

/// One client's requests, one after the other.
fn run(
    mut connection: Connection,
    load: &Load,
    method: &str,
    client: usize,
    requests: &[(usize, Head)],
    bytes: &[u8],
) -> Vec<Duration> {
    let mut answer = Vec::with_capacity(load.bytes);
    let mut latencies = Vec::with_capacity(requests.len());
    for (index, (object, head)) in requests.iter().enumerate() {
        // An object begins with whose it is: no other one's bytes pass for its own.
        let stamp = ((client << 32) | object).to_le_bytes();
        let rest = &bytes[stamp.len()..load.bytes];
        let body: &[&[u8]] = if method == "PUT" { &[&stamp, rest] } else { &[] };
        let begun = Instant::now();
        let status = connection.ask(head, body, &mut answer).expect("the server answers");
        latencies.push(begun.elapsed());
        assert_eq!(status, 200, "{method}: {}", String::from_utf8_lossy(&answer));
        if method == "GET" {
            assert_eq!(answer.len(), load.bytes, "the length of an object");
            assert_eq!(answer[..stamp.len()], stamp, "whose an object is");
            if index % COMPARED == 0 {
                assert!(&answer[stamp.len()..] == rest, "an object comes back as it was put");
            }
        }
    }
    latencies
}

/// Cores that a server keeps busy when nobody asks it for anything.
fn idle_cores(server: &Server) -> f64 {
    let before = server.cpu_seconds().unwrap_or(f64::NAN);
    std::thread::sleep(IDLE);
    (server.cpu_seconds().unwrap_or(f64::NAN) - before) / IDLE.as_secs_f64()
}

fn print_limits(limits: &Limits) {
    let Limits { primitives, disk, direct, .. } = limits;
    println!("Primitives, ms of CPU a MiB, and how many copies of the same bytes each is:\n");
    println!("| | ms | copies |\n|---|---|---|");
    let named = [
        ("copy", &primitives.copy),
        ("CRC32C", &primitives.crc32c),
        ("AES-256-GCM", &primitives.seal),
        ("MD5", &primitives.md5),
    ];
    for (name, samples) in named {
        println!("| {name} | {samples} | {} |", samples.against(&primitives.copy));
    }
    println!("\nThe disk, {}, MB/s of objects of 1 MiB:\n", if *direct { "O_DIRECT" } else { "by the page cache" });
    println!("| | MB/s |\n|---|---|");
    println!("| one thread writes 1.5 times the bytes, fdatasync every object | {} |", disk.one_by_one);
    println!("| one thread writes 1.5 times the bytes, fdatasync every 16 | {} |", disk.in_groups);
    println!("| one thread reads | {} |", disk.read);
    println!("| 16 threads read | {} |\n", disk.read_by_16);
}

fn print_sides(load: &Load, method: &str, servers: &[Server], sides: &[&Outcome], limits: &Limits) {
    let megabytes = load.bytes as f64 / 1e6;
    println!("{method} {}:\n", load.name);
    println!("| | requests/s | MB/s | p50 ms | p99 ms | server CPU ms a request |\n|---|---|---|---|---|---|");
    for (server, side) in servers.iter().zip(sides) {
        let throughput = short(side.requests_a_second.median() * megabytes);
        let Outcome { requests_a_second, p50_ms, p99_ms, cpu_ms } = side;
        println!("| {} | {requests_a_second} | {throughput} | {p50_ms} | {p99_ms} | {cpu_ms} |", server.name);
    }
    println!("\n| mesh against | |\n|---|---|");
    let ours = sides[0];
    for (server, side) in servers.iter().zip(sides).skip(1) {
        println!("| {}: throughput | {} |", server.name, ours.requests_a_second.against(&side.requests_a_second));
        println!("| {}: p50 | {} |", server.name, ours.p50_ms.against(&side.p50_ms));
        let cpu = ours.cpu_ms.against(&side.cpu_ms);
        // A side that took less than the clock's tick has no figure.
        if cpu.is_finite() {
            println!("| {}: server CPU | {cpu} |", server.name);
        }
    }
    if load.bytes == MIB {
        print_bounds(load, method, ours, limits);
    }
    println!();
}

/// What the mesh came to with objects of 1 MiB, against the machine's limits.
fn print_bounds(load: &Load, method: &str, ours: &Outcome, limits: &Limits) {
    let Limits { primitives, disk, .. } = limits;
    let throughput = ours.requests_a_second.times(load.bytes as f64 / 1e6);
    // A PUT hashes and seals what comes and checks what goes to three drives; a GET opens and checks two shards.
    let (least, bounds) = if method == "PUT" {
        let least = primitives.crc32c.times(1.5).plus(&primitives.seal).plus(&primitives.md5);
        (least, [("fdatasync every object", &disk.one_by_one), ("fdatasync every 16", &disk.in_groups)])
    } else {
        let least = primitives.crc32c.plus(&primitives.seal);
        (least, [("one thread reads", &disk.read), ("16 threads read", &disk.read_by_16)])
    };
    println!("| primitives of its bytes: server CPU | {} |", ours.cpu_ms.against(&least));
    for (name, bound) in bounds {
        println!("| disk, {name}: throughput | {} |", throughput.against(bound));
    }
}

/// The next of a xorshift's bytes.
fn next(state: &mut u64) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 32) as u8
}

/// Of the last minute, five and fifteen; what else this machine does.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Of so many bodies that come back, one is compared as a whole.
const COMPARED: usize = 8;
const IDLE: Duration = Duration::from_secs(5);
