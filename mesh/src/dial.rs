//! Dialling one peer for as long as it is a member and has no link.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use osmoda_kit::{clock::SharedClock, frames};
use osmoda_mesh_crypto::{Authorize, ClientCrypto, Mode, Party, Psk, QUIC_VERSION};
use osmoda_mesh_protocol::{
    Admitted, Backoff, CLOSE_REFUSED, FRAME_VERSION, Hello, KNOCK_NONCE_BYTES, Member, REJOIN_RANDOM_BYTES,
    SecretBytes, follow, knock, rejoin_knock,
};
use osmoda_types::{MeshKey, NodeId, Role};
use quinn::{ClientConfig, Connection, ConnectionId, Endpoint};
use tokio::sync::Notify;

use crate::{
    command::HubSender,
    config::EpochSecret,
    hub::{close, may_call},
    identity::Identity,
    link::ADMITTED_BYTES_MAX,
    listen::peer_identity,
    made::{Established, Link, LinkKeys, Way},
    shared::Shared,
    tie::Origin,
    tuning::Tuning,
};

/// A name is required by quinn's interface and unused by ours.
const SERVER_NAME: &str = "mesh";

/// Rounds of dials with what is known before a node does what is for a long
/// absence: uses its own secret at a voter, follows a member to keys it does not
/// know, and shows keys that it prepared itself. Two, so that a restart of the
/// whole fleet or one lost packet does not look like an absence.
const ROUNDS_BEFORE_ABSENCE: usize = 2;

/// Rounds of a member that is dialled when asked only: past a lost packet and
/// the epoch before, then whoever asked has given up too.
const ROUNDS_PER_ASK: usize = 4;

/// When a member is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Whenever there is no link.
    Always,
    /// When somebody wants a stream or sends a probe.
    Asked,
}

/// Keeps a link to `member` up, or makes one whenever it is asked for; ends only
/// by being aborted.
pub(crate) async fn keep_linked(shared: Arc<Shared>, hub: HubSender, member: Member, when: When, kick: Arc<Notify>) {
    // Rounds until it waits to be asked.
    let mut rounds_left = if when == When::Always { usize::MAX } else { 0 };
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
                    if when == When::Asked {
                        rounds_left = 0;
                    }
                    continue;
                }
                Err(_) => return,
            },
            // Safe to drop: a kick that was not taken stays noted for the next wait.
            asked = wait_or_kick((rounds_left > 0).then_some(wait), &kick) => {
                tracing::trace!(peer = %member.node, asked, "dialling");
                if asked && when == When::Asked {
                    rounds_left = ROUNDS_PER_ASK;
                }
            }
        }
        let tries = tries(&shared, &member, round);
        let this = &tries[round % tries.len()];
        round += 1;
        if when == When::Asked {
            rounds_left = rounds_left.saturating_sub(1);
        }
        if dial_all(&shared, &hub, &member, this).await {
            round = 0;
            backoff.reset();
            // The link is published; should it end at once, that is a failure.
            wait = backoff.after_failure(random());
        } else {
            wait = backoff.after_failure(random());
        }
    }
}

/// Waits so long, or without end, for somebody to ask; whether somebody did.
async fn wait_or_kick(wait: Option<Duration>, kick: &Notify) -> bool {
    match wait {
        Some(wait) => tokio::time::timeout(wait, kick.notified()).await.is_ok(),
        None => {
            kick.notified().await;
            true
        }
    }
}

/// Where both may dial, the smaller id goes first.
fn first_wait(shared: &Shared, member: &Member) -> Duration {
    let own = shared.keyring.node();
    let both = shared.own_role().is_some_and(|role| may_call(member.role, role));
    if both && own > member.node { shared.tuning.yield_first } else { Duration::ZERO }
}

/// Why a link is dialled, and whom it may find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// There is none.
    First,
    /// There is none, and has not been for a while: the member may have other
    /// keys by now, which it proves by statements of the known ones.
    AfterAbsence,
    /// There is one, and it is old.
    Renewal,
}

/// Makes a link anew, under the newest epoch and keys, while the old one is up.
/// A try that fails changes nothing; the old link tries again later.
pub(crate) async fn renew(shared: &Shared, hub: &HubSender, peer: NodeId, old: &Link) {
    let members = shared.members.load_full();
    let Some(member) = members.by_node(&peer) else { return };
    let this = Try {
        proof: Proof::Epoch(shared.epochs.load().current().clone()),
        keys: shared.keyring.now(),
        purpose: Purpose::Renewal,
    };
    let address = old.connection.remote_address();
    match dial(shared, member, address, &this).await {
        Ok(Dialled::Member(link)) => {
            hub.established(link).await;
        }
        Ok(Dialled::Successor(_)) => {}
        Err(reason) => tracing::debug!(%peer, %address, reason, "link not made anew yet"),
    }
}

/// What this node can prove that it belongs with.
#[derive(Clone)]
enum Proof {
    Epoch(EpochSecret),
    Rejoin(SecretBytes),
}

/// One way to dial a member.
struct Try {
    proof: Proof,
    /// Those in use, or those that are prepared.
    keys: Arc<Identity>,
    purpose: Purpose,
}

/// A round of dials uses one proof; the next round the next one. The epoch
/// before the newest is for a peer that has not heard of the newest; coming
/// back is for a voter that the epochs did not reach. Links to others say
/// nothing then: a node that slept through a revocation is still welcome to the
/// member that was revoked, and must not be kept from the fleet by it.
/// Prepared keys come in turn with those in use: a node that went down between
/// the fleet's consent and its own commit meets refusals with the old ones.
fn tries(shared: &Shared, member: &Member, round: usize) -> Vec<Try> {
    let epochs = shared.epochs.load();
    let previous = epochs.previous(shared.clock.now_boot()).cloned();
    let mut proofs: Vec<_> =
        [Some(epochs.current().clone()), previous].into_iter().flatten().map(Proof::Epoch).collect();
    let (mut keys, mut purpose) = (vec![shared.keyring.now()], Purpose::First);
    if round >= ROUNDS_BEFORE_ABSENCE {
        purpose = Purpose::AfterAbsence;
        keys.extend(shared.keyring.next());
        if let Some(secret) = &shared.rejoin
            && member.role == Role::Voter
        {
            proofs.push(Proof::Rejoin(secret.clone()));
        }
    }
    let with = |proof: &Proof| {
        let proof = proof.clone();
        keys.iter().map(move |keys| Try { proof: proof.clone(), keys: keys.clone(), purpose }).collect::<Vec<_>>()
    };
    proofs.iter().flat_map(with).collect()
}

/// Tries each address once; whether a link is up now.
async fn dial_all(shared: &Shared, hub: &HubSender, member: &Member, this: &Try) -> bool {
    for address in &member.addresses {
        match dial(shared, member, *address, this).await {
            Ok(Dialled::Member(link)) => {
                if hub.established(link).await {
                    return true;
                }
            }
            // The hub dials it anew, as the member it is now.
            Ok(Dialled::Successor(now)) => hub.followed(member.clone(), now).await,
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

/// Who was found at an address.
enum Dialled {
    /// The member that was meant.
    Member(Established),
    /// The same, under keys that the known ones have named. The link was closed.
    Successor(Member),
}

async fn dial(shared: &Shared, member: &Member, address: SocketAddr, this: &Try) -> Result<Dialled, &'static str> {
    let (network, own) = (&shared.network, shared.keyring.node());
    let (psk, mode) = match &this.proof {
        Proof::Epoch(secret) => (Psk::mesh(network, secret.epoch, secret.secret.bytes()), Mode::Mesh(secret.epoch)),
        Proof::Rejoin(secret) => (Psk::rejoin(network, &own, secret.bytes()), Mode::Rejoin(own)),
    };
    let renews = this.purpose == Purpose::Renewal;
    let hello = Hello { version: FRAME_VERSION, incarnation: shared.incarnation, renews };
    let hello = serde_json::to_vec(&hello).map_err(|_| "hello has no form")?;
    let expected = member.mesh_key;
    let party = Party {
        key: this.keys.transport(),
        psk,
        network: shared.network,
        mode,
        authorize: authorize(shared, expected, this.purpose),
    };
    let endpoint = shared.port.open().map_err(|_| "no port")?;
    let connection = connect(&endpoint, party, hello, address, &shared.tuning, &shared.clock).await?;
    let admitted = tokio::time::timeout(shared.tuning.handshake, read_admitted(&connection, mode)).await;
    let found = peer_identity(&connection).map(|peer| peer.key);
    match (admitted, found) {
        (Ok(Some(admitted)), Some(found)) if found == expected => {
            let way = if matches!(this.proof, Proof::Epoch(_)) { Way::Epoch } else { Way::Rejoin };
            let origin = Origin { initiator: own, peer_incarnation: admitted.incarnation };
            let keys = LinkKeys { own: this.keys.mesh_key(), peer: found };
            let (peer, epoch) = (member.node, admitted.epoch);
            Ok(Dialled::Member(Established { peer, connection, origin, epoch, way, keys, renews }))
        }
        (Ok(Some(admitted)), Some(found)) if this.purpose == Purpose::AfterAbsence => {
            close(&connection, CLOSE_REFUSED);
            let now = follow(member, &admitted.successions, &found, network);
            now.map(Dialled::Successor).ok_or("another key, which the known one did not name")
        }
        _ => {
            close(&connection, CLOSE_REFUSED);
            Err("not admitted")
        }
    }
}

/// Whom a handshake may find: the member that was meant, if it still is one,
/// because the snapshot may have changed since this dialler was started. After
/// an absence also a key that is nobody's here: it proves that it holds a secret
/// of the network, gets no stream, and is asked for its statements.
fn authorize(shared: &Shared, expected: MeshKey, purpose: Purpose) -> Arc<dyn Authorize> {
    let (members, keyring) = (shared.members.clone(), shared.keyring.clone());
    Arc::new(move |key: &MeshKey| {
        let is_member = members.load().by_key(key).is_some();
        let is_nobody = || !is_member && !keyring.has(key);
        (*key == expected && is_member) || (purpose == Purpose::AfterAbsence && is_nobody())
    })
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
