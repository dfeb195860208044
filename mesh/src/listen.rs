//! The listener: who may begin a handshake, and what happens when it is over.
//!
//! Invariant: nothing is sent to an address before its connection id has been
//! found to be a knock of one of our doors, or the address to be a member's
//! (`tests/one/silence.rs`).

use std::net::IpAddr;
use std::sync::Arc;

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use osmoda_kit::shutdown::Stage;
use osmoda_mesh_crypto::{Mode, PeerIdentity};
use osmoda_mesh_protocol::{CLOSE_REFUSED, FRAME_VERSION, Hello, decode_json};
use osmoda_types::MeshEpoch;
use quinn::{Connecting, Connection, Incoming};

use crate::{
    command::HubSender,
    counters::Event,
    dial::random,
    door::Door,
    gate::{Gate, Knocked, Verdict},
    hub::close,
    made::{Established, LinkKeys, Way},
    pair,
    shared::Shared,
    tie::Origin,
};

/// What a finished handshake tells the gate.
enum Outcome {
    /// Nothing: a member's.
    Over,
    /// A joiner from there has left.
    Joiner { source: IpAddr, admitted: bool },
}

/// Accepts connections until new work is refused.
pub(crate) async fn accept(shared: Arc<Shared>, hub: HubSender) {
    let stop = shared.tasks.shutdown().token(Stage::RefuseNew);
    let endpoint = tokio::select! {
        biased;
        // Safe to drop: a token stays cancelled.
        () = stop.cancelled() => return,
        // Safe to drop: a port that was bound stays bound.
        endpoint = shared.port.opened() => match endpoint {
            Some(endpoint) => endpoint,
            None => return,
        },
    };
    let mut gate = Gate::new(shared.tuning.knock_fallback, seed());
    // Bounded by the gate.
    let mut handshakes: FuturesUnordered<BoxFuture<'static, Outcome>> = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            // Safe to drop: a token stays cancelled.
            () = stop.cancelled() => break,
            // Safe to drop: what was not ready keeps its place in the set.
            Some(outcome) = handshakes.next(), if !handshakes.is_empty() => {
                if let Outcome::Joiner { source, admitted } = outcome {
                    gate.joiner_left(source, admitted);
                }
            }
            // Safe to drop: accepting takes a connection only when it is ready.
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => handshakes.extend(begin(&shared, &hub, &mut gate, incoming, handshakes.len())),
                // The endpoint was closed through its handle; the process goes on.
                None => stop.cancelled().await,
            },
        }
        shared.handshakes.store(handshakes.len(), std::sync::atomic::Ordering::Relaxed);
    }
}

/// Judges a first packet. Silence unless it knocked.
fn begin(
    shared: &Arc<Shared>,
    hub: &HubSender,
    gate: &mut Gate,
    incoming: Incoming,
    under_way: usize,
) -> Option<BoxFuture<'static, Outcome>> {
    let (now_ms, now_boot) = (shared.clock.now_wall().as_millis(), shared.clock.now_boot());
    let door = shared.doors.knocked(&incoming.orig_dst_cid(), now_ms, now_boot);
    let knocked = match &door {
        None => Knocked::Nowhere,
        Some(door) if matches!(door.mode, Mode::Pair(_)) => Knocked::Joiner,
        Some(_) => Knocked::Member,
    };
    gate.know(&shared.members.load_full());
    let (source, proven) = (incoming.remote_address(), incoming.remote_address_validated());
    let dcid = incoming.orig_dst_cid();
    let door = match gate.admit((knocked, &dcid), source, proven, under_way, now_boot) {
        Verdict::Ignore => {
            incoming.ignore();
            return None;
        }
        Verdict::Limit => {
            shared.counters.note(Event::Limited);
            incoming.ignore();
            return None;
        }
        Verdict::Replay => {
            shared.counters.note(Event::Replayed);
            incoming.ignore();
            return None;
        }
        Verdict::Retry => {
            shared.counters.note(Event::RetryAsked);
            ask_for_proof(incoming);
            return None;
        }
        Verdict::Accept => door?,
        Verdict::AcceptUnknocked => {
            // Its packets say nothing about the time; the member's log does.
            tracing::warn!(%source, "a member did not knock in time; compare its clock with this one");
            shared.counters.note(Event::KnockMissed);
            shared.doors.newest()?
        }
    };
    match incoming.accept_with(door.config.clone()) {
        Ok(connecting) => Some(complete(shared.clone(), hub.clone(), connecting, door).boxed()),
        Err(error) => {
            tracing::debug!(%error, "first packet is not usable");
            if knocked == Knocked::Joiner {
                gate.joiner_left(source.ip(), false);
            }
            None
        }
    }
}

fn ask_for_proof(incoming: Incoming) {
    if let Err(error) = incoming.retry() {
        tracing::debug!(%error, "retry is not possible");
        error.into_incoming().ignore();
    }
}

async fn complete(shared: Arc<Shared>, hub: HubSender, connecting: Connecting, door: Arc<Door>) -> Outcome {
    let source = connecting.remote_address().ip();
    let established = establish(&shared, connecting).await;
    let way = match door.mode {
        Mode::Pair(invite) => {
            let admitted = match established {
                Some((connection, identity)) => pair::answer(&shared, connection, identity, invite, &door).await,
                None => false,
            };
            return Outcome::Joiner { source, admitted };
        }
        Mode::Mesh(epoch) => (epoch, Way::Epoch),
        Mode::Rejoin(_) => (shared.epochs.load().current().epoch, Way::Rejoin),
    };
    if let Some((connection, identity)) = established {
        join_link(&shared, &hub, connection, &identity, &door, way).await;
    }
    Outcome::Over
}

/// Waits for the end of a handshake, and for who it proves.
async fn establish(shared: &Shared, connecting: Connecting) -> Option<(Connection, PeerIdentity)> {
    let connection = match tokio::time::timeout(shared.tuning.handshake, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%error, "handshake failed");
            return None;
        }
        Err(_) => {
            tracing::debug!("handshake took too long");
            return None;
        }
    };
    let identity = peer_identity(&connection);
    if identity.is_none() {
        close(&connection, CLOSE_REFUSED);
    }
    Some((connection, identity?))
}

async fn join_link(
    shared: &Shared,
    hub: &HubSender,
    connection: Connection,
    identity: &PeerIdentity,
    door: &Door,
    (epoch, way): (MeshEpoch, Way),
) {
    let peer = shared.members.load().by_key(&identity.key).map(|member| member.node);
    let hello = decode_json::<Hello>(&identity.hello).ok().filter(|hello| hello.version == FRAME_VERSION);
    let (Some(peer), Some(hello)) = (peer, hello) else {
        return close(&connection, CLOSE_REFUSED);
    };
    let origin = Origin { initiator: peer, peer_incarnation: hello.incarnation };
    let (renews, keys) = (hello.renews, LinkKeys { own: door.own, peer: identity.key });
    if !hub.established(Established { peer, connection, origin, epoch, way, keys, renews }).await {
        return tracing::debug!(peer = %peer, "link was not kept");
    }
    match way {
        Way::Epoch if epoch != shared.epochs.load().current().epoch => shared.counters.note(Event::OldEpochAccepted),
        Way::Epoch => {}
        Way::Rejoin => {
            tracing::info!(%peer, "member came back by its own secret");
            shared.counters.note(Event::RejoinAccepted);
        }
    }
}

/// Who the handshake proved.
pub(crate) fn peer_identity(connection: &Connection) -> Option<PeerIdentity> {
    connection.peer_identity()?.downcast::<PeerIdentity>().ok().map(|identity| *identity)
}

fn seed() -> [u8; 32] {
    let mut seed = [0; 32];
    for chunk in seed.chunks_exact_mut(size_of::<u64>()) {
        chunk.copy_from_slice(&random().to_be_bytes());
    }
    seed
}
