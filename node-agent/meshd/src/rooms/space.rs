//! What is forgotten: by a room's own retention, and when a bound is reached that its
//! creator's rooms or all rooms of this node have together.
//!
//! What is over a bound is looked at each second, and what is too old each minute.
//! Invariant: a room takes nothing while it has more than `FULL_SLACK_PERCENT` over what it
//! may keep, or over `ROOM_MESSAGES_MIN` messages if it may keep fewer
//! (`tests::owner::a_room_takes_no_more_than_it_can_forget_in_time`). So it has one message
//! more than that at most; but after a record that lowers its retention it has what it had,
//! until it is looked at.
//!
//! What goes for a bound of several rooms goes on this node alone: others may keep it, and
//! do not offer it again. Without it a few rooms that each keep what they may would refuse
//! everything that is new, until the oldest is too old.

use osmoda_mesh_rooms::{Share, too_full};

use super::owner::{Batch, Owner};
use super::room::Room;

impl Owner {
    /// Looks at every room's retention.
    pub(crate) fn prune(&mut self, batch: &mut Batch) {
        if self.may_write().is_err() {
            return;
        }
        let now_ms = self.now_ms();
        for room in self.rooms.values_mut() {
            batch.writes.extend(room.prune(now_ms));
        }
    }

    /// Messages went: in every room there may be a place for an author that had more than
    /// its share of several of them.
    pub(crate) fn ask_again(&mut self) {
        for room in self.rooms.values_mut().filter(|room| room.waits_for_others) {
            room.waits_for_others = false;
            room.refused.clear();
        }
    }

    /// Has rooms forget their oldest where nothing more could be kept soon.
    pub(crate) fn make_space(&mut self, batch: &mut Batch) {
        if self.may_write().is_err() {
            return;
        }
        // What is only old can wait for `prune`: it is no more than it was.
        let now_ms = self.now_ms();
        for room in self.rooms.values_mut().filter(|room| room.is_over_retention()) {
            batch.writes.extend(room.prune(now_ms));
        }
        let shares: Vec<Share> = self.rooms.values().map(Room::share).collect();
        for id in too_full(&self.own, &shares) {
            if let Some(room) = self.rooms.get_mut(&id) {
                batch.writes.extend(room.make_space());
            }
        }
    }
}
