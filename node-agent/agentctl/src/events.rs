//! `events`, `export` and `stats`: the ledger read straight from its file.

use std::io::Write;

use osmoda_agentd::ledger::file::LedgerFile;
use osmoda_node_api::agentd::EventQuery;

use crate::args::{Args, EventOptions};
use crate::failure::Failure;
use crate::text::Plain;

pub(crate) fn list(args: &Args, options: &EventOptions, out: &mut impl Write) -> Result<u8, Failure> {
    let query = EventQuery {
        kind: options.kind.clone(),
        actor: options.actor.clone(),
        limit: i64::from(options.last),
        before: None,
    };
    let page = LedgerFile::open(&args.ledger())?.events(&query)?;
    for event in page.events.iter().rev() {
        if options.json {
            line(out, event)?;
        } else {
            let text = format!("{} {} {} {}", event.ts, event.kind, event.actor, event.payload);
            writeln!(out, "{:>6} {}", event.id, Plain(&text))?;
        }
    }
    if page.is_truncated {
        out.flush()?;
        writeln!(std::io::stderr(), "agentctl: cut short; use export for more")?;
    }
    Ok(0)
}

pub(crate) fn export(args: &Args, out: &mut impl Write) -> Result<u8, Failure> {
    LedgerFile::open(&args.ledger())?.for_each(|event| line(out, &event))?;
    Ok(0)
}

pub(crate) fn stats(args: &Args, json: bool, out: &mut impl Write) -> Result<u8, Failure> {
    let stats = LedgerFile::open(&args.ledger())?.stats()?;
    if json {
        line(out, &stats)?;
        return Ok(0);
    }
    writeln!(out, "events  {}", stats.count)?;
    writeln!(out, "first   {}", Plain(stats.first_ts.as_deref().unwrap_or("-")))?;
    writeln!(out, "last    {}", Plain(stats.last_ts.as_deref().unwrap_or("-")))?;
    writeln!(out, "size    {} bytes", stats.file_bytes)?;
    for (kind, count) in &stats.by_type {
        writeln!(out, "{count:>8}  {}", Plain(kind))?;
    }
    Ok(0)
}

fn line(out: &mut impl Write, value: &impl serde::Serialize) -> Result<(), Failure> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)?;
    Ok(())
}
