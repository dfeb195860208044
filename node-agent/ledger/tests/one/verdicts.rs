//! The verdict over a folder: each exit code of `trust.md` 1.5, and that no
//! byte of the folder can be changed unseen.

use std::path::Path;
use std::time::Duration;

use osmoda_ledger::audit::{Base, Outcome, Verdict};
use osmoda_ledger::evidence::Contradiction;
use osmoda_ledger::exchange::Response;
use osmoda_ledger::export::{Export, ExportWriter};
use osmoda_ledger::note::Note;
use osmoda_ledger::policy::{KnownWitness, Policy};
use osmoda_ledger::record::{ChainHash, Head};
use osmoda_ledger::tree::{Edge, Frontier};
use proptest::prelude::*;

use crate::world::{Ledger, Peer};

const AGE_MAX: Duration = Duration::from_secs(3600);
const SIGNED_AT: u64 = 1_800_000_000;

struct World {
    ledger: Ledger,
    peers: Vec<Peer>,
    policy: Policy,
}

impl World {
    fn of(ledger: Ledger) -> Self {
        let peers: Vec<Peer> = (1..=3).map(|n| Peer::of(&ledger, n)).collect();
        let known = |peer: &Peer| KnownWitness { name: peer.name.clone(), key: peer.verifier() };
        let policy = Policy::majority(ledger.verifier(), peers.iter().map(known).collect()).unwrap();
        Self { ledger, peers, policy }
    }

    /// The newest checkpoint, cosigned by the first `count` witnesses.
    fn cosigned(&mut self, count: usize) -> Note {
        let mut note = self.ledger.note();
        for peer in &mut self.peers[..count] {
            let old = peer.held.as_ref().map_or(0, |head| head.size);
            let Response::Cosigned(lines) = peer.answer(&self.ledger.request(old)) else { panic!("cosigned") };
            lines.into_iter().for_each(|line| note.add(line));
        }
        note
    }

    fn write(&self, dir: &Path, note: &Note) {
        write(&self.ledger, dir, note, None, &self.policy);
    }

    fn verdict(&self, dir: &Path, now_s: u64) -> Verdict {
        let auditor = Export::open(dir).unwrap().audit(Some(self.policy.clone()), |_| {}).unwrap();
        auditor.finish(None, now_s, AGE_MAX, |_| {})
    }
}

fn write(ledger: &Ledger, dir: &Path, note: &Note, covered: Option<&Note>, policy: &Policy) {
    let mut writer = ExportWriter::new(dir, None).unwrap();
    push(&mut writer, ledger, 0);
    writer.finish(note, covered, policy).unwrap();
}

fn push(writer: &mut ExportWriter, ledger: &Ledger, from: usize) {
    let mut record = Vec::new();
    for row in &ledger.rows[from..] {
        row.row().record_into(&mut record);
        writer.push(&record).unwrap();
    }
}

fn check(world: &World, dir: &Path, now_s: u64, outcome: Outcome, says: &str) -> Verdict {
    let verdict = world.verdict(dir, now_s);
    assert_eq!(verdict.outcome, outcome, "{verdict}");
    assert_eq!(verdict.to_string(), says);
    verdict
}

#[test]
fn what_the_quorum_covers_is_verified_and_what_it_does_not_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::of(Ledger::of(600));
    let note = world.cosigned(2);
    let whole = dir.path().join("whole");
    world.write(&whole, &note);
    let says = "verified up to 600 of 600, quorum 2 of 3, newest cosignature 7 s ago";
    check(&world, &whole, SIGNED_AT + 7, Outcome::Verified, says);
    let says = "verified up to 600 of 600, quorum 2 of 3, newest cosignature 3601 s ago";
    check(&world, &whole, SIGNED_AT + 3601, Outcome::Stale, says);

    (0..10).for_each(|_| world.ledger.append("{}"));
    let newest = world.cosigned(1);
    let tail = dir.path().join("tail");
    write(&world.ledger, &tail, &newest, Some(&note), &world.policy);
    let says = "verified up to 600 of 610, quorum 2 of 3, newest cosignature 7 s ago";
    assert_eq!(check(&world, &tail, SIGNED_AT + 7, Outcome::Uncovered, says).outcome.exit_code(), 2);

    let bare = dir.path().join("bare");
    world.write(&bare, &world.ledger.note());
    let says = "verified up to 0 of 610, quorum 0 of 3, newest cosignature never";
    check(&world, &bare, SIGNED_AT, Outcome::Uncovered, says);
}

#[test]
fn a_head_that_a_witness_holds_and_the_rows_do_not_is_evidence_with_both_notes() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::of(Ledger::of(300));
    world.cosigned(3);
    let held = world.peers[0].held.clone().unwrap().note;

    // R5, R6: another history, as long and longer. R7, R8: shorter.
    let mut forged = world.ledger.clone();
    forged.rows[5].payload = r#"{"forged":1}"#.to_owned();
    forged.rehash();
    let mut longer = forged.clone();
    longer.append("{}");
    let cut = Ledger { rows: world.ledger.rows[..299].to_vec(), key: world.ledger.key.clone() };
    for (name, shown) in [("same", forged), ("longer", longer), ("cut", cut)] {
        let path = dir.path().join(name);
        write(&shown, &path, &shown.note(), None, &world.policy);
        std::fs::create_dir(path.join("heads")).unwrap();
        std::fs::write(path.join("heads/b"), held.to_string()).unwrap();
        let verdict = world.verdict(&path, SIGNED_AT);
        assert_eq!((verdict.outcome, verdict.outcome.exit_code()), (Outcome::Contradicted, 3), "{name}");
        let evidence = &verdict.evidence[0];
        assert_eq!(evidence.held, held, "{name}");
        assert_eq!(evidence.shown, shown.note(), "{name}");
        assert_eq!(matches!(evidence.contradiction, Contradiction::Shorter), name == "cut", "{name}");
    }
}

#[test]
fn rows_of_bad_form_and_acts_without_intent_have_their_codes() {
    let dir = tempfile::tempdir().unwrap();
    for (name, kind, payload, outcome) in [
        ("grammar", "Bad Type", "{}", Outcome::Grammar),
        ("intent", "a.b.outcome", r#"{"intent":1}"#, Outcome::NoIntent),
    ] {
        let mut ledger = Ledger::of(3);
        ledger.append(payload);
        ledger.rows[3].kind = kind.to_owned();
        ledger.rehash();
        let mut world = World::of(ledger);
        let note = world.cosigned(3);
        let path = dir.path().join(name);
        world.write(&path, &note);
        assert_eq!(world.verdict(&path, SIGNED_AT).outcome, outcome);
    }
}

#[test]
fn dropped_rows_are_said_and_the_rest_is_proven_only_under_their_summary() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::of(512);
    let (root, chain) = (ledger.root(), ledger.head().hash);
    ledger.append(&format!(r#"{{"chain":"{chain}","root":"{root}","rows":512}}"#));
    ledger.rows[512].kind = "ledger.retain.intent".to_owned();
    ledger.rehash();
    (0..700).for_each(|_| ledger.append("{}"));
    let mut world = World::of(ledger);
    let note = world.cosigned(2);

    let whole = dir.path().join("whole");
    world.write(&whole, &note);
    for (name, is_told) in [("told", true), ("untold", false)] {
        let path = dir.path().join(name);
        let mut edge = Edge::new();
        let mut tree = Frontier::new();
        for row in &world.ledger.rows[..512] {
            tree.append(row.leaf());
            edge.append(row.leaf(), |_, _| Ok::<_, ()>(())).unwrap();
        }
        let hash = if is_told { chain } else { ChainHash::GENESIS };
        let base = Base { head: Head { size: 512, hash }, ts: world.ledger.rows[511].ts.clone(), tree };
        let mut writer = ExportWriter::new(&path, Some((&base, edge))).unwrap();
        push(&mut writer, &world.ledger, 512);
        writer.finish(&note, None, &world.policy).unwrap();
        for tile in ["tile/0/000", "tile/0/001"] {
            std::fs::copy(whole.join(tile), path.join(tile)).unwrap();
        }
        let verdict = world.verdict(&path, SIGNED_AT);
        assert_eq!(verdict.outcome == Outcome::Verified, is_told, "{verdict}");
        assert_eq!((verdict.dropped, verdict.total), (512, 1213));
    }
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn no_byte_of_a_folder_can_be_changed_unseen(which: prop::sample::Index, at: prop::sample::Index, flip in 1_u8..=255) {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::of(Ledger::of(300));
        // Exactly the quorum: a line that is lost is missed.
        let note = world.cosigned(2);
        let path = dir.path().join("export");
        world.write(&path, &note);
        // The policy that counts is the one given; the one in the folder is the folder's word.
        let files: Vec<_> = files(&path).into_iter().filter(|file| !file.ends_with("policy")).collect();
        let file = which.get(&files);
        let mut bytes = std::fs::read(file).unwrap();
        let place = at.index(bytes.len());
        bytes[place] ^= flip;
        std::fs::write(file, bytes).unwrap();
        let outcome = Export::open(&path)
            .and_then(|export| export.audit(Some(world.policy.clone()), |_| {}))
            .map(|auditor| auditor.finish(None, SIGNED_AT, AGE_MAX, |_| {}).outcome);
        prop_assert!(!matches!(outcome, Ok(Outcome::Verified)), "{}", file.display());
    }
}
