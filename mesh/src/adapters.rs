//! tonic inside a mesh stream: the transport is only a connector, every RPC is
//! defined in `proto`.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;
use osmoda_mesh_protocol::{Service, StreamPeer};
use osmoda_types::NodeId;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::transport::{Channel, Endpoint, server::Connected};

use crate::{
    handle::MeshHandle,
    stream::{IncomingStream, MeshStream},
};

/// HTTP/2 windows: QUIC below does the real flow control, so these only must
/// not be the narrower ones.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// A gRPC channel to a service of a peer. It connects on first use and again
/// after the link was lost; calls made while the peer is away fail with
/// `unavailable` after the open limit.
#[must_use]
pub fn tonic_channel(handle: &MeshHandle, peer: NodeId, service: Service) -> Channel {
    let connect_limit = handle.open_limit() * 2;
    let handle = handle.clone();
    let connector = tower::service_fn(move |_uri| {
        let handle = handle.clone();
        async move { handle.connect_stream(peer, service).await.map(TokioIo::new).map_err(io::Error::other) }
    });
    Endpoint::from_static("http://mesh.invalid")
        .connect_timeout(connect_limit)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .connect_with_connector_lazy(connector)
}

/// A peer's stream as tonic's server wants it; handlers find the [`StreamPeer`]
/// in the request's extensions.
#[derive(Debug)]
pub struct PeerIo {
    peer: StreamPeer,
    stream: MeshStream,
}

impl From<IncomingStream> for PeerIo {
    fn from(IncomingStream { peer, stream }: IncomingStream) -> Self {
        Self { peer, stream }
    }
}

/// The streams of a service, for `serve_with_incoming`.
pub fn incoming_stream(
    accepted: mpsc::Receiver<IncomingStream>,
) -> impl Stream<Item = Result<PeerIo, io::Error>> + Send + 'static {
    ReceiverStream::new(accepted).map(|stream| Ok(PeerIo::from(stream)))
}

impl Connected for PeerIo {
    type ConnectInfo = StreamPeer;

    fn connect_info(&self) -> StreamPeer {
        self.peer
    }
}

impl AsyncRead for PeerIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
