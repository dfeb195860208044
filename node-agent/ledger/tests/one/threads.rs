//! The walk on two threads against the straight one: the same faults in the
//! same order and the same verdict, whatever was done to the rows.

use std::path::{Path, PathBuf};
use std::time::Duration;

use osmoda_ledger::audit::Verdict;
use osmoda_ledger::export::{Export, ExportWriter};
use osmoda_ledger::look::Batch;
use osmoda_ledger::policy::{KnownWitness, Policy};
use osmoda_ledger::record::Row;
use osmoda_ledger::tree::{Frontier, TreeHash};
use osmoda_ledger::verify::{Fault, Report, Verifier};
use osmoda_ledger::walk::{Threads, walk};
use proptest::prelude::*;

use crate::world::{Entry, Ledger, Peer};

/// What a walk tells: every fault, the report, the tree.
type Told = (Vec<Fault>, Report, TreeHash);

fn straight(rows: &[Entry]) -> Told {
    let (mut faults, mut verifier, mut tree) = (Vec::new(), Verifier::new(), Frontier::new());
    for entry in rows {
        tree.append(verifier.feed(&entry.row(), |fault| faults.push(fault)));
    }
    let report = verifier.finish(None, |fault| faults.push(fault));
    (faults, report, tree.root())
}

/// Batches of a few rows, so that many are under way at once.
fn walked(threads: Threads, rows: &[Entry], batch_rows: usize) -> Told {
    let (mut faults, mut verifier, mut tree) = (Vec::new(), Verifier::new(), Frontier::new());
    let mut seen = Vec::new();
    let mut chunks = rows.chunks(batch_rows);
    let fill = |batch: &mut Batch| {
        let chunk = chunks.next().unwrap_or(&[]);
        chunk.iter().for_each(|entry| batch.push(&entry.row()));
        Ok::<_, ()>(chunks.len() > 0)
    };
    walk(threads, fill, |row: &Row<'_>, looked| {
        seen.push((row.id, row.hash.to_vec()));
        tree.append(verifier.take(row, looked, |fault| faults.push(fault)));
        Ok(())
    })
    .unwrap();
    let given: Vec<_> = rows.iter().map(|entry| (entry.id, entry.hash.clone().into_bytes())).collect();
    assert_eq!(seen, given, "every row, in its order");
    (faults, verifier.finish(None, |_| {}), tree.root())
}

/// Intents, outcomes and others.
fn acts(size: usize) -> Ledger {
    let mut ledger = Ledger::of(size);
    for n in 0..size {
        let (kind, payload) = match n % 3 {
            0 => ("a.b.intent", format!(r#"{{"n":{n}}}"#)),
            1 => ("a.b.outcome", format!(r#"{{"intent":{n}}}"#)),
            _ => ("test.row", format!(r#"{{"n":{n},"x":1.5,"é":"\\u0001"}}"#)),
        };
        ledger.rows[n].kind = kind.to_owned();
        ledger.rows[n].payload = payload;
    }
    ledger.rehash();
    ledger
}

#[derive(Debug, Clone)]
enum Change {
    Text { at: prop::sample::Index, column: usize, text: String },
    Id { at: prop::sample::Index, id: i64 },
    Gone(prop::sample::Index),
    Twice(prop::sample::Index),
    Swapped(prop::sample::Index),
    Rehashed,
}

fn change() -> impl Strategy<Value = Change> {
    let text = prop_oneof![
        "\\PC{0,8}",
        Just(String::new()),
        Just("2026-01-01T00:00:00.000Z".to_owned()),
        prop::sample::select(vec!["a.b.intent", "a.c.outcome", "a.b.outcome", "A|B"]).prop_map(str::to_owned),
        prop::sample::select(vec![r#"{"intent":1}"#, r#"{"intent":-1}"#, r#"{"a":1,"a":1}"#, r#"{"intent":1.0}"#])
            .prop_map(str::to_owned),
    ];
    prop_oneof![
        3 => (any::<prop::sample::Index>(), 0_usize..6, text).prop_map(|(at, column, text)| Change::Text {
            at,
            column,
            text
        }),
        1 => (any::<prop::sample::Index>(), prop_oneof![any::<i64>(), -2_i64..40])
            .prop_map(|(at, id)| Change::Id { at, id }),
        1 => any::<prop::sample::Index>().prop_map(Change::Gone),
        1 => any::<prop::sample::Index>().prop_map(Change::Twice),
        1 => any::<prop::sample::Index>().prop_map(Change::Swapped),
        1 => Just(Change::Rehashed),
    ]
}

fn apply(ledger: &mut Ledger, change: Change) {
    let count = ledger.rows.len();
    match change {
        Change::Text { at, column, text } => {
            let row = &mut ledger.rows[at.index(count)];
            match column {
                0 => row.ts = text,
                1 => row.kind = text,
                2 => row.actor = text,
                3 => row.payload = text,
                4 => row.prev_hash = text,
                _ => row.hash = text,
            }
        }
        Change::Id { at, id } => ledger.rows[at.index(count)].id = id,
        Change::Gone(at) => drop(ledger.rows.remove(at.index(count))),
        Change::Twice(at) => ledger.rows.insert(at.index(count), ledger.rows[at.index(count)].clone()),
        Change::Swapped(at) => ledger.rows.swap(at.index(count), 0),
        Change::Rehashed => ledger.rehash(),
    }
}

/// Rows so long that each bundle of the folder is a batch of its own.
fn long(size: usize) -> Ledger {
    let mut ledger = Ledger::of(0);
    (0..size).for_each(|n| ledger.append(&format!(r#"{{"n":{n},"text":"{}"}}"#, "x".repeat(600))));
    ledger
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// The verdict over a folder with every fault, or why there is none.
fn judged(dir: &Path, policy: &Policy, threads: Threads) -> Result<(Verdict, Vec<Fault>), String> {
    let export = Export::open(dir).map_err(|error| error.to_string())?.on(threads);
    let mut faults = Vec::new();
    let auditor = export.audit(Some(policy.clone()), |fault| faults.push(fault)).map_err(|error| error.to_string())?;
    let verdict = auditor.finish(None, 1_800_000_000, Duration::from_secs(3600), |fault| faults.push(fault));
    Ok((verdict, faults))
}

proptest! {
    #[test]
    fn two_threads_and_one_give_the_same_verdict(
        size in 1_usize..90,
        batch_rows in 1_usize..8,
        changes in proptest::collection::vec(change(), 0..6),
    ) {
        let mut ledger = acts(size);
        for change in changes {
            apply(&mut ledger, change);
            if ledger.rows.is_empty() {
                ledger.append("{}");
            }
        }
        let told = straight(&ledger.rows);
        prop_assert_eq!(&walked(Threads::One, &ledger.rows, batch_rows), &told);
        prop_assert_eq!(&walked(Threads::Two, &ledger.rows, batch_rows), &told);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_changed_folder_gets_one_verdict_on_two_threads_and_on_one(
        size in 500_usize..1100,
        changes in proptest::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0_u8..255, any::<bool>()), 0..3),
    ) {
        let ledger = long(size);
        let peer = Peer::of(&ledger, 1);
        let known = KnownWitness { name: peer.name.clone(), key: peer.verifier() };
        let policy = Policy::majority(ledger.verifier(), vec![known]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut writer = ExportWriter::new(dir.path(), None).unwrap();
        let mut record = Vec::new();
        for entry in &ledger.rows {
            entry.row().record_into(&mut record);
            writer.push(&record).unwrap();
        }
        writer.finish(&ledger.note(), None, &policy).unwrap();
        for (file, at, flip, is_gone) in changes {
            let all = files(dir.path());
            let path = file.get(&all);
            let mut bytes = std::fs::read(path).unwrap();
            if is_gone && flip % 8 == 0 {
                std::fs::remove_file(path).unwrap();
            } else if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] ^= flip;
                std::fs::write(path, bytes).unwrap();
            }
        }
        let one = judged(dir.path(), &policy, Threads::One);
        prop_assert_eq!(judged(dir.path(), &policy, Threads::Two), one);
    }
}
