//! `mesh drive`.

use clap::{Args, Subcommand};
use mesh::config::DriveConfig;
use mesh_core::{
    Error,
    id::DriveId,
    op::{AdminOp, NewMedium},
};

use super::{AdminConnect, NodeName, placement::told};

/// Give a node another drive, replace one, empty one and take it out, or say that one is lost.
#[derive(Debug, Args)]
pub(crate) struct Drive {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Give a node another drive.
    Add(Add),
    /// Put another drive in the place of one.
    Replace(Replace),
    /// Empty a drive, so that it can be taken out.
    Drain(Drain),
    /// Take a drive out of the mesh.
    Remove(Remove),
}

/// Give a node another drive, while it runs.
///
/// A medium must be blank (a folder: empty, or not there), or a drive of this mesh; anything else is left alone.
/// It is formatted and used at once, and what is stored is spread over it by and by, within the rate of `[repair]`. The node
/// remembers it in its data folder; its configuration stays as it is. Asking again does no harm.
#[derive(Debug, Args)]
struct Add {
    #[command(flatten)]
    connect: AdminConnect,
    /// The node, such as node-3.
    node: NodeName,
    /// On its machine, a folder and its size (256MiB or more), or a block device; an absolute path.
    #[arg(value_name = "PATH[:SIZE]", value_parser = elsewhere)]
    medium: DriveConfig,
}

/// Put another drive in the place of one, in the same node, while that runs: what the one has, or had, goes to the other, and,
/// if they are of one size, nothing else moves.
///
/// The new one must be as large at least. It may be where the old one was, if that is broken or was pulled. The old one is
/// emptied from then on: copied while it can be read, rebuilt from others where it cannot. Once `mesh repair` says that every
/// group is whole, `mesh drive remove` takes it out, with `--lost` if it does not answer.
#[derive(Debug, Args)]
struct Replace {
    #[command(flatten)]
    connect: AdminConnect,
    /// The old drive, by its number in `mesh status`, such as 1001 or drive-1001.
    drive: DriveName,
    /// The new one: as for `mesh drive add`.
    #[arg(value_name = "PATH[:SIZE]", value_parser = elsewhere)]
    medium: DriveConfig,
}

/// Empty a drive, so that it can be taken out; with `--undo`, use it again.
///
/// New objects go elsewhere from then on, by and by (a PUT goes on by the layout that it began with), and what is on it is
/// copied to where the layout without it has it, within the rate of `[repair]`; until then it is read as before. It is refused
/// if too few drives would be left for the code, if a node would get more shards of one object than may be lost, if what is on
/// it would not fit where it has to go, or for a moment after another one. `mesh repair` shows how far it is: once every group
/// is whole, `mesh drive remove` takes it out.
#[derive(Debug, Args)]
struct Drain {
    #[command(flatten)]
    connect: AdminConnect,
    /// The drive, by its number in `mesh status`, such as 1001 or drive-1001.
    drive: DriveName,
    /// Use it again.
    #[arg(long)]
    undo: bool,
}

/// Take a drive out of the mesh: one that was emptied, or, with `--lost`, one that does not come back: broken, stolen, or on a
/// machine that is gone.
///
/// Without `--lost` it is refused until everything has been counted elsewhere and nothing is on the drive any more, which has
/// to answer for that; with it, while the drive is up. There is no way back: the drive's number is never used again, and if
/// the medium does come back, its node says so in the log and in `mesh status` and leaves it alone; wiped, it is taken in
/// under a new number. What the drive was to delete is let go, and new objects are laid out over the drives that are left, if
/// they are enough for the code. Of one that was lost, objects of which it had a part can spare one less until that is rebuilt.
#[derive(Debug, Args)]
struct Remove {
    #[command(flatten)]
    connect: AdminConnect,
    /// The drive, by its number in `mesh status`, such as 1001 or drive-1001.
    drive: DriveName,
    /// The drive is lost for good.
    #[arg(long)]
    lost: bool,
    /// Do not ask for the number again.
    #[arg(long)]
    yes: bool,
}

/// A medium on the node's machine: what a path is relative to here is nothing there.
fn elsewhere(text: &str) -> Result<DriveConfig, String> {
    if !text.starts_with('/') {
        return Err("a path on the node's machine begins with /".to_owned());
    }
    super::init::drive(text)
}

#[derive(Clone, Copy, Debug)]
pub(super) struct DriveName(pub(super) DriveId);

impl core::str::FromStr for DriveName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_prefix("drive-").unwrap_or(text).parse().ok();
        number
            .map(|number| Self(DriveId(number)))
            .ok_or_else(|| format!("`{text}` is no drive: write its number, such as 1001; `mesh status` lists them"))
    }
}

impl Drive {
    pub(crate) async fn run(self) -> Result<(), Error> {
        let medium = |medium: DriveConfig| NewMedium {
            path: medium.path.to_string_lossy().into_owned(),
            capacity_bytes: medium.capacity.map(|size| size.0),
        };
        let (connect, op) = match self.verb {
            Verb::Add(Add { connect, node, medium: new }) => {
                let client = connect.client().await?;
                let op = AdminOp::AddDrive { node: node.of(&client).await?, medium: medium(new) };
                return told(&client.administer(op).await?, false);
            }
            Verb::Replace(Replace { connect, drive: DriveName(drive), medium: new }) => {
                (connect, AdminOp::ReplaceDrive { drive, medium: medium(new) })
            }
            Verb::Drain(Drain { connect, drive: DriveName(drive), undo }) => {
                (connect, AdminOp::DrainDrive { drive, draining: !undo })
            }
            Verb::Remove(Remove { connect, drive: DriveName(drive), lost, yes }) => {
                if !yes {
                    super::confirm(drive.0, &format!("{drive} will never be used again"))?;
                }
                (connect, if lost { AdminOp::LoseDrive { drive } } else { AdminOp::RemoveDrive { drive } })
            }
        };
        told(&connect.client().await?.administer(op).await?, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_is_named_by_its_number() {
        let named = |text: &str| text.parse::<DriveName>().map(|name| name.0.0);
        assert_eq!((named("1001"), named("drive-1001")), (Ok(1001), Ok(1001)));
        assert_eq!(elsewhere("/mnt/a:1GiB").map(|drive| drive.capacity.map(|size| size.0)), Ok(Some(1 << 30)));
        assert!(elsewhere("mnt/a:1GiB").is_err() && elsewhere("/mnt/a:1MiB").is_err());
        assert!(named("node-1").is_err() && named("").is_err() && named("drive-").is_err());
    }
}
