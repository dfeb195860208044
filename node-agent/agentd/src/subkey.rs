//! Makes the ledger's key known to the fleet: the mesh endorses it with the
//! node's identity key, and fleetd puts the record into the log.
//!
//! Both daemons may be away when agentd starts, and without a quorum nothing is
//! registered; the ledger works all the same. So this looks again until the log
//! has the key, and never assumes that it has.

use std::time::Duration;

use osmoda_kit::error::ApiError;
use osmoda_kit::shutdown::{Shutdown, Stage};
use osmoda_node_api::fleet::FleetClient;
use osmoda_node_api::mesh::{EndorseRequest, MeshClient};
use osmoda_types::{ErrorCode, PublicKey, Purpose, Subkey};

/// Between two tries: a daemon of the host is back within seconds, and a fleet
/// without a quorum should not be asked more often by every node of it.
const AGAIN: Duration = Duration::from_secs(1);

/// Registers one key.
pub(crate) struct Registration {
    /// The key.
    pub(crate) key: PublicKey,
    /// Vouches for it.
    pub(crate) mesh: MeshClient,
    /// Has it written down.
    pub(crate) fleet: FleetClient,
    /// The stop.
    pub(crate) shutdown: Shutdown,
}

impl Registration {
    /// Tries until the log has the key or refuses it, then ends.
    pub(crate) async fn run(self) {
        let stop = self.shutdown.token(Stage::RefuseNew);
        loop {
            match self.register().await {
                Ok(()) => return,
                // Trying again changes nothing, and says so again after a restart only.
                Err(error) if error.code == ErrorCode::LedgerBroken => {
                    tracing::error!(
                        error = %error.message,
                        "the fleet knows another key of this node's ledger: put it back, or revoke the node and join anew"
                    );
                    return;
                }
                // At the first start the other daemons are not there yet.
                Err(error) => tracing::debug!(code = %error.code, error = %error.message, "key not registered yet"),
            }
            tokio::select! {
                biased;
                // Cancel-safe: waiting for a token takes nothing.
                () = stop.cancelled() => return,
                // Cancel-safe: a timer.
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    async fn register(&self) -> Result<(), ApiError> {
        let ask = EndorseRequest { purpose: Purpose::Ledger, key: self.key };
        let endorsed = self.mesh.endorse(&ask).await?;
        let subkey = Subkey {
            node: endorsed.node,
            purpose: Purpose::Ledger,
            key: self.key,
            epoch: endorsed.epoch,
            endorsement: endorsed.signature,
        };
        let registered = self.fleet.register_subkey(&subkey).await?;
        tracing::info!(key = %self.key, before = registered.before, "the fleet knows the ledger's key");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::extract::State;
    use axum::routing::post;
    use axum::{Json, Router};
    use osmoda_kit::http::{Credentials, UnixClient};
    use osmoda_kit::tasks::{TaskKind, Tasks};
    use osmoda_kit::testing::TempRoot;
    use osmoda_node_api::fleet::Registered;
    use osmoda_node_api::mesh::Endorsed;
    use osmoda_types::{MeshEpoch, NetworkId, NodeId, Signature};
    use tokio::net::UnixListener;

    use super::*;

    const KEY: PublicKey = PublicKey::from_bytes([5; 32]);

    /// What a stand-in for fleetd was asked to register.
    type Asked = Arc<Mutex<Vec<Subkey>>>;

    async fn endorse(Json(ask): Json<EndorseRequest>) -> Json<Endorsed> {
        assert_eq!(ask, EndorseRequest { purpose: Purpose::Ledger, key: KEY });
        Json(Endorsed {
            node: NodeId::from_bytes([1; 32]),
            network: NetworkId::from_bytes([2; 32]),
            epoch: MeshEpoch(3),
            identity_key: PublicKey::from_bytes([4; 32]),
            signature: Signature::from_bytes([6; 64]),
        })
    }

    /// Has no leader at first.
    async fn register(State(asked): State<Asked>, Json(subkey): Json<Subkey>) -> Result<Json<Registered>, ApiError> {
        let mut asked = asked.lock().unwrap();
        asked.push(subkey);
        match asked.len() {
            1 => Err(ApiError::new(ErrorCode::RaftUnavailable, "no voter leads")),
            _ => Ok(Json(Registered { before: false })),
        }
    }

    #[tokio::test]
    async fn it_asks_until_the_log_has_the_endorsed_key() {
        let (root, tasks, asked) = (TempRoot::new(), Tasks::new(Shutdown::new()), Asked::default());
        let serve = |name: &str, router: Router| {
            let listener = UnixListener::bind(root.path().join(name)).unwrap();
            tasks.spawn(TaskKind::BACKGROUND, "stand-in", async move { axum::serve(listener, router).await.unwrap() });
        };
        serve("mesh.sock", Router::new().route("/identity/endorse", post(endorse)));
        serve("fleetd.sock", Router::new().route("/subkey/register", post(register)).with_state(asked.clone()));
        let client = |name: &str| UnixClient::new(root.path().join(name), Credentials::none());
        let registration = Registration {
            key: KEY,
            mesh: MeshClient::new(client("mesh.sock")),
            fleet: FleetClient::new(client("fleetd.sock")),
            shutdown: Shutdown::new(),
        };
        registration.run().await;
        let subkey = Subkey {
            node: NodeId::from_bytes([1; 32]),
            purpose: Purpose::Ledger,
            key: KEY,
            epoch: MeshEpoch(3),
            endorsement: Signature::from_bytes([6; 64]),
        };
        assert_eq!(*asked.lock().unwrap(), [subkey.clone(), subkey]);
    }
}
