//! A fleet of voters in one process, over real tonic in in-memory pipes.
//!
//! The pipes stand for mesh streams: they know who is at the other end, and
//! they can be cut.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use osmoda_consensus::{
    Compaction, Consensus, ConsensusConfig, LogExpectation, Member, RaftService, StateMachine, Timing, Transport,
    TransportError,
};
use osmoda_kit::clock::SystemClock;
use osmoda_kit::shutdown::Shutdown;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_types::{NodeId, RaftId};
use tempfile::TempDir;
use tokio::io::DuplexStream;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint, Server};

/// How long anything may take on a busy machine before a test fails.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);

/// A state that is the list of everything applied, each request once.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Words {
    pub(crate) words: Vec<String>,
    seen: BTreeSet<String>,
}

impl StateMachine for Words {
    type RestoreError = std::string::FromUtf8Error;

    fn apply(&mut self, _: u64, _: RaftId, command: &[u8]) -> Vec<u8> {
        let word = String::from_utf8_lossy(command).into_owned();
        // The command is its own request id here.
        if self.seen.insert(word.clone()) {
            self.words.push(word.clone());
        }
        word.into_bytes()
    }

    fn snapshot(&self) -> Vec<u8> {
        self.words.join("\n").into_bytes()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), Self::RestoreError> {
        let text = String::from_utf8(bytes.to_vec())?;
        self.words = text.lines().map(str::to_owned).collect();
        self.seen = self.words.iter().cloned().collect();
        Ok(())
    }
}

/// The network: who listens, and who is cut off.
#[derive(Clone)]
pub(crate) struct Net {
    listening: Arc<Mutex<HashMap<NodeId, (RaftService, Tasks)>>>,
    cut: watch::Sender<BTreeSet<NodeId>>,
    tasks: Tasks,
}

impl Net {
    pub(crate) fn new() -> Self {
        let tasks = Tasks::new(Shutdown::new());
        Self { listening: Arc::default(), cut: watch::Sender::new(BTreeSet::new()), tasks }
    }

    /// Cuts a node off from everybody, or joins it again.
    pub(crate) fn set_cut(&self, node: NodeId, is_cut: bool) {
        self.cut.send_modify(|cut| {
            let _changed = if is_cut { cut.insert(node) } else { cut.remove(&node) };
        });
    }

    /// A pipe from one node to another, as the mesh would give it.
    pub(crate) fn dial(&self, from: NodeId, to: NodeId) -> std::io::Result<DuplexStream> {
        let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        if self.cut.borrow().contains(&from) || self.cut.borrow().contains(&to) {
            return Err(refused());
        }
        let (service, tasks) = self.listening.lock().unwrap().get(&to).cloned().ok_or_else(refused)?;
        let (near, mut near_end) = tokio::io::duplex(1 << 20);
        let (mut far_end, far) = tokio::io::duplex(1 << 20);
        let mut cut = self.cut.subscribe();
        self.tasks.spawn(TaskKind::BACKGROUND, "pipe", async move {
            let is_cut = cut.wait_for(|cut| cut.contains(&from) || cut.contains(&to));
            tokio::select! {
                _ = is_cut => {}
                _ = tokio::io::copy_bidirectional(&mut near_end, &mut far_end) => {}
            }
        });
        tasks.spawn(TaskKind::BACKGROUND, "serve", async move {
            let incoming = tokio_stream::once(Ok::<_, std::io::Error>(far));
            let server = Server::builder().add_service(service.server_for(from)).serve_with_incoming(incoming);
            // A cut pipe is an error here and the point of the test.
            drop(server.await);
        });
        Ok(near)
    }

    /// A channel that dials whenever it has to.
    pub(crate) fn channel(&self, from: NodeId, to: NodeId) -> Channel {
        let net = self.clone();
        Endpoint::from_static("http://mesh").connect_with_connector_lazy(tower::service_fn(move |_| {
            let dialled = net.dial(from, to).map(TokioIo::new);
            async move { dialled }
        }))
    }
}

/// One node's way into the network.
pub(crate) struct From(pub(crate) Net, pub(crate) NodeId);

impl Transport for From {
    async fn channel(&self, node: NodeId) -> Result<Channel, TransportError> {
        Ok(self.0.channel(self.1, node))
    }
}

/// One running voter.
pub(crate) struct Voter {
    pub(crate) raft: Consensus<Words>,
    tasks: Tasks,
}

/// The fleet: folders survive a voter's stop.
pub(crate) struct Fleet {
    pub(crate) net: Net,
    dir: TempDir,
    pub(crate) voters: BTreeMap<u64, Voter>,
    compaction: Compaction,
}

pub(crate) fn node(id: u64) -> NodeId {
    NodeId::from_bytes([u8::try_from(id).unwrap(); 32])
}

pub(crate) fn seat(id: u64) -> Member {
    Member { raft_id: RaftId(id), node_id: node(id) }
}

/// Waits for a value with the common limit.
pub(crate) async fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    osmoda_kit::testing::wait_for(what, LIMIT, || std::future::ready(look())).await
}

impl Fleet {
    pub(crate) fn new(compaction: Compaction) -> Self {
        // What a busy disk does to an election is no subject here: in memory where
        // there is such a place. Nothing here is about what a power cut leaves.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap();
        Self { net: Net::new(), dir, voters: BTreeMap::new(), compaction }
    }

    /// Three voters, led by the first.
    pub(crate) async fn of_three() -> Self {
        let mut fleet = Self::new(Compaction::default());
        fleet.begin().await;
        fleet.grow().await;
        fleet
    }

    /// Voter 1 alone.
    pub(crate) async fn begin(&mut self) {
        self.start(1).await;
        self.raft(1).initialize().await.unwrap();
        self.leader_among(&[1]).await;
    }

    /// From one voter to three.
    pub(crate) async fn grow(&mut self) {
        for id in [2, 3] {
            self.start(id).await;
            self.raft(1).add_learner(seat(id)).await.unwrap();
        }
        for id in [2, 3] {
            wait_for("the learner caught up", || self.raft(1).lag(RaftId(id)).filter(|lag| *lag == 0)).await;
        }
        self.raft(1).change_membership([1, 2, 3].map(RaftId).into()).await.unwrap();
    }

    fn data_dir(&self, id: u64) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    /// Starts a voter, new or on the folder it had.
    pub(crate) async fn start(&mut self, id: u64) {
        let tasks = Tasks::new(Shutdown::new());
        let config = ConsensusConfig {
            raft_id: RaftId(id),
            node_id: node(id),
            data_dir: self.data_dir(id),
            log: LogExpectation::MayBeNew,
            timing: Timing::LAN,
            compaction: self.compaction,
            clock: SystemClock::shared(),
        };
        let raft = Consensus::start(config, From(self.net.clone(), node(id)), Words::default(), &tasks).await.unwrap();
        self.net.listening.lock().unwrap().insert(node(id), (raft.service(), tasks.clone()));
        self.voters.insert(id, Voter { raft, tasks });
    }

    /// Stops a voter; its folder stays.
    pub(crate) async fn stop(&mut self, id: u64) {
        self.net.listening.lock().unwrap().remove(&node(id));
        let voter = self.voters.remove(&id).unwrap();
        let report = voter.tasks.drain(Duration::from_secs(20)).await;
        assert!(report.is_graceful(), "late: {:?}", report.late);
    }

    pub(crate) fn raft(&self, id: u64) -> &Consensus<Words> {
        &self.voters[&id].raft
    }

    /// The voter that all of these follow, itself included.
    pub(crate) async fn leader_among(&self, ids: &[u64]) -> u64 {
        wait_for("one leader", || {
            let leaders: BTreeSet<_> =
                ids.iter().map(|id| self.status(*id).leader.map(|leader| leader.raft_id.0)).collect();
            let leader = leaders.first().copied().flatten()?;
            let is_one = leaders.len() == 1 && ids.contains(&leader) && self.raft(leader).leads_with_quorum();
            is_one.then_some(leader)
        })
        .await
    }

    pub(crate) fn status(&self, id: u64) -> osmoda_consensus::Status {
        let status = self.raft(id).status().borrow().clone();
        status.unwrap_or_else(|| osmoda_consensus::Status {
            me: seat(id),
            part: osmoda_consensus::Part::Learner,
            term: 0,
            leader: None,
            next_index: 0,
            last_index: None,
            members: Arc::default(),
            fault: None,
        })
    }

    /// Proposes until somebody committed it, as fleetd's forwarding would.
    pub(crate) async fn say(&self, word: &str) {
        wait_for_async(word, || async {
            for voter in self.voters.values() {
                if voter.raft.propose([0; 16], word.as_bytes().to_vec()).await.is_ok() {
                    return Some(());
                }
            }
            None
        })
        .await;
    }

    /// Waits until all of these hold exactly the expected words, in any one order.
    pub(crate) async fn all_hold(&self, ids: &[u64], expected: &BTreeSet<String>) {
        let lists = wait_for("equal states", || {
            let lists: Vec<Vec<String>> =
                ids.iter().map(|id| self.raft(*id).read(|state, _| state.words.clone())).collect();
            let is_full = lists.iter().all(|list| list.len() >= expected.len());
            is_full.then_some(lists)
        })
        .await;
        for list in &lists {
            assert_eq!(list, &lists[0], "the same order everywhere");
            assert_eq!(list.len(), expected.len(), "nothing twice");
            assert_eq!(&list.iter().cloned().collect::<BTreeSet<_>>(), expected);
        }
    }
}

async fn wait_for_async<F: Future<Output = Option<()>>>(what: &str, look: impl FnMut() -> F) {
    osmoda_kit::testing::wait_for(what, LIMIT, look).await;
}
