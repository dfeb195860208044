//! `bench mesh`: what a link of the mesh costs beside other ways of doing it.
//!
//! Everything runs in one process over loopback, all variants in turn within a
//! round, and each ratio is taken within a round, so that a slow minute of the
//! machine hits both of its sides. The mesh is the real one (two endpoints, one
//! link, one stream of a service). At an MTU of 6500, for which the mesh has no
//! setting, it is quinn with the mesh's handshake and packet keys.
//!
//! The handshake is compared with TLS 1.3 over X25519MLKEM768 only with the
//! feature `bench-tls`, and with quick primitives only by the second program
//! that `cargo xtask bench mesh` builds; the report says what it left out.
//! Loopback moves TCP in pieces of 64 KiB and UDP in datagrams: that is TCP's
//! advantage there, stated and not removed. The same two are measured again over
//! cables of either size ([`wire`]), where neither has it.

pub mod connect;
pub(crate) mod ends;
pub(crate) mod noise;
pub(crate) mod pipe;
mod quic;
mod rpc;
mod wire;

use anyhow::Context as _;
use osmoda_kit::boot;
use osmoda_kit::shutdown::Shutdown;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_mesh_protocol::Service;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use self::ends::End;
use self::noise::Side;
use self::pipe::{Moved, Pipe, Sink, Source};
use self::wire::Wire;
use super::fleet::{count_of, say};
use super::report::{Report, Target};

/// Rounds; five or more give a median worth the name.
const ROUNDS: usize = 7;
const ROUNDS_VARIABLE: &str = "OSMODA_BENCH_MESH_ROUNDS";

/// Bytes of one measurement: about half a second of the slowest variant.
const BULK_MIB: usize = 192;
const BULK_VARIABLE: &str = "OSMODA_BENCH_MESH_MIB";

/// Before each measurement: windows open and the MTU is found.
const WARM_UP_BYTES: usize = 8 << 20;

/// The larger MTU of G2.
const LARGE_MTU: u16 = 6500;

/// G1 and G2 of `mesh.md`.
const RATE_MIN: f64 = 0.97;
const CPU_MAX: f64 = 1.03;
const TCP_RATE_MIN: f64 = 0.40;
const TCP_RATE_LARGE_MIN: f64 = 0.90;

/// Both ends of everything share these, as two processes on this machine would.
const WORKERS: usize = 2;

/// Runs the benchmark.
///
/// # Errors
/// When an endpoint cannot be made or a link breaks.
pub fn run() -> anyhow::Result<Report> {
    let rounds = count_of(ROUNDS_VARIABLE, ROUNDS)?;
    let bytes = count_of(BULK_VARIABLE, BULK_MIB)? << 20;
    let mut report = Report::new("mesh");
    report.note(format!("{rounds} interleaved rounds of {} MiB, {WORKERS} threads for both ends", bytes >> 20));
    let mut report = in_task(async move {
        bulk(&mut report, rounds, bytes).await?;
        Ok(report)
    })?;
    report = in_task(async move {
        rpc::measure(&mut report, rounds).await?;
        Ok(report)
    })?;
    connect::measure(&mut report, rounds)?;
    Ok(report)
}

/// A runtime like that of a daemon.
pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    Ok(boot::runtime("bench", WORKERS)?)
}

/// Runs work in a task, as daemons do. The thread that made a runtime is none of
/// its workers: what it reads itself costs a switch of threads each time, which
/// was a quarter of all processor time at an MTU of 6500.
fn in_task(work: impl Future<Output = anyhow::Result<Report>> + Send + 'static) -> anyhow::Result<Report> {
    runtime()?.block_on(async {
        let tasks = Tasks::new(Shutdown::new());
        let (sender, done) = tokio::sync::oneshot::channel();
        background(&tasks, "bench", async move {
            sender.send(work.await).map_err(|_| anyhow::anyhow!("nobody waits for the benchmark"))
        });
        done.await.context("the benchmark ended early")?
    })
}

/// One way of moving bytes and what it took in each round.
struct Variant {
    name: &'static str,
    pipe: Pipe,
    moved: Vec<Moved>,
}

async fn bulk(report: &mut Report, rounds: usize, bytes: usize) -> anyhow::Result<()> {
    let mut wires = Vec::new();
    for mtu in [wire::USUAL, wire::JUMBO] {
        match Wire::up(mtu).await {
            Ok(wire) => wires.push(wire),
            Err(error) => {
                report.note(format!("left out: bulk over cables ({error:#})"));
                break;
            }
        }
    }
    let measured = bulk_of_all(report, &wires, rounds, bytes).await;
    for wire in wires {
        wire.down().await;
    }
    measured
}

async fn bulk_of_all(report: &mut Report, wires: &[Wire], rounds: usize, bytes: usize) -> anyhow::Result<()> {
    let tasks = Tasks::new(Shutdown::new());
    let (a, b) = ends::pair().await?;
    let mut ends = vec![a, b];
    let variant = |name, pipe| Variant { name, pipe, moved: Vec::new() };
    let mut variants = vec![
        variant("mesh", mesh_pipe(&ends[0], &ends[1]).await?),
        variant("tls", quic::tls_pipe(&tasks).await?),
        variant("tcp", tcp_pipe(&tasks).await?),
        variant("mesh_6500", quic::noise_pipe(&tasks, LARGE_MTU).await?),
    ];
    if let [usual, jumbo] = wires {
        let (near, far) = usual.mesh().await?;
        variants.push(variant("wire_mesh", mesh_pipe(&near, &far).await?));
        variants.push(variant("wire_tcp", usual.tcp(&tasks).await?));
        ends.extend([near, far]);
        variants.push(variant("wire_6500_mesh", jumbo.noise(&tasks).await?));
        variants.push(variant("wire_6500_tcp", jumbo.tcp(&tasks).await?));
    }
    move_in_turns(&mut variants, rounds, bytes).await?;
    for of in &variants {
        report.add(format!("{}_mib_per_s", of.name), &each(&of.moved, |moved| moved.mib_per_s), None)?;
        report.add(format!("{}_cpu_s_per_gib", of.name), &each(&of.moved, |moved| moved.cpu_s_per_gib), None)?;
    }
    let rate = |above: &Variant, below: &Variant| ratios(above, below, |moved| moved.mib_per_s);
    let at_least = |ratio| Some(Target::AtLeast(ratio));
    if let [mesh, tls, tcp, large, wired @ ..] = &variants[..] {
        report.add("bulk_rate_to_tls", &rate(mesh, tls), at_least(RATE_MIN))?;
        let cpu = ratios(mesh, tls, |moved| moved.cpu_s_per_gib);
        report.add("bulk_cpu_to_tls", &cpu, Some(Target::AtMost(CPU_MAX)))?;
        report.add("bulk_rate_to_noise_tcp", &rate(mesh, tcp), at_least(TCP_RATE_MIN))?;
        report.add("bulk_rate_to_noise_tcp_6500", &rate(large, tcp), at_least(TCP_RATE_LARGE_MIN))?;
        if let [mesh, tcp, large_mesh, large_tcp] = wired {
            report.add("bulk_rate_to_noise_tcp_wire", &rate(mesh, tcp), at_least(TCP_RATE_MIN))?;
            let large = rate(large_mesh, large_tcp);
            report.add("bulk_rate_to_noise_tcp_wire_6500", &large, at_least(TCP_RATE_LARGE_MIN))?;
        }
    }
    drop(variants);
    for end in ends {
        end.stop().await;
    }
    tasks.drain(ends::LIMIT).await;
    Ok(())
}

async fn move_in_turns(variants: &mut [Variant], rounds: usize, bytes: usize) -> anyhow::Result<()> {
    for round in 1..=rounds {
        for at in 0..variants.len() {
            // Whoever goes first meets the coldest caches, and who follows its like the
            // warmest: take turns, and every other round the other way round.
            let turn = (round / 2 + at) % variants.len();
            let index = if round % 2 == 0 { turn } else { variants.len() - 1 - turn };
            let of = &mut variants[index];
            of.pipe.moved(WARM_UP_BYTES.min(bytes)).await.with_context(|| of.name)?;
            let moved = of.pipe.moved(bytes).await.with_context(|| of.name)?;
            let Moved { mib_per_s, cpu_s_per_gib } = moved;
            say(&format!("bulk {round}/{rounds} {:14} {mib_per_s:7.0} MiB/s, {cpu_s_per_gib:.3} CPU s/GiB", of.name));
            of.moved.push(moved);
        }
    }
    Ok(())
}

fn each(moved: &[Moved], of: fn(&Moved) -> f64) -> Vec<f64> {
    moved.iter().map(of).collect()
}

/// The ratio within each round.
fn ratios(above: &Variant, below: &Variant, of: fn(&Moved) -> f64) -> Vec<f64> {
    above.moved.iter().zip(&below.moved).map(|(above, below)| of(above) / of(below)).collect()
}

/// A stream of the service for bulk, from `a` to `b`.
async fn mesh_pipe(a: &End, b: &End) -> anyhow::Result<Pipe> {
    let mut accepted = b.handle.accept(Service::Blobs)?;
    let out = a.handle.connect_stream(b.handle.local_id(), Service::Blobs).await?;
    let incoming = accepted.recv().await.context("the service is registered")?;
    let (sink, source) = (Sink::Stream(Box::pin(out)), Source::Stream(Box::pin(incoming.stream)));
    Ok(Pipe::new(&a.tasks, sink, source, accepted))
}

async fn tcp_pipe(tasks: &Tasks) -> anyhow::Result<Pipe> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let out = TcpStream::connect(listener.local_addr()?).await?;
    let (incoming, _) = listener.accept().await?;
    noise_pipe(tasks, out, incoming).await
}

/// Noise over both ends of a TCP connection.
async fn noise_pipe(tasks: &Tasks, out: TcpStream, incoming: TcpStream) -> anyhow::Result<Pipe> {
    let (dialler, listener) =
        tokio::try_join!(noise::shake(out, Side::Dialler), noise::shake(incoming, Side::Listener))?;
    let (sink, back) = dialler;
    let (answers, source) = listener;
    Ok(Pipe::new(tasks, Sink::Noise(sink), Source::Noise(source), (back, answers)))
}

/// Starts a background task of a benchmark.
pub(crate) fn background(
    tasks: &Tasks,
    name: &'static str,
    work: impl Future<Output = anyhow::Result<()>> + Send + 'static,
) {
    tasks.spawn(TaskKind::BACKGROUND, name, async move {
        if let Err(error) = work.await {
            tracing::debug!(%error, name, "a part of the benchmark ended");
        }
    });
}
