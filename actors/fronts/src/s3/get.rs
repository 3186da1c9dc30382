//! GetObject and HeadObject.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use hyper::{
    HeaderMap,
    header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue},
};
use mesh_core::{
    Error, ErrorKind,
    id::WriteId,
    meta::{Body, ObjectRow},
};
use s3s::{
    S3Request, S3Result,
    dto::{
        Checksum, ChecksumMode, ETag, GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, Range,
        StreamingBlob,
    },
    s3_error,
};

use super::{
    account::MIDDLING_BYTES_MAX,
    attributes::Given,
    caller::Caller,
    conditions::Reading,
    digest::to_dto,
    error::to_s3,
    gateway::{Gateway, key_of, only_version},
    outflow::{self, Outflow, Source},
    text::timestamp,
};

pub(super) async fn get_object(
    gateway: &Gateway,
    request: S3Request<GetObjectInput>,
) -> S3Result<(GetObjectOutput, HeaderMap)> {
    let S3Request { input, headers, credentials, mut extensions, .. } = request;
    let caller = gateway.caller(credentials.as_ref(), &headers)?;
    only_version(input.version_id.as_deref())?;
    let reading = extensions.remove().unwrap_or_default();
    let wanted = Wanted { reading, part: input.part_number, checksums: input.checksum_mode };
    let (object, seen, first, pieces) = begin(&caller, &input.bucket, &input.key, &wanted).await?;
    let len = seen.len;
    let counters = (gateway.counters().clone(), caller.tenant, caller.via.trace);
    let body = Outflow::new(stream::iter(first.map(Ok)).chain(pieces).boxed(), len, counters);
    let given = Given::of(&object.attributes);
    let output = GetObjectOutput {
        accept_ranges: Some("bytes".into()),
        body: Some(StreamingBlob::new(body)),
        cache_control: given.cache_control,
        checksum_crc32: seen.sums.checksum_crc32,
        checksum_crc32c: seen.sums.checksum_crc32c,
        checksum_crc64nvme: seen.sums.checksum_crc64nvme,
        checksum_sha1: seen.sums.checksum_sha1,
        checksum_sha256: seen.sums.checksum_sha256,
        checksum_type: seen.sums.checksum_type,
        content_disposition: given.content_disposition,
        content_encoding: given.content_encoding,
        content_language: given.content_language,
        content_length: i64::try_from(len).ok(),
        content_range: seen.content_range,
        content_type: given.content_type,
        e_tag: Some(ETag::Strong(object.etag.clone())),
        expires: given.expires,
        last_modified: Some(timestamp(object.modified)),
        parts_count: seen.parts_count,
        ..Default::default()
    };
    Ok((output, given.metadata.into_headers()))
}

/// An object whose first piece is there: one that cannot be read should be a proper error, so the response waits for it.
/// A reader that is overtaken by another write before that begins anew, with the object that is there now.
async fn begin(
    caller: &Caller,
    bucket: &str,
    key: &str,
    wanted: &Wanted,
) -> S3Result<(Arc<ObjectRow>, Seen, Option<Bytes>, BoxStream<'static, Result<Bytes, Error>>)> {
    for _ in 0..OVERTAKEN_MAX {
        let (source, seen) = see(caller, bucket, key, wanted).await?;
        if seen.len <= MIDDLING_BYTES_MAX as u64 {
            caller.credit.small();
        }
        let object = source.object.clone();
        let mut pieces = outflow::read(caller.clone(), source);
        if seen.len == 0 {
            return Ok((object, seen, None, pieces));
        }
        match pieces.try_next().await {
            Ok(first) => return Ok((object, seen, first, pieces)),
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Err(error) => return Err(to_s3(&error)),
        }
    }
    Err(s3_error!(ServiceUnavailable, "the object is being replaced faster than it can be read; send again"))
}

pub(super) async fn head_object(
    gateway: &Gateway,
    request: S3Request<HeadObjectInput>,
) -> S3Result<(HeadObjectOutput, HeaderMap)> {
    let S3Request { input, headers, credentials, mut extensions, .. } = request;
    let caller = gateway.caller(credentials.as_ref(), &headers)?;
    only_version(input.version_id.as_deref())?;
    let reading = extensions.remove().unwrap_or_default();
    let wanted = Wanted { reading, part: input.part_number, checksums: input.checksum_mode };
    caller.credit.small();
    let (source, seen) = see(&caller, &input.bucket, &input.key, &wanted).await?;
    let object = source.object;
    let given = Given::of(&object.attributes);
    // GetObject's overrides s3s applies itself.
    let output = HeadObjectOutput {
        accept_ranges: Some("bytes".into()),
        cache_control: input.response_cache_control.or(given.cache_control),
        checksum_crc32: seen.sums.checksum_crc32,
        checksum_crc32c: seen.sums.checksum_crc32c,
        checksum_crc64nvme: seen.sums.checksum_crc64nvme,
        checksum_sha1: seen.sums.checksum_sha1,
        checksum_sha256: seen.sums.checksum_sha256,
        checksum_type: seen.sums.checksum_type,
        content_disposition: input.response_content_disposition.or(given.content_disposition),
        content_encoding: input.response_content_encoding.or(given.content_encoding),
        content_language: input.response_content_language.or(given.content_language),
        content_length: i64::try_from(source.len).ok(),
        content_range: seen.content_range,
        content_type: input.response_content_type.or(given.content_type),
        e_tag: Some(ETag::Strong(object.etag.clone())),
        expires: input.response_expires.or(given.expires),
        last_modified: Some(timestamp(object.modified)),
        parts_count: seen.parts_count,
        ..Default::default()
    };
    Ok((output, given.metadata.into_headers()))
}

/// Which part of an object a reader wants, and whether with checksums.
struct Wanted {
    reading: Reading,
    part: Option<i32>,
    checksums: Option<ChecksumMode>,
}

/// What a response says of that part.
struct Seen {
    /// Bytes.
    len: u64,
    content_range: Option<String>,
    parts_count: Option<i32>,
    sums: Checksum,
}

async fn see(caller: &Caller, bucket: &str, key: &str, wanted: &Wanted) -> S3Result<(Source, Seen)> {
    let (bucket, key): (Arc<str>, Arc<str>) = (bucket.into(), key_of(key)?);
    let asked = caller.clock.now();
    let object = caller.object(&bucket, &key).await?;
    wanted.reading.conditions.check_read(&object)?;
    let range = wanted.reading.range(&object);
    let mut source = Source { bucket, key, len: object.len, object, offset: 0, asked };
    let whole = source.object.len;
    let parts_count = match (wanted.part, range) {
        (Some(_), Some(_)) => {
            return Err(s3_error!(InvalidRequest, "Cannot specify both Range header and partNumber query parameter"));
        }
        (Some(part), None) => Some(narrow_to_part(caller, &mut source, part).await?),
        (None, Some(range)) => {
            (source.offset, source.len) = resolve(range, whole)?;
            None
        }
        (None, None) => None,
    };
    // The end of nothing is nothing, and no range of bytes.
    let narrowed = (range.is_some() && whole > 0) || (wanted.part.is_some() && source.len > 0);
    let content_range =
        narrowed.then(|| format!("bytes {}-{}/{whole}", source.offset, source.offset + source.len.saturating_sub(1)));
    // A checksum of the whole says nothing about a part: an SDK would find the part damaged.
    let enabled = wanted.checksums.as_ref().is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED);
    let sums =
        if enabled && source.len == whole { to_dto(&source.object.attributes.checksums) } else { Checksum::default() };
    let parts_count = parts_count.filter(|_| matches!(source.object.body, Body::Parts { .. }));
    let len = source.len;
    Ok((source, Seen { len, content_range, parts_count, sums }))
}

/// Offset and length of a range.
///
/// # Errors
/// `InvalidRange`, with the length that the object has.
fn resolve(range: Range, whole: u64) -> S3Result<(u64, u64)> {
    range.check(whole).map(|bytes| (bytes.start, bytes.end - bytes.start)).map_err(|_| {
        let mut error = s3_error!(InvalidRange, "The requested range is not satisfiable: the object has {whole} bytes");
        if let Ok(value) = HeaderValue::try_from(format!("bytes */{whole}")) {
            let xml = HeaderValue::from_static("application/xml");
            error.set_headers(HeaderMap::from_iter([(CONTENT_RANGE, value), (CONTENT_TYPE, xml)]));
        }
        error
    })
}

/// Narrows to the `part`-th part and gives how many there are. Part 1 of what was put whole is all of it.
async fn narrow_to_part(caller: &Caller, source: &mut Source, part: i32) -> S3Result<i32> {
    let beyond = || s3_error!(InvalidRange, "The requested partnumber is not satisfiable");
    let part = u32::try_from(part).ok().filter(|&part| part > 0).ok_or_else(beyond)?;
    let count = match source.object.body {
        Body::Whole(_) => 1,
        Body::Parts { count, .. } => count,
    };
    if part > count {
        return Err(beyond());
    }
    if count > 1 {
        (source.offset, source.len) = bounds(caller, source, part).await?;
    }
    Ok(i32::try_from(count).unwrap_or(i32::MAX))
}

/// Where the `part`-th part lies. Parts show in a plan as extents, so plans are walked from extent to extent; one page
/// covers many of them.
async fn bounds(caller: &Caller, source: &Source, part: u32) -> S3Result<(u64, u64)> {
    let whole = source.object.len;
    let (mut ordinal, mut end, mut seen): (u32, u64, Option<WriteId>) = (0, 0, None);
    while end < whole {
        let page = caller.plan(&source.bucket, &source.key, &source.object, end, whole - end).await;
        for piece in page.map_err(|error| to_s3(&error))? {
            if seen == Some(piece.extent.write) {
                continue;
            }
            (ordinal, seen) = (ordinal + 1, Some(piece.extent.write));
            if ordinal == part {
                return Ok((end, piece.extent.len));
            }
            end += piece.extent.len;
        }
    }
    // What is left is a last part without bytes.
    Ok((whole, 0))
}

/// So often a reader begins anew.
const OVERTAKEN_MAX: u32 = 3;
