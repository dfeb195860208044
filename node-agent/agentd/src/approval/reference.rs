//! The earlier product's `/approval/*`, with its shapes.
//!
//! Where it was wrong (`weaknesses.md` B) the shape is kept and the answer is
//! true: `auto_approved` is an answer and no permit, a time has bounds, and `approve` without an approver's signature leaves the approval
//! pending and says so.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::Caller;
use osmoda_node_api::approval::{Approval, ApprovalDecision, ApprovalRequest, PermitView};
use osmoda_permit::tool::COMMAND_BYTES_MAX;
use osmoda_permit::{Decision, EffectClass, State as Standing};
use osmoda_types::ErrorCode;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::Approvals;
use super::ask::{REASON_BYTES_MAX, object};
use super::http::{body, permit_id};
use super::words;
use crate::api::{ledger_error, new_row};

/// Longest actor, the earlier product's limit.
const ACTOR_BYTES_MAX: usize = 256;

/// The status of a text that the earlier product had no word against.
const AUTO_APPROVED: &str = "auto_approved";

const ADVICE: &str = "a list of words found nothing; this is no permit and unlocks nothing on this node";

const UNSIGNED: &str = "an approval needs the signature of an approver; this one did not count";

pub(super) async fn request(
    State(approvals): State<Approvals>,
    Extension(caller): Extension<Caller>,
    bytes: Bytes,
) -> Result<(StatusCode, Json<Approval>), ApiError> {
    let request: ApprovalRequest = body(&bytes)?;
    let actor = request.actor.as_deref().unwrap_or("agent");
    for (name, text, bytes_max) in [
        ("command", request.command.as_str(), COMMAND_BYTES_MAX),
        ("reason", request.reason.as_str(), REASON_BYTES_MAX),
        ("actor", actor, ACTOR_BYTES_MAX),
    ] {
        if text.len() > bytes_max {
            return Err(ApiError::new(ErrorCode::BadRequest, format!("{name} is over {bytes_max} bytes")));
        }
    }
    if !words::is_destructive(&request.command) {
        let auto = approvals.record_automatic(&request.command, caller).await?;
        return Ok((StatusCode::OK, Json(Approval { command: request.command, reason: request.reason, ..auto })));
    }
    let view = approvals.ask_text(request.command, request.reason, request.ttl_secs, caller).await?;
    Ok((StatusCode::CREATED, Json(approval(&view, None))))
}

pub(super) async fn pending(State(approvals): State<Approvals>) -> Result<Json<Vec<Approval>>, ApiError> {
    let views = approvals.list().await?;
    let pending = views.iter().filter(|view| view.state == Standing::Pending);
    Ok(Json(pending.map(|view| approval(view, None)).collect()))
}

pub(super) async fn show(
    State(approvals): State<Approvals>,
    Path(id): Path<String>,
) -> Result<Json<Approval>, ApiError> {
    Ok(Json(approval(&approvals.show(permit_id(&id)?).await?, None)))
}

pub(super) async fn approve(
    State(approvals): State<Approvals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Result<Json<Approval>, ApiError> {
    let id = permit_id(&id)?;
    let still_pending = approvals.show(id).await?;
    refuse_decided(&still_pending)?;
    match decision(&bytes)?.signature {
        Some(signature) if signature.decision != Decision::Deny => {
            Ok(Json(approval(&approvals.sign(id, signature, caller).await?, None)))
        }
        _ => {
            approvals.record_refused(id, "approve came without an approver's signature", caller).await?;
            Ok(Json(approval(&still_pending, Some(UNSIGNED))))
        }
    }
}

pub(super) async fn deny(
    State(approvals): State<Approvals>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Result<Json<Approval>, ApiError> {
    let id = permit_id(&id)?;
    refuse_decided(&approvals.show(id).await?)?;
    let view = match decision(&bytes)?.signature {
        Some(signature) if signature.decision == Decision::Deny => approvals.sign(id, signature, caller).await?,
        // Saying no needs no key: the worst it does is that nothing happens.
        _ => {
            let (policy, trust) = approvals.rules().await?;
            approvals.deny(id, &caller.who.to_string(), None, caller).await?;
            approvals.show_made(id, &policy, &trust).await?
        }
    };
    Ok(Json(approval(&view, None)))
}

impl Approvals {
    /// The answer of the earlier product for a text it had no word against, with
    /// a row: somebody may act on it somewhere else.
    async fn record_automatic(&self, command: &str, caller: Caller) -> Result<Approval, ApiError> {
        let sha256 = data_encoding::HEXLOWER.encode(&Sha256::digest(command));
        let actor = caller.who.to_string();
        let row = new_row(
            "approval.auto_approved".to_owned(),
            object(json!({ "sha256": sha256 })),
            &actor,
            caller.isolation,
        )?;
        self.parts.ledger.append(row).await.map_err(ledger_error)?;
        let now = self.parts.clock.now_wall().to_string();
        Ok(Approval {
            id: String::new(),
            command: String::new(),
            actor,
            reason: String::new(),
            status: AUTO_APPROVED.to_owned(),
            created_at: now.clone(),
            expires_at: now,
            decided_at: None,
            decided_by: None,
            is_destructive: false,
            class: EffectClass::RawExec,
            approvers_needed: 0,
            approvers_signed: 0,
            note: Some(ADVICE.to_owned()),
        })
    }
}

/// The earlier product answers 404 for what is not pending.
fn refuse_decided(view: &PermitView) -> Result<(), ApiError> {
    if view.state == Standing::Pending {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::NotFound, format!("the approval is {}, not pending", view.state)))
}

/// An empty body is what the earlier product's own client sends.
fn decision(bytes: &Bytes) -> Result<ApprovalDecision, ApiError> {
    if bytes.is_empty() { Ok(ApprovalDecision::default()) } else { body(bytes) }
}

fn approval(view: &PermitView, note: Option<&str>) -> Approval {
    let asked = view.calls.first().map(|call| &call["args"]["asked"]);
    let command = match asked.map(|asked| &asked["command"]) {
        Some(serde_json::Value::String(command)) => command.clone(),
        // A typed call: its tool and arguments in one line.
        _ => view
            .calls
            .iter()
            .map(|call| format!("{} {}", call["tool"], call["args"]["asked"]))
            .collect::<Vec<_>>()
            .join("; "),
    };
    let permit = &view.signed.permit;
    Approval {
        id: permit.id.to_string(),
        command,
        actor: view.actor.clone(),
        reason: view.reason.clone(),
        status: view.state.to_string(),
        created_at: view.created_at.clone(),
        expires_at: view.expires_at.clone(),
        decided_at: view.decided_at.clone(),
        decided_by: view.decided_by.clone(),
        is_destructive: permit.class.is_grave(),
        class: permit.class,
        approvers_needed: permit.approvers,
        approvers_signed: view.approved_by.len(),
        note: note.map(ToOwned::to_owned),
    }
}
