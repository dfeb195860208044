//! The mesh's files, under `<state>/mesh`, all 0600.
//!
//! ```text
//! mesh.key  identity.key     32 bytes each
//! node.json                  {version, node}: whose keys these are; the id is that
//!                            of the first ones. Without it, of these
//! successions.json           the last changes of keys, oldest first
//! retired/<public key>.key   identity keys that were replaced, for rooms
//! next/                      keys that are prepared (`rotation`)
//! epochs/<number>.key        32 bytes: the secret of an epoch
//! rejoin.key                 32 bytes: this node's own, for coming back
//! rejoins.json               at a voter: {node: secret} of the other members
//! members.json               the allow-list: {index, epoch, members}
//! network.json               {version, network}; written last, so it says that
//!                            the rest is complete
//! ```
//!
//! Invariant: a missing or partial key file is an error; nothing here makes a
//! key again (`tests/one/stored.rs`).
//! Invariant: the allow-list on disk is never older than one that
//! [`store_members`] reported as stored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use osmoda_kit::{
    error::chain,
    fsio::{self, FsError},
    keys::{self, KeyError},
};
use osmoda_mesh_crypto::StaticKey;
use osmoda_mesh_protocol::{Members, MembersError, SUCCESSIONS_MAX, SecretBytes, Succession};
use osmoda_types::{ErrorCode, MeshEpoch, NetworkId, NodeId, PublicKey};
use serde::{Deserialize, Serialize};

use crate::{
    config::{EpochSecret, RejoinSecret, Secrets},
    identity::Identity,
    rotation,
};

pub(crate) const MESH_KEY: &str = "mesh.key";
pub(crate) const IDENTITY_KEY: &str = "identity.key";
const RETIRED: &str = "retired";
const NODE: &str = "node.json";
const SUCCESSIONS: &str = "successions.json";
const REJOIN_KEY: &str = "rejoin.key";
const REJOINS: &str = "rejoins.json";
const EPOCHS: &str = "epochs";
const MEMBERS: &str = "members.json";
const NETWORK: &str = "network.json";
const VERSION: u32 = 1;
pub(crate) const MODE: u32 = 0o600;
/// Epochs kept on disk: the newest and the one it followed.
const EPOCHS_KEPT: usize = 2;
/// Bound on a stored allow-list: 1,024 members of about 700 bytes.
const MEMBERS_BYTES_MAX: u64 = 1024 * 1024;
/// Bound on `network.json` and `node.json`: two fields.
const NETWORK_BYTES_MAX: u64 = 4096;
/// Bound on `successions.json`: eight of about 600 bytes.
const SUCCESSIONS_BYTES_MAX: u64 = 16 * 1024;

/// What a node begins with, after `init` or `join`.
#[derive(Debug, Clone)]
pub struct Initial {
    /// The fleet.
    pub network: NetworkId,
    /// The epoch in force and its secret.
    pub secret: EpochSecret,
    /// For coming back after a long absence.
    pub rejoin_secret: SecretBytes,
    /// The allow-list.
    pub members: Members,
}

/// Everything the mesh daemon starts from.
#[derive(Debug)]
pub struct MeshState {
    /// The keys.
    pub identity: Arc<Identity>,
    /// Keys that are prepared, and that the cached allow-list does not have yet.
    pub next: Option<Arc<Identity>>,
    /// The fleet.
    pub network: NetworkId,
    /// The newest epochs, and the secrets for coming back.
    pub secrets: Secrets,
    /// The cached allow-list; empty when there is no cache, and then only
    /// pairing works.
    pub members: Members,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeFile {
    version: u32,
    node: NodeId,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkFile {
    version: u32,
    network: NetworkId,
}

/// Makes the two keys, or returns the ones that are there: a join that was
/// interrupted goes on with the keys it began with.
///
/// # Errors
/// [`StateError::Key`] when one of the two is missing or damaged.
pub fn create_identity(dir: &Path) -> Result<Arc<Identity>, StateError> {
    fsio::create_private_dir(dir)?;
    let (mesh, identity) = (dir.join(MESH_KEY), dir.join(IDENTITY_KEY));
    if !mesh.exists() && !identity.exists() {
        keys::generate(&mesh)?;
        keys::generate(&identity)?;
    }
    let made = load_identity(dir)?;
    // Cut short before this, the id is that of the keys, which is the same.
    store_node(dir, made.node())?;
    Ok(made)
}

/// Reads the two keys; a change of keys that was cut short is completed first.
///
/// # Errors
/// [`StateError::Key`] when one is missing, damaged or open to others.
pub fn load_identity(dir: &Path) -> Result<Arc<Identity>, StateError> {
    rotation::finish(dir)?;
    let keys = read_identity(dir)?;
    let node = load_node(dir)?.unwrap_or_else(|| keys.node());
    Ok(Arc::new(keys.of(node, load_successions(dir)?, &load_retired(dir)?)))
}

/// Keeps an identity key that is about to be replaced; again does no harm.
pub(crate) fn retire(dir: &Path, key: &SigningKey) -> Result<(), StateError> {
    let folder = dir.join(RETIRED);
    fsio::create_private_dir(&folder)?;
    let name = PublicKey::from_bytes(key.verifying_key().to_bytes());
    fsio::write_atomic(&folder.join(format!("{name}.key")), key.as_bytes(), MODE)?;
    Ok(())
}

/// The identity keys that were replaced, in any order.
pub(crate) fn load_retired(dir: &Path) -> Result<Vec<SigningKey>, StateError> {
    let folder = dir.join(RETIRED);
    let failed = |source| FsError::new("read", &folder, source);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error).into()),
    };
    let mut retired = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        // Other names are temporary files of an interrupted write.
        if path.extension().is_some_and(|extension| extension == "key") {
            retired.push(keys::load_signing(&path)?);
        }
    }
    Ok(retired)
}

/// The two keys in a folder, as if they were a node's first.
pub(crate) fn read_identity(folder: &Path) -> Result<Identity, StateError> {
    let transport = keys::load(&folder.join(MESH_KEY))?;
    let signing = keys::load_signing(&folder.join(IDENTITY_KEY))?;
    Ok(Identity::new(StaticKey::from_bytes(transport.expose()), signing))
}

fn load_node(dir: &Path) -> Result<Option<NodeId>, StateError> {
    let path = dir.join(NODE);
    let Some(file) = read_json::<NodeFile>(&path, NETWORK_BYTES_MAX)? else { return Ok(None) };
    if file.version == VERSION { Ok(Some(file.node)) } else { Err(StateError::Version { path, got: file.version }) }
}

/// Says durably whose keys are in the folder, unless that is said already.
pub(crate) fn store_node(dir: &Path, node: NodeId) -> Result<(), StateError> {
    if load_node(dir)? == Some(node) {
        return Ok(());
    }
    write_json(&dir.join(NODE), &NodeFile { version: VERSION, node })
}

pub(crate) fn load_successions(dir: &Path) -> Result<Vec<Succession>, StateError> {
    Ok(read_json(&dir.join(SUCCESSIONS), SUCCESSIONS_BYTES_MAX)?.unwrap_or_default())
}

/// Notes a change of keys, durably and once.
pub(crate) fn note_succession(dir: &Path, succession: &Succession) -> Result<(), StateError> {
    let mut past = load_successions(dir)?;
    if past.last() == Some(succession) {
        return Ok(());
    }
    past.push(*succession);
    past.drain(..past.len().saturating_sub(SUCCESSIONS_MAX));
    write_json(&dir.join(SUCCESSIONS), &past)
}

/// Writes what `init` or `join` obtained. Repeating it with the same network
/// replaces the allow-list; another network is refused.
///
/// # Errors
/// [`StateError::OtherNetwork`], [`StateError::File`], [`StateError::Key`].
pub fn write_initial(dir: &Path, initial: &Initial) -> Result<(), StateError> {
    initial.members.check()?;
    if let Some(present) = load_network(dir)?
        && present != initial.network
    {
        return Err(StateError::OtherNetwork(present));
    }
    fsio::create_private_dir(dir)?;
    store_epoch(dir, &initial.secret)?;
    fsio::write_atomic(&dir.join(REJOIN_KEY), initial.rejoin_secret.bytes(), MODE)?;
    store_members(dir, &initial.members)?;
    let network = NetworkFile { version: VERSION, network: initial.network };
    write_json(&dir.join(NETWORK), &network)
}

/// Reads everything. Keys that are prepared are committed here when the cached
/// allow-list has them: the fleet consented before this node went down.
///
/// # Errors
/// [`StateError::NotEnrolled`] on a host that belongs to no fleet yet, and
/// whatever is wrong with a file.
pub fn load(dir: &Path) -> Result<MeshState, StateError> {
    let mut identity = load_identity(dir)?;
    let network = load_network(dir)?.ok_or_else(|| StateError::NotEnrolled(dir.to_owned()))?;
    let secrets = load_secrets(dir)?;
    if secrets.epochs.is_empty() {
        return Err(StateError::Key(KeyError::Missing { path: dir.join(EPOCHS) }));
    }
    let members = load_members(dir)?.unwrap_or_default();
    let mut next = match rotation::prepared(dir) {
        Ok(prepared) => prepared.map(|(_, next)| next),
        // The keys in use are whole, and the fleet most likely has those.
        Err(error) => {
            tracing::warn!(error = %chain(&error), "the prepared keys are not usable");
            None
        }
    };
    if next.as_ref().is_some_and(|next| rotation::is_logged(&members, next)) {
        identity = rotation::commit(dir)?;
        next = None;
    }
    Ok(MeshState { identity, next, network, secrets, members })
}

/// Replaces the allow-list, durably, unless the stored one is newer. Returns
/// whether it was replaced.
///
/// # Errors
/// [`StateError::File`], [`StateError::Members`].
pub fn store_members(dir: &Path, members: &Members) -> Result<bool, StateError> {
    members.check()?;
    if load_members(dir)?.is_some_and(|stored| stored.index > members.index) {
        return Ok(false);
    }
    write_json(&dir.join(MEMBERS), members)?;
    Ok(true)
}

/// Stores the secret of an epoch, durably, and forgets all but the two newest:
/// older ones are accepted by nobody. An epoch that is there already keeps the
/// time of its change.
///
/// # Errors
/// [`StateError::File`], [`StateError::Key`]; [`StateError::OtherSecret`] when
/// the epoch has another secret already.
pub fn store_epoch(dir: &Path, secret: &EpochSecret) -> Result<(), StateError> {
    let folder = dir.join(EPOCHS);
    fsio::create_private_dir(&folder)?;
    let mut stored = load_epochs(&folder)?;
    match stored.iter().find(|stored| stored.epoch == secret.epoch) {
        Some(same) if same == secret => return Ok(()),
        Some(other) => return Err(StateError::OtherSecret(other.epoch)),
        None => fsio::write_atomic(&epoch_path(&folder, secret.epoch), secret.secret.bytes(), MODE)?,
    }
    stored.push(secret.clone());
    stored.sort_by_key(|secret| std::cmp::Reverse(secret.epoch));
    for old in stored.iter().skip(EPOCHS_KEPT) {
        let path = epoch_path(&folder, old.epoch);
        std::fs::remove_file(&path).map_err(|source| FsError::new("remove", &path, source))?;
    }
    Ok(())
}

/// Replaces this node's own secret for coming back, durably.
///
/// # Errors
/// [`StateError::File`].
pub fn store_rejoin(dir: &Path, secret: &SecretBytes) -> Result<(), StateError> {
    Ok(fsio::write_atomic(&dir.join(REJOIN_KEY), secret.bytes(), MODE)?)
}

/// Replaces the secrets with which other members may come back, durably. Only
/// voters hold any.
///
/// # Errors
/// [`StateError::File`].
pub fn store_rejoins(dir: &Path, secrets: &[RejoinSecret]) -> Result<(), StateError> {
    let file: BTreeMap<_, _> = secrets.iter().map(|secret| (secret.node, secret.secret.clone())).collect();
    write_json(&dir.join(REJOINS), &file)
}

fn load_secrets(dir: &Path) -> Result<Secrets, StateError> {
    let folder = dir.join(EPOCHS);
    let epochs = load_epochs(&folder)?;
    let changed_ms = epochs.last().and_then(|newest| written_ms(&epoch_path(&folder, newest.epoch)));
    let rejoin = match keys::load(&dir.join(REJOIN_KEY)) {
        Ok(secret) => Some(SecretBytes::new(*secret.expose())),
        // A node without it works; it only cannot come back by itself.
        Err(KeyError::Missing { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let file: Option<BTreeMap<NodeId, SecretBytes>> = read_json(&dir.join(REJOINS), MEMBERS_BYTES_MAX)?;
    let rejoins = file.unwrap_or_default().into_iter().map(|(node, secret)| RejoinSecret { node, secret });
    Ok(Secrets { epochs, changed_ms, rejoin, rejoins: rejoins.collect() })
}

fn epoch_path(folder: &Path, epoch: MeshEpoch) -> PathBuf {
    folder.join(format!("{epoch}.key"))
}

/// Wall time in ms when a file was written.
fn written_ms(path: &Path) -> Option<i64> {
    let written = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
    let since = written.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
}

/// Reads every epoch's secret, oldest first.
fn load_epochs(folder: &Path) -> Result<Vec<EpochSecret>, StateError> {
    let failed = |source| FsError::new("read", folder, source);
    let mut secrets = Vec::new();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(secrets),
        Err(error) => return Err(failed(error).into()),
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        // Other names are temporary files of an interrupted write.
        let epoch = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".key"));
        let Some(epoch) = epoch.and_then(|epoch| epoch.parse().ok()) else { continue };
        let secret = keys::load(&path)?;
        secrets.push(EpochSecret { epoch: MeshEpoch(epoch), secret: SecretBytes::new(*secret.expose()) });
    }
    secrets.sort_by_key(|secret| secret.epoch);
    Ok(secrets)
}

fn load_network(dir: &Path) -> Result<Option<NetworkId>, StateError> {
    let path = dir.join(NETWORK);
    let Some(file) = read_json::<NetworkFile>(&path, NETWORK_BYTES_MAX)? else { return Ok(None) };
    if file.version == VERSION { Ok(Some(file.network)) } else { Err(StateError::Version { path, got: file.version }) }
}

fn load_members(dir: &Path) -> Result<Option<Members>, StateError> {
    let members: Option<Members> = read_json(&dir.join(MEMBERS), MEMBERS_BYTES_MAX)?;
    if let Some(members) = &members {
        members.check()?;
    }
    Ok(members)
}

pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path, bytes_max: u64) -> Result<Option<T>, StateError> {
    let Some(content) = fsio::read_limited(path, bytes_max)? else { return Ok(None) };
    let damaged = |source| StateError::Damaged { path: path.to_owned(), source };
    serde_json::from_slice(&content).map(Some).map_err(damaged)
}

pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), StateError> {
    let damaged = |source| StateError::Damaged { path: path.to_owned(), source };
    let content = serde_json::to_vec_pretty(value).map_err(damaged)?;
    fsio::write_atomic(path, &content, MODE)?;
    Ok(())
}

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A key file is missing or damaged.
    #[error("a key of the mesh is not usable")]
    Key(#[from] KeyError),
    /// A file cannot be read or written.
    #[error("the mesh state is not usable")]
    File(#[from] FsError),
    /// A file is not what was written.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A file of a newer program.
    #[error("{} has version {got}, this program knows {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        got: u32,
    },
    /// The allow-list breaks its rules.
    #[error("the membership snapshot is not usable")]
    Members(#[from] MembersError),
    /// Two secrets for one epoch.
    #[error("epoch {} is stored with another secret", .0.0)]
    OtherSecret(MeshEpoch),
    /// The host belongs to no fleet.
    #[error("this host belongs to no fleet yet ({}); run osmoda-node init or join", .0.display())]
    NotEnrolled(PathBuf),
    /// There are no next keys.
    #[error("no new keys are prepared in {}", .0.display())]
    NothingPrepared(PathBuf),
    /// The host belongs to another fleet.
    #[error("this host belongs to network {0} already")]
    OtherNetwork(NetworkId),
}

impl StateError {
    /// The code for the caller.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            StateError::Key(error) => error.code(),
            StateError::File(error) => error.code(),
            StateError::NotEnrolled(_) => ErrorCode::IdentityMissing,
            StateError::OtherNetwork(_) => ErrorCode::InviteWrongNetwork,
            StateError::Members(_) => ErrorCode::BadRequest,
            StateError::OtherSecret(_) | StateError::NothingPrepared(_) => ErrorCode::Conflict,
            StateError::Damaged { .. } | StateError::Version { .. } => ErrorCode::StateDirUnusable,
        }
    }
}

impl From<StateError> for osmoda_kit::error::ApiError {
    fn from(error: StateError) -> Self {
        Self::new(error.code(), error.to_string()).with_source(error)
    }
}
