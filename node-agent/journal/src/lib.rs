//! The frozen SafeSwitch journal and what acts on it: which record may follow
//! which, the file itself, and the two things a record leads to, moving a
//! generation and restoring one.
//!
//! The daemon and the guard share this crate, and only this crate: it has no
//! async runtime, no network and no D-Bus, so the guard works when everything
//! else on the host is broken.

/// The name of the journal in watch's state folder.
pub const JOURNAL_FILE: &str = "journal";

/// The name of the guard's lock in watch's state folder.
pub const LOCK_FILE: &str = "guard.lock";

/// The file in watch's state folder that says why a guard gave up.
pub const ALARM_FILE: &str = "guard.alarm";

mod file;
mod frame;
pub mod generation;
mod lock;
mod moment;
mod record;
mod state;

pub use file::{Journal, JournalError, Observer};
pub use frame::Damage;
pub use lock::{GuardLock, Holder};
pub use moment::{BOOT_ID_FILE, HostClock, Moment};
pub use record::{Cause, Entry, Head, Kind, Origin, Periods, Plan, RECORD_VERSION, Record, Writer};
pub use state::{Arrow, Attempt, Illegal, Phase, State, arrows};
