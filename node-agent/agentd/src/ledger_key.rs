//! The key that signs the ledger's checkpoints: an Ed25519 seed in a file of
//! mode 0600, made at the first start and never again.
//!
//! Invariant: a ledger that has ever signed a checkpoint is never given a new
//! key by itself. A new key is a new ledger to every witness, so a lost file is
//! said loudly (`identity_missing`) and put right by a person.
//!
//! This file does not make the key known to others: what a registration needs is
//! [`LedgerKey::public`].

use std::fmt;
use std::path::Path;

use ed25519_dalek::SigningKey;
use osmoda_kit::keys::{self, KeyError};
use osmoda_ledger::note::{KeyKind, NoteError, Signer, VerifierKey};

/// Name of the key's file in the daemon's state folder.
pub const KEY_FILE: &str = "ledger.key";

/// What every ledger's origin begins with. The rest is the public key itself,
/// so nobody can give a checkpoint another ledger's name.
const ORIGIN_PREFIX: &str = "osmoda.ledger/";

/// What the names of witnesses begin with: a line of a witness is never taken for
/// one of a ledger, whose signed bytes differ as well.
const WITNESS_PREFIX: &str = "osmoda.witness/";

/// Whether the ledger has signed a checkpoint before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// It has none: a missing key is made.
    None,
    /// It has: a missing key is an error.
    Signed,
}

/// The ledger's signing key.
#[derive(Clone)]
pub struct LedgerKey {
    signing: SigningKey,
}

impl LedgerKey {
    /// Reads the key, or makes it at the first start. Blocks.
    ///
    /// # Errors
    /// [`KeyError::Missing`] when it is gone but the ledger was signed with it;
    /// [`KeyError::Partial`], [`KeyError::Exposed`], [`KeyError::File`].
    pub fn load_or_generate(path: &Path, history: History) -> Result<Self, KeyError> {
        let signing = match (keys::load_signing(path), history) {
            (Err(KeyError::Missing { .. }), History::None) => keys::generate_signing(path)?,
            (loaded, _) => loaded?,
        };
        Ok(Self { signing })
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.signing.verifying_key().to_bytes()
    }

    /// The ledger's origin: what its checkpoints begin with.
    #[must_use]
    pub fn origin(&self) -> String {
        origin(&self.public())
    }

    /// The key that checks this ledger's checkpoints.
    ///
    /// # Errors
    /// [`NoteError::Key`] for the one seed in 2²⁵² that gives an unusable key.
    pub fn verifier(&self) -> Result<VerifierKey, NoteError> {
        verifier(&self.public())
    }
}

/// The origin of the ledger with that public key.
#[must_use]
pub fn origin(public: &[u8; 32]) -> String {
    public.iter().fold(ORIGIN_PREFIX.to_owned(), |origin, byte| format!("{origin}{byte:02x}"))
}

/// The name under which the ledger with that public key cosigns others.
#[must_use]
pub fn witness_name(public: &[u8; 32]) -> String {
    public.iter().fold(WITNESS_PREFIX.to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

/// The key that checks checkpoints of the ledger with that public key.
///
/// # Errors
/// [`NoteError::Key`] when it is no usable key.
pub fn verifier(public: &[u8; 32]) -> Result<VerifierKey, NoteError> {
    VerifierKey::new(&origin(public), KeyKind::Log, public)
}

impl Signer for LedgerKey {
    fn public(&self) -> [u8; 32] {
        self.signing.public()
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing.sign(message)
    }
}

impl fmt::Debug for LedgerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LedgerKey").field(&self.origin()).finish()
    }
}

#[cfg(test)]
mod tests {
    use osmoda_kit::testing::TempRoot;
    use osmoda_types::ErrorCode;

    use super::*;

    #[test]
    fn a_key_is_made_at_the_first_start_and_kept() {
        let root = TempRoot::new();
        let path = root.path().join(KEY_FILE);
        let made = LedgerKey::load_or_generate(&path, History::None).unwrap();
        for history in [History::None, History::Signed] {
            assert_eq!(LedgerKey::load_or_generate(&path, history).unwrap().public(), made.public());
        }
        assert_eq!(made.verifier().unwrap().name(), made.origin());
        assert!(!format!("{made:?}").contains(&format!("{:?}", std::fs::read(&path).unwrap())));
    }

    #[test]
    fn a_key_that_is_gone_or_torn_is_never_replaced_once_it_has_signed() {
        let root = TempRoot::new();
        let path = root.path().join(KEY_FILE);
        let refused = LedgerKey::load_or_generate(&path, History::Signed).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::IdentityMissing);
        assert!(!path.exists());

        keys::store(&path, &[7; 32]).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(5).unwrap();
        for history in [History::None, History::Signed] {
            assert_eq!(LedgerKey::load_or_generate(&path, history).unwrap_err().code(), ErrorCode::IdentityPartial);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 5);
    }
}
