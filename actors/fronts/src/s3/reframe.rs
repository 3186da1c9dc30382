//! Re-framing of aws-chunked bodies, before s3s sees them.
//!
//! s3s collects a whole chunk before it hands any of it on. SDKs may send a body of gigabytes as one unsigned chunk, so
//! such chunks are cut here into chunks of what the connection gave, without copying. A signed chunk cannot be cut, for
//! its signature covers it whole: it is passed on as it is, up to a size that SDKs stay below by far.
//!
//! ```text
//!   body    = *chunk last trailers
//!   chunk   = size-in-hex [";chunk-signature=" 64hex] CRLF bytes CRLF        size > 0
//!   last    = "0" [";chunk-signature=" 64hex] CRLF
//! ```

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes};
use futures_util::Stream;
use s3s::{
    Body, StdError,
    stream::{ByteStream, DynByteStream},
};

/// Why a body cannot be re-framed. Its text is read by `put::broken`.
#[derive(Debug, thiserror::Error)]
enum FrameError {
    #[error("aws-chunked: the header of a chunk is malformed")]
    Malformed,
    #[error("aws-chunked: ChunkTooLarge: a signed chunk has {0} bytes, over the limit of {SIGNED_CHUNK_BYTES_MAX}")]
    SignedChunkTooLarge(u64),
}

/// A body whose unsigned chunks are small.
pub(super) fn reframed(body: Body) -> Body {
    let stream: DynByteStream = Box::pin(Reframed { body, framer: Framer::default() });
    Body::from(stream)
}

struct Reframed {
    body: Body,
    framer: Framer,
}

impl Stream for Reframed {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(bytes) = self.framer.out.pop_front() {
                return Poll::Ready(Some(Ok(bytes)));
            }
            match Pin::new(&mut self.body).poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(bytes))) => {
                    if let Err(error) = self.framer.take(bytes) {
                        return Poll::Ready(Some(Err(Box::new(error))));
                    }
                }
                Poll::Ready(other) => return Poll::Ready(other),
            }
        }
    }
}

impl ByteStream for Reframed {}

/// Where in the framing we are.
#[derive(Debug)]
enum Place {
    /// In a chunk's header, of which so much has come.
    Header(Vec<u8>),
    /// In the bytes of an unsigned chunk.
    Cut { left: u64 },
    /// At the CRLF behind an unsigned chunk, of which so many bytes are missing. Each cut brought its own.
    CutEnd { missing: u8 },
    /// In what goes on as it is.
    Pass { left: u64 },
    /// Behind the last chunk.
    Tail,
}

/// The machine: bytes in, bytes out.
#[derive(Debug)]
struct Framer {
    place: Place,
    out: VecDeque<Bytes>,
}

impl Default for Framer {
    fn default() -> Self {
        Self { place: Place::Header(Vec::new()), out: VecDeque::new() }
    }
}

impl Framer {
    fn take(&mut self, mut bytes: Bytes) -> Result<(), FrameError> {
        while !bytes.is_empty() {
            match &mut self.place {
                Place::Header(header) => {
                    let line = bytes.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
                    let came = bytes.split_to(line.unwrap_or(bytes.len()));
                    header.extend_from_slice(&came);
                    if header.len() > HEADER_BYTES_MAX {
                        return Err(FrameError::Malformed);
                    }
                    if line.is_some() {
                        let header = core::mem::take(header);
                        self.enter(header)?;
                    }
                }
                Place::Cut { left } => {
                    let n = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                    let piece = bytes.split_to(n);
                    *left -= n as u64;
                    if *left == 0 {
                        self.place = Place::CutEnd { missing: 2 };
                    }
                    self.out.push_back(format!("{n:x}\r\n").into());
                    self.out.push_back(piece);
                    self.out.push_back(Bytes::from_static(b"\r\n"));
                }
                Place::CutEnd { missing } => {
                    let expected = if *missing == 2 { b'\r' } else { b'\n' };
                    if bytes.get_u8() != expected {
                        return Err(FrameError::Malformed);
                    }
                    *missing -= 1;
                    if *missing == 0 {
                        self.place = Place::Header(Vec::new());
                    }
                }
                Place::Pass { left } => {
                    let n = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                    let piece = bytes.split_to(n);
                    *left -= n as u64;
                    if *left == 0 {
                        self.place = Place::Header(Vec::new());
                    }
                    self.out.push_back(piece);
                }
                Place::Tail => self.out.push_back(core::mem::take(&mut bytes)),
            }
        }
        Ok(())
    }

    /// A chunk's header is complete.
    fn enter(&mut self, header: Vec<u8>) -> Result<(), FrameError> {
        let line = core::str::from_utf8(&header).map_err(|_| FrameError::Malformed)?;
        let line = line.strip_suffix("\r\n").ok_or(FrameError::Malformed)?;
        let (size, signed) = match line.split_once(';') {
            Some((size, _)) => (size, true),
            None => (line, false),
        };
        let digits = !size.is_empty() && size.len() <= 16 && size.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = if digits { u64::from_str_radix(size, 16).ok() } else { None };
        let size = size.ok_or(FrameError::Malformed)?;
        self.place = match (size, signed) {
            (0, _) => Place::Tail,
            (size, false) => {
                self.place = Place::Cut { left: size };
                return Ok(());
            }
            (size, true) if size > SIGNED_CHUNK_BYTES_MAX => return Err(FrameError::SignedChunkTooLarge(size)),
            // The CRLF behind it passes too.
            (size, true) => Place::Pass { left: size + 2 },
        };
        self.out.push_back(header.into());
        Ok(())
    }
}

/// A chunk's header at most, as s3s has it.
const HEADER_BYTES_MAX: usize = 1024;
/// A signed chunk at most: s3s holds it whole until its signature is verified. SDKs send 64 KiB to 1 MiB.
pub(super) const SIGNED_CHUNK_BYTES_MAX: u64 = 2 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `body` in pieces of `step` bytes and gives what comes out, and the largest piece.
    fn run(body: &[u8], step: usize) -> Result<Vec<u8>, FrameError> {
        let mut framer = Framer::default();
        for piece in body.chunks(step.max(1)) {
            framer.take(Bytes::copy_from_slice(piece))?;
        }
        Ok(framer.out.iter().flat_map(|bytes| bytes.iter().copied()).collect())
    }

    /// Reads unsigned chunks: payload, and what is behind the last one.
    fn unframe(mut body: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut payload = Vec::new();
        loop {
            let at = body.windows(2).position(|pair| pair == b"\r\n").expect("a header");
            let size = core::str::from_utf8(&body[..at]).expect("text");
            let size = usize::from_str_radix(size, 16).expect("hex");
            body = &body[at + 2..];
            if size == 0 {
                return (payload, body.to_vec());
            }
            payload.extend_from_slice(&body[..size]);
            assert_eq!(&body[size..size + 2], b"\r\n");
            body = &body[size + 2..];
        }
    }

    #[test]
    fn a_large_unsigned_chunk_is_cut_where_frames_end() {
        let body = b"a\r\n0123456789\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n";
        let out = run(body, 7).expect("well formed");
        assert_eq!(out, b"4\r\n0123\r\n6\r\n456789\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n");
    }

    #[test]
    fn signed_chunks_pass_untouched_up_to_the_limit() {
        let signature = "f".repeat(64);
        let body = format!("5;chunk-signature={signature}\r\nhello\r\n0;chunk-signature={signature}\r\n\r\n");
        for step in [1, 3, 1000] {
            assert_eq!(run(body.as_bytes(), step).expect("well formed"), body.as_bytes());
        }
        let large = format!("1000001;chunk-signature={signature}\r\n");
        assert!(matches!(run(large.as_bytes(), 99), Err(FrameError::SignedChunkTooLarge(_))));
    }

    #[test]
    fn malformed_headers_are_errors() {
        for bad in ["\r\n", "g\r\n", "5\n", "+5\r\n", "11111111111111111\r\n", "1\r\nab\r\n"] {
            assert!(matches!(run(bad.as_bytes(), 99), Err(FrameError::Malformed)), "{bad:?}");
        }
        assert!(matches!(run(&[b'1'; 2000], 100), Err(FrameError::Malformed)));
    }

    proptest! {
        #[test]
        fn payload_and_trailers_survive(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..6), step in 1..40_usize) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                body.extend_from_slice(chunk);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\nname:value\r\n\r\n");
            let out = run(&body, step).expect("well formed");
            prop_assert_eq!(unframe(&out), (chunks.concat(), b"name:value\r\n\r\n".to_vec()));
        }

        #[test]
        fn no_bytes_make_it_panic_or_grow(body in proptest::collection::vec(any::<u8>(), 0..300), step in 1..40_usize) {
            if let Ok(out) = run(&body, step) {
                // A byte can become a cut of its own at worst, of 6.
                prop_assert!(out.len() <= body.len() * 6);
            }
        }
    }
}
