//! The same set has the same order, whatever order it came in and whatever
//! times its authors wrote.

use std::collections::{BTreeMap, BTreeSet};

use osmoda_mesh_rooms::{Hlc, Inserted, MessageId, RoomLog, Verified};
use proptest::prelude::*;

use crate::world::{raw, write};

/// An independent oracle: one sort of what the authors signed.
fn expected(messages: &[Verified]) -> Vec<MessageId> {
    let of = |message: &Verified| {
        let content = message.message();
        (content.hlc, content.author, content.seq, message.id())
    };
    let keys: BTreeSet<_> = messages.iter().map(of).collect();
    keys.into_iter().map(|(.., id)| id).collect()
}

/// What one step writes: who, at which time, seeing how many of the messages so
/// far, and whether it repeats its last number (a fork).
type Step = (u8, u64, usize, bool);

fn history(steps: &[Step]) -> Vec<Verified> {
    let mut written: Vec<Verified> = Vec::new();
    for (place, (author, time, sees, forks)) in steps.iter().enumerate() {
        let mut log = RoomLog::default();
        // Its author's own messages are always there, of the others a prefix.
        for (n, message) in written.iter().enumerate() {
            if n < *sees || message.message().author == crate::world::public(*author) {
                log.insert(message);
            }
        }
        let text = format!("{place}");
        let next = write(&log, *author, Hlc::at(*time), &text);
        let fork = next.message().seq > 1 && *forks;
        written.push(if fork {
            let last = written.iter().rfind(|message| message.message().author == next.message().author).unwrap();
            raw(*author, last.message().seq, last.message().prev, vec![], Hlc::at(*time), &text)
        } else {
            next
        });
    }
    written
}

fn order(messages: impl IntoIterator<Item = Verified>) -> Vec<MessageId> {
    let mut log = RoomLog::default();
    for message in messages {
        log.insert(&message);
    }
    log.ids().collect()
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec((0..4u8, 1..40u64, 0..30usize, proptest::bool::weighted(0.15)), 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_same_set_has_the_same_order(steps in steps(), seed in any::<u64>()) {
        let messages = history(&steps);
        let expected = expected(&messages);
        prop_assert_eq!(&order(messages.iter().cloned()), &expected);
        prop_assert_eq!(&order(messages.iter().rev().cloned()), &expected);
        let mut shuffled = messages.clone();
        shuffled.sort_by_key(|message| {
            let mixed = u64::from_le_bytes(message.id().as_bytes()[..8].try_into().unwrap());
            mixed ^ seed
        });
        prop_assert_eq!(&order(shuffled), &expected);
        // Parents come first, or their child's author is flagged for its time.
        let place: BTreeMap<_, _> = expected.iter().enumerate().map(|(n, id)| (*id, n)).collect();
        let mut log = RoomLog::default();
        for message in messages.iter().rev() {
            log.insert(message);
        }
        for message in &messages {
            for before in message.message().dependencies() {
                let is_first = place.get(&before).is_none_or(|before| *before < place[&message.id()]);
                prop_assert!(is_first || log.author(&message.message().author).forked);
            }
        }
    }

    #[test]
    fn what_is_left_after_pruning_or_removing_has_its_own_order(steps in steps(), cutoff in 0..45u64) {
        let messages = history(&steps);
        let mut log = RoomLog::default();
        for message in &messages {
            log.insert(message);
        }
        log.prune(cutoff, usize::MAX, u64::MAX);
        let left: Vec<_> =
            messages.iter().filter(|message| message.message().hlc.wall_ms() >= cutoff).cloned().collect();
        prop_assert_eq!(log.ids().collect::<Vec<_>>(), expected(&left));
        prop_assert_eq!(log.summary().messages as usize + log.len(), messages.len());
        prop_assert_eq!(log.bytes(), left.iter().map(|message| message.wire().len() as u64).sum::<u64>());
        // What was pruned does not come back; a room that never had it agrees.
        for message in &messages {
            let again = log.insert(message);
            prop_assert!(matches!(again, Inserted::Duplicate | Inserted::Pruned), "came back");
        }
        let mut fresh = RoomLog::with_summary(*log.summary());
        for message in messages.iter().rev() {
            fresh.insert(message);
        }
        prop_assert_eq!(fresh.ids().collect::<Vec<_>>(), log.ids().collect::<Vec<_>>());
    }
}

/// The newest eight of those that nothing here depends on: by looking at all of them.
fn heads(here: &[&Verified]) -> Vec<MessageId> {
    let named: BTreeSet<_> = here.iter().flat_map(|message| message.message().dependencies()).collect();
    let heads: Vec<_> = here.iter().filter(|message| !named.contains(&message.id())).copied().cloned().collect();
    let mut newest = expected(&heads).split_off(heads.len().saturating_sub(8));
    newest.sort_unstable();
    newest
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn what_comes_and_goes_leaves_the_heads_of_what_is_here(
        steps in steps(),
        changes in proptest::collection::vec((any::<bool>(), any::<u64>()), 1..12),
        cutoff in 0..45u64,
    ) {
        let (messages, stranger) = (history(&steps), crate::world::public(9));
        let mut log = RoomLog::default();
        for (comes, seed) in changes {
            // About half of all, whatever names them.
            let is_meant = |message: &Verified| message.id().as_bytes()[(seed % 32) as usize] & 1 == 1;
            if comes {
                for message in messages.iter().filter(|message| is_meant(message)) {
                    log.insert(message);
                }
            } else {
                let gone: BTreeSet<_> = messages
                    .iter()
                    .filter(|message| is_meant(message))
                    .map(|message| (message.message().author, message.message().hlc))
                    .collect();
                log.remove_unless(|author, at| !gone.contains(&(*author, at)));
            }
            let here: Vec<_> = messages.iter().filter(|message| log.contains(&message.id())).collect();
            prop_assert_eq!(log.parents(&stranger), heads(&here));
        }
        log.prune(cutoff, usize::MAX, u64::MAX);
        let here: Vec<_> = messages.iter().filter(|message| log.contains(&message.id())).collect();
        prop_assert_eq!(log.parents(&stranger), heads(&here));
    }
}

#[test]
fn a_chain_of_one_time_handed_out_backwards_moves_nothing_and_flags_its_author() {
    let mut chain: Vec<Verified> = Vec::new();
    for seq in 1..=200 {
        let prev = chain.last().map(Verified::id);
        chain.push(raw(1, seq, prev, vec![], Hlc::at(7), "same time"));
    }
    let mut log = RoomLog::default();
    for (n, message) in chain.iter().rev().enumerate() {
        let before: Vec<_> = log.ids().collect();
        log.insert(message);
        let after: Vec<_> = log.ids().filter(|id| *id != message.id()).collect();
        assert_eq!(before, after, "message {n} moved another");
    }
    assert!(log.author(&crate::world::public(1)).forked);
    assert_eq!(log.ids().collect::<Vec<_>>(), expected(&chain));
}
