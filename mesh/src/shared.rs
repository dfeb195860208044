//! What every part of an endpoint shares: immutable, or a snapshot.
//!
//! Not here: who changes it. The hub publishes links and members, each door and
//! service its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize},
    },
};

use arc_swap::ArcSwap;
use osmoda_kit::{clock::SharedClock, tasks::Tasks};
use osmoda_mesh_protocol::{Members, SecretBytes, Service};
use osmoda_types::{NetworkId, NodeId, Role};
use tokio::sync::{Notify, watch};

use crate::{
    counters::Counters, door::Doors, epochs::Epochs, handle::Linked, identity::Keyring, pair::Enroller, port::Port,
    stream::Queue, tuning::Tuning,
};

/// What every part of an endpoint shares.
pub(crate) struct Shared {
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) network: NetworkId,
    pub(crate) clock: SharedClock,
    pub(crate) tasks: Tasks,
    pub(crate) tuning: Tuning,
    pub(crate) port: Port,
    /// Handshakes under way at the listener.
    pub(crate) handshakes: AtomicUsize,
    /// Random per start: see `tie`.
    pub(crate) incarnation: u64,
    pub(crate) members: Arc<ArcSwap<Members>>,
    /// The index of the newest snapshot of which only what it leaves out is in force
    /// (`MeshHandle::put_out`); 0 before there is one.
    pub(crate) put_out: AtomicU64,
    pub(crate) epochs: ArcSwap<Epochs>,
    /// This node's own secret for coming back.
    pub(crate) rejoin: Option<SecretBytes>,
    pub(crate) counters: Counters,
    pub(crate) doors: Arc<Doors>,
    pub(crate) services: ArcSwap<BTreeMap<Service, Queue>>,
    pub(crate) links: watch::Sender<Linked>,
    pub(crate) kicks: ArcSwap<BTreeMap<NodeId, Arc<Notify>>>,
    /// Members without a link that seem to live all the same; empty in a full mesh.
    pub(crate) alive: ArcSwap<BTreeSet<NodeId>>,
    pub(crate) enroller: Option<Arc<dyn Enroller>>,
}

impl Shared {
    /// This node's role in the newest snapshot.
    pub(crate) fn own_role(&self) -> Option<Role> {
        self.members.load().by_node(&self.keyring.node()).map(|member| member.role)
    }
}
