//! CopyObject: read and write through the gateway, since a copy has stripes and keys of its own.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::TryStreamExt;
use hyper::HeaderMap;
use mesh_core::{
    limits::OBJECT_PUT_BYTES_MAX,
    meta::{ObjectRow, Precondition},
    op::Destination,
    time::UnixMillis,
};
use s3s::{
    S3Request, S3Result,
    dto::{CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopySource, ETag, MetadataDirective},
    s3_error,
};

use super::{
    attributes::given,
    caller::Caller,
    conditions::Conditions,
    digest::{Algorithm, Digests, to_dto},
    error::to_s3,
    gateway::{Gateway, key_of, new_key_of, only_version},
    intake::{Incoming, Stored, store_with},
    outflow::{self, Source},
    text::timestamp,
};

pub(super) async fn copy_object(gateway: &Gateway, request: S3Request<CopyObjectInput>) -> S3Result<CopyObjectOutput> {
    let S3Request { mut input, headers, credentials, mut extensions, .. } = request;
    let caller = gateway.caller(credentials.as_ref(), &headers)?;
    refuse_what_copies_do_not_take(&headers)?;
    let (bucket, key): (Arc<str>, _) = (input.bucket.as_str().into(), new_key_of(&input.key)?);
    let conditions = Conditions {
        if_match: input.copy_source_if_match.take().map(Into::into),
        if_none_match: input.copy_source_if_none_match.take().map(Into::into),
        if_modified_since: input.copy_source_if_modified_since.take(),
        if_unmodified_since: input.copy_source_if_unmodified_since.take(),
    };
    let source = open(&caller, &input.copy_source, &conditions).await?;
    if source.len > OBJECT_PUT_BYTES_MAX {
        return Err(s3_error!(
            InvalidRequest,
            "The specified copy source is larger than the maximum allowable size for a copy source: {OBJECT_PUT_BYTES_MAX}"
        ));
    }
    let replace = match input.metadata_directive.as_ref().map(MetadataDirective::as_str) {
        None | Some(MetadataDirective::COPY) => false,
        Some(MetadataDirective::REPLACE) => true,
        Some(_) => return Err(s3_error!(InvalidArgument, "Unknown metadata directive.")),
    };
    if !replace && (&source.bucket, &source.key) == (&bucket, &key) {
        return Err(s3_error!(
            InvalidRequest,
            "This copy request is illegal because it is trying to copy an object to itself without changing the \
             object's metadata."
        ));
    }
    let mut attributes =
        if replace { given!(input, extensions).into_attributes()? } else { source.object.attributes.clone() };
    attributes.checksums.clear();
    let algorithms = match &input.checksum_algorithm {
        Some(algorithm) => [Algorithm::from_name(algorithm.as_str())?].into(),
        None => kept_algorithms(&source.object),
    };
    let destination = Destination::Object { attributes, precondition: Precondition::default() };
    let stored = pipe(gateway, &caller, source, bucket, key, destination, algorithms).await?;
    let sums = to_dto(&stored.digested.kept());
    Ok(CopyObjectOutput {
        copy_object_result: Some(CopyObjectResult {
            e_tag: Some(ETag::Strong(stored.etag)),
            last_modified: Some(timestamp(wall(gateway))),
            checksum_crc32: sums.checksum_crc32,
            checksum_crc32c: sums.checksum_crc32c,
            checksum_crc64nvme: sums.checksum_crc64nvme,
            checksum_sha1: sums.checksum_sha1,
            checksum_sha256: sums.checksum_sha256,
            checksum_type: sums.checksum_type,
        }),
        ..Default::default()
    })
}

/// The source of a copy, whole.
pub(super) async fn open(caller: &Caller, source: &CopySource, conditions: &Conditions) -> S3Result<Source> {
    let CopySource::Bucket { bucket, key, version_id } = source else {
        return Err(s3_error!(NotImplemented, "a copy's source is a bucket and a key"));
    };
    only_version(version_id.as_deref())?;
    let (bucket, key): (Arc<str>, Arc<str>) = ((&**bucket).into(), key_of(key)?);
    let asked = caller.clock.now();
    let object = caller.object(&bucket, &key).await?;
    conditions.check_source(&object)?;
    Ok(Source { bucket, key, len: object.len, object, offset: 0, asked })
}

/// Reads a source and stores it.
pub(super) async fn pipe(
    gateway: &Gateway,
    caller: &Caller,
    source: Source,
    bucket: Arc<str>,
    key: Arc<str>,
    destination: Destination,
    algorithms: BTreeSet<Algorithm>,
) -> S3Result<Stored> {
    let stripe = source.stripe_bytes();
    // For a stripe that is read and one that is written, at once: who has one must not wait for the other.
    let purse = caller.admit(2 * stripe).await.map_err(|error| to_s3(&error))?;
    let incoming = Incoming {
        bucket,
        key,
        destination,
        len: source.len,
        body: outflow::read_within(caller.clone(), source, purse.beside(stripe)).map_err(|error| to_s3(&error)),
        digests: Digests::new(&algorithms),
    };
    store_with(gateway, caller, purse.beside(stripe), incoming, |_| Ok(())).await
}

/// The algorithms that an object's checksums have; S3's default if it has none.
fn kept_algorithms(object: &ObjectRow) -> BTreeSet<Algorithm> {
    let kept: BTreeSet<_> =
        Algorithm::ALL.into_iter().filter(|one| object.attributes.checksums.contains_key(one.name())).collect();
    if kept.is_empty() { [Algorithm::Crc64Nvme].into() } else { kept }
}

/// s3s does not read the target's own conditions of a copy, so honouring them is not possible, and ignoring them wrong.
fn refuse_what_copies_do_not_take(headers: &HeaderMap) -> S3Result<()> {
    if headers.contains_key("if-match") || headers.contains_key("if-none-match") {
        return Err(s3_error!(NotImplemented, "a copy takes conditions on its source only"));
    }
    if headers.contains_key("x-amz-copy-source-range") {
        return Err(s3_error!(NotImplemented, "a copy takes the whole of its source; a range is for parts"));
    }
    Ok(())
}

/// Now, for people.
pub(super) fn wall(gateway: &Gateway) -> UnixMillis {
    gateway.clock().wall()
}
