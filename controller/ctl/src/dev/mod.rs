//! A whole fleet on one machine, from the real programs: `osmoda dev` and the
//! demonstration.
//!
//! Invariant: everything a fleet writes is below its folder (and, with Nix, in
//! the store); everything it runs has a root directory below that folder as an
//! argument and is found again by it. Blocking: for programs, not for daemons.

pub mod fleet;
pub mod layout;
pub mod member;
pub mod proc;
pub mod profile;
pub mod toplevel;
