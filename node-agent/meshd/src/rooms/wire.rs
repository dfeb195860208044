//! Reading and writing frames on a mesh stream, counted and paced.
//!
//! Invariant: a reader holds at most one frame of the largest size and what one
//! read returned; a length over the limit ends the stream before it is awaited.
//! Batches are in sessions only, of which there is one per room, so the frames of
//! all other streams are small. Invariant: a frame that was begun is whole soon or
//! ends the stream; between two a peer may be silent for as long as it likes.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use osmoda_mesh_rooms::limits::{FRAME_BYTES_MAX, MESSAGE_BYTES_MAX};
use osmoda_mesh_rooms::{Frame, FrameError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

/// Bytes per read: many small messages, or a quarter of a batch.
const READ_BYTES: usize = 64 * 1024;

/// Bytes of a frame outside of sessions: a message or a record.
const SMALL_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 1024;

/// How long the rest of a frame may take: longer than a link is idle before it is
/// given up.
const REST_TIME: Duration = Duration::from_secs(15);

/// What went over the wire for rooms, since the daemon started.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Bytes of frames of healing that were sent.
    pub(crate) heal_sent: AtomicU64,
    /// Bytes of signed messages in them.
    pub(crate) heal_messages_sent: AtomicU64,
    /// Messages that healing brought and that were here already.
    pub(crate) heal_repeated: AtomicU64,
    /// Sessions that were begun by this node and went through.
    pub(crate) sessions: AtomicU64,
    /// Bytes of pushed frames.
    pub(crate) push_sent: AtomicU64,
}

/// Reads frames.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    stream: R,
    buffer: Vec<u8>,
    start: usize,
    bytes_max: usize,
    /// Until when the frame that was begun must be whole.
    whole_by: Option<Instant>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads small frames.
    pub(crate) fn new(stream: R) -> Self {
        Self { stream, buffer: Vec::new(), start: 0, bytes_max: SMALL_BYTES_MAX, whole_by: None }
    }

    /// Reads those of a session too, which holds its room's slot.
    pub(crate) fn of_session(self) -> Self {
        Self { bytes_max: FRAME_BYTES_MAX, ..self }
    }

    /// A frame that was read already, with the one before it.
    pub(crate) fn ready(&mut self) -> io::Result<Option<Frame>> {
        let bytes = &self.buffer[self.start..];
        let Some(head) = bytes.first_chunk::<4>() else { return Ok(None) };
        let length = Frame::length(*head).map_err(invalid)?;
        if length > self.bytes_max {
            return Err(invalid(FrameError::TooLarge(length)));
        }
        let Some(body) = bytes.get(4..4 + length) else { return Ok(None) };
        let frame = Frame::decode(body).map_err(invalid)?;
        self.start += 4 + length;
        self.whole_by = None;
        Ok(Some(frame))
    }

    /// The next frame; `None` when the peer has finished between two frames.
    /// Cancel-safe: what was read stays in the buffer.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.ready()? {
                return Ok(Some(frame));
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            self.buffer.reserve(READ_BYTES);
            if !self.buffer.is_empty() {
                self.whole_by.get_or_insert_with(|| Instant::now() + REST_TIME);
            }
            let read = self.stream.read_buf(&mut self.buffer);
            let read = match self.whole_by {
                Some(limit) => timeout_at(limit, read).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?,
                None => read.await?,
            };
            if read == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// The next frame within a time limit; the end is an error.
    pub(crate) async fn within(&mut self, limit: Duration) -> io::Result<Frame> {
        match tokio::time::timeout(limit, self.next()).await {
            Ok(Ok(Some(frame))) => Ok(frame),
            Ok(Ok(None)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Writes one frame within a time limit and counts its bytes.
pub(crate) async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    frame: &Frame,
    limit: Duration,
    counter: &AtomicU64,
) -> io::Result<()> {
    let bytes = frame.encode().map_err(invalid)?;
    send_bytes(stream, &bytes, limit, counter).await
}

/// The same for frames that are encoded already.
pub(crate) async fn send_bytes(
    stream: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    limit: Duration,
    counter: &AtomicU64,
) -> io::Result<()> {
    let write = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    tokio::time::timeout(limit, write).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    counter.fetch_add(bytes.len() as u64, Relaxed);
    Ok(())
}

fn invalid(error: FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use osmoda_mesh_rooms::{Blob, Refusal};

    #[tokio::test]
    async fn frames_come_out_whole_and_a_cut_one_is_an_error() {
        let frames = [Frame::Push, Frame::Post(Blob(vec![1; 1000])), Frame::Refused(Refusal::Busy)];
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.encode().unwrap()).collect();
        let mut reader = FrameReader::new(&bytes[..]);
        assert_eq!(reader.next().await.unwrap(), Some(frames[0].clone()));
        assert_eq!(reader.ready().unwrap(), Some(frames[1].clone()));
        assert_eq!(reader.next().await.unwrap(), Some(frames[2].clone()));
        assert_eq!(reader.next().await.unwrap(), None);
        let mut cut = FrameReader::new(&bytes[..bytes.len() - 1]);
        assert!(cut.next().await.is_ok() && cut.next().await.is_ok() && cut.next().await.is_err());
        let mut large = FrameReader::new(&[0xff; 8][..]);
        assert_eq!(large.next().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_was_begun_is_whole_soon_and_silence_before_it_is_no_fault() {
        let (mut peer, ours) = tokio::io::duplex(4096);
        let mut reader = FrameReader::new(ours);
        let silent = tokio::time::timeout(Duration::from_secs(24 * 3600), reader.next()).await;
        assert!(silent.is_err(), "still waiting");
        let frame = Frame::Post(Blob(vec![1; 1000])).encode().unwrap();
        let (first, rest) = frame.split_at(500);
        peer.write_all(first).await.unwrap();
        // Asked again and again, as by whoever also waits for something else.
        for _ in 0..2 {
            assert!(tokio::time::timeout(REST_TIME / 3, reader.next()).await.is_err());
        }
        peer.write_all(rest).await.unwrap();
        assert!(reader.next().await.unwrap().is_some());
        peer.write_all(first).await.unwrap();
        let begun = Instant::now();
        assert_eq!(reader.next().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), REST_TIME);
    }

    #[tokio::test]
    async fn large_frames_are_for_sessions() {
        let frame = Frame::Messages { list: vec![Blob(vec![1; 30_000]); 8], more: false };
        let bytes = frame.encode().unwrap();
        let small = FrameReader::new(&bytes[..]).next().await;
        assert_eq!(small.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(FrameReader::new(&bytes[..]).of_session().next().await.unwrap(), Some(frame));
        let largest = Frame::Post(Blob(vec![1; MESSAGE_BYTES_MAX]));
        assert_eq!(FrameReader::new(&largest.encode().unwrap()[..]).next().await.unwrap(), Some(largest));
    }
}
