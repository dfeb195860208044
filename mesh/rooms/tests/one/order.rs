//! The same set has the same order, whatever order it came in and whatever
//! times its authors wrote.

use std::collections::BTreeMap;

use osmoda_mesh_rooms::{Hlc, Inserted, MessageId, RoomLog, Verified};
use proptest::prelude::*;

use crate::world::{raw, write};

/// An independent oracle: effective times by recursion, then one sort.
fn expected(messages: &[Verified]) -> Vec<MessageId> {
    fn effective(id: &MessageId, all: &BTreeMap<MessageId, &Verified>, known: &mut BTreeMap<MessageId, Hlc>) -> Hlc {
        if let Some(time) = known.get(id) {
            return *time;
        }
        let message = all[id].message();
        let mut time = message.hlc;
        for before in message.dependencies().filter(|before| all.contains_key(before)) {
            time = time.max(effective(&before, all, known).next());
        }
        known.insert(*id, time);
        time
    }
    let all: BTreeMap<_, _> = messages.iter().map(|message| (message.id(), message)).collect();
    let mut known = BTreeMap::new();
    let mut keys: Vec<_> = all
        .iter()
        .map(|(id, message)| (effective(id, &all, &mut known), message.message().author, message.message().seq, *id))
        .collect();
    keys.sort_unstable();
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
        // Parents come first.
        let place: BTreeMap<_, _> = expected.iter().enumerate().map(|(n, id)| (*id, n)).collect();
        for message in &messages {
            for before in message.message().dependencies() {
                prop_assert!(place.get(&before).is_none_or(|before| *before < place[&message.id()]));
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
