//! The executor's own judgement of a permit. *Pure.*
//!
//! Invariant (A1): a call passes only with a permit whose hash is its own, for
//! this host and fleet, of its class, with as many approvers as the policy asks
//! for, in time, and signed by people in our own trust file. Whether it was used
//! before is not known here; the ledger and the executor's own list say that.

use osmoda_types::{CallHash, ErrorCode};

use crate::class::EffectClass;
use crate::permit::{Covers, Moment, SignedPermit};
use crate::policy::{Policy, TTL_SECS_MAX};
use crate::signature::{Tally, tally};
use crate::trust::HostTrust;

/// Why a permit does not let a call pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PermitFault {
    /// It belongs to another host or another fleet.
    #[error("the permit is for another host")]
    Host,
    /// It is for another call, another place in the plan, or another plan.
    #[error("the permit does not bind this call")]
    Call,
    /// It was shown as of another class.
    #[error("the permit is for another effect class")]
    Class,
    /// The policy asks for more people than it names.
    #[error("the permit names fewer approvers than the policy asks for")]
    Approvers,
    /// Its time is over, or longer than any that is given.
    #[error("the permit has expired")]
    Expired,
    /// One of its approvers said no.
    #[error("the permit was denied")]
    Denied,
    /// Its valid signatures are too few.
    #[error("the permit has too few valid signatures")]
    Signatures,
}

impl PermitFault {
    /// The code callers see.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Expired => ErrorCode::ApprovalExpired,
            Self::Denied => ErrorCode::ApprovalDenied,
            Self::Host | Self::Call | Self::Class | Self::Approvers | Self::Signatures => ErrorCode::ApprovalInvalid,
        }
    }
}

/// A call that is about to run.
#[derive(Debug, Clone, Copy)]
pub struct Running<'a> {
    /// Its hash, computed by whoever is about to run it.
    pub hash: &'a CallHash,
    /// Its class, by our own policy.
    pub class: EffectClass,
    /// Its position in the plan; 0 for one call.
    pub position: u32,
}

/// Judges a permit for a call; returns who approved it.
///
/// # Errors
/// [`PermitFault`].
pub fn judge(
    signed: &SignedPermit,
    running: Running<'_>,
    trust: &HostTrust,
    policy: &Policy,
    now: &Moment,
) -> Result<Tally, PermitFault> {
    let permit = &signed.permit;
    if permit.host_id != trust.host_id || permit.network_id != trust.network_id {
        return Err(PermitFault::Host);
    }
    if !permit.binds(running.hash, running.position, &signed.plan) {
        return Err(PermitFault::Call);
    }
    let same_class = match permit.covers {
        Covers::Call { .. } => permit.class == running.class,
        Covers::Plan { .. } => permit.class >= running.class,
    };
    if !same_class {
        return Err(PermitFault::Class);
    }
    if permit.approvers < policy.approvers(running.class) {
        return Err(PermitFault::Approvers);
    }
    if permit.not_after.is_over(now) || now.plus_ms(TTL_SECS_MAX * 1000).boot_ms < permit.not_after.boot_ms {
        return Err(PermitFault::Expired);
    }
    let tally = tally(permit, &signed.signatures, &trust.operators, &policy.break_glass);
    if !tally.denied.is_empty() {
        return Err(PermitFault::Denied);
    }
    if !tally.is_enough(permit) {
        return Err(PermitFault::Signatures);
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permit::{Decision, Permit};
    use crate::testing::{approver, moment, permit, sign};
    use osmoda_types::{NetworkId, NodeId};
    use std::collections::BTreeMap;

    const HASH: CallHash = CallHash::from_bytes([7; 32]);

    fn trust() -> HostTrust {
        HostTrust {
            network_id: NetworkId::from_bytes([1; 32]),
            host_id: NodeId::from_bytes([2; 32]),
            operators: vec![approver("ada", 1), approver("bob", 2)],
            serials: BTreeMap::new(),
        }
    }

    #[test]
    fn each_rule_is_told_by_its_own_fault() {
        let good = permit(HASH);
        let signed = |permit: &Permit, seed| SignedPermit {
            permit: permit.clone(),
            plan: Vec::new(),
            signatures: vec![sign(seed, permit, Decision::Approve)],
        };
        let now = moment(2000, 1500);
        let running = Running { hash: &HASH, class: EffectClass::Destructive, position: 0 };
        let check = |signed: &SignedPermit, running: Running<'_>, policy: &Policy, now: &Moment| {
            judge(signed, running, &trust(), policy, now).map(|_| ())
        };
        let policy = Policy::default();
        assert_eq!(check(&signed(&good, 1), running, &policy, &now), Ok(()));
        let host = Permit { host_id: NodeId::from_bytes([9; 32]), ..good.clone() };
        assert_eq!(check(&signed(&host, 1), running, &policy, &now), Err(PermitFault::Host));
        let network = Permit { network_id: NetworkId::from_bytes([9; 32]), ..good.clone() };
        assert_eq!(check(&signed(&network, 1), running, &policy, &now), Err(PermitFault::Host));
        let other = CallHash::from_bytes([8; 32]);
        assert_eq!(
            check(&signed(&good, 1), Running { hash: &other, ..running }, &policy, &now),
            Err(PermitFault::Call)
        );
        assert_eq!(check(&signed(&good, 1), Running { position: 1, ..running }, &policy, &now), Err(PermitFault::Call));
        let harmless = Permit { class: EffectClass::Read, ..good.clone() };
        assert_eq!(check(&signed(&harmless, 1), running, &policy, &now), Err(PermitFault::Class));
        let two = Policy { approvers: [("destructive".into(), 2)].into(), ..Policy::default() };
        assert_eq!(check(&signed(&good, 1), running, &two, &now), Err(PermitFault::Approvers));
        assert_eq!(check(&signed(&good, 1), running, &policy, &moment(601_000, 1500)), Err(PermitFault::Expired));
        let endless = Permit { not_after: moment(i64::MAX, u64::MAX), ..good };
        assert_eq!(check(&signed(&endless, 1), running, &policy, &now), Err(PermitFault::Expired));
        assert_eq!(check(&signed(&good, 9), running, &policy, &now), Err(PermitFault::Signatures));
        let mut denied = signed(&good, 1);
        denied.signatures.push(sign(2, &good, Decision::Deny));
        assert_eq!(check(&denied, running, &policy, &now), Err(PermitFault::Denied));
    }
}
