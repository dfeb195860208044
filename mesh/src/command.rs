//! What the hub is asked, and the way to ask it.

use std::sync::Arc;

use osmoda_mesh_protocol::{Member, Members};
use osmoda_types::NodeId;
use tokio::sync::{mpsc, oneshot};

use crate::{config::EpochSecret, error::MeshError, identity::Identity, made::Established};

/// Commands waiting for the hub: a restart of a 32-node fleet brings two per
/// peer at once. Senders wait; none of them holds anything the hub needs.
const COMMANDS_MAX: usize = 64;

/// One question or piece of news.
pub(crate) enum Command {
    /// `kept` is told whether the link was; one that was not is closed already.
    Established {
        new: Established,
        kept: oneshot::Sender<bool>,
    },
    Ended {
        peer: NodeId,
        connection: usize,
    },
    Members {
        members: Members,
        done: oneshot::Sender<Result<(), MeshError>>,
    },
    Epoch {
        secret: EpochSecret,
        done: oneshot::Sender<Result<bool, MeshError>>,
    },
    /// Other keys of this node.
    Identity {
        identity: Arc<Identity>,
        done: oneshot::Sender<Result<(), MeshError>>,
    },
    /// A member that was found under newer keys than `known` says.
    Followed {
        known: Box<Member>,
        now: Box<Member>,
    },
    Close {
        done: oneshot::Sender<()>,
    },
}

/// The way to the hub.
#[derive(Clone)]
pub(crate) struct HubSender(mpsc::Sender<Command>);

impl HubSender {
    /// Whether the link was kept. `false` also when the hub is gone.
    pub(crate) async fn established(&self, new: Established) -> bool {
        let (kept, answer) = oneshot::channel();
        self.0.send(Command::Established { new, kept }).await.is_ok() && answer.await.unwrap_or(false)
    }

    pub(crate) async fn ended(&self, peer: NodeId, connection: usize) {
        if self.0.send(Command::Ended { peer, connection }).await.is_err() {
            tracing::trace!("hub is gone");
        }
    }

    /// Returns when the snapshot is in force; `None` when the hub is gone.
    pub(crate) async fn members(&self, members: Members) -> Option<Result<(), MeshError>> {
        let (done, answer) = oneshot::channel();
        self.0.send(Command::Members { members, done }).await.ok()?;
        answer.await.ok()
    }

    /// Whether the epoch was newer; `None` when the hub is gone.
    pub(crate) async fn epoch(&self, secret: EpochSecret) -> Option<Result<bool, MeshError>> {
        let (done, answer) = oneshot::channel();
        self.0.send(Command::Epoch { secret, done }).await.ok()?;
        answer.await.ok()
    }

    /// Returns when the keys are in use; `None` when the hub is gone.
    pub(crate) async fn identity(&self, identity: Arc<Identity>) -> Option<Result<(), MeshError>> {
        let (done, answer) = oneshot::channel();
        self.0.send(Command::Identity { identity, done }).await.ok()?;
        answer.await.ok()
    }

    pub(crate) async fn followed(&self, known: Member, now: Member) {
        let (known, now) = (Box::new(known), Box::new(now));
        if self.0.send(Command::Followed { known, now }).await.is_err() {
            tracing::trace!("hub is gone");
        }
    }

    pub(crate) async fn close(&self) -> bool {
        let (done, answer) = oneshot::channel();
        self.0.send(Command::Close { done }).await.is_ok() && answer.await.is_ok()
    }
}

pub(crate) fn channel() -> (HubSender, mpsc::Receiver<Command>) {
    let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
    (HubSender(sender), receiver)
}
