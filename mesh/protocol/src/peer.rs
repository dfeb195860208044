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
    /// Whether it seems to live: a link is up, or, in a fleet that is too large
    /// for a full mesh, other members have heard of it lately.
    #[serde(default)]
    pub alive: bool,
    /// Smoothed round trip of the link.
    pub rtt_us: Option<u64>,
    /// Where the link goes, else the first known address.
    pub address: Option<SocketAddr>,
    /// Wall time in ms when the link came up.
    pub since_ms: Option<i64>,
    /// The epoch of the link.
    pub epoch: Option<MeshEpoch>,
    /// What the link has carried and how old its keys are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkInfo>,
}

/// What a link has carried, from this end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkInfo {
    /// Packets sent.
    pub sent_packets: u64,
    /// Of those, packets that were found lost.
    pub lost_packets: u64,
    /// The largest datagram that the path is known to carry, in bytes.
    pub mtu: u16,
    /// Bytes of datagrams received.
    pub bytes_in: u64,
    /// Bytes of datagrams sent.
    pub bytes_out: u64,
    /// Milliseconds since the keys were made or last updated, to within the few
    /// seconds at which links look.
    pub key_age_ms: u64,
}

impl LinkInfo {
    /// Lost packets per million sent.
    #[must_use]
    pub fn loss_ppm(&self) -> u64 {
        self.lost_packets.saturating_mul(1_000_000).checked_div(self.sent_packets).unwrap_or(0)
    }
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
