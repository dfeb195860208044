//! The switch sessions of the earlier product.
//!
//! A plan that is a store path becomes a local attempt: guarded, activated,
//! watched, committed or restored like one of the fleet. Any other plan is a
//! change somebody else makes; the session watches it, and a rollback returns
//! to the absolute path that was running when it began.
//! Invariant: sessions are on the disk, and a failed rollback is not shown as a
//! rollback.

use crate::checks::Checker;
use crate::engine::Engine;
use crate::stage::distinct;
use osmoda_journal::{Cause, Moment, Origin, Periods, Phase, Plan, State};
use osmoda_kit::clock::SharedClock;
use osmoda_kit::error::{ApiError, chain};
use osmoda_kit::fsio;
use osmoda_node_api::watch::{SwitchBegin, SwitchBegun, SwitchSession, SwitchStatus};
use osmoda_types::{AttemptId, ErrorCode, FleetEpoch, StorePath};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// How often sessions are looked at, as in the earlier product.
const LOOK: Duration = Duration::from_secs(5);

/// The longest session: longer ones are forgotten by whoever began them.
const TTL_SECS_MAX: u64 = 7 * 24 * 3600;

/// How many ended sessions are kept.
const SESSIONS_MAX: usize = 100;

/// The most checks of a session, as of a manifest's node.
const CHECKS_MAX: usize = 64;

/// How many failing rounds in a row undo a session: one may be a restart that
/// the change itself asked for.
const FAILING_ROUNDS: u32 = 2;

/// How long an activation of a local attempt may take; the default of manifests.
const ACTIVATION_MS: u64 = 600_000;

/// How long the checks of a local attempt must pass before it can be kept.
const HEALTHY_MS_MAX: u64 = 5_000;

/// How long a commit or rollback by hand waits for its end before it answers
/// with where things stand.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);

/// Calls waiting for the sessions' task: each is one person or program.
const CALLS_MAX: usize = 16;

/// The largest session file: the kept sessions with all their checks.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
struct Session {
    session: SwitchSession,
    began: Moment,
    /// The attempt that carries it out, or undoes it.
    attempt: Option<AttemptId>,
    #[serde(default)]
    failing_rounds: u32,
}

enum Call {
    Begin(SwitchBegin, oneshot::Sender<Result<SwitchBegun, ApiError>>),
    List(oneshot::Sender<Vec<SwitchSession>>),
    Get(String, oneshot::Sender<Option<SwitchSession>>),
    Commit(String, oneshot::Sender<Result<SwitchSession, ApiError>>),
    Rollback(String, oneshot::Sender<Result<SwitchSession, ApiError>>),
}

/// The sessions; cheap to clone.
#[derive(Clone)]
pub(crate) struct Switches {
    calls: mpsc::Sender<Call>,
}

/// What owns the sessions; run it as a task.
pub(crate) struct Keeper {
    engine: Engine,
    checker: Checker,
    clock: SharedClock,
    path: PathBuf,
    sessions: Vec<Session>,
    calls: mpsc::Receiver<Call>,
}

impl Switches {
    /// Reads the sessions from the state folder.
    ///
    /// # Errors
    /// When the file cannot be read. A damaged one is put aside.
    pub(crate) fn open(engine: Engine, clock: SharedClock) -> Result<(Self, Keeper), ApiError> {
        let path = engine.host().settings().state_dir.join("switches.json");
        let fail = |error: fsio::FsError| ApiError::new(error.code(), "the sessions are unreadable").with_source(error);
        let sessions = match fsio::read_limited(&path, FILE_BYTES_MAX).map_err(fail)? {
            None => Vec::new(),
            Some(bytes) => match serde_json::from_slice(&bytes) {
                Ok(sessions) => sessions,
                Err(error) => {
                    tracing::error!(%error, path = %path.display(), "the session file is damaged, put aside");
                    std::fs::rename(&path, path.with_extension("damaged")).map_err(ApiError::internal)?;
                    Vec::new()
                }
            },
        };
        let checker = Checker::new(&engine.host().settings().host_root).map_err(ApiError::internal)?;
        let (sender, calls) = mpsc::channel(CALLS_MAX);
        Ok((Self { calls: sender }, Keeper { engine, checker, clock, path, sessions, calls }))
    }

    /// Begins a session.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`], [`ErrorCode::TargetIsBaseline`], [`ErrorCode::AttemptConflict`].
    pub(crate) async fn begin(&self, request: SwitchBegin) -> Result<SwitchBegun, ApiError> {
        self.call(|answer| Call::Begin(request, answer)).await?
    }

    /// All sessions, newest first.
    ///
    /// # Errors
    /// [`ErrorCode::Busy`].
    pub(crate) async fn list(&self) -> Result<Vec<SwitchSession>, ApiError> {
        self.call(Call::List).await
    }

    /// One session.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`].
    pub(crate) async fn get(&self, id: &str) -> Result<SwitchSession, ApiError> {
        let found = self.call(|answer| Call::Get(id.to_owned(), answer)).await?;
        found.ok_or_else(|| not_found(id))
    }

    /// Keeps what a session watches.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`]; [`ErrorCode::Conflict`] when it has ended, or
    /// its checks do not pass.
    pub(crate) async fn commit(&self, id: &str) -> Result<SwitchSession, ApiError> {
        let begun = tokio::time::Instant::now();
        loop {
            match self.call(|answer| Call::Commit(id.to_owned(), answer)).await? {
                Err(error) if error.code == ErrorCode::JournalIllegal && begun.elapsed() < ANSWER_TIME_MAX => {}
                Ok(session) if session.status == SwitchStatus::Probation && begun.elapsed() < ANSWER_TIME_MAX => {}
                answer => return answer,
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Returns to where a session began.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`], [`ErrorCode::Conflict`] when it has ended.
    pub(crate) async fn rollback(&self, id: &str) -> Result<SwitchSession, ApiError> {
        let begun = tokio::time::Instant::now();
        let mut session = self.call(|answer| Call::Rollback(id.to_owned(), answer)).await??;
        while session.status == SwitchStatus::Probation && begun.elapsed() < ANSWER_TIME_MAX {
            tokio::time::sleep(Duration::from_millis(200)).await;
            session = self.get(id).await?;
        }
        Ok(session)
    }

    async fn call<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Call) -> Result<T, ApiError> {
        let (answer, receiver) = oneshot::channel();
        self.calls
            .try_send(make(answer))
            .map_err(|_| ApiError::new(ErrorCode::Busy, "too many calls about sessions"))?;
        receiver.await.map_err(|_| ApiError::new(ErrorCode::ShuttingDown, "the daemon is stopping"))
    }
}

impl Keeper {
    /// Runs until the stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                // Cancel-safe: a token's state is not consumed.
                () = stop.cancelled() => return,
                // Cancel-safe, as documented for `Receiver::recv`.
                call = self.calls.recv() => match call {
                    Some(call) => self.answer(call).await,
                    None => return,
                },
                // Cancel-safe, as documented for `Interval::tick`.
                _ = look.tick() => self.look().await,
            }
        }
    }

    async fn answer(&mut self, call: Call) {
        // Whoever asked may have gone; the effect stands all the same.
        match call {
            Call::Begin(request, answer) => drop(answer.send(self.begin(request).await)),
            Call::List(answer) => {
                self.refresh().await;
                drop(answer.send(self.sessions.iter().rev().map(|session| session.session.clone()).collect()));
            }
            Call::Get(id, answer) => {
                self.refresh().await;
                drop(answer.send(self.find(&id).map(|position| self.sessions[position].session.clone())));
            }
            Call::Commit(id, answer) => drop(answer.send(self.commit(&id).await)),
            Call::Rollback(id, answer) => drop(answer.send(self.rollback(&id, "by hand").await)),
        }
    }

    async fn begin(&mut self, request: SwitchBegin) -> Result<SwitchBegun, ApiError> {
        let (running, _) = self.engine.host().observed()?;
        let previous = running.ok_or_else(|| {
            ApiError::new(ErrorCode::StoreUnavailable, "the host does not say what it runs, so nothing could be undone")
        })?;
        let id = uuid::Uuid::new_v4().to_string();
        let mut attempt = None;
        if let Ok(target) = StorePath::new(request.plan.trim()) {
            distinct(&target, &previous)?;
            let plan = local_plan(&request, &id, target, previous.clone())?;
            attempt = Some(self.engine.begin_local(plan).await?);
        }
        let session = SwitchSession {
            id: id.clone(),
            plan: request.plan,
            ttl_secs: request.ttl_secs,
            health_checks: request.health_checks,
            started_at: self.now_text(),
            previous_generation: previous.to_string(),
            status: SwitchStatus::Probation,
        };
        let began = self.engine.records().now()?;
        self.sessions.push(Session { session, began, attempt, failing_rounds: 0 });
        self.drop_oldest();
        self.save()?;
        Ok(SwitchBegun { id, previous_generation: previous.to_string(), status: "probation".to_owned() })
    }

    async fn commit(&mut self, id: &str) -> Result<SwitchSession, ApiError> {
        self.refresh().await;
        let position = self.find(id).ok_or_else(|| not_found(id))?;
        let session = self.sessions[position].clone();
        match (&session.session.status, session.attempt) {
            (SwitchStatus::Committed { .. }, _) => return Ok(session.session),
            (SwitchStatus::Probation, Some(attempt)) => {
                let request = osmoda_node_api::watch::AcceptRequest { attempt };
                self.engine.accept(request).await?;
                self.refresh().await;
            }
            (SwitchStatus::Probation, None) => {
                let failures = self.checker.ask_all(&session.session.health_checks).await;
                if let Some((_, reason)) = failures.first() {
                    return Err(ApiError::new(ErrorCode::CheckFailed, reason.clone()));
                }
                self.sessions[position].session.status = SwitchStatus::Committed { committed_at: self.now_text() };
                self.save()?;
            }
            _ => return Err(ApiError::new(ErrorCode::Conflict, "the session is not in probation")),
        }
        Ok(self.sessions[position].session.clone())
    }

    async fn rollback(&mut self, id: &str, reason: &str) -> Result<SwitchSession, ApiError> {
        self.refresh().await;
        let position = self.find(id).ok_or_else(|| not_found(id))?;
        let session = self.sessions[position].clone();
        if session.session.status != SwitchStatus::Probation {
            return Err(ApiError::new(ErrorCode::Conflict, "the session is not in probation"));
        }
        let cause = Cause::new(ErrorCode::RolloutState, format!("session {id} was undone: {reason}"));
        let state = self.engine.records().state().await?;
        match session.attempt {
            Some(attempt) if is_current(&state, attempt) => {
                self.engine.undo(&state, cause).await?;
            }
            Some(_) => return Err(ApiError::new(ErrorCode::Conflict, "another attempt has followed")),
            None => self.begin_undo(position, cause, reason).await?,
        }
        self.save()?;
        self.refresh().await;
        Ok(self.sessions[position].session.clone())
    }

    /// Somebody else's change is undone by a local attempt whose target is what
    /// runs now and which goes straight to its rollback.
    async fn begin_undo(&mut self, position: usize, cause: Cause, reason: &str) -> Result<(), ApiError> {
        let session = &self.sessions[position].session;
        let previous = StorePath::new(session.previous_generation.as_str())
            .map_err(|error| ApiError::new(ErrorCode::StoreUnavailable, error.to_string()))?;
        let (running, profile) = self.engine.host().observed()?;
        if running.as_ref() == Some(&previous) && profile.as_ref() == Some(&previous) {
            let reason = format!("{reason}; nothing had changed");
            let rolled_back_at = self.now_text();
            self.sessions[position].session.status = SwitchStatus::RolledBack { reason, rolled_back_at };
            return Ok(());
        }
        let request = SwitchBegin {
            plan: session.plan.clone(),
            ttl_secs: session.ttl_secs,
            health_checks: session.health_checks.clone(),
        };
        let target = running.filter(|running| *running != previous).or(profile).unwrap_or_else(|| previous.clone());
        let mut plan = local_plan(&request, &session.id, target, previous)?;
        plan.undo = Some(cause);
        let attempt = self.engine.begin_local(plan).await?;
        self.sessions[position].attempt = Some(attempt);
        Ok(())
    }

    async fn look(&mut self) {
        self.refresh().await;
        for position in 0..self.sessions.len() {
            let session = &self.sessions[position];
            if session.attempt.is_none()
                && session.session.status == SwitchStatus::Probation
                && let Err(error) = self.look_at(position).await
            {
                tracing::error!(id = self.sessions[position].session.id, error = chain(&error), "session not undone");
            }
        }
    }

    async fn look_at(&mut self, position: usize) -> Result<(), ApiError> {
        let session = self.sessions[position].clone();
        let failures = self.checker.ask_all(&session.session.health_checks).await;
        if let Some((_, reason)) = failures.first() {
            self.sessions[position].failing_rounds += 1;
            if self.sessions[position].failing_rounds >= FAILING_ROUNDS {
                self.rollback(&session.session.id, reason).await?;
            }
            return Ok(());
        }
        self.sessions[position].failing_rounds = 0;
        let now = self.engine.records().now()?;
        // After a restart of the host the time before it is not known; the
        // checks pass, so the session has stood it.
        let passed = now.since(&session.began);
        if passed.is_none_or(|passed| passed >= Duration::from_secs(session.session.ttl_secs)) {
            self.sessions[position].session.status = SwitchStatus::Committed { committed_at: self.now_text() };
            self.save()?;
        }
        Ok(())
    }

    /// Takes over what became of attempts.
    async fn refresh(&mut self) {
        let Ok(state) = self.engine.records().state().await else { return };
        let mut is_changed = false;
        let now = self.now_text();
        for session in &mut self.sessions {
            let Some(attempt) = session.attempt.filter(|_| session.session.status == SwitchStatus::Probation) else {
                continue;
            };
            if let Some(status) = outcome(&state, attempt, &now) {
                session.session.status = status;
                is_changed = true;
            }
        }
        if is_changed && let Err(error) = self.save() {
            tracing::error!(error = chain(&error), "the sessions cannot be written");
        }
    }

    fn find(&self, id: &str) -> Option<usize> {
        self.sessions.iter().position(|session| session.session.id == id)
    }

    fn drop_oldest(&mut self) {
        while self.sessions.len() > SESSIONS_MAX {
            let ended = self.sessions.iter().position(|session| session.session.status != SwitchStatus::Probation);
            match ended {
                Some(position) => drop(self.sessions.remove(position)),
                None => return,
            }
        }
    }

    fn now_text(&self) -> String {
        self.clock.now_wall().to_string()
    }

    fn save(&self) -> Result<(), ApiError> {
        let text = serde_json::to_vec(&self.sessions).map_err(ApiError::internal)?;
        fsio::write_atomic(&self.path, &text, 0o600)
            .map_err(|error| ApiError::new(error.code(), "the sessions cannot be written").with_source(error))
    }
}

fn is_current(state: &State, id: AttemptId) -> bool {
    state.attempt.as_ref().is_some_and(|attempt| attempt.id == id)
}

fn outcome(state: &State, id: AttemptId, now: &str) -> Option<SwitchStatus> {
    if !is_current(state, id) {
        let reason = "another attempt has followed; the journal's history tells how this one ended".to_owned();
        return Some(SwitchStatus::RolledBack { reason, rolled_back_at: now.to_owned() });
    }
    let attempt = state.attempt.as_ref()?;
    let reason = attempt.cause.as_ref().map_or_else(String::new, |cause| cause.detail.clone());
    match state.phase {
        Phase::Committed => Some(SwitchStatus::Committed { committed_at: now.to_owned() }),
        Phase::RolledBack | Phase::Deferred => {
            Some(SwitchStatus::RolledBack { reason, rolled_back_at: now.to_owned() })
        }
        Phase::RollbackFailed | Phase::Quarantined => {
            Some(SwitchStatus::RollbackFailed { reason, failed_at: now.to_owned() })
        }
        _ => None,
    }
}

fn local_plan(request: &SwitchBegin, id: &str, target: StorePath, baseline: StorePath) -> Result<Plan, ApiError> {
    let ttl_ms = request.ttl_secs * 1000;
    let healthy_ms = HEALTHY_MS_MAX.min(ttl_ms / 2).max(500);
    let checks: Result<Vec<_>, _> = request.health_checks.iter().map(serde_json::to_value).collect();
    Ok(Plan {
        // The engine puts in the epoch of the last grant.
        epoch: FleetEpoch(0),
        origin: Origin::Local,
        rollout: None,
        manifest: None,
        session: Some(id.to_owned()),
        target,
        baseline,
        periods: Periods {
            healthy_ms,
            check_deadline_ms: ttl_ms.max(2 * healthy_ms),
            dead_man_ms: None,
            activation_ms: ACTIVATION_MS,
            accept_ms: Some(ttl_ms),
        },
        contacts_required: 0,
        checks: checks.map_err(ApiError::internal)?,
        undo: None,
    })
}

/// Whether a request has the documented shape.
///
/// # Errors
/// [`ErrorCode::BadRequest`].
pub(crate) fn validate(request: &SwitchBegin) -> Result<(), ApiError> {
    let bad = |text: String| Err(ApiError::new(ErrorCode::BadRequest, text));
    if request.plan.trim().is_empty() || request.plan.len() > 4096 {
        return bad("plan: 1 to 4096 bytes".to_owned());
    }
    if request.ttl_secs == 0 || request.ttl_secs > TTL_SECS_MAX {
        return bad(format!("ttl_secs: 1 to {TTL_SECS_MAX}"));
    }
    if request.health_checks.len() > CHECKS_MAX {
        return bad(format!("health_checks: at most {CHECKS_MAX}"));
    }
    for check in &request.health_checks {
        if let Err(error) = check.validate() {
            return bad(error.to_string());
        }
    }
    Ok(())
}

fn not_found(id: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("no session {}", id.chars().take(64).collect::<String>()))
}
