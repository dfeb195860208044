//! One voter of `bench raft`: the program's hidden mode.
//!
//! The mesh and the consensus are the ones of a node, wired as `fleetd` and
//! `meshd` wire them but in one process: Raft is served on mesh streams to
//! peers that the mesh has proven. It reads questions from standard input,
//! answers on standard output, and stops when the input ends.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use osmoda_consensus::{
    Compaction, Consensus, ConsensusConfig, LogExpectation, Member, PeerNode, StateMachine, Timing, Transport,
    TransportError,
};
use osmoda_kit::clock::SystemClock;
use osmoda_kit::shutdown::{Shutdown, Stage};
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_mesh::{Mesh, MeshConfig, MeshHandle, StreamPeer, Tuning, incoming_stream, tonic_channel};
use osmoda_mesh_protocol::{Members, Service};
use osmoda_types::{NodeId, RaftId};
use tokio::io::{AsyncBufReadExt, BufReader};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Server};
use tonic::{Request, Status};

use super::proposers;
use super::words::{Answer, Ask, Totals};

/// The name of the hidden mode on the command line.
pub const COMMAND: &str = "raft-voter";

/// The folder of the mesh's files inside a voter's.
pub(super) const MESH_DIR: &str = "mesh";

/// The folder of the log inside a voter's.
const RAFT_DIR: &str = "raft";

/// How long links and leaders are waited for: several redials and elections.
const LIMIT: Duration = Duration::from_secs(20);

/// How long the parts may take to stop.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Which voter.
#[derive(Debug, clap::Args)]
pub struct VoterArgs {
    /// Its folder; the keys are there already.
    #[arg(long)]
    dir: PathBuf,

    /// Its place among the members, from zero.
    #[arg(long)]
    place: u64,
}

/// Runs a voter until its standard input ends.
///
/// # Errors
/// When it cannot start, one of its parts fails, or it does not stop in time.
pub fn run(args: &VoterArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(serve(args));
    // A thread may still wait for standard input; it has nothing to lose.
    runtime.shutdown_background();
    ended
}

async fn serve(args: &VoterArgs) -> anyhow::Result<()> {
    let tasks = Tasks::new(Shutdown::new());
    let voter = Voter::start(args, &tasks).await?;
    say(&Answer::Listens(voter.mesh.local_address()))?;
    let mut asks = BufReader::new(tokio::io::stdin()).lines();
    loop {
        let line = tokio::select! {
            biased;
            // Cancel-safe: waiting for the signal takes nothing.
            () = tasks.shutdown().requested() => bail!("a part of the voter failed: {:?}", tasks.shutdown().reason()),
            // Cancel-safe, as documented for `next_line`.
            line = asks.next_line() => line?,
        };
        let Some(line) = line else { break };
        let answer = voter.answer(serde_json::from_str(&line)?).await;
        say(&answer.unwrap_or_else(|error| Answer::Failed(format!("{error:#}"))))?;
    }
    let report = tasks.drain(DRAIN_LIMIT).await;
    anyhow::ensure!(report.is_graceful(), "late tasks: {:?}", report.late);
    Ok(())
}

fn say(answer: &Answer) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line)?;
    Ok(out.flush()?)
}

/// The state that the log decides about: how many commands there were. What a
/// real state machine costs is measured where it lives.
#[derive(Debug, Default)]
struct Count(u64);

impl StateMachine for Count {
    type RestoreError = std::array::TryFromSliceError;

    fn apply(&mut self, _: u64, _: RaftId, _: &[u8]) -> Vec<u8> {
        self.0 += 1;
        Vec::new()
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), Self::RestoreError> {
        self.0 = u64::from_be_bytes(bytes.try_into()?);
        Ok(())
    }
}

/// The way to other voters: through the mesh of this process.
struct OverMesh(MeshHandle);

impl Transport for OverMesh {
    async fn channel(&self, node: NodeId) -> Result<Channel, TransportError> {
        Ok(tonic_channel(&self.0, node, Service::Raft))
    }
}

struct Voter {
    mesh: MeshHandle,
    raft: Consensus<Count>,
}

impl Voter {
    async fn start(args: &VoterArgs, tasks: &Tasks) -> anyhow::Result<Self> {
        let state = osmoda_mesh::state::load(&args.dir.join(MESH_DIR))?;
        let config = MeshConfig {
            identity: state.identity,
            network: state.network,
            listen: ([127, 0, 0, 1], 0).into(),
            secrets: state.secrets,
            members: state.members,
            enroller: None,
            tuning: Tuning::default(),
        };
        let mesh = Mesh::start(config, tasks, SystemClock::shared())?;
        let config = ConsensusConfig {
            raft_id: raft_id(args.place),
            node_id: mesh.local_id(),
            data_dir: args.dir.join(RAFT_DIR),
            log: LogExpectation::MayBeNew,
            timing: Timing::LAN,
            compaction: Compaction::default(),
            clock: SystemClock::shared(),
        };
        let raft = Consensus::start(config, OverMesh(mesh.clone()), Count::default(), tasks).await?;
        let voter = Self { mesh, raft };
        voter.open(tasks)?;
        Ok(voter)
    }

    /// Serves Raft to the peers that the mesh lets in.
    fn open(&self, tasks: &Tasks) -> anyhow::Result<()> {
        let accepted = self.mesh.accept(Service::Raft)?;
        let stamp = |mut request: Request<()>| -> Result<Request<()>, Status> {
            let peer = request.extensions().get::<StreamPeer>().map(|peer| PeerNode(peer.node));
            request.extensions_mut().insert(peer.ok_or_else(|| Status::permission_denied("no proven peer"))?);
            Ok(request)
        };
        let stop = tasks.shutdown().token(Stage::FinishAccepted).cancelled_owned();
        let served = Server::builder()
            .add_service(InterceptedService::new(self.raft.service().server(), stamp))
            .serve_with_incoming_shutdown(incoming_stream(accepted), stop);
        tasks.spawn(TaskKind::CRITICAL, "raft service", served);
        Ok(())
    }

    async fn answer(&self, ask: Ask) -> anyhow::Result<Answer> {
        match ask {
            Ask::Meet(members) => self.meet(members).await.map(|()| Answer::Done),
            Ask::Begin => self.begin().await.map(|()| Answer::Done),
            Ask::Leader => self.leader().await.map(Answer::Leader),
            Ask::Totals => {
                let totals = self.raft.totals();
                let (syncs, commands, batches) = (totals.fsyncs_total, totals.commands_total, totals.batches_total);
                Ok(Answer::Totals(Totals { syncs, commands, batches }))
            }
            Ask::Load(load) => proposers::run(&self.raft, load).await.map(Answer::Loaded),
        }
    }

    async fn meet(&self, members: Members) -> anyhow::Result<()> {
        let own = self.mesh.local_id();
        let others: Vec<NodeId> =
            members.members.iter().map(|member| member.node).filter(|node| *node != own).collect();
        self.mesh.update_members(members).await?;
        let mut links = self.mesh.subscribe();
        let linked = links.wait_for(|links| others.iter().all(|node| links.is_up(node)));
        tokio::time::timeout(LIMIT, linked).await.context("no link to a voter")??;
        Ok(())
    }

    /// From this voter alone to all members.
    async fn begin(&self) -> anyhow::Result<()> {
        self.raft.initialize().await?;
        let mut status = self.raft.status();
        let leads = status.wait_for(|status| status.as_ref().is_some_and(osmoda_consensus::Status::leads));
        tokio::time::timeout(LIMIT, leads).await.context("a voter alone does not lead")??;
        let members = self.mesh.members();
        let seats = members.members.iter().zip(0..);
        let seats: Vec<Member> =
            seats.map(|(member, place)| Member { raft_id: raft_id(place), node_id: member.node }).collect();
        for seat in seats.iter().filter(|seat| **seat != self.raft.me()) {
            self.raft.add_learner(*seat).await?;
        }
        Ok(self.raft.change_membership(seats.iter().map(|seat| seat.raft_id).collect()).await?)
    }

    async fn leader(&self) -> anyhow::Result<usize> {
        let mut status = self.raft.status();
        let known = status.wait_for(|status| status.as_ref().is_some_and(|status| status.leader.is_some()));
        let known = tokio::time::timeout(LIMIT, known).await.context("no leader")??;
        let leader = known.as_ref().and_then(|status| status.leader).context("waited for a leader")?;
        let members = self.mesh.members();
        members.members.iter().position(|member| member.node == leader.node_id).context("a leader that is no member")
    }
}

/// Raft ids are random in a fleet, where a lost disk makes a new voter; here
/// the disks live as long as the group, so the place will do.
const fn raft_id(place: u64) -> RaftId {
    RaftId(place + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_survives_a_snapshot() {
        let mut count = Count(3);
        count.apply(1, RaftId(1), b"x");
        let mut copy = Count::default();
        copy.restore(&count.snapshot()).unwrap();
        assert_eq!(copy.0, 4);
        assert!(copy.restore(b"short").is_err());
    }
}
