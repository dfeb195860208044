//! The verdict over a ledger: its rows, its checkpoints, what witnesses hold.
//! *Pure.*
//!
//! Rows are fed oldest first; notes are given before, because each is compared
//! with the rows when the walk comes to its size. The verdict names what was
//! verified, up to where, by how many witnesses and how fresh; it is never a
//! bare "OK", because what was not looked at is part of it.

use std::fmt;
use std::time::Duration;

use crate::checkpoint::Checkpoint;
use crate::evidence::{Contradiction, Evidence};
use crate::look::Looked;
use crate::note::{Note, VerifierKey};
use crate::payload::Payload;
use crate::policy::{Policy, Standing};
use crate::record::{ChainHash, Head, Row};
use crate::tree::{Frontier, HashSource, TreeHash, consistency, root_at, verify_consistency};
use crate::verify::{ChainFault, Fault, Report, Verifier};

/// The type of the record that says which rows were dropped.
pub const RETAIN_TYPE: &str = "ledger.retain.intent";

/// Where a ledger begins whose older rows were dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The last dropped row.
    pub head: Head,
    /// Its time.
    pub ts: String,
    /// The tree over the dropped rows.
    pub tree: Frontier,
}

/// What is compared with the rows.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// Checkpoints that the ledger shows itself.
    pub own: Vec<Note>,
    /// Checkpoints of this ledger that witnesses hold, as they were cosigned.
    pub held: Vec<Note>,
}

/// The exit codes of `trust.md` 1.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Everything there is was verified, as far as the policy asks.
    Verified,
    /// Chain or tree are broken.
    Broken,
    /// The head is not covered by the quorum.
    Uncovered,
    /// A witness holds a larger or another head: a rollback or a fork.
    Contradicted,
    /// A row breaks the grammar.
    Grammar,
    /// An act without its intent.
    NoIntent,
    /// The newest cosignature is too old.
    Stale,
}

impl Outcome {
    /// The exit code.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Outcome::Verified => 0,
            Outcome::Broken => 1,
            Outcome::Uncovered => 2,
            Outcome::Contradicted => 3,
            Outcome::Grammar => 4,
            Outcome::NoIntent => 5,
            Outcome::Stale => 6,
        }
    }

    /// One word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Verified => "verified",
            Outcome::Broken => "broken",
            Outcome::Uncovered => "uncovered",
            Outcome::Contradicted => "contradicted",
            Outcome::Grammar => "grammar",
            Outcome::NoIntent => "no_intent",
            Outcome::Stale => "stale",
        }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The worst of it.
    pub outcome: Outcome,
    /// Rows that hold together and that the quorum covers.
    pub verified: u64,
    /// Rows there are.
    pub total: u64,
    /// Rows that were dropped under a summary; their content was not looked at.
    pub dropped: u64,
    /// Notes that witnesses hold about dropped rows and that no tile proves or denies.
    pub unproven: usize,
    /// Witnesses that cosigned the newest covered checkpoint, or the newest of all.
    pub cosigned: usize,
    /// How many must.
    pub needed: usize,
    /// Out of how many.
    pub of: usize,
    /// How old the newest cosignature is.
    pub newest_age: Option<Duration>,
    /// Contradictions, each with both signed notes.
    pub evidence: Vec<Evidence>,
    /// What the walk over the rows found.
    pub report: Report,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { verified, total, cosigned, of, .. } = self;
        write!(f, "verified up to {verified} of {total}, quorum {cosigned} of {of}, newest cosignature ")?;
        match self.newest_age {
            Some(age) => write!(f, "{} s ago", age.as_secs()),
            None => f.write_str("never"),
        }
    }
}

/// One note and what the rows have at its size.
struct Compared {
    note: Note,
    checkpoint: Checkpoint,
    is_held: bool,
    /// Who cosigned it; none without a policy.
    standing: Option<Standing>,
    /// Root and chain of the rows there; none while the walk has not come there.
    rows: Option<(TreeHash, ChainHash)>,
    /// The root of the dropped rows there, proven to lead to that of the base.
    dropped: Option<TreeHash>,
}

impl Compared {
    fn fits(&self) -> bool {
        match self.rows {
            Some(rows) => rows == (self.checkpoint.root, self.checkpoint.chain),
            None => self.dropped == Some(self.checkpoint.root),
        }
    }
}

/// The walk.
pub struct Auditor {
    policy: Option<Policy>,
    verifier: Verifier,
    tree: Frontier,
    /// Sorted by size.
    notes: Vec<Compared>,
    /// The first note that the walk has not passed.
    next: usize,
    /// Hashes beside the rows that are not theirs.
    has_wrong_tree: bool,
    /// Notes with a signature that does not verify, or of another ledger.
    refused: u64,
    base: Option<Base>,
    is_base_told: bool,
    buffer: Vec<u8>,
}

impl Auditor {
    /// A walk over a ledger that begins at `base`, or at its first row. Notes
    /// that the policy's ledger did not sign count as faults.
    #[must_use]
    pub fn new(policy: Option<Policy>, shown: Shown, base: Option<Base>) -> Self {
        let verifier = match &base {
            Some(base) => Verifier::resume(base.head, base.ts.as_bytes()),
            None => Verifier::new(),
        };
        let tree = base.as_ref().map_or_else(Frontier::new, |base| base.tree.clone());
        let (mut notes, mut refused) = (Vec::new(), 0);
        let all =
            shown.own.into_iter().map(|note| (note, false)).chain(shown.held.into_iter().map(|note| (note, true)));
        for (note, is_held) in all {
            let standing = policy.as_ref().map(|policy| policy.judge(&note)).transpose();
            match (standing, Checkpoint::parse(note.text())) {
                (Ok(standing), Ok(checkpoint)) => {
                    let is_held = is_held || standing.as_ref().is_some_and(|standing| !standing.cosigned.is_empty());
                    notes.push(Compared { note, checkpoint, is_held, standing, rows: None, dropped: None });
                }
                _ => refused += 1,
            }
        }
        notes.sort_by_key(|compared| compared.checkpoint.size);
        let mut auditor = Self {
            policy,
            verifier,
            tree,
            notes,
            next: 0,
            has_wrong_tree: false,
            refused,
            base: base.clone(),
            is_base_told: base.is_none(),
            buffer: Vec::new(),
        };
        if let Some(base) = base {
            auditor.compare(base.head.hash);
        }
        auditor
    }

    /// Takes the next row and tells `found` each fault in it; returns its leaf.
    pub fn feed(&mut self, row: &Row<'_>, found: impl FnMut(Fault)) -> TreeHash {
        let looked = Looked::at(row, &mut self.buffer);
        self.take(row, &looked, found)
    }

    /// As [`Auditor::feed`], for a row that was looked at before.
    pub fn take(&mut self, row: &Row<'_>, looked: &Looked, found: impl FnMut(Fault)) -> TreeHash {
        let leaf = self.verifier.take(row, looked, found);
        self.tree.append(leaf);
        if let Some(hash) = ChainHash::from_stored(row.hash) {
            self.compare(hash);
        }
        if !self.is_base_told && row.kind == RETAIN_TYPE.as_bytes() {
            self.is_base_told = self.base.as_ref().is_some_and(|base| tells(row, base));
        }
        leaf
    }

    fn compare(&mut self, hash: ChainHash) {
        let size = self.tree.size();
        while let Some(compared) = self.notes.get_mut(self.next).filter(|compared| compared.checkpoint.size <= size) {
            if compared.checkpoint.size == size {
                compared.rows = Some((self.tree.root(), hash));
            }
            self.next += 1;
        }
    }

    /// Compares what witnesses hold below the base with the tiles of the dropped
    /// rows. A tile is believed only as far as it leads to the root of the base,
    /// which the rows behind it give to what is signed; where one is missing or does
    /// not, the note stays unproven.
    pub fn look_below(&mut self, tiles: &mut impl HashSource) {
        let Some(base) = &self.base else { return };
        let (size, root) = (base.head.size, base.tree.root());
        for compared in self.notes.iter_mut().filter(|compared| compared.is_held && compared.checkpoint.size < size) {
            let from = compared.checkpoint.size;
            let (Ok(old), Ok(proof)) = (root_at(tiles, from), consistency(tiles, from, size)) else { continue };
            compared.dropped = verify_consistency(from, size, old, root, &proof).is_ok().then_some(old);
        }
    }

    /// Says that the hashes stored beside the rows are not theirs.
    pub const fn tell_wrong_tree(&mut self) {
        self.has_wrong_tree = true;
    }

    /// The tree over the rows so far.
    #[must_use]
    pub const fn tree(&self) -> &Frontier {
        &self.tree
    }

    /// How many rows the walk has come to.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.tree.size()
    }

    /// Ends the walk. `now_s` is the wall clock in seconds, `age_max` how old the
    /// newest cosignature may be.
    pub fn finish(
        self,
        last_written: Option<u64>,
        now_s: u64,
        age_max: Duration,
        mut found: impl FnMut(Fault),
    ) -> Verdict {
        let Self { policy, verifier, tree, notes, refused, base, is_base_told, has_wrong_tree, .. } = self;
        let mut report = verifier.finish(last_written, &mut found);
        let mut broken = |size: u64, fault: ChainFault| {
            report.chain_faults += 1;
            found(Fault { id: i64::try_from(size).unwrap_or(i64::MAX), kind: fault.into() });
        };
        if has_wrong_tree {
            broken(tree.size(), ChainFault::Tree);
        }
        if !is_base_told {
            broken(base.as_ref().map_or(0, |base| base.head.size), ChainFault::Tree);
        }
        (0..refused).for_each(|_| broken(tree.size(), ChainFault::Checkpoint { size: tree.size() }));
        // What lies below the base is proven by the tree, not walked.
        let is_walked =
            |compared: &&Compared| base.as_ref().is_none_or(|base| compared.checkpoint.size >= base.head.size);
        let is_looked_at = |compared: &&Compared| is_walked(compared) || compared.dropped.is_some();
        let unproven = notes.iter().filter(|compared| compared.is_held && !is_looked_at(compared)).count();
        for wrong in notes.iter().filter(is_walked).filter(|compared| !compared.is_held && !compared.fits()) {
            broken(wrong.checkpoint.size, ChainFault::Checkpoint { size: wrong.checkpoint.size });
        }
        let held = notes.iter().filter(is_looked_at).filter(|compared| compared.is_held && !compared.fits());
        let shown = notes.iter().rev().find(|compared| !compared.is_held || compared.fits());
        let evidence: Vec<Evidence> = held.map(|held| contradiction(held, shown)).collect();
        let key = policy.as_ref().and_then(|policy| policy.logs().first());
        let evidence = with_forks(evidence, &notes, key);
        let below = Below { dropped: base.map_or(0, |base| base.head.size), unproven };
        verdict(policy.as_ref(), &notes, report, evidence, below, now_s, age_max)
    }
}

/// Whether the summary is about exactly the rows that are gone.
fn tells(row: &Row<'_>, base: &Base) -> bool {
    let Ok(payload) = Payload::check(row.payload) else { return false };
    let text = |key: &str| payload.get(key).and_then(serde_json::Value::as_str).map(str::to_owned);
    payload.get("rows").and_then(serde_json::Value::as_u64) == Some(base.head.size)
        && text("chain").as_deref() == Some(base.head.hash.as_str())
        && text("root") == Some(base.tree.root().to_base64())
}

fn contradiction(held: &Compared, shown: Option<&Compared>) -> Evidence {
    let contradiction = match held.rows.map(|(root, _)| root).or(held.dropped) {
        Some(recomputed) => Contradiction::NotABeginning { recomputed },
        None => Contradiction::Shorter,
    };
    let shown = shown.map_or(&held.note, |shown| &shown.note);
    Evidence { held: held.note.clone(), shown: shown.clone(), contradiction }
}

/// Adds what two notes prove by themselves.
fn with_forks(mut evidence: Vec<Evidence>, notes: &[Compared], key: Option<&VerifierKey>) -> Vec<Evidence> {
    for (n, a) in notes.iter().enumerate() {
        for b in notes[n + 1..].iter().take_while(|b| b.checkpoint.size == a.checkpoint.size) {
            let fork = key.and_then(|key| Evidence::from_notes(&a.note, &b.note, key).ok().flatten());
            evidence.extend(fork);
        }
    }
    evidence
}

/// Rows that were dropped, and witnesses' notes about them that cannot be compared.
struct Below {
    dropped: u64,
    unproven: usize,
}

fn verdict(
    policy: Option<&Policy>,
    notes: &[Compared],
    report: Report,
    evidence: Vec<Evidence>,
    below: Below,
    now_s: u64,
    age_max: Duration,
) -> Verdict {
    let (needed, of) = policy.map_or((0, 0), Policy::quorum);
    let standings = || notes.iter().rev().filter(|note| note.fits()).filter_map(|note| note.standing.as_ref());
    let covered = standings().find(|standing| standing.is_covered());
    let best = covered.or_else(|| standings().next());
    let covered_rows = covered.map_or(0, |standing| standing.checkpoint.size);
    let verified = if needed == 0 { report.verified } else { report.verified.min(covered_rows) };
    let newest_s = standings().filter_map(Standing::newest_s).max();
    let newest_age = newest_s.map(|time| Duration::from_secs(now_s.saturating_sub(time)));
    let outcome = if !evidence.is_empty() {
        Outcome::Contradicted
    } else if report.chain_faults > 0 {
        Outcome::Broken
    } else if report.grammar_faults > 0 {
        Outcome::Grammar
    } else if report.intent_faults > 0 {
        Outcome::NoIntent
    } else if verified < report.total || below.unproven > 0 {
        Outcome::Uncovered
    } else if needed > 0 && newest_age.is_none_or(|age| age > age_max) {
        Outcome::Stale
    } else {
        Outcome::Verified
    };
    Verdict {
        outcome,
        verified,
        total: report.total,
        dropped: below.dropped,
        unproven: below.unproven,
        cosigned: best.map_or(0, |standing| standing.cosigned.len()),
        needed,
        of,
        newest_age,
        evidence,
        report,
    }
}
