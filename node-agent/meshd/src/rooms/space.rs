//! What is forgotten: by a room's own retention, and when a bound is reached that its
//! creator's rooms or all rooms of this node have together.
//!
//! The second is this node's alone: others may keep what goes here, and do not offer it
//! again. Without it a few rooms that each keep what they may would refuse everything that
//! is new, until the oldest is too old.

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

    /// Has rooms forget their oldest where nothing more could be kept.
    pub(crate) fn make_space(&mut self, batch: &mut Batch) {
        if self.may_write().is_err() {
            return;
        }
        let share = |room: &Room| Share { room: room.signed.id(), creator: room.creator, messages: room.log.len() };
        let shares: Vec<Share> = self.rooms.values().map(share).collect();
        for id in too_full(&self.own, &shares) {
            if let Some(room) = self.rooms.get_mut(&id) {
                batch.writes.extend(room.make_space());
            }
        }
    }
}
