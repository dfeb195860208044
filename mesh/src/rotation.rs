//! Changing a node's keys on disk, in two steps with the fleet's consent in
//! between.
//!
//! ```text
//! next/  mesh.key  identity.key  succession.json   prepared; the old keys serve
//! next/commit                                      from here on the new keys win
//! last/                                            done; being removed
//! ```
//! Invariant: at any moment, also after a crash at any point, [`crate::state`]
//! finds either both old keys or both new ones, and the same node id
//! (`tests/one/rotation.rs`): the mark `commit` is durable before the first key
//! is replaced, and loading goes on with a replacement that was cut short.
//! Prepared keys are made once; preparing again returns the same.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use osmoda_kit::{
    fsio::{self, FsError},
    keys::{self, KeyError},
};
use osmoda_mesh_crypto::StaticKey;
use osmoda_mesh_protocol::{Members, Succession};
use osmoda_types::{NetworkId, statement};

use crate::{
    identity::Identity,
    state::{self, IDENTITY_KEY, MESH_KEY, MODE, StateError},
};

const NEXT: &str = "next";
const LAST: &str = "last";
const COMMIT: &str = "commit";
const SUCCESSION: &str = "succession.json";
/// Bound on `succession.json`: five fields.
const SUCCESSION_BYTES_MAX: u64 = 4096;

/// Makes the next keys, signed by the present ones, or returns those that were
/// made before.
///
/// # Errors
/// [`StateError`] when the present keys or the folder cannot be used.
pub fn prepare(dir: &Path, network: &NetworkId) -> Result<Succession, StateError> {
    let old = state::load_identity(dir)?;
    let next = dir.join(NEXT);
    match prepared(dir) {
        Ok(Some((succession, _))) => return Ok(succession),
        Ok(None) => {}
        // Nobody can ever use them. Keys that are whole, but open to others or on a disk
        // that does not answer, may be in the log already and are kept.
        Err(StateError::Key(error @ (KeyError::Missing { .. } | KeyError::Partial { .. }))) => {
            tracing::warn!(%error, "damaged keys were prepared; others are made");
        }
        Err(error) => return Err(error),
    }
    // Keys without their succession were shown to nobody.
    remove(&next)?;
    remove(&dir.join(LAST))?;
    fsio::create_private_dir(&next)?;
    let transport = keys::generate(&next.join(MESH_KEY))?;
    let signing = keys::generate_signing(&next.join(IDENTITY_KEY))?;
    let new = Identity::new(StaticKey::from_bytes(transport.expose()), signing);
    let said = statement::succession(&old.node(), &new.mesh_key(), &new.identity_key(), network);
    let succession = Succession {
        node: old.node(),
        mesh_key: new.mesh_key(),
        identity_key: new.identity_key(),
        by_old: old.sign(&said),
        by_new: new.sign(&said),
    };
    // Last, so that it says that the rest is complete.
    state::write_json(&next.join(SUCCESSION), &succession)?;
    Ok(succession)
}

/// The prepared keys and their statement, if any are prepared and not committed.
///
/// # Errors
/// [`StateError`] when they are damaged.
pub fn prepared(dir: &Path) -> Result<Option<(Succession, Arc<Identity>)>, StateError> {
    finish(dir)?;
    let next = dir.join(NEXT);
    let Some(succession) = read(&next)? else { return Ok(None) };
    let mut past = state::load_successions(dir)?;
    past.push(succession);
    let identity = state::read_identity(&next)?.of(succession.node, past, &[]);
    Ok(Some((succession, Arc::new(identity))))
}

/// Whether the fleet has the prepared keys: its log is the only one who says so.
#[must_use]
pub fn is_logged(members: &Members, prepared: &Identity) -> bool {
    members.by_node(&prepared.node()).is_some_and(|own| own.mesh_key == prepared.mesh_key())
}

/// Puts the prepared keys in the place of the present ones: after the fleet has
/// the succession, and never before. A running endpoint is told by
/// `MeshHandle::change_identity`.
///
/// # Errors
/// [`StateError::NothingPrepared`], [`StateError`] of the files.
pub fn commit(dir: &Path) -> Result<Arc<Identity>, StateError> {
    let next = dir.join(NEXT);
    if read(&next)?.is_none() {
        return Err(StateError::NothingPrepared(dir.to_owned()));
    }
    fsio::write_atomic(&next.join(COMMIT), b"", MODE)?;
    state::load_identity(dir)
}

/// Forgets prepared keys that the fleet did not accept.
///
/// # Errors
/// [`StateError`] of the files; keys that were committed are not forgotten.
pub fn abandon(dir: &Path) -> Result<(), StateError> {
    finish(dir)?;
    remove(&dir.join(NEXT))
}

/// Goes on with a replacement that was begun, if one was.
pub(crate) fn finish(dir: &Path) -> Result<(), StateError> {
    let next = dir.join(NEXT);
    if !next.join(COMMIT).exists() {
        return Ok(());
    }
    let Some(succession) = read(&next)? else { return Err(StateError::NothingPrepared(dir.to_owned())) };
    // Both are read before either is replaced. Whose they are comes first: it is
    // the same for the old ones.
    let (transport, signing) = (keys::load(&next.join(MESH_KEY))?, keys::load(&next.join(IDENTITY_KEY))?);
    state::store_node(dir, succession.node)?;
    let old = keys::load_signing(&dir.join(IDENTITY_KEY))?;
    if old.as_bytes() != signing.expose() {
        state::retire(dir, &old)?;
    }
    state::note_succession(dir, &succession)?;
    fsio::write_atomic(&dir.join(MESH_KEY), transport.expose(), MODE)?;
    fsio::write_atomic(&dir.join(IDENTITY_KEY), signing.expose(), MODE)?;
    let last = dir.join(LAST);
    remove(&last)?;
    std::fs::rename(&next, &last).map_err(|source| FsError::new("rename", &next, source))?;
    fsio::sync_dir(dir)?;
    tracing::info!("the node has new keys");
    remove(&last)
}

fn read(next: &Path) -> Result<Option<Succession>, StateError> {
    state::read_json(&next.join(SUCCESSION), SUCCESSION_BYTES_MAX)
}

fn remove(folder: &Path) -> Result<(), StateError> {
    let failed = |source| FsError::new("remove", folder, source);
    match std::fs::remove_dir_all(folder) {
        Ok(()) => Ok(fsio::sync_dir(&parent(folder))?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error).into()),
    }
}

fn parent(folder: &Path) -> PathBuf {
    folder.parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}
