//! Small calls while bulk saturates the same link.
//!
//! One stream of the service that consensus uses carries 64 bytes there and
//! back, one call at a time; a stream of the service for bulk is never empty.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use osmoda_mesh::MeshStream;
use osmoda_mesh_protocol::Service;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::background;
use super::ends::{self, End};
use super::pipe::CHUNK_BYTES;
use crate::bench::fleet::say;
use crate::bench::report::{Figure, Report, Target};

const CALL_BYTES: usize = 64;

/// One window: some thousand calls even beside bulk.
const WINDOW: Duration = Duration::from_secs(2);

/// G7 of `mesh.md`.
const P99_MAX_MS: f64 = 5.0;

/// Adds the figures.
pub(super) async fn measure(report: &mut Report, rounds: usize) -> anyhow::Result<()> {
    let (a, b) = ends::pair().await?;
    let mut calls = echo(&a, &b).await?;
    let (mut idle, mut loaded, mut median) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        let alone = window(&mut calls).await?;
        let beside = saturate(&a, &b).await?;
        let busy = window(&mut calls).await?;
        let moved = beside.stop().await?;
        let p99 = |of: &[f64]| anyhow::Ok(Figure::quantile(of, 0.99, None)?.value);
        idle.push(p99(&alone)?);
        loaded.push(p99(&busy)?);
        median.push(Figure::of(&busy, None)?.value);
        say(&format!(
            "rpc {round}/{rounds}: p99 {:.3} ms idle, {:.3} ms beside bulk of {:.0} MiB/s ({} calls)",
            p99(&alone)?,
            p99(&busy)?,
            moved / WINDOW.as_secs_f64(),
            busy.len()
        ));
    }
    report.add("rpc_idle_p99_ms", &idle, None)?;
    report.add("rpc_beside_bulk_p50_ms", &median, None)?;
    report.add("rpc_beside_bulk_p99_ms", &loaded, Some(Target::AtMost(P99_MAX_MS)))?;
    a.stop().await;
    b.stop().await;
    Ok(())
}

/// A stream to a service of `b` that gives everything back.
async fn echo(a: &End, b: &End) -> anyhow::Result<MeshStream> {
    let mut accepted = b.handle.accept(Service::Raft)?;
    background(&b.tasks, "bench echo", async move {
        let mut stream = accepted.recv().await.context("a stream")?.stream;
        let mut call = [0; CALL_BYTES];
        loop {
            stream.read_exact(&mut call).await?;
            stream.write_all(&call).await?;
        }
    });
    Ok(a.handle.connect_stream(b.handle.local_id(), Service::Raft).await?)
}

/// Milliseconds of each call in one window.
async fn window(calls: &mut MeshStream) -> anyhow::Result<Vec<f64>> {
    let (began, mut took) = (Instant::now(), Vec::new());
    let mut call = [7; CALL_BYTES];
    while began.elapsed() < WINDOW {
        let at = Instant::now();
        calls.write_all(&call).await?;
        calls.read_exact(&mut call).await?;
        took.push(at.elapsed().as_secs_f64() * 1000.0);
    }
    Ok(took)
}

/// Bulk that goes on until it is stopped.
struct Bulk {
    stop: tokio::sync::oneshot::Sender<()>,
    received: tokio::sync::oneshot::Receiver<usize>,
}

impl Bulk {
    /// Ends it; how many MiB arrived.
    async fn stop(self) -> anyhow::Result<f64> {
        if self.stop.send(()).is_err() {
            anyhow::bail!("bulk ended before it was told to");
        }
        Ok(self.received.await? as f64 / f64::from(1 << 20))
    }
}

async fn saturate(a: &End, b: &End) -> anyhow::Result<Bulk> {
    let (stop, mut stopped) = tokio::sync::oneshot::channel();
    let (done, received) = tokio::sync::oneshot::channel();
    let mut accepted = b.handle.accept(Service::Blobs)?;
    let mut out = a.handle.connect_stream(b.handle.local_id(), Service::Blobs).await?;
    let mut incoming = accepted.recv().await.context("a stream")?.stream;
    drop(accepted);
    background(&a.tasks, "bench bulk", async move {
        let chunk = vec![0x5a; CHUNK_BYTES];
        while stopped.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
            out.write_all(&chunk).await?;
        }
        Ok(out.shutdown().await?)
    });
    background(&b.tasks, "bench bulk sink", async move {
        let (mut buffer, mut all) = (vec![0; CHUNK_BYTES], 0);
        loop {
            match incoming.read(&mut buffer).await? {
                0 => break,
                count => all += count,
            }
        }
        done.send(all).map_err(|_| anyhow::anyhow!("nobody asks how much arrived"))
    });
    Ok(Bulk { stop, received })
}
