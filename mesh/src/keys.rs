//! The `keys` service: members fetch the secret of the epoch in force, voters
//! share the secrets with which others may come back.
//!
//! Invariant: what is fetched is believed only when its hash is the one that the
//! committed log names, so a voter can withhold an epoch but not invent one.
//! Invariant: secrets for coming back go to voters only.

use std::sync::Arc;
use std::time::Duration;

use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_mesh_protocol::{
    KEYS_ANSWER_BYTES_MAX, KEYS_ASK_BYTES_MAX, KEYS_NODES_MAX, KeysAnswer, KeysAsk, SecretBytes, Service, decode_json,
    encode_frame, frame_length,
};
use osmoda_types::{ErrorCode, MeshEpoch, NodeId, Role, SecretHash};
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::config::{EpochSecret, RejoinSecret};
use crate::error::MeshError;
use crate::handle::MeshHandle;
use crate::stream::{IncomingStream, MeshStream};

/// One question and its answer: two round trips over a link that is up, and a
/// busy host.
const ASK_TIME: Duration = Duration::from_secs(5);

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
    let mut accepted = handle.accept(Service::Keys)?;
    let (handle, spawner) = (handle.clone(), tasks.clone());
    let stop = tasks.shutdown().token(Stage::RefuseNew);
    tasks.spawn(TaskKind::INTAKE, "mesh keys", async move {
        loop {
            let incoming = tokio::select! {
                biased;
                // Cancel-safe: a token stays cancelled.
                () = stop.cancelled() => return,
                // Cancel-safe: a receive that was not ready took nothing.
                incoming = accepted.recv() => incoming,
            };
            let Some(incoming) = incoming else { return };
            let (handle, source) = (handle.clone(), source.clone());
            // Bounded by the streams of a link, and each by the time of an answer.
            spawner.spawn(TaskKind::REQUEST, "mesh keys answer", async move {
                let peer = incoming.peer.node;
                if tokio::time::timeout(ASK_TIME, answer(&handle, source.as_ref(), incoming)).await.is_err() {
                    tracing::debug!(%peer, "a question about keys was not finished");
                }
            });
        }
    });
    Ok(())
}

async fn answer(handle: &MeshHandle, source: &dyn KeySource, incoming: IncomingStream) {
    let IncomingStream { peer, mut stream } = incoming;
    let answered = async {
        let ask: KeysAsk = read(&mut stream, KEYS_ASK_BYTES_MAX).await?;
        write(&mut stream, &judge(handle, source, peer.role, &ask), KEYS_ANSWER_BYTES_MAX).await
    };
    if let Err(error) = answered.await {
        tracing::debug!(peer = %peer.node, %error, "a question about keys broke off");
    }
}

fn judge(handle: &MeshHandle, source: &dyn KeySource, asker: Role, ask: &KeysAsk) -> KeysAnswer {
    match ask {
        KeysAsk::Epoch { epoch } => {
            let current = handle.epoch_secret();
            if current.epoch == *epoch {
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
            write(&mut stream, ask, KEYS_ASK_BYTES_MAX).await?;
            read(&mut stream, KEYS_ANSWER_BYTES_MAX).await
        };
        exchanged.await.map_err(|_| MeshError::Offline(voter))
    };
    tokio::time::timeout(ASK_TIME, asked).await.unwrap_or(Err(MeshError::Timeout(voter)))
}

async fn write<T: Serialize>(stream: &mut MeshStream, value: &T, bytes_max: usize) -> std::io::Result<()> {
    let frame = encode_frame(value, bytes_max).map_err(std::io::Error::other)?;
    stream.write_all(&frame).await?;
    stream.shutdown().await
}

async fn read<T: DeserializeOwned>(stream: &mut MeshStream, bytes_max: usize) -> std::io::Result<T> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).await?;
    let mut body = vec![0; frame_length(prefix, bytes_max).map_err(std::io::Error::other)?];
    stream.read_exact(&mut body).await?;
    decode_json(&body).map_err(std::io::Error::other)
}
