//! One stream inside a link: bytes both ways, and who is at the other end.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use osmoda_mesh_protocol::StreamPeer;
use quinn::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

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
