//! UDP sockets in memory: what is sent waits to be delivered by the room.

use core::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, Waker},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::{self, IoSliceMut},
    sync::{Arc, Mutex},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

use super::{lock, machine::Life};

/// What lies between the sockets of a room.
#[derive(Debug, Default)]
pub(super) struct Air(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    sockets: BTreeMap<SocketAddr, Arc<Inbox>>,
    sent: Vec<Datagram>,
    last: u64,
}

/// A datagram on its way.
#[derive(Debug)]
pub(super) struct Datagram {
    /// Those that were sent later have higher ones.
    pub(super) number: u64,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

/// What has arrived at a socket and was not read.
#[derive(Debug, Default)]
struct Inbox(Mutex<Arrived>);

#[derive(Debug, Default)]
struct Arrived {
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    reader: Option<Waker>,
    /// The connection IDs that whoever has this socket gave himself.
    named: BTreeSet<Vec<u8>>,
}

/// What a socket's buffer holds; what comes then is lost.
const BUFFER_DATAGRAMS: usize = 2_048;

impl Air {
    /// A socket; one that was there before gets nothing any more. With a `life` it is as dead as that.
    pub(super) fn socket(self: &Arc<Self>, address: SocketAddr, life: Option<Arc<Life>>) -> Arc<dyn AsyncUdpSocket> {
        let inbox = Arc::new(Inbox::default());
        lock(&self.0).sockets.insert(address, inbox.clone());
        Arc::new(Socket { address, inbox, air: self.clone(), life })
    }

    /// What was sent since this was last asked.
    pub(super) fn sent(&self) -> Vec<Datagram> {
        core::mem::take(&mut lock(&self.0).sent)
    }

    /// A datagram arrives.
    pub(super) fn deliver(&self, datagram: Datagram) {
        let inbox = lock(&self.0).sockets.get(&datagram.to).cloned();
        let Some(inbox) = inbox else { return };
        let mut state = lock(&inbox.0);
        if is_for_another(&datagram.bytes, &state.named) {
            return;
        }
        if state.datagrams.len() < BUFFER_DATAGRAMS {
            state.datagrams.push_back((datagram.from, datagram.bytes));
        }
        let waker = state.reader.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// What everybody can read of a QUIC packet with a long header (RFC 8999, section 5.1; the type: RFC 9000, section 17.2).
struct LongHeader<'a> {
    is_initial: bool,
    destination: &'a [u8],
    source: &'a [u8],
}

fn long_header(bytes: &[u8]) -> Option<LongHeader<'_>> {
    let (first, rest) = bytes.split_first().filter(|(first, _)| *first & 0x80 != 0)?;
    let (_version, rest) = rest.split_at_checked(4)?;
    let (len, rest) = rest.split_first()?;
    let (destination, rest) = rest.split_at_checked(usize::from(*len))?;
    let (len, rest) = rest.split_first()?;
    let (source, _) = rest.split_at_checked(usize::from(*len))?;
    Some(LongHeader { is_initial: first & 0x30 == 0, destination, source })
}

/// How long the connection IDs are that a client makes up for a server, until that has named itself.
const MADE_UP_BYTES: usize = 20;

/// An `Initial` for a connection that one had who had this address before. An endpoint would take its keys from the ID in it, which
/// are the wrong ones, and go by bits of the ciphertext, which no seed decides: so it is lost.
fn is_for_another(bytes: &[u8], named: &BTreeSet<Vec<u8>>) -> bool {
    long_header(bytes).is_some_and(|long| {
        long.is_initial && long.destination.len() < MADE_UP_BYTES && !named.contains(long.destination)
    })
}

struct Socket {
    address: SocketAddr,
    inbox: Arc<Inbox>,
    air: Arc<Air>,
    life: Option<Arc<Life>>,
}

impl core::fmt::Debug for Socket {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Socket({})", self.address)
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Writable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.life.as_ref().is_some_and(|life| !life.step()) {
            return Ok(());
        }
        if let Some(long) = long_header(transmit.contents) {
            lock(&self.inbox.0).named.insert(long.source.to_vec());
        }
        let mut state = lock(&self.air.0);
        for bytes in transmit.contents.chunks(transmit.segment_size.unwrap_or(usize::MAX)) {
            state.last += 1;
            let (number, bytes) = (state.last, bytes.to_vec());
            state.sent.push(Datagram { number, from: self.address, to: transmit.destination, bytes });
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut state = lock(&self.inbox.0);
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some((from, bytes)) = state.datagrams.pop_front() else { break };
            let len = bytes.len().min(buf.len());
            buf[..len].copy_from_slice(&bytes[..len]);
            *meta = RecvMeta { addr: from, len, stride: len, ecn: None, dst_ip: Some(self.address.ip()) };
            count += 1;
        }
        if count > 0 {
            return Poll::Ready(Ok(count));
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// There is always room.
#[derive(Debug)]
struct Writable;

impl UdpPoller for Writable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
