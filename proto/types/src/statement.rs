//! What is signed, byte by byte, and how a signature is checked.
//!
//! One place for the signer (`osmoda`), `apply` and root `watch`, so that they
//! cannot differ. Invariant: every statement begins with a line of its own and
//! has fixed-width or length-prefixed fields, so no bytes are two statements;
//! each but [`checkpoint`] names the network, so none is valid in two fleets.

use crate::code::ErrorCode;
use crate::command::{Order, Proposal};
use crate::ids::{
    FleetEpoch, LedgerHash, ManifestHash, MeshEpoch, MeshKey, NetworkId, NodeId, PublicKey, RolloutId, Signature,
};
use crate::member::Purpose;

const ROLLOUT_LINE: &[u8] = b"osmoda rollout v1\n";
const CONTROL_LINE: &[u8] = b"osmoda control v1\n";
const BALLOT_LINE: &[u8] = b"osmoda ballot v1\n";
const SUBKEY_LINE: &[u8] = b"osmoda subkey v1\n";
const SUCCESSION_LINE: &[u8] = b"osmoda succession v1\n";

/// The bytes an operator signs to propose a rollout: line, manifest hash (32),
/// rollout id (16), parent fleet epoch (8, big-endian), network id (32).
#[must_use]
pub fn rollout(manifest: &ManifestHash, rollout: &RolloutId, parent: FleetEpoch, network: &NetworkId) -> Vec<u8> {
    let parent = parent.0.to_be_bytes();
    [ROLLOUT_LINE, manifest.as_bytes(), rollout.as_bytes(), &parent, network.as_bytes()].concat()
}

/// The bytes an operator signs over a proposal.
#[must_use]
pub fn proposal(proposal: &Proposal, network: &NetworkId) -> Vec<u8> {
    rollout(&proposal.manifest, &proposal.rollout, proposal.parent, network)
}

/// The bytes an operator signs to give an order: line, network id (32), serial
/// (8, big-endian), then the order with each field behind its length (4).
#[must_use]
pub fn control(order: &Order, serial: u64, network: &NetworkId) -> Vec<u8> {
    let mut bytes = [CONTROL_LINE, network.as_bytes(), &serial.to_be_bytes()].concat();
    let mut field = |part: &[u8]| {
        // A field is part of a command of at most a few MiB, far below 4 GiB.
        bytes.extend((part.len() as u32).to_be_bytes());
        bytes.extend(part);
    };
    field(order.verb().as_bytes());
    match order {
        Order::AddPrincipal(principal) => {
            field(principal.name.as_bytes());
            field(principal.key.as_bytes());
            field(&principal.rights.iter().map(|right| right.number()).collect::<Vec<_>>());
        }
        Order::Pause { rollout } | Order::Resume { rollout } | Order::Abort { rollout } => field(rollout.as_bytes()),
        Order::Exclude { rollout, node } => {
            field(rollout.as_bytes());
            field(node.as_bytes());
        }
        Order::Freeze { scope } | Order::Unfreeze { scope } => field(scope.as_bytes()),
        Order::Allow { target } => field(target.as_str().as_bytes()),
        Order::Revoke { node } => field(node.as_bytes()),
    }
    bytes
}

/// The bytes a voter's ballot key signs: line, rollout id (16), manifest hash
/// (32), fleet epoch of the rollout (8, big-endian), voter's node id (32), 1
/// for yes or 0 for no, network id (32).
#[must_use]
pub fn ballot(
    rollout: &RolloutId,
    manifest: &ManifestHash,
    epoch: FleetEpoch,
    voter: &NodeId,
    yes: Vote,
    network: &NetworkId,
) -> Vec<u8> {
    let epoch = epoch.0.to_be_bytes();
    let yes = [u8::from(yes == Vote::Yes)];
    [BALLOT_LINE, rollout.as_bytes(), manifest.as_bytes(), &epoch, voter.as_bytes(), &yes, network.as_bytes()].concat()
}

/// The bytes a node's identity key signs to endorse a daemon's subkey: line,
/// purpose behind its length (1), key (32), node id (32), mesh epoch (4,
/// big-endian), network id (32).
#[must_use]
pub fn subkey(purpose: Purpose, key: &PublicKey, node: &NodeId, epoch: MeshEpoch, network: &NetworkId) -> Vec<u8> {
    let purpose = purpose.as_str().as_bytes();
    // Both purposes are shorter than ten bytes.
    let length = [purpose.len() as u8];
    let epoch = epoch.0.to_be_bytes();
    [SUBKEY_LINE, &length, purpose, key.as_bytes(), node.as_bytes(), &epoch, network.as_bytes()].concat()
}

/// The bytes a node's old and new identity keys sign when its keys change:
/// line, node id (32), new transport key (32), new identity key (32), network
/// id (32). The old keys need no place in it: one of them signs.
#[must_use]
pub fn succession(node: &NodeId, mesh_key: &MeshKey, identity_key: &PublicKey, network: &NetworkId) -> Vec<u8> {
    [SUCCESSION_LINE, node.as_bytes(), mesh_key.as_bytes(), identity_key.as_bytes(), network.as_bytes()].concat()
}

/// The bytes a ledger's key signs as its checkpoint: the text of a C2SP note, four
/// lines. It names no network, because the key in it is one ledger's only; no other
/// statement begins as it does.
#[must_use]
pub fn checkpoint(key: &PublicKey, size: u64, root: &LedgerHash, chain: &LedgerHash) -> Vec<u8> {
    let root = data_encoding::BASE64.encode(root.as_bytes());
    format!("osmoda.ledger/{key}\n{size}\n{root}\nchain {chain}\n").into_bytes()
}

/// A voter's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vote {
    /// The rollout may begin.
    Yes,
    /// It may not, as far as this voter is asked.
    No,
}

/// Checks an Ed25519 signature the strict way: no small-order keys, no
/// malleable encodings, so that one statement has one signature.
///
/// # Errors
/// [`ErrorCode::SignatureMissing`] when it is all zero,
/// [`ErrorCode::SignatureInvalid`] when key or signature do not fit.
pub fn verify(key: &PublicKey, message: &[u8], signature: &Signature) -> Result<(), ErrorCode> {
    if signature.as_bytes().iter().all(|byte| *byte == 0) {
        return Err(ErrorCode::SignatureMissing);
    }
    let key = ed25519_dalek::VerifyingKey::from_bytes(key.as_bytes()).map_err(|_| ErrorCode::SignatureInvalid)?;
    let signature = ed25519_dalek::Signature::from_bytes(signature.as_bytes());
    key.verify_strict(message, &signature).map_err(|_| ErrorCode::SignatureInvalid)
}

/// Signs a statement.
#[must_use]
pub fn sign(key: &ed25519_dalek::SigningKey, message: &[u8]) -> Signature {
    use ed25519_dalek::Signer as _;
    Signature::from_bytes(key.sign(message).to_bytes())
}

/// The public half of a signing key.
#[must_use]
pub fn public_key(key: &ed25519_dalek::SigningKey) -> PublicKey {
    PublicKey::from_bytes(key.verifying_key().to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NetworkId;

    #[test]
    fn a_rollout_statement_has_the_documented_bytes() {
        let network = NetworkId::from_bytes([3; 32]);
        let bytes =
            rollout(&ManifestHash::from_bytes([1; 32]), &RolloutId::from_bytes([2; 16]), FleetEpoch(258), &network);
        let expected = [&b"osmoda rollout v1\n"[..], &[1; 32], &[2; 16], &[0, 0, 0, 0, 0, 0, 1, 2], &[3; 32]].concat();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_succession_statement_has_the_documented_bytes() {
        let (node, mesh_key) = (NodeId::from_bytes([1; 32]), MeshKey::from_bytes([2; 32]));
        let bytes = succession(&node, &mesh_key, &PublicKey::from_bytes([3; 32]), &NetworkId::from_bytes([4; 32]));
        let expected = [&b"osmoda succession v1\n"[..], &[1; 32], &[2; 32], &[3; 32], &[4; 32]].concat();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn signatures_verify_over_their_statement_and_key_only() {
        let key = ed25519_dalek::SigningKey::from_bytes(&[5; 32]);
        let network = NetworkId::from_bytes([3; 32]);
        let order = Order::Pause { rollout: RolloutId::from_bytes([2; 16]) };
        let message = control(&order, 7, &network);
        let signature = sign(&key, &message);
        assert_eq!(verify(&public_key(&key), &message, &signature), Ok(()));
        let invalid = Err(ErrorCode::SignatureInvalid);
        assert_eq!(verify(&public_key(&key), &control(&order, 8, &network), &signature), invalid);
        let other = ed25519_dalek::SigningKey::from_bytes(&[6; 32]);
        assert_eq!(verify(&public_key(&other), &message, &signature), invalid);
        let none = Signature::from_bytes([0; 64]);
        assert_eq!(verify(&public_key(&key), &message, &none), Err(ErrorCode::SignatureMissing));
        // A small-order key would accept almost anything without the strict check.
        assert_eq!(verify(&PublicKey::from_bytes([0; 32]), &message, &signature), invalid);
    }

    #[test]
    fn orders_with_shifted_fields_differ() {
        let network = NetworkId::from_bytes([3; 32]);
        let one = control(&Order::Freeze { scope: "ab".into() }, 1, &network);
        let two = control(&Order::Unfreeze { scope: "ab".into() }, 1, &network);
        assert_ne!(one, two);
    }
}
