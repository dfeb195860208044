//! `apply`: the one function that changes the state.
//!
//! Pure and total: any bytes give an outcome. A refused command leaves
//! everything as it was, except that the request is remembered with its answer.
//! Each handler first checks everything, then changes; a check never follows a
//! change.

mod ballot;
mod member;
mod node;
mod order;
mod phase;
mod propose;
mod revoke;
mod rotate;
mod wave;

use osmoda_types::command::{Body, Command};
use osmoda_types::{AttemptId, ErrorCode, FleetEpoch, RaftId, RequestId};

use crate::outcome::{Event, Outcome, Reply, Signer, What};
use crate::state::{ANSWERS_MAX, FleetState};

/// What a handler gives back.
type Handled = Result<Done, ErrorCode>;

/// What a command that was not refused did.
#[derive(Debug, Default)]
struct Done {
    repeated: bool,
    attempt: Option<AttemptId>,
    epoch: Option<FleetEpoch>,
}

impl Done {
    /// It had its effect now.
    const NOW: Handled = Ok(Self { repeated: false, attempt: None, epoch: None });
    /// It had its effect before.
    const BEFORE: Handled = Ok(Self { repeated: true, attempt: None, epoch: None });
}

/// Where in the log a command stands, and what it has changed so far.
struct Cx {
    index: u64,
    place: AttemptId,
    proposer: RaftId,
    signer: Signer,
    events: Vec<Event>,
}

impl Cx {
    fn event(&mut self, what: What, reason: &'static str) {
        self.events.push(Event { index: self.index, what, signer: self.signer, reason });
    }
}

impl FleetState {
    /// Applies the bytes of one command. Bytes that are no command are refused
    /// and change nothing but the place in the log.
    pub fn apply_bytes(&mut self, index: u64, proposer: RaftId, command: &[u8]) -> Outcome {
        match osmoda_proto::decode_command(command) {
            Ok(command) => self.apply(index, proposer, &command),
            Err(error) => {
                self.next_place(index);
                Outcome { reply: Reply::refused(index, error.code()), events: Vec::new() }
            }
        }
    }

    /// Applies one command of the entry at `index`, which the voter `proposer`
    /// wrote as leader. Commands of one entry are applied in their order.
    pub fn apply(&mut self, index: u64, proposer: RaftId, command: &Command) -> Outcome {
        let place = self.next_place(index);
        if let Some(first) = self.answered.get(&command.request) {
            return Outcome { reply: Reply { repeated: true, ..*first }, events: Vec::new() };
        }
        let mut cx = Cx { index, place, proposer, signer: Signer::Leader(proposer), events: Vec::new() };
        let reply = match self.handle(&mut cx, &command.body) {
            Ok(Done { repeated, attempt, epoch }) => Reply { index, refused: None, repeated, attempt, epoch },
            Err(code) => {
                debug_assert!(cx.events.is_empty(), "a refused command changed something");
                Reply::refused(index, code)
            }
        };
        self.remember(command.request, reply);
        Outcome { reply, events: cx.events }
    }

    fn handle(&mut self, cx: &mut Cx, body: &Body) -> Handled {
        if self.network.is_none() && !matches!(body, Body::Genesis(_)) {
            return Err(ErrorCode::Conflict);
        }
        match body {
            Body::Genesis(genesis) => self.genesis(cx, genesis),
            Body::OpenInvite(invite) => self.open_invite(cx, invite),
            Body::ExpireInvite(invite) => self.expire_invite(cx, *invite),
            Body::SpendInvite(spend) => self.spend_invite(cx, spend),
            Body::UpdateAddresses { node, addresses } => self.update_addresses(cx, *node, addresses),
            Body::RegisterSubkey(subkey) => self.register_subkey(cx, subkey),
            Body::RegisterVoter { node, raft_id } => self.register_voter(cx, *node, *raft_id),
            Body::LedgerHead(head) => self.record_ledger_head(cx, head),
            Body::RotateKeys(succession) => self.rotate_keys(cx, succession),
            Body::RotateEpoch { epoch, secret_hash } => self.rotate_epoch(cx, *epoch, *secret_hash),
            Body::Propose(proposal) => self.propose(cx, proposal),
            Body::Ballot(ballot) => self.ballot(cx, ballot),
            Body::Staged(staged) => self.staged(cx, staged),
            Body::OpenWave(open) => self.open_wave(cx, open),
            Body::Grant(grant) => self.grant(cx, grant),
            Body::Accept(of) => self.accept(cx, of),
            Body::Report(report) => self.report(cx, report),
            Body::Deadline(deadline) => self.deadline(cx, deadline),
            Body::HoldQuorumLost { rollout } => self.hold(cx, *rollout),
            Body::Control(signed) => self.control(cx, signed),
        }
    }

    /// The place of this command: index and position within its entry.
    fn next_place(&mut self, index: u64) -> AttemptId {
        if index == self.last_index {
            // An entry carries at most 512 commands (`consensus.md` 7).
            self.position = self.position.saturating_add(1);
        } else {
            self.last_index = index;
            self.position = 0;
        }
        AttemptId(index << 16 | u64::from(self.position))
    }

    fn remember(&mut self, request: RequestId, reply: Reply) {
        self.answers.push_back(request);
        self.answered.insert(request, reply);
        while self.answers.len() > ANSWERS_MAX {
            if let Some(oldest) = self.answers.pop_front() {
                self.answered.remove(&oldest);
            }
        }
    }
}
