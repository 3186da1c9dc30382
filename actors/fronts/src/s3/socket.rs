//! A socket that does not wait forever for a peer that has stopped reading, and says what it hears.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::roster::Link;
use crate::wire::Stream;

/// A connection whose writes fail once the peer has taken nothing for too long. Reads wait: what bounds them is known
/// further up (a request's head, a body).
pub(super) struct Socket {
    stream: Box<dyn Stream>,
    stall_max: Duration,
    /// Runs while a write waits.
    stalled: Pin<Box<Sleep>>,
    waits: bool,
    /// Its end has begun: what still comes is thrown away.
    lingers: bool,
    link: Link,
}

impl Socket {
    /// # Errors
    /// What the system says: the peer is gone already.
    pub(super) fn new(stream: Box<dyn Stream>, stall_max: Duration, link: Link) -> io::Result<Self> {
        stream.prepare()?;
        Ok(Self { stream, stall_max, stalled: Box::pin(sleep(stall_max)), waits: false, lingers: false, link })
    }

    /// What a write came to, or that it has waited for too long.
    fn bounded<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            if self.waits && matches!(written, Poll::Ready(Ok(_))) {
                self.link.took();
            }
            self.waits = false;
            return written;
        }
        if !self.waits {
            self.waits = true;
            let deadline = Instant::now() + self.stall_max;
            self.stalled.as_mut().reset(deadline);
        }
        ready!(self.stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer has stopped reading")))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.link.cut_off().is_some_and(|cut| cut.at_once)
            && let Err(error) = self.stream.forsake()
        {
            tracing::debug!(%error, "a connection that is cut stays in the kernel until its peer takes the rest");
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        match buf.filled().get(before..) {
            Some(come) if !come.is_empty() => self.link.heard(come),
            _ => {}
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.bounded(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.bounded(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Under TLS the end of an answer waits there.
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.bounded(flushed, cx)
    }

    /// A peer that was answered before it had sent everything would lose the answer if the connection were closed now:
    /// it has a moment to read it, and to stop sending.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.lingers {
            let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
            ready!(self.bounded(shut, cx))?;
            if !self.link.has_unread() {
                return Poll::Ready(Ok(()));
            }
            self.lingers = true;
            let deadline = Instant::now() + LINGER_MAX;
            self.stalled.as_mut().reset(deadline);
        }
        let mut thrown_away = [0; 16 << 10];
        loop {
            if self.stalled.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut buf = ReadBuf::new(&mut thrown_away);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                // It has closed its end, or is gone.
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// A peer that was answered early has so long to read the answer.
const LINGER_MAX: Duration = Duration::from_secs(2);
