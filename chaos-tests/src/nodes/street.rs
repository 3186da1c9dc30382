//! Front doors in memory: where clients of S3 come in. Nothing is lost between them and a host; what befalls a host's process
//! befalls its connections.

use core::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, Waker},
};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{Arc, Mutex},
};

use mesh::env::Doorways;
use mesh_fronts::wire::{Listener, Stream};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

use super::{lock, machine::Life};

/// The front doors of a room.
#[derive(Default)]
pub(super) struct Street(Mutex<BTreeMap<SocketAddr, Arc<Door>>>);

/// One that somebody listens at.
struct Door {
    life: Arc<Life>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<DuplexStream>,
    listener: Option<Waker>,
    closed: bool,
}

/// What is under way in one direction of a connection at most, as in a socket's buffer.
const UNDER_WAY_BYTES: usize = 64 << 10;
/// Connections that wait to be accepted.
const BACKLOG: usize = 128;

impl Street {
    /// A connection to whoever listens there.
    ///
    /// # Errors
    /// `ConnectionRefused` if nobody does.
    pub(super) fn connect(&self, address: SocketAddr) -> io::Result<DuplexStream> {
        let door = lock(&self.0).get(&address).cloned();
        let door = door.filter(|door| door.life.is_alive()).ok_or(io::ErrorKind::ConnectionRefused)?;
        let mut queue = lock(&door.queue);
        if queue.closed || queue.waiting.len() >= BACKLOG {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = duplex(UNDER_WAY_BYTES);
        queue.waiting.push_back(theirs);
        let listener = queue.listener.take();
        drop(queue);
        if let Some(listener) = listener {
            listener.wake();
        }
        Ok(ours)
    }

    /// For the life of a process.
    pub(super) fn doorways(self: &Arc<Self>, life: Arc<Life>) -> Arc<dyn Doorways> {
        Arc::new(Porch { street: self.clone(), life })
    }
}

struct Porch {
    street: Arc<Street>,
    life: Arc<Life>,
}

impl Doorways for Porch {
    fn listen(
        &self,
        address: SocketAddr,
    ) -> futures_util::future::BoxFuture<'static, io::Result<(Box<dyn Listener>, SocketAddr)>> {
        let door = Arc::new(Door { life: self.life.clone(), queue: Mutex::default() });
        lock(&self.street.0).insert(address, door.clone());
        let listener: Box<dyn Listener> = Box::new(Listening(door));
        Box::pin(core::future::ready(Ok((listener, address))))
    }
}

struct Listening(Arc<Door>);

impl Listener for Listening {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Box<dyn Stream>, SocketAddr)>> {
        let mut queue = lock(&self.0.queue);
        let Some(stream) = queue.waiting.pop_front() else {
            queue.listener = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let served = Served { stream, life: self.0.life.clone() };
        Poll::Ready(Ok((Box::new(served), SocketAddr::from(([10, 2, 0, 1], 1)))))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut queue = lock(&self.0.queue);
        queue.closed = true;
        queue.waiting.clear();
    }
}

/// A host's end of a connection: nothing that it says after its last step is heard.
struct Served {
    stream: DuplexStream,
    life: Arc<Life>,
}

impl Served {
    fn expect_alive(&self) -> io::Result<()> {
        if self.life.is_alive() { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }
}

impl AsyncRead for Served {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.expect_alive()?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Served {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.life.step() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.expect_alive()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.expect_alive()?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Stream for Served {
    fn prepare(&self) -> io::Result<()> {
        self.expect_alive()
    }

    fn forsake(&self) -> io::Result<()> {
        Ok(())
    }
}
