//! Memory: what was noted, found again by words.
//!
//! - *Pure*: `query` (what may be asked of the index), `note` (a row as an
//!   answer shows it).
//! - `index` is the file of words, `follower` fills it behind the commits,
//!   `recall` answers from it, `api` has the endpoints.
//!
//! A note is a ledger row and nothing else. The index is a database of its own
//! that can be deleted at any time: it says where to look, never what was said.
//! Invariant: whatever is answered was re-read from the ledger, still hashes to
//! what its row carries, and really has one of the words that were asked for
//! (test `a_tampered_index_cannot_say_anything`).

mod api;
mod follower;
mod index;
mod note;
mod query;
mod recall;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use osmoda_kit::tasks::Tasks;
use tokio::sync::{Semaphore, watch};

use crate::ledger::Ledger;

pub use api::router;
pub use follower::ThreadError;

/// Searches at once. Each may hold a core for its whole time limit, and a node
/// has two; a third is told to come back.
const SEARCHES_AT_ONCE: usize = 2;

/// How long a search may take. One over a million rows is tens of milliseconds
/// (5.7 ms for 1,246 hits in 120,000 rows, `trust.md` 1.4); a disk that needs
/// seconds should be noticed and not waited for.
const SEARCH_TIME_LIMIT: Duration = Duration::from_secs(5);

/// Types of rows that are not searched: what was asked would be the best answer
/// to its own question.
const NOT_SEARCHED: [&str; 3] = ["agentd.read", "agentd.refused", "agentd.reads.lost"];

/// How far the index has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last row it knows.
    pub indexed: i64,
    /// Whether it works; without it only the newest rows are searched.
    pub is_usable: bool,
    /// How often it was made anew, since start.
    pub rebuilds: u64,
}

/// The memory of this node; cheap to clone.
#[derive(Debug, Clone)]
pub struct Memory {
    ledger: Ledger,
    tasks: Tasks,
    ledger_path: PathBuf,
    index_path: PathBuf,
    progress: watch::Receiver<Progress>,
    damage: Arc<follower::Damage>,
    searches: Arc<Semaphore>,
}
