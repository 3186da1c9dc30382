//! Frames on a QUIC stream. Each direction of a stream has exactly one frame and then ends. A payload is read straight
//! into aligned memory and written from where it lies.

use core::future::Future;

use mesh_core::{
    Buf, Error, Pool,
    envelope::Envelope,
    wire::{PREAMBLE_BYTES, Preamble},
};
use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};

/// Why no frame came of a stream.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The other end breaks the rules: close the connection.
    Bad(Error),
    /// The stream or the connection ended; nobody broke a rule.
    Gone(String),
}

/// Where bytes come from.
pub(crate) trait Source: Send {
    /// Reads some bytes into `target`, which is not empty; `None` at the end.
    fn read(&mut self, target: &mut [u8]) -> impl Future<Output = Result<Option<usize>, Trouble>> + Send;
}

impl Source for RecvStream {
    async fn read(&mut self, target: &mut [u8]) -> Result<Option<usize>, Trouble> {
        Self::read(self, target).await.map_err(|error| match error {
            ReadError::Reset(code) => Trouble::Gone(format!("the peer reset the stream ({code})")),
            error => Trouble::Gone(error.to_string()),
        })
    }
}

/// Reads what promises the rest. Nothing but these 24 bytes is held before the caller has looked at it.
pub(crate) async fn read_preamble(source: &mut impl Source) -> Result<Preamble, Trouble> {
    let mut bytes = [0; PREAMBLE_BYTES];
    fill(source, &mut bytes).await?;
    Preamble::decode(&bytes).map_err(Trouble::Bad)
}

/// Reads what a preamble promised, and the end of the stream behind it.
pub(crate) async fn read_rest(source: &mut impl Source, preamble: Preamble, pool: &Pool) -> Result<Envelope, Trouble> {
    let mut header = vec![0; preamble.header_len];
    fill(source, &mut header).await?;
    let payload = if preamble.payload_len == 0 {
        Buf::empty()
    } else {
        let mut payload = pool.take(preamble.payload_len, 0);
        let target = payload.as_mut().ok_or_else(|| Trouble::Bad(Error::bug("memory from the pool is shared")))?;
        fill(source, target).await?;
        payload
    };
    if source.read(&mut [0]).await?.is_some() {
        return Err(Trouble::Bad(Error::invalid("bytes behind the end of a frame")));
    }
    Envelope::decode(preamble, &header, payload).map_err(Trouble::Bad)
}

async fn fill(source: &mut impl Source, mut target: &mut [u8]) -> Result<(), Trouble> {
    while !target.is_empty() {
        match source.read(target).await? {
            Some(count) => target = &mut target[count..],
            None => return Err(Trouble::Bad(Error::invalid("a frame that ends before its end"))),
        }
    }
    Ok(())
}

/// Both directions of a stream. Dropped before [`Self::finish`], it is reset, so that a frame of which only a part was
/// written can never look whole.
pub(super) struct Stream {
    pub(super) recv: RecvStream,
    send: SendStream,
    finished: bool,
}

impl Stream {
    pub(super) fn new((send, recv): (SendStream, RecvStream), lane: mesh_core::Lane) -> Self {
        // Fails only on a stream that is closed already, and then there is nothing to order.
        send.set_priority(priority(lane)).unwrap_or_default();
        Self { recv, send, finished: false }
    }

    /// Hands a frame over, but for its end. Gives the bytes handed over.
    pub(super) async fn write(&mut self, envelope: Envelope) -> Result<usize, WriteFailure> {
        let head = envelope.encode_head().map_err(WriteFailure::Unencodable)?;
        let payload = envelope.payload.into_bytes();
        let bytes = head.len() + payload.len();
        let mut chunks = [head, payload];
        let chunks = if chunks[1].is_empty() { &mut chunks[..1] } else { &mut chunks[..] };
        match self.send.write_all_chunks(chunks).await {
            Ok(()) => Ok(bytes),
            Err(WriteError::Stopped(_)) => Err(WriteFailure::Stopped),
            Err(error) => Err(WriteFailure::Gone(error.to_string())),
        }
    }

    /// Hands the end over: from now on the frame is whole.
    pub(super) fn finish(&mut self) {
        self.finished = true;
        // Fails only if the other end stopped the stream, and then it does not want the rest.
        self.send.finish().unwrap_or_default();
    }

    /// Resolves when the other end no longer wants what is sent here, or has all of it.
    pub(super) fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let stopped = self.send.stopped();
        async move {
            // Stopped, all received, or the connection is lost: in each case the wait is over.
            stopped.await.map(drop).unwrap_or_default();
        }
    }

    /// Tells the other end not to go on sending.
    pub(super) fn stop_reading(&mut self) {
        self.recv.stop(ABANDONED).unwrap_or_default();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.finished {
            // Fails only if it is closed already.
            self.send.reset(ABANDONED).unwrap_or_default();
        }
    }
}

/// Why a frame was not handed over.
#[derive(Debug)]
pub(super) enum WriteFailure {
    /// It cannot be sent on any link.
    Unencodable(Error),
    /// The other end does not want it; it may have said why.
    Stopped,
    /// The stream or the connection ended.
    Gone(String),
}

fn priority(lane: mesh_core::Lane) -> i32 {
    match lane {
        mesh_core::Lane::Control => 2,
        mesh_core::Lane::Interactive => 1,
        mesh_core::Lane::Bulk => 0,
    }
}

/// Streams: nobody wants this any more.
const ABANDONED: VarInt = VarInt::from_u32(1);

#[cfg(test)]
mod tests;
