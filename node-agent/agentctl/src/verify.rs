//! `verify-ledger`: offline, over the file or over an export.
//!
//! It never prints a bare "OK": what was verified, of how much, and what this
//! check cannot see, are in the same line.

use std::io::{BufRead, Write};
use std::path::Path;

use osmoda_agentd::ledger::file::LedgerFile;
use osmoda_agentd::ledger::record::Row;
use osmoda_agentd::ledger::verify::{Fault, FaultKind, Report, Verifier};
use osmoda_node_api::agentd::Event;
use serde_json::json;

use crate::args::{Args, VerifyOptions};
use crate::failure::Failure;
use crate::text::Plain;

/// Most faults printed. A file of another format breaks at every row; nobody
/// reads a million lines, and the counts are printed in any case.
const FAULTS_SHOWN_MAX: usize = 1000;

/// Exit codes of `trust.md` 1.5 that apply without witnesses.
const EXIT_VERIFIED: u8 = 0;
const EXIT_CHAIN: u8 = 1;
const EXIT_GRAMMAR: u8 = 4;
const EXIT_NO_INTENT: u8 = 5;

pub(crate) fn run(args: &Args, options: &VerifyOptions, out: &mut impl Write) -> Result<u8, Failure> {
    let mut shown = Vec::new();
    let mut keep = |fault: Fault| {
        if shown.len() < FAULTS_SHOWN_MAX {
            shown.push(fault);
        }
    };
    let report = match &options.export {
        None => LedgerFile::open(&args.ledger())?.verify(&mut keep)?,
        Some(path) => {
            let failed = |source| Failure::Export { path: path.clone(), source };
            verify_export(&mut open(path).map_err(failed)?, &mut keep).map_err(failed)?
        }
    };
    let code = exit_code(&report);
    if options.json {
        print_json(out, &report, &shown, code)?;
    } else {
        print_text(out, &report, &shown)?;
    }
    Ok(code)
}

/// The worst fault decides: a broken chain says more than a row of bad form,
/// and that more than an act without intent.
const fn exit_code(report: &Report) -> u8 {
    if report.chain_faults > 0 {
        EXIT_CHAIN
    } else if report.grammar_faults > 0 {
        EXIT_GRAMMAR
    } else if report.intent_faults > 0 {
        EXIT_NO_INTENT
    } else {
        EXIT_VERIFIED
    }
}

fn open(path: &Path) -> std::io::Result<Box<dyn BufRead>> {
    if path == Path::new("-") {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    Ok(Box::new(std::io::BufReader::new(std::fs::File::open(path)?)))
}

fn verify_export(input: &mut dyn BufRead, mut found: impl FnMut(Fault)) -> std::io::Result<Report> {
    let mut verifier = Verifier::new();
    let mut line = String::new();
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            // An export does not say how many rows there should be.
            return Ok(verifier.finish(None, found));
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
        verifier.feed(&row, &mut found);
    }
}

fn print_text(out: &mut impl Write, report: &Report, shown: &[Fault]) -> Result<(), Failure> {
    for fault in shown {
        writeln!(out, "{}", Plain(&fault.to_string()))?;
    }
    let all = report.chain_faults + report.grammar_faults + report.intent_faults;
    if all > shown.len() as u64 {
        writeln!(out, "and {} more", all - shown.len() as u64)?;
    }
    writeln!(
        out,
        "verified up to {} of {}; chain faults {}, grammar faults {}, acts without intent {}, open intents {}",
        report.verified,
        report.total,
        report.chain_faults,
        report.grammar_faults,
        report.intent_faults,
        report.open_intents
    )?;
    if report.is_intact() {
        writeln!(out, "head {} {}", report.head.size, report.head.hash)?;
    }
    writeln!(
        out,
        "no witness: a history rewritten as a whole cannot be told from this file; compare the head with one kept elsewhere"
    )?;
    Ok(())
}

fn print_json(out: &mut impl Write, report: &Report, shown: &[Fault], code: u8) -> Result<(), Failure> {
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
    let line = json!({
        "exit": code,
        "verified": report.verified,
        "total": report.total,
        "chain_faults": report.chain_faults,
        "grammar_faults": report.grammar_faults,
        "intent_faults": report.intent_faults,
        "open_intents": report.open_intents,
        "head": report.is_intact().then(|| json!({ "size": report.head.size, "hash": report.head.hash.as_str() })),
        "witnesses": 0,
        "faults": faults,
    });
    writeln!(out, "{line}")?;
    Ok(())
}
