//! What waits for a person on the nodes: in memory, from their links.
//!
//! Invariant: nothing here is believed or decided. A node tells what is open on
//! it, a signature is handed down to it, and its answer is handed back; what is
//! lost with this process the nodes tell again with their next link.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use osmoda_kit::clock::Timestamp;
use osmoda_kit::error::ApiError;
use osmoda_proto::link::v1::{self as pb, down};
use osmoda_types::{ErrorCode, NodeId};
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

/// How long a node may take to judge a signature: its ledger writes it first.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// Permits of one node that are kept; a node has no more that wait.
const PERMITS_MAX: usize = 200;

/// Signatures on their way at once; more is no person.
const WAITING_MAX: usize = 64;

/// The way down to one node.
pub(crate) type Downs = mpsc::Sender<Result<pb::Down, Status>>;

/// The inbox. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Inbox {
    nodes: Arc<Mutex<BTreeMap<NodeId, OfNode>>>,
    waiting: Arc<Mutex<BTreeMap<u64, oneshot::Sender<pb::SignatureAnswer>>>>,
    next: Arc<AtomicU64>,
}

#[derive(Debug)]
struct OfNode {
    downs: Downs,
    permits: Vec<Map<String, Value>>,
    left_out: u32,
    seen: Timestamp,
}

/// One open permit.
pub(crate) struct Open {
    pub(crate) id: String,
    pub(crate) node: NodeId,
    pub(crate) seen: Timestamp,
    /// How many more are open on the node and were not told.
    pub(crate) left_out: u32,
    pub(crate) permit: Map<String, Value>,
}

impl Inbox {
    /// A node's link is up; what it had open before is told anew.
    pub(crate) fn attach(&self, node: NodeId, downs: Downs, now: Timestamp) {
        lock(&self.nodes).insert(node, OfNode { downs, permits: Vec::new(), left_out: 0, seen: now });
    }

    /// A link ended; a newer one of the same node stays.
    pub(crate) fn detach(&self, node: NodeId, downs: &Downs) {
        let mut nodes = lock(&self.nodes);
        if nodes.get(&node).is_some_and(|of| of.downs.same_channel(downs)) {
            nodes.remove(&node);
        }
    }

    /// What is open on a node now. What cannot be read changes nothing.
    pub(crate) fn tell(&self, node: NodeId, told: &pb::Approvals, now: Timestamp) {
        // Unreadable is not empty: what was known stays, and the log says so.
        let permits: Vec<Map<String, Value>> = match serde_json::from_str(&told.permits) {
            Ok(permits) => permits,
            Err(error) => {
                tracing::warn!(%node, %error, "the open permits a node told cannot be read");
                return;
            }
        };
        if let Some(of) = lock(&self.nodes).get_mut(&node) {
            let more = u32::try_from(permits.len().saturating_sub(PERMITS_MAX)).unwrap_or(u32::MAX);
            of.left_out = told.left_out.saturating_add(more);
            of.permits = permits.into_iter().take(PERMITS_MAX).collect();
            of.seen = now;
        }
    }

    /// The answer of a node to a signature.
    pub(crate) fn answer(&self, answer: pb::SignatureAnswer) {
        // Nobody waiting is fine: the caller went away.
        if let Some(waiting) = lock(&self.waiting).remove(&answer.request)
            && waiting.send(answer).is_err()
        {
            tracing::debug!("a signature was answered after its caller left");
        }
    }

    /// Everything that is open.
    pub(crate) fn open(&self) -> Vec<Open> {
        let nodes = lock(&self.nodes);
        let of = |(node, of): (&NodeId, &OfNode)| {
            let open = |permit: &Map<String, Value>| {
                let id = id_of(permit)?.to_owned();
                Some(Open { id, node: *node, seen: of.seen, left_out: of.left_out, permit: permit.clone() })
            };
            of.permits.iter().filter_map(open).collect::<Vec<_>>()
        };
        nodes.iter().flat_map(of).collect()
    }

    /// Hands a signature down and waits for the node's answer.
    pub(crate) async fn sign(&self, id: &str, signature: String) -> Result<Map<String, Value>, ApiError> {
        let open = self.open().into_iter().find(|open| open.id == id);
        let node = open.ok_or_else(|| ApiError::new(ErrorCode::NotFound, "no linked node has this permit open"))?.node;
        let request = self.next.fetch_add(1, Relaxed);
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = lock(&self.waiting);
            if waiting.len() >= WAITING_MAX {
                return Err(ApiError::new(ErrorCode::Busy, "too many signatures are on their way"));
            }
            waiting.insert(request, sender);
        }
        let item = down::Item::Signature(pb::Signature { request, permit: id.to_owned(), signature });
        let sent = lock(&self.nodes).get(&node).map(|of| of.downs.try_send(Ok(pb::Down { item: Some(item) })));
        if !matches!(sent, Some(Ok(()))) {
            lock(&self.waiting).remove(&request);
            return Err(ApiError::new(ErrorCode::PeerOffline, "the node's link is gone or full"));
        }
        let Ok(Ok(answer)) = tokio::time::timeout(ANSWER_TIME_MAX, receiver).await else {
            lock(&self.waiting).remove(&request);
            let text = "the node did not answer in time; it may have taken the signature";
            return Err(ApiError::new(ErrorCode::OutcomeUnknown, text));
        };
        if answer.code.is_empty() {
            return serde_json::from_str(&answer.permit).map_err(ApiError::internal);
        }
        Err(ApiError::new(answer.code.parse().unwrap_or(ErrorCode::Internal), answer.message))
    }
}

fn id_of(permit: &Map<String, Value>) -> Option<&str> {
    permit.get("signed")?.get("permit")?.get("id")?.as_str()
}

/// Every change is whole, so a panic elsewhere does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::from_bytes([1; 32]);

    fn told(id: &str) -> pb::Approvals {
        pb::Approvals { permits: format!("[{{\"signed\":{{\"permit\":{{\"id\":\"{id}\"}}}}}}]"), left_out: 3 }
    }

    #[tokio::test]
    async fn a_signature_goes_down_to_the_node_that_has_the_permit_and_its_answer_comes_back() {
        let (inbox, now) = (Inbox::default(), Timestamp::from_millis(5));
        let (downs, mut receiver) = mpsc::channel(4);
        inbox.attach(NODE, downs.clone(), now);
        assert_eq!(inbox.sign("aa", "{}".into()).await.unwrap_err().code, ErrorCode::NotFound);
        inbox.tell(NODE, &told("aa"), now);
        assert_eq!(inbox.open().len(), 1);
        assert_eq!(inbox.open()[0].left_out, 3);
        for (code, expected) in [("", None), ("approval_denied", Some(ErrorCode::ApprovalDenied))] {
            let node = async {
                let Some(Ok(pb::Down { item: Some(down::Item::Signature(asked)) })) = receiver.recv().await else {
                    panic!("a signature")
                };
                assert_eq!((asked.permit.as_str(), asked.signature.as_str()), ("aa", "{\"x\":1}"));
                let (code, permit) = (code.to_owned(), "{\"state\":\"approved\"}".to_owned());
                inbox.answer(pb::SignatureAnswer { request: asked.request, code, message: "why".into(), permit });
            };
            let (answer, ()) = tokio::join!(inbox.sign("aa", "{\"x\":1}".into()), node);
            assert_eq!(answer.err().map(|error| error.code), expected);
        }
        // An older link's end does not take a newer one's permits.
        let (newer, _kept) = mpsc::channel(4);
        inbox.attach(NODE, newer, now);
        inbox.tell(NODE, &told("bb"), now);
        inbox.detach(NODE, &downs);
        assert_eq!(inbox.open()[0].id, "bb");
        inbox.tell(NODE, &pb::Approvals { permits: "[{".into(), left_out: 0 }, now);
        assert_eq!(inbox.open()[0].id, "bb", "what cannot be read empties nothing");
    }
}
