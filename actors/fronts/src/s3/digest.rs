//! MD5 and S3's additional checksums: what a client declared, what the bytes say, and whether that is the same.
//!
//! s3s verifies signatures and the SHA-256 of a signed payload. Everything here it leaves to us: `Content-MD5`,
//! `x-amz-checksum-…` in a header or in the trailer of an aws-chunked body, and the checksums of multipart objects.

use std::collections::{BTreeMap, BTreeSet};

use crc_fast::CrcAlgorithm;
use hyper::HeaderMap;
use md5::{Digest as _, Md5};
use s3s::{
    S3Result,
    crypto::{Checksum as _, Sha1, Sha256},
    dto::Checksum,
    s3_error,
};

use super::text::{base64, from_base64};

/// A checksum algorithm of S3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    pub(super) const ALL: [Self; 5] = [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    /// The name under which rows keep it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "crc32",
            Self::Crc32c => "crc32c",
            Self::Crc64Nvme => "crc64nvme",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
        }
    }

    /// The name that S3 has for it.
    pub(super) const fn s3_name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// Reads either name.
    ///
    /// # Errors
    /// `InvalidRequest` for an algorithm that is not offered.
    pub(super) fn from_name(name: &str) -> S3Result<Self> {
        let found = Self::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| s3_error!(InvalidRequest, "Checksum algorithm provided is unsupported: {name}"))
    }

    const fn header(self) -> &'static str {
        match self {
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Sha1 => "x-amz-checksum-sha1",
            Self::Sha256 => "x-amz-checksum-sha256",
        }
    }

    const fn bytes(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    const fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Self::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Self::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Self::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Self::Sha1 | Self::Sha256 => None,
        }
    }

    /// The checksum of `bytes`.
    fn of(self, bytes: &[u8]) -> Vec<u8> {
        let mut running = Running::new(self);
        running.update(bytes);
        running.finish(self)
    }
}

/// What a checksum of a multipart object says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// It is that of the bytes.
    Full,
    /// It is that of the parts' checksums, one after another; written with `-N` behind it.
    Composite,
}

impl Scope {
    /// The name that S3 has for it.
    pub(super) const fn s3_name(self) -> &'static str {
        match self {
            Self::Full => "FULL_OBJECT",
            Self::Composite => "COMPOSITE",
        }
    }
}

enum Running {
    Crc(Box<crc_fast::Digest>),
    Sha1(Box<Sha1>),
    Sha256(Box<Sha256>),
}

impl Running {
    fn new(algorithm: Algorithm) -> Self {
        match (algorithm, algorithm.crc()) {
            (_, Some(crc)) => Self::Crc(Box::new(crc_fast::Digest::new(crc))),
            (Algorithm::Sha1, None) => Self::Sha1(Box::new(Sha1::new())),
            (_, None) => Self::Sha256(Box::new(Sha256::new())),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc(digest) => digest.update(bytes),
            Self::Sha1(digest) => digest.update(bytes),
            Self::Sha256(digest) => digest.update(bytes),
        }
    }

    fn finish(self, algorithm: Algorithm) -> Vec<u8> {
        match self {
            Self::Crc(digest) => crc_bytes(algorithm, digest.finalize()),
            Self::Sha1(digest) => digest.finalize().to_vec(),
            Self::Sha256(digest) => digest.finalize().to_vec(),
        }
    }
}

fn crc_bytes(algorithm: Algorithm, crc: u64) -> Vec<u8> {
    crc.to_be_bytes()[8 - algorithm.bytes()..].to_vec()
}

/// Digests of a body that is passing by.
pub(super) struct Digests {
    md5: Md5,
    sums: Vec<(Algorithm, Running)>,
}

impl Digests {
    /// MD5 and these.
    pub(super) fn new(algorithms: &BTreeSet<Algorithm>) -> Self {
        Self { md5: Md5::new(), sums: algorithms.iter().map(|&one| (one, Running::new(one))).collect() }
    }

    /// More bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        for (_, sum) in &mut self.sums {
            sum.update(bytes);
        }
    }

    /// The end.
    pub(super) fn finish(self) -> Digested {
        let sums = self.sums.into_iter().map(|(one, sum)| (one, base64(&sum.finish(one)))).collect();
        Digested { md5: self.md5.finalize().into(), sums }
    }
}

/// Digests of a whole body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Digested {
    /// MD5: the ETag, in hexadecimal.
    pub(super) md5: [u8; 16],
    /// The others, in S3's base64 form.
    pub(super) sums: BTreeMap<Algorithm, String>,
}

impl Digested {
    /// The checksums as rows keep them.
    pub(super) fn kept(&self) -> BTreeMap<String, String> {
        self.sums.iter().map(|(one, sum)| (one.name().to_owned(), sum.clone())).collect()
    }
}

/// What a client said about its body before it sent it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Declared {
    md5: Option<[u8; 16]>,
    sums: BTreeMap<Algorithm, String>,
    /// Announced in `x-amz-trailer`: their values come behind the body.
    trailing: BTreeSet<Algorithm>,
    /// Named without a value.
    asked: Option<Algorithm>,
}

impl Declared {
    /// Reads the headers of a request.
    ///
    /// # Errors
    /// `InvalidDigest`, or `InvalidRequest` for values of the wrong form and unknown algorithms.
    pub(super) fn read(headers: &HeaderMap) -> S3Result<Self> {
        let mut declared = Self::md5_only(headers)?;
        for one in Algorithm::ALL {
            if let Some(value) = header(headers, one.header())? {
                declared.sums.insert(one, well_formed(one, value)?.to_owned());
            }
        }
        for name in headers.get_all("x-amz-trailer") {
            let names = name.to_str().map_err(|_| s3_error!(InvalidRequest, "x-amz-trailer is not plain text"))?;
            for name in names.split(',').map(str::trim) {
                if let Some(algorithm) = name.to_ascii_lowercase().strip_prefix("x-amz-checksum-") {
                    declared.trailing.insert(Algorithm::from_name(algorithm)?);
                }
            }
        }
        if let Some(name) = header(headers, "x-amz-sdk-checksum-algorithm")? {
            declared.asked = Some(Algorithm::from_name(name)?);
        }
        if declared.sums.len() + declared.trailing.len() > 1 {
            return Err(s3_error!(InvalidRequest, "Expecting a single x-amz-checksum- header or trailer"));
        }
        Ok(declared)
    }

    /// Reads no more than `Content-MD5`.
    ///
    /// # Errors
    /// `InvalidDigest`.
    pub(super) fn md5_only(headers: &HeaderMap) -> S3Result<Self> {
        let md5 = header(headers, "content-md5")?.map(|md5| {
            let md5 = from_base64(md5).and_then(|md5| md5.try_into().ok());
            md5.ok_or_else(|| s3_error!(InvalidDigest, "The Content-MD5 you specified was invalid."))
        });
        Ok(Self { md5: md5.transpose()?, ..Self::default() })
    }

    /// Whether there is anything to compare with.
    pub(super) fn says_something(&self) -> bool {
        self.md5.is_some() || !self.sums.is_empty() || !self.trailing.is_empty()
    }

    /// What must be computed while the body passes by: what was declared, or else S3's default.
    pub(super) fn algorithms(&self) -> BTreeSet<Algorithm> {
        let mut all: BTreeSet<_> = self.sums.keys().chain(&self.trailing).chain(&self.asked).copied().collect();
        if all.is_empty() {
            all.insert(Algorithm::Crc64Nvme);
        }
        all
    }

    /// Compares with what came.
    ///
    /// # Errors
    /// `BadDigest` if anything differs, `InvalidRequest` if an announced trailer is missing.
    pub(super) fn check(&self, came: &Digested, trailers: Option<&HeaderMap>) -> S3Result<()> {
        if self.md5.is_some_and(|md5| md5 != came.md5) {
            return Err(s3_error!(BadDigest, "The Content-MD5 you specified did not match what we received."));
        }
        let mut expected = self.sums.clone();
        for &one in &self.trailing {
            let value = trailers.map(|trailers| header(trailers, one.header())).transpose()?.flatten();
            let Some(value) = value else {
                return Err(s3_error!(InvalidRequest, "the trailer {} was announced and is missing", one.header()));
            };
            expected.insert(one, well_formed(one, value)?.to_owned());
        }
        for (one, value) in &expected {
            if came.sums.get(one) != Some(value) {
                return Err(s3_error!(
                    BadDigest,
                    "The {} you specified did not match what we received.",
                    one.s3_name()
                ));
            }
        }
        Ok(())
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> S3Result<Option<&'a str>> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    value.to_str().map(|value| Some(value.trim())).map_err(|_| s3_error!(InvalidRequest, "{name} is not plain text"))
}

fn well_formed(algorithm: Algorithm, value: &str) -> S3Result<&str> {
    if from_base64(value).is_some_and(|bytes| bytes.len() == algorithm.bytes()) {
        Ok(value)
    } else {
        Err(s3_error!(InvalidRequest, "Value for {} header is invalid.", algorithm.header()))
    }
}

/// The checksum of a multipart object out of those of its parts (with their lengths), as `scope` wants it. `None` if a
/// part's value is malformed, or if the algorithm cannot be combined so (SHA has no full-object form).
pub(super) fn whole<'a>(
    algorithm: Algorithm,
    scope: Scope,
    parts: impl Iterator<Item = (&'a str, u64)>,
) -> Option<String> {
    let parts: Vec<(Vec<u8>, u64)> =
        parts.map(|(sum, len)| from_base64(sum).map(|sum| (sum, len))).collect::<Option<_>>()?;
    if parts.iter().any(|(sum, _)| sum.len() != algorithm.bytes()) {
        return None;
    }
    match scope {
        Scope::Composite => {
            let joined: Vec<u8> = parts.iter().flat_map(|(sum, _)| sum.iter().copied()).collect();
            Some(format!("{}-{}", base64(&algorithm.of(&joined)), parts.len()))
        }
        Scope::Full => {
            let crc = algorithm.crc()?;
            let number = |sum: &[u8]| sum.iter().fold(0_u64, |number, &byte| (number << 8) | u64::from(byte));
            let mut parts = parts.iter();
            let (first, _) = parts.next()?;
            let whole = parts.fold(number(first), |whole, (sum, len)| {
                // A part without bytes changes nothing, and combining with it is not defined.
                if *len == 0 { whole } else { crc_fast::checksum_combine(crc, whole, number(sum), *len) }
            });
            Some(base64(&crc_bytes(algorithm, whole)))
        }
    }
}

/// Kept checksums as s3s writes them. What is no checksum (an upload's plan, say) is left out.
pub(super) fn to_dto(kept: &BTreeMap<String, String>) -> Checksum {
    let mut dto = Checksum::default();
    for one in Algorithm::ALL {
        let Some(value) = kept.get(one.name()) else { continue };
        let (plain, scope) = match value.split_once('-') {
            Some((plain, _)) => (plain, Scope::Composite),
            None => (value.as_str(), Scope::Full),
        };
        if well_formed(one, plain).is_err() {
            continue;
        }
        dto.checksum_type = Some(s3s::dto::ChecksumType::from_static(scope.s3_name()));
        let field = match one {
            Algorithm::Crc32 => &mut dto.checksum_crc32,
            Algorithm::Crc32c => &mut dto.checksum_crc32c,
            Algorithm::Crc64Nvme => &mut dto.checksum_crc64nvme,
            Algorithm::Sha1 => &mut dto.checksum_sha1,
            Algorithm::Sha256 => &mut dto.checksum_sha256,
        };
        *field = Some(value.clone());
    }
    dto
}

#[cfg(test)]
#[path = "digest_tests.rs"]
mod tests;
