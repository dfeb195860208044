//! Restores the recorded baseline: profile, boot default, running system.
//!
//! Invariant: the target of a restore is the absolute path in the journal, and
//! success is claimed only after profile and running system were read back. A
//! restore that fails is recorded as failed; it never starts another one.

use super::{Action, Activation, GenerationStore};
use crate::HostClock;
use crate::file::{Journal, JournalError};
use crate::record::{Cause, Entry, Writer};
use crate::state::{Attempt, Phase};
use osmoda_types::{ErrorCode, StorePath};
use std::time::{Duration, Instant};

/// How often a restore is tried before it is recorded as failed. Leftovers of
/// the interrupted activation can make the first run fail; a third failure is
/// not going to be healed by a fourth run.
pub const RESTORE_TRIES: u32 = 3;

/// Between two tries: long enough for a restarting service manager to answer.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a person's activation is waited for. A rollback is more important
/// than anyone's comfort, but two activations at once leave neither system.
const LOCK_TIME_MAX: Duration = Duration::from_secs(120);

/// `switch-to-configuration` activated everything, but some unit is failed.
/// After an interrupted activation its leftover lists name units the baseline
/// does not have, so this is no failure of the restore when the baseline runs.
const EXIT_UNITS_FAILED: i32 = 4;

/// How a restore ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// `RolledBack` or `RollbackFailed`, or what another process made of it.
    pub phase: Phase,
    /// For people.
    pub detail: String,
}

/// Restores the baseline of the attempt that is rolling back, and records how
/// it went. The caller holds the guard's lock.
///
/// # Errors
/// [`JournalError`] when the journal cannot be read or the end cannot be
/// recorded; the attempt is then still rolling back.
pub fn restore(
    journal: &mut Journal,
    writer: Writer,
    clock: &HostClock,
    store: &dyn GenerationStore,
    activation: &Activation,
) -> Result<Restored, JournalError> {
    let state = journal.read()?;
    let phase = state.phase;
    let Some(attempt) = state.attempt.clone().filter(|_| phase == Phase::RollingBack) else {
        return Ok(Restored { phase, detail: "nothing to restore".to_owned() });
    };
    let mut failure = String::new();
    let mut outcome = None;
    for try_number in 1..=RESTORE_TRIES {
        match once(&attempt, store, activation) {
            Ok(detail) => {
                outcome = Some(detail);
                break;
            }
            Err(detail) => failure = format!("try {try_number}: {detail}"),
        }
        if try_number < RESTORE_TRIES {
            std::thread::sleep(PAUSE);
        }
    }
    let entry = match outcome {
        Some(detail) => Entry::RolledBack(detail),
        None => Entry::RollbackFailed(Cause::new(ErrorCode::RollbackFailed, failure)),
    };
    record_end(journal, writer, clock, &attempt, entry)
}

fn record_end(
    journal: &mut Journal,
    writer: Writer,
    clock: &HostClock,
    attempt: &Attempt,
    entry: Entry,
) -> Result<Restored, JournalError> {
    let at = clock.now().map_err(|source| JournalError::Io {
        action: "read the boot id in",
        path: clock.boot_id_file().to_owned(),
        source,
    })?;
    let state = match journal.append(writer, attempt.id, at, entry) {
        Ok(state) => state,
        // Somebody else came to the end of the same rollback first.
        Err(JournalError::Illegal(_)) => journal.read()?,
        Err(other) => return Err(other),
    };
    let detail = state.attempt.as_ref().and_then(|attempt| attempt.outcome.clone()).unwrap_or_default();
    Ok(Restored { phase: state.phase, detail })
}

fn once(attempt: &Attempt, store: &dyn GenerationStore, activation: &Activation) -> Result<String, String> {
    let baseline = &attempt.plan.baseline;
    let limit = Duration::from_millis(attempt.plan.periods.activation_ms);
    activation.stop().map_err(chain)?;
    if attempt.activating_at.is_none() && !attempt.boot_moved && is_restored(baseline, store, activation).is_ok() {
        return Ok("nothing had been activated".to_owned());
    }
    let profile_moved = store.current().map_err(chain)?.as_ref() != Some(baseline);
    if profile_moved {
        store.set(baseline).map_err(chain)?;
    }
    // The boot default first: whatever happens then, a restart helps.
    let boot = if attempt.boot_moved || profile_moved { run(activation, baseline, Action::Boot, limit) } else { Ok(0) };
    let code = run(activation, baseline, Action::Test, limit)?;
    is_restored(baseline, store, activation)?;
    if !matches!(code, 0 | EXIT_UNITS_FAILED) {
        return Err(format!("the baseline's activation ended with {code}"));
    }
    match boot? {
        0 => {}
        failed => return Err(format!("making the baseline the boot default ended with {failed}")),
    }
    Ok(format!("activation of the baseline ended with {code}"))
}

fn run(activation: &Activation, baseline: &StorePath, action: Action, limit: Duration) -> Result<i32, String> {
    let deadline = Instant::now() + LOCK_TIME_MAX;
    loop {
        match activation.run(baseline, action, limit) {
            Err(super::ActivationError::LockBusy) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            Err(error) => return Err(chain(error)),
            Ok(ended) if ended.timed_out => return Err(format!("{action:?}: {}", ended.describe())),
            Ok(ended) => return Ok(ended.code()),
        }
    }
}

fn is_restored(baseline: &StorePath, store: &dyn GenerationStore, activation: &Activation) -> Result<(), String> {
    let profile = store.current().map_err(chain)?;
    if profile.as_ref() != Some(baseline) {
        return Err(format!("the profile reads {profile:?} instead of {baseline}"));
    }
    let running = activation.running().map_err(chain)?;
    if running.as_ref() != Some(baseline) {
        return Err(format!("the host runs {running:?} instead of {baseline}"));
    }
    Ok(())
}

/// The message of an error and of everything below it.
fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
