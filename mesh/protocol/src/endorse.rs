//! A node's identity key vouching for a subkey: `{purpose, key, node, epoch}`
//! (`architecture.md` 3.1, node keys).
//!
//! The statement names its algorithm, so that ML-DSA can be added beside
//! Ed25519 without confusing one signature for another.

use osmoda_types::{MeshEpoch, NodeId, PublicKey};
use serde::{Deserialize, Serialize};

/// Bound on a purpose.
pub const ENDORSE_PURPOSE_BYTES_MAX: usize = 32;

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endorsement {
    /// What the subkey is for: `ballot`, `ledger`.
    pub purpose: String,
    /// The subkey.
    pub key: PublicKey,
    /// The node it belongs to.
    pub node: NodeId,
    /// The mesh epoch it was made in.
    pub epoch: MeshEpoch,
}

impl Endorsement {
    /// The bytes to sign: `"osmoda subkey v1\n" | "ed25519\n" | purpose | 0 |
    /// key | node | epoch u32`.
    ///
    /// # Errors
    /// [`EndorseError`] for a purpose that is not 1 to 32 of `a-z` and hyphen.
    pub fn statement(&self) -> Result<Vec<u8>, EndorseError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
        let purpose = self.purpose.as_bytes();
        if purpose.is_empty() || purpose.len() > ENDORSE_PURPOSE_BYTES_MAX || !purpose.iter().all(|b| plain(*b)) {
            return Err(EndorseError);
        }
        let mut out = b"osmoda subkey v1\ned25519\n".to_vec();
        out.extend_from_slice(purpose);
        out.push(0);
        out.extend_from_slice(self.key.as_bytes());
        out.extend_from_slice(self.node.as_bytes());
        out.extend_from_slice(&self.epoch.0.to_be_bytes());
        Ok(out)
    }
}

/// The purpose is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a purpose is 1 to {ENDORSE_PURPOSE_BYTES_MAX} of a-z and hyphen")]
pub struct EndorseError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_in_the_statement() {
        let base = Endorsement {
            purpose: "ballot".into(),
            key: PublicKey::from_bytes([1; 32]),
            node: NodeId::from_bytes([2; 32]),
            epoch: MeshEpoch(3),
        };
        let others = [
            Endorsement { purpose: "ledger".into(), ..base.clone() },
            Endorsement { key: PublicKey::from_bytes([9; 32]), ..base.clone() },
            Endorsement { node: NodeId::from_bytes([9; 32]), ..base.clone() },
            Endorsement { epoch: MeshEpoch(9), ..base.clone() },
        ];
        for other in others {
            assert_ne!(base.statement(), other.statement());
        }
        for bad in ["", "a\0b", "Ballot", &"a".repeat(33)] {
            assert_eq!(Endorsement { purpose: bad.into(), ..base.clone() }.statement(), Err(EndorseError));
        }
    }
}
