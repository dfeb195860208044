//! Rooms over real links on the loopback interface, and the owner alone with a
//! clock and a disk that the test decides about.

mod alone;
mod clock;
mod endpoints;
mod keys;
mod links;
mod members;
mod owner;
mod quota;
mod sessions;
mod streams;
mod world;
