//! The other side: requests signed by version 4 with every part in the caller's hand, and answers. For tests and simulations;
//! it is no client for anything else.

use std::{collections::BTreeMap, io};

use s3s::{
    crypto::{Checksum as _, Sha256},
    dto::{Timestamp, TimestampFormat},
};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{
    presigned::hmac_sha1,
    text::{base64, hex},
};

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// Of HTTP.
    pub status: u16,
    /// By their names in small letters.
    pub headers: BTreeMap<String, String>,
    /// As far as it came.
    pub body: Vec<u8>,
    /// The connection ended before the body did.
    pub cut: bool,
}

impl Reply {
    /// The S3 code of an error.
    #[must_use]
    pub fn code(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        code.map(|(code, _)| code.to_owned()).unwrap_or_default()
    }

    /// Status and code.
    #[must_use]
    pub fn verdict(&self) -> (u16, String) {
        (self.status, self.code())
    }
}

/// How the payload is signed and framed.
#[derive(Clone, Copy, Debug)]
pub enum Framing<'a> {
    /// SHA-256 of the body in the head.
    Whole,
    /// Not signed.
    Unsigned,
    /// aws-chunked without signatures, in chunks of so many bytes, and a trailer.
    Chunked(usize, &'a str),
    /// aws-chunked with a signature for each chunk of so many bytes.
    Signed(usize),
}

/// Signs requests with an access key.
#[derive(Clone)]
pub struct Signer {
    access: String,
    secret: String,
}

impl core::fmt::Debug for Signer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Signer({})", self.access)
    }
}

impl Signer {
    /// With the two halves of an access key.
    #[must_use]
    pub fn new(access: &str, secret: &str) -> Self {
        Self { access: access.to_owned(), secret: secret.to_owned() }
    }

    /// One that has another secret for the same access key.
    #[must_use]
    pub fn forged(&self) -> Self {
        Self { secret: format!("not {}", self.secret), ..self.clone() }
    }

    /// One whose access key nobody knows.
    #[must_use]
    pub fn unknown(&self) -> Self {
        Self { access: format!("NOT{}", self.access), ..self.clone() }
    }

    /// The bytes of a request, as of now: head and body. It ends its connection.
    ///
    /// # Errors
    /// If the clock is out of all bounds.
    pub fn request(
        &self,
        host: &str,
        (method, target): (&str, &str),
        headers: &[(&str, &str)],
        body: &[u8],
        framing: &Framing<'_>,
    ) -> io::Result<(String, Vec<u8>)> {
        let time = now_text()?;
        let date = time.get(..8).unwrap_or_default();
        let payload = match framing {
            Framing::Whole => sha(body),
            Framing::Unsigned => "UNSIGNED-PAYLOAD".to_owned(),
            Framing::Chunked(..) => "STREAMING-UNSIGNED-PAYLOAD-TRAILER".to_owned(),
            Framing::Signed(_) => "STREAMING-AWS4-HMAC-SHA256-PAYLOAD".to_owned(),
        };
        let mut all: BTreeMap<String, String> =
            headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned())).collect();
        all.insert("host".into(), host.to_owned());
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
        let key = self.signing_key(date);
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
        Ok((head, framed))
    }

    /// The bytes of a request by a presigned URL, good for a minute from now.
    ///
    /// # Errors
    /// If the clock is out of all bounds.
    pub fn presigned(&self, host: &str, (method, target): (&str, &str)) -> io::Result<String> {
        let time = now_text()?;
        let date = time.get(..8).unwrap_or_default();
        let scope = format!("{date}/us-east-1/s3/aws4_request");
        let credential = format!("{}/{scope}", self.access).replace('/', "%2F");
        let query = format!(
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={credential}&X-Amz-Date={time}&X-Amz-Expires=60&\
             X-Amz-SignedHeaders=host"
        );
        let canonical = format!("{method}\n{target}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD");
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha(canonical.as_bytes()));
        let signature = hex(&hmac(&self.signing_key(date), to_sign.as_bytes()));
        Ok(format!(
            "{method} {target}?{query}&X-Amz-Signature={signature} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        ))
    }

    /// The bytes of a request by a URL presigned by version 2, good until so many seconds since 1970. `target` has no query.
    #[must_use]
    pub fn presigned_2(&self, host: &str, (method, target): (&str, &str), expires_s: u64) -> String {
        let to_sign = format!("{method}\n\n\n{expires_s}\n{target}");
        let signature = base64(&hmac_sha1(self.secret.as_bytes(), to_sign.as_bytes()));
        let signature = signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        let query = format!("AWSAccessKeyId={}&Expires={expires_s}&Signature={signature}", self.access);
        format!("{method} {target}?{query} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
    }

    fn signing_key(&self, date: &str) -> [u8; 32] {
        let key = hmac(format!("AWS4{}", self.secret).as_bytes(), date.as_bytes());
        let key = hmac(&hmac(&key, b"us-east-1"), b"s3");
        hmac(&key, b"aws4_request")
    }
}

impl Reply {
    /// Reads a response to its end, or to that of its connection.
    ///
    /// # Errors
    /// If no whole head of a response came.
    pub async fn read(stream: &mut (impl AsyncRead + Unpin), method: &str) -> io::Result<Self> {
        let mut bytes = Vec::new();
        let ended = stream.read_to_end(&mut bytes).await;
        let none = || io::Error::new(io::ErrorKind::UnexpectedEof, format!("no response: {} bytes came", bytes.len()));
        let (head, body) =
            bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| bytes.split_at(at)).ok_or_else(none)?;
        let head = String::from_utf8_lossy(head);
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(none)?;
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut body = body.get(4..).unwrap_or_default().to_vec();
        let mut cut = ended.is_err();
        if headers.get("transfer-encoding").is_some_and(|encoding| encoding == "chunked") {
            (body, cut) = unchunk(&body);
        } else if let Some(len) = headers.get("content-length").and_then(|len| len.parse::<usize>().ok())
            && method != "HEAD"
        {
            cut |= body.len() < len;
        }
        Ok(Self { status, headers, body, cut })
    }
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

/// The value of `x-amz-checksum-sha256`.
#[must_use]
pub fn checksum(bytes: &[u8]) -> String {
    base64(&Sha256::checksum(bytes))
}

fn sha(bytes: &[u8]) -> String {
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

/// Now, as `yyyymmddThhmmssZ`.
fn now_text() -> io::Result<String> {
    let mut text = Vec::new();
    Timestamp::from(std::time::SystemTime::now())
        .format(TimestampFormat::DateTime, &mut text)
        .map_err(io::Error::other)?;
    // From `yyyy-mm-ddThh:mm:ss.mmmZ`.
    let text = String::from_utf8_lossy(&text);
    let seconds = text.split('.').next().unwrap_or_default();
    Ok(seconds.chars().filter(|one| !matches!(one, '-' | ':')).chain(['Z']).collect())
}
