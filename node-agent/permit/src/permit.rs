//! A permit and the bytes an approver signs. *Pure.*
//!
//! Invariant: a signature is for one permit, one host, one fleet, one decision,
//! one hash, one class, one number of approvers and one end in time; the
//! statement has a line of its own and fixed-width or length-prefixed fields.

use osmoda_types::{CallHash, NetworkId, NodeId, PermitId};
use serde::{Deserialize, Serialize};

use crate::class::EffectClass;
use crate::plan;
use crate::signature::ApproverSignature;

const LINE: &[u8] = b"osmoda permit v1\n";

/// Most approvers a policy may ask for. More people than that do not answer
/// within the longest life of a permit.
pub const APPROVERS_MAX: u8 = 16;

/// A moment, by both clocks of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moment {
    /// Wall time, milliseconds since 1970.
    pub wall_ms: i64,
    /// Boot time, milliseconds.
    pub boot_ms: u64,
    /// The boot that the boot time belongs to.
    pub boot_id: String,
}

impl Moment {
    /// This moment plus a span, on both clocks.
    #[must_use]
    pub fn plus_ms(&self, span_ms: u64) -> Self {
        Self {
            wall_ms: self.wall_ms.saturating_add(i64::try_from(span_ms).unwrap_or(i64::MAX)),
            boot_ms: self.boot_ms.saturating_add(span_ms),
            boot_id: self.boot_id.clone(),
        }
    }

    /// Whether this end is reached: by either clock, or by a restart of the host.
    #[must_use]
    pub fn is_over(&self, now: &Moment) -> bool {
        now.boot_id != self.boot_id || now.wall_ms >= self.wall_ms || now.boot_ms >= self.boot_ms
    }
}

/// What a permit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Covers {
    /// One call.
    Call {
        /// Its hash.
        hash: CallHash,
    },
    /// An ordered list of calls, each once and in order.
    Plan {
        /// The Merkle root over the calls' hashes.
        root: CallHash,
        /// How many there are.
        calls: u32,
    },
}

impl Covers {
    /// How many calls it is for.
    #[must_use]
    pub const fn calls(&self) -> u32 {
        match self {
            Self::Call { .. } => 1,
            Self::Plan { calls, .. } => *calls,
        }
    }
}

/// What an approver says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It may run, once.
    Approve,
    /// It may not, and the same may not be asked for again for a time.
    Deny,
    /// It may run now, without others and without witnesses: an emergency. Only
    /// an approver whom the host's policy names may say so.
    BreakGlass,
}

impl Decision {
    /// The stable number in statements.
    const fn number(self) -> u8 {
        match self {
            Self::Approve => 1,
            Self::Deny => 2,
            Self::BreakGlass => 3,
        }
    }

    /// The stable text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Deny => "deny",
            Self::BreakGlass => "break_glass",
        }
    }
}

/// A permit, as it is asked for; signatures make it one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permit {
    /// Its name.
    pub id: PermitId,
    /// The fleet.
    pub network_id: NetworkId,
    /// The host it is for.
    pub host_id: NodeId,
    /// What it is for.
    pub covers: Covers,
    /// The worst class among its calls.
    pub class: EffectClass,
    /// How many distinct approvers it needs.
    pub approvers: u8,
    /// Until when.
    pub not_after: Moment,
}

/// A permit with what was signed over it: what the executor checks by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedPermit {
    /// The permit.
    pub permit: Permit,
    /// The hashes of a plan's calls, in order; empty for one call.
    pub plan: Vec<CallHash>,
    /// What approvers signed.
    pub signatures: Vec<ApproverSignature>,
}

impl Permit {
    /// The bytes an approver signs: line; network id (32); host id (32); permit
    /// id (16); decision (1); 1 for a call or 2 for a plan (1); call hash or
    /// root (32); number of calls (4); class behind its length (1); boot id
    /// behind its length (1); number of approvers (1); wall end (8); boot end
    /// (8). Integers are big-endian.
    #[must_use]
    pub fn statement(&self, decision: Decision) -> Vec<u8> {
        let (kind, hash) = match &self.covers {
            Covers::Call { hash } => (1, hash),
            Covers::Plan { root, .. } => (2, root),
        };
        let mut bytes =
            [LINE, self.network_id.as_bytes(), self.host_id.as_bytes(), self.id.as_bytes(), &[decision.number(), kind]]
                .concat();
        bytes.extend(hash.as_bytes());
        bytes.extend(self.covers.calls().to_be_bytes());
        let mut field = |text: &str| {
            // A boot id has 36 bytes, a class fewer; a longer text is cut, and
            // its length says that it was no boot id.
            let length = text.len().min(255);
            bytes.push(u8::try_from(length).unwrap_or(u8::MAX));
            bytes.extend(&text.as_bytes()[..length]);
        };
        field(self.class.as_str());
        field(&self.not_after.boot_id);
        bytes.push(self.approvers);
        bytes.extend(self.not_after.wall_ms.to_be_bytes());
        bytes.extend(self.not_after.boot_ms.to_be_bytes());
        bytes
    }

    /// Whether the permit binds this call: the one it names, or the one at
    /// `position` of the plan whose hashes these are.
    #[must_use]
    pub fn binds(&self, call: &CallHash, position: u32, hashes: &[CallHash]) -> bool {
        match &self.covers {
            Covers::Call { hash } => position == 0 && hash == call && hashes.is_empty(),
            Covers::Plan { root, calls } => {
                let same_length = u32::try_from(hashes.len()) == Ok(*calls);
                let named = usize::try_from(position).ok().and_then(|position| hashes.get(position));
                same_length && named == Some(call) && plan::root(hashes).as_ref() == Some(root)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{moment, permit};

    #[test]
    fn the_statement_has_the_documented_bytes() {
        let permit = permit(CallHash::from_bytes([7; 32]));
        let expected = [
            &b"osmoda permit v1\n"[..],
            &[1; 32],
            &[2; 32],
            &[3; 16],
            &[1, 1],
            &[7; 32],
            &[0, 0, 0, 1],
            b"\x0bdestructive",
            b"\x06boot-1",
            &[1],
            &601_000_u64.to_be_bytes(),
            &600_500_u64.to_be_bytes(),
        ]
        .concat();
        assert_eq!(permit.statement(Decision::Approve), expected);
        assert_ne!(permit.statement(Decision::Deny), expected);
    }

    #[test]
    fn a_permit_ends_by_either_clock_and_with_the_boot() {
        let end = moment(1000, 500).plus_ms(100);
        assert!(!end.is_over(&moment(1099, 599)));
        assert!(end.is_over(&moment(1100, 599)), "wall clock, to the millisecond");
        assert!(end.is_over(&moment(-5, 600)), "a wall clock that was set back does not help");
        assert!(end.is_over(&Moment { boot_id: "boot-2".into(), ..moment(1000, 500) }), "nor does a restart");
    }

    #[test]
    fn a_plan_binds_each_call_at_its_place_only() {
        let hashes: Vec<CallHash> = (0..5).map(|n| CallHash::from_bytes([n; 32])).collect();
        let covers = Covers::Plan { root: plan::root(&hashes).unwrap(), calls: 5 };
        let permit = Permit { covers, ..permit(hashes[0]) };
        for (position, hash) in (0_u32..).zip(&hashes) {
            assert!(permit.binds(hash, position, &hashes));
            assert!(!permit.binds(hash, position + 1, &hashes));
        }
        let mut swapped = hashes.clone();
        swapped.swap(1, 2);
        assert!(!permit.binds(&swapped[1], 1, &swapped), "another order");
        let more: Vec<CallHash> = hashes.iter().copied().chain([CallHash::from_bytes([9; 32])]).collect();
        assert!(!permit.binds(&more[5], 5, &more), "one more");
        assert!(!permit.binds(&hashes[0], 0, &hashes[..4]), "one less");
        assert!(!permit.binds(&hashes[0], 0, &[]));
    }
}
