//! Proposals, ballots and what happens to the nodes of a rollout.

use osmoda_types::command::{
    Ballot, Deadline, Ending, Grant, NodeAttempt, OpenWave, Proposal, ProposalRow, Report, Staged,
};
use osmoda_types::{AttemptId, FleetEpoch, NodeId, Vote};

use super::{ConvertError, code, id, ids, list, path, required, rollout_id};
use crate::fleet::v1 as pb;

impl From<&Proposal> for pb::Proposal {
    fn from(proposal: &Proposal) -> Self {
        let row = |row: &ProposalRow| pb::ProposalRow {
            node: row.node.as_bytes().to_vec(),
            target: row.target.to_string(),
            baseline: row.baseline.to_string(),
        };
        Self {
            rollout: proposal.rollout.as_bytes().to_vec(),
            manifest: proposal.manifest.as_bytes().to_vec(),
            parent: proposal.parent.0,
            name: proposal.name.clone(),
            scope: proposal.scope.clone(),
            rows: proposal.rows.iter().map(row).collect(),
            supersedes: proposal.supersedes.map(|id| id.as_bytes().to_vec()).unwrap_or_default(),
            policy: Some((&proposal.policy).into()),
            key: proposal.key.as_bytes().to_vec(),
            signature: proposal.signature.as_bytes().to_vec(),
        }
    }
}

impl TryFrom<pb::Proposal> for Proposal {
    type Error = ConvertError;
    fn try_from(wire: pb::Proposal) -> Result<Self, ConvertError> {
        let row = |row: pb::ProposalRow| {
            Ok(ProposalRow {
                node: id("propose.rows.node", &row.node)?,
                target: path("propose.rows.target", row.target)?,
                baseline: path("propose.rows.baseline", row.baseline)?,
            })
        };
        let supersedes = match wire.supersedes.as_slice() {
            [] => None,
            bytes => Some(rollout_id("propose.supersedes", bytes)?),
        };
        Ok(Self {
            rollout: rollout_id("propose.rollout", &wire.rollout)?,
            manifest: id("propose.manifest", &wire.manifest)?,
            parent: FleetEpoch(wire.parent),
            name: wire.name,
            scope: wire.scope,
            rows: wire.rows.into_iter().map(row).collect::<Result<_, _>>()?,
            supersedes,
            policy: required("propose.policy", wire.policy)?.try_into()?,
            key: id("propose.key", &wire.key)?,
            signature: id("propose.signature", &wire.signature)?,
        })
    }
}

impl From<&Ballot> for pb::Ballot {
    fn from(ballot: &Ballot) -> Self {
        Self {
            rollout: ballot.rollout.as_bytes().to_vec(),
            voter: ballot.voter.as_bytes().to_vec(),
            yes: ballot.vote == Vote::Yes,
            reason: ballot.reason.map(|code| code.to_string()).unwrap_or_default(),
            signature: ballot.signature.as_bytes().to_vec(),
        }
    }
}

impl TryFrom<pb::Ballot> for Ballot {
    type Error = ConvertError;
    fn try_from(wire: pb::Ballot) -> Result<Self, ConvertError> {
        let reason = match wire.reason.as_str() {
            "" => None,
            text => Some(code("ballot.reason", text)?),
        };
        Ok(Self {
            rollout: rollout_id("ballot.rollout", &wire.rollout)?,
            voter: id("ballot.voter", &wire.voter)?,
            vote: if wire.yes { Vote::Yes } else { Vote::No },
            reason,
            signature: id("ballot.signature", &wire.signature)?,
        })
    }
}

impl From<&Staged> for pb::Staged {
    fn from(staged: &Staged) -> Self {
        let result = match &staged.result {
            Ok(baseline) => pb::staged::Result::Baseline(baseline.to_string()),
            Err(code) => pb::staged::Result::Code(code.to_string()),
        };
        Self {
            rollout: staged.rollout.as_bytes().to_vec(),
            node: staged.node.as_bytes().to_vec(),
            result: Some(result),
        }
    }
}

impl TryFrom<pb::Staged> for Staged {
    type Error = ConvertError;
    fn try_from(wire: pb::Staged) -> Result<Self, ConvertError> {
        let result = match required("staged.result", wire.result)? {
            pb::staged::Result::Baseline(text) => Ok(path("staged.baseline", text)?),
            pb::staged::Result::Code(text) => Err(code("staged.code", &text)?),
        };
        Ok(Self { rollout: rollout_id("staged.rollout", &wire.rollout)?, node: id("staged.node", &wire.node)?, result })
    }
}

impl From<&OpenWave> for pb::OpenWave {
    fn from(open: &OpenWave) -> Self {
        Self {
            rollout: open.rollout.as_bytes().to_vec(),
            wave: open.wave,
            eligible: list(open.eligible.iter().map(NodeId::as_bytes)),
            deferred: list(open.deferred.iter().map(NodeId::as_bytes)),
        }
    }
}

impl TryFrom<pb::OpenWave> for OpenWave {
    type Error = ConvertError;
    fn try_from(wire: pb::OpenWave) -> Result<Self, ConvertError> {
        Ok(Self {
            rollout: rollout_id("open_wave.rollout", &wire.rollout)?,
            wave: wire.wave,
            eligible: ids("open_wave.eligible", &wire.eligible)?,
            deferred: ids("open_wave.deferred", &wire.deferred)?,
        })
    }
}

impl From<&Grant> for pb::Grant {
    fn from(grant: &Grant) -> Self {
        let nodes = list(grant.nodes.iter().map(NodeId::as_bytes));
        Self { rollout: grant.rollout.as_bytes().to_vec(), wave: grant.wave, nodes }
    }
}

impl TryFrom<pb::Grant> for Grant {
    type Error = ConvertError;
    fn try_from(wire: pb::Grant) -> Result<Self, ConvertError> {
        let rollout = rollout_id("grant.rollout", &wire.rollout)?;
        Ok(Self { rollout, wave: wire.wave, nodes: ids("grant.nodes", &wire.nodes)? })
    }
}

impl From<&NodeAttempt> for pb::NodeAttempt {
    fn from(of: &NodeAttempt) -> Self {
        Self { rollout: of.rollout.as_bytes().to_vec(), node: of.node.as_bytes().to_vec(), attempt: of.attempt.0 }
    }
}

impl TryFrom<pb::NodeAttempt> for NodeAttempt {
    type Error = ConvertError;
    fn try_from(wire: pb::NodeAttempt) -> Result<Self, ConvertError> {
        Ok(Self {
            rollout: rollout_id("attempt.rollout", &wire.rollout)?,
            node: id("attempt.node", &wire.node)?,
            attempt: AttemptId(wire.attempt),
        })
    }
}

impl From<&Report> for pb::Report {
    fn from(report: &Report) -> Self {
        use pb::report::Ending as Wire;
        let failed = |code: &osmoda_types::ErrorCode| pb::Failed { code: code.to_string() };
        let ending = match &report.ending {
            Ending::Committed { observed } => Wire::Committed(pb::Committed { observed: observed.to_string() }),
            Ending::RolledBack { observed, code } => {
                Wire::RolledBack(pb::RolledBack { observed: observed.to_string(), code: code.to_string() })
            }
            Ending::RollbackFailed { code } => Wire::RollbackFailed(failed(code)),
            Ending::Quarantined { code } => Wire::Quarantined(failed(code)),
        };
        Self { attempt: Some((&report.attempt).into()), ending: Some(ending) }
    }
}

impl TryFrom<pb::Report> for Report {
    type Error = ConvertError;
    fn try_from(wire: pb::Report) -> Result<Self, ConvertError> {
        use pb::report::Ending as Wire;
        let ending = match required("report.ending", wire.ending)? {
            Wire::Committed(wire) => Ending::Committed { observed: path("report.observed", wire.observed)? },
            Wire::RolledBack(wire) => Ending::RolledBack {
                observed: path("report.observed", wire.observed)?,
                code: code("report.code", &wire.code)?,
            },
            Wire::RollbackFailed(wire) => Ending::RollbackFailed { code: code("report.code", &wire.code)? },
            Wire::Quarantined(wire) => Ending::Quarantined { code: code("report.code", &wire.code)? },
        };
        Ok(Self { attempt: required("report.attempt", wire.attempt)?.try_into()?, ending })
    }
}

impl From<&Deadline> for pb::Deadline {
    fn from(deadline: &Deadline) -> Self {
        let of = match deadline {
            Deadline::State { rollout, state_epoch } => pb::deadline::Of::State(pb::StateDeadline {
                rollout: rollout.as_bytes().to_vec(),
                state_epoch: *state_epoch,
            }),
            Deadline::Node(of) => pb::deadline::Of::Node(of.into()),
        };
        Self { of: Some(of) }
    }
}

impl TryFrom<pb::Deadline> for Deadline {
    type Error = ConvertError;
    fn try_from(wire: pb::Deadline) -> Result<Self, ConvertError> {
        match required("deadline.of", wire.of)? {
            pb::deadline::Of::State(wire) => Ok(Self::State {
                rollout: rollout_id("deadline.rollout", &wire.rollout)?,
                state_epoch: wire.state_epoch,
            }),
            pb::deadline::Of::Node(wire) => Ok(Self::Node(wire.try_into()?)),
        }
    }
}
