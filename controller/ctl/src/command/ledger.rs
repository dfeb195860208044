//! `osmoda ledger`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use osmoda_controller_api::{LedgerHead, NodeLedger, Page};
use osmoda_kit::clock::{Clock as _, SystemClock};
use osmoda_kit::fsio;
use osmoda_types::{NodeId, PublicKey};
use tokio::time::Instant;

use crate::cli::{Global, Ledger as Command};
use crate::context::Env;
use crate::error::CliError;
use crate::exit::Exit;
use crate::kept;
use crate::output::{Format, Rows, printable, typed};
use crate::session::Session;
use crate::witnessed::{First, Fleet, Outcome, Verdict, first};

const HEADS_PATH: &str = "/ledger/heads";

/// Between two looks at ledgers whose last rows are not covered yet.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The largest file of keys: room for ten thousand nodes.
const KEYS_BYTES_MAX: u64 = 2 << 20;

/// Pinned keys, by the node's name or id.
type Pinned = BTreeMap<String, PublicKey>;

/// Runs a command about ledgers.
pub(crate) async fn run(global: &Global, command: Command) -> Result<Exit, CliError> {
    match command {
        Command::Cosign(args) => super::cosign::run(global, args).await,
        Command::Heads => {
            let session = &mut Session::open(global)?;
            super::list::<LedgerHead>(session, "cannot list ledger heads", HEADS_PATH, false).await
        }
        Command::Verify { node, all: _, keys, wait } => {
            let session = &mut Session::open(global)?;
            verify(session, node.as_deref(), keys.as_deref(), Duration::from_secs(wait)).await
        }
    }
}

async fn verify(
    session: &mut Session,
    node: Option<&str>,
    pinned: Option<&Path>,
    wait: Duration,
) -> Result<Exit, CliError> {
    let pinned = pinned.map(read_keys).transpose()?;
    let own = kept::heads(&kept::folder(&Env::read().file()?))?;
    let until = Instant::now() + wait;
    let mut known: BTreeMap<NodeId, First> = BTreeMap::new();
    let verdicts = loop {
        let page: Page<NodeLedger> = typed(session.client.list("cannot read the ledgers", "/ledger").await?)?;
        let ledgers = page.items;
        if let Some(hidden) = pinned.iter().flat_map(Pinned::keys).find(|name| !ledgers.iter().any(|l| is(l, name))) {
            let why = format!("the controller shows no node {:?}", printable(hidden));
            return Err(CliError::new(Exit::TimedOut, "a node of the key file is not verified", why)
                .next("if it left the fleet, take it out of the file; if not, do not trust this controller"));
        }
        let keys = keys(&ledgers, pinned.as_ref());
        let now_s = u64::try_from(SystemClock::new().now_wall().as_millis() / 1000).unwrap_or(0);
        let judged = Fleet { ledgers: &ledgers, keys: &keys, first: &known, own: &own, now_s }.judge();
        if known.is_empty() {
            known = first(&ledgers, &judged);
        }
        let verdicts = wanted(judged, node)?;
        // Rows of the last second are covered in the next one; a ledger that was
        // rolled back shows it with its next report.
        let is_open = verdicts.iter().any(|verdict| verdict.outcome == Outcome::Uncovered);
        if !is_open || Instant::now() >= until {
            break verdicts;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    print(session, &verdicts)?;
    // A fleet without ledgers proves nothing.
    Ok(verdicts.iter().map(|verdict| verdict.outcome).max().map_or(Exit::TimedOut, exit))
}

/// The exit codes of the verifier (`trust.md` 1.5), the same numbers as those of
/// `agentctl verify-ledger`: 0, 1 broken, 2 not covered or accused without proof,
/// 3 caught, 6 stale.
const fn exit(outcome: Outcome) -> Exit {
    match outcome {
        Outcome::Verified => Exit::Ok,
        Outcome::Broken => Exit::Failed,
        Outcome::Uncovered | Outcome::Accused => Exit::Usage,
        Outcome::Caught => Exit::NotFound,
        Outcome::Stale => Exit::TimedOut,
    }
}

fn is(ledger: &NodeLedger, name: &str) -> bool {
    ledger.name == name || ledger.node.to_string() == name
}

/// The keys that count: the pinned ones where there are any, else the log's.
fn keys(ledgers: &[NodeLedger], pinned: Option<&Pinned>) -> BTreeMap<NodeId, PublicKey> {
    let key = |ledger: &NodeLedger| match pinned {
        None => ledger.key,
        Some(pinned) => pinned.iter().find(|(name, _)| is(ledger, name)).map(|(_, key)| *key),
    };
    ledgers.iter().filter_map(|ledger| Some((ledger.node, key(ledger)?))).collect()
}

fn read_keys(path: &Path) -> Result<Pinned, CliError> {
    let what = || format!("cannot use the key file {}", path.display());
    let bytes = fsio::read_limited(path, KEYS_BYTES_MAX)
        .map_err(|error| CliError::failed(what(), osmoda_kit::error::chain(&error)))?
        .ok_or_else(|| CliError::failed(what(), "there is no such file"))?;
    let text = String::from_utf8(bytes).map_err(|_| CliError::failed(what(), "it is not text"))?;
    parse_keys(&text).map_err(|why| CliError::usage(what(), why).next("a line is: NAME-OR-ID KEY (64 hex digits)"))
}

fn parse_keys(text: &str) -> Result<Pinned, String> {
    let mut pinned = Pinned::new();
    for (number, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let fault = |what: &str| format!("line {}: {what}", number + 1);
        match words[..] {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            [name, key] => {
                let key = key.parse().map_err(|_| fault("the key is not 64 hex digits"))?;
                if pinned.insert(name.to_owned(), key).is_some() {
                    return Err(fault("the node stands twice"));
                }
            }
            _ => return Err(fault("it is not a name and a key")),
        }
    }
    if pinned.is_empty() { Err("it names no node".to_owned()) } else { Ok(pinned) }
}

/// The verdict that was asked for, or all. Every ledger is judged either way:
/// the others are its witnesses.
fn wanted(verdicts: Vec<Verdict>, node: Option<&str>) -> Result<Vec<Verdict>, CliError> {
    let Some(text) = node else { return Ok(verdicts) };
    let is_it = |verdict: &Verdict| verdict.name == text || verdict.node.to_string() == text;
    let found: Vec<Verdict> = verdicts.into_iter().filter(is_it).collect();
    if found.is_empty() {
        // Not the code of a missing thing: that number says here that a ledger lied.
        return Err(
            CliError::failed(format!("no ledger of {text:?}"), "no node has this name or id").next("osmoda node ls")
        );
    }
    Ok(found)
}

fn print(session: &mut Session, verdicts: &[Verdict]) -> Result<(), CliError> {
    match session.out.format() {
        Format::Table => verdicts
            .iter()
            .try_for_each(|verdict| verdict.text().lines().try_for_each(|line| session.out.line(&printable(line)))),
        Format::Name => verdicts
            .iter()
            .filter(|verdict| verdict.outcome != Outcome::Verified)
            .try_for_each(|verdict| session.out.line(&printable(&verdict.name))),
        Format::Json | Format::Jsonl => {
            let page = serde_json::json!({ "items": verdicts });
            session.out.object(&page, |_: &serde_json::Value| String::new(), |_| String::new())
        }
    }
}

impl Rows for LedgerHead {
    const HEADS: &'static [&'static str] = &["node", "rows", "hash", "seen", "broken"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.size.to_string(),
            self.hash.chars().take(16).collect(),
            self.seen_at.clone(),
            if self.broken { "YES" } else { "no" }.to_owned(),
        ]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_has_one_reading() {
        let key = "ab".repeat(32);
        let pinned = parse_keys(&format!("# fleet\n\nweb-1 {key}\nweb-2  {key}\n")).unwrap();
        assert_eq!(pinned.keys().collect::<Vec<_>>(), ["web-1", "web-2"]);
        for bad in ["", "# nothing", "web-1", "web-1 zz", &format!("a {key} c"), &format!("a {key}\na {key}")] {
            assert!(parse_keys(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn exit_codes_are_those_of_the_offline_verifier() {
        use Outcome::{Accused, Broken, Caught, Stale, Uncovered, Verified};
        let codes = [Verified, Broken, Uncovered, Accused, Caught, Stale];
        assert_eq!(codes.map(|outcome| exit(outcome).number()), [0, 1, 2, 2, 3, 6]);
    }
}
