//! The node program: one unit per daemon, or all under one supervisor.

fn main() {}
