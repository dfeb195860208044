//! One link at work: admits the peer, answers its streams, notices the end.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use osmoda_mesh_protocol::{
    Admitted, Answer, CLOSE_DUPLICATE, CLOSE_GOING, CLOSE_REFUSED, FRAME_VERSION, Limits, Preamble, Service,
    StreamPeer, encode_frame,
};
use osmoda_types::{ErrorCode, NodeId};
use quinn::{RecvStream, SendStream};
use tokio::io::AsyncWriteExt;

use crate::{
    command::HubSender,
    counters::Event,
    dial, gauges,
    hub::close,
    lifetime::{Drain, Due, Lifetime},
    listen::peer_identity,
    made::{Link, millis},
    shared::Shared,
    stream::{MeshStream, Offer, refuse},
    tuning::{PEER_STREAMS_MAX, raise_limits},
};

/// Bound on an [`Admitted`] frame: a few numbers, eight changes of keys at about
/// 530 bytes, and room for later fields.
pub(crate) const ADMITTED_BYTES_MAX: usize = 8 * 1024;

/// The code of a stream that belongs on the link that has followed this one.
const STREAM_MOVED: u32 = 2;

/// How long a link outlives the keys that made it: both ends proved themselves
/// when they held. Longer than two tries of its initiator to make it anew (every
/// 30 s), so that a change of keys costs no link; short, because a change may be
/// the answer to a theft.
pub const KEYS_OVERLAP: Duration = Duration::from_secs(45);

/// Serves a link until it ends, then tells the hub.
pub(crate) async fn serve(shared: Arc<Shared>, hub: HubSender, peer: NodeId, link: Link) {
    match admit(&shared, peer, &link).await {
        Ok(()) => {
            raise_limits(&link.connection);
            work(&shared, &hub, peer, &link).await;
        }
        Err(error) => {
            tracing::debug!(peer = %peer, %error, "link ended before admission");
            close(&link.connection, CLOSE_REFUSED);
        }
    }
    hub.ended(peer, link.connection.stable_id()).await;
}

/// Tells a dialler that it is in, unless that was this node. It has as long for
/// it as the dialler waits: a link is looked after only from then on.
async fn admit(shared: &Shared, peer: NodeId, link: &Link) -> std::io::Result<()> {
    if link.origin.initiator != peer {
        return Ok(());
    }
    tokio::time::timeout(shared.tuning.handshake, say_admitted(shared, link)).await?
}

async fn say_admitted(shared: &Shared, link: &Link) -> std::io::Result<()> {
    let admitted = Admitted {
        version: FRAME_VERSION,
        epoch: link.epoch,
        incarnation: shared.incarnation,
        limits: Limits { streams: PEER_STREAMS_MAX },
        successions: shared.keyring.now().past().to_vec(),
    };
    let frame = encode_frame(&admitted, ADMITTED_BYTES_MAX).map_err(std::io::Error::other)?;
    let mut stream = link.connection.open_uni().await?;
    stream.write_all(&frame).await?;
    stream.finish().map_err(std::io::Error::other)
}

/// Takes the peer's streams and minds the link's age, until it ends.
async fn work(shared: &Arc<Shared>, hub: &HubSender, peer: NodeId, link: &Link) {
    // Bounded by PEER_STREAMS_MAX: quinn lets the peer open no more.
    let mut openings = FuturesUnordered::new();
    let mut age = Age::new(shared, link);
    let mut look = tokio::time::interval(shared.tuning.look);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // At most one: the successor of this link.
    let mut renewal = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            // Safe to drop: what was not ready keeps its place in the set.
            Some(()) = openings.next(), if !openings.is_empty() => {}
            // Safe to drop: what was not ready keeps its place in the set.
            Some(()) = renewal.next(), if !renewal.is_empty() => {}
            // Safe to drop: a tick that was not taken stays due.
            _ = look.tick() => {
                gauges::link(shared, peer, link, shared.clock.now_boot());
                if age.look(shared, peer, link) && renewal.is_empty() {
                    renewal.push(dial::renew(shared, hub, peer, link));
                }
            }
            // Safe to drop: accepting takes the stream only when it is ready.
            stream = link.connection.accept_bi() => match stream {
                Ok((send, recv)) if link.state.followed.load(Ordering::Relaxed) => turn_over(peer, send, recv),
                Ok((send, recv)) => openings.push(open(shared, peer, link, send, recv)),
                Err(reason) => {
                    tracing::debug!(peer = %peer, %reason, "link ended");
                    return;
                }
            },
        }
    }
}

/// A link's age, and what it does about it.
struct Age {
    life: Lifetime,
    drain: Option<Drain>,
    initiator: bool,
    /// Since when one of the keys that made the link is none any more.
    outdated: Option<Duration>,
}

impl Age {
    fn new(shared: &Shared, link: &Link) -> Self {
        let life = Lifetime::new(shared.tuning.periods(), shared.clock.now_boot());
        Self { life, drain: None, initiator: link.origin.initiator == shared.keyring.node(), outdated: None }
    }

    /// Does what is due now; whether the link must be made anew.
    fn look(&mut self, shared: &Shared, peer: NodeId, link: &Link) -> bool {
        let now = shared.clock.now_boot();
        let outdated = link.is_outdated(shared, &peer);
        self.outdated = if outdated { self.outdated.or(Some(now)) } else { None };
        if self.outdated.is_some_and(|since| now.saturating_sub(since) >= KEYS_OVERLAP) {
            tracing::info!(%peer, "link closed: it was made with keys that have been replaced");
            close(&link.connection, CLOSE_GOING);
            return false;
        }
        if link.state.followed.load(Ordering::Relaxed) {
            let drain = self.drain.get_or_insert_with(|| Drain::new(now));
            let in_use = link.state.in_use.others() > 0;
            if drain.over(now, in_use, shared.tuning.drain_quiet, shared.tuning.drain_max) {
                if in_use {
                    tracing::info!(%peer, limit = ?shared.tuning.drain_max, "streams cut with the link they were on");
                }
                close(&link.connection, CLOSE_DUPLICATE);
            }
            return false;
        }
        self.life.updated(key_updates(link), now);
        link.state.keyed_ms.store(millis(self.life.keyed()), Ordering::Relaxed);
        let stale = outdated || link.is_stale(&shared.epochs.load());
        match self.life.look(now, self.initiator, stale) {
            Due::Nothing => false,
            Due::KeyUpdate => {
                let before = key_updates(link);
                link.connection.force_key_update();
                if key_updates(link) != before {
                    shared.counters.note(Event::KeysUpdated);
                }
                false
            }
            Due::Handshake => true,
        }
    }
}

fn key_updates(link: &Link) -> u64 {
    peer_identity(&link.connection).map_or(0, |identity| identity.key_updates)
}

/// Gives a stream back that was opened on a link which another one has followed.
/// Its opener has heard no answer, so it opens it again on that one, which it is
/// about to see.
fn turn_over(peer: NodeId, mut send: SendStream, mut recv: RecvStream) {
    let given_back = send.reset(STREAM_MOVED.into()).is_ok() && recv.stop(STREAM_MOVED.into()).is_ok();
    tracing::debug!(%peer, given_back, "stream opened on a link that is being drained");
}

/// Reads a stream's preamble and hands the stream to its service, or refuses.
async fn open(shared: &Arc<Shared>, peer: NodeId, link: &Link, send: SendStream, mut recv: RecvStream) {
    let limit = shared.tuning.handshake;
    let preamble = tokio::time::timeout(limit, read_preamble(&mut recv)).await;
    let Ok(Some(Preamble { service })) = preamble else {
        return refuse(send, ErrorCode::ServiceDenied, limit).await;
    };
    let who = match judge(shared, peer, link, service) {
        Ok(who) => who,
        Err(code) => {
            tracing::warn!(peer = %peer, %service, %code, "stream refused");
            return refuse(send, code, limit).await;
        }
    };
    let services = shared.services.load_full();
    let Some(queue) = services.get(&service) else {
        return refuse(send, ErrorCode::ServiceDenied, limit).await;
    };
    if send.set_priority(service.priority()).is_ok() {
        queue.put(Offer { peer: who, send, recv, in_use: link.state.in_use.clone(), limit }).await;
    }
}

/// Who the peer is now, if it may call this service here.
fn judge(shared: &Shared, peer: NodeId, link: &Link, service: Service) -> Result<StreamPeer, ErrorCode> {
    let members = shared.members.load();
    let caller = members.by_node(&peer).ok_or(ErrorCode::NotAdmitted)?.role;
    let owner = members.by_node(&shared.keyring.node()).ok_or(ErrorCode::NotAdmitted)?.role;
    if service.allows(caller, owner) {
        Ok(StreamPeer { node: peer, role: caller, epoch: link.epoch, service })
    } else {
        Err(ErrorCode::ServiceDenied)
    }
}

async fn read_preamble(recv: &mut RecvStream) -> Option<Preamble> {
    let mut head = [0; 2];
    recv.read_exact(&mut head).await.ok()?;
    // Refuses a length over its bound before anything is allocated.
    if let Some((preamble, _)) = Preamble::decode(&head).ok()? {
        return Some(preamble);
    }
    let mut bytes = head.to_vec();
    bytes.resize(2 + usize::from(head[1]), 0);
    recv.read_exact(&mut bytes[2..]).await.ok()?;
    Preamble::decode(&bytes).ok()?.map(|(preamble, _)| preamble)
}

/// Opens a stream to a service of the peer: the dialling half of [`open`].
pub(crate) async fn open_stream(link: &Link, service: Service) -> Result<MeshStream, OpenFault> {
    // Held from here, so that a link that is followed waits for the answer.
    let in_use = link.state.in_use.clone();
    let (mut send, mut recv) = link.connection.open_bi().await.map_err(|_| OpenFault::Lost)?;
    send.set_priority(service.priority()).map_err(|_| OpenFault::Lost)?;
    send.write_all(&Preamble { service }.encode()).await.map_err(|_| OpenFault::Lost)?;
    send.flush().await.map_err(|_| OpenFault::Lost)?;
    match read_answer(&mut recv).await {
        Some(Answer::Accepted) => Ok(MeshStream::new(send, recv, in_use)),
        Some(Answer::Refused(code)) => Err(OpenFault::Refused(code)),
        None => Err(OpenFault::Lost),
    }
}

/// Why a stream could not be opened.
pub(crate) enum OpenFault {
    /// The link went away.
    Lost,
    /// The peer said no.
    Refused(ErrorCode),
}

async fn read_answer(recv: &mut RecvStream) -> Option<Answer> {
    let mut bytes = vec![0; 1];
    recv.read_exact(&mut bytes).await.ok()?;
    while Answer::decode(&bytes).ok()?.is_none() {
        // First the length, then as many bytes as it says.
        let more = if bytes.len() == 1 { 1 } else { 2 + usize::from(bytes[1]) - bytes.len() };
        let from = bytes.len();
        bytes.resize(from + more, 0);
        recv.read_exact(&mut bytes[from..]).await.ok()?;
    }
    Answer::decode(&bytes).ok()?.map(|(answer, _)| answer)
}
