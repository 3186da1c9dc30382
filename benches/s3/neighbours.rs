//! What a quiet tenant feels of a noisy one: its own latencies while the other asks for its share, and for ten times its share.
//!
//! Each of two tenants may ask for [`SHARE`] requests a second and a tenth more. The quiet one puts and gets 4 KiB in turn, together
//! as often as its share says. The noisy one puts and gets 64 KiB: at its share, and then as it likes: gets at ten times its
//! share, whatever comes of them, and beside them [`WAITING`] connections that always want to put something. What is over its
//! rate is refused (gets) or waits (puts).

use std::{
    env,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    client::{Connection, Credentials, Head},
    figures::{Samples, short},
    server::Server,
};

/// The argument that asks for this instead of the bench of throughput.
pub(crate) const NEIGHBOURS: &str = "neighbours";
/// Requests a second.
const SHARE: u64 = 40;
const FACTOR: u64 = 10;
/// Connections over which the noisy one gets.
const GETTING: usize = 64;
/// Connections over which it puts, once it is noisy.
const WAITING: usize = 256;
/// How long one phase is looked at.
const PHASE: Duration = Duration::from_secs(20);
/// Before it: what may be sent at once at first is used up.
const BURST: Duration = Duration::from_secs(2);
const QUIET_BYTES: usize = 4 << 10;
const NOISY_BYTES: usize = 64 << 10;

/// What a tenant is known by.
struct Tenant {
    credentials: Credentials,
    bucket: String,
}

impl Tenant {
    fn make(server: &Server, name: &str) -> Self {
        // Requests begin a little apart from each other: who keeps to its share is to be refused none.
        let rate = (SHARE + SHARE / 10).to_string();
        server.command(&["tenant", "create", name, "--requests", &rate]);
        let told = server.command(&["key", "create", name, "load", "--allow", "*=all"]);
        let half = |which: &str| {
            let line = told.lines().find_map(|line| line.strip_prefix("export ")?.strip_prefix(which));
            let value = line.and_then(|rest| rest.strip_prefix('=')).expect("a new key is told");
            value.trim_matches('\'').to_owned()
        };
        let (access, secret) = (half("AWS_ACCESS_KEY_ID"), half("AWS_SECRET_ACCESS_KEY"));
        let region = server.credentials.region.clone();
        let tenant = Self { credentials: Credentials { access, secret, region }, bucket: format!("of-{name}") };
        let begun = Instant::now();
        // A node learns of a new tenant a moment later.
        while tenant.ask(server, &mut open(server), "PUT", "", &[]) != 200 {
            assert!(begun.elapsed() < Duration::from_secs(60), "a new tenant makes a bucket");
            thread::sleep(Duration::from_millis(100));
        }
        tenant
    }

    fn ask(&self, server: &Server, connection: &mut Connection, method: &str, key: &str, body: &[u8]) -> u16 {
        let path = if key.is_empty() { format!("/{}", self.bucket) } else { format!("/{}/{key}", self.bucket) };
        let head = Head::signed(method, server.address, &path, body.len(), &self.credentials);
        let mut answer = Vec::new();
        connection.ask(&head, &[body], &mut answer).expect("the server answers")
    }
}

/// How often the noisy one was answered what.
#[derive(Default)]
struct Answers {
    served: AtomicU64,
    refused: AtomicU64,
}

impl Answers {
    fn count(&self, status: u16) {
        match status {
            200 => self.served.fetch_add(1, Ordering::Relaxed),
            503 => self.refused.fetch_add(1, Ordering::Relaxed),
            other => panic!("the noisy one was answered {other}"),
        };
    }
}

/// What the quiet one felt of one phase: the median and the 99th of a hundred, in milliseconds, of PUT and of GET.
type Felt = [[f64; 2]; 2];

/// Measures and prints.
pub(crate) fn measure() {
    let repetitions = env::var("MESH_BENCH_REPETITIONS").map_or(5, |text| text.parse().expect("a number"));
    let within = env::var_os("MESH_BENCH_DATA").map_or_else(env::temp_dir, Into::into);
    let folder = tempfile::Builder::new().prefix("mesh-bench-").tempdir_in(within).expect("a folder for the bench");
    let server = Server::mesh(&folder.path().join("mesh"));
    let (quiet, noisy) = (Tenant::make(&server, "quiet"), Tenant::make(&server, "noisy"));
    fill(&server, &quiet, &noisy);
    let mut felt: [[[Samples; 2]; 2]; 2] = Default::default();
    let mut asked: [[Samples; 2]; 2] = Default::default();
    for repetition in 0..=repetitions {
        for (at, factor) in [1, FACTOR].into_iter().enumerate() {
            let (latencies, answers) = phase(&server, &quiet, &noisy, factor);
            // The first one warms up.
            if repetition == 0 {
                continue;
            }
            for (samples, value) in felt[at].as_flattened_mut().iter_mut().zip(latencies.as_flattened()) {
                samples.push(*value);
            }
            let counted = [&answers.served, &answers.refused].map(|count| count.load(Ordering::Relaxed));
            for (samples, count) in asked[at].iter_mut().zip(counted) {
                samples.push(count as f64 / (PHASE + BURST).as_secs_f64());
            }
        }
    }
    print(&felt, &asked);
}

/// Every object that is asked for is there.
fn fill(server: &Server, quiet: &Tenant, noisy: &Tenant) {
    let mut connection = open(server);
    let put_all = |tenant: &Tenant, connection: &mut Connection, count: usize, bytes: usize| {
        for key in 0..count {
            while tenant.ask(server, connection, "PUT", &key.to_string(), &vec![7; bytes]) != 200 {}
        }
    };
    put_all(quiet, &mut connection, QUIET_OBJECTS, QUIET_BYTES);
    put_all(noisy, &mut connection, GETTING, NOISY_BYTES);
}

fn phase(server: &Server, quiet: &Tenant, noisy: &Tenant, factor: u64) -> (Felt, Answers) {
    let is_noisy = factor > 1;
    let putting = if is_noisy { WAITING } else { GETTING };
    // At its share it puts and gets as often; then nothing holds its puts but the mesh.
    let (gets, puts) = if is_noisy { (SHARE * factor, None) } else { (SHARE / 2, Some(SHARE / 2)) };
    let (answers, stop) = (Answers::default(), AtomicBool::new(false));
    let ready = Barrier::new(GETTING + putting + 1);
    let next = [AtomicU64::new(0), AtomicU64::new(0)];
    let felt = thread::scope(|scope| {
        let (answers, stop, ready, next) = (&answers, &stop, &ready, &next);
        let runs = (0..GETTING).map(|number| ("GET", Some(gets), 0, number));
        for (method, rate, turn, number) in runs.chain((0..putting).map(|number| ("PUT", puts, 1, number))) {
            let run = move || {
                let mut connection = open(server);
                let body = if method == "PUT" { vec![9; NOISY_BYTES] } else { Vec::new() };
                ready.wait();
                let begun = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    if let Some(rate) = rate {
                        // Whoever is free takes the next turn: one that waits for its answer holds up nobody.
                        let turn = next[turn].fetch_add(1, Ordering::Relaxed);
                        let at = begun + Duration::from_micros(turn * 1_000_000 / rate);
                        thread::sleep(at.saturating_duration_since(Instant::now()));
                    }
                    answers.count(noisy.ask(server, &mut connection, method, &(number % GETTING).to_string(), &body));
                }
            };
            thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, run).expect("a thread");
        }
        ready.wait();
        thread::sleep(BURST);
        let felt = feel(server, quiet);
        stop.store(true, Ordering::Relaxed);
        felt
    });
    (felt, answers)
}

/// The quiet one's requests, one after the other, at a steady pace.
fn feel(server: &Server, quiet: &Tenant) -> Felt {
    let (mut connection, body) = (open(server), vec![3; QUIET_BYTES]);
    let mut took: [Vec<f64>; 2] = Default::default();
    let begun = Instant::now();
    for turn in 0.. {
        let at = Duration::from_micros(turn * 1_000_000 / SHARE);
        if at >= PHASE {
            break;
        }
        thread::sleep(at.saturating_sub(begun.elapsed()));
        let which = (turn % 2) as usize;
        let (method, body) = if which == 0 { ("PUT", &body[..]) } else { ("GET", &[][..]) };
        let key = (turn / 2 % QUIET_OBJECTS as u64).to_string();
        let asked = Instant::now();
        let status = quiet.ask(server, &mut connection, method, &key, body);
        took[which].push(asked.elapsed().as_secs_f64() * 1e3);
        assert_eq!(status, 200, "a {method} of the quiet one");
    }
    took.map(|mut all| {
        all.sort_by(f64::total_cmp);
        [50, 99].map(|share| all[(all.len() - 1) * share / 100])
    })
}

fn print(felt: &[[[Samples; 2]; 2]; 2], asked: &[[Samples; 2]; 2]) {
    println!("{} cores", thread::available_parallelism().map_or(0, Into::into));
    println!("\n| the noisy one, requests a second | served | told to slow down |\n|---|---|---|");
    for (name, [served, refused]) in ["at its share", "above it"].into_iter().zip(asked) {
        println!("| {name} | {served} | {refused} |");
    }
    println!("\n| the quiet one, ms | beside one at its share | beside one above it | times |\n|---|---|---|---|");
    for (method, name) in ["PUT", "GET"].into_iter().enumerate() {
        for (which, what) in ["p50", "p99"].into_iter().enumerate() {
            let [before, after] = [0, 1].map(|at| &felt[at][method][which]);
            println!("| {name} {what} | {before} | {after} | {} |", after.against(before));
        }
    }
    println!("\nA median of {} is what is to be shown at most.", short(1.2));
}

fn open(server: &Server) -> Connection {
    Connection::open(server.address).expect("the server listens")
}

/// Objects of the quiet one.
const QUIET_OBJECTS: usize = 20;
