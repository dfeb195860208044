//! The one owner of links and diallers.
//!
//! Invariant: at most one link per peer is published, and only to a peer of the
//! newest snapshot; when a snapshot drops a member, its link is closed before
//! `update_members` returns (`tests/one.rs`).

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use osmoda_kit::{
    shutdown::Stage,
    tasks::{TaskHandle, TaskKind},
};
use osmoda_mesh_protocol::{CLOSE_DUPLICATE, CLOSE_GOING, CLOSE_NORMAL, CLOSE_REFUSED, Member, Members, Service};
use osmoda_types::{NodeId, Role};
use quinn::{Connection, VarInt};
use tokio::sync::{mpsc, oneshot};

use crate::{
    command::{Command, HubSender},
    config::EpochSecret,
    counters::Event,
    dial::{self, When},
    error::MeshError,
    gauges,
    handle::Linked,
    identity::Identity,
    link,
    made::{Established, Link, LinkState, millis},
    overlay::Overlay,
    shared::Shared,
    stream::InUse,
    tie::{self, Old},
};

/// How long closing waits for the peers to hear of it.
const CLOSE_TIME: Duration = Duration::from_millis(500);

/// Replaced links to one peer that may finish their streams: one that was renewed
/// and one that was crossed. Bounds hold for each link, so a peer that renews all
/// the time must not gather links.
const DRAINING_OF_ONE_MAX: usize = 2;

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
            match tie::beside(old.origin, origin, renews) {
                Old::Stays if !lost => {
                    close(&connection, CLOSE_DUPLICATE);
                    return false;
                }
                Old::Drains if !lost && self.drains(&peer) < DRAINING_OF_ONE_MAX => {
                    old.state.followed.store(true, Ordering::Relaxed);
                    self.followed.insert(old.connection.stable_id(), (peer, old.clone()));
                    self.shared.counters.note(if renews { Event::LinkRenewed } else { Event::LinksCrossed });
                }
                Old::Stays | Old::Drains | Old::Ends => close(&old.connection, CLOSE_DUPLICATE),
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

    fn drains(&self, peer: &NodeId) -> usize {
        self.followed.values().filter(|(of, _)| of == peer).count()
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
        // The port would keep the secret that it was opened with.
        self.shared.port.configure(self.shared.doors.default_config()?);
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
        gauges::left(&before, &members);
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
