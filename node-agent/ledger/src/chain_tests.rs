//! Property and table tests of the chain as a whole: record, grammar, payload
//! and verifier together. The oracle is the definition of the formula, written
//! once more in the plainest way.

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use crate::grammar::GrammarFault;
use crate::payload::Payload;
use crate::record::{ChainHash, Row};
use crate::verify::{ChainFault, Fault, FaultKind, IntentFault, Report, Verifier};

#[derive(Debug, Clone, PartialEq)]
struct Owned {
    id: i64,
    ts: Vec<u8>,
    kind: Vec<u8>,
    actor: Vec<u8>,
    payload: Vec<u8>,
    prev_hash: Vec<u8>,
    hash: Vec<u8>,
}

impl Owned {
    fn row(&self) -> Row<'_> {
        Row {
            id: self.id,
            ts: &self.ts,
            kind: &self.kind,
            actor: &self.actor,
            payload: &self.payload,
            prev_hash: &self.prev_hash,
            hash: &self.hash,
        }
    }

    fn column(&mut self, number: usize) -> &mut Vec<u8> {
        match number {
            0 => &mut self.ts,
            1 => &mut self.kind,
            2 => &mut self.actor,
            3 => &mut self.payload,
            4 => &mut self.prev_hash,
            _ => &mut self.hash,
        }
    }
}

/// The formula as the reference states it, with nothing of ours.
fn oracle(row: &Owned) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let record = format!(
        "{}|{}|{}|{}|{}|{}",
        row.id,
        text(&row.ts),
        text(&row.kind),
        text(&row.actor),
        text(&row.payload),
        text(&row.prev_hash)
    );
    Sha256::digest(record.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

fn chain(rows: &[(&str, &str, &str)]) -> Vec<Owned> {
    let mut prev = ChainHash::GENESIS.as_bytes().to_vec();
    let mut out = Vec::new();
    for (n, (kind, actor, payload)) in rows.iter().enumerate() {
        let mut row = Owned {
            id: i64::try_from(n).unwrap() + 1,
            ts: format!("2026-01-02T03:04:{:02}.{:03}Z", (n / 1000) % 60, n % 1000).into_bytes(),
            kind: kind.as_bytes().to_vec(),
            actor: actor.as_bytes().to_vec(),
            payload: payload.as_bytes().to_vec(),
            prev_hash: prev,
            hash: Vec::new(),
        };
        row.hash = oracle(&row).into_bytes();
        prev = row.hash.clone();
        out.push(row);
    }
    out
}

fn verify(rows: &[Owned], last_written: Option<u64>) -> (Report, Vec<Fault>) {
    let mut faults = Vec::new();
    let mut verifier = Verifier::new();
    for row in rows {
        verifier.feed(&row.row(), |fault| faults.push(fault));
    }
    let report = verifier.finish(last_written, |fault| faults.push(fault));
    (report, faults)
}

fn good() -> Vec<Owned> {
    chain(&[
        ("daemon.start", "agentd", "{}"),
        ("watch.activate.intent", "watch", r#"{"target":"/nix/store/a|b"}"#),
        ("watch.activate.outcome", "watch", r#"{"intent":2,"ok":true}"#),
        ("fleet.vote.intent", "fleetd", "{}"),
    ])
}

#[test]
fn a_good_chain_verifies_and_names_its_head() {
    let rows = good();
    let (report, faults) = verify(&rows, Some(4));
    assert_eq!(faults, []);
    assert_eq!((report.verified, report.total, report.open_intents), (4, 4, 1));
    assert_eq!((report.head.size, report.head.hash.as_bytes()), (4, rows[3].hash.as_slice()));
}

#[test]
fn an_empty_ledger_verifies_unless_rows_were_written() {
    assert_eq!(verify(&[], None).0.chain_faults, 0);
    assert_eq!(verify(&[], Some(0)).0.chain_faults, 0);
    let (report, faults) = verify(&[], Some(9));
    assert_eq!(report.chain_faults, 1);
    assert_eq!(faults[0].kind, ChainFault::TailMissing { last: 9, found: 0 }.into());
}

#[test]
fn deleting_swapping_and_inserting_rows_is_detected() {
    for gone in 0..3 {
        let mut rows = good();
        rows.remove(gone);
        assert!(verify(&rows, None).0.chain_faults > 0, "row {gone} deleted");
    }
    let mut cut = good();
    cut.pop();
    assert_eq!(verify(&cut, Some(4)).0.chain_faults, 1, "a cut tail that storage remembers");

    let mut swapped = good();
    swapped.swap(1, 2);
    assert!(verify(&swapped, None).0.chain_faults > 0);

    let mut inserted = good();
    inserted.insert(2, inserted[1].clone());
    assert!(verify(&inserted, None).0.chain_faults > 0);
}

#[test]
fn an_id_gap_whose_links_hold_is_a_grammar_fault() {
    let mut rows = good();
    rows[3].id = 5;
    rows[3].hash = oracle(&rows[3]).into_bytes();
    let (report, faults) = verify(&rows, None);
    assert_eq!((report.chain_faults, report.grammar_faults, report.verified), (0, 1, 3));
    assert_eq!(faults[0].kind, GrammarFault::Id { expected: 4, found: 5 }.into());
}

#[test]
fn text_shifted_between_type_and_actor_is_a_grammar_fault() {
    // trust.md 0.1, finding 2: the plain formula cannot tell these two apart.
    let honest = chain(&[("login", "root/alice", "{}")]);
    let shifted = chain(&[("login|root/alice", "x", "{}")]);
    assert_eq!(verify(&honest, None).1, []);
    assert_eq!(verify(&shifted, None).1[0].kind, GrammarFault::Type.into());
}

#[test]
fn time_may_stand_still_but_not_go_back() {
    let mut rows = good();
    rows[1].ts = rows[0].ts.clone();
    rows[1].hash = oracle(&rows[1]).into_bytes();
    assert_eq!(verify(&rows[..2], None).1, []);
    rows[1].ts = b"2026-01-02T03:03:59.999Z".to_vec();
    rows[1].hash = oracle(&rows[1]).into_bytes();
    assert_eq!(verify(&rows[..2], None).1[0].kind, GrammarFault::TsBack.into());
}

#[test]
fn an_outcome_needs_an_earlier_intent_of_the_same_act() {
    let cases: [(&str, FaultKind); 5] = [
        ("{}", IntentFault::Unnamed.into()),
        (r#"{"intent":"2"}"#, IntentFault::Unnamed.into()),
        (r#"{"intent":1}"#, IntentFault::Unknown(1).into()),
        (r#"{"intent":3}"#, IntentFault::Unknown(3).into()),
        (r#"{"intent":4}"#, IntentFault::Unknown(4).into()),
    ];
    for (payload, expected) in cases {
        let rows = chain(&[
            ("daemon.start", "agentd", "{}"),
            ("watch.activate.intent", "watch", "{}"),
            ("watch.activate.outcome", "watch", payload),
            ("watch.activate.intent", "watch", "{}"),
        ]);
        let (report, faults) = verify(&rows, None);
        assert_eq!(faults.len(), 1, "{payload}");
        assert_eq!(faults[0].kind, expected, "{payload}");
        assert_eq!((report.verified, report.total), (4, 4), "an act without intent breaks no chain");
    }
    let other_act = chain(&[("a.b.intent", "x", "{}"), ("a.c.outcome", "x", r#"{"intent":1}"#)]);
    assert_eq!(verify(&other_act, None).1[0].kind, IntentFault::Unknown(1).into());
}

fn arbitrary_rows() -> impl Strategy<Value = Vec<(String, String, String)>> {
    let name = "[a-z0-9_.:@/-]{1,64}";
    let payload =
        ("\\PC{0,30}", any::<i32>(), proptest::option::of("[|{}\",:]{0,20}")).prop_map(|(text, number, odd)| {
            let mut object = serde_json::Map::new();
            object.insert(text.clone(), number.into());
            object.insert("text".to_owned(), text.into());
            object.insert("odd".to_owned(), odd.into());
            Payload::new(&object).unwrap().as_str().to_owned()
        });
    proptest::collection::vec((name, name, payload), 1..6)
}

fn borrow(rows: &[(String, String, String)]) -> Vec<(&str, &str, &str)> {
    rows.iter().map(|(kind, actor, payload)| (kind.as_str(), actor.as_str(), payload.as_str())).collect()
}

proptest! {
    #[test]
    fn every_chain_built_by_the_formula_verifies(rows in arbitrary_rows()) {
        let rows = chain(&borrow(&rows));
        for row in &rows {
            let expected = row.row().expected_hash();
            prop_assert_eq!(expected.as_str(), oracle(row));
        }
        let (report, _) = verify(&rows, Some(rows.len() as u64));
        prop_assert!(report.is_intact());
        prop_assert_eq!(report.verified, rows.len() as u64);
    }

    #[test]
    fn any_single_byte_change_in_any_stored_column_is_detected(
        rows in arbitrary_rows(),
        victim: prop::sample::Index,
        column in 0..6_usize,
        position: prop::sample::Index,
        flip in 1..=255_u8,
    ) {
        let mut rows = chain(&borrow(&rows));
        let count = rows.len();
        let bytes = rows[victim.index(count)].column(column);
        let at = position.index(bytes.len());
        bytes[at] ^= flip;
        let (report, _) = verify(&rows, Some(count as u64));
        prop_assert!(!report.is_intact());
        prop_assert!(report.verified <= victim.index(count) as u64);
    }

    #[test]
    fn any_change_of_an_id_is_detected(rows in arbitrary_rows(), victim: prop::sample::Index, id: i64) {
        let mut rows = chain(&borrow(&rows));
        let count = rows.len();
        let row = &mut rows[victim.index(count)];
        prop_assume!(row.id != id);
        row.id = id;
        prop_assert!(!verify(&rows, Some(count as u64)).0.is_intact());
    }

    #[test]
    fn no_two_rows_of_the_grammar_share_a_pre_image(a in arbitrary_rows(), b in arbitrary_rows()) {
        // A row of the grammar can be read back from its pre-image in one way:
        // four columns without a bar in front, 64 digits behind, payload between.
        for row in chain(&borrow(&a)).iter().chain(&chain(&borrow(&b))) {
            let image = format!(
                "{}|{}|{}|{}|{}|{}",
                row.id,
                String::from_utf8_lossy(&row.ts),
                String::from_utf8_lossy(&row.kind),
                String::from_utf8_lossy(&row.actor),
                String::from_utf8_lossy(&row.payload),
                String::from_utf8_lossy(&row.prev_hash)
            );
            let (front, prev_hash) = image.split_at(image.len() - 64);
            let mut parts = front.strip_suffix('|').unwrap().splitn(5, '|');
            let mut next = || parts.next().unwrap().as_bytes().to_vec();
            let id: i64 = String::from_utf8(next()).unwrap().parse().unwrap();
            let back = Owned {
                id,
                ts: next(),
                kind: next(),
                actor: next(),
                payload: next(),
                prev_hash: prev_hash.as_bytes().to_vec(),
                hash: row.hash.clone(),
            };
            prop_assert_eq!(&back, row);
        }
    }

    #[test]
    fn the_verifier_survives_any_bytes(
        columns in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 6),
        id: i64,
    ) {
        let [ts, kind, actor, payload, prev_hash, hash] = columns.try_into().unwrap();
        let row = Owned { id, ts, kind, actor, payload, prev_hash, hash };
        prop_assert!(!verify(&[row], None).0.is_intact());
    }
}
