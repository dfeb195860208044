//! The `keys` service: members fetch the secret of the epoch in force, voters
//! share the secrets with which others may come back.
//!
//! Invariant: what is fetched is believed only when its hash is the one that the
//! committed log names, so a voter can withhold an epoch but not invent one.
//! Invariant: secrets for coming back go to voters only. Invariant: an epoch's
//! secret goes out only once the snapshot that came with the epoch is in force, so
//! that whoever the epoch was made to shut out is no member here any more.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use osmoda_kit::frames;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_mesh_protocol::{
    KEYS_ANSWER_BYTES_MAX, KEYS_ASK_BYTES_MAX, KEYS_NODES_MAX, KeysAnswer, KeysAsk, SecretBytes, Service,
};
use osmoda_types::{ErrorCode, MeshEpoch, NodeId, Role, SecretHash};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use crate::config::{EpochSecret, RejoinSecret};
use crate::error::MeshError;
use crate::handle::MeshHandle;
use crate::intake::Intake;
use crate::stream::IncomingStream;

/// One question and its answer: two round trips over a link that is up, and a
/// busy host.
const ASK_TIME: Duration = Duration::from_secs(5);

/// A member asks one question at a time; a voter's other questions, for coming
/// back, are a few more.
const INTAKE: Intake = Intake { name: "keys", kind: TaskKind::REQUEST, per_peer_max: 8, time_limit: Some(ASK_TIME) };

/// What a voter can give away.
pub trait KeySource: Send + Sync + 'static {
    /// The secret with which this member may come back, if it is known here.
    fn rejoin_secret(&self, node: &NodeId) -> Option<SecretBytes>;
}

/// The hash by which the log names an epoch's secret: SHA-256.
#[must_use]
pub fn secret_hash(secret: &SecretBytes) -> SecretHash {
    SecretHash::from_bytes(Sha256::digest(secret.bytes()).into())
}

/// Answers questions until the stop.
///
/// # Errors
/// [`MeshError::Registered`] when the service is served already.
pub fn serve_keys(handle: &MeshHandle, source: Arc<dyn KeySource>, tasks: &Tasks) -> Result<(), MeshError> {
    let accepted = handle.accept(Service::Keys)?;
    let handle = handle.clone();
    INTAKE.spawn(tasks, accepted, move |incoming| answer(handle.clone(), source.clone(), incoming));
    Ok(())
}

async fn answer(handle: MeshHandle, source: Arc<dyn KeySource>, incoming: IncomingStream) -> io::Result<()> {
    let IncomingStream { peer, mut stream } = incoming;
    let ask: KeysAsk = frames::read(&mut stream, KEYS_ASK_BYTES_MAX).await?;
    frames::write(&mut stream, &judge(&handle, source.as_ref(), peer.role, &ask), KEYS_ANSWER_BYTES_MAX).await?;
    stream.shutdown().await
}

fn judge(handle: &MeshHandle, source: &dyn KeySource, asker: Role, ask: &KeysAsk) -> KeysAnswer {
    match ask {
        KeysAsk::Epoch { epoch } => {
            let current = handle.epoch_secret();
            if current.epoch == *epoch && handle.members().epoch >= *epoch {
                return KeysAnswer::Epoch(current.secret);
            }
            KeysAnswer::Refused(ErrorCode::EpochStale)
        }
        KeysAsk::Rejoins { .. } if asker != Role::Voter => KeysAnswer::Refused(ErrorCode::ServiceDenied),
        KeysAsk::Rejoins { nodes } if nodes.len() > KEYS_NODES_MAX => KeysAnswer::Refused(ErrorCode::TooLarge),
        KeysAsk::Rejoins { nodes } => {
            let known = nodes.iter().filter_map(|node| Some((*node, source.rejoin_secret(node)?)));
            KeysAnswer::Rejoins(known.collect())
        }
    }
}

/// Fetches the secret of an epoch from the first of these voters that has it.
///
/// # Errors
/// The last voter's; [`MeshError::NoSecret`] when a secret had another hash than
/// the log's, or none was asked.
///
/// # Cancel safety
/// Cancel-safe: nothing is stored here.
pub async fn fetch_epoch(
    handle: &MeshHandle,
    voters: &[NodeId],
    epoch: MeshEpoch,
    hash: SecretHash,
) -> Result<EpochSecret, MeshError> {
    let mut last = MeshError::NoSecret;
    for voter in voters.iter().filter(|voter| **voter != handle.local_id()) {
        match ask(handle, *voter, &KeysAsk::Epoch { epoch }).await {
            Ok(KeysAnswer::Epoch(secret)) if secret_hash(&secret) == hash => return Ok(EpochSecret { epoch, secret }),
            Ok(KeysAnswer::Refused(code)) => {
                last = MeshError::Refused { peer: *voter, service: Service::Keys, code };
            }
            Ok(_) => {
                tracing::warn!(%voter, epoch = epoch.0, "a voter gave a secret that the log does not name");
                last = MeshError::NoSecret;
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Asks one voter for secrets with which these members may come back; those it
/// does not know are missing in the answer.
///
/// # Errors
/// As [`MeshHandle::connect_stream`]; [`MeshError::Refused`].
///
/// # Cancel safety
/// Cancel-safe: nothing is stored here.
pub async fn fetch_rejoins(
    handle: &MeshHandle,
    voter: NodeId,
    nodes: &[NodeId],
) -> Result<Vec<RejoinSecret>, MeshError> {
    let nodes = nodes.iter().take(KEYS_NODES_MAX).copied().collect::<Vec<_>>();
    let wanted = nodes.clone();
    match ask(handle, voter, &KeysAsk::Rejoins { nodes }).await? {
        KeysAnswer::Rejoins(secrets) => {
            let asked = secrets.into_iter().filter(|(node, _)| wanted.contains(node));
            Ok(asked.map(|(node, secret)| RejoinSecret { node, secret }).collect())
        }
        KeysAnswer::Refused(code) => Err(MeshError::Refused { peer: voter, service: Service::Keys, code }),
        KeysAnswer::Epoch(_) => {
            Err(MeshError::Refused { peer: voter, service: Service::Keys, code: ErrorCode::BadRequest })
        }
    }
}

async fn ask(handle: &MeshHandle, voter: NodeId, ask: &KeysAsk) -> Result<KeysAnswer, MeshError> {
    let asked = async {
        let mut stream = handle.connect_stream(voter, Service::Keys).await?;
        let exchanged = async {
            frames::write(&mut stream, ask, KEYS_ASK_BYTES_MAX).await?;
            stream.shutdown().await?;
            frames::read(&mut stream, KEYS_ANSWER_BYTES_MAX).await
        };
        exchanged.await.map_err(|_: io::Error| MeshError::Offline(voter))
    };
    tokio::time::timeout(ASK_TIME, asked).await.unwrap_or(Err(MeshError::Timeout(voter)))
}
