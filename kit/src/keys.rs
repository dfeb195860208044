//! Key files: 32 bytes, mode 0600, made once.
//!
//! Invariant: a missing or damaged key file is an error and never a reason to
//! make a new one, because a new key is a new identity and the old one's
//! history would be orphaned. Only `generate` makes keys, and it refuses to
//! replace one.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use osmoda_types::ErrorCode;
use zeroize::Zeroizing;

use crate::error::ApiError;
use crate::fsio::{self, FsError};
use crate::secret::Secret;

/// The length of every key file in bytes: an Ed25519 seed or an X25519 scalar.
pub const KEY_BYTES: usize = 32;

/// Why a key is not there.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file does not exist.
    #[error("key file is missing: {}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file has not the length of a key.
    #[error("key file is damaged: {} has {bytes} bytes instead of {KEY_BYTES}", path.display())]
    Partial {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// Others than its owner can read the file.
    #[error("key file is open to others: {} has mode {mode:o} instead of 600", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A key exists already.
    #[error("key file exists already: {}", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The file could not be read or written.
    #[error("cannot use the key file")]
    File(#[from] FsError),
}

impl KeyError {
    /// The code callers see.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            KeyError::Missing { .. } => ErrorCode::IdentityMissing,
            KeyError::Partial { .. } | KeyError::Exposed { .. } => ErrorCode::IdentityPartial,
            KeyError::Exists { .. } => ErrorCode::Conflict,
            KeyError::File(error) => error.code(),
        }
    }
}

impl From<KeyError> for ApiError {
    fn from(error: KeyError) -> Self {
        ApiError::new(error.code(), error.to_string()).with_source(error)
    }
}

/// Makes 32 random bytes and stores them in a new file of mode 0600.
///
/// # Errors
/// [`KeyError::Exists`] when the name is taken; [`KeyError::File`].
pub fn generate(path: &Path) -> Result<Secret<[u8; KEY_BYTES]>, KeyError> {
    let key = Secret::random();
    store(path, key.expose())?;
    Ok(key)
}

/// Stores 32 bytes in a new file of mode 0600.
///
/// # Errors
/// [`KeyError::Exists`] when the name is taken; [`KeyError::File`].
pub fn store(path: &Path, key: &[u8; KEY_BYTES]) -> Result<(), KeyError> {
    fsio::write_new(path, key, 0o600).map_err(|error| match error.source.kind() {
        io::ErrorKind::AlreadyExists => KeyError::Exists { path: path.to_owned() },
        _ => error.into(),
    })
}

/// Reads a key file.
///
/// # Errors
/// [`KeyError::Missing`], [`KeyError::Partial`], [`KeyError::Exposed`],
/// [`KeyError::File`].
pub fn load(path: &Path) -> Result<Secret<[u8; KEY_BYTES]>, KeyError> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(KeyError::Missing { path: path.to_owned() });
        }
        Err(error) => return Err(FsError::new("read", path, error).into()),
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode });
    }
    let partial = |bytes| KeyError::Partial { path: path.to_owned(), bytes };
    if metadata.len() != KEY_BYTES as u64 {
        return Err(partial(metadata.len()));
    }
    let content = fsio::read_limited(path, KEY_BYTES as u64)?
        .map(Zeroizing::new)
        .ok_or_else(|| KeyError::Missing { path: path.to_owned() })?;
    let key = <[u8; KEY_BYTES]>::try_from(content.as_slice()).map_err(|_| partial(content.len() as u64))?;
    Ok(Secret::new(key))
}

/// Makes an Ed25519 signing key in a new file.
///
/// # Errors
/// As [`generate`].
pub fn generate_signing(path: &Path) -> Result<SigningKey, KeyError> {
    generate(path).map(|seed| SigningKey::from_bytes(seed.expose()))
}

/// Reads an Ed25519 signing key.
///
/// # Errors
/// As [`load`].
pub fn load_signing(path: &Path) -> Result<SigningKey, KeyError> {
    load(path).map(|seed| SigningKey::from_bytes(seed.expose()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        let made = generate_signing(&path).unwrap();
        assert_eq!(load_signing(&path).unwrap().verifying_key(), made.verifying_key());
        assert!(matches!(generate(&path), Err(KeyError::Exists { .. })));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn missing_partial_and_exposed_keys_are_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.key");
        assert_eq!(load(&path).unwrap_err().code(), ErrorCode::IdentityMissing);
        assert!(!path.exists());

        store(&path, &[7; 32]).unwrap();
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(31).unwrap();
        assert_eq!(load(&path).unwrap_err().code(), ErrorCode::IdentityPartial);

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(load(&path), Err(KeyError::Exposed { mode: 0o640, .. })));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 31);
    }
}
