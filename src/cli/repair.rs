//! `mesh repair`.

use clap::Args;
use mesh_core::{Error, op::AdminOp};

use super::{AdminConnect, placement::told};

/// Show how far each metadata group is with bringing what it has stored to where the newest layout of the drives has it, and
/// what the last count of all shards has found.
///
/// A group is whole if a count for the newest layout has ended: then every shard of what was stored by then was seen where it
/// is to be, and what was moved away is deleted there. No count ends while a drive is away that is in use: neither emptied,
/// nor out, nor declared lost. What was written before level 2 of the mesh, under layouts that are of no line, stays where it
/// is and is not counted.
#[derive(Debug, Args)]
pub(crate) struct Repair {
    #[command(flatten)]
    connect: AdminConnect,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Repair {
    pub(crate) async fn run(self) -> Result<(), Error> {
        told(&self.connect.client().await?.administer(AdminOp::Repair).await?, self.json)
    }
}
