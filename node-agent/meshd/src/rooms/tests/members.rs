//! The owner alone: members that come, leave and come back, and what that bounds.

use std::sync::Arc;

use osmoda_kit::testing::TempRoot;
use osmoda_mesh::state;
use osmoda_mesh_rooms::limits::ROOMS_PER_CREATOR_MAX;
use osmoda_mesh_rooms::{Blob, Frame, Hlc, Member, MessageId, Record, RoomId, Signed, Verdict};
use osmoda_types::{ErrorCode, NodeId, PublicKey};
use tokio::sync::{mpsc, oneshot};

use super::alone::{World, said, unverified};
use crate::rooms::command::{Change, ChangeRefused, Command, Membership, Standing, Way};
use crate::rooms::owner::{Batch, Owner};

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
    pub(super) async fn takes(&self, record: Record) -> bool {
        let (from, signed) = (self.other.node(), self.sign(record));
        let standing = Standing { begins: true, goes_on: true };
        self.ask(|reply| Command::TakeRecord { from, signed, standing, reply }).await
    }

    /// Our own newest number there, and how many of ours the other member lacks.
    pub(super) async fn pending(&self, room: RoomId) -> (u64, u64) {
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
    let id = message.id();
    assert_eq!(world.ingest(Way::Pushed, vec![message.clone()]).await, [(id, Verdict::Kept)]);
    world.leave().await;
    world.come_back().await;
    let screened = world.screen(vec![unverified(&message)]).await;
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

#[tokio::test]
async fn who_is_not_named_any_more_is_forgotten() {
    let (world, mut owner, _commands, _) = World::at_rest(100, 1);
    let root = TempRoot::new();
    let key = state::create_identity(&root.paths().state("mesh")).unwrap();
    let (own, now) = (world.own_member, world.now_ms());
    let first = world.trap(&world.other, 1);
    let (room, hello) = (first.id(), "hello".to_owned());
    let past = Member { node: NodeId::from_bytes([7; 32]), key: key.identity_key(), left: Some(Hlc::at(now)) };
    let named = Record { members: [&first.members[..], &[past]].concat(), ..first.clone() };
    // This node is in it under a key that it does not have.
    let unnamed = Record {
        revision: 2,
        members: vec![first.members[0], Member { key: PublicKey::from_bytes([8; 32]), ..own }],
        ..first
    };
    let mut batch = Batch::default();
    owner.adopt(world.sign(named), &mut batch);
    let (reply, verdicts) = oneshot::channel();
    owner.ingest(world.other.node(), Way::Pushed, vec![said(room, &key, (1, now), hello.clone())], &mut batch, reply);
    let (reply, sent) = oneshot::channel();
    owner.send(&room, hello, &mut batch, reply);
    while owner.meter.take(room, past.key, now).is_ok() {}
    owner.commit(batch).await;
    assert!(verdicts.await.unwrap()[0].1 == Verdict::Kept && sent.await.unwrap().is_ok());
    let known = |owner: &Owner| owner.rooms[&room].log.authors().map(|(key, _)| *key).collect::<Vec<_>>();
    assert_eq!(known(&owner).len(), 2);
    let mut batch = Batch::default();
    owner.adopt(world.sign(unnamed), &mut batch);
    owner.commit(batch).await;
    // If our own key is named again, it must not use its number again.
    assert_eq!(known(&owner), [own.key]);
    assert_eq!(owner.meter.take(room, past.key, now), Ok(()));
    let stored = owner.store_mut().load().unwrap().pop().unwrap().log;
    assert!(owner.rooms[&room].log.is_empty() && stored.is_empty(), "nor what they said");
    assert_eq!(stored.authors().map(|(key, author)| (*key, author.seq)).collect::<Vec<_>>(), [(own.key, 1)]);
    drop(owner);
    world.stop().await;
}

#[tokio::test]
async fn of_many_records_one_is_taken_at_a_time_and_the_newest_in_the_end() {
    let (world, mut owner, _commands, _) = World::at_rest(100, 1);
    let (from, first) = (world.other.node(), world.trap(&world.other, 1));
    let room = first.id();
    let hear = async |owner: &mut Owner, revision: u64| {
        let signed = world.sign(Record { revision, ..first.clone() });
        let (mut batch, (reply, taken)) = (Batch::default(), oneshot::channel());
        owner.hear_record(from, signed, Standing { begins: true, goes_on: true }, &mut batch, reply);
        owner.commit(batch).await;
        (taken.await.unwrap(), owner.rooms[&room].signed.record().revision)
    };
    assert_eq!(hear(&mut owner, 2).await, (true, 2));
    for revision in [4, 6, 5, 1] {
        assert_eq!(hear(&mut owner, revision).await, (false, 2));
    }
    for (heard, expected) in [(7, 6), (3, 7), (6, 7)] {
        let mut batch = Batch::default();
        owner.take_heard(&mut batch);
        owner.commit(batch).await;
        assert_eq!(owner.store_mut().load().unwrap()[0].signed.record().revision, expected);
        assert_eq!(hear(&mut owner, heard).await, (false, expected));
    }
    // Nothing came since, so the next one is taken as it comes.
    owner.take_heard(&mut Batch::default());
    assert_eq!(hear(&mut owner, 9).await, (true, 9));
    drop(owner);
    world.stop().await;
}

#[tokio::test]
async fn rooms_in_which_this_node_is_put_back_are_bounded_as_new_ones_are() {
    let world = World::new(100, None).await;
    let (own, count) = (world.own_member.node, ROOMS_PER_CREATOR_MAX + 2);
    let mut left = Vec::new();
    for n in 0..count {
        let made = world.trap(&world.other, n as u128);
        let without = made.without(&own, Hlc::at(1));
        assert!(world.takes(made).await && world.takes(without.clone()).await);
        left.push(without);
    }
    for (n, without) in left.iter().enumerate() {
        let back = without.with(own, world.own_member.key).unwrap();
        assert_eq!(world.takes(back).await, n < ROOMS_PER_CREATOR_MAX, "room {n}");
    }
    assert_eq!(world.ask(Command::List).await.len(), 1 + ROOMS_PER_CREATOR_MAX);
    world.stop().await;
}

#[tokio::test]
async fn nobody_is_put_back_under_a_key_of_another() {
    let world = World::new(100, None).await;
    let own = world.own_member.node;
    let made = world.trap(&world.other, 1);
    let without = made.without(&own, Hlc::at(1));
    let back = without.with(own, world.other.identity_key()).unwrap();
    assert!(world.takes(made).await && world.takes(without).await);
    assert!(!world.takes(back).await);
    world.stop().await;
}

#[tokio::test]
async fn coming_back_needs_a_place_as_well() {
    let world = World::new(100, None).await;
    let made = |n: usize| world.trap(&world.other, n as u128);
    for n in 0..ROOMS_PER_CREATOR_MAX {
        assert!(world.takes(made(n)).await);
    }
    let room = made(0).id();
    world.ask(|reply| Command::LeaveHere { room, reply }).await.unwrap();
    assert!(world.takes(made(ROOMS_PER_CREATOR_MAX)).await);
    let back = world.ask(|reply| Command::Return { room, reply }).await;
    assert_eq!(back.unwrap_err().code, ErrorCode::QuotaExceeded);
    let other = made(1).id();
    world.ask(|reply| Command::LeaveHere { room: other, reply }).await.unwrap();
    assert!(world.ask(|reply| Command::Return { room, reply }).await.unwrap());
    world.stop().await;
}

#[tokio::test]
async fn only_who_shows_an_older_record_with_itself_in_it_hears_of_the_newest() {
    let world = World::new(100, None).await;
    let (room, node) = (world.room, world.other.node());
    let show = async || world.ask(|reply| Command::Show { room, limit: 0, reply }).await.unwrap().0.signed;
    let older = show().await;
    let remove = Change { room, by: world.own_member.node, what: Membership::Remove { node } };
    let newest = world.ask(|reply| Command::Change { change: remove, reply }).await.unwrap();
    let standing = Standing { begins: true, goes_on: true };
    let stranger = NodeId::from_bytes([9; 32]);
    for (from, signed, hears) in [(node, &older, true), (node, &newest, false), (stranger, &older, false)] {
        let (queue, mut frames) = mpsc::channel(4);
        assert!(world.owner.send(Command::LinkUp { peer: from, queue }).await.is_ok());
        let signed = signed.clone();
        assert!(!world.ask(|reply| Command::TakeRecord { from, signed, standing, reply }).await);
        world.ask(Command::List).await;
        let told = frames.try_recv().ok().map(|bytes: Arc<Vec<u8>>| Frame::decode(&bytes[4..]).unwrap());
        assert_eq!(told, hears.then(|| Frame::Record(Blob(newest.wire().to_vec()))));
    }
    // It may leave what it is not in any more.
    let leave = |by| Change { room, by, what: Membership::Remove { node: by } };
    let left = world.ask(|reply| Command::Change { change: leave(node), reply }).await;
    assert_eq!(left.unwrap(), newest);
    let no_member = world.ask(|reply| Command::Change { change: leave(stranger), reply }).await;
    assert!(matches!(no_member, Err(ChangeRefused::NotFound)));
    world.stop().await;
}

#[tokio::test]
async fn nobody_hears_of_a_record_that_is_not_on_disk() {
    let (world, mut owner, _commands, signed) = World::at_rest(100, 1);
    let (room, peer) = (world.room, world.other.node());
    let mut batch = Batch::default();
    owner.adopt(signed.clone(), &mut batch);
    owner.commit(batch).await;
    let other = rusqlite::Connection::open(world.path()).unwrap();
    other.execute("CREATE TRIGGER full BEFORE UPDATE ON rooms BEGIN SELECT RAISE(FAIL, 'full'); END", ()).unwrap();
    let (queue, mut frames) = mpsc::channel(4);
    let mut batch = Batch::default();
    let add =
        Membership::Add { node: NodeId::from_bytes([9; 32]), key: PublicKey::from_bytes([9; 32]), may_join: false };
    let (reply, changed) = oneshot::channel();
    let change = Change { room, by: world.own_member.node, what: add };
    owner.command(Command::Change { change, reply }, &mut batch);
    owner.command(Command::LinkUp { peer, queue }, &mut batch);
    owner.command(Command::OfferRecord { room, peer }, &mut batch);
    let (reply, shown) = oneshot::channel();
    owner.command(Command::Show { room, limit: 0, reply }, &mut batch);
    owner.commit(batch).await;
    assert!(matches!(changed.await.unwrap(), Err(ChangeRefused::Store(_))));
    // What is on disk, twice.
    for _ in 0..2 {
        let told: Arc<Vec<u8>> = frames.try_recv().unwrap();
        assert_eq!(Frame::decode(&told[4..]).unwrap(), Frame::Record(Blob(signed.wire().to_vec())));
    }
    assert!(frames.try_recv().is_err());
    assert_eq!(shown.await.unwrap().unwrap().0.signed, signed);
    drop(owner);
    world.stop().await;
}
