//! The load: an S3 client that does as little as one can, so that the server's work is what is seen.
//!
//! Heads are signed (SigV4, `UNSIGNED-PAYLOAD`) before the clock runs; a connection is kept for a whole phase; bodies
//! come from and go to memory that is there already. Whatever is not the expected answer ends the bench.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{digest, hmac};

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Credentials {
    pub(crate) access: String,
    pub(crate) secret: String,
    pub(crate) region: String,
}

/// A signed head of a request without its body.
pub(crate) struct Head(String);

impl Head {
    /// `path` needs no escapes. Good for a quarter of an hour from now, as every signature.
    pub(crate) fn signed(
        method: &str,
        address: SocketAddr,
        path: &str,
        body_bytes: usize,
        credentials: &Credentials,
    ) -> Self {
        let Credentials { access, secret, region } = credentials;
        let time = compact_time(SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970"));
        let date = &time[..8];
        let scope = format!("{date}/{region}/s3/aws4_request");
        let canonical = format!(
            "{method}\n{path}\n\nhost:{address}\nx-amz-content-sha256:{PAYLOAD}\nx-amz-date:{time}\n\n{NAMES}\n{PAYLOAD}"
        );
        let digest = digest::digest(&digest::SHA256, canonical.as_bytes());
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(digest.as_ref()));
        let key = [date, region, "s3", "aws4_request"]
            .iter()
            .fold(format!("AWS4{secret}").into_bytes(), |key, part| mac(&key, part.as_bytes()));
        let signature = hex(&mac(&key, to_sign.as_bytes()));
        Self(format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nx-amz-content-sha256: {PAYLOAD}\r\nx-amz-date: {time}\r\n\
             authorization: AWS4-HMAC-SHA256 Credential={access}/{scope}, SignedHeaders={NAMES}, \
             Signature={signature}\r\ncontent-length: {body_bytes}\r\n\r\n"
        ))
    }
}

const PAYLOAD: &str = "UNSIGNED-PAYLOAD";
const NAMES: &str = "host;x-amz-content-sha256;x-amz-date";

fn mac(key: &[u8], data: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `20260131T235959Z`, by Howard Hinnant's days-to-civil.
fn compact_time(since_1970: Duration) -> String {
    let (days, seconds) = (since_1970.as_secs() / 86_400, since_1970.as_secs() % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// A connection that is kept.
pub(crate) struct Connection {
    stream: TcpStream,
    /// What has come and was not taken, in `..filled`.
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, buffer: vec![0; HEAD_MAX], filled: 0 })
    }

    /// Sends a request whose body is all of `parts`; the answer's body goes into `into`, which is made as long as it.
    /// Returns the status.
    pub(crate) fn ask(&mut self, head: &Head, parts: &[&[u8]], into: &mut Vec<u8>) -> io::Result<u16> {
        self.stream.write_all(head.0.as_bytes())?;
        for part in parts {
            self.stream.write_all(part)?;
        }
        let (head, length) = self.head()?;
        let text = core::str::from_utf8(&head).map_err(|_| invalid("a head that is no text"))?;
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| invalid("no status"))?;
        into.resize(length, 0);
        let early = self.filled.min(length);
        into[..early].copy_from_slice(&self.buffer[..early]);
        self.buffer.copy_within(early..self.filled, 0);
        self.filled -= early;
        self.stream.read_exact(&mut into[early..])?;
        Ok(status)
    }

    /// Reads up to the end of a head; how long the body after it is, is in `content-length`, and nowhere else here.
    fn head(&mut self) -> io::Result<(Vec<u8>, usize)> {
        loop {
            if let Some((head, body)) = split_head(&self.buffer[..self.filled])? {
                let (head, used) = (head.to_vec(), self.filled - body.len());
                let length = content_length(&head)?;
                self.buffer.copy_within(used..self.filled, 0);
                self.filled -= used;
                return Ok((head, length));
            }
            let read = self.stream.read(&mut self.buffer[self.filled..])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.filled += read;
        }
    }
}

/// A head and what follows it; `None` while its end has not come.
pub(crate) fn split_head(bytes: &[u8]) -> io::Result<Option<(&[u8], &[u8])>> {
    match bytes.windows(4).position(|window| window == b"\r\n\r\n") {
        Some(at) => Ok(Some((&bytes[..at + 2], &bytes[at + 4..]))),
        None if bytes.len() >= HEAD_MAX => Err(invalid("a head without an end")),
        None => Ok(None),
    }
}

/// The length that a head gives its body; 0 if it gives none. Chunked bodies are refused.
pub(crate) fn content_length(head: &[u8]) -> io::Result<usize> {
    let text = core::str::from_utf8(head).map_err(|_| invalid("a head that is no text"))?;
    let mut length = 0;
    for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(|_| invalid("no length"))?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(invalid("a chunked body"));
        }
    }
    if length > BODY_MAX { Err(invalid("a body over the limit")) } else { Ok(length) }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Bytes of a head at most.
pub(crate) const HEAD_MAX: usize = 16 << 10;
/// Bytes of a body at most.
pub(crate) const BODY_MAX: usize = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
