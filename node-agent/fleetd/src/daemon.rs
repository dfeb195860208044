//! Puts the parts together: the composition root of fleetd.

use std::sync::Arc;

use osmoda_consensus::{Compaction, Consensus, ConsensusConfig, LogExpectation};
use osmoda_kit::boot::{Boot, BootError, Daemon, Service};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::CallerTable;
use osmoda_kit::keys;
use osmoda_kit::stream::{Opening, serve_streams};
use osmoda_kit::tasks::TaskKind;
use osmoda_node_api::agentd::AgentdClient;
use osmoda_node_api::approval::ApprovalClient;
use osmoda_node_api::mesh::{MeshClient, MeshPipes, StreamPeer};
use osmoda_node_api::watch::WatchClient;
use osmoda_types::command::{Body, Command};
use osmoda_types::{ErrorCode, Member, NodeId, RaftId, RequestId, Role};

use crate::ballots::Elector;
use crate::beginning::{self, Beginning, FleetDir, Genesis};
use crate::config::Config;
use crate::dialling::{Dialler, RaftTransport};
use crate::epochs::Epochs;
use crate::fsm::Fsm;
use crate::http::{Api, Voting};
use crate::inbound::{self, Inbound, Waiting};
use crate::invites::Invites;
use crate::journalist;
use crate::leader::Driver;
use crate::leader_client::LeaderClient;
use crate::ledgers::Heads;
use crate::link::Links;
use crate::manifests::Manifests;
use crate::membership::{AllowList, RaftMembership};
use crate::participant::Participant;
use crate::peers::Peers;
use crate::registrar::Registrar;
use crate::replica::{self, Follower, Replica};
use crate::reports::Reports;
use crate::service::FleetService;
use crate::sources::Sources;
use crate::trust::Trust;
use crate::voter::Voter;
use crate::voters::Voters;

/// How long staging may take: `watch` verifies every signature of a closure.
const STAGE_TIME: std::time::Duration = std::time::Duration::from_secs(300);

/// The daemon.
#[derive(Debug)]
pub struct Fleetd;

impl Daemon for Fleetd {
    const NAME: &'static str = "fleetd";
    type Config = Config;

    fn callers() -> CallerTable {
        osmoda_node_api::callers::FLEETD
    }

    async fn build(cx: Boot, config: Config) -> Result<Service, BootError> {
        let parts = Parts::gather(&cx)?;
        let voting = match parts.member.role {
            Role::Voter => Some(parts.begin_voting(&cx, &config).await?),
            _ => {
                parts.follow_others(&cx);
                None
            }
        };
        parts.take_part(&cx, voting.as_ref().map(|voting| voting.voter.clone()));
        let api = Api {
            node: parts.member.node,
            replica: parts.replica.clone(),
            client: parts.client.clone(),
            voters: parts.voters.clone(),
            voting,
        };
        Ok(Service::new(crate::http::router(api)))
    }
}

/// What both kinds of node have.
struct Parts {
    dir: FleetDir,
    beginning: Beginning,
    member: Member,
    follower: std::sync::Mutex<Option<Follower>>,
    replica: Replica,
    inbound: Inbound,
    waiting: std::sync::Mutex<Option<Waiting>>,
    peers: Peers,
    client: LeaderClient,
    voters: Voters,
    sources: Sources,
    mesh: MeshClient,
}

fn refused(error: beginning::Error) -> ApiError {
    ApiError::new(error.code(), error.to_string()).with_source(error)
}

impl Parts {
    fn gather(cx: &Boot) -> Result<Self, ApiError> {
        let dir = FleetDir::new(cx.state_dir());
        let beginning = dir.beginning().map_err(refused)?;
        let member = beginning.member().clone();
        let manifests = Manifests::open(dir.manifests())
            .map_err(|error| ApiError::new(error.code(), error.to_string()).with_source(error))?;
        let mesh = MeshClient::new(cx.client("mesh"));
        let (follower, replica, events) = replica::new(cx.shutdown().clone());
        let (inbound, waiting) = inbound::new();
        let pipes = MeshPipes::new(cx.paths(), cx.credentials());
        let peers = Peers::new(Arc::new(Dialler { node: member.node, pipes, own: inbound.clone() }));
        let seeds = match &beginning {
            Beginning::Joined(joined) => joined.voters.clone(),
            Beginning::Genesis(_) | Beginning::Begun(_) => vec![member.node],
        };
        let voters = Voters::new(replica.clone(), seeds);
        let client = LeaderClient::new(peers.clone());
        let written = journalist::write(events, cx.audit(), cx.shutdown().clone());
        cx.tasks().spawn(TaskKind::CRITICAL, "transitions to the ledger", written);
        Ok(Self {
            dir,
            beginning,
            member,
            follower: std::sync::Mutex::new(Some(follower)),
            replica,
            inbound,
            waiting: std::sync::Mutex::new(Some(waiting)),
            peers,
            client,
            voters,
            sources: Sources::new(manifests, mesh.clone(), cx.tasks().clone()),
            mesh,
        })
    }

    fn follower(&self) -> Follower {
        let taken = self.follower.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        taken.expect("a daemon is built once and follows one log")
    }

    fn waiting(&self) -> Waiting {
        let taken = self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        taken.expect("a daemon is built once and serves its pipes once")
    }

    /// A node without a vote reads the log from voters.
    fn follow_others(&self, cx: &Boot) {
        let voters = self.voters.clone();
        let turn = usize::from(self.member.node.as_bytes()[0]);
        let followed = self.follower().follow_voters(self.client.clone(), move || voters.list(), turn);
        cx.tasks().spawn(TaskKind::CRITICAL, "fleet log", followed);
    }

    /// A voter opens its log, serves its peers and begins to drive and to vote.
    async fn begin_voting(&self, cx: &Boot, config: &Config) -> Result<Voting, BootError> {
        let consensus = self.open_raft(cx, config).await?;
        let me = consensus.me();
        let followed = self.follower().follow_own(consensus.clone());
        cx.tasks().spawn(TaskKind::CRITICAL, "fleet log", followed);
        let voter = Voter::new(consensus.clone(), self.replica.clone(), cx.tasks().clone());
        let invites = Invites::new(
            me.node_id,
            self.mesh.clone(),
            self.client.clone(),
            self.voters.clone(),
            self.replica.clone(),
            cx.clock(),
        );
        let reports = Reports::default();
        let service = FleetService::new(voter.clone(), self.sources.clone(), reports.clone(), invites.clone());
        // Before anybody can reach this voter: nothing stands before the genesis.
        if let Beginning::Genesis(genesis) = &self.beginning {
            self.begin_fleet(&voter, genesis).await?;
        }
        self.waiting().serve(&consensus.service(), service, cx.tasks());
        self.listen(cx)?;
        let elector = self.start_voting(cx, me.node_id, me.raft_id)?;
        let driver = Driver {
            voter: voter.clone(),
            reports,
            mesh: self.mesh.clone(),
            clock: cx.clock(),
            shutdown: cx.shutdown().clone(),
        };
        cx.tasks().spawn(TaskKind::CRITICAL, "rollout driver", driver.run());
        let membership = RaftMembership { voter: voter.clone(), shutdown: cx.shutdown().clone() };
        cx.tasks().spawn(TaskKind::CRITICAL, "raft membership", membership.run());
        Ok(Voting { voter, invites, elector })
    }

    async fn open_raft(&self, cx: &Boot, config: &Config) -> Result<Consensus<Fsm>, ApiError> {
        let fresh = RaftId(uuid::Uuid::new_v4().as_u64_pair().0);
        let log_exists = beginning::log_exists(&self.dir.raft());
        let raft_id = self.dir.incarnation(fresh, log_exists).map_err(refused)?;
        let config = ConsensusConfig {
            raft_id,
            node_id: self.member.node,
            data_dir: self.dir.raft(),
            log: if self.dir.is_confirmed() { LogExpectation::MustExist } else { LogExpectation::MayBeNew },
            timing: config.timing(),
            compaction: Compaction::default(),
            clock: cx.clock(),
        };
        let transport = RaftTransport(self.peers.clone());
        let consensus = Consensus::start(config, transport, Fsm::default(), cx.tasks()).await;
        let consensus = consensus.map_err(|error| ApiError::new(error.code(), error.to_string()).with_source(error))?;
        self.dir.confirm_incarnation().map_err(refused)?;
        Ok(consensus)
    }

    fn listen(&self, cx: &Boot) -> Result<(), BootError> {
        let listener = cx.listen("fleetd-mesh")?;
        let inbound = self.inbound.clone();
        serve_streams(cx.tasks(), "fleetd-mesh", listener, cx.callers(), move |opening: Opening<StreamPeer>| {
            let inbound = inbound.clone();
            async move { inbound.take(opening).await }
        });
        Ok(())
    }

    /// Writes the fleet's first entry. Interrupted anywhere, the next start goes
    /// on: Raft begins once, and the entry has the network's own request id.
    async fn begin_fleet(&self, voter: &Voter, genesis: &Genesis) -> Result<(), ApiError> {
        use osmoda_consensus::MembershipError;
        let failed = |error: MembershipError| ApiError::new(error.code(), error.to_string()).with_source(error);
        match voter.raft().initialize().await {
            Ok(()) | Err(MembershipError::AlreadyBegun) => {}
            Err(error) => return Err(failed(error)),
        }
        let mut request = [0; 16];
        request.copy_from_slice(&genesis.network.as_bytes()[..16]);
        let body = Body::Genesis(osmoda_types::command::Genesis {
            network: genesis.network,
            mesh_epoch: genesis.mesh_epoch,
            secret_hash: genesis.secret_hash,
            principals: genesis.principals.clone(),
            member: genesis.member.clone(),
        });
        let command = Command { request: RequestId::from_bytes(request), body };
        let mut status = voter.raft().status();
        let leads = status.wait_for(|status| status.as_ref().is_some_and(|status| status.leads()));
        // The only voter of its group elects itself within one time-out.
        let waited = tokio::time::timeout(GENESIS_TIME, leads).await;
        waited.map_err(|_| unavailable())?.map_err(|_| unavailable())?;
        let reply = voter.propose(&command).await.map_err(|error| ApiError::new(error.code(), error.to_string()))?;
        match reply.refused {
            None => self.dir.genesis_committed().map_err(refused),
            Some(code) => Err(ApiError::new(code, "the genesis was refused")),
        }
    }

    fn start_voting(&self, cx: &Boot, node: NodeId, raft_id: RaftId) -> Result<Arc<Elector>, ApiError> {
        let path = self.dir.ballot_key();
        let key = if path.exists() { keys::load_signing(&path)? } else { keys::generate_signing(&path)? };
        let registrar = Registrar {
            node,
            raft_id,
            key: key.clone(),
            mesh: self.mesh.clone(),
            replica: self.replica.clone(),
            client: self.client.clone(),
            voters: self.voters.clone(),
            shutdown: cx.shutdown().clone(),
        };
        cx.tasks().spawn(TaskKind::REQUEST, "registrar", registrar.run());
        let elector = Arc::new(Elector {
            node,
            key,
            replica: self.replica.clone(),
            client: self.client.clone(),
            voters: self.voters.clone(),
            sources: self.sources.clone(),
            shutdown: cx.shutdown().clone(),
        });
        cx.tasks().spawn(TaskKind::CRITICAL, "ballots", elector.clone().run());
        Ok(elector)
    }

    /// What every node does: follow the allow-list and the mesh epoch, take part, tell controllers.
    fn take_part(&self, cx: &Boot, voter: Option<Voter>) {
        let allow_list = AllowList {
            replica: self.replica.clone(),
            mesh: self.mesh.clone(),
            peers: self.peers.clone(),
            shutdown: cx.shutdown().clone(),
        };
        cx.tasks().spawn(TaskKind::CRITICAL, "allow-list", allow_list.run());
        let epochs = Epochs {
            replica: self.replica.clone(),
            mesh: self.mesh.clone(),
            voter,
            clock: cx.clock(),
            shutdown: cx.shutdown().clone(),
        };
        cx.tasks().spawn(TaskKind::CRITICAL, "mesh epoch", epochs.run());
        // Each keeps whom it believes for itself, and checks each order itself.
        for daemon in ["watch", "execd", "agentd"] {
            let trust = Trust {
                replica: self.replica.clone(),
                host: WatchClient::new(cx.client(daemon)),
                shutdown: cx.shutdown().clone(),
            };
            cx.tasks().spawn(TaskKind::CRITICAL, format!("operators to {daemon}"), trust.run());
        }
        let participant = Participant {
            node: self.member.node,
            replica: self.replica.clone(),
            client: self.client.clone(),
            voters: self.voters.clone(),
            host: WatchClient::new(cx.client("watch").with_time_limit(STAGE_TIME)),
            sources: self.sources.clone(),
            shutdown: cx.shutdown().clone(),
        };
        cx.tasks().spawn(TaskKind::CRITICAL, "participant", participant.run());
        let heads = Heads {
            node: self.member.node,
            ledger: AgentdClient::new(cx.client("agentd")),
            replica: self.replica.clone(),
            client: self.client.clone(),
            voters: self.voters.clone(),
            shutdown: cx.shutdown().clone(),
        };
        cx.tasks().spawn(TaskKind::CRITICAL, "ledger head to the log", heads.run());
        let links = Links {
            node: self.member.node,
            name: self.member.name.clone(),
            replica: self.replica.clone(),
            peers: self.peers.clone(),
            host: WatchClient::new(cx.client("watch")),
            ledger: AgentdClient::new(cx.client("agentd")),
            approvals: ApprovalClient::new(cx.client("agentd")),
            clock: cx.clock(),
            tasks: cx.tasks().clone(),
            shutdown: cx.shutdown().clone(),
        };
        cx.tasks().spawn(TaskKind::CRITICAL, "links", links.run());
    }
}

/// How long the only voter may take to lead: an election and an fsync.
const GENESIS_TIME: std::time::Duration = std::time::Duration::from_secs(10);

fn unavailable() -> ApiError {
    ApiError::new(ErrorCode::RaftUnavailable, "this voter does not lead its own fleet")
}
