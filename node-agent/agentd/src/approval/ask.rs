//! Asking for a permit: for one call, for a plan, or for a text.

use osmoda_kit::error::ApiError;
use osmoda_kit::http::{Caller, Isolation};
use osmoda_node_api::approval::{AskedCall, PermitView};
use osmoda_permit::call::{CALL_BYTES_MAX, NONCE_BYTES, check_session};
use osmoda_permit::plan::{self, CALLS_MAX};
use osmoda_permit::policy::ttl_ms;
use osmoda_permit::{Call, CallFault, Covers, EffectClass, HostTrust, Operation, Permit, Policy, Tool, json};
use osmoda_types::{ErrorCode, PermitId};
use serde_json::{Map, Value, json};

use super::refusal::refused;
use super::store::{self, NewPermit, StoredCall, Wanted, unreadable};
use super::{Approvals, now};
use crate::api::{ledger_error, new_row};
use crate::ledger::file::LedgerFile;

/// Longest reason, the earlier product's limit.
pub(super) const REASON_BYTES_MAX: usize = 1024;

/// The session of the reference endpoint, which knows none.
const REFERENCE_SESSION: &str = "reference";

/// What is asked for, beside the calls.
pub(super) struct Asking {
    pub(super) session_id: String,
    pub(super) reason: String,
    pub(super) ttl_secs: Option<i64>,
}

impl Asking {
    /// Everything that can be refused without a look; how many milliseconds the permit
    /// is to live.
    fn check(&self) -> Result<u64, ApiError> {
        check_session(&self.session_id).map_err(call_error)?;
        if self.reason.len() > REASON_BYTES_MAX {
            return Err(ApiError::new(ErrorCode::BadRequest, format!("reason is over {REASON_BYTES_MAX} bytes")));
        }
        ttl_ms(self.ttl_secs).map_err(|code| ApiError::new(code, "ttl_secs is out of range"))
    }
}

impl Approvals {
    /// Asks for a permit. One call gets a permit of its own, more a plan.
    ///
    /// To look is work of root's: what is refused by its form, a limit or a denial
    /// causes none, and what is refused after it began counts against the limits.
    ///
    /// # Cancel safety
    /// Dropped while it looks, it stays counted.
    pub(super) async fn ask(
        &self,
        calls: &[AskedCall],
        is_plan: bool,
        asking: Asking,
        caller: Caller,
    ) -> Result<PermitView, ApiError> {
        if calls.is_empty() || calls.len() > CALLS_MAX {
            return Err(ApiError::new(ErrorCode::BadRequest, format!("a plan has 1 to {CALLS_MAX} calls")));
        }
        let ttl = asking.check()?;
        let (policy, trust) = self.rules().await?;
        let mut drafts = Vec::with_capacity(calls.len());
        for asked in calls {
            let operation = operation(asked)?;
            refuse_class(operation.class(&policy.write_roots), self.parts.isolation)?;
            drafts.push(draft(&trust, operation, &asking.session_id)?);
        }
        let (session_id, begun) = (asking.session_id.clone(), self.parts.clock.now_boot());
        let others = self.asked.begin(&session_id, policy.limits.session_requests_per_minute, begun)?;
        if let Err(error) = self.may_ask(&drafts, &session_id, &policy, others).await {
            self.asked.end(&session_id, begun);
            return Err(error);
        }
        let mut made = Vec::with_capacity(calls.len());
        for (asked, draft) in calls.iter().zip(drafts) {
            let object = match self.parts.resolver.resolve(asked).await {
                Ok(object) => object,
                Err(error) => {
                    if made.is_empty() && matches!(error.code, ErrorCode::Busy | ErrorCode::DaemonUnavailable) {
                        self.asked.end(&session_id, begun);
                    }
                    return Err(error);
                }
            };
            made.push(stored_call(Call { object, ..draft })?);
        }
        let id = self.store(made, is_plan, (asking, ttl), caller, &policy, &trust).await?;
        self.asked.end(&session_id, begun);
        self.show_made(id, &policy, &trust).await
    }

    /// Whether these may be asked for now, where so many others of the session have no
    /// permit yet; the transaction of the request asks again.
    async fn may_ask(&self, drafts: &[Call], session_id: &str, policy: &Policy, others: u32) -> Result<(), ApiError> {
        let (mut subjects, mut bytes) = (Vec::with_capacity(drafts.len()), 0);
        for draft in drafts {
            let fault = |fault: json::JsonFault| call_error(fault.into());
            subjects.push(draft.subject().map_err(fault)?);
            bytes += draft.canonical().map_err(fault)?.len() as u64;
        }
        let (policy, session_id, now) = (policy.clone(), session_id.to_owned(), self.now());
        let ask = move |file: &LedgerFile| {
            let wanted = Wanted { session_id: &session_id, others, subjects: &subjects, bytes };
            store::may_ask(file.connection(), &wanted, &policy, &now)
        };
        let answer = self.parts.ledger.read(ask).await.map_err(ledger_error)?.map_err(unreadable)?;
        answer.map_err(ApiError::from)
    }

    /// Asks for a permit for a text, which never runs.
    pub(super) async fn ask_text(
        &self,
        command: String,
        reason: String,
        ttl_secs: Option<i64>,
        caller: Caller,
    ) -> Result<PermitView, ApiError> {
        let asking = Asking { session_id: REFERENCE_SESSION.to_owned(), reason, ttl_secs };
        let ttl = asking.check()?;
        let (policy, trust) = self.rules().await?;
        let asked = AskedCall { tool: Tool::RawExec.name().to_owned(), args: json!({ "command": command }) };
        let call = stored_call(draft(&trust, operation(&asked)?, REFERENCE_SESSION)?)?;
        let id = self.store(vec![call], false, (asking, ttl), caller, &policy, &trust).await?;
        self.show_made(id, &policy, &trust).await
    }

    async fn store(
        &self,
        calls: Vec<StoredCall>,
        is_plan: bool,
        (asking, ttl): (Asking, u64),
        caller: Caller,
        policy: &Policy,
        trust: &HostTrust,
    ) -> Result<PermitId, ApiError> {
        let hashes: Vec<_> = calls.iter().map(|call| call.hash).collect();
        let classes = calls.iter().map(|call| call.call.operation.class(&policy.write_roots));
        let class = classes.clone().max().unwrap_or(EffectClass::Destructive);
        let approvers = classes.map(|class| policy.approvers(class)).max().unwrap_or(1);
        let covers = match (is_plan, plan::root(&hashes)) {
            (true, Some(root)) => {
                // A list over CALLS_MAX has no root.
                Covers::Plan { root, calls: u32::try_from(hashes.len()).unwrap_or(u32::MAX) }
            }
            _ => Covers::Call { hash: hashes[0] },
        };
        let permit = Permit {
            id: PermitId::from_bytes(random()),
            network_id: trust.network_id,
            host_id: trust.host_id,
            covers,
            class,
            approvers,
            not_after: self.now().plus_ms(ttl),
        };
        let id = permit.id;
        let actor = caller.who.to_string();
        let payload = json!({
            "permit": id, "class": class, "approvers": approvers, "session": asking.session_id,
            "calls": hashes, "tools": calls.iter().map(|call| call.call.tool.name()).collect::<Vec<_>>(),
            "expires_ms": permit.not_after.wall_ms,
        });
        let row = new_row("approval.requested".to_owned(), object(payload), &actor, caller.isolation)?;
        let new = NewPermit { permit, calls, session_id: asking.session_id, actor, reason: asking.reason };
        let (policy, clock) = (policy.clone(), self.parts.clock.clone());
        self.append_if(row, move |connection, _| store::insert(connection, &new, &policy, &now(&clock)))
            .await
            .map_err(refused)?;
        Ok(id)
    }
}

/// Refuses classes that cannot be kept safe here, before anybody is asked.
pub(super) fn refuse_class(class: EffectClass, isolation: Isolation) -> Result<(), ApiError> {
    if class.is_grave() && isolation == Isolation::None {
        let text = format!("calls of class {class} are refused where all daemons share one user");
        return Err(ApiError::new(ErrorCode::ClassRefused, text));
    }
    Ok(())
}

/// A fault of a call as callers see it.
pub(super) fn call_error(fault: CallFault) -> ApiError {
    let code = match fault {
        CallFault::Tool(_) => ErrorCode::ToolUnknown,
        CallFault::Schema => ErrorCode::ApprovalInvalid,
        _ => ErrorCode::CallMalformed,
    };
    ApiError::new(code, fault.to_string())
}

/// The fields of an object made by `json!`.
pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

fn operation(asked: &AskedCall) -> Result<Operation, ApiError> {
    json::check(&asked.args).map_err(|fault| call_error(fault.into()))?;
    let tool =
        Tool::of(&asked.tool).ok_or_else(|| call_error(CallFault::Tool(asked.tool.chars().take(64).collect())))?;
    let args = asked.args.as_object();
    let args = args.ok_or_else(|| ApiError::new(ErrorCode::CallMalformed, "args is no object"))?;
    tool.parse(args).map_err(call_error)
}

/// A call whose object nobody has looked at yet.
fn draft(trust: &HostTrust, operation: Operation, session_id: &str) -> Result<Call, ApiError> {
    check_session(session_id).map_err(call_error)?;
    let (tool, session_id) = (operation.tool(), session_id.to_owned());
    Ok(Call { host_id: trust.host_id, tool, operation, object: Map::new(), session_id, nonce: random() })
}

fn stored_call(call: Call) -> Result<StoredCall, ApiError> {
    let fault = |fault: json::JsonFault| call_error(fault.into());
    let (hash, subject) = (call.hash().map_err(fault)?, call.subject().map_err(fault)?);
    let text = call.canonical().map_err(fault)?;
    if text.len() > CALL_BYTES_MAX {
        let text = format!("the call has {} bytes, the limit is {CALL_BYTES_MAX}", text.len());
        return Err(ApiError::new(ErrorCode::TooLarge, text));
    }
    Ok(StoredCall { hash, subject, text, call })
}

/// Half of 32 random bytes, which is what kit gives.
fn random() -> [u8; NONCE_BYTES] {
    let secret = osmoda_kit::secret::Secret::<[u8; 32]>::random();
    *secret.expose().first_chunk().expect("32 bytes begin with 16")
}
