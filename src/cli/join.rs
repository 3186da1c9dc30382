//! `mesh invite` and `mesh join`: further nodes.

use std::path::PathBuf;

use clap::Args;
use mesh::{
    config::{Config, NodeNumber, PeerConfig},
    provision::{Invitation, Provision},
};
use mesh_core::Error;

use super::{init::NodeArgs, write_private};

/// Make an invitation: one file with a new node's certificate and the cluster's key. Whoever has it can join and read:
/// carry it over a safe channel and delete it once it is used.
#[derive(Debug, Args)]
pub(crate) struct Invite {
    /// The folder that `mesh init` made.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The new node's number, 2 to 65535; each is used once.
    #[arg(long, value_name = "N")]
    node: i64,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Invite {
    pub(crate) fn run(self) -> Result<(), Error> {
        let node = NodeNumber::try_from(self.node).map_err(Error::invalid)?;
        let provision = Provision::open(&self.dir)?;
        let first = Config::load(&self.dir.join("mesh.toml"))?;
        if node == first.node {
            return Err(Error::invalid("this is the number of the node that made the cluster; choose another"));
        }
        let peers = vec![PeerConfig { node: first.node, address: first.address }];
        provision.invite(node, peers)?.save(&self.out)?;
        println!("An invitation for {} in {}; on the new machine:", node.id(), self.out.display());
        println!();
        println!("  mesh join --invitation {} --dir DIR --address IP:PORT --drive PATH:SIZE", self.out.display());
        Ok(())
    }
}

/// Make this machine a node of a cluster: unpacks an invitation into a folder and writes the configuration.
#[derive(Debug, Args)]
pub(crate) struct Join {
    /// The file that `mesh invite` made.
    #[arg(long, value_name = "FILE")]
    invitation: PathBuf,
    /// The folder for this node; it must not be a node's already.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    node: NodeArgs,
}

impl Join {
    pub(crate) fn run(self) -> Result<(), Error> {
        let dir = std::path::absolute(&self.dir).map_err(|error| Error::invalid("no such path").caused_by(error))?;
        let invitation = Invitation::load(&self.invitation)?;
        let data = dir.join(format!("node-{}", invitation.node.0));
        let mut config = self.node.config(invitation.node, data)?;
        config.peers.clone_from(&invitation.peers);
        invitation.unpack(&config.data)?;
        let file = dir.join("mesh.toml");
        write_private(&file, &config.to_text()?)?;
        println!("{} is ready to join:", invitation.node.id());
        println!();
        println!("  mesh serve --config {}", file.display());
        Ok(())
    }
}
