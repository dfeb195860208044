//! *Pure*: from the fleet log to rollout documents and events.
//!
//! Invariant: the same entries give the same documents and event bodies on
//! every controller; only times and event ids are the controller's own.

use std::collections::BTreeSet;

use osmoda_controller_api::{EventBody, NodeCounts, Rollout, RolloutNode, RolloutSummary, Vote};
use osmoda_controller_store::{NewEvent, RolloutRow};
use osmoda_kit::clock::Timestamp;
use osmoda_rollout::{Event, FleetState, Phase, Row, Signer, What};
use osmoda_types::{NodeState, RaftId, RolloutId};

use crate::view::{name, principal_name, voter_name};

/// What a run of log entries changed.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// What happened, in order.
    pub(crate) events: Vec<NewEvent>,
    /// Rollouts whose document must be written again.
    pub(crate) rollouts: BTreeSet<RolloutId>,
}

/// What the event's body and whose word it was, as stored.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct StoredBody {
    pub(crate) by: String,
    pub(crate) reason: String,
    #[serde(flatten)]
    pub(crate) body: EventBody,
}

impl Changes {
    /// Applies the commands of one entry.
    pub(crate) fn entry(
        &mut self,
        state: &mut FleetState,
        (index, proposer): (u64, RaftId),
        commands: &[Vec<u8>],
        now: Timestamp,
    ) {
        for command in commands {
            let outcome = state.apply_bytes(index, proposer, command);
            for event in &outcome.events {
                self.event(state, event, now);
            }
        }
    }

    fn event(&mut self, state: &FleetState, event: &Event, now: Timestamp) {
        let (rollout, body) = body(state, &event.what);
        self.rollouts.extend(rollout);
        let by = match event.signer {
            Signer::Principal(key) => format!("principal {}", principal_name(state, &key)),
            Signer::Node(node) => format!("node {}", name(state, &node)),
            Signer::Leader(id) => format!("leader {}", voter_name(state, id)),
        };
        self.push(event.index, rollout, StoredBody { by, reason: event.reason.to_owned(), body }, now);
    }

    fn push(&mut self, index: u64, rollout: Option<RolloutId>, body: StoredBody, now: Timestamp) {
        // Strings, numbers and unit variants only: this cannot fail.
        let body = serde_json::to_string(&body).expect("an event body has only text keys");
        self.events.push(NewEvent { index, rollout, at_ms: now.as_millis(), body });
    }

    /// Takes over a snapshot that leaves out entries: tells what is different,
    /// because what happened in between is not known.
    pub(crate) fn jump(&mut self, old: &FleetState, new: &FleetState, index: u64, now: Timestamp) {
        for rollout in new.rollouts() {
            let before = old.rollout(&rollout.id);
            let (from, to) = (before.map(|before| before.phase.word()), rollout.phase.word());
            if before == Some(rollout) {
                continue;
            }
            self.rollouts.insert(rollout.id);
            if from != Some(to) {
                let body = EventBody::RolloutState { from, to, wave: rollout.phase.wave() };
                self.push(index, Some(rollout.id), skipped(body), now);
            }
            for (node, row) in &rollout.rows {
                let was = before.and_then(|before| before.rows.get(node)).map_or(NodeState::Pending, |row| row.state);
                if was != row.state {
                    let attempt = row.attempt.map(|attempt| attempt.to_string());
                    let name = name(new, node);
                    let body = EventBody::NodeState { node: *node, name, from: was, to: row.state, attempt };
                    self.push(index, Some(rollout.id), skipped(body), now);
                }
            }
        }
    }
}

fn skipped(body: EventBody) -> StoredBody {
    StoredBody { by: "snapshot".to_owned(), reason: "entries_compacted".to_owned(), body }
}

fn body(state: &FleetState, what: &What) -> (Option<RolloutId>, EventBody) {
    let fleet = |what: &str, subject: String| (None, EventBody::Fleet { what: what.to_owned(), subject });
    match what {
        What::Rollout { rollout, from, to, wave } => {
            (Some(*rollout), EventBody::RolloutState { from: *from, to: *to, wave: *wave })
        }
        What::Node { rollout, node, attempt, from, to } => {
            let attempt = attempt.map(|attempt| attempt.to_string());
            let body = EventBody::NodeState { node: *node, name: name(state, node), from: *from, to: *to, attempt };
            (Some(*rollout), body)
        }
        What::Ballot(rollout, voter, vote) => {
            let yes = *vote == osmoda_types::Vote::Yes;
            (Some(*rollout), EventBody::Ballot { voter: *voter, name: name(state, voter), yes })
        }
        What::Joined(node) | What::Moved(node) | What::VoterRegistered(node, _) => {
            let role = state.member(node).map_or_else(String::new, |entry| entry.member.role.to_string());
            (None, EventBody::Member { node: *node, name: name(state, node), role })
        }
        What::Frozen(scope) => (None, EventBody::Freeze { scope: scope.clone(), frozen: true }),
        What::Unfrozen(scope) => (None, EventBody::Freeze { scope: scope.clone(), frozen: false }),
        What::Begun(network) => fleet("begun", network.to_string()),
        What::KeysRotated(node) => fleet("keys_rotated", node.to_string()),
        What::Revoked(node) => fleet("revoked", node.to_string()),
        What::EpochBegun(epoch) => fleet("mesh_epoch", epoch.0.to_string()),
        What::InviteOpened(id) => fleet("invite_opened", id.to_string()),
        What::InviteExpired(id) => fleet("invite_expired", id.to_string()),
        What::SubkeyRegistered(node, purpose) => {
            fleet("subkey_registered", format!("{} {}", name(state, node), purpose.as_str()))
        }
        What::PrincipalSet(key) => fleet("principal_set", principal_name(state, key)),
        What::Denied(target) => fleet("target_denied", target.to_string()),
        What::Allowed(target) => fleet("target_allowed", target.to_string()),
        What::LedgerHead(node, size) => fleet("ledger_head", format!("{} {size}", name(state, node))),
    }
}

/// The row of a rollout, with its document. The document's times are those of
/// the row; [`document`] fills them in when it is read.
pub(crate) fn row(state: &FleetState, rollout: &osmoda_rollout::Rollout, index: u64, now: Timestamp) -> RolloutRow {
    let document = picture(state, rollout, index);
    RolloutRow {
        id: rollout.id,
        state: document.summary.state.to_string(),
        terminal: document.summary.state.is_terminal(),
        proposed_index: rollout.proposed_index,
        updated_index: index,
        created_ms: now.as_millis(),
        updated_ms: now.as_millis(),
        document: serde_json::to_string(&document).expect("a rollout document has only text keys"),
    }
}

/// The REST document of a stored rollout.
pub(crate) fn document(row: &RolloutRow) -> Result<Rollout, serde_json::Error> {
    let mut rollout: Rollout = serde_json::from_str(&row.document)?;
    rollout.summary.created_at = Timestamp::from_millis(row.created_ms).to_string();
    rollout.summary.updated_at = Timestamp::from_millis(row.updated_ms).to_string();
    Ok(rollout)
}

fn picture(state: &FleetState, rollout: &osmoda_rollout::Rollout, index: u64) -> Rollout {
    let reason = match rollout.phase {
        Phase::Paused { reason, .. } => Some(reason.as_str()),
        _ => rollout.cause.map(|cause| cause.as_str()),
    };
    let summary = RolloutSummary {
        id: rollout.id,
        name: rollout.name.clone(),
        scope: rollout.scope.clone(),
        manifest: rollout.manifest,
        state: rollout.phase.word(),
        reason: reason.map(str::to_owned),
        wave: rollout.phase.wave(),
        waves: count(rollout.policy.waves.len()),
        counts: counts(rollout),
        // A proposal makes the epoch after its parent.
        parent_epoch: rollout.epoch.0.saturating_sub(1),
        operator: principal_name(state, &rollout.proposer),
        proposed_index: rollout.proposed_index,
        updated_index: index,
        created_at: String::new(),
        updated_at: String::new(),
    };
    let votes = rollout.electorate.iter().map(|(voter, elector)| Vote {
        voter: *voter,
        name: name(state, voter),
        yes: elector.vote.map(|vote| vote == osmoda_types::Vote::Yes),
    });
    let nodes = rollout.rows.iter().map(|(node, row)| RolloutNode {
        node: *node,
        name: name(state, node),
        target: row.target.clone(),
        baseline: row.recorded.clone().unwrap_or_else(|| row.expected.clone()),
        state: row.state,
        wave: row.wave,
        attempt: row.attempt.map(|attempt| attempt.to_string()),
        code: row.code,
    });
    Rollout {
        summary,
        max_unavailable: rollout.policy.max_unavailable,
        failure_budget: rollout.policy.failure_budget,
        threshold: rollout.threshold,
        votes: votes.collect(),
        nodes: nodes.collect(),
    }
}

fn counts(rollout: &osmoda_rollout::Rollout) -> NodeCounts {
    let of = |keep: fn(&Row) -> bool| count(rollout.rows.values().filter(|row| keep(row)).count());
    NodeCounts {
        total: count(rollout.rows.len()),
        waiting: of(|row| matches!(row.state, NodeState::Pending | NodeState::Staged | NodeState::Deferred)),
        in_flight: rollout.charged(),
        moved: of(|row| matches!(row.state, NodeState::Accepted | NodeState::Committed)),
        committed: rollout.committed(),
        rolled_back: of(|row| row.state == NodeState::RolledBack),
        failed: of(|row| matches!(row.state, NodeState::RollbackFailed | NodeState::Quarantined | NodeState::Lost)),
        excluded: of(|row| row.state == NodeState::Excluded),
    }
}

/// At most 10,000 of anything here.
fn count(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}
