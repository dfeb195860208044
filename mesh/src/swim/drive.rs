//! SWIM at work: packets as datagrams of links, timers, and links that nothing
//! uses any more.
//!
//! Runs beside the hub and owns nothing but its protocol; it reads the links
//! that the hub publishes and asks for others through the diallers' kicks. With
//! a full mesh it rests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::TaskKind;
use osmoda_mesh_protocol::CLOSE_NORMAL;
use osmoda_types::{NodeId, Role};
use tokio::sync::mpsc;

use super::{Effects, Swim};
use crate::dial::random;
use crate::hub::close;
use crate::made::Link;
use crate::overlay::Overlay;
use crate::shared::Shared;

/// Datagrams that wait for the protocol: some seconds of a thousand members'.
/// What is over it is dropped, as on any network.
const WAITING_MAX: usize = 256;

/// How often the snapshot and the links in use are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How long a link outside the overlay stays without a stream or a packet. A
/// probe per period holds about seven links in each direction with it; shorter
/// makes a handshake of nearly every probe.
const QUIET_TIME: Duration = Duration::from_secs(20);

/// Packets that wait for a link, one per peer: the newest says most.
type Waiting = BTreeMap<NodeId, Bytes>;

/// Runs until a stop begins.
pub(crate) async fn run(shared: Arc<Shared>) {
    let stop = shared.tasks.shutdown().token(Stage::RefuseNew);
    let (sender, mut arrived) = mpsc::channel(WAITING_MAX);
    let mut links = shared.links.subscribe();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut driver = Driver::new(shared, sender);
    driver.follow_members();
    loop {
        let due = driver.until_due();
        tokio::select! {
            biased;
            // Safe to drop: a token stays cancelled.
            () = stop.cancelled() => return,
            // Safe to drop: the newest set is read in any case.
            changed = links.changed() => match changed {
                Ok(()) => driver.follow_links(),
                Err(_) => return,
            },
            // Safe to drop: a receive that was not ready took nothing.
            Some((from, packet)) = arrived.recv() => driver.receive(from, &packet),
            // Safe to drop: what is due stays due.
            () = tokio::time::sleep(due) => driver.tick(),
            // Safe to drop: a tick that was not taken stays due.
            _ = look.tick() => {
                driver.follow_members();
                driver.close_quiet();
            }
        }
    }
}

struct Driver {
    shared: Arc<Shared>,
    sender: mpsc::Sender<(NodeId, Bytes)>,
    /// Absent with a full mesh.
    swim: Option<Swim>,
    overlay: Overlay,
    members_index: Option<u64>,
    /// The connection of each peer whose datagrams are being read.
    readers: BTreeMap<NodeId, usize>,
    waiting: Waiting,
    /// When each link outside the overlay was last seen in use, by boot time.
    used: BTreeMap<NodeId, Duration>,
}

impl Driver {
    fn new(shared: Arc<Shared>, sender: mpsc::Sender<(NodeId, Bytes)>) -> Self {
        Self {
            shared,
            sender,
            swim: None,
            overlay: Overlay::Full,
            members_index: None,
            readers: BTreeMap::new(),
            waiting: Waiting::new(),
            used: BTreeMap::new(),
        }
    }

    /// Far away while nothing is due.
    fn until_due(&self) -> Duration {
        let due = self.swim.as_ref().and_then(Swim::due);
        due.map_or(LOOK, |due| due.saturating_sub(self.shared.clock.now_boot()))
    }

    fn follow_members(&mut self) {
        let members = self.shared.members.load_full();
        if self.members_index.replace(members.index) == Some(members.index) {
            return;
        }
        self.overlay = Overlay::of(&members);
        let own = self.shared.keyring.node();
        let probed = |role| matches!(role, Role::Voter | Role::Node);
        let on_ring: BTreeSet<_> =
            members.members.iter().filter(|member| probed(member.role)).map(|member| member.node).collect();
        if matches!(self.overlay, Overlay::Full) || !on_ring.contains(&own) {
            self.swim = None;
            self.shared.alive.store(Arc::default());
            return;
        }
        let neighbours: Vec<_> =
            on_ring.iter().filter(|node| **node != own && self.overlay.keeps(&own, node)).copied().collect();
        let boot = u64::try_from(self.shared.clock.now_wall().as_millis()).unwrap_or(0);
        let now = self.shared.clock.now_boot();
        let swim = self.swim.get_or_insert_with(|| {
            tracing::info!(members = on_ring.len(), "too many members for a full mesh, swim begins");
            Swim::new(own, boot, random())
        });
        let effects = swim.set_members(on_ring, &neighbours, now);
        self.follow_links();
        self.enact(effects);
        self.publish();
    }

    /// Reads new links' datagrams and sends what waited for them.
    fn follow_links(&mut self) {
        if self.swim.is_none() {
            return;
        }
        let links = self.shared.links.borrow().clone();
        self.readers.retain(|peer, _| links.is_up(peer));
        for (peer, link) in links.0.iter() {
            let id = link.connection.stable_id();
            if self.readers.insert(*peer, id) != Some(id) {
                let reader = read(*peer, link.clone(), self.sender.clone());
                self.shared.tasks.spawn(TaskKind::BACKGROUND, format!("mesh datagrams {}", peer.short()), reader);
            }
            if let Some(packet) = self.waiting.remove(peer) {
                send(*peer, link, packet);
            }
        }
    }

    fn receive(&mut self, from: NodeId, packet: &[u8]) {
        let now = self.shared.clock.now_boot();
        self.used.insert(from, now);
        if let Some(swim) = &mut self.swim {
            let effects = swim.receive(from, packet, now);
            self.enact(effects);
        }
    }

    fn tick(&mut self) {
        let now = self.shared.clock.now_boot();
        if let Some(swim) = &mut self.swim {
            let effects = swim.tick(now);
            self.enact(effects);
        }
    }

    fn enact(&mut self, effects: Effects) {
        let links = self.shared.links.borrow().clone();
        for packet in effects.packets {
            let bytes = Bytes::from(packet.bytes);
            match links.0.get(&packet.to) {
                Some(link) => send(packet.to, link, bytes),
                None if packet.begins => {
                    self.waiting.insert(packet.to, bytes);
                    if let Some(kick) = self.shared.kicks.load().get(&packet.to) {
                        kick.notify_one();
                    }
                }
                None => {}
            }
        }
        if effects.changed {
            self.publish();
        }
    }

    fn publish(&self) {
        let alive = self.swim.as_ref().map(Swim::alive).unwrap_or_default();
        metrics::gauge!("osmoda_mesh_alive").set(alive.len() as f64);
        self.shared.alive.store(Arc::new(alive));
    }

    /// Closes links outside the overlay that nothing has used for a while.
    fn close_quiet(&mut self) {
        let (own, now) = (self.shared.keyring.node(), self.shared.clock.now_boot());
        let links = self.shared.links.borrow().clone();
        self.used.retain(|peer, _| links.is_up(peer));
        // A packet that waited longer than a probe takes is worth nothing.
        self.waiting.retain(|peer, _| self.shared.members.load().by_node(peer).is_some());
        for (peer, link) in links.0.iter().filter(|(peer, _)| !self.overlay.keeps(&own, peer)) {
            let used = self.used.entry(*peer).or_insert(now);
            if link.state.in_use.others() > 0 {
                *used = now;
            } else if now.saturating_sub(*used) > QUIET_TIME {
                tracing::debug!(%peer, "link closed, nothing uses it");
                close(&link.connection, CLOSE_NORMAL);
            }
        }
    }
}

/// A datagram may always be lost, so a full buffer loses it.
fn send(peer: NodeId, link: &Link, packet: Bytes) {
    if let Err(error) = link.connection.send_datagram(packet) {
        tracing::debug!(%peer, %error, "datagram not sent");
    }
}

/// Hands on the datagrams of one link until it ends.
async fn read(peer: NodeId, link: Link, sender: mpsc::Sender<(NodeId, Bytes)>) {
    while let Ok(packet) = link.connection.read_datagram().await {
        if sender.try_send((peer, packet)).is_err() {
            tracing::trace!(%peer, "datagram dropped");
        }
    }
}
