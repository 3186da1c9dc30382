//! Clients of S3: signed requests through the front ends of hosts, in turn.

use core::{net::SocketAddr, time::Duration};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use mesh_core::{Error, ErrorKind, port::Clock as _};
use mesh_fronts::s3::client::{Framing, Reply, Signer, checksum};
use tokio::io::AsyncWriteExt as _;

use super::user::{acknowledged, nothing_yet};
use crate::nodes::{street::Street, time::RoomTime};

/// An SDK that repeats nothing: it goes to the next host after one that did not answer well.
pub(super) struct Gateways {
    street: Arc<Street>,
    time: Arc<RoomTime>,
    hosts: Vec<SocketAddr>,
    at: AtomicUsize,
    asked: AtomicUsize,
    signer: Signer,
}

/// Status and code that an answer must have.
type Verdict = (u16, &'static str);

/// How long it waits for an answer: longer than a request's budget.
const PATIENCE: Duration = Duration::from_secs(40);
/// What a dawdler says that it will send.
const DAWDLERS_BYTES: u64 = 8 << 20;
/// What is longer goes in parts, every other time.
const WHOLE_MAX: usize = 50_000;

impl Gateways {
    pub(super) fn new(street: Arc<Street>, time: Arc<RoomTime>, hosts: Vec<SocketAddr>, signer: Signer) -> Self {
        Self { street, time, hosts, at: AtomicUsize::new(0), asked: AtomicUsize::new(0), signer }
    }

    /// Gives the ETag.
    pub(super) async fn put(&self, bucket: &str, name: &str, bytes: &[u8]) -> Result<String, Error> {
        let target = format!("/{bucket}/{name}");
        let turn = self.asked.fetch_add(1, Relaxed);
        if bytes.len() > WHOLE_MAX && turn.is_multiple_of(2) {
            return self.put_in_parts(&target, bytes).await;
        }
        let trailer = format!("x-amz-checksum-sha256:{}", checksum(bytes));
        let chunked = Framing::Chunked(8 << 10, &trailer);
        let framing = [Framing::Whole, Framing::Unsigned, Framing::Signed(8 << 10), chunked];
        let framing = framing.get(turn % framing.len()).unwrap_or(&Framing::Whole);
        etag(&self.ask(("PUT", &target), &[], bytes, framing).await?)
    }

    /// Sends the head of a large upload and a little of its body, and waits so many milliseconds for what comes of it.
    pub(super) async fn begin_to_put(&self, bucket: &str, name: &str, span: u64) -> Result<(u16, String), Error> {
        let (target, len) = (format!("/{bucket}/{name}"), DAWDLERS_BYTES.to_string());
        let headers = [("content-length", &*len)];
        let manner = Manner::Signed { headers: &headers, body: b"a little", framing: &Framing::Unsigned };
        let asked = self.exchange(self.host()?, manner, ("PUT", &target));
        let reply = tokio::time::timeout(Duration::from_millis(span), asked).await;
        let reply = reply.map_err(|_| Error::new(ErrorKind::Timeout, "it has dawdled for as long as it wanted"))??;
        Ok(reply.verdict())
    }

    /// In place of what has this ETag, or of nothing.
    pub(super) async fn put_if(&self, bucket: &str, name: &str, bytes: &[u8], etag: Option<&str>) -> Result<(), Error> {
        let condition = etag.map_or(("if-none-match", "*"), |etag| ("if-match", etag));
        let headers = [condition, META, KIND];
        self.ask(("PUT", &format!("/{bucket}/{name}")), &headers, bytes, &Framing::Whole).await.map(drop)
    }

    /// Only the last request makes it visible.
    async fn put_in_parts(&self, target: &str, bytes: &[u8]) -> Result<String, Error> {
        let upload = self.begin_upload(target).await.map_err(nothing_yet)?;
        let part = format!("{target}?partNumber=1&uploadId={upload}");
        let part = self.ask(("PUT", &part), &[], bytes, &Framing::Unsigned).await.map_err(nothing_yet)?;
        self.complete(target, &upload, &etag(&part)?).await
    }

    /// Makes an object of one part.
    async fn complete(&self, target: &str, upload: &str, etag: &str) -> Result<String, Error> {
        let list = format!(
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
        );
        let complete = format!("{target}?uploadId={upload}");
        let completed = self.ask(("POST", &complete), &[], list.as_bytes(), &Framing::Whole).await;
        // A completion that takes long says that it goes on before it knows what it comes to.
        let completed = completed.and_then(|reply| expect_done(&reply).map(|()| reply)).map_err(acknowledged)?;
        Ok(element(&completed, "ETag").unwrap_or_default().replace("&quot;", "\""))
    }

    async fn begin_upload(&self, target: &str) -> Result<String, Error> {
        let begun = self.ask(("POST", &format!("{target}?uploads")), &[], b"", &Framing::Whole).await?;
        element(&begun, "UploadId").ok_or_else(|| Error::bug("an upload without an id"))
    }

    /// The bytes, and the ETag. Every other time by a presigned URL, by either version.
    pub(super) async fn get(&self, bucket: &str, name: &str) -> Result<(Vec<u8>, String), Error> {
        let target = format!("/{bucket}/{name}");
        let reply = match self.asked.fetch_add(1, Relaxed) % 4 {
            0 => self.ask_in(Manner::Presigned, ("GET", &target)).await?,
            2 => self.ask_in(Manner::Presigned2 { good_s: 60 }, ("GET", &target)).await?,
            _ => self.ask(("GET", &target), &[], b"", &Framing::Whole).await?,
        };
        let etag = etag(&reply)?;
        Ok((reply.body, etag))
    }

    /// So many bytes, and the length of all.
    pub(super) async fn beginning(&self, bucket: &str, name: &str, bytes: u64) -> Result<(Vec<u8>, u64), Error> {
        let range = format!("bytes=0-{}", bytes - 1);
        let target = format!("/{bucket}/{name}");
        let reply = self.ask(("GET", &target), &[("range", &range)], b"", &Framing::Whole).await?;
        let range = reply.headers.get("content-range").and_then(|range| range.split_once('/'));
        let len = range.and_then(|(_, len)| len.parse().ok());
        let len = len.filter(|_| reply.status == 206).ok_or_else(|| Error::bug("a range that does not say of what"))?;
        Ok((reply.body, len))
    }

    pub(super) async fn head(&self, bucket: &str, name: &str) -> Result<(), Error> {
        self.ask(("HEAD", &format!("/{bucket}/{name}")), &[], b"", &Framing::Whole).await.map(drop)
    }

    /// What has this ETag, or nothing.
    pub(super) async fn copy(&self, bucket: &str, (from, etag): (&str, &str), to: &str) -> Result<(), Error> {
        let source = format!("/{bucket}/{from}");
        let headers = [("x-amz-copy-source", &*source), ("x-amz-copy-source-if-match", etag)];
        let copied = self.ask(("PUT", &format!("/{bucket}/{to}")), &headers, b"", &Framing::Whole).await?;
        // As a completion.
        expect_done(&copied)
    }

    /// As the only part of an upload.
    pub(super) async fn copy_as_part(&self, bucket: &str, (from, etag): (&str, &str), to: &str) -> Result<(), Error> {
        let (source, target) = (format!("/{bucket}/{from}"), format!("/{bucket}/{to}"));
        let upload = self.begin_upload(&target).await.map_err(nothing_yet)?;
        let headers = [("x-amz-copy-source", &*source), ("x-amz-copy-source-if-match", etag)];
        let part = format!("{target}?partNumber=1&uploadId={upload}");
        let copied = self.ask(("PUT", &part), &headers, b"", &Framing::Whole).await.map_err(nothing_yet)?;
        expect_done(&copied).map_err(nothing_yet)?;
        let etag = element(&copied, "ETag").ok_or_else(|| Error::bug("a part without an ETag"))?;
        self.complete(&target, &upload, &etag).await.map(drop)
    }

    pub(super) async fn remove(&self, bucket: &str, name: &str) -> Result<(), Error> {
        self.ask(("DELETE", &format!("/{bucket}/{name}")), &[], b"", &Framing::Whole).await.map(drop)
    }

    /// By one request.
    pub(super) async fn remove_all(&self, bucket: &str, names: &[&str]) -> Result<(), Error> {
        let keys: String = names.iter().map(|name| format!("<Object><Key>{name}</Key></Object>")).collect();
        let list = format!("<Delete>{keys}</Delete>");
        let headers = [("x-amz-checksum-sha256", &*checksum(list.as_bytes()))];
        let target = format!("/{bucket}?delete");
        let removed = self.ask(("POST", &target), &headers, list.as_bytes(), &Framing::Whole).await?;
        expect_done(&removed)
    }

    /// The keys that begin so, a few a page.
    pub(super) async fn list(&self, bucket: &str, prefix: &str, page: usize) -> Result<BTreeSet<String>, Error> {
        let (mut names, mut token) = (BTreeSet::new(), String::new());
        loop {
            let target = format!("/{bucket}?list-type=2&max-keys={page}&prefix={prefix}{token}");
            let listed = self.ask(("GET", &target), &[], b"", &Framing::Whole).await?;
            let text = String::from_utf8_lossy(&listed.body);
            let keys = text.split("<Key>").skip(1).filter_map(|rest| Some(rest.split_once("</Key>")?.0.to_owned()));
            names.extend(keys);
            let Some(next) = element(&listed, "NextContinuationToken") else { return Ok(names) };
            token = format!("&continuation-token={}", percent(&next));
        }
    }

    /// What changes nothing that anybody sees. `number` is its own.
    pub(super) async fn look_around(&self, bucket: &str, number: u64) -> Result<(), Error> {
        let own = format!("own-{number}");
        match number % 4 {
            0 => self.look_at_uploads(bucket, &own).await,
            1 => self.look_conditionally(bucket, &own).await,
            2 => self.be_refused(bucket, &own).await,
            _ => self.look_closely(bucket, &own).await,
        }
        .map_err(acknowledged)
    }

    /// Heads and ranges of what it has stored, under conditions.
    async fn look_conditionally(&self, bucket: &str, own: &str) -> Result<(), Error> {
        let (target, body) = (format!("/{bucket}/{own}"), b"what a room keeps");
        let stored = etag(&self.ask(("PUT", &target), &[META, KIND], body, &Framing::Whole).await?)?;
        let (past, future) = ("Thu, 01 Jan 2015 00:00:00 GMT", "Mon, 01 Jan 2035 00:00:00 GMT");
        let asks: [(&str, (&str, &str), Verdict); 9] = [
            ("HEAD", ("if-match", &stored), (200, "")),
            ("HEAD", ("if-none-match", &stored), (304, "")),
            ("GET", ("if-none-match", &stored), (304, "")),
            ("GET", ("if-match", "\"another\""), (412, "PreconditionFailed")),
            ("GET", ("if-modified-since", past), (200, "")),
            ("GET", ("if-unmodified-since", future), (200, "")),
            ("GET", ("if-unmodified-since", past), (412, "PreconditionFailed")),
            ("GET", ("range", "bytes=-4"), (206, "")),
            ("GET", ("range", "bytes=17-"), (416, "InvalidRange")),
        ];
        for (method, header, verdict) in asks {
            let headers = [header];
            let manner = Manner::Signed { headers: &headers, body: b"", framing: &Framing::Whole };
            let reply = self.expect(manner, (method, &target), verdict).await?;
            let kept = |name: &str| reply.headers.get(name).map(String::as_str);
            if verdict.0 == 200 && (kept(META.0), kept(KIND.0)) != (Some(META.1), Some(KIND.1)) {
                return Err(Error::bug("an object has other metadata than it was given").with("object", target));
            }
            if verdict.0 == 206 && reply.body != b"eeps" {
                return Err(Error::bug("a range has other bytes than its object").with("object", target));
            }
        }
        self.remove(bucket, own).await
    }

    /// What is refused whatever happens, and leaves nothing.
    async fn be_refused(&self, bucket: &str, own: &str) -> Result<(), Error> {
        let target = format!("/{bucket}/{own}");
        let wrong = [("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")];
        let sum = checksum(b"other bytes");
        let other = [("x-amz-checksum-sha256", &*sum)];
        let damaged = |headers| Manner::Signed { headers, body: b"it", framing: &Framing::Whole };
        self.expect(damaged(&wrong), ("PUT", &target), (400, "BadDigest")).await?;
        self.expect(damaged(&other), ("PUT", &target), (400, "BadDigest")).await?;
        let plain = Manner::Signed { headers: &[], body: b"", framing: &Framing::Whole };
        self.expect(plain, ("GET", "/no-such-bucket/it"), (404, "NoSuchBucket")).await?;
        self.expect(plain, ("GET", &format!("/{bucket}?list-type=2&max-keys=-1")), (400, "InvalidArgument")).await?;
        self.expect(plain, ("GET", &format!("{target}?attributes")), (501, "NotImplemented")).await?;
        self.expect(plain, ("PUT", &format!("{target}?acl")), (501, "NotImplemented")).await?;
        self.expect(Manner::Presigned2 { good_s: -60 }, ("GET", &target), (403, "AccessDenied")).await?;
        for (signer, code) in
            [(self.signer.forged(), "SignatureDoesNotMatch"), (self.signer.unknown(), "InvalidAccessKeyId")]
        {
            let (street, time, hosts) = (self.street.clone(), self.time.clone(), self.hosts.clone());
            let stranger = Self::new(street, time, hosts, signer);
            stranger.at.store(self.at.load(Relaxed), Relaxed);
            for manner in [plain, Manner::Presigned, Manner::Presigned2 { good_s: 60 }] {
                stranger.expect(manner, ("GET", &target), (403, code)).await?;
            }
        }
        self.expect(plain, ("GET", &target), (404, "NoSuchKey")).await.map(drop)
    }

    /// Checksums, headers that it wants otherwise, folders, and lists of the older kind.
    async fn look_closely(&self, bucket: &str, own: &str) -> Result<(), Error> {
        let (folder, body) = (format!("{own}/"), b"what a room keeps");
        let (target, sum) = (format!("/{bucket}/{folder}it"), checksum(body));
        let sums = [("x-amz-checksum-sha256", &*sum)];
        self.ask(("PUT", &target), &sums, body, &Framing::Whole).await?;
        let shows = [("x-amz-checksum-mode", "ENABLED")];
        let head = self.ask(("HEAD", &target), &shows, b"", &Framing::Whole).await?;
        if head.headers.get("x-amz-checksum-sha256") != Some(&sum) {
            return Err(Error::bug("an object has another checksum than it was given").with("object", target));
        }
        let otherwise = format!("{target}?response-content-type=text%2Fplain");
        let shown = self.ask(("GET", &otherwise), &shows, b"", &Framing::Whole).await?;
        if shown.headers.get(KIND.0).map(String::as_str) != Some("text/plain") {
            return Err(Error::bug("an object is not shown as what it is wanted").with("object", target));
        }
        self.ask(("GET", &format!("/{bucket}?versioning")), &[], b"", &Framing::Whole).await?;
        let prefix = format!("/{bucket}?delimiter=%2F&prefix={own}");
        for kind in ["", "&list-type=2&fetch-owner=true", "&encoding-type=url"] {
            let listed = self.ask(("GET", &format!("{prefix}{kind}")), &[], b"", &Framing::Whole).await?;
            let text = String::from_utf8_lossy(&listed.body);
            if !text.contains(&format!("<CommonPrefixes><Prefix>{}", folder.trim_end_matches('/'))) {
                return Err(Error::bug("a folder is not listed").with("list", text));
            }
        }
        self.remove(bucket, &format!("{folder}it")).await
    }

    async fn look_at_uploads(&self, bucket: &str, own: &str) -> Result<(), Error> {
        let get = async |target: &str| self.ask(("GET", target), &[], b"", &Framing::Whole).await;
        let known = get("/").await?;
        if !String::from_utf8_lossy(&known.body).contains(&format!("<Name>{bucket}</Name>")) {
            return Err(Error::bug("a bucket is not listed").with("bucket", bucket));
        }
        get(&format!("/{bucket}?location")).await?;
        let own = format!("/{own}");
        self.ask(("PUT", &own), &[], b"", &Framing::Whole).await?;
        self.ask(("DELETE", &own), &[], b"", &Framing::Whole).await?;
        self.ask(("HEAD", &format!("/{bucket}")), &[], b"", &Framing::Whole).await?;
        let target = format!("/{bucket}/own-upload");
        let upload = self.begin_upload(&target).await?;
        let part = format!("{target}?partNumber=7&uploadId={upload}");
        self.ask(("PUT", &part), &[], b"a part", &Framing::Whole).await?;
        let parts = get(&format!("{target}?uploadId={upload}")).await?;
        if element(&parts, "PartNumber").as_deref() != Some("7") {
            return Err(Error::bug("an upload lists other parts than it has").with("upload", upload));
        }
        let uploads = get(&format!("/{bucket}?prefix=own-upload&uploads")).await?;
        if !String::from_utf8_lossy(&uploads.body).contains(&upload) {
            return Err(Error::bug("an upload is not listed").with("upload", upload));
        }
        self.ask(("DELETE", &format!("{target}?uploadId={upload}")), &[], b"", &Framing::Whole).await.map(drop)
    }

    /// One request to one host.
    async fn ask(
        &self,
        what: (&str, &str),
        headers: &[(&str, &str)],
        body: &[u8],
        framing: &Framing<'_>,
    ) -> Result<Reply, Error> {
        self.ask_in(Manner::Signed { headers, body, framing }, what).await
    }

    /// Whose turn it is.
    fn host(&self) -> Result<SocketAddr, Error> {
        let host = self.hosts.get(self.at.load(Relaxed) % self.hosts.len().max(1)).copied();
        host.ok_or_else(|| Error::new(ErrorKind::Unreachable, "no host is known"))
    }

    async fn ask_in(&self, manner: Manner<'_>, what: (&str, &str)) -> Result<Reply, Error> {
        let asked = tokio::time::timeout(PATIENCE, self.ask_at(self.host()?, manner, what)).await;
        let asked = asked.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "no answer came")));
        if asked.as_ref().is_err_and(|error| !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Precondition)) {
            self.at.fetch_add(1, Relaxed);
        }
        asked
    }

    async fn ask_at(&self, host: SocketAddr, manner: Manner<'_>, what: (&str, &str)) -> Result<Reply, Error> {
        let (reply, (method, _)) = (self.exchange(host, manner, what).await?, what);
        match reply.status {
            200..300 => Ok(reply),
            // A HEAD has no body to say more.
            404 if method == "HEAD" => Err(refusal("NoSuchKey").with("host", host)),
            500 | 503 if method == "HEAD" => Err(refusal("ServiceUnavailable").with("host", host)),
            _ => Err(refusal(&reply.code()).with("host", host).with("status", reply.status)),
        }
    }

    /// One request that comes to this and nothing else, unless no answer comes or one that says to send it again.
    async fn expect(&self, manner: Manner<'_>, what: (&str, &str), verdict: Verdict) -> Result<Reply, Error> {
        let host = self.host()?;
        let asked = tokio::time::timeout(PATIENCE, self.exchange(host, manner, what)).await;
        let asked = asked.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "no answer came")));
        let reply = asked.inspect_err(|_| {
            self.at.fetch_add(1, Relaxed);
        })?;
        let (status, code) = reply.verdict();
        if (status, code.as_str()) == verdict {
            return Ok(reply);
        }
        self.at.fetch_add(1, Relaxed);
        if matches!(status, 500 | 503) {
            return Err(refusal("ServiceUnavailable").with("host", host));
        }
        Err(Error::bug("a front end answered otherwise than it must")
            .with("asked", format!("{what:?}"))
            .with("status", status)
            .with("code", code)
            .with("in place of", format!("{verdict:?}")))
    }

    async fn exchange(
        &self,
        host: SocketAddr,
        manner: Manner<'_>,
        (method, target): (&str, &str),
    ) -> Result<Reply, Error> {
        let mut stream = self.street.connect(host).map_err(|error| {
            Error::new(ErrorKind::Unreachable, "a front end takes no connection").with("host", host).caused_by(error)
        })?;
        let broken = |error| Error::new(ErrorKind::LinkLost, "a connection broke").with("host", host).caused_by(error);
        let name = host.to_string();
        let request = match manner {
            Manner::Signed { headers, body, framing } => {
                self.signer.request(&name, (method, target), headers, body, framing)
            }
            Manner::Presigned => self.signer.presigned(&name, (method, target)).map(|head| (head, Vec::new())),
            Manner::Presigned2 { good_s } => {
                let until = (self.time.wall().0 / 1000).saturating_add_signed(good_s);
                Ok((self.signer.presigned_2(&name, (method, target), until), Vec::new()))
            }
        };
        let (head, body) = request.map_err(broken)?;
        // Who refuses early closes before everything is sent: its answer counts.
        let sent = async {
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&body).await
        };
        let sent = sent.await;
        let reply = Reply::read(&mut stream, method).await.map_err(|error| broken(sent.err().unwrap_or(error)))?;
        if reply.cut {
            return Err(Error::new(ErrorKind::LinkLost, "an answer was cut short").with("host", host));
        }
        Ok(reply)
    }
}

/// How a request is signed.
#[derive(Clone, Copy)]
enum Manner<'a> {
    Signed {
        headers: &'a [(&'a str, &'a str)],
        body: &'a [u8],
        framing: &'a Framing<'a>,
    },
    Presigned,
    /// Good for so many seconds from now.
    Presigned2 {
        good_s: i64,
    },
}

/// What it says of what it stores.
const META: (&str, &str) = ("x-amz-meta-from", "a room");
const KIND: (&str, &str) = ("content-type", "application/x-room");

/// What stands in the first element of this name.
fn element(reply: &Reply, name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(&reply.body);
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0.to_owned())
}

fn etag(reply: &Reply) -> Result<String, Error> {
    reply.headers.get("etag").cloned().ok_or_else(|| Error::bug("an answer without an ETag"))
}

/// An answer that began well may say in its body that it did not end well.
fn expect_done(reply: &Reply) -> Result<(), Error> {
    match reply.code().as_str() {
        "" => Ok(()),
        code => Err(refusal(code)),
    }
}

/// As it stands in a query.
fn percent(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// What a refusal means for a history. What says to send it again may have done it: a gateway does not say how certain it is.
fn refusal(code: &str) -> Error {
    let kind = match code {
        "NoSuchKey" => ErrorKind::NotFound,
        "NoSuchUpload" => ErrorKind::NoSuchUpload,
        "PreconditionFailed" => ErrorKind::Precondition,
        "SlowDown" | "ServiceUnavailable" | "InternalError" | "RequestTimeout" | "ConditionalRequestConflict" => {
            ErrorKind::LinkLost
        }
        "AccessDenied" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" => ErrorKind::Denied,
        _ => ErrorKind::Bug,
    };
    Error::new(kind, "a front end refused").with("code", code)
}
