//! DeleteObject and DeleteObjects.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use mesh_core::{limits::LIST_KEYS_MAX, meta::Precondition, op::ObjectOp};
use s3s::{
    S3Request, S3Result,
    dto::{
        DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, Error,
        ObjectIdentifier,
    },
    s3_error,
};

use super::{
    caller::Caller,
    conditions,
    gateway::{Gateway, key_of, only_version},
};

pub(super) async fn delete_object(
    gateway: &Gateway,
    request: S3Request<DeleteObjectInput>,
) -> S3Result<DeleteObjectOutput> {
    let S3Request { input, headers, credentials, .. } = request;
    let caller = gateway.caller(credentials.as_ref(), &headers)?;
    only_version(input.version_id.as_deref())?;
    if input.if_match_last_modified_time.is_some() || input.if_match_size.is_some() {
        return Err(s3_error!(NotImplemented, "a conditional delete takes If-Match only"));
    }
    let (bucket, key) = (input.bucket.as_str().into(), key_of(&input.key)?);
    caller.credit.small();
    let precondition = conditions::for_write(&caller, &bucket, &key, input.if_match.as_ref(), None).await?;
    caller.done(ObjectOp::Delete { bucket, key, precondition }).await?;
    Ok(DeleteObjectOutput::default())
}

pub(super) async fn delete_objects(
    gateway: &Gateway,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<DeleteObjectsOutput> {
    let S3Request { input, headers, credentials, .. } = request;
    let caller = gateway.caller(credentials.as_ref(), &headers)?;
    let objects = input.delete.objects;
    if objects.is_empty() || objects.len() > LIST_KEYS_MAX {
        return Err(s3_error!(MalformedXML, "a delete request names 1 to {LIST_KEYS_MAX} keys"));
    }
    let bucket: Arc<str> = input.bucket.as_str().into();
    // Otherwise a bucket that does not exist would be reported once a key.
    caller.bucket(&bucket).await?;
    let quiet = input.delete.quiet.unwrap_or(false);
    let outcomes: Vec<_> = stream::iter(objects)
        .map(|object| {
            let (caller, bucket) = (caller.clone(), bucket.clone());
            async move {
                let outcome = delete_one(&caller, bucket, &object).await;
                (object, outcome)
            }
        })
        .buffered(DELETES_AT_ONCE)
        .collect()
        .await;
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    for (object, outcome) in outcomes {
        match outcome {
            Ok(()) if quiet => {}
            Ok(()) => deleted.push(DeletedObject {
                key: Some(object.key),
                version_id: object.version_id,
                ..Default::default()
            }),
            Err(error) => errors.push(Error {
                code: Some(error.code().as_str().to_owned()),
                message: error.message().map(str::to_owned),
                key: Some(object.key),
                version_id: object.version_id,
            }),
        }
    }
    Ok(DeleteObjectsOutput { deleted: Some(deleted), errors: Some(errors), request_charged: None })
}

async fn delete_one(caller: &Caller, bucket: Arc<str>, object: &ObjectIdentifier) -> S3Result<()> {
    only_version(object.version_id.as_deref())?;
    if object.last_modified_time.is_some() || object.size.is_some() {
        return Err(s3_error!(NotImplemented, "a conditional delete takes an ETag only"));
    }
    let etag = object.e_tag.as_ref().map(|etag| etag.value().to_owned());
    let precondition = Precondition { absent: false, etag };
    caller.done(ObjectOp::Delete { bucket, key: key_of(&object.key)?, precondition }).await
}

/// Deletes of one batch that are under way at once.
const DELETES_AT_ONCE: usize = 16;
