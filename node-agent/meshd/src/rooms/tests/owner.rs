//! The owner alone: a clock that moves when told, a disk that fills up.

use std::time::Duration;

use osmoda_kit::testing::{TempRoot, wait_for};
use osmoda_mesh::state;
use osmoda_mesh_rooms::limits::{
    AUTHOR_BYTES_MAX, AUTHOR_MESSAGES_MIN, AUTHOR_OF_CREATOR_MAX, CREATOR_MESSAGES_MAX, FULL_SLACK_PERCENT,
    ROOM_MESSAGES_MIN, ROOMS_EVER_PER_CREATOR_MAX, ROOMS_PER_CREATOR_MAX, TEXT_BYTES_MAX,
};
use osmoda_mesh_rooms::{
    Hlc, Join, Member, Record, RecordError, Refusal, Retention, Signed, Verdict, Verified, WALL_MS_MAX,
};
use osmoda_types::ErrorCode;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::alone::{World, said, unsigned, unverified};
use super::world::LIMIT;
use crate::rooms::command::{Asked, Begin, Command, Release, Standing, Way};
use crate::rooms::owner::{Batch, COMMANDS_MAX, Owner};
use crate::rooms::store::{Store, Write};

#[test]
fn a_stored_record_that_breaks_a_rule_costs_its_own_room_only() {
    let roots = [TempRoot::new(), TempRoot::new()];
    let identity = state::create_identity(&roots[0].paths().state("mesh")).unwrap();
    let signed = |nonce: u8| {
        let key = identity.identity_key();
        let record = Record {
            creator: key,
            nonce: [nonce; 16],
            name: "ops".to_owned(),
            created_ms: WALL_MS_MAX,
            revision: 1,
            join: Join::Added,
            retention: Retention::default(),
            members: vec![Member { node: identity.node(), key, left: None }],
        };
        record.sign(|bytes| identity.sign(bytes)).unwrap()
    };
    let path = roots[1].path().join("rooms.db");
    let mut store = Store::open(&path).unwrap();
    let (good, bad) = (signed(1), signed(2));
    store.commit(&[Write::Record(good.clone()), Write::Record(bad.clone())]).unwrap();
    // The largest time, and one bit more.
    let time = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f];
    let mut wire = bad.wire().to_vec();
    let place = wire.windows(time.len()).position(|bytes| bytes == time).unwrap();
    wire[place + 6] = 0x3f;
    assert_eq!(Signed::decode(&wire), Err(RecordError::Field("time")));
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute("UPDATE rooms SET record = ?2 WHERE id = ?1", (bad.id().as_bytes(), &wire)).unwrap();
    let loaded: Vec<_> = store.load().unwrap().into_iter().map(|room| room.signed).collect();
    assert_eq!(loaded, [good]);
    wire[0] ^= 1;
    wire[place + 6] = 0x1f;
    other.execute("UPDATE rooms SET record = ?2 WHERE id = ?1", (bad.id().as_bytes(), &wire)).unwrap();
    assert!(store.load().is_err(), "a damaged one is another matter");
}

#[tokio::test]
async fn a_message_from_the_future_waits_or_is_refused_and_drags_no_clock() {
    let world = World::new(100, None).await;
    let now = world.now_ms();
    let (near, verdict) = world.receive(1, now + 50_000).await;
    assert_eq!(verdict, Verdict::Kept);
    let (soon, verdict) = world.receive(2, now + 300_000).await;
    assert_eq!(verdict, Verdict::Waits);
    assert_eq!(world.receive(3, now + 700_000).await.1, Verdict::Refused);
    let own = world.send("now".to_owned()).await.unwrap();
    // Behind what was accepted, and not five minutes ahead.
    assert_eq!(world.ids().await, [near, own]);
    world.clock.advance(Duration::from_secs(241));
    let ids = wait_for("its time", LIMIT, async || {
        let ids = world.ids().await;
        (ids.len() == 3).then_some(ids)
    })
    .await;
    assert_eq!(ids, [near, own, soon]);
    world.stop().await;
}

#[tokio::test]
async fn what_is_due_is_done_however_many_commands_wait() {
    // More than are taken into one commit, each of which lasts longer than until the
    // first look at what is due.
    let count = 3 * COMMANDS_MAX;
    let (world, mut owner, commands, signed) = World::at_rest(1_000, count);
    owner.adopt(signed, &mut Batch::default());
    let (room, limit) = (world.room, usize::MAX);
    let message = world.message(1, world.now_ms(), "its time has come".to_owned());
    let id = message.id();
    assert!(owner.rooms.get_mut(&room).unwrap().set_aside(message));
    for _ in 1..count {
        let (reply, _) = oneshot::channel();
        assert!(world.owner.try_send(Command::Send { room, text: "more".to_owned(), reply }).is_ok());
    }
    let (reply, last) = oneshot::channel();
    assert!(world.owner.try_send(Command::Show { room, limit, reply }).is_ok());
    world.run(owner, commands);
    let (_, said) = last.await.unwrap().unwrap();
    assert!(said.iter().any(|said| said.line.id == id));
    world.stop().await;
}

#[tokio::test]
async fn a_full_disk_refuses_and_nothing_is_half_done() {
    let world = World::new(100, Some(40)).await;
    let mut kept = Vec::new();
    let code = loop {
        match world.send("x".repeat(8_000)).await {
            Ok(id) => kept.push(id),
            Err(code) => break code,
        }
        assert!(kept.len() < 100, "the disk does not fill up");
    };
    assert_eq!(code, ErrorCode::DiskFull);
    assert!(!kept.is_empty());
    assert_eq!(world.ids().await, kept);
    let (_, verdict) = world.receive(1, world.now_ms()).await;
    // A small one may still fit; if not, it is asked for again later.
    assert!(matches!(verdict, Verdict::Kept | Verdict::Later));
    assert_eq!(world.send("x".repeat(8_000)).await, Err(ErrorCode::DiskFull));
    // The author's number was not used up by what failed.
    let room = world.room;
    let delivered = world.ask(|reply| Command::Delivery { room, reply }).await.unwrap();
    assert_eq!(delivered.own_seq, kept.len() as u64);
    world.stop().await;
}

#[tokio::test]
async fn a_room_that_is_over_its_retention_forgets_the_oldest() {
    let world = World::new(10, None).await;
    let mut all = Vec::new();
    for n in 0..12 {
        world.clock.advance(Duration::from_millis(10));
        all.push(world.send(format!("{n}")).await.unwrap());
    }
    // The period of looking is the daemon's own, so the room is asked directly.
    world.ask(|reply| Command::PruneNow { reply }).await;
    assert_eq!(world.ids().await, all[2..]);
    // What is forgotten does not come back.
    let (_, verdict) = world.receive(1, world.now_ms() - 500_000).await;
    assert_eq!(verdict, Verdict::Refused);
    world.clock.advance(Duration::from_secs(2 * 24 * 3600));
    world.ask(|reply| Command::PruneNow { reply }).await;
    assert!(world.ids().await.is_empty());
    world.stop().await;
}

#[tokio::test]
async fn the_largest_room_of_a_creator_at_its_bound_makes_space() {
    let (world, mut owner, commands, _) = World::at_rest(100, 16);
    let now = world.now_ms();
    let [small, large] = [1, 2].map(|n| world.trap(&world.other, n).sign(|bytes| world.other.sign(bytes)).unwrap());
    let (small_count, large_count) = (CREATOR_MESSAGES_MAX / 2 - 1, CREATOR_MESSAGES_MAX / 2 + 1);
    for (signed, count) in [(&small, small_count), (&large, large_count)] {
        owner.adopt(signed.clone(), &mut Batch::default());
        let log = &mut owner.rooms.get_mut(&signed.id()).unwrap().log;
        for n in 0..count as u64 {
            log.insert(&unsigned(signed.id(), &world.other, (n + 1, now - count as u64 + n)));
        }
    }
    world.run(owner, commands);
    let shown = wait_for("space", LIMIT, async || {
        let list = world.ask(Command::List).await;
        let is_full = list.iter().map(|room| room.messages).sum::<usize>() >= CREATOR_MESSAGES_MAX;
        (!is_full).then_some(list)
    })
    .await;
    let of = |signed: &Signed| shown.iter().find(|room| room.signed == *signed).unwrap();
    let gone = large_count.div_ceil(10);
    assert_eq!((of(&small).messages, of(&large).messages), (small_count, large_count - gone));
    assert_eq!(of(&large).summary.messages, gone as u64);
    let room = small.id();
    assert!(world.ask(|reply| Command::Send { room, text: "hello".to_owned(), reply }).await.is_ok());
    world.stop().await;
}

#[tokio::test]
async fn who_is_found_to_lie_later_is_marked_after_its_messages_are_gone() {
    let (world, mut owner, _commands, _) = World::at_rest(100, 1);
    let root = TempRoot::new();
    let key = state::create_identity(&root.paths().state("mesh")).unwrap();
    let (now, from) = (world.now_ms(), world.other.node());
    let mut record = world.trap(&world.other, 1);
    record.members.push(Member { node: key.node(), key: key.identity_key(), left: None });
    let signed = record.sign(|bytes| world.other.sign(bytes)).unwrap();
    let room = signed.id();
    owner.adopt(signed, &mut Batch::default());
    let first = said(room, &world.other, (1, now), "first".to_owned());
    let mut lie = said(room, &key, (1, now - 1), "lie".to_owned()).message().clone();
    lie.parents = vec![first.id()];
    let lie = lie.sign(|bytes| key.sign(bytes)).unwrap();
    for message in [lie, first] {
        let (mut batch, (reply, answer)) = (Batch::default(), oneshot::channel());
        batch.writes.push(Write::Record(owner.rooms[&room].signed.clone()));
        owner.ingest(from, Way::Healed, vec![message], &mut batch, reply);
        owner.commit(batch).await;
        assert_eq!(answer.await.unwrap()[0].1, Verdict::Kept);
    }
    let writes = owner.rooms.get_mut(&room).unwrap().prune(now + 2 * 24 * 3600 * 1000 * 90);
    owner.commit(Batch { writes, ..Batch::default() }).await;
    let stored = owner.store_mut().load().unwrap().pop().unwrap().log;
    assert!(stored.is_empty() && stored.author(&key.identity_key()).forked);
    assert!(!stored.author(&world.other.identity_key()).forked);
    drop(owner);
    world.stop().await;
}

#[tokio::test]
async fn a_room_takes_no_more_than_it_can_forget_in_time() {
    let (world, mut owner, commands, _) = World::at_rest(100, 16);
    let root = TempRoot::new();
    let key = state::create_identity(&root.paths().state("mesh")).unwrap();
    let (now, from) = (world.now_ms(), world.other.node());
    let record = Record { retention: Retention { messages: 100, days: 1 }, ..world.trap(&world.other, 1) };
    let signed = record.sign(|bytes| world.other.sign(bytes)).unwrap();
    let room = signed.id();
    owner.adopt(signed, &mut Batch::default());
    let full = u64::from(ROOM_MESSAGES_MIN) * (100 + FULL_SLACK_PERCENT) / 100 + 1;
    for n in 0..full {
        owner.rooms.get_mut(&room).unwrap().log.insert(&unsigned(room, &key, (n + 1, now - full + n)));
    }
    let message = said(room, &world.other, (1, now), "hello".to_owned());
    let mut batch = Batch::default();
    let (reply, answer) = oneshot::channel();
    owner.ingest(from, Way::Healed, vec![message.clone()], &mut batch, reply);
    owner.commit(batch).await;
    assert_eq!(answer.await.unwrap(), [(message.id(), Verdict::Later)]);
    world.run(owner, commands);
    wait_for("space", LIMIT, async || {
        let list = world.ask(Command::List).await;
        (list[0].messages == 100).then_some(())
    })
    .await;
    assert_eq!(world.ingest(Way::Healed, vec![message.clone()]).await, [(message.id(), Verdict::Kept)]);
    world.stop().await;
}

#[tokio::test]
async fn one_author_does_not_drive_out_what_others_said_in_all_rooms_of_a_creator() {
    let (world, mut owner, _commands, _) = World::at_rest(100, 16);
    let root = TempRoot::new();
    let loud = state::create_identity(&root.paths().state("mesh")).unwrap();
    let (now, from) = (world.now_ms(), world.other.node());
    let member = Member { node: loud.node(), key: loud.identity_key(), left: None };
    let rooms = [1, 2, 3, 4].map(|n| {
        let mut record = world.trap(&world.other, n);
        record.members.push(member);
        let signed = record.sign(|bytes| world.other.sign(bytes)).unwrap();
        let room = signed.id();
        owner.adopt(signed, &mut Batch::default());
        let share = AUTHOR_OF_CREATOR_MAX as u64 / 4;
        for n in 0..share {
            owner.rooms.get_mut(&room).unwrap().log.insert(&unsigned(room, &loud, (n + 1, now - share + n)));
        }
        room
    });
    let one_more = said(rooms[0], &loud, (9_000, now), "one more".to_owned());
    let of_another = said(rooms[0], &world.other, (1, now), "hello".to_owned());
    let verdicts = async |owner: &mut Owner, messages: &[&Verified]| {
        let (mut batch, (reply, answer)) = (Batch::default(), oneshot::channel());
        owner.ingest(from, Way::Healed, messages.iter().copied().cloned().collect(), &mut batch, reply);
        owner.commit(batch).await;
        answer.await.unwrap().into_iter().map(|(_, verdict)| verdict).collect::<Vec<_>>()
    };
    let first = verdicts(&mut owner, &[&one_more, &of_another]).await;
    assert_eq!(first, [Verdict::Refused, Verdict::Kept]);
    assert!(owner.rooms[&rooms[0]].refused.has(&one_more.id()));
    // Another room of them forgets something.
    let writes = owner.rooms.get_mut(&rooms[1]).unwrap().make_space();
    owner.commit(Batch { writes, ..Batch::default() }).await;
    assert!(!owner.rooms[&rooms[0]].refused.has(&one_more.id()));
    assert_eq!(verdicts(&mut owner, &[&one_more]).await, [Verdict::Kept]);
    drop(owner);
    world.stop().await;
}

#[tokio::test]
async fn an_author_over_its_share_is_refused_and_not_fetched_again_and_others_go_on() {
    let world = World::new(50_000, None).await;
    let (now, text) = (world.now_ms(), "x".repeat(TEXT_BYTES_MAX));
    // As one that uses a number for many messages: each node has others of them.
    let said = (0..1 + AUTHOR_BYTES_MAX / TEXT_BYTES_MAX as u64).map(|n| world.message(1, now + n, text.clone()));
    let said: Vec<_> = said.collect();
    let mut verdicts = world.ingest(Way::Healed, said.clone()).await;
    let over = verdicts.split_off(verdicts.iter().position(|(_, verdict)| *verdict != Verdict::Kept).unwrap());
    assert!(over.iter().all(|(_, verdict)| *verdict == Verdict::Refused), "{over:?}");
    assert!(!verdicts.is_empty() && over.len() > 1);
    let skipped = world.skipped().await;
    assert!(over.iter().all(|(id, _)| skipped.contains(id)));
    // Nor is its signature checked again, whoever brings it.
    let again = world.screen(said[verdicts.len()..].iter().map(unverified).collect()).await;
    assert_eq!((again.new.len(), &again.judged), (0, &over));
    assert!(world.send("another author".to_owned()).await.is_ok());
    // When something goes, there may be a place.
    world.clock.advance(Duration::from_secs(2 * 24 * 3600));
    world.ask(|reply| Command::PruneNow { reply }).await;
    assert!(world.ids().await.is_empty());
    assert_eq!(world.receive(2, world.now_ms()).await.1, Verdict::Kept);
    world.stop().await;
}

#[tokio::test]
async fn what_was_sent_is_there_though_more_than_now_was_forgotten() {
    let world = World::new(2, None).await;
    // From a clock that is a little ahead; all are over the retention at once.
    let ahead = world.now_ms() + 50_000;
    for seq in [1, 2, 3] {
        assert_eq!(world.receive(seq, ahead).await.1, Verdict::Kept);
    }
    world.ask(|reply| Command::PruneNow { reply }).await;
    assert!(world.ids().await.is_empty());
    let first = world.send("first".to_owned()).await.unwrap();
    let second = world.send("second".to_owned()).await.unwrap();
    assert_eq!(world.ids().await, [first, second]);
    let room = world.room;
    assert_eq!(world.ask(|reply| Command::Delivery { room, reply }).await.unwrap().own_seq, 2);
    world.stop().await;
}

#[tokio::test]
async fn a_peer_makes_so_many_rooms_here_whatever_keys_it_names() {
    let world = World::new(100, None).await;
    let standing = Standing { begins: true, goes_on: true };
    for n in 0..ROOMS_PER_CREATOR_MAX + 3 {
        // A key of its own for each room, in the name of one node.
        let root = TempRoot::new();
        let key = state::create_identity(&root.paths().state("mesh")).unwrap();
        let signed = world.trap(&key, 3).sign(|bytes| key.sign(bytes)).unwrap();
        let from = world.other.node();
        let taken = world.ask(|reply| Command::TakeRecord { from, signed, standing, reply }).await;
        assert_eq!(taken, n < ROOMS_PER_CREATOR_MAX, "room {n}");
    }
    world.stop().await;
}

#[tokio::test]
async fn rooms_that_a_peer_makes_and_takes_away_again_are_bounded_too() {
    let world = World::new(100, None).await;
    let (standing, from) = (Standing { begins: true, goes_on: true }, world.other.node());
    let sign = |record: Record| record.sign(|bytes| world.other.sign(bytes)).unwrap();
    for n in 0..=ROOMS_EVER_PER_CREATOR_MAX {
        let made = world.trap(&world.other, n as u128);
        let without = sign(made.without(&world.own_member.node, Hlc::at(1)));
        let signed = sign(made);
        let taken = world.ask(|reply| Command::TakeRecord { from, signed, standing, reply }).await;
        assert_eq!(taken, n < ROOMS_EVER_PER_CREATOR_MAX, "room {n}");
        let gone = world.ask(|reply| Command::TakeRecord { from, signed: without, standing, reply }).await;
        assert_eq!(gone, taken);
    }
    world.stop().await;
}

#[tokio::test]
async fn a_store_that_cannot_be_read_again_refuses_until_it_can() {
    let world = World::new(100, None).await;
    let before = [world.send("one".to_owned()).await.unwrap(), world.send("two".to_owned()).await.unwrap()];
    let kept = world.message(1, world.now_ms(), "kept".to_owned());
    assert_eq!(world.ingest(Way::Pushed, vec![kept.clone()]).await[0].1, Verdict::Kept);
    // Neither written nor read without this table.
    let other = rusqlite::Connection::open(world.path()).unwrap();
    other.execute("ALTER TABLE messages RENAME TO away", ()).unwrap();
    assert_eq!(world.send("lost".to_owned()).await, Err(ErrorCode::StateDirUnusable));
    // The room is not gone: a new beginning would use the author's numbers again.
    assert_eq!(world.send("lost".to_owned()).await, Err(ErrorCode::StateDirUnusable));
    assert_eq!(world.receive(1, world.now_ms()).await.1, Verdict::Later);
    // Nobody is told of what is in memory only.
    let screened = world.screen(vec![unverified(&kept)]).await;
    assert_eq!((screened.new.len(), screened.judged), (0, vec![(kept.id(), Verdict::Later)]));
    other.execute("ALTER TABLE away RENAME TO messages", ()).unwrap();
    let after = wait_for("the store", LIMIT, async || world.send("three".to_owned()).await.ok()).await;
    let ids = world.ids().await;
    assert!(ids.len() == 4 && [before[0], before[1], kept.id(), after].iter().all(|id| ids.contains(id)), "{ids:?}");
    let room = world.room;
    assert_eq!(world.ask(|reply| Command::Delivery { room, reply }).await.unwrap().own_seq, 3);
    world.stop().await;
}

/// Time goes on only while this waits.
#[tokio::test(start_paused = true)]
async fn a_store_that_fails_again_and_again_is_tried_less_and_less_often() {
    let fills = "CREATE TRIGGER full BEFORE INSERT ON messages BEGIN SELECT RAISE(FAIL, 'full'); END";
    // It takes nothing; it is not even read.
    let ways =
        [(fills, "DROP TRIGGER full"), ("ALTER TABLE messages RENAME TO away", "ALTER TABLE away RENAME TO messages")];
    for (breaks, mends) in ways {
        let world = World::new(10_000, None).await;
        let other = rusqlite::Connection::open(world.path()).unwrap();
        // When it takes a message again, if it is broken for so long.
        let taken_again = async |broken: u64| {
            let begin = Instant::now();
            other.execute(breaks, ()).unwrap();
            wait_for("the time", LIMIT + Duration::from_secs(broken), async || {
                assert!(world.send("lost".to_owned()).await.is_err());
                (begin.elapsed().as_secs() >= broken).then_some(())
            })
            .await;
            other.execute(mends, ()).unwrap();
            wait_for("the store", LIMIT * 2, async || world.send("kept".to_owned()).await.ok()).await;
            begin.elapsed().as_secs()
        };
        // After 1, 2, 4 and 8 s at least, and up to a second more until it is looked at.
        let taken = taken_again(9).await;
        assert!((15..=19).contains(&taken), "{breaks}: {taken}");
        // That went well.
        let taken = taken_again(0).await;
        assert!(taken <= 2, "{breaks}: {taken}");
        let taken = taken_again(500).await;
        assert!((500..=532).contains(&taken), "{breaks}: {taken}");
        world.stop().await;
    }
}

#[tokio::test]
async fn what_comes_with_a_batch_that_fails_is_kept_for_nobody() {
    let world = World::new(100, None).await;
    let message = world.message(1, world.now_ms(), "twice".to_owned());
    let other = rusqlite::Connection::open(world.path()).unwrap();
    other.execute("ALTER TABLE messages RENAME TO away", ()).unwrap();
    // From two sessions at once: both wait for the same batch.
    let (ingested, screened) =
        tokio::join!(world.ingest(Way::Healed, vec![message.clone()]), world.screen(vec![unverified(&message)]));
    assert_eq!(ingested, [(message.id(), Verdict::Later)]);
    assert_eq!((screened.new.len(), screened.judged), (0, ingested));
    world.stop().await;
}

#[tokio::test]
async fn a_session_is_over_what_is_on_disk() {
    let world = World::new(100, None).await;
    let message = world.message(1, world.now_ms(), "lost".to_owned());
    let (room, peer) = (world.room, world.other.node());
    let asked = Asked { room, revision: 1, horizon_ms: 0, fingerprint: [0; 32] };
    let other = rusqlite::Connection::open(world.path()).unwrap();
    let answered = async || world.ask(|reply| Command::Answer { from: peer, asked, reply }).await;
    let begun = async || world.ask(|reply| Command::Begin { reply }).await;
    let (queue, _frames) = mpsc::channel(1);
    assert!(world.owner.send(Command::LinkUp { peer, queue }).await.is_ok());
    // The commit fails, and the memory is what is on disk again.
    let trigger = "CREATE TRIGGER full BEFORE INSERT ON messages BEGIN SELECT RAISE(FAIL, 'full'); END";
    other.execute(trigger, ()).unwrap();
    assert!(world.owner.send(Command::Want { room, peer }).await.is_ok());
    let (_, begun_then) = tokio::join!(world.ingest(Way::Healed, vec![message.clone()]), begun());
    assert!(begun_then.is_empty());
    other.execute("DROP TRIGGER full", ()).unwrap();
    // Its turn was not lost.
    let session = begun().await.pop().unwrap();
    assert!(session.snapshot.items.is_empty());
    let Begin { ticket, .. } = session;
    let release = Release { room, peer, ticket, healed: None };
    assert!(world.owner.send(Command::Release(release)).await.is_ok());
    wait_for("a try", LIMIT, async || world.send("one".to_owned()).await.ok()).await;
    other.execute(trigger, ()).unwrap();
    let (_, answered_then) = tokio::join!(world.ingest(Way::Healed, vec![message]), answered());
    assert_eq!(answered_then.unwrap_err(), Refusal::Store);
    assert_eq!(answered().await.unwrap().snapshot.items.len(), 1);
    world.stop().await;
}

#[tokio::test]
async fn rates_shares_and_waiting_messages_are_bounded() {
    // A small room: an author has as many messages as any room keeps of one.
    let world = World::new(2_000, None).await;
    let (now, most) = (world.now_ms(), AUTHOR_MESSAGES_MIN as usize);
    let said: Vec<_> = (0..most as u64 + 2).map(|n| world.message(n + 1, now + n / 64, "x".to_owned())).collect();
    let pushed = world.ingest(Way::Pushed, said[..10].to_vec()).await;
    assert!(pushed.iter().all(|(_, verdict)| *verdict == Verdict::Kept));
    let healed = world.ingest(Way::Healed, said[10..].to_vec()).await;
    let kept = healed.iter().filter(|(_, verdict)| *verdict == Verdict::Kept).count();
    assert_eq!((kept, healed.last().unwrap().1), (most - 10, Verdict::Refused));
    assert!(world.send("another author".to_owned()).await.is_ok());
    // The rate counts what is pushed, kept or not, and healing may bring it.
    let again = (0..most).map(|n| said[most + n % 2].clone()).collect();
    let again = world.ingest(Way::Pushed, again).await;
    assert_eq!(again.last().unwrap().1, Verdict::Later);
    // Those that wait are few, and not large.
    let other = World::new(1_000, None).await;
    let (soon, large) = (other.now_ms() + 300_000, "y".repeat(TEXT_BYTES_MAX));
    let soon = (1..=40).map(|n| other.message(n, soon + n, large.clone())).collect();
    let set_aside = other.ingest(Way::Healed, soon).await;
    let waits = set_aside.iter().filter(|(_, verdict)| *verdict == Verdict::Waits).count();
    assert!((30..32).contains(&waits), "{waits}");
    assert!(set_aside[waits..].iter().all(|(_, verdict)| *verdict == Verdict::Refused));
    for world in [world, other] {
        world.stop().await;
    }
}
