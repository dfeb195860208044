//! Rooms of several nodes, in memory: order, forks, retention, healing.

#[cfg(test)]
mod order;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod unit;
#[cfg(test)]
mod world;
