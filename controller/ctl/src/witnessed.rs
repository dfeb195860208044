//! Judges the ledgers of a fleet from signed notes. *Pure.*
//!
//! The controller carried the notes and is not believed: what counts is what the
//! ledgers' keys signed. It can withhold (then a ledger is stale) and it can show
//! a key that is not the node's; who pins the keys closes that too.
//! Invariant: what cannot be checked is never `Verified`.
//! Invariant: one witness alone makes no other ledger broken or caught. What it shows
//! that the ledger never signed is a finding against itself; what it orders in time
//! is an accusation, until the ledger seals itself or a second witness says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use osmoda_controller_api::{LedgerAlarm, NodeLedger};
use osmoda_ledger::checkpoint::Checkpoint;
use osmoda_ledger::evidence::Evidence;
use osmoda_ledger::note::{KeyKind, Note, VerifierKey};
use osmoda_types::{NodeId, PublicKey};

use crate::kept::{self, Head};

/// How old the newest cosignature may be, in seconds. A live ledger signs at
/// least every minute, so two mean that something stands still.
const AGE_MAX_S: u64 = 120;

/// The same where an operator is the only witness: once a day.
const AGE_ALONE_MAX_S: u64 = 24 * 3600;

/// How a ledger stands; the later, the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// Every row it had is covered by enough fresh signatures.
    Verified,
    /// Nothing recent is known of it.
    Stale,
    /// Rows at its end are not covered by enough witnesses.
    Uncovered,
    /// One witness says that it lied, and nothing proves that.
    Accused,
    /// Something signed does not verify.
    Broken,
    /// It lied: it was rolled back, rewritten or forked.
    Caught,
}

/// Why a ledger is not verified.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Finding {
    /// What follows from it.
    pub(crate) outcome: Outcome,
    /// What was found.
    pub(crate) what: String,
    /// The signed notes that show it, the older first.
    pub(crate) evidence: Vec<String>,
}

/// What a witness holds of a ledger.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Held {
    /// The witness.
    pub(crate) witness: String,
    /// The size that the ledger signed.
    pub(crate) size: u64,
}

/// The verdict on one ledger.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Verdict {
    /// Whose ledger.
    pub(crate) node: NodeId,
    /// The node's name.
    pub(crate) name: String,
    /// The worst of its findings.
    pub(crate) outcome: Outcome,
    /// Rows that a quorum covers.
    pub(crate) verified: u64,
    /// Rows that anybody knows of.
    pub(crate) rows: u64,
    /// Witnesses that cosigned.
    pub(crate) cosigned: usize,
    /// How many must.
    pub(crate) needed: usize,
    /// Out of how many.
    pub(crate) of: usize,
    /// How old the newest cosignature is, in seconds.
    pub(crate) age_s: Option<u64>,
    /// What the witnesses hold.
    pub(crate) held: Vec<Held>,
    /// Why it is not verified.
    pub(crate) findings: Vec<Finding>,
    /// Whether the node itself says that its ledger is sealed.
    #[serde(skip)]
    is_sealed: bool,
}

/// What one witness accuses a ledger of.
struct Accusation {
    witness: NodeId,
    what: String,
    evidence: Vec<String>,
}

/// Witnesses that showed what the ledger never signed, and what it was.
type Liars = Vec<(NodeId, String)>;

/// What was known of a ledger when the command began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct First {
    /// Rows that anybody knew of.
    pub(crate) rows: u64,
    /// Which report that was.
    pub(crate) received_at: Option<String>,
}

/// A fleet to judge.
pub(crate) struct Fleet<'a> {
    /// Every ledger.
    pub(crate) ledgers: &'a [NodeLedger],
    /// The keys that count.
    pub(crate) keys: &'a BTreeMap<NodeId, PublicKey>,
    /// What was known at first; empty at the first look.
    pub(crate) first: &'a BTreeMap<NodeId, First>,
    /// What this operator has cosigned himself.
    pub(crate) own: &'a BTreeMap<NodeId, Head>,
    /// Now, in seconds since 1970.
    pub(crate) now_s: u64,
}

/// The key that checks a witness's cosignatures.
fn witness_key(key: &PublicKey) -> Option<VerifierKey> {
    VerifierKey::new(&kept::witness_name(key), KeyKind::Witness, key.as_bytes()).ok()
}

/// The claims that a first look leaves for a later one.
pub(crate) fn first(ledgers: &[NodeLedger], verdicts: &[Verdict]) -> BTreeMap<NodeId, First> {
    let received = |node: &NodeId| {
        let ledger = ledgers.iter().find(|ledger| ledger.node == *node)?;
        ledger.report.as_ref().map(|report| report.received_at.clone())
    };
    verdicts
        .iter()
        .map(|verdict| (verdict.node, First { rows: verdict.rows, received_at: received(&verdict.node) }))
        .collect()
}

impl Fleet<'_> {
    /// Judges every ledger.
    pub(crate) fn judge(&self) -> Vec<Verdict> {
        let mut liars = Vec::new();
        let mut verdicts: Vec<Verdict> = self.ledgers.iter().map(|ledger| self.one(ledger, &mut liars)).collect();
        for (witness, what) in liars {
            if let Some(verdict) = verdicts.iter_mut().find(|verdict| verdict.node == witness) {
                verdict.find(Outcome::Broken, &what);
            }
        }
        verdicts.iter_mut().for_each(Verdict::conclude);
        verdicts
    }

    fn name(&self, node: &NodeId) -> String {
        let found = self.ledgers.iter().find(|ledger| ledger.node == *node);
        found.map_or_else(|| node.short(), |ledger| ledger.name.clone())
    }

    fn one(&self, ledger: &NodeLedger, liars: &mut Liars) -> Verdict {
        // Alone, a ledger has this operator as its witness, if he has cosigned it.
        let (needed, of) = match self.ledgers.len() {
            0 | 1 => {
                (usize::from(self.own.contains_key(&ledger.node)), usize::from(self.own.contains_key(&ledger.node)))
            }
            // Half of the fleet, itself counted: with its own word a majority.
            all => (all / 2, all - 1),
        };
        let mut verdict = Verdict {
            node: ledger.node,
            name: ledger.name.clone(),
            outcome: Outcome::Verified,
            verified: 0,
            rows: 0,
            cosigned: 0,
            needed,
            of,
            age_s: None,
            held: Vec::new(),
            findings: Vec::new(),
            is_sealed: ledger.report.as_ref().is_some_and(|report| report.refused.is_some()),
        };
        match self.keys.get(&ledger.node).and_then(kept::ledger_key) {
            None => verdict.find(Outcome::Stale, "the key of its ledger is not known, so nothing can be checked"),
            Some(key) => self.with_key(ledger, &key, &mut verdict, liars),
        }
        if let (Some(head), Some(key)) = (self.own.get(&ledger.node), self.keys.get(&ledger.node))
            && head.ledger != *key
        {
            let what = "its ledger has another key than the one that you have cosigned".to_owned();
            verdict.caught(what, vec![head.note.clone()]);
        }
        verdict
    }

    fn with_key(&self, ledger: &NodeLedger, key: &VerifierKey, verdict: &mut Verdict, liars: &mut Liars) {
        let mut notes = Notes { key, good: Vec::new() };
        let mut take = |notes: &mut Notes<'_>, text: &str, witness: NodeId| match notes.take(text) {
            Ok(pair) => Some(pair),
            Err(error) => {
                liars.push((witness, format!("it shows as a note of {} what is none: {error}", ledger.name)));
                None
            }
        };
        let covered = ledger.report.as_ref().and_then(|report| report.covered.as_deref());
        let own = covered.and_then(|text| verdict.took("its own newest note", notes.take(text)));
        for held in &ledger.held {
            if let Some((_, checkpoint)) = take(&mut notes, &held.note, held.witness) {
                verdict.held.push(Held { witness: self.name(&held.witness), size: checkpoint.size });
            }
        }
        if let Some(head) = self.own.get(&ledger.node)
            && let Some((_, checkpoint)) = verdict.took("the note that you hold", notes.take(&head.note))
        {
            verdict.held.push(Held { witness: "you".to_owned(), size: checkpoint.size });
        }
        let (mut accusations, mut twice) = (Vec::new(), Liars::new());
        for alarm in ledger.alarms.iter().filter(|alarm| alarm.witness != ledger.node) {
            let held = take(&mut notes, &alarm.held, alarm.witness);
            let shown = take(&mut notes, &alarm.shown, alarm.witness);
            let (Some((_, held)), Some((_, shown))) = (held, shown) else { continue };
            if held == shown {
                let what = format!("it accuses {} with one note twice", ledger.name);
                twice.push((alarm.witness, what));
            }
            accusations.extend(self.accusation(alarm, &held, &shown));
        }
        liars.append(&mut twice);
        verdict.accused(accusations);
        notes.forks(verdict);
        if let Some(logged) = &ledger.logged {
            notes.against_log(logged.size, &logged.hash, verdict);
        }
        if let Some((note, checkpoint)) = &own {
            self.cosignatures(ledger.node, note, checkpoint, verdict);
        }
        self.standing(ledger, own.as_ref().map(|(_, checkpoint)| checkpoint.size), &notes, verdict);
        self.age(ledger, verdict);
    }

    /// What one witness says of two notes of different sizes. Which it saw first is
    /// its word; two histories of one size are found among all notes.
    fn accusation(&self, alarm: &LedgerAlarm, held: &Checkpoint, shown: &Checkpoint) -> Option<Accusation> {
        let witness = self.name(&alarm.witness);
        let what = match held.size.cmp(&shown.size) {
            std::cmp::Ordering::Equal => return None,
            std::cmp::Ordering::Greater => {
                format!("by {witness}: it signed {} rows after it had signed {}", shown.size, held.size)
            }
            std::cmp::Ordering::Less => format!(
                "by {witness}: it could not show that its {} rows begin with the {} it had signed",
                shown.size, held.size
            ),
        };
        Some(Accusation { witness: alarm.witness, what, evidence: vec![alarm.held.clone(), alarm.shown.clone()] })
    }

    fn cosignatures(&self, node: NodeId, note: &Note, checkpoint: &Checkpoint, verdict: &mut Verdict) {
        let mut newest = None;
        let others = self.ledgers.iter().filter(|other| other.node != node);
        let others = others.filter_map(|other| Some((other.name.as_str(), self.keys.get(&other.node)?)));
        let alone = self.own.get(&node).filter(|_| self.ledgers.len() == 1);
        for (name, key) in others.chain(alone.map(|head| ("you", &head.by))) {
            let Some(key) = witness_key(key) else { continue };
            match note.check(&key) {
                Ok(None) => {}
                Ok(Some(signed)) => {
                    verdict.cosigned += 1;
                    newest = newest.max(signed.time_s);
                }
                Err(error) => verdict.find(Outcome::Broken, &format!("the cosignature of {name}: {error}")),
            }
        }
        verdict.age_s = newest.map(|time| self.now_s.abs_diff(time));
        if verdict.cosigned >= verdict.needed {
            verdict.verified = checkpoint.size;
        }
    }

    /// Covered, shorter than known, or refusing.
    fn standing(&self, ledger: &NodeLedger, own: Option<u64>, notes: &Notes<'_>, verdict: &mut Verdict) {
        let Some(report) = &ledger.report else {
            verdict.rows = notes.largest().max(ledger.logged.as_ref().map_or(0, |logged| logged.size));
            verdict.find(Outcome::Stale, "it never told anything about its ledger");
            return;
        };
        if own.is_none() {
            verdict.find(Outcome::Stale, "no note of its own was shown that its key signed, so nothing can be checked");
        }
        let own_text = report.covered.clone();
        let known = notes.largest().max(ledger.logged.as_ref().map_or(0, |logged| logged.size)).max(report.rows);
        let first = self.first.get(&ledger.node);
        verdict.rows = first.map_or(known, |first| first.rows.max(verdict.verified));
        if let Some(reason) = &report.refused {
            let kept = self.own.get(&ledger.node).map(|head| head.note.clone());
            let mut evidence: Vec<String> =
                kept.or_else(|| notes.newest()).into_iter().chain(own_text.clone()).collect();
            evidence.dedup();
            verdict.caught(format!("it takes no more rows: {reason}"), evidence);
        }
        if let Some(fault) = &report.fault {
            verdict.find(Outcome::Broken, &format!("its own verification found: {fault}"));
        }
        // It told anew after somebody had more of it: what it has lost is gone.
        let is_anew = first.is_some_and(|first| first.received_at.as_ref() != Some(&report.received_at));
        if let Some(first) = first.filter(|first| is_anew && report.rows < first.rows) {
            let what = format!("it has {} rows, and {} were known before", report.rows, first.rows);
            verdict.caught(what, notes.newest().into_iter().chain(own_text).collect());
        }
        if own.is_some() && verdict.cosigned < verdict.needed {
            let what = format!("{} witnesses cosigned its newest note, {} must", verdict.cosigned, verdict.needed);
            verdict.find(Outcome::Uncovered, &what);
        }
        if verdict.verified < verdict.rows {
            let (from, to) = (verdict.verified + 1, verdict.rows);
            let what = format!("rows {from} to {to} are not covered ({})", to - verdict.verified);
            verdict.find(Outcome::Uncovered, &what);
        }
    }

    fn age(&self, ledger: &NodeLedger, verdict: &mut Verdict) {
        let Some(report) = &ledger.report else { return };
        // Without witnesses there is only the controller's word for the age.
        let received = report.received_at.parse::<osmoda_kit::clock::Timestamp>().ok();
        let received = received.and_then(|at| u64::try_from(at.as_millis() / 1000).ok());
        let age = if verdict.needed == 0 { received.map(|at| self.now_s.abs_diff(at)) } else { verdict.age_s };
        // A person does not cosign every minute.
        let is_alone = self.ledgers.len() == 1 && verdict.needed > 0;
        let age_max = if is_alone { AGE_ALONE_MAX_S } else { AGE_MAX_S };
        let (what, word) = if verdict.needed == 0 { ("report", "told") } else { ("cosignature", "cosigned") };
        match age {
            None => verdict.find(Outcome::Stale, &format!("nothing of it was ever {word}")),
            Some(age) if age > age_max => {
                verdict.find(Outcome::Stale, &format!("its newest {what} is {} from now", span(age)));
            }
            Some(_) => {}
        }
    }
}

/// Notes of one ledger that verified.
struct Notes<'a> {
    key: &'a VerifierKey,
    good: Vec<(Note, Checkpoint)>,
}

impl Notes<'_> {
    fn take(&mut self, text: &str) -> Result<(Note, Checkpoint), String> {
        let note = Note::parse(text.as_bytes()).map_err(|error| error.to_string())?;
        let checkpoint = Checkpoint::open(&note, self.key).map_err(|error| error.to_string())?;
        self.good.push((note.clone(), checkpoint.clone()));
        Ok((note, checkpoint))
    }

    /// Two histories of one size, each found once.
    fn forks(&self, verdict: &mut Verdict) {
        let mut first: BTreeMap<u64, &Note> = BTreeMap::new();
        for (note, checkpoint) in &self.good {
            let held = *first.entry(checkpoint.size).or_insert(note);
            if let Ok(Some(evidence)) = Evidence::from_notes(held, note, self.key) {
                let what = format!("it signed two histories of {} rows", checkpoint.size);
                verdict.caught(what, vec![evidence.held.to_string(), evidence.shown.to_string()]);
            }
        }
    }

    fn against_log(&self, size: u64, hash: &str, verdict: &mut Verdict) {
        let differs = |checkpoint: &Checkpoint| checkpoint.size == size && checkpoint.chain.to_string() != hash;
        if let Some((note, _)) = self.good.iter().find(|(_, checkpoint)| differs(checkpoint)) {
            let what = format!("the fleet's log has another row {size} of it: {hash}");
            verdict.caught(what, vec![note.to_string()]);
        }
    }

    fn largest(&self) -> u64 {
        self.good.iter().map(|(_, checkpoint)| checkpoint.size).max().unwrap_or(0)
    }

    fn newest(&self) -> Option<String> {
        self.good.iter().max_by_key(|(_, checkpoint)| checkpoint.size).map(|(note, _)| note.to_string())
    }
}

impl Verdict {
    /// The worst of its findings decides.
    fn conclude(&mut self) {
        self.outcome = self.findings.iter().map(|finding| finding.outcome).max().unwrap_or(Outcome::Verified);
    }

    /// A note that counts for or against the ledger itself.
    fn took(&mut self, whose: &str, taken: Result<(Note, Checkpoint), String>) -> Option<(Note, Checkpoint)> {
        taken.map_err(|error| self.find(Outcome::Broken, &format!("{whose} proves nothing: {error}"))).ok()
    }

    /// A second witness makes a word of one a proof; so does the ledger, which seals
    /// itself only when its own key signed what it does not have.
    fn accused(&mut self, accusations: Vec<Accusation>) {
        let accusers: BTreeSet<NodeId> = accusations.iter().map(|accusation| accusation.witness).collect();
        let is_caught = accusers.len() > 1 || self.is_sealed;
        for Accusation { what, evidence, .. } in accusations {
            let (outcome, word) = if is_caught { (Outcome::Caught, "caught") } else { (Outcome::Accused, "accused") };
            let finding = Finding { outcome, what: format!("{word} {what}"), evidence };
            if !self.findings.contains(&finding) {
                self.findings.push(finding);
            }
        }
    }

    fn find(&mut self, outcome: Outcome, what: &str) {
        self.findings.push(Finding { outcome, what: what.to_owned(), evidence: Vec::new() });
    }

    fn caught(&mut self, what: String, evidence: Vec<String>) {
        let finding = Finding { outcome: Outcome::Caught, what, evidence };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// The line for people, and the evidence under it.
    pub(crate) fn text(&self) -> String {
        let Verdict { verified, rows, cosigned, needed, of, .. } = self;
        let age = self.age_s.map_or_else(|| "never".to_owned(), |age| format!("{} ago", span(age)));
        let mut text = format!(
            "{}: verified up to {verified} of {rows}, quorum {cosigned} of {of} ({needed} needed), newest cosignature {age}\n",
            self.name
        );
        if self.of == 0 {
            text.push_str(
                "  no witness: a history rewritten as a whole cannot be told from this alone; see osmoda ledger cosign\n",
            );
        }
        for finding in &self.findings {
            // Writing to a string cannot fail.
            writeln!(text, "  {}: {}", word(finding.outcome), finding.what).expect("a string takes text");
            let heads = ["signed before", "signed later"];
            for (note, head) in finding.evidence.iter().zip(heads) {
                writeln!(text, "    --- {head}").expect("a string takes text");
                for line in note.lines() {
                    writeln!(text, "    {line}").expect("a string takes text");
                }
            }
        }
        text
    }
}

/// The word for an outcome.
pub(crate) const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Verified => "verified",
        Outcome::Stale => "stale",
        Outcome::Uncovered => "not covered",
        Outcome::Accused => "ACCUSED",
        Outcome::Broken => "BROKEN",
        Outcome::Caught => "CAUGHT",
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
#[path = "witnessed_tests.rs"]
mod tests;
