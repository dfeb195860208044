//! Where a manifest comes from: this node's store, any node's blobs, a voter.
//!
//! The log names a manifest by the SHA-256 of its bytes, blobs are named by
//! BLAKE3, so a voter translates: it makes the manifest a blob and gives its
//! name, which costs it a few bytes per node instead of a megabyte. Invariant:
//! whoever the bytes come from, they are kept only if their SHA-256 is the log's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use data_encoding::HEXLOWER;
use osmoda_kit::error::ApiError;
use osmoda_kit::tasks::Tasks;
use osmoda_node_api::blobs::FetchBlob;
use osmoda_node_api::mesh::MeshClient;
use osmoda_proto::fleet::v1 as pb;
use osmoda_types::manifest::MANIFEST_BYTES_MAX;
use osmoda_types::{ErrorCode, ManifestHash, NodeId, Role};

use crate::leader_client::LeaderClient;
use crate::manifests::{self, MANIFESTS_KEPT_MAX, Manifests};

/// Nodes that are asked for a blob before the voter that named it: most nodes of
/// a rollout fetch at the same moment, and one that has it answers at once.
const PEERS_ASKED: usize = 2;

/// The sources. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    /// Manifests on this node.
    pub(crate) manifests: Manifests,
    mesh: MeshClient,
    tasks: Tasks,
    /// Names of the manifests that are blobs here already; as many as manifests
    /// are kept.
    named: Arc<Mutex<BTreeMap<ManifestHash, [u8; 32]>>>,
}

impl Sources {
    pub(crate) fn new(manifests: Manifests, mesh: MeshClient, tasks: Tasks) -> Self {
        Self { manifests, mesh, tasks, named: Arc::default() }
    }

    /// Makes a manifest a blob of this node; its name.
    ///
    /// # Errors
    /// As [`MeshClient::put_blob`]; `ManifestUnknown` when it is not here.
    pub(crate) async fn as_blob(&self, hash: ManifestHash) -> Result<[u8; 32], ApiError> {
        if let Some(name) = self.named.lock().unwrap_or_else(PoisonError::into_inner).get(&hash) {
            return Ok(*name);
        }
        let unknown = || ApiError::new(ErrorCode::ManifestUnknown, format!("no manifest {hash} here"));
        let bytes = self.manifests.get(hash).map_err(failed)?.ok_or_else(unknown)?;
        let name = parse(&self.mesh.put_blob(bytes).await?.hash)?;
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if named.len() >= MANIFESTS_KEPT_MAX {
            // They are made again when they are asked for.
            named.clear();
        }
        named.insert(hash, name);
        Ok(name)
    }

    /// A manifest, from wherever it is; it is here afterwards.
    ///
    /// # Errors
    /// The last voter's refusal, as one that may pass when no voter has it yet.
    pub(crate) async fn manifest(
        &self,
        client: &LeaderClient,
        voters: &[NodeId],
        hash: ManifestHash,
    ) -> Result<Vec<u8>, ApiError> {
        if let Some(bytes) = self.manifests.get(hash).map_err(failed)? {
            return Ok(bytes);
        }
        let mut last = ApiError::new(ErrorCode::RaftUnavailable, "no voter is known");
        for as_blob in [true, false] {
            for voter in voters {
                let request = pb::GetManifestRequest { hash: hash.as_bytes().to_vec(), as_blob };
                let got = match client.voter(*voter).get_manifest(request).await {
                    Ok(reply) => self.bytes(reply.into_inner(), *voter).await,
                    Err(status) => Err(crate::wire::error_of(&status)),
                };
                match self.keep(got, hash).await {
                    Ok(bytes) => return Ok(bytes),
                    Err(error) => last = error,
                }
            }
        }
        // A voter that does not have it yet will: it fetches before it votes.
        let code = if last.code == ErrorCode::ManifestUnknown { ErrorCode::RaftUnavailable } else { last.code };
        Err(ApiError::new(code, last.message.clone()).with_source(last))
    }

    /// The bytes that a voter's reply has or names.
    async fn bytes(&self, reply: pb::GetManifestReply, voter: NodeId) -> Result<Vec<u8>, ApiError> {
        if reply.blob.is_empty() {
            return Ok(reply.manifest);
        }
        let name = HEXLOWER.encode(&reply.blob);
        for peer in self.peers().await.into_iter().chain([voter]) {
            let fetch = FetchBlob { hash: name.clone(), peer, bytes_max: Some(MANIFEST_BYTES_MAX as u64) };
            match self.mesh.fetch_blob(&fetch).await {
                Ok(_) => return self.mesh.blob(&name).await,
                Err(error) => tracing::debug!(%peer, code = %error.code, "manifest not fetched as a blob"),
            }
        }
        Err(ApiError::new(ErrorCode::ManifestUnknown, "no node gave the manifest as a blob"))
    }

    /// Linked nodes, the nearest ids first, so that not all ask the same one.
    async fn peers(&self) -> Vec<NodeId> {
        let (peers, own) = match tokio::join!(self.mesh.peers(), self.mesh.identity()) {
            (Ok(peers), Ok(own)) => (peers, own.node),
            // Then it is asked of the voter alone, if the mesh is there at all.
            (Err(error), _) | (_, Err(error)) => {
                tracing::debug!(code = %error.code, "the mesh does not say who is linked");
                return Vec::new();
            }
        };
        let linked = peers.into_iter().filter(|peer| peer.connected && matches!(peer.role, Role::Voter | Role::Node));
        let mut linked: Vec<_> = linked.map(|peer| peer.id).collect();
        linked.sort_by_key(|peer| std::array::from_fn::<u8, 32, _>(|at| peer.as_bytes()[at] ^ own.as_bytes()[at]));
        linked.truncate(PEERS_ASKED);
        linked
    }

    /// Keeps bytes durably if they are those of the log.
    async fn keep(&self, got: Result<Vec<u8>, ApiError>, hash: ManifestHash) -> Result<Vec<u8>, ApiError> {
        let (store, bytes) = (self.manifests.clone(), got?);
        let stored = self.tasks.blocking("store manifest", move || {
            store.put(&bytes, Some(hash))?;
            Ok::<_, manifests::Error>(bytes)
        });
        stored.await.map_err(ApiError::internal)?.map_err(failed)
    }
}

fn failed(error: manifests::Error) -> ApiError {
    ApiError::new(error.code(), error.to_string()).with_source(error)
}

/// A blob's name off the mesh daemon's answer.
fn parse(text: &str) -> Result<[u8; 32], ApiError> {
    let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    bytes.ok_or_else(|| ApiError::internal("the mesh named a blob in another form"))
}

#[cfg(test)]
mod tests;
