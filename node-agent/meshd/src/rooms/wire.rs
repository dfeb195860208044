//! Reading and writing frames on a mesh stream, counted and paced.
//!
//! Invariant: a reader holds at most one frame of the largest size and what one
//! read returned; a length over the limit ends the stream before it is awaited.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use osmoda_mesh_rooms::Frame;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes per read: many small messages, or a quarter of a batch.
const READ_BYTES: usize = 64 * 1024;

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
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(stream: R) -> Self {
        Self { stream, buffer: Vec::new(), start: 0 }
    }

    /// A frame that was read already, with the one before it.
    pub(crate) fn ready(&mut self) -> io::Result<Option<Frame>> {
        let bytes = &self.buffer[self.start..];
        let Some(head) = bytes.first_chunk::<4>() else { return Ok(None) };
        let length = Frame::length(*head).map_err(invalid)?;
        let Some(body) = bytes.get(4..4 + length) else { return Ok(None) };
        let frame = Frame::decode(body).map_err(invalid)?;
        self.start += 4 + length;
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
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
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

fn invalid(error: osmoda_mesh_rooms::FrameError) -> io::Error {
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
}
