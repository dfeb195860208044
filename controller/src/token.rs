//! The admin token: made on the first start, shown to nobody but the file.

use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use osmoda_controller_store::Store;
use osmoda_kit::error::ApiError;
use osmoda_kit::fsio;
use osmoda_kit::secret::Secret;

use crate::rest::{TokenHash, stored};

/// The name of the token in the store.
const ADMIN: &str = "admin";

/// The file in the state folder.
const FILE: &str = "admin.token";

/// Where the token is.
#[must_use]
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE)
}

/// The hash of the admin token; makes the token when there is none.
///
/// # Errors
/// When the store or the file cannot be used.
pub(crate) async fn ensure(store: &dyn Store, state_dir: &Path) -> Result<[u8; 32], ApiError> {
    match store.token_hash(ADMIN).await.map_err(stored)? {
        Some(hash) => hash.as_slice().try_into().map_err(ApiError::internal),
        None => make(store, state_dir).await,
    }
}

/// Makes a new token; the old one is void with the next start.
///
/// # Errors
/// When the store or the file cannot be used.
pub async fn make(store: &dyn Store, state_dir: &Path) -> Result<[u8; 32], ApiError> {
    let token = Secret::new(BASE64URL_NOPAD.encode(Secret::random().expose()));
    let hash = TokenHash::of(token.expose());
    let path = path(state_dir);
    // The file first: a token whose hash is stored but that nobody knows would
    // lock everybody out; a file without its hash is replaced.
    let content = Secret::new(format!("{}\n", token.expose()));
    fsio::write_atomic(&path, content.expose().as_bytes(), 0o600)
        .map_err(|error| ApiError::new(error.code(), "cannot write the admin token").with_source(error))?;
    store.set_token_hash(ADMIN, hash.to_vec()).await.map_err(stored)?;
    tracing::info!(path = %path.display(), "wrote the admin access file");
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use osmoda_controller_store::SqliteStore;

    use super::*;

    #[tokio::test]
    async fn a_token_is_made_once_and_only_its_hash_is_stored() {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&dir.path().join("controller.db")).await.unwrap();
        let hash = ensure(&store, dir.path()).await.unwrap();
        let text = std::fs::read_to_string(path(dir.path())).unwrap();
        assert_eq!(TokenHash::of(text.trim()), hash);
        assert_eq!(text.trim().len(), 43);
        let mode = std::fs::metadata(path(dir.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(ensure(&store, dir.path()).await.unwrap(), hash);
        assert_ne!(make(&store, dir.path()).await.unwrap(), hash);
    }
}
