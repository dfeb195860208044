//! Tests of the state machine: tables, golden snapshot, and random histories
//! beside an independent model.

mod generate;
mod history;
mod invariants;
mod members;
mod model;
mod revoke;
mod rotate;
mod stored;
mod table;
