//! What users say to the placement engine of a real `mesh dev --dpus 2`, and what it says to them: every command is done, or
//! refused with its reason, and all the time objects are stored and come back whole.
//!
//! Nodes 1 to 3 are hosts; node 11 is the DPU of node 1, node 12 that of node 2; node 3 has none. `chain-1-N` serves the
//! requests that come in at node N; the S3 front end and the clients here use node 1.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use mesh::{
    config::{Config, DpuConfig, NodeNumber, PeerConfig},
    provision::Provision,
};
use mesh_core::{bluefield::Generation, id::NodeId};
use serde_json::Value;

const MESH: &str = env!("CARGO_BIN_EXE_mesh");
/// However slow the machine is: what is waited for here takes a second or so.
const PATIENCE: Duration = Duration::from_secs(60);
/// A refusal, and a line that cannot be understood.
const REFUSED: i32 = 1;
const MISUNDERSTOOD: i32 = 2;

/// A `mesh dev` in a temporary folder; killed when dropped.
struct Dev {
    child: Child,
    folder: tempfile::TempDir,
    /// The newest place and epoch that each chain was seen to have.
    seen: RefCell<BTreeMap<String, (String, u64)>>,
    stored: Cell<u8>,
}

impl Drop for Dev {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    if child.kill().is_ok() {
        child.wait().ok();
    }
}

impl Dev {
    fn start(dpus: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(MESH)
            .args(["dev", "--s3-port", "0", "--drive-size", "1GiB", "--dpus", &dpus.to_string(), "--data"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let ready = line_with(child.stdout.take().unwrap(), "is ready");
        let dev = Self { child, folder, seen: RefCell::default(), stored: Cell::default() };
        ready.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("the mesh did not get ready: {error}"));
        dev
    }

    fn stop(mut self) {
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Runs the command with the variables of `dev.env`, as a shell gets them.
    fn run(&self, args: &[&str]) -> Output {
        let sourced = ". \"$0\" && exec \"$@\"";
        Command::new("sh").args(["-c", sourced]).arg(self.path().join("dev.env")).arg(MESH).args(args).output().unwrap()
    }

    /// What the command prints; it must succeed.
    fn done(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "mesh {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The command must be refused, with this exit code, and the message must have all of `reason`.
    fn refused(&self, code: i32, args: &[&str], reason: &[&str]) {
        let output = self.run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "mesh {args:?}: {said}");
        assert!(output.stdout.is_empty(), "what is refused has done nothing that could be told: {output:?}");
        assert!(said.starts_with("error: "), "{said}");
        for part in reason {
            assert!(said.contains(part), "mesh {args:?} does not say {part:?}: {said}");
        }
    }

    fn json(&self, what: &str) -> Value {
        serde_json::from_str(&self.done(&[what, "--json"])).unwrap()
    }

    fn node(&self, id: &str) -> Option<Value> {
        self.json("status")["nodes"].as_array().unwrap().iter().find(|node| node["id"] == id).cloned()
    }

    /// Asks again and again until there is an answer.
    fn until<T>(&self, what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = answer() {
                return found;
            }
            assert!(began.elapsed() < PATIENCE, "never: {what}\n{}{}", self.done(&["actors"]), self.done(&["plan"]));
        }
    }

    /// Waits until the chain runs there, by the newest epoch that a node runs it under; epochs only grow.
    fn runs(&self, chain: &str, node: &str) -> u64 {
        let epoch = self.until(&format!("{chain} on {node}"), || {
            let actors = self.json("actors");
            let own = actors.as_array().unwrap().iter().filter(|one| one["id"] == chain && one["phase"] == "running");
            let newest = own.max_by_key(|one| one["epoch"].as_u64())?;
            (newest["node"] == node).then(|| newest["epoch"].as_u64().unwrap())
        });
        let before = self.seen.borrow_mut().insert(chain.to_owned(), (node.to_owned(), epoch));
        if let Some((place, last)) = before {
            assert!(epoch > last || (epoch == last && place == node), "{chain}: {place} e{last}, then {node} e{epoch}");
        }
        epoch
    }

    /// The line of the plan about the chain that serves this host.
    fn planned(&self, host: &str, what_if: &[&str]) -> String {
        let plan = self.done(&[&["plan"], what_if].concat());
        let chain = format!("chain-1-{}", host.strip_prefix("node-").unwrap());
        let line = plan.lines().find(|line| line.contains(&format!(" {chain}: ")));
        line.unwrap_or_else(|| panic!("nothing about {chain}: {plan}")).to_owned()
    }

    /// Stores one more object, and reads it and the first one.
    fn stores_and_fetches(&self) {
        let number = self.stored.replace(self.stored.get() + 1);
        let object = |number: u8| -> Vec<u8> { (0..300_001_u32).map(|at| (at % 251) as u8 ^ number).collect() };
        let file = self.path().join("object");
        std::fs::write(&file, object(number)).unwrap();
        self.done(&["put", "--quiet", file.to_str().unwrap(), &format!("object-{number}")]);
        for number in BTreeSet::from([0, number]) {
            let got = self.run(&["get", "--quiet", &format!("object-{number}"), "-"]);
            assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
            assert!(got.stdout == object(number), "object-{number}: {} bytes came back", got.stdout.len());
        }
    }

    /// The pid of the process of DPU 1, if `mesh dpu list` knows one.
    fn pid(&self) -> Option<u32> {
        let list = self.done(&["dpu", "list"]);
        let line = list.lines().find(|line| line.starts_with("dpu 1 node-11 of node-1: emulated bf3, ")).unwrap();
        line.split_once(", pid ").map(|(_, pid)| pid.parse().unwrap())
    }

    /// SIGKILL to DPU 1, of which the parent tells the mesh nothing.
    fn kill(&self) -> u32 {
        let pid = self.pid().unwrap();
        assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
        pid
    }
}

/// Reads a child's output to its end, and tells when a line has this text.
fn line_with(output: impl std::io::Read + Send + 'static, text: &'static str) -> mpsc::Receiver<String> {
    let (found, is_found) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if line.contains(text) && found.send(line).is_err() {
                break;
            }
        }
    });
    is_found
}

#[test]
fn users_say_where_chains_run_and_every_command_is_done_or_refused_with_its_reason() {
    let dev = Dev::start(2);
    dev.stores_and_fetches();
    status_and_actors_say_where_everything_is(&dev);
    a_plan_shows_what_would_happen_and_does_nothing(&dev);
    a_move_is_done_or_refused(&dev);
    the_narrower_preference_counts(&dev);
    a_node_is_emptied_or_it_is_said_why_not(&dev);
    what_is_detached_stays_away_until_it_is_attached(&dev);
    what_is_killed_comes_back_by_itself(&dev);
    all_of_it_was_told_to_watchers(&dev);
    dev.stop();
}

fn status_and_actors_say_where_everything_is(dev: &Dev) {
    for (chain, node) in [("chain-1-1", "node-11"), ("chain-1-2", "node-12"), ("chain-1-3", "node-3")] {
        dev.runs(chain, node);
    }
    let told = |node: &Value| {
        let field = |name: &str| node[name].as_str().unwrap_or("").to_owned();
        assert!(node["pid"].as_u64().is_some_and(|pid| pid > 1), "{node}");
        [field("id"), field("kind"), field("state"), field("attached_to"), field("emulated")].join(" ")
    };
    let hosts = ["node-1 host up  ", "node-2 host up  ", "node-3 host up  "];
    let all = [&hosts[..], &["node-11 dpu up node-1 bf3", "node-12 dpu up node-2 bf3"]].concat();
    // A busy machine may let a DPU be silent for a moment.
    let status = dev.until("hosts and DPUs are shown as what they are", || {
        let status = dev.json("status");
        (status["nodes"].as_array().unwrap().iter().map(told).collect::<Vec<_>>() == all).then_some(status)
    });

    let actors = dev.json("actors");
    let actors = actors.as_array().unwrap();
    let kind = |one: &Value| one["id"].as_str().unwrap().split('-').next().unwrap().to_owned();
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for one in actors {
        *kinds.entry(kind(one)).or_default() += 1;
        let functions: Vec<&str> =
            one["functions"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        let wanted: &[&str] = match kind(one).as_str() {
            "chain" => &["policy", "compress", "encrypt", "erasure"],
            "drive" => &["drive"],
            "keeper" => &["keeper"],
            _ => &["object"],
        };
        assert_eq!(functions, wanted, "{one}");
        assert!(status["nodes"].as_array().unwrap().iter().any(|node| node["id"] == one["node"]), "{one}");
        assert!(one["epoch"].as_u64().unwrap() > 0, "{one}");
        assert_eq!(one["phase"], "running", "{one}");
    }
    assert_eq!(
        kinds,
        BTreeMap::from([("chain".into(), 3), ("drive".into(), 6), ("ingress".into(), 3), ("keeper".into(), 3)])
    );
    let ours = actors.iter().find(|one| one["id"] == "chain-1-1").unwrap();
    assert!(ours["reason"].as_str().unwrap().contains("DPU of its ingress host node-1"), "{ours}");
    assert!(dev.done(&["actors"]).lines().any(|line| line.starts_with("chain-1-1 ") && line.contains(" node-11 ")));
}

fn a_plan_shows_what_would_happen_and_does_nothing(dev: &Dev) {
    let before = dev.json("actors");
    for spelling in ["host-3=bf3", "node-3=bf3", "3=bf3"] {
        let line = dev.planned("node-3", &["--with-dpu", spelling]);
        assert!(
            line.starts_with("move") && line.contains("node-3 -> node-13: node-13 is a DPU of its ingress"),
            "{line}"
        );
    }
    for spelling in ["node-11", "dpu-11", "dpu-1"] {
        let line = dev.planned("node-1", &["--without", spelling]);
        assert!(line.starts_with("move") && line.ends_with("node-11 -> node-1: node-11 is down"), "{line}");
    }
    for host in ["node-1", "node-2", "node-3"] {
        let line = dev.planned(host, &[]);
        assert!(line.starts_with("stay"), "{line}");
    }
    dev.refused(REFUSED, &["plan", "--without", "node-77"], &["no such node", "node-77"]);
    dev.refused(MISUNDERSTOOD, &["plan", "--with-dpu", "host-3=bf9"], &["bf2, bf3 or bf4", "bf9"]);
    dev.refused(REFUSED, &["plan", "--with-dpu", "node-11=bf3"], &["attached to a host, not to a DPU"]);
    dev.refused(REFUSED, &["plan", "--without", "dpu-3"], &["no DPU is attached", "node-3"]);
    dev.refused(REFUSED, &["plan", "--without", "host-11"], &["a DPU, no host", "node-11"]);
    dev.refused(MISUNDERSTOOD, &["plan", "--with-dpu", "host-3"], &["host-3=bf3"]);
    let place = |actors: &Value| -> Vec<(Value, Value, Value)> {
        let all = actors.as_array().unwrap().iter();
        all.map(|one| (one["id"].clone(), one["node"].clone(), one["epoch"].clone())).collect()
    };
    assert_eq!(place(&dev.json("actors")), place(&before), "a plan moves nothing");
}

fn a_move_is_done_or_refused(dev: &Dev) {
    let said = dev.done(&["move", "chain-1-1", "node-1"]);
    assert!(said.contains("node-11 -> node-1: it is pinned to node-1"), "{said}");
    assert!(said.ends_with("chain-1-1 runs on node-1\n"), "{said}");
    dev.runs("chain-1-1", "node-1");
    dev.stores_and_fetches();
    // Also to a host that is not the one whose requests it serves, and on to another host's DPU.
    for (name, node) in [("host-3", "node-3"), ("dpu-2", "node-12")] {
        dev.done(&["move", "chain-1-1", name]);
        dev.runs("chain-1-1", node);
        dev.stores_and_fetches();
    }
    let place = dev.runs("chain-1-1", "node-12");
    dev.refused(REFUSED, &["move", "chain-1-1", "node-77"], &["cannot run there", "there is no node-77"]);
    dev.refused(REFUSED, &["move", "chain-1-9", "node-1"], &["no such actor"]);
    dev.refused(REFUSED, &["move", "chain-9-1", "node-1"], &["no such actor"]);
    // Its medium is in another machine.
    dev.refused(REFUSED, &["move", "drive-1001", "node-2"], &["its medium is not visible from node-2"]);
    for actor in ["ingress-1", "keeper-1"] {
        dev.refused(REFUSED, &["move", actor, "node-2"], &["a part of its node"]);
    }
    dev.refused(REFUSED, &["move", "chain-1-9", "anywhere"], &["no such actor"]);
    dev.refused(MISUNDERSTOOD, &["move", "somebody", "node-1"], &["chain-TENANT-NODE"]);
    dev.refused(MISUNDERSTOOD, &["move", "chain-1-1", "somewhere"], &["`somewhere` is no node"]);
    let user = dev.path().join("client.pem");
    dev.refused(REFUSED, &["move", "chain-1-1", "node-1", "--identity", user.to_str().unwrap()], &["an administrator"]);
    assert_eq!(dev.runs("chain-1-1", "node-12"), place, "what was refused has left it where it was");
    let line = dev.planned("node-1", &[]);
    assert!(line.ends_with("it is pinned to node-12"), "and the last wish still counts: {line}");
    dev.done(&["move", "chain-1-1", "anywhere"]);
    dev.runs("chain-1-1", "node-11");
    dev.stores_and_fetches();
}

fn the_narrower_preference_counts(dev: &Dev) {
    dev.done(&["prefer", "host-only"]);
    dev.runs("chain-1-1", "node-1");
    dev.runs("chain-1-2", "node-2");
    dev.refused(REFUSED, &["move", "chain-1-1", "node-11"], &["cannot run there", "policy host-only forbids node-11"]);
    dev.stores_and_fetches();
    dev.done(&["prefer", "dpu-only", "--tenant", "1"]);
    dev.runs("chain-1-2", "node-12");
    dev.runs("chain-1-1", "node-11");
    dev.done(&["prefer", "host-only", "--actor", "chain-1-2"]);
    dev.runs("chain-1-2", "node-2");
    dev.runs("chain-1-1", "node-11");
    // It stays where it is, serves, and says what it waits for.
    let line = dev.planned("node-3", &[]);
    assert!(line.starts_with("stuck") && line.contains("policy dpu-only forbids node-3"), "{line}");
    assert!(line.ends_with("no DPU is attached to node-3"), "{line}");
    dev.runs("chain-1-3", "node-3");
    dev.stores_and_fetches();
    // That it has no place concerns no other node.
    dev.done(&["drain", "dpu-2"]);
    dev.done(&["drain", "dpu-2", "--undo"]);
    dev.refused(REFUSED, &["prefer", "host-only", "--tenant", "9"], &["no such tenant"]);
    dev.refused(REFUSED, &["prefer", "host-only", "--actor", "chain-1-9"], &["no such actor"]);
    dev.refused(MISUNDERSTOOD, &["prefer", "sometimes"], &["auto, prefer-dpu, host-only or dpu-only"]);
    dev.done(&["prefer", "--undo", "--actor", "chain-1-2"]);
    dev.runs("chain-1-2", "node-12");
    dev.done(&["prefer", "--undo", "--tenant", "1"]);
    dev.runs("chain-1-1", "node-1");
    dev.done(&["prefer", "prefer-dpu"]);
    dev.runs("chain-1-1", "node-11");
    dev.runs("chain-1-2", "node-12");
}

fn a_node_is_emptied_or_it_is_said_why_not(dev: &Dev) {
    let said = dev.done(&["drain", "node-11"]);
    assert!(said.contains("node-11 -> node-1: node-11 is being drained"), "{said}");
    assert!(said.ends_with("node-11 is empty: 1 actors have left\n"), "{said}");
    dev.runs("chain-1-1", "node-1");
    dev.until("node-11 is shown as draining", || dev.node("node-11").filter(|node| node["state"] == "draining"));
    dev.refused(REFUSED, &["move", "chain-1-1", "node-11"], &["cannot run there", "node-11 is being drained"]);
    dev.stores_and_fetches();
    // Its chain has no DPU to go to, and nobody else serves that host.
    dev.refused(REFUSED, &["drain", "node-3"], &["cannot be emptied", "nowhere", "node-3 is being drained"]);
    dev.refused(REFUSED, &["drain", "node-1"], &["cannot be emptied", "nowhere", "node-1 is being drained"]);
    dev.refused(REFUSED, &["drain", "node-77"], &["no node of this number", "node-77"]);
    for host in ["node-1", "node-3"] {
        assert_eq!(dev.node(host).unwrap()["state"], "up", "a drain that was refused has not begun");
    }
    dev.done(&["drain", "node-11", "--undo"]);
    dev.runs("chain-1-1", "node-11");
    dev.stores_and_fetches();
}

fn what_is_detached_stays_away_until_it_is_attached(dev: &Dev) {
    dev.done(&["prefer", "dpu-only", "--actor", "chain-1-1"]);
    dev.refused(REFUSED, &["dpu", "detach", "1"], &["cannot be emptied", "node-11 is being drained"]);
    assert!(dev.pid().is_some(), "it runs on");
    dev.done(&["prefer", "--undo", "--actor", "chain-1-1"]);

    let said = dev.done(&["dpu", "detach", "1"]);
    assert!(said.ends_with("detached\n"), "{said}");
    let detached = Instant::now();
    dev.runs("chain-1-1", "node-1");
    dev.until("node-11 is shown as down", || dev.node("node-11").filter(|node| node["state"] == "down"));
    dev.refused(REFUSED, &["move", "chain-1-1", "node-11"], &["cannot run there", "node-11 is down"]);
    // It serves where it may not be, and waits, rather than serve nobody.
    dev.done(&["prefer", "dpu-only", "--actor", "chain-1-1"]);
    let line = dev.planned("node-1", &[]);
    assert!(line.starts_with("stuck") && line.contains("policy dpu-only forbids node-1"), "{line}");
    assert!(line.contains("node-11 is down"), "{line}");
    dev.stores_and_fetches();
    dev.refused(REFUSED, &["dpu", "attach", "3"], &["there are 2 DPUs, numbered from 1"]);
    // One that was killed would be back after two seconds.
    while detached.elapsed() < Duration::from_secs(3) {
        assert_eq!(dev.pid(), None, "it was detached");
    }
    dev.runs("chain-1-1", "node-1");
    dev.done(&["dpu", "attach", "1"]);
    assert!(dev.pid().is_some());
    dev.runs("chain-1-1", "node-11");
    dev.stores_and_fetches();
    dev.done(&["prefer", "--undo", "--actor", "chain-1-1"]);
    dev.runs("chain-1-1", "node-11");
}

fn what_is_killed_comes_back_by_itself(dev: &Dev) {
    let killed = dev.kill();
    dev.runs("chain-1-1", "node-1");
    dev.stores_and_fetches();
    let pid = dev.until("another process", || dev.pid().filter(|pid| *pid != killed));
    dev.runs("chain-1-1", "node-11");
    dev.until("its new pid is shown", || dev.node("node-11").filter(|node| node["pid"] == pid));
    dev.stores_and_fetches();
    // Nobody else may have the chain: its requests wait until it is back.
    dev.done(&["prefer", "dpu-only"]);
    dev.kill();
    dev.stores_and_fetches();
    dev.runs("chain-1-1", "node-11");
    dev.done(&["prefer", "prefer-dpu"]);
    dev.stores_and_fetches();
}

fn all_of_it_was_told_to_watchers(dev: &Dev) {
    let told = dev.done(&["watch", "--once"]);
    let times: Vec<&str> = told.lines().map(|line| line.split_once(' ').unwrap().0).collect();
    assert!(times.iter().all(|time| time.len() == "hh:mm:ss.mmm".len()), "{told}");
    for (way, why) in [
        ("from node-11 to node-1 under e", "pinned to node-1"),
        ("from node-1 to node-11 under e", "is preferred"),
        ("from node-12 to node-2 under e", "policy host-only forbids node-12"),
        ("from node-11 to node-1 under e", "node-11 is being drained"),
        ("instead of node-11", "node-11 is down"),
    ] {
        assert!(told.lines().any(|line| line.contains(way) && line.ends_with(why)), "{way} ... {why}: {told}");
    }
}

#[test]
fn a_dpu_under_a_host_that_nobody_knows_is_refused_and_joins_under_one_that_is_a_member() {
    let dev = Dev::start(0);
    dev.stores_and_fetches();
    let number = NodeNumber(21);
    let provision = Provision::open(dev.path()).unwrap();
    let data = dev.path().join("stranger");
    provision.equip(NodeId(21), &data).unwrap();
    let mut config = Config::new(number, "127.0.0.1:0".parse().unwrap(), data.clone());
    for host in 1..=3 {
        let known = dev.node(&format!("node-{host}")).unwrap();
        let address = known["address"].as_str().unwrap().parse().unwrap();
        config.peers.push(PeerConfig { node: NodeNumber(host), address });
    }
    let serve = |config: &Config, told: &'static str| {
        let file = data.join("mesh.toml");
        std::fs::write(&file, config.to_text().unwrap()).unwrap();
        let mut child = Command::new(MESH)
            .args(["serve", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let line = line_with(child.stderr.take().unwrap(), told);
        (Stranger(child), line)
    };

    config.dpu = Some(DpuConfig { attached_to: NodeNumber(9), emulated: Some(Generation::Bf3) });
    let (refused, lines) = serve(&config, "a DPU's host must be a member first [dpu=node-21 host=node-9]");
    let line = lines.recv_timeout(PATIENCE).unwrap();
    assert!(line.contains("WARN the mesh does not take this node in"), "{line}");
    assert_eq!(dev.node("node-21"), None, "it is no member");
    dev.refused(REFUSED, &["plan", "--without", "node-21"], &["no such node", "node-21"]);
    dev.refused(REFUSED, &["move", "chain-1-1", "node-21"], &["cannot run there"]);
    dev.refused(REFUSED, &["drain", "node-21"], &["no node of this number is a member"]);
    dev.stores_and_fetches();
    // Said once, and then only as what it waits for.
    let line = lines.recv_timeout(PATIENCE).unwrap();
    assert!(line.contains("INFO waiting"), "{line}");
    drop(refused);

    // It was refused for that alone.
    config.dpu = Some(DpuConfig { attached_to: NodeNumber(3), emulated: Some(Generation::Bf3) });
    let (_taken_in, line) = serve(&config, "ready");
    line.recv_timeout(PATIENCE).unwrap();
    let known = |node: &Value| node["state"] == "up" && node["attached_to"] == "node-3";
    dev.until("node-21 is a DPU of node-3", || dev.node("node-21").filter(known));
    dev.done(&["prefer", "prefer-dpu"]);
    dev.runs("chain-1-3", "node-21");
    dev.stores_and_fetches();
    dev.stop();
}

/// A node's process; killed when dropped.
struct Stranger(Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}
