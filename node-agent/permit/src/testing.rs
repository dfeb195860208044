//! Keys, permits and calls for tests.

use ed25519_dalek::{Signer as _, SigningKey};
use osmoda_types::{CallHash, NetworkId, NodeId, PermitId, Principal, Right, statement};
use ssh_key::public::{Ed25519PublicKey, KeyData};
use ssh_key::{Algorithm, HashAlg, LineEnding, SshSig};

use crate::call::Call;
use crate::class::EffectClass;
use crate::permit::{Covers, Decision, Moment, Permit};
use crate::signature::{ApproverSignature, Proof};
use crate::tool::{Operation, Tool};

/// A moment of boot `boot-1`.
#[must_use]
pub fn moment(wall_ms: i64, boot_ms: u64) -> Moment {
    Moment { wall_ms, boot_ms, boot_id: "boot-1".into() }
}

/// A permit for one destructive call, ten minutes from wall 1,000 and boot 500.
#[must_use]
pub fn permit(hash: CallHash) -> Permit {
    Permit {
        id: PermitId::from_bytes([3; 16]),
        network_id: NetworkId::from_bytes([1; 32]),
        host_id: NodeId::from_bytes([2; 32]),
        covers: Covers::Call { hash },
        class: EffectClass::Destructive,
        approvers: 1,
        not_after: moment(1000, 500).plus_ms(600_000),
    }
}

/// A call that writes `/etc/motd`.
#[must_use]
pub fn call() -> Call {
    let object = serde_json::json!({ "inode": "7", "sha256": null });
    Call {
        host_id: NodeId::from_bytes([2; 32]),
        tool: Tool::FileWrite,
        operation: Operation::FileWrite { path: "/etc/motd".into(), content: "hello\n".into() },
        object: object.as_object().cloned().unwrap_or_default(),
        session_id: "s-1".into(),
        nonce: [4; 16],
    }
}

/// The key of a seed.
#[must_use]
pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// A principal with the right to approve and no other.
#[must_use]
pub fn approver(name: &str, seed: u8) -> Principal {
    Principal { name: name.into(), key: statement::public_key(&key(seed)), rights: vec![Right::Approve] }
}

/// Signs a decision over a permit.
#[must_use]
pub fn sign(seed: u8, permit: &Permit, decision: Decision) -> ApproverSignature {
    let signature = statement::sign(&key(seed), &permit.statement(decision));
    ApproverSignature { decision, proof: Proof::Ed25519 { key: statement::public_key(&key(seed)), signature } }
}

/// Signs a decision over a permit as `ssh-keygen -Y sign -n NAMESPACE` does.
///
/// # Panics
/// Never with the namespaces of tests.
#[must_use]
pub fn ssh_sign(seed: u8, permit: &Permit, decision: Decision, namespace: &str) -> ApproverSignature {
    let key = key(seed);
    let data = SshSig::signed_data(namespace, HashAlg::Sha512, &permit.statement(decision)).expect("a namespace");
    let signature = ssh_key::Signature::new(Algorithm::Ed25519, key.sign(&data).to_bytes().to_vec());
    let public = KeyData::Ed25519(Ed25519PublicKey(key.verifying_key().to_bytes()));
    let signature = SshSig::new(public, namespace, HashAlg::Sha512, signature.expect("64 bytes"));
    armored(decision, &signature.expect("a namespace"))
}

/// A decision with this SSH signature.
pub(crate) fn armored(decision: Decision, signature: &SshSig) -> ApproverSignature {
    let armored = signature.to_pem(LineEnding::LF).expect("it is short");
    ApproverSignature { decision, proof: Proof::Ssh { armored } }
}
