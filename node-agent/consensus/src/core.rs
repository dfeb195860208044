//! What the parts of one running voter share, and what it knows about leaders.
//!
//! Invariant: "a live leader" is said only of one that this voter heard within
//! its lease, or of itself while a quorum answers it; the election gate of the
//! others depends on it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use openraft::ServerState;
use osmoda_types::RaftId;
use tokio::time::Instant;

use crate::links::Links;
use crate::timing::Timing;
use crate::types::{Member, Raft, Seat};

/// One running voter.
pub(crate) struct Core {
    pub(crate) raft: Raft,
    pub(crate) me: Member,
    pub(crate) timing: Timing,
    pub(crate) links: Arc<Links>,
    /// This leader stays silent so that another one is elected.
    aside: AtomicBool,
    heard: Mutex<Option<Heard>>,
}

/// The last sign of life of a leader.
#[derive(Debug, Clone, Copy)]
struct Heard {
    leader: u64,
    at: Instant,
}

impl Core {
    pub(crate) fn new(raft: Raft, me: Member, timing: Timing, links: Arc<Links>) -> Self {
        Self { raft, me, timing, links, aside: AtomicBool::new(false), heard: Mutex::new(None) }
    }

    /// Notes that `leader` was accepted as the leader just now.
    pub(crate) fn heard_leader(&self, leader: u64) {
        let heard = Heard { leader, at: Instant::now() };
        *self.heard.lock().expect("the lock is held for one store only") = Some(heard);
    }

    /// The leader this voter has heard within the lease, itself included.
    pub(crate) fn live_leader(&self) -> Option<u64> {
        if self.leads_with_quorum() {
            return if self.is_aside() { None } else { Some(self.me.raft_id.0) };
        }
        let heard = *self.heard.lock().expect("the lock is held for one copy only");
        heard.filter(|heard| heard.at.elapsed() < self.timing.lease()).map(|heard| heard.leader)
    }

    /// Whether this voter leads and a quorum answered it within its lease.
    ///
    /// A leader cut off from the others keeps its role in openraft 0.9 (no
    /// CheckQuorum); it must not take proposals that cannot be committed.
    pub(crate) fn leads_with_quorum(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let lease_ms = u64::try_from(self.timing.lease().as_millis()).unwrap_or(u64::MAX);
        metrics.state == ServerState::Leader
            && (metrics.membership_config.voter_ids().count() == 1
                // None: elected a moment ago, before the first round of appends.
                || metrics.millis_since_quorum_ack.is_none_or(|ms| ms <= lease_ms))
    }

    /// Whether this voter leads, with or without a quorum.
    pub(crate) fn leads(&self) -> bool {
        self.raft.metrics().borrow().state == ServerState::Leader
    }

    /// The leader as openraft names it, with its node.
    pub(crate) fn leader(&self) -> Option<Member> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let leader = metrics.current_leader?;
        let seat = metrics.membership_config.membership().get_node(&leader)?;
        Some(member(leader, seat))
    }

    pub(crate) fn is_aside(&self) -> bool {
        self.aside.load(Ordering::SeqCst)
    }

    /// Starts or ends stepping aside; false when it was so already.
    pub(crate) fn set_aside(&self, is_aside: bool) -> bool {
        self.aside.swap(is_aside, Ordering::SeqCst) != is_aside
    }
}

pub(crate) fn member(raft_id: u64, seat: &Seat) -> Member {
    Member { raft_id: RaftId(raft_id), node_id: seat.node_id }
}
