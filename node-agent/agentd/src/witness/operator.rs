//! An operator's command line as the witness of a fleet of one: it keeps the head
//! that it cosigned last where root of this host cannot reach it.
//!
//! The operator asks, not the node: he fetches checkpoint and proof, judges, and
//! brings the cosignature here. Invariant: only a key that may approve on this host
//! counts, and only while no other node is there to witness.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use osmoda_kit::error::ApiError;
use osmoda_kit::tasks::Tasks;
use osmoda_ledger::note::{KeyKind, NoteSignature, VerifierKey};
use osmoda_node_api::approval_files::load_trust;
use osmoda_node_api::witness::{Cosign, Cosigned, Roster};
use osmoda_types::{ErrorCode, PublicKey, Right};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::coverage::{Coverage, Who};
use crate::checkpoint::Checkpoints;
use crate::ledger_key;

/// Cosignatures on their way to the courier: one person has one terminal.
pub(super) const QUEUE: usize = 16;

/// How long after its last cosignature an operator is taken to be there. One who
/// follows cosigns every second; longer would let a call begin in vain.
const SILENT_AFTER: Duration = Duration::from_secs(10);

/// What an operator cosigned.
pub(super) type Told = (PublicKey, u64);

/// Takes operators' cosignatures; cheap to clone.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) checkpoints: Checkpoints,
    pub(super) roster: watch::Receiver<Option<Arc<Roster>>>,
    pub(super) state_dir: PathBuf,
    pub(super) tasks: Tasks,
    pub(super) tell: mpsc::Sender<Told>,
}

/// `POST /ledger/cosign`.
pub(super) async fn cosign(State(desk): State<Desk>, Json(asked): Json<Cosign>) -> Result<Json<Cosigned>, ApiError> {
    let Cosign { size, key, line } = asked;
    match desk.roster.borrow().as_ref() {
        Some(roster) if roster.others.is_empty() => {}
        Some(_) => return Err(ApiError::new(ErrorCode::Conflict, "the other nodes of the fleet witness this ledger")),
        None => return Err(ApiError::new(ErrorCode::RaftUnavailable, "who witnesses this ledger is not known yet")),
    }
    if !approvers(&desk.tasks, desk.state_dir.clone()).await?.contains(&key) {
        return Err(ApiError::new(ErrorCode::PrincipalDenied, "the key is no approver's of this host"));
    }
    let invalid = |_| ApiError::new(ErrorCode::SignatureInvalid, "this is no cosignature of that checkpoint");
    let line = NoteSignature::parse(line.trim_end()).map_err(invalid)?;
    let verifier =
        verifier(&key).ok_or_else(|| ApiError::new(ErrorCode::SignatureInvalid, "the key cannot be used"))?;
    desk.checkpoints.add_cosignature(size, verifier, line).await.map_err(|error| match error {
        crate::checkpoint::CheckpointFailed::Sign(source) => invalid(source),
        error => error.into(),
    })?;
    desk.tell.try_send((key, size)).map_err(|_| ApiError::new(ErrorCode::Busy, "cosignatures come too fast"))?;
    Ok(Json(Cosigned { size }))
}

/// The key that checks an operator's cosignatures: named as every witness is.
fn verifier(key: &PublicKey) -> Option<VerifierKey> {
    let public = key.as_bytes();
    VerifierKey::new(&ledger_key::witness_name(public), KeyKind::Witness, public).ok()
}

async fn approvers(tasks: &Tasks, state_dir: PathBuf) -> Result<Vec<PublicKey>, ApiError> {
    let trust =
        tasks.blocking("read approvers", move || load_trust(&state_dir)).await.map_err(ApiError::internal)??;
    let approvers = trust.operators.iter().filter(|operator| operator.may(Right::Approve));
    Ok(approvers.map(|operator| operator.key).collect())
}

/// The operators that have cosigned, as the courier keeps them.
#[derive(Debug)]
pub(crate) struct Operators {
    told: mpsc::Receiver<Told>,
    seen: BTreeMap<PublicKey, Instant>,
}

impl Operators {
    pub(super) fn new(told: mpsc::Receiver<Told>) -> Self {
        Self { told, seen: BTreeMap::new() }
    }

    /// The next cosignature; waits for ever when there is no desk.
    ///
    /// # Cancel safety
    /// Takes nothing unless it returns.
    pub(super) async fn next(&mut self) -> Told {
        match self.told.recv().await {
            Some(told) => told,
            None => std::future::pending().await,
        }
    }

    /// Counts a cosignature.
    pub(super) fn count(&mut self, (key, rows): Told, coverage: &mut Coverage) {
        self.seen.insert(key, Instant::now());
        self.set(coverage);
        coverage.cosigned(key, rows);
    }

    /// Those who have cosigned are the witnesses of a fleet of one; one of them is
    /// enough.
    pub(super) fn set(&self, coverage: &mut Coverage) {
        let known = self.seen.keys().map(|key| Who::Operator(*key));
        coverage.set_witnesses(known, usize::from(!self.seen.is_empty()));
    }

    /// Those who have gone.
    pub(super) fn silent(&self) -> Vec<PublicKey> {
        let gone = self.seen.iter().filter(|(_, seen)| seen.elapsed() > SILENT_AFTER);
        gone.map(|(key, _)| *key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: PublicKey = PublicKey::from_bytes([7; 32]);

    #[tokio::test(start_paused = true)]
    async fn an_operator_is_a_witness_while_he_cosigns() {
        let (tell, told) = mpsc::channel(1);
        let (mut operators, mut coverage) = (Operators::new(told), Coverage::default());
        operators.set(&mut coverage);
        assert_eq!((coverage.quorum(), coverage.is_ready()), ((0, 0), false));
        tell.send((KEY, 5)).await.unwrap();
        let told = operators.next().await;
        operators.count(told, &mut coverage);
        assert!(coverage.covers(5) && !coverage.covers(6) && coverage.is_ready());
        assert_eq!((coverage.quorum(), operators.silent()), ((1, 1), Vec::new()));
        tokio::time::advance(SILENT_AFTER + Duration::from_secs(1)).await;
        assert_eq!(operators.silent(), [KEY]);
        coverage.failed(KEY);
        assert!(coverage.covers(5) && !coverage.is_ready(), "what he cosigned stays");
    }
}
