//! `mesh metadata`.

use std::{
    fs::{File, OpenOptions},
    io::{BufReader, BufWriter, Read, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use mesh::{
    Client, backup,
    config::Config,
    env::{Env, SystemClock, SystemEntropy},
};
use mesh_core::{
    Entropy as _, Error, ErrorKind,
    id::NodeId,
    op::{AdminAnswer, AdminOp, RecoveryPlan},
    port::Clock as _,
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
    Check(Check),
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
/// `mesh metadata backup - | mesh put --bucket backups - 2026-11-30` puts it into a bucket, here of the same mesh; another mesh's,
/// or another store's, is where it is of use when this one is gone. Who reads from a pipe does not see why it ends: where the backup
/// fails half of it is stored as if it were whole. So check what was stored,
/// `mesh get --bucket backups 2026-11-30 - | mesh metadata check -`, and give each a key of its own, by its date, so that none
/// takes the place of one that is whole. Keep `keyring.toml` of a node beside it: keys in it are wrapped by the cluster's.
#[derive(Debug, Args)]
struct Backup {
    #[command(flatten)]
    connect: AdminConnect,
    /// The file, which must not be there yet; `-` is standard output.
    to: PathBuf,
}

/// Read a backup as a restore does, wholly, and restore nothing: whether it is whole, what it has, and of when it is.
///
/// Needs no mesh, no configuration and no room.
#[derive(Debug, Args)]
struct Check {
    /// The backup; `-` is standard input.
    from: PathBuf,
}

/// Make the metadata of a node's host out of a backup: the mesh is then as it was when that was made.
///
/// For when no host has metadata any more, or what they have is not wanted. Every node must be stopped. Restore on one host, in
/// the data folder that it had then (the mesh knows it by the file `life` in there), and
/// say `mesh metadata empty` on every other one before it starts: it learns from the restored one. Without --yes it names those
/// hosts, and asks for their number before anything is changed. What was stored since the
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
    /// Do not ask for the number of other hosts: all of them are stopped, and are emptied before they start.
    #[arg(long)]
    yes: bool,
    /// The backup; `-` is standard input, for which --yes has to be said.
    from: PathBuf,
}

/// Set a node's metadata aside, so that it starts with none and learns them from other hosts.
///
/// Only for hosts of a mesh that is restored on another one: until the others have learnt them from there, those are the only
/// metadata there are. What a restore that was cut short left goes too. The node must be stopped.
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
            Verb::Check(Check { from }) => check(&from),
            Verb::Restore(command) => command.run(),
            Verb::Empty(Empty { config }) => {
                let aside = backup::empty(&Config::load(&config)?)?;
                if aside.is_empty() {
                    return say(&["there are no metadata"]);
                }
                let line = |path: &PathBuf| format!("the metadata are set aside as {}", path.display());
                say(&aside.iter().map(line).collect::<Vec<_>>())
            }
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
        if self.to.as_os_str() == "-" {
            let contents = write(&client, &mut std::io::stdout().lock()).await?;
            tracing::info!("{}", told(&contents));
            return Ok(());
        }
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::DriveFailed, "the backup cannot be written")
                .with("file", self.to.display())
                .caused_by(error)
        };
        expect_none(&self.to)?;
        let (beside, file) = Beside::begin(&self.to).map_err(failed)?;
        let mut file = BufWriter::new(file);
        let contents = write(&client, &mut file).await?;
        let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
        expect_none(&self.to)?;
        beside.place(&file).map_err(failed)?;
        say(&[told(&contents)])
    }
}

async fn write(client: &Client, out: &mut impl Write) -> Result<backup::Contents, Error> {
    backup::write(client, SystemClock::default().wall(), out).await
}

fn expect_none(file: &Path) -> Result<(), Error> {
    if !file.exists() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "there is such a file already").with("file", file.display()))
}

/// What is written beside the file that it is to be: what has the name is whole. Removed unless it gets that.
struct Beside<'a> {
    to: &'a Path,
    path: PathBuf,
}

impl<'a> Beside<'a> {
    /// Makes one that only its owner may read, under a name that nobody else writes to.
    fn begin(to: &'a Path) -> std::io::Result<(Self, File)> {
        let mut chance = [0; 8];
        SystemEntropy.fill(&mut chance);
        let mut path = to.as_os_str().to_owned();
        path.push(format!(".part-{:016x}", u64::from_le_bytes(chance)));
        let path = PathBuf::from(path);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok((Self { to, path }, file))
    }

    /// Gives it its name, durably.
    fn place(self, file: &File) -> std::io::Result<()> {
        file.sync_all()?;
        std::fs::rename(&self.path, self.to)?;
        let folder = self.to.parent().filter(|folder| !folder.as_os_str().is_empty());
        mesh::files::sync_folder(folder.unwrap_or_else(|| Path::new(".")))
    }
}

impl Drop for Beside<'_> {
    fn drop(&mut self) {
        if self.path.exists()
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(file = %self.path.display(), %error, "a partial file is left");
        }
    }
}

fn told(contents: &backup::Contents) -> String {
    let backup::Contents { groups, rows, bytes, at } = contents;
    format!("{groups} groups, {rows} rows, {}, of {at}", human(*bytes))
}

/// A backup that is to be read.
fn open(from: &Path) -> Result<Box<dyn Read>, Error> {
    if from.as_os_str() == "-" {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    let opened = File::open(from).map_err(|error| {
        Error::new(ErrorKind::NotFound, "the backup cannot be read").with("file", from.display()).caused_by(error)
    });
    Ok(Box::new(BufReader::new(opened?)))
}

fn check(from: &Path) -> Result<(), Error> {
    let found = backup::check(&mut open(from)?)?;
    say(&[format!("whole: {}; hosts: {}", told(&found.contents), named(&found.hosts))])
}

fn named(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Restore {
    fn run(self) -> Result<(), Error> {
        if !self.yes && self.from.as_os_str() == "-" {
            let what =
                "nobody can be asked where the backup comes over standard input: stop all other hosts, and say --yes";
            return Err(Error::invalid(what));
        }
        let config = Config::load(&self.config)?;
        let env = Env::real()?;
        let lost = self.lost.iter().map(|name| name.number).collect::<Vec<_>>();
        let agree = |found: &backup::Found| {
            say(&[told(&found.contents)])?;
            let is_other = |host: &NodeId| *host != config.node.id() && !lost.contains(host);
            let others: Vec<NodeId> = found.hosts.iter().copied().filter(is_other).collect();
            if others.is_empty() {
                return Ok(());
            }
            say(&[
                format!("other hosts of this mesh: {}", named(&others)),
                "first stop every one of them, and say `mesh metadata empty` on it before it starts again. One that runs with \
                 metadata of its own does not learn from this host: there are two meshes then that use the same drives, \
                 and objects that either stores are unknown to the other, and may be lost"
                    .to_owned(),
            ])?;
            if self.yes {
                return Ok(());
            }
            super::confirm(others.len() as u64, "those hosts are stopped, and do not start before they are emptied")
        };
        let restored = backup::restore(&mut open(&self.from)?, &config, &env, &lost, agree)?;
        let aside = |before: PathBuf| format!("the former metadata are set aside as {}", before.display());
        let mut lines: Vec<String> = restored.before.map(aside).into_iter().collect();
        lines.push("start this node now; say `mesh metadata empty` on every other host before it starts".to_owned());
        say(&lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_backups_at_once_write_to_files_of_their_own() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("mesh.backup");
        let names = || std::fs::read_dir(folder.path()).unwrap().count();
        let [(first, mut one), (second, mut other)] = [(); 2].map(|()| Beside::begin(&to).unwrap());
        assert_ne!(first.path, second.path);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!([mode(&first.path), mode(&second.path)], [0o600; 2]);
        one.write_all(b"one").unwrap();
        other.write_all(b"the other").unwrap();
        assert_eq!(names(), 2);
        // It failed.
        drop(second);
        assert_eq!((names(), to.exists()), (1, false));
        first.place(&one).unwrap();
        assert_eq!((names(), std::fs::read(&to).unwrap().as_slice()), (1, b"one".as_slice()));
        assert_eq!(expect_none(&to).unwrap_err().kind(), ErrorKind::Conflict);
    }
}
