//! `mesh metadata`.

use std::{io::Read, path::PathBuf};

use clap::{Args, Subcommand};
use mesh::{backup, config::Config, env::Env};
use mesh_core::{
    Error, ErrorKind,
    op::{AdminAnswer, AdminOp, RecoveryPlan},
};

use super::{AdminConnect, NodeName, human, say};

/// Back up the metadata of a mesh, restore them, or have them go on without those who kept them.
#[derive(Debug, Args)]
pub(crate) struct Metadata {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Recover(Recover),
    Backup(Backup),
    Restore(Restore),
    Empty(Empty),
}

/// Have metadata groups go on that have lost a majority of the hosts that kept them.
///
/// Without --accept-loss it only shows what it would do: any node can be asked, whether or not the mesh has leaders. A group
/// goes on from the replica that has most among the hosts that answer: what was acknowledged by the others alone is gone, which
/// is nothing if the survivor was not behind. All hosts that do not answer are out for good, with their drives: they must never run
/// again before they are wiped, and what was on their drives is rebuilt as far as the others have enough of it. Write numbers,
/// owners' epochs and layouts go on far behind all that can have been used by now, so nothing is given out twice; for that the
/// clocks have to be right.
///
/// First bring back every host that can be brought back, and look again: nothing is lost then. It is refused while another host
/// sees one that does not answer here, and where a replica has only stopped.
#[derive(Debug, Args)]
struct Recover {
    #[command(flatten)]
    connect: AdminConnect,
    /// Do it: those that do not answer are lost for good.
    #[arg(long)]
    accept_loss: bool,
    /// Do not ask for the number of lost hosts.
    #[arg(long)]
    yes: bool,
}

/// Write what the metadata groups know to a file: tenants, buckets, objects and where those are; not the objects themselves.
///
/// `mesh metadata backup - | mesh put --bucket backups - today` puts it into a bucket, here of the same mesh; another mesh's,
/// or another store's, is where it is of use when this one is gone. Keep `keyring.toml` of a node beside it: keys in it are
/// wrapped by the cluster's.
#[derive(Debug, Args)]
struct Backup {
    #[command(flatten)]
    connect: AdminConnect,
    /// The file, which must not be there yet; `-` is standard output.
    to: PathBuf,
}

/// Make the metadata of a node's host out of a backup: the mesh is then as it was when that was made.
///
/// For when no host has metadata any more, or what they have is not wanted. Every node must be stopped. Restore on one host, in
/// the data folder that it had then (the mesh knows it by the file `life` in there), and
/// say `mesh metadata empty` on every other one before it starts: it learns from the restored one. What was stored since the
/// backup is unknown and its bytes are left over; what was deleted since is named and may not be whole; keys that were revoked
/// since are good again.
#[derive(Debug, Args)]
struct Restore {
    /// The configuration of this host's node.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Hosts that do not come back, with commas between them: they are out for good, with their drives.
    #[arg(long, value_delimiter = ',', value_name = "NODE")]
    lost: Vec<NodeName>,
    /// The backup; `-` is standard input.
    from: PathBuf,
}

/// Set a node's metadata aside, so that it starts with none and learns them from other hosts.
///
/// Only for hosts of a mesh that is restored on another one: until the others have learnt them from there, those are the only
/// metadata there are. The node must be stopped.
#[derive(Debug, Args)]
struct Empty {
    /// The configuration of this host's node.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Metadata {
    pub(crate) async fn run(self) -> Result<(), Error> {
        match self.verb {
            Verb::Recover(command) => command.run().await,
            Verb::Backup(command) => command.run().await,
            Verb::Restore(command) => command.run(),
            Verb::Empty(Empty { config }) => say(&[match backup::empty(&Config::load(&config)?)? {
                Some(before) => format!("the metadata are set aside as {}", before.display()),
                None => "there are no metadata".to_owned(),
            }]),
        }
    }
}

impl Recover {
    async fn run(self) -> Result<(), Error> {
        let client = self.connect.client().await?;
        let plan = recovery(client.administer(AdminOp::Recover { accept: None }).await?)?;
        say(&[plan.to_string()])?;
        if plan.is_idle() {
            return say(&["every group goes on by itself"]);
        }
        if !self.accept_loss {
            let what = "nothing was changed: bring back what can be brought back, then say --accept-loss";
            return Err(Error::new(ErrorKind::Conflict, what));
        }
        if !self.yes {
            super::confirm(plan.lost.len() as u64, "what those hosts alone knew is lost, and they never come back")?;
        }
        let accept = Some(plan.clone());
        let done = recovery(client.administer(AdminOp::Recover { accept }).await?)?;
        let groups = done.groups.iter().filter(|(_, fate)| !fate.goes_on()).count();
        say(&[format!("{groups} groups go on; {} hosts are out", done.lost.len())])
    }
}

fn recovery(answer: AdminAnswer) -> Result<RecoveryPlan, Error> {
    match answer {
        AdminAnswer::Recovery(plan) => Ok(plan),
        _ => Err(Error::bug("a question for a recovery was answered with something else")),
    }
}

impl Backup {
    async fn run(self) -> Result<(), Error> {
        let client = self.connect.client().await?;
        let told = |contents: backup::Contents| {
            format!("{} groups, {} rows, {}", contents.groups, contents.rows, human(contents.bytes))
        };
        if self.to.as_os_str() == "-" {
            let contents = backup::write(&client, &mut std::io::stdout().lock()).await?;
            tracing::info!("{}", told(contents));
            return Ok(());
        }
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::DriveFailed, "the backup cannot be written")
                .with("file", self.to.display())
                .caused_by(error)
        };
        if self.to.exists() {
            return Err(Error::new(ErrorKind::Conflict, "there is such a file already").with("file", self.to.display()));
        }
        // Beside it at first: what has the name is whole.
        let mut beside = self.to.clone().into_os_string();
        beside.push(".part");
        let beside = PathBuf::from(beside);
        let mut options = std::fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create(true).truncate(true), 0o600);
        let mut file = std::io::BufWriter::new(options.open(&beside).map_err(failed)?);
        let contents = backup::write(&client, &mut file).await?;
        file.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)?;
        std::fs::rename(&beside, &self.to).map_err(failed)?;
        say(&[told(contents)])
    }
}

impl Restore {
    fn run(self) -> Result<(), Error> {
        let config = Config::load(&self.config)?;
        let env = Env::real()?;
        let lost = self.lost.iter().map(|name| name.number).collect::<Vec<_>>();
        let mut from: Box<dyn Read> = if self.from.as_os_str() == "-" {
            Box::new(std::io::stdin().lock())
        } else {
            let opened = std::fs::File::open(&self.from).map_err(|error| {
                Error::new(ErrorKind::NotFound, "the backup cannot be read")
                    .with("file", self.from.display())
                    .caused_by(error)
            });
            Box::new(std::io::BufReader::new(opened?))
        };
        let restored = backup::restore(&mut from, &config, &env, &lost)?;
        let contents = restored.contents;
        let mut lines = vec![format!("{} groups, {} rows", contents.groups, contents.rows)];
        lines
            .extend(restored.before.map(|before| format!("the former metadata are set aside as {}", before.display())));
        lines.push("start this node now; say `mesh metadata empty` on every other host before it starts".to_owned());
        say(&lines)
    }
}
