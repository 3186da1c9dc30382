//! Clients of S3: signed requests through the front ends of hosts, in turn.

use core::{net::SocketAddr, time::Duration};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use mesh_core::{Error, ErrorKind};
use mesh_fronts::s3::client::{Framing, Reply, Signer};
use tokio::io::AsyncWriteExt as _;

use crate::nodes::street::Street;

/// An SDK that repeats nothing: it goes to the next host after one that did not answer well.
pub(super) struct Gateways {
    street: Arc<Street>,
    hosts: Vec<SocketAddr>,
    at: AtomicUsize,
    asked: AtomicUsize,
    signer: Signer,
}

/// How long it waits for an answer: longer than a request's budget.
const PATIENCE: Duration = Duration::from_secs(40);
/// What is longer goes in parts, every other time.
const WHOLE_MAX: usize = 50_000;

impl Gateways {
    pub(super) fn new(street: Arc<Street>, hosts: Vec<SocketAddr>, signer: Signer) -> Self {
        Self { street, hosts, at: AtomicUsize::new(0), asked: AtomicUsize::new(0), signer }
    }

    pub(super) async fn put(&self, bucket: &str, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let target = format!("/{bucket}/{name}");
        let turn = self.asked.fetch_add(1, Relaxed);
        if bytes.len() > WHOLE_MAX && turn.is_multiple_of(2) {
            return self.put_in_parts(&target, bytes).await;
        }
        let framing = [Framing::Whole, Framing::Unsigned, Framing::Signed(8 << 10)];
        let framing = framing.get(turn % framing.len()).unwrap_or(&Framing::Whole);
        self.ask(("PUT", &target), bytes, framing).await.map(drop)
    }

    /// Only the last request makes it visible.
    async fn put_in_parts(&self, target: &str, bytes: &[u8]) -> Result<(), Error> {
        let nothing_yet = |error: Error| match error.kind() {
            kind @ (ErrorKind::Denied | ErrorKind::Bug) => Error::new(kind, error.to_string()),
            _ => Error::new(ErrorKind::Unreachable, "an upload did not come to its completion").caused_by(error),
        };
        let begun =
            self.ask(("POST", &format!("{target}?uploads")), b"", &Framing::Whole).await.map_err(nothing_yet)?;
        let text = String::from_utf8_lossy(&begun.body);
        let upload = text.split_once("<UploadId>").and_then(|(_, rest)| rest.split_once("</UploadId>"));
        let (upload, _) = upload.ok_or_else(|| Error::new(ErrorKind::Bug, "an upload without an id"))?;
        let part = format!("{target}?partNumber=1&uploadId={upload}");
        let part = self.ask(("PUT", &part), bytes, &Framing::Unsigned).await.map_err(nothing_yet)?;
        let etag = part.headers.get("etag").ok_or_else(|| Error::new(ErrorKind::Bug, "a part without an ETag"))?;
        let list = format!(
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
        );
        let complete = format!("{target}?uploadId={upload}");
        let completed = self.ask(("POST", &complete), list.as_bytes(), &Framing::Whole).await?;
        // A completion that takes long says that it goes on before it knows what it comes to.
        match completed.code().as_str() {
            "" => Ok(()),
            code => Err(refusal(code)),
        }
    }

    pub(super) async fn get(&self, bucket: &str, name: &str) -> Result<Vec<u8>, Error> {
        let target = format!("/{bucket}/{name}");
        self.ask(("GET", &target), b"", &Framing::Whole).await.map(|reply| reply.body)
    }

    pub(super) async fn remove(&self, bucket: &str, name: &str) -> Result<(), Error> {
        let target = format!("/{bucket}/{name}");
        self.ask(("DELETE", &target), b"", &Framing::Whole).await.map(drop)
    }

    /// One request to one host.
    async fn ask(&self, (method, target): (&str, &str), body: &[u8], framing: &Framing<'_>) -> Result<Reply, Error> {
        let host = self.hosts.get(self.at.load(Relaxed) % self.hosts.len()).copied();
        let host = host.ok_or_else(|| Error::new(ErrorKind::Unreachable, "no host is known"))?;
        let asked = tokio::time::timeout(PATIENCE, self.ask_at(host, (method, target), body, framing)).await;
        let asked = asked.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "no answer came")));
        if asked.as_ref().is_err_and(|error| error.kind() != ErrorKind::NotFound) {
            self.at.fetch_add(1, Relaxed);
        }
        asked
    }

    async fn ask_at(
        &self,
        host: SocketAddr,
        (method, target): (&str, &str),
        body: &[u8],
        framing: &Framing<'_>,
    ) -> Result<Reply, Error> {
        let mut stream = self.street.connect(host).map_err(|error| {
            Error::new(ErrorKind::Unreachable, "a front end takes no connection").with("host", host).caused_by(error)
        })?;
        let broken = |error| Error::new(ErrorKind::LinkLost, "a connection broke").with("host", host).caused_by(error);
        let (head, body) =
            self.signer.request(&host.to_string(), (method, target), &[], body, framing).map_err(broken)?;
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
        match reply.status {
            200..300 => Ok(reply),
            _ => Err(refusal(&reply.code()).with("host", host).with("status", reply.status)),
        }
    }
}

/// What a refusal means for a history. What says to send it again may have done it: a gateway does not say how certain it is.
fn refusal(code: &str) -> Error {
    let kind = match code {
        "NoSuchKey" => ErrorKind::NotFound,
        "SlowDown" | "ServiceUnavailable" | "InternalError" | "RequestTimeout" => ErrorKind::LinkLost,
        // Whoever completes or removes twice.
        "NoSuchUpload" => ErrorKind::LinkLost,
        "AccessDenied" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" => ErrorKind::Denied,
        _ => ErrorKind::Bug,
    };
    Error::new(kind, "a front end refused").with("code", code)
}
