//! What a backup holds, file by file. *Pure.*
//!
//! Invariant: every path in a [`Manifest`] that was read is relative and has
//! plain names only, so joined to a folder it stays below it.

use std::path::{Component, Path};

use osmoda_kit::clock::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::BackupError;
use crate::plan::Reason;

/// The form of manifests this program writes and reads.
const VERSION: u32 = 1;

/// How a file was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Byte by byte.
    File,
    /// As one transaction of SQLite saw it.
    Sqlite,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Whose state: the name of its source.
    pub source: String,
    /// Its path below the source's folder.
    pub path: String,
    /// How it was copied.
    pub form: Form,
    /// Its size, in bytes.
    pub bytes: u64,
    /// Its mode, as of `chmod`.
    pub mode: u32,
    /// SHA-256 of its content, as hex.
    pub sha256: String,
}

/// A file that is not in the backup, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// Whose state.
    pub source: String,
    /// Its path below the source's folder; empty for the folder itself.
    pub path: String,
    /// Why.
    pub reason: Reason,
}

/// The list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The form of this list.
    pub version: u32,
    /// The backup's id.
    pub id: String,
    /// When it was begun.
    pub created_at: Timestamp,
    /// The program that made it.
    pub made_by: String,
    /// What is in it, in order of source and path.
    pub files: Vec<Entry>,
    /// What is not.
    pub left_out: Vec<LeftOut>,
}

impl Manifest {
    pub(crate) fn new(id: &str, created_at: Timestamp) -> Self {
        Self {
            version: VERSION,
            id: id.to_owned(),
            created_at,
            made_by: osmoda_kit::version::VERSION.version.to_owned(),
            files: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a manifest is plain data")
    }

    /// Reads one back and refuses whatever would leave its folder.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, BackupError> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| BackupError::Manifest(error.to_string()))?;
        if manifest.version != VERSION {
            return Err(BackupError::Manifest(format!("version {} is not known", manifest.version)));
        }
        for file in &manifest.files {
            if !is_plain(&file.source, 1) || !is_plain(&file.path, usize::MAX) {
                return Err(BackupError::Manifest(format!("the path {:?} is not plain", file.path)));
            }
        }
        Ok(manifest)
    }
}

/// Whether a text is a relative path of plain names, at most `parts_max`.
fn is_plain(text: &str, parts_max: usize) -> bool {
    let path = Path::new(text);
    let parts: Vec<_> = path.components().collect();
    !text.is_empty()
        && !text.contains('\0')
        && parts.len() <= parts_max
        && parts.iter().all(|part| matches!(part, Component::Normal(_)))
        // `a//b` and `a/./b` have the same parts as `a/b`; one file has one name.
        && parts.iter().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/") == text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_relative_paths_are_read() {
        for good in ["a", "a/b", "a.b/c-d", "..a"] {
            assert!(is_plain(good, 9), "{good}");
        }
        for bad in ["", "/a", "../a", "a/../b", "a/..", "a//b", "./a", "a/./b", "a/", "a\0b"] {
            assert!(!is_plain(bad, 9), "{bad:?}");
        }
        assert!(!is_plain("a/b", 1));
    }
}
