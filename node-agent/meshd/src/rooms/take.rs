//! What others send: messages and records.
//!
//! Checked in this order, cheapest first: known or refused before, member, time,
//! and only then, outside this task, the signature. When the message comes back from
//! there, everything else is checked again, and its author's quota: what is over that is
//! remembered by its id, which must be of a message that its author signed.

use osmoda_mesh_rooms::{
    Ahead, Inserted, Member, MessageId, RoomId, Signed, Unverified, Verdict, Verified, fits, judge,
};
use osmoda_types::NodeId;

use super::ask::creator_of;
use super::command::{Reply, Screened, Standing, Way};
use super::owner::{Batch, Owner};
use super::room::Room;
use super::serve::answer;
use super::store::Write;
use crate::counts;

impl Owner {
    /// Sorts out what needs no look at its signature; answers when what is here is
    /// durable, which came with the same batch maybe.
    pub(crate) fn screen(&self, from: &NodeId, messages: Vec<Unverified>, batch: &mut Batch, reply: Reply<Screened>) {
        let mut screened = Screened::default();
        for message in messages {
            // What is in memory is not on the disk, maybe, and what is new cannot be written.
            let verdict = if self.is_stale() { Some(Verdict::Later) } else { self.judge(from, &message) };
            match verdict {
                Some(verdict) => screened.judged.push((message.id(), verdict)),
                None => screened.new.push(message),
            }
        }
        batch.then(move |_, outcome| {
            if outcome.is_err() {
                keep_later(&mut screened.judged);
            }
            answer(reply, screened);
        });
    }

    /// What can be said of a message without its signature; `None` when it is
    /// new and may come in.
    fn judge(&self, from: &NodeId, message: &Unverified) -> Option<Verdict> {
        let (id, content) = (message.id(), message.message());
        let Some(room) = self.readable(&content.room, from) else { return Some(Verdict::Refused) };
        if self.seen.has(&id) || room.log.contains(&id) {
            return Some(Verdict::Kept);
        }
        if room.quarantine.contains_key(&id) {
            return Some(Verdict::Waits);
        }
        if room.refused.has(&id) {
            return Some(Verdict::Refused);
        }
        let admitted = room.signed.record().admits(&content.author, content.hlc);
        let forgotten = content.hlc.wall_ms() < room.log.summary().horizon_ms;
        let refused = !admitted || forgotten || judge(content.hlc, self.now_ms()) == Ahead::Refused;
        refused.then_some(Verdict::Refused)
    }

    /// Takes messages whose signatures were checked; answers when they are
    /// durable.
    pub(crate) fn ingest(
        &mut self,
        from: NodeId,
        way: Way,
        messages: Vec<Verified>,
        batch: &mut Batch,
        reply: Reply<Vec<(MessageId, Verdict)>>,
    ) {
        if self.may_write().is_err() {
            return answer(reply, messages.iter().map(|message| (message.id(), Verdict::Later)).collect());
        }
        let mut verdicts = Vec::with_capacity(messages.len());
        let mut fresh: Vec<(RoomId, MessageId)> = Vec::new();
        for message in messages {
            let id = message.id();
            let room = message.message().room;
            let verdict = match self.readable(&room, &from) {
                Some(_) => self.take(way, message, batch, &mut fresh),
                None => Verdict::Refused,
            };
            verdicts.push((id, verdict));
        }
        batch.then(move |owner, outcome| {
            if outcome.is_err() {
                keep_later(&mut verdicts);
            } else {
                for (room, id) in fresh {
                    owner.tell(&room, id);
                }
            }
            answer(reply, verdicts);
        });
    }

    /// Takes one message of a room that this node is in.
    fn take(
        &mut self,
        way: Way,
        message: Verified,
        batch: &mut Batch,
        fresh: &mut Vec<(RoomId, MessageId)>,
    ) -> Verdict {
        let (id, room_id, author) = (message.id(), message.message().room, message.message().author);
        let (now_ms, kept) = (self.now_ms(), self.kept(&room_id, &author));
        let Some(room) = self.rooms.get_mut(&room_id) else { return Verdict::Refused };
        if room.log.contains(&id) {
            return Verdict::Kept;
        }
        if !room.signed.record().admits(&author, message.message().hlc) {
            room.refused.add(id);
            return Verdict::Refused;
        }
        let rate = if way == Way::Pushed { self.meter.take(room_id, author, now_ms) } else { Ok(()) };
        let retention = room.signed.record().retention;
        let quota = rate.and_then(|()| fits(&room.log, retention, &author, message.wire().len(), kept));
        if let Err(over) = quota {
            counts::room_over_quota();
            return room.is_over(id, over);
        }
        match self.hlc.observe(message.message().hlc, now_ms) {
            Ahead::Accepted => {}
            Ahead::Quarantined if room.set_aside(message) => return Verdict::Waits,
            // It may be fetched again: clocks come together, and those that wait go.
            Ahead::Quarantined | Ahead::Refused => return Verdict::Refused,
        }
        match room.log.insert(&message) {
            Inserted::Duplicate => Verdict::Kept,
            Inserted::Pruned => {
                room.refused.add(id);
                Verdict::Refused
            }
            Inserted::New { late, fork, liars } => {
                counts::room_message(if way == Way::Pushed { "pushed" } else { "healed" });
                if fork {
                    counts::room_fork();
                    tracing::warn!(room = %room_id, author = %author, message = %id, "author of a room forked");
                }
                self.seen.add(id);
                batch.writes.push(Write::Message {
                    id,
                    room: room_id,
                    late,
                    received_ms: i64::try_from(now_ms).unwrap_or(i64::MAX),
                    wire: message.wire().to_vec(),
                });
                batch.authors.insert((room_id, author));
                batch.authors.extend(liars.into_iter().map(|liar| (room_id, liar)));
                fresh.push((room_id, id));
                Verdict::Kept
            }
        }
    }

    /// Takes waiting messages whose time has come.
    pub(crate) fn release_waiting(&mut self, batch: &mut Batch) {
        if self.may_write().is_err() {
            return;
        }
        let now_ms = self.now_ms();
        let mut ready = Vec::new();
        for room in self.rooms.values_mut() {
            let due = |message: &Verified| judge(message.message().hlc, now_ms) == Ahead::Accepted;
            let ids: Vec<_> = room.quarantine.iter().filter(|(_, message)| due(message)).map(|(id, _)| *id).collect();
            ready.extend(ids.iter().filter_map(|id| room.quarantine.remove(id)));
        }
        if ready.is_empty() {
            return;
        }
        let mut fresh = Vec::new();
        for message in ready {
            self.take(Way::Healed, message, batch, &mut fresh);
        }
        batch.then(move |owner, outcome| {
            if outcome.is_ok() {
                for (room, id) in fresh {
                    owner.tell(&room, id);
                }
            }
        });
    }

    /// Takes a newer record of a room, or that of a room this node was added to.
    /// Who its creator may be was judged by whoever received it.
    pub(crate) fn take_record(
        &mut self,
        from: &NodeId,
        signed: Signed,
        standing: Standing,
        batch: &mut Batch,
        reply: Reply<bool>,
    ) {
        self.tell_who_was_taken_out(*from, &signed, batch);
        if !self.wants_record(from, &signed, standing) {
            return answer(reply, false);
        }
        let id = signed.id();
        tracing::info!(room = %id, revision = signed.record().revision, "room record taken");
        self.adopt(signed, batch);
        batch.then(move |owner, outcome| {
            if outcome.is_ok() {
                let others: Vec<NodeId> =
                    owner.rooms.get(&id).map_or_else(Vec::new, |room| room.others(owner.own).collect());
                for peer in others {
                    owner.want(&id, peer);
                }
            }
            answer(reply, outcome.is_ok());
        });
    }

    /// Whether a record is to be taken: newer, or of a room this node was added to.
    pub(crate) fn wants_record(&self, from: &NodeId, signed: &Signed, standing: Standing) -> bool {
        let identity = self.keyring.now();
        let may_come_in = |signed: &Signed| {
            let names_us = |member: &Member| member.node == self.own && identity.holds(&member.key);
            signed.record().present().any(names_us) && self.has_place_for(signed).is_ok()
        };
        let wanted = match self.rooms.get(&signed.id()) {
            Some(room) => {
                // Under the same node: who was revoked does not become another.
                let same = creator_of(signed) == room.creator;
                // To be added again is as much as to be added.
                let comes_in = !room.has(&self.own) && signed.record().has(&self.own);
                standing.goes_on && same && signed.replaces(&room.signed) && (!comes_in || may_come_in(signed))
            }
            None => standing.begins && signed.record().has(from) && may_come_in(signed),
        };
        // Only this node signs the records of its own rooms.
        wanted && self.may_write().is_ok() && !identity.holds(&signed.record().creator)
    }

    /// Sends the newest record to one who shows an older one with itself in it: it was
    /// not linked when it was taken out. Whoever does not show one hears nothing of the
    /// room, nor of who came later.
    pub(crate) fn tell_who_was_taken_out(&self, from: NodeId, shown: &Signed, batch: &mut Batch) {
        let id = shown.id();
        let is_out = |room: &Room| room.is_of(&self.own) && !room.has(&from) && room.signed.replaces(shown);
        if shown.record().has(&from) && !self.is_stale() && self.rooms.get(&id).is_some_and(is_out) {
            batch.then(move |owner, outcome| {
                if outcome.is_ok() {
                    owner.push_record(&id, std::iter::once(from));
                }
            });
        }
    }

    /// Notes what a member has of our own messages.
    pub(crate) fn acked(&mut self, from: NodeId, id: &MessageId, verdict: Verdict) {
        let (own, identity) = (self.own, self.keyring.now());
        for room in self.rooms.values_mut() {
            let Some(seq) = room.log.seq_of(&room.own_key(&own, &identity), id) else { continue };
            match verdict {
                Verdict::Kept => room.confirmed.entry(from).or_default().add(seq),
                Verdict::Waits | Verdict::Refused | Verdict::Later => {
                    tracing::debug!(peer = %from, message = %id, ?verdict, "a member did not keep a message");
                }
            }
        }
    }
}

/// Nothing was written: what would be kept is taken later.
fn keep_later(verdicts: &mut [(MessageId, Verdict)]) {
    for (_, verdict) in verdicts.iter_mut().filter(|(_, verdict)| *verdict == Verdict::Kept) {
        *verdict = Verdict::Later;
    }
}
