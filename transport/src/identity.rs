//! The cluster's own certificate authority, and the certificates of nodes and clients.
//!
//! A certificate has exactly one DNS name, and that name is the role:
//!
//! ```text
//! node-<number>                           .<cluster>.mesh    a node on a host
//! dpu-<number>.node-<number>              .<cluster>.mesh    a node on a DPU, and the host that it is plugged into
//! user.x<hex>[.x<hex>…].tenant-<number>   .client.<cluster>.mesh    somebody of a tenant
//! admin.x<hex>[.x<hex>…]                  .client.<cluster>.mesh    an administrator
//! authority                               .<cluster>.mesh    the authority itself
//! ```
//!
//! `<cluster>` is 32 hexadecimal digits. Names of people are their UTF-8 bytes in hexadecimal, 30 bytes a label, so that
//! every name is possible and none can pass for another. Clients' certificates are not valid for serving.
//!
//! This module never decides what a role may do; see [`crate::gate`]. Nodes on DPUs had the certificates of hosts before there
//! were any for them.

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime},
};

use mesh_core::{
    Error, ErrorKind, Principal,
    id::{ClusterId, NodeId, TenantId},
    port::Role,
    time::UnixMillis,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime, pem::PemObject as _};
use webpki::EndEntityCert;

use crate::files;

/// The certificate authority of one cluster. Whoever has its key can be everybody.
pub struct Authority {
    cluster: ClusterId,
    key: KeyPair,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
}

/// A certificate with its key, and the authority that both ends of a link trust.
#[derive(Clone)]
pub struct Identity {
    role: Role,
    cluster: ClusterId,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
    authority: CertificateDer<'static>,
    pem: String,
}

/// From when until when a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Milliseconds since 1970.
    pub from: UnixMillis,
    /// Milliseconds since 1970.
    pub until: UnixMillis,
}

impl Validity {
    /// For `lifetime` from `now` on, begun an hour early: clocks differ.
    #[must_use]
    pub fn starting(now: UnixMillis, lifetime: Duration) -> Self {
        let lifetime = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        Self { from: UnixMillis(now.0.saturating_sub(3_600_000)), until: UnixMillis(now.0.saturating_add(lifetime)) }
    }
}

impl core::fmt::Debug for Authority {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Authority({})", self.cluster)
    }
}

impl core::fmt::Debug for Identity {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Identity({:?} of {})", self.role, self.cluster)
    }
}

impl Authority {
    /// A new authority with a new key.
    ///
    /// # Errors
    /// `Bug` if the cryptographic library fails.
    pub fn create(cluster: ClusterId) -> Result<Self, Error> {
        let key = new_key()?;
        let certificate = authority_params(cluster)?.self_signed(&key).map_err(library)?;
        Ok(Self { cluster, key, certificate: certificate.der().clone(), certificate_pem: certificate.pem() })
    }

    /// The cluster whose authority this is.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Writes `ca.crt` and `ca.key` (readable by the owner only) into `dir`.
    ///
    /// # Errors
    /// `Conflict` if there is an authority already, which is then left as it is; `Invalid` if files cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), Error> {
        files::folder(dir).map_err(|error| file_error("create", dir, error))?;
        create_file(&dir.join(KEY_FILE), &self.key.serialize_pem(), 0o600)?;
        create_file(&dir.join(CERTIFICATE_FILE), &self.certificate_pem, 0o644)
    }

    /// Reads what [`Self::save`] wrote.
    ///
    /// # Errors
    /// `NotFound` if a file is missing, `Invalid` if one is damaged or they do not belong together.
    pub fn load(dir: &Path) -> Result<Self, Error> {
        let certificate_pem = read_file(&dir.join(CERTIFICATE_FILE))?;
        let key = KeyPair::from_pem(&read_file(&dir.join(KEY_FILE))?)
            .map_err(|error| Error::invalid("the authority's key is damaged").caused_by(error))?;
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|error| Error::invalid("the authority's certificate is damaged").caused_by(error))?;
        let cluster = cluster_of(&certificate)?;
        if !belongs(&certificate, &key)? {
            return Err(Error::invalid("the authority's key is not that of its certificate"));
        }
        Ok(Self { cluster, key, certificate, certificate_pem })
    }

    /// A new certificate, with a new key, for a role.
    ///
    /// # Errors
    /// `Invalid` for a role that cannot be certified: the mesh itself or nobody as a client, node 0, a DPU that is its own
    /// host, or a name that is empty or longer than [`NAME_BYTES_MAX`].
    pub fn issue(&self, role: &Role, validity: Validity) -> Result<Identity, Error> {
        let name = name_of(role, self.cluster)?;
        let usages = match role {
            Role::Node(_) | Role::Dpu { .. } => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            Role::Client(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        let key = new_key()?;
        let certificate = self.sign(&key, vec![name], usages, validity)?;
        Ok(Identity {
            role: role.clone(),
            cluster: self.cluster,
            certificate: certificate.der().clone(),
            key: key.serialize_der(),
            authority: self.certificate.clone(),
            pem: [certificate.pem(), key.serialize_pem(), self.certificate_pem.clone()].concat(),
        })
    }

    fn sign(
        &self,
        key: &KeyPair,
        names: Vec<String>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        validity: Validity,
    ) -> Result<rcgen::Certificate, Error> {
        let unusable = |error| Error::invalid("a certificate cannot have such a name").caused_by(error);
        let mut params = CertificateParams::new(names).map_err(unusable)?;
        params.distinguished_name = distinguished_name("mesh");
        params.not_before = (SystemTime::UNIX_EPOCH + Duration::from_millis(validity.from.0)).into();
        params.not_after = (SystemTime::UNIX_EPOCH + Duration::from_millis(validity.until.0.min(LAST_MILLIS))).into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        let issuer = Issuer::new(authority_params(self.cluster)?, &self.key);
        params.signed_by(key, &issuer).map_err(library)
    }
}

impl Identity {
    /// What the certificate says.
    #[must_use]
    pub const fn role(&self) -> &Role {
        &self.role
    }

    /// The cluster whose authority signed it.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Certificate, key and authority, in this order, as PEM. **Secret.**
    #[must_use]
    pub fn to_pem(&self) -> &str {
        &self.pem
    }

    /// Reads what [`Self::to_pem`] gave.
    ///
    /// # Errors
    /// `Invalid` if anything is missing, damaged, or does not belong together.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let damaged = |error| Error::invalid("an identity is damaged").caused_by(error);
        let certificates: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(pem.as_bytes()).take(3).collect::<Result<_, _>>().map_err(damaged)?;
        let Ok([certificate, authority]) = <[_; 2]>::try_from(certificates) else {
            return Err(Error::invalid("an identity is one certificate, its key, and the authority's certificate"));
        };
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(damaged)?;
        let pair =
            KeyPair::try_from(&key).map_err(|error| Error::invalid("an identity's key is damaged").caused_by(error))?;
        if !belongs(&certificate, &pair)? {
            return Err(Error::invalid("an identity's key is not that of its certificate"));
        }
        let cluster = cluster_of(&authority)?;
        let role = role_of(&certificate, cluster)?;
        let key = key.secret_pkcs8_der().to_vec();
        Ok(Self { role, cluster, certificate, key, authority, pem: pem.to_owned() })
    }

    /// Writes [`Self::to_pem`] to a file that only its owner may read. A file that is there is replaced whole.
    ///
    /// # Errors
    /// `Invalid` if it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        files::replace(path, self.pem.as_bytes(), 0o600).map_err(|error| file_error("replace", path, error))
    }

    /// Reads what [`Self::save`] wrote.
    ///
    /// # Errors
    /// `NotFound` if there is no such file, else as [`Self::from_pem`].
    pub fn load(path: &Path) -> Result<Self, Error> {
        Self::from_pem(&read_file(path)?)
    }

    /// Whether the certificate is valid by a clock. The authority's own has no dates to speak of.
    ///
    /// # Errors
    /// `Denied` in words, with both times: nobody will take this certificate.
    pub fn check_dates(&self, now: UnixMillis) -> Result<(), Error> {
        let parsed = EndEntityCert::try_from(&self.certificate)
            .map_err(|error| Error::invalid("a certificate that cannot be read").caused_by(error))?;
        let roots = [webpki::anchor_from_trusted_cert(&self.authority)
            .map_err(|error| Error::invalid("the authority's certificate cannot be read").caused_by(error))?];
        let verified = parsed.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &roots,
            &[],
            UnixTime::since_unix_epoch(Duration::from_millis(now.0)),
            webpki::KeyUsage::client_auth(),
            None,
            None,
        );
        let date = |time: UnixTime| UnixMillis(time.as_secs().saturating_mul(1000));
        match verified {
            Err(webpki::Error::CertNotValidYet { time, not_before }) => Err(Error::new(
                ErrorKind::Denied,
                "this machine's clock is before the beginning of its own certificate: set the clock",
            )
            .with("clock", date(time))
            .with("begins", date(not_before))),
            Err(webpki::Error::CertExpired { time, not_after }) => Err(Error::new(
                ErrorKind::Denied,
                "this machine's clock is behind the end of its own certificate: set the clock, or issue another",
            )
            .with("clock", date(time))
            .with("ends", date(not_after))),
            // Whatever else is wrong, who is at the other end says.
            _ => Ok(()),
        }
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }

    pub(crate) const fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }
}

/// What a certificate, whose signature was verified elsewhere, says of its owner.
///
/// # Errors
/// `Denied` if it is no certificate of this cluster's, or its name is none that [`Authority::issue`] gives.
pub fn role_of(certificate: &CertificateDer<'_>, cluster: ClusterId) -> Result<Role, Error> {
    let denied = || Error::new(ErrorKind::Denied, "a certificate that names no role of this cluster");
    let name = only_name(certificate)?;
    let rest = name.strip_suffix(".mesh").and_then(|rest| rest.strip_suffix(&cluster.to_string()));
    let rest = rest.and_then(|rest| rest.strip_suffix('.')).ok_or_else(denied)?;
    let role = parse_role(rest).ok_or_else(denied)?;
    // One role, one spelling: `node-03` is not `node-3`.
    if name_of(&role, cluster)? == name { Ok(role) } else { Err(denied()) }
}

/// The DNS name under which a node is dialled; it is that of a host's certificate.
#[must_use]
pub fn server_name(node: NodeId, cluster: ClusterId) -> String {
    format!("{node}.{cluster}.mesh")
}

fn parse_role(text: &str) -> Option<Role> {
    if let Some(number) = text.strip_prefix("node-") {
        return Some(Role::Node(NodeId(number.parse().ok()?)));
    }
    if let Some(numbers) = text.strip_prefix("dpu-") {
        let (node, host) = numbers.split_once(".node-")?;
        return Some(Role::Dpu { node: NodeId(node.parse().ok()?), host: NodeId(host.parse().ok()?) });
    }
    let client = text.strip_suffix(".client")?;
    if let Some(labels) = client.strip_prefix("admin.") {
        return Some(Role::Client(Principal::Admin { name: parse_name(labels)?.into() }));
    }
    let (labels, tenant) = client.strip_prefix("user.")?.rsplit_once(".tenant-")?;
    let tenant = TenantId(tenant.parse().ok()?);
    Some(Role::Client(Principal::User { tenant, name: parse_name(labels)?.into() }))
}

fn parse_name(labels: &str) -> Option<String> {
    let mut bytes = Vec::new();
    for label in labels.split('.') {
        let digits = label.strip_prefix('x')?.as_bytes();
        for pair in digits.chunks(2) {
            let pair = core::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
            bytes.push(u8::from_str_radix(pair, 16).ok()?);
        }
    }
    String::from_utf8(bytes).ok()
}

pub(crate) fn name_of(role: &Role, cluster: ClusterId) -> Result<String, Error> {
    match role {
        Role::Node(NodeId(0)) | Role::Dpu { node: NodeId(0), .. } | Role::Dpu { host: NodeId(0), .. } => {
            Err(Error::invalid("node 0 means a client: nodes are numbered from 1"))
        }
        Role::Dpu { node, host } if node == host => {
            Err(Error::invalid("a DPU is a node of its own, and its host is another one").with("node", node))
        }
        Role::Node(node) => Ok(server_name(*node, cluster)),
        Role::Dpu { node, host } => Ok(format!("dpu-{}.{}", node.0, server_name(*host, cluster))),
        Role::Client(Principal::User { tenant, name }) => {
            Ok(format!("user.{}.{tenant}.client.{cluster}.mesh", labels(name)?))
        }
        Role::Client(Principal::Admin { name }) => Ok(format!("admin.{}.client.{cluster}.mesh", labels(name)?)),
        Role::Client(Principal::System | Principal::Anonymous) => {
            Err(Error::invalid("a client's certificate is for a user or an administrator"))
        }
    }
}

fn labels(name: &str) -> Result<String, Error> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(Error::invalid("a name must have 1 to 64 bytes").with("bytes", name.len()));
    }
    let label = |bytes: &[u8]| -> String {
        core::iter::once("x".to_owned()).chain(bytes.iter().map(|byte| format!("{byte:02x}"))).collect()
    };
    Ok(name.as_bytes().chunks(LABEL_BYTES).map(label).collect::<Vec<_>>().join("."))
}

fn cluster_of(authority: &CertificateDer<'_>) -> Result<ClusterId, Error> {
    let name = only_name(authority)?;
    let cluster = name.strip_prefix("authority.").and_then(|rest| rest.strip_suffix(".mesh"));
    cluster.ok_or_else(|| Error::invalid("a certificate that is no cluster's authority"))?.parse()
}

fn only_name<'a>(certificate: &'a CertificateDer<'_>) -> Result<&'a str, Error> {
    let parsed = EndEntityCert::try_from(certificate)
        .map_err(|error| Error::new(ErrorKind::Denied, "a certificate that cannot be read").caused_by(error))?;
    let mut names = parsed.valid_dns_names();
    match (names.next(), names.next()) {
        (Some(name), None) => Ok(name),
        _ => Err(Error::new(ErrorKind::Denied, "a certificate must have exactly one name")),
    }
}

/// Ed25519 (RFC 8032): all its signatures are of one length, and so is what handshakes take of a link's first window. Those of
/// ECDSA differ by chance, and what differs by chance no seed repeats.
fn new_key() -> Result<KeyPair, Error> {
    KeyPair::generate_for(&PKCS_ED25519).map_err(library)
}

pub(crate) fn belongs(certificate: &CertificateDer<'_>, key: &KeyPair) -> Result<bool, Error> {
    let parsed = EndEntityCert::try_from(certificate)
        .map_err(|error| Error::invalid("a certificate that cannot be read").caused_by(error))?;
    Ok(parsed.subject_public_key_info().as_ref() == rcgen::PublicKeyData::subject_public_key_info(key))
}

fn authority_params(cluster: ClusterId) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(vec![format!("authority.{cluster}.mesh")]).map_err(library)?;
    params.distinguished_name = distinguished_name(&format!("mesh {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn distinguished_name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn create_file(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    files::create(path, text.as_bytes(), mode).map_err(|error| file_error("create", path, error))
}

fn read_file(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|error| file_error("read", path, error))
}

fn file_error(what: &'static str, path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::AlreadyExists => ErrorKind::Conflict,
        io::ErrorKind::StorageFull => ErrorKind::NoSpace,
        _ => ErrorKind::Invalid,
    };
    Error::new(kind, format!("cannot {what} a file of keys")).with("path", path.display()).caused_by(error)
}

pub(crate) fn library(error: rcgen::Error) -> Error {
    Error::bug("the certificate library failed").caused_by(error)
}

/// The name of a user or an administrator at most, in bytes of UTF-8: the whole DNS name must stay below 254.
pub const NAME_BYTES_MAX: usize = 64;
/// Bytes of a name in one label: `x` and 60 digits, below the 63 that DNS allows.
const LABEL_BYTES: usize = 30;
/// Certificates end in 9999 at the latest: later years have no notation.
pub(crate) const LAST_MILLIS: u64 = 253_402_300_799_000;
const CERTIFICATE_FILE: &str = "ca.crt";
const KEY_FILE: &str = "ca.key";

#[cfg(test)]
mod tests;
