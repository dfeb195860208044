//! What the command line program shares with the demonstration: fleets of real
//! processes on one machine.

pub mod dev;
