//! Follows the committed log of any voter and projects it into the store.
//!
//! Invariant: the state is that of the log up to `position`; what the store
//! holds is that of the log up to `stored`, and `position` catches up with
//! `stored` after a restart without telling any event a second time
//! (`tests/follow.rs`). One task owns the state; everybody else reads the
//! [`View`] it publishes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use osmoda_controller_store::{Projection, Snapshot, Store, StoreError};
use osmoda_kit::clock::SharedClock;
use osmoda_proto::fleet::v1::{self as pb, watch_item};
use osmoda_rollout::{FleetState, SnapshotError};
use osmoda_types::{NetworkId, NodeId, RaftId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::projection::{Changes, row};
use crate::view::View;
use crate::voters::Fleet;

/// Entries projected in one transaction. One transaction is one fsync (about
/// 1–5 ms): 256 catches up with a day of log in seconds, and bounds what is
/// held in memory to 256 entries.
const BATCH: usize = 256;

/// Entries between two stored snapshots: the work repeated after a crash.
const SNAPSHOT_EVERY: u64 = 256;

/// Events kept for streams to resume from: with some 500 events per 10,000-node
/// rollout batch, months; about 60 MB.
const EVENTS_KEPT: u64 = 200_000;

/// A voter that sends nothing for so long is not followed any more. Voters send
/// their head now and again; a dead link is noticed by the mesh much earlier.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Pause between two voters that cannot be followed: short, because the next
/// one may do, and bounded below so that an empty list does not spin.
const NEXT_VOTER_PAUSE: Duration = Duration::from_millis(500);

/// Why following ended.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The database does not take it; the controller stops.
    #[error("the projection cannot be stored")]
    Store(#[from] StoreError),
    /// The stored snapshot is damaged or of another version.
    #[error("the stored snapshot cannot be read; move controller.db away to read the log from its beginning")]
    Stored(#[source] SnapshotError),
    /// The voter sent a snapshot that is none.
    #[error("a voter sent a snapshot that cannot be read")]
    Snapshot(#[source] SnapshotError),
    /// The voter left entries out, so the state would be another one.
    #[error("a voter left out entries {from} to {to}")]
    Gap {
        /// The first that is missing.
        from: u64,
        /// The last that is missing.
        to: u64,
    },
    /// The log is that of another fleet.
    #[error("a voter's log is of network {0}")]
    OtherNetwork(NetworkId),
    /// The call failed.
    #[error("a voter cannot be followed")]
    Call(#[source] Box<tonic::Status>),
    /// The voter fell silent.
    #[error("a voter sent nothing for {} s", SILENCE_MAX.as_secs())]
    Silent,
}

impl FollowError {
    /// Whether another voter may do better.
    fn is_about_the_voter(&self) -> bool {
        !matches!(self, FollowError::Store(_) | FollowError::Stored(_))
    }
}

/// What the follower tells the rest of the controller.
#[derive(Debug, Clone)]
pub struct Published {
    /// The fleet at the last applied index.
    pub view: watch::Receiver<View>,
    /// The id of the newest stored event.
    pub newest_event: watch::Receiver<u64>,
}

/// The task that owns the replayed state.
pub struct Follower {
    fleet: Fleet,
    store: Arc<dyn Store>,
    clock: SharedClock,
    network: NetworkId,
    view: watch::Sender<View>,
    newest_event: watch::Sender<u64>,
    state: Arc<FleetState>,
    position: u64,
    stored: u64,
    snapshot_index: u64,
    leader: Option<NodeId>,
    /// The last index of the followed voter, once it told one.
    head: Option<u64>,
}

impl Follower {
    /// Starts from what the store holds.
    ///
    /// # Errors
    /// [`FollowError::Store`], [`FollowError::Stored`].
    pub async fn open(
        fleet: Fleet,
        store: Arc<dyn Store>,
        clock: SharedClock,
        network: NetworkId,
    ) -> Result<(Self, Published), FollowError> {
        let progress = store.progress().await?;
        let newest = store.event_bounds().await?.newest;
        let (state, position) = match progress.snapshot {
            Some(snapshot) => (FleetState::decode(&snapshot.bytes).map_err(FollowError::Stored)?, snapshot.index),
            None => (FleetState::new(), 0),
        };
        let state = Arc::new(state);
        let first = View { state: state.clone(), applied_index: position, leader: None, following: false };
        let (view, view_receiver) = watch::channel(first);
        let (newest_event, newest_receiver) = watch::channel(newest);
        let follower = Self {
            fleet,
            store,
            clock,
            network,
            view,
            newest_event,
            state,
            position,
            stored: progress.applied_index,
            snapshot_index: position,
            leader: None,
            head: None,
        };
        Ok((follower, Published { view: view_receiver, newest_event: newest_receiver }))
    }

    /// Follows one voter after the other until the stop, then stores a snapshot.
    ///
    /// # Errors
    /// [`FollowError::Store`]: without its database the controller stops.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), FollowError> {
        while !stop.is_cancelled() {
            for voter in self.fleet.nodes() {
                match self.follow(voter, &stop).await {
                    Ok(()) => break,
                    Err(error) if error.is_about_the_voter() => {
                        let error = osmoda_kit::error::chain(&error);
                        tracing::debug!(%voter, error, position = self.position, "voter is not followed");
                    }
                    Err(error) => return Err(error),
                }
            }
            self.head = None;
            self.publish();
            tokio::select! {
                // Cancel-safe: a token.
                () = stop.cancelled() => {}
                // Cancel-safe: a timer.
                () = tokio::time::sleep(NEXT_VOTER_PAUSE) => {}
            }
        }
        self.store_snapshot().await
    }

    /// Follows one voter until it fails or the stop.
    async fn follow(&mut self, voter: NodeId, stop: &CancellationToken) -> Result<(), FollowError> {
        let request = pb::WatchRequest { from_index: self.position + 1 };
        let mut client = self.fleet.client(voter);
        let call = |status| FollowError::Call(Box::new(status));
        let opening = tokio::time::timeout(SILENCE_MAX, client.watch(request));
        let stream = tokio::select! {
            biased;
            // Cancel-safe: a token.
            () = stop.cancelled() => return Ok(()),
            // Dropped only at the stop; nothing has been read.
            opened = opening => opened.map_err(|_| FollowError::Silent)?.map_err(call)?.into_inner(),
        };
        tracing::info!(%voter, from = self.position + 1, "following the log");
        let mut chunks = stream.ready_chunks(BATCH);
        loop {
            let chunk = tokio::select! {
                biased;
                // Cancel-safe: a token.
                () = stop.cancelled() => return Ok(()),
                // Dropped only at the stop: items not yet applied are asked for again.
                chunk = tokio::time::timeout(SILENCE_MAX, chunks.next()) => chunk.map_err(|_| FollowError::Silent)?,
            };
            let Some(chunk) = chunk else { return Err(FollowError::Call(Box::new(tonic::Status::aborted("ended")))) };
            self.take(chunk, call).await?;
        }
    }

    async fn take(
        &mut self,
        chunk: Vec<Result<pb::WatchItem, tonic::Status>>,
        call: impl Fn(tonic::Status) -> FollowError,
    ) -> Result<(), FollowError> {
        let mut changes = Changes::default();
        let mut fault = None;
        let mut jumped = false;
        for item in chunk {
            let done = match item {
                Err(status) => Err(call(status)),
                Ok(item) => match item.item {
                    Some(watch_item::Item::Entry(entry)) => self.entry(&entry, &mut changes),
                    Some(watch_item::Item::Snapshot(snapshot)) => {
                        jumped = true;
                        self.snapshot(&snapshot, &mut changes)
                    }
                    Some(watch_item::Item::Head(head)) => {
                        self.head(&head);
                        Ok(())
                    }
                    // Of a newer version: not ours to understand.
                    None => Ok(()),
                },
            };
            if let Err(error) = done {
                fault = Some(error);
                break;
            }
        }
        // What was applied before the fault is stored before it is returned.
        self.project(changes, jumped).await?;
        fault.map_or(Ok(()), Err)
    }

    fn entry(&mut self, entry: &pb::WatchEntry, changes: &mut Changes) -> Result<(), FollowError> {
        if entry.index <= self.position {
            return Ok(());
        }
        if entry.index > self.position + 1 {
            return Err(FollowError::Gap { from: self.position + 1, to: entry.index - 1 });
        }
        let state = Arc::make_mut(&mut self.state);
        changes.entry(state, (entry.index, RaftId(entry.proposer)), &entry.commands, self.clock.now_wall());
        self.position = entry.index;
        self.check_network()
    }

    fn snapshot(&mut self, snapshot: &pb::WatchSnapshot, changes: &mut Changes) -> Result<(), FollowError> {
        if snapshot.index <= self.position {
            return Ok(());
        }
        let state = FleetState::decode(&snapshot.state).map_err(FollowError::Snapshot)?;
        changes.jump(&self.state, &state, snapshot.index, self.clock.now_wall());
        self.state = Arc::new(state);
        self.position = snapshot.index;
        self.check_network()
    }

    fn check_network(&self) -> Result<(), FollowError> {
        match self.state.network() {
            Some(network) if network != self.network => Err(FollowError::OtherNetwork(network)),
            _ => Ok(()),
        }
    }

    fn head(&mut self, head: &pb::WatchHead) {
        self.leader = NodeId::try_from(head.leader.as_slice()).ok();
        self.fleet.learn(self.leader);
        self.head = Some(head.index);
    }

    async fn project(&mut self, mut changes: Changes, jumped: bool) -> Result<(), FollowError> {
        // Entries the store has already seen are replayed after a restart.
        changes.events.retain(|event| event.index > self.stored);
        if self.position > self.stored {
            let now = self.clock.now_wall();
            let touched = changes.rollouts.iter().filter_map(|id| self.state.rollout(id));
            let rollouts = touched.map(|rollout| row(&self.state, rollout, self.position, now)).collect();
            let due = jumped || self.position - self.snapshot_index >= SNAPSHOT_EVERY;
            let snapshot = due.then(|| Snapshot { index: self.position, bytes: self.state.encode() });
            let projection = Projection { applied_index: self.position, snapshot, rollouts, events: changes.events };
            let newest = self.store.commit(projection).await?;
            self.stored = self.position;
            if due {
                self.snapshot_index = self.position;
                self.store.prune_events(EVENTS_KEPT).await?;
            }
            self.newest_event.send_replace(newest);
            metrics::gauge!("osmoda_controller_applied_index").set(self.position as f64);
        }
        self.publish();
        Ok(())
    }

    async fn store_snapshot(&mut self) -> Result<(), FollowError> {
        if self.position < self.stored || self.position == self.snapshot_index {
            return Ok(());
        }
        let snapshot = Some(Snapshot { index: self.position, bytes: self.state.encode() });
        let projection = Projection { applied_index: self.position, snapshot, ..Projection::default() };
        self.store.commit(projection).await?;
        Ok(())
    }

    fn publish(&self) {
        let following = self.head.is_some_and(|head| head <= self.position);
        metrics::gauge!("osmoda_controller_following").set(f64::from(u8::from(following)));
        self.view.send_replace(View {
            state: self.state.clone(),
            applied_index: self.position,
            leader: self.leader,
            following,
        });
    }
}
