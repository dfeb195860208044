//! Direct messages between two nodes: the earlier product's `POST
//! /peer/{id}/send`, one message per stream.
//!
//! A message ends in the receiver's ledger and nowhere else; nothing acts on it.
//! Invariant: a message is answered with "delivered" only when the receiver's
//! ledger has it. Invariant: a peer's messages are bounded in size and rate, and
//! who sent one is the peer that the mesh proved, whatever the text says.

use std::sync::Arc;
use std::time::Duration;

use osmoda_kit::audit::Audit;
use osmoda_kit::clock::SharedClock;
use osmoda_kit::error::ApiError;
use osmoda_kit::frames;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_mesh::{IncomingStream, Intake, MeshHandle};
use osmoda_mesh_protocol::{Rate, encode_frame};
use osmoda_node_api::mesh::Service;
use osmoda_types::{ErrorCode, NodeId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::pace::PerPeer;

/// Bound on one message: the ledger takes payloads of 64 KiB.
const MESSAGE_BYTES_MAX: usize = 48 * 1024;

/// Bound on the answer: a code.
const ANSWER_BYTES_MAX: usize = 1024;

/// One message and its answer, once the stream is open: a round trip and the
/// receiver's fsync.
const SEND_TIME: Duration = Duration::from_secs(5);

/// Messages of one peer. Every one costs the receiver a row of its ledger.
const RATE: Rate = Rate { per_second: 10, burst: 50 };

/// A peer that has used up its rate still hears so, for one burst more.
const INTAKE: Intake =
    Intake { name: "messages", kind: TaskKind::REQUEST, per_peer_max: 100, time_limit: Some(SEND_TIME) };

/// A message, in the form of the earlier product.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Message {
    /// A sign of life; the ledger does not keep it.
    Heartbeat {
        /// When, as the sender says.
        timestamp: String,
    },
    /// How a host is doing.
    HealthReport {
        /// Its name, as it says.
        hostname: String,
        /// Load.
        cpu: f64,
        /// Share of memory in use.
        memory: f64,
        /// Seconds.
        uptime: u64,
    },
    /// Something that a person should see.
    Alert {
        /// How bad.
        severity: Severity,
        /// In one line.
        title: String,
        /// At length.
        detail: String,
    },
    /// A text for the node itself.
    Chat {
        /// A free name; who sent it is what the link proves.
        from: String,
        /// The text.
        text: String,
        /// Rooms have their own endpoint; a message with one is refused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        room_id: Option<String>,
    },
}

/// How bad an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Severity {
    /// For information.
    Info,
    /// Look at it.
    Warning,
    /// Now.
    Critical,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Delivered,
    Refused(ErrorCode),
}

impl Message {
    /// The ledger's word for it; a heartbeat has none.
    const fn kind(&self) -> Option<&'static str> {
        match self {
            Self::Heartbeat { .. } => None,
            Self::HealthReport { .. } => Some("mesh.health_report"),
            Self::Alert { .. } => Some("mesh.alert"),
            Self::Chat { .. } => Some("mesh.dm"),
        }
    }
}

/// Sends a message; `Ok` means that the receiver's ledger has it.
///
/// # Errors
/// `PeerUnknown`, `PeerOffline` when there is no link, `OutcomeUnknown` when it ended
/// before the answer, `Timeout`, `BadRequest` for one with a room, `TooLarge`, and
/// the receiver's refusal.
///
/// # Cancel safety
/// Dropping it leaves open whether the message arrived.
pub(crate) async fn send(handle: &MeshHandle, peer: NodeId, message: &Message) -> Result<(), ApiError> {
    if matches!(message, Message::Chat { room_id: Some(_), .. }) {
        return Err(ApiError::new(ErrorCode::BadRequest, "a room's message is sent with /room/send"));
    }
    let frame = encode_frame(message, MESSAGE_BYTES_MAX)
        .map_err(|error| ApiError::new(ErrorCode::TooLarge, error.to_string()))?;
    // Within the mesh's own limit, so that a peer without a link is told from a slow one.
    let mut stream = handle.connect_stream(peer, Service::Messages).await?;
    let exchanged = async {
        stream.write_all(&frame).await?;
        stream.shutdown().await?;
        frames::read::<Answer>(&mut stream, ANSWER_BYTES_MAX).await
    };
    let late = || ApiError::new(ErrorCode::Timeout, format!("{} did not answer in time", peer.short()));
    let lost = || ApiError::new(ErrorCode::OutcomeUnknown, "the link ended before the answer");
    let exchanged = tokio::time::timeout(SEND_TIME, exchanged).await.map_err(|_| late())?;
    match exchanged.map_err(|error| lost().with_source(error))? {
        Answer::Delivered => Ok(()),
        Answer::Refused(code) => Err(ApiError::new(code, format!("{} refused the message: {code}", peer.short()))),
    }
}

/// Takes messages in until the stop.
///
/// # Errors
/// `Conflict` when the service is served already.
pub(crate) fn serve(handle: &MeshHandle, audit: Audit, clock: SharedClock, tasks: &Tasks) -> Result<(), ApiError> {
    let accepted = handle.accept(Service::Messages)?;
    let desk = Arc::new(Desk { audit, allowed: PerPeer::new(RATE, clock) });
    INTAKE.spawn(tasks, accepted, move |incoming| {
        let desk = desk.clone();
        async move { desk.take(incoming).await }
    });
    Ok(())
}

struct Desk {
    audit: Audit,
    allowed: PerPeer,
}

impl Desk {
    async fn take(&self, incoming: IncomingStream) -> std::io::Result<()> {
        let IncomingStream { peer, mut stream } = incoming;
        // Read in any case: a stream that is dropped unread takes the answer with it.
        let answer = match frames::read::<Message>(&mut stream, MESSAGE_BYTES_MAX).await {
            Ok(_) if !self.allowed.take(peer.node) => Answer::Refused(ErrorCode::Busy),
            Ok(message) => self.keep(peer.node, &message).await,
            Err(error) => {
                tracing::debug!(peer = %peer.node, %error, "not a message");
                Answer::Refused(ErrorCode::BadRequest)
            }
        };
        frames::write(&mut stream, &answer, ANSWER_BYTES_MAX).await?;
        stream.shutdown().await
    }

    async fn keep(&self, peer: NodeId, message: &Message) -> Answer {
        if matches!(message, Message::Chat { room_id: Some(_), .. }) {
            return Answer::Refused(ErrorCode::BadRequest);
        }
        let Some(kind) = message.kind() else { return Answer::Delivered };
        if matches!(message, Message::Alert { severity: Severity::Critical, .. }) {
            tracing::warn!(peer = %peer, "a node sent a critical alert; see the ledger");
        }
        match self.audit.record(kind, json!({ "peer": peer, "message": message, "untrusted": true })).await {
            Ok(_) => Answer::Delivered,
            Err(error) => Answer::Refused(error.code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_form_of_the_earlier_product() {
        let check = |text: serde_json::Value, kind: Option<&str>| {
            let message: Message = serde_json::from_value(text.clone()).unwrap();
            assert_eq!(message.kind(), kind);
            assert_eq!(serde_json::to_value(&message).unwrap(), text);
        };
        check(json!({ "type": "heartbeat", "timestamp": "2026-01-01T00:00:00Z" }), None);
        check(
            json!({ "type": "health_report", "hostname": "a", "cpu": 0.5, "memory": 0.25, "uptime": 7 }),
            Some("mesh.health_report"),
        );
        check(json!({ "type": "alert", "severity": "critical", "title": "t", "detail": "d" }), Some("mesh.alert"));
        check(json!({ "type": "chat", "from": "x", "text": "hello" }), Some("mesh.dm"));
        let bad = json!({ "type": "pq_exchange", "mlkem_ciphertext": "" });
        assert!(serde_json::from_value::<Message>(bad).is_err(), "keys are exchanged by the handshake only");
    }
}
