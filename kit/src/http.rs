//! HTTP over Unix sockets: who calls, what they may, and how to call.
//!
//! ```text
//!  client ──token / uid──► listener ► identify ► table ► router
//! ```
//! Invariant: no request reaches a router without a row of the callers table
//! that allows it.

mod callers;
mod client;
mod extract;
pub mod refusals;
mod server;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod tokens;

pub use callers::{
    Allowed, Caller, CallerTable, Callers, DaemonUser, Isolation, MODEL_UID_FIRST, MODEL_UID_LAST, Row, STREAM, Who,
};
pub use client::{Credentials, UnixClient};
pub use extract::Json;
pub use refusals::{Refusal, Refusals};
pub use server::{BODY_BYTES_MAX, CONNECTIONS_MAX, serve_unix};
pub use tokens::{PeerTokens, TOKEN_HEX_LEN, TokenError, TokenFile};

/// The header that carries a daemon's token where all daemons share one uid.
pub const TOKEN_HEADER: &str = "x-osmoda-token";

/// The header with which a daemon that runs as root says which one it is. It is
/// believed from uid 0 only, and only for daemons that do run as root: root can
/// become any of them anyway, so this tells them apart and guards nothing.
pub const DAEMON_HEADER: &str = "x-osmoda-daemon";
