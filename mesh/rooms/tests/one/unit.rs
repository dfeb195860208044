//! Single rules: forms of messages, forks, lateness, retention, frames.

use std::collections::BTreeSet;

use osmoda_mesh_rooms::limits::WANT_IDS_MAX;
use osmoda_mesh_rooms::{
    Answerer, Blob, Body, Do, Frame, Hlc, Inserted, Message, MessageError, MessageId, Opener, RoomLog, Snapshot,
    Stored, SyncError, Unverified, fuzz_reconcile, fuzz_room_frame, fuzz_room_message, fuzz_room_record,
};
use osmoda_types::statement;
use proptest::prelude::*;

use crate::world::{key, public, raw, record, room, write};

#[test]
fn a_message_reads_back_and_any_change_of_it_is_noticed() {
    let first = raw(1, 1, None, vec![], Hlc::at(5), "hello");
    let decoded = Unverified::decode(first.wire()).unwrap();
    assert_eq!((decoded.id(), decoded.verify().unwrap()), (first.id(), first.clone()));
    for place in 0..first.wire().len() {
        let mut bytes = first.wire().to_vec();
        bytes[place] ^= 1;
        let survives = Unverified::decode(&bytes).and_then(Unverified::verify);
        assert!(survives.is_err(), "byte {place}");
    }
    let mut longer = first.wire().to_vec();
    longer.push(0);
    assert_eq!(Unverified::decode(&longer), Err(MessageError::NotCanonical));
    assert_eq!(Unverified::decode(&[1; 20]), Err(MessageError::Malformed));
    assert!(matches!(Unverified::decode(&vec![0; 1 << 20]), Err(MessageError::TooLarge(_))));
}

#[test]
fn messages_with_wrong_fields_are_not_signed_and_not_read() {
    let some = raw(2, 1, None, vec![], Hlc::at(5), "x").id();
    let base = Message {
        room: room(),
        author: public(1),
        seq: 2,
        prev: Some(some),
        parents: vec![],
        hlc: Hlc::at(1),
        body: Body::Text("x".to_owned()),
    };
    let sign = |message: Message| message.sign(|bytes| statement::sign(&key(1), bytes));
    assert!(sign(base.clone()).is_ok());
    let wrong = [
        Message { seq: 0, ..base.clone() },
        Message { seq: 1, ..base.clone() },
        Message { prev: None, ..base.clone() },
        Message { parents: vec![some], ..base.clone() },
        Message { body: Body::Text("x".repeat(40_000)), ..base.clone() },
        Message {
            parents: (0..9u8).map(|n| osmoda_mesh_rooms::MessageId::from_bytes([n + 1; 32])).collect(),
            ..base.clone()
        },
        Message { parents: [2, 1].map(|n| osmoda_mesh_rooms::MessageId::from_bytes([n; 32])).to_vec(), ..base },
    ];
    for message in wrong {
        assert!(sign(message.clone()).is_err(), "{message:?}");
    }
}

fn new(late: bool, fork: bool) -> Inserted {
    Inserted::New { late, fork, liars: BTreeSet::new() }
}

#[test]
fn two_messages_with_one_number_are_both_kept_and_their_author_is_flagged() {
    let mut log = RoomLog::default();
    let first = write(&log, 1, Hlc::at(1), "one");
    assert_eq!(log.insert(&first), new(false, false));
    assert_eq!(log.insert(&first), Inserted::Duplicate);
    let second = write(&log, 1, Hlc::at(2), "two");
    log.insert(&second);
    assert!(!log.author(&public(1)).forked);
    let twin = raw(1, 2, Some(first.id()), vec![], Hlc::at(3), "another two");
    assert_eq!(log.insert(&twin), new(false, true));
    assert!(log.contains(&second.id()) && log.contains(&twin.id()) && log.author(&public(1)).forked);
    assert!(log.last(10).iter().all(|line| line.forked));
    // A wrong predecessor is a fork too, in either order of arrival.
    for reversed in [false, true] {
        let mut log = RoomLog::default();
        let stray = raw(1, 2, Some(twin.id()), vec![], Hlc::at(3), "stray");
        let both = if reversed { [&stray, &first] } else { [&first, &stray] };
        for message in both {
            log.insert(message);
        }
        assert!(log.author(&public(1)).forked, "reversed: {reversed}");
    }
    // The mark outlives the messages.
    log.prune(100, 0, 0);
    assert!(log.is_empty() && log.author(&public(1)).forked);
    let next = write(&log, 1, Hlc::at(200), "three");
    assert_eq!(next.message().seq, 3);
}

#[test]
fn who_is_found_to_have_named_what_is_not_older_is_told_once() {
    let first = raw(2, 1, None, vec![], Hlc::at(9), "first");
    let names = |author, text| raw(author, 1, None, vec![first.id()], Hlc::at(5), text);
    let (lie, another) = (names(1, "x"), names(3, "y"));
    let liars = |log: &mut RoomLog, message| match log.insert(message) {
        Inserted::New { liars, .. } => liars,
        other => panic!("{other:?}"),
    };
    let mut log = RoomLog::default();
    assert_eq!(liars(&mut log, &lie), BTreeSet::new());
    assert_eq!(liars(&mut log, &another), BTreeSet::new());
    assert_eq!(liars(&mut log, &first), BTreeSet::from([public(1), public(3)]));
    let again = raw(1, 2, Some(lie.id()), vec![first.id()], Hlc::at(6), "z");
    assert_eq!(liars(&mut log, &again), BTreeSet::new());
    let mut log = RoomLog::default();
    assert_eq!(liars(&mut log, &first), BTreeSet::new());
    assert_eq!(liars(&mut log, &lie), BTreeSet::from([public(1)]));
}

#[test]
fn a_late_message_takes_its_place_and_is_flagged() {
    let mut log = RoomLog::default();
    let (early, later) = (raw(1, 1, None, vec![], Hlc::at(5), "early"), raw(2, 1, None, vec![], Hlc::at(9), "later"));
    log.insert(&later);
    assert_eq!(log.insert(&early), new(true, false));
    let lines = log.last(10);
    assert_eq!(
        lines.iter().map(|line| (line.id, line.place, line.late)).collect::<Vec<_>>(),
        [(early.id(), 1, true), (later.id(), 2, false)]
    );
    assert_eq!(log.line_of(&later.id()), Some(lines[1]));
    assert_eq!(log.last(1), lines[1..]);
}

#[test]
fn retention_keeps_the_newest_and_the_places_count_on() {
    let mut log = RoomLog::default();
    for n in 1..=10 {
        let message = write(&log, 1, Hlc::at(n), "x");
        log.insert(&message);
    }
    let size = log.bytes() / 10;
    assert_eq!(log.prune(0, 6, u64::MAX).len(), 4);
    assert_eq!((log.summary().horizon_ms, log.summary().messages, log.len()), (5, 4, 6));
    assert_eq!(log.last(1)[0].place, 10);
    log.prune(0, usize::MAX, size * 3 + size / 2);
    assert_eq!(log.len(), 3);
    assert!(log.prune(0, 3, u64::MAX).is_empty());
    assert_eq!(write(&log, 1, Hlc::at(20), "y").message().seq, 11);
}

#[test]
fn messages_of_a_member_that_left_stay_up_to_then() {
    let mut log = RoomLog::default();
    for n in 1..=4 {
        let message = write(&log, 1, Hlc::at(n), "x");
        log.insert(&message);
    }
    let record = record(2).without(&crate::world::node(1), Hlc::at(2));
    assert_eq!(log.remove_unless(|author, at| record.admits(author, at)).len(), 2);
    assert_eq!(log.len(), 2);
}

#[test]
fn authors_that_are_not_named_any_more_are_forgotten_with_their_last_message() {
    let mut log = RoomLog::default();
    for author in 1..=3 {
        let message = write(&log, author, Hlc::at(author.into()), "x");
        log.insert(&message);
    }
    log.remove_unless(|author, _| *author == public(1));
    assert_eq!(log.authors().count(), 3);
    assert_eq!(log.forget_authors_unless(|author| *author == public(2)), [public(3)]);
    // The first is not named either, and its message is here.
    assert_eq!((log.authors().count(), log.author(&public(1)).seq, log.author(&public(3)).seq), (2, 1, 0));
}

/// A frame of negentropy that lists nothing up to a time, as if all before it were
/// missing, and gives a wrong hash for what is left.
fn all_is_missing_before(wall_ms: u8) -> Frame {
    let mut bytes = vec![0x61, wall_ms + 1, 0, 2, 0];
    bytes.extend([0, 0, 1]);
    bytes.extend([7; 16]);
    Frame::Range(Blob(bytes))
}

#[test]
fn an_answerer_that_always_lacks_everything_is_given_up() {
    const ITEMS: usize = 9_000;
    let items = (0..ITEMS).map(|n| (n as u64 / 100, MessageId::of(&n.to_le_bytes()))).collect();
    let (mut opener, _) = Opener::new(room(), 1, Snapshot { horizon_ms: 0, items }, Default::default());
    let opened = Frame::Opened { horizon_ms: 0, equal: false, record: None, wants_record: false };
    opener.frame(opened).unwrap();
    let rounds = (0..100).take_while(|_| opener.frame(all_is_missing_before(90)).is_ok()).count();
    // Each says that nearly all are missing; two full rooms differ by 100,000.
    assert!((8..=13).contains(&rounds), "{rounds} rounds");
    assert!(matches!(opener.frame(all_is_missing_before(90)), Err(SyncError::Bounds | SyncError::OutOfTurn)));
}

#[test]
fn an_opener_that_asks_for_nothing_is_given_up() {
    let all: Vec<_> = (0..3 * WANT_IDS_MAX as u64).map(|n| (n, MessageId::of(&n.to_le_bytes()))).collect();
    let answerer = || Answerer::new(Snapshot { horizon_ms: 0, items: all.clone() }).unwrap();
    let want = |count: usize| Frame::Want(all[..count].iter().map(|(_, id)| id.prefix()).collect());
    let is_over = |outcome| matches!(outcome, Err(SyncError::Bounds | SyncError::OutOfTurn));
    assert!(is_over(answerer().frame(want(0))));
    assert!(is_over(answerer().frame(Frame::More)));
    // Whoever asks for fewer than it may has no others to ask for.
    let mut last = answerer();
    assert!(matches!(last.frame(want(WANT_IDS_MAX)), Ok(Do::Resolve(_))));
    assert!(matches!(last.frame(want(1)), Ok(Do::Resolve(_))));
    assert!(is_over(last.frame(want(1))));
    // Nothing of it is here any more, found or read.
    for gone in [Vec::new(), vec![all[0].1]] {
        let mut answerer = answerer();
        let rounds = (0..100).take_while(|_| {
            let Ok(Do::Resolve(_)) = answerer.frame(want(WANT_IDS_MAX)) else { return false };
            let mut next = answerer.resolved(gone.clone());
            if let Do::Load(ids) = next {
                next = answerer.loaded(ids.len(), Vec::new());
            }
            next == Do::Send(Frame::Messages { list: Vec::new(), more: false })
        });
        assert_eq!(rounds.count(), 5);
    }
}

/// A session between two that have nothing in common; what becomes of the messages
/// at each side. How many the answerer was given, and whether that is confirmed.
fn disjoint(at_opener: Stored, at_answerer: Stored) -> (usize, bool) {
    const EACH: u64 = 3_000;
    let snapshot = |from: u64| Snapshot {
        horizon_ms: 0,
        items: (from..from + EACH).map(|n| (n, MessageId::of(&n.to_le_bytes()))).collect(),
    };
    let (mut opener, _) = Opener::new(room(), 1, snapshot(0), Default::default());
    let mut answerer = Answerer::new(snapshot(EACH)).unwrap();
    let blobs = |ids: &[MessageId]| ids.iter().take(100).map(|_| Blob(vec![0])).collect::<Vec<_>>();
    let opened = Frame::Opened { horizon_ms: 0, equal: false, record: None, wants_record: false };
    let mut next = opener.frame(opened).unwrap();
    let mut given = 0;
    loop {
        let frame = loop {
            next = match next {
                Do::Send(frame) | Do::Done(Some(frame)) => break frame,
                Do::Load(ids) => opener.loaded(ids.len().min(100), blobs(&ids)),
                Do::Arrange(ids) => opener.arranged(ids),
                Do::Store(_) => opener.stored(at_opener),
                other => panic!("{other:?}"),
            };
        };
        let mut reply = answerer.frame(frame).unwrap();
        let answer = loop {
            reply = match reply {
                Do::Send(frame) => break frame,
                Do::Load(ids) => answerer.loaded(ids.len().min(100), blobs(&ids)),
                Do::Resolve(prefixes) => {
                    answerer.resolved(prefixes.iter().map(|of| MessageId::range_of(of).0).collect())
                }
                Do::Store(list) => {
                    given += list.len();
                    answerer.stored(at_answerer)
                }
                Do::Done(_) => return (given, opener.is_confirmed()),
                other => panic!("{other:?}"),
            };
        };
        next = opener.frame(answer).unwrap();
    }
}

#[test]
fn a_session_goes_on_over_what_is_refused_and_a_full_opener_still_gives() {
    for at_opener in [Stored::All, Stored::Some, Stored::Full] {
        assert_eq!(disjoint(at_opener, Stored::All), (3_000, true), "{at_opener:?}");
        assert_eq!(disjoint(at_opener, Stored::Some), (3_000, false), "{at_opener:?}");
        assert_eq!(disjoint(at_opener, Stored::Full).0, 100, "{at_opener:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        fuzz_room_message(&bytes);
        fuzz_room_record(&bytes);
        fuzz_room_frame(&bytes);
        fuzz_reconcile(&bytes);
    }

    #[test]
    fn changed_messages_are_read_or_refused(place in 0..200usize, value in any::<u8>(), cut in 0..200usize) {
        let mut bytes = raw(1, 1, None, vec![], Hlc::at(5), "hello").wire().to_vec();
        let place = place % bytes.len();
        bytes[place] = value;
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        fuzz_room_message(&bytes);
    }

    #[test]
    fn changed_ranges_are_answered_or_refused(place in 0..600usize, value in any::<u8>(), turns in 1..4usize) {
        let snapshot = |from: u64| osmoda_mesh_rooms::Snapshot {
            horizon_ms: 0,
            items: (from..from + 300).map(|n| (n, osmoda_mesh_rooms::MessageId::of(&n.to_le_bytes()))).collect(),
        };
        let (mut opener, _) = osmoda_mesh_rooms::Opener::new(room(), 1, snapshot(0), Default::default());
        let mut answerer = osmoda_mesh_rooms::Answerer::new(snapshot(150)).unwrap();
        let opened = osmoda_mesh_rooms::Frame::Opened { horizon_ms: 0, equal: false, record: None, wants_record: false };
        let mut next = opener.frame(opened).unwrap();
        for turn in 0..turns {
            let osmoda_mesh_rooms::Do::Send(osmoda_mesh_rooms::Frame::Range(mut range)) = next else { break };
            if turn + 1 == turns {
                let place = place % range.0.len();
                range.0[place] = value;
            }
            let Ok(osmoda_mesh_rooms::Do::Send(answer)) = answerer.frame(osmoda_mesh_rooms::Frame::Range(range)) else { break };
            let Ok(then) = opener.frame(answer) else { break };
            next = then;
        }
    }
}
