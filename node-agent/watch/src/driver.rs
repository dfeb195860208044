//! Carries the present attempt forward, one journal record at a time.
//!
//! Invariant: all that decides is in the journal; the driver keeps nothing it
//! could not lose. It may be killed between any two lines and, started again,
//! goes on from the last record, or restores the baseline where nobody has
//! guarded in between.

use crate::checks::Checker;
use crate::host::{Host, detached};
use crate::probe::{Probe, Verdict};
use crate::records::Records;
use crate::telling::{about, because, ended};
use crate::trail::{Act, Trail};
use osmoda_journal::generation::restore;
use osmoda_journal::{Attempt, Cause, Entry, GuardLock, JournalError, Phase, State, Writer};
use osmoda_kit::error::{ApiError, chain};
use osmoda_types::{ErrorCode, HealthCheck};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long until something that failed is tried again: a ledger that is away,
/// a journal that cannot be read, a rollback somebody else is at.
const RETRY: Duration = Duration::from_secs(1);

/// Between two looks at a guard that is restoring.
const GUARD_LOOK: Duration = Duration::from_millis(100);

/// When to take the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// At once.
    Now,
    /// After a while, or when the journal changes.
    After(Duration),
    /// When the journal changes.
    OnChange,
}

/// The driver of one host.
pub(crate) struct Driver {
    pub(crate) host: Arc<Host>,
    pub(crate) records: Records,
    pub(crate) checker: Checker,
    pub(crate) trail: Trail,
    pub(crate) probe: Probe,
    pub(crate) alarm: tokio::sync::watch::Sender<Option<String>>,
}

impl Driver {
    /// Runs until the stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let next = tokio::select! {
                biased;
                // Cancel-safe: a token's state is not consumed.
                () = stop.cancelled() => return,
                // Dropping a step is what a crash does to it, and every point
                // of it can take a crash: the journal says where to go on.
                next = self.step() => next,
            };
            let pause = async {
                match next {
                    Next::Now => {}
                    Next::After(pause) => {
                        tokio::time::timeout(pause, self.records.changed()).await.unwrap_or_default();
                    }
                    Next::OnChange => self.records.changed().await,
                }
            };
            tokio::select! {
                biased;
                // Cancel-safe, as above.
                () = stop.cancelled() => return,
                // Cancel-safe: a notification that is dropped leads to one look too many.
                () = pause => {}
            }
        }
    }

    async fn step(&mut self) -> Next {
        match self.try_step().await {
            Ok(next) => {
                self.alarm.send_if_modified(|alarm| alarm.take().is_some());
                next
            }
            // The journal moved on while this step was thinking; look again, but
            // not in a hot loop should it not have moved after all.
            Err(error) if matches!(error.code, ErrorCode::JournalIllegal | ErrorCode::AttemptConflict) => {
                Next::After(GUARD_LOOK)
            }
            Err(error) => {
                let text = chain(&error);
                if self.alarm.borrow().as_deref() != Some(&text) {
                    tracing::error!(code = %error.code, error = text, "the attempt cannot go on");
                    self.alarm.send_replace(Some(text));
                }
                Next::After(RETRY)
            }
        }
    }

    async fn try_step(&mut self) -> Result<Next, ApiError> {
        let state = self.records.state().await?;
        self.close_earlier(&state).await?;
        let Some(attempt) = state.attempt.clone() else { return Ok(self.rest().await) };
        if state.phase.is_guarded()
            && let Some(cause) = self.unguarded(&state, &attempt)?
        {
            return self.append(&attempt, Entry::RollingBack(cause)).await;
        }
        match state.phase {
            Phase::Granted => self.arm(&state, &attempt).await,
            Phase::Armed => self.activate(&attempt).await,
            Phase::Activating => self.rejoin(&attempt).await,
            Phase::Probation | Phase::Ready => self.watch_over(&state, &attempt).await,
            Phase::Accepted | Phase::Committing => self.commit(&state, &attempt).await,
            Phase::RollingBack => self.restore(&state, &attempt).await,
            Phase::RollbackFailed => self.after_failed_rollback(&state, &attempt).await,
            Phase::Idle | Phase::Deferred | Phase::Committed | Phase::RolledBack | Phase::Quarantined => {
                self.finish(&state, &attempt).await
            }
        }
    }

    async fn append(&self, attempt: &Attempt, entry: Entry) -> Result<Next, ApiError> {
        self.records.append(attempt.id, entry).await.map(|_| Next::Now)
    }

    /// Why an attempt that should be guarded is not safe any more.
    fn unguarded(&self, state: &State, attempt: &Attempt) -> Result<Option<Cause>, ApiError> {
        if let Some(kind) = &state.unreadable {
            let text = format!("the journal holds a record of a later version: {kind}");
            return Ok(Some(Cause::new(ErrorCode::GuardFired, text)));
        }
        if self.restarted(state)? {
            return Ok(Some(Cause::new(ErrorCode::GuardFired, "the host restarted during the attempt")));
        }
        match self.host.guard()? {
            Some(holder) if holder.attempt == attempt.id => Ok(None),
            _ => Ok(Some(Cause::new(ErrorCode::GuardUnavailable, "nobody guards the attempt any more"))),
        }
    }

    fn restarted(&self, state: &State) -> Result<bool, ApiError> {
        let now = self.records.now()?;
        Ok(state.last_at.as_ref().is_some_and(|last| last.boot_id != now.boot_id))
    }

    async fn arm(&mut self, state: &State, attempt: &Attempt) -> Result<Next, ApiError> {
        if let Some(cause) = self.too_late(state, attempt)? {
            return self.append(attempt, Entry::Deferred(cause)).await;
        }
        let armed = match &attempt.plan.undo {
            Some(_) => self.begin_undo(attempt).await,
            None => self.begin(attempt).await,
        };
        let entry = match armed {
            Ok(entry) => entry,
            Err(cause) => return self.append(attempt, Entry::Deferred(cause)).await,
        };
        self.append(attempt, entry).await?;
        match &attempt.plan.undo {
            Some(cause) => self.append(attempt, Entry::RollingBack(cause.clone())).await,
            None => Ok(Next::Now),
        }
    }

    fn too_late(&self, state: &State, attempt: &Attempt) -> Result<Option<Cause>, ApiError> {
        if let Some(kind) = &state.unreadable {
            let text = format!("the journal holds a record of a later version: {kind}");
            return Ok(Some(Cause::new(ErrorCode::Unsupported, text)));
        }
        let now = self.records.now()?;
        let waited = state.last_at.as_ref().and_then(|granted| now.since(granted));
        let limit = attempt.plan.periods.dead_man_ms.unwrap_or(attempt.plan.periods.check_deadline_ms);
        match waited {
            Some(waited) if waited <= Duration::from_millis(limit) => Ok(None),
            _ => Ok(Some(Cause::new(ErrorCode::Timeout, "the grant is too old to act on"))),
        }
    }

    async fn begin(&mut self, attempt: &Attempt) -> Result<Entry, Cause> {
        let (host, plan) = (Arc::clone(&self.host), attempt.plan.clone());
        let preflight = detached("preflight", move || host.preflight(&plan)).await;
        let failed_units = preflight.map_err(|error| Cause::new(error.code, chain(&error)))??;
        let failing = self.checker.ask_all(&checks(attempt)?).await;
        for (position, reason) in &failing {
            tracing::warn!(attempt = attempt.id.0, position, reason, "check fails on the baseline already");
        }
        let failing_before = failing.iter().filter_map(|(position, _)| u32::try_from(*position).ok()).collect();
        let intended = self.trail.intend(attempt.id, Act::Attempt, about(attempt)).await;
        intended.map_err(|error| Cause::new(error.code, chain(&error)))?;
        let holder = self.host.start_guard(attempt.id).await?;
        Ok(Entry::Armed { guard_pid: holder.pid, failing_before, failed_units })
    }

    /// An undo needs no permission and no ledger; only the guard.
    async fn begin_undo(&mut self, attempt: &Attempt) -> Result<Entry, Cause> {
        let put = self.trail.put_intent(attempt.id, Act::Attempt, about(attempt));
        put.map_err(|error| Cause::new(error.code, chain(&error)))?;
        if let Err(error) = self.trail.deliver().await {
            tracing::warn!(code = %error.code, "the ledger is away; the rollback goes on");
        }
        let holder = self.host.start_guard(attempt.id).await?;
        Ok(Entry::Armed { guard_pid: holder.pid, failing_before: Vec::new(), failed_units: Vec::new() })
    }

    async fn activate(&mut self, attempt: &Attempt) -> Result<Next, ApiError> {
        self.append(attempt, Entry::Activating).await?;
        let (host, plan, before) = (Arc::clone(&self.host), attempt.plan.clone(), attempt.failed_units.clone());
        let (mut journal, id) = (self.records.own_handle(), attempt.id);
        let is_wanted = move || {
            let state = journal.read();
            state.is_ok_and(|state| {
                state.phase == Phase::Activating && state.attempt.as_ref().is_some_and(|attempt| attempt.id == id)
            })
        };
        let ended = detached("activation", move || host.activate(&plan, &before, is_wanted)).await?;
        self.append(attempt, after_activation(ended.map(Some))).await
    }

    async fn rejoin(&mut self, attempt: &Attempt) -> Result<Next, ApiError> {
        let (host, plan, before) = (Arc::clone(&self.host), attempt.plan.clone(), attempt.failed_units.clone());
        let ended = detached("activation", move || host.rejoin(&plan, &before)).await?;
        self.append(attempt, after_activation(ended)).await
    }

    async fn watch_over(&mut self, state: &State, attempt: &Attempt) -> Result<Next, ApiError> {
        let asked = self.records.now()?;
        let failure = self.ask(attempt).await;
        let now = self.records.now()?;
        match self.probe.judge(state, attempt, &asked, &now, failure) {
            Verdict::Wait(pause) => Ok(Next::After(pause)),
            Verdict::Ready => self.append(attempt, Entry::Ready).await,
            Verdict::Accept => self.append(attempt, Entry::Accepted).await,
            Verdict::Fail(cause) => self.append(attempt, Entry::RollingBack(cause)).await,
        }
    }

    /// One round of questions; the reasons of those that failed, in one line.
    async fn ask(&self, attempt: &Attempt) -> Option<String> {
        let checks = match checks(attempt) {
            Ok(checks) => checks,
            Err(cause) => return Some(cause.detail),
        };
        let mut reasons: Vec<String> =
            self.checker.ask_all(&checks).await.into_iter().map(|(_, reason)| reason).collect();
        let (host, before) = (Arc::clone(&self.host), attempt.failed_units.clone());
        match detached("failed units", move || host.fresh_failures(&before)).await {
            Ok(Ok(units)) if units.is_empty() => {}
            Ok(Ok(units)) => reasons.push(format!("failed since the activation: {}", units.join(" "))),
            Ok(Err(cause)) => reasons.push(cause.detail),
            Err(error) => reasons.push(chain(&error)),
        }
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    async fn commit(&mut self, state: &State, attempt: &Attempt) -> Result<Next, ApiError> {
        if let Some(kind) = &state.unreadable {
            let text = format!("the journal holds a record of a later version: {kind}");
            return self.append(attempt, Entry::Reverting(Cause::new(ErrorCode::Unsupported, text))).await;
        }
        let (running, _) = self.host.observed()?;
        if self.restarted(state)? && running.as_ref() != Some(&attempt.plan.target) {
            let text = "the host restarted into another system before the commit";
            return self.append(attempt, Entry::Reverting(Cause::new(ErrorCode::GuardFired, text))).await;
        }
        if state.phase == Phase::Accepted {
            self.trail.intend(attempt.id, Act::Commit, about(attempt)).await?;
            self.append(attempt, Entry::Committing).await?;
        }
        let (host, plan) = (Arc::clone(&self.host), attempt.plan.clone());
        match detached("commit", move || host.commit(&plan)).await? {
            Ok(()) => self.append(attempt, Entry::Committed).await,
            Err(cause) => self.append(attempt, Entry::Reverting(cause)).await,
        }
    }

    /// The guard restores; where there is none, this process does.
    async fn restore(&mut self, state: &State, attempt: &Attempt) -> Result<Next, ApiError> {
        self.tell(state, attempt)?;
        if self.host.guard()?.is_some() {
            return Ok(Next::After(GUARD_LOOK));
        }
        let (host, mut journal, clock) = (Arc::clone(&self.host), self.records.own_handle(), self.records.clock());
        let restored = detached("restore", move || {
            let lock = GuardLock::try_take(&host.lock_path()).map_err(|source| JournalError::Io {
                action: "lock",
                path: host.lock_path(),
                source,
            })?;
            let Some(_lock) = lock else { return Ok(None) };
            restore(&mut journal, Writer::Watch, &clock, host.store(), host.activation()).map(Some)
        })
        .await?;
        match restored {
            Ok(Some(restored)) => {
                tracing::info!(phase = %restored.phase, detail = restored.detail, "baseline restored by the daemon");
                Ok(Next::Now)
            }
            Ok(None) => Ok(Next::After(GUARD_LOOK)),
            Err(error) => Err(ApiError::new(error.code(), "the rollback cannot be recorded").with_source(error)),
        }
    }

    /// A restart of the host boots the baseline, so it is worth another look.
    async fn after_failed_rollback(&mut self, state: &State, attempt: &Attempt) -> Result<Next, ApiError> {
        self.tell(state, attempt)?;
        // What is left is sent at the next look; this host has a worse problem.
        self.trail.deliver().await.unwrap_or_default();
        if !self.restarted(state)? {
            let text = "the baseline could not be restored; restart the host, or restore it by hand";
            return Err(ApiError::new(ErrorCode::RollbackFailed, text));
        }
        let (running, profile) = self.host.observed()?;
        let baseline = Some(attempt.plan.baseline.clone());
        if running == baseline && profile == baseline {
            return self.append(attempt, Entry::RolledBack("by a restart of the host".to_owned())).await;
        }
        let text = format!("after a restart the host runs {running:?} with the profile {profile:?}");
        self.append(attempt, Entry::Quarantined(text)).await
    }

    async fn finish(&mut self, state: &State, attempt: &Attempt) -> Result<Next, ApiError> {
        self.tell(state, attempt)?;
        Ok(self.rest().await)
    }

    /// Puts down, once per phase, what the ledger is to be told.
    fn tell(&mut self, state: &State, attempt: &Attempt) -> Result<(), ApiError> {
        let mut payload = about(attempt);
        payload["state"] = json!(state.phase.as_str());
        if let Some(cause) = &attempt.cause {
            because(&mut payload, cause);
        }
        self.trail.tell(attempt.id, state.phase, &payload)
    }

    /// A grant can come between the end of an attempt and its telling, most of
    /// all when the daemon died there.
    async fn close_earlier(&mut self, state: &State) -> Result<(), ApiError> {
        let left = self.trail.left_open(state.attempt.as_ref().map(|attempt| attempt.id));
        if left.is_empty() {
            return Ok(());
        }
        let records = self.records.history().await?;
        for attempt in left {
            self.trail.close(attempt, &ended(&records, attempt))?;
        }
        Ok(())
    }

    async fn rest(&mut self) -> Next {
        if self.trail.deliver().await.is_ok() { Next::OnChange } else { Next::After(RETRY) }
    }
}

fn after_activation(ended: Result<Option<i32>, Cause>) -> Entry {
    match ended {
        Ok(exit) => Entry::Probation { exit },
        Err(cause) => Entry::RollingBack(cause),
    }
}

/// The checks, as the plan carries them.
fn checks(attempt: &Attempt) -> Result<Vec<HealthCheck>, Cause> {
    let parse = |value: &serde_json::Value| {
        serde_json::from_value(value.clone())
            .map_err(|error| Cause::new(ErrorCode::CheckFailed, format!("a check cannot be read: {error}")))
    };
    attempt.plan.checks.iter().map(parse).collect()
}
