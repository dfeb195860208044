//! What this node holds of other ledgers: the last note it cosigned of each, and
//! whom it caught.
//!
//! Invariant: judging and storing are one transaction, and a cosignature leaves
//! [`WitnessStore::judge`] only when the head behind it is durable. Two requests
//! at once are judged one after the other, so none rolls a head back.
//!
//! Blocks; callers run it off the async threads.

use std::path::Path;

use osmoda_ledger::anchor::Anchor;
use osmoda_ledger::checkpoint::Checkpoint;
use osmoda_ledger::exchange::AddCheckpoint;
use osmoda_ledger::note::{Note, NoteError, VerifierKey};
use osmoda_ledger::tree::TreeHash;
use osmoda_ledger::witness::{Decision, Witness, WitnessedHead};
use osmoda_node_api::witness::{ALARMS_MAX, ALARMS_OF_LEDGER_MAX, Alarm, Finding, HeldNote};
use osmoda_types::NodeId;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior};

/// Name of the file in the daemon's state folder.
pub const FILE_NAME: &str = "witness.db";

/// Shorter checkpoints in a row that make an alarm. One may be an old request
/// that was held up on the way and overtaken; a second one is no accident.
const SHORTER_MAX: i64 = 2;

const MIGRATIONS: &[(u32, &str)] = &[(
    1,
    "CREATE TABLE heads (
        origin TEXT PRIMARY KEY, node TEXT NOT NULL, size INTEGER NOT NULL,
        note TEXT NOT NULL, time_s INTEGER NOT NULL, shorter INTEGER NOT NULL
     ) WITHOUT ROWID;
     CREATE TABLE alarms (
        node TEXT NOT NULL, finding TEXT NOT NULL, held TEXT NOT NULL,
        shown TEXT NOT NULL, time_s INTEGER NOT NULL,
        UNIQUE (node, finding, held)
     );",
)];

/// What came later and what is there does not need. No new version: a host that is
/// rolled back must be able to open the file (`tests::a_host_that_is_rolled_back…`).
const ADDED: &str = "CREATE TABLE IF NOT EXISTS anchors (
    origin TEXT PRIMARY KEY, proven INTEGER NOT NULL, ahead_since_s INTEGER
 ) WITHOUT ROWID";

/// The store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// It cannot be opened.
    #[error("cannot open what this node holds as a witness")]
    Open(#[from] osmoda_kit::sqlite::OpenError),
    /// It cannot be read or written; nothing was cosigned.
    #[error("cannot use what this node holds as a witness")]
    Database(#[from] rusqlite::Error),
    /// What it holds is damaged, or the own key cannot sign.
    #[error("a note cannot be used")]
    Note(#[from] NoteError),
    /// A stored text is not what was stored.
    #[error("what this node holds as a witness is damaged: {0}")]
    Damaged(&'static str),
}

/// What a ledger asks, and what the fleet's log says of it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// To cosign this.
    pub request: &'a AddCheckpoint,
    /// The proof that it continues the log's head, if it was sent.
    pub anchor: Option<&'a AddCheckpoint>,
    /// The log's head, with its ledger's signature.
    pub logged: Option<&'a WitnessedHead>,
}

/// What judging a request came to.
#[derive(Debug)]
pub struct Judged {
    /// The decision; an accepted head is durable.
    pub decision: Decision,
    /// Whom it caught, if that is news.
    pub alarm: Option<Alarm>,
}

/// The open store.
#[derive(Debug)]
pub struct WitnessStore {
    conn: Connection,
}

impl WitnessStore {
    /// Opens or makes it.
    ///
    /// # Errors
    /// [`WitnessError::Open`], [`WitnessError::Database`].
    pub fn open(path: &Path) -> Result<Self, WitnessError> {
        let conn = osmoda_kit::sqlite::open(path, MIGRATIONS)?;
        conn.execute_batch(ADDED)?;
        Ok(Self { conn })
    }

    /// Judges a request of that node, whose ledger has that key, and stores what
    /// follows from it.
    ///
    /// # Errors
    /// [`WitnessError`]; then nothing was stored and nothing may be answered.
    pub fn judge(
        &mut self,
        witness: &Witness<'_>,
        node: NodeId,
        ledger: Option<&VerifierKey>,
        asked: Asked<'_>,
        now_s: u64,
    ) -> Result<Judged, WitnessError> {
        let lean = ledger.map(|key| AddCheckpoint { note: asked.request.note.only_of(key), ..asked.request.clone() });
        let request = lean.as_ref().unwrap_or(asked.request);
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let stored = match ledger {
            Some(key) => held(&tx, key)?,
            None => None,
        };
        let mut decision = witness.judge(ledger, stored.as_ref(), request, now_s)?;
        // What a refusal says the ledger contradicts.
        let mut before = stored.as_ref();
        if let (Decision::Accept { new, .. }, Some(key)) = (&decision, ledger) {
            match anchor(&tx, key)?.judge(key, asked.logged, new, asked.anchor, now_s) {
                Ok(anchor) => accept(&tx, node, key, new, anchor)?,
                Err(refused) => (decision, before) = (refused, asked.logged),
            }
        }
        let mut alarm = None;
        if let (Some(key), Some(before)) = (ledger, before)
            && let Some(finding) = finding(&tx, &decision, key, before, request)?
        {
            let (held, shown) = (before.note.to_string(), request.note.to_string());
            let caught = Alarm { node, finding, held, shown, time_s: now_s };
            alarm = raise(&tx, &caught)?.then_some(caught);
        }
        tx.commit()?;
        Ok(Judged { decision, alarm })
    }

    /// Takes a head as held where none is: one that the ledger signed and the fleet
    /// remembers. Without it a witness that lost its file would believe any past.
    ///
    /// # Errors
    /// [`WitnessError`].
    pub(super) fn seed(&mut self, node: NodeId, key: &VerifierKey, head: &WitnessedHead) -> Result<(), WitnessError> {
        let tx = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if held(&tx, key)?.is_none() {
            accept(&tx, node, key, head, Anchor { proven: head.size, ahead_since_s: None })?;
        }
        tx.commit()?;
        Ok(())
    }

    /// The note held of the ledger with that key.
    ///
    /// # Errors
    /// [`WitnessError`].
    pub fn held(&self, key: &VerifierKey) -> Result<Option<WitnessedHead>, WitnessError> {
        held(&self.conn, key)
    }

    /// Makes the file full at that many pages, as a disk would be.
    #[cfg(test)]
    pub(crate) fn limit_pages(&self, pages: u32) {
        self.conn.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).expect("a pragma of SQLite");
    }

    /// The newest note held of each node's ledger.
    ///
    /// # Errors
    /// [`WitnessError`].
    pub fn all_held(&self) -> Result<Vec<HeldNote>, WitnessError> {
        // A log of before let a node change its ledger's key, which left two notes.
        let sql = "SELECT node, size, note, max(time_s) FROM heads GROUP BY node ORDER BY node";
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map([], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?, row.get::<_, i64>(3)?))
        })?;
        rows.map(|row| {
            let (node, size, note, time_s) = row?;
            Ok(HeldNote { node: node_id(&node)?, size: positive(size)?, note, time_s: positive(time_s)? })
        })
        .collect()
    }

    /// Everybody who was caught, at most [`ALARMS_MAX`]: the first of each ledger
    /// come before the second of any.
    ///
    /// # Errors
    /// [`WitnessError`].
    pub fn alarms(&self) -> Result<Vec<Alarm>, WitnessError> {
        let sql = "SELECT node, finding, held, shown, time_s FROM alarms
                   ORDER BY row_number() OVER (PARTITION BY node ORDER BY rowid), rowid LIMIT ?1";
        let mut statement = self.conn.prepare_cached(sql)?;
        let rows = statement.query_map([i64::try_from(ALARMS_MAX).unwrap_or(i64::MAX)], |row| {
            let texts = [row.get::<_, String>(0)?, row.get(1)?, row.get(2)?, row.get(3)?];
            Ok((texts, row.get::<_, i64>(4)?))
        })?;
        rows.map(|row| {
            let ([node, finding, held, shown], time_s) = row?;
            let finding = finding_of(&finding)?;
            Ok(Alarm { node: node_id(&node)?, finding, held, shown, time_s: positive(time_s)? })
        })
        .collect()
    }
}

fn held(conn: &Connection, key: &VerifierKey) -> Result<Option<WitnessedHead>, WitnessError> {
    let read = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?));
    let mut statement = conn.prepare_cached("SELECT note, time_s FROM heads WHERE origin = ?1")?;
    let Some((text, time_s)) = statement.query_row([key.name()], read).optional()? else { return Ok(None) };
    let note = Note::parse(text.as_bytes())?;
    // Its signature is checked again: what another program wrote here is nothing
    // that this node cosigned.
    let checkpoint =
        Checkpoint::open(&note, key).map_err(|_| WitnessError::Damaged("a held note is not the ledger's"))?;
    let (size, root): (u64, TreeHash) = (checkpoint.size, checkpoint.root);
    Ok(Some(WitnessedHead { size, root, note, time_s: positive(time_s)? }))
}

fn anchor(conn: &Connection, key: &VerifierKey) -> Result<Anchor, WitnessError> {
    let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<i64>>(1)?));
    let mut statement = conn.prepare_cached("SELECT proven, ahead_since_s FROM anchors WHERE origin = ?1")?;
    let Some((proven, since)) = statement.query_row([key.name()], read).optional()? else {
        return Ok(Anchor::default());
    };
    Ok(Anchor { proven: positive(proven)?, ahead_since_s: since.map(positive).transpose()? })
}

fn accept(
    tx: &Transaction<'_>,
    node: NodeId,
    key: &VerifierKey,
    new: &WitnessedHead,
    anchor: Anchor,
) -> Result<(), WitnessError> {
    let (size, time_s) = (signed(new.size)?, signed(new.time_s)?);
    let (proven, since) = (signed(anchor.proven)?, anchor.ahead_since_s.map(signed).transpose()?);
    tx.prepare_cached(
        "INSERT INTO heads (origin, node, size, note, time_s, shorter) VALUES (?1, ?2, ?3, ?4, ?5, 0)
         ON CONFLICT (origin) DO UPDATE SET size = ?3, note = ?4, time_s = ?5, shorter = 0",
    )?
    .execute((key.name(), node.to_string(), size, new.note.to_string(), time_s))?;
    tx.prepare_cached(
        "INSERT INTO anchors (origin, proven, ahead_since_s) VALUES (?1, ?2, ?3)
         ON CONFLICT (origin) DO UPDATE SET proven = ?2, ahead_since_s = ?3",
    )?
    .execute((key.name(), proven, since))?;
    Ok(())
}

/// What a refused request says about the ledger that signed it, beside what it
/// signed before.
fn finding(
    tx: &Transaction<'_>,
    decision: &Decision,
    key: &VerifierKey,
    before: &WitnessedHead,
    request: &AddCheckpoint,
) -> Result<Option<Finding>, WitnessError> {
    let Ok(shown) = Checkpoint::open(&request.note, key) else { return Ok(None) };
    match decision {
        Decision::Conflict { evidence: Some(_), .. } | Decision::Unanchored { evidence: Some(_), .. } => {
            Ok(Some(Finding::Forked))
        }
        Decision::BadProof => Ok(Some(Finding::Rewritten)),
        Decision::Conflict { .. } | Decision::Unanchored { .. } if shown.size < before.size => {
            let sql = "UPDATE heads SET shorter = shorter + 1 WHERE origin = ?1 RETURNING shorter";
            let seen: i64 = tx.prepare_cached(sql)?.query_row([key.name()], |row| row.get(0))?;
            Ok((seen >= SHORTER_MAX).then_some(Finding::Shortened))
        }
        _ => Ok(None),
    }
}

/// Keeps an alarm; returns whether it is news.
fn raise(tx: &Transaction<'_>, alarm: &Alarm) -> Result<bool, WitnessError> {
    // Of each ledger on its own: a node that fills its share hides no other.
    let sql = "SELECT count(*) FROM alarms WHERE node = ?1";
    let count: i64 = tx.prepare_cached(sql)?.query_row([alarm.node.to_string()], |row| row.get(0))?;
    if usize::try_from(count).unwrap_or(usize::MAX) >= ALARMS_OF_LEDGER_MAX {
        return Ok(false);
    }
    let sql = "INSERT OR IGNORE INTO alarms (node, finding, held, shown, time_s) VALUES (?1, ?2, ?3, ?4, ?5)";
    let values = (alarm.node.to_string(), text_of(alarm.finding), &alarm.held, &alarm.shown, signed(alarm.time_s)?);
    Ok(tx.prepare_cached(sql)?.execute(values)? == 1)
}

/// The word for a finding, in rows and in the store.
#[must_use]
pub(super) const fn text_of(finding: Finding) -> &'static str {
    match finding {
        Finding::Forked => "forked",
        Finding::Rewritten => "rewritten",
        Finding::Shortened => "shortened",
    }
}

fn finding_of(text: &str) -> Result<Finding, WitnessError> {
    let all = [Finding::Forked, Finding::Rewritten, Finding::Shortened];
    all.into_iter().find(|finding| text_of(*finding) == text).ok_or(WitnessError::Damaged("an unknown finding"))
}

fn node_id(text: &str) -> Result<NodeId, WitnessError> {
    text.parse().map_err(|_| WitnessError::Damaged("a node's id"))
}

fn positive(number: i64) -> Result<u64, WitnessError> {
    u64::try_from(number).map_err(|_| WitnessError::Damaged("a negative number"))
}

fn signed(number: u64) -> Result<i64, WitnessError> {
    i64::try_from(number).map_err(|_| WitnessError::Damaged("a number beyond any ledger"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_rolled_back_opens_the_file_and_one_that_comes_back_too() {
        let root = osmoda_kit::testing::TempRoot::new();
        let path = root.path().join(FILE_NAME);
        drop(WitnessStore::open(&path).unwrap());
        // As the version before: what it knows, and nothing that was added.
        let before = osmoda_kit::sqlite::open(&path, MIGRATIONS).unwrap();
        let insert = "INSERT INTO heads (origin, node, size, note, time_s, shorter) VALUES ('o', 'n', 1, 'x', 1, 0)";
        assert_eq!(before.execute(insert, []), Ok(1));
        drop(before);
        let again = WitnessStore::open(&path).unwrap();
        let count = |sql| again.conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!((count("SELECT count(*) FROM heads"), count("SELECT count(*) FROM anchors")), (1, 0));
        assert_eq!(count("PRAGMA user_version"), 1);
    }
}
