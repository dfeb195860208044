//! What members ask voters for: the secret of an epoch, and, voters among
//! themselves, the secrets with which other members may come back.
//!
//! One question and one answer per stream, both as frames (`frame`). A secret
//! travels only inside an admitted link; who asks is what the link has proven.

use std::collections::BTreeMap;

use osmoda_types::{ErrorCode, MeshEpoch, NodeId};
use serde::{Deserialize, Serialize};

use crate::secret::SecretBytes;

/// Members in one question about secrets for coming back. A fleet of 1,024 is
/// asked for in four turns.
pub const KEYS_NODES_MAX: usize = 256;
/// Bound on a question: 256 node ids of 67 bytes.
pub const KEYS_ASK_BYTES_MAX: usize = 24 * 1024;
/// Bound on an answer: 256 pairs of an id and a secret, 137 bytes each.
pub const KEYS_ANSWER_BYTES_MAX: usize = 48 * 1024;

/// The question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "want", rename_all = "snake_case", deny_unknown_fields)]
pub enum KeysAsk {
    /// The secret of an epoch.
    Epoch {
        /// Which.
        epoch: MeshEpoch,
    },
    /// The secrets with which these members may come back. Only voters ask.
    Rejoins {
        /// At most [`KEYS_NODES_MAX`].
        nodes: Vec<NodeId>,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeysAnswer {
    /// The secret; the asker compares its hash with the one in the log.
    Epoch(SecretBytes),
    /// Those of the asked ones that are known here.
    Rejoins(BTreeMap<NodeId, SecretBytes>),
    /// Why there is none.
    Refused(ErrorCode),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{decode_json, encode_frame};
    use proptest::prelude::*;

    #[test]
    fn the_largest_question_and_answer_fit_their_bounds() {
        let nodes: Vec<NodeId> = (0..KEYS_NODES_MAX).map(|number| NodeId::from_bytes(id(number))).collect();
        let secret = SecretBytes::new([0xff; 32]);
        let answer = KeysAnswer::Rejoins(nodes.iter().map(|node| (*node, secret.clone())).collect());
        let frame = encode_frame(&answer, KEYS_ANSWER_BYTES_MAX).unwrap();
        assert_eq!(decode_json::<KeysAnswer>(&frame[4..]).unwrap(), answer);
        let ask = KeysAsk::Rejoins { nodes };
        let frame = encode_frame(&ask, KEYS_ASK_BYTES_MAX).unwrap();
        assert_eq!(decode_json::<KeysAsk>(&frame[4..]).unwrap(), ask);
    }

    fn id(number: usize) -> [u8; 32] {
        let mut bytes = [0xee; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        bytes
    }

    proptest! {
        #[test]
        fn any_body_is_a_value_or_an_error(body in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(decode_json::<KeysAsk>(&body));
            drop(decode_json::<KeysAnswer>(&body));
        }
    }
}
