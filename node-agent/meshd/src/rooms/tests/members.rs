//! The owner alone: members that come, leave and come back, and what that bounds.

use osmoda_kit::testing::TempRoot;
use osmoda_mesh::state;
use osmoda_mesh_rooms::{Hlc, MessageId, Record, RoomId, Signed, Unverified, Verdict};

use super::alone::{World, said};
use crate::rooms::command::{Command, Standing, Way};

impl World {
    async fn leave(&self) {
        let room = self.room;
        self.ask(|reply| Command::LeaveHere { room, reply }).await.unwrap();
    }

    async fn come_back(&self) {
        let room = self.room;
        assert!(self.ask(|reply| Command::Return { room, reply }).await.unwrap());
    }

    /// A record of a room of the other member, as that one signs it.
    fn sign(&self, record: Record) -> Signed {
        record.sign(|bytes| self.other.sign(bytes)).unwrap()
    }

    /// Whether a record of the other member is taken.
    async fn takes(&self, record: Record) -> bool {
        let (from, signed) = (self.other.node(), self.sign(record));
        let standing = Standing { begins: true, goes_on: true };
        self.ask(|reply| Command::TakeRecord { from, signed, standing, reply }).await
    }

    /// Our own newest number there, and how many of ours the other member lacks.
    async fn pending(&self, room: RoomId) -> (u64, u64) {
        let delivered = self.ask(|reply| Command::Delivery { room, reply }).await.unwrap();
        (delivered.own_seq, delivered.members[0].1.pending(delivered.own_seq))
    }

    async fn acked(&self, message: MessageId) {
        let acked = Command::Acked { from: self.other.node(), id: message, verdict: Verdict::Kept };
        assert!(self.owner.send(acked).await.is_ok());
    }
}

#[tokio::test]
async fn what_went_with_a_room_is_taken_again_after_coming_back() {
    let world = World::new(100, None).await;
    let message = world.message(1, world.now_ms(), "hello".to_owned());
    let (id, wire) = (message.id(), message.wire().to_vec());
    assert_eq!(world.ingest(Way::Pushed, vec![message.clone()]).await, [(id, Verdict::Kept)]);
    world.leave().await;
    world.come_back().await;
    let screened = world.screen(vec![Unverified::decode(&wire).unwrap()]).await;
    assert_eq!((screened.new.len(), screened.judged), (1, vec![]));
    assert_eq!(world.ingest(Way::Healed, vec![message]).await, [(id, Verdict::Kept)]);
    assert_eq!(world.ids().await, [id]);
    world.stop().await;
}

#[tokio::test]
async fn what_was_confirmed_before_leaving_is_asked_for_again() {
    let world = World::new(100, None).await;
    for n in 0..3 {
        world.acked(world.send(format!("{n}")).await.unwrap()).await;
    }
    assert_eq!(world.pending(world.room).await, (3, 0));
    world.leave().await;
    world.come_back().await;
    // The other one may have left meanwhile, too.
    assert_eq!(world.pending(world.room).await, (3, 3));
    world.stop().await;
}

#[tokio::test]
async fn what_was_confirmed_of_one_key_is_not_so_of_another() {
    let world = World::new(100, None).await;
    let root = TempRoot::new();
    let key = state::create_identity(&root.paths().state("mesh")).unwrap();
    let first = world.trap(&world.other, 1);
    let room = first.id();
    assert!(world.takes(first.clone()).await);
    let sent = world.ask(|reply| Command::Send { room, text: "hello".to_owned(), reply }).await.unwrap();
    world.acked(sent.id).await;
    assert_eq!(world.pending(room).await, (1, 0));
    let own = world.own_member.node;
    let second = first.without(&own, Hlc::at(world.now_ms())).with(own, key.identity_key()).unwrap();
    assert!(world.takes(second).await);
    let message = said(room, &key, (1, world.now_ms()), "of the other key".to_owned());
    assert_eq!(world.ingest(Way::Healed, vec![message]).await[0].1, Verdict::Kept);
    assert_eq!(world.pending(room).await, (1, 1));
    world.stop().await;
}
