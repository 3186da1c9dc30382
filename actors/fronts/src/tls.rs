//! TLS for whatever listens on TCP: one certificate with its key, by path, read again once they change.
//!
//! ```text
//!   Tls::load ─► over(listener) ─► a connection comes out at once, its handshake not begun
//!       ▲                              └─ whoever reads or writes it drives the handshake
//!   look(): have the files changed? ─► the next handshakes have the new pair, or the old one stays
//! ```
//!
//! So whoever limits connections and their silence limits handshakes too, and one that does not go on holds up no other. Never
//! decides who may do what: certificates of clients are not asked for.

use core::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};
use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use mesh_core::{
    Error, ErrorKind,
    figures::{Counter, Figures as _, Labels, Page},
    time::UnixMillis,
};
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::{Accept, TlsAcceptor, server::TlsStream};
use webpki::EndEntityCert;

use crate::wire::{Listener, Stream};

/// A certificate, with those that vouch for it, and its key: PEM files.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    pair: Arc<Pair>,
    /// Of the files as they were when they were read last, and why they could not be used.
    seen: Mutex<([Stamp; 2], Option<String>)>,
    config: Arc<ServerConfig>,
    handshakes: Arc<Handshakes>,
}

mesh_core::figures! {
    /// How connections began.
    struct Handshakes as "mesh_tls" {
        /// TLS handshakes of clients that were done.
        handshakes: Counter,
        /// TLS handshakes of clients that came to nothing: they speak something else, believe another authority, or went.
        failed_handshakes: Counter,
    }
}

/// Names what TLS tells, for a node without it.
pub fn declare(page: &mut Page) {
    Handshakes::declare(page);
}

/// What handshakes are done with.
#[derive(Debug)]
struct Pair(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Pair {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// By what a file that was changed or replaced is told from what it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Tls {
    /// Reads a pair. Blocks.
    ///
    /// # Errors
    /// `NotFound` or `Invalid` with the file: it cannot be read, or has nothing of what it should have in it; or the key is not that
    /// of the certificate.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, Error> {
        let seen = Mutex::new(([stamp(certificate), stamp(key)], None));
        let provider = Arc::new(aws_lc_rs::default_provider());
        let pair = Arc::new(Pair(RwLock::new(Arc::new(read(certificate, key, &provider)?))));
        let failed = |error| Error::bug("the TLS library refuses its defaults").caused_by(error);
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = builder.map_err(failed)?.with_no_client_auth().with_cert_resolver(pair.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Who comes back saves a signature, and nothing is kept here for that.
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(failed)?;
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        Ok(Self { certificate, key, pair, seen, config: Arc::new(config), handshakes: Arc::default() })
    }

    /// Reads the pair again if its files have changed since they were read last, or could not be used then: handshakes from now on are
    /// done with it. Says whether it is another one. Blocks.
    ///
    /// # Errors
    /// As [`Self::load`], once for each reason: the old pair stays.
    pub fn look(&self) -> Result<bool, Error> {
        let now = [stamp(&self.certificate), stamp(&self.key)];
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.0 == now && seen.1.is_none() {
            return Ok(false);
        }
        let read = read(&self.certificate, &self.key, self.config.crypto_provider());
        let said = core::mem::replace(&mut *seen, (now, read.as_ref().err().map(ToString::to_string)));
        let new = match read {
            Err(_) if said == *seen => return Ok(false),
            read => read?,
        };
        let mut pair = self.pair.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_other = pair.cert != new.cert;
        *pair = Arc::new(new);
        Ok(is_other)
    }

    /// How connections have begun since it was loaded.
    pub fn figures(&self, page: &mut Page) {
        self.handshakes.tell(&Labels::default(), page);
    }

    /// When the certificate ends, if that is before a time; the beginning of 1970 if it has not begun by then.
    #[must_use]
    pub fn ends_before(&self, at: UnixMillis) -> Option<UnixMillis> {
        let pair = Arc::clone(&self.pair.0.read().unwrap_or_else(PoisonError::into_inner));
        let certificate = EndEntityCert::try_from(pair.end_entity_cert().ok()?).ok()?;
        // Of its dates it is spoken first; that nobody vouches for it here is known.
        let at = UnixTime::since_unix_epoch(core::time::Duration::from_millis(at.0));
        let (all, usage) = (webpki::ALL_VERIFICATION_ALGS, webpki::KeyUsage::server_auth());
        match certificate.verify_for_usage(all, &[], &[], at, usage, None, None) {
            Err(webpki::Error::CertExpired { not_after, .. }) => {
                Some(UnixMillis(not_after.as_secs().saturating_mul(1000)))
            }
            Err(webpki::Error::CertNotValidYet { .. }) => Some(UnixMillis(0)),
            _ => None,
        }
    }

    /// A listener whose connections are those of another one, under TLS.
    #[must_use]
    pub fn over(&self, listener: Box<dyn Listener>) -> Box<dyn Listener> {
        let (acceptor, handshakes) = (TlsAcceptor::from(Arc::clone(&self.config)), Arc::clone(&self.handshakes));
        Box::new(Secure { listener, acceptor, handshakes })
    }
}

/// One that is not there, or cannot be looked at, is as no file is.
fn stamp(path: &Path) -> Stamp {
    fs::metadata(path).map_or_else(
        |_| Stamp::default(),
        |of| Stamp { inode: of.ino(), bytes: of.size(), changed: (of.ctime(), of.ctime_nsec()) },
    )
}

fn read(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, Error> {
    let invalid = |what: &'static str, path: &Path| Error::invalid(what).with("file", path.display());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&contents(certificate)?).collect();
    let chain = chain.map_err(|error| invalid("a TLS certificate cannot be read", certificate).caused_by(error))?;
    if chain.is_empty() {
        return Err(invalid("a file of TLS certificates has none in it", certificate));
    }
    let private = PrivateKeyDer::from_pem_slice(&contents(key)?)
        .map_err(|error| invalid("a TLS key cannot be read", key).caused_by(error))?;
    CertifiedKey::from_der(chain, private, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            invalid("a TLS key is not that of its certificate", key).with("certificate", certificate.display())
        }
        error => {
            let what = "a TLS certificate or its key is of a kind that cannot be used";
            invalid(what, key).with("certificate", certificate.display()).caused_by(error)
        }
    })
}

fn contents(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |error: io::Error| {
        let kind = if error.kind() == io::ErrorKind::NotFound { ErrorKind::NotFound } else { ErrorKind::Invalid };
        Error::new(kind, "a file for TLS cannot be read").with("file", path.display()).caused_by(error)
    };
    let of = fs::metadata(path).map_err(failed)?;
    if !of.is_file() || of.size() > FILE_BYTES_MAX {
        return Err(Error::invalid("a file for TLS is no file, or far too long").with("file", path.display()));
    }
    fs::read(path).map_err(failed)
}

struct Secure {
    listener: Box<dyn Listener>,
    acceptor: TlsAcceptor,
    handshakes: Arc<Handshakes>,
}

impl Listener for Secure {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Box<dyn Stream>, SocketAddr)>> {
        let (stream, peer) = ready!(self.listener.poll_accept(cx))?;
        let line = match stream.prepare() {
            Ok(()) => Line::Silent(stream),
            // It is gone already.
            Err(_) => Line::Over,
        };
        Poll::Ready(Ok((
            Box::new(Secured { acceptor: self.acceptor.clone(), line, handshakes: self.handshakes.clone() }),
            peer,
        )))
    }
}

type Plain = Box<dyn Stream>;

/// A connection under TLS.
struct Secured {
    acceptor: TlsAcceptor,
    line: Line,
    handshakes: Arc<Handshakes>,
}

impl Drop for Secured {
    fn drop(&mut self) {
        // Cut, or gone, before it was done; who has said nothing has begun none.
        if matches!(self.line, Line::Handshake(_) | Line::Http(..)) {
            self.handshakes.failed_handshakes.count();
        }
    }
}

enum Line {
    /// Nothing was heard yet. TLS answers with an alert what is no TLS, and HTTP clients take that for noise: so the first byte is
    /// looked at before.
    Silent(Plain),
    Handshake(Box<Accept<Replayed>>),
    Open(Box<TlsStream<Replayed>>),
    /// It speaks HTTP, and is told that this is TLS: so much of that is written.
    Http(Plain, usize),
    /// It came to nothing.
    Over,
}

impl Secured {
    /// The connection, once its handshake is done.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Pin<&mut TlsStream<Replayed>>>> {
        loop {
            match &mut self.line {
                Line::Open(_) => break,
                Line::Over => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
                Line::Silent(stream) => {
                    let first = ready!(first_byte(stream, cx));
                    let Line::Silent(stream) = core::mem::replace(&mut self.line, Line::Over) else { continue };
                    let first = first?;
                    self.line = if first.is_ascii_uppercase() {
                        Line::Http(stream, 0)
                    } else {
                        let stream = Replayed { first: Some(first), stream };
                        Line::Handshake(Box::new(self.acceptor.accept(stream)))
                    };
                }
                Line::Handshake(handshake) => match ready!(Pin::new(handshake).poll(cx)) {
                    Ok(stream) => {
                        self.handshakes.handshakes.count();
                        self.line = Line::Open(Box::new(stream));
                    }
                    Err(error) => {
                        self.handshakes.failed_handshakes.count();
                        self.line = Line::Over;
                        return Poll::Ready(Err(error));
                    }
                },
                Line::Http(stream, written) => {
                    while let Some(rest) = IS_TLS.get(*written..).filter(|rest| !rest.is_empty()) {
                        *written += ready!(Pin::new(&mut *stream).poll_write(cx, rest))?;
                    }
                    ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
                    // Closed with something unread, it would be reset, and the answer lost.
                    let mut unread = [0; 4096];
                    let mut buf = ReadBuf::new(&mut unread);
                    ready!(Pin::new(stream).poll_read(cx, &mut buf))?;
                    if buf.filled().is_empty() {
                        self.handshakes.failed_handshakes.count();
                        self.line = Line::Over;
                        let what = "the peer speaks HTTP, not HTTPS";
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
                    }
                }
            }
        }
        match &mut self.line {
            Line::Open(stream) => Poll::Ready(Ok(Pin::new(stream))),
            _ => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

fn first_byte(stream: &mut Plain, cx: &mut Context<'_>) -> Poll<io::Result<u8>> {
    let mut first = [0];
    let mut buf = ReadBuf::new(&mut first);
    ready!(Pin::new(stream).poll_read(cx, &mut buf))?;
    Poll::Ready(buf.filled().first().copied().ok_or_else(|| io::ErrorKind::UnexpectedEof.into()))
}

/// A connection whose first byte was read already.
struct Replayed {
    first: Option<u8>,
    stream: Plain,
}

impl AsyncRead for Replayed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if let Some(first) = self.first.take() {
            buf.put_slice(&[first]);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Replayed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Stream for Secured {
    /// It was, before its handshake.
    fn prepare(&self) -> io::Result<()> {
        if matches!(self.line, Line::Over) { Err(io::ErrorKind::NotConnected.into()) } else { Ok(()) }
    }

    fn forsake(&self) -> io::Result<()> {
        match &self.line {
            Line::Open(stream) => stream.get_ref().0.stream.forsake(),
            Line::Silent(stream) | Line::Http(stream, _) => stream.forsake(),
            // Of a handshake nothing waits that anybody would miss.
            Line::Handshake(_) | Line::Over => Ok(()),
        }
    }
}

impl AsyncRead for Secured {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(cx))?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(cx))?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.line {
            Line::Open(stream) => Pin::new(stream).poll_shutdown(cx),
            // Nothing was said, and there is nobody to say goodbye to.
            Line::Silent(_) | Line::Handshake(_) | Line::Http(..) | Line::Over => {
                self.line = Line::Over;
                Poll::Ready(Ok(()))
            }
        }
    }
}

/// A chain of certificates has some kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What a client is told that was meant for a listener without TLS.
const IS_TLS: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 53\r\nconnection: close\r\n\r\n\
This listener speaks TLS: say https:// instead of it.";

#[cfg(test)]
mod tests;
