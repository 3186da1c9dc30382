//! The command line: one file a subcommand. Nothing is decided here that the library does not offer.

mod actors;
mod dev;
mod dpu;
mod dpus;
mod init;
mod join;
mod object;
mod placement;
mod probe;
mod serve;
mod status;

use std::{io::Write as _, net::SocketAddr, path::PathBuf, sync::Arc};

use clap::{Args, Parser, Subcommand};
use mesh::{Client, env::Env};
use mesh_core::{Error, id::NodeId};

/// One pool out of the drives inside your servers: S3 objects, encrypted and erasure-coded in line.
#[derive(Debug, Parser)]
#[command(name = "mesh", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole mesh of three nodes in this process, for trying it out and for development.
    Dev(dev::Dev),
    /// Make a new cluster, and the configuration of its first node.
    Init(init::Init),
    /// Make an invitation: the file with which another machine joins.
    Invite(join::Invite),
    /// Make this machine a node of a cluster, from an invitation.
    Join(join::Join),
    /// Run a node: the daemon.
    Serve(serve::Serve),
    /// Show the nodes, drives and metadata groups of a mesh.
    Status(status::Status),
    /// Show where each actor runs, and why.
    Actors(actors::Actors),
    /// Show what the placement engine would move now, or in another situation, without doing it.
    Plan(placement::Plan),
    /// Move an actor to a node, and keep it there; or let the placement engine decide again.
    Move(placement::Move),
    /// Say where chains should run: on DPUs, on hosts, or wherever it costs least.
    Prefer(placement::Prefer),
    /// Empty a node of the actors that can leave it, or take that back.
    Drain(placement::Drain),
    /// Follow what happens to actors and nodes.
    Watch(placement::Watch),
    /// Show what this machine is, host or DPU, which cards are in it, and how that is known.
    Probe(probe::Probe),
    /// Attach and detach the emulated DPUs of `mesh dev`.
    Dpu(dpu::Dpu),
    /// Store a file as an object.
    Put(object::Put),
    /// Fetch an object into a file.
    Get(object::Get),
    /// List buckets, or the keys of a bucket.
    Ls(object::Ls),
    /// Remove an object.
    Rm(object::Rm),
}

impl Command {
    pub(crate) const fn default_log(&self) -> &'static str {
        match self {
            Self::Serve(_) => "info,openraft=error,quinn=warn,s3s=off",
            _ => "warn,openraft=off,s3s=off",
        }
    }

    /// Keeps to the cores that the command is to run on.
    pub(crate) fn pin(&self) -> Result<(), Error> {
        match self {
            Self::Serve(command) => command.pin(),
            _ => Ok(()),
        }
    }
}

impl Cli {
    pub(crate) async fn run(self) -> Result<(), Error> {
        match self.command {
            Command::Dev(command) => command.run().await,
            Command::Init(command) => command.run(),
            Command::Invite(command) => command.run(),
            Command::Join(command) => command.run(),
            Command::Serve(command) => command.run().await,
            Command::Status(command) => command.run().await,
            Command::Actors(command) => command.run().await,
            Command::Plan(command) => command.run().await,
            Command::Move(command) => command.run().await,
            Command::Prefer(command) => command.run().await,
            Command::Drain(command) => command.run().await,
            Command::Watch(command) => command.run().await,
            Command::Probe(command) => command.run(),
            Command::Dpu(command) => command.run(),
            Command::Put(command) => command.run().await,
            Command::Get(command) => command.run().await,
            Command::Ls(command) => command.run().await,
            Command::Rm(command) => command.run().await,
        }
    }
}

/// How to reach and trust a mesh. `mesh dev` writes both variables to its `dev.env`, `mesh init` to `client.env`.
#[derive(Debug, Args)]
pub(crate) struct Connect {
    /// Addresses of nodes, with commas between them; tried in order.
    #[arg(long, env = "MESH_CONNECT", value_delimiter = ',', required = true, value_name = "IP:PORT")]
    connect: Vec<SocketAddr>,
    /// The file with your certificate, its key and the cluster's authority.
    #[arg(long, env = "MESH_IDENTITY", value_name = "FILE")]
    identity: PathBuf,
}

impl Connect {
    pub(crate) async fn client(&self) -> Result<Client, Error> {
        let identity = mesh_transport::identity::Identity::load(&self.identity)?;
        let env = Env::real()?;
        mesh::quic::connect(&self.connect, identity, &env).await
    }
}

/// As [`Connect`], for what only an administrator may ask.
#[derive(Debug, Args)]
pub(crate) struct AdminConnect {
    /// Addresses of nodes, with commas between them; tried in order.
    #[arg(long, env = "MESH_CONNECT", value_delimiter = ',', required = true, value_name = "IP:PORT")]
    connect: Vec<SocketAddr>,
    /// The file with an administrator's certificate, its key and the cluster's authority.
    #[arg(long, env = "MESH_ADMIN_IDENTITY", value_name = "FILE")]
    identity: PathBuf,
}

impl AdminConnect {
    pub(crate) async fn client(&self) -> Result<Client, Error> {
        let identity = mesh_transport::identity::Identity::load(&self.identity)?;
        let env = Env::real()?;
        mesh::quic::connect(&self.connect, identity, &env).await
    }
}

/// A node as it is written on the command line: `node-3`, `3`, `host-3` or `dpu-11`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeName(pub(crate) NodeId);

impl core::str::FromStr for NodeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = ["node-", "host-", "dpu-"].iter().find_map(|prefix| text.strip_prefix(prefix)).unwrap_or(text);
        let number = number.parse().ok().filter(|number| (1..=65_535).contains(number));
        number
            .map(|number| Self(NodeId(number)))
            .ok_or_else(|| format!("`{text}` is no node: write node-3, or its number alone; `mesh status` lists them"))
    }
}

/// Ends when the process is told to stop: SIGTERM or SIGINT.
pub(crate) async fn told_to_stop() -> Result<(), Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error| Error::bug("signals cannot be caught").caused_by(error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// A value in single quotes, as a shell reads it back.
pub(crate) fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

/// Lines of a file that a shell can source.
pub(crate) fn exports(variables: &[(&str, String)]) -> String {
    variables.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect()
}

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write_private(path: &std::path::Path, text: &str) -> Result<(), Error> {
    mesh::files::replace(path, text.as_bytes(), 0o600).map_err(|error| {
        Error::new(mesh_core::ErrorKind::DriveFailed, "a file cannot be written")
            .with("file", path.display())
            .caused_by(error)
    })
}

/// Prints lines; a reader that has closed its end is no error.
pub(crate) fn say(lines: &[impl AsRef<str>]) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    for line in lines {
        match writeln!(out, "{}", line.as_ref()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => {
                return Err(
                    Error::new(mesh_core::ErrorKind::DriveFailed, "the output cannot be written").caused_by(error)
                );
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Bytes for people.
pub(crate) fn human(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A bar for bytes on standard error; hidden where that is no terminal, or with `--quiet`.
pub(crate) fn progress(len: Option<u64>, quiet: bool) -> Arc<indicatif::ProgressBar> {
    let bar = match len {
        _ if quiet => indicatif::ProgressBar::hidden(),
        Some(len) => indicatif::ProgressBar::new(len),
        None => indicatif::ProgressBar::new_spinner(),
    };
    let style = indicatif::ProgressStyle::with_template(
        "{bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
    );
    if let Ok(style) = style {
        bar.set_style(style);
    }
    Arc::new(bar)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn values_are_quoted_for_the_shell() {
        assert_eq!(exports(&[("A", "it's $HOME".into())]), "export A='it'\\''s $HOME'\n");
    }
}
