//! What a mesh is started with.

use std::net::SocketAddr;
use std::sync::Arc;

use osmoda_mesh_protocol::{Members, SecretBytes};
use osmoda_types::{MeshEpoch, NetworkId, NodeId};

use crate::{identity::Identity, pair::Enroller, tuning::Tuning};

/// The secret of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochSecret {
    /// Which epoch.
    pub epoch: MeshEpoch,
    /// Its secret.
    pub secret: SecretBytes,
}

/// The secret with which one member may come back after its epochs have passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejoinSecret {
    /// Whose.
    pub node: NodeId,
    /// It was made when that node joined, and is deleted when it is revoked.
    pub secret: SecretBytes,
}

/// The secrets a node has from its files.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    /// Epochs, in any order; the newest is used for dialling and the one before
    /// is accepted for ten minutes after the change.
    pub epochs: Vec<EpochSecret>,
    /// Wall time in ms when the newest came into force. Unknown: the one before
    /// is not accepted.
    pub changed_ms: Option<i64>,
    /// This node's own, for coming back after the epochs have moved on.
    pub rejoin: Option<SecretBytes>,
    /// Those of the other members; only voters hold any.
    pub rejoins: Vec<RejoinSecret>,
}

impl From<EpochSecret> for Secrets {
    fn from(secret: EpochSecret) -> Self {
        Self { epochs: vec![secret], ..Self::default() }
    }
}

/// Everything a mesh needs from outside.
pub struct MeshConfig {
    /// This node's keys.
    pub identity: Arc<Identity>,
    /// The fleet.
    pub network: NetworkId,
    /// Where to listen; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// What proves that this node belongs to the fleet.
    pub secrets: Secrets,
    /// The allow-list to begin with, from the fsynced cache. This node's own
    /// role is read from it too.
    pub members: Members,
    /// Who decides about joiners; without one, invites are refused.
    pub enroller: Option<Arc<dyn Enroller>>,
    /// Times and sizes.
    pub tuning: Tuning,
}
