//! Whom this host believes: its own copy of network and operators.
//!
//! Invariant: nothing is activated for the fleet that an operator in this file
//! with the right `deploy` did not sign. The file is watch's own; what other
//! daemons believe does not matter here.

use osmoda_kit::error::ApiError;
use osmoda_kit::fsio;
use osmoda_node_api::watch::{StageRequest, TRUST_FILE, TrustFile, TrustRequest};
use osmoda_types::command::Order;
use osmoda_types::principal::PRINCIPALS_MAX;
use osmoda_types::{ErrorCode, ManifestHash, Principal, PublicKey, Right, statement};
use std::path::{Path, PathBuf};

/// The largest trust file: the most principals, with long names.
const TRUST_BYTES_MAX: u64 = 256 * 1024;

/// The file, read again for every decision: `init` and `join` write it while
/// the daemon may be running.
#[derive(Debug, Clone)]
pub(crate) struct Trust {
    path: PathBuf,
}

impl Trust {
    /// The file in the daemon's state folder.
    #[must_use]
    pub(crate) fn in_folder(state_dir: &Path) -> Self {
        Self { path: state_dir.join(TRUST_FILE) }
    }

    /// Checks that an operator with the right to deploy signed the rollout.
    ///
    /// # Errors
    /// [`ErrorCode::PrincipalUnknown`], [`ErrorCode::PrincipalDenied`],
    /// [`ErrorCode::SignatureMissing`] or [`ErrorCode::SignatureInvalid`].
    pub(crate) fn check_rollout(&self, request: &StageRequest, manifest: &ManifestHash) -> Result<(), ApiError> {
        let trust = self.load()?;
        principal(&trust, &request.operator_key, Right::Deploy)?;
        let message = statement::rollout(manifest, &request.rollout, request.parent_epoch, &trust.network_id);
        check_signature(&request.operator_key, &message, &request.signature)
    }

    /// Adds a principal, or replaces its rights; returns how many there are.
    ///
    /// # Errors
    /// As [`Trust::check_rollout`]; [`ErrorCode::Conflict`] for an order that
    /// was used before; [`ErrorCode::TooLarge`].
    pub(crate) fn add(&self, request: TrustRequest) -> Result<usize, ApiError> {
        let mut trust = self.load()?;
        principal(&trust, &request.operator_key, Right::Admin)?;
        let order = Order::AddPrincipal(request.principal.clone());
        let message = statement::control(&order, request.serial, &trust.network_id);
        check_signature(&request.operator_key, &message, &request.signature)?;
        let seen = trust.serials.entry(request.operator_key.to_string()).or_insert(0);
        let known = trust.operators.contains(&request.principal);
        if request.serial <= *seen {
            // The log is followed from an index, so an order may come twice.
            return if known {
                Ok(trust.operators.len())
            } else {
                Err(ApiError::new(ErrorCode::Conflict, "the order's serial was used before"))
            };
        }
        *seen = request.serial;
        trust.operators.retain(|operator| operator.key != request.principal.key);
        if trust.operators.len() >= PRINCIPALS_MAX {
            return Err(ApiError::new(ErrorCode::TooLarge, format!("at most {PRINCIPALS_MAX} principals")));
        }
        trust.operators.push(request.principal);
        let text = serde_json::to_vec_pretty(&trust).map_err(ApiError::internal)?;
        fsio::write_atomic(&self.path, &text, 0o600)
            .map_err(|error| ApiError::new(error.code(), "the trust file cannot be written").with_source(error))?;
        Ok(trust.operators.len())
    }

    fn load(&self) -> Result<TrustFile, ApiError> {
        let bytes = fsio::read_limited(&self.path, TRUST_BYTES_MAX)
            .map_err(|error| ApiError::new(error.code(), "the trust file cannot be read").with_source(error))?
            .ok_or_else(|| ApiError::new(ErrorCode::PrincipalUnknown, "this host trusts no operator yet"))?;
        // A damaged trust file is nobody's permission.
        serde_json::from_slice(&bytes).map_err(|error| {
            ApiError::new(ErrorCode::PrincipalUnknown, "the trust file of this host is damaged").with_source(error)
        })
    }
}

fn principal<'a>(trust: &'a TrustFile, key: &PublicKey, right: Right) -> Result<&'a Principal, ApiError> {
    let found = trust.operators.iter().find(|operator| operator.key == *key);
    let found = found.ok_or_else(|| {
        ApiError::new(ErrorCode::PrincipalUnknown, format!("{} is no operator of this host", key.short()))
    })?;
    if !found.may(right) {
        let text = format!("{} may not do this: the right {right:?} is missing", found.name);
        return Err(ApiError::new(ErrorCode::PrincipalDenied, text));
    }
    Ok(found)
}

fn check_signature(key: &PublicKey, message: &[u8], signature: &osmoda_types::Signature) -> Result<(), ApiError> {
    statement::verify(key, message, signature)
        .map_err(|code| ApiError::new(code, "the operator's signature does not fit the statement"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;
    use osmoda_types::{FleetEpoch, NetworkId, NodeId, RolloutId, Signature};

    const NETWORK: NetworkId = NetworkId::from_bytes([9; 32]);

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn operator(seed: u8, rights: &[Right]) -> Principal {
        Principal { name: format!("op{seed}"), key: statement::public_key(&key(seed)), rights: rights.to_vec() }
    }

    fn folder() -> (tempfile::TempDir, Trust) {
        let folder = tempfile::tempdir().unwrap();
        let operators = vec![operator(1, &Right::ALL), operator(2, &[Right::Control])];
        let file = TrustFile { network_id: NETWORK, operators, serials: Default::default() };
        std::fs::write(folder.path().join(TRUST_FILE), serde_json::to_vec(&file).unwrap()).unwrap();
        let trust = Trust::in_folder(folder.path());
        (folder, trust)
    }

    fn staged(seed: u8, epoch: u64, signed_epoch: u64) -> (StageRequest, ManifestHash) {
        let (rollout, manifest) = (RolloutId::from_bytes([7; 16]), ManifestHash::of(b"{}"));
        let message = statement::rollout(&manifest, &rollout, FleetEpoch(signed_epoch), &NETWORK);
        let request = StageRequest {
            manifest_b64: String::new(),
            rollout,
            parent_epoch: FleetEpoch(epoch),
            operator_key: statement::public_key(&key(seed)),
            signature: statement::sign(&key(seed), &message),
            node: NodeId::from_bytes([1; 32]),
        };
        (request, manifest)
    }

    fn added(by: u8, serial: u64, principal: Principal) -> TrustRequest {
        let message = statement::control(&Order::AddPrincipal(principal.clone()), serial, &NETWORK);
        let operator_key = statement::public_key(&key(by));
        TrustRequest { principal, serial, operator_key, signature: statement::sign(&key(by), &message) }
    }

    #[test]
    fn only_an_operator_with_the_right_deploys_and_only_what_was_signed() {
        let (folder, trust) = folder();
        let check = |(request, manifest): (StageRequest, ManifestHash), expected: Option<ErrorCode>| {
            let code = trust.check_rollout(&request, &manifest).err().map(|error| error.code);
            assert_eq!(code, expected);
        };
        check(staged(1, 4, 4), None);
        check(staged(1, 4, 5), Some(ErrorCode::SignatureInvalid));
        check(staged(2, 4, 4), Some(ErrorCode::PrincipalDenied));
        check(staged(3, 4, 4), Some(ErrorCode::PrincipalUnknown));
        let (mut unsigned, manifest) = staged(1, 4, 4);
        unsigned.signature = Signature::from_bytes([0; 64]);
        check((unsigned, manifest), Some(ErrorCode::SignatureMissing));
        std::fs::write(folder.path().join(TRUST_FILE), "{").unwrap();
        check(staged(1, 4, 4), Some(ErrorCode::PrincipalUnknown));
        std::fs::remove_file(folder.path().join(TRUST_FILE)).unwrap();
        check(staged(1, 4, 4), Some(ErrorCode::PrincipalUnknown));
    }

    #[test]
    fn principals_are_added_by_a_fresh_signed_order_only() {
        let (_folder, trust) = folder();
        let third = operator(3, &[Right::Deploy]);
        let code = |request| trust.add(request).map_err(|error| error.code);
        assert_eq!(code(added(2, 1, third.clone())), Err(ErrorCode::PrincipalDenied));
        assert_eq!(code(added(1, 1, third.clone())), Ok(3));
        assert!(trust.check_rollout(&staged(3, 1, 1).0, &staged(3, 1, 1).1).is_ok());
        assert_eq!(code(added(1, 1, third.clone())), Ok(3), "the same order again changes nothing");
        assert_eq!(code(added(1, 2, operator(3, &[]))), Ok(3));
        assert_eq!(code(added(1, 1, third)), Err(ErrorCode::Conflict), "an older order does not return rights");
        let mut forged = added(1, 9, operator(4, &Right::ALL));
        forged.serial = 10;
        assert_eq!(code(forged), Err(ErrorCode::SignatureInvalid));
    }
}
