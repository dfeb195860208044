//! Pipes out of this node: through the mesh, and to itself without it.

use std::io;

use osmoda_consensus::{Transport, TransportError};
use osmoda_node_api::mesh::{MeshPipes, Service};
use osmoda_types::NodeId;
use tonic::transport::Channel;

use crate::inbound::Inbound;
use crate::peers::{Dial, Dialled, Peers};

/// Opens pipes for this node.
#[derive(Debug, Clone)]
pub(crate) struct Dialler {
    /// This node.
    pub(crate) node: NodeId,
    /// To others.
    pub(crate) pipes: MeshPipes,
    /// To itself, on a voter.
    pub(crate) own: Inbound,
}

impl Dial for Dialler {
    fn dial(&self, node: NodeId, service: Service) -> Dialled {
        let this = self.clone();
        Box::pin(async move {
            if node == this.node {
                return this.own.local(node, service);
            }
            this.pipes.open(node, service).await.map_err(io::Error::other)
        })
    }
}

/// The way consensus reaches other voters.
#[derive(Debug, Clone)]
pub(crate) struct RaftTransport(pub(crate) Peers);

impl Transport for RaftTransport {
    async fn channel(&self, node: NodeId) -> Result<Channel, TransportError> {
        Ok(self.0.channel(node, Service::Raft))
    }
}
