//! The fleet's state behind the Raft log: a thin shell around the pure `apply`.

use osmoda_consensus::{StateMachine, log_index_of};
use osmoda_rollout::{FleetState, SnapshotError};
use osmoda_types::RaftId;

/// The state a voter applies committed commands to.
#[derive(Debug, Default)]
pub(crate) struct Fsm(FleetState);

impl StateMachine for Fsm {
    type RestoreError = SnapshotError;

    fn apply(&mut self, index: u64, proposer: RaftId, command: &[u8]) -> Vec<u8> {
        self.0.apply_bytes(log_index_of(index), proposer, command).reply.encode()
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.encode()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.0 = FleetState::decode(bytes)?;
        Ok(())
    }
}
