//! The listener: who may begin a handshake, and what happens when it is over.
//!
//! Invariant: nothing is sent to an address before its connection id has been
//! found to be a knock of one of our doors (`tests/one.rs`).

use std::sync::Arc;

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use osmoda_kit::shutdown::Stage;
use osmoda_mesh_crypto::{Mode, PeerIdentity};
use osmoda_mesh_protocol::{CLOSE_REFUSED, FRAME_VERSION, Hello, decode_json};
use osmoda_types::{InviteId, MeshEpoch};
use quinn::{Connecting, Connection, Incoming};

use crate::{
    counters::Event,
    door::Door,
    hub::{Established, HubSender, Shared, Way, close},
    pair,
    tie::Origin,
};

/// Handshakes under way at once. Each is a connection of quinn's and about
/// 300 us of processor time; a fleet of 32 restarting together needs 31.
const HANDSHAKES_MAX: usize = 128;

/// Above this many the source address must prove itself with a Retry first
/// (`mesh.md` section 7, item 3).
const RETRY_ABOVE: usize = 64;

/// Accepts connections until new work is refused.
pub(crate) async fn accept(shared: Arc<Shared>, hub: HubSender) {
    let stop = shared.tasks.shutdown().token(Stage::RefuseNew);
    // Bounded by HANDSHAKES_MAX in `begin`.
    let mut handshakes: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            // Safe to drop: a token stays cancelled.
            () = stop.cancelled() => break,
            // Safe to drop: what was not ready keeps its place in the set.
            Some(()) = handshakes.next(), if !handshakes.is_empty() => {}
            // Safe to drop: accepting takes a connection only when it is ready.
            incoming = shared.endpoint.accept() => match incoming {
                Some(incoming) => handshakes.extend(begin(&shared, &hub, incoming, handshakes.len())),
                // The endpoint was closed through its handle; the process goes on.
                None => stop.cancelled().await,
            },
        }
    }
}

/// Judges a first packet. Silence unless it knocked.
fn begin(
    shared: &Arc<Shared>,
    hub: &HubSender,
    incoming: Incoming,
    under_way: usize,
) -> Option<BoxFuture<'static, ()>> {
    let (now_ms, now_boot) = (shared.clock.now_wall().as_millis(), shared.clock.now_boot());
    let Some(door) = shared.doors.knocked(&incoming.orig_dst_cid(), now_ms, now_boot) else {
        incoming.ignore();
        return None;
    };
    if under_way >= HANDSHAKES_MAX {
        incoming.ignore();
        return None;
    }
    let must_prove_address = matches!(door.mode, Mode::Pair(_)) || under_way >= RETRY_ABOVE;
    if must_prove_address && !incoming.remote_address_validated() {
        if let Err(error) = incoming.retry() {
            tracing::debug!(%error, "retry is not possible");
            error.into_incoming().ignore();
        }
        return None;
    }
    match incoming.accept_with(door.config.clone()) {
        Ok(connecting) => Some(complete(shared.clone(), hub.clone(), connecting, door).boxed()),
        Err(error) => {
            tracing::debug!(%error, "first packet is not usable");
            None
        }
    }
}

async fn complete(shared: Arc<Shared>, hub: HubSender, connecting: Connecting, door: Arc<Door>) {
    let connection = match tokio::time::timeout(shared.tuning.handshake, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%error, "handshake failed"),
        Err(_) => return tracing::debug!("handshake took too long"),
    };
    let Some(identity) = peer_identity(&connection) else {
        return close(&connection, CLOSE_REFUSED);
    };
    match door.mode {
        Mode::Mesh(epoch) => join_link(&shared, &hub, connection, &identity, epoch, Way::Epoch).await,
        Mode::Rejoin(_) => {
            let epoch = shared.epochs.load().current().epoch;
            join_link(&shared, &hub, connection, &identity, epoch, Way::Rejoin).await;
        }
        Mode::Pair(invite) => enrol(&shared, connection, identity, invite, &door).await,
    }
}

async fn join_link(
    shared: &Shared,
    hub: &HubSender,
    connection: Connection,
    identity: &PeerIdentity,
    epoch: MeshEpoch,
    way: Way,
) {
    let peer = shared.members.load().by_key(&identity.key).map(|member| member.node);
    let hello = decode_json::<Hello>(&identity.hello).ok().filter(|hello| hello.version == FRAME_VERSION);
    let (Some(peer), Some(hello)) = (peer, hello) else {
        return close(&connection, CLOSE_REFUSED);
    };
    let origin = Origin { initiator: peer, peer_incarnation: hello.incarnation };
    if !hub.established(Established { peer, connection, origin, epoch, way, renews: hello.renews }).await {
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

async fn enrol(shared: &Shared, connection: Connection, identity: PeerIdentity, invite: InviteId, door: &Door) {
    let expired = door.expired(shared.clock.now_wall().as_millis());
    let work = pair::answer(shared, &connection, identity, invite, expired);
    match tokio::time::timeout(shared.tuning.spend + shared.tuning.handshake, work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "joiner did not get its answer"),
        Err(_) => tracing::debug!("joiner took too long"),
    }
    close(&connection, osmoda_mesh_protocol::CLOSE_NORMAL);
}

/// Who the handshake proved.
pub(crate) fn peer_identity(connection: &Connection) -> Option<PeerIdentity> {
    connection.peer_identity()?.downcast::<PeerIdentity>().ok().map(|identity| *identity)
}
