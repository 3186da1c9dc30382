//! The gateway itself: what all its requests share, and S3's operations, each handed to its module.

use std::{sync::Arc, time::Duration};

use hyper::HeaderMap;
use mesh_core::{
    Pool, Trace,
    figures::{Labels, Split},
    limits::{KEY_BYTES_MAX, MAILBOX_BYTES_MAX, STRIPE_BYTES_MAX},
    port::Clock,
};
use s3s::{S3, S3ErrorCode, S3Request, S3Response, S3Result, auth::Credentials, dto::*, s3_error};
use tokio::sync::Semaphore;

use super::{
    auth::{Counters, Stats},
    buckets,
    caller::{Caller, account},
    copy,
    credit::Credit,
    delete, get,
    host::Domains,
    ingress::{AccessKeys, Ingress},
    list, multipart, parts, put,
    signed::Signer,
    via::Via,
    xml::can_carry,
};

/// Settings of a gateway.
#[derive(Clone, Debug)]
pub struct GatewayOptions {
    /// The region that buckets are said to be in. Requests signed for any region are accepted.
    pub region: String,
    /// A body of which nothing came for so long is given up.
    pub body_idle_max: Duration,
    /// What requests may hold of this node's memory at most, with the pool's idle memory: bodies on their way in and
    /// answers on their way out. At least 64 MiB.
    pub memory_bytes_max: usize,
    /// Payload bytes of all streams together that are on their way to Object at most. Half of its mailbox, so that
    /// other traffic finds room too.
    pub inflight_bytes_max: usize,
    /// The domain that it goes by: `bucket.domain` is a bucket. Path style works under any name.
    pub domain: Option<String>,
    /// Bytes of what is deleted or replaced are kept for so long: a response reads them no longer.
    pub reclaim_grace: Duration,
    /// Requests are numbered from here: from a random number, so that no two nodes, and no two starts of one, give the same.
    pub first_request: u64,
}

impl Default for GatewayOptions {
    fn default() -> Self {
        Self {
            region: "us-east-1".to_owned(),
            body_idle_max: Duration::from_secs(20),
            memory_bytes_max: MEMORY_BYTES_DEFAULT,
            inflight_bytes_max: MAILBOX_BYTES_MAX / 2,
            domain: None,
            reclaim_grace: Duration::from_secs(900),
            first_request: 1,
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
    domains: Domains,
    credit: Arc<Semaphore>,
    memory: Credit,
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
        let domains = Domains::new(options.domain.as_deref());
        let memory = Credit::new(options.memory_bytes_max, pool.clone());
        let counters = Arc::default();
        Self(Arc::new(Shared { ingress, keys, clock, pool, options, domains, credit, memory, counters }))
    }

    /// What it has done since its start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.counters.stats()
    }

    /// Bytes that requests hold now, and that they may.
    #[must_use]
    pub fn memory(&self) -> (usize, usize) {
        self.0.memory.held()
    }

    /// The credit that all requests share.
    pub(super) fn credit(&self) -> &Credit {
        &self.0.memory
    }

    pub(super) fn counters(&self) -> &Arc<Counters> {
        &self.0.counters
    }

    /// Under which what is done for the request of this number, counted from 0, is found again.
    pub(super) fn trace(&self, number: u64) -> Trace {
        // 0 is none.
        Trace::new(self.0.options.first_request.wrapping_add(number).max(1))
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

    pub(super) fn domains(&self) -> &Domains {
        &self.0.domains
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
        // A source that is another tenant's is nobody's to copy.
        let mut expected = ["x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner"].into_iter();
        let account = account(key.tenant);
        if expected.any(|name| headers.get_all(name).iter().any(|owner| owner != account.as_str())) {
            return Err(s3_error!(AccessDenied, "the bucket's owner is not the expected one"));
        }
        let via = Via::here();
        via.is_of(key.tenant);
        Ok(Caller {
            via,
            credit: self.0.memory.clone(),
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

/// The key of an object that is to be. Keys that XML cannot carry are refused here: one of them in a bucket, and no
/// parser reads the bucket's listing any more.
///
/// # Errors
/// Those of [`key_of`]; `InvalidArgument`.
pub(super) fn new_key_of(key: &str) -> S3Result<Arc<str>> {
    if !can_carry(key) {
        return Err(s3_error!(
            InvalidArgument,
            "The key has control characters that XML, and so a listing, cannot have"
        ));
    }
    key_of(key)
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

/// What requests may hold unless somebody says otherwise.
const MEMORY_BYTES_DEFAULT: usize = 512 << 20;
/// Credit is counted in these.
const CREDIT_BYTES: usize = 4096;

/// What [`signed`](super::signed) found out about a request goes where operations look for it.
fn signed<T>(mut request: S3Request<T>) -> S3Request<T> {
    request.credentials = request.extensions.remove::<Signer>().map(|Signer(credentials)| credentials);
    request.trailing_headers = request.extensions.remove();
    request
}

/// Each operation is a function of its module, that gives its output, or (`with`) output and headers.
macro_rules! operations {
    ($($name:ident $operation:ident($input:ident) -> $output:ident by $module:ident with $response:path;)*) => {
        /// What a request asks for.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(super) enum Operation {
            /// Nobody knows.
            #[default]
            None,
            $($operation,)*
        }

        impl Operation {
            pub(super) const ALL: &[Self] = &[Self::None, $(Self::$operation,)*];
            const WORDS: &[&str] = &["none", $(stringify!($operation),)*];
        }

        #[async_trait::async_trait]
        impl S3 for Gateway {
            $(async fn $name(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                Via::here().operation.is(Operation::$operation);
                $module::$name(self, signed(request)).await.map($response)
            })*
        }
    };
}

impl Split for Operation {
    const COUNT: usize = Self::WORDS.len();

    fn place(self) -> usize {
        self as usize
    }

    fn label(place: usize, labels: Labels) -> Labels {
        labels.word("operation", Self::WORDS.get(place).copied().unwrap_or_default())
    }
}

fn whole<T>((output, headers): (T, HeaderMap)) -> S3Response<T> {
    S3Response::with_headers(output, headers)
}

operations! {
    list_buckets ListBuckets(ListBucketsInput) -> ListBucketsOutput by buckets with S3Response::new;
    create_bucket CreateBucket(CreateBucketInput) -> CreateBucketOutput by buckets with S3Response::new;
    delete_bucket DeleteBucket(DeleteBucketInput) -> DeleteBucketOutput by buckets with S3Response::new;
    head_bucket HeadBucket(HeadBucketInput) -> HeadBucketOutput by buckets with S3Response::new;
    get_bucket_versioning GetBucketVersioning(GetBucketVersioningInput) -> GetBucketVersioningOutput by buckets with S3Response::new;
    get_bucket_location GetBucketLocation(GetBucketLocationInput) -> GetBucketLocationOutput by buckets with S3Response::new;
    put_object PutObject(PutObjectInput) -> PutObjectOutput by put with S3Response::new;
    get_object GetObject(GetObjectInput) -> GetObjectOutput by get with whole;
    head_object HeadObject(HeadObjectInput) -> HeadObjectOutput by get with whole;
    delete_object DeleteObject(DeleteObjectInput) -> DeleteObjectOutput by delete with S3Response::new;
    delete_objects DeleteObjects(DeleteObjectsInput) -> DeleteObjectsOutput by delete with S3Response::new;
    copy_object CopyObject(CopyObjectInput) -> CopyObjectOutput by copy with S3Response::new;
    list_objects ListObjects(ListObjectsInput) -> ListObjectsOutput by list with S3Response::new;
    list_objects_v2 ListObjectsV2(ListObjectsV2Input) -> ListObjectsV2Output by list with S3Response::new;
    create_multipart_upload CreateMultipartUpload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput by multipart with S3Response::new;
    complete_multipart_upload CompleteMultipartUpload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput by multipart with S3Response::new;
    abort_multipart_upload AbortMultipartUpload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput by multipart with S3Response::new;
    list_multipart_uploads ListMultipartUploads(ListMultipartUploadsInput) -> ListMultipartUploadsOutput by multipart with S3Response::new;
    upload_part UploadPart(UploadPartInput) -> UploadPartOutput by parts with S3Response::new;
    upload_part_copy UploadPartCopy(UploadPartCopyInput) -> UploadPartCopyOutput by parts with S3Response::new;
    list_parts ListParts(ListPartsInput) -> ListPartsOutput by parts with S3Response::new;
}
