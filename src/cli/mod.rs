//! The command line: one file a subcommand. Nothing is decided here that the library does not offer.

mod actors;
mod audit;
mod bucket;
mod certificate;
mod dev;
mod dpu;
mod dpus;
mod drive;
mod env;
mod init;
mod join;
mod key;
mod metadata;
mod node;
mod object;
mod placement;
mod probe;
mod repair;
mod scrub;
mod serve;
mod status;
mod tenant;
mod top;

use std::{io::Write as _, net::SocketAddr, path::PathBuf, sync::Arc};

use clap::{Args, Parser, Subcommand};
use mesh::{Client, env::Env};
use mesh_core::{Error, ErrorKind, id::NodeId, op::NodeReport, topology::NodeKind};

/// One pool out of the drives inside your servers: S3 objects, compressed if you say so, encrypted and erasure-coded in line.
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
    /// Make certificates: for front ends, for clients of a tenant, for administrators.
    Certificate(certificate::Certificate),
    /// Run a node: the daemon.
    Serve(serve::Serve),
    /// Show the nodes, drives and metadata groups of a mesh.
    Status(status::Status),
    /// Name all nodes of the mesh in the `client.env` that `mesh init` wrote.
    Env(env::Env),
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
    /// Add or replace a drive, empty it and take it out, or declare it lost for good.
    Drive(drive::Drive),
    /// Have a node leave the mesh.
    Node(node::Node),
    /// Back up the metadata of a mesh, restore them, or have them go on without those who kept them.
    Metadata(metadata::Metadata),
    /// Show how far each metadata group is with repair.
    Repair(repair::Repair),
    Scrub(scrub::Scrub),
    /// Follow what happens to actors and nodes.
    Watch(placement::Watch),
    /// Follow the mesh in one picture: nodes and DPUs, load, latency, moves, repair.
    Top(top::Top),
    /// Show what this machine is, host or DPU, which cards are in it, and how that is known.
    Probe(probe::Probe),
    /// Attach and detach the emulated DPUs of `mesh dev`.
    Dpu(dpu::Dpu),
    /// Make tenants, say what they may use, and see what they do.
    Tenant(tenant::Tenant),
    /// Make users of a tenant and access keys for them, say what they may do, and revoke that.
    Key(key::Key),
    /// See who has ordered what of the mesh, and check that nothing of that was changed.
    Audit(audit::Audit),
    /// Make a bucket.
    Bucket(bucket::Bucket),
    /// Store a file as an object.
    Put(object::Put),
    /// Fetch an object into a file.
    Get(object::Get),
    /// List buckets, or the keys of a bucket.
    Ls(object::Ls),
    /// Remove an object.
    Rm(object::Rm),
}

/// How what is logged is written.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// An object a line: `timestamp`, `level`, `message`, what the line is about by name (such as `node`, `drive`, `error`), and
    /// `span` with the number of the S3 request (`request`) where it is logged on its way.
    Json,
}

impl Command {
    pub(crate) const fn log_format(&self) -> LogFormat {
        match self {
            Self::Serve(command) => command.log_format,
            Self::Dev(command) => command.log_format,
            _ => LogFormat::Text,
        }
    }

    pub(crate) const fn default_log(&self) -> &'static str {
        match self {
            Self::Serve(_) => "info,openraft=error,quinn=warn,s3s=off",
            // A line of the log would stand in the middle of the picture.
            Self::Top(_) => "off",
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
            Command::Invite(command) => command.run().await,
            Command::Join(command) => command.run(),
            Command::Certificate(command) => command.run().await,
            Command::Tenant(command) => command.run().await,
            Command::Audit(command) => command.run().await,
            Command::Key(command) => command.run().await,
            Command::Serve(command) => command.run().await,
            Command::Status(command) => command.run().await,
            Command::Env(command) => command.run().await,
            Command::Actors(command) => command.run().await,
            Command::Plan(command) => command.run().await,
            Command::Move(command) => command.run().await,
            Command::Prefer(command) => command.run().await,
            Command::Drain(command) => command.run().await,
            Command::Drive(command) => command.run().await,
            Command::Node(command) => command.run().await,
            Command::Metadata(command) => command.run().await,
            Command::Repair(command) => command.run().await,
            Command::Scrub(command) => command.run().await,
            Command::Watch(command) => command.run().await,
            Command::Top(command) => command.run().await,
            Command::Probe(command) => command.run(),
            Command::Dpu(command) => command.run(),
            Command::Bucket(command) => command.run().await,
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

/// Has a number typed again, of something that cannot be taken back.
fn confirm(number: u64, what: &str) -> Result<(), Error> {
    let failed = |error| Error::new(ErrorKind::DriveFailed, "the terminal cannot be used").caused_by(error);
    let mut out = std::io::stderr().lock();
    write!(out, "{what}. Type the number {number} to go on: ").and_then(|()| out.flush()).map_err(failed)?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(failed)?;
    if line.trim().parse() == Ok(number) {
        return Ok(());
    }
    Err(Error::invalid("that is another number: nothing was changed").with("number", number))
}

/// A node as it is written on the command line: `node-3` or `3`; `host-3`, which must be a host; `dpu-3`, the DPU of
/// host 3 (or node 3, if that is a DPU).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeName {
    number: NodeId,
    kind: Option<NodeKind>,
}

impl NodeName {
    /// The node that is meant.
    pub(crate) async fn of(self, client: &Client) -> Result<NodeId, Error> {
        match self.kind {
            None => Ok(self.number),
            Some(_) => self.among(&client.status().await?),
        }
    }

    fn among(self, nodes: &[Arc<NodeReport>]) -> Result<NodeId, Error> {
        let number = self.number;
        let is_dpu = nodes.iter().any(|node| node.node == number && node.kind == NodeKind::Dpu);
        match self.kind {
            Some(NodeKind::Host) if is_dpu => Err(Error::invalid("this node is a DPU, no host").with("node", number)),
            Some(NodeKind::Dpu) if !is_dpu => {
                let mut dpus = nodes.iter().filter(|node| node.attached_to == Some(number)).map(|node| node.node);
                match (dpus.next(), dpus.next()) {
                    (Some(dpu), None) => Ok(dpu),
                    (Some(one), Some(other)) => {
                        Err(Error::invalid("the host has several DPUs: name the node of the one that is meant")
                            .with("host", number)
                            .with("one", one)
                            .with("another", other))
                    }
                    (None, _) => Err(Error::new(
                        ErrorKind::NotFound,
                        "no DPU is attached to a host of this number; `mesh status` lists them",
                    )
                    .with("host", number)),
                }
            }
            _ => Ok(number),
        }
    }
}

impl core::str::FromStr for NodeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let prefixes = [("node-", None), ("host-", Some(NodeKind::Host)), ("dpu-", Some(NodeKind::Dpu))];
        let found = prefixes.iter().find_map(|(prefix, kind)| Some((text.strip_prefix(prefix)?, *kind)));
        let (number, kind) = found.unwrap_or((text, None));
        let number = number.parse().ok().filter(|number| (1..=65_535).contains(number));
        number.map(|number| Self { number: NodeId(number), kind }).ok_or_else(|| {
            format!(
                "`{text}` is no node: write node-3, its number alone, or dpu-3 for the DPU of host 3; `mesh status` \
                 lists them"
            )
        })
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
        Error::new(ErrorKind::DriveFailed, "a file cannot be written").with("file", path.display()).caused_by(error)
    })
}

/// Prints lines; a reader that has closed its end is no error.
pub(crate) fn say(lines: &[impl AsRef<str>]) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    for line in lines {
        match writeln!(out, "{}", line.as_ref()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => {
                return Err(Error::new(ErrorKind::DriveFailed, "the output cannot be written").caused_by(error));
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

/// A value as JSON, on one line.
pub(crate) fn to_json(value: &impl serde::Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|error| Error::bug("the answer cannot be written").caused_by(error))
}

/// Prints a value as JSON.
pub(crate) fn say_json(value: &impl serde::Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value);
    say(&[text.map_err(|error| Error::bug("the answer cannot be written").caused_by(error))?])
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
    fn a_dpu_is_named_after_its_host_and_never_taken_for_it() {
        let node = |id, attached_to: Option<u64>| {
            let kind = if attached_to.is_some() { NodeKind::Dpu } else { NodeKind::Host };
            let (node, attached_to) = (NodeId(id), attached_to.map(NodeId));
            Arc::new(NodeReport { node, kind, attached_to, ..NodeReport::default() })
        };
        let nodes =
            [node(1, None), node(2, None), node(3, None), node(11, Some(1)), node(12, Some(2)), node(14, Some(2))];
        let named = |text: &str| text.parse::<NodeName>().unwrap().among(&nodes);
        let found = ["node-1", "1", "host-1", "dpu-1", "dpu-11", "node-11", "11"].map(|text| named(text).unwrap().0);
        assert_eq!(found, [1, 1, 1, 11, 11, 11, 11]);
        assert_eq!(named("dpu-3").unwrap_err().kind(), ErrorKind::NotFound);
        assert!(named("dpu-2").unwrap_err().to_string().contains("[host=node-2 one=node-12 another=node-14]"));
        assert_eq!(named("host-11").unwrap_err().kind(), ErrorKind::Invalid);
        assert!("somewhere".parse::<NodeName>().is_err());
    }

    #[test]
    fn values_are_quoted_for_the_shell() {
        assert_eq!(exports(&[("A", "it's $HOME".into())]), "export A='it'\\''s $HOME'\n");
    }
}
