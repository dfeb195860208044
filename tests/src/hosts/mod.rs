//! Real hosts on one machine: own systemd as PID 1, own address, own Nix store.
//!
//! A host is a set of namespaces over an overlay of one cached Debian tree. What
//! must hold: everything lives below one directory; nothing of the machine's own
//! systemd, store or `/run/nixos` is touched; only processes that a bed started
//! are ended, by their recorded ids. What it does not do: isolation. The hosts
//! share one kernel, so this proves behaviour and not security.

mod attack;
mod base;
mod bed;
mod cell;
mod command;
mod console;
mod controller;
mod fleet;
mod generation;
mod host;
mod inbox;
mod killed;
mod network;
mod prerequisites;
mod programs;
mod scenario;
mod uids;
mod witnesses;

pub(crate) use command::until;

pub use attack::{Attack, carry_out};
pub use bed::{Bed, BedError};
pub use cell::{CellSpec, enter_cell, root_cell};
pub use prerequisites::missing;
pub use scenario::{Outcome, Scenario, run_scenarios};
pub use uids::{Call, Refusal, probe};
