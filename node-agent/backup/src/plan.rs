//! What is copied, how, and within which limits. *Pure.*
//!
//! Rules are on the name of a file below a daemon's state folder. Secret keys
//! stay where they are: a backup lies longer and is carried further than the
//! host's own disk, and is not encrypted (`weaknesses.md` I8, E7).

use std::path::{Path, PathBuf};
use std::time::Duration;

/// One daemon's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The daemon's name; also the folder inside the backup.
    pub name: String,
    /// Its state folder.
    pub folder: PathBuf,
}

/// What one backup is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Whose state, in this order.
    pub sources: Vec<Source>,
    /// How much of it.
    pub limits: Limits,
}

/// How much a backup may hold and how long making it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one file. The largest is the ledger: 8 GiB are some 16 million rows.
    pub file_bytes_max: u64,
    /// Bytes of all files.
    pub total_bytes_max: u64,
    /// Files. State folders have tens of them; thousands are a mistake.
    pub files_max: usize,
    /// The time for all of it. 10 min read and write 16 GiB at 50 MB/s.
    pub time_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes_max: 8 << 30,
            total_bytes_max: 16 << 30,
            files_max: 10_000,
            time_max: Duration::from_secs(600),
        }
    }
}

/// Why a file is not in a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A secret key.
    Secret,
    /// Made again from other state.
    Derived,
    /// What a voter or a witness promised: put back, it would promise otherwise.
    Vote,
    /// Belongs to a running process: a socket, a lock, a half-written file.
    Transient,
    /// A symbolic link or a device.
    NotAFile,
    /// The caller may not read it.
    Denied,
    /// It went away while the backup was made.
    Gone,
}

/// Names that end like this are keys.
const SECRET_ENDINGS: [&str; 5] = [".key", ".salt", ".enc", ".pem", ".token"];

/// Names that begin like this are keys and secrets; `rejoins.json` holds with
/// what members come back to the mesh.
const SECRET_NAMES: [&str; 6] = ["credstore", "credentials", "secret", "id_ed25519", "rejoins", "invites"];

/// Folders of keys; `undo` holds old contents of any file of the host.
const SECRET_FOLDERS: [&str; 4] = ["keys", "secrets", "retired", "undo"];

/// Files whose content is made again from the ledger.
const DERIVED_NAMES: [&str; 1] = ["fts.db"];

/// Folders that hold no state, or backups of it.
const DERIVED_FOLDERS: [&str; 3] = ["cache", "backups", "blobs"];

/// What belongs to a running process. The two logs of a database are taken
/// into account when the database itself is copied.
const TRANSIENT_ENDINGS: [&str; 6] = [".tmp", ".sock", ".lock", "-wal", "-shm", "-journal"];

/// What is not even copied: an older one has forgotten votes or cosignatures,
/// and a host that lost it is a new voter and a new witness.
const VOTES: [&str; 5] = ["raft", "witness.db", "genesis", "incarnation", "sealed"];

/// Histories: what must never be replaced by an older state of itself. A ledger
/// that goes back denies what its witnesses saw, a journal or a list of begun
/// calls that goes back repeats an attempt, trust or an allow-list that goes back
/// lets in whom it had put out.
const HISTORIES: [&str; 13] = [
    "ledger.db",
    "checkpoints.db",
    "spent",
    "journal",
    "trail.json",
    "switches.json",
    "staged",
    "trust.json",
    "members.json",
    "node.json",
    "network.json",
    "succession.json",
    "successions.json",
];

/// Why a file of this path, below its source's folder, is left out.
#[must_use]
pub(crate) fn left_out(path: &Path) -> Option<Reason> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let in_folder = |folders: &[&str]| {
        path.parent().is_some_and(|parent| parent.iter().any(|part| folders.iter().any(|folder| part == *folder)))
    };
    if SECRET_ENDINGS.iter().any(|end| name.ends_with(end))
        || SECRET_NAMES.iter().any(|begin| name.trim_start_matches('.').starts_with(begin))
        || in_folder(&SECRET_FOLDERS)
    {
        Some(Reason::Secret)
    } else if begins_with(path, &VOTES) {
        Some(Reason::Vote)
    } else if TRANSIENT_ENDINGS.iter().any(|end| name.ends_with(end)) || name == "lock" {
        Some(Reason::Transient)
    } else if DERIVED_NAMES.contains(&name.as_str()) || in_folder(&DERIVED_FOLDERS) {
        Some(Reason::Derived)
    } else {
        None
    }
}

/// Whether a file of this path is a history, which a restoration only ever
/// writes where there is none.
#[must_use]
pub(crate) fn is_history(path: &Path) -> bool {
    begins_with(path, &HISTORIES)
}

/// Whether a part of the path is one of these names, with an ending or without.
fn begins_with(path: &Path, names: &[&str]) -> bool {
    path.iter().any(|part| {
        let part = part.to_string_lossy();
        names.iter().any(|name| {
            part.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-', '_']))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_transient_files_are_left_out() {
        for (path, reason) in [
            ("mesh.key", Some(Reason::Secret)),
            ("identity.key", Some(Reason::Secret)),
            ("keys/7.json", Some(Reason::Secret)),
            ("config/.credstore-key", Some(Reason::Secret)),
            ("master.salt", Some(Reason::Secret)),
            ("secrets.json", Some(Reason::Secret)),
            ("lock", Some(Reason::Transient)),
            (".trust.json.0011.tmp", Some(Reason::Transient)),
            ("ledger.db-wal", Some(Reason::Transient)),
            ("fts.db", Some(Reason::Derived)),
            ("backups/backup-20261122-101112/manifest.json", Some(Reason::Derived)),
            ("rejoins.json", Some(Reason::Secret)),
            ("undo/7", Some(Reason::Secret)),
            ("raft/raft.redb", Some(Reason::Vote)),
            ("witness.db", Some(Reason::Vote)),
            ("genesis.done", Some(Reason::Vote)),
            ("trust.json", None),
            ("ledger.db", None),
            ("a/b/c.json", None),
            ("keystone.json", None),
        ] {
            assert_eq!(left_out(Path::new(path)), reason, "{path}");
        }
    }

    #[test]
    fn histories_are_known_by_name() {
        for path in ["ledger.db", "staged/7.json", "trust.json", "journal", "journal.v1", "checkpoints.db"] {
            assert!(is_history(Path::new(path)), "{path}");
        }
        for path in ["trusted.json", "journals.json", "agent-card.json", "stages/x"] {
            assert!(!is_history(Path::new(path)), "{path}");
        }
    }
}
