//! Which nodes are there: in memory, from their links; written down in batches.
//!
//! Invariant: presence is the controller's own view and decides nothing. A node
//! that cannot reach the controller works on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use osmoda_controller_api as api;
use osmoda_controller_store::NodeSeen;
use osmoda_kit::clock::{SharedClock, Timestamp};
use osmoda_proto::link::v1 as pb;
use osmoda_types::{NodeId, StorePath};

/// Heartbeats of all nodes together, per second, that one controller is asked
/// to take: a hundred bytes each and no disk, so 200 is far from any limit.
const BEATS_PER_SECOND: u32 = 200;

/// The shortest interval given: a lost node shows within seconds, and an idle
/// small fleet costs nothing measurable.
const INTERVAL_MIN: Duration = Duration::from_secs(2);

/// The longest: with it, 6,000 nodes stay within the budget.
const INTERVAL_MAX: Duration = Duration::from_secs(30);

/// Intervals without a heartbeat until a node is stale: one may be lost, and
/// one late.
const MISSED_MAX: u32 = 3;

/// What a node last said about itself, as stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(crate) struct Report {
    pub(crate) version: Option<String>,
    pub(crate) current: Option<StorePath>,
    pub(crate) boot_default: Option<StorePath>,
    pub(crate) step: Option<String>,
    pub(crate) reported_ms: Option<i64>,
    pub(crate) applied_index: u64,
    pub(crate) event_seq: u64,
}

#[derive(Debug, Default)]
struct Seen {
    report: Report,
    wall: Timestamp0,
    /// When it was last heard, on this boot's clock; absent after a restart.
    boot: Option<Duration>,
    links: u32,
    dirty: bool,
    /// The hash of the heartbeat that the last status answered, and of the
    /// newest heartbeat. What is hashed is the node's business.
    known_hash: Vec<u8>,
    newest_hash: Vec<u8>,
}

/// A timestamp with a default: never.
#[derive(Debug, Clone, Copy)]
struct Timestamp0(Timestamp);

impl Default for Timestamp0 {
    fn default() -> Self {
        Self(Timestamp::from_millis(0))
    }
}

/// What is known of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) presence: api::Presence,
    pub(crate) last_seen: Option<Timestamp>,
    pub(crate) report: Report,
}

/// The nodes' presence. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Presence {
    clock: SharedClock,
    nodes: Arc<Mutex<BTreeMap<NodeId, Seen>>>,
}

impl Presence {
    /// Starts from what was written down: known, but nobody is there yet.
    #[must_use]
    pub fn new(clock: SharedClock, stored: Vec<NodeSeen>) -> Self {
        let nodes = stored.into_iter().map(|row| {
            // A report of another version is not worth a refusal to start.
            let report = serde_json::from_str(&row.report).unwrap_or_default();
            let wall = Timestamp0(Timestamp::from_millis(row.last_seen_ms));
            (row.node, Seen { report, wall, ..Seen::default() })
        });
        Self { clock, nodes: Arc::new(Mutex::new(nodes.collect())) }
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<NodeId, Seen>> {
        // Every change leaves the map whole, so a panic elsewhere does not matter.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard<T>(&self, node: NodeId, change: impl FnOnce(&mut Seen) -> T) -> T {
        let (wall, boot) = (self.clock.now_wall(), self.clock.now_boot());
        let mut nodes = self.nodes();
        let seen = nodes.entry(node).or_default();
        seen.wall = Timestamp0(wall);
        seen.boot = Some(boot);
        seen.dirty = true;
        change(seen)
    }

    /// The interval every node is asked to keep now.
    pub(crate) fn interval(&self) -> Duration {
        let nodes = u32::try_from(self.nodes().len()).unwrap_or(u32::MAX);
        Duration::from_secs(u64::from(nodes / BEATS_PER_SECOND)).clamp(INTERVAL_MIN, INTERVAL_MAX)
    }

    /// A node dialled in; returns the last event it told.
    pub(crate) fn hello(&self, node: NodeId, hello: &pb::Hello) -> u64 {
        self.heard(node, |seen| {
            seen.links += 1;
            seen.report.version = Some(cut(&hello.version));
            seen.known_hash.clear();
            seen.report.event_seq
        })
    }

    /// A heartbeat; returns whether the node's status should be asked for.
    pub(crate) fn heartbeat(&self, node: NodeId, beat: &pb::Heartbeat) -> bool {
        self.heard(node, |seen| {
            seen.report.applied_index = beat.applied_index;
            seen.newest_hash.clone_from(&beat.status_hash);
            seen.known_hash != beat.status_hash
        })
    }

    /// The node's status.
    pub(crate) fn status(&self, node: NodeId, status: &pb::NodeStatus) {
        let reported = self.clock.now_wall().as_millis();
        self.heard(node, |seen| {
            seen.known_hash = seen.newest_hash.clone();
            seen.report.current = StorePath::new(status.current.clone()).ok();
            seen.report.boot_default = StorePath::new(status.boot_default.clone()).ok();
            seen.report.step = (!status.step.is_empty()).then(|| cut(&status.step));
            seen.report.reported_ms = Some(reported);
        });
    }

    /// An event of a node; returns whether it is new.
    pub(crate) fn event(&self, node: NodeId, seq: u64) -> bool {
        self.heard(node, |seen| {
            let new = seq > seen.report.event_seq;
            seen.report.event_seq = seen.report.event_seq.max(seq);
            new
        })
    }

    /// A link ended.
    pub(crate) fn gone(&self, node: NodeId) {
        if let Some(seen) = self.nodes().get_mut(&node) {
            seen.links = seen.links.saturating_sub(1);
        }
    }

    /// What is known of a node.
    pub(crate) fn of(&self, node: &NodeId) -> Known {
        let late = self.interval() * MISSED_MAX;
        let now = self.clock.now_boot();
        match self.nodes().get(node) {
            None => Known { presence: api::Presence::Unknown, last_seen: None, report: Report::default() },
            Some(seen) => {
                let in_time = seen.boot.is_some_and(|boot| now.saturating_sub(boot) <= late);
                let presence = match (seen.links > 0, in_time) {
                    (true, true) => api::Presence::Online,
                    (true, false) | (false, true) => api::Presence::Stale,
                    (false, false) => api::Presence::Offline,
                };
                Known { presence, last_seen: Some(seen.wall.0), report: seen.report.clone() }
            }
        }
    }

    /// How many links are up and in time.
    pub(crate) fn online(&self) -> u32 {
        let nodes: Vec<NodeId> = self.nodes().keys().copied().collect();
        let online = nodes.iter().filter(|node| self.of(node).presence == api::Presence::Online).count();
        u32::try_from(online).unwrap_or(u32::MAX)
    }

    /// What must be written down since the last call.
    pub(crate) fn take_dirty(&self) -> Vec<NodeSeen> {
        let mut nodes = self.nodes();
        let dirty = nodes.iter_mut().filter_map(|(node, seen)| std::mem::take(&mut seen.dirty).then_some((node, seen)));
        dirty
            .map(|(node, seen)| NodeSeen {
                node: *node,
                last_seen_ms: seen.wall.0.as_millis(),
                report: serde_json::to_string(&seen.report).expect("a report has only text keys"),
            })
            .collect()
    }
}

/// Texts of nodes are shown in lists: a line is enough.
fn cut(text: &str) -> String {
    text.chars().take(120).collect()
}

#[cfg(test)]
mod tests {
    use osmoda_kit::testing::FakeClock;

    use super::*;

    const NODE: NodeId = NodeId::from_bytes([1; 32]);

    fn check(presence: &Presence, expected: api::Presence) {
        assert_eq!(presence.of(&NODE).presence, expected);
    }

    #[test]
    fn a_node_is_online_stale_offline_by_its_heartbeats() {
        let clock = FakeClock::new();
        let presence = Presence::new(Arc::new(clock.clone()), Vec::new());
        check(&presence, api::Presence::Unknown);
        presence.hello(NODE, &pb::Hello::default());
        check(&presence, api::Presence::Online);
        clock.advance(INTERVAL_MIN * 4);
        check(&presence, api::Presence::Stale);
        presence.heartbeat(NODE, &pb::Heartbeat::default());
        check(&presence, api::Presence::Online);
        presence.gone(NODE);
        check(&presence, api::Presence::Stale);
        clock.advance(INTERVAL_MIN * 4);
        check(&presence, api::Presence::Offline);
        assert_eq!(presence.online(), 0);
    }

    #[test]
    fn a_status_is_asked_for_once_per_change_and_survives_a_restart() {
        let clock: SharedClock = Arc::new(FakeClock::new());
        let presence = Presence::new(clock.clone(), Vec::new());
        presence.hello(NODE, &pb::Hello { version: "1".into(), ..pb::Hello::default() });
        let beat = |hash: &[u8]| pb::Heartbeat { status_hash: hash.to_vec(), ..pb::Heartbeat::default() };
        assert!(presence.heartbeat(NODE, &beat(b"a")));
        presence.status(NODE, &pb::NodeStatus { current: "/nix/store/a".into(), ..pb::NodeStatus::default() });
        assert!(!presence.heartbeat(NODE, &beat(b"a")));
        assert!(presence.heartbeat(NODE, &beat(b"b")));
        assert!(presence.event(NODE, 4) && !presence.event(NODE, 4));

        let rows = presence.take_dirty();
        assert_eq!((rows.len(), presence.take_dirty().len()), (1, 0));
        let again = Presence::new(clock, rows);
        let known = again.of(&NODE);
        assert_eq!(known.presence, api::Presence::Offline);
        assert_eq!(known.report.current.unwrap().as_str(), "/nix/store/a");
        assert_eq!(again.hello(NODE, &pb::Hello::default()), 4);
    }

    #[test]
    fn the_interval_grows_with_the_fleet() {
        let row = |number: u32| {
            let mut id = [0; 32];
            id[..4].copy_from_slice(&number.to_be_bytes());
            NodeSeen { node: NodeId::from_bytes(id), last_seen_ms: 0, report: "{}".into() }
        };
        let of = |count| Presence::new(Arc::new(FakeClock::new()), (0..count).map(row).collect()).interval();
        assert_eq!((of(5), of(2_000), of(10_000)), (INTERVAL_MIN, Duration::from_secs(10), INTERVAL_MAX));
    }
}
