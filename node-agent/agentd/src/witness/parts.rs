//! A ledger that witnesses and is witnessed, without a daemon around it: whoever
//! brings a road between nodes gets the gate and the duty.

use std::sync::Arc;

use osmoda_kit::clock::SharedClock;
use osmoda_kit::error::ApiError;
use osmoda_kit::http::Isolation;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_node_api::witness::{Question, Reply, Roster};
use osmoda_types::NodeId;
use tokio::sync::{mpsc, watch};

use super::courier::{Courier, Post};
use super::coverage::Coverage;
use super::duty::{Duty, DutyParts};
use super::gate::WitnessGate;
use super::operator::{self, Operators};
use super::store::WitnessStore;
use crate::checkpoint::Checkpoints;
use crate::ledger::Ledger;
use crate::ledger_key::LedgerKey;

/// What a node does it with.
pub struct WitnessParts<P> {
    /// Its ledger.
    pub ledger: Ledger,
    /// The ledger's checkpoints.
    pub checkpoints: Checkpoints,
    /// The key that signs both checkpoints and cosignatures.
    pub key: LedgerKey,
    /// What it holds of others.
    pub store: WitnessStore,
    /// The clock.
    pub clock: SharedClock,
    /// Where its tasks run.
    pub tasks: Tasks,
    /// What tells daemons apart.
    pub isolation: Isolation,
    /// Who is in the fleet.
    pub roster: watch::Receiver<Option<Arc<Roster>>>,
    /// How witnesses are reached.
    pub post: P,
}

/// Answers the questions of peers; cheap to clone.
#[derive(Clone)]
pub struct WitnessDuty(Duty);

impl WitnessDuty {
    /// Answers one question of a peer that the road has proved.
    ///
    /// # Errors
    /// `LedgerUnavailable` when nothing can be stored; then nothing was cosigned.
    ///
    /// # Cancel safety
    /// What was stored stays; the peer asks again and is told its size.
    pub async fn answer(&self, peer: NodeId, question: Question) -> Result<Reply, ApiError> {
        self.0.answer(peer, question).await
    }
}

/// Starts the courier; returns what grave calls wait for and what peers ask.
pub fn start_parts<P: Post>(parts: WitnessParts<P>) -> (WitnessGate, WitnessDuty) {
    let WitnessParts { ledger, checkpoints, key, store, clock, tasks, isolation, roster, post } = parts;
    let duty = Duty::new(DutyParts {
        store,
        key,
        ledger: ledger.clone(),
        clock,
        tasks: tasks.clone(),
        isolation,
        roster: roster.clone(),
    });
    let (report, coverage) = watch::channel(Coverage::default());
    // No operator hands in cosignatures here.
    let (_, told) = mpsc::channel(operator::QUEUE);
    let courier = Courier {
        ledger: ledger.clone(),
        checkpoints: checkpoints.clone(),
        roster,
        operators: Operators::new(told),
        coverage: report,
        post,
        tasks: tasks.clone(),
    };
    tasks.spawn(TaskKind::REQUEST, "witness courier", courier.run());
    (WitnessGate { ledger, checkpoints, coverage }, WitnessDuty(duty))
}
