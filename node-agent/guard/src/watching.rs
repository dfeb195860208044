//! The guard's life: take the lock, sign it, look at the journal, act, end.
//!
//! Invariant: the lock is held from the acknowledgement to the end, so whoever
//! finds it free knows that nobody guards. The guard writes rollback records
//! and nothing else.

use crate::options::Options;
use crate::verdict::{Verdict, judge};
use osmoda_journal::generation::{Activation, GenerationStore, NixStore, StoreKind, SymlinkStore, restore};
use osmoda_journal::{ALARM_FILE, JOURNAL_FILE, LOCK_FILE};
use osmoda_journal::{Entry, GuardLock, Holder, HostClock, Journal, JournalError, Moment, Observer, Phase, Writer};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often the journal is looked at: a tenth of the shortest delay anyone
/// cares about, and one `stat` each.
const LOOK: Duration = Duration::from_millis(100);

/// How long the lock is tried for. Whoever probes it holds it for an instant.
const LOCK_TIME_MAX: Duration = Duration::from_secs(2);

/// How long a journal that cannot be read or written is tried again before
/// the guard gives up: a full disk may be freed, a damaged file is not healed.
const JOURNAL_TIME_MAX: Duration = Duration::from_secs(60);

/// Why the guard could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Somebody else guards already.
    #[error("somebody else holds {0}")]
    Held(PathBuf),
    /// The lock file cannot be used.
    #[error("cannot lock {path}")]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The boot id cannot be read, so no time can be told.
    #[error("cannot tell the time")]
    Clock(#[source] std::io::Error),
    /// The journal cannot be read or written.
    #[error("cannot use the journal")]
    Journal(#[from] JournalError),
    /// The baseline has no program to restore it with.
    #[error("{0} is not there, so the baseline could not be restored")]
    Baseline(PathBuf),
}

/// Watches over the attempt until it needs no guard any more; returns where it
/// stands then.
///
/// # Errors
/// [`GuardError`]; for all but [`GuardError::Held`] the reason is also in [`ALARM_FILE`].
pub fn watch_over(options: &Options, observer: Option<Box<dyn Observer>>) -> Result<Phase, GuardError> {
    let ended = run(options, observer);
    if let Err(error) = &ended
        && !matches!(error, GuardError::Held(_))
    {
        raise_alarm(&options.state_dir, error);
    }
    ended
}

fn run(options: &Options, observer: Option<Box<dyn Observer>>) -> Result<Phase, GuardError> {
    let clock = HostClock::new(&options.boot_id);
    let mut journal = Journal::new(options.state_dir.join(JOURNAL_FILE));
    if let Some(observer) = observer {
        journal = journal.observed_by(observer);
    }
    let lock_path = options.state_dir.join(LOCK_FILE);
    let mut lock = take_lock(&lock_path)?;
    let began = clock.now().map_err(GuardError::Clock)?;
    check_baseline(&mut journal, options)?;
    let lock_error = |source| GuardError::Lock { path: lock_path.clone(), source };
    // From here on the daemon takes the signature for an acknowledgement.
    lock.sign(&Holder { pid: std::process::id(), attempt: options.attempt }).map_err(lock_error)?;
    let guarding = Guarding { options, clock, began, store: store_of(options), activation: activation_of(options) };
    let ended = guarding.to_the_end(&mut journal);
    drop(lock);
    ended
}

fn take_lock(path: &Path) -> Result<GuardLock, GuardError> {
    let deadline = Instant::now() + LOCK_TIME_MAX;
    loop {
        let lock = GuardLock::try_take(path).map_err(|source| GuardError::Lock { path: path.to_owned(), source })?;
        match lock {
            Some(lock) => return Ok(lock),
            None if Instant::now() >= deadline => return Err(GuardError::Held(path.to_owned())),
            None => std::thread::sleep(LOOK),
        }
    }
}

/// A guard that could not restore must not let the attempt begin.
fn check_baseline(journal: &mut Journal, options: &Options) -> Result<(), GuardError> {
    let state = journal.read()?;
    let Some(attempt) = state.attempt.as_ref().filter(|attempt| attempt.id == options.attempt) else {
        return Ok(());
    };
    let program = attempt.plan.baseline.as_path().join("bin/switch-to-configuration");
    if program.is_file() { Ok(()) } else { Err(GuardError::Baseline(program)) }
}

fn store_of(options: &Options) -> Box<dyn GenerationStore> {
    match options.store {
        StoreKind::Symlink => Box::new(SymlinkStore::new(&options.profile)),
        // The guard only ever sets a baseline that was running before, so it
        // has no signatures to ask for.
        StoreKind::Nix => Box::new(NixStore::new(&options.profile, options.state_dir.join("guard-nix.log"), false)),
    }
}

fn activation_of(options: &Options) -> Activation {
    Activation::new(&options.host_root, &options.state_dir, options.runner)
}

struct Guarding<'a> {
    options: &'a Options,
    clock: HostClock,
    began: Moment,
    store: Box<dyn GenerationStore>,
    activation: Activation,
}

impl Guarding<'_> {
    fn to_the_end(&self, journal: &mut Journal) -> Result<Phase, GuardError> {
        let mut failing_since: Option<Instant> = None;
        loop {
            match self.step(journal) {
                Ok(Some(phase)) => return Ok(phase),
                Ok(None) => failing_since = None,
                // A damaged journal cannot say what to restore: the host stays
                // on what it runs, and a person is called.
                Err(error @ GuardError::Journal(JournalError::Corrupt { .. } | JournalError::Impossible { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    if failing_since.get_or_insert_with(Instant::now).elapsed() > JOURNAL_TIME_MAX {
                        return Err(error);
                    }
                }
            }
            std::thread::sleep(LOOK);
        }
    }

    /// One look; `Some` when there is nothing left to guard.
    fn step(&self, journal: &mut Journal) -> Result<Option<Phase>, GuardError> {
        let now = self.clock.now().map_err(GuardError::Clock)?;
        let state = journal.read()?;
        let phase = state.phase;
        match judge(state, self.options.attempt, &self.began, &now) {
            Verdict::Wait => Ok(None),
            Verdict::Done => Ok(Some(phase)),
            Verdict::Restore => self.restore(journal).map(Some),
            Verdict::Fire(cause) => {
                match journal.append(Writer::Guard, self.options.attempt, now, Entry::RollingBack(cause)) {
                    Ok(_) => self.restore(journal).map(Some),
                    // The daemon wrote something in between; look again.
                    Err(JournalError::Illegal(_)) => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    fn restore(&self, journal: &mut Journal) -> Result<Phase, GuardError> {
        let restored = restore(journal, Writer::Guard, &self.clock, self.store.as_ref(), &self.activation)?;
        Ok(restored.phase)
    }
}

/// Best effort by nature: this is the path on which writing fails.
fn raise_alarm(folder: &Path, error: &GuardError) {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text.push('\n');
    if std::fs::write(folder.join(ALARM_FILE), text).is_err() {
        // The exit code is all that is left to say it with.
    }
}
