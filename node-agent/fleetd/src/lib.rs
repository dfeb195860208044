//! fleetd: membership, ballots, rollout driver and participant of one node.
//!
//! ```text
//!            committed log                      host
//!  Raft ──► replica ──► participant ──► watch.sock
//!   ▲          │ ├────► ballots, registrar, allow-list ──► mesh.sock
//!   │          │ └────► links ──► controllers
//!   └─ driver ◄┘ (leader only)    journalist ──► agentd.sock
//! ```
//! Every arrow is a reconciler: it reads what the log says and what is, takes
//! one step, and comes again. Only the log decides; only the host's journal says
//! what runs.
//!
//! Invariant: a voter without its log never votes (`beginning`); a node speaks
//! for itself only (`authority`); a yes needs an own check (`ballots`).

pub mod beginning;
pub mod manifests;

mod authority;
mod ballots;
mod caller;
mod config;
mod daemon;
mod dialling;
mod epochs;
mod fsm;
mod heads;
mod http;
mod inbound;
mod invites;
mod journalist;
mod leader;
mod leader_client;
mod ledgers;
mod link;
mod membership;
mod participant;
mod peers;
mod permits;
mod registrar;
mod replica;
mod reports;
mod service;
mod sources;
mod timers;
mod trust;
mod voter;
mod voter_plan;
mod voters;
mod watchers;
mod wire;
mod witnessed;

pub use config::{Config, Profile};
pub use daemon::Fleetd;
