//! One direction of bytes, whatever carries them, and what moving them costs.
//!
//! Always holds: sending runs in a task of its own, so both ends work at the
//! same time in every variant; the processor time is that of the whole process,
//! which holds both ends and nothing else that works.

use std::any::Any;
use std::pin::Pin;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use osmoda_kit::tasks::{TaskKind, Tasks};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::noise::{NoiseSink, NoiseSource};

/// Bytes handed over at once: fits into one Noise message (65,519).
pub(crate) const CHUNK_BYTES: usize = 60 * 1024;

/// Where bytes are written.
pub(crate) enum Sink {
    /// A stream of QUIC.
    Stream(Pin<Box<dyn AsyncWrite + Send>>),
    /// Noise messages over TCP.
    Noise(NoiseSink),
}

impl Sink {
    /// Writes one chunk of at most [`CHUNK_BYTES`].
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        match self {
            Sink::Stream(stream) => Ok(stream.write_all(bytes).await?),
            Sink::Noise(sink) => sink.write(bytes).await,
        }
    }
}

/// Where they come out.
pub(crate) enum Source {
    /// A stream of QUIC.
    Stream(Pin<Box<dyn AsyncRead + Send>>),
    /// Noise messages over TCP.
    Noise(NoiseSource),
}

impl Source {
    /// Reads some bytes; 0 at the end. `buffer` has [`CHUNK_BYTES`] or more.
    pub(crate) async fn read(&mut self, buffer: &mut [u8]) -> anyhow::Result<usize> {
        match self {
            Source::Stream(stream) => Ok(stream.read(buffer).await?),
            Source::Noise(source) => source.read(buffer).await,
        }
    }
}

/// A sink and its source, and what must live while they do.
pub(super) struct Pipe {
    orders: mpsc::Sender<usize>,
    source: Source,
    _held: Box<dyn Any + Send>,
}

/// What moving bytes took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moved {
    pub(super) mib_per_s: f64,
    pub(super) cpu_s_per_gib: f64,
}

impl Pipe {
    /// Starts the sending task.
    pub(super) fn new(tasks: &Tasks, mut sink: Sink, source: Source, held: impl Any + Send) -> Self {
        // One order at a time: the next one is given after all of it arrived.
        let (orders, mut wanted) = mpsc::channel::<usize>(1);
        tasks.spawn(TaskKind::BACKGROUND, "bench sender", async move {
            let chunk = vec![0x5a; CHUNK_BYTES];
            while let Some(mut left) = wanted.recv().await {
                while left > 0 {
                    let part = left.min(CHUNK_BYTES);
                    if let Err(error) = sink.write(&chunk[..part]).await {
                        return tracing::debug!(%error, "the pipe broke");
                    }
                    left -= part;
                }
            }
        });
        Self { orders, source, _held: Box::new(held) }
    }

    /// Moves so many bytes and says what it took.
    pub(super) async fn moved(&mut self, bytes: usize) -> anyhow::Result<Moved> {
        let mut buffer = vec![0; 64 * 1024];
        let (began, cpu) = (Instant::now(), cpu_s(ClockId::ProcessCPUTime));
        self.orders.send(bytes).await.context("the sender is gone")?;
        let mut left = bytes;
        while left > 0 {
            let count = self.source.read(&mut buffer).await?;
            ensure!(count > 0 && count <= left, "{count} bytes came when {left} were due");
            left -= count;
        }
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_s(ClockId::ProcessCPUTime) - cpu);
        let mib = bytes as f64 / f64::from(1 << 20);
        Ok(Moved { mib_per_s: mib / seconds, cpu_s_per_gib: cpu / (mib / 1024.0) })
    }
}

/// Processor time so far, of the process or the thread.
pub(crate) fn cpu_s(of: ClockId) -> f64 {
    let now = clock_gettime(of);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}
