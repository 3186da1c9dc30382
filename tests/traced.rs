//! What is done for one S3 request is found again in the log of every node that had to do with it, under the number that its client
//! was told; and the log can be read by a program.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use mesh_fronts::s3::client::{Framing, Reply, Signer};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

/// A mesh in one process, and what it has logged; killed when dropped.
struct Mesh {
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}

impl Mesh {
    fn start(folder: &std::path::Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mesh"))
            .args(["dev", "--log-format", "json", "--s3-port", "0", "--drive-size", "2GiB", "--data"])
            .arg(folder)
            .env("MESH_LOG", "info,openraft=off,quinn=off,s3s=off,mesh_dpu_runtime=debug")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (said, log) = (BufReader::new(child.stdout.take().unwrap()), Arc::<Mutex<Vec<Value>>>::default());
        let (logged, kept) = (BufReader::new(child.stderr.take().unwrap()), log.clone());
        std::thread::spawn(move || {
            for line in logged.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                kept.lock().unwrap().push(event);
            }
        });
        let (ready, is_ready) = mpsc::channel();
        std::thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                if line.contains("is ready") && ready.send(()).is_err() {
                    break;
                }
            }
        });
        is_ready.recv_timeout(Duration::from_secs(120)).expect("the mesh gets ready");
        Self { child, log }
    }

    /// What was logged under a number so far.
    fn logged(&self, request: &str) -> Vec<Value> {
        let log = self.log.lock().unwrap();
        log.iter().filter(|event| event["request"] == request || event["span"]["request"] == request).cloned().collect()
    }
}

#[test]
fn a_request_is_found_in_the_log_of_every_node_under_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let mesh = Mesh::start(folder.path());
    let mut told = String::new();
    std::fs::File::open(folder.path().join("dev.env")).unwrap().read_to_string(&mut told).unwrap();
    let told: BTreeMap<&str, &str> = told
        .lines()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
        .map(|(name, value)| (name, value.trim_matches('\'')))
        .collect();
    let (address, bucket) = (told["AWS_ENDPOINT_URL"].strip_prefix("http://").unwrap(), told["MESH_BUCKET"]);
    let signer = Signer::new(told["AWS_ACCESS_KEY_ID"], told["AWS_SECRET_ACCESS_KEY"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ask = |signer: &Signer, method: &str, key: &str, body: &[u8]| {
        runtime.block_on(async {
            let target = format!("/{bucket}/{key}");
            let (head, body) = signer.request(address, (method, &target), &[], body, &Framing::Whole).unwrap();
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&body).await.unwrap();
            let reply = Reply::read(&mut stream, method).await.unwrap();
            (reply.status, reply.headers["x-amz-request-id"].clone())
        })
    };

    let (status, put) = ask(&signer, "PUT", "a", &[7; 100_000]);
    assert_eq!((status, put.len()), (200, 16), "{put}");
    // Its shards are on drives of all three.
    let began = Instant::now();
    let mut nodes = BTreeSet::new();
    while nodes.len() < 3 {
        assert!(began.elapsed() < Duration::from_secs(30), "only {nodes:?}: {:?}", mesh.logged(&put));
        nodes = mesh.logged(&put).iter().filter_map(|event| event["node"].as_str().map(str::to_owned)).collect();
    }
    let functions: BTreeSet<String> =
        mesh.logged(&put).iter().filter_map(|event| event["function"].as_str().map(str::to_owned)).collect();
    assert!(["object", "drive"].iter().all(|function| functions.contains(*function)), "{functions:?}");

    // One that is refused at the door, and one that fails further in, have numbers of their own.
    let (status, refused) = ask(&signer.forged(), "GET", "a", b"");
    assert_eq!(status, 403);
    let (status, missing) = ask(&signer, "GET", "none", b"");
    assert_eq!(status, 404);
    assert_eq!(BTreeSet::from([&put, &refused, &missing]).len(), 3);
    let began = Instant::now();
    let found = |request: &str, level: &str| mesh.logged(request).iter().any(|event| event["level"] == level);
    while !found(&refused, "WARN") || !found(&missing, "DEBUG") {
        assert!(began.elapsed() < Duration::from_secs(30), "{:?} {:?}", mesh.logged(&refused), mesh.logged(&missing));
    }
    assert!(mesh.logged(&put).iter().all(|event| event["level"] == "DEBUG"), "nothing was wrong with it");
}
