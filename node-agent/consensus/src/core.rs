//! What the parts of one running voter share, and what it knows about leaders.
//!
//! Invariant: "a live leader" is said only of one that this voter heard within
//! its lease, or of itself while a quorum answers it; the election gate of the
//! others depends on it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

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
    /// Since when this voter leads without having been answered once.
    unanswered: Mutex<Option<Instant>>,
    /// Since when this voter leads, as the election gate saw it.
    leading: Mutex<Option<Instant>>,
}

/// The last sign of life of a leader.
#[derive(Debug, Clone, Copy)]
struct Heard {
    leader: u64,
    at: Instant,
}

impl Core {
    pub(crate) fn new(raft: Raft, me: Member, timing: Timing, links: Arc<Links>) -> Self {
        Self {
            raft,
            me,
            timing,
            links,
            aside: AtomicBool::new(false),
            heard: Mutex::new(None),
            unanswered: Mutex::new(None),
            leading: Mutex::new(None),
        }
    }

    /// Notes that `leader` was accepted as the leader just now.
    pub(crate) fn heard_leader(&self, leader: u64) {
        let heard = Heard { leader, at: Instant::now() };
        *self.lock(&self.heard) = Some(heard);
    }

    /// The leader this voter has heard within the lease, itself included.
    pub(crate) fn live_leader(&self) -> Option<u64> {
        if self.leads_with_quorum() {
            return if self.is_aside() { None } else { Some(self.me.raft_id.0) };
        }
        let heard = *self.lock(&self.heard);
        heard.filter(|heard| heard.at.elapsed() < self.timing.lease()).map(|heard| heard.leader)
    }

    /// Whether this voter leads and a quorum answered it within its lease.
    ///
    /// A leader cut off from the others keeps its role in openraft 0.9 (no
    /// CheckQuorum); it must not take proposals that cannot be committed.
    pub(crate) fn leads_with_quorum(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let leads = metrics.state == ServerState::Leader;
        let is_alone = metrics.membership_config.voter_ids().count() == 1;
        let silent = match metrics.millis_since_quorum_ack {
            // Elected or started a moment ago; it may lead by an old vote and
            // never be answered, so this counts from the first look.
            None if leads && !is_alone => self.unanswered_for(),
            silent => {
                *self.lock(&self.unanswered) = None;
                Duration::from_millis(silent.unwrap_or(0))
            }
        };
        leads && silent <= self.timing.lease()
    }

    fn unanswered_for(&self) -> Duration {
        self.lock(&self.unanswered).get_or_insert_with(Instant::now).elapsed()
    }

    fn lock<'a, T>(&self, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
        mutex.lock().expect("the lock is held for one copy or store only")
    }

    /// Whether this voter leads, with or without a quorum.
    pub(crate) fn leads(&self) -> bool {
        self.raft.metrics().borrow().state == ServerState::Leader
    }

    /// Looks whether this voter leads; [`Core::led_for`] counts from here.
    pub(crate) fn note_lead(&self) {
        let leads = self.leads();
        let mut leading = self.lock(&self.leading);
        *leading = if leads { leading.or_else(|| Some(Instant::now())) } else { None };
    }

    /// How long this voter has led at least, to within a period of the gate.
    pub(crate) fn led_for(&self) -> Duration {
        self.lock(&self.leading).map_or(Duration::ZERO, |since| since.elapsed())
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
