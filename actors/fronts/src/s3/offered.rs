//! What is offered, as one table: which query parameters and headers each kind of request may carry. Whatever is not in
//! it is refused, so that a request never does the plain operation because nobody read the part of it that said
//! otherwise.
//!
//! ```text
//!   DELETE /bucket/key?acl   no row of (DELETE, object) knows `acl`   ──►  501 NotImplemented, nothing deleted
//! ```

use hyper::{HeaderMap, Method};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

/// What a request's path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Root,
    Bucket,
    Object,
}

impl Level {
    /// Of a decoded path; `in_host` if the bucket is named by the host.
    pub(super) fn of(path: &[u8], in_host: bool) -> Self {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        if in_host {
            return if path.is_empty() { Self::Bucket } else { Self::Object };
        }
        match path.iter().position(|&byte| byte == b'/') {
            _ if path.is_empty() => Self::Root,
            None => Self::Bucket,
            Some(at) if at + 1 == path.len() => Self::Bucket,
            Some(_) => Self::Object,
        }
    }
}

/// The XML that an operation takes as its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Document {
    /// CreateBucket's: may be absent.
    Configuration,
    /// DeleteObjects': nothing is deleted without a digest of it.
    Keys,
    /// CompleteMultipartUpload's.
    Parts,
}

/// One kind of request.
#[derive(Debug)]
pub(super) struct Offer {
    method: Method,
    level: Level,
    /// The parameter that makes it this kind, if one does.
    selector: Option<&'static str>,
    /// Further parameters.
    parameters: &'static [&'static str],
    /// Conditions that it honours. Others would be taken for honoured.
    conditions: &'static [&'static str],
    /// Its body, if that is XML.
    pub(super) document: Option<Document>,
    /// Whether it gives an object's bytes, or what HEAD says of them.
    pub(super) reads: bool,
}

const PLAIN: Offer = Offer {
    method: Method::GET,
    level: Level::Root,
    selector: None,
    parameters: &[],
    conditions: &[],
    document: None,
    reads: false,
};

const OVERRIDES: [&str; 8] = [
    "versionId",
    "partNumber",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
];

/// Kinds with a selector stand before the one of their method and level that has none.
static OFFERS: [Offer; 18] = [
    Offer { parameters: &["prefix", "continuation-token", "max-buckets"], ..PLAIN },
    Offer { level: Level::Bucket, selector: Some("location"), ..PLAIN },
    Offer { level: Level::Bucket, selector: Some("versioning"), ..PLAIN },
    Offer {
        level: Level::Bucket,
        selector: Some("uploads"),
        parameters: &["prefix", "delimiter", "key-marker", "upload-id-marker", "max-uploads", "encoding-type"],
        ..PLAIN
    },
    Offer {
        level: Level::Bucket,
        parameters: &[
            "list-type",
            "prefix",
            "delimiter",
            "marker",
            "max-keys",
            "encoding-type",
            "continuation-token",
            "start-after",
            "fetch-owner",
        ],
        ..PLAIN
    },
    Offer { method: Method::HEAD, level: Level::Bucket, ..PLAIN },
    Offer { method: Method::PUT, level: Level::Bucket, document: Some(Document::Configuration), ..PLAIN },
    Offer { method: Method::DELETE, level: Level::Bucket, ..PLAIN },
    Offer {
        method: Method::POST,
        level: Level::Bucket,
        selector: Some("delete"),
        document: Some(Document::Keys),
        ..PLAIN
    },
    Offer {
        level: Level::Object,
        selector: Some("uploadId"),
        parameters: &["max-parts", "part-number-marker"],
        ..PLAIN
    },
    Offer { level: Level::Object, parameters: &OVERRIDES, conditions: &READ_CONDITIONS, reads: true, ..PLAIN },
    Offer {
        method: Method::HEAD,
        level: Level::Object,
        parameters: &OVERRIDES,
        conditions: &READ_CONDITIONS,
        reads: true,
        ..PLAIN
    },
    Offer {
        method: Method::PUT,
        level: Level::Object,
        selector: Some("uploadId"),
        parameters: &["partNumber"],
        ..PLAIN
    },
    Offer { method: Method::PUT, level: Level::Object, conditions: &["if-match", "if-none-match"], ..PLAIN },
    Offer { method: Method::POST, level: Level::Object, selector: Some("uploads"), ..PLAIN },
    Offer {
        method: Method::POST,
        level: Level::Object,
        selector: Some("uploadId"),
        conditions: &["if-match", "if-none-match"],
        document: Some(Document::Parts),
        ..PLAIN
    },
    Offer { method: Method::DELETE, level: Level::Object, selector: Some("uploadId"), ..PLAIN },
    Offer {
        method: Method::DELETE,
        level: Level::Object,
        parameters: &["versionId"],
        conditions: &["if-match"],
        ..PLAIN
    },
];

/// The kind of a request.
///
/// # Errors
/// `NotImplemented` for what the table does not have; `InvalidArgument` for a parameter that is given twice.
pub(super) fn offer(method: &Method, level: Level, query: &str) -> S3Result<&'static Offer> {
    let names: Vec<&str> = parameters(query).map(|(name, _)| name).collect();
    let of_kind = |offer: &&Offer| {
        offer.method == *method
            && offer.level == level
            && offer.selector.is_none_or(|selector| names.contains(&selector))
    };
    let offer = OFFERS.iter().find(of_kind);
    let offer = offer.ok_or_else(|| s3_error!(NotImplemented, "requests of this kind are not offered: {method}"))?;
    for (at, name) in names.iter().enumerate() {
        let known = offer.selector == Some(name) || offer.parameters.contains(name) || is_harmless(name);
        if !known {
            return Err(not_implemented("query parameter", name));
        }
        if names.get(..at).is_some_and(|before| before.contains(name)) {
            return Err(s3_error!(InvalidArgument, "the query parameter {name} is given twice"));
        }
    }
    Ok(offer)
}

/// The parameters of a query, as they are written: names that are percent-encoded are none that we know.
pub(super) fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

impl Offer {
    /// Whether it may change something.
    fn changes(&self) -> bool {
        !matches!(self.method, Method::GET | Method::HEAD)
    }

    /// Refuses headers that a user would think were honoured.
    ///
    /// # Errors
    /// `NotImplemented`, `InvalidStorageClass`, `AccessControlListNotSupported`.
    pub(super) fn check(&self, headers: &HeaderMap) -> S3Result<()> {
        for (name, value) in headers {
            let name = name.as_str();
            let unheard = CONDITIONS.contains(&name) && !self.conditions.contains(&name);
            if self.changes() && (unheard || name == "content-range") {
                return Err(not_implemented("header", name));
            }
            if name.starts_with("x-amz-") {
                let value = value.to_str().ok();
                match meaning(name) {
                    Meaning::Offered => {}
                    Meaning::Only(values) if value.is_some_and(|value| values.contains(&value.trim())) => {}
                    Meaning::AccessControl(values) if value.is_some_and(|value| values.contains(&value.trim())) => {}
                    Meaning::AccessControl(_) => {
                        return Err(s3_error!(AccessControlListNotSupported, "The bucket does not allow ACLs"));
                    }
                    Meaning::Only(_) if name == "x-amz-storage-class" => {
                        return Err(s3_error!(
                            InvalidStorageClass,
                            "The storage class you specified is not valid: there is one, STANDARD"
                        ));
                    }
                    Meaning::Only(_) | Meaning::Unknown => return Err(not_implemented("header", name)),
                }
            }
        }
        Ok(())
    }
}

/// What a header of S3's own may say here.
enum Meaning {
    /// It is honoured, or changes nothing.
    Offered,
    /// These values say what is done anyway.
    Only(&'static [&'static str]),
    /// The same, of access control lists.
    AccessControl(&'static [&'static str]),
    /// It is not offered.
    Unknown,
}

fn meaning(name: &str) -> Meaning {
    match name {
        "x-amz-acl" => Meaning::AccessControl(&["private", "bucket-owner-full-control"]),
        "x-amz-object-ownership" => Meaning::AccessControl(&["BucketOwnerEnforced"]),
        "x-amz-server-side-encryption" => Meaning::Only(&["AES256"]),
        "x-amz-storage-class" => Meaning::Only(&["STANDARD"]),
        "x-amz-bucket-object-lock-enabled" => Meaning::Only(&["false", "False"]),
        _ if name.starts_with("x-amz-grant-") => Meaning::AccessControl(&[]),
        _ if name.starts_with("x-amz-meta-") || HEADERS.contains(&name) => Meaning::Offered,
        _ => Meaning::Unknown,
    }
}

fn not_implemented(what: &str, name: &str) -> S3Error {
    let name: String = name.chars().take(NAME_CHARS_MAX).collect();
    let text = format!("A {what} you provided implies functionality that is not implemented: {name}");
    S3Error::with_message(S3ErrorCode::NotImplemented, text)
}

const READ_CONDITIONS: [&str; 5] =
    ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range"];
/// What makes a request conditional. What changes nothing may carry any.
const CONDITIONS: [&str; 8] = [
    "if-match",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
    "if-range",
    "x-amz-if-match-last-modified-time",
    "x-amz-if-match-size",
    "x-amz-if-match-initiated-time",
];
/// Whether any request may carry a parameter: it is part of a signature, or changes nothing.
fn is_harmless(name: &str) -> bool {
    HARMLESS.contains(&name) || SIGNATURE.contains(&name)
}

/// The parameters of signature version 4.
pub(super) const SIGNATURE: [&str; 8] = [
    "X-Amz-Algorithm",
    "X-Amz-Content-Sha256",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
    "X-Amz-SignedHeaders",
];
/// Parameters that any request may carry besides: what SDKs add that changes nothing.
const HARMLESS: [&str; 4] = ["x-id", "x-amz-checksum-mode", "x-amz-sdk-checksum-algorithm", "x-amz-user-agent"];
/// Headers of S3's own that are honoured, or that change nothing.
const HEADERS: [&str; 32] = [
    "x-amz-bypass-governance-retention",
    "x-amz-checksum-algorithm",
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc32c",
    "x-amz-checksum-crc64nvme",
    "x-amz-checksum-mode",
    "x-amz-checksum-sha1",
    "x-amz-checksum-sha256",
    "x-amz-checksum-type",
    "x-amz-content-sha256",
    "x-amz-copy-source",
    "x-amz-copy-source-if-match",
    "x-amz-copy-source-if-modified-since",
    "x-amz-copy-source-if-none-match",
    "x-amz-copy-source-if-unmodified-since",
    "x-amz-copy-source-range",
    "x-amz-date",
    "x-amz-decoded-content-length",
    "x-amz-expected-bucket-owner",
    "x-amz-id-2",
    "x-amz-metadata-directive",
    "x-amz-mfa",
    "x-amz-mp-object-size",
    "x-amz-optional-object-attributes",
    "x-amz-request-id",
    "x-amz-request-payer",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-security-token",
    "x-amz-source-expected-bucket-owner",
    "x-amz-tagging-directive",
    "x-amz-trailer",
    "x-amz-user-agent",
];
/// So much of a name is told to whoever sent it.
const NAME_CHARS_MAX: usize = 64;

#[cfg(test)]
#[path = "offered_tests.rs"]
mod tests;
