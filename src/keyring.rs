//! A node's keyring: the cluster key, which lives outside Raft, and through it every secret that Raft holds wrapped.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use mesh_core::{
    Entropy, Error, ErrorKind,
    id::{ClusterId, KeyId},
    meta::{ControlView, WrappedKey},
    port::Keys,
};
use serde::{Deserialize, Serialize};

use crate::files;

/// The id of the cluster key, under which tenants' keys and access keys' secrets are wrapped.
pub const CLUSTER_KEY: KeyId = KeyId(0);

/// The cluster key and, by number, the tenants' keys it has opened. Shared by a node's compute back end and front ends.
pub struct Keyring {
    cluster: ClusterId,
    key: [u8; 32],
    tenants: RwLock<BTreeMap<KeyId, [u8; 32]>>,
}

impl core::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Keyring of {}", self.cluster)
    }
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyringFile {
    cluster: String,
    cluster_key: String,
}

impl Keyring {
    /// A new cluster key.
    pub fn create(cluster: ClusterId, entropy: &mut dyn Entropy) -> Self {
        let mut key = [0; 32];
        entropy.fill(&mut key);
        Self { cluster, key, tenants: RwLock::default() }
    }

    /// Reads `keyring.toml`.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|error| {
            Error::new(ErrorKind::NotFound, "the keyring cannot be read; copy it from the node that made the cluster")
                .with("file", path.display())
                .caused_by(error)
        })?;
        let file: KeyringFile = toml::from_str(&text).map_err(|error| {
            Error::invalid("the keyring is damaged").with("file", path.display()).with("why", error)
        })?;
        let key: ClusterKeyText = file.cluster_key.parse()?;
        Ok(Self { cluster: file.cluster.parse()?, key: key.0, tenants: RwLock::default() })
    }

    /// Writes `keyring.toml`, readable by its owner alone. An existing file is not overwritten.
    ///
    /// # Errors
    /// `Conflict` if there is one; `DriveFailed`.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let file = KeyringFile { cluster: self.cluster.to_string(), cluster_key: hex(&self.key) };
        let text = toml::to_string(&file).map_err(|error| Error::bug("no keyring text").with("why", error))?;
        let failed = |error: std::io::Error| {
            let kind = if error.kind() == std::io::ErrorKind::AlreadyExists {
                ErrorKind::Conflict
            } else {
                ErrorKind::DriveFailed
            };
            Error::new(kind, "the keyring cannot be written").with("file", path.display()).caused_by(error)
        };
        files::create(path, text.as_bytes(), 0o600).map_err(failed)
    }

    /// The cluster.
    #[must_use]
    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Wraps a secret under the cluster key; `what` is bound to it.
    pub fn wrap(&self, secret: &[u8], what: &str, entropy: &mut dyn Entropy) -> WrappedKey {
        let mut nonce = [0; 12];
        entropy.fill(&mut nonce);
        let mut sealed = secret.to_vec();
        self.aead()
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(what.as_bytes()), &mut sealed)
            .expect("AES-GCM seals a short secret");
        WrappedKey { key: CLUSTER_KEY, nonce, sealed }
    }

    /// Opens what [`Self::wrap`] made.
    ///
    /// # Errors
    /// `Corrupt` if it was wrapped under another cluster's key, or for something else.
    pub fn unwrap(&self, wrapped: &WrappedKey, what: &str) -> Result<Vec<u8>, Error> {
        let mut secret = wrapped.sealed.clone();
        let nonce = Nonce::assume_unique_for_key(wrapped.nonce);
        let len = self
            .aead()
            .open_in_place(nonce, Aad::from(what.as_bytes()), &mut secret)
            .map_err(|_| {
                Error::new(ErrorKind::Corrupt, "a wrapped secret does not open with this keyring").with("of", what)
            })?
            .len();
        secret.truncate(len);
        Ok(secret)
    }

    /// Opens the keys of tenants that are new in the control group's contents, and drops those of tenants that are
    /// gone.
    pub fn learn(&self, view: &ControlView) {
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        let present = view.tenants.values().map(|tenant| (tenant.key, (&*tenant.name, &tenant.wrapped)));
        let past = view.past_keys.iter().filter_map(|(id, key)| {
            let tenant = view.tenants.get(&key.tenant)?;
            Some((*id, (&*tenant.name, &key.wrapped)))
        });
        let all: BTreeMap<KeyId, (&str, &WrappedKey)> = present.chain(past).collect();
        tenants.retain(|id, _| all.contains_key(id));
        for (id, (tenant, wrapped)) in all {
            if tenants.contains_key(&id) {
                continue;
            }
            match self.unwrap(wrapped, &tenant_label(tenant)).map(<[u8; 32]>::try_from) {
                Ok(Ok(key)) => {
                    tenants.insert(id, key);
                }
                Ok(Err(_)) => tracing::error!(%tenant, key = %id, "a tenant's key has a wrong length"),
                Err(error) => tracing::error!(%tenant, key = %id, %error, "a tenant's key does not open"),
            }
        }
    }

    fn aead(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &self.key).expect("the key has the right length"))
    }
}

impl Keys for Keyring {
    fn key(&self, id: KeyId) -> Option<[u8; 32]> {
        self.tenants.read().unwrap_or_else(PoisonError::into_inner).get(&id).copied()
    }
}

/// What a tenant's wrapped key is bound to.
#[must_use]
pub fn tenant_label(name: &str) -> String {
    format!("tenant key of {name}")
}

/// What an access key's wrapped secret is bound to.
#[must_use]
pub fn access_label(access: &str) -> String {
    format!("secret of {access}")
}

/// Shared by a node's parts.
pub type SharedKeyring = Arc<Keyring>;

struct ClusterKeyText([u8; 32]);

impl core::str::FromStr for ClusterKeyText {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let invalid = || Error::invalid("a cluster key is 64 hexadecimal digits");
        if text.len() != 64 || !text.is_ascii() {
            return Err(invalid());
        }
        let mut key = [0; 32];
        for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = core::str::from_utf8(digits).map_err(|_| invalid())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| invalid())?;
        }
        Ok(Self(key))
    }
}

/// Bytes as lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use mesh_core::{
        id::TenantId,
        meta::{PastKey, TenantLimits, TenantRow},
    };

    use super::*;
    use crate::env::SystemEntropy;

    #[test]
    fn opens_only_its_own_and_only_for_what_it_was_wrapped() {
        let keyring = Keyring::create(ClusterId([1; 16]), &mut SystemEntropy);
        let wrapped = keyring.wrap(b"secret", "a", &mut SystemEntropy);
        assert_eq!(keyring.unwrap(&wrapped, "a").unwrap(), b"secret");
        assert_eq!(keyring.unwrap(&wrapped, "b").unwrap_err().kind(), ErrorKind::Corrupt);
        let other = Keyring::create(ClusterId([1; 16]), &mut SystemEntropy);
        assert_eq!(other.unwrap(&wrapped, "a").unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn keys_of_before_are_known_as_long_as_their_tenant_is() {
        let keyring = Keyring::create(ClusterId([1; 16]), &mut SystemEntropy);
        let wrap = |byte: u8| keyring.wrap(&[byte; 32], &tenant_label("acme"), &mut SystemEntropy);
        let id = TenantId(3);
        let row =
            TenantRow { id, name: "acme".into(), key: KeyId(9), wrapped: wrap(9), limits: TenantLimits::default() };
        let past = [
            (KeyId(3), PastKey { tenant: id, wrapped: wrap(3) }),
            (KeyId(4), PastKey { tenant: TenantId(4), wrapped: wrap(4) }),
        ];
        let view =
            ControlView { tenants: [(id, Arc::new(row))].into(), past_keys: past.into(), ..ControlView::default() };
        keyring.learn(&view);
        assert_eq!([9, 3, 4].map(|key| keyring.key(KeyId(key))), [Some([9; 32]), Some([3; 32]), None]);
        keyring.learn(&ControlView { past_keys: view.past_keys.clone(), ..ControlView::default() });
        assert_eq!([9, 3].map(|key| keyring.key(KeyId(key))), [None; 2]);
    }

    #[test]
    fn is_read_back_as_written_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keyring.toml");
        let keyring = Keyring::create(ClusterId([7; 16]), &mut SystemEntropy);
        keyring.save(&path).unwrap();
        assert_eq!(keyring.save(&path).unwrap_err().kind(), ErrorKind::Conflict);
        let back = Keyring::load(&path).unwrap();
        assert_eq!((back.key, back.cluster), (keyring.key, keyring.cluster));
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
}
