//! Bounds on what gateways ask for.

use std::collections::BTreeMap;

use mesh_core::{
    Error, ErrorKind,
    limits::{KEY_BYTES_MAX, USER_METADATA_BYTES_MAX},
    meta::{Attributes, Precondition},
};

/// Checks an object's key.
pub(super) fn key(key: &str) -> Result<(), Error> {
    if key.is_empty() {
        return Err(Error::invalid("a key has at least one byte"));
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(Error::new(ErrorKind::KeyTooLong, "the key is over the limit")
            .with("bytes", key.len())
            .with("limit", KEY_BYTES_MAX));
    }
    Ok(())
}

/// Checks what a user gave with an object: it becomes part of a metadata row.
pub(super) fn attributes(attributes: &Attributes) -> Result<(), Error> {
    fits(&attributes.user, USER_METADATA_BYTES_MAX)?;
    fits(&attributes.headers, HEADERS_BYTES_MAX)?;
    checksums(&attributes.checksums)
}

/// Checks additional checksums.
pub(super) fn checksums(checksums: &BTreeMap<String, String>) -> Result<(), Error> {
    fits(checksums, CHECKSUMS_BYTES_MAX)
}

/// Checks an ETag.
pub(super) fn etag(etag: &str) -> Result<(), Error> {
    if etag.len() > ETAG_BYTES_MAX {
        return Err(Error::invalid("the ETag is over the limit").with("limit", ETAG_BYTES_MAX));
    }
    Ok(())
}

/// An ETag as rows keep it.
pub(super) fn unquoted(etag: &str) -> &str {
    etag.strip_prefix('"').and_then(|etag| etag.strip_suffix('"')).unwrap_or(etag)
}

/// Brings a precondition's ETag into the form of rows.
pub(super) fn precondition(precondition: &mut Precondition) {
    if let Some(etag) = &mut precondition.etag {
        *etag = unquoted(etag).to_owned();
    }
}

/// Checks the name of a new bucket: as S3 has it, and so that no name is a pattern of a grant.
pub(super) fn bucket_name(name: &str) -> Result<(), Error> {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let bytes = name.as_bytes();
    let good = (3..=63).contains(&bytes.len())
        && bytes.iter().copied().all(allowed)
        && edge(bytes.first())
        && edge(bytes.last())
        && !name.contains("..");
    if good {
        return Ok(());
    }
    Err(Error::invalid("a bucket's name has 3 to 63 of a-z, 0-9, - and ., and begins and ends with a letter or digit"))
}

fn fits(map: &BTreeMap<String, String>, limit: usize) -> Result<(), Error> {
    let bytes: usize = map.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > limit {
        return Err(Error::new(ErrorKind::TooLarge, "what is given with the object is over the limit")
            .with("bytes", bytes)
            .with("limit", limit));
    }
    Ok(())
}

/// The headers kept with an object at most: S3's limit for all of them together.
const HEADERS_BYTES_MAX: usize = 8192;
/// Names and values of checksums at most: five of the longest, in base64.
const CHECKSUMS_BYTES_MAX: usize = 1024;
/// An ETag at most.
const ETAG_BYTES_MAX: usize = 128;
