//! A mesh node for tests: keys, a socket, and the tasks behind it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ed25519_dalek::SigningKey;
use osmoda_kit::{
    clock::{SharedClock, SystemClock},
    shutdown::Shutdown,
    tasks::Tasks,
    testing::wait_for,
};
use osmoda_mesh::{Enroller, EpochSecret, Identity, Mesh, MeshConfig, MeshError, MeshHandle, Secrets, Tuning};
use osmoda_mesh_crypto::StaticKey;
use osmoda_mesh_protocol::{Member, Members, SecretBytes};
use osmoda_types::{MeshEpoch, NetworkId, NodeId, Role};

pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// Ages are looked at so often; what they are is the clock's to say.
const LOOK: Duration = Duration::from_millis(20);
pub(crate) const NETWORK: NetworkId = NetworkId::from_bytes([7; 32]);

pub(crate) struct Node {
    pub(crate) handle: MeshHandle,
    pub(crate) identity: Arc<Identity>,
    pub(crate) role: Role,
    tasks: Tasks,
}

/// How a node is started.
pub(crate) struct Start {
    pub(crate) identity: Arc<Identity>,
    pub(crate) role: Role,
    pub(crate) listen: SocketAddr,
    pub(crate) members: Members,
    pub(crate) secret: [u8; 32],
    pub(crate) enroller: Option<Arc<dyn Enroller>>,
    pub(crate) idle: Duration,
    pub(crate) rejoin: Option<SecretBytes>,
    pub(crate) clock: SharedClock,
    /// Changes to the times and sizes.
    pub(crate) adjust: fn(&mut Tuning),
}

impl Start {
    pub(crate) fn new(seed: u8, role: Role) -> Self {
        let identity = identity(seed);
        let alone = members(1, vec![member(&identity, role, vec![])]);
        let listen = ([127, 0, 0, 1], 0).into();
        let idle = Duration::from_secs(10);
        let (secret, enroller, rejoin) = ([1; 32], None, None);
        Self { identity, role, listen, members: alone, secret, enroller, idle, rejoin, clock: clock(), adjust: |_| () }
    }

    fn tuning(&self) -> Tuning {
        let keep_alive = Duration::from_millis(300);
        let mut tuning = Tuning { idle: self.idle, keep_alive, look: LOOK, ..Tuning::default() };
        (self.adjust)(&mut tuning);
        tuning
    }

    pub(crate) fn run(self) -> Node {
        self.try_run().unwrap()
    }

    pub(crate) fn try_run(&self) -> Result<Node, MeshError> {
        let tasks = Tasks::new(Shutdown::new());
        let config = MeshConfig {
            identity: self.identity.clone(),
            network: NETWORK,
            listen: self.listen,
            secrets: Secrets { rejoin: self.rejoin.clone(), ..epoch(1, self.secret).into() },
            members: self.members.clone(),
            enroller: self.enroller.clone(),
            tuning: self.tuning(),
        };
        let handle = Mesh::start(config, &tasks, self.clock.clone())?;
        Ok(Node { handle, identity: self.identity.clone(), role: self.role, tasks })
    }
}

impl Node {
    pub(crate) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    pub(crate) fn id(&self) -> NodeId {
        self.identity.node()
    }

    pub(crate) fn member(&self) -> Member {
        member(&self.identity, self.role, vec![self.handle.local_address()])
    }

    /// Waits until the link to `peer` is up (or not).
    pub(crate) async fn linked(&self, peer: NodeId, up: bool) {
        let mut links = self.handle.subscribe();
        let change = links.wait_for(|links| links.is_up(&peer) == up);
        tokio::time::timeout(LIMIT, change).await.expect("link state in time").unwrap();
    }

    /// Stops as a program does, telling the peers.
    pub(crate) async fn stop(self) {
        let report = self.tasks.drain(Duration::from_secs(5)).await;
        assert!(report.is_graceful(), "{report:?}");
    }
}

pub(crate) fn epoch(number: u32, secret: [u8; 32]) -> EpochSecret {
    EpochSecret { epoch: MeshEpoch(number), secret: SecretBytes::new(secret) }
}

pub(crate) fn clock() -> SharedClock {
    SystemClock::shared()
}

pub(crate) fn identity(seed: u8) -> Arc<Identity> {
    Arc::new(Identity::new(StaticKey::from_bytes(&[seed; 32]), SigningKey::from_bytes(&[seed + 100; 32])))
}

pub(crate) fn member(identity: &Identity, role: Role, addresses: Vec<SocketAddr>) -> Member {
    Member {
        node: identity.node(),
        mesh_key: identity.mesh_key(),
        identity_key: identity.identity_key(),
        role,
        name: format!("n-{}", identity.node().short()),
        addresses,
    }
}

pub(crate) fn members(index: u64, members: Vec<Member>) -> Members {
    Members { index, epoch: MeshEpoch(1), members }
}

/// Tells every node about all of them.
pub(crate) async fn introduce(index: u64, nodes: &[&Node]) {
    let all = members(index, nodes.iter().map(|node| node.member()).collect());
    for node in nodes {
        node.handle.update_members(all.clone()).await.unwrap();
    }
}

/// Waits until the two ends agree on one link, and stay so for a while: the
/// same two addresses at both ends.
pub(crate) async fn converged(a: &Node, b: &Node) {
    wait_for("one link", LIMIT, async || {
        let (at_a, at_b) = (peer_address(a, b.id())?, peer_address(b, a.id())?);
        let same = at_a == b.handle.local_address() && at_b == a.handle.local_address();
        same.then_some(())
    })
    .await;
}

fn peer_address(node: &Node, peer: NodeId) -> Option<SocketAddr> {
    node.handle.peers().into_iter().find(|info| info.id == peer && info.connected)?.address
}
