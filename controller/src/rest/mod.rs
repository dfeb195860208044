//! The REST interface: what `osmoda_controller_api` promises, served.
//!
//! ```text
//! request → request id → envelope → [token] → body limit → handler
//! ```
//! Invariant: every endpoint of the table is mounted, and nothing else below
//! `/api/v1/fleet` (`tests/rest.rs`); every error leaves as one envelope.

mod approvals;
mod auth;
mod body;
mod envelope;
mod events;
mod fleet;
mod ledger;
mod manifests;
mod nodes;
mod orders;
mod paging;
mod rollouts;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post, put};
use axum::{Router, middleware};
use osmoda_controller_api::JSON_BYTES_MAX;
use osmoda_controller_store::{Store, StoreError};
use osmoda_kit::clock::SharedClock;
use osmoda_kit::error::ApiError;
use osmoda_kit::shutdown::Shutdown;
use osmoda_types::manifest::MANIFEST_BYTES_MAX;
use osmoda_types::{NetworkId, NodeId};
use tokio::sync::Semaphore;

use crate::follower::Published;
use crate::inbox::Inbox;
use crate::presence::Presence;
use crate::view::View;
use crate::voters::Fleet;

pub(crate) use auth::TokenHash;
pub(crate) use envelope::Failure;

/// Event streams open at once. Each holds a connection and a reader task; a
/// browser tab has one, a script has one.
const STREAMS_MAX: usize = 256;

/// What a handler answers.
pub(crate) type Answer<T> = Result<T, Failure>;

/// What handlers work with. Cheap to clone.
#[derive(Clone)]
pub struct App {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) fleet: Fleet,
    pub(crate) published: Published,
    pub(crate) presence: Presence,
    pub(crate) inbox: Inbox,
    pub(crate) clock: SharedClock,
    pub(crate) network: NetworkId,
    pub(crate) own: NodeId,
    pub(crate) token: TokenHash,
    pub(crate) shutdown: Shutdown,
    streams: Arc<Semaphore>,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("network", &self.network).finish_non_exhaustive()
    }
}

/// What an [`App`] is made of.
pub struct AppParts {
    /// The database.
    pub store: Arc<dyn Store>,
    /// Calls to the voters.
    pub fleet: Fleet,
    /// What the follower tells.
    pub published: Published,
    /// Which nodes are there.
    pub presence: Presence,
    /// What waits for a person.
    pub inbox: Inbox,
    /// Time.
    pub clock: SharedClock,
    /// The fleet.
    pub network: NetworkId,
    /// This controller, which has no link to itself and is there all the same.
    pub own: NodeId,
    /// The hash of the admin token.
    pub token: [u8; 32],
    /// The stop signal; streams end with it.
    pub shutdown: Shutdown,
}

impl App {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: AppParts) -> Self {
        let AppParts { store, fleet, published, presence, inbox, clock, network, own, token, shutdown } = parts;
        let token = TokenHash::new(token);
        let streams = Arc::new(Semaphore::new(STREAMS_MAX));
        Self { store, fleet, published, presence, inbox, clock, network, own, token, shutdown, streams }
    }

    /// The fleet as of now.
    pub(crate) fn view(&self) -> View {
        self.published.view.borrow().clone()
    }

    /// The whole interface.
    pub fn router(self) -> Router {
        let protected = Router::new()
            .route("/status", get(fleet::status))
            .route("/events", get(events::fleet))
            .route("/nodes", get(nodes::list))
            .route("/nodes/{id}", get(nodes::show))
            .route("/nodes/{id}/revoke", post(orders::revoke))
            .route("/invites", get(nodes::invites).post(nodes::mint))
            .route("/ledger", get(ledger::list))
            .route("/ledger/{id}", get(ledger::show))
            .route("/ledger/heads", get(nodes::ledger_heads))
            .route("/approvals", get(approvals::list))
            .route("/approvals/{id}/signatures", post(approvals::sign))
            .route("/principals", get(fleet::principals).post(orders::add_principal))
            .route("/freezes", get(fleet::freezes).post(orders::freeze))
            .route("/freezes/lift", post(orders::unfreeze))
            .route("/targets/denied", get(fleet::denied))
            .route("/targets/allow", post(orders::allow))
            .route("/manifests/{hash}", get(manifests::get))
            .route("/rollouts", get(rollouts::list).post(rollouts::start))
            .route("/rollouts/{id}", get(rollouts::show))
            .route("/rollouts/{id}/votes", get(rollouts::votes))
            .route("/rollouts/{id}/pause", post(orders::pause))
            .route("/rollouts/{id}/resume", post(orders::resume))
            .route("/rollouts/{id}/abort", post(orders::abort))
            .route("/rollouts/{id}/exclude", post(orders::exclude))
            .route("/rollouts/{id}/events", get(events::rollout))
            .layer(DefaultBodyLimit::max(JSON_BYTES_MAX))
            // One byte more than a manifest may have, so that the refusal can
            // say which limit was broken.
            .route("/manifests", put(manifests::put).layer(DefaultBodyLimit::max(MANIFEST_BYTES_MAX + 1)))
            .route_layer(middleware::from_fn_with_state(self.token.clone(), auth::require));
        Router::new()
            .nest(osmoda_controller_api::BASE, protected)
            .route("/api/v1/fleet/openapi.json", get(fleet::openapi))
            .route("/healthz", get(fleet::health))
            .route("/metrics", get(fleet::metrics))
            .fallback(envelope::not_found)
            .method_not_allowed_fallback(envelope::method_not_allowed)
            .layer(middleware::from_fn(envelope::wrap))
            .with_state(self)
    }
}

/// A failure of the database at the edge.
pub(crate) fn stored(error: StoreError) -> ApiError {
    match error.code() {
        osmoda_types::ErrorCode::Internal => ApiError::internal(error),
        code => ApiError::new(code, error.to_string()).with_source(error),
    }
}
