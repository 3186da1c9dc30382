//! Where connections come from, and what they are made of: TCP, or whatever a simulation makes of it.

use core::{
    net::SocketAddr,
    task::{Context, Poll},
};
use std::io;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

/// Takes connections of clients.
pub trait Listener: Send {
    /// The next connection, and who is at its other end.
    ///
    /// # Errors
    /// What the system says: it is out of descriptors, or the peer is gone already. It may be asked again.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Box<dyn Stream>, SocketAddr)>>;
}

/// A connection: both directions of it.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    /// Makes it ready for answers.
    ///
    /// # Errors
    /// What the system says: the peer is gone already.
    fn prepare(&self) -> io::Result<()>;

    /// When it is dropped, the peer gets nothing of what it has not taken yet.
    ///
    /// # Errors
    /// What the system says.
    fn forsake(&self) -> io::Result<()>;
}

impl Listener for TcpListener {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Self::poll_accept(self, cx).map_ok(|(stream, peer)| (Box::new(stream) as Box<dyn Stream>, peer))
    }
}

impl Stream for TcpStream {
    fn prepare(&self) -> io::Result<()> {
        // Without it, small answers wait for the peer's delayed acknowledgement: 40 ms each.
        self.set_nodelay(true)?;
        // What a peer does not take should not pile up in the kernel, where nobody counts it; and it shows here sooner
        // that a peer takes something.
        socket2::SockRef::from(self).set_tcp_notsent_lowat(UNSENT_BYTES_MAX)
    }

    fn forsake(&self) -> io::Result<()> {
        self.set_zero_linger()
    }
}

/// What the kernel keeps of an answer that it has not sent at most.
const UNSENT_BYTES_MAX: u32 = 256 << 10;
