//! Signatures of approvers, and who they are by. *Pure.*
//!
//! Three kinds: plain Ed25519 (our command line), and SSH signatures of an
//! `ssh-ed25519` key or of a FIDO `sk-ssh-ed25519` key. All prove the same
//! thing, an Ed25519 public key, which is what a principal is known by.
//! Invariant: an SSH signature counts in our namespace only, and a FIDO one
//! only when a person touched the key.

use osmoda_types::{ErrorCode, Principal, PublicKey, Right, Signature, statement};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use ssh_key::public::KeyData;
use ssh_key::{Algorithm, LineEnding, SshSig};
use std::collections::BTreeSet;

use crate::permit::{Decision, Permit};

/// The namespace of SSH signatures: `ssh-keygen -Y sign -n osmoda-permit`.
pub const SSH_NAMESPACE: &str = "osmoda-permit";

/// Longest SSH signature text: FIDO signatures are under 700 bytes.
const SSH_TEXT_BYTES_MAX: usize = 4096;

/// The FIDO application a key must be made for; `ssh-keygen` uses `ssh:` and
/// lets a name follow. Keys of web sites have other ones.
const FIDO_APPLICATION: &str = "ssh:";

/// "User present" of a FIDO assertion: somebody touched the key.
const FIDO_PRESENT: u8 = 0x01;

/// Most signatures looked at for one permit: each costs a curve operation.
pub const SIGNATURES_MAX: usize = 32;

/// What an approver sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApproverSignature {
    /// What is decided.
    pub decision: Decision,
    /// The proof.
    pub proof: Proof,
}

/// How the statement was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Proof {
    /// By the command line's own key file.
    Ed25519 {
        /// The public key.
        key: PublicKey,
        /// The signature over the statement.
        signature: Signature,
    },
    /// By `ssh-keygen -Y sign`, an agent or a FIDO key.
    Ssh {
        /// The armoured text, `-----BEGIN SSH SIGNATURE-----` and so on.
        armored: String,
    },
}

/// Why a signature does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFault {
    /// It does not verify over the statement.
    #[error("the signature does not fit the statement")]
    Invalid,
    /// It is no SSH signature, or one of another kind of key.
    #[error("no SSH signature of an ed25519 or sk-ed25519 key: {0}")]
    Ssh(&'static str),
    /// The key is no approver's here.
    #[error("{0} is no approver of this host")]
    Unknown(String),
    /// The principal lacks the right.
    #[error("{0} lacks the right to approve")]
    Right(String),
}

impl SignatureFault {
    /// The code callers see.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid | Self::Ssh(_) => ErrorCode::SignatureInvalid,
            Self::Unknown(_) => ErrorCode::PrincipalUnknown,
            Self::Right(_) => ErrorCode::PrincipalDenied,
        }
    }
}

impl ApproverSignature {
    /// Checks the signature over the permit and says whose key made it.
    ///
    /// # Errors
    /// [`SignatureFault::Invalid`], [`SignatureFault::Ssh`].
    pub fn signer(&self, permit: &Permit) -> Result<PublicKey, SignatureFault> {
        let message = permit.statement(self.decision);
        match &self.proof {
            Proof::Ed25519 { key, signature } => {
                statement::verify(key, &message, signature).map_err(|_| SignatureFault::Invalid)?;
                Ok(*key)
            }
            Proof::Ssh { armored } => verify_ssh(armored, &message),
        }
    }

    /// The key that it says it is by. Proves nothing: that is [`Self::signer`]'s. What
    /// was checked before it was kept is told apart by it at little cost.
    #[must_use]
    pub fn key(&self) -> Option<PublicKey> {
        match &self.proof {
            Proof::Ed25519 { key, .. } => Some(*key),
            Proof::Ssh { armored } => match SshSig::from_pem(armored).ok()?.public_key() {
                KeyData::Ed25519(key) => Some(PublicKey::from_bytes(key.0)),
                KeyData::SkEd25519(key) => Some(PublicKey::from_bytes(key.public_key().0)),
                _ => None,
            },
        }
    }

    /// The same in the one form it is kept in. The armoured form may have text before
    /// it, that nobody signed, and of any length up to its limit.
    ///
    /// # Errors
    /// [`SignatureFault::Ssh`].
    pub fn canonical(self) -> Result<Self, SignatureFault> {
        let Proof::Ssh { armored } = &self.proof else { return Ok(self) };
        let fault = |_| SignatureFault::Ssh("not the armoured form");
        let armored = SshSig::from_pem(armored).and_then(|signed| signed.to_pem(LineEnding::LF)).map_err(fault)?;
        Ok(Self { proof: Proof::Ssh { armored }, ..self })
    }

    /// Checks the signature and that its key is an approver's.
    ///
    /// # Errors
    /// [`SignatureFault`].
    pub fn approver<'a>(&self, permit: &Permit, principals: &'a [Principal]) -> Result<&'a Principal, SignatureFault> {
        let key = self.signer(permit)?;
        let found = principals.iter().find(|principal| principal.key == key);
        let found = found.ok_or_else(|| SignatureFault::Unknown(key.short()))?;
        if !found.may(Right::Approve) {
            return Err(SignatureFault::Right(found.name.clone()));
        }
        Ok(found)
    }
}

/// What the valid signatures of a permit amount to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Names of distinct approvers who said yes.
    pub approved: BTreeSet<String>,
    /// Names of those who said no.
    pub denied: BTreeSet<String>,
    /// The approver who broke the glass, when the policy names him.
    pub break_glass: Option<String>,
}

impl Tally {
    /// Whether the permit may be used, as far as people go. One denial is final.
    #[must_use]
    pub fn is_enough(&self, permit: &Permit) -> bool {
        self.denied.is_empty() && (self.break_glass.is_some() || self.approved.len() >= usize::from(permit.approvers))
    }
}

/// Counts the signatures that hold. One person with two keys counts once, as
/// does one key that signed twice; signatures that do not hold count nothing.
#[must_use]
pub fn tally(
    permit: &Permit,
    signatures: &[ApproverSignature],
    principals: &[Principal],
    break_glass: &[String],
) -> Tally {
    let mut tally = Tally::default();
    for signature in signatures.iter().take(SIGNATURES_MAX) {
        let Ok(principal) = signature.approver(permit, principals) else { continue };
        let name = principal.name.clone();
        match signature.decision {
            Decision::Approve => {
                tally.approved.insert(name);
            }
            Decision::Deny => {
                tally.denied.insert(name);
            }
            Decision::BreakGlass if break_glass.contains(&name) => tally.break_glass = Some(name),
            Decision::BreakGlass => {}
        }
    }
    tally
}

fn verify_ssh(armored: &str, message: &[u8]) -> Result<PublicKey, SignatureFault> {
    if armored.len() > SSH_TEXT_BYTES_MAX {
        return Err(SignatureFault::Ssh("too long"));
    }
    let signed = SshSig::from_pem(armored).map_err(|_| SignatureFault::Ssh("not the armoured form"))?;
    if signed.namespace() != SSH_NAMESPACE {
        return Err(SignatureFault::Ssh("another namespace"));
    }
    if signed.version() != SshSig::VERSION || !signed.reserved().is_empty() {
        return Err(SignatureFault::Ssh("another version"));
    }
    let data = SshSig::signed_data(SSH_NAMESPACE, signed.hash_alg(), message)
        .map_err(|_| SignatureFault::Ssh("another version"))?;
    let bytes = signed.signature_bytes();
    let (key, data, signature) = match (signed.public_key(), signed.algorithm()) {
        (KeyData::Ed25519(key), Algorithm::Ed25519) => (key.0, data, bytes),
        (KeyData::SkEd25519(key), Algorithm::SkEd25519) => {
            let (signature, trailer) = bytes.split_at_checked(64).ok_or(SignatureFault::Invalid)?;
            let [flags, ..] = trailer else { return Err(SignatureFault::Invalid) };
            if !key.application().starts_with(FIDO_APPLICATION) {
                return Err(SignatureFault::Ssh("a key of another application"));
            }
            if flags & FIDO_PRESENT == 0 {
                return Err(SignatureFault::Ssh("nobody touched the key"));
            }
            (key.public_key().0, fido_data(key.application(), trailer, &data), signature)
        }
        _ => return Err(SignatureFault::Ssh("another kind of key")),
    };
    let key = PublicKey::from_bytes(key);
    let signature = Signature::try_from(signature).map_err(|_| SignatureFault::Invalid)?;
    statement::verify(&key, &data, &signature).map_err(|_| SignatureFault::Invalid)?;
    Ok(key)
}

/// What a FIDO key signs (OpenSSH, PROTOCOL.u2f): hash of the application,
/// flags and counter, hash of the data.
fn fido_data(application: &str, flags_and_counter: &[u8], data: &[u8]) -> Vec<u8> {
    [&Sha256::digest(application)[..], flags_and_counter, &Sha256::digest(data)[..]].concat()
}

/// Reads an SSH public key line, `ssh-ed25519 AAAA… name` or
/// `sk-ssh-ed25519@openssh.com AAAA… name`, as the key of a principal.
#[must_use]
pub fn ssh_public_key(line: &str) -> Option<PublicKey> {
    let key = ssh_key::PublicKey::from_openssh(line.trim()).ok()?;
    match key.key_data() {
        KeyData::Ed25519(key) => Some(PublicKey::from_bytes(key.0)),
        KeyData::SkEd25519(key) => Some(PublicKey::from_bytes(key.public_key().0)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
