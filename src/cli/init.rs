//! `mesh init`: a new cluster.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use mesh::{
    config::{ClusterConfig, CodeText, Config, DriveConfig, Namespaces, NodeNumber, S3Config, Size},
    provision::{FIRST_TENANT, Provision, dialable},
};
use mesh_core::Error;

use super::{exports, write_private};

/// Make a new cluster in a folder: its certificate authority, its key, and the configuration of its first node.
///
/// Then run `mesh serve --config DIR/mesh.toml` here, and `mesh invite` for each further node. The folder's `ca/` and
/// `keyring.toml` are the keys to everything stored: keep a copy offline.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The folder; it must not hold a cluster.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    node: NodeArgs,
    /// Data and parity shards of a stripe.
    #[arg(long, default_value = "2+1", value_name = "K+M")]
    code: CodeText,
    /// Namespace groups: more of them spread the buckets' metadata over more leaders.
    #[arg(long, default_value_t = 1)]
    namespaces: u16,
    /// The name of the first bucket.
    #[arg(long, default_value = "main")]
    bucket: String,
}

/// What a node's configuration is made from.
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// Where the other nodes reach this one: an IP address and a UDP port.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) address: SocketAddr,
    /// Where to serve S3; none: not on this node.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) s3: Option<SocketAddr>,
    /// A drive: a folder and its size, or a block device. Once for each drive.
    #[arg(long = "drive", value_name = "PATH[:SIZE]", value_parser = drive)]
    pub(crate) drives: Vec<DriveConfig>,
}

impl NodeArgs {
    pub(crate) fn config(self, node: NodeNumber, data: PathBuf) -> Result<Config, Error> {
        Ok(Config {
            s3: self.s3.map(|address| S3Config { address }),
            drives: self.drives,
            ..Config::new(node, dialable(self.address)?, data)
        })
    }
}

impl Init {
    pub(crate) fn run(self) -> Result<(), Error> {
        let dir = std::path::absolute(&self.dir).map_err(|error| Error::invalid("no such path").caused_by(error))?;
        let node = NodeNumber(1);
        let mut config = self.node.config(node, dir.join("node-1"))?;
        config.bootstrap = true;
        config.cluster = ClusterConfig {
            code: self.code,
            namespaces: Namespaces::try_from(i64::from(self.namespaces)).map_err(Error::invalid)?,
        };
        let provision = Provision::create(&dir, &self.bucket)?;
        provision.equip(node.id(), &config.data)?;
        let founding = provision.founding()?;
        let identity = dir.join("client.pem");
        provision.client_identity(FIRST_TENANT, &founding.principal)?.save(&identity)?;
        let admin = dir.join("admin.pem");
        provision.admin_identity("init")?.save(&admin)?;
        let credentials = provision.credentials()?;
        let mut variables = vec![
            ("AWS_ACCESS_KEY_ID", credentials.access),
            ("AWS_SECRET_ACCESS_KEY", credentials.secret),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_DEFAULT_REGION", "us-east-1".to_owned()),
            ("MESH_BUCKET", founding.bucket),
            ("MESH_CONNECT", config.address.to_string()),
            ("MESH_IDENTITY", identity.display().to_string()),
            ("MESH_ADMIN_IDENTITY", admin.display().to_string()),
        ];
        if let Some(s3) = &config.s3 {
            variables.insert(0, ("AWS_ENDPOINT_URL", format!("http://{}", s3.address)));
        }
        let told = dir.join("client.env");
        write_private(&told, &exports(&variables))?;
        let file = dir.join("mesh.toml");
        write_private(&file, &config.to_text()?)?;
        println!("A new cluster, {}, in {}", provision.keyring.cluster(), dir.display());
        println!();
        println!("  mesh serve --config {}", file.display());
        println!("  mesh invite --dir {} --node 2 --out node-2.invitation", dir.display());
        println!("  source {}", told.display());
        println!();
        println!(
            "Whoever has {} stores and fetches; whoever has {} may also move actors and empty nodes.",
            identity.display(),
            admin.display()
        );
        println!(
            "Keep a copy of {0}/ca and {0}/keyring.toml offline: without them nothing stored can be read.",
            dir.display()
        );
        Ok(())
    }
}

/// `PATH` or `PATH:SIZE`.
fn drive(text: &str) -> Result<DriveConfig, String> {
    let (path, capacity) = match text.rsplit_once(':') {
        Some((path, size)) => (path, Some(size.parse::<Size>()?)),
        None => (text, None),
    };
    let path = std::path::absolute(path).map_err(|error| error.to_string())?;
    Ok(DriveConfig { path, capacity })
}
