//! Answers a question from the index, and from the ledger.
//!
//! The index proposes; each row it names is read again from the ledger, must
//! hash to what it carries, and must have one of the words, which a second
//! index, made in memory of these rows alone, decides with the same tokenizer.
//! Rows the index does not know yet go the same way, so a note is found as soon
//! as it is stored: the newest of them, as many as fit in a search. Where the index is
//! further behind, the answer says how many rows neither part has. Blocks.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use osmoda_node_api::agentd::Event;
use osmoda_node_api::agentd_memory::Chunk;
use rusqlite::{Connection, InterruptHandle};

use super::index::{self, IndexError, is_searched};
use super::{Progress, note, query};
use crate::ledger::file::LedgerFile;
use crate::ledger::is_sound;
use crate::timeframe::Timeframe;

/// Newest rows searched without the index, at most: the earlier product's
/// number. The index is further behind in its first minutes, and while rows come for
/// seconds faster than it may follow (`follower::LOAD_REST`).
const TAIL_ROWS: usize = 5000;

/// Bytes of these rows, at most; about 0.2 s of work.
const TAIL_BYTES: usize = 4 << 20;

/// Bytes of text in one answer, at most: what a model's context can take many
/// times over, and a tenth of what a hundred of the largest rows would be.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// One question.
#[derive(Debug)]
pub(super) struct Question {
    /// Cleaned words; not empty.
    pub(super) words: Vec<String>,
    pub(super) timeframe: Option<Timeframe>,
    pub(super) results_max: usize,
    pub(super) progress: Progress,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) chunks: Vec<Chunk>,
    pub(super) is_truncated: bool,
    /// Rows among which was searched.
    pub(super) searched: u64,
    /// Rows that should have been and were not: the index is too far behind.
    pub(super) unsearched: u64,
    /// The index cannot be read; it should be made anew.
    pub(super) is_index_damaged: bool,
}

/// Lets another thread stop a search that takes too long.
#[derive(Default)]
pub(super) struct Stopper(Mutex<Option<InterruptHandle>>);

impl Stopper {
    fn arm(&self, conn: &Connection) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(conn.get_interrupt_handle());
    }

    /// Stops the search at its next step.
    pub(super) fn stop(&self) {
        if let Some(handle) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            handle.interrupt();
        }
    }
}

/// Searches. A damaged or missing index is no error: the newest rows are
/// searched without it, and the answer says so.
pub(super) fn search(ledger: &Path, index: &Path, question: &Question, stopper: &Stopper) -> Result<Found, IndexError> {
    let ledger = LedgerFile::open(ledger)?;
    let last = ledger.last_id()?;
    let (from, until) = match &question.timeframe {
        None => (1, last + 1),
        Some(frame) => {
            let until = frame.until.as_ref().map(|until| ledger.first_at(until)).transpose()?;
            (ledger.first_at(&frame.from)?, until.unwrap_or(last + 1))
        }
    };
    let (proposed, mut indexed, is_index_damaged) = propose(index, question, from, until, stopper)?;
    indexed = indexed.min(last);

    let mut events: BTreeMap<i64, Event> = BTreeMap::new();
    let ids: Vec<i64> = proposed.keys().copied().collect();
    let tail_rows = i64::try_from(TAIL_ROWS).unwrap_or(i64::MAX);
    let tail_from = from.max(indexed + 1).max(until - tail_rows);
    let tail = ledger.newest(tail_from..until, TAIL_ROWS, TAIL_BYTES)?;
    let is_asked = |event: &Event| (from..until).contains(&event.id);
    let looked_at = tail.iter().filter(|event| is_asked(event) && event.id > indexed).count();
    let mut tail_count = 0;
    for event in ledger.by_ids(&ids)?.into_iter().chain(tail) {
        if is_asked(&event) && is_searched(&event) {
            tail_count += u64::from(event.id > indexed);
            events.insert(event.id, event);
        }
    }
    events.retain(|id, event| {
        let is_sound = is_sound(event);
        if !is_sound {
            tracing::error!(row = id, "a ledger row does not hash to what it carries");
            metrics::counter!("osmoda_memory_unsound_rows_total").increment(1);
        }
        is_sound
    });
    let coverage = coverage(events.values(), &question.words)?;
    let (chunks, is_truncated) = rank(events, &proposed, &coverage, question.results_max);
    let by_index = (indexed.min(until - 1) - from + 1).max(0).unsigned_abs();
    // Rows that were dropped are nobody's to search.
    let known = indexed.max(from - 1).max(ledger.first_id()? - 1);
    let unsearched = (until - 1 - known).max(0).unsigned_abs().saturating_sub(looked_at as u64);
    Ok(Found { chunks, is_truncated, searched: by_index + tail_count, unsearched, is_index_damaged })
}

/// The rows the index names, with their scores; up to where it knows; and
/// whether it is damaged.
fn propose(
    path: &Path,
    question: &Question,
    from: i64,
    until: i64,
    stopper: &Stopper,
) -> Result<(HashMap<i64, f64>, i64, bool), IndexError> {
    if !question.progress.is_usable {
        return Ok((HashMap::new(), 0, false));
    }
    let found = index::open_for_search(path).and_then(|conn| {
        stopper.arm(&conn);
        // Twice as many as are wanted, since some will not stand the second look.
        index::search(&conn, &query::any_of(&question.words), from, until, 2 * question.results_max)
    });
    match found {
        Ok(found) => Ok((found.into_iter().collect(), question.progress.indexed, false)),
        Err(error) if error.is_damage() || !path.exists() => {
            tracing::warn!(error = osmoda_kit::error::chain(&error), "search index unusable");
            Ok((HashMap::new(), 0, true))
        }
        Err(error) => Err(error),
    }
}

/// For each row that has any of the words, the share of the words it has.
fn coverage<'a>(
    events: impl Iterator<Item = &'a Event>,
    words: &[String],
) -> Result<HashMap<i64, f64>, rusqlite::Error> {
    let conn = Connection::open_in_memory()?;
    conn.execute_batch(&format!("CREATE VIRTUAL TABLE words USING {}; BEGIN", index::WORDS_TABLE))?;
    let mut insert = conn.prepare("INSERT INTO words (rowid, type, actor, payload) VALUES (?1, ?2, ?3, ?4)")?;
    for event in events {
        insert.execute((event.id, &event.kind, &event.actor, &event.payload))?;
    }
    let mut with_word = conn.prepare("SELECT rowid FROM words WHERE words MATCH ?1")?;
    let mut coverage = HashMap::new();
    for word in words {
        let mut rows = with_word.query([query::quoted(word)])?;
        while let Some(row) = rows.next()? {
            *coverage.entry(row.get(0)?).or_insert(0.0) += 1.0 / words.len() as f64;
        }
    }
    Ok(coverage)
}

/// Best first, newer first among equals. Half of the relevance is how many of
/// the words a row has, half what the index thinks of it; a row the index does
/// not know has only the first to go by.
fn rank(
    events: BTreeMap<i64, Event>,
    proposed: &HashMap<i64, f64>,
    coverage: &HashMap<i64, f64>,
    results_max: usize,
) -> (Vec<Chunk>, bool) {
    let best = proposed.values().copied().filter(|score| score.is_finite()).fold(f64::MIN_POSITIVE, f64::max);
    let mut ranked: Vec<(f64, Event)> = events
        .into_iter()
        .filter_map(|(id, event)| {
            let coverage = coverage.get(&id).copied()?.min(1.0);
            let score = proposed.get(&id).map(|score| (score / best).clamp(0.0, 1.0)).filter(|score| !score.is_nan());
            Some((score.map_or(coverage, |score| (coverage + score) / 2.0), event))
        })
        .collect();
    ranked.sort_by(|(a, first), (b, second)| b.total_cmp(a).then(second.id.cmp(&first.id)));
    let (mut chunks, mut bytes, mut is_truncated) = (Vec::new(), 0, false);
    for (relevance, event) in ranked.into_iter().take(results_max) {
        let chunk = note::chunk(event, relevance);
        bytes += chunk.content.len();
        if bytes > ANSWER_BYTES_MAX {
            is_truncated = true;
            break;
        }
        chunks.push(chunk);
    }
    (chunks, is_truncated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::file::FILE_NAME;
    use crate::ledger::payload::Payload;
    use crate::ledger::{Ledger, NewRow, Synchronous, WriterOptions};
    use osmoda_kit::testing::FakeClock;
    use serde_json::Map;
    use std::sync::Arc;

    /// A ledger of so many rows, each with its number as a word and so many bytes more.
    async fn rows(dir: &Path, count: usize, bytes: usize) {
        let options = WriterOptions { synchronous: Synchronous::Off, ..WriterOptions::default() };
        let (ledger, threads, _) = Ledger::open(&dir.join(FILE_NAME), options, Arc::new(FakeClock::new())).unwrap();
        let row = |n: usize| {
            let text = format!("number{n} {}", "x".repeat(bytes));
            let payload = Payload::new(&Map::from_iter([("content".to_owned(), text.into())])).unwrap();
            NewRow::new("memory.ingest".to_owned(), "tester".to_owned(), payload).unwrap()
        };
        for begin in (1..=count).step_by(256) {
            let appends = (begin..=count.min(begin + 255)).map(|n| ledger.append(row(n)));
            futures_util::future::try_join_all(appends).await.unwrap();
        }
        threads.close().unwrap();
    }

    /// How many chunks were found, and how many rows were not searched.
    fn ask(dir: &Path, word: &str, timeframe: Option<Timeframe>) -> (usize, u64) {
        let progress = Progress::default();
        let question = Question { words: vec![word.to_owned()], timeframe, results_max: 10, progress };
        let found = search(&dir.join(FILE_NAME), &dir.join("fts.db"), &question, &Stopper::default()).unwrap();
        (found.chunks.len(), found.unsearched)
    }

    #[tokio::test]
    async fn rows_that_neither_part_has_are_counted_in_the_answer() {
        let dir = tempfile::tempdir().unwrap();
        let count = TAIL_ROWS + 10;
        rows(dir.path(), count, 0).await;
        assert_eq!(ask(dir.path(), &format!("number{count}"), None), (1, 10));
        assert_eq!(ask(dir.path(), "number10", None), (0, 10), "it is there, and this says why it was not found");
        assert_eq!(ask(dir.path(), "number11", None), (1, 10));
        let never = Timeframe { from: "1999".to_owned(), until: Some("1999-02".to_owned()) };
        assert_eq!(ask(dir.path(), "number11", Some(never)), (0, 0), "no row of that time is left out");
    }

    #[tokio::test]
    async fn large_rows_that_do_not_fit_in_a_search_are_counted_too() {
        let dir = tempfile::tempdir().unwrap();
        rows(dir.path(), 100, 50_000).await;
        let unsearched = 100 - (TAIL_BYTES / 50_023) as u64;
        assert_eq!(ask(dir.path(), "number100", None), (1, unsearched), "the newest are searched");
        assert_eq!(ask(dir.path(), "number1", None), (0, unsearched));
    }
}
