//! Clients of S3: signed requests through the front ends of hosts, in turn.

mod looks;

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

use super::{
    Seen,
    user::{acknowledged, nothing_yet},
};
use crate::nodes::{street::Street, time::RoomTime};

/// An SDK that repeats nothing: it goes to the next host after one that did not answer well.
pub(super) struct Gateways {
    street: Arc<Street>,
    time: Arc<RoomTime>,
    hosts: Vec<SocketAddr>,
    at: AtomicUsize,
    asked: AtomicUsize,
    signer: Signer,
    /// For whom each answer counts; nobody: for none.
    who: Option<(Arc<Seen>, usize)>,
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
        Self { street, time, hosts, at: AtomicUsize::new(0), asked: AtomicUsize::new(0), signer, who: None }
    }

    /// Of a client that is to be answered: each request by itself, for there are looks of many.
    pub(super) fn of(self, seen: Arc<Seen>, who: usize) -> Self {
        Self { who: Some((seen, who)), ..self }
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
            503 if method == "HEAD" => Err(refusal("ServiceUnavailable").with("host", host)),
            _ => Err(refusal(&reply.code()).with("host", host).with("status", reply.status)),
        }
    }

    /// One request that comes to this and nothing else, unless no answer comes or one that says to send it again.
    async fn expect(&self, manner: Manner<'_>, what: (&str, &str), verdict: Verdict) -> Result<Reply, Error> {
        let reply = self.exchange_in_time(manner, what).await?;
        let (status, code) = reply.verdict();
        if (status, code.as_str()) == verdict { Ok(reply) } else { Err(self.otherwise(status, code, what, verdict)) }
    }

    /// As [`Self::expect`] of what may only say in its body, after it has begun well, that it did not end well.
    async fn expect_complaint(&self, manner: Manner<'_>, what: (&str, &str), verdict: Verdict) -> Result<(), Error> {
        let reply = self.exchange_in_time(manner, what).await?;
        let (status, code) = reply.verdict();
        if (status == 200 || status == verdict.0) && reply.code() == verdict.1 {
            return Ok(());
        }
        Err(self.otherwise(status, code, what, verdict))
    }

    async fn exchange_in_time(&self, manner: Manner<'_>, what: (&str, &str)) -> Result<Reply, Error> {
        let host = self.host()?;
        let asked = tokio::time::timeout(PATIENCE, self.exchange(host, manner, what)).await;
        let asked = asked.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "no answer came")));
        asked.inspect_err(|_| {
            self.at.fetch_add(1, Relaxed);
        })
    }

    /// An answer that was not expected.
    fn otherwise(&self, status: u16, code: String, what: (&str, &str), verdict: Verdict) -> Error {
        self.at.fetch_add(1, Relaxed);
        if status == 503 || ["ServiceUnavailable", "SlowDown"].contains(&&*code) {
            return refusal("ServiceUnavailable");
        }
        Error::bug("a front end answered otherwise than it must")
            .with("asked", format!("{what:?}"))
            .with("status", status)
            .with("code", code)
            .with("in place of", format!("{verdict:?}"))
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
            Manner::Nobody => {
                let head = format!("{method} {target} HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
                Ok((head, Vec::new()))
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
        if let Some((seen, who)) = self.who.as_ref().filter(|_| reply.status < 500) {
            seen.answered(*who);
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
    /// Not at all.
    Nobody,
    Presigned,
    /// Good for so many seconds from now.
    Presigned2 {
        good_s: i64,
    },
}

impl<'a> Manner<'a> {
    /// With the hash of the body in the head.
    const fn whole(headers: &'a [(&'a str, &'a str)], body: &'a [u8]) -> Self {
        Self::Signed { headers, body, framing: &Framing::Whole }
    }
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
        "SlowDown" | "ServiceUnavailable" | "RequestTimeout" | "ConditionalRequestConflict" => ErrorKind::LinkLost,
        "AccessDenied" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" => ErrorKind::Denied,
        _ => ErrorKind::Bug,
    };
    Error::new(kind, "a front end refused").with("code", code)
}
