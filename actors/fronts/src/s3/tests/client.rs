//! A small S3 client over a plain socket.

use std::net::SocketAddr;

use tokio::{io::AsyncWriteExt as _, net::TcpStream};

pub(super) use crate::s3::client::{Framing, Reply};
use crate::s3::{client::Signer, presigned::hmac_sha1, text::base64};

/// Signs and sends.
#[derive(Clone)]
pub(super) struct Client {
    address: SocketAddr,
    access: &'static str,
    secret: &'static str,
    signer: Signer,
    /// What its requests name as their host, if that is not the address.
    host: Option<&'static str>,
}

impl Client {
    pub(super) fn new(address: SocketAddr, access: &'static str, secret: &'static str) -> Self {
        Self { address, access, secret, signer: Signer::new(access, secret), host: None }
    }

    /// The same, with requests that name another host.
    pub(super) fn at(self, host: &'static str) -> Self {
        Self { host: Some(host), ..self }
    }

    /// A URL's path and query, signed by version 2 and good for so many seconds from now.
    pub(super) fn presigned_v2(&self, method: &str, path: &str, ahead_s: i64) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        let expires = now.saturating_add_signed(ahead_s);
        let text = format!("{method}\n\n\n{expires}\n{path}");
        let signature = base64(&hmac_sha1(self.secret.as_bytes(), text.as_bytes()));
        let signature = signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        format!("{path}?AWSAccessKeyId={}&Signature={signature}&Expires={expires}", self.access)
    }

    /// Sends without a signature of its own.
    pub(super) async fn unsigned(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.address);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        let mut stream = TcpStream::connect(self.address).await.expect("listening");
        stream.write_all(&[head.as_bytes(), body].concat()).await.expect("taken");
        reply(&mut stream, method).await
    }

    /// With a signed payload and no more headers than it takes.
    pub(super) async fn send(&self, method: &str, target: &str, body: &[u8]) -> Reply {
        self.with(method, target, &[], body, &Framing::Whole).await
    }

    /// With headers, and a payload as `framing` says.
    pub(super) async fn with(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        framing: &Framing<'_>,
    ) -> Reply {
        let (head, body) = self.request(method, target, headers, body, framing);
        let mut stream = TcpStream::connect(self.address).await.expect("listening");
        stream.write_all(head.as_bytes()).await.expect("taken");
        // A server that refuses early may close before it has read everything: its answer counts.
        let sent = stream.write_all(&body).await;
        let reply = reply(&mut stream, method).await;
        assert!(sent.is_ok() || reply.status >= 400, "the server took everything or refused");
        reply
    }

    /// The bytes of a request: head and body.
    pub(super) fn request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        framing: &Framing<'_>,
    ) -> (String, Vec<u8>) {
        let host = self.host.map_or_else(|| self.address.to_string(), str::to_owned);
        self.signer.request(&host, (method, target), headers, body, framing).expect("a time")
    }
}

/// Reads a response to its end, or to that of its connection.
pub(super) async fn reply(stream: &mut TcpStream, method: &str) -> Reply {
    Reply::read(stream, method).await.expect("a response")
}
