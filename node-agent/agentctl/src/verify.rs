//! `verify-ledger`: offline, over the live files, an export folder, or rows alone.
//!
//! It never prints a bare "OK": what was verified, of how much, covered by how
//! many witnesses and how long ago, and what this check cannot see, are in the
//! same lines.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use osmoda_agentd::checkpoint::{CheckpointStore, FILE_NAME as CHECKPOINTS, TILES_FOLDER, TileFolder};
use osmoda_agentd::ledger::file::LedgerFile;
use osmoda_agentd::ledger_key::{KEY_FILE, verifier};
use osmoda_kit::fsio;
use osmoda_ledger::audit::{Auditor, Outcome, Shown, Verdict};
use osmoda_ledger::export::Export;
use osmoda_ledger::note::{NOTE_BYTES_MAX, Note};
use osmoda_ledger::policy::{POLICY_BYTES_MAX, Policy};
use osmoda_ledger::record::Row;
use osmoda_ledger::tree::Tiles;
use osmoda_ledger::verify::{Fault, FaultKind};
use osmoda_node_api::agentd::{Event, EventQuery};
use serde_json::json;

use crate::args::{Args, VerifyOptions};
use crate::failure::Failure;
use crate::text::Plain;

/// Most faults printed. A file of another format breaks at every row; nobody
/// reads a million lines, and the counts are printed in any case.
const FAULTS_SHOWN_MAX: usize = 1000;

/// The type of the rows that say that the glass was broken.
const BREAK_GLASS: &str = "approval.break_glass";

/// Most rows of broken glass printed, the newest; it happens a few times a year.
const GLASS_SHOWN_MAX: usize = 100;

/// The rows that say that the glass was broken, newest first.
#[derive(Debug, Default)]
struct Glass {
    rows: Vec<Event>,
    more: usize,
}

impl Glass {
    fn of(mut rows: Vec<Event>) -> Self {
        let more = rows.len().saturating_sub(GLASS_SHOWN_MAX);
        rows.truncate(GLASS_SHOWN_MAX);
        Self { rows, more }
    }
}

/// Where a policy came from: what it is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// Given on the command line.
    Given,
    /// Made from the key that lies beside the ledger, or found in the export:
    /// whoever rewrote the ledger could have written it too.
    Beside,
    /// There is none.
    None,
}

pub(crate) fn run(args: &Args, options: &VerifyOptions, out: &mut impl Write) -> Result<u8, Failure> {
    let mut shown = Vec::new();
    let mut keep = |fault: Fault| {
        if shown.len() < FAULTS_SHOWN_MAX {
            shown.push(fault);
        }
    };
    let given = options.policy.as_deref().map(read_policy).transpose()?;
    let glass;
    let (auditor, source, last_written) = match &options.export {
        None => {
            let judged = live(args, options, given, &mut keep)?;
            let query = EventQuery { kind: Some(BREAK_GLASS.to_owned()), limit: -1, ..EventQuery::default() };
            // A row that cannot be read is for the verdict to tell, not to hide it.
            glass = LedgerFile::open(&args.ledger())?.events(&query).ok().map(|answer| Glass::of(answer.events));
            judged
        }
        Some(path) if path.is_dir() => {
            let mut export = Export::open(path)?;
            export.hold(held(options)?);
            let source = source(given.is_some(), export.policy.is_some());
            let policy = given.or_else(|| export.policy.clone());
            let mut broken = Vec::new();
            let auditor = export.audit_seeing(policy, &mut keep, |row| broken.extend(broken_glass(row)))?;
            broken.reverse();
            glass = Some(Glass::of(broken));
            (auditor, source, None)
        }
        Some(path) => {
            let failed = |source| Failure::Export { path: path.clone(), source };
            let source = source(given.is_some(), false);
            let mut auditor = Auditor::new(given, Shown { own: Vec::new(), held: held(options)? }, None);
            let mut broken = Vec::new();
            rows(&mut open(path).map_err(failed)?, &mut auditor, &mut broken, &mut keep).map_err(failed)?;
            broken.reverse();
            glass = Some(Glass::of(broken));
            (auditor, source, None)
        }
    };
    let now_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let verdict = auditor.finish(last_written, now_s, Duration::from_secs(options.max_age), &mut keep);
    if options.json {
        print_json(out, &verdict, &shown, source, glass.as_ref())?;
    } else {
        print_text(out, &verdict, &shown, source)?;
        print_glass(out, glass.as_ref())?;
    }
    Ok(verdict.outcome.exit_code())
}

const fn source(is_given: bool, is_beside: bool) -> Source {
    match (is_given, is_beside) {
        (true, _) => Source::Given,
        (false, true) => Source::Beside,
        (false, false) => Source::None,
    }
}

/// The files of a node, whether or not its daemon runs.
fn live(
    args: &Args,
    options: &VerifyOptions,
    given: Option<Policy>,
    found: &mut impl FnMut(Fault),
) -> Result<(Auditor, Source, Option<u64>), Failure> {
    let path = args.ledger();
    let dir = path.parent().map_or_else(PathBuf::new, Path::to_owned);
    let file = LedgerFile::open(&path)?;
    // The checkpoints first: rows only come, so none of these is ahead of them.
    let own = match CheckpointStore::open_read_only(&dir.join(CHECKPOINTS))? {
        Some(store) => store.notes()?,
        None => Vec::new(),
    };
    let own_key = if given.is_some() { None } else { own_policy(&dir)? };
    let source = source(given.is_some(), own_key.is_some());
    let beginning = file.beginning()?;
    let base = beginning.as_ref().map(|beginning| beginning.base.clone());
    let mut auditor = Auditor::new(given.or(own_key), Shown { own, held: held(options)? }, base);
    let last_written = file.audit(&mut auditor, found)?;
    if let Some(beginning) = beginning {
        let folder = TileFolder::at(dir.join(TILES_FOLDER), beginning.edge);
        auditor.look_below(&mut Tiles::new(&folder));
    }
    Ok((auditor, source, last_written))
}

/// The ledger's own key, without witnesses: it tells at least whether the
/// checkpoints are its own. `None` where there is no key; one that is there and
/// cannot be read is a failure, for a check left out in silence looks like one passed.
pub(crate) fn own_policy(dir: &Path) -> Result<Option<Policy>, Failure> {
    let path = dir.join(KEY_FILE);
    if !path.try_exists().map_err(|source| Failure::Export { path: path.clone(), source })? {
        return Ok(None);
    }
    let key = osmoda_kit::keys::load_signing(&path)?;
    let unfit = |error: Box<dyn std::error::Error + Send + Sync>| Failure::KeyUse(error);
    let log = verifier(&key.verifying_key().to_bytes()).map_err(|error| unfit(error.into()))?;
    Policy::majority(log, Vec::new()).map(Some).map_err(|error| unfit(error.into()))
}

pub(crate) fn read_policy(path: &Path) -> Result<Policy, Failure> {
    let failed = |source| Failure::Export { path: path.to_owned(), source };
    let bytes = fsio::read_limited(path, POLICY_BYTES_MAX as u64).map_err(|error| failed(error.source))?;
    let bytes = bytes.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
    let text = String::from_utf8(bytes).map_err(|error| failed(std::io::Error::other(error)))?;
    Policy::parse(&text).map_err(|error| failed(std::io::Error::other(error)))
}

/// What witnesses say they hold: a folder of signed notes.
fn held(options: &VerifyOptions) -> Result<Vec<Note>, Failure> {
    let Some(dir) = &options.heads else { return Ok(Vec::new()) };
    let failed = |source| Failure::Export { path: dir.clone(), source };
    let mut notes = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let bytes = fsio::read_limited(&path, NOTE_BYTES_MAX as u64).map_err(|error| failed(error.source))?;
        let note = Note::parse(&bytes.unwrap_or_default());
        notes.push(note.map_err(|error| failed(std::io::Error::other(format!("{}: {error}", path.display()))))?);
    }
    Ok(notes)
}

fn open(path: &Path) -> std::io::Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    Ok(Box::new(std::io::BufReader::new(std::fs::File::open(path)?)))
}

/// Rows as JSON lines.
fn rows(
    input: &mut dyn BufRead,
    auditor: &mut Auditor,
    broken: &mut Vec<Event>,
    mut found: impl FnMut(Fault),
) -> std::io::Result<()> {
    let mut line = String::new();
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let event: Event = serde_json::from_str(&line)?;
        let row = Row {
            id: event.id,
            ts: event.ts.as_bytes(),
            kind: event.kind.as_bytes(),
            actor: event.actor.as_bytes(),
            payload: event.payload.as_bytes(),
            prev_hash: event.prev_hash.as_bytes(),
            hash: event.hash.as_bytes(),
        };
        auditor.feed(&row, &mut found);
        if event.kind == BREAK_GLASS {
            broken.push(event);
        }
    }
}

/// The row as it is shown, if it says that the glass was broken. Bytes that are no
/// text are a fault of their own and are shown as such.
fn broken_glass(row: &Row<'_>) -> Option<Event> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (row.kind == BREAK_GLASS.as_bytes()).then(|| Event {
        id: row.id,
        ts: text(row.ts),
        kind: BREAK_GLASS.to_owned(),
        actor: text(row.actor),
        payload: text(row.payload),
        prev_hash: text(row.prev_hash),
        hash: text(row.hash),
    })
}

/// Broken glass is no fault, and is shown whatever the verdict is.
fn print_glass(out: &mut impl Write, glass: Option<&Glass>) -> Result<(), Failure> {
    let Some(glass) = glass else {
        return Ok(writeln!(out, "broken glass was not looked for: rows cannot be read")?);
    };
    for row in &glass.rows {
        let text = format!("glass broken in row {} at {}: {}", row.id, row.ts, row.payload);
        writeln!(out, "{}", Plain(&text))?;
    }
    if glass.more > 0 {
        writeln!(out, "and {} more rows of broken glass", glass.more)?;
    }
    Ok(())
}

fn print_text(out: &mut impl Write, verdict: &Verdict, shown: &[Fault], source: Source) -> Result<(), Failure> {
    let report = &verdict.report;
    for fault in shown {
        writeln!(out, "{}", Plain(&fault.to_string()))?;
    }
    let all = report.chain_faults + report.grammar_faults + report.intent_faults;
    if all > shown.len() as u64 {
        writeln!(out, "and {} more", all - shown.len() as u64)?;
    }
    for evidence in &verdict.evidence {
        for line in evidence.to_string().lines() {
            writeln!(out, "evidence: {}", Plain(line))?;
        }
    }
    writeln!(out, "{verdict}")?;
    writeln!(
        out,
        "chain faults {}, grammar faults {}, acts without intent {}, open intents {}",
        report.chain_faults, report.grammar_faults, report.intent_faults, report.open_intents
    )?;
    if report.is_intact() {
        writeln!(out, "head {} {}", report.head.size, report.head.hash)?;
    }
    if verdict.dropped > 0 {
        writeln!(
            out,
            "rows 1 to {} were dropped under a signed summary; their hashes hold, their content was not looked at",
            verdict.dropped
        )?;
    }
    if verdict.unproven > 0 {
        writeln!(
            out,
            "not covered: {} notes of witnesses about dropped rows; the tiles that would show them are missing or wrong",
            verdict.unproven
        )?;
    }
    match verdict.outcome {
        Outcome::Uncovered if verdict.verified < verdict.total => writeln!(
            out,
            "not covered: the last {} rows; {} of {} witnesses are needed",
            verdict.total - verdict.verified,
            verdict.needed,
            verdict.of
        )?,
        Outcome::Stale => writeln!(out, "stale: no witness has cosigned lately")?,
        _ => {}
    }
    if source == Source::None && verdict.of == 0 {
        writeln!(out, "no key: the signatures of checkpoints were not checked; give --policy")?;
    }
    if source == Source::Beside {
        writeln!(out, "the policy lay beside the ledger: whoever rewrote one could rewrite the other")?;
    }
    if verdict.of == 0 {
        writeln!(
            out,
            "no witness: a history rewritten as a whole cannot be told from this alone; compare the head with one kept elsewhere"
        )?;
    }
    Ok(())
}

fn print_json(
    out: &mut impl Write,
    verdict: &Verdict,
    shown: &[Fault],
    source: Source,
    glass: Option<&Glass>,
) -> Result<(), Failure> {
    let report = &verdict.report;
    let faults: Vec<_> = shown
        .iter()
        .map(|fault| {
            let kind = match fault.kind {
                FaultKind::Chain(_) => "chain",
                FaultKind::Grammar(_) => "grammar",
                FaultKind::Intent(_) => "intent",
            };
            json!({ "id": fault.id, "kind": kind, "message": fault.to_string() })
        })
        .collect();
    let evidence: Vec<_> = verdict
        .evidence
        .iter()
        .map(|one| json!({ "held": one.held.to_string(), "shown": one.shown.to_string(), "message": one.to_string() }))
        .collect();
    let policy = match source {
        Source::Given => "given",
        Source::Beside => "beside the ledger",
        Source::None => "none",
    };
    let line = json!({
        "exit": verdict.outcome.exit_code(),
        "outcome": verdict.outcome.as_str(),
        "summary": verdict.to_string(),
        "verified": verdict.verified,
        "total": verdict.total,
        "dropped": verdict.dropped,
        "unproven": verdict.unproven,
        "chain_faults": report.chain_faults,
        "grammar_faults": report.grammar_faults,
        "intent_faults": report.intent_faults,
        "open_intents": report.open_intents,
        "head": report.is_intact().then(|| json!({ "size": report.head.size, "hash": report.head.hash.as_str() })),
        "witnesses": verdict.cosigned,
        "quorum": { "needed": verdict.needed, "of": verdict.of },
        "newest_cosignature_s": verdict.newest_age.map(|age| age.as_secs()),
        "policy": policy,
        "evidence": evidence,
        "faults": faults,
        "break_glass": glass.map(|glass| glass.rows.iter().map(|row| row.id).collect::<Vec<_>>()),
    });
    writeln!(out, "{line}")?;
    Ok(())
}
