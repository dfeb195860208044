//! A whole voter on a disk that runs full, and what refuses to start.

use std::time::Duration;

use osmoda_kit::clock::SystemClock;
use osmoda_kit::shutdown::{Shutdown, StopReason};
use osmoda_types::ErrorCode;
use tonic::transport::Channel;

use super::*;
use crate::links::TransportError;
use crate::store::Engine;
use crate::store::disk::{Dice, Disk};
use crate::types::COMMAND_BYTES_MAX;

/// Nobody else is there.
struct Alone;

impl Transport for Alone {
    async fn channel(&self, node: NodeId) -> Result<Channel, TransportError> {
        Err(TransportError { node, source: "nobody is there".into() })
    }
}

/// A state that counts.
#[derive(Default)]
struct Count(u64);

impl StateMachine for Count {
    type RestoreError = std::num::ParseIntError;

    fn apply(&mut self, _: u64, _: RaftId, _: &[u8]) -> Vec<u8> {
        self.0 += 1;
        self.0.to_string().into_bytes()
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.to_string().into_bytes()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), Self::RestoreError> {
        self.0 = String::from_utf8_lossy(bytes).parse()?;
        Ok(())
    }
}

fn config(dir: &std::path::Path, log: LogExpectation) -> ConsensusConfig {
    ConsensusConfig {
        raft_id: RaftId(1),
        node_id: NodeId::from_bytes([1; 32]),
        data_dir: dir.join("raft"),
        log,
        timing: Timing::LAN,
        compaction: Compaction::default(),
        clock: SystemClock::shared(),
    }
}

fn tasks() -> Tasks {
    Tasks::new(Shutdown::new())
}

async fn until_leads(voter: &Consensus<Count>) {
    let mut status = voter.status();
    let leads = status.wait_for(|status| status.as_ref().is_some_and(Status::leads));
    tokio::time::timeout(Duration::from_secs(20), leads).await.expect("a voter alone leads at once").unwrap();
}

async fn start(dir: &std::path::Path, log: LogExpectation, tasks: &Tasks) -> Result<Consensus<Count>, StartError> {
    Consensus::start(config(dir, log), Alone, Count::default(), tasks).await
}

#[tokio::test]
async fn a_voter_alone_commits_and_remembers_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let tasks1 = tasks();
    let voter = start(dir.path(), LogExpectation::MayBeNew, &tasks1).await.unwrap();
    assert!(voter.log_summary().is_pristine);
    voter.initialize().await.unwrap();
    assert_eq!(voter.initialize().await, Err(MembershipError::AlreadyBegun));
    until_leads(&voter).await;
    for n in 1..=10_u8 {
        let reply = voter.propose([n; 16], vec![n]).await.unwrap();
        assert_eq!(reply.bytes, n.to_string());
    }
    voter.write_snapshot().await.unwrap();
    voter.propose([11; 16], vec![11]).await.unwrap();
    assert!(tasks1.drain(Duration::from_secs(20)).await.is_graceful());
    assert_eq!(voter.propose([12; 16], vec![12]).await, Err(ProposeError::Unavailable));
    drop(voter);

    let tasks2 = tasks();
    let voter = start(dir.path(), LogExpectation::MustExist, &tasks2).await.unwrap();
    until_leads(&voter).await;
    voter.linearizable().await.unwrap();
    assert_eq!(voter.read(|state, _| state.0), 11);
    assert!(tasks2.drain(Duration::from_secs(20)).await.is_graceful());
}

#[tokio::test]
async fn a_missing_log_that_must_exist_is_amnesia() {
    let dir = tempfile::tempdir().unwrap();
    let refused = start(dir.path(), LogExpectation::MustExist, &tasks()).await.err().unwrap();
    assert_eq!(refused.code(), ErrorCode::RaftAmnesia);
}

#[tokio::test]
async fn a_snapshot_without_its_log_is_amnesia() {
    let dir = tempfile::tempdir().unwrap();
    let tasks1 = tasks();
    let voter = start(dir.path(), LogExpectation::MayBeNew, &tasks1).await.unwrap();
    voter.initialize().await.unwrap();
    until_leads(&voter).await;
    voter.write_snapshot().await.unwrap();
    let snapshot = dir.path().join("raft/snapshot.bin");
    let written = || async { snapshot.exists().then_some(()) };
    osmoda_kit::testing::wait_for("the snapshot", Duration::from_secs(20), written).await;
    tasks1.drain(Duration::from_secs(20)).await;
    drop(voter);
    std::fs::remove_file(dir.path().join("raft/raft.redb")).unwrap();
    let refused = start(dir.path(), LogExpectation::MayBeNew, &tasks()).await.err().unwrap();
    assert_eq!(refused.code(), ErrorCode::RaftAmnesia);
}

#[tokio::test]
async fn a_full_queue_refuses_and_every_accepted_command_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let tasks1 = tasks();
    let voter = start(dir.path(), LogExpectation::MayBeNew, &tasks1).await.unwrap();
    voter.initialize().await.unwrap();
    until_leads(&voter).await;
    let answers = futures_util::future::join_all((0..6000_u32).map(|_| voter.propose([0; 16], vec![0]))).await;
    let busy = answers.iter().filter(|answer| **answer == Err(ProposeError::Busy)).count();
    let committed = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!(busy > 0);
    assert_eq!(busy + committed, 6000);
    assert_eq!(voter.read(|state, _| state.0), committed as u64);
    tasks1.drain(Duration::from_secs(20)).await;
}

#[tokio::test]
async fn a_log_that_was_cut_needs_its_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let tasks1 = tasks();
    let mut small = config(dir.path(), LogExpectation::MayBeNew);
    small.compaction = Compaction { snapshot_after_entries: 5, keep_entries: 0 };
    let voter = Consensus::start(small, Alone, Count::default(), &tasks1).await.unwrap();
    voter.initialize().await.unwrap();
    until_leads(&voter).await;
    for n in 0..30_u8 {
        voter.propose([n; 16], vec![n]).await.unwrap();
    }
    let log = voter.shared.log.clone();
    osmoda_kit::testing::wait_for("the log is cut", Duration::from_secs(20), || async { log.purged() }).await;
    tasks1.drain(Duration::from_secs(20)).await;
    drop((voter, log));
    std::fs::remove_file(dir.path().join("raft/snapshot.bin")).unwrap();
    let refused = start(dir.path(), LogExpectation::MustExist, &tasks()).await.err().unwrap();
    assert_eq!(refused.code(), ErrorCode::RaftLogCorrupt);
}

#[tokio::test]
async fn a_corrupt_log_refuses_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let tasks1 = tasks();
    let voter = start(dir.path(), LogExpectation::MayBeNew, &tasks1).await.unwrap();
    voter.initialize().await.unwrap();
    until_leads(&voter).await;
    tasks1.drain(Duration::from_secs(20)).await;
    drop(voter);
    let path = dir.path().join("raft/raft.redb");
    let len = std::fs::metadata(&path).unwrap().len();
    std::fs::write(&path, vec![0xa5; usize::try_from(len).unwrap()]).unwrap();
    let refused = start(dir.path(), LogExpectation::MustExist, &tasks()).await.err().unwrap();
    assert_eq!(refused.code(), ErrorCode::RaftLogCorrupt);
}

/// A voter whose log is on `disk`.
async fn start_on(disk: &Disk, dir: &std::path::Path, tasks: &Tasks) -> Consensus<Count> {
    let config = config(dir, LogExpectation::MayBeNew);
    let counters = Arc::<Counters>::default();
    let engine = Engine::open_backend(disk.clone(), 1, counters.clone()).unwrap();
    let log = LogStore::start(engine, counters.clone()).unwrap();
    let machine = Machine::open(Count::default(), SnapshotFile::new(dir), log.health().clone()).unwrap();
    let links = Arc::new(Links::new(Alone));
    let network = Network { me: 1, heartbeat: config.timing.heartbeat, links: links.clone() };
    let raft_config = Arc::new(raft_config(&config).unwrap());
    let raft = Raft::new(1, raft_config, network, log.clone(), machine.clone()).await.unwrap();
    let me = Member { raft_id: config.raft_id, node_id: config.node_id };
    let core = Arc::new(Core::new(raft, me, config.timing, links));
    Consensus::run(core, log, machine, counters, config.clock, tasks)
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_acknowledged_and_the_program_stops() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::default();
    let tasks1 = tasks();
    let voter = start_on(&disk, dir.path(), &tasks1).await;
    voter.initialize().await.unwrap();
    until_leads(&voter).await;
    assert_eq!(voter.propose([1; 16], vec![1]).await.unwrap().bytes, "1");
    disk.fill();
    assert!(matches!(voter.propose([2; 16], vec![2]).await, Err(ProposeError::Unknown)));
    tasks1.shutdown().requested().await;
    let Some(StopReason::Failed(reason)) = tasks1.shutdown().reason() else { panic!("not a failure") };
    assert!(reason.contains("no space is left"), "{reason}");
    assert_eq!(voter.fault().map(|fault| fault.code()), Some(ErrorCode::DiskFull));
    assert!(voter.propose([3; 16], vec![3]).await.is_err());
    tasks1.drain(Duration::from_secs(20)).await;
    drop(voter);

    let tasks2 = tasks();
    let voter = start_on(&disk.lose_power(&mut Dice::new(1)), dir.path(), &tasks2).await;
    until_leads(&voter).await;
    voter.linearizable().await.unwrap();
    assert_eq!(voter.read(|state, _| state.0), 1, "the refused command must not be there");
    tasks2.drain(Duration::from_secs(20)).await;
}

#[tokio::test]
async fn a_command_over_the_limit_is_refused_and_the_largest_one_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let tasks1 = tasks();
    let voter = start(dir.path(), LogExpectation::MayBeNew, &tasks1).await.unwrap();
    assert_eq!(voter.propose([0; 16], vec![0]).await, Err(ProposeError::NotLeader { leader: None }));
    voter.initialize().await.unwrap();
    until_leads(&voter).await;
    voter.propose([1; 16], vec![0; COMMAND_BYTES_MAX]).await.unwrap();
    let refused = voter.propose([2; 16], vec![0; COMMAND_BYTES_MAX + 1]).await;
    assert_eq!(refused, Err(ProposeError::TooLarge { bytes: COMMAND_BYTES_MAX + 1 }));
    tasks1.drain(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_proposals_share_entries_and_fsyncs() {
    let dir = tempfile::tempdir().unwrap();
    let tasks1 = tasks();
    let voter = start(dir.path(), LogExpectation::MayBeNew, &tasks1).await.unwrap();
    voter.initialize().await.unwrap();
    until_leads(&voter).await;
    let before = voter.totals();
    let proposals = (0..512_u32).map(|n| {
        let id: [u8; 16] = std::array::from_fn(|i| n.to_be_bytes()[i % 4]);
        voter.propose(id, n.to_be_bytes().to_vec())
    });
    for reply in futures_util::future::join_all(proposals).await {
        reply.unwrap();
    }
    let after = voter.totals();
    assert_eq!(after.commands_total - before.commands_total, 512);
    let fsyncs = after.fsyncs_total - before.fsyncs_total;
    assert!(fsyncs * 10 <= 512, "{fsyncs} fsyncs for 512 commands");
    assert_eq!(voter.read(|state, _| state.0), 512);
    tasks1.drain(Duration::from_secs(20)).await;
}
