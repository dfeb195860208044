//! The bounded queue in front of the writer, made for group commit.
//!
//! A channel would wake the writer for every job. Here the writer says how many
//! jobs it would like, and is woken once: when that many wait, or when its
//! window is over. Producers never block: a full queue is an error.
//!
//! The lock is held for a push or a swap, never across an await or I/O.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Why a job was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PushError {
    /// As many jobs wait as the queue holds.
    Full,
    /// The writer has ended or is about to.
    Closed,
}

/// The queue; shared by producers and the one consumer.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    inner: Mutex<Inner<T>>,
    ready: Condvar,
    bound: usize,
}

#[derive(Debug)]
struct Inner<T> {
    jobs: VecDeque<T>,
    /// The length at which the consumer wants to be woken; `None` while it works.
    wake_at: Option<usize>,
    is_closed: bool,
}

impl<T> Queue<T> {
    pub(crate) fn new(bound: usize) -> Self {
        let inner = Inner { jobs: VecDeque::new(), wake_at: None, is_closed: false };
        Self { inner: Mutex::new(inner), ready: Condvar::new(), bound }
    }

    /// Adds a job at the end.
    pub(crate) fn push(&self, job: T) -> Result<(), PushError> {
        self.push_within(job, self.bound)
    }

    fn push_within(&self, job: T, bound: usize) -> Result<(), PushError> {
        let mut inner = self.lock();
        if inner.is_closed {
            return Err(PushError::Closed);
        }
        if inner.jobs.len() >= bound {
            return Err(PushError::Full);
        }
        inner.jobs.push_back(job);
        if inner.wake_at.is_some_and(|wake_at| inner.jobs.len() >= wake_at) {
            inner.wake_at = None;
            self.ready.notify_one();
        }
        Ok(())
    }

    /// As [`Queue::push`], also when the queue is full: for jobs whose number is bound
    /// by something else.
    pub(crate) fn push_beyond(&self, job: T) -> Result<(), PushError> {
        self.push_within(job, usize::MAX)
    }

    /// Refuses further jobs; the consumer still gets those that wait.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.ready.notify_one();
    }

    /// Waits for a job, then up to `window` for `wanted` of them, and moves at
    /// most `max` into `batch`. Returns `false` when the queue is closed and
    /// empty. One consumer only.
    pub(crate) fn take(&self, wanted: usize, max: usize, window: Duration, batch: &mut Vec<T>) -> bool {
        let mut inner = self.lock();
        while inner.jobs.is_empty() {
            if inner.is_closed {
                return false;
            }
            inner.wake_at = Some(1);
            inner = self.ready.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        let deadline = Instant::now() + window;
        while inner.jobs.len() < wanted.min(max) && !inner.is_closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            inner.wake_at = Some(wanted.min(max));
            inner = self.ready.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        inner.wake_at = None;
        let count = inner.jobs.len().min(max);
        batch.extend(inner.jobs.drain(..count));
        true
    }

    /// The queue stays usable after a panic of another holder: every change
    /// under the lock is a single push or drain, so its state is whole.
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(queue: &Queue<u32>, wanted: usize, max: usize, window: Duration) -> Option<Vec<u32>> {
        let mut batch = Vec::new();
        queue.take(wanted, max, window, &mut batch).then_some(batch)
    }

    #[test]
    fn what_waits_is_taken_at_once_and_in_order_up_to_the_cap() {
        let queue = Queue::new(10);
        for n in 0..5 {
            queue.push(n).unwrap();
        }
        assert_eq!(take(&queue, 1, 3, Duration::ZERO), Some(vec![0, 1, 2]));
        assert_eq!(take(&queue, 1, 3, Duration::ZERO), Some(vec![3, 4]));
    }

    #[test]
    fn a_full_queue_refuses_and_a_closed_one_drains() {
        let queue = Queue::new(2);
        queue.push(1).unwrap();
        queue.push(2).unwrap();
        assert_eq!(queue.push(3), Err(PushError::Full));
        queue.close();
        assert_eq!(queue.push(3), Err(PushError::Closed));
        assert_eq!(take(&queue, 9, 9, Duration::from_secs(3600)), Some(vec![1, 2]));
        assert_eq!(take(&queue, 1, 9, Duration::ZERO), None);
    }

    #[test]
    fn the_window_ends_early_when_as_many_wait_as_are_wanted() {
        let queue = Queue::new(10);
        std::thread::scope(|scope| {
            // An hour's window: the test ends only because the third push wakes it.
            let taken = scope.spawn(|| take(&queue, 3, 9, Duration::from_secs(3600)));
            for n in 0..3 {
                queue.push(n).unwrap();
            }
            assert_eq!(taken.join().unwrap(), Some(vec![0, 1, 2]));
        });
    }

    #[test]
    fn a_window_that_passes_gives_what_there_is() {
        let queue = Queue::new(10);
        queue.push(7).unwrap();
        assert_eq!(take(&queue, 5, 9, Duration::from_millis(1)), Some(vec![7]));
    }
}
