//! Made-up fleets of three, with real signatures.

use ed25519_dalek::SigningKey;
use osmoda_controller_api::{LedgerAlarm, LedgerHeld, LedgerLogged, LedgerReport};
use osmoda_ledger::record::ChainHash;
use osmoda_ledger::tree::TreeHash;
use osmoda_types::statement::public_key;

use super::*;

const NOW: u64 = 1_800_000_000;

fn secret(node: u8) -> SigningKey {
    SigningKey::from_bytes(&[node; 32])
}

fn id(node: u8) -> NodeId {
    NodeId::from_bytes([node; 32])
}

/// A checkpoint of a node's ledger; `history` tells one past from another.
fn note(node: u8, size: u64, history: u8) -> Note {
    let key = secret(node);
    let checkpoint = Checkpoint {
        origin: format!("osmoda.ledger/{}", public_key(&key)),
        size,
        root: TreeHash::from_base64(&data_encoding::BASE64.encode(&[history; 32])).unwrap(),
        chain: ChainHash::from_stored(format!("{history:02x}").repeat(32).as_bytes()).unwrap(),
    };
    checkpoint.sign(&key).unwrap()
}

fn cosigned(mut note: Note, witness: u8, time_s: u64) -> Note {
    let key = secret(witness);
    let name = format!("osmoda.witness/{}", public_key(&key));
    note.add(Note::cosign(note.text(), &name, &key, time_s).unwrap());
    note
}

fn at(seconds: u64) -> String {
    osmoda_kit::clock::Timestamp::from_millis(i64::try_from(seconds * 1000).unwrap()).to_string()
}

fn held(witness: u8, note: &Note) -> LedgerHeld {
    LedgerHeld { witness: id(witness), size: 0, note: note.to_string(), time_s: NOW - 5 }
}

fn alarm(held: &Note, shown: &Note) -> LedgerAlarm {
    let (held, shown) = (held.to_string(), shown.to_string());
    let finding = "shortened".to_owned();
    LedgerAlarm { witness: id(2), finding, held, shown, time_s: NOW - 5, received_at: at(NOW) }
}

/// A ledger of ten rows that node 2 or 3 covers.
fn sound(node: u8) -> NodeLedger {
    let witness = if node == 2 { 3 } else { 2 };
    let ten = note(node, 10, 1);
    NodeLedger {
        node: id(node),
        name: format!("web-{node}"),
        key: Some(public_key(&secret(node))),
        logged: Some(LedgerLogged { size: 10, hash: "01".repeat(32) }),
        report: Some(LedgerReport {
            key: public_key(&secret(node)),
            rows: 10,
            covered: Some(cosigned(ten.clone(), witness, NOW - 7).to_string()),
            quorum: 1,
            witnesses: 2,
            refused: None,
            fault: None,
            received_at: at(NOW - 3),
        }),
        held: vec![held(witness, &ten)],
        alarms: Vec::new(),
    }
}

fn three() -> Vec<NodeLedger> {
    (1..=3).map(sound).collect()
}

fn judged(ledgers: &[NodeLedger], known: &BTreeMap<NodeId, First>) -> Vec<Verdict> {
    let keys = ledgers.iter().filter_map(|ledger| Some((ledger.node, ledger.key?))).collect();
    Fleet { ledgers, keys: &keys, first: known, own: &BTreeMap::new(), now_s: NOW }.judge()
}

/// Changes the ledger of node 1 and says how it stands then.
fn check(change: impl FnOnce(&mut NodeLedger), outcome: Outcome, says: &str, notes: usize) -> Verdict {
    let mut fleet = three();
    change(&mut fleet[0]);
    let verdicts = judged(&fleet, &BTreeMap::new());
    let verdict = verdicts[0].clone();
    assert_eq!(verdict.outcome, outcome, "{}", verdict.text());
    assert!(verdict.text().contains(says), "{says:?} is not in {}", verdict.text());
    let evidence = verdict.findings.iter().map(|finding| finding.evidence.len()).max().unwrap_or(0);
    assert_eq!(evidence, notes, "{}", verdict.text());
    assert!(verdicts[1..].iter().all(|other| other.outcome == Outcome::Verified), "{verdicts:?}");
    verdict
}

fn report(ledger: &mut NodeLedger) -> &mut LedgerReport {
    ledger.report.as_mut().unwrap()
}

#[test]
fn a_sound_ledger_is_verified_up_to_a_number_of_rows() {
    let says = "web-1: verified up to 10 of 10, quorum 1 of 2 (1 needed), newest cosignature 7 s ago\n";
    let verdict = check(|_| {}, Outcome::Verified, says, 0);
    assert_eq!(verdict.held, [Held { witness: "web-2".into(), size: 10 }]);
}

#[test]
fn unknown_means_no() {
    check(|ledger| ledger.report = None, Outcome::Stale, "never told anything", 0);
    check(|ledger| ledger.key = None, Outcome::Stale, "key of its ledger is not known", 0);
    let old = cosigned(note(1, 10, 1), 2, NOW - 121).to_string();
    check(|ledger| report(ledger).covered = Some(old), Outcome::Stale, "2 min from now", 0);
    // A witness whose clock is ahead cannot make a ledger look fresh for ever.
    let ahead = cosigned(note(1, 10, 1), 2, NOW + 500).to_string();
    check(|ledger| report(ledger).covered = Some(ahead), Outcome::Stale, "8 min from now", 0);
}

#[test]
fn a_tail_that_nobody_cosigned_is_named() {
    check(|ledger| report(ledger).rows = 14, Outcome::Uncovered, "rows 11 to 14 are not covered (4)", 0);
    check(|ledger| report(ledger).covered = None, Outcome::Uncovered, "rows 1 to 10 are not covered", 0);
    let bare = note(1, 10, 1).to_string();
    check(|ledger| report(ledger).covered = Some(bare), Outcome::Uncovered, "0 witnesses cosigned", 0);
    // Its own cosignature, and one of a stranger, count for nothing.
    let own = cosigned(cosigned(note(1, 10, 1), 1, NOW), 9, NOW).to_string();
    check(|ledger| report(ledger).covered = Some(own), Outcome::Uncovered, "0 witnesses cosigned", 0);
}

#[test]
fn what_is_not_signed_is_broken() {
    let foreign = cosigned(note(3, 10, 1), 2, NOW).to_string();
    check(|ledger| report(ledger).covered = Some(foreign), Outcome::Broken, "its own newest note proves nothing", 0);
    let forged = cosigned(note(1, 10, 1), 2, NOW).to_string();
    let line = cosigned(note(1, 11, 1), 2, NOW).to_string().lines().last().unwrap().to_owned();
    let forged = forged.replace(forged.lines().last().unwrap(), &line);
    check(|ledger| report(ledger).covered = Some(forged), Outcome::Broken, "the cosignature of web-2", 0);
}

/// One witness that lies about everybody is the only one that is found out.
#[test]
fn what_a_witness_shows_that_was_never_signed_is_held_against_the_witness() {
    let same = note(1, 10, 1);
    let changes: [fn(&mut NodeLedger, &Note); 3] = [
        |ledger, _| ledger.held.push(LedgerHeld { note: "no note".into(), ..held(2, &note(1, 10, 1)) }),
        |ledger, _| ledger.alarms.push(alarm(&note(2, 12, 1), &note(2, 10, 1))),
        |ledger, same| ledger.alarms.push(alarm(same, same)),
    ];
    for (change, says) in changes.into_iter().zip(["a note of web-1 what is none", "of web-1", "one note twice"]) {
        let mut fleet = three();
        change(&mut fleet[0], &same);
        let verdicts = judged(&fleet, &BTreeMap::new());
        let outcomes: Vec<Outcome> = verdicts.iter().map(|verdict| verdict.outcome).collect();
        assert_eq!(outcomes, [Outcome::Verified, Outcome::Broken, Outcome::Verified], "{verdicts:?}");
        assert!(verdicts[1].text().contains(says), "{}", verdicts[1].text());
    }
}

/// Two honest notes, given in the order that the witness likes.
#[test]
fn the_order_of_two_notes_is_one_witness_s_word_until_another_says_so() {
    let shorter = alarm(&note(1, 10, 1), &note(1, 9, 1));
    let says = "ACCUSED: accused by web-2: it signed 9 rows after it had signed 10";
    check(|ledger| ledger.alarms.push(shorter.clone()), Outcome::Accused, says, 2);
    let rewritten = alarm(&note(1, 8, 1), &note(1, 10, 1));
    let says = "accused by web-2: it could not show that its 10 rows begin with the 8";
    check(|ledger| ledger.alarms.extend([rewritten.clone(), shorter.clone()]), Outcome::Accused, says, 2);
    // It does not accuse itself, and one witness is not two.
    let own = LedgerAlarm { witness: id(1), ..shorter.clone() };
    check(|ledger| ledger.alarms.extend([shorter.clone(), own]), Outcome::Accused, "accused by web-2", 2);

    let second = LedgerAlarm { witness: id(3), ..shorter.clone() };
    let says = "CAUGHT: caught by web-3: it signed 9 rows after it had signed 10";
    check(|ledger| ledger.alarms.extend([shorter.clone(), second]), Outcome::Caught, says, 2);
    let sealed = |ledger: &mut NodeLedger| {
        report(ledger).refused = Some("an old disk was restored".into());
        ledger.alarms.push(shorter);
    };
    check(sealed, Outcome::Caught, "caught by web-2: it signed 9 rows", 2);
}

#[test]
fn a_ledger_that_lied_is_shown_with_both_notes() {
    let fork = held(3, &note(1, 10, 2));
    let verdict = check(|ledger| ledger.held.push(fork), Outcome::Caught, "two histories of 10 rows", 2);
    assert!(verdict.text().contains("--- signed before") && verdict.text().contains("--- signed later"));
    let forked = alarm(&note(1, 8, 1), &note(1, 8, 2));
    check(|ledger| ledger.alarms.push(forked), Outcome::Caught, "two histories of 8 rows", 2);
    let other = Some(LedgerLogged { size: 10, hash: "09".repeat(32) });
    check(|ledger| ledger.logged = other, Outcome::Caught, "the fleet's log has another row 10", 1);
    let more = held(3, &note(1, 20, 1));
    let refusing = |ledger: &mut NodeLedger| {
        report(ledger).refused = Some("witnesses hold 20 rows".into());
        ledger.held.push(more);
    };
    check(refusing, Outcome::Caught, "it takes no more rows: witnesses hold 20 rows", 2);
}

#[test]
fn fewer_rows_than_were_known_are_a_lie_once_it_tells_anew() {
    let mut fleet = three();
    fleet[0].held[0] = held(2, &note(1, 20, 1));
    // A witness may have seen more than the last report says.
    let before = judged(&fleet, &BTreeMap::new());
    assert_eq!((before[0].outcome, before[0].rows), (Outcome::Uncovered, 20));
    let known = first(&fleet, &before);
    assert_eq!(judged(&fleet, &known)[0].outcome, Outcome::Uncovered);

    report(&mut fleet[0]).received_at = at(NOW);
    let after = judged(&fleet, &known);
    assert_eq!(after[0].outcome, Outcome::Caught);
    assert!(after[0].text().contains("it has 10 rows, and 20 were known before"), "{}", after[0].text());

    let told = report(&mut fleet[0]);
    (told.rows, told.covered) = (25, Some(cosigned(note(1, 22, 1), 3, NOW).to_string()));
    let caught_up = judged(&fleet, &known);
    assert_eq!((caught_up[0].outcome, caught_up[0].verified), (Outcome::Verified, 22));
}

#[test]
fn a_fleet_of_one_has_only_its_own_word() {
    let mut alone = vec![sound(1)];
    alone[0].held.clear();
    report(&mut alone[0]).covered = Some(note(1, 10, 1).to_string());
    let verdict = judged(&alone, &BTreeMap::new()).remove(0);
    assert_eq!(verdict.outcome, Outcome::Verified);
    assert!(verdict.text().contains("quorum 0 of 0 (0 needed), newest cosignature never"), "{}", verdict.text());
    report(&mut alone[0]).received_at = at(NOW - 121);
    assert_eq!(judged(&alone, &BTreeMap::new())[0].outcome, Outcome::Stale);
}

#[test]
fn the_worst_finding_decides() {
    use Outcome::{Accused, Broken, Caught, Stale, Uncovered, Verified};
    let mut order = vec![Caught, Stale, Broken, Accused, Verified, Uncovered];
    order.sort();
    let worse = [Verified, Stale, Uncovered, Accused, Broken, Caught];
    assert_eq!(order, worse);
}

#[test]
fn a_fleet_of_one_is_verified_by_what_this_operator_cosigned() {
    let (ten, me) = (note(1, 10, 1), 9);
    let head = Head {
        node: id(1),
        ledger: public_key(&secret(1)),
        by: public_key(&secret(me)),
        note: ten.to_string(),
        time_s: NOW - 7,
    };
    let judge = |ledger: &NodeLedger, head: &Head| {
        let keys = BTreeMap::from([(ledger.node, ledger.key.unwrap())]);
        let own = BTreeMap::from([(head.node, head.clone())]);
        let ledgers = std::slice::from_ref(ledger);
        Fleet { ledgers, keys: &keys, first: &BTreeMap::new(), own: &own, now_s: NOW }.judge().remove(0)
    };
    let mut alone = sound(1);
    (alone.held, alone.logged) = (Vec::new(), None);
    report(&mut alone).covered = Some(cosigned(ten, me, NOW - 7).to_string());
    let verdict = judge(&alone, &head);
    assert_eq!(verdict.outcome, Outcome::Verified, "{}", verdict.text());
    assert!(verdict.text().contains("10 of 10, quorum 1 of 1 (1 needed)"), "{}", verdict.text());

    report(&mut alone).covered = Some(note(1, 10, 2).to_string());
    let forked = judge(&alone, &head);
    assert_eq!(forked.outcome, Outcome::Caught, "{}", forked.text());
    assert!(forked.text().contains("two histories of 10 rows"), "{}", forked.text());
    let other = Head { ledger: public_key(&secret(3)), ..head };
    assert!(judge(&alone, &other).text().contains("another key"));
}
