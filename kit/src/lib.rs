//! What every daemon is built from.
//!
//! One boot sequence, one way to spawn, one way to stop, one way to write a
//! file, start a program, listen on a socket and call another daemon. A daemon
//! crate adds its state and its endpoints; nothing else should differ between
//! daemons. This crate knows no daemon by name: the registry and the callers
//! table are data handed in by `node-agent/api`.

pub mod audit;
pub mod boot;
pub mod clock;
pub mod config;
pub mod error;
pub mod frames;
pub mod fsio;
pub mod gather;
pub mod http;
pub mod keys;
pub mod lock;
pub mod metrics;
pub mod paths;
pub mod process;
pub mod secret;
pub mod shutdown;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod stream;
pub mod tasks;
pub mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod version;
