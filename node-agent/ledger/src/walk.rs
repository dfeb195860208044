//! A walk over rows on two threads: one reads and judges, the other looks.
//!
//! The reader fills batches and hands them to the helper; when the helper has
//! enough to do, the reader looks at a batch itself. Verdicts are given on the
//! reader's thread, row by row in their order, so what [`walk`] calls need not
//! know of threads. Invariant: the same calls in the same order as without a
//! helper (test `two_threads_and_one_give_the_same_verdict`).

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, TrySendError, sync_channel};
use std::thread;

use crate::look::{Batch, Looked};
use crate::record::Row;

/// Batches that wait for the helper: one it can begin at once, and one more.
const QUEUED: usize = 2;

/// Batches between the reader and the verdict. One that the reader looked at
/// itself waits for those before it; 16 of 128 KiB are 2 MiB.
const UNDER_WAY_MAX: usize = 16;

/// How many threads look at rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Threads {
    /// The reader alone.
    One,
    /// The reader and a helper.
    #[default]
    Two,
}

/// Walks rows: `fill` adds rows to an empty batch until it is full and returns
/// whether there may be more; `each` gets every row in order.
///
/// # Errors
/// The first that `fill` or `each` returned.
pub fn walk<E>(
    threads: Threads,
    mut fill: impl FnMut(&mut Batch) -> Result<bool, E>,
    mut each: impl FnMut(&Row<'_>, &Looked) -> Result<(), E>,
) -> Result<(), E> {
    let mut batch = Batch::default();
    let mut has_more = fill(&mut batch)?;
    if has_more && threads == Threads::Two {
        return on_two(batch, fill, each);
    }
    loop {
        batch.look();
        batch.each(&mut each)?;
        if !has_more {
            return Ok(());
        }
        batch.clear();
        has_more = fill(&mut batch)?;
    }
}

fn on_two<E>(
    first: Batch,
    mut fill: impl FnMut(&mut Batch) -> Result<bool, E>,
    mut each: impl FnMut(&Row<'_>, &Looked) -> Result<(), E>,
) -> Result<(), E> {
    thread::scope(|scope| {
        let (to_helper, work) = sync_channel::<Batch>(QUEUED);
        // Room for all that the helper can have, so that it never waits for the reader.
        let (done, from_helper) = sync_channel::<Batch>(QUEUED + 1);
        let help = move || {
            for mut batch in work {
                batch.look();
                if done.send(batch).is_err() {
                    return;
                }
            }
        };
        // A machine that gives no thread gets its verdict from this one: the queue
        // is gone with the closure, and the reader looks at everything.
        let _helper = thread::Builder::new().name("ledger-look".to_owned()).spawn_scoped(scope, help);
        let mut under_way = UnderWay { batches: VecDeque::new(), from_helper, spare: Vec::new() };
        let (mut batch, mut has_more) = (first, true);
        loop {
            match to_helper.try_send(batch) {
                Ok(()) => under_way.batches.push_back(None),
                Err(TrySendError::Full(mut batch) | TrySendError::Disconnected(mut batch)) => {
                    batch.look();
                    under_way.batches.push_back(Some(batch));
                }
            }
            under_way.judge(if has_more { UNDER_WAY_MAX } else { 0 }, &mut each)?;
            if !has_more {
                return Ok(());
            }
            batch = under_way.spare.pop().unwrap_or_default();
            batch.clear();
            has_more = fill(&mut batch)?;
        }
    })
}

/// Batches that have no verdict yet, oldest first; `None` is with the helper.
struct UnderWay {
    batches: VecDeque<Option<Batch>>,
    from_helper: Receiver<Batch>,
    spare: Vec<Batch>,
}

impl UnderWay {
    /// Judges what was looked at, and waits until at most `left` batches are left.
    fn judge<E>(&mut self, left: usize, each: &mut impl FnMut(&Row<'_>, &Looked) -> Result<(), E>) -> Result<(), E> {
        while let Some(front) = self.batches.front_mut() {
            let batch = match front.take() {
                Some(batch) => Some(batch),
                None if self.batches.len() > left => {
                    Some(self.from_helper.recv().expect("the helper answers each batch unless it panicked"))
                }
                None => self.from_helper.try_recv().ok(),
            };
            let Some(batch) = batch else { return Ok(()) };
            self.batches.pop_front();
            batch.each(&mut *each)?;
            self.spare.push(batch);
        }
        Ok(())
    }
}
