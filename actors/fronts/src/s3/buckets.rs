//! Buckets: ListBuckets, CreateBucket, DeleteBucket, HeadBucket, GetBucketLocation.

use std::sync::Arc;

use hyper::HeaderMap;
use mesh_core::{Answer, meta::BucketSettings, op::ObjectOp};
use s3s::{
    S3Request, S3Result,
    dto::{
        Bucket, BucketLocationConstraint, CreateBucketInput, CreateBucketOutput, DeleteBucketInput, DeleteBucketOutput,
        GetBucketLocationInput, GetBucketLocationOutput, GetBucketVersioningInput, GetBucketVersioningOutput,
        HeadBucketInput, HeadBucketOutput, ListBucketsInput, ListBucketsOutput,
    },
    s3_error,
};

use super::{error::strange, gateway::Gateway, list::page_size, text::timestamp};

pub(super) async fn list_buckets(
    gateway: &Gateway,
    request: S3Request<ListBucketsInput>,
) -> S3Result<ListBucketsOutput> {
    let caller = gateway.caller(request.credentials.as_ref(), &request.headers)?;
    let input = request.input;
    let Answer::Buckets(mut rows) = caller.answer(ObjectOp::ListBuckets).await? else {
        return Err(strange("ListBuckets"));
    };
    rows.sort_unstable_by(|one, other| one.bucket.name.cmp(&other.bucket.name));
    let prefix = input.prefix.as_deref().unwrap_or_default();
    let after = input.continuation_token.as_deref().unwrap_or_default();
    let limit = page_size(input.max_buckets, BUCKETS_PAGE_MAX)?;
    rows.retain(|row| row.bucket.name.starts_with(prefix) && &*row.bucket.name > after);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| more).map(|row| row.bucket.name.to_string());
    let buckets = rows.iter().map(|row| Bucket {
        bucket_region: None,
        creation_date: Some(timestamp(row.created)),
        name: Some(row.bucket.name.to_string()),
    });
    Ok(ListBucketsOutput {
        buckets: Some(buckets.collect()),
        continuation_token: last,
        owner: Some(caller.owner()),
        prefix: input.prefix,
    })
}

/// A location constraint is accepted and means nothing: a mesh is one region. S3 has no words for compression and codes, so
/// those are headers of the mesh's own.
pub(super) async fn create_bucket(
    gateway: &Gateway,
    request: S3Request<CreateBucketInput>,
) -> S3Result<CreateBucketOutput> {
    let caller = gateway.caller(request.credentials.as_ref(), &request.headers)?;
    let bucket: Arc<str> = request.input.bucket.as_str().into();
    let settings = settings(&request.headers)?;
    let op = if settings.is_usual() {
        ObjectOp::CreateBucket { bucket }
    } else {
        ObjectOp::CreateBucketWith { bucket, settings }
    };
    caller.done(op).await?;
    Ok(CreateBucketOutput { location: Some(format!("/{}", request.input.bucket)) })
}

fn settings(headers: &HeaderMap) -> S3Result<BucketSettings> {
    let said = |name: &str| headers.get(name).map(|asked| asked.to_str().unwrap_or_default());
    let compression = said(COMPRESS).map(str::parse).transpose();
    let compression = compression.map_err(|_| s3_error!(InvalidArgument, "x-mesh-compress is off or auto"))?;
    let code = said(CODE).map(str::parse).transpose();
    let code = code.map_err(|_| {
        let known = "x-mesh-code is K+M: 1 to 16 data shards and up to 8 parity shards; 1+2 are three copies";
        s3_error!(InvalidArgument, "{known}")
    })?;
    Ok(BucketSettings { compression: compression.unwrap_or_default(), code })
}

pub(super) async fn delete_bucket(
    gateway: &Gateway,
    request: S3Request<DeleteBucketInput>,
) -> S3Result<DeleteBucketOutput> {
    let caller = gateway.caller(request.credentials.as_ref(), &request.headers)?;
    caller.done(ObjectOp::DeleteBucket { bucket: request.input.bucket.as_str().into() }).await?;
    Ok(DeleteBucketOutput {})
}

pub(super) async fn head_bucket(gateway: &Gateway, request: S3Request<HeadBucketInput>) -> S3Result<HeadBucketOutput> {
    let caller = gateway.caller(request.credentials.as_ref(), &request.headers)?;
    caller.bucket(&request.input.bucket.as_str().into()).await?;
    Ok(HeadBucketOutput { bucket_region: Some(gateway.options().region.clone()), ..Default::default() })
}

pub(super) async fn get_bucket_location(
    gateway: &Gateway,
    request: S3Request<GetBucketLocationInput>,
) -> S3Result<GetBucketLocationOutput> {
    let caller = gateway.caller(request.credentials.as_ref(), &request.headers)?;
    caller.bucket(&request.input.bucket.as_str().into()).await?;
    // S3 says nothing for its first region.
    let region = Some(&gateway.options().region).filter(|region| *region != "us-east-1");
    Ok(GetBucketLocationOutput {
        location_constraint: region.map(|region| BucketLocationConstraint::from(region.clone())),
    })
}

/// Buckets have no versions and never had: what S3 says of such a bucket is an empty configuration.
pub(super) async fn get_bucket_versioning(
    gateway: &Gateway,
    request: S3Request<GetBucketVersioningInput>,
) -> S3Result<GetBucketVersioningOutput> {
    let caller = gateway.caller(request.credentials.as_ref(), &request.headers)?;
    caller.bucket(&request.input.bucket.as_str().into()).await?;
    Ok(GetBucketVersioningOutput::default())
}

const BUCKETS_PAGE_MAX: usize = 10_000;
/// Whether what is put into a new bucket is compressed: `off`, as without it, or `auto`.
const COMPRESS: &str = "x-mesh-compress";
const CODE: &str = "x-mesh-code";
