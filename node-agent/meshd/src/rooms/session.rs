//! Which rooms are healed with whom, as the owner of the rooms sees it.

use osmoda_mesh_protocol::Rate;
use osmoda_mesh_rooms::{Refusal, RoomId};
use osmoda_types::NodeId;

use super::command::{Answered, Asked, Begin, Healed, Release, Reply};
use super::owner::{Batch, Owner};
use super::serve::answer;

/// Sessions that one peer may open here: each costs a snapshot of all ids of a room and
/// their hash, some milliseconds of the owner. All rooms of a node some times over, as after
/// an absence, and then eight times what 64 rooms take that are healed each 30 s. With less
/// a peer would be told that it is busy where nobody is.
pub(crate) const SESSIONS: Rate = Rate { per_second: 16, burst: 256 };

impl Owner {
    /// Begins the sessions that may be; answers when all that they are about is durable.
    pub(crate) fn begin(&mut self, batch: &mut Batch, reply: Reply<Vec<Begin>>) {
        let mut begun = self.take_slots();
        batch.then(move |owner, outcome| {
            if outcome.is_err() {
                for Begin { room, peer, ticket, .. } in begun.drain(..) {
                    owner.release(Release { room, peer, ticket, healed: None });
                    owner.want(&room, peer);
                }
            }
            answer(reply, begun);
        });
    }

    /// Takes the slot of every room that has somebody waiting.
    fn take_slots(&mut self) -> Vec<Begin> {
        if self.is_stale() {
            return Vec::new();
        }
        let identity = self.keyring.now();
        let (own, links, now) = (self.own, &self.links, self.clock.now_boot());
        let mut begun = Vec::new();
        for (id, room) in self.rooms.iter_mut().filter(|(_, room)| room.is_of(&own)) {
            let Some((peer, ticket)) = room.slot.open(now, random()) else { continue };
            if !room.signed.record().has(&peer) || !links.contains_key(&peer) {
                room.slot.release(ticket, now);
                self.wake.notify_one();
                continue;
            }
            begun.push(Begin {
                room: *id,
                peer,
                ticket,
                revision: room.signed.record().revision,
                snapshot: room.snapshot(0),
                skip: room.skipped(),
                ours: room.ours(&own, &identity),
                in_vain: room.slot.in_vain(&peer),
            });
        }
        begun
    }

    /// Takes part in a session that a peer opens; answers when all that it is about is
    /// durable.
    pub(crate) fn answer_session(
        &mut self,
        from: NodeId,
        asked: Asked,
        batch: &mut Batch,
        reply: Reply<Result<Answered, Refusal>>,
    ) {
        let answered = self.judge_session(from, asked);
        batch.then(move |owner, outcome| {
            let answered = answered.and_then(|answered| {
                if outcome.is_ok() {
                    return Ok(answered);
                }
                let ticket = answered.ticket;
                owner.release(Release { room: asked.room, peer: from, ticket, healed: None });
                Err(Refusal::Store)
            });
            answer(reply, answered);
        });
    }

    /// Judges a session that a peer opens, and takes the slot for it.
    fn judge_session(&mut self, from: NodeId, asked: Asked) -> Result<Answered, Refusal> {
        let (own, identity, is_stale) = (self.own, self.keyring.now(), self.is_stale());
        let room = self.rooms.get_mut(&asked.room).ok_or(Refusal::NotFound)?;
        let record = room.signed.record();
        if !room.is_of(&own) || !record.has(&from) {
            return Err(Refusal::NotFound);
        }
        if is_stale {
            return Err(Refusal::Store);
        }
        let revision = record.revision;
        let now = self.clock.now_boot();
        let ticket = room.slot.answer(&own, from, now).ok_or(Refusal::Busy)?;
        // Whoever waits for the slot may ask as often as it likes: that costs nothing.
        if !self.sessions.take(from) {
            room.slot.release(ticket, now);
            return Err(Refusal::Busy);
        }
        let snapshot = room.snapshot(asked.horizon_ms);
        // The opener's set from a later horizon on is not known from its hash.
        let equal = snapshot.horizon_ms == asked.horizon_ms && snapshot.fingerprint() == asked.fingerprint;
        Ok(Answered {
            ticket,
            equal,
            snapshot,
            record: (revision > asked.revision).then(|| room.signed.clone()),
            wants_record: revision < asked.revision,
            ours: room.ours(&own, &identity),
        })
    }

    /// Frees the slot.
    pub(crate) fn release(&mut self, release: Release) {
        let (now, since_boot) = (self.clock.now_wall(), self.clock.now_boot());
        let identity = self.keyring.now();
        if let Some(room) = self.rooms.get_mut(&release.room) {
            room.slot.release(release.ticket, since_boot);
            let is_as_before =
                |healed: &Healed| room.has(&release.peer) && room.own_key(&self.own, &identity) == healed.ours.key;
            if let Some(healed) = release.healed.filter(is_as_before) {
                room.healed(release.peer, healed, now);
            }
        }
        self.wake.notify_one();
    }

    /// Asks for a session with a linked member.
    pub(crate) fn want(&mut self, room: &RoomId, peer: NodeId) {
        if !self.links.contains_key(&peer) {
            return;
        }
        if let Some(room) = self.rooms.get_mut(room)
            && room.has(&peer)
            && room.is_of(&self.own)
        {
            room.slot.want(peer);
            self.wake.notify_one();
        }
    }

    /// Wakes whoever opens sessions for rooms in which somebody lets others go first, who
    /// did not come.
    pub(crate) fn wake_for_waiting(&self) {
        // In a room that was left nobody is asked any more.
        if self.rooms.values().any(|room| room.is_of(&self.own) && room.slot.is_ready()) {
            self.wake.notify_one();
        }
    }

    /// Once per period: each room with one random linked member.
    pub(crate) fn want_one_each(&mut self) {
        let ids: Vec<RoomId> = self.rooms.keys().copied().collect();
        for id in ids {
            let Some(room) = self.rooms.get(&id) else { continue };
            let linked: Vec<NodeId> = room.others(self.own).filter(|node| self.links.contains_key(node)).collect();
            if linked.is_empty() {
                continue;
            }
            // Below the length, so it fits.
            let place = (random() % linked.len() as u64) as usize;
            self.want(&id, linked[place]);
        }
    }
}

/// A number nobody can foresee; where the system has none, the first comes first.
pub(crate) fn random() -> u64 {
    getrandom::u64().unwrap_or(0)
}
