//! Dialling one peer for as long as it is a member and has no link.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use osmoda_kit::{clock::SharedClock, frames};
use osmoda_mesh_crypto::{ClientCrypto, Mode, Party, Psk, QUIC_VERSION};
use osmoda_mesh_protocol::{
    Admitted, Backoff, CLOSE_REFUSED, FRAME_VERSION, Hello, KNOCK_NONCE_BYTES, Member, REJOIN_RANDOM_BYTES,
    SecretBytes, knock, rejoin_knock,
};
use osmoda_types::{MeshKey, NodeId, Role};
use quinn::{ClientConfig, Connection, ConnectionId, Endpoint};
use tokio::sync::Notify;

use crate::{
    config::EpochSecret,
    hub::{Established, HubSender, Link, Shared, Way, close, may_call},
    link::ADMITTED_BYTES_MAX,
    listen::peer_identity,
    tie::Origin,
    tuning::Tuning,
};

/// A name is required by quinn's interface and unused by ours.
const SERVER_NAME: &str = "mesh";

/// Rounds of dials with the epochs before a node uses its own secret at a voter:
/// two, so that a restart of the whole fleet or one lost packet does not
/// look like a long absence.
const ROUNDS_BEFORE_REJOIN: usize = 2;

/// Keeps a link to `member` up; ends only by being aborted.
pub(crate) async fn keep_linked(shared: Arc<Shared>, hub: HubSender, member: Member, kick: Arc<Notify>) {
    let mut links = shared.links.subscribe();
    let mut backoff = Backoff::new(shared.tuning.redial_first, shared.tuning.redial_max);
    let mut wait = first_wait(&shared, &member);
    let mut round = 0;
    loop {
        if links.wait_for(|links| !links.is_up(&member.node)).await.is_err() {
            return;
        }
        tokio::select! {
            biased;
            // Safe to drop: a link that came up meanwhile is seen by wait_for above.
            linked = links.wait_for(|links| links.is_up(&member.node)) => match linked {
                Ok(_) => {
                    round = 0;
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
        let ways = ways(&shared, &member, round);
        let way = &ways[round % ways.len()];
        round += 1;
        if dial_all(&shared, &hub, &member, way).await {
            round = 0;
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

/// Why a link is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// There is none.
    First,
    /// There is one, and it is old.
    Renewal,
}

/// Makes a link anew, under the newest epoch, while the old one is up. A try
/// that fails changes nothing; the old link tries again later.
pub(crate) async fn renew(shared: &Shared, hub: &HubSender, peer: NodeId, old: &Link) {
    let members = shared.members.load_full();
    let Some(member) = members.by_node(&peer) else { return };
    let proof = Proof::Epoch(shared.epochs.load().current().clone());
    let address = old.connection.remote_address();
    match dial(shared, member, address, &proof, Purpose::Renewal).await {
        Ok((connection, admitted)) => {
            let origin = Origin { initiator: shared.identity.node(), peer_incarnation: admitted.incarnation };
            let (epoch, way) = (admitted.epoch, Way::Epoch);
            hub.established(Established { peer, connection, origin, epoch, way, renews: true }).await;
        }
        Err(reason) => tracing::debug!(%peer, %address, reason, "link not made anew yet"),
    }
}

/// What this node can prove that it belongs with.
enum Proof {
    Epoch(EpochSecret),
    Rejoin(SecretBytes),
}

/// A round of dials uses one proof; the next round the next one. The epoch
/// before the newest is for a peer that has not heard of the newest; coming
/// back is for a voter that the epochs did not reach. Links to others say
/// nothing then: a node that slept through a revocation is still welcome to the
/// member that was revoked, and must not be kept from the fleet by it.
fn ways(shared: &Shared, member: &Member, round: usize) -> Vec<Proof> {
    let epochs = shared.epochs.load();
    let previous = epochs.previous(shared.clock.now_boot()).cloned();
    let mut ways: Vec<_> = [Some(epochs.current().clone()), previous].into_iter().flatten().map(Proof::Epoch).collect();
    if let Some(secret) = &shared.rejoin
        && member.role == Role::Voter
        && round >= ROUNDS_BEFORE_REJOIN
    {
        ways.push(Proof::Rejoin(secret.clone()));
    }
    ways
}

/// Tries each address once; whether a link is up now.
async fn dial_all(shared: &Shared, hub: &HubSender, member: &Member, proof: &Proof) -> bool {
    for address in &member.addresses {
        match dial(shared, member, *address, proof, Purpose::First).await {
            Ok((connection, admitted)) => {
                let way = if matches!(proof, Proof::Epoch(_)) { Way::Epoch } else { Way::Rejoin };
                let origin = Origin { initiator: shared.identity.node(), peer_incarnation: admitted.incarnation };
                let (peer, epoch) = (member.node, admitted.epoch);
                let new = Established { peer, connection, origin, epoch, way, renews: false };
                if hub.established(new).await {
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

async fn dial(
    shared: &Shared,
    member: &Member,
    address: SocketAddr,
    proof: &Proof,
    purpose: Purpose,
) -> Result<(Connection, Admitted), &'static str> {
    let (network, own) = (&shared.network, shared.identity.node());
    let (psk, mode) = match proof {
        Proof::Epoch(secret) => (Psk::mesh(network, secret.epoch, secret.secret.bytes()), Mode::Mesh(secret.epoch)),
        Proof::Rejoin(secret) => (Psk::rejoin(network, &own, secret.bytes()), Mode::Rejoin(own)),
    };
    let hello = Hello { version: FRAME_VERSION, incarnation: shared.incarnation, renews: purpose == Purpose::Renewal };
    let hello = serde_json::to_vec(&hello).map_err(|_| "hello has no form")?;
    let expected = member.mesh_key;
    let party = Party {
        key: shared.identity.transport(),
        psk,
        network: shared.network,
        mode,
        // Both the member that was meant and one that still is: the snapshot
        // may have changed since this dialler was started.
        authorize: {
            let members = shared.members.clone();
            Arc::new(move |key: &MeshKey| *key == expected && members.load().by_key(key).is_some())
        },
    };
    let endpoint = shared.port.open().map_err(|_| "no port")?;
    let connection = connect(&endpoint, party, hello, address, &shared.tuning, &shared.clock).await?;
    match tokio::time::timeout(shared.tuning.handshake, read_admitted(&connection, mode)).await {
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
    let (key, clock, mode) = (party.psk.knock_key(), clock.clone(), party.mode);
    let mut config = ClientConfig::new(Arc::new(ClientCrypto::new(party, hello)));
    config.version(QUIC_VERSION);
    // One unidirectional stream: the listener's answer.
    config.transport_config(tuning.transport(1));
    config.initial_dst_cid_provider(Arc::new(move || {
        const { assert!(KNOCK_NONCE_BYTES == size_of::<u64>() && REJOIN_RANDOM_BYTES == 2) };
        let (nonce, now_ms) = (random().to_be_bytes(), clock.now_wall().as_millis());
        ConnectionId::new(&match mode {
            Mode::Rejoin(_) => rejoin_knock(key.bytes(), [nonce[0], nonce[1]], now_ms),
            Mode::Mesh(_) | Mode::Pair(_) => knock(key.bytes(), nonce, now_ms),
        })
    }));
    let connecting = endpoint.connect_with(config, address, SERVER_NAME).map_err(|_| "address is not usable")?;
    match tokio::time::timeout(tuning.handshake, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(quinn::ConnectionError::TimedOut)) | Err(_) => Err("no answer"),
        Ok(Err(_)) => Err("handshake failed"),
    }
}

async fn read_admitted(connection: &Connection, mode: Mode) -> Option<Admitted> {
    let mut stream = connection.accept_uni().await.ok()?;
    let admitted: Admitted = frames::read(&mut stream, ADMITTED_BYTES_MAX).await.ok()?;
    // A member that comes back learns here which epoch is in force.
    let fits = matches!(mode, Mode::Rejoin(_)) || mode == Mode::Mesh(admitted.epoch);
    (admitted.version == FRAME_VERSION && fits).then_some(admitted)
}

/// 64 random bits, for nonces, incarnations and jitter.
pub(crate) fn random() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).expect("the operating system has randomness once it has booted");
    u64::from_be_bytes(bytes)
}
