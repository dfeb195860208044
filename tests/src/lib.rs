//! Integration tests, test bed and whole-system benchmarks.

pub mod bench;
pub mod demo;
pub mod faults;
pub mod hosts;
pub mod rotation;
pub mod shaper;
pub mod sockets;
pub mod units;
