//! What a call is, who may approve it, and when: the pure rules of approvals.
//!
//! agentd keeps permits and consumes them, the executor checks each one again
//! by itself, the command line shows and signs them; all with this crate, so
//! that they cannot differ. It does no I/O and takes time as an argument.
//!
//! ```text
//! tool + args ─► operation ─► class          policy: permit needed? how many approvers?
//!                    └─► call (with the resolved object) ─► hash ─► permit ─► signatures ─► tally
//! ```
//! Invariants are named where they are kept: one reading per text (`json`), one
//! hash per call (`call`), one statement per decision (`permit`), one use per
//! position (`state`).

pub mod call;
pub mod check;
pub mod class;
pub mod display;
pub mod json;
pub mod permit;
pub mod plan;
pub mod policy;
pub mod protected;
pub mod signature;
pub mod state;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tool;
pub mod trust;

pub use call::{Call, CallFault};
pub use class::EffectClass;
pub use permit::{Covers, Decision, Moment, Permit, SignedPermit};
pub use policy::{Policy, Taint};
pub use signature::{ApproverSignature, Proof, Tally, tally};
pub use state::{Event, Refusal, Standing, State};
pub use tool::{Operation, Tool};
pub use trust::{HostTrust, TrustOrder};

#[cfg(test)]
mod attacks;
