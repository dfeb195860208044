//! The pipes: bytes between a daemon's socket and a mesh stream, both ways.
//!
//! Nothing is buffered beyond what one read returns, and what was read is
//! written at once: Raft heartbeats go through here.

use std::path::PathBuf;
use std::time::Duration;

use osmoda_kit::boot::Boot;
use osmoda_kit::error::ApiError;
use osmoda_kit::http::Credentials;
use osmoda_kit::shutdown::Stage;
use osmoda_kit::stream::{Opening, serve_streams};
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_mesh::{IncomingStream, MeshHandle, MeshStream, StreamPeer};
use osmoda_node_api::mesh::{PipeHello, Service, deliver};
use osmoda_types::ErrorCode;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

/// Bytes per read and direction: a full HTTP/2 frame of 16 KiB fits four times;
/// 1,024 pipes hold at most 128 MiB.
const COPY_BYTES: usize = 64 * 1024;

/// How long fleetd may take to say yes to an inbound pipe: it is on the same
/// host and only reads a line.
const DELIVER_TIME: Duration = Duration::from_secs(2);

/// Where each service of a node is served. `link` is a controller's, which has
/// no daemons.
const INBOUND: [(Service, &str); 2] = [(Service::Raft, "fleetd-mesh"), (Service::Fleet, "fleetd-mesh")];

/// Serves `mesh-stream.sock`.
pub(crate) fn serve_outbound(cx: &Boot, listener: UnixListener, handle: &MeshHandle) {
    let handle = handle.clone();
    let stop = cx.shutdown().token(Stage::RefuseNew);
    serve_streams(cx.tasks(), "mesh-stream", listener, cx.callers(), move |opening: Opening<PipeHello>| {
        let (handle, stop) = (handle.clone(), stop.clone());
        async move {
            tokio::select! {
                biased;
                // Safe to drop the other arm: a pipe that is cut ends at both ends.
                () = stop.cancelled() => {}
                // Runs to its end unless the process stops.
                () = outbound(&handle, opening) => {}
            }
        }
    });
}

async fn outbound(handle: &MeshHandle, opening: Opening<PipeHello>) {
    let PipeHello { peer, service } = opening.hello;
    // The mesh daemon speaks these itself, in its own name.
    if matches!(service, Service::Rooms | Service::Blobs | Service::Keys | Service::Messages) {
        let text = format!("service {service} has no pipes; use its endpoints");
        return opening.refuse(ApiError::new(ErrorCode::ServiceDenied, text)).await;
    }
    match handle.connect_stream(peer, service).await {
        Ok(stream) => match opening.accept().await {
            Ok((_, pipe)) => join(pipe, stream).await,
            Err(error) => tracing::debug!(%peer, %service, %error, "caller of a pipe is gone"),
        },
        Err(error) => {
            tracing::debug!(%peer, %service, code = %error.code(), "pipe not opened");
            opening.refuse(ApiError::from(error)).await;
        }
    }
}

/// Hands every stream of a peer to the daemon that owns the service.
pub(crate) fn deliver_inbound(cx: &Boot, handle: &MeshHandle) -> Result<(), ApiError> {
    for (service, socket) in INBOUND {
        let inbound = Inbound {
            accepted: handle.accept(service)?,
            socket: cx.paths().socket(socket),
            credentials: cx.credentials(),
            tasks: cx.tasks().clone(),
        };
        cx.tasks().spawn(TaskKind::INTAKE, format!("mesh inbound {service}"), inbound.run());
    }
    Ok(())
}

struct Inbound {
    accepted: mpsc::Receiver<IncomingStream>,
    socket: PathBuf,
    credentials: Credentials,
    tasks: Tasks,
}

impl Inbound {
    async fn run(mut self) {
        let stop = self.tasks.shutdown().token(Stage::RefuseNew);
        loop {
            let incoming = tokio::select! {
                biased;
                // Safe to drop: a token stays cancelled.
                () = stop.cancelled() => return,
                // Safe to drop: a receive that was not ready took nothing.
                incoming = self.accepted.recv() => incoming,
            };
            let Some(IncomingStream { peer, stream }) = incoming else { return };
            let (socket, credentials) = (self.socket.clone(), self.credentials.clone());
            // Bounded by the mesh: 256 streams per link, one link per member.
            self.tasks.spawn(TaskKind::BACKGROUND, format!("mesh pipe {}", peer.service), async move {
                inbound(&socket, &credentials, &peer, stream).await;
            });
        }
    }
}

async fn inbound(socket: &std::path::Path, credentials: &Credentials, peer: &StreamPeer, stream: MeshStream) {
    match deliver(socket, credentials, peer, DELIVER_TIME).await {
        Ok(pipe) => join(pipe, stream).await,
        // The peer sees its stream end and opens another when it needs one.
        Err(error) => tracing::warn!(
            peer = %peer.node, service = %peer.service, code = %error.code, %error, "inbound stream not delivered"
        ),
    }
}

/// Copies until both directions have ended or one of them broke.
async fn join(mut pipe: UnixStream, mut stream: MeshStream) {
    if let Err(error) = copy_bidirectional_with_sizes(&mut pipe, &mut stream, COPY_BYTES, COPY_BYTES).await {
        tracing::debug!(%error, "pipe broke");
    }
}
