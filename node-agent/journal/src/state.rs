//! Which record may follow which: the one place that decides it. *Pure.*
//!
//! Invariant: once an attempt is rolling back, no record but the end of that
//! rollback is accepted, whoever writes it. The boot default may only move
//! after `Accepted`, and only `Reverting` leads back from there.

use crate::Moment;
use crate::record::{Cause, Entry, Head, Kind, Plan, Record, Writer};
use osmoda_types::{AttemptId, FleetEpoch};

/// Where a host stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// No attempt was ever made.
    Idle,
    /// A grant is recorded, nothing has changed.
    Granted,
    /// The last attempt ended before anything changed.
    Deferred,
    /// The guard stands by.
    Armed,
    /// The activation may be running.
    Activating,
    /// The target runs and is being watched.
    Probation,
    /// The target has proven itself and waits for acceptance.
    Ready,
    /// Accepted; the boot default has not moved yet.
    Accepted,
    /// The boot default is moving.
    Committing,
    /// The target is what the host runs and boots.
    Committed,
    /// The baseline is being restored.
    RollingBack,
    /// The baseline is what the host runs and boots.
    RolledBack,
    /// The baseline could not be restored.
    RollbackFailed,
    /// A person has to look.
    Quarantined,
}

impl Phase {
    /// Every phase.
    pub const ALL: &'static [Phase] = &[
        Phase::Idle,
        Phase::Granted,
        Phase::Deferred,
        Phase::Armed,
        Phase::Activating,
        Phase::Probation,
        Phase::Ready,
        Phase::Accepted,
        Phase::Committing,
        Phase::Committed,
        Phase::RollingBack,
        Phase::RolledBack,
        Phase::RollbackFailed,
        Phase::Quarantined,
    ];

    /// No attempt is under way; a grant may come.
    #[must_use]
    pub fn is_resting(self) -> bool {
        matches!(self, Phase::Idle | Phase::Deferred | Phase::Committed | Phase::RolledBack | Phase::Quarantined)
    }

    /// The guard is responsible: from Armed to Ready.
    #[must_use]
    pub fn is_guarded(self) -> bool {
        matches!(self, Phase::Armed | Phase::Activating | Phase::Probation | Phase::Ready)
    }

    /// The phase after a record of `kind`, or `None` where that is not legal.
    #[must_use]
    pub fn after(self, kind: Kind) -> Option<Phase> {
        use Phase as P;
        Some(match (self, kind) {
            (from, Kind::Granted) if from.is_resting() => P::Granted,
            (P::Granted, Kind::Deferred) => P::Deferred,
            (P::Granted, Kind::Armed) => P::Armed,
            (P::Armed, Kind::Activating) => P::Activating,
            (P::Activating, Kind::Probation) => P::Probation,
            (P::Probation, Kind::Ready) => P::Ready,
            (from, Kind::Contact) if from.is_guarded() => from,
            (P::Ready, Kind::Accepted) => P::Accepted,
            (P::Accepted, Kind::Committing) => P::Committing,
            (P::Committing, Kind::Committed) => P::Committed,
            (from, Kind::RollingBack) if from.is_guarded() => P::RollingBack,
            (P::Accepted | P::Committing | P::Committed, Kind::Reverting) => P::RollingBack,
            (P::RollingBack | P::RollbackFailed, Kind::RolledBack) => P::RolledBack,
            (P::RollingBack, Kind::RollbackFailed) => P::RollbackFailed,
            (P::RollbackFailed, Kind::Quarantined) => P::Quarantined,
            _ => return None,
        })
    }

    /// The stable text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::Idle => "idle",
            Phase::Granted => "granted",
            Phase::Deferred => "deferred",
            Phase::Armed => "armed",
            Phase::Activating => "activating",
            Phase::Probation => "probation",
            Phase::Ready => "ready",
            Phase::Accepted => "accepted",
            Phase::Committing => "committing",
            Phase::Committed => "committed",
            Phase::RollingBack => "rolling_back",
            Phase::RolledBack => "rolled_back",
            Phase::RollbackFailed => "rollback_failed",
            Phase::Quarantined => "quarantined",
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One legal step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Arrow {
    /// Before.
    pub from: Phase,
    /// The record.
    pub kind: Kind,
    /// After.
    pub to: Phase,
}

impl std::fmt::Display for Arrow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} --{}--> {}", self.from, self.kind, self.to)
    }
}

/// Every legal step, derived from the rules themselves, so that a test which
/// walks this list cannot miss one that was added.
#[must_use]
pub fn arrows() -> Vec<Arrow> {
    let pairs = Phase::ALL.iter().flat_map(|from| Kind::ALL.iter().map(move |kind| (*from, *kind)));
    pairs.filter_map(|(from, kind)| from.after(kind).map(|to| Arrow { from, kind, to })).collect()
}

/// What the journal knows about the present, or else the last, attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// Its id.
    pub id: AttemptId,
    /// Its plan.
    pub plan: Plan,
    /// Checks that failed before anything was changed.
    pub failing_before: Vec<u32>,
    /// Units that were failed before anything was changed.
    pub failed_units: Vec<String>,
    /// When the guard was armed.
    pub armed_at: Option<Moment>,
    /// When the activation began.
    pub activating_at: Option<Moment>,
    /// When the activation had ended.
    pub probation_at: Option<Moment>,
    /// When the host was ready.
    pub ready_at: Option<Moment>,
    /// The last round trip to the quorum.
    pub contact_at: Option<Moment>,
    /// Round trips since the activation ended.
    pub contacts_after: u32,
    /// The exit code of the activation, where known.
    pub exit: Option<i32>,
    /// The profile or the boot default may have moved.
    pub boot_moved: bool,
    /// Why it was deferred, rolled back or reverted.
    pub cause: Option<Cause>,
    /// How the rollback ended.
    pub outcome: Option<String>,
}

impl Attempt {
    fn new(id: AttemptId, plan: Plan) -> Self {
        Self {
            id,
            plan,
            failing_before: Vec::new(),
            failed_units: Vec::new(),
            armed_at: None,
            activating_at: None,
            probation_at: None,
            ready_at: None,
            contact_at: None,
            contacts_after: 0,
            exit: None,
            boot_moved: false,
            cause: None,
            outcome: None,
        }
    }
}

/// Why a record was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    /// The rules know no such step.
    #[error("{kind} may not follow {from}")]
    Step {
        /// Where the host stands.
        from: Phase,
        /// The record that was to follow.
        kind: &'static str,
    },
    /// The record belongs to another attempt than the one under way.
    #[error("the record is for attempt {got}, but {current} is under way")]
    Attempt {
        /// The attempt of the record.
        got: AttemptId,
        /// The attempt under way.
        current: AttemptId,
    },
    /// The grant is not newer than one already recorded (I3).
    #[error("grant {got} of epoch {epoch} is not newer than {highest} of epoch {highest_epoch}")]
    Stale {
        /// The attempt of the grant.
        got: AttemptId,
        /// The epoch of the grant.
        epoch: FleetEpoch,
        /// The highest attempt recorded.
        highest: AttemptId,
        /// Its epoch.
        highest_epoch: FleetEpoch,
    },
    /// The quorum has not been heard often enough since the activation (I7).
    #[error("{had} of {required} round trips to the quorum since the activation")]
    Contacts {
        /// Round trips so far.
        had: u32,
        /// Round trips that are needed.
        required: u32,
    },
    /// The guard may write rollback records only.
    #[error("the guard may not write {0}")]
    Writer(&'static str),
    /// The journal holds a record this version cannot read; the attempt can only be undone.
    #[error("the attempt holds a record of a later version ({0}) and can only be undone")]
    Unreadable(String),
}

/// The host's state, folded from its records.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Where the host stands.
    pub phase: Phase,
    /// The present or last attempt.
    pub attempt: Option<Attempt>,
    /// The highest (epoch, attempt) ever granted.
    pub highest: Option<(FleetEpoch, AttemptId)>,
    /// The kind of a record of this attempt that could not be read.
    pub unreadable: Option<String>,
    /// When the last record was written.
    pub last_at: Option<Moment>,
}

impl Default for State {
    fn default() -> Self {
        Self { phase: Phase::Idle, attempt: None, highest: None, unreadable: None, last_at: None }
    }
}

impl State {
    /// The state after `record`. Total: refuses rather than guesses.
    ///
    /// # Errors
    /// [`Illegal`] when the record may not follow.
    pub fn next(&self, record: &Record) -> Result<State, Illegal> {
        let mut next = self.clone();
        next.last_at = Some(record.at.clone());
        let kind = match &record.entry {
            Entry::Head(head) => return self.carry_over(head, next),
            Entry::Unknown { kind } => {
                if !self.phase.is_resting() {
                    next.unreadable = Some(kind.clone());
                }
                return Ok(next);
            }
            known => known.kind().ok_or(Illegal::Step { from: self.phase, kind: "unknown" })?,
        };
        if record.writer == Writer::Guard && !Kind::GUARD_MAY_WRITE.contains(&kind) {
            return Err(Illegal::Writer(kind.as_str()));
        }
        next.phase = self.phase.after(kind).ok_or(Illegal::Step { from: self.phase, kind: kind.as_str() })?;
        if kind != Kind::Granted {
            self.check_attempt(record.attempt, kind)?;
        }
        next.take(record)?;
        Ok(next)
    }

    fn check_attempt(&self, got: AttemptId, kind: Kind) -> Result<(), Illegal> {
        let current = self.attempt.as_ref().map_or(AttemptId(0), |attempt| attempt.id);
        if got != current {
            return Err(Illegal::Attempt { got, current });
        }
        let undoes = matches!(
            kind,
            Kind::Deferred
                | Kind::RollingBack
                | Kind::Reverting
                | Kind::RolledBack
                | Kind::RollbackFailed
                | Kind::Quarantined
        );
        match &self.unreadable {
            Some(unread) if !undoes => Err(Illegal::Unreadable(unread.clone())),
            _ => Ok(()),
        }
    }

    fn carry_over(&self, head: &Head, mut next: State) -> Result<State, Illegal> {
        if *self != State::default() {
            return Err(Illegal::Step { from: self.phase, kind: "head" });
        }
        next.highest = head.highest;
        if let Some((kind, id, plan)) = &head.last {
            next.phase = match kind {
                Kind::Deferred => Phase::Deferred,
                Kind::Committed => Phase::Committed,
                Kind::RolledBack => Phase::RolledBack,
                Kind::Quarantined => Phase::Quarantined,
                _ => return Err(Illegal::Step { from: self.phase, kind: kind.as_str() }),
            };
            let mut attempt = Attempt::new(*id, plan.clone());
            attempt.boot_moved = *kind == Kind::Committed;
            next.attempt = Some(attempt);
        }
        Ok(next)
    }

    /// What a rotated file must carry over; `None` while an attempt is under way.
    #[must_use]
    pub(crate) fn head(&self, previous: String) -> Option<Head> {
        let kind = match self.phase {
            Phase::Idle => None,
            Phase::Deferred => Some(Kind::Deferred),
            Phase::Committed => Some(Kind::Committed),
            Phase::RolledBack => Some(Kind::RolledBack),
            Phase::Quarantined => Some(Kind::Quarantined),
            _ => return None,
        };
        let last = kind.zip(self.attempt.as_ref()).map(|(kind, attempt)| (kind, attempt.id, attempt.plan.clone()));
        Some(Head { previous, highest: self.highest, last })
    }

    /// Stores what the record says; the step itself has been found legal.
    fn take(&mut self, record: &Record) -> Result<(), Illegal> {
        if let Entry::Granted(plan) = &record.entry {
            return self.take_grant(record.attempt, plan);
        }
        let Some(attempt) = self.attempt.as_mut() else { return Ok(()) };
        let at = Some(record.at.clone());
        match &record.entry {
            Entry::Armed { failing_before, failed_units, .. } => {
                attempt.failing_before.clone_from(failing_before);
                attempt.failed_units.clone_from(failed_units);
                attempt.armed_at = at;
            }
            Entry::Activating => attempt.activating_at = at,
            Entry::Probation { exit } => {
                attempt.exit = *exit;
                attempt.probation_at = at;
            }
            Entry::Contact { .. } => {
                attempt.contact_at = at;
                attempt.contacts_after += u32::from(attempt.probation_at.is_some());
            }
            Entry::Ready => attempt.ready_at = at,
            Entry::Accepted if attempt.contacts_after < attempt.plan.contacts_required => {
                let (had, required) = (attempt.contacts_after, attempt.plan.contacts_required);
                return Err(Illegal::Contacts { had, required });
            }
            Entry::Committing => attempt.boot_moved = true,
            Entry::Deferred(cause) | Entry::RollingBack(cause) | Entry::Reverting(cause) => {
                attempt.cause = Some(cause.clone());
            }
            Entry::RollbackFailed(cause) => attempt.outcome = Some(cause.detail.clone()),
            Entry::RolledBack(detail) | Entry::Quarantined(detail) => attempt.outcome = Some(detail.clone()),
            _ => {}
        }
        Ok(())
    }

    fn take_grant(&mut self, id: AttemptId, plan: &Plan) -> Result<(), Illegal> {
        if let Some((highest_epoch, highest)) = self.highest
            && (plan.epoch, id) <= (highest_epoch, highest)
        {
            return Err(Illegal::Stale { got: id, epoch: plan.epoch, highest, highest_epoch });
        }
        self.highest = Some((plan.epoch, id));
        self.attempt = Some(Attempt::new(id, plan.clone()));
        self.unreadable = None;
        Ok(())
    }
}
