//! `mesh init`: a new cluster.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use mesh::{
    config::{
        CAPACITY_MIN, ClusterConfig, CodeText, Config, DriveConfig, Namespaces, NodeNumber, S3Config, Size, TlsConfig,
        WatchConfig,
    },
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
    /// How clients name the S3 front end, a DNS name or an address; once for each [default: the address of --s3].
    ///
    /// `client.env` has the first one, and the certificate that is made where none is given has all.
    #[arg(long = "s3-name", value_name = "NAME", requires = "s3")]
    s3_names: Vec<String>,
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
    /// HTTPS for S3: a PEM file with the certificate and those that vouch for it. Both files are read again once they change.
    #[arg(long, value_name = "FILE", requires = "s3", requires = "s3_key", conflicts_with = "s3_plain_http")]
    pub(crate) s3_certificate: Option<PathBuf>,
    /// Its key, in PEM.
    #[arg(long, value_name = "FILE", requires = "s3_certificate")]
    pub(crate) s3_key: Option<PathBuf>,
    /// HTTP for S3 though others than this machine can hear it: something in front of it speaks TLS, or nobody listens.
    #[arg(long, requires = "s3")]
    pub(crate) s3_plain_http: bool,
    /// Where to tell who watches the node what is counted on it and how it is, by HTTP and to everybody who reaches it: an address of
    /// this machine alone or of a private network. None: nowhere.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) watch: Option<SocketAddr>,
    /// A drive: a folder and its size (256MiB or more), or a block device. Once for each drive.
    #[arg(long = "drive", value_name = "PATH[:SIZE]", value_parser = drive)]
    pub(crate) drives: Vec<DriveConfig>,
    /// Where the machine is: its rack, or its zone and its rack. None has more shards of an object than may be lost, where that is possible.
    #[arg(long, value_name = "[ZONE/]RACK")]
    pub(crate) location: Option<Location>,
}

impl NodeArgs {
    pub(crate) fn config(self, node: NodeNumber, data: PathBuf) -> Result<Config, Error> {
        let absolute =
            |path: PathBuf| std::path::absolute(&path).map_err(|error| Error::invalid("no such path").caused_by(error));
        let tls = match (self.s3_certificate, self.s3_key) {
            (Some(certificate), Some(key)) => {
                Some(TlsConfig { certificate: absolute(certificate)?, key: absolute(key)? })
            }
            _ => None,
        };
        if let Some(TlsConfig { certificate, key }) = &tls {
            mesh_fronts::tls::Tls::load(certificate, key)?;
        }
        let plain_http = self.s3_plain_http;
        let s3 = self.s3.map(|address| S3Config { tls, plain_http, ..S3Config::new(address) });
        Ok(Config {
            s3,
            watch: self.watch.map(|listen| WatchConfig { listen }),
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
        let front = Front::of(&mut config, self.s3_names)?;
        config.check()?;
        config.expect_asked_for()?;
        if front.endpoint.is_some() {
            mesh_transport::fronts::check_names(&front.names)?;
        }
        let provision = Provision::create(&dir, &self.bucket)?;
        provision.equip(node.id(), &config.data)?;
        if front.makes_certificate {
            provision.equip_front(&front.names, &config.data)?;
        }
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
        if front.makes_certificate {
            variables.insert(0, ("AWS_CA_BUNDLE", provision.front_authority_file().display().to_string()));
        }
        if let Some(endpoint) = front.endpoint {
            variables.insert(0, ("AWS_ENDPOINT_URL", endpoint));
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

/// What follows from how the front end is to be.
struct Front {
    endpoint: Option<String>,
    names: Vec<String>,
    /// It has a certificate of the cluster's own.
    makes_certificate: bool,
}

impl Front {
    /// Where others than this machine can hear it and nothing else was said, it speaks HTTPS.
    fn of(config: &mut Config, mut names: Vec<String>) -> Result<Self, Error> {
        let own = TlsConfig::within(&config.data);
        let Some(s3) = &mut config.s3 else { return Ok(Self { endpoint: None, names, makes_certificate: false }) };
        let is_heard = !s3.address.ip().is_loopback();
        let makes_certificate = s3.tls.is_none() && !s3.plain_http && (is_heard || !names.is_empty());
        if makes_certificate {
            s3.tls = Some(own);
        }
        if names.is_empty() {
            if s3.address.ip().is_unspecified() {
                let what = "clients cannot ask for the address of --s3: say with --s3-name how they name this machine";
                return Err(Error::invalid(what).with("address", s3.address));
            }
            names.push(s3.address.ip().to_string());
        }
        let scheme = if s3.tls.is_some() { "https" } else { "http" };
        let host = names.first().map_or("", String::as_str);
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        Ok(Self { endpoint: Some(format!("{scheme}://{host}:{}", s3.address.port())), names, makes_certificate })
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
    use std::{os::unix::fs::PermissionsExt as _, path::Path};

    use clap::Parser as _;
    use mesh_core::{ErrorKind, Principal, port::Role};
    use mesh_transport::identity::Identity;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn what_a_code_needs_is_said_at_once() {
        let said = |data, parity| needs(Code { data, parity });
        assert!(said(2, 1).contains("3 nodes with 2 drives each"), "{}", said(2, 1));
        assert!(said(4, 2).contains("3 nodes with 3 drives each"), "{}", said(4, 2));
        assert!(said(4, 1).contains("5 nodes with 2 drives each"), "{}", said(4, 1));
        assert!(said(2, 0).contains("no parity"));
    }

    fn init(dir: &Path, s3: Option<&str>, more: &[&str]) -> Result<(), Error> {
        let s3 = s3.map(|s3| format!("--s3={s3}"));
        let dir = format!("--dir={}", dir.display());
        let first = ["mesh", "init", "--code=1+0", "--address=127.0.0.1:7000", &dir];
        let args = first.into_iter().chain(s3.as_deref()).chain(more.iter().copied());
        match Cli::try_parse_from(args) {
            Ok(Cli { command: Command::Init(init) }) => init.run(),
            other => panic!("{other:?}"),
        }
    }

    /// What `client.env` and `mesh.toml` say of the front end.
    fn front_of(dir: &Path) -> (Vec<String>, Option<S3Config>) {
        let told = std::fs::read_to_string(dir.join("client.env")).unwrap();
        let of_front = |line: &&str| line.contains("AWS_ENDPOINT_URL") || line.contains("AWS_CA_BUNDLE");
        let config = Config::load(&dir.join("mesh.toml")).unwrap();
        (told.lines().filter(of_front).map(str::to_owned).collect(), config.s3)
    }

    #[test]
    fn others_are_spoken_to_in_https_unless_http_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let bundle = |dir: &Path| format!("export AWS_CA_BUNDLE='{}'", dir.join("ca/s3-ca.crt").display());
        let url = |url: &str| format!("export AWS_ENDPOINT_URL='{url}'");

        init(&at("alone"), Some("127.0.0.1:9000"), &[]).unwrap();
        let (told, s3) = front_of(&at("alone"));
        assert_eq!((told, s3.unwrap().tls), (vec![url("http://127.0.0.1:9000")], None));

        init(&at("heard"), Some("10.0.0.1:9000"), &[]).unwrap();
        let (told, s3) = front_of(&at("heard"));
        assert_eq!(told, [url("https://10.0.0.1:9000"), bundle(&at("heard"))]);
        let tls = s3.unwrap().tls.unwrap();
        mesh_fronts::tls::Tls::load(&tls.certificate, &tls.key).unwrap();

        let names = ["--s3-name=s3.example.com", "--s3-name=fd00::1"];
        init(&at("named"), Some("0.0.0.0:9000"), &names).unwrap();
        let (told, _) = front_of(&at("named"));
        assert_eq!(told, [url("https://s3.example.com:9000"), bundle(&at("named"))]);

        init(&at("plain"), Some("[fd00::1]:9000"), &["--s3-plain-http"]).unwrap();
        let (told, s3) = front_of(&at("plain"));
        assert_eq!((told, s3.unwrap().plain_http), (vec![url("http://[fd00::1]:9000")], true));

        let pair =
            [format!("--s3-certificate={}", tls.certificate.display()), format!("--s3-key={}", tls.key.display())];
        let theirs = [&pair[0], &pair[1], "--s3-name=s3.example.com"];
        init(&at("theirs"), Some("10.0.0.1:443"), &theirs).unwrap();
        let (told, s3) = front_of(&at("theirs"));
        assert_eq!(told, [url("https://s3.example.com:443")]);
        assert_eq!(s3.unwrap().tls, Some(tls));
        let none = ["--s3-certificate=none.pem", &pair[1]];
        assert_eq!(init(&at("none"), Some("10.0.0.1:443"), &none).unwrap_err().kind(), ErrorKind::NotFound);

        for (address, more) in [("0.0.0.0:9000", &[][..]), ("10.0.0.1:9000", &["--s3-name=https://s3.example.com"][..])]
        {
            let refused = init(&at("refused"), Some(address), more).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Invalid, "{address}: {refused}");
            assert!(!at("refused").exists(), "{address}");
        }
    }

    #[test]
    fn a_new_cluster_has_an_identity_for_data_and_one_for_administration() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("cluster");
        init(&dir, None, &[]).unwrap();

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
