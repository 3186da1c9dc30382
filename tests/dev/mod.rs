//! A whole mesh in one process, as README starts it.

#![allow(dead_code, reason = "every test program uses a part of it")]

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

/// A `mesh dev` in a temporary folder; killed when dropped.
pub(crate) struct Dev {
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    child: Child,
}

impl Dev {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let child = spawn(folder.path(), &arguments);
        Self { folder, arguments, child }
    }

    /// Once it has stopped, or was told to: what was killed may not have ended yet.
    pub(crate) fn start_again(&mut self) {
        self.child.wait().unwrap();
        self.child = spawn(self.folder.path(), &self.arguments);
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A command with the variables of `dev.env`, as a shell gets them.
    pub(crate) fn shell(&self, command: &[&str]) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", ". \"$0\" && exec \"$@\""]).arg(self.folder.path().join("dev.env")).args(command);
        shell
    }

    /// Runs it to its end.
    pub(crate) fn sourced(&self, command: &[&str]) -> std::process::Output {
        self.shell(command).output().unwrap()
    }

    pub(crate) fn stop(&mut self) {
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success());
        assert!(!self.folder.path().join("dev.env").exists(), "dev.env is removed at the end");
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}

fn spawn(folder: &Path, arguments: &[String]) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mesh"))
        .args(["dev", "--s3-port", "0", "--drive-size", "2GiB", "--data"])
        .arg(folder)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (ready, is_ready) = mpsc::channel();
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if line.contains("is ready") && ready.send(()).is_err() {
                break;
            }
        }
    });
    if is_ready.recv_timeout(Duration::from_secs(120)).is_err() {
        child.kill().unwrap();
        panic!("the mesh did not get ready");
    }
    child
}
