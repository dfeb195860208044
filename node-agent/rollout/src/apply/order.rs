//! Operators' orders, and the pause after a lost quorum.

use osmoda_types::command::{Order, SignedOrder};
use osmoda_types::manifest::{validate_name, validate_scope};
use osmoda_types::principal::PRINCIPALS_MAX;
use osmoda_types::{ErrorCode, NodeId, NodeState, Principal, PublicKey, RolloutId, StorePath, statement};

use super::wave::set_state;
use super::{Cx, Done, Handled};
use crate::outcome::{Signer, What};
use crate::rollout::{Cause, PauseReason, Phase};
use crate::signature;
use crate::state::{FleetState, Freeze, PrincipalEntry};

impl FleetState {
    pub(super) fn control(&mut self, cx: &mut Cx, signed: &SignedOrder) -> Handled {
        let entry = self.principals.get(&signed.key).ok_or(ErrorCode::PrincipalUnknown)?;
        let network = self.network.ok_or(ErrorCode::Conflict)?;
        let message = statement::control(&signed.order, signed.serial, &network);
        signature::verify(&signed.key, &message, &signed.signature)?;
        if !entry.principal.may(signed.order.right()) {
            return Err(ErrorCode::PrincipalDenied);
        }
        if signed.serial <= entry.serial {
            return Err(ErrorCode::OrderReplayed);
        }
        cx.signer = Signer::Principal(signed.key);
        let done = self.obey(cx, signed)?;
        if let Some(entry) = self.principals.get_mut(&signed.key) {
            entry.serial = signed.serial;
        }
        Ok(done)
    }

    fn obey(&mut self, cx: &mut Cx, signed: &SignedOrder) -> Handled {
        match &signed.order {
            Order::AddPrincipal(principal) => self.set_principal(cx, principal, signed),
            Order::Pause { rollout } => self.pause_by_order(cx, *rollout),
            Order::Resume { rollout } => self.resume(cx, *rollout),
            Order::Abort { rollout } => self.abort(cx, *rollout),
            Order::Exclude { rollout, node } => self.exclude(cx, *rollout, *node),
            Order::Freeze { scope } => self.freeze(cx, scope, signed.key),
            Order::Unfreeze { scope } => {
                self.freezes.remove(scope).ok_or(ErrorCode::NotFound)?;
                cx.event(What::Unfrozen(scope.clone()), "order");
                Done::NOW
            }
            Order::Allow { target } => self.allow(cx, target),
            Order::Revoke { node } => self.revoke(cx, *node),
        }
    }

    fn set_principal(&mut self, cx: &mut Cx, principal: &Principal, signed: &SignedOrder) -> Handled {
        validate_name(&principal.name).map_err(|_| ErrorCode::BadRequest)?;
        let known = self.principals.get(&principal.key);
        if known.is_some_and(|entry| entry.principal == *principal) {
            return Done::BEFORE;
        }
        if known.is_none() && self.principals.len() >= PRINCIPALS_MAX {
            return Err(ErrorCode::TooLarge);
        }
        let serial = known.map_or(0, |entry| entry.serial);
        let entry = PrincipalEntry { principal: principal.clone(), serial, order: Some(signed.clone()) };
        self.principals.insert(principal.key, entry);
        cx.event(What::PrincipalSet(principal.key), "order");
        Done::NOW
    }

    fn pause_by_order(&mut self, cx: &mut Cx, id: RolloutId) -> Handled {
        match self.rollouts.get(&id).ok_or(ErrorCode::RolloutUnknown)?.phase {
            Phase::Running(running) => {
                self.pause(cx, id, running, PauseReason::Operator);
                Done::NOW
            }
            Phase::Paused { .. } => Done::BEFORE,
            _ => Err(ErrorCode::RolloutState),
        }
    }

    fn abort(&mut self, cx: &mut Cx, id: RolloutId) -> Handled {
        match self.rollouts.get(&id).ok_or(ErrorCode::RolloutUnknown)?.phase {
            Phase::Voting | Phase::Running(_) | Phase::Paused { .. } => {
                self.undo(cx, id, Cause::Aborted);
                Done::NOW
            }
            Phase::RollingBack => Done::BEFORE,
            _ => Err(ErrorCode::RolloutState),
        }
    }

    /// Takes a node out. It is no longer charged and no longer counted as
    /// failed; where it may have moved, the rollout can only end as partly
    /// undone.
    pub(super) fn exclude(&mut self, cx: &mut Cx, id: RolloutId, node: NodeId) -> Handled {
        let rollout = self.rollouts.get_mut(&id).ok_or(ErrorCode::RolloutUnknown)?;
        let row = rollout.rows.get_mut(&node).ok_or(ErrorCode::NodeUnknown)?;
        match row.state {
            NodeState::Excluded => return Done::BEFORE,
            // It is back, and stays counted as failed.
            NodeState::RolledBack => return Err(ErrorCode::RolloutState),
            NodeState::Committed if !rollout.phase.is_undoing() => return Err(ErrorCode::RolloutState),
            _ => {}
        }
        set_state(cx, id, node, row, NodeState::Excluded, "order");
        self.settle(cx, id);
        Done::NOW
    }

    fn freeze(&mut self, cx: &mut Cx, scope: &str, key: PublicKey) -> Handled {
        if scope != "*" {
            validate_scope(scope).map_err(|_| ErrorCode::BadRequest)?;
        }
        if self.freezes.contains_key(scope) {
            return Done::BEFORE;
        }
        self.freezes.insert(scope.to_owned(), Freeze { key, index: cx.index });
        cx.event(What::Frozen(scope.to_owned()), "order");
        Done::NOW
    }

    fn allow(&mut self, cx: &mut Cx, target: &StorePath) -> Handled {
        self.denied.remove(target).ok_or(ErrorCode::NotFound)?;
        cx.event(What::Allowed(target.clone()), "order");
        Done::NOW
    }

    /// The quorum was lost and is back. What was in flight then is excused for
    /// having lost contact (I10), and the rollout waits for a person, unless its
    /// policy lets it go on.
    pub(super) fn hold(&mut self, cx: &mut Cx, id: RolloutId) -> Handled {
        let rollout = self.rollouts.get_mut(&id).ok_or(ErrorCode::RolloutUnknown)?;
        let (running, waits) = match rollout.phase {
            Phase::Running(running) => (running, false),
            Phase::Paused { from, reason } => (from, reason == PauseReason::QuorumLost),
            _ => return Err(ErrorCode::RolloutState),
        };
        let mut excused = false;
        for row in rollout.rows.values_mut().filter(|row| row.state.is_charged() && !row.excused) {
            row.excused = true;
            excused = true;
        }
        let paused = matches!(rollout.phase, Phase::Paused { .. });
        if waits || (rollout.policy.auto_resume && !paused) {
            return if excused { Done::NOW } else { Done::BEFORE };
        }
        self.pause(cx, id, running, PauseReason::QuorumLost);
        Done::NOW
    }
}
