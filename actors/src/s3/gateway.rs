//! The gateway itself: what all its requests share, and S3's operations, each handed to its module.

use std::{sync::Arc, time::Duration};

use hyper::HeaderMap;
use mesh_core::{
    Pool,
    limits::{KEY_BYTES_MAX, MAILBOX_BYTES_MAX, STRIPE_BYTES_MAX},
    port::Clock,
};
use s3s::{S3, S3ErrorCode, S3Request, S3Response, S3Result, auth::Credentials, dto::*, s3_error};
use tokio::sync::Semaphore;

use super::{
    auth::{Counters, Stats},
    buckets,
    caller::{Caller, account},
    copy, delete, get,
    ingress::{AccessKeys, Ingress},
    list, multipart, parts, put,
};

/// Settings of a gateway.
#[derive(Clone, Debug)]
pub struct GatewayOptions {
    /// The region that buckets are said to be in. Requests signed for any region are accepted.
    pub region: String,
    /// A body of which nothing came for so long is given up.
    pub body_idle_max: Duration,
    /// Payload bytes of all streams together that are on their way to Object at most. Half of its mailbox, so that
    /// other traffic finds room too.
    pub inflight_bytes_max: usize,
    /// Bytes of what is deleted or replaced are kept for so long: a response reads them no longer.
    pub reclaim_grace: Duration,
}

impl Default for GatewayOptions {
    fn default() -> Self {
        Self {
            region: "us-east-1".to_owned(),
            body_idle_max: Duration::from_secs(60),
            inflight_bytes_max: MAILBOX_BYTES_MAX / 2,
            reclaim_grace: Duration::from_secs(900),
        }
    }
}

/// Speaks S3 on one side and `ObjectOp` on the other. Clones share everything.
#[derive(Clone)]
pub struct Gateway(Arc<Shared>);

struct Shared {
    ingress: Arc<dyn Ingress>,
    keys: Arc<dyn AccessKeys>,
    clock: Arc<dyn Clock>,
    pool: Pool,
    options: GatewayOptions,
    credit: Arc<Semaphore>,
    counters: Arc<Counters>,
}

impl core::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Gateway({:?}, {:?})", self.0.options, self.stats())
    }
}

impl Gateway {
    /// A gateway in front of the Object function behind `ingress`. Stripes are taken from `pool`.
    #[must_use]
    pub fn new(
        ingress: Arc<dyn Ingress>,
        keys: Arc<dyn AccessKeys>,
        clock: Arc<dyn Clock>,
        pool: Pool,
        options: GatewayOptions,
    ) -> Self {
        let credit = options.inflight_bytes_max.max(STRIPE_BYTES_MAX) / CREDIT_BYTES;
        let credit = Arc::new(Semaphore::new(credit.min(Semaphore::MAX_PERMITS)));
        Self(Arc::new(Shared { ingress, keys, clock, pool, options, credit, counters: Arc::default() }))
    }

    /// What it has done since its start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.counters.stats()
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.0.counters
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.0.clock
    }

    pub(super) fn keys(&self) -> &dyn AccessKeys {
        &*self.0.keys
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.0.pool
    }

    pub(super) fn options(&self) -> &GatewayOptions {
        &self.0.options
    }

    /// The credit that all stripes on their way to Object share.
    pub(super) fn stripe_credit(&self) -> Arc<Semaphore> {
        self.0.credit.clone()
    }

    /// How many permits of [`Self::stripe_credit`] so many bytes take.
    pub(super) fn credit_of(bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(CREDIT_BYTES)).unwrap_or(u32::MAX)
    }

    /// Who asks: the owner of the access key whose signature s3s has verified.
    ///
    /// # Errors
    /// `InvalidAccessKeyId` if the key was revoked or replaced meanwhile; `AccessDenied` for anybody else, and if the
    /// request expects another owner of its bucket.
    pub(super) fn caller(&self, credentials: Option<&Credentials>, headers: &HeaderMap) -> S3Result<Caller> {
        let credentials = credentials.ok_or_else(|| s3_error!(AccessDenied, "Signature is required"))?;
        let key = self.0.keys.lookup(&credentials.access_key).ok_or(S3ErrorCode::InvalidAccessKeyId)?;
        if key.secret != credentials.secret_key.expose() {
            return Err(S3ErrorCode::InvalidAccessKeyId.into());
        }
        if headers.get("x-amz-expected-bucket-owner").is_some_and(|owner| owner != account(key.tenant).as_str()) {
            return Err(s3_error!(AccessDenied, "the bucket's owner is not the expected one"));
        }
        Ok(Caller {
            ingress: self.0.ingress.clone(),
            clock: self.0.clock.clone(),
            tenant: key.tenant,
            name: key.principal,
            grace: self.0.options.reclaim_grace,
        })
    }
}

/// A key of a request as the mesh takes it.
///
/// # Errors
/// `KeyTooLongError`; `InvalidRequest` for an empty one.
pub(super) fn key_of(key: &str) -> S3Result<Arc<str>> {
    match key.len() {
        0 => Err(s3_error!(InvalidRequest, "an object's key has at least one byte")),
        1..=KEY_BYTES_MAX => Ok(key.into()),
        _ => Err(s3_error!(KeyTooLongError, "Your key is too long")),
    }
}

/// Objects have one version, which S3 calls `null`.
///
/// # Errors
/// `NoSuchVersion` for any other.
pub(super) fn only_version(version: Option<&str>) -> S3Result<()> {
    match version {
        None | Some("null") => Ok(()),
        Some(_) => Err(s3_error!(NoSuchVersion, "objects of this service have one version: null")),
    }
}

/// Credit is counted in these.
const CREDIT_BYTES: usize = 4096;

macro_rules! operations {
    ($($name:ident($input:ident) -> $output:ident by $module:ident;)*) => {
        #[async_trait::async_trait]
        impl S3 for Gateway {
            $(async fn $name(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                $module::$name(self, request).await.map(S3Response::new)
            })*
        }
    };
}

operations! {
    list_buckets(ListBucketsInput) -> ListBucketsOutput by buckets;
    create_bucket(CreateBucketInput) -> CreateBucketOutput by buckets;
    delete_bucket(DeleteBucketInput) -> DeleteBucketOutput by buckets;
    head_bucket(HeadBucketInput) -> HeadBucketOutput by buckets;
    get_bucket_location(GetBucketLocationInput) -> GetBucketLocationOutput by buckets;
    put_object(PutObjectInput) -> PutObjectOutput by put;
    get_object(GetObjectInput) -> GetObjectOutput by get;
    head_object(HeadObjectInput) -> HeadObjectOutput by get;
    delete_object(DeleteObjectInput) -> DeleteObjectOutput by delete;
    delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput by delete;
    copy_object(CopyObjectInput) -> CopyObjectOutput by copy;
    list_objects(ListObjectsInput) -> ListObjectsOutput by list;
    list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output by list;
    create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput by multipart;
    complete_multipart_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput by multipart;
    abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput by multipart;
    list_multipart_uploads(ListMultipartUploadsInput) -> ListMultipartUploadsOutput by multipart;
    upload_part(UploadPartInput) -> UploadPartOutput by parts;
    upload_part_copy(UploadPartCopyInput) -> UploadPartCopyOutput by parts;
    list_parts(ListPartsInput) -> ListPartsOutput by parts;
}
