//! The controller: REST, node link, projections of the fleet log.

fn main() {}
