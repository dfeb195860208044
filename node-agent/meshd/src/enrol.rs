//! Asking fleetd, which can commit to the log, whether a joiner may come in.

use std::time::Duration;

use osmoda_kit::http::UnixClient;
use osmoda_mesh::{Enroller, Joiner, Spend};
use osmoda_node_api::mesh::{Enrolment, MEMBERS_BYTES_MAX, SpendRequest};
use osmoda_types::InviteId;

/// How long fleetd may take: a forward to the leader and a commit, with one
/// election in between. Below the 15 s that the mesh gives the whole, so the
/// joiner hears fleetd's answer and not only that there was none.
const SPEND_TIME: Duration = Duration::from_secs(12);

/// The enroller behind `fleetd.sock`.
pub(crate) struct FleetdEnroller {
    fleetd: UnixClient,
}

impl FleetdEnroller {
    pub(crate) fn new(fleetd: UnixClient) -> Self {
        Self { fleetd: fleetd.with_time_limit(SPEND_TIME).with_answer_limit(MEMBERS_BYTES_MAX) }
    }
}

impl Enroller for FleetdEnroller {
    fn spend(&self, invite: InviteId, joiner: Joiner) -> Spend<'_> {
        let Joiner { node, mesh_key, request, source } = joiner;
        Box::pin(async move {
            let request = SpendRequest { invite, node, mesh_key, request };
            self.fleetd.post::<Enrolment>("/mesh/spend", &request).await.map_err(|error| {
                tracing::warn!(%invite, joiner = %node, %source, code = %error.code, %error, "invite not spent");
                error.code
            })
        })
    }
}
