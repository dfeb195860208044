//! Checked conversions between wire messages and the words of the fleet.
//!
//! Invariant: a wire message either becomes a value that keeps every rule of
//! its type, or a [`ConvertError`] that names the field. Nothing is guessed: a
//! missing field, an unknown number or a short id is an error.

mod command;
mod member;
mod order;
mod policy;
mod rollout;

use osmoda_types::{ErrorCode, IdError, RequestId, RolloutId, StorePath, StorePathError};
use prost::Message as _;

use crate::fleet::v1 as pb;

/// Largest encoded command: a manifest's rows as protobuf are no larger than
/// the manifest (1 MiB), and what is added to them fits in as much again.
pub const COMMAND_BYTES_MAX: usize = 2 * osmoda_types::manifest::MANIFEST_BYTES_MAX;

/// Why a wire message is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// It is no protobuf of this kind.
    #[error("not a valid message")]
    Wire(#[source] prost::DecodeError),
    /// It is over its limit.
    #[error("{bytes} bytes are over the limit of {COMMAND_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A field that must be there is not.
    #[error("{field} is missing")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// An identifier of the wrong length.
    #[error("{field} is no identifier")]
    Id {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        #[source]
        source: IdError,
    },
    /// A path that is not plain and absolute.
    #[error("{field} is no store path")]
    Path {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        #[source]
        source: StorePathError,
    },
    /// A number or word that this version does not know.
    #[error("{field} has the unknown value {value:?}")]
    Unknown {
        /// The field.
        field: &'static str,
        /// The value, cut to 80 characters.
        value: String,
    },
}

impl ConvertError {
    pub(crate) fn unknown(field: &'static str, value: impl ToString) -> Self {
        Self::Unknown { field, value: value.to_string().chars().take(80).collect() }
    }

    /// The code for programs.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::TooLarge { .. } => ErrorCode::TooLarge,
            _ => ErrorCode::BadRequest,
        }
    }
}

/// Encodes a command for the log.
#[must_use]
pub fn encode_command(command: &osmoda_types::command::Command) -> Vec<u8> {
    pb::Command::from(command).encode_to_vec()
}

/// Decodes and checks a command of the log.
///
/// # Errors
/// [`ConvertError`] for anything that is not a complete, valid command.
pub fn decode_command(bytes: &[u8]) -> Result<osmoda_types::command::Command, ConvertError> {
    if bytes.len() > COMMAND_BYTES_MAX {
        return Err(ConvertError::TooLarge { bytes: bytes.len() });
    }
    pb::Command::decode(bytes).map_err(ConvertError::Wire)?.try_into()
}

/// Reads a fixed-size identifier.
pub(crate) fn id<T>(field: &'static str, bytes: &[u8]) -> Result<T, ConvertError>
where
    T: for<'a> TryFrom<&'a [u8], Error = IdError>,
{
    T::try_from(bytes).map_err(|source| ConvertError::Id { field, source })
}

/// Reads a list of fixed-size identifiers.
pub(crate) fn ids<T>(field: &'static str, list: &[Vec<u8>]) -> Result<Vec<T>, ConvertError>
where
    T: for<'a> TryFrom<&'a [u8], Error = IdError>,
{
    list.iter().map(|bytes| id(field, bytes)).collect()
}

/// Reads a rollout id.
pub(crate) fn rollout_id(field: &'static str, bytes: &[u8]) -> Result<RolloutId, ConvertError> {
    // A rollout id is a UUID; any 16 bytes are one. The length is checked by a
    // type of the same length.
    id::<RequestId>(field, bytes).map(|id| RolloutId::from_bytes(*id.as_bytes()))
}

/// Reads a store path.
pub(crate) fn path(field: &'static str, text: String) -> Result<StorePath, ConvertError> {
    StorePath::new(text).map_err(|source| ConvertError::Path { field, source })
}

/// Reads an error code.
pub(crate) fn code(field: &'static str, text: &str) -> Result<ErrorCode, ConvertError> {
    text.parse().map_err(|_| ConvertError::unknown(field, text))
}

/// Takes a field that must be there.
pub(crate) fn required<T>(field: &'static str, value: Option<T>) -> Result<T, ConvertError> {
    value.ok_or(ConvertError::Missing { field })
}

/// The bytes of many identifiers.
pub(crate) fn list<'a, const N: usize>(ids: impl IntoIterator<Item = &'a [u8; N]>) -> Vec<Vec<u8>> {
    ids.into_iter().map(|id| id.to_vec()).collect()
}
