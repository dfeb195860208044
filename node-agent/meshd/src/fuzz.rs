//! Plain functions over any bytes, for fuzzers and for a bounded run in every CI
//! run. Each reads the bytes as an admitted peer's and panics only on a broken
//! promise.

use crate::{blobs, messages::Message};

/// A slice of a blob, and the place that a peer asks for.
///
/// # Panics
/// When bytes are kept that are not the blob's.
pub fn fuzz_blob(bytes: &[u8]) {
    blobs::fuzz_slice(bytes);
}

/// A message of one node to another, without its length.
///
/// # Panics
/// When one that was read has no form of its own, or another one.
pub fn fuzz_message(bytes: &[u8]) {
    if let Ok(message) = serde_json::from_slice::<Message>(bytes) {
        let text = serde_json::to_vec(&message).expect("a message has a form");
        let again: Message = serde_json::from_slice(&text).expect("its own form can be read");
        assert_eq!(again, message, "another message was read back");
    }
}
