//! Nodes with a mesh and rooms, each on a folder of its own.

use std::sync::Arc;
use std::time::Duration;

use osmoda_kit::clock::{SharedClock, SystemClock};
use osmoda_kit::shutdown::Shutdown;
use osmoda_kit::tasks::Tasks;
use osmoda_kit::testing::{TempRoot, wait_for};
use osmoda_mesh::{EpochSecret, Identity, IncomingStream, Mesh, MeshConfig, MeshHandle, Tuning, rotation, state};
use osmoda_mesh_rooms::{MessageId, RoomId};
use osmoda_node_api::mesh::{Member, Members, SecretBytes, Service};
use osmoda_node_api::rooms::{CreateRoom, JoinRule};
use osmoda_types::{MeshEpoch, NetworkId, NodeId, Role};
use tokio::sync::mpsc;

use crate::rooms::command::Command;
use crate::rooms::{Rooms, RoomsConfig};

const NETWORK: NetworkId = NetworkId::from_bytes([7; 32]);

pub(super) const LIMIT: Duration = Duration::from_secs(30);

pub(super) struct Node {
    pub(super) mesh: MeshHandle,
    pub(super) rooms: Rooms,
    pub(super) identity: Arc<Identity>,
    pub(super) tasks: Tasks,
    /// Those of its rooms, which may end before the mesh does.
    of_rooms: Tasks,
    role: Role,
    root: TempRoot,
}

impl Node {
    pub(super) async fn new(role: Role) -> Self {
        Self::with_clock(role, SystemClock::shared()).await
    }

    /// One whose rooms have a clock of their own.
    pub(super) async fn with_clock(role: Role, of_rooms: SharedClock) -> Self {
        let root = TempRoot::new();
        let identity = state::create_identity(&root.paths().state("mesh")).unwrap();
        Self::on(root, identity, role, of_rooms).await
    }

    async fn on(root: TempRoot, identity: Arc<Identity>, role: Role, clock_of_rooms: SharedClock) -> Self {
        let (tasks, clock) = (Tasks::new(Shutdown::new()), SystemClock::shared());
        let secret = EpochSecret { epoch: MeshEpoch(1), secret: SecretBytes::new([8; 32]) };
        let alone = member(&identity, role, vec![]);
        let config = MeshConfig {
            identity: identity.clone(),
            network: NETWORK,
            listen: ([127, 0, 0, 1], 0).into(),
            secrets: secret.into(),
            members: Members { index: 1, epoch: MeshEpoch(1), members: vec![alone] },
            enroller: None,
            tuning: Tuning::default(),
        };
        let mesh = Mesh::start(config, &tasks, clock).unwrap();
        let config = RoomsConfig {
            heal_every: Duration::from_secs(1),
            ..RoomsConfig::new(mesh.clone(), root.paths().state("mesh"))
        };
        let of_rooms = Tasks::new(Shutdown::new());
        let rooms = Rooms::start(config, &of_rooms, clock_of_rooms).await.unwrap();
        Self { mesh, rooms, identity, tasks, of_rooms, role, root }
    }

    pub(super) fn id(&self) -> NodeId {
        self.identity.node()
    }

    fn member(&self) -> Member {
        member(&self.identity, self.role, vec![self.mesh.local_address()])
    }

    pub(super) async fn stop(self) -> (TempRoot, Arc<Identity>, Role) {
        for tasks in [self.of_rooms, self.tasks] {
            let report = tasks.drain(Duration::from_secs(10)).await;
            assert!(report.is_graceful(), "{report:?}");
        }
        (self.root, self.identity, self.role)
    }

    /// Ends its rooms; what peers ask of them from now on is for the test to answer.
    pub(super) async fn stop_rooms(&self) -> mpsc::Receiver<IncomingStream> {
        assert!(self.of_rooms.drain(Duration::from_secs(10)).await.is_graceful());
        self.mesh.accept(Service::Rooms).unwrap()
    }

    /// Gives the node new keys, as after the log took them.
    pub(super) async fn rotate(&mut self) {
        let dir = self.root.paths().state("mesh");
        rotation::prepare(&dir, &NETWORK).unwrap();
        self.identity = rotation::commit(&dir).unwrap();
        self.mesh.change_identity(self.identity.clone()).await.unwrap();
    }

    /// Stops and starts on the same folder.
    pub(super) async fn restart(self) -> Self {
        let (root, identity, role) = self.stop().await;
        Self::on(root, identity, role, SystemClock::shared()).await
    }

    pub(super) async fn create(&self, others: &[&Node], join: JoinRule) -> RoomId {
        let create = CreateRoom {
            name: "ops".to_owned(),
            peer_ids: others.iter().map(|node| node.id()).collect(),
            join,
            retain_messages: None,
            retain_days: None,
        };
        self.rooms.create(&create).await.unwrap().id.parse().unwrap()
    }

    /// Whom its rooms hold for linked.
    pub(super) async fn links(&self) -> Vec<NodeId> {
        self.rooms.cx.ask(|reply| Command::Links { reply }).await.unwrap()
    }

    pub(super) async fn ids(&self, room: RoomId) -> Vec<MessageId> {
        self.rooms.ids(room, usize::MAX).await.unwrap_or_default()
    }
}

fn member(identity: &Identity, role: Role, addresses: Vec<std::net::SocketAddr>) -> Member {
    Member {
        node: identity.node(),
        mesh_key: identity.mesh_key(),
        identity_key: identity.identity_key(),
        role,
        name: format!("n-{}", identity.node().short()),
        addresses,
    }
}

/// Tells these nodes about each other, and waits until all of them are linked.
/// Nodes that knew others before do not any more.
pub(super) async fn introduce(index: u64, nodes: &[&Node]) {
    let members: Vec<Member> = nodes.iter().map(|node| node.member()).collect();
    for node in nodes {
        let members = Members { index, epoch: MeshEpoch(1), members: members.clone() };
        node.mesh.update_members(members).await.unwrap();
    }
    wait_for("the links", LIMIT, async || {
        let linked = |node: &&Node| node.mesh.peers().iter().all(|peer| peer.connected);
        nodes.iter().all(linked).then_some(())
    })
    .await;
}

/// Waits until all of them have the same messages, so many.
pub(super) async fn same(room: RoomId, nodes: &[&Node], count: usize) -> Vec<MessageId> {
    wait_for(format!("{count} messages everywhere"), LIMIT, async || {
        let first = nodes[0].ids(room).await;
        if first.len() != count {
            return None;
        }
        for node in &nodes[1..] {
            if node.ids(room).await != first {
                return None;
            }
        }
        Some(first)
    })
    .await
}
