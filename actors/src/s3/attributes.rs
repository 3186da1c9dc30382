//! What a user gives with an object: standard headers and metadata, to and from [`Attributes`]. And what we do not offer
//! and therefore must refuse instead of ignoring.

use hyper::HeaderMap;
use mesh_core::{limits::USER_METADATA_BYTES_MAX, meta::Attributes};
use s3s::{
    S3Result,
    dto::{Metadata, Timestamp, TimestampFormat},
    s3_error,
};

/// The standard headers that S3 keeps, and user metadata.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) cache_control: Option<String>,
    pub(super) content_disposition: Option<String>,
    pub(super) content_encoding: Option<String>,
    pub(super) content_language: Option<String>,
    pub(super) content_type: Option<String>,
    pub(super) expires: Option<Timestamp>,
    pub(super) metadata: Option<Metadata>,
}

/// Takes the fields of [`Given`] out of any input or output that has them.
macro_rules! given {
    ($input:expr) => {
        $crate::s3::attributes::Given {
            cache_control: $input.cache_control.take(),
            content_disposition: $input.content_disposition.take(),
            content_encoding: $input.content_encoding.take(),
            content_language: $input.content_language.take(),
            content_type: $input.content_type.take(),
            expires: $input.expires.take(),
            metadata: $input.metadata.take(),
        }
    };
}
pub(super) use given;

impl Given {
    /// As rows keep it.
    ///
    /// # Errors
    /// `MetadataTooLarge`.
    pub(super) fn into_attributes(self) -> S3Result<Attributes> {
        let mut attributes = Attributes::default();
        // aws-chunked is how the body travelled, not what it is.
        let encoding = self.content_encoding.map(|encodings| {
            let kept = encodings.split(',').map(str::trim).filter(|one| !one.eq_ignore_ascii_case("aws-chunked"));
            kept.collect::<Vec<_>>().join(",")
        });
        let headers = [
            (CACHE_CONTROL, self.cache_control),
            (CONTENT_DISPOSITION, self.content_disposition),
            (CONTENT_ENCODING, encoding.filter(|encoding| !encoding.is_empty())),
            (CONTENT_LANGUAGE, self.content_language),
            (CONTENT_TYPE, self.content_type),
            (EXPIRES, self.expires.map(|expires| http_date(&expires)).transpose()?),
        ];
        attributes.headers = headers.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        for (name, value) in self.metadata.unwrap_or_default() {
            attributes.user.insert(name.to_ascii_lowercase(), value);
        }
        let bytes: usize = attributes.user.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > USER_METADATA_BYTES_MAX {
            return Err(s3_error!(
                MetadataTooLarge,
                "Your metadata headers have {bytes} bytes and exceed the maximum of {USER_METADATA_BYTES_MAX}"
            ));
        }
        if attributes.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
            > STANDARD_HEADERS_BYTES_MAX
        {
            return Err(s3_error!(InvalidRequest, "the object's standard headers are too long together"));
        }
        Ok(attributes)
    }

    /// As responses say it.
    pub(super) fn of(attributes: &Attributes) -> Self {
        let header = |name: &str| attributes.headers.get(name).cloned();
        Self {
            cache_control: header(CACHE_CONTROL),
            content_disposition: header(CONTENT_DISPOSITION),
            content_encoding: header(CONTENT_ENCODING),
            content_language: header(CONTENT_LANGUAGE),
            content_type: header(CONTENT_TYPE).or_else(|| Some(CONTENT_TYPE_DEFAULT.to_owned())),
            expires: header(EXPIRES).and_then(|date| Timestamp::parse(TimestampFormat::HttpDate, &date).ok()),
            metadata: (!attributes.user.is_empty())
                .then(|| attributes.user.iter().map(|(name, value)| (name.clone(), value.clone())).collect()),
        }
    }
}

fn http_date(at: &Timestamp) -> S3Result<String> {
    let mut text = Vec::new();
    let written = at.format(TimestampFormat::HttpDate, &mut text);
    written.ok().and_then(|()| String::from_utf8(text).ok()).ok_or_else(|| s3_error!(InvalidRequest, "invalid Expires"))
}

/// Refuses what a user would think was honoured.
///
/// # Errors
/// `NotImplemented`, `AccessControlListNotSupported`.
pub(super) fn refuse_unsupported(headers: &HeaderMap) -> S3Result<()> {
    for name in headers.keys() {
        let name = name.as_str();
        let unsupported = name.starts_with("x-amz-server-side-encryption-")
            || name.starts_with("x-amz-copy-source-server-side-encryption-")
            || name.starts_with("x-amz-object-lock-")
            || matches!(name, "x-amz-tagging" | "x-amz-website-redirect-location" | "x-amz-write-offset-bytes");
        if unsupported {
            return Err(s3_error!(
                NotImplemented,
                "A header you provided implies functionality that is not implemented: {name}"
            ));
        }
        if name.starts_with("x-amz-grant-") {
            return Err(s3_error!(AccessControlListNotSupported, "The bucket does not allow ACLs"));
        }
    }
    let is = |name: &str, allowed: &[&str]| {
        headers.get(name).is_none_or(|value| allowed.iter().any(|allowed| value == allowed))
    };
    if !is("x-amz-acl", &["private", "bucket-owner-full-control"]) {
        return Err(s3_error!(AccessControlListNotSupported, "The bucket does not allow ACLs"));
    }
    if !is("x-amz-server-side-encryption", &["AES256"]) {
        return Err(s3_error!(NotImplemented, "keys are the mesh's own: only AES256 is offered"));
    }
    Ok(())
}

const CACHE_CONTROL: &str = "cache-control";
const CONTENT_DISPOSITION: &str = "content-disposition";
const CONTENT_ENCODING: &str = "content-encoding";
const CONTENT_LANGUAGE: &str = "content-language";
const CONTENT_TYPE: &str = "content-type";
const EXPIRES: &str = "expires";
/// What S3 says of an object whose type was not given.
const CONTENT_TYPE_DEFAULT: &str = "binary/octet-stream";
/// Names and values of the standard headers together at most: what Object takes.
const STANDARD_HEADERS_BYTES_MAX: usize = 8192;

#[cfg(test)]
mod tests {
    use s3s::S3ErrorCode;

    use super::*;

    #[test]
    fn attributes_survive_and_aws_chunked_is_dropped() {
        let expires = Timestamp::parse(TimestampFormat::HttpDate, "Wed, 21 Oct 2015 07:28:00 GMT").expect("a date");
        let given = Given {
            content_type: Some("text/plain".into()),
            content_encoding: Some("aws-chunked, gzip".into()),
            expires: Some(expires.clone()),
            metadata: Some([("Color".to_owned(), "blau é".to_owned())].into()),
            ..Given::default()
        };
        let attributes = given.into_attributes().expect("small");
        assert_eq!(attributes.headers["content-encoding"], "gzip");
        assert_eq!(attributes.user["color"], "blau é");
        let back = Given::of(&attributes);
        assert_eq!((back.expires, back.content_type.as_deref()), (Some(expires), Some("text/plain")));
        let bare = Given { content_encoding: Some("aws-chunked".into()), ..Given::default() };
        let bare = bare.into_attributes().expect("small");
        assert!(bare.headers.is_empty());
        assert_eq!(Given::of(&bare).content_type.as_deref(), Some("binary/octet-stream"));
    }

    #[test]
    fn metadata_is_limited_to_2_kib() {
        let with = |bytes: usize| Given {
            metadata: Some([("k".to_owned(), "v".repeat(bytes - 1))].into()),
            ..Given::default()
        };
        assert!(with(2048).into_attributes().is_ok());
        assert_eq!(*with(2049).into_attributes().expect_err("large").code(), S3ErrorCode::MetadataTooLarge);
    }

    #[test]
    fn what_is_not_offered_is_refused() {
        let refused = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("a value"));
            refuse_unsupported(&headers).is_err()
        };
        assert!(refused("x-amz-server-side-encryption-customer-key", "k"));
        assert!(refused("x-amz-server-side-encryption", "aws:kms"));
        assert!(refused("x-amz-acl", "public-read"));
        assert!(refused("x-amz-grant-read", "id=1"));
        assert!(refused("x-amz-tagging", "a=b"));
        assert!(refused("x-amz-object-lock-mode", "GOVERNANCE"));
        assert!(!refused("x-amz-acl", "private"));
        assert!(!refused("x-amz-server-side-encryption", "AES256"));
        assert!(!refused("x-amz-storage-class", "STANDARD"));
    }
}
