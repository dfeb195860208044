//! One stream inside a link: bytes both ways, and who is at the other end.
//!
//! Invariant: no place of a queue is held while a peer is waited for; how much an
//! opener lets us write is its own to say, the queue is everybody's
//! (`tests/one/hygiene.rs`).

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use osmoda_mesh_protocol::{Answer, StreamPeer};
use osmoda_types::ErrorCode;
use quinn::{RecvStream, SendStream, VarInt};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc::{self, error::TrySendError},
};

/// The code of a stream that is given up without an answer.
const STREAM_REFUSED: u32 = 1;

/// A byte pipe to a service of a peer. Shutting down the write half ends the
/// peer's reading; dropping the stream ends both.
#[derive(Debug)]
pub struct MeshStream {
    send: SendStream,
    recv: RecvStream,
    _in_use: InUse,
}

/// Says that a link is in use, for as long as it lives.
#[derive(Debug, Clone, Default)]
pub(crate) struct InUse(Arc<()>);

impl InUse {
    /// How many others of this link live.
    pub(crate) fn others(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

impl MeshStream {
    pub(crate) fn new(send: SendStream, recv: RecvStream, in_use: InUse) -> Self {
        Self { send, recv, _in_use: in_use }
    }
}

impl AsyncRead for MeshStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.recv), cx, buf)
    }
}

impl AsyncWrite for MeshStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.send), cx)
    }
}

/// A stream that a peer opened to a service of this node.
#[derive(Debug)]
pub struct IncomingStream {
    /// Who.
    pub peer: StreamPeer,
    /// The pipe.
    pub stream: MeshStream,
}

/// A stream that a peer wants to open, and that waits for a yes or no. Dropped,
/// it ends without either.
#[derive(Debug)]
pub struct Offer {
    /// Who.
    pub peer: StreamPeer,
    pub(crate) send: SendStream,
    pub(crate) recv: RecvStream,
    pub(crate) in_use: InUse,
    /// For the answer to be taken by the peer.
    pub(crate) limit: Duration,
}

impl Offer {
    /// Says yes.
    ///
    /// # Errors
    /// The stream is gone, or its peer did not take the answer in time.
    pub async fn accept(mut self) -> io::Result<IncomingStream> {
        tokio::time::timeout(self.limit, self.send.write_all(&Answer::Accepted.encode())).await??;
        Ok(IncomingStream { peer: self.peer, stream: MeshStream::new(self.send, self.recv, self.in_use) })
    }

    /// Says no, and why.
    pub async fn refuse(self, code: ErrorCode) {
        refuse(self.send, code, self.limit).await;
    }
}

/// Answers a stream's opening with a refusal, if the peer takes it in time, and
/// ends it.
pub(crate) async fn refuse(mut send: SendStream, code: ErrorCode, limit: Duration) {
    let written = tokio::time::timeout(limit, send.write_all(&Answer::Refused(code).encode())).await;
    if (!matches!(written, Ok(Ok(()))) || send.finish().is_err())
        && send.reset(VarInt::from_u32(STREAM_REFUSED)).is_err()
    {
        tracing::trace!("stream was gone already");
    }
}

/// Where the streams of a service wait for its owner.
#[derive(Debug, Clone)]
pub(crate) enum Queue {
    /// Accepted as long as there is room.
    Streams(mpsc::Sender<IncomingStream>),
    /// The owner accepts each.
    Offers(mpsc::Sender<Offer>),
}

impl Queue {
    /// Whether the owner has gone.
    pub(crate) fn is_closed(&self) -> bool {
        match self {
            Self::Streams(queue) => queue.is_closed(),
            Self::Offers(queue) => queue.is_closed(),
        }
    }

    /// Hands a stream over, or refuses it.
    pub(crate) async fn put(&self, offer: Offer) {
        let full = match self {
            Self::Streams(queue) => match queue.try_reserve().map(drop) {
                Ok(()) => return accept_into(queue, offer).await,
                Err(full) => full,
            },
            Self::Offers(queue) => match queue.try_reserve() {
                Ok(place) => return place.send(offer),
                Err(full) => full,
            },
        };
        let busy = matches!(full, TrySendError::Full(()));
        offer.refuse(if busy { ErrorCode::Busy } else { ErrorCode::ShuttingDown }).await;
    }
}

/// Accepts a stream for which there was room. If the last place has gone while
/// the peer took its answer, the stream ends: its opener tries again.
async fn accept_into(queue: &mpsc::Sender<IncomingStream>, offer: Offer) {
    match offer.accept().await {
        Ok(stream) => {
            if let Err(error) = queue.try_send(stream) {
                tracing::debug!(%error, "stream ended, its place has gone");
            }
        }
        Err(error) => tracing::debug!(%error, "stream ended before it was accepted"),
    }
}
