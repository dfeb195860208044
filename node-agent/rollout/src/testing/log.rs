//! A log of one writer, and the state that it leads to.

use osmoda_types::command::{Body, Command};
use osmoda_types::{RequestId, Role};

use super::ids::{node, raft_id};
use super::members::{genesis, invite, member, spend, subkey};
use super::words::Cmd;
use super::{NODES, VOTERS};
use crate::{FleetState, Outcome};

/// Applies bodies, each as an entry of its own, from the index after the last.
#[derive(Debug)]
pub struct Log {
    /// The state after the last entry.
    pub state: FleetState,
    /// How many request ids were used.
    pub requests: u64,
}

impl Default for Log {
    fn default() -> Self {
        Self { state: FleetState::new(), requests: 0 }
    }
}

impl Log {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A request id that was not used before.
    pub fn request(&mut self) -> RequestId {
        self.requests += 1;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.requests.to_be_bytes());
        RequestId::from_bytes(bytes)
    }

    /// Applies a body that leader 0 wrote.
    pub fn apply(&mut self, body: Body) -> Outcome {
        self.apply_from(body, 0)
    }

    /// Applies a body that voter `leader` wrote.
    pub fn apply_from(&mut self, body: Body, leader: u8) -> Outcome {
        let command = Command { request: self.request(), body };
        let index = self.state.last_index() + 1;
        self.state.apply(index, raft_id(leader), &command)
    }

    /// Applies a short command that voter `leader` wrote.
    pub fn send(&mut self, cmd: &Cmd, leader: u8) -> Outcome {
        self.apply_from(cmd.body(&self.state), leader)
    }

    /// Applies a body that must not be refused.
    ///
    /// # Panics
    /// When it is.
    pub fn expect(&mut self, body: Body) {
        let outcome = self.apply(body);
        assert_eq!(outcome.reply.result(), Ok(()));
    }

    /// Sends a short command that must not be refused.
    ///
    /// # Panics
    /// When it is.
    pub fn must(&mut self, cmd: &Cmd) {
        assert_eq!(self.send(cmd, 0).reply.result(), Ok(()), "{cmd:?}");
    }

    /// The whole small fleet.
    #[must_use]
    pub fn fleet() -> Self {
        let mut log = Self::new();
        log.expect(genesis());
        for number in 0..VOTERS {
            if number > 0 {
                // Only voters issue invites, so node 0 is one by now.
                log.expect(Body::OpenInvite(invite(number, Role::Voter)));
                log.expect(spend(number, member(number, Role::Voter), 1));
            }
            log.expect(subkey(number));
            log.expect(Body::RegisterVoter { node: node(number), raft_id: raft_id(number) });
        }
        for number in VOTERS..NODES {
            log.expect(Body::OpenInvite(invite(number, Role::Node)));
            log.expect(spend(number, member(number, Role::Node), 1));
        }
        log
    }
}
