//! How a node's part in a fleet began, as files in fleetd's folder.
//!
//! `genesis` is written by `osmoda-node init` and renamed to `genesis.done`
//! when the fleet's first entry is committed; `joined` is written by
//! `osmoda-node join`. `incarnation` holds the Raft id of this data folder. It
//! is made once, as `incarnation.new` before the log and under its own name
//! when the log is there and before anything is promised to another voter; so a
//! crash in between is no amnesia.
//!
//! Invariant: an `incarnation` without a log is amnesia. The node had a vote
//! and forgot what it promised, so it refuses to vote (`raft_amnesia`) until it
//! joins again under a new id.

use std::path::{Path, PathBuf};

use osmoda_kit::fsio::{self, FsError};
use osmoda_types::{ErrorCode, Member, MeshEpoch, NetworkId, NodeId, Principal, RaftId, SecretHash};

/// Bound on each of these files: a genesis with 256 principals has about 60 KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The one version of these files.
const VERSION: u32 = 1;

/// What `init` wrote: the content of the fleet's first entry.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// Version of the file, now 1.
    pub version: u32,
    /// The fleet.
    pub network: NetworkId,
    /// The first mesh epoch.
    pub mesh_epoch: MeshEpoch,
    /// Hash of its network secret.
    pub secret_hash: SecretHash,
    /// The first operators.
    pub principals: Vec<Principal>,
    /// This node.
    pub member: Member,
}

/// What `join` wrote.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Joined {
    /// Version of the file, now 1.
    pub version: u32,
    /// The fleet.
    pub network: NetworkId,
    /// This node, as it was admitted.
    pub member: Member,
    /// The voters of that time, to ask for the log.
    pub voters: Vec<NodeId>,
}

/// How this node's part began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beginning {
    /// It is the first node of a fleet whose first entry may not be committed.
    Genesis(Genesis),
    /// It was the first node of a fleet.
    Begun(Genesis),
    /// It joined a fleet.
    Joined(Joined),
}

impl Beginning {
    /// The fleet.
    #[must_use]
    pub const fn network(&self) -> NetworkId {
        match self {
            Self::Genesis(genesis) | Self::Begun(genesis) => genesis.network,
            Self::Joined(joined) => joined.network,
        }
    }

    /// This node as it began.
    #[must_use]
    pub const fn member(&self) -> &Member {
        match self {
            Self::Genesis(genesis) | Self::Begun(genesis) => &genesis.member,
            Self::Joined(joined) => &joined.member,
        }
    }
}

/// Why the beginning cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// None of the files is there.
    #[error("{} holds no beginning: run `osmoda-node init` or `osmoda-node join` first", dir.display())]
    NotEnrolled {
        /// fleetd's folder.
        dir: PathBuf,
    },
    /// A file is there and says something else than it should.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A beginning is there already.
    #[error("{} has begun already; a node belongs to one fleet", dir.display())]
    Begun {
        /// fleetd's folder.
        dir: PathBuf,
    },
    /// The Raft id is there and the log is gone.
    #[error("the raft log of {raft_id} is gone from {}; this node must join again as a new voter", dir.display())]
    Amnesia {
        /// fleetd's folder.
        dir: PathBuf,
        /// The id that must not vote again.
        raft_id: RaftId,
    },
    /// The disk.
    #[error("the fleet folder cannot be used")]
    Fs(#[from] FsError),
}

impl Error {
    /// The code an edge answers with.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotEnrolled { .. } => ErrorCode::ConfigInvalid,
            Self::Damaged { .. } => ErrorCode::StateDirUnusable,
            Self::Begun { .. } => ErrorCode::Conflict,
            Self::Amnesia { .. } => ErrorCode::RaftAmnesia,
            Self::Fs(source) => source.code(),
        }
    }
}

/// fleetd's folder.
#[derive(Debug, Clone)]
pub struct FleetDir {
    dir: PathBuf,
}

impl FleetDir {
    /// The folder `dir`; nothing is touched yet.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Where the Raft log and snapshots are.
    #[must_use]
    pub fn raft(&self) -> PathBuf {
        self.dir.join("raft")
    }

    /// Where the manifests are.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.dir.join("manifests")
    }

    /// The key that signs ballots.
    #[must_use]
    pub fn ballot_key(&self) -> PathBuf {
        self.dir.join("ballot.key")
    }

    /// Writes a genesis durably.
    ///
    /// # Errors
    /// [`Error::Begun`] when there is a beginning; [`Error::Fs`].
    pub fn write_genesis(&self, genesis: &Genesis) -> Result<(), Error> {
        self.refuse_second_beginning()?;
        self.write("genesis", genesis)
    }

    /// Writes what a join brought, durably.
    ///
    /// # Errors
    /// [`Error::Begun`] when there is a beginning; [`Error::Fs`].
    pub fn write_joined(&self, joined: &Joined) -> Result<(), Error> {
        self.refuse_second_beginning()?;
        self.write("joined", joined)
    }

    /// Reads the beginning.
    ///
    /// # Errors
    /// [`Error::NotEnrolled`], [`Error::Damaged`], [`Error::Fs`].
    pub fn beginning(&self) -> Result<Beginning, Error> {
        if let Some(genesis) = self.read("genesis.done")? {
            return Ok(Beginning::Begun(genesis));
        }
        if let Some(genesis) = self.read("genesis")? {
            return Ok(Beginning::Genesis(genesis));
        }
        match self.read("joined")? {
            Some(joined) => Ok(Beginning::Joined(joined)),
            None => Err(Error::NotEnrolled { dir: self.dir.clone() }),
        }
    }

    /// The error that says a second beginning is refused.
    #[must_use]
    pub fn already_begun(&self) -> Error {
        Error::Begun { dir: self.dir.clone() }
    }

    /// Marks the genesis as committed. Doing it twice is harmless.
    ///
    /// # Errors
    /// [`Error::Fs`].
    pub fn genesis_committed(&self) -> Result<(), Error> {
        self.rename("genesis", "genesis.done")
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let (from, to) = (self.dir.join(from), self.dir.join(to));
        if !from.exists() {
            return Ok(());
        }
        std::fs::rename(&from, &to).map_err(|source| FsError::new("rename", &from, source))?;
        Ok(fsio::sync_dir(&self.dir)?)
    }

    /// The Raft id of this folder, made from `fresh` on the first call.
    ///
    /// `log_exists` says whether the Raft log was ever written here.
    ///
    /// # Errors
    /// [`Error::Amnesia`] when there is an id, or a committed genesis, and no
    /// log; [`Error::Damaged`], [`Error::Fs`].
    pub fn incarnation(&self, fresh: RaftId, log_exists: bool) -> Result<RaftId, Error> {
        if let Some(id) = self.read_raft_id("incarnation")? {
            return if log_exists { Ok(id) } else { Err(Error::Amnesia { dir: self.dir.clone(), raft_id: id }) };
        }
        if self.dir.join("genesis.done").exists() {
            return Err(Error::Amnesia { dir: self.dir.clone(), raft_id: fresh });
        }
        if let Some(id) = self.read_raft_id("incarnation.new")? {
            return Ok(id);
        }
        fsio::write_atomic(&self.dir.join("incarnation.new"), format!("{fresh}\n").as_bytes(), 0o600)?;
        Ok(fresh)
    }

    /// Whether the Raft id is final, so that there must be a log.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.dir.join("incarnation").exists()
    }

    /// Makes the Raft id final. Called when the log is there and before this
    /// node answers any other voter. Doing it twice is harmless.
    ///
    /// # Errors
    /// [`Error::Fs`].
    pub fn confirm_incarnation(&self) -> Result<(), Error> {
        self.rename("incarnation.new", "incarnation")
    }

    fn read_raft_id(&self, name: &str) -> Result<Option<RaftId>, Error> {
        let path = self.dir.join(name);
        let Some(bytes) = fsio::read_limited(&path, FILE_BYTES_MAX)? else { return Ok(None) };
        match parse_raft_id(&bytes) {
            Some(id) => Ok(Some(id)),
            None => Err(Error::Damaged { path, source: "not 16 hex digits".into() }),
        }
    }

    fn refuse_second_beginning(&self) -> Result<(), Error> {
        fsio::create_private_dir(&self.dir)?;
        match self.beginning() {
            Err(Error::NotEnrolled { .. }) => Ok(()),
            Ok(_) => Err(self.already_begun()),
            Err(error) => Err(error),
        }
    }

    fn write(&self, name: &str, value: &impl serde::Serialize) -> Result<(), Error> {
        let path = self.dir.join(name);
        let mut text = serde_json::to_vec_pretty(value)
            .map_err(|source| Error::Damaged { path: path.clone(), source: Box::new(source) })?;
        text.push(b'\n');
        Ok(fsio::write_atomic(&path, &text, 0o600)?)
    }

    fn read<T: serde::de::DeserializeOwned + Versioned>(&self, name: &str) -> Result<Option<T>, Error> {
        let path = self.dir.join(name);
        let Some(bytes) = fsio::read_limited(&path, FILE_BYTES_MAX)? else { return Ok(None) };
        let value: T = serde_json::from_slice(&bytes)
            .map_err(|source| Error::Damaged { path: path.clone(), source: Box::new(source) })?;
        if value.version() == VERSION {
            return Ok(Some(value));
        }
        Err(Error::Damaged { path, source: format!("version {} is not known", value.version()).into() })
    }
}

fn parse_raft_id(bytes: &[u8]) -> Option<RaftId> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end();
    if text.len() != 16 {
        return None;
    }
    u64::from_str_radix(text, 16).ok().map(RaftId)
}

trait Versioned {
    fn version(&self) -> u32;
}

impl Versioned for Genesis {
    fn version(&self) -> u32 {
        self.version
    }
}

impl Versioned for Joined {
    fn version(&self) -> u32 {
        self.version
    }
}

/// Whether a Raft log was ever written below `raft`.
#[must_use]
pub fn log_exists(raft: &Path) -> bool {
    std::fs::read_dir(raft).is_ok_and(|mut entries| entries.next().is_some())
}

#[cfg(test)]
mod tests {
    use osmoda_types::{MeshKey, PublicKey, Role};

    use super::*;

    fn member() -> Member {
        Member {
            node: NodeId::from_bytes([1; 32]),
            name: "n1".into(),
            role: Role::Voter,
            mesh_key: MeshKey::from_bytes([2; 32]),
            identity_key: PublicKey::from_bytes([3; 32]),
            addresses: vec!["127.0.0.1:1".into()],
        }
    }

    fn genesis() -> Genesis {
        Genesis {
            version: VERSION,
            network: NetworkId::from_bytes([4; 32]),
            mesh_epoch: MeshEpoch(1),
            secret_hash: SecretHash::from_bytes([5; 32]),
            principals: Vec::new(),
            member: member(),
        }
    }

    fn folder() -> (tempfile::TempDir, FleetDir) {
        let dir = tempfile::tempdir().unwrap();
        let fleet = FleetDir::new(dir.path().join("fleetd"));
        (dir, fleet)
    }

    #[test]
    fn a_node_begins_once() {
        let (_dir, fleet) = folder();
        assert!(matches!(fleet.beginning(), Err(Error::NotEnrolled { .. })));
        fleet.write_genesis(&genesis()).unwrap();
        assert_eq!(fleet.beginning().unwrap(), Beginning::Genesis(genesis()));
        let joined = Joined { version: VERSION, network: genesis().network, member: member(), voters: Vec::new() };
        assert!(matches!(fleet.write_joined(&joined), Err(Error::Begun { .. })));
        fleet.genesis_committed().unwrap();
        fleet.genesis_committed().unwrap();
        assert_eq!(fleet.beginning().unwrap(), Beginning::Begun(genesis()));
    }

    #[test]
    fn a_lost_log_is_amnesia_and_not_a_fresh_start() {
        let (_dir, fleet) = folder();
        fleet.write_genesis(&genesis()).unwrap();
        let id = fleet.incarnation(RaftId(7), false).unwrap();
        assert_eq!(fleet.incarnation(RaftId(8), false).unwrap(), id, "nothing was promised yet");
        fleet.confirm_incarnation().unwrap();
        fleet.confirm_incarnation().unwrap();
        assert_eq!(fleet.incarnation(RaftId(8), true).unwrap(), id);
        let error = fleet.incarnation(RaftId(9), false).unwrap_err();
        assert_eq!(error.code(), ErrorCode::RaftAmnesia);
    }

    #[test]
    fn a_committed_genesis_without_an_incarnation_is_amnesia_too() {
        let (_dir, fleet) = folder();
        fleet.write_genesis(&genesis()).unwrap();
        fleet.genesis_committed().unwrap();
        assert_eq!(fleet.incarnation(RaftId(1), false).unwrap_err().code(), ErrorCode::RaftAmnesia);
    }

    #[test]
    fn damaged_files_are_named() {
        let (dir, fleet) = folder();
        fleet.write_genesis(&genesis()).unwrap();
        let path = dir.path().join("fleetd/genesis");
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(fleet.beginning(), Err(Error::Damaged { path: found, .. }) if found == path));
        let newer = serde_json::to_string(&Genesis { version: 2, ..genesis() }).unwrap();
        std::fs::write(&path, newer).unwrap();
        assert!(matches!(fleet.beginning(), Err(Error::Damaged { .. })));
    }
}
