//! The service nodes dial in to: heartbeats, state, events and ledger heads up;
//! the interval, questions and acknowledgements down.
//!
//! Invariant: a node speaks for itself only; the mesh proved who it is.

use std::sync::Arc;

use osmoda_controller_store::{HeadChange, HeadRow, Store};
use osmoda_kit::clock::SharedClock;
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_mesh::StreamPeer;
use osmoda_proto::link::v1::link_server::Link;
use osmoda_proto::link::v1::{self as pb, down, up};
use osmoda_types::{ErrorCode, NodeId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::inbox::Inbox;
use crate::presence::Presence;
use crate::wire::refuse;
use crate::witnessed::Witnessed;

/// Answers waiting for one node. It gets at most one per message it sends, and a
/// person's signatures; one that does not read so many has hung, and its link is dropped.
const DOWN_QUEUE: usize = 16;

/// The largest hash of a ledger row, as bytes: SHA-256.
const HASH_BYTES: usize = 32;

/// Serves the nodes' links.
#[derive(Clone)]
pub struct LinkService {
    presence: Presence,
    inbox: Inbox,
    store: Arc<dyn Store>,
    clock: SharedClock,
    tasks: Tasks,
}

impl LinkService {
    /// Serves links that change this presence.
    #[must_use]
    pub fn new(presence: Presence, inbox: Inbox, store: Arc<dyn Store>, clock: SharedClock, tasks: Tasks) -> Self {
        Self { presence, inbox, store, clock, tasks }
    }

    async fn serve(self, node: NodeId, mut ups: Streaming<pb::Up>, downs: mpsc::Sender<Result<pb::Down, Status>>) {
        let stop = self.tasks.shutdown().token(Stage::RefuseNew);
        let mut greeted = false;
        loop {
            let item = tokio::select! {
                biased;
                // Cancel-safe: a token.
                () = stop.cancelled() => break,
                // Dropped only when the link ends anyway.
                item = ups.message() => item,
            };
            let Ok(Some(pb::Up { item: Some(item) })) = item else { break };
            let was_greeted = greeted;
            let taken = self.take(node, &mut greeted, item).await;
            if greeted && !was_greeted {
                self.inbox.attach(node, downs.clone(), self.clock.now_wall());
            }
            let answer = match taken {
                Ok(None) => continue,
                Ok(Some(item)) => Ok(pb::Down { item: Some(item) }),
                Err(status) => Err(status),
            };
            let over = answer.is_err();
            if downs.try_send(answer).is_err() || over {
                break;
            }
        }
        if greeted {
            self.presence.gone(node);
            self.inbox.detach(node, &downs);
            tracing::debug!(%node, "link ended");
        }
    }

    async fn take(&self, node: NodeId, greeted: &mut bool, item: up::Item) -> Result<Option<down::Item>, Status> {
        match item {
            up::Item::Hello(hello) => {
                if hello.node != node.as_bytes() {
                    return Err(refuse(ErrorCode::CallerDenied, "a node speaks for itself only"));
                }
                if std::mem::replace(greeted, true) {
                    return Err(refuse(ErrorCode::BadRequest, "a link begins with one hello"));
                }
                let event_seq = self.presence.hello(node, &hello);
                let interval_ms = u32::try_from(self.presence.interval().as_millis()).unwrap_or(u32::MAX);
                tracing::debug!(%node, interval_ms, "link begins");
                Ok(Some(down::Item::Welcome(pb::Welcome { interval_ms, event_seq })))
            }
            _ if !*greeted => Err(refuse(ErrorCode::BadRequest, "a link begins with a hello")),
            up::Item::Heartbeat(beat) => {
                let ask = self.presence.heartbeat(node, &beat);
                metrics::counter!("osmoda_controller_heartbeats_total").increment(1);
                Ok(ask.then_some(down::Item::WantStatus(pb::WantStatus {})))
            }
            up::Item::Status(status) => {
                self.presence.status(node, &status);
                Ok(None)
            }
            up::Item::Event(event) => {
                if self.presence.event(node, event.seq) {
                    tracing::info!(%node, seq = event.seq, kind = event.kind, "node event");
                }
                Ok(Some(down::Item::EventAck(pb::EventAck { seq: event.seq })))
            }
            up::Item::Approvals(told) => {
                self.inbox.tell(node, &told, self.clock.now_wall());
                Ok(None)
            }
            up::Item::SignatureAnswer(answer) => {
                self.inbox.answer(answer);
                Ok(None)
            }
            up::Item::LedgerHead(head) => self.ledger_head(node, &head).await.map(|()| None),
            up::Item::LedgerReport(report) => self.witnessed().report(node, report).await.map(|()| None),
            up::Item::HeldNotes(page) => self.witnessed().held(node, page).await.map(|()| None),
            up::Item::LedgerAlarm(alarm) => self.witnessed().alarm(node, alarm).await.map(|()| None),
        }
    }

    fn witnessed(&self) -> Witnessed<'_> {
        Witnessed { store: &*self.store, received: self.clock.now_wall() }
    }

    async fn ledger_head(&self, node: NodeId, head: &pb::LedgerHead) -> Result<(), Status> {
        if head.hash.len() > HASH_BYTES {
            return Err(refuse(ErrorCode::BadRequest, "a ledger hash is 32 bytes"));
        }
        let row = HeadRow {
            node,
            size: head.size,
            hash: data_encoding::HEXLOWER.encode(&head.hash),
            seen_ms: self.clock.now_wall().as_millis(),
            broken: false,
        };
        match self.store.record_head(row).await {
            Ok(HeadChange::Advanced | HeadChange::Unchanged) => Ok(()),
            Ok(HeadChange::Contradicts) => {
                tracing::error!(%node, size = head.size, "ledger head contradicts an earlier one");
                metrics::counter!("osmoda_controller_ledgers_rewritten_total").increment(1);
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%node, error = osmoda_kit::error::chain(&error), "ledger head was not stored");
                Err(refuse(error.code(), "the ledger head was not stored"))
            }
        }
    }
}

#[tonic::async_trait]
impl Link for LinkService {
    type AttachStream = ReceiverStream<Result<pb::Down, Status>>;

    async fn attach(&self, request: Request<Streaming<pb::Up>>) -> Result<Response<Self::AttachStream>, Status> {
        let Some(peer) = request.extensions().get::<StreamPeer>().copied() else {
            return Err(refuse(ErrorCode::CallerDenied, "links come through the mesh"));
        };
        if self.tasks.shutdown().is_requested() {
            return Err(refuse(ErrorCode::ShuttingDown, "the controller is stopping"));
        }
        let (downs, receiver) = mpsc::channel(DOWN_QUEUE);
        let name = format!("link {}", peer.node.short());
        self.tasks.spawn(TaskKind::REQUEST, name, self.clone().serve(peer.node, request.into_inner(), downs));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
