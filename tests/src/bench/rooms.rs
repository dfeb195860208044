//! `bench rooms`: sixteen nodes in two halves write 10,000 messages a side, then
//! the halves meet (issue 3, "Show").
//!
//! The nodes are the daemon's own rooms over real mesh endpoints on the loopback
//! interface, all in this process: own keys, links, databases on the real disk,
//! with fsync. The network is cut as an operator would cut it, by the membership
//! snapshot: a link to a node that is not in it is closed and none comes up. The
//! clock starts when all nodes have the whole list again and stops when every
//! node has every message.
//!
//! Invariant: a round in which any node ends with another order, a message twice
//! or a message missing is an error, not a figure. Not measured here: delay and
//! loss of real networks; frames of the mesh itself.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use osmoda_kit::clock::SystemClock;
use osmoda_kit::shutdown::Shutdown;
use osmoda_kit::tasks::Tasks;
use osmoda_mesh::{EpochSecret, Identity, Mesh, MeshConfig, MeshHandle, Tuning, state};
use osmoda_mesh_protocol::{Member, Members, SecretBytes};
use osmoda_mesh_rooms::RoomId;
use osmoda_meshd::rooms::{Rooms, RoomsConfig, TrafficCount};
use osmoda_node_api::rooms::{CreateRoom, JoinRule};
use osmoda_types::{MeshEpoch, NetworkId, Role};
use tokio::time::sleep;

use super::report::{Report, Target};

/// Nodes (issue 3, "Show").
const NODES: usize = 16;

/// Messages of each half.
const PER_SIDE: usize = 10_000;

/// Rounds; the median of five survives two disturbed ones.
const ROUNDS: usize = 5;

/// Messages a node writes at once: as many share a commit.
const WRITERS: usize = 32;

/// Bytes of a text: a sentence or two.
const TEXT_BYTES: usize = 120;

/// Nothing here takes this long unless it hangs.
const LIMIT: Duration = Duration::from_secs(180);

/// Between two looks at how far the nodes are: short against a second.
const LOOK: Duration = Duration::from_millis(20);

/// Nodes of one fleet.
const NETWORK: NetworkId = NetworkId::from_bytes([7; 32]);

struct Node {
    mesh: MeshHandle,
    rooms: Rooms,
    identity: Arc<Identity>,
    tasks: Tasks,
}

/// What one round showed.
struct Sample {
    healed_s: f64,
    cpu_s: f64,
    missing_bytes: u64,
    sent_bytes: u64,
    repeated: u64,
    written_s: f64,
}

/// Runs the benchmark.
///
/// # Errors
/// When a node cannot be started, and when the nodes do not end with the same
/// messages in the same order.
pub fn run() -> anyhow::Result<Report> {
    let here = std::env::current_exe()?.parent().context("the program lies in a folder")?.to_owned();
    let mut samples = Vec::new();
    for round in 1..=ROUNDS {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let sample = runtime.block_on(measure(&here))?;
        writeln!(
            std::io::stderr(),
            "round {round} of {ROUNDS}: written in {:.1} s, healed in {:.2} s with {:.1} s of processor time, {:.1} MB sent for {:.1} MB missing, {} repeated",
            sample.written_s,
            sample.healed_s,
            sample.cpu_s,
            sample.sent_bytes as f64 / 1e6,
            sample.missing_bytes as f64 / 1e6,
            sample.repeated,
        )?;
        samples.push(sample);
    }
    report(&samples)
}

async fn measure(here: &Path) -> anyhow::Result<Sample> {
    let folder = tempfile::tempdir_in(here)?;
    let mut nodes = Vec::new();
    for number in 0..NODES {
        nodes.push(Node::start(&folder.path().join(number.to_string())).await?);
    }
    let room = together(&nodes).await?;
    let (left, right) = nodes.split_at(NODES / 2);
    introduce(3, left).await?;
    introduce(3, right).await?;
    let begin = Instant::now();
    futures_util::try_join!(write(left, room), write(right, room))?;
    everybody_has(left, room, PER_SIDE).await?;
    everybody_has(right, room, PER_SIDE).await?;
    let written_s = begin.elapsed().as_secs_f64();
    // Each node lacks what the other half wrote.
    let bytes = [kept_bytes(&left[0], room).await?, kept_bytes(&right[0], room).await?];
    let missing_bytes = (NODES as u64 / 2) * (bytes[0] + bytes[1]);

    let before = traffic(&nodes);
    let (begin, cpu) = (Instant::now(), cpu_s());
    tell(4, &nodes).await?;
    everybody_has(&nodes, room, 2 * PER_SIDE).await?;
    let (healed_s, cpu_s) = (begin.elapsed().as_secs_f64(), cpu_s() - cpu);
    linked(&nodes).await?;
    let after = traffic(&nodes);
    check(&nodes, room).await?;
    for node in nodes {
        ensure!(node.tasks.drain(Duration::from_secs(20)).await.is_graceful(), "a node did not stop in time");
    }
    Ok(Sample {
        healed_s,
        cpu_s,
        missing_bytes,
        sent_bytes: after.heal_sent - before.heal_sent,
        repeated: after.heal_repeated - before.heal_repeated,
        written_s,
    })
}

impl Node {
    async fn start(folder: &Path) -> anyhow::Result<Self> {
        let identity = state::create_identity(folder)?;
        let (tasks, clock) = (Tasks::new(Shutdown::new()), SystemClock::shared());
        let secret = EpochSecret { epoch: MeshEpoch(1), secret: SecretBytes::new([8; 32]) };
        let config = MeshConfig {
            identity: identity.clone(),
            network: NETWORK,
            listen: ([127, 0, 0, 1], 0).into(),
            secrets: secret.into(),
            members: Members { index: 1, epoch: MeshEpoch(1), members: vec![member(&identity, vec![])] },
            enroller: None,
            tuning: Tuning::default(),
        };
        let mesh = Mesh::start(config, &tasks, clock.clone())?;
        let config = RoomsConfig::new(mesh.clone(), folder.to_owned());
        let rooms = Rooms::start(config, &tasks, clock).await?;
        Ok(Self { mesh, rooms, identity, tasks })
    }
}

fn member(identity: &Identity, addresses: Vec<std::net::SocketAddr>) -> Member {
    Member {
        node: identity.node(),
        mesh_key: identity.mesh_key(),
        identity_key: identity.identity_key(),
        role: Role::Node,
        name: format!("n-{}", identity.node().short()),
        addresses,
    }
}

/// Gives these nodes the list of exactly these nodes.
async fn tell(index: u64, nodes: &[Node]) -> anyhow::Result<()> {
    let member = |node: &Node| member(&node.identity, vec![node.mesh.local_address()]);
    let members: Vec<Member> = nodes.iter().map(member).collect();
    let update = |node: &Node| {
        let members = Members { index, epoch: MeshEpoch(1), members: members.clone() };
        let mesh = node.mesh.clone();
        async move { mesh.update_members(members).await }
    };
    futures_util::future::try_join_all(nodes.iter().map(update)).await?;
    Ok(())
}

async fn introduce(index: u64, nodes: &[Node]) -> anyhow::Result<()> {
    tell(index, nodes).await?;
    linked(nodes).await
}

/// Waits until every node has a link to every other one it knows.
async fn linked(nodes: &[Node]) -> anyhow::Result<()> {
    until("the links", async || Ok(nodes.iter().all(|node| node.mesh.peers().iter().all(|peer| peer.connected)))).await
}

/// A room that every node has.
async fn together(nodes: &[Node]) -> anyhow::Result<RoomId> {
    introduce(2, nodes).await?;
    let create = CreateRoom {
        name: "bench".to_owned(),
        peer_ids: nodes.iter().map(|node| node.identity.node()).collect(),
        join: JoinRule::Added,
        retain_messages: None,
        retain_days: None,
    };
    let room: RoomId = nodes[0].rooms.create(&create).await?.id.parse()?;
    until("the room everywhere", async || {
        for node in nodes {
            if node.rooms.list().await?.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await?;
    Ok(room)
}

/// Every node of a side writes its share, several messages at a time.
async fn write(side: &[Node], room: RoomId) -> anyhow::Result<()> {
    let share = PER_SIDE / side.len();
    let all = side.iter().enumerate().map(|(place, node)| async move {
        let send = |n: usize| {
            let text = format!("{n} of {place}: ");
            let text = text.clone() + &"x".repeat(TEXT_BYTES - text.len());
            node.rooms.send(room, text)
        };
        stream::iter((0..share).map(send)).buffer_unordered(WRITERS).try_for_each(async |_| Ok(())).await
    });
    futures_util::future::try_join_all(all).await?;
    Ok(())
}

async fn everybody_has(nodes: &[Node], room: RoomId, count: usize) -> anyhow::Result<()> {
    let id = room.to_string();
    until("all messages everywhere", async || {
        for node in nodes {
            let rooms = node.rooms.list().await?;
            let has = rooms.iter().find(|room| room.id == id).map_or(0, |room| room.message_count);
            ensure!(has <= count, "a node has {has} messages, there are {count}");
            if has < count {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await
}

async fn kept_bytes(node: &Node, room: RoomId) -> anyhow::Result<u64> {
    Ok(node.rooms.kept_bytes(room).await?)
}

/// The same order everywhere, nothing twice, nothing missing.
async fn check(nodes: &[Node], room: RoomId) -> anyhow::Result<()> {
    let first = nodes[0].rooms.ids(room, usize::MAX).await?;
    ensure!(first.len() == 2 * PER_SIDE, "{} messages of {}", first.len(), 2 * PER_SIDE);
    ensure!(first.iter().collect::<BTreeSet<_>>().len() == first.len(), "a message is there twice");
    for node in &nodes[1..] {
        ensure!(node.rooms.ids(room, usize::MAX).await? == first, "two nodes have another order");
    }
    Ok(())
}

/// Processor time of this process, all nodes together.
fn cpu_s() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn traffic(nodes: &[Node]) -> TrafficCount {
    nodes.iter().map(|node| node.rooms.traffic()).fold(TrafficCount::default(), |mut sum, one| {
        sum.heal_sent += one.heal_sent;
        sum.heal_messages_sent += one.heal_messages_sent;
        sum.heal_repeated += one.heal_repeated;
        sum.sessions += one.sessions;
        sum
    })
}

async fn until(what: &str, mut look: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let looking = async {
        while !look().await? {
            sleep(LOOK).await;
        }
        Ok(())
    };
    tokio::time::timeout(LIMIT, looking).await.with_context(|| format!("waited {LIMIT:?} for {what}"))?
}

fn report(samples: &[Sample]) -> anyhow::Result<Report> {
    let mut report = Report::new("rooms");
    let megabytes = samples[0].missing_bytes as f64 / 1e6;
    report.note(format!(
        "{NODES} nodes in one process over loopback QUIC, {PER_SIDE} messages a side, {megabytes:.1} MB missing in all, fsync on"
    ));
    report.note("same order on all nodes, 0 messages lost and 0 twice: checked in every round, or there is no report");
    let of = |value: fn(&Sample) -> f64| samples.iter().map(value).collect::<Vec<f64>>();
    // All pairs may send 64 KiB more; the ratio is judged without that allowance.
    report.add("healed_s", &of(|sample| sample.healed_s), Some(Target::AtMost(10.0)))?;
    // Sixteen nodes share this machine's cores; a fleet has its own.
    report.add("cpu_s_per_node", &of(|sample| sample.cpu_s / NODES as f64), None)?;
    let ratio = |sample: &Sample| sample.sent_bytes as f64 / sample.missing_bytes as f64;
    report.add("bytes_per_missing_byte", &of(ratio), Some(Target::AtMost(1.2)))?;
    report.add("messages_sent_in_vain", &of(|sample| sample.repeated as f64), None)?;
    report.add("messages_per_s_while_apart", &of(|sample| 2.0 * PER_SIDE as f64 / sample.written_s), None)?;
    Ok(report)
}
