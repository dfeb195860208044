//! Writes every transition of the fleet into this node's ledger (invariant I16);
//! only heads of ledgers stay out.
//!
//! The log has decided already, so nothing waits for the ledger here; the rows
//! are this node's own record of what it saw decided, with the index to find it
//! by. A ledger that is away is waited for: the queue in front is bounded, and
//! when it is full the follower waits too.

use std::time::Duration;

use osmoda_kit::audit::Audit;
use osmoda_kit::shutdown::{Shutdown, Stage};
use osmoda_rollout::{Event, Signer, What};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Between two tries while the ledger is away.
const AGAIN: Duration = Duration::from_millis(500);

/// Writes until the stop.
pub(crate) async fn write(mut events: mpsc::Receiver<Event>, audit: Audit, shutdown: Shutdown) {
    let stop = shutdown.token(Stage::FinishAccepted);
    loop {
        let event = tokio::select! {
            biased;
            // Cancel-safe: waiting for a token takes nothing.
            () = stop.cancelled() => return,
            // Cancel-safe: an event not returned stays in the queue.
            event = events.recv() => match event {
                Some(event) => event,
                None => return,
            },
        };
        // A head of a ledger as a row would make that ledger longer, and the
        // longer ledger another head. The log and the controller have it.
        if matches!(event.what, What::LedgerHead(..)) {
            continue;
        }
        let (kind, payload) = row_of(&event);
        while let Err(error) = audit.record(kind, payload.clone()).await {
            tracing::warn!(code = %error.code, error = %error.message, "transition not in the ledger yet");
            tokio::select! {
                biased;
                // Cancel-safe: as above.
                () = stop.cancelled() => return,
                // Cancel-safe: a timer.
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }
}

fn row_of(event: &Event) -> (&'static str, Value) {
    let signer = match &event.signer {
        Signer::Principal(key) => json!({ "principal": key }),
        Signer::Node(node) => json!({ "node": node }),
        Signer::Leader(raft_id) => json!({ "leader": raft_id.to_string() }),
    };
    let (kind, what) = match &event.what {
        What::Begun(network) => ("fleet.begun", json!({ "network": network })),
        What::Joined(node) => ("fleet.joined", json!({ "node": node })),
        What::Moved(node) => ("fleet.moved", json!({ "node": node })),
        What::KeysRotated(node) => ("fleet.keys_rotated", json!({ "node": node })),
        What::Revoked(node) => ("fleet.revoked", json!({ "node": node })),
        What::EpochBegun(epoch) => ("fleet.mesh_epoch", json!({ "epoch": epoch })),
        What::InviteOpened(invite) => ("fleet.invite.opened", json!({ "invite": invite })),
        What::InviteExpired(invite) => ("fleet.invite.expired", json!({ "invite": invite })),
        What::SubkeyRegistered(node, purpose) => ("fleet.subkey", json!({ "node": node, "purpose": purpose })),
        What::VoterRegistered(node, id) => ("fleet.voter", json!({ "node": node, "raft_id": id.to_string() })),
        What::PrincipalSet(key) => ("fleet.principal", json!({ "key": key })),
        What::Frozen(scope) => ("fleet.frozen", json!({ "scope": scope })),
        What::Unfrozen(scope) => ("fleet.unfrozen", json!({ "scope": scope })),
        What::Denied(target) => ("fleet.denied", json!({ "target": target })),
        What::Allowed(target) => ("fleet.allowed", json!({ "target": target })),
        What::LedgerHead(node, size) => ("fleet.ledger_head", json!({ "node": node, "size": size })),
        What::Ballot(rollout, voter, vote) => {
            ("fleet.ballot", json!({ "rollout": rollout, "voter": voter, "vote": vote }))
        }
        What::Rollout { rollout, from, to, wave } => {
            ("fleet.rollout", json!({ "rollout": rollout, "from": from, "to": to, "wave": wave }))
        }
        What::Node { rollout, node, attempt, from, to } => {
            ("fleet.node", json!({ "rollout": rollout, "node": node, "attempt": attempt, "from": from, "to": to }))
        }
    };
    (kind, json!({ "index": event.index, "signer": signer, "reason": event.reason, "what": what }))
}
