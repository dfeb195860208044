//! Whole fleets of the pure protocol on one simulated network. Every run is a
//! function of its seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use osmoda_types::NodeId;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{Effects, Packet, Swim};

const SECOND: Duration = Duration::from_secs(1);
const BOOT: u64 = 1_790_000_000_000;

/// A network with delay and loss, and the nodes on it.
struct Net {
    rng: SmallRng,
    now: Duration,
    nodes: BTreeMap<u8, Swim>,
    flying: BTreeMap<(Duration, u64), (u8, Packet)>,
    sent: u64,
    loss_ppm: u32,
    delay: std::ops::Range<Duration>,
}

fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

fn all(numbers: impl IntoIterator<Item = u8>) -> BTreeSet<NodeId> {
    numbers.into_iter().map(id).collect()
}

impl Net {
    fn new(size: u8, seed: u64) -> Self {
        let (low, high) = (Duration::from_millis(1), Duration::from_millis(20));
        let rng = SmallRng::seed_from_u64(seed);
        let mut net = Self {
            rng,
            now: SECOND,
            nodes: BTreeMap::new(),
            flying: BTreeMap::new(),
            sent: 0,
            loss_ppm: 0,
            delay: low..high,
        };
        let members = all(0..size);
        for node in 0..size {
            net.start(node, BOOT, &members);
        }
        net
    }

    /// Starts a node; its two neighbours on the ring are those it asks.
    fn start(&mut self, node: u8, boot: u64, members: &BTreeSet<NodeId>) {
        let mut swim = Swim::new(id(node), boot, self.rng.random());
        let size = members.len() as u8;
        let neighbours = [id((node + 1) % size), id((node + size - 1) % size)];
        let effects = swim.set_members(members.clone(), &neighbours, self.now);
        self.nodes.insert(node, swim);
        self.send(node, effects);
    }

    fn send(&mut self, from: u8, effects: Effects) {
        for packet in effects.packets {
            assert!(packet.bytes.len() <= super::PACKET_BYTES_MAX);
            if self.rng.random_range(0..1_000_000) < self.loss_ppm {
                continue;
            }
            let arrives = self.now + self.rng.random_range(self.delay.clone());
            self.flying.insert((arrives, self.sent), (from, packet));
            self.sent += 1;
        }
    }

    /// Runs for a span of simulated time, looking every second.
    fn watch(&mut self, span: Duration, mut look: impl FnMut(&Self)) {
        let end = self.now + span;
        while self.now < end {
            self.run(SECOND);
            look(self);
        }
    }

    /// Runs for a span of simulated time.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let arrival = self.flying.first_key_value().map(|((at, _), _)| *at);
            let timer = self.nodes.iter().filter_map(|(node, swim)| Some((swim.due()?, *node))).min();
            let next = arrival.into_iter().chain(timer.map(|(at, _)| at)).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if arrival == Some(next) {
                let (_, (from, packet)) = self.flying.pop_first().expect("it was seen above");
                let to = packet.to.as_bytes()[0];
                let Some(swim) = self.nodes.get_mut(&to) else { continue };
                let effects = swim.receive(id(from), &packet.bytes, next);
                self.send(to, effects);
            } else if let Some((_, node)) = timer {
                let effects = self.nodes.get_mut(&node).expect("it was seen above").tick(next);
                self.send(node, effects);
            }
        }
        self.now = end;
    }

    /// Nodes that do not see exactly those alive, themselves aside.
    fn mistaken(&self, alive: &BTreeSet<NodeId>) -> Vec<u8> {
        let wrong = |node: &u8, swim: &Swim| {
            let mut expected = alive.clone();
            expected.remove(&id(*node));
            swim.alive() != expected
        };
        self.nodes.iter().filter(|(node, swim)| wrong(node, swim)).map(|(node, _)| *node).collect()
    }
}

#[test]
fn sixty_four_nodes_find_each_other_and_agree_about_one_that_dies() {
    for seed in 1..=5 {
        let mut net = Net::new(64, seed);
        net.loss_ppm = 10_000;
        net.run(40 * SECOND);
        assert_eq!(net.mistaken(&all(0..64)), [0; 0], "seed {seed}: not all are known after 40 s");
        net.nodes.remove(&20);
        let alive = all((0..64).filter(|node| *node != 20));
        // Somebody probes it within a few periods, then the suspicion and the
        // gossip; most runs take 15 to 20 s.
        net.run(40 * SECOND);
        assert_eq!(net.mistaken(&alive), [0; 0], "seed {seed}: not known by all after 40 s");
    }
}

#[test]
fn loss_and_delay_make_nobody_look_dead() {
    for seed in 1..=3 {
        let mut net = Net::new(64, seed);
        net.run(30 * SECOND);
        net.loss_ppm = 20_000;
        net.delay = Duration::from_millis(20)..Duration::from_millis(250);
        let everybody = all(0..64);
        net.watch(120 * SECOND, |net| {
            let now = net.now;
            assert_eq!(net.mistaken(&everybody), [0; 0], "seed {seed} at {now:?}");
        });
    }
}

#[test]
fn a_revoked_member_is_never_believed_again_whoever_speaks_for_it() {
    let mut net = Net::new(40, 7);
    net.run(30 * SECOND);
    // 13 is revoked and goes on as before; 14 hears of it 20 s later, and tells
    // everybody until then what 13 says: that it lives and all others are dead.
    let (revoked, rest) = (id(13), all((0..40).filter(|node| *node != 13)));
    let revoke = |net: &mut Net, node: u8| {
        let now = net.now;
        let effects = net.nodes.get_mut(&node).unwrap().set_members(rest.clone(), &[], now);
        net.send(node, effects);
    };
    let believers = |net: &Net, but: u8| {
        let believes = |(node, swim): (&u8, &Swim)| ![13, but].contains(node) && swim.alive().contains(&revoked);
        net.nodes.iter().filter(|node| believes(*node)).count()
    };
    for node in (0..40).filter(|node| ![13, 14].contains(node)) {
        revoke(&mut net, node);
    }
    net.watch(20 * SECOND, |net| assert_eq!(believers(net, 14), 0, "at {:?}", net.now));
    revoke(&mut net, 14);
    net.watch(60 * SECOND, |net| assert_eq!(believers(net, 13), 0, "at {:?}", net.now));
    let mistaken: Vec<_> = net.mistaken(&rest).into_iter().filter(|node| *node != 13).collect();
    assert_eq!(mistaken, [0; 0]);
}

#[test]
fn a_node_that_starts_again_is_alive_again_even_if_its_clock_went_back() {
    for boot in [BOOT + 60_000, BOOT - 3_600_000] {
        let mut net = Net::new(40, 3);
        net.run(30 * SECOND);
        net.nodes.remove(&5);
        net.run(30 * SECOND);
        assert_eq!(net.mistaken(&all((0..40).filter(|node| *node != 5))), [0; 0]);
        net.start(5, boot, &all(0..40));
        net.run(30 * SECOND);
        assert_eq!(net.mistaken(&all(0..40)), [0; 0], "boot {boot}");
    }
}

#[test]
fn a_partition_heals() {
    let mut net = Net::new(40, 11);
    net.run(30 * SECOND);
    let cut: Vec<_> = (0..10).filter_map(|node| Some((node, net.nodes.remove(&node)?))).collect();
    net.run(40 * SECOND);
    assert_eq!(net.mistaken(&all(10..40)), [0; 0]);
    net.nodes.extend(cut);
    net.run(120 * SECOND);
    assert_eq!(net.mistaken(&all(0..40)), [0; 0]);
}
