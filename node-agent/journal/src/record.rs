//! The version-1 record: what is written before each step of an attempt.
//!
//! The format is frozen. A guard that belongs to the baseline generation has
//! to understand what a newer watch wrote: it ignores fields it does not know,
//! and a kind it does not know (or a known kind it cannot read) becomes
//! [`Entry::Unknown`], which means "this attempt cannot go on".

use crate::Moment;
use osmoda_types::{AttemptId, ErrorCode, FleetEpoch, ManifestHash, RolloutId, StorePath};
use serde_json::Value;

/// The version of every record this program writes.
pub const RECORD_VERSION: u64 = 1;

/// Who wrote a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Writer {
    /// The daemon.
    Watch,
    /// The dead-man; it may write only [`Kind::GUARD_MAY_WRITE`].
    Guard,
    /// A writer of a later version.
    #[serde(other)]
    Other,
}

/// Who may accept an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The Raft group: a committed grant began it, a committed accept ends it.
    Fleet,
    /// The local administrator, through the reference `/switch/*` endpoints.
    Local,
}

/// The periods of one attempt, from the signed manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Periods {
    /// How long all checks must pass without a break.
    pub healthy_ms: u64,
    /// From the end of the activation to the moment the host must be ready.
    pub check_deadline_ms: u64,
    /// The longest silence of the quorum; `None` where no quorum is involved.
    pub dead_man_ms: Option<u64>,
    /// The longest activation, also used for each step of a rollback.
    pub activation_ms: u64,
    /// How long a ready attempt waits for its acceptance; `None` leaves that
    /// to the dead-man.
    pub accept_ms: Option<u64>,
}

/// All that is needed to carry an attempt through or to undo it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Plan {
    /// The fleet epoch of the grant.
    pub epoch: FleetEpoch,
    /// Who may accept.
    pub origin: Origin,
    /// The rollout, for a fleet attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutId>,
    /// The manifest, for a fleet attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<ManifestHash>,
    /// The id of the reference switch session, for a local attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The toplevel to move to.
    pub target: StorePath,
    /// The toplevel to return to. Absolute, and recorded before any change (I8).
    pub baseline: StorePath,
    /// Periods.
    pub periods: Periods,
    /// Quorum round trips required after the activation (I7).
    pub contacts_required: u32,
    /// The health checks, as the watch daemon understands them.
    #[serde(default)]
    pub checks: Vec<Value>,
    /// The change has been made by somebody else already, and shall only be
    /// undone, for this reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Cause>,
}

/// Why an attempt did not go on.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Cause {
    /// The code that is reported to the fleet.
    pub code: ErrorCode,
    /// For people.
    #[serde(default)]
    pub detail: String,
}

impl Cause {
    /// A cause with its explanation, cut to 2000 characters so that a record stays small.
    #[must_use]
    pub fn new(code: ErrorCode, detail: impl AsRef<str>) -> Self {
        Self { code, detail: detail.as_ref().chars().take(2000).collect() }
    }
}

/// What a rotated journal carries over from the file before it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Head {
    /// The checksum of the last record of the previous file.
    pub previous: String,
    /// The highest (epoch, attempt) ever granted (I3).
    #[serde(default)]
    pub highest: Option<(FleetEpoch, AttemptId)>,
    /// The kind that ended the last attempt, and its plan.
    #[serde(default)]
    pub last: Option<(Kind, AttemptId, Plan)>,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// The kind of a record.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Kind { $($(#[$doc])* $name,)* }
        impl Kind {
            /// Every kind that an attempt can meet; the crash test walks this list.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];
            /// The stable text.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Kind::$name => $text,)* }
            }
        }
    };
}

kinds! {
    /// A grant arrived; nothing has changed yet.
    Granted = "granted";
    /// The attempt ended before anything changed.
    Deferred = "deferred";
    /// The guard stands by.
    Armed = "armed";
    /// The activation is about to run.
    Activating = "activating";
    /// The activation ended; the host is being watched.
    Probation = "probation";
    /// A round trip to the quorum succeeded.
    Contact = "contact";
    /// The checks have passed for long enough; acceptance may come once the
    /// quorum has been heard.
    Ready = "ready";
    /// The attempt was accepted; the guard stands down.
    Accepted = "accepted";
    /// Profile and boot default are about to move.
    Committing = "committing";
    /// Profile and boot default were read back as the target.
    Committed = "committed";
    /// The baseline is about to be restored. Absorbing: nothing but the end of
    /// the rollback can follow.
    RollingBack = "rolling_back";
    /// An accepted target is about to be left for its own recorded baseline.
    Reverting = "reverting";
    /// The host runs and boots its baseline.
    RolledBack = "rolled_back";
    /// The baseline could not be restored.
    RollbackFailed = "rollback_failed";
    /// After a failed rollback and a restart the host is on neither side.
    Quarantined = "quarantined";
}

impl Kind {
    /// The only kinds a guard may write.
    pub const GUARD_MAY_WRITE: &'static [Kind] = &[Kind::RollingBack, Kind::RolledBack, Kind::RollbackFailed];
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a record says.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// First record of a rotated file.
    Head(Box<Head>),
    /// See [`Kind::Granted`].
    Granted(Box<Plan>),
    /// See [`Kind::Deferred`].
    Deferred(Cause),
    /// See [`Kind::Armed`]; carries the guard's process id and the numbers of
    /// the checks that already failed on the baseline.
    Armed {
        /// Process id of the guard.
        guard_pid: u32,
        /// Positions in [`Plan::checks`] of checks that failed before the change.
        failing_before: Vec<u32>,
        /// Units that were failed before the change.
        failed_units: Vec<String>,
    },
    /// See [`Kind::Activating`].
    Activating,
    /// See [`Kind::Probation`]; the exit code is absent when the activation
    /// outlived the daemon that started it.
    Probation {
        /// Exit code of the activation.
        exit: Option<i32>,
    },
    /// See [`Kind::Contact`].
    Contact {
        /// Log index the leader had committed.
        index: u64,
        /// The leader, as it calls itself.
        leader: String,
    },
    /// See [`Kind::Ready`].
    Ready,
    /// See [`Kind::Accepted`].
    Accepted,
    /// See [`Kind::Committing`].
    Committing,
    /// See [`Kind::Committed`].
    Committed,
    /// See [`Kind::RollingBack`].
    RollingBack(Cause),
    /// See [`Kind::Reverting`].
    Reverting(Cause),
    /// See [`Kind::RolledBack`]; says how it went.
    RolledBack(String),
    /// See [`Kind::RollbackFailed`].
    RollbackFailed(Cause),
    /// See [`Kind::Quarantined`]; says what the host runs.
    Quarantined(String),
    /// A record of a later version.
    Unknown {
        /// Its kind, as written.
        kind: String,
    },
}

impl Entry {
    /// The kind, for entries an attempt can meet.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        Some(match self {
            Entry::Head(_) | Entry::Unknown { .. } => return None,
            Entry::Granted(_) => Kind::Granted,
            Entry::Deferred(_) => Kind::Deferred,
            Entry::Armed { .. } => Kind::Armed,
            Entry::Activating => Kind::Activating,
            Entry::Probation { .. } => Kind::Probation,
            Entry::Contact { .. } => Kind::Contact,
            Entry::Ready => Kind::Ready,
            Entry::Accepted => Kind::Accepted,
            Entry::Committing => Kind::Committing,
            Entry::Committed => Kind::Committed,
            Entry::RollingBack(_) => Kind::RollingBack,
            Entry::Reverting(_) => Kind::Reverting,
            Entry::RolledBack(_) => Kind::RolledBack,
            Entry::RollbackFailed(_) => Kind::RollbackFailed,
            Entry::Quarantined(_) => Kind::Quarantined,
        })
    }

    fn kind_text(&self) -> &str {
        match self {
            Entry::Head(_) => "head",
            Entry::Unknown { kind } => kind,
            known => known.kind().map_or("unknown", Kind::as_str),
        }
    }

    fn data(&self) -> Result<Value, serde_json::Error> {
        Ok(match self {
            Entry::Head(head) => serde_json::to_value(head)?,
            Entry::Granted(plan) => serde_json::to_value(plan)?,
            Entry::Deferred(cause)
            | Entry::RollingBack(cause)
            | Entry::Reverting(cause)
            | Entry::RollbackFailed(cause) => serde_json::to_value(cause)?,
            Entry::Armed { guard_pid, failing_before, failed_units } => serde_json::json!({
                "guard_pid": guard_pid,
                "failing_before": failing_before,
                "failed_units": failed_units,
            }),
            Entry::Probation { exit } => serde_json::json!({ "exit": exit }),
            Entry::Contact { index, leader } => serde_json::json!({ "index": index, "leader": leader }),
            Entry::RolledBack(detail) | Entry::Quarantined(detail) => serde_json::json!({ "detail": detail }),
            Entry::Activating
            | Entry::Ready
            | Entry::Accepted
            | Entry::Committing
            | Entry::Committed
            | Entry::Unknown { .. } => Value::Object(serde_json::Map::new()),
        })
    }

    /// Reads an entry; whatever does not fit becomes [`Entry::Unknown`].
    fn read(version: u64, kind: &str, data: Value) -> Entry {
        let unknown = || Entry::Unknown { kind: kind.chars().take(80).collect() };
        if version != RECORD_VERSION {
            return unknown();
        }
        Self::read_known(kind, data).unwrap_or_else(unknown)
    }

    fn read_known(kind: &str, data: Value) -> Option<Entry> {
        fn parse<T: serde::de::DeserializeOwned>(data: Value) -> Option<T> {
            serde_json::from_value(data).ok()
        }
        let text = |data: &Value| data.get("detail").and_then(Value::as_str).unwrap_or_default().to_owned();
        if kind == "head" {
            return parse(data).map(|head| Entry::Head(Box::new(head)));
        }
        Some(match Kind::ALL.iter().find(|known| known.as_str() == kind)? {
            Kind::Granted => Entry::Granted(Box::new(parse(data)?)),
            Kind::Deferred => Entry::Deferred(parse(data)?),
            Kind::Armed => {
                let guard_pid = u32::try_from(data.get("guard_pid")?.as_u64()?).ok()?;
                let failing_before = data.get("failing_before").cloned().and_then(parse).unwrap_or_default();
                let failed_units = data.get("failed_units").cloned().and_then(parse).unwrap_or_default();
                Entry::Armed { guard_pid, failing_before, failed_units }
            }
            Kind::Activating => Entry::Activating,
            Kind::Probation => {
                let exit = data.get("exit").and_then(Value::as_i64).and_then(|code| i32::try_from(code).ok());
                Entry::Probation { exit }
            }
            Kind::Contact => Entry::Contact {
                index: data.get("index")?.as_u64()?,
                leader: data.get("leader").and_then(Value::as_str).unwrap_or_default().to_owned(),
            },
            Kind::Ready => Entry::Ready,
            Kind::Accepted => Entry::Accepted,
            Kind::Committing => Entry::Committing,
            Kind::Committed => Entry::Committed,
            Kind::RollingBack => Entry::RollingBack(parse(data)?),
            Kind::Reverting => Entry::Reverting(parse(data)?),
            Kind::RolledBack => Entry::RolledBack(text(&data)),
            Kind::RollbackFailed => Entry::RollbackFailed(parse(data)?),
            Kind::Quarantined => Entry::Quarantined(text(&data)),
        })
    }
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The attempt it belongs to.
    pub attempt: AttemptId,
    /// When it was written.
    pub at: Moment,
    /// By whom.
    pub writer: Writer,
    /// What it says.
    pub entry: Entry,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Wire {
    v: u64,
    kind: String,
    attempt: AttemptId,
    at: Moment,
    writer: Writer,
    #[serde(default)]
    data: Value,
}

impl Record {
    /// The JSON body, on one line.
    pub(crate) fn encode(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(&Wire {
            v: RECORD_VERSION,
            kind: self.entry.kind_text().to_owned(),
            attempt: self.attempt,
            at: self.at.clone(),
            writer: self.writer,
            data: self.entry.data()?,
        })
    }

    /// Reads a body whose checksum has been verified.
    pub(crate) fn decode(body: &str) -> Result<Record, serde_json::Error> {
        let wire: Wire = serde_json::from_str(body)?;
        let entry = Entry::read(wire.v, &wire.kind, wire.data);
        Ok(Record { attempt: wire.attempt, at: wire.at, writer: wire.writer, entry })
    }
}
