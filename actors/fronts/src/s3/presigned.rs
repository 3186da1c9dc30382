//! Presigned URLs: how long one may be good for, and those of signature version 2, which boto3 and `aws s3 presign` make
//! where nobody tells them otherwise. s3s verifies version 4; version 2 is verified here, in constant time, and its
//! parameters are taken out of the URL, so that nothing behind this line takes them for anything else.
//!
//! ```text
//!   string to sign = method LF content-md5 LF content-type LF expires LF
//!                    *(x-amz-name ":" values LF)  "/" bucket path  ["?" sub-resources, sorted]
//!   signature      = base64(HMAC-SHA1(secret, string to sign))
//! ```

use core::hint::black_box;

use hyper::{
    HeaderMap, Method, Request, StatusCode, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName},
    http::uri::PathAndQuery,
};
use mesh_core::time::UnixMillis;
use s3s::{
    S3Error, S3Result,
    auth::{Credentials, SecretKey},
    crypto::{Checksum as _, Sha1},
    s3_error,
};

use super::{
    auth::unknown_key,
    error::refusal,
    host::Domains,
    ingress::AccessKeys,
    offered::parameters,
    text::{base64, from_form},
};

/// Who signed a URL by version 2. Travels in the extensions of its request, where no client can put anything.
#[derive(Clone, Debug)]
pub(super) struct Presigned(pub(super) Credentials);

/// Looks at a request's presigned URL, if it has one.
///
/// # Errors
/// `AuthorizationQueryParametersError` for one that is good for too long or malformed; of version 2 also
/// `AccessDenied`, `InvalidAccessKeyId` and `SignatureDoesNotMatch`.
pub(super) fn admit<B>(
    request: &mut Request<B>,
    keys: &dyn AccessKeys,
    domains: &Domains,
    now: UnixMillis,
) -> S3Result<()> {
    let Some(query) = request.uri().query() else { return Ok(()) };
    if let Some((_, expires)) = parameters(query).find(|(name, _)| *name == "X-Amz-Expires") {
        let seconds = number(expires).ok_or_else(|| malformed("X-Amz-Expires is a number of seconds"))?;
        if seconds > WEEK_S {
            return Err(malformed("X-Amz-Expires must be less than a week (in seconds); that is, 604800"));
        }
    }
    let Some(claim) = Claim::read(query)? else { return Ok(()) };
    let credentials = claim.verify(request, keys, domains, now)?;
    *request.uri_mut() = without_signature(request.uri(), |name| {
        PARAMETERS.contains(&name) || name.starts_with("x-amz-") || name == "content-type" || name == "content-md5"
    })?;
    request.extensions_mut().insert(Presigned(credentials));
    Ok(())
}

/// A URI without the parameters that `drop` names: a signature that has been verified is nothing but a burden.
pub(super) fn without_signature(uri: &Uri, drop: impl Fn(&str) -> bool) -> S3Result<Uri> {
    let kept: Vec<&str> = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty() && !drop(pair.split('=').next().unwrap_or_default()))
        .collect();
    let text = if kept.is_empty() { uri.path().to_owned() } else { format!("{}?{}", uri.path(), kept.join("&")) };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(text).map_err(|_| s3_error!(InvalidURI))?);
    Uri::from_parts(parts).map_err(|_| s3_error!(InvalidURI))
}

/// The host that a request names.
pub(super) fn host_of<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    let header = headers.get(HOST).and_then(|host| host.to_str().ok());
    header.or_else(|| uri.authority().map(|authority| authority.as_str()))
}

/// What the parameters of version 2 say.
#[derive(Debug, PartialEq, Eq)]
struct Claim {
    access: String,
    signature: String,
    /// As written: it is part of what was signed.
    expires: String,
    expires_s: u64,
}

impl Claim {
    /// # Errors
    /// `AuthorizationQueryParametersError` for half of them, one of them twice, or nonsense.
    fn read(query: &str) -> S3Result<Option<Self>> {
        let mut found = [const { None }; PARAMETERS.len()];
        for (name, value) in parameters(query) {
            let Some(at) = PARAMETERS.iter().position(|known| *known == name) else { continue };
            let twice = found.get_mut(at).is_some_and(|slot| slot.replace(value).is_some());
            if twice || value.len() > VALUE_BYTES_MAX {
                return Err(malformed("AWSAccessKeyId, Signature and Expires are given once each"));
            }
        }
        let [access, signature, expires] = found;
        let (access, signature, expires) = match (access, signature, expires) {
            (None, None, None) => return Ok(None),
            (Some(access), Some(signature), Some(expires)) => (access, signature, expires),
            _ => return Err(malformed("a URL signed by version 2 has AWSAccessKeyId, Signature and Expires")),
        };
        let text = |value| from_form(value).ok_or_else(|| malformed("a parameter of the signature is not text"));
        let expires_s = number(expires).ok_or_else(|| malformed("Expires is a time in seconds since 1970"))?;
        Ok(Some(Self { access: text(access)?, signature: text(signature)?, expires: expires.to_owned(), expires_s }))
    }

    fn verify<B>(
        &self,
        request: &Request<B>,
        keys: &dyn AccessKeys,
        domains: &Domains,
        now: UnixMillis,
    ) -> S3Result<Credentials> {
        let now_s = now.0 / 1000;
        if self.expires_s < now_s {
            return Err(s3_error!(AccessDenied, "Request has expired"));
        }
        // Version 2 says until when, not from when on. A signer's clock may be ahead of ours.
        if self.expires_s - now_s > WEEK_S + SKEW_S {
            return Err(malformed("Expires is more than a week ahead; that is, 604800 seconds"));
        }
        let (headers, uri) = (request.headers(), request.uri());
        // Nothing of the payload is covered: a hash of it, or its framing, would be promises that nobody keeps.
        if headers.get("x-amz-content-sha256").is_some_and(|hash| hash != "UNSIGNED-PAYLOAD") {
            return Err(s3_error!(NotImplemented, "a URL signed by version 2 takes no x-amz-content-sha256"));
        }
        let both = parameters(uri.query().unwrap_or_default()).any(|(name, _)| name == "X-Amz-Signature");
        if both || headers.contains_key(AUTHORIZATION) {
            return Err(s3_error!(InvalidArgument, "Only one auth mechanism allowed"));
        }
        let key = keys.lookup(&self.access).ok_or_else(|| unknown_key(keys))?;
        let bucket = host_of(headers, uri).and_then(|host| domains.bucket(host)).map(|(bucket, _)| bucket);
        let fits = |path: &str| -> S3Result<bool> {
            let text = to_sign(request.method(), bucket.as_deref(), path, uri.query(), headers, &self.expires)?;
            let expected = base64(&hmac_sha1(key.secret.as_bytes(), text.as_bytes()));
            Ok(same(expected.as_bytes(), self.signature.as_bytes()))
        };
        // botocore signs a bucket as a folder, and asks for it without the slash.
        let is_bucket = bucket.is_none() && uri.path().len() > 1 && !uri.path()[1..].contains('/');
        if !(fits(uri.path())? || is_bucket && fits(&format!("{}/", uri.path()))?) {
            return Err(s3_error!(SignatureDoesNotMatch));
        }
        Ok(Credentials { access_key: self.access.clone(), secret_key: SecretKey::from(key.secret) })
    }
}

fn to_sign(
    method: &Method,
    bucket: Option<&str>,
    path: &str,
    query: Option<&str>,
    headers: &HeaderMap,
    expires: &str,
) -> S3Result<String> {
    let values = |name: &str| -> S3Result<String> {
        let values = headers.get_all(name).iter().map(|value| core::str::from_utf8(value.as_bytes()).map(str::trim));
        let values: Result<Vec<&str>, _> = values.collect();
        Ok(values.map_err(|_| s3_error!(SignatureDoesNotMatch, "a signed header is not text"))?.join(","))
    };
    let mut text = format!("{method}\n{}\n{}\n{expires}\n", values("content-md5")?, values(CONTENT_TYPE.as_str())?);
    let mut names: Vec<&str> =
        headers.keys().map(HeaderName::as_str).filter(|name| name.starts_with("x-amz-")).collect();
    names.sort_unstable();
    for name in names {
        text.push_str(&format!("{name}:{}\n", values(name)?));
    }
    if let Some(bucket) = bucket {
        text.push('/');
        text.push_str(bucket);
    }
    text.push_str(path);
    let mut resources = Vec::new();
    for pair in query.unwrap_or_default().split('&') {
        let (name, value) = pair.split_once('=').map_or((pair, None), |(name, value)| (name, Some(value)));
        if SUB_RESOURCES.contains(&name) {
            let value = value.map(|value| from_form(value).ok_or_else(|| s3_error!(InvalidURI))).transpose()?;
            resources.push((name, value));
        }
    }
    resources.sort_by_key(|(name, _)| *name);
    for (at, (name, value)) in resources.into_iter().enumerate() {
        text.push(if at == 0 { '?' } else { '&' });
        text.push_str(name);
        if let Some(value) = value {
            text.push('=');
            text.push_str(&value);
        }
    }
    Ok(text)
}

pub(super) fn hmac_sha1(key: &[u8], message: &[u8]) -> [u8; 20] {
    let mut block = [0_u8; 64];
    let hashed = Sha1::checksum(key);
    let key = if key.len() > block.len() { &hashed[..] } else { key };
    block.iter_mut().zip(key).for_each(|(byte, key)| *byte = *key);
    let digest = |pad: u8, message: &[u8]| {
        let mut hash = Sha1::new();
        hash.update(&block.map(|byte| byte ^ pad));
        hash.update(message);
        hash.finalize()
    };
    digest(0x5c, &digest(0x36, message))
}

/// Whether two texts are the same, in a time that depends on their lengths only.
fn same(one: &[u8], other: &[u8]) -> bool {
    let differs = one.iter().zip(other).fold(0_u8, |differs, (one, other)| black_box(differs | (one ^ other)));
    one.len() == other.len() && differs == 0
}

fn number(digits: &str) -> Option<u64> {
    let plain = (1..=NUMBER_DIGITS_MAX).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

fn malformed(message: &str) -> S3Error {
    refusal("AuthorizationQueryParametersError", StatusCode::BAD_REQUEST, message.to_owned())
}

/// A URL is good for so long at most.
const WEEK_S: u64 = 7 * 24 * 3600;
/// Clocks may differ by so much: what s3s allows too.
const SKEW_S: u64 = 15 * 60;
const NUMBER_DIGITS_MAX: usize = 18;
const VALUE_BYTES_MAX: usize = 256;
const PARAMETERS: [&str; 3] = ["AWSAccessKeyId", "Signature", "Expires"];
/// Parameters that version 2 signs.
const SUB_RESOURCES: [&str; 35] = [
    "accelerate",
    "acl",
    "analytics",
    "cors",
    "defaultObjectAcl",
    "delete",
    "inventory",
    "lifecycle",
    "location",
    "logging",
    "metrics",
    "notification",
    "object-lock",
    "partNumber",
    "policy",
    "replication",
    "requestPayment",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "restore",
    "select",
    "select-type",
    "storageClass",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
    "versions",
    "website",
];

#[cfg(test)]
#[path = "presigned_tests.rs"]
mod tests;
