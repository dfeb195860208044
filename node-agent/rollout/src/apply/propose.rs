//! Proposals: who may start what, on which scope, and who votes on it.

use std::collections::BTreeMap;

use osmoda_types::command::Proposal;
use osmoda_types::manifest::{validate_name, validate_rows, validate_scope};
use osmoda_types::{ErrorCode, NodeState, Purpose, Right, Role, RolloutId, RolloutState, statement};

use super::{Cx, Done, Handled};
use crate::outcome::{Signer, What};
use crate::rollout::{Elector, Phase, Rollout, Row, Running};
use crate::signature;
use crate::state::{ENDED_ROLLOUTS_MAX, FleetState};

impl FleetState {
    pub(super) fn propose(&mut self, cx: &mut Cx, proposal: &Proposal) -> Handled {
        check_shape(proposal)?;
        if let Some(known) = self.rollouts.get(&proposal.rollout) {
            let same = known.manifest == proposal.manifest && known.epoch == proposal.parent.next();
            let epoch = Some(known.epoch);
            return if same {
                Ok(Done { repeated: true, epoch, attempt: None })
            } else {
                Err(ErrorCode::RolloutDuplicate)
            };
        }
        self.check_signer(proposal)?;
        if proposal.parent != self.epoch {
            return Err(ErrorCode::EpochStale);
        }
        if self.is_frozen(&proposal.scope) {
            return Err(ErrorCode::FreezeLocked);
        }
        self.check_rows(proposal)?;
        let gives_way = self.check_conflicts(proposal)?;
        let (electorate, threshold) = self.freeze_electorate(proposal)?;

        cx.signer = Signer::Principal(proposal.key);
        if let Some(older) = gives_way {
            self.enter(cx, older, Phase::Superseded, "superseded");
        }
        self.forget_ended_rollouts();
        self.epoch = self.epoch.next();
        self.state_epochs += 1;
        let rollout = Rollout {
            id: proposal.rollout,
            manifest: proposal.manifest,
            epoch: self.epoch,
            name: proposal.name.clone(),
            scope: proposal.scope.clone(),
            policy: proposal.policy.clone(),
            proposer: proposal.key,
            signature: proposal.signature,
            electorate,
            threshold,
            rows: rows(proposal),
            phase: Phase::Voting,
            state_epoch: self.state_epochs,
            cause: None,
            proposed_index: cx.index,
            decided_index: None,
        };
        self.rollouts.insert(proposal.rollout, rollout);
        let id = proposal.rollout;
        let state = |from, to| What::Rollout { rollout: id, from, to, wave: None };
        cx.event(state(None, RolloutState::Proposed), "proposed");
        cx.event(state(Some(RolloutState::Proposed), RolloutState::Voting), "proposed");
        Ok(Done { epoch: Some(self.epoch), ..Done::default() })
    }

    fn check_signer(&self, proposal: &Proposal) -> Result<(), ErrorCode> {
        let entry = self.principals.get(&proposal.key).ok_or(ErrorCode::PrincipalUnknown)?;
        let network = self.network.ok_or(ErrorCode::Conflict)?;
        signature::verify(&proposal.key, &statement::proposal(proposal, &network), &proposal.signature)?;
        if entry.principal.may(Right::Deploy) { Ok(()) } else { Err(ErrorCode::PrincipalDenied) }
    }

    fn check_rows(&self, proposal: &Proposal) -> Result<(), ErrorCode> {
        for row in &proposal.rows {
            let member = &self.members.get(&row.node).ok_or(ErrorCode::NodeUnknown)?.member;
            if !matches!(member.role, Role::Voter | Role::Node) {
                return Err(ErrorCode::NodeUnknown);
            }
            if self.denied.contains_key(&row.target) {
                return Err(ErrorCode::TargetDenied);
            }
        }
        Ok(())
    }

    /// One rollout per scope, and a node is in one active rollout at most. The
    /// one that the manifest supersedes gives way, if it has moved nothing.
    fn check_conflicts(&self, proposal: &Proposal) -> Result<Option<RolloutId>, ErrorCode> {
        if let Some(older) = proposal.supersedes {
            let older = self.rollouts.get(&older).ok_or(ErrorCode::RolloutUnknown)?;
            if !matches!(older.phase, Phase::Voting | Phase::Running(Running::Prefetch)) {
                return Err(ErrorCode::RolloutState);
            }
        }
        let conflicts = |active: &Rollout| {
            active.scope == proposal.scope || proposal.rows.iter().any(|row| active.rows.contains_key(&row.node))
        };
        match self.active().find(|active| Some(active.id) != proposal.supersedes && conflicts(active)) {
            Some(_) => Err(ErrorCode::RolloutConflict),
            None => Ok(proposal.supersedes),
        }
    }

    /// The voters of now, each with its ballot key of now, and a majority of
    /// them, or more where the policy asks for it.
    fn freeze_electorate(
        &self,
        proposal: &Proposal,
    ) -> Result<(BTreeMap<osmoda_types::NodeId, Elector>, u32), ErrorCode> {
        let elector = |node: &osmoda_types::NodeId| {
            self.subkeys.get(&(*node, Purpose::Ballot)).map(|subkey| (*node, Elector { key: subkey.key, vote: None }))
        };
        let electorate: BTreeMap<_, _> = self.voters.keys().filter_map(elector).collect();
        if electorate.is_empty() {
            return Err(ErrorCode::RaftUnavailable);
        }
        // At most 7 voters.
        let voters = electorate.len() as u32;
        let threshold = proposal.policy.threshold.unwrap_or(0).max(voters / 2 + 1);
        if threshold > voters {
            return Err(ErrorCode::ManifestMalformed);
        }
        Ok((electorate, threshold))
    }

    /// Keeps the last ended rollouts, and every one that still holds a node.
    fn forget_ended_rollouts(&mut self) {
        let holds = |rollout: &Rollout| {
            rollout.rows.values().any(|row| row.state.is_charged() || (rollout.phase.is_undoing() && row.must_return()))
        };
        let mut ended: Vec<_> = self
            .rollouts
            .values()
            .filter(|rollout| rollout.phase.is_terminal() && !holds(rollout))
            .map(|rollout| (rollout.epoch, rollout.id))
            .collect();
        ended.sort_unstable();
        let too_many = ended.len().saturating_sub(ENDED_ROLLOUTS_MAX);
        for (_, id) in ended.into_iter().take(too_many) {
            self.rollouts.remove(&id);
        }
    }
}

fn check_shape(proposal: &Proposal) -> Result<(), ErrorCode> {
    let malformed = ErrorCode::ManifestMalformed;
    validate_name(&proposal.name).map_err(|_| malformed)?;
    validate_scope(&proposal.scope).map_err(|_| malformed)?;
    proposal.policy.validate().map_err(|_| malformed)?;
    validate_rows(proposal.rows.iter().map(|row| (&row.node, &row.target, &row.baseline)))
        .map_err(|error| error.code)?;
    if !proposal.rows.is_sorted_by(|one, two| one.node < two.node) {
        return Err(malformed);
    }
    Ok(())
}

fn rows(proposal: &Proposal) -> BTreeMap<osmoda_types::NodeId, Row> {
    let row = |row: &osmoda_types::command::ProposalRow| Row {
        target: row.target.clone(),
        expected: row.baseline.clone(),
        recorded: None,
        state: NodeState::Pending,
        attempt: None,
        accepted: false,
        wave: None,
        code: None,
        excused: false,
    };
    proposal.rows.iter().map(|line| (line.node, row(line))).collect()
}
