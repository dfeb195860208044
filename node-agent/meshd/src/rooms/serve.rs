//! Answering commands that only look, and handing on those that change.

use osmoda_kit::error::ApiError;
use osmoda_mesh_rooms::{MessageId, RoomId};
use osmoda_types::NodeId;

use super::command::{Command, Delivered, Reply, Said, Shown};
use super::owner::{Batch, Owner};
use super::room::Room;

impl Owner {
    /// Does one command; what must be durable first is answered by the batch.
    pub(crate) fn command(&mut self, command: Command, batch: &mut Batch) {
        match command {
            Command::List(reply) => answer(reply, self.list()),
            // A session offers the record that this shows.
            Command::Show { room, limit, reply } => {
                batch.then(move |owner, _| answer(reply, owner.show(&room, limit)));
            }
            Command::Tail { room, reply } => answer(reply, self.member_room(&room).map(|room| room.tail.subscribe())),
            Command::Line { room, id, reply } => answer(reply, self.line(&room, &id)),
            Command::Delivery { room, reply } => answer(reply, self.delivery(&room)),
            Command::Create { signed, reply } => self.create(signed, batch, reply),
            Command::Change { change, reply } => self.change(change, batch, reply),
            Command::LeaveHere { room, reply } => self.leave_here(&room, batch, reply),
            Command::Return { room, reply } => self.come_back(&room, batch, reply),
            Command::CanJoin { room, peer, reply } => answer(reply, self.can_join(&room, peer)),
            Command::Left { creator, reply } => answer(reply, self.left(&creator)),
            Command::Send { room, text, reply } => self.send(&room, text, batch, reply),
            Command::Unknown { from, messages, reply } => self.screen(&from, messages, batch, reply),
            Command::Ingest { from, way, messages, reply } => self.ingest(from, way, messages, batch, reply),
            Command::TakeRecord { from, signed, standing, reply } => {
                self.take_record(&from, signed, standing, batch, reply);
            }
            Command::HearRecord { from, signed, standing, reply } => {
                self.hear_record(from, signed, standing, batch, reply);
            }
            Command::Acked { from, id, verdict } => self.acked(from, &id, verdict),
            Command::Begin { reply } => self.begin(batch, reply),
            Command::Answer { from, asked, reply } => self.answer_session(from, asked, batch, reply),
            Command::Answered { room, ticket, reply } => {
                let now = self.clock.now_boot();
                let taken = self.rooms.get_mut(&room).is_some_and(|room| room.slot.answered(ticket, now));
                answer(reply, taken);
            }
            Command::Resolve { room, peer, prefixes, reply } => {
                let found = self.readable(&room, &peer).map(|room| room.log.resolve(&prefixes));
                answer(reply, found.unwrap_or_default());
            }
            Command::Sort { room, ids, reply } => {
                answer(reply, self.rooms.get(&room).map(|room| room.log.sorted(&ids)).unwrap_or_default());
            }
            Command::MayRead { room, peer, reply } => answer(reply, self.readable(&room, &peer).is_some()),
            Command::OfferRecord { room, peer } => {
                batch.then(move |owner, _| {
                    if owner.readable(&room, &peer).is_some() {
                        owner.push_stored(&room, peer);
                    }
                });
            }
            Command::Release(release) => self.release(release),
            Command::Want { room, peer } => self.want(&room, peer),
            #[cfg(test)]
            Command::LimitPages { pages, reply } => {
                self.store_mut().limit_pages(pages);
                answer(reply, ());
            }
            #[cfg(test)]
            Command::PruneNow { reply } => {
                self.prune(batch);
                batch.then(move |_, _| answer(reply, ()));
            }
            #[cfg(test)]
            Command::Links { reply } => answer(reply, self.links.keys().copied().collect()),
            Command::LinkUp { peer, queue } => self.link_up(peer, queue, batch),
            Command::LinkDown { peer } => self.link_down(&peer),
        }
    }

    /// A room that this node and the peer are both members of.
    pub(crate) fn readable(&self, room: &RoomId, peer: &NodeId) -> Option<&Room> {
        self.rooms.get(room).filter(|room| room.is_of(&self.own) && room.has(peer))
    }

    /// The rooms of this creator that this node left without its knowing.
    fn left(&self, creator: &NodeId) -> Vec<RoomId> {
        let left = self.rooms.values().filter(|room| room.has_left && room.creator == Some(*creator));
        left.map(|room| room.signed.id()).collect()
    }

    fn list(&self) -> Vec<Shown> {
        self.rooms.values().filter(|room| room.is_of(&self.own)).map(shown).collect()
    }

    fn show(&self, room: &RoomId, limit: usize) -> Result<(Shown, Vec<Said>), ApiError> {
        let room = self.member_room(room)?;
        let said = room.log.last(limit).into_iter().filter_map(|line| {
            let node = room.node_of(&line.author)?;
            Some(Said { line, node })
        });
        Ok((shown(room), said.collect()))
    }

    fn line(&self, room: &RoomId, id: &MessageId) -> Option<Said> {
        let room = self.member_room(room).ok()?;
        let line = room.log.line_of(id)?;
        Some(Said { line, node: room.node_of(&line.author)? })
    }

    fn delivery(&self, room: &RoomId) -> Result<Delivered, ApiError> {
        let room = self.member_room(room)?;
        let of = |node: NodeId| (node, room.confirmed.get(&node).cloned().unwrap_or_default());
        let own_seq = room.ours(&self.own, &self.keyring.now()).seq;
        Ok(Delivered { own_seq, members: room.others(self.own).map(of).collect() })
    }

    fn link_up(&mut self, peer: NodeId, queue: super::command::Queue, batch: &mut Batch) {
        self.links.insert(peer, queue);
        batch.then(move |owner, _| {
            let shared = owner.rooms.values().filter(|room| room.is_of(&owner.own) && room.has(&peer));
            for id in shared.map(|room| room.signed.id()).collect::<Vec<_>>() {
                owner.push_stored(&id, peer);
                // One of the two opens the session; both would cross.
                if owner.own < peer {
                    owner.want(&id, peer);
                }
            }
        });
    }

    /// Sends one peer the record that is on disk. For after a batch: if that failed, the
    /// memory is what the disk says again. Before, it may have a revision that is lost then,
    /// and the next change is another one with its number.
    fn push_stored(&mut self, id: &RoomId, peer: NodeId) {
        if !self.is_stale() {
            self.push_record(id, std::iter::once(peer));
        }
    }

    fn link_down(&mut self, peer: &NodeId) {
        self.links.remove(peer);
        for room in self.rooms.values_mut() {
            room.slot.forget(peer);
        }
    }
}

fn shown(room: &Room) -> Shown {
    Shown {
        signed: room.signed.clone(),
        messages: room.log.len(),
        bytes: room.log.bytes(),
        summary: *room.log.summary(),
    }
}

/// Answers; whoever asked may be gone.
pub(crate) fn answer<T>(reply: Reply<T>, value: T) {
    if reply.send(value).is_err() {
        tracing::trace!("nobody waits for the answer");
    }
}
