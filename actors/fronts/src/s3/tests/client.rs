//! A small S3 client: signature version 4 over a plain socket, with every part of a request in the test's hand.

use std::{collections::BTreeMap, net::SocketAddr};

use s3s::crypto::{Checksum as _, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::s3::{
    presigned::hmac_sha1,
    text::{base64, hex},
};

/// Signs and sends.
#[derive(Clone)]
pub(super) struct Client {
    address: SocketAddr,
    access: &'static str,
    secret: &'static str,
    /// What its requests name as their host, if that is not the address.
    host: Option<&'static str>,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
    /// The connection ended before the body did.
    pub(super) cut: bool,
}

impl Reply {
    /// The S3 code of an error.
    pub(super) fn code(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        code.map(|(code, _)| code.to_owned()).unwrap_or_default()
    }

    /// Status and code, for a short assertion.
    pub(super) fn verdict(&self) -> (u16, String) {
        (self.status, self.code())
    }
}

/// How the payload is signed and framed.
pub(super) enum Framing<'a> {
    /// SHA-256 of the body in the head.
    Whole,
    /// Not signed.
    Unsigned,
    /// aws-chunked without signatures, in chunks of so many bytes, and a trailer.
    Chunked(usize, &'a str),
    /// aws-chunked with a signature for each chunk of so many bytes.
    Signed(usize),
}

impl Client {
    pub(super) fn new(address: SocketAddr, access: &'static str, secret: &'static str) -> Self {
        Self { address, access, secret, host: None }
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
        let now = now_text();
        let date = now[..10].replace('-', "");
        let time = format!("{date}T{}Z", now[11..19].replace(':', ""));
        let payload = match framing {
            Framing::Whole => sha(body),
            Framing::Unsigned => "UNSIGNED-PAYLOAD".to_owned(),
            Framing::Chunked(..) => "STREAMING-UNSIGNED-PAYLOAD-TRAILER".to_owned(),
            Framing::Signed(_) => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD".to_owned(),
        };
        let mut all: BTreeMap<String, String> =
            headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned())).collect();
        all.insert("host".into(), self.host.map_or_else(|| self.address.to_string(), str::to_owned));
        all.insert("x-amz-date".into(), time.clone());
        all.insert("x-amz-content-sha256".into(), payload.clone());
        if matches!(framing, Framing::Chunked(..) | Framing::Signed(_)) {
            all.insert("x-amz-decoded-content-length".into(), body.len().to_string());
            all.insert("content-encoding".into(), "aws-chunked".into());
        }
        if let Framing::Chunked(_, trailer) = framing {
            let names: Vec<&str> = trailer.lines().filter_map(|line| Some(line.split_once(':')?.0)).collect();
            all.entry("x-amz-trailer".into()).or_insert_with(|| names.join(","));
        }
        let names = all.keys().cloned().collect::<Vec<_>>().join(";");
        let canonical: String = all
            .iter()
            .map(|(name, value)| format!("{name}:{}\n", value.split_whitespace().collect::<Vec<_>>().join(" ")))
            .collect();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut query: Vec<String> = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| if pair.contains('=') { pair.to_owned() } else { format!("{pair}=") })
            .collect();
        query.sort();
        let canonical = format!("{method}\n{path}\n{}\n{canonical}\n{names}\n{payload}", query.join("&"));
        let scope = format!("{date}/us-east-1/s3/aws4_request");
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha(canonical.as_bytes()));
        let key = self.signing_key(&date);
        let signature = hex(&hmac(&key, to_sign.as_bytes()));
        let framed = match framing {
            Framing::Whole | Framing::Unsigned => body.to_vec(),
            Framing::Chunked(size, trailer) => {
                let mut framed = Vec::new();
                for chunk in body.chunks(*size) {
                    framed.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    framed.extend_from_slice(chunk);
                    framed.extend_from_slice(b"\r\n");
                }
                framed.extend_from_slice(format!("0\r\n{trailer}\r\n\r\n").as_bytes());
                framed
            }
            Framing::Signed(size) => {
                let mut framed = Vec::new();
                let mut previous = signature.clone();
                for chunk in body.chunks(*size).chain([&[][..]]) {
                    let to_sign =
                        format!("AWS4-HMAC-SHA256-PAYLOAD\n{time}\n{scope}\n{previous}\n{}\n{}", sha(b""), sha(chunk));
                    previous = hex(&hmac(&key, to_sign.as_bytes()));
                    framed.extend_from_slice(format!("{:x};chunk-signature={previous}\r\n", chunk.len()).as_bytes());
                    framed.extend_from_slice(chunk);
                    framed.extend_from_slice(b"\r\n");
                }
                framed
            }
        };
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        for (name, value) in &all {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!(
            "authorization: AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}\r\n",
            self.access
        ));
        if !all.contains_key("content-length") {
            head.push_str(&format!("content-length: {}\r\n", framed.len()));
        }
        head.push_str("connection: close\r\n\r\n");
        (head, framed)
    }

    fn signing_key(&self, date: &str) -> [u8; 32] {
        let key = hmac(format!("AWS4{}", self.secret).as_bytes(), date.as_bytes());
        let key = hmac(&hmac(&key, b"us-east-1"), b"s3");
        hmac(&key, b"aws4_request")
    }
}

/// Reads a response to its end, or to that of its connection.
pub(super) async fn reply(stream: &mut TcpStream, method: &str) -> Reply {
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes).await.is_ok();
    let at = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or_else(|| {
        panic!("no response ({} bytes came, ended well: {ended})", bytes.len());
    });
    let head = String::from_utf8(bytes[..at].to_vec()).expect("text");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut body = bytes.split_off(at + 4);
    let mut cut = !ended;
    if headers.get("transfer-encoding").is_some_and(|encoding| encoding == "chunked") {
        (body, cut) = unchunk(&body);
    } else if let Some(len) = headers.get("content-length").and_then(|len| len.parse::<usize>().ok())
        && method != "HEAD"
    {
        cut |= body.len() < len;
    }
    Reply { status: status.expect("a status"), headers, body, cut }
}

fn unchunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(at) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let size = core::str::from_utf8(&rest[..at]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let Some(size) = size.filter(|size| rest.len() >= at + 4 + size) else { break };
        if size == 0 {
            return (body, false);
        }
        body.extend_from_slice(&rest[at + 2..at + 2 + size]);
        rest = &rest[at + 4 + size..];
    }
    (body, true)
}

pub(super) fn sha(bytes: &[u8]) -> String {
    hex(&Sha256::checksum(bytes))
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    if key.len() > 64 {
        block[..32].copy_from_slice(&Sha256::checksum(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner: Vec<u8> = block.iter().map(|byte| byte ^ 0x36).chain(message.iter().copied()).collect();
    let outer: Vec<u8> = block.iter().map(|byte| byte ^ 0x5c).chain(Sha256::checksum(&inner)).collect();
    Sha256::checksum(&outer)
}

/// Now, as `yyyy-mm-ddThh:mm:ss.mmmZ`.
fn now_text() -> String {
    let mut text = Vec::new();
    s3s::dto::Timestamp::from(std::time::SystemTime::now())
        .format(s3s::dto::TimestampFormat::DateTime, &mut text)
        .expect("a time");
    String::from_utf8(text).expect("text")
}
