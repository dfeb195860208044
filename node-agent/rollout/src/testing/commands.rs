//! Short words become real, signed commands.

use osmoda_types::command::{
    Ballot, Body, Deadline, Ending, Grant, NodeAttempt, OpenWave, Order, Proposal, ProposalRow, Report, Staged,
};
use osmoda_types::{AttemptId, ErrorCode, FleetEpoch, ManifestHash, Policy, StorePath, Timings, Vote, statement};

use super::ids::{baseline, network, node, path, rollout, target};
use super::keys::{EVE, ballot_key, public, sign, signer};
use super::members::signed;
use super::specs::{SPECS, Spec};
use super::words::{By, Cmd, End, Said, Short};
use crate::FleetState;

fn policy(spec: &Spec) -> Policy {
    Policy {
        waves: spec.waves.to_vec(),
        max_unavailable: spec.max_unavailable,
        failure_budget: spec.failure_budget,
        max_parallel: spec.max_parallel,
        stagger_ms: 0,
        threshold: spec.threshold,
        auto_resume: spec.auto_resume,
        timings: Timings::default(),
    }
}

fn proposal(number: u8, spec: u8, parent: u64, by: By) -> Proposal {
    let (claimed, real) = signer(by);
    let manifest = ManifestHash::from_bytes([spec; 32]);
    let parent = FleetEpoch(parent);
    let message = statement::rollout(&manifest, &rollout(number), parent, &network());
    let spec = &SPECS[usize::from(spec)];
    let row = |(number, wanted): &(u8, u8)| ProposalRow {
        node: node(*number),
        target: target(*number, *wanted),
        baseline: baseline(*number),
    };
    Proposal {
        rollout: rollout(number),
        manifest,
        parent,
        name: "release".into(),
        scope: spec.scope.into(),
        rows: spec.rows.iter().map(row).collect(),
        supersedes: spec.supersedes.map(rollout),
        policy: policy(spec),
        key: public(claimed),
        signature: sign(real, message),
    }
}

fn order(order: Short) -> Order {
    let scope = |all: bool| if all { "*".to_owned() } else { "a".to_owned() };
    match order {
        Short::Pause(number) => Order::Pause { rollout: rollout(number) },
        Short::Resume(number) => Order::Resume { rollout: rollout(number) },
        Short::Abort(number) => Order::Abort { rollout: rollout(number) },
        Short::Exclude(number, who) => Order::Exclude { rollout: rollout(number), node: node(who) },
        Short::Freeze(all) => Order::Freeze { scope: scope(all) },
        Short::Unfreeze(all) => Order::Unfreeze { scope: scope(all) },
        Short::Allow(who, number) => Order::Allow { target: target(who, number) },
    }
}

impl Cmd {
    /// The real command. A ballot is signed over what the rollout has in `state`.
    #[must_use]
    pub fn body(&self, state: &FleetState) -> Body {
        let of = |number: &u8, who: &u8, attempt: &u64| NodeAttempt {
            rollout: rollout(*number),
            node: node(*who),
            attempt: AttemptId(*attempt),
        };
        let nodes = |list: &[u8]| list.iter().map(|number| node(*number)).collect();
        match self {
            Self::Propose { rollout, spec, parent, by } => {
                Body::Propose(Box::new(proposal(*rollout, *spec, *parent, *by)))
            }
            Self::Ballot { rollout, voter, yes, forged } => ballot(state, *rollout, *voter, *yes, *forged),
            Self::Staged { rollout: number, node: who, said } => {
                let result = match said {
                    Said::Expected => Ok(baseline(*who)),
                    Said::Other => Ok(path("/elsewhere")),
                    Said::Cannot => Err(ErrorCode::ClosureMissing),
                };
                Body::Staged(Staged { rollout: rollout(*number), node: node(*who), result })
            }
            Self::Open { rollout: number, wave, eligible, deferred } => Body::OpenWave(OpenWave {
                rollout: rollout(*number),
                wave: *wave,
                eligible: nodes(eligible),
                deferred: nodes(deferred),
            }),
            Self::Grant { rollout: number, wave, nodes: list } => {
                Body::Grant(Grant { rollout: rollout(*number), wave: *wave, nodes: nodes(list) })
            }
            Self::Accept { rollout, node, attempt } => Body::Accept(of(rollout, node, attempt)),
            Self::Report { rollout, node, attempt, end, observed_right } => {
                let row = state
                    .rollout(&of(rollout, node, attempt).rollout)
                    .and_then(|it| it.rows.get(&of(rollout, node, attempt).node));
                let goal = row.map_or_else(|| path("/none"), |row| row.target.clone());
                let ending = ending(*node, *end, *observed_right, goal);
                Body::Report(Report { attempt: of(rollout, node, attempt), ending })
            }
            Self::StateDeadline { rollout: number, state_epoch } => {
                Body::Deadline(Deadline::State { rollout: rollout(*number), state_epoch: *state_epoch })
            }
            Self::NodeDeadline { rollout, node, attempt } => Body::Deadline(Deadline::Node(of(rollout, node, attempt))),
            Self::Hold { rollout: number } => Body::HoldQuorumLost { rollout: rollout(*number) },
            Self::Order { order: short, serial, by } => {
                let (claimed, real) = signer(*by);
                signed(order(*short), *serial, claimed, real)
            }
        }
    }
}

fn ballot(state: &FleetState, number: u8, voter: u8, yes: bool, forged: bool) -> Body {
    let vote = if yes { Vote::Yes } else { Vote::No };
    let id = rollout(number);
    let (manifest, epoch) = match state.rollout(&id) {
        Some(rollout) => (rollout.manifest, rollout.epoch),
        None => (ManifestHash::from_bytes([0; 32]), FleetEpoch(0)),
    };
    let message = statement::ballot(&id, &manifest, epoch, &node(voter), vote, &network());
    let seed = if forged { EVE } else { ballot_key(voter) };
    let signature = sign(seed, message);
    Body::Ballot(Ballot { rollout: id, voter: node(voter), vote, reason: None, signature })
}

fn ending(who: u8, end: End, right: bool, goal: StorePath) -> Ending {
    let observed = |wanted: StorePath| if right { wanted } else { path("/elsewhere") };
    let code = ErrorCode::CheckFailed;
    match end {
        End::Committed => Ending::Committed { observed: observed(goal) },
        End::RolledBack => Ending::RolledBack { observed: observed(baseline(who)), code },
        End::CutOff => Ending::RolledBack { observed: observed(baseline(who)), code: ErrorCode::GuardFired },
        End::Busy => Ending::RolledBack { observed: observed(baseline(who)), code: ErrorCode::LockBusy },
        End::RollbackFailed => Ending::RollbackFailed { code },
        End::Quarantined => Ending::Quarantined { code },
    }
}
