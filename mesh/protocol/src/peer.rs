//! How peers and their streams are described to the rest of a node.

use std::net::SocketAddr;

use osmoda_types::{MeshEpoch, NodeId, Role};
use serde::{Deserialize, Serialize};

use crate::service::Service;

/// One other member, for people and probes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Whether a link is up.
    pub connected: bool,
    /// Smoothed round trip of the link.
    pub rtt_us: Option<u64>,
    /// Where the link goes, else the first known address.
    pub address: Option<SocketAddr>,
    /// Wall time in ms when the link came up.
    pub since_ms: Option<i64>,
    /// The epoch of the link.
    pub epoch: Option<MeshEpoch>,
}

/// Who opened a stream, as the handshake and the newest snapshot say. Also the
/// first line of an inbound pipe, whose fields are named as here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamPeer {
    /// The proven node.
    #[serde(rename = "peer")]
    pub node: NodeId,
    /// Its role when the stream was opened.
    pub role: Role,
    /// The epoch of the link.
    pub epoch: MeshEpoch,
    /// What the stream is for.
    pub service: Service,
}
