//! The controller: it shows the fleet, carries signed orders to the log, and
//! decides nothing.
//!
//! ```text
//!  operator ──REST──► controller ──Fleet──► voters
//!                        ▲  ▲                  │
//!  nodes ───────Link─────┘  └──────Watch───────┘
//! ```
//! Invariant: without it rollouts go on; everything it stores but manifests and
//! tokens can be made again from the log.

mod config;
mod daemon;
mod follower;
mod inbox;
mod join;
mod link;
mod mesh;
mod presence;
mod projection;
mod rest;
mod rotation;
#[cfg(feature = "tls")]
mod tls;
mod token;
mod view;
mod voters;
mod wire;
mod witnessed;

pub use config::{Config, Flags, TlsFiles};
pub use daemon::Controller;
pub use follower::{FollowError, Follower, Published};
pub use inbox::Inbox;
pub use join::{Join, Joined, join, mesh_dir};
pub use link::LinkService;
pub use presence::Presence;
pub use rest::{App, AppParts};
#[cfg(feature = "tls")]
pub use tls::TlsListener;
pub use token::{make as make_token, path as token_path};
pub use view::View;
pub use voters::{Fleet, Voters};

/// The name of the program's state folder, socket and configuration file.
pub const NAME: &str = "controller";
