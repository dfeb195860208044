//! The words of the blob endpoints on `mesh.sock`.
//!
//! ```text
//! PUT  /blob            raw bytes          -> BlobStored
//! GET  /blob/{hash}     -> raw bytes
//! POST /blob/fetch      FetchBlob          -> BlobStored    from another node
//! ```

use osmoda_types::NodeId;
use serde::{Deserialize, Serialize};

/// A blob that is here, whole and verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobStored {
    /// BLAKE3 of its bytes, 64 hex digits.
    pub hash: String,
    /// Its bytes.
    pub size: u64,
}

/// `POST /blob/fetch`: bring a blob here. A fetch that was interrupted goes on
/// where it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchBlob {
    /// BLAKE3 of its bytes, 64 hex digits.
    pub hash: String,
    /// Who has it.
    pub peer: NodeId,
    /// How large it may be, in bytes; absent: as large as any blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<u64>,
}
