//! What two peers say before any service stream, and how a link ends.
//!
//! The dialler's [`Hello`] rides in the third handshake message. The listener
//! answers on a stream of its own with [`Admitted`], or closes: a dialler that
//! completed the handshake has not been admitted yet, because the listener
//! judges the third message later (`mesh.md` section 1, pitfalls). In pairing
//! mode the answer is a [`PairAnswer`]. A frame is `length u32 | JSON`; fields
//! that a reader does not know are ignored, so later versions may add some.

use osmoda_types::{ErrorCode, MeshEpoch};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{join::Welcome, succession::Succession};

/// The version of the frames.
pub const FRAME_VERSION: u32 = 1;
/// Closed by its owner, nothing wrong.
pub const CLOSE_NORMAL: u32 = 0;
/// The one code for every refusal, as for the handshake: a stranger learns
/// nothing from it.
pub const CLOSE_REFUSED: u32 = 1;
/// Another link between the same two nodes was kept.
pub const CLOSE_DUPLICATE: u32 = 2;
/// The node is stopping; dialling again soon is right.
pub const CLOSE_GOING: u32 = 3;

const PREFIX_BYTES: usize = 4;

/// The dialler's words inside the handshake of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`FRAME_VERSION`].
    pub version: u32,
    /// Random per start of the program: tells a restarted peer from a second
    /// connection of the same one.
    pub incarnation: u64,
    /// This link is made anew while the dialler's old one is up: the old one
    /// ends when its streams have.
    #[serde(default)]
    pub renews: bool,
}

/// The listener's word that the dialler is admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// [`FRAME_VERSION`].
    pub version: u32,
    /// The epoch under whose secret the link was made.
    pub epoch: MeshEpoch,
    /// The listener's incarnation, as in [`Hello`].
    pub incarnation: u64,
    /// What the dialler may use from now on.
    pub limits: Limits,
    /// The listener's last changes of keys, oldest first: for a dialler that
    /// slept through them, which found another key than it expected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub successions: Vec<Succession>,
}

/// Bounds of an admitted link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Streams of the peer that may be open at once.
    pub streams: u32,
}

/// The issuer's answer to a joiner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairAnswer {
    /// The invite is spent; the joiner is a member.
    Welcome(Welcome),
    /// It is not, and why. The joiner has proven the secret, so the reason may
    /// be told.
    Refused {
        /// For the program.
        code: ErrorCode,
        /// For people.
        message: String,
    },
}

/// The bytes of a frame.
///
/// # Errors
/// [`FrameError::TooLarge`] over `bytes_max`, which the reader would refuse.
pub fn encode_frame<T: Serialize>(value: &T, bytes_max: usize) -> Result<Vec<u8>, FrameError> {
    let mut out = vec![0; PREFIX_BYTES];
    serde_json::to_writer(&mut out, value).map_err(FrameError::Encode)?;
    let length = out.len() - PREFIX_BYTES;
    let prefix = u32::try_from(length).ok().filter(|_| length <= bytes_max).ok_or(FrameError::TooLarge(length))?;
    out[..PREFIX_BYTES].copy_from_slice(&prefix.to_be_bytes());
    Ok(out)
}

/// How many bytes follow this prefix.
///
/// # Errors
/// [`FrameError::TooLarge`] over `bytes_max`, before anything is allocated.
pub fn frame_length(prefix: [u8; PREFIX_BYTES], bytes_max: usize) -> Result<usize, FrameError> {
    let length = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if length <= bytes_max { Ok(length) } else { Err(FrameError::TooLarge(length)) }
}

/// Reads the body of a frame, or a hello.
///
/// # Errors
/// [`FrameError::Decode`].
pub fn decode_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(body).map_err(FrameError::Decode)
}

/// Why a frame cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Over the bound of its kind.
    #[error("a frame of {0} bytes is over its limit")]
    TooLarge(usize),
    /// The value has no JSON form.
    #[error("cannot encode the frame")]
    Encode(#[source] serde_json::Error),
    /// The bytes are not the expected JSON.
    #[error("cannot decode the frame")]
    Decode(#[source] serde_json::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_frame_reads_back_and_unknown_fields_are_ignored() {
        let hello = Hello { version: 1, incarnation: u64::MAX, renews: true };
        let frame = encode_frame(&hello, 100).unwrap();
        let (prefix, body) = frame.split_first_chunk().unwrap();
        assert_eq!(frame_length(*prefix, 100).unwrap(), body.len());
        assert_eq!(decode_json::<Hello>(body).unwrap(), hello);
        assert_eq!(
            decode_json::<Hello>(br#"{"version":1,"incarnation":1,"more":[1]}"#).unwrap(),
            Hello { version: 1, incarnation: 1, renews: false }
        );
        assert!(matches!(encode_frame(&hello, 10), Err(FrameError::TooLarge(_))));
        assert!(matches!(frame_length([0, 0, 0, 11], 10), Err(FrameError::TooLarge(11))));
    }

    proptest! {
        #[test]
        fn any_body_is_a_value_or_an_error(body in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(decode_json::<Hello>(&body));
            drop(decode_json::<Admitted>(&body));
            drop(decode_json::<PairAnswer>(&body));
        }
    }
}
