//! Voters are cut off one after another while everybody talks: what was
//! acknowledged is there once, in one order, on all of them.

#[allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]
#[allow(dead_code, reason = "shared with the other test files")]
mod support;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use futures_util::future::{join, join_all};
use support::{Fleet, node, wait_for};

/// Who is cut off, in order; `OSMODA_SEED` chooses another order.
const SEED: u64 = 7;

/// Cuts per run.
const CUTS: usize = 5;

/// Words that must get through while one voter is away.
const WORDS_PER_CUT: usize = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_every_cut_exactly_once() {
    let seed = std::env::var("OSMODA_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    let fleet = Fleet::of_three().await;
    let acknowledged = RefCell::new(BTreeSet::new());
    let is_over = Cell::new(false);

    let talker = async |name: usize| {
        let mut n = 0;
        while !is_over.get() {
            let word = format!("{name}-{n}");
            fleet.say(&word).await;
            acknowledged.borrow_mut().insert(word);
            n += 1;
        }
    };
    let cutter = async {
        let mut state: u64 = seed;
        for cut in 0..CUTS {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Every second time the leader, else anybody.
            let leader = fleet.leader_among(&[1, 2, 3]).await;
            let victim = if cut % 2 == 0 { leader } else { (state >> 33) % 3 + 1 };
            let before = acknowledged.borrow().len();
            fleet.net.set_cut(node(victim), true);
            let what = format!("words without voter {victim} (seed {seed}, cut {cut})");
            wait_for(&what, || (acknowledged.borrow().len() >= before + WORDS_PER_CUT).then_some(())).await;
            fleet.net.set_cut(node(victim), false);
        }
        is_over.set(true);
    };
    join(join_all((0..4).map(talker)), cutter).await;
    let acknowledged = acknowledged.into_inner();
    assert!(acknowledged.len() >= CUTS * WORDS_PER_CUT);
    fleet.all_hold(&[1, 2, 3], &acknowledged).await;
}
