//! Ballots: one counted answer per elector, signed with the key that was frozen
//! with the electorate.

use osmoda_types::command::Ballot;
use osmoda_types::{ErrorCode, RolloutState, Vote, statement};

use super::{Cx, Done, Handled};
use crate::outcome::{Signer, What};
use crate::rollout::{Phase, Running};
use crate::signature;
use crate::state::FleetState;

impl FleetState {
    pub(super) fn ballot(&mut self, cx: &mut Cx, ballot: &Ballot) -> Handled {
        let network = self.network.ok_or(ErrorCode::Conflict)?;
        let rollout = self.rollouts.get(&ballot.rollout).ok_or(ErrorCode::RolloutUnknown)?;
        let elector = rollout.electorate.get(&ballot.voter).ok_or(ErrorCode::BallotRefused)?;
        if elector.vote == Some(ballot.vote) {
            return Done::BEFORE;
        }
        if elector.vote.is_some() || rollout.phase != Phase::Voting {
            return Err(ErrorCode::BallotRefused);
        }
        let message =
            statement::ballot(&rollout.id, &rollout.manifest, rollout.epoch, &ballot.voter, ballot.vote, &network);
        signature::verify(&elector.key, &message, &ballot.signature)?;

        cx.signer = Signer::Node(ballot.voter);
        let reason = ballot.reason.map_or("voted", ErrorCode::as_str);
        cx.event(What::Ballot(ballot.rollout, ballot.voter, ballot.vote), reason);
        let Some(rollout) = self.rollouts.get_mut(&ballot.rollout) else { return Err(ErrorCode::RolloutUnknown) };
        if let Some(elector) = rollout.electorate.get_mut(&ballot.voter) {
            elector.vote = Some(ballot.vote);
        }
        let voters = rollout.electorate.len() as u32;
        let (yes, no, threshold) = (rollout.votes(Vote::Yes), rollout.votes(Vote::No), rollout.threshold);
        if yes >= threshold {
            cx.event(
                What::Rollout {
                    rollout: ballot.rollout,
                    from: Some(RolloutState::Voting),
                    to: RolloutState::Approved,
                    wave: None,
                },
                "quorum",
            );
            self.enter_from(cx, ballot.rollout, RolloutState::Approved, Phase::Running(Running::Prefetch), "quorum");
        } else if voters - no < threshold {
            self.enter(cx, ballot.rollout, Phase::Rejected, "quorum");
        }
        Done::NOW
    }
}
