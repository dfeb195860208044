//! What a voter knows about its group, for drivers and pages.
//!
//! A view, not a proof: whoever acts on leadership proposes or reads
//! linearizably. Invariant: a status changes only when something in it did, so
//! following it is cheap.

use std::sync::Arc;

use openraft::{RaftMetrics, ServerState};
use osmoda_types::RaftId;
use tokio::sync::watch;

use crate::core::{Core, member};
use crate::store::{Counters, StoreFault};
use crate::types::{Member, Seat, StoredMembership};

/// The part a voter plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Follows without a vote.
    Learner,
    /// Follows a leader.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
    /// Has stopped.
    Stopped,
}

/// Who takes part.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Members {
    /// Voters, of both sets while a change is in progress.
    pub voters: Vec<Member>,
    /// Members without a vote.
    pub learners: Vec<Member>,
    /// Whether a change is in progress.
    pub is_changing: bool,
}

/// One voter's view of its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// This voter.
    pub me: Member,
    /// Its part.
    pub part: Part,
    /// Its term.
    pub term: u64,
    /// The leader it follows, if any.
    pub leader: Option<Member>,
    /// The next index to apply; zero when nothing was applied.
    pub next_index: u64,
    /// The last index in the log, if any.
    pub last_index: Option<u64>,
    /// Who takes part.
    pub members: Arc<Members>,
    /// Why it stopped, if the store failed.
    pub fault: Option<StoreFault>,
}

impl Status {
    /// Whether this voter leads, as far as it knows.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.part == Part::Leader
    }
}

/// Running totals since the program started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Syncs that reached the log file.
    pub fsyncs_total: u64,
    /// Durable commits of the log.
    pub commits_total: u64,
    /// Entries written to this voter's log.
    pub entries_total: u64,
    /// Commands this voter proposed.
    pub commands_total: u64,
    /// Entries this voter proposed.
    pub batches_total: u64,
}

impl From<&Counters> for Totals {
    fn from(counters: &Counters) -> Self {
        Self {
            fsyncs_total: counters.fsyncs.total(),
            commits_total: counters.commits.total(),
            entries_total: counters.entries.total(),
            commands_total: counters.commands.total(),
            batches_total: counters.batches.total(),
        }
    }
}

fn members_of(membership: &StoredMembership) -> Members {
    let membership = membership.membership();
    let with_seat = |id: u64| membership.get_node(&id).map(|seat| member(id, seat));
    Members {
        voters: membership.voter_ids().filter_map(with_seat).collect(),
        learners: membership.learner_ids().filter_map(with_seat).collect(),
        is_changing: membership.get_joint_config().len() > 1,
    }
}

/// Makes statuses from openraft's metrics.
struct View {
    me: Member,
    source: Arc<StoredMembership>,
    members: Arc<Members>,
}

impl View {
    fn status(&mut self, metrics: &RaftMetrics<u64, Seat>, fault: Option<StoreFault>) -> Status {
        if !Arc::ptr_eq(&self.source, &metrics.membership_config) {
            self.source = metrics.membership_config.clone();
            self.members = Arc::new(members_of(&self.source));
        }
        let leader = metrics.current_leader.map(RaftId);
        let leader = leader.and_then(|id| {
            let all = self.members.voters.iter().chain(&self.members.learners);
            all.copied().find(|member| member.raft_id == id)
        });
        let part = match metrics.state {
            ServerState::Learner => Part::Learner,
            ServerState::Follower => Part::Follower,
            ServerState::Candidate => Part::Candidate,
            ServerState::Leader => Part::Leader,
            ServerState::Shutdown => Part::Stopped,
        };
        Status {
            me: self.me,
            part,
            term: metrics.current_term,
            leader,
            next_index: metrics.last_applied.map_or(0, |id| id.index + 1),
            last_index: metrics.last_log_index,
            members: self.members.clone(),
            fault,
        }
    }
}

/// Shows the newest status under `/metrics`.
fn export(before: Option<&Status>, now: &Status) {
    #[allow(clippy::cast_precision_loss, reason = "a gauge is a float; terms and indexes stay far below 2^53")]
    let set = |name: &'static str, value: u64| metrics::gauge!(name).set(value as f64);
    set("osmoda_raft_term", now.term);
    set("osmoda_raft_leads", u64::from(now.leads()));
    set("osmoda_raft_next_index", now.next_index);
    set("osmoda_raft_unapplied_entries", now.last_index.map_or(0, |last| (last + 1).saturating_sub(now.next_index)));
    set("osmoda_raft_voters", now.members.voters.len() as u64);
    if now.leader.is_some() && before.and_then(|before| before.leader) != now.leader {
        metrics::counter!("osmoda_raft_leader_changes_total").increment(1);
    }
}

/// Follows openraft's metrics into `statuses`, until either end is gone.
pub(crate) async fn run(
    core: Arc<Core>,
    mut faults: watch::Receiver<Option<StoreFault>>,
    statuses: watch::Sender<Option<Status>>,
) {
    let mut metrics = core.raft.metrics();
    let members = Arc::new(members_of(&metrics.borrow().membership_config));
    let mut view = View { me: core.me, source: metrics.borrow().membership_config.clone(), members };
    loop {
        let fault = faults.borrow_and_update().clone();
        let status = view.status(&metrics.borrow_and_update(), fault);
        statuses.send_if_modified(|kept| {
            let is_new = kept.as_ref() != Some(&status);
            if is_new {
                export(kept.as_ref(), &status);
                *kept = Some(status);
            }
            is_new
        });
        let changed = tokio::select! {
            biased;
            // Cancel-safe: both watches keep their newest value.
            changed = metrics.changed() => changed,
            changed = faults.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}
