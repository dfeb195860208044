//! Integration tests, test bed and whole-system benchmarks.

pub mod bench;
pub mod demo;
pub mod hosts;
pub mod units;
