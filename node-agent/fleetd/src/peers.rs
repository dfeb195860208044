//! gRPC channels to other members, over pipes that `mesh` hands out.
//!
//! A channel is made once per member and service and reconnects by itself: when
//! its pipe breaks, the next call dials again. A call on a dead pipe ends by
//! HTTP/2 keep-alive, not by waiting for its whole time limit.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use osmoda_node_api::mesh::Service;
use osmoda_types::NodeId;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// How long dialling may take. A link that is up hands out a pipe within a
/// round trip; a peer that is away should be known as such at once.
const DIAL_TIME: Duration = Duration::from_secs(2);

/// A silent pipe is probed after this, and given up after as long again. Well
/// below an election timeout of the WAN profile, so that no call waits on a
/// peer that died while Raft already knows.
const PROBE_TIME: Duration = Duration::from_secs(1);

/// What dialling gives.
pub(crate) type Dialled = Pin<Box<dyn Future<Output = io::Result<UnixStream>> + Send>>;

/// What this crate needs from the mesh to call others.
pub(crate) trait Dial: Send + Sync + 'static {
    /// Opens a pipe to a service of a member.
    fn dial(&self, node: NodeId, service: Service) -> Dialled;
}

/// The channels. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Peers {
    dial: Arc<dyn Dial>,
    channels: Arc<Mutex<BTreeMap<(NodeId, Service), Channel>>>,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").finish_non_exhaustive()
    }
}

impl Peers {
    /// Channels through that dialler.
    pub(crate) fn new(dial: Arc<dyn Dial>) -> Self {
        Self { dial, channels: Arc::default() }
    }

    /// The channel to a service of a member; dials on first use, not here.
    pub(crate) fn channel(&self, node: NodeId, service: Service) -> Channel {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.entry((node, service)).or_insert_with(|| self.make(node, service)).clone()
    }

    /// Forgets the channels of members that are gone.
    pub(crate) fn retain(&self, is_member: impl Fn(&NodeId) -> bool) {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.retain(|(node, _), _| is_member(node));
    }

    fn make(&self, node: NodeId, service: Service) -> Channel {
        let dial = self.dial.clone();
        let connector = tower::service_fn(move |_| {
            let dialled = dial.dial(node, service);
            async move { dialled.await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://mesh.invalid")
            .connect_timeout(DIAL_TIME)
            .http2_keep_alive_interval(PROBE_TIME)
            .keep_alive_timeout(PROBE_TIME)
            .keep_alive_while_idle(false)
            .connect_with_connector_lazy(connector)
    }
}
