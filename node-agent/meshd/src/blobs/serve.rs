//! Answering peers that fetch blobs: one question, one slice, and again.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bao_tree::blake3::Hash;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_mesh::{IncomingStream, Intake};
use osmoda_types::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::store::{SLICE_BYTES, Source, Store};
use crate::counts::{self, Transfer};
use crate::pace::Pace;

/// Bytes of a question.
pub(crate) const QUESTION_BYTES: usize = 40;

/// Answers.
pub(crate) const FOUND: u8 = 0;
/// There is no such blob.
pub(crate) const ABSENT: u8 = 1;
/// Too many askers.
pub(crate) const BUSY: u8 = 2;

/// A slice with its proof: 64 bytes per 16 KiB group, and the way to the root of
/// a blob of the largest size.
pub(crate) const SLICE_WIRE_MAX: usize = SLICE_BYTES as usize / 256 + SLICE_BYTES as usize + 4096;

/// Streams that are served at once; each holds a slice and a tree of up to 4 MiB.
const ASKERS: usize = 8;

/// Of those, streams of one peer: it cannot take all, and a fetch beside another
/// one still goes on.
const ASKERS_PER_PEER: usize = 2;

/// One more than the askers that are served, so that one peer alone hears of it.
const INTAKE: Intake = Intake { name: "blobs", kind: TaskKind::BACKGROUND, per_peer_max: ASKERS + 1, time_limit: None };

/// How long an asker may take between two questions, for it writes a slice to disk in
/// between, and for reading an answer: one that gives no credit for it holds a place.
const IDLE: Duration = Duration::from_secs(60);

/// The serving side.
#[derive(Clone)]
pub(crate) struct Serving {
    store: Store,
    pace: Arc<Pace>,
    slots: Arc<Semaphore>,
    askers: Askers,
    tasks: Tasks,
}

impl Serving {
    pub(crate) fn new(store: Store, rate: u64, tasks: Tasks) -> Self {
        let (pace, slots) = (Arc::new(Pace::new(rate)), Arc::new(Semaphore::new(ASKERS)));
        Self { store, pace, slots, askers: Askers::default(), tasks }
    }

    /// Serves until a stop begins.
    pub(crate) fn spawn(self, accepted: mpsc::Receiver<IncomingStream>) {
        let tasks = self.tasks.clone();
        INTAKE.spawn(&tasks, accepted, move |IncomingStream { peer, stream }| {
            let serving = self.clone();
            async move { serving.one(peer.node, stream).await }
        });
    }

    async fn one<S>(&self, peer: NodeId, mut stream: S) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let asker = self.askers.take(peer);
        let (Some(_asker), Ok(_slot)) = (asker, self.slots.try_acquire()) else {
            counts::blob_refused("busy");
            // Read first: a stream that is dropped unread takes the answer with it.
            question(&mut stream).await?;
            answer(&mut stream, &[&[BUSY]]).await?;
            return timeout(IDLE, stream.shutdown()).await?;
        };
        let _transfer = Transfer::begin("serve");
        let mut open: Option<(Hash, Arc<Source>)> = None;
        while let Some((hash, from)) = question(&mut stream).await? {
            let source = match &open {
                Some((of, source)) if *of == hash => Arc::clone(source),
                _ => match self.source(hash).await? {
                    Some(source) => source,
                    None => {
                        counts::blob_refused("absent");
                        answer(&mut stream, &[&[ABSENT]]).await?;
                        continue;
                    }
                },
            };
            open = Some((hash, Arc::clone(&source)));
            let size = source.size();
            let slice = self.blocking(move || source.slice(from)).await?;
            self.pace.take(peer, slice.len()).await;
            // Slices are about a megabyte.
            let length = (slice.len() as u32).to_be_bytes();
            answer(&mut stream, &[&[FOUND], &size.to_be_bytes(), &length, &slice]).await?;
            counts::blob_sent(slice.len());
        }
        Ok(())
    }

    async fn source(&self, hash: Hash) -> io::Result<Option<Arc<Source>>> {
        let store = self.store.clone();
        self.blocking(move || store.source(&hash)).await.map(|source| source.map(Arc::new))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, osmoda_kit::error::ApiError> + Send + 'static,
    ) -> io::Result<T> {
        let done = self.tasks.blocking("blob slice", work).await.map_err(io::Error::other)?;
        done.map_err(io::Error::other)
    }
}

/// How many streams of each peer are served; peers without any have no entry.
#[derive(Debug, Clone, Default)]
struct Askers(Arc<Mutex<BTreeMap<NodeId, usize>>>);

impl Askers {
    fn take(&self, peer: NodeId) -> Option<Asker> {
        let mut askers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = askers.entry(peer).or_insert(0);
        if *count >= ASKERS_PER_PEER {
            return None;
        }
        *count += 1;
        Some(Asker { askers: self.clone(), peer })
    }
}

/// The right of a peer to one stream.
#[derive(Debug)]
struct Asker {
    askers: Askers,
    peer: NodeId,
}

impl Drop for Asker {
    fn drop(&mut self) {
        let mut askers = self.askers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = askers.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                askers.remove(&self.peer);
            }
        }
    }
}

/// Writes one answer while the asker has time to read it.
async fn answer(stream: &mut (impl AsyncWrite + Unpin), parts: &[&[u8]]) -> io::Result<()> {
    let write = async {
        for part in parts {
            stream.write_all(part).await?;
        }
        stream.flush().await
    };
    timeout(IDLE, write).await?
}

/// The next question; `None` when the asker has finished.
async fn question(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(Hash, u64)>> {
    let mut bytes = [0; QUESTION_BYTES];
    let read = timeout(IDLE, stream.read_exact(&mut bytes)).await?;
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let (mut hash, mut from) = ([0; 32], [0; 8]);
    hash.copy_from_slice(&bytes[..32]);
    from.copy_from_slice(&bytes[32..]);
    Ok(Some((Hash::from_bytes(hash), u64::from_be_bytes(from))))
}

#[cfg(test)]
mod tests {
    use osmoda_kit::shutdown::Shutdown;
    use osmoda_kit::testing::TempRoot;
    use tokio::io::{duplex, join};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_asker_that_reads_no_answer_gives_its_place_back() {
        let (root, tasks) = (TempRoot::new(), Tasks::new(Shutdown::new()));
        let store = Store::open(root.path().join("blobs"), 1 << 20).unwrap();
        let mut handed = store.hand().unwrap();
        handed.write(&[7; 20_000]).unwrap();
        let (here, _) = store.keep(handed).unwrap();
        let absent = Hash::from_bytes([0; 32]);
        let serving = Serving::new(store, 1 << 30, tasks);
        let (peer, mut held) = (NodeId::from_bytes([1; 32]), Vec::new());
        for (hash, busy) in [(here, false), (absent, false), (here, true)] {
            while busy && let Some(asker) = serving.askers.take(peer) {
                held.push(asker);
            }
            let question = [&hash.as_bytes()[..], &[0; 8]].concat();
            // No byte of an answer fits any more.
            let (mut full, _unread) = duplex(1);
            full.write_all(&[0]).await.unwrap();
            let begun = Instant::now();
            let served = timeout(3 * IDLE, serving.one(peer, join(&question[..], full))).await;
            assert_eq!(served.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert_eq!(begun.elapsed(), IDLE);
            assert_eq!(serving.slots.available_permits(), ASKERS);
        }
    }
}
