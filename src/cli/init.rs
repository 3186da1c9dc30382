//! `mesh init`: a new cluster.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use mesh::{
    config::{CAPACITY_MIN, ClusterConfig, CodeText, Config, DriveConfig, Namespaces, NodeNumber, S3Config, Size},
    provision::{FIRST_TENANT, Provision, dialable},
};
use mesh_core::{
    Error,
    topology::{Code, Location},
};
use mesh_placement::{HOSTS_MIN, drives_each};

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
    /// Namespace groups: more of them spread the buckets' metadata over more hosts, three or five for each.
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
    /// A drive: a folder and its size (256MiB or more), or a block device. Once for each drive.
    #[arg(long = "drive", value_name = "PATH[:SIZE]", value_parser = drive)]
    pub(crate) drives: Vec<DriveConfig>,
    /// Where the machine is: its rack, or its zone and its rack. None has more shards of an object than may be lost, where that is possible.
    #[arg(long, value_name = "[ZONE/]RACK")]
    pub(crate) location: Option<Location>,
}

impl NodeArgs {
    pub(crate) fn config(self, node: NodeNumber, data: PathBuf) -> Result<Config, Error> {
        Ok(Config {
            s3: self.s3.map(S3Config::new),
            drives: self.drives,
            location: self.location,
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
        println!("{}", needs(self.code.0));
        println!();
        println!("  mesh serve --config {}", file.display());
        println!("  mesh invite --dir {} --node 2 --out node-2.invitation", dir.display());
        println!("  source {}", told.display());
        println!("  mesh env --dir {}    once they have joined", dir.display());
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

/// What a mesh of this code needs so that the loss of a node costs nothing.
fn needs(code: Code) -> String {
    let hosts = HOSTS_MIN.max(code.shards().div_ceil(usize::from(code.parity).max(1)));
    match code.parity {
        0 => format!("The code {code} has no parity: the loss of any drive loses data."),
        _ => format!(
            "With the code {code} any one node may be lost, and reads and writes go on, once there are {hosts} nodes with \
             {} drives each, or more; `mesh status` says whether it is so.",
            drives_each(code, hosts)
        ),
    }
}

/// `PATH` or `PATH:SIZE`.
pub(super) fn drive(text: &str) -> Result<DriveConfig, String> {
    let (path, capacity) = match text.rsplit_once(':') {
        Some((path, size)) => (path, Some(size.parse::<Size>()?)),
        None => (text, None),
    };
    if capacity.is_some_and(|size| size.0 < CAPACITY_MIN) {
        return Err(format!("a drive has at least {}MiB", CAPACITY_MIN >> 20));
    }
    let path = std::path::absolute(path).map_err(|error| error.to_string())?;
    Ok(DriveConfig { path, capacity })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use mesh_core::{Principal, port::Role};
    use mesh_transport::identity::Identity;

    use super::*;

    #[test]
    fn what_a_code_needs_is_said_at_once() {
        let said = |data, parity| needs(Code { data, parity });
        assert!(said(2, 1).contains("3 nodes with 2 drives each"), "{}", said(2, 1));
        assert!(said(4, 2).contains("3 nodes with 3 drives each"), "{}", said(4, 2));
        assert!(said(4, 1).contains("5 nodes with 2 drives each"), "{}", said(4, 1));
        assert!(said(2, 0).contains("no parity"));
    }

    #[test]
    fn a_new_cluster_has_an_identity_for_data_and_one_for_administration() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("cluster");
        let address = SocketAddr::from(([127, 0, 0, 1], 7000));
        let node = NodeArgs { address, s3: None, drives: Vec::new(), location: None };
        let code = CodeText(Code { data: 1, parity: 0 });
        Init { dir: dir.clone(), node, code, namespaces: 1, bucket: "main".into() }.run().unwrap();

        let told = std::fs::read_to_string(dir.join("client.env")).unwrap();
        for (variable, file, role) in [
            ("MESH_IDENTITY", "client.pem", Principal::User { tenant: FIRST_TENANT, name: "admin".into() }),
            ("MESH_ADMIN_IDENTITY", "admin.pem", Principal::Admin { name: "init".into() }),
        ] {
            let path = dir.join(file);
            assert!(told.contains(&format!("export {variable}='{}'\n", path.display())), "{told}");
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{file} is private");
            assert_eq!(*Identity::load(&path).unwrap().role(), Role::Client(role), "{file}");
        }
    }
}
