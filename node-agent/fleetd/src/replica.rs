//! The fleet's state as this node has it, voter or not.
//!
//! One follower reads the committed log, a voter from its own Raft and any
//! other node from a voter, and applies it with the same pure function.
//! Everybody else in fleetd reads the newest state and waits for the next one.
//!
//! Invariant: the state is that of a prefix of the committed log; it never goes
//! back while the process runs. A follower that falls behind what a voter still
//! has gets the whole state and goes on behind it.

use std::sync::Arc;
use std::time::Duration;

use osmoda_consensus::{Committed, Consensus};
use osmoda_kit::error::ApiError;
use osmoda_kit::shutdown::{Shutdown, Stage};
use osmoda_proto::fleet::v1 as pb;
use osmoda_rollout::{Event, FleetState};
use osmoda_types::{ErrorCode, NodeId, RaftId};
use tokio::sync::{mpsc, watch};

use crate::fsm::Fsm;
use crate::leader_client::LeaderClient;
use crate::wire::error_of;

/// Events kept for a slow reader of transitions. A 10,000-node rollout makes
/// about 40,000; the ledger takes thousands a second. When it is full the
/// follower waits: nothing is lost and the log is where it was.
const EVENTS_MAX: usize = 4096;

/// Pause before another voter is asked for the log. A node whose voter died
/// asks the next one almost at once; with none left it costs ten dials a second.
const AGAIN: Duration = Duration::from_millis(100);

/// How long a voter may take to begin its stream: a pipe over a link that is
/// up, a round trip and the first head.
const BEGIN_TIME: Duration = Duration::from_secs(1);

/// Promised signs of life that may be missed: one late, one lost to a busy
/// machine; after the third another voter is asked.
const MISSED_MAX: u32 = 3;

/// The newest state with the next log index to apply.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// The state.
    pub(crate) state: Arc<FleetState>,
    /// The next log index this node will apply; 0 when it has seen nothing.
    pub(crate) next_index: u64,
    /// The leader as the source of the log names it.
    pub(crate) leader: Option<NodeId>,
}

/// The state for readers. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Replica {
    view: watch::Receiver<View>,
}

impl Replica {
    /// The newest view.
    pub(crate) fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// A receiver that wakes at each change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Waits until the entry at `index` is applied here.
    ///
    /// # Errors
    /// [`ErrorCode::OutcomeUnknown`] when it is not within `limit`.
    pub(crate) async fn reached(&self, index: u64, limit: Duration) -> Result<View, ApiError> {
        let mut view = self.view.clone();
        let wait = view.wait_for(|view| view.next_index > index);
        match tokio::time::timeout(limit, wait).await {
            Ok(Ok(view)) => Ok(view.clone()),
            _ => Err(ApiError::new(ErrorCode::OutcomeUnknown, format!("entry {index} is not applied here yet"))),
        }
    }
}

/// Owns the state.
pub(crate) struct Follower {
    view: watch::Sender<View>,
    events: mpsc::Sender<Event>,
    shutdown: Shutdown,
}

/// Why following ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FollowError {
    /// The own log cannot be read.
    #[error("the committed log cannot be read")]
    Store(#[source] osmoda_consensus::StoreFault),
    /// A snapshot is no state of this version.
    #[error("the fleet state cannot be read")]
    Snapshot(#[from] osmoda_rollout::SnapshotError),
}

/// A follower, the view it keeps, and the transitions it sees.
pub(crate) fn new(shutdown: Shutdown) -> (Follower, Replica, mpsc::Receiver<Event>) {
    let (sender, view) = watch::channel(View::default());
    let (events, transitions) = mpsc::channel(EVENTS_MAX);
    (Follower { view: sender, events, shutdown }, Replica { view }, transitions)
}

impl Follower {
    /// Follows this voter's own log until the stop.
    ///
    /// # Errors
    /// [`FollowError`]: the process cannot go on.
    pub(crate) async fn follow_own(mut self, consensus: Consensus<Fsm>) -> Result<(), FollowError> {
        let mut log = consensus.committed_from(0);
        while let Some(step) = log.next().await.map_err(FollowError::Store)? {
            match step {
                Committed::Snapshot { next_index, state } => self.restore(next_index, &state)?,
                Committed::Entry { index, proposer, items } => {
                    let commands = items.iter().map(|item| item.command.as_ref());
                    self.apply(index, proposer.unwrap_or(RaftId(0)), commands).await;
                }
            }
        }
        Ok(())
    }

    /// Follows voters in turn until the stop, beginning anywhere (`turn`), so
    /// that the nodes of a fleet do not all hang on the same voter.
    ///
    /// # Errors
    /// [`FollowError::Snapshot`]: this program is too old for the fleet.
    pub(crate) async fn follow_voters(
        mut self,
        client: LeaderClient,
        voters: impl Fn() -> Vec<NodeId>,
        mut turn: usize,
    ) -> Result<(), FollowError> {
        let stop = self.shutdown.token(Stage::FinishAccepted);
        loop {
            let known = voters();
            if let Some(voter) = known.get(turn.checked_rem(known.len()).unwrap_or(0)) {
                tokio::select! {
                    biased;
                    // Cancel-safe: waiting for a token takes nothing.
                    () = stop.cancelled() => return Ok(()),
                    // Dropped only at the stop; until then polled to its end.
                    ended = self.follow_one(&client, *voter) => match ended? {
                        Ok(()) => tracing::debug!(%voter, "log stream ended"),
                        Err(error) => tracing::debug!(%voter, code = %error.code, "log stream broke"),
                    },
                }
            }
            turn = turn.wrapping_add(1);
            tokio::select! {
                biased;
                // Cancel-safe: as above.
                () = stop.cancelled() => return Ok(()),
                // Cancel-safe: a timer.
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    async fn follow_one(&mut self, client: &LeaderClient, voter: NodeId) -> Result<Result<(), ApiError>, FollowError> {
        let from_index = self.view.borrow().next_index;
        let mut asked = client.voter(voter);
        let mut stream = match tokio::time::timeout(BEGIN_TIME, asked.watch(pb::WatchRequest { from_index })).await {
            Ok(Ok(stream)) => stream.into_inner(),
            Ok(Err(status)) => return Ok(Err(error_of(&status))),
            Err(_) => return Ok(Err(silent())),
        };
        // The first item may be the whole state, minutes long on a thin line;
        // until the first head the probes of the pipe find a dead voter.
        let mut patience = Duration::MAX;
        loop {
            let item = match tokio::time::timeout(patience, stream.message()).await {
                Ok(Ok(Some(pb::WatchItem { item: Some(item) }))) => item,
                Ok(Ok(Some(pb::WatchItem { item: None }))) => continue,
                Ok(Ok(None)) => return Ok(Ok(())),
                Ok(Err(status)) => return Ok(Err(error_of(&status))),
                Err(_) => return Ok(Err(silent())),
            };
            match item {
                pb::watch_item::Item::Snapshot(snapshot) => {
                    self.restore(snapshot.index.saturating_add(1), &snapshot.state)?;
                }
                pb::watch_item::Item::Entry(entry) => {
                    let commands = entry.commands.iter().map(Vec::as_slice);
                    self.apply(entry.index, RaftId(entry.proposer), commands).await;
                }
                pb::watch_item::Item::Head(head) => {
                    let leader = NodeId::try_from(head.leader.as_slice()).ok();
                    client.learn(leader);
                    patience = patience_of(&head);
                    self.view.send_if_modified(|view| std::mem::replace(&mut view.leader, leader) != leader);
                }
            }
        }
    }

    /// Takes the whole state, if it is newer.
    ///
    /// # Errors
    /// [`FollowError::Snapshot`]: this program is too old for the fleet.
    pub(crate) fn restore(&mut self, next_index: u64, bytes: &[u8]) -> Result<(), FollowError> {
        if next_index <= self.view.borrow().next_index {
            // A voter that lags behind what this node already applied.
            return Ok(());
        }
        let state = Arc::new(FleetState::decode(bytes)?);
        self.view.send_modify(|view| {
            view.state = state;
            view.next_index = next_index;
        });
        Ok(())
    }

    async fn apply<'a>(&mut self, index: u64, proposer: RaftId, commands: impl Iterator<Item = &'a [u8]>) {
        if index < self.view.borrow().next_index {
            return;
        }
        let mut events = Vec::new();
        self.view.send_modify(|view| {
            let state = Arc::make_mut(&mut view.state);
            for command in commands {
                events.extend(state.apply_bytes(index, proposer, command).events);
            }
            view.next_index = index.saturating_add(1);
        });
        for event in events {
            // The reader ends only with the process; then nobody wants events.
            if self.events.send(event).await.is_err() {
                break;
            }
        }
    }
}

fn silent() -> ApiError {
    ApiError::new(ErrorCode::PeerOffline, "the voter has gone silent")
}

/// How long the next item may take. A voter that promises nothing is left to
/// the probes of its pipe.
fn patience_of(head: &pb::WatchHead) -> Duration {
    match head.next_within_ms {
        0 => Duration::MAX,
        within => Duration::from_millis(within.into()) * MISSED_MAX,
    }
}
