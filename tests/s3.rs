//! A real S3 client (boto3) against `mesh dev`, as README tells it: source `dev.env`, then go.
//!
//! Without Python or boto3 these tests print `SKIPPED` with the reason. `MESH_TEST_PYTHON` names the interpreter to use.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod dev;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use dev::Dev;
use mesh::provision::Provision;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/s3").join(name)
}

/// A Python that has boto3.
fn python() -> Option<String> {
    let python = std::env::var("MESH_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    match Command::new(&python).args(["-c", "import boto3"]).output() {
        Ok(output) if output.status.success() => Some(python),
        Ok(_) => {
            println!("SKIPPED: {python} has no boto3");
            None
        }
        Err(error) => {
            println!("SKIPPED: no {python}: {error}");
            None
        }
    }
}

fn passed(output: &std::process::Output) {
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn boto3_finds_what_it_expects() {
    let Some(python) = python() else { return };
    let mut dev = Dev::start(&[]);
    passed(&dev.sourced(&[&python, script("conformance.py").to_str().unwrap()]));
    dev.stop();
}

#[test]
fn boto3_reads_back_a_data_set() {
    let Some(python) = python() else { return };
    let mut dev = Dev::start(&[]);
    passed(&dev.sourced(&[&python, script("dataset.py").to_str().unwrap(), "--bytes", "100000000"]));
    dev.stop();
}

#[test]
fn clients_that_stop_reading_cost_only_themselves() {
    let Some(python) = python() else { return };
    let mut dev = Dev::start(&[]);
    let pid = dev.pid().to_string();
    passed(&dev.sourced(&[&python, script("limits.py").to_str().unwrap(), "readers", &pid]));
    dev.stop();
}

#[test]
fn a_mesh_that_is_told_to_stop_lets_requests_end() {
    let Some(python) = python() else { return };
    let mut dev = Dev::start(&[]);
    let limits = script("limits.py");
    let mut client =
        dev.shell(&[&python, limits.to_str().unwrap(), "stopping"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(client.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "begun\n");
    dev.stop();
    assert!(client.wait().unwrap().success());
}

#[test]
fn boto3_finds_over_tls_what_it_expects() {
    let Some(python) = python() else { return };
    let mut dev = Dev::start(&["--tls"]);
    passed(&dev.sourced(&[&python, script("conformance.py").to_str().unwrap()]));
    // Whoever does not trust the cluster's authority is told so by its own client, and who speaks no TLS by the server.
    let distrusts = "import boto3, os; os.environ.pop('AWS_CA_BUNDLE'); boto3.client('s3').list_buckets()";
    let refused = dev.sourced(&[&python, "-c", distrusts]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("CERTIFICATE_VERIFY_FAILED"), "{refused:?}");
    let plain = "import os, urllib.request as r; r.urlopen(os.environ['AWS_ENDPOINT_URL'].replace('https', 'http'))";
    let refused = dev.sourced(&[&python, "-c", plain]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("HTTP Error 400"), "{refused:?}");
    dev.stop();
}

#[test]
fn a_certificate_is_replaced_under_load_and_no_request_fails() {
    let Some(python) = python() else { return };
    let mut dev = Dev::start(&["--tls"]);
    let script = script("rotate.py");
    let mut load = dev.shell(&[&python, script.to_str().unwrap()]);
    let mut load = load.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut say, mut said) = (load.stdin.take().unwrap(), BufReader::new(load.stdout.take().unwrap()).lines());
    let mut hear = || said.next().unwrap_or_else(|| panic!("it ended")).unwrap();
    assert_eq!(hear(), "begun");
    let provision = Provision::open(dev.folder()).unwrap();
    let names = ["127.0.0.1".to_owned()];
    for _ in 0..3 {
        provision.equip_front(&names, dev.folder()).unwrap();
        writeln!(say, "another").unwrap();
        assert_eq!(hear(), "replaced");
    }
    // One that does not fit leaves the one that is there.
    std::fs::write(dev.folder().join("s3.key"), "no key").unwrap();
    writeln!(say, "stays").unwrap();
    assert_eq!(hear(), "stayed");
    provision.equip_front(&names, dev.folder()).unwrap();
    writeln!(say, "another").unwrap();
    assert_eq!(hear(), "replaced");
    writeln!(say).unwrap();
    println!("{}", hear());
    assert!(load.wait().unwrap().success());
    dev.stop();
}

#[test]
fn access_keys_are_replaced_and_revoked_under_load() {
    let Some(python) = python() else { return };
    let mut dev = Dev::start(&[]);
    passed(&dev.sourced(&[
        &python,
        script("keys.py").to_str().unwrap(),
        "--mesh",
        env!("CARGO_BIN_EXE_mesh"),
        "--within",
        "30",
    ]));
    dev.stop();
}

#[test]
fn the_clients_that_people_have_store_and_find_over_tls() {
    let mut dev = Dev::start(&["--tls"]);
    passed(&dev.sourced(&[script("clients.sh").to_str().unwrap()]));
    dev.stop();
}

#[test]
fn the_command_line_stores_and_finds_again_after_a_restart() {
    let mut dev = Dev::start(&[]);
    let mesh = env!("CARGO_BIN_EXE_mesh");
    let file = dev.folder().join("input");
    let bytes: Vec<u8> = (0..9_000_001_u32).map(|at| (at * 31 % 251) as u8).collect();
    std::fs::write(&file, &bytes).unwrap();
    passed(&dev.sourced(&[mesh, "put", "--quiet", file.to_str().unwrap(), "some/ключ +%"]));
    dev.stop();
    dev.start_again();
    let got = dev.sourced(&[mesh, "get", "--quiet", "some/ключ +%", "-"]);
    assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
    assert!(got.stdout == bytes, "{} bytes came back", got.stdout.len());
    let range = dev.sourced(&[mesh, "get", "--quiet", "--range", "-7", "some/ключ +%", "-"]);
    assert!(range.status.success(), "{}", String::from_utf8_lossy(&range.stderr));
    assert_eq!(range.stdout, bytes[bytes.len() - 7..]);
    // It is served as soon as two of the three nodes can; `status` shows the third when that is there.
    let began = std::time::Instant::now();
    loop {
        let status = dev.sourced(&[mesh, "status", "--json"]);
        passed(&status);
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
        let up = |list: &str| status[list].as_array().unwrap().iter().filter(|one| one["state"] == "up").count();
        let led = status["groups"].as_array().unwrap().iter().all(|group| group["leader"].is_string());
        if (up("nodes"), up("drives"), led) == (3, 6, true) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{status:#}");
    }
    passed(&dev.sourced(&[mesh, "rm", "some/ключ +%"]));
    let gone = dev.sourced(&[mesh, "get", "some/ключ +%", "-"]);
    assert!(!gone.status.success());
    assert!(String::from_utf8_lossy(&gone.stderr).contains("error:"));
    let list = dev.sourced(&[mesh, "ls"]);
    assert!(list.status.success() && list.stdout.is_empty(), "{list:?}");
    dev.stop();
}
