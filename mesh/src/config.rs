//! What a mesh is started with.

use std::net::SocketAddr;
use std::sync::Arc;

use osmoda_mesh_protocol::{Members, SecretBytes};
use osmoda_types::{MeshEpoch, NetworkId};

use crate::{identity::Identity, pair::Enroller, tuning::Tuning};

/// The secret of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochSecret {
    /// Which epoch.
    pub epoch: MeshEpoch,
    /// Its secret.
    pub secret: SecretBytes,
}

/// Everything a mesh needs from outside.
pub struct MeshConfig {
    /// This node's keys.
    pub identity: Arc<Identity>,
    /// The fleet.
    pub network: NetworkId,
    /// Where to listen; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Epoch secrets that are accepted; the newest is used for dialling.
    pub secrets: Vec<EpochSecret>,
    /// The allow-list to begin with, from the fsynced cache. This node's own
    /// role is read from it too.
    pub members: Members,
    /// Who decides about joiners; without one, invites are refused.
    pub enroller: Option<Arc<dyn Enroller>>,
    /// Times and sizes.
    pub tuning: Tuning,
}
