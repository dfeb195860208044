//! Tests of the ledger's pure part from outside: vectors, attacks, the form of
//! what others may send.

#![allow(clippy::unwrap_used, reason = "helpers of tests: the line that surprised is what is wanted")]

mod anchors;
mod attacks;
mod oracle;
mod threads;
mod vectors;
mod verdicts;
mod world;
