//! Records that others send without being asked, in pushes and in sessions.
//!
//! A creator can sign one after the other, and who may join and leave by itself has it do
//! so; each is a write here, and has all refused messages come again. Invariant: of one
//! room one is taken between two ticks, and of those that come meanwhile the newest at the
//! next one (`tests::members::of_many_records_one_is_taken_at_a_time_and_the_newest_in_the_end`).
//! Nobody waits for that: whoever sends one is answered at once, and what it admits is
//! healed when it is taken. The answer to a question of this node is taken at once
//! (`Owner::take_record`): there are no more of them than questions.

use osmoda_mesh_rooms::Signed;
use osmoda_types::NodeId;
use tokio::sync::oneshot;

use super::command::{Reply, Standing};
use super::owner::{Batch, Owner};
use super::serve::answer;

/// What was heard of a room's record since the last tick.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// One was taken.
    has_taken: bool,
    /// The newest that came after it.
    next: Option<Sent>,
}

#[derive(Debug)]
struct Sent {
    from: NodeId,
    signed: Signed,
    standing: Standing,
}

impl Heard {
    fn keep(&mut self, sent: Sent) {
        if self.next.as_ref().is_none_or(|next| sent.signed.replaces(&next.signed)) {
            self.next = Some(sent);
        }
    }
}

impl Owner {
    /// Takes a record that a peer sends, now or with the next tick; answers false when it
    /// changes nothing yet.
    pub(crate) fn hear_record(
        &mut self,
        from: NodeId,
        signed: Signed,
        standing: Standing,
        batch: &mut Batch,
        reply: Reply<bool>,
    ) {
        let (id, is_wanted) = (signed.id(), self.wants_record(&from, &signed, standing));
        if let Some(room) = self.rooms.get_mut(&id).filter(|room| is_wanted && room.heard.has_taken) {
            room.heard.keep(Sent { from, signed, standing });
            return answer(reply, false);
        }
        self.take_record(&from, signed, standing, batch, reply);
        if let Some(room) = self.rooms.get_mut(&id).filter(|_| is_wanted) {
            room.heard.has_taken = true;
        }
    }

    /// Takes what came since the last tick.
    pub(crate) fn take_heard(&mut self, batch: &mut Batch) {
        if self.may_write().is_err() {
            return;
        }
        let heard = self.rooms.values_mut().filter_map(|room| std::mem::take(&mut room.heard).next);
        for Sent { from, signed, standing } in heard.collect::<Vec<_>>() {
            // Who sent it was answered.
            let (reply, _) = oneshot::channel();
            self.hear_record(from, signed, standing, batch, reply);
        }
    }
}
