//! Requests that make root look and have no permit yet, each session's of a minute.
//! *Pure.*
//!
//! A permit is a row, and rows are counted. A request whose objects cannot be looked at
//! leaves none, and cost as much: it is counted here, from its first look on, and taken
//! back when its permit is stored. One that is cut off stays counted.
//! Invariant: looks that came to nothing are limited like those that came to a permit.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use osmoda_types::ErrorCode;

use super::refusal::No;

/// How long a request counts, as long as a permit does for the same limit.
const COUNTED: Duration = Duration::from_secs(60);

/// Sessions with such requests at once. A host has a few; more is somebody who makes
/// names up, and is refused with the others until a minute has passed.
const SESSIONS_MAX: usize = 256;

/// Times of a session's requests, by the boot clock, oldest first.
type Times = VecDeque<Duration>;

/// The requests; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked {
    sessions: Arc<Mutex<BTreeMap<String, Times>>>,
}

impl Asked {
    /// Counts a request, if its session may make one more now; says how many it has
    /// beside this one.
    pub(super) fn begin(&self, session_id: &str, limit: u32, now: Duration) -> Result<u32, No> {
        let quota = |text: String| No::new(ErrorCode::QuotaExceeded, text);
        let mut sessions = self.lock();
        sessions.retain(|_, times| {
            times.retain(|at| now < at.saturating_add(COUNTED));
            !times.is_empty()
        });
        if sessions.len() >= SESSIONS_MAX && !sessions.contains_key(session_id) {
            return Err(quota(format!("{SESSIONS_MAX} sessions have requests that came to no permit")));
        }
        let times = sessions.entry(session_id.to_owned()).or_default();
        let others = u32::try_from(times.len()).unwrap_or(u32::MAX);
        if others >= limit {
            return Err(quota(format!("{others} requests of this session in a minute, the limit is {limit}")));
        }
        times.push_back(now);
        Ok(others)
    }

    /// Takes a request back that was begun at that time: its permit counts now, or
    /// nothing was looked at.
    pub(super) fn end(&self, session_id: &str, begun: Duration) {
        let mut sessions = self.lock();
        let Some(times) = sessions.get_mut(session_id) else { return };
        if let Some(position) = times.iter().position(|at| *at == begun) {
            times.remove(position);
        }
        if times.is_empty() {
            sessions.remove(session_id);
        }
    }

    /// Held for a change of a map, never across an await or I/O.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Times>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_session_has_so_many_in_a_minute_and_others_have_their_own() {
        let asked = Asked::default();
        assert_eq!(asked.begin("a", 2, at(1)), Ok(0));
        assert_eq!(asked.begin("a", 2, at(2)), Ok(1));
        assert_eq!(asked.begin("a", 2, at(3)).unwrap_err().code, ErrorCode::QuotaExceeded);
        assert_eq!(asked.begin("b", 2, at(3)), Ok(0));
        asked.end("a", at(2));
        assert_eq!(asked.begin("a", 2, at(4)), Ok(1));
        assert_eq!(asked.begin("a", 2, at(60)).unwrap_err().code, ErrorCode::QuotaExceeded);
        assert_eq!(asked.begin("a", 2, at(61)), Ok(1), "a minute after the first");
        assert_eq!(asked.begin("a", 0, at(500)).unwrap_err().code, ErrorCode::QuotaExceeded, "a policy of none");
    }

    #[test]
    fn names_that_are_made_up_are_no_way_around() {
        let asked = Asked::default();
        for n in 0..SESSIONS_MAX {
            asked.begin(&format!("s-{n}"), 10, at(1)).unwrap();
        }
        assert_eq!(asked.begin("one-more", 10, at(2)).unwrap_err().code, ErrorCode::QuotaExceeded);
        assert_eq!(asked.begin("s-7", 10, at(2)), Ok(1));
        asked.end("s-0", at(1));
        assert_eq!(asked.begin("one-more", 10, at(2)), Ok(0));
        assert_eq!(asked.begin("later", 10, at(62)), Ok(0));
    }
}
