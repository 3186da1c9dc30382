//! `mesh node`.

use clap::{Args, Subcommand};
use mesh_core::{Error, op::AdminOp};

use super::{AdminConnect, NodeName, placement::told};

/// Have a node leave the mesh.
#[derive(Debug, Args)]
pub(crate) struct Node {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Empty a node of all that it has, so that it can be taken out.
    Drain(Drain),
    /// Take a node out of the mesh.
    Remove(Remove),
}

/// Empty a node of all that it has, so that it can be taken out; with `--undo`, it stays, and all that it has is used again. For
/// maintenance say `mesh drain`, which leaves everything stored where it is.
///
/// Its actors go elsewhere, other hosts vote on metadata in its place, and what is on its drives is copied to those of others,
/// as `mesh drive drain` has it for one. It is refused, with the reason, if something would be less safe without it: what is
/// stored, or metadata, on which three hosts at least have to vote so that one can be lost. `mesh repair` shows how far it is:
/// once every group is whole, `mesh node remove` takes it out.
#[derive(Debug, Args)]
struct Drain {
    #[command(flatten)]
    connect: AdminConnect,
    /// The node, such as node-3.
    node: NodeName,
    /// It stays.
    #[arg(long)]
    undo: bool,
}

/// Take a node out of the mesh: one that was emptied, or, with `--lost`, one that does not come back.
///
/// Without `--lost` it is refused while anything is on its drives, which have to answer for that, or while something needs it;
/// with it, while the node is up. There is no way back: neither its number nor those of its drives are used again, nothing
/// that it says counts any more, and a machine that is to come back is wiped and invited under another number. DPUs in it go
/// with it. Of one that was lost, what was on its drives is rebuilt from the others, as far as those have enough of it.
#[derive(Debug, Args)]
struct Remove {
    #[command(flatten)]
    connect: AdminConnect,
    /// The node, such as node-3.
    node: NodeName,
    /// The node is lost for good, with its drives.
    #[arg(long)]
    lost: bool,
    /// Do not ask for the number again.
    #[arg(long)]
    yes: bool,
}

impl Node {
    pub(crate) async fn run(self) -> Result<(), Error> {
        let (client, op) = match self.verb {
            Verb::Drain(Drain { connect, node, undo }) => {
                let client = connect.client().await?;
                let node = node.of(&client).await?;
                (client, AdminOp::LeaveNode { node, leaving: !undo })
            }
            Verb::Remove(Remove { connect, node, lost, yes }) => {
                let client = connect.client().await?;
                let node = node.of(&client).await?;
                if !yes {
                    super::confirm(node.0, &format!("{node} and its drives will never be used again"))?;
                }
                (client, AdminOp::RemoveNode { node, lost })
            }
        };
        told(&client.administer(op).await?, false)
    }
}
