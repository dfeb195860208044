//! Tests of the ledger's pure part from outside: vectors, attacks, the form of
//! what others may send.

mod attacks;
mod vectors;
mod world;
