//! Channels to the other voters.
//!
//! Invariant: a channel goes to one mesh node and is used only for voters whose
//! seat is that node. A channel is kept while it answers and dropped after
//! three failures in a row, so that a half-open one cannot starve a voter.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

use osmoda_proto::raft::v1::raft_client::RaftClient;
use osmoda_types::NodeId;
use tonic::Status;
use tonic::transport::Channel;

/// Failures in a row after which a channel is made anew. One lost packet must
/// not cost a reconnect; three probes are 600 ms, one lease at most.
const FAILURES_MAX: u32 = 3;

/// Largest message a voter takes: one entry with the largest command, or a
/// megabyte of entries, and encoding.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why no channel could be had.
#[derive(Debug, thiserror::Error)]
#[error("no channel to node {node}")]
pub struct TransportError {
    /// The node that was wanted.
    pub node: NodeId,
    /// What the transport says.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// How voters reach each other. The implementation proves the peer's identity:
/// a channel for a node never ends at another one.
pub trait Transport: Send + Sync + 'static {
    /// A channel to the Raft service of `node`. It may connect lazily; it is
    /// kept and used for many calls.
    ///
    /// # Errors
    /// When the node cannot be reached now.
    fn channel(&self, node: NodeId) -> impl Future<Output = Result<Channel, TransportError>> + Send;
}

type ChannelFuture<'a> = Pin<Box<dyn Future<Output = Result<Channel, TransportError>> + Send + 'a>>;

/// [`Transport`] without its type parameter, which openraft's types cannot carry.
trait AnyTransport: Send + Sync + 'static {
    fn any_channel(&self, node: NodeId) -> ChannelFuture<'_>;
}

impl<T: Transport> AnyTransport for T {
    fn any_channel(&self, node: NodeId) -> ChannelFuture<'_> {
        Box::pin(self.channel(node))
    }
}

/// Why a call to a peer failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("no channel")]
    Channel(#[from] TransportError),
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("refused")]
    Refused(#[source] Box<Status>),
}

struct Kept {
    channel: Channel,
    failures: u32,
}

/// The kept channels.
pub(crate) struct Links {
    transport: Box<dyn AnyTransport>,
    kept: Mutex<HashMap<NodeId, Kept>>,
}

impl Links {
    pub(crate) fn new(transport: impl Transport) -> Self {
        Self { transport: Box::new(transport), kept: Mutex::new(HashMap::new()) }
    }

    /// Makes one call within `limit`.
    ///
    /// # Cancel safety
    /// Dropping it gives up the call; the peer may have acted on it.
    pub(crate) async fn call<R, F>(
        &self,
        node: NodeId,
        limit: Duration,
        call: impl FnOnce(RaftClient<Channel>) -> F,
    ) -> Result<R, CallError>
    where
        F: Future<Output = Result<tonic::Response<R>, Status>>,
    {
        let answered = tokio::time::timeout(limit, async {
            let client = RaftClient::new(self.channel(node).await?)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            call(client).await.map_err(|status| CallError::Refused(Box::new(status)))
        });
        let result = answered.await.unwrap_or(Err(CallError::Late(limit)));
        self.note(node, result.is_ok());
        Ok(result?.into_inner())
    }

    async fn channel(&self, node: NodeId) -> Result<Channel, TransportError> {
        if let Some(channel) = self.lock().get(&node).map(|kept| kept.channel.clone()) {
            return Ok(channel);
        }
        let channel = self.transport.any_channel(node).await?;
        self.lock().insert(node, Kept { channel: channel.clone(), failures: 0 });
        Ok(channel)
    }

    fn note(&self, node: NodeId, is_ok: bool) {
        let mut kept = self.lock();
        let Some(link) = kept.get_mut(&node) else { return };
        link.failures = if is_ok { 0 } else { link.failures + 1 };
        if link.failures >= FAILURES_MAX {
            kept.remove(&node);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<NodeId, Kept>> {
        self.kept.lock().expect("no code panics while it holds the channels")
    }
}
