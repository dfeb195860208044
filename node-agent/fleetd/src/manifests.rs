//! The manifests a node holds, by the hash of their exact bytes.
//!
//! A voter may vote yes only on a manifest it holds durably, so `put` returns
//! after the bytes are on disk. Reading hashes again: a damaged file is absent.
//! This file does no parsing.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use osmoda_kit::fsio::{self, FsError};
use osmoda_types::manifest::MANIFEST_BYTES_MAX;
use osmoda_types::{ErrorCode, ManifestHash};

/// How many manifests are kept. Only manifests of unfinished rollouts and of
/// the generation in force are needed; 64 leaves room for looking back and
/// bounds the folder to 64 MiB.
pub const MANIFESTS_KEPT_MAX: usize = 64;

/// Why a manifest could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is over [`MANIFEST_BYTES_MAX`].
    #[error("the manifest has {bytes} bytes; the limit is {MANIFEST_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The bytes do not have the hash they were announced with.
    #[error("the manifest hashes to {actual}, not to {expected}")]
    WrongHash {
        /// The announced hash.
        expected: ManifestHash,
        /// The hash of the bytes.
        actual: ManifestHash,
    },
    /// The folder could not be used.
    #[error("the manifest store failed")]
    Store(#[from] FsError),
}

impl Error {
    /// The code an edge answers with.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Error::TooLarge { .. } => ErrorCode::ManifestTooLarge,
            Error::WrongHash { .. } => ErrorCode::ManifestMalformed,
            Error::Store(source) => source.code(),
        }
    }
}

/// A folder of manifests. Cheap to clone; all calls block on the disk.
#[derive(Debug, Clone)]
pub struct Manifests {
    dir: PathBuf,
}

impl Manifests {
    /// Opens the store, making its folder.
    ///
    /// # Errors
    /// [`Error::Store`] when the folder cannot be made.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let dir = dir.into();
        fsio::create_private_dir(&dir)?;
        Ok(Self { dir })
    }

    /// Stores the bytes durably under their hash. Storing twice is harmless.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::WrongHash`] when `expected` is given and
    /// differs; [`Error::Store`].
    pub fn put(&self, bytes: &[u8], expected: Option<ManifestHash>) -> Result<ManifestHash, Error> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(Error::TooLarge { bytes: bytes.len() });
        }
        let actual = ManifestHash::of(bytes);
        if let Some(expected) = expected
            && expected != actual
        {
            return Err(Error::WrongHash { expected, actual });
        }
        if self.get(actual)?.is_none() {
            fsio::write_atomic(&self.path(actual), bytes, 0o600)?;
            self.forget_oldest(actual)?;
        }
        Ok(actual)
    }

    /// The bytes with that hash, or `None` when they are absent or damaged.
    ///
    /// # Errors
    /// [`Error::Store`] when the file is there but cannot be read.
    pub fn get(&self, hash: ManifestHash) -> Result<Option<Vec<u8>>, Error> {
        let bytes = fsio::read_limited(&self.path(hash), MANIFEST_BYTES_MAX as u64)?;
        Ok(bytes.filter(|bytes| ManifestHash::of(bytes) == hash))
    }

    fn path(&self, hash: ManifestHash) -> PathBuf {
        self.dir.join(hash.to_string())
    }

    fn forget_oldest(&self, newest: ManifestHash) -> Result<(), Error> {
        let read = |source| FsError::new("list", &self.dir, source);
        let mut stored: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(read)? {
            let entry = entry.map_err(read)?;
            if entry.file_name().to_str().is_some_and(|name| name.parse::<ManifestHash>().is_ok()) {
                stored.push((entry.metadata().and_then(|meta| meta.modified()).map_err(read)?, entry.path()));
            }
        }
        stored.sort();
        let surplus = stored.len().saturating_sub(MANIFESTS_KEPT_MAX);
        let keep: &Path = &self.path(newest);
        for (_, path) in stored.iter().filter(|(_, path)| path != keep).take(surplus) {
            fsio::remove_durable(path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> (tempfile::TempDir, Manifests) {
        let dir = tempfile::tempdir().unwrap();
        let store = Manifests::open(dir.path().join("manifests")).unwrap();
        (dir, store)
    }

    #[test]
    fn what_is_put_comes_back_until_a_byte_changes() {
        let (_dir, store) = open();
        let hash = store.put(b"{}", None).unwrap();
        assert_eq!(store.put(b"{}", Some(hash)).unwrap(), hash);
        assert_eq!(store.get(hash).unwrap().unwrap(), b"{}");
        std::fs::write(store.path(hash), b"{ }").unwrap();
        assert_eq!(store.get(hash).unwrap(), None);
    }

    #[test]
    fn oversized_and_mislabelled_manifests_are_refused() {
        let (_dir, store) = open();
        let big = store.put(&vec![b' '; MANIFEST_BYTES_MAX + 1], None).unwrap_err();
        assert_eq!(big.code(), ErrorCode::ManifestTooLarge);
        let wrong = store.put(b"a", Some(ManifestHash::of(b"b"))).unwrap_err();
        assert_eq!(wrong.code(), ErrorCode::ManifestMalformed);
        assert_eq!(store.get(ManifestHash::of(b"a")).unwrap(), None);
    }

    #[test]
    fn only_the_newest_are_kept() {
        let (_dir, store) = open();
        for number in 0..MANIFESTS_KEPT_MAX + 5 {
            store.put(number.to_string().as_bytes(), None).unwrap();
        }
        assert_eq!(std::fs::read_dir(&store.dir).unwrap().count(), MANIFESTS_KEPT_MAX);
        let last = (MANIFESTS_KEPT_MAX + 4).to_string();
        assert!(store.get(ManifestHash::of(last.as_bytes())).unwrap().is_some());
    }
}
