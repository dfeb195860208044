//! What is true of the host: processes, disks, ports, services.
//!
//! - *Pure*: `ports` (the kernel's table of sockets), `kinds` (what a name is).
//! - `look` reads `/proc` and asks systemd, `api` has the endpoints.
//!
//! Nothing here starts a shell, and nothing is guessed where it can be read;
//! what this daemon may not see is named in `notes`.

mod api;
mod kinds;
mod look;
mod ports;

pub use api::{System, router};
