//! What clients of the mesh's own library do beside what a history is made of: each look leaves nothing, and says what its
//! answers must be.

use mesh::{
    Client,
    client::{Conditions, GetOptions, PutOptions},
};
use mesh_core::{
    Error, ErrorKind,
    meta::{Attributes, Precondition},
    stream::ByteRange,
};

use super::BODY;

/// Buckets, and what is under way in them.
pub(super) async fn around(client: &Client, bucket: &str, own: &str) -> Result<(), Error> {
    let known = client.buckets().await?;
    if known.iter().all(|row| &*row.bucket.name != bucket) {
        return Err(Error::bug("a bucket is not listed").with("bucket", bucket));
    }
    client.bucket(bucket).await?;
    client.create_bucket(own).await?;
    client.put_bytes(own, "it", b"is not empty").await?;
    if !matches!(client.delete_bucket(own).await, Err(error) if error.kind() != ErrorKind::Invalid) {
        return Err(Error::bug("a bucket with an object in it was deleted").with("bucket", own));
    }
    client.remove(own, "it").await?;
    client.delete_bucket(own).await?;
    client.status().await?;
    let upload = client.create_upload(bucket, "own-upload", Attributes::default()).await?;
    upload.put_part_bytes(7, b"a part").await?;
    let (parts, more) = upload.parts(0).await?;
    let numbers: Vec<u32> = parts.iter().map(|part| part.number).collect();
    if numbers != [7] || more {
        return Err(Error::bug("an upload lists other parts than it has").with("parts", format!("{numbers:?}")));
    }
    let (uploads, _) = client.uploads(bucket, "own-", None).await?;
    if uploads.iter().all(|row| row.upload != upload.id()) {
        return Err(Error::bug("an upload is not listed").with("upload", upload.id()));
    }
    let again = client.upload(bucket, "own-upload", upload.id()).await?;
    again.abort().await
}

/// Objects under conditions, ranges of them, and folders.
pub(super) async fn at_objects(client: &Client, bucket: &str, own: &str) -> Result<(), Error> {
    let key = format!("{own}/it");
    let options = PutOptions::default().content_type("application/x-room").header("Cache-Control", "no-store");
    let stored = client.put_with(bucket, &key, options.user("from", "a room"), &mut &*BODY, &|_| {}).await?;
    let is_it = Conditions { if_match: Some(stored.etag.clone()), ..Conditions::default() };
    let row = client.head_with(bucket, &key, &is_it).await?;
    let kept = |name: &str| row.attributes.headers.get(name).map(String::as_str);
    let is_kept = kept("content-type") == Some("application/x-room") && kept("cache-control") == Some("no-store");
    if !is_kept || row.attributes.user.get("from").map(String::as_str) != Some("a room") {
        return Err(Error::bug("an object has other attributes than it was given").with("object", &key));
    }
    let changed = Conditions { if_none_match: Some(stored.etag.clone()), ..Conditions::default() };
    refused(client.head_with(bucket, &key, &changed).await, ErrorKind::Precondition)?;
    let another = GetOptions::default().if_match("another");
    refused(client.get_bytes_with(bucket, &key, &another).await, ErrorKind::Precondition)?;
    let known = GetOptions::default().if_none_match(&stored.etag);
    refused(client.get_bytes_with(bucket, &key, &known).await, ErrorKind::Precondition)?;
    let outside = ByteRange::Between { first: 17, last: 20 };
    refused(client.get_range(bucket, &key, outside).await, ErrorKind::InvalidRange)?;
    let mut bytes = Vec::new();
    client.get(bucket, &key, &mut bytes, &|_| {}).await?;
    let end = client.get_range(bucket, &key, ByteRange::Last(5)).await?;
    if bytes != BODY || end != b"keeps" {
        return Err(Error::bug("an object has other bytes than it was given").with("object", &key));
    }
    refused(client.put_bytes(bucket, &"long".repeat(300), BODY).await, ErrorKind::KeyTooLong)?;
    let much = PutOptions::default().user("of", &"much".repeat(600));
    refused(client.put_with(bucket, &key, much, &mut &*BODY, &|_| {}).await, ErrorKind::TooLarge)?;
    let listed = client.list(bucket, own, Some("/"), "").await?;
    let mut pages = client.pages(bucket).prefix(own).delimiter("/").after(own).page_keys(1);
    let page = pages.next().await?;
    let folder = format!("{own}/");
    let has = |prefixes: &[String]| prefixes.contains(&folder);
    if !has(&listed.prefixes) || !page.is_some_and(|page| has(&page.prefixes)) {
        return Err(Error::bug("a folder is not listed").with("folder", folder));
    }
    let other = Precondition { etag: Some("another".into()), ..Precondition::default() };
    refused(client.remove_if(bucket, &key, other).await, ErrorKind::Precondition)?;
    client.remove(bucket, &key).await
}

/// Uploads that are not completed as they must be, and one that is.
pub(super) async fn at_uploads(client: &Client, bucket: &str, own: &str) -> Result<(), Error> {
    let upload = client.create_upload(bucket, own, Attributes::default()).await?;
    refused(upload.put_part_bytes(0, BODY).await, ErrorKind::Invalid)?;
    let replaced = upload.put_part_bytes(1, b"what it does not keep").await?;
    let first = upload.put_part_bytes(1, BODY).await?;
    let second = upload.put_part_bytes(2, BODY).await?;
    refused(upload.complete(&[]).await, ErrorKind::Invalid)?;
    refused(upload.complete(&[replaced]).await, ErrorKind::InvalidPart)?;
    refused(upload.complete(&[second.clone(), first.clone()]).await, ErrorKind::InvalidPartOrder)?;
    refused(upload.complete(&[first.clone(), second.clone()]).await, ErrorKind::PartTooSmall)?;
    let other = Precondition { etag: Some("another".into()), ..Precondition::default() };
    refused(upload.complete_if(core::slice::from_ref(&first), other).await, ErrorKind::Precondition)?;
    let stored = upload.complete(core::slice::from_ref(&second)).await?;
    // Said again, it is done already.
    if upload.complete(&[second]).await?.etag != stored.etag || client.get_bytes(bucket, own).await? != BODY {
        return Err(Error::bug("an upload came to something else than its part").with("object", own));
    }
    client.remove(bucket, own).await
}

/// Whether it was refused for this reason, or was not answered; for another reason of the request's own it must not be.
fn refused<T>(outcome: Result<T, Error>, wanted: ErrorKind) -> Result<(), Error> {
    let said = match outcome {
        Err(error) if error.kind() == wanted => return Ok(()),
        Err(error) if !OWN.contains(&error.kind()) => return Err(error),
        Err(error) => error.to_string(),
        Ok(_) => "done".to_owned(),
    };
    Err(Error::bug("a request must be refused").with("for", wanted).with("was", said))
}

/// What is refused for the request's own sake.
const OWN: [ErrorKind; 12] = [
    ErrorKind::Invalid,
    ErrorKind::NotFound,
    ErrorKind::Precondition,
    ErrorKind::InvalidRange,
    ErrorKind::KeyTooLong,
    ErrorKind::TooLarge,
    ErrorKind::InvalidPart,
    ErrorKind::InvalidPartOrder,
    ErrorKind::PartTooSmall,
    ErrorKind::NoSuchUpload,
    ErrorKind::BucketExists,
    ErrorKind::BucketNotEmpty,
];
