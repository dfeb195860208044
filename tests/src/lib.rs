//! Integration tests, test bed and whole-system benchmarks.

pub mod bench;
pub mod hosts;
pub mod units;
