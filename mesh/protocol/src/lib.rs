//! The rules of the mesh, without any I/O: who may call what, what an invite
//! says, how a first packet proves itself, how a stream begins.
//!
//! Everything here is pure: time and randomness are arguments. Invariant:
//! whatever bytes or text come in, a parser answers with a value inside its
//! limits or an error; it never panics and never allocates more than the limit
//! it states (each module's property test).
//!
//! Not here: keys of the handshake (`osmoda-mesh-crypto`) and sockets
//! (`osmoda-mesh`).

mod backoff;
mod frame;
mod invite;
mod join;
mod keys;
mod knock;
mod members;
mod peer;
mod preamble;
mod rate;
mod secret;
mod service;
mod succession;

pub use backoff::Backoff;
pub use frame::{
    Admitted, CLOSE_DUPLICATE, CLOSE_GOING, CLOSE_NORMAL, CLOSE_REFUSED, FRAME_VERSION, FrameError, Hello, Limits,
    PairAnswer, decode_json, encode_frame, frame_length,
};
pub use invite::{INVITE_ADDRESSES_MAX, INVITE_LIFE_MS_MAX, INVITE_TEXT_BYTES_MAX, Invite, InviteError};
pub use join::{Enrolment, JOIN_REQUEST_BYTES_MAX, JoinError, JoinRequest, Operator, WELCOME_BYTES_MAX, Welcome};
pub use keys::{KEYS_ANSWER_BYTES_MAX, KEYS_ASK_BYTES_MAX, KEYS_NODES_MAX, KeysAnswer, KeysAsk};
pub use knock::{
    KNOCK_BYTES, KNOCK_NONCE_BYTES, KNOCK_SLOT_MS, KnockCheck, REJOIN_RANDOM_BYTES, RejoinTable, knock, knock_is_valid,
    rejoin_knock,
};
pub use members::{ADDRESSES_MAX, MEMBERS_MAX, Member, Members, MembersError, NAME_BYTES_MAX, name_is_valid, node_id};
pub use peer::{LinkInfo, PeerInfo, StreamPeer};
pub use preamble::{ANSWER_BYTES_MAX, Answer, PREAMBLE_BYTES_MAX, Preamble, PreambleError};
pub use rate::{Bucket, Buckets, Prefix, Rate};
pub use secret::SecretBytes;
pub use service::{Allowance, Service, UnknownService};
pub use succession::{SUCCESSIONS_MAX, Succession, SuccessionError, follow, succeed};
