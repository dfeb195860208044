//! One voter, running: the handle everything else talks to.
//!
//! Invariant: a voter whose store failed stops the program (its task is
//! critical), and on a stop it refuses new proposals first, finishes accepted
//! ones, then closes Raft and last the log.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use openraft::{Config, SnapshotPolicy};
use osmoda_kit::clock::SharedClock;
use osmoda_kit::fsio;
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::{OnError, OnStop, TaskKind, Tasks};
use osmoda_types::{NodeId, RaftId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::core::Core;
use crate::error::{MembershipError, ProposeError, ReadError, StartError};
use crate::follow::CommittedLog;
use crate::links::{Links, Transport};
use crate::machine::{Machine, StateMachine};
use crate::members::Changes;
use crate::network::Network;
use crate::proposer::{Proposer, Reply};
use crate::reads::Reads;
use crate::service::RaftService;
use crate::snapshot::SnapshotFile;
use crate::status::{Status, Totals};
use crate::store::{Counters, LogStore, LogSummary, StoreFault};
use crate::timing::{Compaction, Timing};
use crate::types::{Member, Raft};
use crate::{gate, proposer, reads, status};

/// How long a received snapshot may take to arrive and be installed: 64 MiB at
/// 20 Mbit/s.
const SNAPSHOT_LIMIT_MS: u64 = 30_000;

/// Parts of a voter that may be cut off anywhere and are missed when they fail.
const PART: TaskKind =
    TaskKind { on_error: OnError::StopProcess, on_stop: OnStop::Abort, ends_at: Stage::FinishAccepted };

/// Whether this voter may start with an empty log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogExpectation {
    /// A new voter: there may be no log yet.
    MayBeNew,
    /// It took part before (`genesis.done`, or it is in the membership): an
    /// empty log is amnesia and refused.
    MustExist,
}

/// What a voter needs to start.
#[derive(Debug, Clone)]
pub struct ConsensusConfig {
    /// This voter: random, bound to this data directory, never reused.
    pub raft_id: RaftId,
    /// The mesh node it lives on.
    pub node_id: NodeId,
    /// Where log and snapshot live; made when absent.
    pub data_dir: PathBuf,
    /// Whether the log must exist.
    pub log: LogExpectation,
    /// Periods.
    pub timing: Timing,
    /// When the log is cut.
    pub compaction: Compaction,
    /// The clock for the time stamps in entries.
    pub clock: SharedClock,
}

/// A running voter; clones are the same voter.
pub struct Consensus<S> {
    shared: Arc<Shared<S>>,
}

impl<S> Clone for Consensus<S> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

struct Shared<S> {
    core: Arc<Core>,
    log: LogStore,
    machine: Machine<S>,
    counters: Arc<Counters>,
    proposer: Proposer,
    reads: Reads,
    changes: Changes,
    service: RaftService,
    status: watch::Receiver<Option<Status>>,
    stopping: CancellationToken,
}

impl<S: StateMachine> Consensus<S> {
    /// Opens the log, replays it into `machine` and takes part.
    ///
    /// # Errors
    /// [`StartError::Store`] for a corrupt, foreign or open log,
    /// [`StartError::Amnesia`] for a missing one; nothing was sent then.
    pub async fn start(
        config: ConsensusConfig,
        transport: impl Transport,
        machine: S,
        tasks: &Tasks,
    ) -> Result<Self, StartError> {
        let counters = Arc::<Counters>::default();
        let (log, machine) = open(&config, machine, counters.clone(), tasks).await?;
        let links = Arc::new(Links::new(transport));
        let network = Network { me: config.raft_id.0, heartbeat: config.timing.heartbeat, links: links.clone() };
        let raft_config = raft_config(&config)?;
        let raft = Raft::new(config.raft_id.0, Arc::new(raft_config), network, log.clone(), machine.clone())
            .await
            .map_err(|fatal| log.health().fault().map_or(StartError::Raft(Box::new(fatal)), StartError::Store))?;
        let me = Member { raft_id: config.raft_id, node_id: config.node_id };
        let core = Arc::new(Core::new(raft, me, config.timing, links));
        Ok(Self::run(core, log, machine, counters, config.clock, tasks))
    }

    /// Starts the parts around a running Raft.
    fn run(
        core: Arc<Core>,
        log: LogStore,
        machine: Machine<S>,
        counters: Arc<Counters>,
        clock: SharedClock,
        tasks: &Tasks,
    ) -> Self {
        let shutdown = tasks.shutdown();
        let refusing = shutdown.token(Stage::RefuseNew);
        let finishing = shutdown.token(Stage::FinishAccepted);
        let (proposer, batcher) = proposer::new(core.clone(), clock, counters.clone(), refusing);
        let (reads, rounds) = reads::new(core.clone());
        let (statuses, status) = watch::channel(None);
        tasks.spawn(TaskKind::CRITICAL, "raft proposer", batcher.run(finishing.clone()));
        tasks.spawn(PART, "raft reads", rounds.run());
        tasks.spawn(PART, "raft election gate", gate::run(core.clone()));
        let faults = log.health().subscribe();
        tasks.spawn(TaskKind::BACKGROUND, "raft status", status::run(core.clone(), faults, statuses));
        let closing = shutdown.token(Stage::CloseStores);
        tasks.spawn(TaskKind::STORE, "raft log", keep(core.clone(), log.clone(), machine.clone(), closing));
        let service = RaftService::new(core.clone());
        let changes = Changes::new(core.clone());
        let stopping = finishing;
        let shared = Shared { core, log, machine, counters, proposer, reads, changes, service, status, stopping };
        Self { shared: Arc::new(shared) }
    }

    /// Proposes one command and waits until it is committed and applied.
    ///
    /// A repeat with the same `request_id` is answered by the state machine.
    ///
    /// # Errors
    /// See [`ProposeError`]; only [`ProposeError::Unknown`] leaves it open
    /// whether the command was committed.
    ///
    /// # Cancel safety
    /// Dropping it leaves the outcome unknown.
    pub async fn propose(&self, request_id: [u8; 16], command: impl Into<Bytes>) -> Result<Reply, ProposeError> {
        self.shared.proposer.propose(request_id, command.into()).await
    }

    /// Waits until this leader's state holds everything committed before the
    /// call; also the proof that this voter still leads. Many callers share
    /// one round. The answer is an index that [`Consensus::read`] is at least at.
    ///
    /// # Errors
    /// [`ReadError::NotLeader`] elsewhere, [`ReadError::Unavailable`] without a
    /// quorum.
    pub async fn linearizable(&self) -> Result<u64, ReadError> {
        self.shared.reads.linearizable().await
    }

    /// Reads the state as this voter has it, with the next index to apply.
    /// `read` runs under the state's lock: it copies and returns.
    pub fn read<T>(&self, read: impl FnOnce(&S, u64) -> T) -> T {
        self.shared.machine.with(read)
    }

    /// Follows the next index to apply.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.shared.machine.applied()
    }

    /// The committed log from log index `from` on.
    #[must_use]
    pub fn committed_from(&self, from: u64) -> CommittedLog<S> {
        let shared = &self.shared;
        CommittedLog::new(from, shared.log.clone(), shared.machine.clone(), shared.stopping.clone())
    }

    /// The service for the other voters; serve it per connection with
    /// [`RaftService::server_for`] and the peer the mesh has proven.
    #[must_use]
    pub fn service(&self) -> RaftService {
        self.shared.service.clone()
    }

    /// This voter.
    #[must_use]
    pub fn me(&self) -> Member {
        self.shared.core.me
    }

    /// This voter's view of its group.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Option<Status>> {
        self.shared.status.clone()
    }

    /// Whether this voter leads and heard a quorum within its lease.
    #[must_use]
    pub fn leads_with_quorum(&self) -> bool {
        self.shared.core.leads_with_quorum()
    }

    /// Running totals.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals::from(&*self.shared.counters)
    }

    /// Why the store failed, if it did.
    #[must_use]
    pub fn fault(&self) -> Option<StoreFault> {
        self.shared.log.health().fault()
    }

    /// What is in the log.
    #[must_use]
    pub fn log_summary(&self) -> LogSummary {
        self.shared.log.summary()
    }

    /// Begins a fleet of one with this voter. Only for `genesis`.
    ///
    /// # Errors
    /// [`MembershipError::AlreadyBegun`] when the log is not empty.
    pub async fn initialize(&self) -> Result<(), MembershipError> {
        self.shared.changes.begin().await
    }

    /// Adds a member without a vote; adding it again is harmless.
    ///
    /// # Errors
    /// [`MembershipError`]; an id that lives on another node is invalid.
    pub async fn add_learner(&self, learner: Member) -> Result<(), MembershipError> {
        self.shared.changes.add_learner(learner).await
    }

    /// Makes these members the voters (1, 3, 5 or 7), in one joint change.
    ///
    /// # Errors
    /// [`MembershipError::InProgress`] while another change is not finished;
    /// asking for that very change finishes it.
    pub async fn change_membership(&self, voters: BTreeSet<RaftId>) -> Result<(), MembershipError> {
        self.shared.changes.change(voters).await
    }

    /// Entries a member still lacks; `None` unless this voter leads and heard
    /// from it.
    #[must_use]
    pub fn lag(&self, raft_id: RaftId) -> Option<u64> {
        self.shared.changes.lag(raft_id)
    }

    /// Stops leading: neither heartbeats nor stands for election until another
    /// voter leads, at most [`Timing::step_aside_limit`].
    ///
    /// # Errors
    /// [`MembershipError::NoSuccessor`] when nobody took over; this voter then
    /// leads on.
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped, this voter leads on.
    pub async fn step_aside(&self) -> Result<Member, MembershipError> {
        self.shared.changes.step_aside().await
    }

    /// Writes a snapshot now instead of at the next threshold.
    ///
    /// # Errors
    /// [`MembershipError::Stopped`] when this voter has stopped.
    pub async fn write_snapshot(&self) -> Result<(), MembershipError> {
        self.shared.core.raft.trigger().snapshot().await.map_err(|_| MembershipError::Stopped)
    }
}

/// Opens log and snapshot off the async threads and checks that they agree.
async fn open<S: StateMachine>(
    config: &ConsensusConfig,
    machine: S,
    counters: Arc<Counters>,
    tasks: &Tasks,
) -> Result<(LogStore, Machine<S>), StartError> {
    let (dir, raft_id, expectation) = (config.data_dir.clone(), config.raft_id.0, config.log);
    let opened = tasks.blocking("raft open", move || {
        fsio::create_private_dir(&dir).map_err(StartError::Directory)?;
        let log = LogStore::open(&dir, raft_id, counters)?;
        if expectation == LogExpectation::MustExist && log.summary().is_pristine {
            return Err(StartError::Amnesia);
        }
        let machine = Machine::open(machine, SnapshotFile::new(&dir), log.health().clone())?;
        // A state without the votes that were given while it was made.
        if log.summary().is_pristine && machine.last_applied().is_some() {
            return Err(StartError::Amnesia);
        }
        // openraft would quietly begin with an empty state here.
        if machine.last_applied() < log.purged() {
            let reason = "the log was cut but the snapshot in front of it is gone".to_owned();
            return Err(StoreFault::Corrupt { reason }.into());
        }
        Ok((log, machine))
    });
    opened.await.map_err(StartError::Blocking)?
}

fn raft_config(config: &ConsensusConfig) -> Result<Config, StartError> {
    let ms = |period: std::time::Duration| u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
    let Compaction { snapshot_after_entries, keep_entries } = config.compaction;
    Config {
        cluster_name: "osmoda".into(),
        heartbeat_interval: ms(config.timing.heartbeat),
        election_timeout_min: ms(config.timing.election_min),
        election_timeout_max: ms(config.timing.election_max),
        install_snapshot_timeout: SNAPSHOT_LIMIT_MS,
        max_payload_entries: 512,
        // A follower further behind is sent the snapshot.
        replication_lag_threshold: snapshot_after_entries.saturating_mul(2),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(snapshot_after_entries),
        max_in_snapshot_log_to_keep: keep_entries,
        // Purging is a commit of its own: not one per entry.
        purge_batch_size: (keep_entries / 16).clamp(1, 256),
        // Closed until the gate has asked the others.
        enable_elect: false,
        ..Config::default()
    }
    .validate()
    .map_err(|error| StartError::Timing(Box::new(error)))
}

/// Why the log's task ended early.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error("the store of this voter failed")]
    Store(#[source] StoreFault),
    #[error("raft stopped by itself")]
    Raft(#[source] Box<openraft::error::Fatal<u64>>),
}

/// Watches over log and Raft, and closes both at the end.
async fn keep<S: StateMachine>(
    core: Arc<Core>,
    log: LogStore,
    machine: Machine<S>,
    closing: CancellationToken,
) -> Result<(), Stopped> {
    let mut faults = log.health().subscribe();
    let mut metrics = core.raft.metrics();
    let ended = tokio::select! {
        biased;
        // Cancel-safe: waiting for a token takes nothing.
        () = closing.cancelled() => None,
        // Cancel-safe: the watches keep their values.
        fault = faults.wait_for(Option::is_some) => fault.ok().and_then(|fault| fault.clone()).map(Stopped::Store),
        stopped = metrics.wait_for(|metrics| metrics.running_state.is_err()) => {
            let fatal = stopped.ok().and_then(|metrics| metrics.running_state.clone().err());
            fatal.map(|fatal| log.health().fault().map_or(Stopped::Raft(Box::new(fatal)), Stopped::Store))
        }
    };
    if let Err(error) = core.raft.shutdown().await {
        tracing::warn!(%error, "raft did not stop cleanly");
    }
    machine.close().await;
    log.close().await;
    ended.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests;
