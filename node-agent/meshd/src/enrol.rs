//! Asking fleetd, which can commit to the log, whether a joiner may come in.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use osmoda_kit::http::UnixClient;
use osmoda_mesh::{Enroller, Joiner, RejoinSecret, Spend};
use osmoda_node_api::mesh::{Enrolment, MEMBERS_BYTES_MAX, SpendRequest};
use osmoda_types::{ErrorCode, InviteId, NodeId};

use crate::keys::Keys;

/// How long fleetd may take: a forward to the leader and a commit, with one
/// election in between. Below the 15 s that the mesh gives the whole, so the
/// joiner hears fleetd's answer and not only that there was none.
const SPEND_TIME: Duration = Duration::from_secs(12);

/// The enroller behind `fleetd.sock`.
///
/// The mesh starts with it and the keeper of secrets starts with the mesh, so
/// the keeper comes second; before that nobody is let in.
pub(crate) struct FleetdEnroller {
    fleetd: UnixClient,
    keys: OnceLock<Arc<Keys>>,
}

impl FleetdEnroller {
    pub(crate) fn new(fleetd: UnixClient) -> Self {
        let fleetd = fleetd.with_time_limit(SPEND_TIME).with_answer_limit(MEMBERS_BYTES_MAX);
        Self { fleetd, keys: OnceLock::new() }
    }

    /// From now on joiners are let in. Only the first keeper counts.
    pub(crate) fn keep_with(&self, keys: Arc<Keys>) {
        if self.keys.set(keys).is_err() {
            tracing::warn!("the enroller has a keeper of secrets already");
        }
    }

    /// The joiner is told its secret only when it is kept here, and the same one
    /// however often it asks.
    async fn keep(&self, enrolment: Enrolment, node: NodeId) -> Result<Enrolment, ErrorCode> {
        let keys = self.keys.get().ok_or(ErrorCode::DaemonUnavailable)?;
        let secret = RejoinSecret { node, secret: enrolment.rejoin_secret.clone() };
        let rejoin_secret = keys.learn(secret, enrolment.members.index).await.map_err(|error| {
            tracing::warn!(joiner = %node, code = %error.code, %error, "the secret of a joiner was not kept");
            error.code
        })?;
        Ok(Enrolment { rejoin_secret, ..enrolment })
    }
}

impl Enroller for FleetdEnroller {
    fn spend(&self, invite: InviteId, joiner: Joiner) -> Spend<'_> {
        let Joiner { node, mesh_key, request, source } = joiner;
        Box::pin(async move {
            let request = SpendRequest { invite, node, mesh_key, request };
            let enrolment = self.fleetd.post::<Enrolment>("/mesh/spend", &request).await.map_err(|error| {
                tracing::warn!(%invite, joiner = %node, %source, code = %error.code, %error, "invite not spent");
                error.code
            })?;
            self.keep(enrolment, node).await
        })
    }
}
