//! Enrolment: `osmoda-controller join INVITE`. Runs while the controller does
//! not; makes its keys, asks the issuer, stores what it gets.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use osmoda_kit::clock::SystemClock;
use osmoda_kit::error::ApiError;
use osmoda_kit::fsio;
use osmoda_kit::lock::RootLock;
use osmoda_kit::paths::Paths;
use osmoda_mesh::state::{self, Initial, StateError};
use osmoda_mesh::{EpochSecret, PairRequest, pair};
use osmoda_mesh_protocol::Invite;
use osmoda_types::{ErrorCode, NetworkId, NodeId, Role};

/// How long to try: an election at the issuer and a handful of round trips,
/// with room for someone who has just opened a firewall.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// What to join with.
#[derive(Debug)]
pub struct Join {
    /// The root directory.
    pub root: PathBuf,
    /// The invite's text.
    pub invite: String,
    /// What people shall call this controller.
    pub name: String,
    /// Where its mesh will listen.
    pub mesh_listen: SocketAddr,
}

/// What was joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    /// The fleet.
    pub network: NetworkId,
    /// This controller.
    pub node: NodeId,
}

/// The mesh's files of a controller.
#[must_use]
pub fn mesh_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("mesh")
}

/// Joins. Repeating it after a lost answer is safe.
///
/// # Errors
/// The invite's, the issuer's or the disk's.
pub async fn join(order: Join) -> Result<Joined, ApiError> {
    let invite = Invite::decode(&order.invite).map_err(|error| ApiError::new(error.code(), error.to_string()))?;
    let paths = Paths::new(&order.root);
    let folder = paths.state(crate::NAME);
    fsio::create_private_dir(&folder)
        .map_err(|error| ApiError::new(error.code(), error.to_string()).with_source(error))?;
    let lock = RootLock::exclusive(&paths.daemon_lock(crate::NAME))
        .map_err(|error| ApiError::new(error.code(), error.to_string()).with_source(error))?;
    let dir = mesh_dir(&folder);
    let identity = state::create_identity(&dir).map_err(unusable)?;
    let (network, node) = (invite.network, identity.node());
    let request = PairRequest {
        invite,
        identity,
        name: order.name,
        addresses: vec![order.mesh_listen],
        time_limit: TIME_LIMIT,
        clock: SystemClock::shared(),
    };
    let welcome =
        pair(request).await.map_err(|error| ApiError::new(error.code(), error.to_string()).with_source(error))?;
    if welcome.role != Role::Controller {
        let text = format!("the invite is for a {}, not for a controller", welcome.role);
        return Err(ApiError::new(ErrorCode::Conflict, text));
    }
    let initial = Initial {
        network,
        secret: EpochSecret { epoch: welcome.epoch, secret: welcome.epoch_secret },
        rejoin_secret: welcome.rejoin_secret,
        members: welcome.members,
    };
    state::write_initial(&dir, &initial).map_err(unusable)?;
    lock.release().map_err(|error| ApiError::new(error.code(), error.to_string()).with_source(error))?;
    Ok(Joined { network, node })
}

pub(crate) fn unusable(error: StateError) -> ApiError {
    let message = match &error {
        StateError::NotEnrolled(_) => "this controller belongs to no fleet yet; osmoda-controller join INVITE".into(),
        error => error.to_string(),
    };
    ApiError::new(error.code(), message).with_source(error)
}
