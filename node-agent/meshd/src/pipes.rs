//! The pipes: bytes between a daemon's socket and a mesh stream, both ways.
//!
//! Nothing is buffered beyond what one read returns, and what was read is
//! written at once: Raft heartbeats go through here. Invariant: a peer's stream
//! is accepted only after the daemon that owns its service has taken it, and
//! within the service's allowance.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use osmoda_kit::boot::Boot;
use osmoda_kit::error::ApiError;
use osmoda_kit::http::{Credentials, Who};
use osmoda_kit::shutdown::Stage;
use osmoda_kit::stream::{Opening, serve_streams};
use osmoda_kit::tasks::TaskKind;
use osmoda_mesh::{IncomingStream, Intake, MeshHandle, Offer};
use osmoda_node_api::mesh::{PipeHello, Service, deliver};
use osmoda_node_api::pipes::{AGENTD_SOCKET, WITNESS, speaker};
use osmoda_types::ErrorCode;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::{UnixListener, UnixStream};

use crate::counts;
use crate::pace::{Pace, Paced, PerPeer};

/// Bytes per read and direction: a full HTTP/2 frame of 16 KiB fits four times;
/// 1,024 pipes hold at most 128 MiB.
const COPY_BYTES: usize = 64 * 1024;

/// How long a daemon may take to say yes to an inbound pipe: it is on the same
/// host and only reads a line.
const DELIVER_TIME: Duration = Duration::from_secs(2);

/// Pipes of one peer and service at once; fleetd multiplexes, so a peer needs
/// one or two. As many as a link has at all.
const PIPES_PER_PEER: usize = 256;

/// Where each service of a node is served. `link` is a controller's, which has
/// no daemons.
const INBOUND: [(Service, &str); 3] =
    [(Service::Raft, "fleetd-mesh"), (Service::Fleet, "fleetd-mesh"), (Service::Witness, AGENTD_SOCKET)];

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
    let Some(daemon) = speaker(service) else {
        let text = format!("service {service} has no pipes; use its endpoints");
        return opening.refuse(ApiError::new(ErrorCode::ServiceDenied, text)).await;
    };
    if opening.caller.who != Who::Daemon(daemon) {
        let text = format!("service {service} is spoken by {daemon} only");
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
        let allowance = service.allowance();
        let inbound = Arc::new(Inbound {
            socket: cx.paths().socket(socket),
            credentials: cx.credentials(),
            requests: allowance.map(|allowance| PerPeer::new(allowance.requests, cx.clock())),
            bytes: allowance.map(|allowance| Arc::new(Pace::new(allowance.bytes_per_second))),
        });
        let intake = Intake {
            name: service.as_str(),
            kind: TaskKind::BACKGROUND,
            per_peer_max: allowance.map_or(PIPES_PER_PEER, |allowance| allowance.at_once),
            // The others carry connections that live as long as their link.
            time_limit: (service == Service::Witness).then_some(WITNESS.time_limit),
        };
        intake.spawn(cx.tasks(), handle.offers(service)?, move |offer| {
            let inbound = inbound.clone();
            async move { inbound.take(offer).await }
        });
    }
    Ok(())
}

struct Inbound {
    socket: PathBuf,
    credentials: Credentials,
    /// What one peer may take, where the service says so.
    requests: Option<PerPeer>,
    bytes: Option<Arc<Pace>>,
}

impl Inbound {
    async fn take(&self, offer: Offer) -> io::Result<()> {
        let peer = offer.peer;
        if self.requests.as_ref().is_some_and(|requests| !requests.take(peer.node)) {
            tracing::debug!(peer = %peer.node, service = %peer.service, "stream refused, its peer opens too many");
            counts::stream_refused(peer.service.as_str());
            offer.refuse(ErrorCode::Busy).await;
            return Ok(());
        }
        match deliver(&self.socket, &self.credentials, &peer, DELIVER_TIME).await {
            Ok(pipe) => {
                let IncomingStream { stream, .. } = offer.accept().await?;
                match &self.bytes {
                    Some(bytes) => join(pipe, Paced::new(stream, Arc::clone(bytes), peer.node)).await,
                    None => join(pipe, stream).await,
                }
            }
            Err(error) => {
                tracing::warn!(
                    peer = %peer.node, service = %peer.service, code = %error.code, %error, "inbound stream not delivered"
                );
                counts::stream_refused(peer.service.as_str());
                offer.refuse(error.code).await;
            }
        }
        Ok(())
    }
}

/// Copies until both directions have ended or one of them broke.
async fn join(mut pipe: UnixStream, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    if let Err(error) = copy_bidirectional_with_sizes(&mut pipe, &mut stream, COPY_BYTES, COPY_BYTES).await {
        tracing::debug!(%error, "pipe broke");
    }
}
