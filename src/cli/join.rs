//! `mesh invite` and `mesh join`: further nodes.

use core::time::Duration;
use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use clap::Args;
use mesh::{
    config::{Config, NodeNumber, PeerConfig, TlsConfig},
    env::Env,
    provision::{Invitation, Provision, new_invitation},
};
use mesh_core::{
    Error, ErrorKind,
    op::{AdminOp, NodeReport},
    topology::NodeKind,
};

use super::{init::NodeArgs, write_private};

/// Make an invitation: one file with a new node's certificate and the cluster's key. Whoever has it can join and read:
/// carry it over a safe channel and delete it once it is used.
///
/// The mesh is asked first, and must run: a number that a node has, or had, is never given out again. One that was given
/// out and that nobody has joined under may be invited anew; the older invitation is void then.
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
    /// A certificate for its S3 front end comes with it, of the cluster's own authority: how clients name that, a DNS name or an
    /// address. Once for each.
    #[arg(long = "s3-name", value_name = "NAME")]
    s3_names: Vec<String>,
    /// Addresses of nodes to ask, with commas between them; without it, those in the folder's `mesh.toml`.
    #[arg(long, value_delimiter = ',', value_name = "IP:PORT")]
    connect: Vec<SocketAddr>,
}

impl Invite {
    pub(crate) async fn run(self) -> Result<(), Error> {
        let node = NodeNumber::try_from(self.node).map_err(Error::invalid)?;
        let provision = Provision::open(&self.dir)?;
        let first = Config::load(&self.dir.join("mesh.toml"))?;
        let front = if self.s3_names.is_empty() { None } else { Some(provision.front(&self.s3_names)?) };
        let addresses = if self.connect.is_empty() { first.dialled() } else { self.connect };
        let cannot_ask = |error: Error| {
            Error::new(
                ErrorKind::Unreachable,
                "the mesh cannot be asked whether the number is free, so nobody is invited: start a node, or name one \
                 that runs with --connect",
            )
            .caused_by(error)
        };
        let env = Env::real()?;
        let identity = provision.admin_identity("invite")?;
        let number = new_invitation();
        let ask = async || {
            let client = mesh::quic::connect(&addresses, identity.clone(), &env).await?;
            client.administer(AdminOp::Invite { node: node.id(), invitation: number }).await?;
            client.status().await
        };
        let until = tokio::time::Instant::now() + STARTING_MAX;
        // A node that has just been started does not answer yet, or has no leader for a moment.
        let members = loop {
            match ask().await {
                Ok(members) => break members,
                Err(error) if is_refusal(error.kind()) => return Err(error),
                Err(error) if tokio::time::Instant::now() >= until => return Err(cannot_ask(error)),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        let peer = |report: &Arc<NodeReport>| {
            let node = NodeNumber::try_from(i64::try_from(report.node.0).ok()?).ok()?;
            let address = report.address.parse().ok()?;
            (report.kind == NodeKind::Host).then_some(PeerConfig { node, address })
        };
        provision.invite(node, number, members.iter().filter_map(peer).collect(), front)?.save(&self.out)?;
        println!("An invitation for {} in {}; on the new machine:", node.id(), self.out.display());
        println!();
        println!("  mesh join --invitation {} --dir DIR --address IP:PORT --drive PATH:SIZE", self.out.display());
        Ok(())
    }
}

/// The mesh has looked at it, and says so again to whoever asks again.
const fn is_refusal(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Conflict | ErrorKind::Invalid | ErrorKind::Denied | ErrorKind::QuotaExceeded)
}

const STARTING_MAX: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);

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
        if let Some(s3) = &mut config.s3
            && invitation.s3.is_some()
            && s3.tls.is_none()
            && !s3.plain_http
        {
            s3.tls = Some(TlsConfig::within(&config.data));
        }
        config.peers.clone_from(&invitation.peers);
        config.check()?;
        config.expect_asked_for()?;
        let file = dir.join("mesh.toml");
        if file.exists() {
            return Err(Error::new(ErrorKind::Conflict, "the folder has a configuration already; nothing was changed")
                .with("file", file.display()));
        }
        invitation.unpack(&config.data)?;
        write_private(&file, &config.to_text()?)?;
        println!("{} is ready to join:", invitation.node.id());
        println!();
        println!("  mesh serve --config {}", file.display());
        Ok(())
    }
}
