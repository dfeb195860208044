//! Runs: the intent and the consumption in one transaction, then the witnesses,
//! then the outcome.

use osmoda_kit::error::ApiError;
use osmoda_kit::http::Caller;
use osmoda_node_api::approval::{RunBegin, RunBegun, RunEnd, RunOutcome, RunView};
use osmoda_permit::{Call, EffectClass, Event, Policy, Taint};
use osmoda_types::{CallHash, ErrorCode, PermitId};
use rusqlite::Connection;
use serde_json::{Map, Value, json};

use super::ask::{call_error, object, refuse_class};
use super::refusal::{No, refused};
use super::store::{self, unreadable};
use super::view::count;
use super::{Approvals, denials, now, runs};
use crate::api::{ledger_error, new_row};
use crate::ledger::record::Head;

/// The act of the ledger's intents and outcomes.
const ACT: &str = "exec.run";

/// Longest detail of an outcome in the ledger.
const DETAIL_BYTES_MAX: usize = 2048;

impl Approvals {
    /// Lets a call run, once: consumes its permit and records the intent in one
    /// transaction, and waits for the witnesses where its class needs them.
    pub(super) async fn begin(&self, request: RunBegin, caller: Caller) -> Result<RunBegun, ApiError> {
        let (policy, trust) = self.rules().await?;
        let call = Call::from_value(&request.call).map_err(call_error)?;
        let hash = call.hash().map_err(|fault| call_error(fault.into()))?;
        if call.host_id != trust.host_id {
            return Err(ApiError::new(ErrorCode::ApprovalInvalid, "the call is for another host"));
        }
        let subject = call.subject().map_err(|fault| call_error(fault.into()))?;
        let class = call.operation.class(&policy.write_roots);
        refuse_class(class, self.parts.isolation)?;
        let mut is_emergency = false;
        if let Some(id) = request.permit {
            let stored = self.stored(id).await?;
            let tally = count(&stored, &policy, &trust);
            if stored.standing.state == osmoda_permit::State::Approved && !tally.is_enough(&stored.signed.permit) {
                // The row says approved; the signatures, checked again, do not.
                return Err(ApiError::new(ErrorCode::ApprovalInvalid, "the permit's signatures are not enough"));
            }
            is_emergency = stored.break_glass.is_some() && tally.break_glass.is_some();
        }
        let witnesses = class.is_grave() && !is_emergency;
        if witnesses {
            self.parts.gate.ready().await?;
        }
        let head = self.consume(call, [hash, subject], class, &request, policy, is_emergency, caller).await?;
        if witnesses && let Err(error) = self.parts.gate.witnessed(head.size).await {
            let detail = format!("{}: {}", error.code, error.message);
            self.end(RunEnd { run: head.size, outcome: RunOutcome::Refused, detail }, caller).await?;
            return Err(ApiError::new(ErrorCode::WitnessUnavailable, "too few witnesses confirmed the intent")
                .with_source(error));
        }
        Ok(RunBegun { run: head.size, hash: head.hash.to_string() })
    }

    async fn consume(
        &self,
        call: Call,
        [hash, subject]: [CallHash; 2],
        class: EffectClass,
        request: &RunBegin,
        policy: Policy,
        is_emergency: bool,
        caller: Caller,
    ) -> Result<Head, ApiError> {
        let (permit, position) = (request.permit, request.position);
        let mut payload = object(json!({
            "call": hash, "tool": call.tool.name(), "class": class, "session": call.session_id,
            "object": call.operation.object_keys()[0],
        }));
        if let Some(id) = permit {
            payload.insert("permit".to_owned(), json!(id));
            payload.insert("position".to_owned(), json!(position));
        }
        if is_emergency {
            payload.insert("break_glass".to_owned(), Value::Bool(true));
        }
        let row = new_row(format!("{ACT}.intent"), payload, &caller.who.to_string(), caller.isolation)?;
        let clock = self.parts.clock.clone();
        let guard = move |connection: &Connection, intent: i64| {
            let now = now(&clock);
            if runs::was_begun(connection, &hash)? {
                return Ok(Err(No::new(ErrorCode::ApprovalSpent, "this call was begun before")));
            }
            if let Some(id) = permit {
                if denials::is_denied(connection, &id, &now)? {
                    return Ok(Err(No::denied()));
                }
                if !store::consume(connection, &id, position, &hash, &now)? {
                    return Ok(Err(why_not(connection, &id, position, &hash, &now)?));
                }
            } else {
                // Whoever said no to this meant it for every way to run it.
                if denials::denied(connection, &subject, &now)? {
                    return Ok(Err(No::denied()));
                }
                let (taint, _) = store::taint(connection, &call.session_id)?;
                if policy.needs_permit(class, taint) {
                    return Ok(Err(needs_permit(class, taint)));
                }
                if class != EffectClass::Read
                    && let Err(no) = runs::within_quota(connection, &call.operation.object_keys(), &policy, &now)?
                {
                    return Ok(Err(no));
                }
            }
            runs::insert_run(connection, intent, &call, &hash, permit.as_ref(), &now)?;
            Ok(Ok(()))
        };
        self.append_if(row, guard).await.map_err(refused)
    }

    /// Records how a run ended; once.
    pub(super) async fn end(&self, request: RunEnd, caller: Caller) -> Result<RunView, ApiError> {
        let intent = i64::try_from(request.run).unwrap_or(i64::MAX);
        let outcome = request.outcome.as_str();
        let mut detail = request.detail;
        detail.truncate(
            (0..=DETAIL_BYTES_MAX.min(detail.len())).rev().find(|n| detail.is_char_boundary(*n)).unwrap_or(0),
        );
        let payload: Map<String, Value> = object(json!({
            "intent": request.run, "outcome": outcome, "detail": detail, "ok": request.outcome == RunOutcome::Done,
        }));
        let row = new_row(format!("{ACT}.outcome"), payload, &caller.who.to_string(), caller.isolation)?;
        let end = move |connection: &Connection, _| {
            let done = runs::end_run(connection, intent, outcome)?;
            Ok(if done { Ok(()) } else { Err(No::new(ErrorCode::Conflict, "no such run is open")) })
        };
        self.append_if(row, end).await.map_err(refused)?;
        let read = self.parts.ledger.read_after_append(move |file| runs::run(file.connection(), intent)).await;
        let run = read.map_err(ledger_error)?.map_err(unreadable)?;
        run.ok_or_else(|| ApiError::new(ErrorCode::NotFound, "no such run"))
    }

    /// Runs that began and have no outcome.
    pub(super) async fn open_runs(&self) -> Result<Vec<RunView>, ApiError> {
        let read = self.parts.ledger.read(|file| runs::open_runs(file.connection())).await;
        read.map_err(ledger_error)?.map_err(unreadable)
    }
}

/// The rule that the consumption broke, told by the pure state machine.
fn why_not(
    connection: &Connection,
    id: &PermitId,
    position: u32,
    hash: &CallHash,
    now: &osmoda_permit::Moment,
) -> rusqlite::Result<No> {
    let Some(stored) = store::load(connection, id)? else {
        return Ok(No::new(ErrorCode::NotFound, "no such permit"));
    };
    let event = Event::Consume { call: hash, position, plan: &stored.signed.plan };
    let step = stored.standing.step(&stored.signed.permit, event, now);
    // The statement and the machine agree (test `the_statement_and_the_machine_agree`).
    Ok(step.err().map_or_else(|| No::new(ErrorCode::ApprovalInvalid, "the permit does not bind this call"), No::from))
}

fn needs_permit(class: EffectClass, taint: Taint) -> No {
    let because = match taint {
        Taint::Clean => "",
        Taint::Tainted => ", and the session has read content from outside",
    };
    No::new(ErrorCode::ApprovalRequired, format!("a call of class {class} needs a permit{because}"))
}
