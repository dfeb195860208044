//! What this node itself says and decides: messages, rooms, members of its rooms.

use osmoda_kit::clock::Timestamp;
use osmoda_kit::error::ApiError;
use osmoda_mesh_rooms::limits::{
    AHEAD_QUARANTINED, MESSAGE_BYTES_MAX, ROOMS_EVER_PER_CREATOR_MAX, ROOMS_MAX, ROOMS_PER_CREATOR_MAX, TEXT_BYTES_MAX,
};
use osmoda_mesh_rooms::{
    Ahead, Blob, Body, Frame, Hlc, Inserted, Join, Message, MessageError, RecordError, RoomId, RoomLog, Signed, fits,
    judge,
};
use osmoda_types::{ErrorCode, NodeId, PublicKey};

use super::ask::creator_of;
use super::command::{Change, ChangeRefused, Membership, Reply, SentMessage};
use super::owner::{Batch, Owner, unknown_room};
use super::room::Room;
use super::serve::answer;
use super::store::Write;
use crate::counts;

impl Owner {
    /// Writes a message, pushes it when it is durable, and answers then.
    pub(crate) fn send(
        &mut self,
        id: &RoomId,
        text: String,
        batch: &mut Batch,
        reply: Reply<Result<SentMessage, ApiError>>,
    ) {
        match self.compose(id, text, batch) {
            Err(error) => answer(reply, Err(error)),
            Ok((mut sent, frame)) => {
                let id = *id;
                batch.then(move |owner, outcome| {
                    if let Err(code) = outcome {
                        return answer(reply, Err(not_written(code)));
                    }
                    counts::room_message("said");
                    let others: Vec<NodeId> =
                        owner.rooms.get(&id).map_or_else(Vec::new, |room| room.others(owner.own).collect());
                    let (on_its_way, behind) = owner.push(others.into_iter(), &frame);
                    for peer in behind {
                        owner.want(&id, peer);
                    }
                    owner.tell(&id, sent.id);
                    sent.on_its_way = on_its_way;
                    answer(reply, Ok(sent));
                });
            }
        }
    }

    fn compose(&mut self, id: &RoomId, text: String, batch: &mut Batch) -> Result<(SentMessage, Frame), ApiError> {
        self.may_write().map_err(not_written)?;
        let (identity, own, now_ms) = (self.keyring.now(), self.own, self.now_ms());
        let key = self.member_room(id)?.own_key(&own, &identity);
        let kept = self.kept(id, &key);
        let room = self.rooms.get_mut(id).ok_or_else(unknown_room)?;
        // What is forgotten may be ahead of this node's wall clock.
        let horizon_ms = room.log.summary().horizon_ms;
        may_date(self.hlc.last().max(Hlc::at(horizon_ms)), now_ms)?;
        let sign = identity.signer(key).ok_or_else(lost_key)?;
        // Others count the whole message, which is known when it is signed.
        let bytes_max = text.len() + (MESSAGE_BYTES_MAX - TEXT_BYTES_MAX);
        fits(&room.log, room.signed.record().retention, &key, bytes_max, kept).map_err(over_quota)?;
        self.meter.take(*id, key, now_ms).map_err(over_quota)?;
        let known = room.log.author(&key);
        let message = Message {
            room: *id,
            author: key,
            seq: known.seq + 1,
            prev: known.head,
            parents: room.log.parents(&key),
            hlc: self.hlc.tick(now_ms.max(horizon_ms)),
            body: Body::Text(text),
        };
        let signed = message.sign(sign).map_err(|error| match error {
            MessageError::TooLarge(_) => ApiError::new(ErrorCode::TooLarge, error.to_string()),
            _ => ApiError::internal(error),
        })?;
        let inserted = room.log.insert(&signed);
        if !matches!(inserted, Inserted::New { .. }) {
            return Err(ApiError::internal(format!("a message of this node was not taken by its room: {inserted:?}")));
        }
        self.seen.add(signed.id());
        batch.writes.push(Write::Message {
            id: signed.id(),
            room: *id,
            late: false,
            received_ms: i64::try_from(now_ms).unwrap_or(i64::MAX),
            wire: signed.wire().to_vec(),
        });
        batch.authors.insert((*id, key));
        let sent = SentMessage { id: signed.id(), author_seq: signed.message().seq, on_its_way: 0 };
        Ok((sent, Frame::Post(Blob(signed.wire().to_vec()))))
    }

    /// Begins a room whose record this node has signed.
    pub(crate) fn create(&mut self, signed: Signed, batch: &mut Batch, reply: Reply<Result<(), ApiError>>) {
        if let Err(error) = self.has_place_for(&signed) {
            return answer(reply, Err(error));
        }
        let id = signed.id();
        batch.writes.push(Write::Record(signed.clone()));
        self.rooms.insert(id, Room::new(signed, RoomLog::default()));
        batch.then(move |owner, outcome| {
            if outcome.is_ok() {
                owner.push_record_to_all(&id);
            }
            answer(reply, outcome.map_err(not_written));
        });
    }

    /// Whether this node can be in one more room of this creator: a new one, or one
    /// that it knows and is not in now.
    pub(crate) fn has_place_for(&self, signed: &Signed) -> Result<(), ApiError> {
        let is_own = self.keyring.now().holds(&signed.record().creator);
        // By its node: keys cost nothing.
        let creator = creator_of(signed);
        self.has_place(&signed.id(), creator, is_own)
    }

    /// Whether this node can be in the room if this peer made it.
    pub(crate) fn can_join(&self, id: &RoomId, peer: NodeId) -> Result<(), ApiError> {
        match self.rooms.get(id) {
            // It is, or that one did not and says so.
            Some(room) if room.is_of(&self.own) || room.creator != Some(peer) => Ok(()),
            _ => self.has_place(id, Some(peer), false),
        }
    }

    fn has_place(&self, id: &RoomId, creator: Option<NodeId>, is_own: bool) -> Result<(), ApiError> {
        self.may_write().map_err(not_written)?;
        let mine = self.rooms.values().filter(|room| room.is_of(&self.own));
        let of_creator = mine.clone().filter(|room| room.creator == creator).count();
        let others = self.rooms.values().filter(|room| room.creator == creator && room.signed.id() != *id);
        let is_over = of_creator >= ROOMS_PER_CREATOR_MAX || others.count() >= ROOMS_EVER_PER_CREATOR_MAX;
        if mine.count() >= ROOMS_MAX || (!is_own && is_over) {
            let text = format!("a node keeps {ROOMS_MAX} rooms, {ROOMS_PER_CREATOR_MAX} of another creator at most");
            return Err(ApiError::new(ErrorCode::QuotaExceeded, text));
        }
        Ok(())
    }

    /// Changes the members of a room that this node made.
    pub(crate) fn change(&mut self, change: Change, batch: &mut Batch, reply: Reply<Result<Signed, ChangeRefused>>) {
        let signed = match self.next_record(&change) {
            Ok(signed) => signed,
            Err(refused) => return answer(reply, Err(refused)),
        };
        let id = change.room;
        if self.rooms.get(&id).is_some_and(|room| room.signed == signed) {
            // It is so already, on the disk too once this batch is; who asks may not know.
            let store = |code| ChangeRefused::Store(not_written(code));
            return batch.then(move |_, outcome| answer(reply, outcome.map(|()| signed).map_err(store)));
        }
        self.adopt(signed.clone(), batch);
        batch.then(move |owner, outcome| {
            if let Err(code) = outcome {
                return answer(reply, Err(ChangeRefused::Store(not_written(code))));
            }
            owner.push_record_to_all(&id);
            // Who was taken out hears it too, and stops asking.
            if let Membership::Remove { node } = change.what {
                owner.push_record(&id, std::iter::once(node));
            }
            answer(reply, Ok(signed));
        });
    }

    fn next_record(&mut self, change: &Change) -> Result<Signed, ChangeRefused> {
        self.may_write().map_err(|code| ChangeRefused::Store(not_written(code)))?;
        let identity = self.keyring.now();
        let room = self.rooms.get(&change.room).ok_or(ChangeRefused::NotFound)?;
        let record = room.signed.record();
        // A room goes on under the key that made it.
        let Some(sign) = identity.signer(record.creator) else { return Err(ChangeRefused::NotFound) };
        let is_creator = change.by == self.own;
        let next = match change.what {
            Membership::Add { node, key, may_join } => {
                let asks_for_itself = record.join == Join::Fleet && change.by == node && may_join;
                if !is_creator && !record.has(&change.by) && !asks_for_itself {
                    return Err(ChangeRefused::NotFound);
                }
                record.with(node, key).map_err(|_| ChangeRefused::Full)?
            }
            Membership::Remove { node } => {
                // Who was taken out while it was away hears so when it leaves by itself.
                let was_in = record.members.iter().any(|member| member.node == node);
                if !is_creator && (change.by != node || !was_in) {
                    return Err(ChangeRefused::NotFound);
                }
                // A person wants it out now, also on a node whose clock was ahead and was
                // set back. What it dates after this moment would be refused anyway.
                let now_ms = self.now_ms();
                let at = match may_date(self.hlc.last(), now_ms) {
                    Ok(()) => self.hlc.tick(now_ms),
                    Err(_) => Hlc::at(now_ms),
                };
                record.without(&node, at)
            }
        };
        if next.revision == record.revision {
            return Ok(room.signed.clone());
        }
        let signed = next.sign(sign);
        signed.map_err(|error: RecordError| ChangeRefused::Store(ApiError::internal(error)))
    }

    /// Puts a newer record in force: what it does not admit goes, and a room
    /// that this node is not in any more is emptied.
    pub(crate) fn adopt(&mut self, signed: Signed, batch: &mut Batch) {
        let (id, own, identity) = (signed.id(), self.own, self.keyring.now());
        batch.writes.push(Write::Record(signed.clone()));
        let Some(room) = self.rooms.get_mut(&id) else {
            self.rooms.insert(id, Room::new(signed, RoomLog::default()));
            return;
        };
        let own_key = room.own_key(&own, &identity);
        let before = std::mem::replace(&mut room.signed, signed);
        room.refused.clear();
        if !room.has(&own) {
            if std::mem::take(&mut room.has_left) {
                batch.writes.push(Write::NotLeft(id));
            }
            return self.empty(&id, batch);
        }
        let (record, keys) = (room.signed.record().clone(), room.signed.record().keys());
        // Its creator can sign one after the other: not each is a look at all messages.
        let was = before.record().keys();
        if was.lost_with(&keys, room.log.newest()).any(|key| room.log.author(key).messages > 0) {
            let gone = room.log.remove_unless(|author, at| keys.admits(author, at));
            if !gone.is_empty() {
                batch.writes.push(Write::Delete(id, gone));
                // It may name what went and comes back with a later record.
                self.seen.clear();
            }
        }
        // Our own numbers stay: if the key is named again, it goes on counting.
        let is_named = |key: &PublicKey| keys.has(key) || identity.holds(key);
        let forgotten = room.log.forget_authors_unless(is_named);
        self.meter.forget_unless(&id, is_named);
        for key in &forgotten {
            batch.authors.remove(&(id, *key));
        }
        if !forgotten.is_empty() {
            batch.writes.push(Write::ForgetAuthors(id, forgotten));
        }
        room.confirmed.retain(|node, _| record.has(node));
        if room.own_key(&own, &identity) != own_key {
            // What was confirmed are numbers of the key before.
            room.confirmed.clear();
        }
    }

    /// Deletes what a room has: this node is in it no more.
    fn empty(&mut self, id: &RoomId, batch: &mut Batch) {
        let (own, identity) = (self.own, self.keyring.now());
        let Some(room) = self.rooms.get_mut(id) else { return };
        batch.writes.push(Write::Empty(*id));
        batch.authors.retain(|(of, _)| of != id);
        // Its own number stays: if it is added again, it goes on counting.
        let own_key = room.own_key(&own, &identity);
        let known = room.log.author(&own_key);
        room.log = RoomLog::with_summary(*room.log.summary());
        room.log.restore_author(own_key, known.seq, known.head, known.forked);
        batch.authors.insert((*id, own_key));
        room.quarantine.clear();
        // If it is in again, what went comes back, and its numbers may be another key's.
        room.refused.clear();
        room.confirmed.clear();
        self.seen.clear();
        self.meter.forget(id);
        tracing::info!(room = %id, "no member of the room any more");
    }

    /// Leaves a room whose creator is away, was put out or does not want to hear it.
    pub(crate) fn leave_here(&mut self, id: &RoomId, batch: &mut Batch, reply: Reply<Result<(), ApiError>>) {
        let may = self.may_write().map_err(not_written).and_then(|()| self.member_room(id).map(|_| ()));
        if let Err(error) = may {
            return answer(reply, Err(error));
        }
        if let Some(room) = self.rooms.get_mut(id) {
            room.has_left = true;
        }
        batch.writes.push(Write::Left(*id));
        self.empty(id, batch);
        batch.then(move |_, outcome| answer(reply, outcome.map_err(not_written)));
    }

    /// Is in a room again that it left so: its record still has this node.
    pub(crate) fn come_back(&mut self, id: &RoomId, batch: &mut Batch, reply: Reply<Result<bool, ApiError>>) {
        let Some(room) = self.rooms.get(id).filter(|room| room.has_left) else { return answer(reply, Ok(false)) };
        if let Err(error) = self.has_place_for(&room.signed) {
            return answer(reply, Err(error));
        }
        if let Some(room) = self.rooms.get_mut(id) {
            room.has_left = false;
        }
        batch.writes.push(Write::NotLeft(*id));
        let id = *id;
        batch.then(move |owner, outcome| {
            if outcome.is_ok() {
                owner.push_record_to_all(&id);
            }
            answer(reply, outcome.map(|()| true).map_err(not_written));
        });
    }

    /// Sends the record to all other members that are linked.
    pub(crate) fn push_record_to_all(&mut self, id: &RoomId) {
        let Some(room) = self.rooms.get(id) else { return };
        let others: Vec<NodeId> = room.others(self.own).collect();
        self.push_record(id, others.iter().copied());
        for peer in others {
            // Whoever is new has all messages to get.
            self.want(id, peer);
        }
    }

    /// Sends the record to these.
    pub(crate) fn push_record(&mut self, id: &RoomId, nodes: impl Iterator<Item = NodeId>) {
        let Some(room) = self.rooms.get(id) else { return };
        let frame = Frame::Record(Blob(room.signed.wire().to_vec()));
        // A queue that is full is one of a peer that gets it when its link is up again.
        self.push(nodes, &frame);
    }
}

/// Whether others would take what this node dates after this moment. When its clock was
/// ahead and was set back, they would not, and whoever is told that it is sent would not know.
fn may_date(last: Hlc, now_ms: u64) -> Result<(), ApiError> {
    if judge(last, now_ms) != Ahead::Refused {
        return Ok(());
    }
    let ahead_ms = u64::try_from(AHEAD_QUARANTINED.as_millis()).unwrap_or(u64::MAX);
    let until_ms = last.wall_ms().saturating_sub(ahead_ms);
    let until = Timestamp::from_millis(i64::try_from(until_ms).unwrap_or(i64::MAX));
    let text = format!("this node's clock was set back; others would refuse this until {until}");
    Err(ApiError::new(ErrorCode::Conflict, text))
}

/// The answer when a commit failed.
pub(crate) fn not_written(code: ErrorCode) -> ApiError {
    ApiError::new(code, "the message or room could not be written; nothing was changed")
}

/// Its files are gone; nobody else has it.
fn lost_key() -> ApiError {
    ApiError::new(ErrorCode::IdentityMissing, "the key under which this node is in the room is not here any more")
}

fn over_quota(error: osmoda_mesh_rooms::OverQuota) -> ApiError {
    counts::room_over_quota();
    ApiError::new(ErrorCode::QuotaExceeded, error.to_string())
}
