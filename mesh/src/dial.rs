//! Dialling one peer for as long as it is a member and has no link.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use osmoda_kit::clock::SharedClock;
use osmoda_mesh_crypto::{ClientCrypto, Mode, Party, Psk, QUIC_VERSION};
use osmoda_mesh_protocol::{
    Admitted, Backoff, CLOSE_REFUSED, FRAME_VERSION, Hello, KNOCK_NONCE_BYTES, Member, decode_json, frame_length, knock,
};
use osmoda_types::{MeshEpoch, MeshKey};
use quinn::{ClientConfig, Connection, ConnectionId, Endpoint, RecvStream};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use crate::{
    hub::{HubSender, Shared, close, may_call},
    link::ADMITTED_BYTES_MAX,
    listen::peer_identity,
    tie::Origin,
    tuning::Tuning,
};

/// A name is required by quinn's interface and unused by ours.
const SERVER_NAME: &str = "mesh";

/// Keeps a link to `member` up; ends only by being aborted.
pub(crate) async fn keep_linked(shared: Arc<Shared>, hub: HubSender, member: Member, kick: Arc<Notify>) {
    let mut links = shared.links.subscribe();
    let mut backoff = Backoff::new(shared.tuning.redial_first, shared.tuning.redial_max);
    let mut wait = first_wait(&shared, &member);
    loop {
        if links.wait_for(|links| !links.is_up(&member.node)).await.is_err() {
            return;
        }
        tokio::select! {
            biased;
            // Safe to drop: a link that came up meanwhile is seen by wait_for above.
            linked = links.wait_for(|links| links.is_up(&member.node)) => match linked {
                Ok(_) => {
                    backoff.reset();
                    wait = Duration::ZERO;
                    continue;
                }
                Err(_) => return,
            },
            // Safe to drop: a kick that was not taken stays noted for the next wait.
            kicked = tokio::time::timeout(wait, kick.notified()) => {
                tracing::trace!(peer = %member.node, asked = kicked.is_ok(), "dialling");
            }
        }
        if dial_all(&shared, &hub, &member).await {
            backoff.reset();
            // The link is published; should it end at once, that is a failure.
            wait = backoff.after_failure(random());
        } else {
            wait = backoff.after_failure(random());
        }
    }
}

/// Where both may dial, the smaller id goes first.
fn first_wait(shared: &Shared, member: &Member) -> Duration {
    let own = shared.identity.node();
    let both = shared.own_role().is_some_and(|role| may_call(member.role, role));
    if both && own > member.node { shared.tuning.yield_first } else { Duration::ZERO }
}

/// Tries each address once; whether a link is up now.
async fn dial_all(shared: &Shared, hub: &HubSender, member: &Member) -> bool {
    for address in &member.addresses {
        match dial(shared, member, *address).await {
            Ok((connection, admitted)) => {
                let origin = Origin { initiator: shared.identity.node(), peer_incarnation: admitted.incarnation };
                if hub.established(member.node, connection, origin, admitted.epoch).await {
                    return true;
                }
            }
            Err(reason) => {
                tracing::debug!(peer = %member.node, %address, reason, "dial failed");
            }
        }
        if shared.links.borrow().is_up(&member.node) {
            return true;
        }
    }
    false
}

async fn dial(shared: &Shared, member: &Member, address: SocketAddr) -> Result<(Connection, Admitted), &'static str> {
    let secret = shared.secrets.last().ok_or("no epoch secret")?;
    let hello = Hello { version: FRAME_VERSION, incarnation: shared.incarnation };
    let hello = serde_json::to_vec(&hello).map_err(|_| "hello has no form")?;
    let expected = member.mesh_key;
    let party = Party {
        key: shared.identity.transport(),
        psk: Psk::mesh(&shared.network, secret.epoch, secret.secret.bytes()),
        network: shared.network,
        mode: Mode::Mesh(secret.epoch),
        // Both the member that was meant and one that still is: the snapshot
        // may have changed since this dialler was started.
        authorize: {
            let members = shared.members.clone();
            Arc::new(move |key: &MeshKey| *key == expected && members.load().by_key(key).is_some())
        },
    };
    let connection = connect(&shared.endpoint, party, hello, address, &shared.tuning, &shared.clock).await?;
    match tokio::time::timeout(shared.tuning.handshake, read_admitted(&connection, secret.epoch)).await {
        Ok(Some(admitted)) if peer_identity(&connection).is_some_and(|peer| peer.key == expected) => {
            Ok((connection, admitted))
        }
        _ => {
            close(&connection, CLOSE_REFUSED);
            Err("not admitted")
        }
    }
}

/// Dials with a knock and completes the handshake.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    party: Party,
    hello: Vec<u8>,
    address: SocketAddr,
    tuning: &Tuning,
    clock: &SharedClock,
) -> Result<Connection, &'static str> {
    let (key, clock) = (party.psk.knock_key(), clock.clone());
    let mut config = ClientConfig::new(Arc::new(ClientCrypto::new(party, hello)));
    config.version(QUIC_VERSION);
    // One unidirectional stream: the listener's answer.
    config.transport_config(tuning.transport(1));
    config.initial_dst_cid_provider(Arc::new(move || {
        let nonce = random().to_be_bytes();
        const { assert!(KNOCK_NONCE_BYTES == size_of::<u64>()) };
        ConnectionId::new(&knock(key.bytes(), nonce, clock.now_wall().as_millis()))
    }));
    let connecting = endpoint.connect_with(config, address, SERVER_NAME).map_err(|_| "address is not usable")?;
    match tokio::time::timeout(tuning.handshake, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(quinn::ConnectionError::TimedOut)) | Err(_) => Err("no answer"),
        Ok(Err(_)) => Err("handshake failed"),
    }
}

async fn read_admitted(connection: &Connection, epoch: MeshEpoch) -> Option<Admitted> {
    let mut stream = connection.accept_uni().await.ok()?;
    let admitted: Admitted = read_frame(&mut stream, ADMITTED_BYTES_MAX).await?;
    (admitted.version == FRAME_VERSION && admitted.epoch == epoch).then_some(admitted)
}

/// Reads one frame, of at most `bytes_max`.
pub(crate) async fn read_frame<T: DeserializeOwned>(stream: &mut RecvStream, bytes_max: usize) -> Option<T> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).await.ok()?;
    let mut body = vec![0; frame_length(prefix, bytes_max).ok()?];
    stream.read_exact(&mut body).await.ok()?;
    decode_json(&body).ok()
}

/// 64 random bits, for nonces, incarnations and jitter.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the operating system has randomness once it has booted");
    u64::from_be_bytes(bytes)
}
