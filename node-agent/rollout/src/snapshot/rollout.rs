//! Rollouts as bytes.

use osmoda_proto::fleet::v1 as pb;
use osmoda_types::{AttemptId, FleetEpoch, NodeId, NodeState, Policy, RolloutState, Vote};

use super::{SnapshotError, id, path, required, rollout_id};
use crate::rollout::{Cause, Elector, PauseReason, Phase, Rollout, Row, Running};

impl From<&Rollout> for pb::StateRollout {
    fn from(rollout: &Rollout) -> Self {
        Self {
            id: rollout.id.as_bytes().to_vec(),
            manifest: rollout.manifest.as_bytes().to_vec(),
            epoch: rollout.epoch.0,
            name: rollout.name.clone(),
            scope: rollout.scope.clone(),
            policy: Some((&rollout.policy).into()),
            proposer_key: rollout.proposer.as_bytes().to_vec(),
            signature: rollout.signature.as_bytes().to_vec(),
            electorate: rollout.electorate.iter().map(encode_elector).collect(),
            threshold: rollout.threshold,
            rows: rollout.rows.iter().map(encode_row).collect(),
            phase: Some(encode_phase(rollout.phase)),
            state_epoch: rollout.state_epoch,
            cause: rollout.cause.map(Cause::as_str).unwrap_or_default().to_owned(),
            proposed_index: rollout.proposed_index,
            decided_index: rollout.decided_index.unwrap_or(0),
        }
    }
}

impl TryFrom<pb::StateRollout> for Rollout {
    type Error = SnapshotError;
    fn try_from(wire: pb::StateRollout) -> Result<Self, SnapshotError> {
        let cause = match wire.cause.as_str() {
            "" => None,
            text => Some(required("rollouts.cause", Cause::parse(text))?),
        };
        Ok(Self {
            id: rollout_id("rollouts.id", &wire.id)?,
            manifest: id("rollouts.manifest", &wire.manifest)?,
            epoch: FleetEpoch(wire.epoch),
            name: wire.name,
            scope: wire.scope,
            policy: Policy::try_from(required("rollouts.policy", wire.policy)?)?,
            proposer: id("rollouts.proposer_key", &wire.proposer_key)?,
            signature: id("rollouts.signature", &wire.signature)?,
            electorate: super::collect(wire.electorate, decode_elector)?,
            threshold: wire.threshold,
            rows: super::collect(wire.rows, decode_row)?,
            phase: decode_phase(&required("rollouts.phase", wire.phase)?)?,
            state_epoch: wire.state_epoch,
            cause,
            proposed_index: wire.proposed_index,
            decided_index: (wire.decided_index != 0).then_some(wire.decided_index),
        })
    }
}

fn encode_elector((node, elector): (&NodeId, &Elector)) -> pb::StateElector {
    let vote = match elector.vote {
        None => 0,
        Some(Vote::Yes) => 1,
        Some(Vote::No) => 2,
    };
    pb::StateElector { node: node.as_bytes().to_vec(), key: elector.key.as_bytes().to_vec(), vote }
}

fn decode_elector(wire: pb::StateElector) -> Result<(NodeId, Elector), SnapshotError> {
    let vote = match wire.vote {
        0 => None,
        1 => Some(Vote::Yes),
        2 => Some(Vote::No),
        _ => return Err(SnapshotError::Field("electorate.vote")),
    };
    Ok((id("electorate.node", &wire.node)?, Elector { key: id("electorate.key", &wire.key)?, vote }))
}

fn encode_row((node, row): (&NodeId, &Row)) -> pb::StateRow {
    pb::StateRow {
        node: node.as_bytes().to_vec(),
        target: row.target.to_string(),
        expected_baseline: row.expected.to_string(),
        recorded_baseline: row.recorded.as_ref().map(ToString::to_string).unwrap_or_default(),
        state: row.state.as_str().to_owned(),
        attempt: row.attempt.map_or(0, |attempt| attempt.0),
        accepted: row.accepted,
        wave: row.wave,
        code: row.code.map(|code| code.to_string()).unwrap_or_default(),
        excused: row.excused,
    }
}

fn decode_row(wire: pb::StateRow) -> Result<(NodeId, Row), SnapshotError> {
    let state = NodeState::ALL.iter().copied().find(|state| state.as_str() == wire.state);
    let recorded = match wire.recorded_baseline.as_str() {
        "" => None,
        _ => Some(path("rows.recorded_baseline", wire.recorded_baseline)?),
    };
    let code = match wire.code.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| SnapshotError::Field("rows.code"))?),
    };
    let row = Row {
        target: path("rows.target", wire.target)?,
        expected: path("rows.expected_baseline", wire.expected_baseline)?,
        recorded,
        state: required("rows.state", state)?,
        attempt: (wire.attempt != 0).then_some(AttemptId(wire.attempt)),
        accepted: wire.accepted,
        wave: wire.wave,
        code,
        excused: wire.excused,
    };
    Ok((id("rows.node", &wire.node)?, row))
}

fn encode_phase(phase: Phase) -> pb::StatePhase {
    let (paused_word, pause_reason) = match phase {
        Phase::Paused { from, reason } => (from.word().as_str(), reason.as_str()),
        _ => ("", ""),
    };
    pb::StatePhase {
        word: phase.word().as_str().to_owned(),
        wave: phase.wave().unwrap_or(0),
        paused_word: paused_word.to_owned(),
        pause_reason: pause_reason.to_owned(),
    }
}

fn decode_phase(wire: &pb::StatePhase) -> Result<Phase, SnapshotError> {
    let word = |text: &str| RolloutState::ALL.iter().copied().find(|word| word.as_str() == text);
    let running = |text: &str| match word(text)? {
        RolloutState::Prefetch => Some(Running::Prefetch),
        RolloutState::Wave => Some(Running::Wave(wire.wave)),
        RolloutState::Soak => Some(Running::Soak(wire.wave)),
        RolloutState::Verdict => Some(Running::Verdict(wire.wave)),
        _ => None,
    };
    let phase = match word(&wire.word) {
        Some(RolloutState::Voting) => Phase::Voting,
        Some(RolloutState::Paused) => Phase::Paused {
            from: required("phase.paused_word", running(&wire.paused_word))?,
            reason: required("phase.pause_reason", PauseReason::parse(&wire.pause_reason))?,
        },
        Some(RolloutState::RollingBack) => Phase::RollingBack,
        Some(RolloutState::Committed) => Phase::Committed,
        Some(RolloutState::Rejected) => Phase::Rejected,
        Some(RolloutState::Expired) => Phase::Expired,
        Some(RolloutState::Superseded) => Phase::Superseded,
        Some(RolloutState::RolledBack) => Phase::RolledBack,
        Some(RolloutState::RolledBackPartial) => Phase::RolledBackPartial,
        _ => Phase::Running(required("phase.word", running(&wire.word))?),
    };
    Ok(phase)
}
