//! How a stream begins: the opener names a service, the owner says yes or why
//! not, then the bytes belong to the service.
//!
//! ```text
//! opener -> owner   version u8 = 1 | name length u8 | name
//! owner  -> opener  0                               accepted
//!                   1 | code length u8 | error code refused, and the stream ends
//! ```

use osmoda_types::ErrorCode;

use crate::service::{Service, UnknownService};

const VERSION: u8 = 1;
const ACCEPTED: u8 = 0;
const REFUSED: u8 = 1;
/// Longer than any service name; what an opener can make the owner buffer.
const NAME_BYTES_MAX: usize = 32;
/// Longer than any error code's text.
const CODE_BYTES_MAX: usize = 64;

/// Bound on an encoded [`Preamble`].
pub const PREAMBLE_BYTES_MAX: usize = 2 + NAME_BYTES_MAX;
/// Bound on an encoded [`Answer`].
pub const ANSWER_BYTES_MAX: usize = 2 + CODE_BYTES_MAX;

/// The opener's first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preamble {
    /// What the stream is for.
    pub service: Service,
}

impl Preamble {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let name = self.service.as_str().as_bytes();
        // Service names are constants far under 32 bytes.
        let mut out = vec![VERSION, name.len() as u8];
        out.extend_from_slice(name);
        out
    }

    /// Reads the bytes received so far: `None` means that more are needed,
    /// otherwise the preamble and how many bytes it took.
    ///
    /// # Errors
    /// [`PreambleError`] as soon as the bytes cannot become a preamble.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, PreambleError> {
        match bytes {
            [] | [VERSION] => Ok(None),
            [VERSION, length, rest @ ..] => {
                let length = usize::from(*length);
                if length > NAME_BYTES_MAX {
                    return Err(PreambleError::TooLong(length));
                }
                let Some(name) = rest.get(..length) else { return Ok(None) };
                let name = String::from_utf8_lossy(name);
                Ok(Some((Self { service: name.parse()? }, 2 + length)))
            }
            [version, ..] => Err(PreambleError::Version(*version)),
        }
    }
}

/// The owner's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The stream is the service's from here on.
    Accepted,
    /// The stream ends; the code says why.
    Refused(ErrorCode),
}

impl Answer {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Answer::Accepted => vec![ACCEPTED],
            Answer::Refused(code) => {
                let code = code.as_str().as_bytes();
                // Codes are constants under 64 bytes (`tests::every_code_fits`).
                let mut out = vec![REFUSED, code.len() as u8];
                out.extend_from_slice(code);
                out
            }
        }
    }

    /// As [`Preamble::decode`]. A code of a newer version reads as
    /// [`ErrorCode::Internal`].
    ///
    /// # Errors
    /// [`PreambleError`] as soon as the bytes cannot become an answer.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, PreambleError> {
        match bytes {
            [] | [REFUSED] => Ok(None),
            [ACCEPTED, ..] => Ok(Some((Answer::Accepted, 1))),
            [REFUSED, length, rest @ ..] => {
                let length = usize::from(*length);
                if length > CODE_BYTES_MAX {
                    return Err(PreambleError::TooLong(length));
                }
                let Some(code) = rest.get(..length) else { return Ok(None) };
                let code = String::from_utf8_lossy(code).parse().unwrap_or(ErrorCode::Internal);
                Ok(Some((Answer::Refused(code), 2 + length)))
            }
            [other, ..] => Err(PreambleError::Version(*other)),
        }
    }
}

/// Why bytes are no preamble and no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PreambleError {
    /// The first byte is of no version this program speaks.
    #[error("unknown stream version {0}")]
    Version(u8),
    /// The announced name is over its bound.
    #[error("a name of {0} bytes")]
    TooLong(usize),
    /// The name is no service.
    #[error("the stream names no service")]
    Service(#[from] UnknownService),
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_code_fits() {
        for code in ErrorCode::ALL {
            let bytes = Answer::Refused(*code).encode();
            assert!(bytes.len() <= ANSWER_BYTES_MAX);
            assert_eq!(Answer::decode(&bytes), Ok(Some((Answer::Refused(*code), bytes.len()))));
        }
        assert_eq!(Answer::decode(&[0, 9]), Ok(Some((Answer::Accepted, 1))));
    }

    #[test]
    fn a_preamble_reads_back_from_any_prefix_and_leaves_the_rest() {
        for service in Service::ALL {
            let bytes = Preamble { service }.encode();
            assert!(bytes.len() <= PREAMBLE_BYTES_MAX);
            for cut in 0..bytes.len() {
                assert_eq!(Preamble::decode(&bytes[..cut]), Ok(None));
            }
            let more = [&bytes[..], b"payload"].concat();
            assert_eq!(Preamble::decode(&more), Ok(Some((Preamble { service }, bytes.len()))));
        }
        assert!(matches!(Preamble::decode(b"\x01\x04bulk"), Err(PreambleError::Service(_))));
        assert_eq!(Preamble::decode(b"\x02"), Err(PreambleError::Version(2)));
        assert_eq!(Preamble::decode(b"\x01\xff"), Err(PreambleError::TooLong(255)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            for used in [Preamble::decode(&bytes).map(|v| v.map(|v| v.1)), Answer::decode(&bytes).map(|v| v.map(|v| v.1))] {
                if let Ok(Some(used)) = used {
                    prop_assert!(used <= bytes.len());
                }
            }
        }
    }
}
