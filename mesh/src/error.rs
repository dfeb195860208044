//! What can go wrong for someone who uses the mesh.

use std::net::SocketAddr;

use osmoda_mesh_protocol::{MembersError, Service};
use osmoda_types::{ErrorCode, MeshEpoch, NodeId};

/// Why the mesh did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// The UDP socket cannot be used.
    #[error("cannot listen on UDP {address}")]
    Socket {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No epoch secret was given.
    #[error("no epoch secret of the network is known")]
    NoSecret,
    /// Two secrets for one epoch: one of them is not the fleet's.
    #[error("epoch {} is in force with another secret", .0.0)]
    OtherSecret(MeshEpoch),
    /// The snapshot breaks its invariant.
    #[error("the membership snapshot is not usable")]
    Members(#[from] MembersError),
    /// No member has this id.
    #[error("{0} is no member of this fleet")]
    UnknownPeer(NodeId),
    /// The member has no link now.
    #[error("no link to {0} is up")]
    Offline(NodeId),
    /// The service table does not allow it.
    #[error("service {service} is not open between this node and {peer}")]
    Denied {
        /// The other node.
        peer: NodeId,
        /// The service.
        service: Service,
    },
    /// The peer refused the stream and said why.
    #[error("{peer} refused service {service}: {code}")]
    Refused {
        /// The other node.
        peer: NodeId,
        /// The service.
        service: Service,
        /// Its reason.
        code: ErrorCode,
    },
    /// The peer did not answer the opening of a stream in time.
    #[error("{0} did not answer in time")]
    Timeout(NodeId),
    /// The service has an acceptor already.
    #[error("service {0} is registered already")]
    Registered(Service),
    /// Too many invites are open.
    #[error("{0} invites are open already; wait until one expires")]
    InvitesFull(usize),
    /// Keys of another node were given to this one.
    #[error("these keys are another node's")]
    OtherNode,
    /// The mesh is stopping.
    #[error("the mesh is stopping")]
    Stopping,
}

impl MeshError {
    /// The code for the caller.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            MeshError::Socket { source, .. } => match source.kind() {
                std::io::ErrorKind::AddrInUse => ErrorCode::PortInUse,
                _ => ErrorCode::ConfigInvalid,
            },
            MeshError::NoSecret => ErrorCode::IdentityMissing,
            MeshError::Members(_) => ErrorCode::BadRequest,
            MeshError::UnknownPeer(_) => ErrorCode::PeerUnknown,
            MeshError::Offline(_) => ErrorCode::PeerOffline,
            MeshError::Denied { .. } => ErrorCode::ServiceDenied,
            MeshError::Refused { code, .. } => *code,
            MeshError::Timeout(_) => ErrorCode::Timeout,
            MeshError::Registered(_) | MeshError::OtherSecret(_) | MeshError::OtherNode => ErrorCode::Conflict,
            MeshError::InvitesFull(_) => ErrorCode::Busy,
            MeshError::Stopping => ErrorCode::ShuttingDown,
        }
    }
}

impl From<MeshError> for osmoda_kit::error::ApiError {
    fn from(error: MeshError) -> Self {
        Self::new(error.code(), error.to_string()).with_source(error)
    }
}
