//! Rooms: signed messages between members, the same order on every node, healed
//! after any absence.
//!
//! ```text
//!  endpoints ─► Rooms ─► owner (memory, one commit at a time) ─► rooms.db
//!                          ▲   │
//!     inbound, heal ───────┘   └─► push to every linked member
//! ```
//! What a message is and who may write it is decided in `osmoda-mesh-rooms`;
//! here are the store, the streams and the endpoints. Invariant: links do not
//! depend on rooms: when the store cannot be opened or written, rooms answer
//! with its code and everything else goes on.

mod ask;
mod command;
mod cx;
mod heal;
mod hear;
pub(crate) mod http;
mod inbound;
mod links;
mod owner;
mod room;
mod say;
mod serve;
mod session;
mod space;
mod store;
mod take;
#[cfg(test)]
mod tests;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use osmoda_kit::clock::SharedClock;
use osmoda_kit::error::ApiError;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_mesh::MeshHandle;
use osmoda_node_api::mesh::Service;
use tokio::sync::{Notify, mpsc};

use self::cx::Cx;
use self::owner::{Owner, Parts};
use self::store::Reader;
use self::wire::Traffic;
use crate::pace::{Pace, PerPeer};

/// Commands that may wait for the owner: every link of a full mesh with a few
/// sessions, and the endpoints. Full means that askers wait their turn.
const COMMANDS: usize = 512;

/// The database in the daemon's state folder.
const FILE: &str = "rooms.db";

/// Bytes of healing per second to one peer (`mesh.md` section 6).
pub(crate) const HEAL_RATE: u64 = 8 * 1024 * 1024;

/// Between two sessions with a random member (`mesh.md` section 6).
pub(crate) const HEAL_EVERY: Duration = Duration::from_secs(30);

/// What rooms are started with.
pub struct RoomsConfig {
    /// The links, and whose messages this node writes.
    pub mesh: MeshHandle,
    /// The folder of the database.
    pub dir: PathBuf,
    /// Between two sessions with a random member.
    pub heal_every: Duration,
}

impl RoomsConfig {
    /// With the periods of the design.
    #[must_use]
    pub fn new(mesh: MeshHandle, dir: PathBuf) -> Self {
        Self { mesh, dir, heal_every: HEAL_EVERY }
    }
}

/// The rooms of this node. Cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    cx: Cx,
    clock: SharedClock,
}

/// What went over the wire for rooms since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TrafficCount {
    /// Bytes of healing that were sent, everything included.
    pub heal_sent: u64,
    /// Bytes of signed messages among them.
    pub heal_messages_sent: u64,
    /// Messages that healing brought although they were here.
    pub heal_repeated: u64,
    /// Sessions this node opened and finished.
    pub sessions: u64,
    /// Bytes that were pushed.
    pub push_sent: u64,
}

impl Rooms {
    /// Opens the store and begins to serve.
    ///
    /// # Errors
    /// The store's code when it cannot be opened; `Conflict` when the mesh has
    /// an acceptor for rooms already.
    pub async fn start(config: RoomsConfig, tasks: &Tasks, clock: SharedClock) -> Result<Self, ApiError> {
        let RoomsConfig { mesh, dir, heal_every } = config;
        let (wake, path) = (Arc::new(Notify::new()), dir.join(FILE));
        let parts = Parts {
            keyring: mesh.keyring(),
            clock: clock.clone(),
            path: path.clone(),
            tasks: tasks.clone(),
            wake: wake.clone(),
            heal_every,
        };
        let open = move || Ok::<_, store::StoreError>((Owner::open(parts)?, Reader::open(&path)?));
        let (owner, reader) = tasks.blocking("open rooms", open).await.map_err(ApiError::internal)??;
        let accepted = mesh.accept(Service::Rooms)?;
        let (sender, commands) = mpsc::channel(COMMANDS);
        let cx = Cx {
            mesh,
            tasks: tasks.clone(),
            owner: sender,
            reader: Arc::new(reader),
            signatures: Arc::default(),
            traffic: Arc::new(Traffic::default()),
            pace: Arc::new(Pace::new(HEAL_RATE)),
            questions: Arc::new(PerPeer::new(inbound::QUESTIONS, clock.clone())),
            records: Arc::new(PerPeer::new(inbound::RECORDS, clock.clone())),
            wake,
        };
        tasks.spawn(TaskKind::STORE, "rooms", owner.run(commands));
        inbound::serve(cx.clone(), accepted);
        tasks.spawn(TaskKind::INTAKE, "room links", links::follow(cx.clone()));
        tasks.spawn(TaskKind::INTAKE, "room healing", heal::run(cx.clone()));
        Ok(Self { cx, clock })
    }

    /// What went over the wire so far.
    #[must_use]
    pub fn traffic(&self) -> TrafficCount {
        let traffic = &self.cx.traffic;
        TrafficCount {
            heal_sent: traffic.heal_sent.load(Relaxed),
            heal_messages_sent: traffic.heal_messages_sent.load(Relaxed),
            heal_repeated: traffic.heal_repeated.load(Relaxed),
            sessions: traffic.sessions.load(Relaxed),
            push_sent: traffic.push_sent.load(Relaxed),
        }
    }
}
