//! What a client does, in the process of a node and over links to three of them: one table, and both must come to the same.
//!
//! Each row says what is asked and what comes of it: what it shows, or the kind of the error. A row may build on those
//! before it; the two clients have a bucket each, so that neither sees the other's objects.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{LazyLock, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use mesh::{
    Client, Node,
    client::{Conditions, CopyOptions, GetOptions, Part, PutOptions},
    config::{Config, DriveConfig, NodeNumber, Size},
    env::Env,
    provision::{FIRST_TENANT, Provision},
};
use mesh_core::{
    Error, ErrorKind, Principal,
    assignment::Scope,
    id::ActorId,
    limits::{KEY_BYTES_MAX, PART_BYTES_MIN, USER_METADATA_BYTES_MAX},
    meta::{Attributes, BucketSettings, Compression, Precondition},
    op::AdminOp,
    stream::{ByteRange, Place},
    topology::Code,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};

/// Several stripes, and a part of one.
const LARGE: usize = 9_000_001;
const ONE_MD5: &str = "c4ca4238a0b923820dcc509a6f75849b";
const EMPTY_MD5: &str = "d41d8cd98f00b204e9800998ecf8427e";

/// One form of the client, as three principals.
struct Side {
    /// Who may do everything in the tenant.
    client: Client,
    /// Somebody of the tenant without any grant.
    nobody: Client,
    /// An administrator of the cluster.
    operator: Client,
    bucket: &'static str,
}

/// What is asked, of a form of the client.
type Ask = dyn for<'a> Fn(&'a Side) -> BoxFuture<'a, Result<String, Error>>;

/// What is asked; and what it shows, or the kind of its error.
struct Row {
    name: &'static str,
    ask: Box<Ask>,
    comes: Result<&'static str, ErrorKind>,
}

macro_rules! rows {
    ($($name:literal: |$side:ident| $ask:block => $comes:expr;)*) => {
        vec![$(Row {
            name: $name,
            ask: Box::new(|$side| async move {
                let shown: String = $ask;
                Ok(shown)
            }.boxed()),
            comes: $comes,
        },)*]
    };
}

fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 4099 + seed) as u8).collect()
}

/// Made once: it is compared often.
fn large() -> &'static [u8] {
    static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| bytes(1, LARGE));
    &BYTES
}

/// Whether bytes are what they should be.
fn compared(got: &[u8], wanted: &[u8]) -> String {
    if got == wanted { "the same".into() } else { format!("{} bytes in place of {}", got.len(), wanted.len()) }
}

fn yes(holds: bool) -> String {
    if holds { "yes".into() } else { "no".into() }
}

/// A source that breaks.
struct Broken;

impl AsyncRead for Broken {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Err(std::io::Error::other("on purpose")))
    }
}

impl Side {
    async fn put(&self, key: &str, bytes: &[u8]) -> Result<String, Error> {
        self.client.put_bytes(self.bucket, key, bytes).await.map(|stored| stored.etag)
    }

    async fn put_with(&self, key: &str, bytes: &[u8], options: PutOptions) -> Result<String, Error> {
        let mut source = bytes;
        self.client.put_with(self.bucket, key, options, &mut source, &|_| {}).await.map(|stored| stored.etag)
    }

    async fn reads(&self, key: &str, wanted: &[u8]) -> Result<String, Error> {
        self.client.get_bytes(self.bucket, key).await.map(|got| compared(&got, wanted))
    }

    async fn reads_range(&self, range: ByteRange, wanted: &[u8]) -> Result<String, Error> {
        self.client.get_range(self.bucket, "large", range).await.map(|got| compared(&got, wanted))
    }

    async fn reads_if(&self, key: &str, options: GetOptions) -> Result<String, Error> {
        self.client.get_bytes_with(self.bucket, key, &options).await.map(|got| format!("{} bytes", got.len()))
    }

    async fn etag(&self, key: &str) -> Result<String, Error> {
        self.client.head(self.bucket, key).await.map(|object| object.etag.clone())
    }

    async fn copy(&self, from: &str, to: &str, options: CopyOptions) -> Result<String, Error> {
        let (from, to) = (Place::new(self.bucket, from), Place::new(self.bucket, to));
        self.client.copy(&from, &to, options).await.map(|stored| format!("{} bytes", stored.len))
    }

    async fn attributes(&self, key: &str) -> Result<String, Error> {
        let attributes = self.client.head(self.bucket, key).await?.attributes.clone();
        let all = attributes.headers.into_iter().chain(attributes.user);
        Ok(all.map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join(", "))
    }

    async fn keys(&self, prefix: &str, page_keys: usize) -> Result<String, Error> {
        let mut pages = self.client.pages(self.bucket).prefix(prefix).page_keys(page_keys);
        let mut shown = Vec::new();
        while let Some(page) = pages.next().await? {
            let keys: Vec<_> = page.entries.iter().map(|entry| entry.key.strip_prefix(prefix).unwrap()).collect();
            shown.push(keys.join(" "));
        }
        Ok(shown.join(" | "))
    }
}

fn puts_and_gets() -> Vec<Row> {
    rows! {
        "a bucket is made": |side| { side.client.create_bucket(side.bucket).await?; "made".into() } => Ok("made");
        "and once only": |side| { side.client.create_bucket(side.bucket).await?; "made".into() }
            => Err(ErrorKind::BucketExists);
        "it is there": |side| { yes(*side.client.bucket(side.bucket).await?.bucket.name == *side.bucket) } => Ok("yes");
        "the tenant has it": |side| {
            yes(side.client.buckets().await?.iter().any(|row| *row.bucket.name == *side.bucket))
        } => Ok("yes");
        "nothing is stored": |side| { side.put("empty", b"").await? } => Ok(EMPTY_MD5);
        "and read": |side| { side.reads("empty", b"").await? } => Ok("the same");
        "one byte is stored": |side| { side.put("one", b"1").await? } => Ok(ONE_MD5);
        "and read": |side| { side.reads("one", b"1").await? } => Ok("the same");
        "several stripes are stored": |side| {
            let (told, mut source) = (Mutex::new(Vec::new()), large());
            let progress = |bytes| told.lock().unwrap().push(bytes);
            let stored = side.client.put(side.bucket, "large", &mut source, &progress).await?;
            let told = told.lock().unwrap().clone();
            yes(told.is_sorted() && told.last() == Some(&stored.len) && stored.len == LARGE as u64 && told.len() > 1)
        } => Ok("yes");
        "and read": |side| { side.reads("large", large()).await? } => Ok("the same");
        "its manifest says what was stored": |side| {
            let object = side.client.head(side.bucket, "large").await?;
            yes(object.len == LARGE as u64 && object.etag.len() == 32)
        } => Ok("yes");
        "what breaks off is an error": |side| {
            let mut source = large().chain(Broken);
            side.client.put(side.bucket, "broken", &mut source, &|_| {}).await?.etag
        } => Err(ErrorKind::Invalid);
        "and leaves nothing": |side| { side.etag("broken").await? } => Err(ErrorKind::NotFound);
        "what is not there is not found": |side| { side.reads("none", b"").await? } => Err(ErrorKind::NotFound);
        "a key has its limit": |side| { side.put(&"k".repeat(KEY_BYTES_MAX + 1), b"").await? }
            => Err(ErrorKind::KeyTooLong);
        "a bucket that is not there takes nothing": |side| {
            side.client.put_bytes("no-such-bucket", "key", b"").await?.etag
        } => Err(ErrorKind::NoSuchBucket);
        "and gives nothing": |side| { side.client.head("no-such-bucket", "key").await?.etag.clone() }
            => Err(ErrorKind::NoSuchBucket);
    }
}

fn ranges() -> Vec<Row> {
    rows! {
        "the first byte": |side| {
            side.reads_range(ByteRange::Between { first: 0, last: 0 }, &large()[..1]).await?
        } => Ok("the same");
        "a middle over the edges of stripes": |side| {
            side.reads_range(ByteRange::Between { first: 1_000_000, last: 8_500_000 }, &large()[1_000_000..8_500_001])
                .await?
        } => Ok("the same");
        "from a position on": |side| {
            side.reads_range(ByteRange::From(8_999_990), &large()[8_999_990..]).await?
        } => Ok("the same");
        "the end": |side| { side.reads_range(ByteRange::Last(5), &large()[LARGE - 5..]).await? } => Ok("the same");
        "an end that is longer than all": |side| {
            side.reads_range(ByteRange::Last(LARGE as u64 * 2), large()).await?
        } => Ok("the same");
        "a range that ends behind the end": |side| {
            side.reads_range(ByteRange::Between { first: 9_000_000, last: u64::MAX }, &large()[9_000_000..]).await?
        } => Ok("the same");
        "past the end": |side| { side.reads_range(ByteRange::From(LARGE as u64), b"").await? }
            => Err(ErrorKind::InvalidRange);
        "no bytes at the end": |side| { side.reads_range(ByteRange::Last(0), b"").await? }
            => Err(ErrorKind::InvalidRange);
        "the end of nothing": |side| {
            let range = GetOptions::default().range(ByteRange::Last(5));
            side.reads_if("empty", range).await?
        } => Ok("0 bytes");
        "it is said what of what was read": |side| {
            let options = GetOptions::default().range(ByteRange::Last(5));
            let mut target = Vec::new();
            let got = side.client.get_with(side.bucket, "large", &options, &mut target, &|_| {}).await?;
            format!("{:?} of {}", got.range, got.object.len)
        } => Ok("8999996..9000001 of 9000001");
    }
}

fn conditions() -> Vec<Row> {
    rows! {
        "stored if absent": |side| {
            side.put_with("conditional", b"1", PutOptions::default().if_absent()).await?
        } => Ok(ONE_MD5);
        "refused if present": |side| {
            side.put_with("conditional", b"2", PutOptions::default().if_absent()).await?
        } => Err(ErrorKind::Precondition);
        "refused if another is there": |side| {
            side.put_with("conditional", b"2", PutOptions::default().if_match(EMPTY_MD5)).await?
        } => Err(ErrorKind::Precondition);
        "what was refused changed nothing": |side| { side.reads("conditional", b"1").await? } => Ok("the same");
        "replaced if it is what it was": |side| {
            let was = side.etag("conditional").await?;
            side.put_with("conditional", b"", PutOptions::default().if_match(&format!("\"{was}\""))).await?
        } => Ok(EMPTY_MD5);
        "read if it is that": |side| {
            side.reads_if("conditional", GetOptions::default().if_match(EMPTY_MD5)).await?
        } => Ok("0 bytes");
        "read if it is anything": |side| { side.reads_if("one", GetOptions::default().if_match("*")).await? }
            => Ok("1 bytes");
        "not read if it is another": |side| { side.reads_if("one", GetOptions::default().if_match(EMPTY_MD5)).await? }
            => Err(ErrorKind::Precondition);
        "not read if it is known": |side| {
            let known = side.etag("one").await?;
            side.reads_if("one", GetOptions::default().if_none_match(&known)).await?
        } => Err(ErrorKind::Precondition);
        "read if it is not what is known": |side| {
            side.reads_if("one", GetOptions::default().if_none_match(EMPTY_MD5)).await?
        } => Ok("1 bytes");
        "a head takes conditions too": |side| {
            let conditions = Conditions { if_none_match: Some("*".into()), ..Conditions::default() };
            side.client.head_with(side.bucket, "one", &conditions).await?.etag.clone()
        } => Err(ErrorKind::Precondition);
        "not removed if it is another": |side| {
            let precondition = Precondition { etag: Some("other".into()), absent: false };
            side.client.remove_if(side.bucket, "conditional", precondition).await?;
            "gone".into()
        } => Err(ErrorKind::Precondition);
        "removed if it is that": |side| {
            let precondition = Precondition { etag: Some(EMPTY_MD5.into()), absent: false };
            side.client.remove_if(side.bucket, "conditional", precondition).await?;
            "gone".into()
        } => Ok("gone");
        "and gone": |side| { side.etag("conditional").await? } => Err(ErrorKind::NotFound);
    }
}

fn attributes_and_copies() -> Vec<Row> {
    rows! {
        "attributes are stored": |side| {
            let options = PutOptions::default().content_type("text/plain").header("Cache-Control", "no-store");
            side.put_with("page", b"1", options.user("Author", "Ä b")).await?
        } => Ok(ONE_MD5);
        "and come back": |side| { side.attributes("page").await? }
            => Ok("cache-control: no-store, content-type: text/plain, author: Ä b");
        "metadata have their limit": |side| {
            side.put_with("fat", b"", PutOptions::default().user("k", &"v".repeat(USER_METADATA_BYTES_MAX))).await?
        } => Err(ErrorKind::TooLarge);
        "a copy": |side| { side.copy("page", "page-2", CopyOptions::default()).await? } => Ok("1 bytes");
        "takes the attributes along": |side| { side.attributes("page-2").await? }
            => Ok("cache-control: no-store, content-type: text/plain, author: Ä b");
        "a copy of several stripes": |side| { side.copy("large", "large-2", CopyOptions::default()).await? }
            => Ok("9000001 bytes");
        "is the same": |side| { side.reads("large-2", large()).await? } => Ok("the same");
        "a copy of nothing": |side| { side.copy("empty", "empty-2", CopyOptions::default()).await? } => Ok("0 bytes");
        "a copy to itself that changes nothing": |side| { side.copy("page", "page", CopyOptions::default()).await? }
            => Err(ErrorKind::Invalid);
        "a copy to itself with other attributes": |side| {
            let attributes = PutOptions::default().content_type("text/html").attributes;
            side.copy("page", "page", CopyOptions { attributes: Some(attributes), ..CopyOptions::default() }).await?
        } => Ok("1 bytes");
        "has those": |side| { side.attributes("page").await? } => Ok("content-type: text/html");
        "a copy of what is not there": |side| { side.copy("none", "copy", CopyOptions::default()).await? }
            => Err(ErrorKind::NotFound);
        "a copy of what is another": |side| {
            let source = Conditions { if_match: Some(EMPTY_MD5.into()), ..Conditions::default() };
            side.copy("page", "copy", CopyOptions { source, ..CopyOptions::default() }).await?
        } => Err(ErrorKind::Precondition);
        "a copy over what is there": |side| {
            let precondition = Precondition { absent: true, etag: None };
            side.copy("page", "page-2", CopyOptions { precondition, ..CopyOptions::default() }).await?
        } => Err(ErrorKind::Precondition);
    }
}

/// The first part of an upload, as small as it may be.
fn first() -> Vec<u8> {
    bytes(7, PART_BYTES_MIN as usize)
}

fn uploads() -> Vec<Row> {
    rows! {
        "parts in any order make an object": |side| {
            let attributes = PutOptions::default().content_type("video/mp4").attributes;
            let upload = side.client.create_upload(side.bucket, "film", attributes).await?;
            let replaced = upload.put_part_bytes(2, b"another").await?;
            let second = upload.put_part_bytes(2, b"end").await?;
            let first = upload.put_part_bytes(1, &first()).await?;
            assert_ne!(replaced.etag, second.etag);
            let listed: Vec<_> = upload.parts(0).await?.0.iter().map(|part| (part.number, part.extent.len)).collect();
            assert_eq!(listed, [(1, PART_BYTES_MIN), (2, 3)]);
            let (open, more) = side.client.uploads(side.bucket, "fi", None).await?;
            assert!(!more && open.iter().any(|row| row.upload == upload.id() && row.key == "film"));
            let again = side.client.upload(side.bucket, "film", upload.id()).await?;
            let stored = upload.complete(&[first.clone(), second.clone()]).await?;
            assert_eq!(again.complete(&[first, second]).await?, stored, "asked again it says the same");
            assert!(stored.etag.ends_with("-2"), "{stored:?}");
            format!("{} bytes", stored.len)
        } => Ok("5242883 bytes");
        "which is read": |side| { side.reads("film", &[&first()[..], b"end"].concat()).await? } => Ok("the same");
        "and over the edge of parts": |side| {
            side.client.get_range(side.bucket, "film", ByteRange::Last(4)).await.map(|got| {
                compared(&got, &[&first()[first().len() - 1..], b"end"].concat())
            })?
        } => Ok("the same");
        "with what was said when it began": |side| { side.attributes("film").await? } => Ok("content-type: video/mp4");
        "a copy makes one object of it": |side| { side.copy("film", "film-2", CopyOptions::default()).await? }
            => Ok("5242883 bytes");
        "parts are copied": |side| {
            let upload = side.client.create_upload(side.bucket, "cut", Attributes::default()).await?;
            let from = Place::new(side.bucket, "large");
            let range = ByteRange::Between { first: 100, last: 99 + PART_BYTES_MIN };
            let first = upload.copy_part(1, &from, Some(range), Conditions::default()).await?;
            let all = upload.copy_part(2, &from, None, Conditions::default()).await?;
            upload.complete(&[first, all]).await?;
            let wanted = [&large()[100..100 + PART_BYTES_MIN as usize], large()].concat();
            side.reads("cut", &wanted).await?
        } => Ok("the same");
        "a part is not copied beyond the end of its source": |side| {
            let upload = side.client.create_upload(side.bucket, "cut", Attributes::default()).await?;
            let range = ByteRange::Between { first: 0, last: LARGE as u64 };
            let from = Place::new(side.bucket, "large");
            let copied = upload.copy_part(1, &from, Some(range), Conditions::default()).await;
            upload.abort().await?;
            copied?.etag
        } => Err(ErrorKind::InvalidRange);
        "parts that do not ascend": |side| { refused(side, |one, two| vec![two, one]).await? }
            => Err(ErrorKind::InvalidPartOrder);
        "a part with another ETag": |side| {
            refused(side, |one, two| vec![Part { etag: EMPTY_MD5.into(), ..one }, two]).await?
        } => Err(ErrorKind::InvalidPart);
        "a part that is not there": |side| {
            refused(side, |_, two| vec![Part { number: 3, ..two }]).await?
        } => Err(ErrorKind::InvalidPart);
        "a part that is too small": |side| { refused(side, |one, two| vec![one, two]).await? }
            => Err(ErrorKind::PartTooSmall);
        "no parts at all": |side| { refused(side, |_, _| Vec::new()).await? } => Err(ErrorKind::Invalid);
        "an upload that is aborted takes no part": |side| {
            let upload = side.client.create_upload(side.bucket, "gone", Attributes::default()).await?;
            upload.clone().abort().await?;
            upload.put_part_bytes(1, b"late").await?.etag
        } => Err(ErrorKind::NoSuchUpload);
        "and is not aborted again": |side| {
            let upload = side.client.create_upload(side.bucket, "gone", Attributes::default()).await?;
            upload.clone().abort().await?;
            upload.abort().await?;
            "aborted".into()
        } => Err(ErrorKind::NoSuchUpload);
        "an upload has one key": |side| {
            let upload = side.client.create_upload(side.bucket, "mine", Attributes::default()).await?;
            let other = side.client.upload(side.bucket, "other", upload.id()).await;
            upload.abort().await?;
            other.map(|_| String::new())?
        } => Err(ErrorKind::NoSuchUpload);
        "no upload is left": |side| { format!("{:?}", side.client.uploads(side.bucket, "", None).await?.0) }
            => Ok("[]");
    }
}

/// Tries to make an object of two small parts, as they are named.
async fn refused(side: &Side, named: impl Fn(Part, Part) -> Vec<Part>) -> Result<String, Error> {
    let upload = side.client.create_upload(side.bucket, "refused", Attributes::default()).await?;
    let two = upload.put_part_bytes(2, b"two").await?;
    let one = upload.put_part_bytes(1, b"one").await?;
    let completed = upload.complete(&named(one, two)).await;
    upload.abort().await?;
    completed.map(|stored| stored.etag)
}

fn listings_and_ends() -> Vec<Row> {
    rows! {
        "keys are listed page by page": |side| {
            for key in ["list/a", "list/b", "list/c/1", "list/c/2", "list/d"] {
                side.put(key, b"").await?;
            }
            side.keys("list/", 2).await?
        } => Ok("a b | c/1 c/2 | d");
        "or at once": |side| { side.keys("list/", 9999).await? } => Ok("a b c/1 c/2 d");
        "or none": |side| { side.keys("none/", 1).await? } => Ok("");
        "a delimiter rolls keys up": |side| {
            let mut pages = side.client.pages(side.bucket).prefix("list/").delimiter("/").after("list/a");
            let page = pages.next().await?.unwrap();
            let keys: Vec<_> = page.entries.iter().map(|entry| &entry.key[..]).collect();
            format!("{} and {}", keys.join(" "), page.prefixes.join(" "))
        } => Ok("list/b list/d and list/c/");
        "a bucket that is not there": |side| {
            format!("{:?}", side.client.pages("no-such-bucket").next().await?)
        } => Err(ErrorKind::NoSuchBucket);
        "a bucket with objects stays": |side| { side.client.delete_bucket(side.bucket).await?; "gone".into() }
            => Err(ErrorKind::BucketNotEmpty);
        "an object that is not there is removed": |side| {
            side.client.remove(side.bucket, "none").await?;
            "gone".into()
        } => Ok("gone");
        "all objects are removed": |side| {
            let mut pages = side.client.pages(side.bucket).page_keys(3);
            while let Some(page) = pages.next().await? {
                for entry in &page.entries {
                    side.client.remove(side.bucket, &entry.key).await?;
                }
            }
            side.keys("", 1).await?
        } => Ok("");
        "and the bucket": |side| { side.client.delete_bucket(side.bucket).await?; "gone".into() } => Ok("gone");
        "which is gone": |side| { side.client.bucket(side.bucket).await?.bucket.name.to_string() }
            => Err(ErrorKind::NoSuchBucket);
    }
}

/// Bytes that do not shrink.
fn noise() -> &'static [u8] {
    static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..LARGE).map(|_| next()).collect()
    });
    &BYTES
}

/// The bucket that compresses, beside the one of a side.
fn small(side: &Side) -> String {
    format!("{}-small", side.bucket)
}

fn compressed() -> BucketSettings {
    BucketSettings { compression: Compression::Auto, code: None }
}

/// The bucket of copies, beside the one of a side.
fn copies(side: &Side) -> String {
    format!("{}-copies", side.bucket)
}

fn codes() -> Vec<Row> {
    rows! {
        "a bucket that keeps copies is made": |side| {
            let settings = BucketSettings { compression: Compression::Off, code: Some(Code { data: 1, parity: 1 }) };
            side.client.create_bucket_with(&copies(side), settings).await?;
            side.client.bucket(&copies(side)).await?.settings.code.map_or_else(String::new, |code| code.to_string())
        } => Ok("1+1");
        "what is put at once is taken": |side| {
            side.client.put_bytes(&copies(side), "large", large()).await?;
            side.client.head(&copies(side), "large").await?.len.to_string()
        } => Ok("9000001");
        "and read": |side| {
            compared(&side.client.get_bytes(&copies(side), "large").await?, large())
        } => Ok("the same");
        "a code without drives enough is refused": |side| {
            let settings = BucketSettings { compression: Compression::Off, code: Some(Code { data: 16, parity: 8 }) };
            side.client.create_bucket_with(&format!("{}-wide", side.bucket), settings).await?;
            "made".into()
        } => Err(ErrorKind::Invalid);
        "and there is no such bucket": |side| {
            side.client.bucket(&format!("{}-wide", side.bucket)).await?;
            "there is".into()
        } => Err(ErrorKind::NoSuchBucket);
    }
}

fn compression() -> Vec<Row> {
    rows! {
        "a bucket that compresses is made": |side| {
            side.client.create_bucket_with(&small(side), compressed()).await?;
            side.client.bucket(&small(side)).await?.settings.compression.to_string()
        } => Ok("auto");
        "and once only": |side| {
            side.client.create_bucket_with(&small(side), compressed()).await?;
            "made".into()
        } => Err(ErrorKind::BucketExists);
        "others do not": |side| { side.client.bucket(side.bucket).await?.settings.compression.to_string() } => Ok("off");
        "what shrinks has its own length": |side| {
            side.client.put_bytes(&small(side), "large", large()).await?;
            side.client.head(&small(side), "large").await?.len.to_string()
        } => Ok("9000001");
        "and its own digest": |side| {
            let plain = side.client.put_bytes(side.bucket, "plain", large()).await?.etag;
            yes(side.client.head(&small(side), "large").await?.etag == plain)
        } => Ok("yes");
        "it is read whole": |side| {
            compared(&side.client.get_bytes(&small(side), "large").await?, large())
        } => Ok("the same");
        "and over the end of a stripe": |side| {
            let range = ByteRange::Between { first: 4_194_300, last: 4_194_400 };
            let got = side.client.get_range(&small(side), "large", range).await?;
            compared(&got, &large()[4_194_300..=4_194_400])
        } => Ok("the same");
        "so is what does not shrink": |side| {
            side.client.put_bytes(&small(side), "noise", noise()).await?;
            compared(&side.client.get_bytes(&small(side), "noise").await?, noise())
        } => Ok("the same");
        "and what is empty": |side| {
            side.client.put_bytes(&small(side), "empty", b"").await?;
            side.client.get_bytes(&small(side), "empty").await?.len().to_string()
        } => Ok("0");
        "a copy is stored as its own bucket says": |side| {
            let (from, to) = (Place::new(small(side), "large"), Place::new(side.bucket, "plain"));
            side.client.copy(&from, &to, CopyOptions::default()).await?;
            compared(&side.client.get_bytes(side.bucket, "plain").await?, large())
        } => Ok("the same");
        "and back": |side| {
            let (from, to) = (Place::new(side.bucket, "plain"), Place::new(small(side), "copy"));
            side.client.copy(&from, &to, CopyOptions::default()).await?;
            compared(&side.client.get_bytes(&small(side), "copy").await?, large())
        } => Ok("the same");
        "it goes when it is empty": |side| {
            side.client.remove(side.bucket, "plain").await?;
            for key in ["large", "noise", "empty", "copy"] {
                side.client.remove(&small(side), key).await?;
            }
            side.client.delete_bucket(&small(side)).await?;
            "gone".into()
        } => Ok("gone");
    }
}

fn permissions() -> Vec<Row> {
    rows! {
        "who has no grant stores nothing": |side| { side.nobody.put_bytes(side.bucket, "key", b"").await?.etag }
            => Err(ErrorKind::Denied);
        "reads nothing": |side| { format!("{:?}", side.nobody.get_bytes(side.bucket, "one").await?) }
            => Err(ErrorKind::Denied);
        "sees nothing": |side| { side.nobody.head(side.bucket, "one").await?.etag.clone() }
            => Err(ErrorKind::Denied);
        "lists nothing": |side| { format!("{:?}", side.nobody.list(side.bucket, "", None, "").await?) }
            => Err(ErrorKind::Denied);
        "copies nothing": |side| {
            let (from, to) = (Place::new(side.bucket, "one"), Place::new(side.bucket, "two"));
            side.nobody.copy(&from, &to, CopyOptions::default()).await?.etag
        } => Err(ErrorKind::Denied);
        "uploads nothing": |side| {
            side.nobody.create_upload(side.bucket, "key", Attributes::default()).await.map(|_| String::new())?
        } => Err(ErrorKind::Denied);
        "removes nothing": |side| { side.nobody.remove(side.bucket, "one").await?; "gone".into() }
            => Err(ErrorKind::Denied);
        "makes nothing": |side| { side.nobody.create_bucket("of-nobody").await?; "made".into() }
            => Err(ErrorKind::Denied);
        "deletes nothing": |side| { side.nobody.delete_bucket(side.bucket).await?; "gone".into() }
            => Err(ErrorKind::Denied);
        "has no buckets": |side| { format!("{:?}", side.nobody.buckets().await?) } => Err(ErrorKind::Denied);
        "and is told nothing of the mesh": |side| { format!("{} nodes", side.nobody.status().await?.len()) }
            => Err(ErrorKind::Denied);
        "somebody of a tenant knows how the mesh is": |side| { format!("{} nodes", side.client.status().await?.len()) }
            => Ok("3 nodes");
        "somebody of a tenant administers nothing": |side| {
            format!("{:?}", side.client.administer(AdminOp::Events { after: 0 }).await?)
        } => Err(ErrorKind::Denied);
        "and puts no functions into chains": |side| {
            format!("{:?}", side.client.set_stages(Scope::Tenant(FIRST_TENANT), Vec::new()).await?)
        } => Err(ErrorKind::Denied);
        "an administrator does": |side| {
            side.operator.administer(AdminOp::Events { after: 0 }).await?;
            "told".into()
        } => Ok("told");
        "and stores nothing": |side| { side.operator.put_bytes(side.bucket, "key", b"").await?.etag }
            => Err(ErrorKind::Denied);
        "and reads nothing": |side| { format!("{:?}", side.operator.get_bytes(side.bucket, "one").await?) }
            => Err(ErrorKind::Denied);
        "and has no buckets": |side| { format!("{:?}", side.operator.buckets().await?) } => Err(ErrorKind::Denied);
    }
}

fn config(folder: &Path, number: u64) -> Config {
    let data = folder.join(format!("node-{number}"));
    let drives =
        ["drive-a", "drive-b"].map(|name| DriveConfig { path: data.join(name), capacity: Some(Size(2 << 30)) });
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    Config { drives: drives.to_vec(), ..Config::new(NodeNumber(number), address, data) }
}

async fn start(folder: &Path, provision: &Provision) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    for number in 1..=3 {
        let config = config(folder, number);
        provision.equip(config.node.id(), &config.data).unwrap();
        let node = Node::builder(config).start().await.unwrap();
        for other in &nodes {
            other.set_peer(node.id(), node.address());
            node.set_peer(other.id(), other.address());
        }
        nodes.push(node);
    }
    nodes[0].found(&provision.founding().unwrap()).await.unwrap();
    for node in &nodes {
        node.ready(Duration::from_secs(60)).await.unwrap();
    }
    nodes
}

fn inside(node: &Node) -> Side {
    let user = |name: &str| node.client(Principal::User { tenant: FIRST_TENANT, name: name.into() });
    let operator = node.client(Principal::Admin { name: "operator".into() });
    Side { client: user("admin"), nobody: user("nobody"), operator, bucket: "inside" }
}

async fn over_links(nodes: &[Node], provision: &Provision) -> Side {
    let env = Env::real().unwrap();
    let addresses: Vec<SocketAddr> = nodes.iter().map(Node::address).collect();
    let connect = async |identity| mesh::quic::connect(&addresses, identity, &env).await.unwrap();
    let user = async |name| connect(provision.client_identity(FIRST_TENANT, name).unwrap()).await;
    let operator = connect(provision.admin_identity("operator").unwrap()).await;
    Side { client: user("admin").await, nobody: user("nobody").await, operator, bucket: "over-links" }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_does_the_same_in_process_and_over_links() {
    let folder = tempfile::tempdir().unwrap();
    let provision = Provision::create(folder.path(), "main").unwrap();
    let nodes = start(folder.path(), &provision).await;
    let sides = BTreeMap::from([("inside", inside(&nodes[0])), ("over links", over_links(&nodes, &provision).await)]);
    let tables = [
        puts_and_gets(),
        ranges(),
        conditions(),
        attributes_and_copies(),
        uploads(),
        compression(),
        codes(),
        permissions(),
        listings_and_ends(),
    ];
    let mut wrong = Vec::new();
    for row in tables.iter().flatten() {
        for (which, side) in &sides {
            let came = (row.ask)(side).await;
            let said = came.as_ref().err().map(ToString::to_string).unwrap_or_default();
            let came = came.map_err(|error| error.kind());
            if came.as_deref().map_err(|kind| *kind) != row.comes {
                wrong.push(format!("{} {which}: {came:?} in place of {:?} {said}", row.name, row.comes));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // Only in this process can a client be made that is nobody, or says that it is the mesh; it may ask nothing at all.
    for principal in [Principal::Anonymous, Principal::System] {
        let client = nodes[0].client(principal.clone());
        let asked = [
            client.get_bytes("main", "key").await.map(drop),
            client.buckets().await.map(drop),
            client.status().await.map(drop),
            client.administer(AdminOp::Events { after: 0 }).await.map(drop),
        ];
        for outcome in asked {
            assert_eq!(outcome.map_err(|error| error.kind()), Err(ErrorKind::Denied), "{principal:?}");
        }
    }
    // A stop that nobody waits for any more is finished by the next one.
    for node in nodes {
        let chain = ActorId::data(FIRST_TENANT, node.id());
        let epoch = node.control().assignments[&chain].epoch;
        assert!(node.state(chain, epoch).await.is_ok(), "it runs");
        let given_up = tokio::time::timeout(Duration::ZERO, node.shutdown(Duration::from_secs(5))).await;
        assert!(given_up.is_err(), "it had nothing to wait for");
        node.shutdown(Duration::from_secs(5)).await;
        assert_eq!(node.state(chain, epoch).await.map_err(|error| error.kind()), Err(ErrorKind::NoSuchActor));
    }
}
