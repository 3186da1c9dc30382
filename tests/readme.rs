//! README's commands, run as they stand there: in its order, against a mesh of development and two machines of one's own.
//! Only places are others: folders, addresses, the sizes of drives.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod dev;
mod ports;

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use dev::Dev;

const README: &str = include_str!("../README.md");
const PATIENCE: Duration = Duration::from_secs(60);

/// A block of README for a shell: where it begins, and its commands, without comments and with lines that go on joined.
struct Block {
    at: usize,
    commands: Vec<String>,
}

fn blocks() -> Vec<Block> {
    const FENCE: &str = "```sh\n";
    let mut blocks = Vec::new();
    for (at, _) in README.match_indices(FENCE) {
        let text = README[at + FENCE.len()..].split("```").next().unwrap().replace("\\\n", " ");
        let line = |line: &str| line.split(" #").next().unwrap().trim().to_owned();
        blocks.push(Block { at, commands: text.lines().map(line).filter(|line| !line.is_empty()).collect() });
    }
    blocks
}

fn expect_well(command: &str, output: &Output) {
    let said = [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said).into_owned()).concat();
    println!("$ {command}\n{said}");
    assert!(output.status.success(), "README says: {command}");
}

fn is_installed(program: &str) -> bool {
    let found =
        Command::new("sh").args(["-c", &format!("command -v {program}")]).stdout(Stdio::null()).status().unwrap();
    found.success()
}

/// The directory of the binary under test, before all others.
fn path() -> String {
    let binary = Path::new(env!("CARGO_BIN_EXE_mesh")).parent().unwrap();
    format!("{}:{}", binary.display(), std::env::var("PATH").unwrap())
}

#[test]
fn what_readme_says_of_a_mesh_of_development_works() {
    let mut dev = Dev::start(&["--dpus", "1"]);
    // As in this folder, but what is written there is gone afterwards, and not in the way of the next run.
    let here = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap().map(Result::unwrap) {
        if entry.file_name() != "audit.log" {
            std::os::unix::fs::symlink(entry.path(), here.path().join(entry.file_name())).unwrap();
        }
    }
    let mut ran = 0;
    let first = README.find("## Three machines").unwrap();
    for command in blocks().into_iter().filter(|block| block.at < first).flat_map(|block| block.commands) {
        let program = command.split_whitespace().next().unwrap();
        // What `sourced` does.
        if program == "source" {
            continue;
        }
        if command.contains("aws ") && !is_installed("aws") {
            println!("SKIPPED: no aws for: {command}");
            continue;
        }
        // It watches until it is told to stop.
        let endless = command == "mesh watch";
        let line = if endless { format!("timeout 2 {command}; [ $? = 124 ]") } else { command.clone() };
        let mut shell = dev.shell(&["sh", "-c", &line]);
        shell.env("PATH", path()).current_dir(here.path());
        let began = Instant::now();
        // What a command before it began (a DPU that comes, a chain that moves) may have to end first.
        let output = loop {
            let output = shell.output().unwrap();
            if output.status.success() || began.elapsed() > PATIENCE {
                break output;
            }
        };
        expect_well(&command, &output);
        ran += usize::from(program == "mesh");
    }
    assert!(ran >= 13, "README's commands are not found");
    dev.stop();
}

/// Machines that run; killed when dropped.
struct Machines(Vec<Child>);

impl Drop for Machines {
    fn drop(&mut self) {
        for child in &mut self.0 {
            if child.kill().is_ok() {
                child.wait().ok();
            }
        }
    }
}

#[test]
fn what_readme_says_of_machines_of_ones_own_works() {
    let folder = tempfile::tempdir().unwrap();
    let ports = ports::free(4);
    let machine = |number: usize| {
        let at = folder.path().join(format!("machine-{number}"));
        std::fs::create_dir_all(&at).unwrap();
        BTreeMap::from([
            ("/var/lib/mesh".to_owned(), at.join("mesh").display().to_string()),
            ("/mnt/".to_owned(), format!("{}/", at.display())),
            ("10.0.0.2 ".to_owned(), "127.0.0.1 ".to_owned()),
            (format!("10.0.0.{number}:7000"), ports[2 * number - 2].to_string()),
            (format!("10.0.0.{number}:9000"), ports[2 * number - 1].to_string()),
            ("3TiB".to_owned(), "2GiB".to_owned()),
        ])
    };
    let shell = |line: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).env("PATH", path()).current_dir(folder.path()).stdin(Stdio::null());
        shell
    };
    let status = format!("set -a; . {}/client.env; exec mesh status", folder.path().join("machine-1/mesh").display());
    let mut machines = Machines(Vec::new());
    let mut ran = Vec::new();
    let of_machines = |block: &Block| block.commands.iter().any(|line| line.starts_with("mesh serve"));
    for (number, block) in blocks().into_iter().filter(of_machines).enumerate() {
        let places = machine(number + 1);
        for command in block.commands {
            let line = places.iter().fold(command.clone(), |line, (theirs, ours)| line.replace(theirs, ours));
            ran.push(command.split_whitespace().nth(1).unwrap().to_owned());
            if command.starts_with("mesh serve") {
                machines.0.push(shell(&format!("exec {line}")).spawn().unwrap());
                continue;
            }
            let began = Instant::now();
            // The node that was started before it may not listen yet.
            let output = loop {
                let output = shell(&line).output().unwrap();
                if output.status.success() || began.elapsed() > PATIENCE {
                    break output;
                }
            };
            expect_well(&command, &output);
        }
    }
    assert_eq!(ran, ["init", "serve", "invite", "join", "serve"]);
    let began = Instant::now();
    loop {
        let said = shell(&format!("{status} --json")).output().unwrap();
        let up = serde_json::from_slice::<serde_json::Value>(&said.stdout).is_ok_and(|status| {
            let up = |list: &str| status[list].as_array().unwrap().iter().filter(|one| one["state"] == "up").count();
            (up("nodes"), up("drives")) == (2, 4)
        });
        if up {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{said:?}");
    }
    // The second one has its certificate from the invitation.
    let trust = folder.path().join("machine-1/mesh/ca/s3-ca.crt");
    let said =
        shell(&format!("curl --silent --show-error --cacert {} https://{}/", trust.display(), ports[3])).output();
    let said = said.unwrap();
    let told = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(!is_installed("curl") || told.contains("<Code>AccessDenied</Code>"), "{said:?}");
    let all = |begins: &'static str| {
        blocks().into_iter().flat_map(|block| block.commands).filter(move |line| line.starts_with(begins))
    };
    let departures = blocks()
        .into_iter()
        .flat_map(|block| block.commands)
        .filter(|line| ["mesh drive remove", "mesh node"].iter().any(|begins| line.starts_with(begins)));
    let mut why = Vec::new();
    for line in departures {
        let because = match (line.starts_with("mesh drive"), line.contains("--lost"), line.contains("drain")) {
            (_, true, _) => "up",
            (true, ..) => "the drive is in use",
            (false, _, true) => "too few drives would be left",
            (false, ..) => "the node is in use",
        };
        let sure = if line.contains("remove") { " --yes" } else { "" };
        let refused = shell(&status.replace("exec mesh status", &format!("{line}{sure}"))).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && said.contains(because),
            "README says that this is refused: {line}: {said}"
        );
        why.push(because);
    }
    let expected = ["the drive is in use", "up", "too few drives would be left", "the node is in use", "up"];
    assert_eq!(why, expected);
    let places = machine(2);
    let arrivals: Vec<String> = blocks()
        .into_iter()
        .flat_map(|block| block.commands)
        .filter(|line| ["mesh drive add", "mesh drive replace"].iter().any(|begins| line.starts_with(begins)))
        .collect();
    assert_eq!(arrivals.len(), 2);
    for line in arrivals {
        let ours = places.iter().fold(line.clone(), |line, (theirs, ours)| line.replace(theirs, ours));
        expect_well(&line, &shell(&status.replace("exec mesh status", &ours)).output().unwrap());
    }
    let metadata: Vec<String> = all("mesh metadata").collect();
    assert_eq!(metadata.len(), 6);
    for line in &metadata[..4] {
        expect_well(line, &shell(&status.replace("exec mesh status", line)).output().unwrap());
    }
    // What is done to stopped nodes.
    drop(machines);
    for (line, number) in metadata[4..].iter().zip([1, 2]) {
        // It asks for the number of the other hosts.
        let sure = line.replace("mesh metadata restore", "mesh metadata restore --yes");
        let ours = machine(number).iter().fold(sure, |line, (theirs, ours)| line.replace(theirs, ours));
        expect_well(line, &shell(&ours).output().unwrap());
    }
}
