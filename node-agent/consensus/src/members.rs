//! Changing who takes part, and handing over the lead.
//!
//! Invariant: one change at a time, and only from a uniform membership, except
//! to finish the very change that was interrupted. A set of two voters is
//! refused: it survives the loss of none and is no better than one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{ChangeMembershipError, ClientWriteError, InitializeError, RaftError};
use osmoda_proto::raft::v1 as wire;
use osmoda_proto::raft::v1::raft_client::RaftClient;
use osmoda_types::RaftId;
use tokio::sync::Semaphore;
use tonic::transport::Channel;

use crate::core::{Core, member};
use crate::error::MembershipError;
use crate::types::{Member, Seat};

/// How long a change may take: two commits, each perhaps behind a catch-up.
const CHANGE_LIMIT: Duration = Duration::from_secs(15);

/// The one change that may be going on, and the core it goes through.
pub(crate) struct Changes {
    core: Arc<Core>,
    one: Semaphore,
}

type WriteError = RaftError<u64, ClientWriteError<u64, Seat>>;

impl Changes {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core, one: Semaphore::new(1) }
    }

    /// Begins a fleet of one on an empty log.
    pub(crate) async fn begin(&self) -> Result<(), MembershipError> {
        let me = self.core.me;
        let seats = BTreeMap::from([(me.raft_id.0, Seat { node_id: me.node_id })]);
        match self.core.raft.initialize(seats).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Err(MembershipError::AlreadyBegun),
            Err(RaftError::APIError(InitializeError::NotInMembers(error))) => {
                Err(MembershipError::Invalid { reason: error.to_string() })
            }
            Err(RaftError::Fatal(_)) => Err(MembershipError::Stopped),
        }
    }

    /// Adds a member without a vote; it then catches up.
    pub(crate) async fn add_learner(&self, learner: Member) -> Result<(), MembershipError> {
        let Ok(_one) = self.one.try_acquire() else { return Err(MembershipError::InProgress) };
        let metrics = self.core.raft.metrics().borrow().membership_config.clone();
        let known = metrics.membership().get_node(&learner.raft_id.0).copied();
        match known {
            Some(seat) if seat.node_id == learner.node_id => return Ok(()),
            Some(_) => {
                let reason = format!("voter {} lives on another node; ids are never reused", learner.raft_id);
                return Err(MembershipError::Invalid { reason });
            }
            None => {}
        }
        let seat = Seat { node_id: learner.node_id };
        let added = self.core.raft.add_learner(learner.raft_id.0, seat, false);
        finish(tokio::time::timeout(CHANGE_LIMIT, added).await)
    }

    /// Makes `voters` the voters, through a joint membership.
    pub(crate) async fn change(&self, voters: BTreeSet<RaftId>) -> Result<(), MembershipError> {
        let Ok(_one) = self.one.try_acquire() else { return Err(MembershipError::InProgress) };
        let wanted: BTreeSet<u64> = voters.iter().map(|id| id.0).collect();
        if wanted.is_empty() || wanted.len() == 2 {
            let reason = format!("{} voters; a fleet has 1, 3, 5 or 7", wanted.len());
            return Err(MembershipError::Invalid { reason });
        }
        let stored = self.core.raft.metrics().borrow().membership_config.clone();
        let sets = stored.membership().get_joint_config();
        match sets.last() {
            Some(last) if sets.len() == 1 && *last == wanted => return Ok(()),
            // A leader was lost between the two steps: the second one is due.
            Some(last) if sets.len() > 1 && *last != wanted => return Err(MembershipError::InProgress),
            _ => {}
        }
        // Removed voters are dropped, not kept as learners: a removed node has
        // left the electorate, and its id is never used again.
        let changed = self.core.raft.change_membership(wanted, false);
        finish(tokio::time::timeout(CHANGE_LIMIT, changed).await)
    }

    /// Entries the member still lacks; `None` when this voter does not lead or
    /// has not heard from it.
    pub(crate) fn lag(&self, raft_id: RaftId) -> Option<u64> {
        let metrics = self.core.raft.metrics();
        let metrics = metrics.borrow();
        let matching = (*metrics.replication.as_ref()?.get(&raft_id.0)?)?;
        Some(metrics.last_log_index.unwrap_or(0).saturating_sub(matching.index))
    }

    /// Asks the best successor to stand for election, and stays silent until
    /// another voter leads.
    ///
    /// openraft 0.9 refuses votes within the lease of the leader last heard. A
    /// leader's own lease runs from its election, so once it is over, leader
    /// and successor are a majority of three at once. In larger groups others
    /// are needed too, and the leader stays silent for their lease first.
    pub(crate) async fn step_aside(&self) -> Result<Member, MembershipError> {
        let core = &self.core;
        if !core.leads() {
            return core.leader().ok_or(MembershipError::NotLeader { leader: None });
        }
        let voters = core.raft.metrics().borrow().membership_config.voter_ids().count();
        if voters < 2 {
            return Err(MembershipError::NoSuccessor);
        }
        let lease = core.timing.lease();
        let own_lease = lease.saturating_sub(core.led_for());
        if let Some(leader) = self.other_leader(own_lease).await? {
            return Ok(leader);
        }
        let Some(_aside) = Aside::begin(core) else { return Err(MembershipError::InProgress) };
        tracing::info!("stepping aside");
        let silence = if voters > 3 { lease } else { Duration::ZERO };
        if let Some(leader) = self.other_leader(silence).await? {
            return Ok(leader);
        }
        // Unless somebody stood by itself meanwhile, or nobody is close enough.
        if core.leads()
            && let Some(successor) = self.successor()
        {
            self.ask_to_stand(successor).await;
        }
        self.other_leader(core.timing.step_aside_limit()).await?.ok_or(MembershipError::NoSuccessor)
    }

    /// The other voter that has most of the log.
    fn successor(&self) -> Option<Member> {
        let metrics = self.core.raft.metrics();
        let metrics = metrics.borrow();
        let replication = metrics.replication.as_ref()?;
        let membership = metrics.membership_config.membership();
        let others = membership.voter_ids().filter(|id| *id != self.core.me.raft_id.0);
        let matching = others.filter_map(|id| Some(((*replication.get(&id)?)?.index, id)));
        let (_, best) = matching.max()?;
        membership.get_node(&best).map(|seat| member(best, seat))
    }

    /// A refusal is no error: then an election comes by itself.
    async fn ask_to_stand(&self, successor: Member) {
        let core = &self.core;
        let term = core.raft.metrics().borrow().current_term;
        let request = wire::TimeoutNowRequest { leader: core.me.raft_id.0, term, to: successor.raft_id.0 };
        let call = |mut client: RaftClient<Channel>| async move { client.timeout_now(request).await };
        if let Err(error) = core.links.call(successor.node_id, core.timing.heartbeat, call).await {
            tracing::info!(successor = %successor.node_id.short(), %error, "the successor was not told");
        }
    }

    /// Waits for another voter to lead, at most `limit`.
    async fn other_leader(&self, limit: Duration) -> Result<Option<Member>, MembershipError> {
        let mut metrics = self.core.raft.metrics();
        let me = self.core.me.raft_id.0;
        let followed = metrics.wait_for(|metrics| metrics.current_leader.is_some_and(|leader| leader != me));
        match tokio::time::timeout(limit, followed).await {
            Ok(Ok(metrics)) => Ok(metrics.current_leader.map(|leader| {
                let seat = metrics.membership_config.membership().get_node(&leader).copied();
                member(leader, &seat.unwrap_or_default())
            })),
            Ok(Err(_)) => Err(MembershipError::Stopped),
            Err(_) => Ok(None),
        }
    }
}

/// While it lives, this voter neither heartbeats nor stands for election.
struct Aside<'a> {
    core: &'a Core,
}

impl<'a> Aside<'a> {
    fn begin(core: &'a Core) -> Option<Self> {
        if !core.set_aside(true) {
            return None;
        }
        core.raft.runtime_config().heartbeat(false);
        core.raft.runtime_config().elect(false);
        Some(Self { core })
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        // The gate opens elections again when they are due.
        self.core.raft.runtime_config().heartbeat(true);
        self.core.set_aside(false);
    }
}

fn finish<T>(result: Result<Result<T, WriteError>, tokio::time::error::Elapsed>) -> Result<(), MembershipError> {
    match result {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
            let leader = forward.leader_id.zip(forward.leader_node).map(|(id, seat)| member(id, &seat));
            Err(MembershipError::NotLeader { leader })
        }
        Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))) => Err(match error {
            ChangeMembershipError::InProgress(_) => MembershipError::InProgress,
            ChangeMembershipError::EmptyMembership(_) | ChangeMembershipError::LearnerNotFound(_) => {
                MembershipError::Invalid { reason: error.to_string() }
            }
        }),
        Ok(Err(RaftError::Fatal(_))) | Err(_) => Err(MembershipError::Unknown),
    }
}
