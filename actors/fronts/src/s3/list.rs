//! ListObjects and ListObjectsV2; and what a page of any listing may take.

use hyper::Method;
use mesh_core::{Answer, limits::LIST_KEYS_MAX, meta::Listing, op::ObjectOp};
use s3s::{
    S3Request, S3Result,
    dto::{
        CommonPrefix, ETag, EncodingType, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output,
        Object, ObjectStorageClass, Owner,
    },
    s3_error,
};

use super::{
    caller::Caller,
    error::strange,
    gateway::Gateway,
    offered::{Level, parameters},
    text::{base64, from_base64, from_form, percent, timestamp},
};

/// What the page of a listing that a request asks for, whichever it is, may take while it is made; 0 if it asks for none.
/// It is taken before Object is asked: a page is there whole before anything of it can be sent.
pub(super) fn page_bytes_max(method: &Method, level: Level, query: &str) -> usize {
    let value = |name: &str| parameters(query).find(|(one, _)| *one == name).map(|(_, value)| value);
    let asked = |name: &str, max: usize| {
        let asked = value(name).and_then(from_form).and_then(|asked| asked.parse::<usize>().ok());
        asked.map_or(max, |asked| asked.min(max))
    };
    let rows = match level {
        _ if *method != Method::GET => return 0,
        Level::Root => asked("max-buckets", BUCKETS_PAGE_MAX) * BUCKET_BYTES,
        Level::Bucket if value("location").is_some() || value("versioning").is_some() => return 0,
        // Whole pages are read for it, however few are asked for.
        Level::Bucket if value("uploads").is_some() => LIST_KEYS_MAX * ENTRY_BYTES,
        Level::Bucket => asked("max-keys", LIST_KEYS_MAX) * ENTRY_BYTES,
        Level::Object if value("uploadId").is_some() => asked("max-parts", LIST_KEYS_MAX) * ENTRY_BYTES,
        Level::Object => return 0,
    };
    // And what it was asked with, which it says again, escaped.
    rows + ECHO_BYTES * query.len()
}

pub(super) async fn list_objects(
    gateway: &Gateway,
    request: S3Request<ListObjectsInput>,
) -> S3Result<ListObjectsOutput> {
    let S3Request { input, headers, credentials, .. } = request;
    let caller = gateway.caller(credentials.as_ref(), &headers)?;
    let spelling = Spelling::of(input.encoding_type.as_ref())?;
    let limit = page_size(input.max_keys, LIST_KEYS_MAX)?;
    let after = input.marker.clone().unwrap_or_default();
    let page = page(&caller, &input.bucket, input.prefix.as_ref(), input.delimiter.as_ref(), after, limit).await?;
    let owner = caller.owner();
    Ok(ListObjectsOutput {
        name: Some(input.bucket),
        prefix: Some(spelling.write(input.prefix.unwrap_or_default())),
        marker: Some(spelling.write(input.marker.unwrap_or_default())),
        max_keys: i32::try_from(limit).ok(),
        is_truncated: Some(page.next.is_some()),
        contents: Some(contents(&page, spelling, Some(&owner))),
        common_prefixes: Some(prefixes(page.prefixes, spelling)),
        delimiter: input.delimiter.map(|delimiter| spelling.write(delimiter)),
        next_marker: page.next.map(|next| spelling.write(next)),
        encoding_type: input.encoding_type,
        ..Default::default()
    })
}

pub(super) async fn list_objects_v2(
    gateway: &Gateway,
    request: S3Request<ListObjectsV2Input>,
) -> S3Result<ListObjectsV2Output> {
    let S3Request { input, headers, credentials, .. } = request;
    let caller = gateway.caller(credentials.as_ref(), &headers)?;
    let spelling = Spelling::of(input.encoding_type.as_ref())?;
    let limit = page_size(input.max_keys, LIST_KEYS_MAX)?;
    let after = match &input.continuation_token {
        Some(token) => from_token(token)
            .ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))?,
        None => input.start_after.clone().unwrap_or_default(),
    };
    let page = page(&caller, &input.bucket, input.prefix.as_ref(), input.delimiter.as_ref(), after, limit).await?;
    let owner = input.fetch_owner.unwrap_or(false).then(|| caller.owner());
    Ok(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(spelling.write(input.prefix.unwrap_or_default())),
        max_keys: i32::try_from(limit).ok(),
        key_count: i32::try_from(page.entries.len() + page.prefixes.len()).ok(),
        continuation_token: input.continuation_token,
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.as_deref().map(to_token),
        contents: Some(contents(&page, spelling, owner.as_ref())),
        common_prefixes: Some(prefixes(page.prefixes, spelling)),
        delimiter: input.delimiter.map(|delimiter| spelling.write(delimiter)),
        encoding_type: input.encoding_type,
        start_after: input.start_after.map(|after| spelling.write(after)),
        ..Default::default()
    })
}

async fn page(
    caller: &Caller,
    bucket: &str,
    prefix: Option<&String>,
    delimiter: Option<&String>,
    after: String,
    limit: usize,
) -> S3Result<Listing> {
    let bucket = bucket.into();
    if limit == 0 {
        caller.bucket(&bucket).await?;
        return Ok(Listing::default());
    }
    let op = ObjectOp::List {
        bucket,
        prefix: prefix.cloned().unwrap_or_default(),
        delimiter: delimiter.filter(|delimiter| !delimiter.is_empty()).cloned(),
        after,
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
    };
    match caller.answer(op).await? {
        Answer::Listing(listing) => Ok(std::sync::Arc::unwrap_or_clone(listing)),
        _ => Err(strange("List")),
    }
}

fn contents(page: &Listing, spelling: Spelling, owner: Option<&Owner>) -> Vec<Object> {
    let entries = page.entries.iter().map(|entry| Object {
        key: Some(spelling.write(entry.key.clone())),
        e_tag: Some(ETag::Strong(entry.etag.clone())),
        last_modified: Some(timestamp(entry.modified)),
        owner: owner.cloned(),
        size: i64::try_from(entry.len).ok(),
        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
        ..Default::default()
    });
    entries.collect()
}

pub(super) fn prefixes(prefixes: Vec<String>, spelling: Spelling) -> Vec<CommonPrefix> {
    prefixes.into_iter().map(|prefix| CommonPrefix { prefix: Some(spelling.write(prefix)) }).collect()
}

/// How keys are written in a listing. XML cannot carry every character that a key may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    Plain,
    Url,
}

impl Spelling {
    /// As `encoding-type` asks.
    ///
    /// # Errors
    /// `InvalidArgument` for anything but `url`.
    pub(super) fn of(encoding: Option<&EncodingType>) -> S3Result<Self> {
        match encoding.map(EncodingType::as_str) {
            None | Some("") => Ok(Self::Plain),
            Some(EncodingType::URL) => Ok(Self::Url),
            Some(_) => Err(s3_error!(InvalidArgument, "Invalid Encoding Method specified in Request")),
        }
    }

    pub(super) fn write(self, key: String) -> String {
        match self {
            Self::Plain => key,
            Self::Url => percent(&key),
        }
    }
}

/// How many of a page.
///
/// # Errors
/// `InvalidArgument` for less than none.
pub(super) fn page_size(asked: Option<i32>, max: usize) -> S3Result<usize> {
    match asked.map(usize::try_from) {
        None => Ok(max),
        Some(Ok(asked)) => Ok(asked.min(max)),
        Some(Err(_)) => Err(s3_error!(InvalidArgument, "the size of a page is 0 or more")),
    }
}

/// A continuation token: a version letter and the key to go on after, in base64.
fn to_token(after: &str) -> String {
    format!("{TOKEN_VERSION}{}", base64(after.as_bytes()))
}

fn from_token(token: &str) -> Option<String> {
    let key = token.strip_prefix(TOKEN_VERSION).and_then(from_base64)?;
    String::from_utf8(key).ok()
}

const TOKEN_VERSION: char = 'a';
/// An entry of a page, as Object gives it and as XML: with a key of three hundred bytes. So a page is no large request; one
/// of longer keys takes more once it is there.
const ENTRY_BYTES: usize = 1250;
/// A bucket of a page.
const BUCKET_BYTES: usize = 256;
/// Buckets of a page at most.
const BUCKETS_PAGE_MAX: usize = 10_000;
/// What XML makes of a character that must be escaped, and a little more.
const ECHO_BYTES: usize = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pages_are_bounded_and_never_negative() {
        assert_eq!(page_size(None, 1000).ok(), Some(1000));
        assert_eq!(page_size(Some(5000), 1000).ok(), Some(1000));
        assert_eq!(page_size(Some(0), 1000).ok(), Some(0));
        assert!(page_size(Some(-1), 1000).is_err());
    }

    #[test]
    fn every_page_is_paid_for_by_what_was_asked_for() {
        let of = |level, query: &str| page_bytes_max(&Method::GET, level, query) - ECHO_BYTES * query.len();
        let whole = LIST_KEYS_MAX * ENTRY_BYTES;
        for (query, bytes) in [
            ("", whole),
            ("list-type=2&max-keys=2", 2 * ENTRY_BYTES),
            ("max-keys=0", 0),
            ("max-keys=%31%30", 10 * ENTRY_BYTES),
            ("max-keys=99999", whole),
            ("max-keys=-1", whole),
            ("max-keys=99999999999999999999999", whole),
            ("max-keys=", whole),
            ("uploads&max-uploads=1", whole),
        ] {
            assert_eq!(of(Level::Bucket, query), bytes, "{query}");
        }
        assert_eq!(of(Level::Object, "uploadId=1&max-parts=3"), 3 * ENTRY_BYTES);
        assert_eq!(of(Level::Root, ""), BUCKETS_PAGE_MAX * BUCKET_BYTES);
        for (method, level, query) in [
            (Method::GET, Level::Object, "versionId=null"),
            (Method::GET, Level::Bucket, "location"),
            (Method::GET, Level::Bucket, "versioning="),
            (Method::HEAD, Level::Bucket, ""),
            (Method::PUT, Level::Object, "uploadId=1&partNumber=1"),
        ] {
            assert_eq!(page_bytes_max(&method, level, query), 0, "{method} {query}");
        }
    }

    proptest! {
        #[test]
        fn tokens_survive(key in "\\PC{0,64}") {
            prop_assert_eq!(from_token(&to_token(&key)), Some(key));
        }

        #[test]
        fn no_token_makes_the_reader_panic(token in "\\PC{0,64}") {
            if let Some(key) = from_token(&token) {
                prop_assert_eq!(to_token(&key), token);
            }
        }
    }
}
