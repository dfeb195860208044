//! A link that has been made: what it was made with, and what changes about it
//! while it is up.
//!
//! Not here: what runs on it (`link`) and which one of two stays (`tie`, `hub`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use osmoda_kit::clock::Timestamp;
use osmoda_mesh_protocol::LinkInfo;
use osmoda_types::{MeshEpoch, MeshKey, NodeId};
use quinn::Connection;

use crate::{epochs::Epochs, shared::Shared, stream::InUse, tie::Origin};

/// One published link.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) origin: Origin,
    pub(crate) epoch: MeshEpoch,
    pub(crate) way: Way,
    pub(crate) keys: LinkKeys,
    pub(crate) since: Timestamp,
    pub(crate) state: Arc<LinkState>,
}

impl Link {
    /// Whether a link made today would be proven with another secret.
    pub(crate) fn is_stale(&self, epochs: &Epochs) -> bool {
        let newest = epochs.current().epoch;
        match self.way {
            Way::Epoch => newest != self.epoch,
            Way::Rejoin => newest >= self.epoch,
        }
    }

    /// Whether one of its two keys has been replaced since.
    pub(crate) fn is_outdated(&self, shared: &Shared, peer: &NodeId) -> bool {
        let members = shared.members.load();
        // Who is no member any more is cut off elsewhere, and at once.
        let replaced = members.by_node(peer).is_some_and(|member| member.mesh_key != self.keys.peer);
        replaced || !shared.keyring.has(&self.keys.own)
    }

    /// What it has carried, at boot time `now`.
    pub(crate) fn info(&self, now: Duration) -> LinkInfo {
        let stats = self.connection.stats();
        LinkInfo {
            sent_packets: stats.path.sent_packets,
            lost_packets: stats.path.lost_packets,
            mtu: stats.path.current_mtu,
            bytes_in: stats.udp_rx.bytes,
            bytes_out: stats.udp_tx.bytes,
            key_age_ms: millis(now).saturating_sub(self.state.keyed_ms.load(Ordering::Relaxed)),
        }
    }
}

/// What changes about a link while it is up.
#[derive(Debug)]
pub(crate) struct LinkState {
    /// Boot time of the last key update, in ms.
    pub(crate) keyed_ms: AtomicU64,
    /// Another link has followed; this one takes no new streams and only
    /// finishes those it has.
    pub(crate) followed: AtomicBool,
    pub(crate) in_use: InUse,
}

pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// What proved that a peer belongs to the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The secret of an epoch.
    Epoch,
    /// The member's own secret.
    Rejoin,
}

/// The transport keys that the two ends of a link proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkKeys {
    pub(crate) own: MeshKey,
    pub(crate) peer: MeshKey,
}

/// A connection whose peer has passed the handshake.
pub(crate) struct Established {
    pub(crate) peer: NodeId,
    pub(crate) connection: Connection,
    pub(crate) origin: Origin,
    pub(crate) epoch: MeshEpoch,
    pub(crate) way: Way,
    pub(crate) keys: LinkKeys,
    /// Made while an older link of the same dialler is up.
    pub(crate) renews: bool,
}
