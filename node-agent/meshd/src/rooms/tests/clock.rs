//! The owner alone, with a wall clock that is wrong and put right.

use std::time::Duration;

use osmoda_kit::clock::Timestamp;
use osmoda_mesh_rooms::Verdict;

use super::alone::World;
use crate::rooms::command::Command;

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
