//! The path of a call: judge, look again, consume, remember, act, say how it ended.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use osmoda_kit::audit::Audit;
use osmoda_kit::clock::SharedClock;
use osmoda_kit::error::{ApiError, chain};
use osmoda_kit::gather::Gather;
use osmoda_kit::http::Isolation;
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_node_api::approval::{ApprovalClient, AskedCall, RunBegin, RunEnd, RunOutcome};
use osmoda_node_api::approval_files::{load_policy, load_trust};
use osmoda_node_api::execd::{RunAnswer, RunRequest};
use osmoda_permit::check::{Running, judge};
use osmoda_permit::{Call, CallFault, EffectClass, HostTrust, Moment, Policy, Taint, Tool};
use osmoda_types::{CallHash, ErrorCode, PermitId};
use serde_json::json;
use tokio::sync::{Semaphore, oneshot};

use crate::hands::{ActError, Hands, Object};
use crate::spent::Spent;

/// Looks at once for those who ask, whether they wait for them or not. Each reads and
/// hashes up to 16 MiB as root, on a thread that acts need too; agentd looks at the
/// calls of a plan one by one.
const LOOKS_MAX: usize = 4;

/// The type of the row of a refused call.
const REFUSED: &str = "exec.refused";

/// What the executor stands on.
#[derive(Clone)]
pub struct Parts {
    /// Its own state folder: trust, list of begun calls, old contents.
    pub state_dir: PathBuf,
    /// The policy file.
    pub policy: PathBuf,
    /// Time.
    pub clock: SharedClock,
    /// For what blocks.
    pub tasks: Tasks,
    /// agentd's approvals.
    pub approvals: ApprovalClient,
    /// agentd's ledger, for refusals.
    pub audit: Audit,
    /// What touches the host.
    pub hands: Hands,
    /// How far daemons are kept apart here.
    pub isolation: Isolation,
}

/// The executor; cheap to clone.
#[derive(Clone)]
pub struct Executor {
    pub(crate) parts: Arc<Parts>,
    spent: Arc<Mutex<Spent>>,
    /// One call at a time: two that touch the same thing would each look first.
    pub(crate) turn: Arc<Semaphore>,
    looks: Arc<Semaphore>,
    /// Outcomes that agentd has not taken yet.
    unsent: Arc<Mutex<BTreeMap<u64, RunEnd>>>,
    /// Refusals on their way to the ledger.
    refused: Arc<Mutex<Gather<Refused>>>,
}

/// One kind of refused call. Its words may be the caller's: the gathering bounds what
/// they can fill.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Refused {
    code: ErrorCode,
    message: String,
    tool: String,
    permit: Option<PermitId>,
    /// The call's hash, if it is one.
    call: Option<CallHash>,
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Executor")
    }
}

/// Which of the gathered refusals are told now, by the boot clock.
type Take = fn(&mut Gather<Refused>, Duration) -> Vec<(Refused, u64)>;

/// A call that passed every check but its permit's consumption.
struct Judged {
    call: Call,
    hash: CallHash,
}

impl Executor {
    /// Opens the list of begun calls. Blocks.
    ///
    /// # Errors
    /// The codes of the file system; [`ErrorCode::StateDirUnusable`] when the
    /// list is damaged: then nothing runs.
    pub fn open(parts: Parts) -> Result<Self, ApiError> {
        let spent = Spent::open(&parts.state_dir, parts.clock.now_wall().as_millis())?;
        Ok(Self {
            parts: Arc::new(parts),
            spent: Arc::new(Mutex::new(spent)),
            turn: Arc::new(Semaphore::new(1)),
            looks: Arc::new(Semaphore::new(LOOKS_MAX)),
            unsent: Arc::default(),
            refused: Arc::default(),
        })
    }

    /// Looks at what a call would be done to.
    ///
    /// # Errors
    /// As [`Hands::look`]; [`ErrorCode::ToolUnknown`], [`ErrorCode::CallMalformed`];
    /// [`ErrorCode::Busy`] while [`LOOKS_MAX`] others look.
    ///
    /// # Cancel safety
    /// Dropped before it resolves, the look goes on to its end and holds its place
    /// until then: nothing stops a thread that reads, so who hangs up must not be able
    /// to begin another.
    pub async fn resolve(&self, asked: &AskedCall) -> Result<Object, ApiError> {
        let tool =
            Tool::of(&asked.tool).ok_or_else(|| call_error(CallFault::Tool(asked.tool.chars().take(64).collect())))?;
        let args = asked.args.as_object();
        let args = args.ok_or_else(|| ApiError::new(ErrorCode::CallMalformed, "args is no object"))?;
        let operation = tool.parse(args).map_err(call_error)?;
        let look = Arc::clone(&self.looks).try_acquire_owned();
        let look = look.map_err(|_| ApiError::new(ErrorCode::Busy, "too many look at once"))?;
        let (reply, answer) = oneshot::channel();
        let hands = self.parts.hands.clone();
        self.parts.tasks.spawn(TaskKind::REQUEST, "look at an object", async move {
            let looked = hands.look(&operation).await;
            drop(look);
            if reply.send(looked).is_err() {
                tracing::debug!("a look ended after whoever asked had left");
            }
        });
        answer.await.map_err(|_| ApiError::new(ErrorCode::ShuttingDown, "the executor is stopping"))?
    }

    /// Runs a call, once.
    ///
    /// # Errors
    /// The code names the rule that refused it; [`ErrorCode::OutcomeUnknown`]
    /// when it was begun and its outcome is not in the ledger.
    ///
    /// # Cancel safety
    /// Dropped before it resolves, the call goes on to its end and its outcome is
    /// recorded; only the answer is lost.
    pub async fn run(&self, request: RunRequest) -> Result<RunAnswer, ApiError> {
        let turn = Arc::clone(&self.turn).try_acquire_owned();
        let turn = turn.map_err(|_| ApiError::new(ErrorCode::Busy, "another call runs"))?;
        // A caller that hangs up must not leave an act half done: a restoration has
        // stopped the node's daemons and has to start them again.
        let (reply, answer) = oneshot::channel();
        let this = self.clone();
        self.parts.tasks.spawn(TaskKind::REQUEST, "run a call", async move {
            let _turn = turn;
            if reply.send(this.carry_out(request).await).is_err() {
                tracing::info!("a call ended after its caller had left");
            }
        });
        let cut = |_| ApiError::new(ErrorCode::OutcomeUnknown, "the executor stopped while the call ran");
        answer.await.map_err(cut)?
    }

    async fn carry_out(&self, request: RunRequest) -> Result<RunAnswer, ApiError> {
        let judged = match self.judge(&request).await {
            Ok(judged) => judged,
            Err(error) => {
                self.record_refusal(&request, &error).await;
                return Err(error);
            }
        };
        let permit = request.permit.as_ref().map(|signed| signed.permit.id);
        let begin = RunBegin { call: request.call, permit, position: request.position };
        let begun = self.parts.approvals.begin(&begin).await?;
        let acted = match self.remember(judged.hash).await {
            Ok(()) => self.parts.hands.act(&judged.call.operation, &judged.call.object, begun.run).await,
            Err(error) => Err(ActError::Refused(error)),
        };
        let (outcome, detail, error) = match acted {
            Ok(detail) => (RunOutcome::Done, detail, None),
            Err(ActError::Refused(error)) => (RunOutcome::Refused, text(&error), Some(error)),
            Err(ActError::Failed(error)) => (RunOutcome::Failed, text(&error), Some(error)),
        };
        metrics::counter!("osmoda_exec_runs_total", "outcome" => outcome.as_str()).increment(1);
        let end = RunEnd { run: begun.run, outcome, detail: detail.clone() };
        if let Err(unsent) = self.parts.approvals.end(&end).await {
            tracing::error!(run = begun.run, error = chain(&unsent), "outcome not recorded yet");
            self.unsent().insert(begun.run, end);
            let text = format!("the call ended as {}, and the ledger has not taken that yet", outcome.as_str());
            return Err(ApiError::new(ErrorCode::OutcomeUnknown, text).with_source(unsent));
        }
        match error {
            Some(error) => Err(error),
            None => Ok(RunAnswer { run: begun.run, outcome, detail }),
        }
    }

    /// Everything the executor can tell by itself.
    async fn judge(&self, request: &RunRequest) -> Result<Judged, ApiError> {
        let (policy, trust) = self.rules().await?;
        let call = Call::from_value(&request.call).map_err(call_error)?;
        let hash = call.hash().map_err(|fault| call_error(fault.into()))?;
        if call.host_id != trust.host_id {
            return Err(ApiError::new(ErrorCode::ApprovalInvalid, "the call is for another host"));
        }
        let class = call.operation.class(&policy.write_roots);
        if class.is_grave() && self.parts.isolation == Isolation::None {
            let text = format!("calls of class {class} are refused where all daemons share one user");
            return Err(ApiError::new(ErrorCode::ClassRefused, text));
        }
        match &request.permit {
            Some(signed) => {
                let running = Running { hash: &hash, class, position: request.position };
                judge(signed, running, &trust, &policy, &self.now())
                    .map_err(|fault| ApiError::new(fault.code(), fault.to_string()))?;
            }
            // Whether the session is tainted is agentd's to say, when it begins.
            None if policy.needs_permit(class, Taint::Clean) => return Err(needs_permit(class)),
            None => {}
        }
        if self.lock_spent().contains(&hash) {
            return Err(ApiError::new(ErrorCode::ApprovalSpent, "this call was begun before"));
        }
        if class == EffectClass::ChangeReversible {
            self.parts.hands.check_place(&call.operation).await?;
        }
        let object = self.parts.hands.look(&call.operation).await?;
        if object != call.object {
            let text = "the object of the call is not the one that was looked at when it was asked for";
            return Err(ApiError::new(ErrorCode::ObjectChanged, text));
        }
        Ok(Judged { call, hash })
    }

    async fn rules(&self) -> Result<(Policy, HostTrust), ApiError> {
        let (policy, state_dir) = (self.parts.policy.clone(), self.parts.state_dir.clone());
        let read = move || Ok((load_policy(&policy)?, load_trust(&state_dir)?));
        self.parts.tasks.blocking("read executor rules", read).await.map_err(ApiError::internal)?
    }

    async fn remember(&self, hash: CallHash) -> Result<(), ApiError> {
        let (spent, now_ms) = (Arc::clone(&self.spent), self.parts.clock.now_wall().as_millis());
        let add = move || spent.lock().unwrap_or_else(PoisonError::into_inner).add(hash, now_ms);
        self.parts.tasks.blocking("remember a call", add).await.map_err(ApiError::internal)?
    }

    /// A refusal is told whatever becomes of its row; the row is for whoever
    /// looks for attempts later. The first of a kind is recorded at once; those that are
    /// only counted by the reconciler, until it ends.
    async fn record_refusal(&self, request: &RunRequest, error: &ApiError) {
        let call = Call::from_value(&request.call).ok();
        let refused = Refused {
            code: error.code,
            message: error.message.clone(),
            tool: request.call["tool"].as_str().unwrap_or("").chars().take(64).collect(),
            permit: request.permit.as_ref().map(|signed| signed.permit.id),
            call: call.and_then(|call| call.hash().ok()),
        };
        metrics::counter!("osmoda_exec_refused_total", "code" => error.code.as_str()).increment(1);
        self.lock_refused().add(refused);
        // After the reconciler's last look nobody else records what is not due.
        let take: Take = match self.parts.tasks.shutdown().reached(Stage::RefuseNew) {
            true => |gathered, _| gathered.rest(),
            false => Gather::due,
        };
        self.tell_refusals(take).await;
    }

    /// Records the refusals that are due, or all; what the ledger does not take waits.
    pub(crate) async fn tell_refusals(&self, take: Take) {
        let (due, lost) = {
            let mut gathered = self.lock_refused();
            (take(&mut gathered, self.parts.clock.now_boot()), gathered.take_lost())
        };
        for (refused, count) in due {
            let Refused { code, message, tool, permit, call } = &refused;
            let payload = json!({ "code": code, "message": message, "tool": tool, "permit": permit, "call": call,
                "count": count });
            if let Err(error) = self.parts.audit.record(REFUSED, payload).await {
                tracing::warn!(%code, error = chain(&error), "refusal not recorded yet");
                self.lock_refused().add_many(refused, count);
            }
        }
        if lost > 0 && self.parts.audit.record(REFUSED, json!({ "uncounted": lost })).await.is_err() {
            self.lock_refused().add_lost(lost);
        }
    }

    fn now(&self) -> Moment {
        let clock = &self.parts.clock;
        Moment {
            wall_ms: clock.now_wall().as_millis(),
            boot_ms: u64::try_from(clock.now_boot().as_millis()).unwrap_or(u64::MAX),
            boot_id: clock.boot_id(),
        }
    }

    /// Held for a change of a map, never across an await or I/O.
    fn lock_refused(&self) -> MutexGuard<'_, Gather<Refused>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_spent(&self) -> MutexGuard<'_, Spent> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn unsent(&self) -> MutexGuard<'_, BTreeMap<u64, RunEnd>> {
        self.unsent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn needs_permit(class: EffectClass) -> ApiError {
    ApiError::new(ErrorCode::ApprovalRequired, format!("a call of class {class} needs a permit"))
}

fn text(error: &ApiError) -> String {
    format!("{}: {}", error.code, error.message)
}

/// A fault of a call as callers see it.
fn call_error(fault: CallFault) -> ApiError {
    let code = match fault {
        CallFault::Tool(_) => ErrorCode::ToolUnknown,
        CallFault::Schema => ErrorCode::ApprovalInvalid,
        _ => ErrorCode::CallMalformed,
    };
    ApiError::new(code, fault.to_string())
}
