//! The owner alone: who has a room's slot, and what a session confirms.

use std::time::Duration;

use osmoda_kit::testing::TempRoot;
use osmoda_mesh::state;
use osmoda_mesh_rooms::{Refusal, Ticket};
use osmoda_types::NodeId;
use tokio::sync::{mpsc, oneshot};

use super::alone::World;
use super::world::LIMIT;
use crate::rooms::command::{Answered, Asked, Change, Command, Membership, Release};

impl World {
    /// One more member of the room.
    async fn third(&self) -> NodeId {
        let root = TempRoot::new();
        let identity = state::create_identity(&root.paths().state("mesh")).unwrap();
        let (node, key) = (identity.node(), identity.identity_key());
        let what = Membership::Add { node, key, may_join: false };
        let change = Change { room: self.room, by: self.own_member.node, what };
        self.ask(|reply| Command::Change { change, reply }).await.unwrap();
        node
    }

    /// A peer opens a session; the answer comes with the batch.
    fn opens(&self, from: NodeId) -> oneshot::Receiver<Result<Answered, Refusal>> {
        let (reply, answer) = oneshot::channel();
        let asked = Asked { room: self.room, revision: 9, horizon_ms: 0, fingerprint: [0; 32] };
        assert!(self.owner.try_send(Command::Answer { from, asked, reply }).is_ok());
        answer
    }

    fn release(&self, peer: NodeId, ticket: Ticket) {
        let release = Release { room: self.room, peer, ticket, healed: None };
        assert!(self.owner.try_send(Command::Release(release)).is_ok());
    }
}

#[tokio::test]
async fn who_opens_many_sessions_at_once_has_one_before_others_have_theirs() {
    let world = World::new(100, None).await;
    let (other, third) = (world.other.node(), world.third().await);
    let first = world.opens(other).await.unwrap().unwrap();
    assert_eq!(world.opens(third).await.unwrap().unwrap_err(), Refusal::Busy);
    // In one batch, as they come when all streams of a peer were waiting for this.
    world.release(other, first.ticket);
    let again: Vec<_> = (0..10).map(|_| world.opens(other)).collect();
    let waited = world.opens(third);
    for refused in again {
        assert_eq!(refused.await.unwrap().unwrap_err(), Refusal::Busy);
    }
    assert!(waited.await.unwrap().is_ok());
    world.stop().await;
}

#[tokio::test]
async fn a_session_that_waits_for_others_is_opened_when_they_do_not_come() {
    let world = World::new(100, None).await;
    let (room, other, third) = (world.room, world.other.node(), world.third().await);
    let begun = async || world.ask(|reply| Command::Begin { reply }).await;
    // Nobody reads the queue: it is there so that the peer is linked.
    let (queue, _frames) = mpsc::channel(8);
    assert!(world.owner.try_send(Command::LinkUp { peer: other, queue }).is_ok());
    let first = world.opens(other).await.unwrap().unwrap();
    assert_eq!(world.opens(third).await.unwrap().unwrap_err(), Refusal::Busy);
    world.release(other, first.ticket);
    assert!(world.owner.try_send(Command::Want { room, peer: other }).is_ok());
    assert!(begun().await.is_empty());
    // That somebody waits was said before.
    world.wake.notified().await;
    world.clock.advance(Duration::from_secs(1));
    let opened = async {
        loop {
            world.wake.notified().await;
            if let Some(session) = begun().await.pop() {
                return session.peer;
            }
        }
    };
    assert_eq!(tokio::time::timeout(LIMIT, opened).await.unwrap(), other);
    world.stop().await;
}
