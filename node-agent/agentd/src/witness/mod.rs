//! Witnessing: the other nodes of the fleet cosign this ledger's checkpoints, and
//! this node cosigns theirs, so that nobody can change a ledger unnoticed, root of
//! its host included.
//!
//! ```text
//!            checkpoint, proof                       roster (fleetd: the log's keys)
//! courier ───────────────────► duty of each witness ◄──────────┐
//!    ▲  ◄───────────────────── cosignature, or what it holds   │
//!    └── gate: a grave call waits until enough have cosigned its intent
//! ```
//! `store` is what a witness holds and whom it caught; `coverage` counts.
//! Invariant: what is not covered by enough cosignatures is never called covered;
//! a fleet of one has its operators' command lines (`operator`) or says that it has none.

mod courier;
mod coverage;
mod duty;
mod gate;
mod logged;
mod operator;
mod parts;
mod store;
#[cfg(test)]
mod tests;

pub use courier::Post;
pub use coverage::{Coverage, Who};
pub use gate::WitnessGate;
pub use parts::{WitnessDuty, WitnessParts, start_parts};
pub use store::{FILE_NAME, WitnessError, WitnessStore};

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::future::{BoxFuture, FutureExt};
use osmoda_kit::boot::{Boot, BootError};
use osmoda_kit::error::ApiError;
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::TaskKind;
use osmoda_node_api::fleet::FleetClient;
use osmoda_node_api::mesh::{MeshPipes, StreamPeer};
use osmoda_node_api::pipes::{AGENTD_SOCKET, WITNESS};
use osmoda_node_api::witness::{LoggedHead, Question, Reply, Roster, WitnessReport};
use osmoda_types::{NodeId, PublicKey};
use tokio::sync::{mpsc, watch};

use self::courier::Courier;
use self::duty::{Duty, DutyParts};
use self::operator::{Desk, Operators};
use crate::checkpoint::{Checkpoints, Watched};
use crate::ledger::Ledger;
use crate::ledger_key::LedgerKey;

/// How often the fleet's log is asked who witnesses whom. A node that joins is a
/// witness within seconds; asking is one call on this host.
const ROSTER_EVERY: Duration = Duration::from_secs(2);

/// The parts of a node that witnesses and is witnessed.
pub(crate) struct Witnessing {
    /// What grave calls wait for.
    pub(crate) gate: WitnessGate,
    /// `GET /ledger/witness`, `GET /ledger/next-head`, `POST /ledger/cosign`.
    pub(crate) router: Router,
}

/// Starts all of it.
///
/// # Errors
/// [`BootError`] when the store cannot be opened or the socket not be listened on.
pub(crate) async fn start(
    cx: &Boot,
    ledger: &Ledger,
    checkpoints: &Checkpoints,
    key: LedgerKey,
    watched: watch::Receiver<Watched>,
) -> Result<Witnessing, BootError> {
    let path = cx.state_dir().join(store::FILE_NAME);
    let opened = cx.tasks().blocking("witness store", move || WitnessStore::open(&path)).await;
    let store = opened.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
    let (say, roster) = watch::channel(None);
    cx.tasks().spawn(TaskKind::REQUEST, "witness roster", follow_roster(cx, say));
    let public = PublicKey::from_bytes(key.public());
    let followed = roster.clone();
    let duty = Duty::new(DutyParts {
        store,
        key,
        ledger: ledger.clone(),
        clock: cx.clock(),
        tasks: cx.tasks().clone(),
        isolation: cx.isolation(),
        roster: roster.clone(),
    });
    let (report, coverage) = watch::channel(Coverage::default());
    let (tell, told) = mpsc::channel(operator::QUEUE);
    let desk = Desk {
        checkpoints: checkpoints.clone(),
        roster: roster.clone(),
        state_dir: cx.state_dir(),
        tasks: cx.tasks().clone(),
        tell,
    };
    let courier = Courier {
        ledger: ledger.clone(),
        checkpoints: checkpoints.clone(),
        roster,
        operators: Operators::new(told),
        coverage: report,
        post: Pipes(MeshPipes::new(cx.paths(), cx.credentials())),
        tasks: cx.tasks().clone(),
    };
    cx.tasks().spawn(TaskKind::REQUEST, "witness courier", courier.run());
    serve(cx, &duty)?;
    let gate = WitnessGate { ledger: ledger.clone(), checkpoints: checkpoints.clone(), coverage: coverage.clone() };
    let shown = Shown {
        public,
        ledger: ledger.clone(),
        checkpoints: checkpoints.clone(),
        roster: followed,
        coverage,
        duty,
        watched,
    };
    let router = Router::new()
        .route("/ledger/witness", get(report_all))
        .route("/ledger/next-head", get(next_head))
        .with_state(shown)
        .merge(Router::new().route("/ledger/cosign", post(operator::cosign)).with_state(desk));
    Ok(Witnessing { gate, router })
}

fn serve(cx: &Boot, duty: &Duty) -> Result<(), BootError> {
    let duty = duty.clone();
    let answer = move |peer: StreamPeer, question: Question| {
        let duty = duty.clone();
        async move { duty.answer(peer.node, question).await }
    };
    WITNESS.serve(cx.tasks(), AGENTD_SOCKET, cx.listen(AGENTD_SOCKET)?, cx.callers(), answer);
    Ok(())
}

/// Keeps the newest roster that fleetd told.
fn follow_roster(cx: &Boot, say: watch::Sender<Option<Arc<Roster>>>) -> impl Future<Output = ()> + Send + use<> {
    let fleet = FleetClient::new(cx.client("fleetd"));
    let stop = cx.shutdown().token(Stage::FinishAccepted);
    async move {
        let mut tick = tokio::time::interval(ROSTER_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                // Cancel-safe: a token's state is not consumed.
                () = stop.cancelled() => return,
                // Cancel-safe: an interval keeps its deadline.
                _ = tick.tick() => {}
            }
            match fleet.roster().await {
                Ok(roster) => {
                    let roster = Arc::new(roster);
                    say.send_if_modified(|known| {
                        let is_news = known.as_ref() != Some(&roster);
                        *known = Some(roster);
                        is_news
                    });
                }
                // The roster before holds until fleetd is back.
                Err(error) => tracing::debug!(code = %error.code, "no roster of witnesses"),
            }
        }
    }
}

/// Witnesses over the mesh.
#[derive(Clone)]
struct Pipes(MeshPipes);

impl Post for Pipes {
    fn ask(&self, witness: NodeId, question: Question) -> BoxFuture<'static, Result<Reply, ApiError>> {
        let pipes = self.0.clone();
        async move { WITNESS.ask(&pipes, witness, &question).await }.boxed()
    }
}

#[derive(Clone)]
struct Shown {
    public: PublicKey,
    ledger: Ledger,
    checkpoints: Checkpoints,
    roster: watch::Receiver<Option<Arc<Roster>>>,
    coverage: watch::Receiver<Coverage>,
    duty: Duty,
    watched: watch::Receiver<Watched>,
}

async fn report_all(State(shown): State<Shown>) -> Result<Json<WitnessReport>, ApiError> {
    let quorum = shown.coverage.borrow().quorum();
    let note = shown.checkpoints.newest_cosigned(quorum.0).await.map_err(ApiError::from)?;
    let (held, alarms) = shown.duty.report().await?;
    Ok(Json(WitnessReport {
        key: shown.public,
        rows: shown.ledger.state().head.size,
        covered: note.map(|note| note.to_string()),
        quorum,
        refused: shown.ledger.sealed().map(str::to_owned),
        fault: shown.watched.borrow().alarm.clone(),
        held,
        alarms,
    }))
}

/// The head of this ledger that the fleet's log should have next.
async fn next_head(State(shown): State<Shown>) -> Result<Json<Option<LoggedHead>>, ApiError> {
    let (needed, is_waited_for) = {
        let coverage = shown.coverage.borrow();
        (coverage.quorum().0, coverage.waiting_for_log() > 0)
    };
    if needed == 0 || shown.ledger.sealed().is_some() {
        return Ok(Json(None));
    }
    let logged = shown.roster.borrow().as_ref().and_then(|roster| roster.logged).map(|head| head.size);
    let verifier = shown.checkpoints.verifier();
    let cosigned = shown.checkpoints.newest_cosigned(needed).await.map_err(ApiError::from)?;
    let cosigned = cosigned.and_then(|note| logged::head_of(&note, verifier));
    let newest = shown.checkpoints.newest().and_then(|newest| logged::head_of(&newest.note, verifier));
    Ok(Json(logged::next(cosigned, newest, logged, is_waited_for)))
}
