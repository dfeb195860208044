//! A node for these tests: its mesh daemon between small stand-ins for agentd and
//! fleetd.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use osmoda_kit::boot::{self, BootArgs, BootError, Ended};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::{CallerTable, Callers, Credentials, Json, TokenFile, UnixClient, serve_unix};
use osmoda_kit::secret::Secret;
use osmoda_kit::shutdown::{Shutdown, StopReason};
use osmoda_kit::stream::{Opening, serve_streams};
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_kit::testing::{TempRoot, wait_for};
use osmoda_mesh::{EpochSecret, Identity as Keys, state};
use osmoda_node_api::callers;
use osmoda_node_api::mesh::{
    Enrolment, Member, Members, MeshClient, MeshPipes, RotateAnswer, RotateRequest, SecretBytes, Service, SpendRequest,
    StreamPeer,
};
use osmoda_node_api::pipes::{AGENTD_SOCKET, WITNESS};
use osmoda_types::{ErrorCode, MeshEpoch, NetworkId, NodeId, Role};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::sync::oneshot;

use crate::Meshd;

pub(super) const LIMIT: Duration = Duration::from_secs(20);
pub(super) const NETWORK: NetworkId = NetworkId::from_bytes([7; 32]);
pub(super) const SECRET: [u8; 32] = [8; 32];

/// A node: its root, its stand-ins and, while it runs, its mesh daemon.
pub(super) struct Host {
    pub(super) root: TempRoot,
    tasks: Tasks,
    pub(super) keys: Arc<Keys>,
    tokens: Vec<(&'static str, TokenFile)>,
    running: Option<(Shutdown, oneshot::Receiver<Result<Ended, BootError>>)>,
}

impl Host {
    /// An enrolled voter with stand-ins for agentd and fleetd.
    pub(super) fn new() -> Self {
        let root = TempRoot::new();
        let keys = state::create_identity(&root.paths().state("mesh")).unwrap();
        let tokens = TokenFile::mint(callers::USERS);
        let host = Self { root, tasks: Tasks::new(Shutdown::new()), keys, tokens, running: None };
        let members = Members { index: 1, epoch: MeshEpoch(1), members: vec![host.member(vec![])] };
        let initial = state::Initial {
            network: NETWORK,
            secret: EpochSecret { epoch: MeshEpoch(1), secret: SecretBytes::new(SECRET) },
            rejoin_secret: SecretBytes::new([9; 32]),
            members,
        };
        state::write_initial(&host.root.paths().state("mesh"), &initial).unwrap();
        std::fs::write(host.root.paths().config("mesh"), "listen = \"127.0.0.1:0\"\n").unwrap();
        host.stand_ins();
        host
    }

    pub(super) fn member(&self, addresses: Vec<std::net::SocketAddr>) -> Member {
        Member {
            node: self.keys.node(),
            mesh_key: self.keys.mesh_key(),
            identity_key: self.keys.identity_key(),
            role: Role::Voter,
            name: format!("n-{}", self.keys.node().short()),
            addresses,
        }
    }

    fn token(&self, daemon: &str) -> &TokenFile {
        &self.tokens.iter().find(|(name, _)| *name == daemon).unwrap().1
    }

    fn credentials(&self, daemon: &str) -> Credentials {
        Credentials::token(Secret::new(self.token(daemon).own.clone()))
    }

    fn callers(&self, table: CallerTable) -> Arc<Callers> {
        let peers = self.token("mesh").peers(table.daemons).unwrap();
        Arc::new(Callers::by_tokens(table, rustix::process::geteuid().as_raw(), peers))
    }

    fn listener(&self, socket: &str) -> UnixListener {
        UnixListener::bind(self.root.paths().socket(socket)).unwrap()
    }

    fn stand_ins(&self) {
        let append = async || axum::Json(json!({ "id": 1, "hash": "00" }));
        let agentd = Router::new().route("/ledger/append", post(append));
        serve_unix(&self.tasks, "agentd", self.listener("agentd"), agentd, self.callers(callers::AGENTD));
        let issuer = self.member(vec![]);
        let spent = Arc::new(AtomicUsize::new(0));
        let spend = move |Json(request): Json<SpendRequest>| {
            let enrolment = enrolment(issuer.clone(), request, spent.fetch_add(1, Relaxed));
            async move { axum::Json(enrolment) }
        };
        let (tries, node) = (AtomicUsize::new(0), self.keys.node());
        let tries = Arc::new(tries);
        let rotate = move |Json(ask): Json<RotateRequest>| {
            let answer = log_of_tries(ask, node, tries.fetch_add(1, Relaxed));
            async move { answer.map(axum::Json) }
        };
        let fleetd = Router::new().route("/mesh/spend", post(spend)).route("/mesh/rotate", post(rotate));
        serve_unix(&self.tasks, "fleetd", self.listener("fleetd"), fleetd, self.callers(callers::FLEETD));
        let echo = async |opening: Opening<StreamPeer>| {
            let (peer, mut pipe) = opening.accept().await.unwrap();
            pipe.write_all(format!("{} {}:", peer.role, peer.node).as_bytes()).await.unwrap();
            let (mut read, mut write) = pipe.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
        };
        self.answer_witnesses();
        let pipes = self.listener("fleetd-mesh");
        serve_streams(&self.tasks, "fleetd-mesh", pipes, self.callers(callers::FLEETD), echo);
    }

    /// Agentd's part of the service `witness`: says back who asked what.
    fn answer_witnesses(&self) {
        let (listener, callers) = (self.listener(AGENTD_SOCKET), self.callers(callers::AGENTD));
        let answer = async |peer: StreamPeer, question: Value| match question {
            Value::Null => Err(ApiError::new(ErrorCode::LedgerBroken, "not for the peer")),
            question => Ok(json!({ "peer": peer.node, "role": peer.role, "question": question })),
        };
        WITNESS.serve(&self.tasks, AGENTD_SOCKET, listener, callers, answer);
    }

    pub(super) fn pipes(&self, daemon: &str) -> MeshPipes {
        MeshPipes::new(&self.root.paths(), self.credentials(daemon))
    }

    pub(super) async fn start(&mut self) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&serde_json::to_vec(self.token("mesh")).unwrap()).unwrap();
        let args = BootArgs { token_fd: Some(file.as_raw_fd().unsigned_abs()), ..BootArgs::at(self.root.path()) };
        let (shutdown, (sender, receiver)) = (Shutdown::new(), oneshot::channel());
        let signal = shutdown.clone();
        self.tasks.spawn(TaskKind::BACKGROUND, "mesh daemon", async move {
            let ended = boot::serve::<Meshd>(&args, signal).await;
            drop(file);
            assert!(sender.send(ended).is_ok());
        });
        self.running = Some((shutdown, receiver));
        let mesh = self.mesh("fleetd");
        wait_for("the daemon", LIMIT, async || mesh.identity().await.ok()).await;
    }

    pub(super) async fn stop(&mut self) {
        let (shutdown, ended) = self.running.take().unwrap();
        shutdown.request(StopReason::Asked("test".to_owned()));
        let ended = ended.await.unwrap().unwrap();
        assert!(ended.is_graceful(), "{ended:?}");
    }

    pub(super) fn mesh(&self, daemon: &str) -> MeshClient {
        MeshClient::new(UnixClient::new(self.root.paths().socket("mesh"), self.credentials(daemon)))
    }

    pub(super) async fn talk(&self, peer: NodeId, service: Service) -> Result<String, ApiError> {
        let mut pipe = self.pipes("fleetd").open(peer, service).await?;
        let broke = |error: std::io::Error| ApiError::new(ErrorCode::PeerOffline, error.to_string());
        pipe.write_all(b"through two daemons").await.map_err(broke)?;
        pipe.shutdown().await.map_err(broke)?;
        let mut answer = String::new();
        pipe.read_to_string(&mut answer).await.map_err(broke)?;
        Ok(answer)
    }

    /// What a peer echoes, however often both ends dialled.
    pub(super) async fn heard(&self, peer: NodeId, service: Service, expected: &str) {
        assert_eq!(self.talk(peer, service).await.unwrap(), expected);
    }
}

/// A log that refuses the keys, then the moment, is away, and takes the change.
fn log_of_tries(ask: RotateRequest, node: NodeId, tried: usize) -> Result<RotateAnswer, ApiError> {
    assert_eq!(ask.succession.node, node);
    match tried {
        0 => Ok(RotateAnswer { index: 6, refused: Some(ErrorCode::Conflict) }),
        1 => Ok(RotateAnswer { index: 7, refused: Some(ErrorCode::AttemptConflict) }),
        2 => Err(ApiError::new(ErrorCode::RaftUnavailable, "no leader")),
        _ => Ok(RotateAnswer { index: 8, refused: None }),
    }
}

/// With another secret for coming back each time.
fn enrolment(issuer: Member, request: SpendRequest, spent: usize) -> Enrolment {
    let joiner = Member {
        node: request.node,
        mesh_key: request.mesh_key,
        identity_key: request.request.identity_key,
        role: Role::Node,
        name: request.request.name,
        addresses: request.request.addresses,
    };
    let members = Members { index: 2, epoch: MeshEpoch(1), members: vec![issuer, joiner] };
    Enrolment { role: Role::Node, members, operators: vec![], rejoin_secret: SecretBytes::new([6 + spent as u8; 32]) }
}

/// Tells both daemons about both nodes, as their fleetd would.
pub(super) async fn introduce(hosts: [&Host; 2], index: u64) -> Members {
    let mut members = Vec::new();
    for host in hosts {
        members.push(host.member(vec![host.mesh("fleetd").identity().await.unwrap().listen]));
    }
    let members = Members { index, epoch: MeshEpoch(1), members };
    for host in hosts {
        assert_eq!(host.mesh("fleetd").set_members(&members).await.unwrap().index, index);
    }
    members
}
