//! What every daemon is built from.
//!
//! One boot sequence, one way to spawn, one way to stop, one way to write a
//! file, start a program, listen on a socket and call another daemon. A daemon
//! crate adds its state and its endpoints; nothing else should differ between
//! daemons. This crate knows no daemon by name: the registry and the callers
//! table are data handed in by `node-agent/api`.

pub mod clock;
pub mod error;
pub mod fsio;
pub mod keys;
pub mod lock;
pub mod paths;
pub mod process;
pub mod secret;
pub mod shutdown;
pub mod tasks;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
