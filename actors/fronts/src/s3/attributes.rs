//! What a user gives with an object: standard headers and metadata, to and from [`Attributes`].

use std::collections::BTreeMap;

use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};
use mesh_core::{limits::USER_METADATA_BYTES_MAX, meta::Attributes};
use s3s::{
    S3Result,
    dto::{Timestamp, TimestampFormat},
    s3_error,
};

use super::text::base64;

/// The standard headers that S3 keeps, and user metadata.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub(super) cache_control: Option<String>,
    pub(super) content_disposition: Option<String>,
    pub(super) content_encoding: Option<String>,
    pub(super) content_language: Option<String>,
    pub(super) content_type: Option<String>,
    pub(super) expires: Option<Timestamp>,
    pub(super) metadata: UserMetadata,
}

/// User metadata: `x-amz-meta-…` headers, kept as they are written, so that what went in comes out, whatever it may mean
/// to its owner (RFC 2047 words, tabs, text that looks like either).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct UserMetadata(BTreeMap<String, String>);

impl UserMetadata {
    /// Takes it out of a request's headers. A name that is given twice has both values.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no text.
    pub(super) fn take(headers: &mut HeaderMap) -> S3Result<Self> {
        let names: Vec<HeaderName> =
            headers.keys().filter(|name| name.as_str().starts_with(USER_PREFIX)).cloned().collect();
        let mut metadata = BTreeMap::new();
        for name in names {
            let values: Result<Vec<&str>, _> =
                headers.get_all(&name).iter().map(|value| core::str::from_utf8(value.as_bytes())).collect();
            let values = values.map_err(|_| s3_error!(InvalidArgument, "the value of {name} is not UTF-8"))?;
            let value = values.iter().map(|value| value.trim()).collect::<Vec<_>>().join(",");
            let key = name.as_str().strip_prefix(USER_PREFIX).unwrap_or_default();
            if !key.is_empty() {
                metadata.insert(key.to_owned(), value);
            }
            headers.remove(name);
        }
        Ok(Self(metadata))
    }

    /// Of what a row keeps.
    pub(super) fn of(attributes: &Attributes) -> Self {
        Self(attributes.user.clone())
    }

    /// As headers of a response. Text that is no ASCII is written as S3 writes it, in words of RFC 2047.
    pub(super) fn into_headers(self) -> HeaderMap {
        let headers = self.0.into_iter().filter_map(|(name, value)| {
            let name = HeaderName::try_from(format!("{USER_PREFIX}{name}")).ok()?;
            let plain = value.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
            let value = if plain { value } else { words(&value) };
            Some((name, HeaderValue::try_from(value).ok()?))
        });
        headers.collect()
    }
}

/// Text in encoded words of RFC 2047, each of at most 75 characters.
fn words(text: &str) -> String {
    let mut words = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let mut end = rest.len().min(WORD_BYTES_MAX);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (word, behind) = rest.split_at(end);
        words.push(format!("=?UTF-8?B?{}?=", base64(word.as_bytes())));
        rest = behind;
    }
    words.join(" ")
}

/// Takes the fields of [`Given`] out of any input that has them, and user metadata out of its request's extensions.
macro_rules! given {
    ($input:expr, $extensions:expr) => {
        $crate::s3::attributes::Given {
            cache_control: $input.cache_control.take(),
            content_disposition: $input.content_disposition.take(),
            content_encoding: $input.content_encoding.take(),
            content_language: $input.content_language.take(),
            content_type: $input.content_type.take(),
            expires: $input.expires.take(),
            metadata: $extensions.remove().unwrap_or_default(),
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
        attributes.user = self.metadata.0;
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
            metadata: UserMetadata::of(attributes),
        }
    }
}

fn http_date(at: &Timestamp) -> S3Result<String> {
    let mut text = Vec::new();
    let written = at.format(TimestampFormat::HttpDate, &mut text);
    written.ok().and_then(|()| String::from_utf8(text).ok()).ok_or_else(|| s3_error!(InvalidRequest, "invalid Expires"))
}

const USER_PREFIX: &str = "x-amz-meta-";
/// Bytes of text in one encoded word: its frame and base64 then have 72 characters.
const WORD_BYTES_MAX: usize = 45;
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
            metadata: UserMetadata([("color".to_owned(), "blau é".to_owned())].into()),
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
            metadata: UserMetadata([("k".to_owned(), "v".repeat(bytes - 1))].into()),
            ..Given::default()
        };
        assert!(with(2048).into_attributes().is_ok());
        assert_eq!(*with(2049).into_attributes().expect_err("large").code(), S3ErrorCode::MetadataTooLarge);
    }

    #[test]
    fn user_metadata_come_back_as_they_went_and_twice_is_joined() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("x-amz-meta-a", "tab\tx"), ("x-amz-meta-a", " b "), ("x-amz-meta-w", "=?no word?="), ("range", "r")]
        {
            headers.append(name, value.parse().expect("a value"));
        }
        headers.append("x-amz-meta-u", HeaderValue::from_bytes("groß".as_bytes()).expect("a value"));
        headers.append("x-amz-meta-", HeaderValue::from_static("nameless"));
        let metadata = UserMetadata::take(&mut headers).expect("text");
        assert_eq!(headers.len(), 1, "{headers:?}");
        let written = metadata.into_headers();
        assert_eq!(written["x-amz-meta-a"], "tab\tx,b");
        assert_eq!(written["x-amz-meta-w"], "=?no word?=");
        assert_eq!(written["x-amz-meta-u"], "=?UTF-8?B?Z3Jvw58=?=");
        headers.append("x-amz-meta-l", HeaderValue::from_bytes(b"latin \xfc").expect("a value"));
        assert_eq!(*UserMetadata::take(&mut headers).expect_err("no text").code(), S3ErrorCode::InvalidArgument);
    }

    #[test]
    fn long_text_is_written_in_several_words_cut_between_characters() {
        let text = "日本語".repeat(20);
        let written = words(&text);
        let decoded: Vec<u8> = written
            .split(' ')
            .flat_map(|word| {
                assert!(word.len() <= 75, "{word}");
                let word = word.strip_prefix("=?UTF-8?B?").and_then(|word| word.strip_suffix("?=")).expect("a word");
                crate::s3::text::from_base64(word).expect("base64")
            })
            .collect();
        assert_eq!(decoded, text.as_bytes());
    }
}
