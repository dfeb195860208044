//! Witness before act: how long a grave act waits, after its intent is durable,
//! for the cosignatures of half of the other nodes.
//!
//! Three nodes in this process, each with its own ledger, checkpoints, witness
//! store and fsync, linked by the real mesh over loopback: QUIC, and a stream per
//! question. What a host has beside that and this has not: the two hops over
//! sockets between agentd and the mesh daemon on each side, and the limit of
//! questions that the mesh lets one peer ask.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::future::{BoxFuture, FutureExt};
use osmoda_agentd::approval::gate::HeadGate;
use osmoda_agentd::checkpoint::{Checkpoints, OpenAll, Rhythm};
use osmoda_agentd::ledger::{Ledger, LedgerThreads, NewRow, WriterOptions};
use osmoda_agentd::witness::{FILE_NAME, Post, WitnessDuty, WitnessGate, WitnessParts, WitnessStore, start_parts};
use osmoda_kit::clock::SystemClock;
use osmoda_kit::error::ApiError;
use osmoda_kit::frames;
use osmoda_kit::http::Isolation;
use osmoda_kit::shutdown::StopReason;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_mesh::{IncomingStream, MeshHandle};
use osmoda_node_api::mesh::Service;
use osmoda_node_api::pipes::WITNESS;
use osmoda_node_api::witness::{Peer, Question, Reply, Roster};
use osmoda_types::{ErrorCode, NodeId, PublicKey};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use super::super::mesh::ends::{End, LIMIT};
use super::super::report::Report;
use super::ROUNDS;

/// The fleet of the issue: two witnesses, one of which must cosign.
const NODES: u8 = 3;

/// Acts of each round.
const ACTS: usize = 200;

/// Adds the figures to the report.
pub(super) fn run(here: &Path, row: &NewRow, report: &mut Report) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let dir = tempfile::Builder::new().prefix("osmb").tempdir_in(here)?;
    let rounds = runtime.block_on(measure(dir.path(), row))?;
    let of = |part: fn(&Round) -> &Vec<f64>, quantile: f64| -> Vec<f64> {
        rounds.iter().map(|round| at(part(round), quantile)).collect()
    };
    report.note(format!(
        "witness before act: {NODES} nodes in one process over the real mesh on loopback, one act at a time, \
         {ACTS} in each of {ROUNDS} rounds; each figure is that of a round"
    ));
    report.add("intent_append_p50_ms", &of(|round| &round.appends, 0.5), None)?;
    report.add("witness_before_act_added_p50_ms", &of(|round| &round.added, 0.5), None)?;
    report.add("witness_before_act_added_p99_ms", &of(|round| &round.added, 0.99), None)?;
    Ok(())
}

/// Milliseconds, sorted: each intent until it was durable, and from then until it
/// was witnessed.
struct Round {
    appends: Vec<f64>,
    added: Vec<f64>,
}

fn at(sorted: &[f64], quantile: f64) -> f64 {
    let place = ((sorted.len() as f64 * quantile) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

async fn measure(dir: &Path, row: &NewRow) -> anyhow::Result<Vec<Round>> {
    let ends = linked().await?;
    let mut nodes = Vec::new();
    for (number, end) in ends.iter().enumerate() {
        nodes.push(Node::start(&dir.join(number.to_string()), end)?);
    }
    for node in &nodes {
        let others = nodes.iter().filter(|other| other.peer.node != node.peer.node);
        let others: Vec<Peer> = others.map(|other| other.peer.clone()).collect();
        let needed = nodes.len() / 2;
        node.say.send_replace(Some(Arc::new(Roster { node: node.peer.node, others, needed, logged: None })));
    }
    let actor = nodes.first().context("a node")?;
    warm(actor, row).await?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let (mut appends, mut added) = (Vec::new(), Vec::new());
        for _ in 0..ACTS {
            let begin = Instant::now();
            let intent = actor.ledger.append(row.clone()).await?.size;
            let durable = Instant::now();
            actor.gate.witnessed(intent).await?;
            appends.push((durable - begin).as_secs_f64() * 1e3);
            added.push(durable.elapsed().as_secs_f64() * 1e3);
        }
        appends.sort_by(f64::total_cmp);
        added.sort_by(f64::total_cmp);
        rounds.push(Round { appends, added });
    }
    for node in nodes {
        node.stop().await?;
    }
    for end in ends {
        end.stop().await;
    }
    Ok(rounds)
}

/// Ends that are all linked with each other.
async fn linked() -> anyhow::Result<Vec<End>> {
    let ends = (1..=NODES).map(|seed| End::start(seed, ([127, 0, 0, 1], 0).into())).collect::<Result<Vec<_>, _>>()?;
    let members: Vec<_> = ends.iter().map(|end| end.member(vec![end.handle.local_address()])).collect();
    for end in &ends {
        end.learn(2, members.clone()).await?;
    }
    for one in &ends {
        for other in ends.iter().filter(|other| other.handle.local_id() != one.handle.local_id()) {
            one.linked(other.handle.local_id()).await?;
        }
    }
    Ok(ends)
}

/// Until the first act is witnessed.
async fn warm(node: &Node, row: &NewRow) -> anyhow::Result<()> {
    let begin = Instant::now();
    loop {
        let intent = node.ledger.append(row.clone()).await?.size;
        match node.gate.witnessed(intent).await {
            Ok(()) => return Ok(()),
            Err(error) if begin.elapsed() > LIMIT => return Err(error.into()),
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// One node: what agentd is made of, on one end of the mesh.
struct Node {
    peer: Peer,
    ledger: Ledger,
    gate: WitnessGate,
    say: watch::Sender<Option<Arc<Roster>>>,
    tasks: Tasks,
    threads: LedgerThreads,
}

impl Node {
    fn start(dir: &Path, end: &End) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let open =
            OpenAll { state_dir: dir.to_owned(), options: WriterOptions::default(), clock: SystemClock::shared() };
        let (opened, threads) = open.open()?;
        let (ledger, key) = (opened.ledger.clone(), opened.key.clone());
        let node = end.handle.local_id();
        let peer = Peer { node, name: node.short(), key: Some(PublicKey::from_bytes(key.public())), logged: None };
        let tasks = end.tasks.clone();
        let (checkpoints, signing) = Checkpoints::new(opened, tasks.clone(), Isolation::Users, Rhythm::default())?;
        tasks.spawn(TaskKind::REQUEST, "checkpoints", signing.run());
        let (say, roster) = watch::channel(None);
        let (gate, duty) = start_parts(WitnessParts {
            ledger: ledger.clone(),
            checkpoints,
            key,
            store: WitnessStore::open(&dir.join(FILE_NAME))?,
            clock: SystemClock::shared(),
            tasks: tasks.clone(),
            isolation: Isolation::Users,
            roster,
            post: Streams(end.handle.clone()),
        });
        let mut streams = end.handle.accept(Service::Witness)?;
        let own = tasks.clone();
        tasks.spawn(TaskKind::BACKGROUND, "witness streams", async move {
            while let Some(IncomingStream { peer, stream }) = streams.recv().await {
                own.spawn(TaskKind::BACKGROUND, "witness stream", answer(duty.clone(), peer.node, stream));
            }
        });
        Ok(Self { peer, ledger, gate, say, tasks, threads })
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.tasks.shutdown().request(StopReason::Asked("end of benchmark".to_owned()));
        self.tasks.drain(Duration::from_secs(5)).await;
        let Self { threads, .. } = self;
        Ok(threads.close()?)
    }
}

async fn answer(duty: WitnessDuty, peer: NodeId, mut stream: osmoda_mesh::MeshStream) {
    let answered = async {
        let question: Question = frames::read(&mut stream, WITNESS.question_bytes_max).await?;
        let reply = duty.answer(peer, question).await.map_err(std::io::Error::other)?;
        frames::write(&mut stream, &reply, WITNESS.answer_bytes_max).await?;
        stream.shutdown().await
    };
    if let Err(error) = answered.await {
        tracing::debug!(%error, "a question of the benchmark broke off");
    }
}

/// Witnesses over the mesh, a stream per question.
#[derive(Clone)]
struct Streams(MeshHandle);

impl Post for Streams {
    fn ask(&self, witness: NodeId, question: Question) -> BoxFuture<'static, Result<Reply, ApiError>> {
        let mesh = self.0.clone();
        let gone = |error: std::io::Error| ApiError::new(ErrorCode::PeerOffline, error.to_string());
        async move {
            let mut stream = mesh.connect_stream(witness, Service::Witness).await.map_err(ApiError::internal)?;
            frames::write(&mut stream, &question, WITNESS.question_bytes_max).await.map_err(gone)?;
            stream.shutdown().await.map_err(gone)?;
            frames::read(&mut stream, WITNESS.answer_bytes_max).await.map_err(gone)
        }
        .boxed()
    }
}
