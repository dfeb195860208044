//! The handle on this host's attempts: orders go in, views come out.
//!
//! An order is a record in the journal, or a refusal; the driver does the rest.
//! Repeating an order that was carried out changes nothing.

use crate::checks::Checker;
use crate::driver::Driver;
use crate::host::Host;
use crate::probe::Probe;
use crate::records::Records;
use crate::trail::Trail;
use crate::view;
use osmoda_journal::{Attempt, Cause, Entry, Phase, Plan, State};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::UnixClient;
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_node_api::watch::{AcceptRequest, AttemptView, ContactRequest, GrantRequest, History, RevertRequest};
use osmoda_types::{AttemptId, ErrorCode, FleetEpoch};
use std::sync::Arc;
use std::time::Duration;

/// Contacts are written at most this often once there are enough: each costs a
/// sync, and the dead-man time is at least ten seconds.
const CONTACT_EVERY_MIN: Duration = Duration::from_millis(500);

/// The attempts of one host; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    host: Arc<Host>,
    records: Records,
    alarm: tokio::sync::watch::Receiver<Option<String>>,
}

impl Engine {
    /// Starts the driver.
    ///
    /// # Errors
    /// When the trail or the HTTP client cannot be set up.
    pub fn start(host: Arc<Host>, records: Records, agentd: &UnixClient, tasks: &Tasks) -> Result<Self, ApiError> {
        let checker = Checker::new(&host.settings().host_root).map_err(ApiError::internal)?;
        let trail = Trail::open(agentd, &host.settings().state_dir)?;
        let (alarm_sender, alarm) = tokio::sync::watch::channel(None);
        let driver = Driver {
            host: Arc::clone(&host),
            records: records.clone(),
            checker,
            trail,
            probe: Probe::default(),
            alarm: alarm_sender,
        };
        let stop = tasks.shutdown().token(Stage::FinishAccepted);
        tasks.spawn(TaskKind::CRITICAL, "attempt driver", driver.run(stop));
        Ok(Self { host, records, alarm })
    }

    /// Why a person should look, if one should.
    #[must_use]
    pub fn alarm(&self) -> Option<String> {
        self.alarm.borrow().clone()
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// The journal.
    #[must_use]
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Where the host stands.
    ///
    /// # Errors
    /// [`ErrorCode::JournalCorrupt`].
    pub async fn view(&self) -> Result<AttemptView, ApiError> {
        let state = self.records.state().await?;
        Ok(self.show(&state))
    }

    /// All records.
    ///
    /// # Errors
    /// [`ErrorCode::JournalCorrupt`].
    pub async fn history(&self) -> Result<History, ApiError> {
        Ok(History { records: self.records.history().await?.iter().map(view::history).collect() })
    }

    /// Begins the attempt of a grant whose plan has been checked.
    ///
    /// # Errors
    /// [`ErrorCode::AttemptStale`], [`ErrorCode::AttemptConflict`].
    pub async fn grant(&self, grant: &GrantRequest, plan: Plan) -> Result<AttemptView, ApiError> {
        self.begin(grant.attempt, plan).await
    }

    /// Begins an attempt of the local administrator; returns its id.
    ///
    /// # Errors
    /// [`ErrorCode::AttemptConflict`] while another one is under way.
    pub async fn begin_local(&self, mut plan: Plan) -> Result<AttemptId, ApiError> {
        let (epoch, last) = self.records.state().await?.highest.unwrap_or((FleetEpoch(0), AttemptId(0)));
        let attempt = AttemptId(last.0 + 1);
        plan.epoch = epoch;
        self.begin(attempt, plan).await.map(|_| attempt)
    }

    async fn begin(&self, id: AttemptId, plan: Plan) -> Result<AttemptView, ApiError> {
        let state = self.records.state().await?;
        if let Some(attempt) = state.attempt.as_ref().filter(|attempt| attempt.id == id) {
            // The same grant again: the answer is where it got to.
            if attempt.plan.manifest == plan.manifest && attempt.plan.target == plan.target {
                return Ok(self.show(&state));
            }
            return Err(ApiError::new(ErrorCode::AttemptConflict, "the attempt is known with another plan"));
        }
        if state.phase == Phase::RollbackFailed {
            let text = "the last rollback failed; this host takes no grants until a person has looked";
            return Err(ApiError::new(ErrorCode::RollbackFailed, text));
        }
        if !state.phase.is_resting() {
            let text = format!("another attempt is under way ({})", state.phase);
            return Err(ApiError::new(ErrorCode::AttemptConflict, text));
        }
        let state = self.records.append(id, Entry::Granted(Box::new(plan))).await?;
        Ok(self.show(&state))
    }

    /// Notes a round trip to the quorum.
    ///
    /// # Errors
    /// [`ErrorCode::AttemptConflict`] for another attempt.
    pub async fn contact(&self, request: ContactRequest) -> Result<AttemptView, ApiError> {
        let state = self.records.state().await?;
        let attempt = current(&state, request.attempt)?;
        if !state.phase.is_guarded() || self.is_fresh(attempt)? {
            return Ok(self.show(&state));
        }
        let leader = request.leader.chars().take(128).collect();
        let state = self.records.append(attempt.id, Entry::Contact { index: request.index, leader }).await?;
        Ok(self.show(&state))
    }

    fn is_fresh(&self, attempt: &Attempt) -> Result<bool, ApiError> {
        if attempt.contacts_after < attempt.plan.contacts_required {
            return Ok(false);
        }
        let now = self.records.now()?;
        let since = attempt.contact_at.as_ref().and_then(|at| now.since(at));
        Ok(since.is_some_and(|since| since < CONTACT_EVERY_MIN))
    }

    /// Accepts an attempt.
    ///
    /// # Errors
    /// [`ErrorCode::JournalIllegal`] when it is not ready; [`ErrorCode::GuardFired`]
    /// when the guard was first.
    pub async fn accept(&self, request: AcceptRequest) -> Result<AttemptView, ApiError> {
        let state = self.records.state().await?;
        let attempt = current(&state, request.attempt)?;
        match state.phase {
            Phase::Accepted | Phase::Committing | Phase::Committed => return Ok(self.show(&state)),
            Phase::RollingBack | Phase::RolledBack | Phase::RollbackFailed | Phase::Quarantined => {
                let text = "the baseline is being restored; no message moves this attempt forward";
                return Err(ApiError::new(ErrorCode::GuardFired, text));
            }
            _ => {}
        }
        let state = self.records.append(attempt.id, Entry::Accepted).await?;
        Ok(self.show(&state))
    }

    /// Returns to the baseline an attempt recorded, as the fleet orders it.
    ///
    /// # Errors
    /// [`ErrorCode::AttemptUnknown`], [`ErrorCode::AttemptConflict`],
    /// [`ErrorCode::Conflict`] when the order names another baseline.
    pub async fn revert(&self, request: RevertRequest) -> Result<AttemptView, ApiError> {
        let state = self.records.state().await?;
        let attempt = current(&state, request.attempt)?;
        if attempt.plan.rollout != Some(request.rollout) {
            return Err(ApiError::new(ErrorCode::Conflict, "the attempt belongs to another rollout"));
        }
        if attempt.plan.baseline != request.to {
            let text = format!("the recorded baseline is {}, not {}", attempt.plan.baseline, request.to);
            return Err(ApiError::new(ErrorCode::Conflict, text));
        }
        self.undo(&state, Cause::new(ErrorCode::RolloutState, "the fleet has undone the rollout")).await
    }

    /// Undoes the present attempt, whatever its phase.
    ///
    /// # Errors
    /// The journal's.
    pub async fn undo(&self, state: &State, cause: Cause) -> Result<AttemptView, ApiError> {
        let Some(attempt) = &state.attempt else {
            return Err(ApiError::new(ErrorCode::AttemptUnknown, "no attempt was ever made on this host"));
        };
        let entry = match state.phase {
            Phase::Granted => Entry::Deferred(cause),
            phase if phase.is_guarded() => Entry::RollingBack(cause),
            // Two sides must not move the profile at once; the commit is a
            // matter of seconds.
            Phase::Committing => {
                return Err(ApiError::new(ErrorCode::Busy, "the commit is being carried out; ask again"));
            }
            Phase::Accepted | Phase::Committed => {
                // A guard sees the revert through should this daemon die. There
                // is no going forward from here, so its absence stops nothing.
                if let Err(cause) = self.host.start_guard(attempt.id).await {
                    tracing::warn!(attempt = attempt.id.0, detail = cause.detail, "revert without a guard");
                }
                Entry::Reverting(cause)
            }
            _ => return Ok(self.show(state)),
        };
        let state = self.records.append(attempt.id, entry).await?;
        Ok(self.show(&state))
    }

    fn show(&self, state: &State) -> AttemptView {
        // A view of the journal is worth giving even when the host is not readable.
        let (running, profile) = self.host.observed().unwrap_or_else(|error| {
            tracing::warn!(error = %error, "what the host runs cannot be told");
            (None, None)
        });
        view::attempt(state, running, profile)
    }
}

fn current(state: &State, id: AttemptId) -> Result<&Attempt, ApiError> {
    match &state.attempt {
        Some(attempt) if attempt.id == id => Ok(attempt),
        Some(attempt) if attempt.id > id => {
            Err(ApiError::new(ErrorCode::AttemptStale, format!("attempt {} has followed", attempt.id)))
        }
        _ => Err(ApiError::new(ErrorCode::AttemptUnknown, format!("attempt {id} is not known on this host"))),
    }
}
