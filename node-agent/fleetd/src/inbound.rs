//! Pipes that the mesh hands in, and what serves them.
//!
//! One server per service; each pipe carries the peer that the mesh proved, and
//! that peer is all a handler believes about who calls. A voter's calls to
//! itself take the same way over a local pair of sockets.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use osmoda_consensus::{PeerNode, RaftService};
use osmoda_kit::shutdown::Stage;
use osmoda_kit::stream::Opening;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_node_api::mesh::{Service, StreamPeer};
use osmoda_proto::fleet::v1::fleet_server::FleetServer;
use osmoda_types::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Status};

use crate::caller::Caller;
use crate::service::FleetService;
use crate::wire::ANSWER_BYTES_MAX;

/// Pipes handed in and not yet taken. The server takes one in microseconds; a
/// full queue means that it is stuck, and the opener is told.
const WAITING_MAX: usize = 64;

/// Requests at once on one pipe: a log stream, a lease, reports, submissions.
const STREAMS_PER_PIPE: u32 = 64;

/// A pipe without a sign of life for so long is probed, and closed after as
/// long again.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// One pipe with its proven peer.
pub(crate) struct Pipe {
    io: UnixStream,
    caller: Caller,
}

impl Connected for Pipe {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller
    }
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Where pipes go in. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Inbound {
    raft: mpsc::Sender<Pipe>,
    fleet: mpsc::Sender<Pipe>,
}

/// Where they come out.
pub(crate) struct Waiting {
    raft: mpsc::Receiver<Pipe>,
    fleet: mpsc::Receiver<Pipe>,
}

/// Both ends.
pub(crate) fn new() -> (Inbound, Waiting) {
    let (raft, raft_waiting) = mpsc::channel(WAITING_MAX);
    let (fleet, fleet_waiting) = mpsc::channel(WAITING_MAX);
    (Inbound { raft, fleet }, Waiting { raft: raft_waiting, fleet: fleet_waiting })
}

impl Inbound {
    /// Takes a pipe from the mesh.
    pub(crate) async fn take(&self, opening: Opening<StreamPeer>) {
        let peer = opening.hello;
        let caller = Caller { node: peer.node, role: peer.role };
        match opening.accept().await {
            Ok((_, io)) => {
                if !self.put(peer.service, Pipe { io, caller }) {
                    tracing::warn!(peer = %peer.node.short(), service = peer.service.as_str(), "pipe not taken");
                }
            }
            Err(error) => tracing::debug!(code = %error.code, "the mesh gave the pipe up"),
        }
    }

    /// A pipe of this node to itself.
    ///
    /// # Errors
    /// When no sockets are left, or the server is stuck.
    pub(crate) fn local(&self, node: NodeId, service: Service) -> std::io::Result<UnixStream> {
        let (near, far) = UnixStream::pair()?;
        let caller = Caller { node, role: osmoda_types::Role::Voter };
        if self.put(service, Pipe { io: far, caller }) {
            return Ok(near);
        }
        Err(std::io::Error::other("the own service takes no pipes"))
    }

    fn put(&self, service: Service, pipe: Pipe) -> bool {
        match service {
            Service::Raft => self.raft.try_send(pipe).is_ok(),
            Service::Fleet => self.fleet.try_send(pipe).is_ok(),
            // Links end at a controller, witnesses at the ledger, the others at
            // the mesh itself.
            Service::Link | Service::Rooms | Service::Blobs | Service::Keys | Service::Witness | Service::Messages => {
                false
            }
        }
    }
}

impl Waiting {
    /// Serves both services until the stop. Consensus is served first to last:
    /// it refuses nothing while another voter still counts on this one.
    pub(crate) fn serve(self, raft: &RaftService, fleet: FleetService, tasks: &Tasks) {
        let stamp = |mut request: Request<()>| -> Result<Request<()>, Status> {
            let caller = Caller::of(request.extensions())?;
            request.extensions_mut().insert(PeerNode(caller.node));
            Ok(request)
        };
        let raft = tonic::service::interceptor::InterceptedService::new(raft.server(), stamp);
        let stop = tasks.shutdown().token(Stage::FinishAccepted).cancelled_owned();
        let served = builder().add_service(raft).serve_with_incoming_shutdown(incoming(self.raft), stop);
        tasks.spawn(TaskKind::CRITICAL, "raft service", served);

        let fleet = FleetServer::new(fleet)
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .max_encoding_message_size(ANSWER_BYTES_MAX);
        let stop = tasks.shutdown().token(Stage::RefuseNew).cancelled_owned();
        let served = builder().add_service(fleet).serve_with_incoming_shutdown(incoming(self.fleet), stop);
        tasks.spawn(TaskKind::CRITICAL, "fleet service", served);
    }
}

fn builder() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS_PER_PIPE)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
}

fn incoming(waiting: mpsc::Receiver<Pipe>) -> impl futures_util::Stream<Item = Result<Pipe, std::convert::Infallible>> {
    futures_util::StreamExt::map(ReceiverStream::new(waiting), Ok)
}
