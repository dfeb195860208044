//! The red-team list of the ledger (`trust.md` 1.8), as far as it needs no
//! database: each test is named for its number there.

use osmoda_ledger::audit::{Auditor, Outcome, Shown};
use osmoda_ledger::checkpoint::Checkpoint;
use osmoda_ledger::evidence::{Contradiction, Evidence};
use osmoda_ledger::exchange::{AddCheckpoint, Response};
use osmoda_ledger::grammar::is_name;
use osmoda_ledger::note::{Note, NoteError};
use osmoda_ledger::payload::{PAYLOAD_BYTES_MAX, Payload};
use osmoda_ledger::policy::{KnownWitness, Policy};
use osmoda_ledger::tree::{Frontier, TreeHash};
use osmoda_ledger::witness::Decision;
use proptest::prelude::*;

use crate::world::{Entry, Ledger, Peer};

fn column(entry: &mut Entry, number: usize) -> &mut String {
    match number {
        0 => &mut entry.ts,
        1 => &mut entry.kind,
        2 => &mut entry.actor,
        3 => &mut entry.payload,
        4 => &mut entry.prev_hash,
        _ => &mut entry.hash,
    }
}

proptest! {
    #[test]
    fn r01_one_bit_in_any_field_of_any_record(at: prop::sample::Index, number in 0_usize..6, bit: prop::sample::Index) {
        let mut ledger = Ledger::of(20);
        let entry = at.get(&ledger.rows).clone();
        let mut changed = entry.clone();
        let mut bytes = column(&mut changed, number).clone().into_bytes();
        let bit = bit.index(bytes.len() * 7);
        bytes[bit / 7] ^= 1 << (bit % 7);
        *column(&mut changed, number) = String::from_utf8(bytes).unwrap();
        ledger.rows[entry.id as usize - 1] = changed;
        prop_assert!(ledger.report().verified < entry.id as u64);
    }

    #[test]
    fn r05_a_history_rehashed_from_any_row_has_no_proof(from in 0_usize..30) {
        let honest = Ledger::of(30);
        let mut peer = Peer::of(&honest, 1);
        prop_assert_eq!(peer.answer(&honest.request(0)).status(), 200);
        let mut forged = honest;
        forged.rows[from].payload = r#"{"n":"forged"}"#.to_owned();
        forged.rehash();
        forged.append("{}");
        prop_assert!(forged.report().is_intact(), "the chain alone cannot see it");
        prop_assert_eq!(peer.answer(&forged.request(30)), Response::BadProof);
        prop_assert_eq!(peer.held.map(|head| head.size), Some(30));
    }
}

#[test]
fn r02_a_record_is_deleted() {
    for at in [0, 10, 19] {
        let mut ledger = Ledger::of(20);
        let note = ledger.note();
        ledger.rows.remove(at);
        let checkpoint = Checkpoint::open(&note, &ledger.verifier()).unwrap();
        // The last one leaves a sound, shorter chain: only the checkpoint tells.
        assert!(!ledger.report().is_intact() || at == 19);
        assert!(ledger.head().size < checkpoint.size && ledger.root() != checkpoint.root);
        for (shown, outcome) in [
            (Shown { own: vec![note.clone()], held: Vec::new() }, Outcome::Broken),
            (Shown { own: Vec::new(), held: vec![note] }, Outcome::Contradicted),
        ] {
            let mut auditor = Auditor::new(None, shown, None);
            for row in &ledger.rows {
                auditor.feed(&row.row(), |_| {});
            }
            assert_eq!(auditor.finish(None, 0, std::time::Duration::MAX, |_| {}).outcome, outcome, "row {at}");
        }
    }
}

#[test]
fn r03_two_neighbours_are_swapped() {
    let mut ledger = Ledger::of(20);
    ledger.rows.swap(7, 8);
    assert_eq!(ledger.report().verified, 7);
}

#[test]
fn r04_a_record_is_inserted_with_a_link_that_fits() {
    let mut ledger = Ledger::of(20);
    let mut forged = ledger.rows[9].clone();
    forged.id = 11;
    forged.prev_hash = ledger.rows[9].hash.clone();
    forged.seal();
    ledger.rows.insert(10, forged);
    assert_eq!(ledger.report().verified, 11, "the row after it links to the one before it");
}

#[test]
fn r06_another_history_from_the_first_row_under_the_same_origin() {
    let honest = Ledger::of(20);
    let mut peer = Peer::of(&honest, 1);
    peer.answer(&honest.request(0));
    let mut other = Ledger::of(0);
    (0..25).for_each(|n| other.append(&format!(r#"{{"other":{n}}}"#)));
    assert_eq!(peer.answer(&other.request(0)), Response::Conflict { size: 20 });
    assert_eq!(peer.answer(&other.request(20)), Response::BadProof);
    // Under a key of its own making it is nobody's ledger.
    other.key = ed25519_dalek::SigningKey::from_bytes(&[77; 32]);
    assert_eq!(peer.answer(&other.request(0)), Response::BadSignature);
}

#[test]
fn r07_the_tail_is_cut_by_one_below_and_above_what_was_cosigned() {
    let honest = Ledger::of(20);
    let mut peer = Peer::of(&honest, 1);
    peer.answer(&honest.request(0));
    let cut = |size: usize| Ledger { rows: honest.rows[..size].to_vec(), key: honest.key.clone() };
    for size in [19, 10] {
        assert_eq!(peer.answer(&cut(size).request(size as u64)), Response::Conflict { size: 20 });
    }
    // What was never cosigned can be cut unseen: that is the window, and it is
    // why an act that matters waits for its cosignatures.
    let mut longer = honest.clone();
    longer.append("{}");
    assert_eq!(peer.answer(&longer.request(20)).status(), 200);
}

#[test]
fn r08_the_database_of_yesterday_is_restored_and_goes_on() {
    let mut today = Ledger::of(20);
    let mut restored = today.clone();
    (0..10).for_each(|_| today.append("{}"));
    let mut peer = Peer::of(&today, 1);
    peer.answer(&today.request(0));
    assert_eq!(peer.answer(&restored.request(20)), Response::Conflict { size: 30 }, "seen at the start");
    (0..11).for_each(|n| restored.append(&format!(r#"{{"again":{n}}}"#)));
    assert_eq!(peer.answer(&restored.request(30)), Response::BadProof, "and it cannot grow out of it");
}

#[test]
fn r09_two_heads_of_one_size_are_shown_to_two_witnesses() {
    let honest = Ledger::of(20);
    let mut forged = honest.clone();
    forged.rows[5].payload = "{}".to_owned();
    forged.rehash();
    let (mut a, mut b) = (Peer::of(&honest, 1), Peer::of(&honest, 2));
    assert_eq!(a.answer(&honest.request(0)).status(), 200);
    assert_eq!(b.answer(&forged.request(0)).status(), 200);
    let (held_a, held_b) = (a.held.clone().unwrap(), b.held.unwrap());
    let evidence = Evidence::from_notes(&held_a.note, &held_b.note, &honest.verifier()).unwrap().unwrap();
    assert_eq!(evidence.contradiction, Contradiction::SameSize);
    let shown = evidence.to_string();
    assert!(shown.contains(&held_a.note.to_string()) && shown.contains(&held_b.note.to_string()));
    // No quorum of both comes together, and one witness that sees both has the evidence.
    let Decision::Conflict { evidence: Some(seen), .. } = a.judge(&forged.request(20), 0) else {
        panic!("a fork is a conflict with evidence");
    };
    assert_eq!(seen.contradiction, Contradiction::SameSize);
    assert!(Evidence::from_notes(&held_a.note, &held_a.note, &honest.verifier()).unwrap().is_none());
}

#[test]
fn r10_consistency_proofs_too_long_in_the_wrong_order_or_with_one_hash_more() {
    let mut ledger = Ledger::of(13);
    let mut peer = Peer::of(&ledger, 1);
    peer.answer(&ledger.request(0));
    (0..20).for_each(|_| ledger.append("{}"));
    let good = ledger.request(13);
    assert!(good.proof.len() > 2);
    let mut swapped = good.clone();
    swapped.proof.swap(0, 1);
    let mut longer = good.clone();
    longer.proof.push(TreeHash::of_nothing());
    let mut shorter = good.clone();
    shorter.proof.pop();
    let mut none = good.clone();
    none.proof.clear();
    for bad in [swapped, longer, shorter, none] {
        assert_eq!(peer.answer(&bad), Response::BadProof);
    }
    let mut flood = good.clone();
    flood.proof = vec![TreeHash::of_nothing(); 64];
    assert!(AddCheckpoint::parse(flood.to_string().as_bytes()).is_err(), "64 lines");
    flood.proof.pop();
    assert_eq!(peer.answer(&flood), Response::BadProof, "63 lines are read");
    let first = AddCheckpoint { old: 0, ..good.clone() };
    assert_eq!(Peer::of(&ledger, 2).answer(&first), Response::BadProof, "a proof from nothing");
    assert_eq!(peer.answer(&good).status(), 200);
}

#[test]
fn r11_lies_about_the_old_size() {
    let mut ledger = Ledger::of(10);
    let mut peer = Peer::of(&ledger, 1);
    assert_eq!(peer.answer(&ledger.request(11)), Response::BadRequest, "old above the checkpoint");
    assert_eq!(peer.answer(&ledger.request(5)), Response::Conflict { size: 0 });
    assert_eq!(peer.answer(&ledger.request(0)).status(), 200);
    // The race of the specification: A is judged, B is judged and stored, A comes late.
    let a = {
        ledger.append("{}");
        ledger.request(10)
    };
    let judged_early = peer.judge(&a, 0);
    ledger.append("{}");
    let b = ledger.request(10);
    assert_eq!(peer.answer(&b).status(), 200);
    assert!(matches!(judged_early, Decision::Accept { .. }));
    assert_eq!(peer.answer(&a), Response::Conflict { size: 12 }, "judged against what is stored, it is refused");
    let same = ledger.request(12);
    assert!(same.proof.is_empty());
    assert_eq!(peer.answer(&same).status(), 200, "the same head again only renews the time");
    for text in ["old 012\n", "old +12\n", "old  12\n", "old 18446744073709551616\n", "old\n", "new 12\n", ""] {
        let bytes = format!("{text}\n{}", ledger.note());
        assert!(AddCheckpoint::parse(bytes.as_bytes()).is_err(), "{text:?}");
    }
}

#[test]
fn r12_notes_that_can_be_read_in_two_ways() {
    let ledger = Ledger::of(3);
    let (key, peer) = (ledger.verifier(), Peer::of(&ledger, 1));
    let note = ledger.note();
    let good = note.to_string();
    let opened = |text: &str| {
        let note = Note::parse(text.as_bytes()).ok()?;
        Checkpoint::open(&note, &key).ok()
    };
    assert!(opened(&good).is_some());
    let (text, line) = good.split_once("\n\n").unwrap();
    let unknown = Note::cosign(note.text(), &peer.name, &peer.key, 1).unwrap();
    assert!(opened(&format!("{text}\n\n{unknown}\n{line}")).is_some(), "an unknown key first is ignored");
    let twice = Note::parse(format!("{text}\n\n{line}{line}").as_bytes()).unwrap();
    assert!(matches!(twice.check(&key), Err(NoteError::Twice { .. })));
    let wrong = unknown.to_string().replace(&peer.name, "osmoda.ledger/test");
    assert!(opened(&format!("{text}\n\n{wrong}\n{line}")).is_some(), "the name alone makes no known key");
    for bad in [
        good.replace('\n', "\r\n"),
        good.trim_end().to_owned(),
        good.replace('\u{2014}', "-"),
        good.replace('\u{2014}', "\u{2013}"),
        good.replace("\n\n", "\n"),
        good.replace("\u{2014} ", "\u{2014}"),
        good.replace("\u{2014} ", "\u{2014}  "),
        good.replace("\n3\n", "\n03\n"),
        good.replace("\n3\n", "\n+3\n"),
        good.replace("\n3\n", "\n3 \n"),
        good.replace("\nchain ", "\nextra line\nchain "),
        good.replace("\nchain ", "\nchain  "),
        good.replace("osmoda.ledger/test\n3", "osmoda.ledger/test+x\n3"),
        good.replace("=\nchain", "\nchain"),
        format!("{good}\n"),
        format!("\n{good}"),
        format!("{good}\u{0}"),
        format!("{text}\n\n"),
        good.to_uppercase(),
    ] {
        assert!(opened(&bad).is_none(), "{bad:?}");
    }
    let mut bytes = good.into_bytes();
    bytes[3] = 0xff;
    assert!(Note::parse(&bytes).is_err(), "not UTF-8");
}

#[test]
fn r13_text_that_is_shifted_between_fields_or_says_two_things() {
    for bad in ["login|root", "a\nb", "a\u{0}", "", "A", "a b", &"a".repeat(65)] {
        assert!(!is_name(bad.as_bytes()), "{bad:?}");
    }
    let big = format!(r#"{{"a":"{}"}}"#, "x".repeat(10 << 20));
    for bad in [r#"{"a":1,"a":2}"#, r#"{"a":NaN}"#, r#"{"a":"\ud800"}"#, &big, "[1]", r#"{"a":1} "#] {
        assert!(Payload::check(bad.as_bytes()).is_err(), "{:.40}", bad);
    }
    assert!(big.len() > PAYLOAD_BYTES_MAX);
    // The classic: the same bytes, cut at another place. Both rows cannot be rows.
    let mut ledger = Ledger::of(1);
    ledger.rows[0].kind = "login|root".to_owned();
    ledger.rows[0].actor = "alice".to_owned();
    ledger.rows[0].seal();
    assert!(ledger.report().grammar_faults > 0);
}

#[test]
fn r14_a_clock_set_back_by_an_hour() {
    let mut ledger = Ledger::of(5);
    ledger.rows[4].ts = "2025-12-31T23:00:00.000Z".to_owned();
    ledger.rehash();
    assert_eq!(ledger.report().grammar_faults, 1);
    // A witness's time never goes back either.
    let honest = Ledger::of(5);
    let peer = Peer::of(&honest, 1);
    let Decision::Accept { new, .. } = peer.judge(&honest.request(0), 5000) else { panic!("accepted") };
    let peer = Peer { held: Some(*new), ..peer };
    let Decision::Accept { new, .. } = peer.judge(&honest.request(5), 1400) else { panic!("accepted") };
    assert_eq!(new.time_s, 5000);
}

#[test]
fn r17_a_witness_that_lies_or_is_silent_counts_for_nothing() {
    let ledger = Ledger::of(7);
    let mut peers: Vec<Peer> = (1..=3).map(|n| Peer::of(&ledger, n)).collect();
    let known = |peer: &Peer| KnownWitness { name: peer.name.clone(), key: peer.verifier() };
    let policy = Policy::majority(ledger.verifier(), peers.iter().map(known).collect()).unwrap();
    assert_eq!(Policy::parse(&policy.to_string()).unwrap(), policy);
    assert_eq!(policy.quorum(), (2, 3));

    let mut note = ledger.note();
    let Response::Cosigned(lines) = peers[0].answer(&ledger.request(0)) else { panic!("cosigned") };
    note.add(lines[0].clone());
    note.add(lines[0].clone());
    let standing = policy.judge(&note).unwrap();
    assert!(!standing.is_covered(), "one that signs twice is one");

    // A cosignature over another text, under the second witness's name.
    let lie = Note::cosign("another text\n", &peers[1].name, &peers[1].key, 9).unwrap();
    let mut lied = note.clone();
    lied.add(lie.clone());
    assert!(policy.judge(&lied).is_err());
    assert!(note.check_line(&lie, &peers[1].verifier()).is_err(), "and it is refused before it is stored");

    // A stranger under a known name.
    let stranger = Note::cosign(note.text(), &peers[1].name, &Peer::of(&ledger, 77).key, 9).unwrap();
    note.add(stranger);
    assert!(!policy.judge(&note).unwrap().is_covered());
    let Response::Cosigned(lines) = peers[2].answer(&ledger.request(0)) else { panic!("cosigned") };
    note.add(lines[0].clone());
    let standing = policy.judge(&note).unwrap();
    assert!(standing.is_covered());
    assert_eq!((standing.cosigned.len(), standing.newest_s()), (2, Some(1_800_000_000)));
}

#[test]
fn r18_a_stolen_key_forks_before_the_last_cosigned_size() {
    let honest = Ledger::of(20);
    let mut peer = Peer::of(&honest, 1);
    peer.answer(&honest.request(0));
    let mut thief = Ledger { rows: honest.rows[..15].to_vec(), key: honest.key.clone() };
    (0..10).for_each(|_| thief.append(r#"{"thief":true}"#));
    assert!(thief.report().is_intact() && Checkpoint::open(&thief.note(), &honest.verifier()).is_ok());
    assert_eq!(peer.answer(&thief.request(20)), Response::BadProof);
    assert_eq!(peer.answer(&thief.request(15)), Response::Conflict { size: 20 });
}

#[test]
fn a_witness_answers_only_for_ledgers_it_knows_and_signatures_it_can_check() {
    let ledger = Ledger::of(4);
    let peer = Peer::of(&ledger, 1);
    let mut stranger = ledger.clone();
    stranger.key = Peer::of(&ledger, 9).key;
    assert_eq!(peer.judge(&stranger.request(0), 0), Decision::BadSignature);
    let mut elsewhere = Peer::of(&ledger, 1);
    elsewhere.known =
        osmoda_ledger::note::VerifierKey::new("osmoda.ledger/other", elsewhere.known.kind(), elsewhere.known.public())
            .unwrap();
    assert_eq!(elsewhere.judge(&ledger.request(0), 0), Decision::UnknownOrigin);
    let empty = Ledger::of(0);
    assert_eq!(peer.judge(&empty.request(0), 0), Decision::BadRequest);
    assert_eq!(empty.root(), Frontier::new().root());
}

#[test]
fn policies_that_are_ambiguous_or_cannot_be_met_are_refused() {
    let ledger = Ledger::of(1);
    let (a, b) = (Peer::of(&ledger, 1).verifier(), Peer::of(&ledger, 2).verifier());
    let log = ledger.verifier();
    let good =
        format!("log {log}\n# two of two\nwitness a {a}\n\twitness b {b} https://b\ngroup g all a b\nquorum g\n");
    assert_eq!(Policy::parse(&good).unwrap().quorum(), (2, 2));
    for bad in [
        good.replace("quorum g\n", ""),
        good.replace("quorum g", "quorum h"),
        good.replace("quorum g", "quorum g\nquorum a"),
        good.replace("all a b", "3 a b"),
        good.replace("all a b", "0 a b"),
        good.replace("all a b", "1 a a"),
        good.replace("group g", "group a"),
        good.replace("witness b", "witness a"),
        good.replace(&b.to_string(), &a.to_string()),
        good.replace(&format!("log {log}"), &format!("log {a}")),
        good.replace(&format!("log {log}\n"), ""),
        good.replace("quorum g", "quorum g extra"),
        format!("{good}nonsense\n"),
    ] {
        assert!(Policy::parse(&bad).is_err(), "{bad}");
    }
}
