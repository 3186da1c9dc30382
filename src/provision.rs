//! The making of a cluster on disk: its certificate authority, its keyring, its members' identities and bundles.

use core::time::Duration;
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use mesh_core::{
    Error, ErrorKind, Principal,
    id::{ClusterId, NodeId, TenantId},
    port::{Clock as _, Role},
};
use mesh_transport::{
    fronts::FrontAuthority,
    identity::{Authority, Identity, Validity},
};
use serde::{Deserialize, Serialize};

use crate::{
    config::{NodeNumber, PeerConfig, TlsConfig},
    env::{Env, SystemClock, SystemEntropy},
    files,
    founding::{Founding, new_access_key},
    keyring::{Keyring, access_label},
    node::Node,
};

/// The first tenant's number: the control group counts from 1.
pub const FIRST_TENANT: TenantId = TenantId(1);

/// A folder that can issue certificates for one cluster: `ca/`, `keyring.toml` and `founding.toml`.
#[derive(Debug)]
pub struct Provision {
    folder: PathBuf,
    authority: Authority,
    /// The cluster key.
    pub keyring: Keyring,
}

/// An S3 access key, both halves.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The public half.
    pub access: String,
    /// The secret half.
    pub secret: String,
}

impl core::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Credentials({})", self.access)
    }
}

impl Provision {
    /// Whether a folder holds one.
    #[must_use]
    pub fn exists(folder: &Path) -> bool {
        folder.join(AUTHORITY).join("ca.crt").exists()
    }

    /// Makes a cluster in a folder: authority, cluster key, and a founding with its own access key.
    ///
    /// # Errors
    /// `Conflict` if the folder holds one already; `DriveFailed`.
    pub fn create(folder: &Path, bucket: &str) -> Result<Self, Error> {
        if Self::exists(folder) {
            return Err(Error::new(ErrorKind::Conflict, "the folder holds a cluster already; nothing was changed")
                .with("folder", folder.display()));
        }
        make_folder(folder)?;
        let mut cluster = [0; 16];
        mesh_core::Entropy::fill(&mut SystemEntropy, &mut cluster);
        let cluster = ClusterId(cluster);
        let keyring = Keyring::create(cluster, &mut SystemEntropy);
        let authority = Authority::create(cluster)?;
        let (access_key, _, secret) = new_access_key(&keyring, &mut SystemEntropy);
        let founding = Founding {
            tenant: "default".to_owned(),
            principal: "admin".to_owned(),
            access_key,
            secret,
            bucket: bucket.to_owned(),
        };
        keyring.save(&folder.join(KEYRING))?;
        write(&folder.join(FOUNDING), &to_toml(&founding)?)?;
        // Last, for it says that the folder is whole.
        make_folder(&folder.join(AUTHORITY))?;
        authority.save(&folder.join(AUTHORITY))?;
        Ok(Self { folder: folder.to_owned(), authority, keyring })
    }

    /// Opens a folder that [`Self::create`] made.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let keyring = Keyring::load(&folder.join(KEYRING))?;
        let authority = Authority::load(&folder.join(AUTHORITY))?;
        Ok(Self { folder: folder.to_owned(), authority, keyring })
    }

    /// What the cluster begins with.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`.
    pub fn founding(&self) -> Result<Founding, Error> {
        read_founding(&self.folder.join(FOUNDING))
    }

    /// The founding access key, usable.
    ///
    /// # Errors
    /// `Corrupt` if keyring and founding are of different clusters.
    pub fn credentials(&self) -> Result<Credentials, Error> {
        let founding = self.founding()?;
        let secret = self.keyring.unwrap(&founding.secret, &access_label(&founding.access_key))?;
        let secret = String::from_utf8(secret).map_err(|_| Error::invalid("the founding secret is no text"))?;
        Ok(Credentials { access: founding.access_key, secret })
    }

    /// A certificate for a node.
    ///
    /// # Errors
    /// What making a certificate says.
    pub fn node_identity(&self, node: NodeId) -> Result<Identity, Error> {
        self.authority.issue(&Role::Node(node), validity(NODE_LIFETIME))
    }

    /// A certificate for somebody of a tenant.
    ///
    /// # Errors
    /// What making a certificate says.
    pub fn client_identity(&self, tenant: TenantId, name: &str) -> Result<Identity, Error> {
        let role = Role::Client(Principal::User { tenant, name: name.into() });
        self.authority.issue(&role, validity(CLIENT_LIFETIME))
    }

    /// A certificate for an administrator of the cluster: may move actors and empty nodes; sees no tenant's data.
    ///
    /// # Errors
    /// What making a certificate says.
    pub fn admin_identity(&self, name: &str) -> Result<Identity, Error> {
        let role = Role::Client(Principal::Admin { name: name.into() });
        self.authority.issue(&role, validity(CLIENT_LIFETIME))
    }

    /// Writes a new certificate of the front ends' authority for one of them, by DNS names and addresses, and its key: those of
    /// [`TlsConfig::within`] the folder. Clients that are to trust it need [`Self::front_authority_file`].
    ///
    /// # Errors
    /// `Invalid` for what is no name; `DriveFailed`.
    pub fn equip_front(&self, names: &[String], folder: &Path) -> Result<TlsConfig, Error> {
        let paths = TlsConfig::within(folder);
        self.front(names)?.write(&paths)?;
        Ok(paths)
    }

    /// A new certificate for a front end, by DNS names and addresses.
    ///
    /// # Errors
    /// `Invalid` for what is no name.
    pub fn front(&self, names: &[String]) -> Result<FrontPair, Error> {
        let (certificate, key) = self.front_authority()?.issue(names, validity(FRONT_LIFETIME))?;
        Ok(FrontPair { certificate, key })
    }

    /// Made when it is needed first: by whoever comes first, if several do at once.
    fn front_authority(&self) -> Result<FrontAuthority, Error> {
        let (certificate, cluster) = (self.front_authority_file(), self.authority.cluster());
        let key = certificate.with_extension("key");
        let new = FrontAuthority::create(cluster)?;
        let authority = match files::create(&key, new.to_pem().as_bytes(), 0o600) {
            Ok(()) => new,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                FrontAuthority::from_pem(cluster, &read_text(&key)?)
                    .map_err(|error| error.with("file", key.display()))?
            }
            Err(error) => {
                let what = "the key of the front ends' authority cannot be written";
                return Err(Error::new(ErrorKind::DriveFailed, what).with("file", key.display()).caused_by(error));
            }
        };
        if !certificate.exists() {
            files::replace(&certificate, authority.certificate()?.as_bytes(), 0o644).map_err(|error| {
                Error::new(ErrorKind::DriveFailed, "a file cannot be written")
                    .with("file", certificate.display())
                    .caused_by(error)
            })?;
        } else if !authority.owns(&read_text(&certificate)?)? {
            let what = "the certificate of the front ends' authority is not that of its key: move it away, and another one is made";
            return Err(Error::invalid(what).with("file", certificate.display()));
        }
        Ok(authority)
    }

    /// The certificate that clients of front ends are to trust.
    #[must_use]
    pub fn front_authority_file(&self) -> PathBuf {
        self.folder.join(AUTHORITY).join("s3-ca.crt")
    }

    /// Gives a node's data folder what it needs to start: identity and keyring. What is there stays.
    ///
    /// # Errors
    /// `DriveFailed`.
    pub fn equip(&self, node: NodeId, data: &Path) -> Result<(), Error> {
        make_folder(data)?;
        let identity = data.join(IDENTITY);
        if !identity.exists() {
            self.node_identity(node)?.save(&identity)?;
        }
        let keyring = data.join(KEYRING);
        if !keyring.exists() {
            self.keyring.save(&keyring)?;
        }
        Ok(())
    }

    /// Everything that a new node needs, in one file to be carried over a safe channel: it holds the cluster key. The
    /// mesh must have given out the node's number to the invitation of this `number`: [`new_invitation`].
    ///
    /// # Errors
    /// What making a certificate says.
    pub fn invite(
        &self,
        node: NodeNumber,
        number: u64,
        peers: Vec<PeerConfig>,
        s3: Option<FrontPair>,
    ) -> Result<Invitation, Error> {
        let keyring = fs::read_to_string(self.folder.join(KEYRING))
            .map_err(|error| Error::new(ErrorKind::NotFound, "the keyring cannot be read").caused_by(error))?;
        let identity = self.node_identity(node.id())?.to_pem().to_owned();
        Ok(Invitation { node, number: format!("{number:016x}"), identity, keyring, s3, peers })
    }
}

/// A front end's certificate and its key, in PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrontPair {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl core::fmt::Debug for FrontPair {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("FrontPair")
    }
}

impl FrontPair {
    fn write(&self, paths: &TlsConfig) -> Result<(), Error> {
        write(&paths.key, &self.key)?;
        write(&paths.certificate, &self.certificate)
    }
}

/// What a new node needs to join.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invitation {
    /// Its number.
    pub node: NodeNumber,
    /// The number of this invitation, in hexadecimal: a later one for the same node makes it void.
    pub number: String,
    /// Its certificate, its key and the authority's certificate.
    pub identity: String,
    /// The cluster's keyring.
    pub keyring: String,
    /// For its S3 front end, if it is to have one of the cluster's own authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<FrontPair>,
    /// Members to begin with.
    #[serde(rename = "peer")]
    pub peers: Vec<PeerConfig>,
}

impl core::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Invitation for {}", self.node.id())
    }
}

impl Invitation {
    /// Reads an invitation.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|error| {
            Error::new(ErrorKind::NotFound, "the invitation cannot be read")
                .with("file", path.display())
                .caused_by(error)
        })?;
        toml::from_str(&text).map_err(|error| {
            Error::invalid("this is no invitation; make one with `mesh invite`")
                .with("file", path.display())
                .with("why", error)
        })
    }

    /// Writes it, readable by its owner alone.
    ///
    /// # Errors
    /// `DriveFailed`.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        write(path, &to_toml(self)?)
    }

    /// Unpacks it into a node's data folder. What is there stays.
    ///
    /// # Errors
    /// `Conflict` if the folder is another node's; `DriveFailed`.
    pub fn unpack(&self, data: &Path) -> Result<(), Error> {
        make_folder(data)?;
        let files = [
            (data.join(IDENTITY), &self.identity),
            (data.join(KEYRING), &self.keyring),
            (data.join(INVITATION), &self.number),
        ];
        if let Some((path, _)) = files.iter().find(|(path, _)| path.exists()) {
            return Err(Error::new(ErrorKind::Conflict, "the folder is a node's already; nothing was changed")
                .with("file", path.display()));
        }
        files.iter().try_for_each(|(path, contents)| write(path, contents))?;
        self.s3.as_ref().map_or(Ok(()), |front| front.write(&TlsConfig::within(data)))
    }
}

/// A number for an invitation: the wall clock's milliseconds, and 20 random bits. The later one is the greater one, so
/// that a late copy of an older one gives nothing back to it.
#[must_use]
pub fn new_invitation() -> u64 {
    let mut random = [0; 4];
    mesh_core::Entropy::fill(&mut SystemEntropy, &mut random);
    (SystemClock::default().wall().0 << 20) | u64::from(u32::from_be_bytes(random) >> 12)
}

/// The number of the invitation that a data folder was made from; 0: none.
pub(crate) fn invitation(data: &Path, env: &Env) -> Result<u64, Error> {
    let path = data.join(INVITATION);
    let failed = |what: &'static str| Error::new(ErrorKind::Invalid, what).with("file", path.display());
    match env.files.read(&path) {
        Ok(Some(text)) => u64::from_str_radix(text.trim(), 16)
            .map_err(|error| failed("the number of the invitation is damaged").caused_by(error)),
        Ok(None) => Ok(0),
        Err(error) => Err(failed("the number of the invitation cannot be read").caused_by(error)),
    }
}

/// Founds the cluster of a folder through `node`, its first member, unless that has been done to its end: `founded` in
/// the folder says so. A founding that was cut short is finished.
///
/// # Errors
/// What [`Node::found`] and the file system say.
pub async fn found_once(node: &Node, folder: &Path) -> Result<(), Error> {
    let founded = folder.join(FOUNDED);
    if founded.exists() {
        return Ok(());
    }
    node.found(&read_founding(&folder.join(FOUNDING))?).await?;
    tracing::info!("the cluster is founded");
    write(&founded, "")
}

/// Reads `founding.toml`.
///
/// # Errors
/// `NotFound`, `Invalid`.
pub fn read_founding(path: &Path) -> Result<Founding, Error> {
    let text = fs::read_to_string(path).map_err(|error| {
        Error::new(ErrorKind::NotFound, "the founding cannot be read").with("file", path.display()).caused_by(error)
    })?;
    toml::from_str(&text)
        .map_err(|error| Error::invalid("the founding is damaged").with("file", path.display()).with("why", error))
}

fn read_text(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|error| {
        Error::new(ErrorKind::NotFound, "a file cannot be read").with("file", path.display()).caused_by(error)
    })
}

fn validity(lifetime: Duration) -> Validity {
    Validity::starting(SystemClock::default().wall(), lifetime)
}

fn to_toml(value: &impl Serialize) -> Result<String, Error> {
    toml::to_string(value).map_err(|error| Error::bug("a file's contents cannot be written").with("why", error))
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    files::replace(path, text.as_bytes(), 0o600).map_err(|error| {
        Error::new(ErrorKind::DriveFailed, "a file cannot be written").with("file", path.display()).caused_by(error)
    })
}

/// Makes a folder and those above it.
///
/// # Errors
/// `DriveFailed`.
pub fn make_folder(path: &Path) -> Result<(), Error> {
    files::folder(path).map_err(|error| {
        Error::new(ErrorKind::DriveFailed, "a folder cannot be made").with("folder", path.display()).caused_by(error)
    })
}

/// The listener's address as others can dial it: an unspecified one names no host.
///
/// # Errors
/// `Invalid`.
pub fn dialable(address: SocketAddr) -> Result<SocketAddr, Error> {
    if address.ip().is_unspecified() {
        return Err(Error::invalid("the mesh address must be one that the other nodes can dial, not 0.0.0.0"));
    }
    Ok(address)
}

/// The name of a node's identity file in its data folder.
pub const IDENTITY: &str = "identity.pem";
/// The name of a node's keyring file in its data folder.
pub const KEYRING: &str = "keyring.toml";
/// The name of the founding file.
pub const FOUNDING: &str = "founding.toml";
/// The name of the file in a node's data folder that says by which invitation it came: its number, in hexadecimal.
pub const INVITATION: &str = "invitation";
const FOUNDED: &str = "founded";
const AUTHORITY: &str = "ca";
const NODE_LIFETIME: Duration = Duration::from_secs(5 * 365 * 24 * 3600);
/// As long as clients take a listener's certificate from anybody (CA/Browser Forum, until 2026).
const FRONT_LIFETIME: Duration = Duration::from_secs(397 * 24 * 3600);
const CLIENT_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
