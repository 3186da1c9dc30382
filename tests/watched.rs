//! A mesh of three real processes, watched: what each says of itself grows by exactly what was done, every series has a name as
//! Prometheus wants it, and whether a node is ready is said in time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "ports/mod.rs"]
mod ports;
#[allow(dead_code, reason = "every test program uses a part of it")]
#[path = "cluster/processes.rs"]
mod processes;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use mesh::env::Env;
use mesh_core::{
    Error,
    meta::{Grant, TenantLimits},
    op::{AccessAnswer, AccessOp},
};
use mesh_fronts::s3::client::{Framing, Reply, Signer};
use mesh_transport::identity::Identity;
use processes::{Cluster, until};
use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};

const PATIENCE: Duration = Duration::from_secs(90);

/// What a node answers to who watches it: status and body; none: nobody answers.
fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// One scrape: a number for each series, and for each family its type.
#[derive(Debug, Default)]
struct Scrape {
    series: BTreeMap<String, f64>,
    families: BTreeMap<String, String>,
}

impl Scrape {
    /// Reads a node's figures, and holds them to every rule.
    fn of(address: SocketAddr) -> Self {
        let (status, text) = get(address, "/metrics").expect("the node answers");
        assert_eq!(status, 200, "{text}");
        let mut scrape = Self::default();
        let mut helped = BTreeSet::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap_or_else(|| panic!("a help without words: {line}"));
                assert!(help.ends_with('.') && help.len() > 10, "a help is a sentence: {line}");
                assert!(helped.insert(name.to_owned()), "two helps: {line}");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert!(helped.contains(name), "no help: {line}");
                assert_eq!(flaw(name, kind), None, "{line}");
                assert!(scrape.families.insert(name.to_owned(), kind.to_owned()).is_none(), "two types: {line}");
            } else {
                let (series, number) = line.rsplit_once(' ').unwrap();
                let name = series.split('{').next().unwrap();
                assert!(scrape.family(name).is_some(), "a series of no family: {line}");
                assert!(scrape.series.insert(series.to_owned(), number.parse().unwrap()).is_none(), "twice: {line}");
            }
        }
        scrape
    }

    /// The type of the family that a name is of.
    fn family(&self, name: &str) -> Option<&str> {
        let histogram = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .find(|name| self.families.get(*name).is_some_and(|kind| kind == "histogram"));
        self.families.get(histogram.unwrap_or(name)).map(String::as_str)
    }

    /// The sum of all series of a name whose labels have all of these.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        assert!(self.family(name).is_some(), "there is no {name}");
        let has = |series: &str| labels.iter().all(|(label, value)| series.contains(&format!("{label}=\"{value}\"")));
        let of = self.series.iter().filter(|(series, _)| series.split('{').next() == Some(name) && has(series));
        of.map(|(_, number)| number).sum()
    }
}

/// What is wrong with a name, by the conventions of Prometheus.
fn flaw(name: &str, kind: &str) -> Option<&'static str> {
    let plain =
        |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    let words: Vec<&str> = name.split('_').collect();
    match kind {
        _ if !plain(name) || words.first() != Some(&"mesh") || words.contains(&"") => {
            Some("no plain name of the mesh's")
        }
        _ if words.iter().any(|word| ["ms", "us", "ns", "kb", "mib", "percent", "millis"].contains(word)) => {
            Some("no base unit")
        }
        "counter" if !name.ends_with("_total") => Some("a counter ends in _total"),
        "gauge" | "histogram" if ["_total", "_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end)) => {
            Some("the ending of something else")
        }
        "histogram" if !name.ends_with("_seconds") => Some("a histogram without its unit"),
        "counter" | "gauge" | "histogram" => None,
        _ => Some("no type"),
    }
}

#[test]
fn names_that_break_the_conventions_are_found() {
    for (name, kind) in [("mesh_a_total", "counter"), ("mesh_a_bytes", "gauge"), ("mesh_a_seconds", "histogram")] {
        assert_eq!(flaw(name, kind), None, "{name}");
    }
    for (name, kind) in [
        ("mesh_a", "counter"),
        ("mesh_a_total", "gauge"),
        ("mesh_a_ms", "gauge"),
        ("mesh__a", "gauge"),
        ("Mesh_a", "gauge"),
        ("other_a", "gauge"),
        ("mesh_a", "histogram"),
        ("mesh_a", "untyped"),
    ] {
        assert!(flaw(name, kind).is_some(), "{name} {kind}");
    }
}

/// Asks S3, as whoever signs.
fn s3(address: SocketAddr, signer: &Signer, (method, target): (&str, &str), body: &[u8]) -> (u16, Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        use tokio::io::AsyncWriteExt as _;
        let (head, body) = signer.request(&address.to_string(), (method, target), &[], body, &Framing::Whole).unwrap();
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
        let reply = Reply::read(&mut stream, method).await.unwrap();
        (reply.status, reply.body)
    })
}

/// The access key of the founding tenant.
fn founding(cluster: &Cluster) -> Signer {
    let told = std::fs::read_to_string(cluster.dir(1).join("client.env")).unwrap();
    let value = |name: &str| {
        let line = told.lines().find_map(|line| line.strip_prefix(&format!("export {name}=")));
        line.unwrap().trim_matches('\'').to_owned()
    };
    Signer::new(&value("AWS_ACCESS_KEY_ID"), &value("AWS_SECRET_ACCESS_KEY"))
}

/// Another tenant with a key of its own.
async fn another(mesh: &[SocketAddr], cluster: &Cluster) -> Signer {
    let identity = Identity::load(&cluster.dir(1).join("admin.pem")).unwrap();
    let admin = mesh::quic::connect(mesh, identity, &Env::real().unwrap()).await.unwrap();
    let made = admin.access(AccessOp::CreateTenant { name: "acme".into(), limits: TenantLimits::default() });
    assert!(matches!(made.await.unwrap(), AccessAnswer::Tenant(_)));
    let grants = Some(vec![Grant::all()]);
    let made = admin.access(AccessOp::CreateKey { tenant: "acme".into(), user: "ann".into(), grants });
    let AccessAnswer::Key(key) = made.await.unwrap() else { panic!("no key") };
    Signer::new(&key.access, &key.secret)
}

async fn is_ready(address: SocketAddr) {
    until("a node is ready", PATIENCE, async || match get(address, "/readyz") {
        Some((200, _)) => Ok(()),
        other => Err(Error::invalid(format!("{address}: {other:?}"))),
    })
    .await;
}

/// Waits until a node is not ready any more: what it says.
async fn is_unready(address: SocketAddr) -> String {
    until("a node is not ready", PATIENCE, async || match get(address, "/readyz") {
        Some((503, why)) => Ok(why),
        other => Err(Error::invalid(format!("{address}: {other:?}"))),
    })
    .await
}

#[test]
fn what_a_mesh_says_of_itself_is_what_was_done_and_how_it_is() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let free = ports::free(6);
    let (watch, fronts) = free.split_at(3);
    let change = |text: &str| {
        let node = (1..=3_usize).find(|node| text.starts_with(&format!("node = {node}\n"))).unwrap();
        let (s3, watch) = (fronts[node - 1], watch[node - 1]);
        format!("{text}\n[s3]\naddress = \"{s3}\"\n\n[watch]\nlisten = \"{watch}\"\n")
    };
    let mut cluster = runtime.block_on(Cluster::start_with(change));
    for address in watch {
        runtime.block_on(is_ready(*address));
        assert_eq!(get(*address, "/healthz"), Some((200, "ok\n".to_owned())));
    }
    counts_what_is_done(&runtime, &cluster, watch, fronts[0]);
    every_node_tells_the_same(watch);
    one_picture_has_all_of_it(&cluster);
    for ends in [Ends::Key(b"q"), Ends::Key(b"\x03"), Ends::Signal("-TERM")] {
        a_terminal_is_drawn_on_and_given_back(&cluster, &ends);
    }

    // Two of three are gone: it cannot serve, says so, and lives.
    for node in [2, 3] {
        cluster.kill(node);
    }
    let why = runtime.block_on(is_unready(watch[0]));
    assert!(why.lines().count() >= 1 && !why.contains("stopping"), "{why}");
    assert_eq!(get(watch[0], "/healthz").map(|(status, _)| status), Some(200));
    let alone = Scrape::of(watch[0]);
    assert_eq!(alone.sum("mesh_node_ready", &[]), 0.0);
    assert!(alone.sum("mesh_seen_nodes", &[("state", "down")]) >= 2.0);
    for node in [2, 3] {
        cluster.serve(node);
    }
    for address in watch {
        runtime.block_on(is_ready(*address));
    }
    assert_eq!(Scrape::of(watch[0]).sum("mesh_node_ready", &[]), 1.0);
    // One that ends is not ready as long as it answers at all.
    cluster.terminate(3);
    assert_eq!(get(watch[2], "/readyz"), None);
}

/// Figures of a node before and after.
struct Since {
    address: SocketAddr,
    before: Scrape,
}

impl Since {
    fn now(address: SocketAddr) -> Self {
        Self { address, before: Scrape::of(address) }
    }

    /// Waits until a sum has grown by so much, and finds that it grows no further by itself: what an answer is counted by may come a
    /// moment after it.
    fn expect(&self, name: &str, labels: &[(&str, &str)], more: f64) {
        let began = Instant::now();
        loop {
            let grown = Scrape::of(self.address).sum(name, labels) - self.before.sum(name, labels);
            if grown == more {
                return;
            }
            assert!(
                grown < more && began.elapsed() < Duration::from_secs(20),
                "{name} {labels:?} has grown by {grown}, and not by {more}"
            );
        }
    }
}

fn counts_what_is_done(runtime: &tokio::runtime::Runtime, cluster: &Cluster, watch: &[SocketAddr], front: SocketAddr) {
    let ours = founding(cluster);
    let configured = std::fs::read_to_string(cluster.dir(1).join("mesh.toml")).unwrap();
    let address = configured.lines().find_map(|line| line.strip_prefix("address = ")).unwrap();
    let mesh = [address.trim_matches('"').parse().unwrap()];
    let theirs = runtime.block_on(another(&mesh, cluster));
    // Its chains have to run first.
    runtime.block_on(until("the other tenant is served", PATIENCE, async || {
        match std::thread::scope(|scope| scope.spawn(|| s3(front, &theirs, ("PUT", "/theirs"), b"")).join().unwrap()) {
            (200 | 409, _) => Ok(()),
            (status, _) => Err(Error::invalid(format!("it says {status}"))),
        }
    }));
    let all: Vec<Since> = watch.iter().copied().map(Since::now).collect();
    let since = &all[0];
    let body = |len: usize| vec![7_u8; len];
    for (key, len) in [("/main/a", 10), ("/main/b", 1000), ("/main/c", 100_000)] {
        assert_eq!(s3(front, &ours, ("PUT", key), &body(len)).0, 200);
    }
    for (key, len) in [("/main/a", 10), ("/main/c", 100_000)] {
        assert_eq!(s3(front, &ours, ("GET", key), b""), (200, body(len)));
    }
    assert_eq!(s3(front, &ours, ("GET", "/main/none"), b"").0, 404);
    assert_eq!(s3(front, &ours.forged(), ("GET", "/main/a"), b"").0, 403);
    assert_eq!(s3(front, &ours.unknown(), ("GET", "/main/a"), b"").0, 403);
    assert_eq!(s3(front, &theirs, ("PUT", "/theirs/x"), &body(77)).0, 200);
    assert_eq!(s3(front, &theirs, ("GET", "/main/a"), b"").0, 403);

    let requests = |tenant, operation, status, more| {
        let labels = [("tenant", tenant), ("operation", operation), ("status", status)];
        since.expect("mesh_s3_requests_total", &labels, more);
    };
    requests("default", "PutObject", "2xx", 3.0);
    requests("default", "GetObject", "2xx", 2.0);
    requests("default", "GetObject", "4xx", 1.0);
    requests("default", "PutObject", "5xx", 0.0);
    requests("acme", "PutObject", "2xx", 1.0);
    requests("acme", "GetObject", "4xx", 1.0);
    requests("", "none", "4xx", 2.0);
    since.expect("mesh_s3_received_bytes_total", &[("tenant", "default")], 101_010.0);
    since.expect("mesh_s3_sent_bytes_total", &[("tenant", "default")], 100_010.0);
    since.expect("mesh_s3_received_bytes_total", &[("tenant", "acme")], 77.0);
    since.expect("mesh_s3_sent_bytes_total", &[("tenant", "acme")], 0.0);
    since.expect("mesh_s3_refused_total", &[("reason", "signature")], 1.0);
    since.expect("mesh_s3_refused_total", &[("reason", "unknown_key")], 1.0);
    since.expect("mesh_s3_refused_total", &[("reason", "skewed")], 0.0);
    since.expect("mesh_s3_request_seconds_count", &[("operation", "PutObject")], 4.0);
    since.expect("mesh_s3_accepted_connections_total", &[], 10.0);
    since.expect("mesh_function_received_bytes_total", &[("function", "object"), ("tenant", "default")], 101_010.0);
    since.expect("mesh_function_sent_bytes_total", &[("function", "object"), ("tenant", "default")], 100_010.0);
    since.expect("mesh_function_received_bytes_total", &[("function", "object"), ("tenant", "acme")], 77.0);
    // Each of four objects is one stripe of three shards, which are on drives of all nodes.
    let shards = |scrape: &Scrape| scrape.sum("mesh_drive_stored_shards_total", &[]);
    let stored: f64 = all.iter().map(|since| shards(&Scrape::of(since.address)) - shards(&since.before)).sum();
    assert!(stored >= 12.0, "{stored} shards were stored");
    let (before, after) = (&all[0].before, Scrape::of(watch[0]));
    for (name, kind) in &after.families {
        if kind == "counter" {
            assert!(after.sum(name, &[]) >= before.sum(name, &[]), "{name} has fallen");
        }
    }
    assert_eq!(after.sum("mesh_node_info", &[("node", "node-1"), ("kind", "host")]), 1.0);
    assert_eq!(after.sum("mesh_drive_state", &[("state", "up")]), 2.0);
    assert_eq!(after.sum("mesh_seen_drives", &[("state", "up")]), 6.0);
    assert_eq!(after.sum("mesh_link_peers_up", &[]), 2.0);
}

/// Whatever runs on a node: who looks at one knows what there is of all.
fn every_node_tells_the_same(watch: &[SocketAddr]) {
    let all: Vec<Scrape> = watch.iter().copied().map(Scrape::of).collect();
    for scrape in &all {
        assert!(scrape.families.len() > 60, "{}", scrape.families.len());
        assert_eq!(scrape.families, all[0].families);
    }
    let leads: f64 = all.iter().map(|scrape| scrape.sum("mesh_group_leads", &[("group", "group-0")])).sum();
    assert_eq!(leads, 1.0, "one of them leads the control group");
    let secret = ["AKIA", "MESH0", "/main/", "secret"];
    for address in watch {
        let text = get(*address, "/metrics").unwrap().1;
        assert!(secret.iter().all(|word| !text.contains(word)), "{text}");
    }
}

/// `mesh top` shows every node and what its front end does; it draws on no file.
fn one_picture_has_all_of_it(cluster: &Cluster) {
    let (is_well, said) = cluster.administer(&["top", "--once", "--every", "250ms"], "");
    assert!(is_well, "{said}");
    let line = |begins: &str| {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<String>>();
        let found: Vec<_> = said.lines().filter(|line| line.starts_with(begins)).map(words).collect();
        assert!(!found.is_empty(), "no {begins}: {said}");
        found
    };
    assert!(said.starts_with("mesh top "), "{said}");
    assert!(said.lines().next().unwrap().contains("nodes: 3 alive"), "{said}");
    for node in ["node-1 ", "node-2 ", "node-3 "] {
        // As a node, and as a front end; both with rates, which take two answers.
        let [as_node, as_front] = &line(node)[..] else { panic!("{said}") };
        assert_eq!((&*as_node[1], &*as_node[2], &*as_node[6]), ("host", "alive", "2/2"), "{said}");
        assert!(as_node[9].parse::<f64>().is_ok(), "{said}");
        assert!(as_front[1].parse::<f64>().is_ok(), "{said}");
    }
    assert!(line("all ")[0][1].parse::<f64>().is_ok(), "{said}");
    assert!(line("default ").iter().all(|chain| chain[1].starts_with("chain-1-")), "{said}");
    line("acme ");
    assert!(said.contains("repair: ") && said.contains("scrub: 6 drives"), "{said}");
    assert!(said.chars().all(|c| c == '\n' || !c.is_control()), "{said:?}");
    let (is_well, said) = cluster.administer(&["top"], "");
    assert!(!is_well && said.contains("needs a terminal: say --once"), "{said}");
    assert!(!said.contains('\u{1b}'), "{said:?}");
}

/// How `mesh top` comes to its end.
#[derive(Debug)]
enum Ends {
    Key(&'static [u8]),
    Signal(&'static str),
}

/// A terminal of a hundred columns and thirty lines: who sits at it, and what a program has of it.
fn terminal() -> (File, OwnedFd) {
    let seat = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&seat).unwrap();
    unlockpt(&seat).unwrap();
    let name = ptsname(&seat, Vec::new()).unwrap();
    let screen = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    tcsetwinsize(&screen, Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    (seat.into(), screen)
}

fn a_terminal_is_drawn_on_and_given_back(cluster: &Cluster, ends: &Ends) {
    let (mut seat, screen) = terminal();
    let modes = |screen: &OwnedFd| {
        let Termios { input_modes, output_modes, local_modes, .. } = tcgetattr(screen).unwrap();
        (input_modes, output_modes, local_modes)
    };
    let before = modes(&screen);
    let mut command = cluster.order(&["top"]);
    let part = || Stdio::from(screen.try_clone().unwrap());
    let mut top = command.stdin(part()).stdout(part()).stderr(part()).spawn().unwrap();
    // It has the other end of the terminal, too, which ends only when nobody has it.
    drop(command);
    let (shown, show) = mpsc::channel();
    let mut seen_by = seat.try_clone().unwrap();
    std::thread::spawn(move || {
        let mut some = [0; 4096];
        // An error says that nobody has the other end any more.
        while let Ok(len @ 1..) = seen_by.read(&mut some) {
            shown.send(some[..len].to_vec()).unwrap();
        }
    });
    let mut all = Vec::new();
    let said = |all: &[u8]| String::from_utf8_lossy(all).into_owned();
    while !said(&all).contains("HAPPENED") || !said(&all).contains("node-3") {
        match show.recv_timeout(PATIENCE) {
            Ok(more) => all.extend(more),
            Err(error) => {
                top.kill().ok();
                top.wait().ok();
                panic!("{error}: {:?}", said(&all));
            }
        }
    }
    assert_ne!(modes(&screen), before, "it reads single keys");
    match ends {
        Ends::Key(key) => seat.write_all(key).unwrap(),
        Ends::Signal(signal) => {
            assert!(Command::new("kill").args([*signal, &top.id().to_string()]).status().unwrap().success());
        }
    }
    let ended = top.wait().unwrap();
    assert!(ended.success(), "{ends:?}: {ended}: {:?}", said(&all));
    assert_eq!(modes(&screen), before, "{ends:?}");
    drop(screen);
    all.extend(show.iter().flatten());
    // The screen of before, and the cursor, are there again.
    let last = |what: &str| said(&all).rfind(what).unwrap_or_else(|| panic!("no {what:?}: {:?}", said(&all)));
    assert!(last("\u{1b}[?1049l") > last("\u{1b}[?1049h"), "{ends:?}");
    assert!(last("\u{1b}[?25h") > last("\u{1b}[?25l"), "{ends:?}");
}
