//! The one owner of links and diallers.
//!
//! Invariant: at most one link per peer is published, and only to a peer of the
//! newest snapshot; when a snapshot drops a member, its link is closed before
//! `update_members` returns (`tests/one.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use osmoda_kit::{
    clock::{SharedClock, Timestamp},
    shutdown::Stage,
    tasks::{TaskHandle, TaskKind, Tasks},
};
use osmoda_mesh_protocol::{
    CLOSE_DUPLICATE, CLOSE_GOING, CLOSE_NORMAL, CLOSE_REFUSED, LinkInfo, Member, Members, SecretBytes, Service,
};
use osmoda_types::{MeshEpoch, MeshKey, NetworkId, NodeId, Role};
use quinn::{Connection, VarInt};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::{
    config::EpochSecret,
    counters::{Counters, Event},
    dial::{self, When},
    door::Doors,
    epochs::Epochs,
    error::MeshError,
    gauges,
    handle::Linked,
    identity::{Identity, Keyring},
    link,
    overlay::Overlay,
    pair::Enroller,
    port::Port,
    stream::{InUse, Queue},
    tie::{self, Origin},
    tuning::Tuning,
};

/// Commands waiting for the hub: a restart of a 32-node fleet brings two per
/// peer at once. Senders wait; none of them holds anything the hub needs.
const COMMANDS_MAX: usize = 64;

/// How long closing waits for the peers to hear of it.
const CLOSE_TIME: Duration = Duration::from_millis(500);

/// What every part of an endpoint shares. All of it is immutable or a snapshot.
pub(crate) struct Shared {
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) network: NetworkId,
    pub(crate) clock: SharedClock,
    pub(crate) tasks: Tasks,
    pub(crate) tuning: Tuning,
    pub(crate) port: Port,
    /// Handshakes under way at the listener.
    pub(crate) handshakes: AtomicUsize,
    /// Random per start: see `tie`.
    pub(crate) incarnation: u64,
    pub(crate) members: Arc<ArcSwap<Members>>,
    pub(crate) epochs: ArcSwap<Epochs>,
    /// This node's own secret for coming back.
    pub(crate) rejoin: Option<SecretBytes>,
    pub(crate) counters: Counters,
    pub(crate) doors: Arc<Doors>,
    pub(crate) services: ArcSwap<BTreeMap<Service, Queue>>,
    pub(crate) links: watch::Sender<Linked>,
    pub(crate) kicks: ArcSwap<BTreeMap<NodeId, Arc<Notify>>>,
    /// Members without a link that seem to live all the same; empty in a full mesh.
    pub(crate) alive: ArcSwap<BTreeSet<NodeId>>,
    pub(crate) enroller: Option<Arc<dyn Enroller>>,
}

impl Shared {
    /// This node's role in the newest snapshot.
    pub(crate) fn own_role(&self) -> Option<Role> {
        self.members.load().by_node(&self.keyring.node()).map(|member| member.role)
    }
}

/// One published link.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) origin: Origin,
    pub(crate) epoch: MeshEpoch,
    pub(crate) way: Way,
    pub(crate) keys: LinkKeys,
    pub(crate) since: Timestamp,
    pub(crate) state: Arc<LinkState>,
}

impl Link {
    /// Whether a link made today would be proven with another secret.
    pub(crate) fn is_stale(&self, epochs: &Epochs) -> bool {
        let newest = epochs.current().epoch;
        match self.way {
            Way::Epoch => newest != self.epoch,
            Way::Rejoin => newest >= self.epoch,
        }
    }

    /// Whether one of its two keys has been replaced since.
    pub(crate) fn is_outdated(&self, shared: &Shared, peer: &NodeId) -> bool {
        let members = shared.members.load();
        // Who is no member any more is cut off elsewhere, and at once.
        let replaced = members.by_node(peer).is_some_and(|member| member.mesh_key != self.keys.peer);
        replaced || !shared.keyring.has(&self.keys.own)
    }

    /// What it has carried, at boot time `now`.
    pub(crate) fn info(&self, now: Duration) -> LinkInfo {
        let stats = self.connection.stats();
        LinkInfo {
            sent_packets: stats.path.sent_packets,
            lost_packets: stats.path.lost_packets,
            mtu: stats.path.current_mtu,
            bytes_in: stats.udp_rx.bytes,
            bytes_out: stats.udp_tx.bytes,
            key_age_ms: millis(now).saturating_sub(self.state.keyed_ms.load(Ordering::Relaxed)),
        }
    }
}

/// What changes about a link while it is up.
#[derive(Debug)]
pub(crate) struct LinkState {
    /// Boot time of the last key update, in ms.
    pub(crate) keyed_ms: AtomicU64,
    /// Another link has followed; this one only finishes its streams.
    pub(crate) followed: AtomicBool,
    pub(crate) in_use: InUse,
}

pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// What proved that a peer belongs to the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// The secret of an epoch.
    Epoch,
    /// The member's own secret.
    Rejoin,
}

/// The transport keys that the two ends of a link proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkKeys {
    pub(crate) own: MeshKey,
    pub(crate) peer: MeshKey,
}

/// A connection whose peer has passed the handshake.
pub(crate) struct Established {
    pub(crate) peer: NodeId,
    pub(crate) connection: Connection,
    pub(crate) origin: Origin,
    pub(crate) epoch: MeshEpoch,
    pub(crate) way: Way,
    pub(crate) keys: LinkKeys,
    /// Made while an older link of the same dialler is up.
    pub(crate) renews: bool,
}

pub(crate) enum Command {
    /// `kept` is told whether the link was; one that was not is closed already.
    Established {
        new: Established,
        kept: oneshot::Sender<bool>,
    },
    Ended {
        peer: NodeId,
        connection: usize,
    },
    Members {
        members: Members,
        done: oneshot::Sender<Result<(), MeshError>>,
    },
    Epoch {
        secret: EpochSecret,
        done: oneshot::Sender<Result<bool, MeshError>>,
    },
    /// Other keys of this node.
    Identity {
        identity: Arc<Identity>,
        done: oneshot::Sender<Result<(), MeshError>>,
    },
    /// A member that was found under newer keys than `known` says.
    Followed {
        known: Box<Member>,
        now: Box<Member>,
    },
    Close {
        done: oneshot::Sender<()>,
    },
}

/// The way to the hub.
#[derive(Clone)]
pub(crate) struct HubSender(mpsc::Sender<Command>);

impl HubSender {
    /// Whether the link was kept. `false` also when the hub is gone.
    pub(crate) async fn established(&self, new: Established) -> bool {
        let (kept, answer) = oneshot::channel();
        self.0.send(Command::Established { new, kept }).await.is_ok() && answer.await.unwrap_or(false)
    }

    pub(crate) async fn ended(&self, peer: NodeId, connection: usize) {
        if self.0.send(Command::Ended { peer, connection }).await.is_err() {
            tracing::trace!("hub is gone");
        }
    }

    /// Returns when the snapshot is in force; `None` when the hub is gone.
    pub(crate) async fn members(&self, members: Members) -> Option<Result<(), MeshError>> {
        let (done, answer) = oneshot::channel();
        self.0.send(Command::Members { members, done }).await.ok()?;
        answer.await.ok()
    }

    /// Whether the epoch was newer; `None` when the hub is gone.
    pub(crate) async fn epoch(&self, secret: EpochSecret) -> Option<Result<bool, MeshError>> {
        let (done, answer) = oneshot::channel();
        self.0.send(Command::Epoch { secret, done }).await.ok()?;
        answer.await.ok()
    }

    /// Returns when the keys are in use; `None` when the hub is gone.
    pub(crate) async fn identity(&self, identity: Arc<Identity>) -> Option<Result<(), MeshError>> {
        let (done, answer) = oneshot::channel();
        self.0.send(Command::Identity { identity, done }).await.ok()?;
        answer.await.ok()
    }

    pub(crate) async fn followed(&self, known: Member, now: Member) {
        let (known, now) = (Box::new(known), Box::new(now));
        if self.0.send(Command::Followed { known, now }).await.is_err() {
            tracing::trace!("hub is gone");
        }
    }

    pub(crate) async fn close(&self) -> bool {
        let (done, answer) = oneshot::channel();
        self.0.send(Command::Close { done }).await.is_ok() && answer.await.is_ok()
    }
}

pub(crate) fn channel() -> (HubSender, mpsc::Receiver<Command>) {
    let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
    (HubSender(sender), receiver)
}

struct Dialler {
    task: TaskHandle,
    member: Member,
    when: When,
}

/// The hub's state.
pub(crate) struct Hub {
    shared: Arc<Shared>,
    sender: HubSender,
    links: BTreeMap<NodeId, Link>,
    /// Links that another one has followed, by connection.
    followed: BTreeMap<usize, (NodeId, Link)>,
    diallers: BTreeMap<NodeId, Dialler>,
}

impl Hub {
    pub(crate) fn new(shared: Arc<Shared>, sender: HubSender) -> Self {
        Self { shared, sender, links: BTreeMap::new(), followed: BTreeMap::new(), diallers: BTreeMap::new() }
    }

    /// Runs until the stores close.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let stop = self.shared.tasks.shutdown().token(Stage::CloseStores);
        self.renew_diallers();
        loop {
            tokio::select! {
                biased;
                // Safe to drop: a token stays cancelled.
                () = stop.cancelled() => break,
                // Safe to drop: a receive that was not ready took nothing.
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => break,
                },
            }
        }
        self.close_all().await;
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Established { new, kept } => {
                let up = self.establish(new);
                answer(kept, up);
            }
            Command::Ended { peer, connection } => self.end(peer, connection),
            Command::Members { members, done } => {
                self.replace_members(members);
                answer(done, self.open_port());
            }
            Command::Epoch { secret, done } => {
                let installed = self.install(&secret);
                answer(done, installed);
            }
            Command::Identity { identity, done } => {
                let changed = self.change_identity(identity);
                answer(done, changed);
            }
            Command::Followed { known, now } => self.follow(&known, *now),
            Command::Close { done } => {
                self.close_all().await;
                answer(done, ());
            }
        }
    }

    /// Whether the link is published; otherwise it is closed.
    fn establish(&mut self, new: Established) -> bool {
        let Established { peer, connection, origin, epoch, way, keys, renews } = new;
        // The snapshot or the own keys may have changed since the handshake.
        let is_known = self.shared.members.load().by_node(&peer).is_some_and(|member| member.mesh_key == keys.peer);
        if !is_known || !self.shared.keyring.has(&keys.own) {
            close(&connection, CLOSE_REFUSED);
            return false;
        }
        if let Some(old) = self.links.get(&peer) {
            let lost = old.connection.close_reason().is_some();
            if !lost && !tie::replaces(old.origin, origin) {
                close(&connection, CLOSE_DUPLICATE);
                return false;
            }
            if renews && !lost && old.origin == origin {
                old.state.followed.store(true, Ordering::Relaxed);
                self.followed.insert(old.connection.stable_id(), (peer, old.clone()));
                self.shared.counters.note(Event::LinkRenewed);
            } else {
                close(&old.connection, CLOSE_DUPLICATE);
            }
        }
        let keyed_ms = millis(self.shared.clock.now_boot()).into();
        let state = LinkState { keyed_ms, followed: false.into(), in_use: InUse::default() };
        let (since, state) = (self.shared.clock.now_wall(), Arc::new(state));
        let link = Link { connection, origin, epoch, way, keys, since, state };
        tracing::info!(peer = %peer, address = %link.connection.remote_address(), ?way, "link up");
        self.shared.tasks.spawn(
            TaskKind::BACKGROUND,
            format!("mesh link {}", peer.short()),
            link::serve(self.shared.clone(), self.sender.clone(), peer, link.clone()),
        );
        self.links.insert(peer, link);
        self.publish();
        true
    }

    fn end(&mut self, peer: NodeId, connection: usize) {
        self.followed.remove(&connection);
        // A link that was replaced ends too, and must not take the new one along.
        if self.links.get(&peer).is_some_and(|link| link.connection.stable_id() == connection) {
            self.links.remove(&peer);
            tracing::info!(peer = %peer, "link down");
            self.publish();
        }
    }

    fn install(&self, secret: &EpochSecret) -> Result<bool, MeshError> {
        let next = self.shared.epochs.load().with(secret, self.shared.clock.now_boot())?;
        let Some(next) = next else { return Ok(false) };
        self.shared.doors.set_epochs(&next);
        self.shared.epochs.store(Arc::new(next));
        tracing::info!(epoch = secret.epoch.0, "epoch in force");
        Ok(true)
    }

    /// New keys behind every door, and for every dial from now on. Links that
    /// were made with the old ones see it and are made anew.
    fn change_identity(&self, identity: Arc<Identity>) -> Result<(), MeshError> {
        self.shared.keyring.change(identity);
        self.shared.doors.rekey(&self.shared.epochs.load());
        self.shared.port.configure(self.shared.doors.default_config()?);
        tracing::info!(node = %self.shared.keyring.node(), "new keys in use");
        Ok(())
    }

    /// Believes a member's statements until a snapshot says more. What is kept
    /// on disk is the log's alone.
    fn follow(&mut self, known: &Member, now: Member) {
        let members = self.shared.members.load_full();
        // A newer snapshot knows better than what an older one was judged by.
        if members.by_node(&known.node) != Some(known) {
            return;
        }
        match members.with(now) {
            Ok(next) => {
                tracing::info!(peer = %known.node, "member followed to its new keys");
                self.replace_members(next);
            }
            Err(error) => tracing::warn!(peer = %known.node, %error, "member not followed to its new keys"),
        }
    }

    fn replace_members(&mut self, members: Members) {
        if members.index < self.shared.members.load().index {
            tracing::debug!(index = members.index, "older membership snapshot ignored");
            return;
        }
        let before = self.shared.members.load_full();
        self.shared.members.store(Arc::new(members));
        let members = self.shared.members.load_full();
        let own = self.shared.keyring.node();
        let own_changed = role_in(&before, &own) != role_in(&members, &own);
        // Streams were judged by the old roles, so a changed role ends them; the
        // peer dials again under the new one.
        let keeps = |peer: &NodeId| {
            let role = role_in(&members, peer);
            !own_changed && role.is_some() && role == role_in(&before, peer)
        };
        let ended: Vec<_> = self.links.keys().filter(|peer| !keeps(peer)).copied().collect();
        for peer in ended {
            if let Some(link) = self.links.remove(&peer) {
                let member = members.by_node(&peer).is_some();
                tracing::info!(peer = %peer, member, "link closed by a change of membership");
                close(&link.connection, if member { CLOSE_GOING } else { CLOSE_REFUSED });
            }
        }
        self.followed.retain(|_, (peer, link)| {
            let keep = keeps(peer);
            if !keep {
                close(&link.connection, CLOSE_REFUSED);
            }
            keep
        });
        self.publish();
        self.renew_diallers();
    }

    /// Binds the port once there is somebody else.
    fn open_port(&self) -> Result<(), MeshError> {
        let own = self.shared.keyring.node();
        let others = self.shared.members.load().members.iter().any(|member| member.node != own);
        if others { self.shared.port.open().map(drop) } else { Ok(()) }
    }

    /// One dialler per member that this node may call and that has an address;
    /// those outside the overlay dial when asked only.
    fn renew_diallers(&mut self) {
        let members = self.shared.members.load_full();
        let own = self.shared.keyring.node();
        let own_role = self.shared.own_role();
        let overlay = Overlay::of(&members);
        let wanted: BTreeMap<_, _> = members
            .members
            .iter()
            .filter(|member| member.node != own && !member.addresses.is_empty())
            .filter(|member| own_role.is_some_and(|role| may_call(role, member.role)))
            .map(|member| {
                let keeps = overlay.keeps(&own, &member.node);
                (member.node, (member, if keeps { When::Always } else { When::Asked }))
            })
            .collect();
        self.diallers.retain(|node, dialler| {
            let keep =
                wanted.get(node).is_some_and(|(member, when)| **member == dialler.member && *when == dialler.when);
            if !keep {
                dialler.task.abort();
            }
            keep
        });
        let mut kicks = BTreeMap::clone(&self.shared.kicks.load());
        kicks.retain(|node, _| wanted.contains_key(node));
        for (node, (member, when)) in wanted {
            if self.diallers.contains_key(&node) {
                continue;
            }
            let kick = Arc::clone(kicks.entry(node).or_default());
            let task = self.shared.tasks.spawn(
                TaskKind::BACKGROUND,
                format!("mesh dial {}", node.short()),
                dial::keep_linked(self.shared.clone(), self.sender.clone(), member.clone(), when, kick),
            );
            self.diallers.insert(node, Dialler { task, member: member.clone(), when });
        }
        self.shared.kicks.store(Arc::new(kicks));
    }

    fn publish(&self) {
        let linked = Linked(Arc::new(self.links.clone()));
        gauges::links(&self.shared.members.load(), self.shared.keyring.node(), &linked);
        self.shared.links.send_replace(linked);
    }

    async fn close_all(&mut self) {
        for dialler in std::mem::take(&mut self.diallers).into_values() {
            dialler.task.abort();
        }
        let followed = std::mem::take(&mut self.followed).into_values().map(|(_, link)| link);
        for link in std::mem::take(&mut self.links).into_values().chain(followed) {
            close(&link.connection, CLOSE_GOING);
        }
        self.publish();
        let Some(endpoint) = self.shared.port.bound() else { return };
        endpoint.close(VarInt::from_u32(CLOSE_NORMAL), b"");
        if tokio::time::timeout(CLOSE_TIME, endpoint.wait_idle()).await.is_err() {
            tracing::debug!("some peers did not hear of the close");
        }
    }
}

fn role_in(members: &Members, node: &NodeId) -> Option<Role> {
    members.by_node(node).map(|member| member.role)
}

/// Whether any service of a peer with that role is open to us.
pub(crate) fn may_call(own: Role, peer: Role) -> bool {
    Service::ALL.iter().any(|service| service.allows(own, peer))
}

/// Closes with a code and never a text.
pub(crate) fn close(connection: &Connection, code: u32) {
    connection.close(VarInt::from_u32(code), b"");
}

fn answer<T>(sender: oneshot::Sender<T>, value: T) {
    if sender.send(value).is_err() {
        tracing::trace!("nobody waits for the answer");
    }
}
