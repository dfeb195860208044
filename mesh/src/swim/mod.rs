//! Liveness above 32 members: SWIM with suspicion, in QUIC datagrams. *Pure*;
//! `drive` does the I/O.
//!
//! Who is a member is the snapshot's to say, never SWIM's: it only tells which
//! members seem to live. A member can make others doubt a third one for a while
//! by lying, and nothing else; a link that is up always counts as life. All
//! nodes of a fleet are built with this or none.
//!
//! Invariant: no node that is not in the snapshot is ever reported alive.

mod codec;
#[cfg(feature = "swim")]
pub(crate) mod drive;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::{Config, Foca, NoCustomBroadcast, Notification, PeriodicParams, Runtime, Timer};
use osmoda_types::NodeId;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use self::codec::{Codec, Start};

/// The largest packet. QUIC's smallest path carries datagrams of 1,150 bytes
/// beside its own headers; 24 updates fit.
pub(crate) const PACKET_BYTES_MAX: usize = 1100;

/// One member is probed per period. A probe may need a link first, which is a
/// handshake and its round trip: [`PROBE_RTT`] leaves room for both at 200 ms on
/// a busy host. With 800 ms 36 endpoints on two busy cores held each other for
/// dead, and asking others about that made more handshakes still (2026-11-22).
const PROBE_PERIOD: Duration = Duration::from_secs(3);
const PROBE_RTT: Duration = Duration::from_millis(1200);

/// How long a suspect has to be heard of again: two rounds of gossip through a
/// thousand members and back. Shorter makes hosts that stall look dead, longer
/// makes dead ones look alive.
const SUSPECT_TIME: Duration = Duration::from_secs(9);

/// How often an update is passed on: log2 of a thousand members.
const TRANSMISSIONS: u8 = 10;

/// How often a member that does not seem to live is asked; one that is away
/// costs a dial each time, as it does in a full mesh.
const DISCOVER_PERIOD: Duration = Duration::from_secs(2);

/// What the protocol wants done.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Packets, in order.
    pub(crate) packets: Vec<Packet>,
    /// Whether the set of living members changed.
    pub(crate) changed: bool,
}

/// One packet.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) to: NodeId,
    pub(crate) bytes: Vec<u8>,
    /// Whether it is worth making a link for.
    pub(crate) begins: bool,
}

/// The protocol of one node.
pub(crate) struct Swim {
    foca: Foca<Start, Codec, SmallRng, NoCustomBroadcast>,
    own: NodeId,
    members: BTreeSet<NodeId>,
    /// By when they are due, and the order in which they came.
    timers: BTreeMap<(Duration, u64), Timer<Start>>,
    timers_made: u64,
    /// When the next member that does not seem to live is asked.
    discover: Option<Duration>,
    rng: SmallRng,
}

impl Swim {
    /// A node that knows nobody yet. `boot` is the wall clock in milliseconds,
    /// `seed` random.
    pub(crate) fn new(own: NodeId, boot: u64, seed: u64) -> Self {
        let foca = Foca::new(Start { node: own, boot }, config(), SmallRng::seed_from_u64(seed), Codec);
        let rng = SmallRng::seed_from_u64(!seed);
        Self { foca, own, members: BTreeSet::new(), timers: BTreeMap::new(), timers_made: 0, discover: None, rng }
    }

    /// Puts the snapshot's members in force, this node's own among them, and
    /// asks `neighbours` who lives. What was known of others is forgotten.
    pub(crate) fn set_members(&mut self, members: BTreeSet<NodeId>, neighbours: &[NodeId], now: Duration) -> Effects {
        let gone: Vec<_> = self.foca.iter_members().map(|member| *member.id()).collect();
        let gone = gone.into_iter().filter(|start| !members.contains(&start.node)).map(foca::Member::down);
        let gone: Vec<_> = gone.collect();
        self.members = members;
        self.discover = Some(now + DISCOVER_PERIOD);
        self.act(now, |foca, runtime| {
            // Everybody has the snapshot, so nobody needs to be told.
            foca.apply_many(gone.into_iter(), false, &mut *runtime)?;
            for neighbour in neighbours {
                // Their start is not known; an announcement is for any.
                foca.announce(Start { node: *neighbour, boot: 0 }, &mut *runtime)?;
            }
            Ok(())
        })
    }

    /// Takes a packet that came over the link of `from`.
    pub(crate) fn receive(&mut self, from: NodeId, packet: &[u8], now: Duration) -> Effects {
        if packet.len() > PACKET_BYTES_MAX {
            return Effects::default();
        }
        match codec::believable(packet, from, self.own, &self.members) {
            Ok(packet) => self.act(now, |foca, runtime| foca.handle_data(&packet, runtime)),
            Err(error) => {
                tracing::debug!(peer = %from, %error, "packet dropped");
                Effects::default()
            }
        }
    }

    /// When [`Swim::tick`] is due.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.timers.first_key_value().map(|((due, _), _)| *due).into_iter().chain(self.discover).min()
    }

    /// Does what is due at `now`.
    pub(crate) fn tick(&mut self, now: Duration) -> Effects {
        let later = self.timers.split_off(&(now + Duration::from_nanos(1), 0));
        let due = std::mem::replace(&mut self.timers, later);
        let mut effects = Effects::default();
        for timer in due.into_values() {
            let more = self.act(now, |foca, runtime| foca.handle_timer(timer, runtime));
            effects.packets.extend(more.packets);
            effects.changed |= more.changed;
        }
        if self.discover.is_some_and(|at| at <= now) {
            effects.packets.extend(self.discover(now).packets);
        }
        effects
    }

    /// Asks one of the members that do not seem to live: hearsay may leave out one
    /// that was never heard of, or that is back.
    fn discover(&mut self, now: Duration) -> Effects {
        let alive = self.alive();
        let mut missing = self.members.iter().filter(|node| **node != self.own && !alive.contains(node));
        let count = missing.clone().count();
        self.discover = Some(now + DISCOVER_PERIOD);
        let chosen = if count > 0 { missing.nth(self.rng.random_range(0..count)).copied() } else { None };
        match chosen {
            Some(node) => self.act(now, |foca, runtime| foca.announce(Start { node, boot: 0 }, runtime)),
            None => Effects::default(),
        }
    }

    /// The other members that seem to live.
    pub(crate) fn alive(&self) -> BTreeSet<NodeId> {
        let known = self.foca.iter_members().map(|member| member.id().node);
        known.filter(|node| self.members.contains(node)).collect()
    }

    fn act(
        &mut self,
        now: Duration,
        act: impl FnOnce(&mut Foca<Start, Codec, SmallRng, NoCustomBroadcast>, &mut Collect) -> Result<(), foca::Error>,
    ) -> Effects {
        let mut collect = Collect::default();
        if let Err(error) = act(&mut self.foca, &mut collect) {
            // Packets of others can be wrong in ways that only the protocol sees.
            tracing::debug!(%error, "swim did not take it");
        }
        for (timer, after) in collect.timers {
            self.timers.insert((now + after, self.timers_made), timer);
            self.timers_made += 1;
        }
        collect.effects.packets.retain(|packet| self.members.contains(&packet.to));
        collect.effects
    }
}

fn config() -> Config {
    let periodic = |frequency, members| {
        Some(PeriodicParams { frequency, num_members: NonZeroUsize::new(members).expect("a constant above zero") })
    };
    Config {
        probe_period: PROBE_PERIOD,
        probe_rtt: PROBE_RTT,
        num_indirect_probes: NonZeroUsize::new(3).expect("a constant above zero"),
        max_transmissions: NonZeroU8::new(TRANSMISSIONS).expect("a constant above zero"),
        suspect_to_down_after: SUSPECT_TIME,
        // One entry per member, so that nobody who was declared dead comes back
        // by an old rumour.
        remove_down_after: None,
        max_packet_size: NonZeroUsize::new(PACKET_BYTES_MAX).expect("a constant above zero"),
        notify_down_members: true,
        // `discover` asks instead, and every member there is.
        periodic_announce: None,
        periodic_announce_to_down_members: None,
        // Only over links that are up anyway.
        periodic_gossip: periodic(Duration::from_millis(500), 3),
    }
}

/// Gathers what the protocol wants.
#[derive(Default)]
struct Collect {
    effects: Effects,
    timers: Vec<(Timer<Start>, Duration)>,
}

impl Runtime<Start> for Collect {
    fn notify(&mut self, notification: Notification<'_, Start>) {
        match notification {
            Notification::MemberUp(_) | Notification::MemberDown(_) => self.effects.changed = true,
            Notification::Rejoin(_) => tracing::info!("others held this node for dead; it has told them"),
            _ => {}
        }
    }

    fn send_to(&mut self, to: Start, data: &[u8]) {
        let begins = codec::begins_exchange(data);
        self.effects.packets.push(Packet { to: to.node, bytes: data.to_vec(), begins });
    }

    fn submit_after(&mut self, event: Timer<Start>, after: Duration) {
        self.timers.push((event, after));
    }
}
