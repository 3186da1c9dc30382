//! Secrets under wrapping keys: the one place that turns a [`WrappedKey`] into a usable key and back.
//!
//! ```text
//! WrappedKey { key: the wrapping key's id, nonce: 12 B, sealed: secret | 16 B tag }
//!   cipher           AES-256-GCM under the wrapping key
//!   associated data  "mesh key v1" | id of the wrapping key, u64 little-endian
//! ```
//!
//! A data key is 32 bytes and random, made by [`make_data_key`]. Nothing unwrapped is kept: unwrapping costs 0.3 µs,
//! a sixth of sealing the smallest stripe, and a key that is not in memory need not be found and destroyed when a
//! tenant goes.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use mesh_core::{Error, ErrorKind, id::KeyId, meta::WrappedKey, port::Keys};

/// Bytes of a data key and of a wrapping key.
pub const KEY_BYTES: usize = 32;
/// Bytes of an AES-GCM nonce.
pub const NONCE_BYTES: usize = 12;
/// Random bytes that [`make_data_key`] takes: the key, then the nonce.
pub const ENTROPY_BYTES: usize = KEY_BYTES + NONCE_BYTES;
/// Bytes of an AES-GCM tag.
pub(crate) const TAG_BYTES: usize = 16;
/// A wrapped secret at most: access keys' secrets and keys, all of them short.
const SECRET_BYTES_MAX: usize = 4096;

/// An unwrapped key, overwritten when it is dropped.
pub struct DataKey([u8; KEY_BYTES]);

impl DataKey {
    /// Takes over key bytes.
    #[must_use]
    pub const fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl core::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("DataKey")
    }
}

impl Drop for DataKey {
    fn drop(&mut self) {
        erase(&mut self.0);
    }
}

/// Puts `secret` under the wrapping key `id`, whose bytes are `wrapping`. A nonce must never be used twice with one
/// wrapping key: draw it.
///
/// # Errors
/// `TooLarge` for a secret of more than 4 KiB.
pub fn wrap(
    wrapping: &[u8; KEY_BYTES],
    id: KeyId,
    nonce: [u8; NONCE_BYTES],
    secret: &[u8],
) -> Result<WrappedKey, Error> {
    if secret.len() > SECRET_BYTES_MAX {
        return Err(Error::new(ErrorKind::TooLarge, "a secret to be wrapped has at most 4 KiB"));
    }
    let mut sealed = Vec::with_capacity(secret.len() + TAG_BYTES);
    sealed.extend_from_slice(secret);
    cipher(wrapping)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(associated(id)), &mut sealed)
        .map_err(|_| Error::bug("AES-GCM refused to wrap a key"))?;
    Ok(WrappedKey { key: id, nonce, sealed })
}

/// The secret that [`wrap`] took. Whoever gets it destroys it: see [`erase`].
///
/// # Errors
/// `Corrupt` if it was wrapped under another key or is damaged.
pub fn unwrap_secret(wrapping: &[u8; KEY_BYTES], wrapped: &WrappedKey) -> Result<Vec<u8>, Error> {
    let damaged = || {
        Error::new(ErrorKind::Corrupt, "a wrapped key does not open under its wrapping key: damaged, or of another")
            .with("key", wrapped.key)
    };
    if wrapped.sealed.len() > SECRET_BYTES_MAX + TAG_BYTES {
        return Err(damaged());
    }
    let mut bytes = wrapped.sealed.clone();
    let nonce = Nonce::assume_unique_for_key(wrapped.nonce);
    let len = cipher(wrapping)?
        .open_in_place(nonce, Aad::from(associated(wrapped.key)), &mut bytes)
        .map_err(|_| damaged())?
        .len();
    bytes.truncate(len);
    Ok(bytes)
}

/// Makes a data key out of [`ENTROPY_BYTES`] random bytes, and wraps it under `key`.
///
/// # Errors
/// `NotFound` if the keyring lacks `key`, `Invalid` for entropy of another length.
pub fn make_data_key(keys: &dyn Keys, key: KeyId, entropy: &[u8]) -> Result<WrappedKey, Error> {
    let wrong = || Error::invalid("a data key is made of 44 random bytes: 32 of key, 12 of nonce");
    let (secret, nonce) = entropy.split_at_checked(KEY_BYTES).ok_or_else(wrong)?;
    let nonce = nonce.try_into().map_err(|_| wrong())?;
    let wrapping = wrapping_key(keys, key)?;
    wrap(wrapping.bytes(), key, nonce, secret)
}

/// The data key inside `wrapped`.
///
/// # Errors
/// `NotFound` if the keyring lacks the wrapping key, `Corrupt` if it does not open or is not a data key.
pub fn data_key(keys: &dyn Keys, wrapped: &WrappedKey) -> Result<DataKey, Error> {
    let wrapping = wrapping_key(keys, wrapped.key)?;
    let mut secret = unwrap_secret(wrapping.bytes(), wrapped)?;
    let key = <[u8; KEY_BYTES]>::try_from(secret.as_slice()).map(DataKey);
    erase(&mut secret);
    key.map_err(|_| Error::new(ErrorKind::Corrupt, "a wrapped data key is not of 32 bytes").with("key", wrapped.key))
}

/// Overwrites a secret. The compiler is kept from seeing that nobody reads it afterwards.
pub fn erase(secret: &mut [u8]) {
    secret.fill(0);
    core::hint::black_box(secret);
}

fn wrapping_key(keys: &dyn Keys, id: KeyId) -> Result<DataKey, Error> {
    let missing =
        || Error::new(ErrorKind::NotFound, "this node's keyring lacks the key; deliver it, or ask a node that has it");
    keys.key(id).map(DataKey).ok_or_else(|| missing().with("key", id))
}

fn cipher(key: &[u8; KEY_BYTES]) -> Result<LessSafeKey, Error> {
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| Error::bug("AES-256-GCM refused a key of 32 bytes"))?;
    Ok(LessSafeKey::new(key))
}

fn associated(id: KeyId) -> [u8; 19] {
    let mut bytes = *b"mesh key v1........";
    bytes[11..].copy_from_slice(&id.0.to_le_bytes());
    bytes
}
