//! Signatures and denials.
//!
//! Invariant (A3): a permit is approved by signatures that verify, of approvers
//! in our own trust file, and by nothing else; who hands them in does not matter.
//! Invariant: of each key a permit has one signature to each decision, in one form:
//! whoever hands one in again and again, with other text around it, adds nothing.

use osmoda_kit::error::ApiError;
use osmoda_kit::http::Caller;
use osmoda_node_api::approval::PermitView;
use osmoda_permit::{ApproverSignature, Decision, Event, HostTrust, Moment, Policy, Refusal, State};
use osmoda_types::{ErrorCode, PermitId};
use serde_json::json;

use super::ask::object;
use super::refusal::{No, refused};
use super::store::{self, Stored};
use super::view::count;
use super::{Approvals, denials, now};
use crate::api::new_row;
use crate::ledger::Guarded;

/// What is told of a signature that is durable when the approval found no place.
const KEPT: &str = "the signature is kept, the approval is not written down yet; hand the signature in again";

impl Approvals {
    /// Takes an approver's signature, and acts on it when it is enough.
    pub(super) async fn sign(
        &self,
        id: PermitId,
        signature: ApproverSignature,
        caller: Caller,
    ) -> Result<PermitView, ApiError> {
        let (policy, trust) = self.rules().await?;
        let stored = self.stored(id).await?;
        let permit = &stored.signed.permit;
        let principal = signature
            .approver(permit, &trust.operators)
            .map_err(|fault| ApiError::new(fault.code(), fault.to_string()))?;
        let name = principal.name.clone();
        let signature = signature.canonical().map_err(|fault| ApiError::new(fault.code(), fault.to_string()))?;
        if signature.decision == Decision::BreakGlass && !policy.break_glass.contains(&name) {
            let text = format!("{name} is not named in break_glass of this host's policy");
            return Err(ApiError::new(ErrorCode::PrincipalDenied, text));
        }
        if signature.decision == Decision::Deny {
            self.deny(id, &name, Some(signature), caller).await?;
            return self.show_made(id, &policy, &trust).await;
        }
        if is_kept(&stored, &signature) {
            return match self.settle(&stored, &policy, &trust, caller).await? {
                true => self.show_made(id, &policy, &trust).await,
                false => self.show(id).await,
            };
        }
        let payload = json!({ "permit": id, "approver": name, "decision": signature.decision.as_str() });
        let row = new_row("approval.signed".to_owned(), object(payload), &caller.who.to_string(), caller.isolation)?;
        let (clock, kept) = (self.parts.clock.clone(), signature.clone());
        let keep = move |connection: &rusqlite::Connection, _| {
            let Some(stored) = store::load(connection, &id)? else { return Ok(Err(unknown())) };
            if let Err(no) = may_sign(connection, &stored, signature.decision, &now(&clock))? {
                return Ok(Err(no));
            }
            if is_kept(&stored, &signature) {
                return Ok(Err(No::new(ErrorCode::Conflict, "this key has signed this already")));
            }
            store::add_signature(connection, &id, &signature)?;
            Ok(Ok(()))
        };
        let refusal = match self.append_if(row, keep).await {
            Ok(_) => None,
            Err(Guarded::Refused(no)) => Some(no),
            Err(error) => return Err(refused(error)),
        };
        let stored = self.stored_made(id).await?;
        // The same one may have come in at the same time.
        if let Some(no) = refusal
            && !is_kept(&stored, &kept)
        {
            return Err(no.into());
        }
        match self.settle(&stored, &policy, &trust, caller).await {
            // "Busy" would say that the signature was not taken.
            Err(busy) if busy.code == ErrorCode::Busy => Err(ApiError::new(ErrorCode::LedgerUnavailable, KEPT)),
            settled => settled.map(|_| ()),
        }?;
        self.show_made(id, &policy, &trust).await
    }

    /// Approves the permit when its signatures are enough; again and again is fine.
    /// Says whether it wrote that down.
    async fn settle(
        &self,
        stored: &Stored,
        policy: &Policy,
        trust: &HostTrust,
        caller: Caller,
    ) -> Result<bool, ApiError> {
        let id = stored.signed.permit.id;
        let tally = count(stored, policy, trust);
        let glass = tally.break_glass.clone();
        let is_new_glass = glass.is_some() && stored.break_glass.is_none();
        let is_due =
            stored.standing.state == State::Pending || (stored.standing.state == State::Approved && is_new_glass);
        if !is_due || !tally.is_enough(&stored.signed.permit) {
            return Ok(false);
        }
        let by: Vec<String> = tally.approved.iter().chain(&glass).cloned().collect();
        let by = by.join(", ");
        let kind = if glass.is_some() { "approval.break_glass" } else { "approval.approved" };
        let payload = json!({ "permit": id, "approvers": by });
        let row = new_row(kind.to_owned(), object(payload), &caller.who.to_string(), caller.isolation)?;
        if glass.is_some() {
            tracing::warn!(permit = %id, by, "glass broken");
        }
        let clock = self.parts.clock.clone();
        let from = if glass.is_some() { &[State::Pending, State::Approved][..] } else { &[State::Pending] };
        let decision = if glass.is_some() { Decision::BreakGlass } else { Decision::Approve };
        let approve = move |connection: &rusqlite::Connection, _| {
            let Some(stored) = store::load(connection, &id)? else { return Ok(Err(unknown())) };
            let now = now(&clock);
            if let Err(no) = may_sign(connection, &stored, decision, &now)? {
                return Ok(Err(no));
            }
            let done = store::decide(connection, &id, from, State::Approved, &by, glass.as_deref(), &now)?;
            Ok(if done { Ok(()) } else { Err(unknown()) })
        };
        match self.append_if(row, approve).await {
            // Another signature was enough at the same time.
            Err(Guarded::Refused(No { code: ErrorCode::Conflict, .. })) => Ok(false),
            other => other.map(|_| true).map_err(refused),
        }
    }

    /// Denies the permit; final for every call it was for until its end (A6).
    pub(super) async fn deny(
        &self,
        id: PermitId,
        by: &str,
        signature: Option<ApproverSignature>,
        caller: Caller,
    ) -> Result<(), ApiError> {
        let payload = json!({ "permit": id, "by": by, "signed": signature.is_some() });
        let row = new_row("approval.denied".to_owned(), object(payload), &caller.who.to_string(), caller.isolation)?;
        let (clock, by) = (self.parts.clock.clone(), by.to_owned());
        let deny = move |connection: &rusqlite::Connection, _| {
            let Some(stored) = store::load(connection, &id)? else { return Ok(Err(unknown())) };
            let now = now(&clock);
            if let Err(refusal) = stored.standing.step(&stored.signed.permit, Event::Deny, &now) {
                return Ok(Err(refusal.into()));
            }
            if let Some(signature) = &signature {
                store::add_signature(connection, &id, signature)?;
            }
            denials::deny_subjects(connection, &stored, &now)?;
            let from = [State::Pending, State::Approved];
            let done = store::decide(connection, &id, &from, State::Denied, &by, None, &now)?;
            Ok(if done { Ok(()) } else { Err(unknown()) })
        };
        self.append_if(row, deny).await.map(|_| ()).map_err(refused)
    }
}

/// Whether a signature still says something: while the permit waits, and, where
/// somebody breaks the glass, while it is approved and not used up. Never over a
/// denial of one of its calls, under whichever permit that was made.
fn may_sign(
    connection: &rusqlite::Connection,
    stored: &Stored,
    decision: Decision,
    now: &Moment,
) -> rusqlite::Result<Result<(), No>> {
    match stored.standing.step(&stored.signed.permit, Event::Approve, now) {
        Ok(_) => {}
        Err(Refusal::Approved) if decision == Decision::BreakGlass => {}
        Err(refusal) => return Ok(Err(refusal.into())),
    }
    let is_denied = denials::is_denied(connection, &stored.signed.permit.id, now)?;
    Ok(if is_denied { Err(No::denied()) } else { Ok(()) })
}

/// Whether the permit has this key's signature to this decision.
fn is_kept(stored: &Stored, signature: &ApproverSignature) -> bool {
    let (key, decision) = (signature.key(), signature.decision);
    stored.signed.signatures.iter().any(|kept| kept.decision == decision && kept.key() == key)
}

fn unknown() -> No {
    No::new(ErrorCode::NotFound, "no such permit")
}
