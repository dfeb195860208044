//! One JSON value as bytes on a stream: `length u32 | JSON`, big-endian.
//!
//! Invariant: a length over the reader's limit is an error before its bytes are
//! awaited, and memory grows with what arrives, not with what is announced. Time
//! limits are the caller's; `osmoda-mesh-protocol` has the same form for
//! handshakes, which have no stream yet.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Reads one value of at most `bytes_max` bytes. What a version does not know in
/// it is the value's own business.
///
/// # Errors
/// `InvalidData` for a frame that is too long or another value, `UnexpectedEof`
/// for one that is cut, and the stream's own errors.
///
/// # Cancel safety
/// Not cancel-safe: dropped, the stream is between two bytes of a frame.
pub async fn read<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin), bytes_max: usize) -> io::Result<T> {
    let length = stream.read_u32().await?;
    if usize::try_from(length).is_ok_and(|length| length <= bytes_max) {
        let mut body = Vec::new();
        if stream.take(length.into()).read_to_end(&mut body).await? < length as usize {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        return serde_json::from_slice(&body).map_err(invalid);
    }
    Err(invalid(format!("a frame of {length} bytes is over its limit of {bytes_max}")))
}

/// Writes one value and flushes it.
///
/// # Errors
/// `InvalidData` for a value over `bytes_max`, which the reader would refuse, and
/// the stream's own errors.
///
/// # Cancel safety
/// Not cancel-safe: dropped, a part of the frame may be written.
pub async fn write<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    value: &T,
    bytes_max: usize,
) -> io::Result<()> {
    let body = serde_json::to_vec(value).map_err(invalid)?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= bytes_max);
    let Some(length) = length else {
        return Err(invalid(format!("a frame of {} bytes is over its limit of {bytes_max}", body.len())));
    };
    stream.write_all(&[&length.to_be_bytes(), &body[..]].concat()).await?;
    stream.flush().await
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(bytes: &[u8]) -> Result<(String, usize), io::ErrorKind> {
        let mut stream = bytes;
        let value = read::<String>(&mut stream, 10).await.map_err(|error| error.kind())?;
        Ok((value, stream.len()))
    }

    #[tokio::test]
    async fn a_frame_reads_back_and_leaves_the_rest() {
        let mut bytes = Vec::new();
        write(&mut bytes, &"12345678", 10).await.unwrap();
        bytes.extend_from_slice(b"rest");
        assert_eq!(check(&bytes).await, Ok(("12345678".to_owned(), 4)));
        assert_eq!(write(&mut bytes, &"123456789", 10).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        for cut in 0..14 {
            assert_eq!(check(&bytes[..cut]).await, Err(io::ErrorKind::UnexpectedEof), "{cut}");
        }
    }

    #[tokio::test]
    async fn long_frames_and_other_values_are_refused() {
        assert_eq!(check(&[0, 0, 0, 11]).await, Err(io::ErrorKind::InvalidData));
        assert_eq!(check(&[0xff; 20]).await, Err(io::ErrorKind::InvalidData));
        assert_eq!(check(b"\0\0\0\x01{").await, Err(io::ErrorKind::InvalidData));
        assert_eq!(check(b"\0\0\0\0").await, Err(io::ErrorKind::InvalidData));
        assert_eq!(check(b"\0\0\0\x01" as &[u8]).await, Err(io::ErrorKind::UnexpectedEof));
    }
}
