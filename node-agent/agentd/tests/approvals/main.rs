//! Approvals over a real socket: what binds, what is refused, and the attacks of
//! `trust.md` 3.6 that an executor or a model could try on agentd.

#![allow(clippy::unwrap_used, reason = "helpers of tests: the line that surprised is what is wanted")]

mod bounds;
mod busy;
mod host;
mod permits;
mod plans;
mod reference;
mod refusals;
