//! Eight streams over one link, and when each of them delivered what.
//!
//! Two ways: eight streams of the mesh, and eight streams in frames of one Noise
//! connection over TCP. Always holds: what is measured is what arrived.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use osmoda_kit::tasks::Tasks;
use osmoda_mesh::MeshStream;
use osmoda_mesh_protocol::Service;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use crate::bench::mesh::background;
use crate::bench::mesh::ends::{End, LIMIT};
use crate::bench::mesh::noise::{NoiseSink, NoiseSource};

/// Streams of one link (issue 3, "Show").
pub const STREAMS: usize = 8;

/// A small message: its packet has room for no more than a few.
pub const MESSAGE_BYTES: usize = 250;

/// Written at once when as much as possible is to be moved.
const CHUNK_BYTES: usize = 16 * 1024;

/// Arrivals not yet looked at: some milliseconds of them.
const ARRIVALS: usize = 4096;

/// Some bytes of a stream came out.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Of which stream.
    pub stream: usize,
    /// How many.
    pub bytes: usize,
    /// When.
    pub at: Instant,
}

/// The sending side of all streams.
pub(super) enum Senders {
    /// One stream of the mesh each.
    Mesh(Vec<MeshStream>),
    /// Frames of one connection: the number of the stream, then its bytes.
    Mux(NoiseSink),
}

/// A link with its streams.
pub(super) struct Streams {
    pub(super) senders: Senders,
    pub(super) arrivals: mpsc::Receiver<Arrival>,
}

/// Opens the streams of the mesh from `near` to `far`, once they are linked.
pub(super) async fn mesh(near: &End, far: &End, far_address: SocketAddr) -> anyhow::Result<Streams> {
    let members = vec![near.member(vec![]), far.member(vec![far_address])];
    far.learn(2, members.clone()).await?;
    near.learn(2, members).await?;
    near.linked(far.handle.local_id()).await?;
    let mut accepted = far.handle.accept(Service::Blobs)?;
    let (told, arrivals) = mpsc::channel(ARRIVALS);
    let mut senders = Vec::new();
    for stream in 0..STREAMS {
        senders.push(near.handle.connect_stream(far.handle.local_id(), Service::Blobs).await?);
        let incoming = tokio::time::timeout(LIMIT, accepted.recv()).await?.context("a stream")?;
        let (told, mut incoming) = (told.clone(), incoming.stream);
        background(&far.tasks, "bench stream", async move {
            let mut buffer = vec![0; CHUNK_BYTES];
            loop {
                let bytes = incoming.read(&mut buffer).await?;
                if bytes == 0 {
                    return Ok(());
                }
                told.send(Arrival { stream, bytes, at: Instant::now() }).await?;
            }
        });
    }
    Ok(Streams { senders: Senders::Mesh(senders), arrivals })
}

/// The streams in frames of one connection.
pub(super) fn mux(sink: NoiseSink, mut source: NoiseSource, tasks: &Tasks) -> Streams {
    let (told, arrivals) = mpsc::channel(ARRIVALS);
    background(tasks, "bench mux", async move {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = source.read(&mut buffer).await?;
            let stream = usize::from(*buffer.first().context("a frame has a number")?);
            told.send(Arrival { stream, bytes: count - 1, at: Instant::now() }).await?;
        }
    });
    Streams { senders: Senders::Mux(sink), arrivals }
}

/// Fills all streams until the tasks end.
pub(super) fn saturate(senders: Senders, tasks: &Tasks) {
    match senders {
        Senders::Mesh(streams) => {
            for mut stream in streams {
                background(tasks, "bench filler", async move {
                    let chunk = vec![0x5a; CHUNK_BYTES];
                    loop {
                        stream.write_all(&chunk).await?;
                    }
                });
            }
        }
        Senders::Mux(mut sink) => background(tasks, "bench filler", async move {
            let mut chunk = vec![0x5a; 1 + CHUNK_BYTES];
            loop {
                for stream in 0..STREAMS {
                    chunk[0] = u8::try_from(stream)?;
                    sink.write(&chunk).await?;
                }
            }
        }),
    }
}

/// Sends one message per `period`, to each stream in turn, until the tasks end.
pub(super) fn pace(mut senders: Senders, period: Duration, tasks: &Tasks) {
    background(tasks, "bench pacer", async move {
        let mut ticks = tokio::time::interval(period);
        let mut message = vec![0x5a; 1 + MESSAGE_BYTES];
        for number in 0_usize.. {
            ticks.tick().await;
            let stream = number % STREAMS;
            match &mut senders {
                Senders::Mesh(streams) => streams[stream].write_all(&message[1..]).await?,
                Senders::Mux(sink) => {
                    message[0] = u8::try_from(stream)?;
                    sink.write(&message).await?;
                }
            }
        }
        Ok(())
    });
}
