//! The `keys` service: members fetch the secret of the epoch in force, voters
//! share the secrets with which others may come back.
//!
//! Invariant: what is fetched is believed only when its hash is the one that the
//! committed log names, so a voter can withhold an epoch but not invent one.
//! Invariant: secrets for coming back go to voters only. Invariant: an epoch's
//! secret goes out only once the snapshot that came with the epoch is in force, and to
//! members in that one only: links of whoever the epoch was made to shut out are closed
//! after it is (`tests::secrets_are_for_those_in_the_snapshot_that_says_so`).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use osmoda_kit::frames;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_mesh_protocol::{
    KEYS_ANSWER_BYTES_MAX, KEYS_ASK_BYTES_MAX, KEYS_NODES_MAX, KeysAnswer, KeysAsk, Members, SecretBytes, Service,
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
    let current = handle.epoch_secret();
    let judged = judge(&current, &handle.members(), source.as_ref(), &peer.node, &ask);
    frames::write(&mut stream, &judged, KEYS_ANSWER_BYTES_MAX).await?;
    stream.shutdown().await
}

/// Judges by one snapshot, whatever the asker was when its stream was opened.
fn judge(
    current: &EpochSecret,
    members: &Members,
    source: &dyn KeySource,
    asker: &NodeId,
    ask: &KeysAsk,
) -> KeysAnswer {
    let Some(asker) = members.by_node(asker).map(|member| member.role) else {
        return KeysAnswer::Refused(ErrorCode::ServiceDenied);
    };
    match ask {
        KeysAsk::Epoch { epoch } if current.epoch == *epoch && members.epoch >= *epoch => {
            KeysAnswer::Epoch(current.secret.clone())
        }
        KeysAsk::Epoch { .. } => KeysAnswer::Refused(ErrorCode::EpochStale),
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

#[cfg(test)]
mod tests {
    use super::*;
    use osmoda_mesh_protocol::Member;
    use osmoda_types::{MeshKey, PublicKey};

    struct Known;

    impl KeySource for Known {
        fn rejoin_secret(&self, _: &NodeId) -> Option<SecretBytes> {
            Some(SecretBytes::new([7; 32]))
        }
    }

    fn member(n: u8, role: Role) -> Member {
        Member {
            node: NodeId::from_bytes([n; 32]),
            mesh_key: MeshKey::from_bytes([n; 32]),
            identity_key: PublicKey::from_bytes([n; 32]),
            role,
            name: format!("n{n}"),
            addresses: vec![],
        }
    }

    #[test]
    fn secrets_are_for_those_in_the_snapshot_that_says_so() {
        let current = EpochSecret { epoch: MeshEpoch(2), secret: SecretBytes::new([9; 32]) };
        let members = |epoch| Members {
            index: 5,
            epoch: MeshEpoch(epoch),
            members: vec![member(1, Role::Voter), member(2, Role::Node)],
        };
        let check = |epoch_of_snapshot, asker: u8, ask: &KeysAsk, expected: KeysAnswer| {
            let asker = NodeId::from_bytes([asker; 32]);
            let judged = judge(&current, &members(epoch_of_snapshot), &Known, &asker, ask);
            assert_eq!(judged, expected, "{epoch_of_snapshot} {asker} {ask:?}");
        };
        let node = NodeId::from_bytes([2; 32]);
        let (ask, asks_back) = (KeysAsk::Epoch { epoch: MeshEpoch(2) }, KeysAsk::Rejoins { nodes: vec![node] });
        let given = || KeysAnswer::Epoch(current.secret.clone());
        let rejoins = || KeysAnswer::Rejoins([(node, SecretBytes::new([7; 32]))].into());
        let refused = KeysAnswer::Refused;
        check(2, 1, &ask, given());
        check(2, 2, &ask, given());
        check(1, 2, &ask, refused(ErrorCode::EpochStale));
        check(2, 1, &KeysAsk::Epoch { epoch: MeshEpoch(1) }, refused(ErrorCode::EpochStale));
        check(2, 1, &asks_back, rejoins());
        check(2, 2, &asks_back, refused(ErrorCode::ServiceDenied));
        // Out, and its link is not closed yet.
        check(2, 3, &ask, refused(ErrorCode::ServiceDenied));
        check(2, 3, &asks_back, refused(ErrorCode::ServiceDenied));
    }
}
