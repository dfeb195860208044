//! What every part of the rooms service shares, and how it asks the owner.

use std::io;
use std::sync::Arc;

use osmoda_kit::error::ApiError;
use osmoda_kit::tasks::Tasks;
use osmoda_mesh::MeshHandle;
use osmoda_mesh_rooms::{Blob, MessageError, MessageId, RoomId, Signatures, Unverified, Verdict, Verified};
use osmoda_types::{ErrorCode, NodeId, Role};
use tokio::sync::{Notify, mpsc, oneshot};

use super::command::{Command, Reply, Screened, Way};
use super::inbound::wrong;
use super::store::Reader;
use super::wire::Traffic;
use crate::pace::{Pace, PerPeer};

/// Shared by endpoints, links and sessions. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Cx {
    pub(crate) mesh: MeshHandle,
    pub(crate) tasks: Tasks,
    pub(crate) owner: mpsc::Sender<Command>,
    pub(crate) reader: Arc<Reader>,
    pub(crate) signatures: Arc<Signatures>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) pace: Arc<Pace>,
    /// Questions of peers to this node as a room's creator.
    pub(crate) questions: Arc<PerPeer>,
    /// Records that peers push.
    pub(crate) records: Arc<PerPeer>,
    pub(crate) wake: Arc<Notify>,
}

impl Cx {
    /// Asks the owner and waits for the answer.
    pub(crate) async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.owner.send(command(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// Tells the owner something.
    pub(crate) async fn tell(&self, command: Command) {
        if self.owner.send(command).await.is_err() {
            tracing::trace!("rooms are stopping");
        }
    }

    /// Takes messages off the wire: form, owner's screen, signature, owner.
    /// Returns what became of each, and how many were here already.
    ///
    /// # Errors
    /// `InvalidData` when one of them is no message or nobody signed it; others when
    /// the rooms are stopping.
    pub(crate) async fn take(
        &self,
        from: NodeId,
        way: Way,
        wires: Vec<Blob>,
    ) -> io::Result<(Vec<(MessageId, Verdict)>, usize)> {
        let decoded = wires.iter().map(|Blob(wire)| Unverified::decode(wire)).collect::<Result<Vec<_>, _>>();
        let messages = decoded.map_err(|error| wrong(from, &error))?;
        let screened = self.ask(|reply| Command::Unknown { from, messages, reply }).await;
        let Screened { new, mut judged } = screened.map_err(io::Error::other)?;
        let known = judged.iter().filter(|(_, verdict)| *verdict == Verdict::Kept).count();
        if new.is_empty() {
            return Ok((judged, known));
        }
        // Some 30 to 50 µs each: off the async threads.
        let signatures = Arc::clone(&self.signatures);
        let checked = self.tasks.blocking("room signatures", move || signatures.check(new)).await;
        let checked = checked.map_err(io::Error::other)?.into_iter().collect::<Result<Vec<Verified>, MessageId>>();
        let messages = checked.map_err(|_| wrong(from, &MessageError::Signature))?;
        let ingested = self.ask(|reply| Command::Ingest { from, way, messages, reply }).await;
        judged.extend(ingested.map_err(io::Error::other)?);
        Ok((judged, known))
    }

    /// Loads messages off the async threads.
    pub(crate) async fn load(&self, room: RoomId, ids: Vec<MessageId>) -> Result<(usize, Vec<Blob>), ApiError> {
        let reader = Arc::clone(&self.reader);
        let read = self.tasks.blocking("read room messages", move || reader.batch(&room, &ids)).await;
        Ok(read.map_err(ApiError::internal)??)
    }

    /// The role of a node in the newest snapshot.
    pub(crate) fn role(&self, node: &NodeId) -> Option<Role> {
        self.mesh.members().by_node(node).map(|member| member.role)
    }
}

fn stopping() -> ApiError {
    ApiError::new(ErrorCode::ShuttingDown, "the rooms of this node are stopping")
}
