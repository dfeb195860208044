//! The owner alone: `send` refuses what the other members would.

use osmoda_mesh_rooms::limits::{AUTHOR_BYTES_MAX, AUTHOR_OF_CREATOR_MAX, MESSAGE_BYTES_MAX, TEXT_BYTES_MAX};
use osmoda_mesh_rooms::{Record, Retention, RoomId, Verdict};
use osmoda_types::ErrorCode;

use super::alone::{World, said, unsigned};
use crate::rooms::command::{Command, Way};
use crate::rooms::owner::Batch;

impl World {
    async fn says(&self, room: RoomId, text: &str) -> Result<(), ErrorCode> {
        let sent = self.ask(|reply| Command::Send { room, text: text.to_owned(), reply }).await;
        sent.map(drop).map_err(|error| error.code)
    }
}

#[tokio::test]
async fn who_makes_the_rooms_is_told_when_the_others_take_no_more_of_it() {
    let (world, mut owner, commands, signed) = World::at_rest(50_000, 16);
    let (now, own) = (world.now_ms(), world.keyring.now());
    let share = AUTHOR_OF_CREATOR_MAX as u64 / 4;
    let rooms = [1, 2, 3, 4].map(|n| {
        let record = Record { nonce: [n; 16], ..signed.record().clone() };
        let signed = record.sign(|bytes| own.sign(bytes)).unwrap();
        let room = signed.id();
        owner.adopt(signed, &mut Batch::default());
        let log = &mut owner.rooms.get_mut(&room).unwrap().log;
        for n in 0..if room == world.room { share - 1 } else { share } {
            log.insert(&unsigned(room, &own, (n + 1, now - share + n)));
        }
        room
    });
    let trap = world.trap(&world.other, 1).sign(|bytes| world.other.sign(bytes)).unwrap();
    owner.adopt(trap.clone(), &mut Batch::default());
    world.run(owner, commands);
    assert_eq!(world.says(rooms[3], "the last one").await, Ok(()));
    for room in rooms {
        assert_eq!(world.says(room, "one more").await, Err(ErrorCode::QuotaExceeded));
    }
    // In rooms of others it has its share of those, and in its own the others have theirs.
    assert_eq!(world.says(trap.id(), "hello").await, Ok(()));
    let message = said(rooms[0], &world.other, (1, now), "hello".to_owned());
    assert_eq!(world.ingest(Way::Healed, vec![message.clone()]).await, [(message.id(), Verdict::Kept)]);
    world.stop().await;
}

#[tokio::test]
async fn what_is_sent_has_a_place_with_all_its_bytes() {
    let (world, mut owner, commands, signed) = World::at_rest(50_000, 16);
    let (now, own, room) = (world.now_ms(), world.keyring.now(), world.room);
    assert_eq!(signed.record().retention, Retention { messages: 50_000, days: 1 });
    owner.adopt(signed, &mut Batch::default());
    let (log, key) = (&mut owner.rooms.get_mut(&room).unwrap().log, own.identity_key());
    let mut left = AUTHOR_BYTES_MAX;
    for n in 1.. {
        let message = said(room, &own, (n, now - 10_000 + n), "x".repeat(TEXT_BYTES_MAX));
        if message.wire().len() as u64 > left {
            break;
        }
        log.insert(&message);
        left = AUTHOR_BYTES_MAX - log.author(&key).bytes;
    }
    let left = usize::try_from(left).unwrap();
    assert!((2_000..TEXT_BYTES_MAX).contains(&left), "{left}");
    world.run(owner, commands);
    // The text alone would fit.
    assert_eq!(world.says(room, &"x".repeat(left)).await, Err(ErrorCode::QuotaExceeded));
    let fits = left - (MESSAGE_BYTES_MAX - TEXT_BYTES_MAX);
    assert_eq!(world.says(room, &"x".repeat(fits)).await, Ok(()));
    world.stop().await;
}

#[tokio::test]
async fn bytes_count_for_the_creator_of_a_room_and_for_the_node() {
    let (world, mut owner, _commands, signed) = World::at_rest(100, 1);
    let (own, now, other) = (world.room, world.now_ms(), world.other.identity_key());
    let traps = [1, 2].map(|n| world.trap(&world.other, n).sign(|bytes| world.other.sign(bytes)).unwrap());
    let rooms = [own, traps[0].id(), traps[1].id()];
    let sizes = [signed].into_iter().chain(traps).zip([100, 2_000, 30_000]).map(|(signed, length)| {
        let message = said(signed.id(), &world.other, (1, now), "x".repeat(length));
        owner.adopt(signed.clone(), &mut Batch::default());
        let room = owner.rooms.get_mut(&signed.id()).unwrap();
        room.log.insert(&message);
        let bytes = message.wire().len() as u64;
        assert_eq!((room.share().messages, room.share().bytes), (1, bytes));
        bytes
    });
    let sizes: Vec<u64> = sizes.collect();
    let of_creator = [0, sizes[1] + sizes[2], sizes[1] + sizes[2]];
    for (room, creator_bytes) in rooms.iter().zip(of_creator) {
        let kept = owner.kept(room, &other);
        assert_eq!((kept.node_bytes, kept.creator_bytes), (sizes.iter().sum(), creator_bytes));
    }
    drop(owner);
    world.stop().await;
}
