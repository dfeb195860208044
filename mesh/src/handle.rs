//! Starting a mesh, and the handle through which it is used.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use arc_swap::ArcSwap;
use osmoda_kit::{
    clock::SharedClock,
    shutdown::Stage,
    tasks::{TaskKind, Tasks},
};
use osmoda_mesh_protocol::{CLOSE_NORMAL, Member, Members, PeerInfo, Service};
use osmoda_types::{MeshEpoch, NodeId, Role};
use quinn::Connection;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    command::{self, HubSender},
    config::{EpochSecret, MeshConfig, RejoinSecret},
    counters::{Counters, Event},
    dial::random,
    door::{Doors, InviteSecret},
    epochs::Epochs,
    error::MeshError,
    hub::{self, Hub},
    identity::{Identity, Keyring},
    link::{self, OpenFault},
    listen,
    made::Link,
    port::Port,
    shared::Shared,
    sieve::Knocks,
    stream::{IncomingStream, MeshStream, Offer, Queue},
};

/// Streams a service may leave unaccepted. HTTP/2 multiplexes, so a peer needs
/// one or two; a full queue answers `busy`.
const ACCEPT_QUEUE: usize = 64;

/// The mesh; only a place for its beginning.
pub struct Mesh;

impl Mesh {
    /// Starts the listener and the hub. The port is bound now if there are other
    /// members or the system chooses it, else when it is first needed.
    ///
    /// # Errors
    /// [`MeshError::Socket`], [`MeshError::NoSecret`], [`MeshError::Members`].
    pub fn start(config: MeshConfig, tasks: &Tasks, clock: SharedClock) -> Result<MeshHandle, MeshError> {
        let MeshConfig { identity, network, listen, secrets, members, enroller, tuning } = config;
        members.check()?;
        let epochs = Epochs::begin(&secrets, clock.now_wall().as_millis(), clock.now_boot())?;
        let members = Arc::new(ArcSwap::from_pointee(members));
        let keyring = Arc::new(Keyring::new(identity));
        let allowed = members.clone();
        let doors = Doors::new(network, keyring.clone(), tuning.clone(), allowed, &epochs, &secrets.rejoins);
        let doors = Arc::new(doors);
        let server = doors.default_config()?;
        let own = keyring.node();
        let knocks = Knocks::new(doors.clone(), members.clone(), tuning.knock_fallback, clock.clone());
        let port = Port::new(listen, keyring.clone(), server, Arc::new(knocks));
        let others = members.load().members.iter().any(|member| member.node != own);
        if others || port.is_system_chosen() {
            port.open()?;
        }
        let shared = Arc::new(Shared {
            keyring,
            network,
            clock,
            tasks: tasks.clone(),
            tuning,
            port,
            handshakes: 0.into(),
            incarnation: random(),
            members,
            put_out: 0.into(),
            epochs: ArcSwap::from_pointee(epochs),
            rejoin: secrets.rejoin,
            counters: Counters::default(),
            doors,
            services: ArcSwap::default(),
            links: watch::channel(Linked::default()).0,
            kicks: ArcSwap::default(),
            alive: ArcSwap::default(),
            enroller,
        });
        let (sender, commands) = command::channel();
        tasks.spawn(TaskKind::STORE, "mesh hub", Hub::new(shared.clone(), sender.clone()).run(commands));
        tasks.spawn(TaskKind::INTAKE, "mesh listener", listen::accept(shared.clone(), sender.clone()));
        #[cfg(feature = "swim")]
        tasks.spawn(TaskKind::INTAKE, "mesh swim", crate::swim::drive::run(shared.clone()));
        Ok(MeshHandle { shared, hub: sender })
    }
}

/// What the rest of a program does with its mesh. Cheap to clone.
#[derive(Clone)]
pub struct MeshHandle {
    shared: Arc<Shared>,
    hub: HubSender,
}

impl std::fmt::Debug for MeshHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MeshHandle({:?} on {})", self.local_id(), self.local_address())
    }
}

impl MeshHandle {
    /// This node.
    #[must_use]
    pub fn local_id(&self) -> NodeId {
        self.shared.keyring.node()
    }

    /// The keys in use and in preparation; follows every change.
    #[must_use]
    pub fn keyring(&self) -> Arc<Keyring> {
        self.shared.keyring.clone()
    }

    /// The keys in use.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        self.shared.keyring.now()
    }

    /// The keys that are prepared, if any.
    #[must_use]
    pub fn prepared_identity(&self) -> Option<Arc<Identity>> {
        self.shared.keyring.next()
    }

    /// Says which keys are prepared, or that none are. A node that cannot reach
    /// anybody with the keys in use tries these too: the fleet may have had them
    /// when this node went down.
    ///
    /// # Errors
    /// [`MeshError::OtherNode`] when they are another node's.
    pub fn prepare_identity(&self, next: Option<Arc<Identity>>) -> Result<(), MeshError> {
        if next.as_ref().is_some_and(|next| next.node() != self.local_id()) {
            return Err(MeshError::OtherNode);
        }
        self.shared.keyring.prepare(next);
        Ok(())
    }

    /// Uses these keys from now on. The links stay while they are made anew with
    /// them, for [`KEYS_OVERLAP`](crate::KEYS_OVERLAP) at most; open invites end, because their text
    /// names the old key. Storing the keys durably comes before, and is the
    /// caller's (`rotation::commit`).
    ///
    /// # Errors
    /// [`MeshError::OtherNode`] when they are another node's;
    /// [`MeshError::Stopping`].
    pub async fn change_identity(&self, identity: Arc<Identity>) -> Result<(), MeshError> {
        if identity.node() != self.local_id() {
            return Err(MeshError::OtherNode);
        }
        self.hub.identity(identity).await.ok_or(MeshError::Stopping)?
    }

    /// This node's role in the newest snapshot.
    #[must_use]
    pub fn local_role(&self) -> Option<Role> {
        self.shared.own_role()
    }

    /// The address the port is bound to, or will be.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.shared.port.address()
    }

    /// Handshakes that strangers have under way here; bounded.
    #[must_use]
    pub fn handshakes(&self) -> usize {
        self.shared.handshakes.load(Ordering::Relaxed)
    }

    /// The newest membership snapshot.
    #[must_use]
    pub fn members(&self) -> Arc<Members> {
        self.shared.members.load_full()
    }

    /// The epoch whose secret is used for dialling.
    #[must_use]
    pub fn epoch(&self) -> Option<MeshEpoch> {
        Some(self.shared.epochs.load().current().epoch)
    }

    /// The epochs that are accepted now, newest first: at most two.
    #[must_use]
    pub fn epochs(&self) -> Vec<MeshEpoch> {
        self.shared.epochs.load().accepted(self.shared.clock.now_boot())
    }

    /// The newest epoch with its secret, for handing it to a member over an
    /// admitted link.
    #[must_use]
    pub fn epoch_secret(&self) -> EpochSecret {
        self.shared.epochs.load().current().clone()
    }

    /// Puts a newer epoch in force: from now on it is used for dialling, and the
    /// one before is accepted, knock and handshake, for ten minutes. Links stay.
    /// Returns whether it was newer. Storing it durably comes before, and is the
    /// caller's (`state::store_epoch`).
    ///
    /// # Errors
    /// [`MeshError::OtherSecret`] when the epoch has another secret already;
    /// [`MeshError::Stopping`].
    pub async fn install_epoch(&self, secret: EpochSecret) -> Result<bool, MeshError> {
        self.hub.epoch(secret).await.ok_or(MeshError::Stopping)?
    }

    /// Replaces the secrets with which other members may come back. A member
    /// that is not among them meets silence in that mode.
    pub fn set_rejoin_secrets(&self, secrets: &[RejoinSecret]) {
        self.shared.doors.set_returners(secrets);
    }

    /// How often something happened since the start.
    #[must_use]
    pub fn count(&self, event: Event) -> u64 {
        self.shared.counters.count(event)
    }

    /// Opens a stream to a service of a peer, waiting a while for a link.
    ///
    /// # Errors
    /// [`MeshError::UnknownPeer`], [`MeshError::Denied`] by our own table,
    /// [`MeshError::Offline`], [`MeshError::Refused`] by the peer,
    /// [`MeshError::Timeout`], [`MeshError::Stopping`].
    ///
    /// # Cancel safety
    /// Dropping it gives up the stream; the peer may see it open and end.
    pub async fn connect_stream(&self, peer: NodeId, service: Service) -> Result<MeshStream, MeshError> {
        let limit = self.shared.tuning.open;
        let deadline = Instant::now() + limit;
        loop {
            let link = tokio::time::timeout_at(deadline, self.link(peer, service))
                .await
                .map_err(|_| MeshError::Offline(peer))??;
            match tokio::time::timeout(limit, link::open_stream(&link, service)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(OpenFault::Refused(code))) => return Err(MeshError::Refused { peer, service, code }),
                Err(_) => return Err(MeshError::Timeout(peer)),
                // The link went away under us, perhaps for a better one (two
                // nodes that dial each other): nothing was said on it, so the
                // next link is as good.
                Ok(Err(OpenFault::Lost)) => self.left(peer, &link.connection, deadline).await?,
            }
        }
    }

    /// Waits until this connection is no longer the link to the peer.
    async fn left(&self, peer: NodeId, connection: &Connection, deadline: Instant) -> Result<(), MeshError> {
        let mut links = self.shared.links.subscribe();
        let id = connection.stable_id();
        let gone = links.wait_for(|links| links.0.get(&peer).is_none_or(|link| link.connection.stable_id() != id));
        match tokio::time::timeout_at(deadline, gone).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(MeshError::Stopping),
            Err(_) => Err(MeshError::Offline(peer)),
        }
    }

    async fn link(&self, peer: NodeId, service: Service) -> Result<Link, MeshError> {
        if self.shared.tasks.shutdown().reached(Stage::RefuseNew) {
            return Err(MeshError::Stopping);
        }
        let allowed = {
            let members = self.shared.members.load();
            let owner = members.by_node(&peer).ok_or(MeshError::UnknownPeer(peer))?.role;
            self.local_role().is_some_and(|own| service.allows(own, owner))
        };
        if !allowed {
            return Err(MeshError::Denied { peer, service });
        }
        let mut links = self.shared.links.subscribe();
        if !links.borrow().is_up(&peer)
            && let Some(kick) = self.shared.kicks.load().get(&peer)
        {
            kick.notify_one();
        }
        let up = links.wait_for(|links| links.is_up(&peer)).await.map_err(|_| MeshError::Stopping)?;
        up.0.get(&peer).cloned().ok_or(MeshError::Offline(peer))
    }

    /// Registers the acceptor of a service; peers are refused until then, and
    /// again when the receiver is dropped.
    ///
    /// # Errors
    /// [`MeshError::Registered`] while another acceptor lives.
    pub fn accept(&self, service: Service) -> Result<mpsc::Receiver<IncomingStream>, MeshError> {
        let (sender, receiver) = mpsc::channel(ACCEPT_QUEUE);
        self.register(service, &Queue::Streams(sender))?;
        Ok(receiver)
    }

    /// As [`MeshHandle::accept`], for an owner that decides about each stream.
    /// The peer waits for the answer as long as its open limit.
    ///
    /// # Errors
    /// [`MeshError::Registered`] while another acceptor lives.
    pub fn offers(&self, service: Service) -> Result<mpsc::Receiver<Offer>, MeshError> {
        let (sender, receiver) = mpsc::channel(ACCEPT_QUEUE);
        self.register(service, &Queue::Offers(sender))?;
        Ok(receiver)
    }

    fn register(&self, service: Service, queue: &Queue) -> Result<(), MeshError> {
        let mut taken = false;
        self.shared.services.rcu(|services| {
            let mut next = BTreeMap::clone(services);
            taken = next.get(&service).is_some_and(|queue| !queue.is_closed());
            if !taken {
                next.insert(service, queue.clone());
            }
            next
        });
        if taken { Err(MeshError::Registered(service)) } else { Ok(()) }
    }

    /// All other members and the state of the links to them.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerInfo> {
        let (members, links) = (self.members(), self.shared.links.borrow().clone());
        let (now, alive) = (self.shared.clock.now_boot(), self.shared.alive.load());
        let others = members.members.iter().filter(|member| member.node != self.local_id());
        others
            .map(|member| {
                let link = links.0.get(&member.node);
                PeerInfo {
                    id: member.node,
                    name: member.name.clone(),
                    role: member.role,
                    connected: link.is_some(),
                    alive: link.is_some() || alive.contains(&member.node),
                    rtt_us: link.map(|link| micros(link.connection.rtt())),
                    address: link.map(|link| link.connection.remote_address()).or(member.addresses.first().copied()),
                    since_ms: link.map(|link| link.since.as_millis()),
                    epoch: link.map(|link| link.epoch),
                    link: link.map(|link| link.info(now)),
                }
            })
            .collect()
    }

    /// Which links are up, and each change of it.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Linked> {
        self.shared.links.subscribe()
    }

    /// Puts a newer snapshot in force: when this returns, links of removed
    /// members are closed and no new one can come up. An older one is ignored, and one
    /// that is older than what was put out: it would bring that back. Storing it durably
    /// comes before, and is the caller's (`state::store_members`).
    ///
    /// # Errors
    /// [`MeshError::Members`], [`MeshError::Stopping`]; [`MeshError::Socket`]
    /// when the first other member needs the port and it cannot be bound: the
    /// snapshot is in force then, and diallers try the port again.
    pub async fn update_members(&self, members: Members) -> Result<(), MeshError> {
        members.check()?;
        if members.index < self.shared.put_out.load(Ordering::Relaxed) {
            tracing::debug!(index = members.index, "snapshot older than what was put out ignored");
            return Ok(());
        }
        self.hub.members(members).await.ok_or(MeshError::Stopping)?
    }

    /// Takes those out of force that a newer snapshot leaves out, and the old keys of
    /// those that have others in it, when that could not be stored: a revocation must
    /// not wait for a disk that is full. This node stays, or all links of a node whose
    /// disk is full would end. The snapshot's index is not taken over, so it is news when
    /// it comes again; one that is older than a snapshot in force or put out says nothing.
    ///
    /// # Errors
    /// As [`MeshHandle::update_members`].
    pub async fn put_out(&self, members: &Members) -> Result<(), MeshError> {
        members.check()?;
        let (before, own) = (self.members(), self.local_id());
        let mut left = Members::clone(&before);
        left.members.retain(|member| member.node == own || members.by_node(&member.node).is_some());
        for member in &mut left.members {
            let now = members.by_node(&member.node);
            let keys = |of: &Member| (of.mesh_key, of.identity_key);
            if let Some(now) = now.filter(|now| keys(now) != keys(member)) {
                now.clone_into(member);
            }
        }
        let newest = self.shared.put_out.fetch_max(members.index, Ordering::Relaxed);
        if members.index < newest.max(before.index) || left == *before {
            return Ok(());
        }
        tracing::warn!(
            index = members.index,
            "members and keys that a list leaves out are out of force; the disk did not take it"
        );
        self.hub.members(left).await.ok_or(MeshError::Stopping)?
    }

    /// Closes the link to a peer; returns whether there was one. A member is
    /// dialled again: only the snapshot says who belongs.
    pub fn disconnect(&self, peer: &NodeId) -> bool {
        let links = self.shared.links.borrow();
        let link = links.0.get(peer);
        if let Some(link) = link {
            hub::close(&link.connection, CLOSE_NORMAL);
        }
        link.is_some()
    }

    /// Lets the holder of this invite reach the enroller.
    ///
    /// # Errors
    /// [`MeshError::InvitesFull`]; [`MeshError::Socket`] when the port cannot be
    /// bound, which a fleet of one needs for its first invite.
    pub fn open_invite(&self, invite: &InviteSecret) -> Result<(), MeshError> {
        self.shared.port.open()?;
        self.shared.doors.open_invite(invite, self.shared.clock.now_wall().as_millis())
    }

    /// Closes every link and the socket now. A stop of the program does the
    /// same in its last stage, after accepted work has finished.
    ///
    /// # Errors
    /// [`MeshError::Stopping`] when it has happened already.
    pub async fn close(&self) -> Result<(), MeshError> {
        if self.hub.close().await { Ok(()) } else { Err(MeshError::Stopping) }
    }

    pub(crate) fn open_limit(&self) -> Duration {
        self.shared.tuning.open
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// The links that are up.
#[derive(Debug, Clone, Default)]
pub struct Linked(pub(crate) Arc<BTreeMap<NodeId, Link>>);

impl Linked {
    /// Whether a link to this peer is up.
    #[must_use]
    pub fn is_up(&self, peer: &NodeId) -> bool {
        self.0.contains_key(peer)
    }

    /// The linked peers, in order.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.0.keys().copied()
    }
}
