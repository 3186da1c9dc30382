//! PutObject.

use futures_util::TryStreamExt;
use hyper::{HeaderMap, StatusCode};
use mesh_core::{limits::OBJECT_PUT_BYTES_MAX, op::Destination};
use s3s::{
    S3Error, S3Request, S3Result, StdError,
    dto::{ETag, PutObjectInput, PutObjectOutput, StreamingBlob},
    s3_error,
    stream::ByteStream,
};

use super::{
    attributes::given,
    conditions,
    digest::{Declared, Digests, to_dto},
    error::refusal,
    gateway::{Gateway, new_key_of},
    intake::{Incoming, store},
};

pub(super) async fn put_object(gateway: &Gateway, request: S3Request<PutObjectInput>) -> S3Result<PutObjectOutput> {
    let S3Request { mut input, headers, credentials, trailing_headers, mut extensions, .. } = request;
    let caller = gateway.caller(credentials.as_ref(), &headers)?;
    let (bucket, key) = (input.bucket.as_str().into(), new_key_of(&input.key)?);
    let declared = Declared::read(&headers)?;
    let attributes = given!(input, extensions).into_attributes()?;
    let (len, body) = body_of(input.content_length, input.body, OBJECT_PUT_BYTES_MAX)?;
    let precondition =
        conditions::for_write(&caller, &bucket, &key, input.if_match.as_ref(), input.if_none_match.as_ref()).await?;
    let incoming = Incoming {
        bucket,
        key,
        destination: Destination::Object { attributes, precondition },
        len,
        body: body.map_err(|error| broken(&error)),
        digests: Digests::new(&declared.algorithms()),
    };
    let stored = store(gateway, &caller, incoming, |came| {
        let trailers: Option<HeaderMap> = trailing_headers.and_then(|trailers| trailers.take());
        declared.check(came, trailers.as_ref())
    })
    .await?;
    let sums = to_dto(&stored.digested.kept());
    Ok(PutObjectOutput {
        e_tag: Some(ETag::Strong(stored.etag)),
        checksum_crc32: sums.checksum_crc32,
        checksum_crc32c: sums.checksum_crc32c,
        checksum_crc64nvme: sums.checksum_crc64nvme,
        checksum_sha1: sums.checksum_sha1,
        checksum_sha256: sums.checksum_sha256,
        checksum_type: sums.checksum_type,
        ..Default::default()
    })
}

/// A body and its length.
///
/// # Errors
/// `MissingContentLength`, `EntityTooLarge`.
pub(super) fn body_of(
    content_length: Option<i64>,
    body: Option<StreamingBlob>,
    max: u64,
) -> S3Result<(u64, StreamingBlob)> {
    let body = body.unwrap_or_else(|| StreamingBlob::from(s3s::Body::empty()));
    let declared = content_length.and_then(|len| u64::try_from(len).ok());
    let len = declared.or_else(|| body.remaining_length().exact().map(|len| len as u64));
    let len = len.ok_or_else(|| s3_error!(MissingContentLength, "You must provide the Content-Length HTTP header."))?;
    if len > max {
        return Err(s3_error!(EntityTooLarge, "Your proposed upload exceeds the maximum allowed object size of {max}"));
    }
    Ok((len, body))
}

/// A body that ended in an error. s3s does not export the types of its stream errors, so they are told apart by the
/// names that they print; the version of s3s is pinned, and tests notice if a name changes.
pub(super) fn broken(error: &StdError) -> S3Error {
    let text = error.to_string();
    if text.contains("Sha256Mismatch") {
        let message = "The provided 'x-amz-content-sha256' header does not match what was computed.".to_owned();
        return refusal("XAmzContentSHA256Mismatch", StatusCode::BAD_REQUEST, message);
    }
    if text.contains("SignatureMismatch") {
        return s3_error!(SignatureDoesNotMatch, "the signature of a chunk does not hold");
    }
    if text.contains("TooLarge") || text.contains("TooMany") {
        return s3_error!(InvalidRequest, "the body's framing is over a limit: {text}");
    }
    s3_error!(IncompleteBody, "the body broke off: {text}")
}
