//! Two real mesh endpoints in one process, and a dialler below them.
//!
//! Always holds: links are made by one side only, so nothing is measured while
//! two crossed dials are being resolved. The dialler uses the mesh's handshake
//! on a socket of its own, which lets a benchmark choose its source address.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ed25519_dalek::SigningKey;
use osmoda_kit::clock::SystemClock;
use osmoda_kit::shutdown::Shutdown;
use osmoda_kit::tasks::Tasks;
use osmoda_mesh::{EpochSecret, Identity, Mesh, MeshConfig, MeshHandle, Tuning};
use osmoda_mesh_crypto::{ClientCrypto, Mode, Party, Psk, QUIC_VERSION, StaticKey, endpoint_config};
use osmoda_mesh_protocol::{Admitted, FRAME_VERSION, Hello, Member, Members, SecretBytes, decode_json, knock};
use osmoda_types::{MeshEpoch, MeshKey, NetworkId, NodeId, Role};
use quinn::{ClientConfig, Connection, ConnectionId, Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};

/// How long anything here may take before the benchmark gives up.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// The fleet of all benchmarks here.
pub(crate) const NETWORK: NetworkId = NetworkId::from_bytes([7; 32]);
const EPOCH: MeshEpoch = MeshEpoch(1);
const SECRET: [u8; 32] = [1; 32];

/// The mesh's own size of kernel buffers, for the other side of a ratio.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// One endpoint of the mesh.
pub(crate) struct End {
    /// The mesh as its owner has it.
    pub(crate) handle: MeshHandle,
    /// Joins everything that runs for this end.
    pub(crate) tasks: Tasks,
    identity: Arc<Identity>,
}

impl End {
    /// An endpoint whose keys follow from `seed`, alone until it is introduced.
    pub(crate) fn start(seed: u8, listen: SocketAddr) -> anyhow::Result<Self> {
        let tasks = Tasks::new(Shutdown::new());
        let identity = identity(seed);
        let config = MeshConfig {
            identity: identity.clone(),
            network: NETWORK,
            listen,
            secrets: EpochSecret { epoch: EPOCH, secret: SecretBytes::new(SECRET) }.into(),
            members: snapshot(1, vec![member(&identity, vec![])]),
            enroller: None,
            tuning: Tuning::default(),
        };
        let handle = Mesh::start(config, &tasks, SystemClock::shared())?;
        Ok(Self { handle, tasks, identity })
    }

    /// This end as a member at these addresses.
    pub(crate) fn member(&self, addresses: Vec<SocketAddr>) -> Member {
        member(&self.identity, addresses)
    }

    /// Tells this end who is in the fleet.
    pub(crate) async fn learn(&self, index: u64, members: Vec<Member>) -> anyhow::Result<()> {
        Ok(self.handle.update_members(snapshot(index, members)).await?)
    }

    /// Waits until the link to `peer` is up.
    pub(crate) async fn linked(&self, peer: NodeId) -> anyhow::Result<()> {
        let mut links = self.handle.subscribe();
        tokio::time::timeout(LIMIT, links.wait_for(|links| links.is_up(&peer))).await.context("no link in time")??;
        Ok(())
    }

    /// Stops as a program does.
    pub(crate) async fn stop(self) {
        let report = self.tasks.drain(Duration::from_secs(2)).await;
        if !report.is_graceful() {
            tracing::debug!(?report, "an end of the benchmark was cut off");
        }
    }
}

/// Two ends on the loopback interface with a link that the first one dialled.
pub(crate) async fn pair() -> anyhow::Result<(End, End)> {
    let (a, b) = (End::start(1, ([127, 0, 0, 1], 0).into())?, End::start(2, ([127, 0, 0, 1], 0).into())?);
    link(&a, &b).await?;
    Ok((a, b))
}

/// Makes a link from `a` to `b`.
pub(super) async fn link(a: &End, b: &End) -> anyhow::Result<()> {
    let members = vec![a.member(vec![]), b.member(vec![b.handle.local_address()])];
    b.learn(2, members.clone()).await?;
    a.learn(2, members).await?;
    a.linked(b.handle.local_id()).await
}

fn snapshot(index: u64, members: Vec<Member>) -> Members {
    Members { index, epoch: EPOCH, members }
}

fn identity(seed: u8) -> Arc<Identity> {
    Arc::new(Identity::new(StaticKey::from_bytes(&[seed; 32]), SigningKey::from_bytes(&[seed + 100; 32])))
}

fn member(identity: &Identity, addresses: Vec<SocketAddr>) -> Member {
    Member {
        node: identity.node(),
        mesh_key: identity.mesh_key(),
        identity_key: identity.identity_key(),
        role: Role::Voter,
        name: format!("n-{}", identity.node().short()),
        addresses,
    }
}

/// One side of a handshake of the mesh, with the key of `seed`.
pub(super) fn party(seed: u8) -> Party {
    Party {
        key: Arc::new(StaticKey::from_bytes(&[seed; 32])),
        psk: Psk::mesh(&NETWORK, EPOCH, &SECRET),
        network: NETWORK,
        mode: Mode::Mesh(EPOCH),
        authorize: Arc::new(|_: &MeshKey| true),
    }
}

/// quinn's dialling side with the mesh's handshake; each use must have its own
/// `nonce`, which also tells the listener one start of a dialler from the next.
pub(super) fn noise_client(seed: u8, nonce: u64) -> anyhow::Result<ClientConfig> {
    let party = party(seed);
    let key = party.psk.knock_key();
    let hello = serde_json::to_vec(&Hello { version: FRAME_VERSION, incarnation: nonce, renews: false })?;
    let mut config = ClientConfig::new(Arc::new(ClientCrypto::new(party, hello)));
    config.version(QUIC_VERSION);
    config.initial_dst_cid_provider(Arc::new(move || {
        let now_ms = SystemClock::shared().now_wall().as_millis();
        ConnectionId::new(&knock(key.bytes(), nonce.to_be_bytes(), now_ms))
    }));
    Ok(config)
}

/// quinn's endpoint configuration of the owner of the key of `seed`.
pub(super) fn noise_endpoint(seed: u8) -> EndpointConfig {
    endpoint_config(&StaticKey::from_bytes(&[seed; 32]))
}

/// A socket with the kernel buffers that the mesh asks for.
pub(super) fn socket(address: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(BUFFER_BYTES)?;
    socket.set_send_buffer_size(BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    Ok(UdpSocket::from(socket))
}

/// An endpoint on that socket.
pub(super) fn endpoint(
    settings: EndpointConfig,
    server: Option<ServerConfig>,
    socket: UdpSocket,
) -> anyhow::Result<Endpoint> {
    Ok(Endpoint::new(settings, server, socket, Arc::new(TokioRuntime))?)
}

/// A member that only dials, each time from the loopback prefix it is told: the
/// listener limits handshakes by prefix, and what is measured is not the limit.
pub(crate) struct Dialler {
    seed: u8,
    dialled: u64,
}

impl Dialler {
    /// The dialler whose key follows from `seed`.
    pub(crate) fn new(seed: u8) -> Self {
        Self { seed, dialled: 0 }
    }

    /// It, as a member.
    pub(crate) fn member(&self) -> Member {
        member(&identity(self.seed), vec![])
    }

    /// A socket in `127.net.sub.0/24`.
    pub(crate) fn endpoint(&self, net: u8, sub: u8) -> anyhow::Result<Endpoint> {
        endpoint(noise_endpoint(self.seed), None, socket(([127, net, sub, 1], 0).into())?)
    }

    /// From the first packet to the admission of the mesh at `to`.
    pub(crate) async fn connect(&mut self, from: &Endpoint, to: SocketAddr) -> anyhow::Result<Duration> {
        self.dialled += 1;
        let config = noise_client(self.seed, self.dialled)?;
        let began = Instant::now();
        let connection = tokio::time::timeout(LIMIT, from.connect_with(config, to, "mesh")?).await??;
        let frame = first_words(&connection).await?;
        let took = began.elapsed();
        let admitted: Admitted = decode_json(frame.get(4..).context("a frame has a length")?)?;
        ensure!(admitted.version == FRAME_VERSION, "the listener speaks another version");
        connection.close(0_u32.into(), b"");
        Ok(took)
    }
}

/// All of the first stream that the other side opens: its word that we are in.
pub(super) async fn first_words(connection: &Connection) -> anyhow::Result<Vec<u8>> {
    let mut stream = tokio::time::timeout(LIMIT, connection.accept_uni()).await??;
    Ok(stream.read_to_end(2048).await?)
}
