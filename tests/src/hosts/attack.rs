//! What root of a host does to its ledger, as well as it can be done: with the
//! daemon stopped, the rules known and the ledger's own key in hand.
//!
//! Nothing on the host is left that contradicts the result (the daemon verifies
//! all of it at its start and takes it for sound), so whoever finds it out must
//! know more than the host.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use osmoda_agentd::checkpoint::{FILE_NAME as CHECKPOINTS, TILES_FOLDER};
use osmoda_agentd::ledger::file::FILE_NAME as LEDGER;
use osmoda_agentd::ledger_key::{History, KEY_FILE, LedgerKey};
use osmoda_ledger::checkpoint::Checkpoint;
use osmoda_ledger::record::{ChainHash, Row};
use osmoda_ledger::tree::{Frontier, TreeHash};
use rusqlite::{Connection, Transaction, TransactionBehavior};

/// What a row says afterwards.
const NOTHING: &str = "{\"nothing\":\"happened\"}";

/// Where a row that was changed is kept.
const FLIPPED: &str = "row-2";

/// The daemon holds the file for the milliseconds of a commit.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// What is done to the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Attack {
    /// One early row is another one; every later one is hashed again.
    Rewrite,
    /// The newest rows are gone.
    Cut {
        /// How many.
        rows: usize,
    },
    /// One early row is another one, and nothing else is touched; the daemon may
    /// run. A second time it is as it was.
    Flip,
}

/// One row: time, type, actor, payload.
type Stored = (String, String, String, String);

/// Changes the ledger in `state`, agentd's stopped state folder; returns how many
/// rows it has then.
///
/// # Errors
/// The folder is not that of a stopped agentd.
pub fn carry_out(state: &Path, attack: Attack) -> anyhow::Result<u64> {
    let key = LedgerKey::load_or_generate(&state.join(KEY_FILE), History::Signed).context("stealing the key")?;
    let ledger = Connection::open(state.join(LEDGER)).context("opening the ledger")?;
    ledger.busy_timeout(LOCK_WAIT)?;
    let mut rows = read(&ledger)?;
    match attack {
        Attack::Rewrite => {
            // An early row keeps its type, its actor and its time, and tells something else.
            let victim = rows.get_mut(1).context("the ledger has too few rows")?;
            victim.3 = NOTHING.to_owned();
        }
        Attack::Cut { rows: cut } => {
            ensure!(rows.len() > cut, "the ledger has only {} rows", rows.len());
            rows.truncate(rows.len() - cut);
        }
        Attack::Flip => {
            flip(&ledger, &state.join(FLIPPED))?;
            return Ok(u64::try_from(rows.len())?);
        }
    }
    let (tree, chain) = write(&ledger, &rows)?;
    ledger.close().map_err(|(_, error)| error).context("closing the ledger")?;
    let checkpoint = Checkpoint { origin: key.origin(), size: tree.size(), root: tree.root(), chain };
    forget(state, &checkpoint, &key)?;
    Ok(tree.size())
}

fn flip(ledger: &Connection, kept: &Path) -> anyhow::Result<()> {
    // With the lock from the beginning: the daemon writes beside it.
    let change = Transaction::new_unchecked(ledger, TransactionBehavior::Immediate)?;
    let sql = "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = 'events_no_update'";
    let defined: String = change.query_row(sql, [], |row| row.get(0))?;
    change.execute("DROP TRIGGER events_no_update", [])?;
    let payload = if kept.exists() {
        std::fs::read_to_string(kept)?
    } else {
        let payload: String = change.query_row("SELECT payload FROM events WHERE id = 2", [], |row| row.get(0))?;
        std::fs::write(kept, payload)?;
        NOTHING.to_owned()
    };
    change.execute("UPDATE events SET payload = ?1 WHERE id = 2", [payload])?;
    change.execute(&defined, [])?;
    change.commit().context("changing a row")
}

fn read(ledger: &Connection) -> anyhow::Result<Vec<Stored>> {
    let mut statement = ledger.prepare("SELECT ts, type, actor, payload FROM events ORDER BY id")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    rows.collect::<Result<_, _>>().context("reading the ledger")
}

/// Writes the rows in the place of all others, hashed anew, with their tree.
fn write(ledger: &Connection, rows: &[Stored]) -> anyhow::Result<(Frontier, ChainHash)> {
    let triggers = ["events_no_update", "events_no_delete", "events_no_replace"];
    let mut defined = Vec::new();
    for name in triggers {
        let sql = "SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = ?1";
        defined.push(ledger.query_row(sql, [name], |row| row.get::<_, String>(0)).context(name)?);
    }
    let change = ledger.unchecked_transaction()?;
    for name in triggers {
        change.execute(&format!("DROP TRIGGER {name}"), [])?;
    }
    change.execute("DELETE FROM events", [])?;
    let (mut tree, mut chain, mut record) = (Frontier::new(), ChainHash::GENESIS, Vec::new());
    for (id, (ts, kind, actor, payload)) in (1_i64..).zip(rows) {
        let prev_hash = chain;
        let row = Row {
            id,
            ts: ts.as_bytes(),
            kind: kind.as_bytes(),
            actor: actor.as_bytes(),
            payload: payload.as_bytes(),
            prev_hash: prev_hash.as_bytes(),
            hash: b"",
        };
        row.record_into(&mut record);
        chain = row.expected_hash();
        tree.append(TreeHash::of_leaf(&record));
        change.execute(
            "INSERT INTO events (id, ts, type, actor, payload, prev_hash, hash) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            (id, ts, kind, actor, payload, prev_hash.as_str(), chain.as_str()),
        )?;
    }
    let size = i64::try_from(rows.len())?;
    change.execute("UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'events'", [size])?;
    change.execute("UPDATE tree SET size = ?1, frontier = ?2", (size, tree.to_bytes()))?;
    for sql in defined {
        change.execute(&sql, [])?;
    }
    change.commit().context("writing the ledger")?;
    Ok((tree, chain))
}

/// Replaces every checkpoint that was ever signed by one of the new rows.
fn forget(state: &Path, checkpoint: &Checkpoint, key: &LedgerKey) -> anyhow::Result<()> {
    let path = state.join(CHECKPOINTS);
    let checkpoints = Connection::open(&path).with_context(|| format!("opening {}", path.display()))?;
    let change = checkpoints.unchecked_transaction()?;
    change.execute("DELETE FROM cosignatures", [])?;
    change.execute("DELETE FROM checkpoints", [])?;
    let note = checkpoint.sign(key).context("signing with the stolen key")?.to_string();
    change.execute("INSERT INTO checkpoints (size, note) VALUES (?1, ?2)", (i64::try_from(checkpoint.size)?, note))?;
    change.commit().context("writing the checkpoints")?;
    checkpoints.close().map_err(|(_, error)| error).context("closing the checkpoints")?;
    let tiles = state.join(TILES_FOLDER);
    match std::fs::remove_dir_all(&tiles) {
        Ok(()) => Ok(()),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(cause) => Err(cause).with_context(|| format!("removing {}", tiles.display())),
    }
}
