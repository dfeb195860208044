//! The mesh endpoint: one UDP port, one authenticated QUIC link per peer, and
//! streams by service name inside it.
//!
//! Invariant: no stream is served to a peer that is not in the newest
//! membership snapshot this node was given, nor one whose role the service
//! table does not allow (`tests/one.rs`). Invariant: an address that has not
//! proven a secret of the network or of an open invite gets no byte back.
//!
//! Two tasks own all state: the listener (new connections) and the hub (links
//! and diallers); everybody else reads snapshots they publish. What members and
//! secrets are is decided elsewhere and handed in.
//!
//! Not here: rooms and blobs; they are added beside the listener and the hub.

mod adapters;
mod change;
mod command;
mod config;
mod counters;
mod dial;
mod door;
mod epochs;
mod error;
pub mod fuzz;
mod gate;
mod gauges;
mod handle;
mod hub;
mod identity;
mod intake;
mod keys;
mod lifetime;
mod link;
mod listen;
mod made;
mod overlay;
mod pair;
mod port;
mod rejoin;
pub mod rotation;
mod shared;
mod sieve;
mod socket;
pub mod state;
mod stream;
#[cfg(any(test, feature = "swim"))]
#[cfg_attr(not(feature = "swim"), allow(dead_code, reason = "tests check the pure part"))]
mod swim;
mod tie;
mod tuning;

pub use adapters::{PeerIo, incoming_stream, tonic_channel};
pub use change::KeyChange;
pub use config::{EpochSecret, MeshConfig, RejoinSecret, Secrets};
pub use counters::Event;
pub use door::InviteSecret;
pub use error::MeshError;
pub use handle::{Linked, Mesh, MeshHandle};
pub use identity::{Identity, Keyring};
pub use intake::{Intake, Opened};
pub use keys::{KeySource, fetch_epoch, fetch_rejoins, secret_hash, serve_keys};
pub use link::KEYS_OVERLAP;
pub use osmoda_mesh_protocol::{LinkInfo, PeerInfo, StreamPeer};
pub use pair::{Enroller, Joiner, PairError, PairRequest, Spend, pair};
pub use stream::{IncomingStream, MeshStream, Offer};
pub use tuning::{KnockFallback, Tuning};
