//! The `keys` service: what voters give to whom, and what a member believes.

use std::sync::Arc;

use osmoda_mesh::{KeySource, MeshError, fetch_epoch, fetch_rejoins, secret_hash, serve_keys};
use osmoda_mesh_protocol::{Members, SecretBytes};
use osmoda_types::{ErrorCode, MeshEpoch, NodeId, Role, SecretHash};

use crate::node::{Node, Start, epoch, members};

/// Knows the secret of one member.
struct One(NodeId);

impl KeySource for One {
    fn rejoin_secret(&self, node: &NodeId) -> Option<SecretBytes> {
        (*node == self.0).then(|| SecretBytes::new([5; 32]))
    }
}

/// A voter that serves keys, another voter and a node, all linked.
async fn three() -> [Node; 3] {
    let roles = [(1, Role::Voter), (2, Role::Voter), (3, Role::Node)];
    let nodes = roles.map(|(seed, role)| Start::new(seed, role).run());
    let list = members(2, nodes.iter().map(Node::member).collect());
    for node in &nodes {
        node.handle.update_members(list.clone()).await.unwrap();
    }
    serve_keys(&nodes[0].handle, Arc::new(One(nodes[2].id())), nodes[0].tasks()).unwrap();
    nodes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_is_fetched_under_its_hash_and_no_other() {
    let [server, other, node] = three().await;
    assert!(server.handle.install_epoch(epoch(2, [9; 32])).await.unwrap());
    let hash = secret_hash(&SecretBytes::new([9; 32]));
    // The other voter serves nothing; the next one is asked.
    let voters = [other.id(), server.id()];
    // Whom the epoch shuts out is a member there until its list comes.
    let early = fetch_epoch(&node.handle, &voters, MeshEpoch(2), hash).await;
    assert!(matches!(early, Err(MeshError::Refused { code: ErrorCode::EpochStale, .. })), "{early:?}");
    let mut list = Members::clone(&server.handle.members());
    (list.index, list.epoch) = (3, MeshEpoch(2));
    server.handle.update_members(list).await.unwrap();
    let fetched = fetch_epoch(&node.handle, &voters, MeshEpoch(2), hash).await.unwrap();
    assert_eq!(fetched, epoch(2, [9; 32]));
    assert!(node.handle.install_epoch(fetched).await.unwrap());

    let wrong = SecretHash::from_bytes([0; 32]);
    let refused = fetch_epoch(&node.handle, &[server.id()], MeshEpoch(2), wrong).await;
    assert!(matches!(refused, Err(MeshError::NoSecret)), "{refused:?}");
    let unknown = fetch_epoch(&node.handle, &[server.id()], MeshEpoch(3), hash).await;
    assert!(matches!(unknown, Err(MeshError::Refused { code: ErrorCode::EpochStale, .. })), "{unknown:?}");
    for node in [server, other, node] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_for_coming_back_go_to_voters_only() {
    let [server, other, node] = three().await;
    let wanted = [node.id(), NodeId::from_bytes([8; 32])];
    let given = fetch_rejoins(&other.handle, server.id(), &wanted).await.unwrap();
    assert_eq!(given.len(), 1, "what is not known is left out");
    assert_eq!((given[0].node, &given[0].secret), (node.id(), &SecretBytes::new([5; 32])));
    let refused = fetch_rejoins(&node.handle, server.id(), &wanted).await;
    assert!(matches!(refused, Err(MeshError::Refused { code: ErrorCode::ServiceDenied, .. })), "{refused:?}");
    for node in [server, other, node] {
        node.stop().await;
    }
}
