use hyper::header::{HeaderName, HeaderValue};
use proptest::prelude::*;
use s3s::path::{S3Path, parse_path_style};

use super::*;

fn refused(method: &Method, level: Level, query: &str) -> Option<S3ErrorCode> {
    offer(method, level, query).err().map(|error| error.code().clone())
}

fn header(offer: &Offer, name: &str, value: &str) -> Option<S3ErrorCode> {
    let mut headers = HeaderMap::new();
    headers.insert(
        HeaderName::from_bytes(name.as_bytes()).expect("a name"),
        HeaderValue::from_str(value).expect("a value"),
    );
    offer.check(&headers).err().map(|error| error.code().clone())
}

/// Every sub-resource that S3 has, or had.
const SUB_RESOURCES: [&str; 38] = [
    "abac",
    "accelerate",
    "acl",
    "analytics",
    "attributes",
    "cors",
    "delete",
    "encryption",
    "intelligent-tiering",
    "inventory",
    "legal-hold",
    "lifecycle",
    "location",
    "logging",
    "metadataConfiguration",
    "metadataTable",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "partNumber",
    "policy",
    "policyStatus",
    "publicAccessBlock",
    "renameObject",
    "replication",
    "requestPayment",
    "restore",
    "retention",
    "select",
    "session",
    "tagging",
    "torrent",
    "uploads",
    "versioning",
    "versions",
    "website",
    "x-unknown",
];

#[test]
fn no_sub_resource_becomes_a_plain_write_or_delete() {
    for (method, level) in [
        (Method::PUT, Level::Bucket),
        (Method::DELETE, Level::Bucket),
        (Method::PUT, Level::Object),
        (Method::DELETE, Level::Object),
    ] {
        for name in SUB_RESOURCES {
            for query in [name.to_owned(), format!("{name}="), format!("x-id=PutObject&{name}=1")] {
                assert_eq!(
                    refused(&method, level, &query),
                    Some(S3ErrorCode::NotImplemented),
                    "{method} {level:?} {query}"
                );
            }
        }
    }
}

#[test]
fn what_is_offered_is_its_own_kind() {
    let kind = |method: Method, level, query| {
        let offer = offer(&method, level, query).expect("offered");
        (offer.selector, offer.document, offer.reads)
    };
    assert_eq!(kind(Method::GET, Level::Bucket, "list-type=2&prefix=a"), (None, None, false));
    assert_eq!(kind(Method::GET, Level::Bucket, "versioning"), (Some("versioning"), None, false));
    assert_eq!(kind(Method::GET, Level::Object, "response-content-type=a&X-Amz-Signature=s"), (None, None, true));
    assert_eq!(kind(Method::HEAD, Level::Object, "partNumber=1"), (None, None, true));
    assert_eq!(kind(Method::PUT, Level::Object, "partNumber=1&uploadId=u"), (Some("uploadId"), None, false));
    assert_eq!(kind(Method::POST, Level::Bucket, "delete"), (Some("delete"), Some(Document::Keys), false));
    assert_eq!(kind(Method::POST, Level::Object, "uploadId=u"), (Some("uploadId"), Some(Document::Parts), false));
    assert_eq!(kind(Method::DELETE, Level::Object, "uploadId=u"), (Some("uploadId"), None, false));
    assert_eq!(kind(Method::DELETE, Level::Object, "versionId=null"), (None, None, false));
}

#[test]
fn parameters_given_twice_or_in_another_spelling_are_refused() {
    assert_eq!(refused(&Method::GET, Level::Bucket, "prefix=a&prefix=b"), Some(S3ErrorCode::InvalidArgument));
    assert_eq!(refused(&Method::DELETE, Level::Object, "%61cl"), Some(S3ErrorCode::NotImplemented));
    assert_eq!(refused(&Method::PUT, Level::Object, "partNumber=1"), Some(S3ErrorCode::NotImplemented));
    assert_eq!(refused(&Method::PUT, Level::Object, "versionId=null"), Some(S3ErrorCode::NotImplemented));
    assert_eq!(refused(&Method::PATCH, Level::Object, ""), Some(S3ErrorCode::NotImplemented));
    assert_eq!(refused(&Method::POST, Level::Object, ""), Some(S3ErrorCode::NotImplemented));
}

#[test]
fn headers_that_would_be_ignored_are_refused() {
    let put = offer(&Method::PUT, Level::Object, "").expect("offered");
    for (name, value) in [
        ("x-amz-server-side-encryption-customer-key", "k"),
        ("x-amz-copy-source-server-side-encryption-customer-key", "k"),
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-tagging", "a=b"),
        ("x-amz-object-lock-mode", "GOVERNANCE"),
        ("x-amz-website-redirect-location", "/"),
        ("x-amz-write-offset-bytes", "7"),
        ("x-amz-checksum-sha512", "AA=="),
        ("x-amz-rename-source", "/a"),
        ("x-amz-what-comes-next", "1"),
        ("if-modified-since", "Wed, 21 Oct 2015 07:28:00 GMT"),
        ("if-unmodified-since", "Wed, 21 Oct 2015 07:28:00 GMT"),
        ("content-range", "bytes 0-1/2"),
    ] {
        assert_eq!(header(put, name, value), Some(S3ErrorCode::NotImplemented), "{name}");
    }
    assert_eq!(header(put, "x-amz-storage-class", "GLACIER"), Some(S3ErrorCode::InvalidStorageClass));
    for (name, value) in [("x-amz-acl", "public-read"), ("x-amz-grant-read", "id=1")] {
        assert_eq!(header(put, name, value), Some(S3ErrorCode::AccessControlListNotSupported), "{name}");
    }
    for (name, value) in [
        ("x-amz-acl", "private"),
        ("x-amz-server-side-encryption", "AES256"),
        ("x-amz-storage-class", "STANDARD"),
        ("x-amz-meta-anything", "at all"),
        ("x-amz-checksum-crc32", "AAAAAA=="),
        ("if-match", "\"a\""),
        ("if-none-match", "*"),
        ("amz-sdk-invocation-id", "1"),
    ] {
        assert_eq!(header(put, name, value), None, "{name}");
    }
}

#[test]
fn a_second_value_of_a_header_is_looked_at_too() {
    let put = offer(&Method::PUT, Level::Object, "").expect("offered");
    let mut headers = HeaderMap::new();
    headers.append("x-amz-acl", HeaderValue::from_static("private"));
    headers.append("x-amz-acl", HeaderValue::from_static("public-read"));
    assert!(put.check(&headers).is_err());
}

#[test]
fn conditions_that_a_write_does_not_honour_are_refused() {
    let delete = offer(&Method::DELETE, Level::Object, "").expect("offered");
    assert_eq!(header(delete, "if-match", "\"a\""), None);
    assert_eq!(header(delete, "if-none-match", "\"a\""), Some(S3ErrorCode::NotImplemented));
    assert_eq!(header(delete, "x-amz-if-match-size", "1"), Some(S3ErrorCode::NotImplemented));
    let part = offer(&Method::PUT, Level::Object, "partNumber=1&uploadId=u").expect("offered");
    assert_eq!(header(part, "if-match", "\"a\""), Some(S3ErrorCode::NotImplemented));
    let bucket = offer(&Method::DELETE, Level::Bucket, "").expect("offered");
    assert_eq!(header(bucket, "if-match", "\"a\""), Some(S3ErrorCode::NotImplemented));
}

proptest! {
    #[test]
    fn a_level_is_what_s3s_reads_from_the_same_path(path in "/([a-z]{3,5}(/[a-z/ ]{0,6})?)?") {
        let level = match parse_path_style(&path).expect("a path") {
            S3Path::Root => Level::Root,
            S3Path::Bucket { .. } => Level::Bucket,
            S3Path::Object { .. } => Level::Object,
        };
        prop_assert_eq!(Level::of(path.as_bytes(), false), level);
    }

    #[test]
    fn whatever_is_let_through_consists_of_known_names(query in "[a-zA-Z&=%+-]{0,40}", delete in any::<bool>()) {
        let method = if delete { Method::DELETE } else { Method::PUT };
        if offer(&method, Level::Object, &query).is_ok() {
            let known = ["uploadId", "partNumber", "versionId"];
            prop_assert!(parameters(&query).all(|(name, _)| known.contains(&name) || is_harmless(name)));
        }
    }
}
