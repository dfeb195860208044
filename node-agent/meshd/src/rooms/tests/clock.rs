//! The owner alone, with a wall clock that is wrong and put right.

use std::time::Duration;

use osmoda_kit::clock::Timestamp;
use osmoda_mesh_rooms::Verdict;
use osmoda_types::ErrorCode;

use super::alone::World;
use crate::rooms::command::{Change, Command, Membership};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

impl World {
    /// Sets the wall clock to so long after a time.
    fn jump(&self, from_ms: u64, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap();
        self.clock.jump_wall(Timestamp::from_millis(i64::try_from(from_ms + by).unwrap()));
    }
}

#[tokio::test]
async fn a_clock_that_was_ahead_when_a_room_was_pruned_keeps_nothing_new_out() {
    let world = World::new(100, None).await;
    let now = world.now_ms();
    assert_eq!(world.receive(1, now).await.1, Verdict::Kept);
    world.jump(now, 100 * DAY);
    world.ask(|reply| Command::PruneNow { reply }).await;
    assert!(world.ids().await.is_empty());
    world.jump(now, Duration::from_secs(1));
    let (theirs, verdict) = world.receive(2, now + 1_000).await;
    assert_eq!(verdict, Verdict::Kept);
    let own = world.send("and what is said here is of this time".to_owned()).await.unwrap();
    assert_eq!(world.ids().await, [theirs, own]);
    let (shown, _) = world.ask(|reply| Command::Show { room: world.room, limit: 0, reply }).await.unwrap();
    assert_eq!(shown.summary.horizon_ms, now + 1);
    world.stop().await;
}

#[tokio::test]
async fn what_others_would_refuse_for_its_time_is_not_sent_as_if_they_took_it() {
    let world = World::new(100, None).await;
    let now = world.now_ms();
    world.jump(now, HOUR);
    world.send("from a clock that is ahead".to_owned()).await.unwrap();
    world.jump(now, Duration::from_secs(1));
    let (room, text) = (world.room, "and was set back".to_owned());
    let refused = world.ask(|reply| Command::Send { room, text, reply }).await.map(drop).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Conflict);
    let until = Timestamp::from_millis(i64::try_from(now).unwrap()).plus(50 * HOUR / 60).to_string();
    assert!(refused.message.contains(&until), "{}", refused.message);
    let world = world.restarted().await;
    assert_eq!(world.send("also after a start".to_owned()).await, Err(ErrorCode::Conflict));
    // Who is taken out is out now, and not when the clock was.
    let change =
        Change { room: world.room, by: world.own_member.node, what: Membership::Remove { node: world.other.node() } };
    let changed = world.ask(|reply| Command::Change { change, reply }).await.ok().unwrap();
    let left = changed.record().members.iter().find(|member| member.node == world.other.node()).unwrap().left;
    assert_eq!(left.unwrap().wall_ms(), world.now_ms());
    // It would wait at the others, and be there a little later.
    world.jump(now, 50 * HOUR / 60);
    assert!(world.send("soon".to_owned()).await.is_ok());
    world.stop().await;
}

#[tokio::test]
async fn a_room_that_has_forgotten_what_is_ahead_says_so_too() {
    let world = World::new(1, None).await;
    let now = world.now_ms();
    world.jump(now, HOUR);
    world.send("one".to_owned()).await.unwrap();
    world.clock.advance(DAY + HOUR);
    world.ask(|reply| Command::PruneNow { reply }).await;
    assert!(world.ids().await.is_empty());
    world.jump(now, Duration::ZERO);
    let world = world.restarted().await;
    assert_eq!(world.send("two".to_owned()).await, Err(ErrorCode::Conflict));
    world.jump(now, HOUR);
    assert!(world.send("two".to_owned()).await.is_ok());
    world.stop().await;
}
