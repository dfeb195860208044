//! Trust for nodes that were enrolled before the executor was: root `watch` has
//! had the fleet's operators since then, in a file that only root writes, and
//! the mesh knows who this host is.
//!
//! Invariant: a trust file that is there is never touched; after the first it
//! grows by signed orders alone.

use std::path::PathBuf;
use std::time::Duration;

use osmoda_kit::error::{ApiError, chain};
use osmoda_kit::fsio;
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::Tasks;
use osmoda_node_api::approval_files::store_trust;
use osmoda_node_api::mesh::MeshClient;
use osmoda_node_api::watch;
use osmoda_permit::HostTrust;
use osmoda_permit::trust::{TRUST_BYTES_MAX, TRUST_FILE};
use osmoda_types::{ErrorCode, NodeId};

/// Between two looks: the mesh may not be up yet, the node not enrolled.
const EVERY: Duration = Duration::from_secs(10);

/// What is looked at.
pub(crate) struct Inherit {
    /// The executor's state folder.
    pub(crate) own: PathBuf,
    /// watch's.
    pub(crate) watch: PathBuf,
    /// Says who this host is.
    pub(crate) mesh: MeshClient,
    /// The registry.
    pub(crate) tasks: Tasks,
}

impl Inherit {
    /// Looks until there is trust, or the stop.
    pub(crate) async fn run(self) {
        let stop = self.tasks.shutdown().token(Stage::RefuseNew);
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                // Cancel-safe: a token's state is not consumed.
                () = stop.cancelled() => return,
                // Cancel-safe: an interval keeps its deadline.
                _ = tick.tick() => {}
            }
            match self.look().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::debug!(error = chain(&error), "this host trusts no approver yet"),
            }
        }
    }

    /// Whether there is trust now.
    async fn look(&self) -> Result<bool, ApiError> {
        // A file that cannot be looked at may be there: nothing is put in its place.
        if self.own.join(TRUST_FILE).try_exists().map_err(ApiError::internal)? {
            return Ok(true);
        }
        let path = self.watch.join(watch::TRUST_FILE);
        let read = self.tasks.blocking("read trust of watch", move || fsio::read_limited(&path, TRUST_BYTES_MAX)).await;
        let Some(bytes) = read.map_err(ApiError::internal)?? else { return Ok(false) };
        let identity = self.mesh.identity().await?;
        let trust = inherited(&bytes, identity.node)?;
        if trust.network_id != identity.network {
            return Err(ApiError::new(ErrorCode::PrincipalUnknown, "watch and the mesh are of two fleets"));
        }
        let operators = trust.operators.len();
        let own = self.own.clone();
        self.tasks.blocking("write trust", move || store_trust(&own, &trust)).await.map_err(ApiError::internal)??;
        tracing::warn!(operators, "this node was enrolled before its executor: it trusts watch's operators now");
        Ok(true)
    }
}

/// watch's file as the executor keeps it.
fn inherited(bytes: &[u8], host_id: NodeId) -> Result<HostTrust, ApiError> {
    let file: watch::TrustFile = serde_json::from_slice(bytes)
        .map_err(|_| ApiError::new(ErrorCode::PrincipalUnknown, "the trust file of watch is damaged"))?;
    Ok(HostTrust { network_id: file.network_id, host_id, operators: file.operators, serials: file.serials })
}

#[cfg(test)]
mod tests {
    use super::*;
    use osmoda_kit::http::testing::TestServer;
    use osmoda_kit::shutdown::Shutdown;
    use osmoda_node_api::approval_files::load_trust;
    use osmoda_permit::testing::approver;
    use osmoda_types::NetworkId;

    #[tokio::test]
    async fn a_node_enrolled_earlier_trusts_the_operators_of_watch_and_only_once() {
        let dir = tempfile::tempdir().unwrap();
        let (own, watch) = (dir.path().join("execd"), dir.path().join("watch"));
        std::fs::create_dir_all(&own).unwrap();
        std::fs::create_dir_all(&watch).unwrap();
        let node = NodeId::from_bytes([7; 32]);
        let identity = serde_json::json!({
            "node": node, "mesh_key": "01".repeat(32), "identity_key": "02".repeat(32),
            "network": NetworkId::from_bytes([1; 32]), "epoch": 1, "role": null, "listen": "127.0.0.1:1", "members_index": 1,
        });
        let answer = axum::routing::get(move || async move { axum::Json(identity) });
        let mesh = TestServer::open(axum::Router::new().route("/identity", answer));
        let tasks = Tasks::new(Shutdown::new());
        let inherit = Inherit { own: own.clone(), watch: watch.clone(), mesh: MeshClient::new(mesh.client()), tasks };
        assert!(!inherit.look().await.unwrap(), "not enrolled yet");
        let file = |name| watch::TrustFile {
            network_id: NetworkId::from_bytes([1; 32]),
            operators: vec![approver(name, 1)],
            serials: Default::default(),
        };
        let write = |name| std::fs::write(watch.join("trust.json"), serde_json::to_vec(&file(name)).unwrap()).unwrap();
        write("ada");
        assert!(inherit.look().await.unwrap());
        let trust = load_trust(&own).unwrap();
        assert_eq!((trust.host_id, trust.operators[0].name.as_str()), (node, "ada"));
        write("mallory");
        assert!(inherit.look().await.unwrap());
        assert_eq!(load_trust(&own).unwrap(), trust, "what is there is not touched");
    }
}
