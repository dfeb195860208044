//! The owner alone: who has a room's slot, and what a session confirms.

use std::time::Duration;

use osmoda_kit::testing::TempRoot;
use osmoda_mesh::state;
use osmoda_mesh_rooms::{Hlc, Refusal, Snapshot, Ticket, Verdict};
use osmoda_types::NodeId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::alone::{World, said};
use super::world::LIMIT;
use crate::rooms::command::{Answered, Asked, Change, Command, Healed, Membership, Release, Way};
use crate::rooms::session::SESSIONS;

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
async fn who_opens_sessions_without_end_has_so_many_and_others_have_theirs() {
    let world = World::new(100, None).await;
    let (other, third) = (world.other.node(), world.third().await);
    let opened = async |count: u32| {
        let mut opened = 0;
        for _ in 0..count {
            match world.opens(other).await.unwrap() {
                Ok(answered) => {
                    opened += 1;
                    world.release(other, answered.ticket);
                }
                Err(refusal) => assert_eq!(refusal, Refusal::Busy),
            }
        }
        opened
    };
    assert_eq!(opened(400).await, SESSIONS.burst);
    let answered = world.opens(third).await.unwrap().unwrap();
    // Who is told that it is busy because another one has the slot uses up nothing.
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(opened(100).await, 0);
    world.release(third, answered.ticket);
    assert_eq!(opened(100).await, SESSIONS.per_second);
    world.stop().await;
}

#[tokio::test]
async fn a_peer_that_is_always_busy_is_known_by_how_often_it_was_asked() {
    let world = World::new(100, None).await;
    let (room, peer) = (world.room, world.other.node());
    let begun = async || {
        assert!(world.owner.try_send(Command::Want { room, peer }).is_ok());
        world.ask(|reply| Command::Begin { reply }).await.pop().unwrap()
    };
    // Nobody reads the queue: it is there so that the peer is linked.
    let (queue, _frames) = mpsc::channel(8);
    assert!(world.owner.try_send(Command::LinkUp { peer, queue }).is_ok());
    for n in 1..=3 {
        let begin = begun().await;
        assert_eq!(begin.in_vain, n);
        world.release(peer, begin.ticket);
    }
    let ticket = begun().await.ticket;
    assert!(world.ask(|reply| Command::Answered { room, ticket, reply }).await);
    world.release(peer, ticket);
    assert_eq!(begun().await.in_vain, 1);
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

/// Time goes on only while this waits.
#[tokio::test(start_paused = true)]
async fn nobody_is_woken_for_who_waits_in_a_room_that_was_left() {
    let world = World::new(100, None).await;
    let (room, peer) = (world.room, world.other.node());
    // Nobody reads the queue: it is there so that the peer is linked.
    let (queue, _frames) = mpsc::channel(8);
    assert!(world.owner.try_send(Command::LinkUp { peer, queue }).is_ok());
    assert!(world.owner.try_send(Command::Want { room, peer }).is_ok());
    for _ in 0..3 {
        assert!(timeout(LIMIT, world.wake.notified()).await.is_ok());
    }
    world.ask(|reply| Command::LeaveHere { room, reply }).await.unwrap();
    // What was said before.
    drop(timeout(Duration::from_millis(1), world.wake.notified()).await);
    assert!(timeout(LIMIT, world.wake.notified()).await.is_err());
    world.stop().await;
}

#[tokio::test]
async fn what_is_older_than_a_session_looks_at_is_not_confirmed_by_it() {
    let world = World::new(100, None).await;
    let (room, other) = (world.room, world.other.node());
    world.send("the other one has forgotten this time".to_owned()).await.unwrap();
    world.clock.advance(Duration::from_millis(10));
    let horizon_ms = world.now_ms();
    let nothing = Snapshot { horizon_ms, items: vec![] }.fingerprint();
    let asked = Asked { room, revision: 1, horizon_ms, fingerprint: nothing };
    let answered = world.ask(|reply| Command::Answer { from: other, asked, reply }).await.unwrap();
    assert!(answered.equal);
    let healed = |of: &Answered| Some(Healed { ours: of.ours, horizon_ms: of.snapshot.horizon_ms });
    let release = Release { room, peer: other, ticket: answered.ticket, healed: healed(&answered) };
    assert!(world.owner.try_send(Command::Release(release)).is_ok());
    assert_eq!(world.pending(room).await, (1, 1));
    // What is newer is, though that one is not.
    let newer = world.send("newer".to_owned()).await.unwrap();
    let fingerprint = Snapshot { horizon_ms, items: vec![(horizon_ms, newer)] }.fingerprint();
    let asked = Asked { fingerprint, ..asked };
    let answered = world.ask(|reply| Command::Answer { from: other, asked, reply }).await.unwrap();
    assert!(answered.equal);
    let release = Release { ticket: answered.ticket, healed: healed(&answered), ..release };
    assert!(world.owner.try_send(Command::Release(release)).is_ok());
    assert_eq!(world.pending(room).await, (2, 1));
    // Forgotten here too, nobody can have it from this node.
    world.clock.advance(Duration::from_secs(2 * 24 * 3600));
    world.ask(|reply| Command::PruneNow { reply }).await;
    let answered = world.opens(other).await.unwrap().unwrap();
    let release = Release { ticket: answered.ticket, healed: healed(&answered), ..release };
    assert!(world.owner.try_send(Command::Release(release)).is_ok());
    assert_eq!(world.pending(room).await, (2, 0));
    world.stop().await;
}

#[tokio::test]
async fn a_session_in_which_this_node_gets_another_key_confirms_nothing_of_that() {
    let world = World::new(100, None).await;
    let (own, other, root) = (world.own_member.node, world.other.node(), TempRoot::new());
    let key = state::create_identity(&root.paths().state("mesh")).unwrap();
    let first = world.trap(&world.other, 1);
    let room = first.id();
    assert!(world.takes(first.clone()).await);
    world.ask(|reply| Command::Send { room, text: "hello".to_owned(), reply }).await.unwrap();
    let asked = Asked { room, revision: 3, horizon_ms: 0, fingerprint: [0; 32] };
    let answered = world.ask(|reply| Command::Answer { from: other, asked, reply }).await.unwrap();
    // As it comes with the answer.
    let second = first.without(&own, Hlc::at(world.now_ms())).with(own, key.identity_key()).unwrap();
    assert!(world.takes(second).await);
    let healed = Some(Healed { ours: answered.ours, horizon_ms: 0 });
    let release = Release { room, peer: other, ticket: answered.ticket, healed };
    assert!(world.owner.try_send(Command::Release(release)).is_ok());
    let message = said(room, &key, (1, world.now_ms()), "of the other key".to_owned());
    assert_eq!(world.ingest(Way::Healed, vec![message]).await[0].1, Verdict::Kept);
    assert_eq!(world.pending(room).await, (1, 1));
    world.stop().await;
}

#[tokio::test]
async fn a_session_with_one_who_is_taken_out_confirms_nothing_for_when_it_is_back() {
    let world = World::new(100, None).await;
    let (room, node, key, by) = (world.room, world.other.node(), world.other.identity_key(), world.own_member.node);
    world.send("hello".to_owned()).await.unwrap();
    let answered = world.opens(node).await.unwrap().unwrap();
    let remove = Change { room, by, what: Membership::Remove { node } };
    world.ask(|reply| Command::Change { change: remove, reply }).await.unwrap();
    let healed = Some(Healed { ours: answered.ours, horizon_ms: 0 });
    let release = Release { room, peer: node, ticket: answered.ticket, healed };
    assert!(world.owner.try_send(Command::Release(release)).is_ok());
    let add = Change { room, by, what: Membership::Add { node, key, may_join: false } };
    world.ask(|reply| Command::Change { change: add, reply }).await.unwrap();
    assert_eq!(world.pending(room).await, (1, 1));
    world.stop().await;
}
