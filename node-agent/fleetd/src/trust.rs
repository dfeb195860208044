//! Hands the operators' orders about operators to root `watch`, to `execd` and to
//! `agentd`, each of which checks every signature against the operators it knows
//! already.
//!
//! The log's word alone adds nobody on a host: an order travels with its
//! signature, and a host that refuses it deploys nothing for that operator.
//! Orders go in the order of their serials, which is the one that `watch` wants
//! from each signer. Serials of two signers are clocks of two machines, so an
//! order of somebody who was added himself may come too early; what is refused
//! is told again as long as another order was taken.

use std::collections::BTreeSet;
use std::time::Duration;

use osmoda_kit::shutdown::{Shutdown, Stage};
use osmoda_node_api::watch::{TrustRequest, WatchClient};
use osmoda_rollout::FleetState;
use osmoda_types::command::{Order, SignedOrder};
use osmoda_types::{Principal, PublicKey};

use crate::replica::Replica;

/// Between two tries while `watch` is away.
const AGAIN: Duration = Duration::from_secs(1);

/// Keeps the host's trusted operators at the log's.
pub(crate) struct Trust {
    /// What the log says.
    pub(crate) replica: Replica,
    /// The host.
    pub(crate) host: WatchClient,
    /// The stop.
    pub(crate) shutdown: Shutdown,
}

impl Trust {
    /// Follows until the stop.
    pub(crate) async fn run(self) {
        let stop = self.shutdown.token(Stage::FinishAccepted);
        let mut changes = self.replica.subscribe();
        let mut told = BTreeSet::new();
        loop {
            let state = changes.borrow_and_update().state.clone();
            let again = !self.tell(&state, &mut told).await;
            tokio::select! {
                biased;
                // Cancel-safe: waiting for a token takes nothing.
                () = stop.cancelled() => return,
                // Cancel-safe: the watch keeps its newest value.
                changed = changes.changed() => if changed.is_err() { return },
                // Cancel-safe: a timer.
                () = tokio::time::sleep(AGAIN), if again => {}
            }
        }
    }

    /// Tells what is new. Returns whether everything was told; the first order
    /// that cannot be told now holds up those after it.
    async fn tell(&self, state: &FleetState, told: &mut BTreeSet<(PublicKey, u64)>) -> bool {
        let mut pending = orders(state);
        pending.retain(|(order, _)| !told.contains(&(order.key, order.serial)));
        loop {
            let before = pending.len();
            let mut refused = Vec::new();
            for (order, principal) in pending {
                match self.host.trust(&request(order, principal)).await {
                    Ok(trusted) => {
                        tracing::info!(principal = principal.name, all = trusted.operators, "operator trusted");
                        told.insert((order.key, order.serial));
                    }
                    Err(error) if error.code.is_retryable() => {
                        tracing::debug!(code = %error.code, "the order is not taken yet");
                        return false;
                    }
                    Err(error) => refused.push((order, principal, error.code)),
                }
            }
            if refused.len() == before {
                for (order, principal, code) in refused {
                    tracing::info!(%code, principal = principal.name, "operator not trusted here");
                    told.insert((order.key, order.serial));
                }
                return true;
            }
            pending = refused.into_iter().map(|(order, principal, _)| (order, principal)).collect();
        }
    }
}

fn request(order: &SignedOrder, principal: &Principal) -> TrustRequest {
    TrustRequest {
        principal: principal.clone(),
        serial: order.serial,
        operator_key: order.key,
        signature: order.signature,
    }
}

/// The orders behind the present principals, oldest first.
fn orders(state: &FleetState) -> Vec<(&SignedOrder, &Principal)> {
    let signed = state.principals().filter_map(|entry| entry.order.as_ref());
    let mut orders: Vec<(&SignedOrder, &Principal)> = signed
        .filter_map(|signed| match &signed.order {
            Order::AddPrincipal(principal) => Some((signed, principal)),
            _ => None,
        })
        .collect();
    orders.sort_by_key(|(signed, _)| signed.serial);
    orders
}

#[cfg(test)]
mod tests;
