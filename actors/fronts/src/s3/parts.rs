//! Parts of a multipart upload: UploadPart, UploadPartCopy, ListParts.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::TryStreamExt;
use hyper::HeaderMap;
use mesh_core::{
    id::WriteId,
    limits::{LIST_KEYS_MAX, PART_BYTES_MAX, PARTS_MAX},
    op::Destination,
};
use s3s::{
    S3ErrorCode, S3Request, S3Result,
    dto::{
        ChecksumAlgorithm, ChecksumType, CopyPartResult, ETag, ListPartsInput, ListPartsOutput, Part, Range,
        StorageClass, UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
    },
    s3_error,
};

use super::{
    conditions::Conditions,
    copy,
    digest::{Algorithm, Declared, Digests, to_dto},
    gateway::{Gateway, key_of},
    intake::{Incoming, store},
    list::page_size,
    multipart::Plan,
    put::{body_of, broken},
    text::{timestamp, upload_from_text, upload_text},
};

pub(super) async fn upload_part(gateway: &Gateway, request: S3Request<UploadPartInput>) -> S3Result<UploadPartOutput> {
    let S3Request { input, headers, credentials, trailing_headers, .. } = request;
    let caller = gateway.caller(credentials.as_ref(), &headers)?;
    let destination =
        Destination::Part { upload: upload_of(&input.upload_id)?, number: part_number(input.part_number)? };
    let declared = Declared::read(&headers)?;
    let (len, body) = body_of(input.content_length, input.body, PART_BYTES_MAX)?;
    let incoming = Incoming {
        bucket: input.bucket.as_str().into(),
        key: key_of(&input.key)?,
        destination,
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
    Ok(UploadPartOutput {
        e_tag: Some(ETag::Strong(stored.etag)),
        checksum_crc32: sums.checksum_crc32,
        checksum_crc32c: sums.checksum_crc32c,
        checksum_crc64nvme: sums.checksum_crc64nvme,
        checksum_sha1: sums.checksum_sha1,
        checksum_sha256: sums.checksum_sha256,
        ..Default::default()
    })
}

pub(super) async fn upload_part_copy(
    gateway: &Gateway,
    request: S3Request<UploadPartCopyInput>,
) -> S3Result<UploadPartCopyOutput> {
    let S3Request { input, headers, credentials, .. } = request;
    let caller = gateway.caller(credentials.as_ref(), &headers)?;
    let (bucket, key): (Arc<str>, _) = (input.bucket.as_str().into(), key_of(&input.key)?);
    let (upload, number) = (upload_of(&input.upload_id)?, part_number(input.part_number)?);
    let plan = Plan::of(&caller.upload(&bucket, &key, upload).await?.attributes);
    let conditions = Conditions {
        if_match: input.copy_source_if_match.map(Into::into),
        if_none_match: input.copy_source_if_none_match.map(Into::into),
        if_modified_since: input.copy_source_if_modified_since,
        if_unmodified_since: input.copy_source_if_unmodified_since,
    };
    let mut source = copy::open(&caller, &input.copy_source, &conditions).await?;
    if let Some(range) = input.copy_source_range {
        (source.offset, source.len) = exact_range(&range, source.object.len)?;
    }
    if source.len > PART_BYTES_MAX {
        return Err(s3_error!(EntityTooLarge, "a part has at most {PART_BYTES_MAX} bytes"));
    }
    let algorithms: BTreeSet<_> = [plan.map_or(Algorithm::Crc64Nvme, |plan| plan.algorithm)].into();
    let destination = Destination::Part { upload, number };
    let stored = copy::pipe(gateway, &caller, source, bucket, key, destination, algorithms).await?;
    let sums = to_dto(&stored.digested.kept());
    Ok(UploadPartCopyOutput {
        copy_part_result: Some(CopyPartResult {
            e_tag: Some(ETag::Strong(stored.etag)),
            last_modified: Some(timestamp(copy::wall(gateway))),
            checksum_crc32: sums.checksum_crc32,
            checksum_crc32c: sums.checksum_crc32c,
            checksum_crc64nvme: sums.checksum_crc64nvme,
            checksum_sha1: sums.checksum_sha1,
            checksum_sha256: sums.checksum_sha256,
        }),
        ..Default::default()
    })
}

pub(super) async fn list_parts(gateway: &Gateway, request: S3Request<ListPartsInput>) -> S3Result<ListPartsOutput> {
    let S3Request { input, headers, credentials, .. } = request;
    let caller = gateway.caller(credentials.as_ref(), &headers)?;
    let bucket: Arc<str> = input.bucket.as_str().into();
    let upload = upload_of(&input.upload_id)?;
    let limit = page_size(input.max_parts, LIST_KEYS_MAX)?;
    let after = u32::try_from(input.part_number_marker.unwrap_or(0))
        .map_err(|_| s3_error!(InvalidArgument, "part-number-marker is 0 or more"))?;
    let row = caller.upload(&bucket, &input.key, upload).await?;
    let (rows, more) = match u32::try_from(limit) {
        Ok(0) | Err(_) => (Vec::new(), false),
        Ok(limit) => caller.parts(&bucket, upload, after, limit).await?,
    };
    let next = rows.last().and_then(|row| i32::try_from(row.number).ok());
    let parts = rows.iter().map(|row| {
        let sums = to_dto(&row.checksums);
        Part {
            checksum_crc32: sums.checksum_crc32,
            checksum_crc32c: sums.checksum_crc32c,
            checksum_crc64nvme: sums.checksum_crc64nvme,
            checksum_sha1: sums.checksum_sha1,
            checksum_sha256: sums.checksum_sha256,
            e_tag: Some(ETag::Strong(row.etag.clone())),
            last_modified: Some(timestamp(row.modified)),
            part_number: i32::try_from(row.number).ok(),
            size: i64::try_from(row.extent.len).ok(),
        }
    });
    let plan = Plan::of(&row.attributes);
    Ok(ListPartsOutput {
        bucket: Some(input.bucket),
        checksum_algorithm: plan.map(|plan| ChecksumAlgorithm::from_static(plan.algorithm.s3_name())),
        checksum_type: plan.map(|plan| ChecksumType::from_static(plan.scope.s3_name())),
        initiator: Some(caller.initiator(&row.principal)),
        is_truncated: Some(more),
        key: Some(input.key),
        max_parts: i32::try_from(limit).ok(),
        next_part_number_marker: next,
        owner: Some(caller.owner()),
        part_number_marker: Some(input.part_number_marker.unwrap_or(0)),
        parts: Some(parts.collect()),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        upload_id: Some(upload_text(upload)),
        ..Default::default()
    })
}

/// The range of a part's source, which must lie inside the source: a part that is shorter than its sender thinks makes an
/// object with a hole.
///
/// # Errors
/// `InvalidArgument`, `InvalidRange`.
fn exact_range(text: &str, whole: u64) -> S3Result<(u64, u64)> {
    let Ok(Range::Int { first, last: Some(last) }) = Range::parse(text) else {
        return Err(s3_error!(InvalidArgument, "x-amz-copy-source-range has the form bytes=first-last"));
    };
    if last >= whole {
        return Err(s3_error!(InvalidRange, "The range specified is not valid for a source object of {whole} bytes"));
    }
    Ok((first, last - first + 1))
}

/// An upload by its text.
///
/// # Errors
/// `NoSuchUpload` for what cannot be one.
pub(super) fn upload_of(text: &str) -> S3Result<WriteId> {
    upload_from_text(text)
        .ok_or_else(|| s3_error!(NoSuchUpload, "The specified upload does not exist. The upload ID may be invalid."))
}

/// A part's number.
///
/// # Errors
/// `InvalidArgument`.
pub(super) fn part_number(number: i32) -> S3Result<u32> {
    u32::try_from(number).ok().filter(|number| (1..=PARTS_MAX).contains(number)).ok_or_else(|| {
        let message = format!("Part number must be an integer between 1 and {PARTS_MAX}, inclusive");
        s3s::S3Error::with_message(S3ErrorCode::InvalidArgument, message)
    })
}
