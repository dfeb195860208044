//! What becomes of a permit. *Pure.*
//!
//! ```text
//! pending ──enough signatures──► approved ──last call──► consumed
//!    └───────────deny───────────────┴─► denied      either ──time──► expired
//! ```
//! Invariant: consumed, denied and expired are final; each position of a plan
//! is consumed once and in order (test `no_history_consumes_a_position_twice`).

use osmoda_types::{CallHash, ErrorCode};
use serde::{Deserialize, Serialize};

use crate::permit::{Moment, Permit};

/// Where a permit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It waits for signatures.
    Pending,
    /// It has enough of them.
    Approved,
    /// All it was for was begun.
    Consumed,
    /// Somebody said no.
    Denied,
    /// Its time passed first.
    Expired,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Approved, Self::Consumed, Self::Denied, Self::Expired];

    /// The stable text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Consumed => "consumed",
            Self::Denied => "denied",
            Self::Expired => "expired",
        }
    }

    /// Whether it may still become something else.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Approved)
    }

    /// The state of that text.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A state and how many of the permit's calls were begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The state as it was last written.
    pub state: State,
    /// The position that may be consumed next.
    pub next: u32,
}

/// What happens to a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// Its signatures are enough now.
    Approve,
    /// Somebody with the right to do so said no.
    Deny,
    /// The executor is about to run a call under it.
    Consume {
        /// The hash of what would run.
        call: &'a CallHash,
        /// Its position; 0 for a permit of one call.
        position: u32,
        /// The hashes of the plan; empty for one call.
        plan: &'a [CallHash],
    },
}

/// Why an event does not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its time is over.
    #[error("the permit has expired")]
    Expired,
    /// It was denied.
    #[error("the permit was denied")]
    Denied,
    /// It, or this position of it, was used.
    #[error("the permit was used before")]
    Spent,
    /// It has not enough signatures yet.
    #[error("the permit is not approved")]
    NotApproved,
    /// It is for another call, or for a later position.
    #[error("the permit does not bind this call")]
    NotBound,
    /// It is approved already.
    #[error("the permit is approved already")]
    Approved,
}

impl Refusal {
    /// The code callers see.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            Self::Expired => ErrorCode::ApprovalExpired,
            Self::Denied => ErrorCode::ApprovalDenied,
            Self::Spent => ErrorCode::ApprovalSpent,
            Self::NotApproved => ErrorCode::ApprovalRequired,
            Self::NotBound => ErrorCode::ApprovalInvalid,
            Self::Approved => ErrorCode::Conflict,
        }
    }
}

impl Standing {
    /// A permit that was just asked for.
    pub const NEW: Self = Self { state: State::Pending, next: 0 };

    /// The state at a moment: time ends what waits, whether or not anybody has
    /// written that down yet (A4).
    #[must_use]
    pub fn at(&self, permit: &Permit, now: &Moment) -> State {
        match self.state {
            State::Pending | State::Approved if permit.not_after.is_over(now) => State::Expired,
            state => state,
        }
    }

    /// What an event makes of it.
    ///
    /// # Errors
    /// [`Refusal`]; then nothing changes.
    pub fn step(&self, permit: &Permit, event: Event<'_>, now: &Moment) -> Result<Self, Refusal> {
        match (self.at(permit, now), event) {
            (State::Expired, _) => Err(Refusal::Expired),
            (State::Denied, _) => Err(Refusal::Denied),
            (State::Consumed, _) => Err(Refusal::Spent),
            (State::Pending, Event::Approve) => Ok(Self { state: State::Approved, ..*self }),
            (State::Approved, Event::Approve) => Err(Refusal::Approved),
            (State::Pending | State::Approved, Event::Deny) => Ok(Self { state: State::Denied, ..*self }),
            (State::Pending, Event::Consume { .. }) => Err(Refusal::NotApproved),
            (State::Approved, Event::Consume { position, .. }) if position < self.next => Err(Refusal::Spent),
            (State::Approved, Event::Consume { call, position, plan }) => {
                if position != self.next || !permit.binds(call, position, plan) {
                    return Err(Refusal::NotBound);
                }
                let next = self.next + 1;
                let state = if next == permit.covers.calls() { State::Consumed } else { State::Approved };
                Ok(Self { state, next })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permit::Covers;
    use crate::plan;
    use crate::testing::{moment, permit};
    use proptest::prelude::*;

    fn hash(n: u32) -> CallHash {
        CallHash::from_bytes([u8::try_from(n).unwrap(); 32])
    }

    #[test]
    fn each_state_answers_each_event_as_drawn() {
        let permit = permit(hash(7));
        let now = moment(2000, 1000);
        let consume = |n| Event::Consume { call: Box::leak(Box::new(hash(n))), position: 0, plan: &[] };
        let step = |state, event| Standing { state, next: 0 }.step(&permit, event, &now).map(|after| after.state);
        assert_eq!(step(State::Pending, Event::Approve), Ok(State::Approved));
        assert_eq!(step(State::Pending, Event::Deny), Ok(State::Denied));
        assert_eq!(step(State::Pending, consume(7)), Err(Refusal::NotApproved));
        assert_eq!(step(State::Approved, Event::Approve), Err(Refusal::Approved));
        assert_eq!(step(State::Approved, Event::Deny), Ok(State::Denied));
        assert_eq!(step(State::Approved, consume(7)), Ok(State::Consumed));
        assert_eq!(step(State::Approved, consume(8)), Err(Refusal::NotBound));
        for (state, refusal) in
            [(State::Consumed, Refusal::Spent), (State::Denied, Refusal::Denied), (State::Expired, Refusal::Expired)]
        {
            for event in [Event::Approve, Event::Deny, consume(7)] {
                assert_eq!(step(state, event), Err(refusal), "{state} {event:?}");
            }
        }
        let late = moment(601_000, 1000);
        assert_eq!(
            Standing { state: State::Approved, next: 0 }.step(&permit, consume(7), &late),
            Err(Refusal::Expired)
        );
    }

    proptest! {
        /// The oracle knows no states: a list of what happened, and rules over it.
        #[test]
        fn no_history_consumes_a_position_twice(
            calls in 1_u32..5,
            steps in proptest::collection::vec((0_u8..8, 0_u32..6, 0_u32..6, 0_u64..900_000), 0..40),
        ) {
            let hashes: Vec<CallHash> = (0..calls).map(hash).collect();
            let (covers, plan) = match calls {
                1 => (Covers::Call { hash: hashes[0] }, &[][..]),
                _ => (Covers::Plan { root: plan::root(&hashes).unwrap(), calls }, &hashes[..]),
            };
            let permit = Permit { covers, ..permit(hash(0)) };
            let mut standing = Standing::NEW;
            let (mut approved, mut denied, mut used) = (false, false, Vec::new());
            for (what, call, position, at) in steps {
                let now = moment(1000 + i64::try_from(at).unwrap(), 500 + at);
                let in_time = at < 600_000;
                let call = hash(call);
                let event = match what {
                    0 | 1 => Event::Approve,
                    2 => Event::Deny,
                    _ => Event::Consume { call: &call, position, plan },
                };
                let alive = in_time && !denied && used.len() < calls as usize;
                let expected = alive && match event {
                    Event::Approve => !approved,
                    Event::Deny => true,
                    Event::Consume { call, position, .. } => {
                        approved && position as usize == used.len() && hashes.get(position as usize) == Some(call)
                    }
                };
                let done = standing.step(&permit, event, &now);
                prop_assert_eq!(done.is_ok(), expected, "{:?} at {}", event, at);
                if let Ok(after) = done {
                    standing = after;
                    match event {
                        Event::Approve => approved = true,
                        Event::Deny => denied = true,
                        Event::Consume { position, .. } => {
                            prop_assert!(!used.contains(&position));
                            used.push(position);
                        }
                    }
                }
            }
        }
    }
}
