//! What nodes say of their ledgers and of those they witness: taken from their
//! links, stored, counted.
//!
//! Invariant: a node speaks as itself only, and what it says is bounded before
//! it is stored. Nothing is verified here. The controller carries signed notes;
//! `osmoda ledger verify --all` checks them, because the controller might lie.

use std::collections::{BTreeMap, BTreeSet};

use osmoda_controller_api::LedgerTrouble;
use osmoda_controller_store::{AlarmRow, HeldRow, LedgerRow, Store, StoreError};
use osmoda_kit::clock::Timestamp;
use osmoda_proto::link::v1 as pb;
use osmoda_rollout::FleetState;
use osmoda_types::{ErrorCode, NodeId, PublicKey, Role};
use tonic::Status;

use crate::wire::refuse;

/// The longest note that is taken, that of `osmoda_ledger`.
const NOTE_BYTES_MAX: usize = 64 << 10;

/// Notes of one page: a node closes it at 32 KiB, and no note has fewer than 64 bytes.
const PAGE_NOTES_MAX: usize = 512;

/// Characters of a refusal that are kept: a few lines.
const REFUSED_CHARS_MAX: usize = 500;

/// The words of an alarm.
const FINDINGS: [&str; 3] = ["forked", "rewritten", "shortened"];

/// A node's report as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Stored {
    pub(crate) key: PublicKey,
    pub(crate) rows: u64,
    pub(crate) covered: Option<String>,
    pub(crate) quorum: u32,
    pub(crate) witnesses: u32,
    pub(crate) refused: Option<String>,
    /// Reports stored before there was one have none.
    #[serde(default)]
    pub(crate) fault: Option<String>,
}

impl Stored {
    /// The size that the covered note claims: its second line, unchecked.
    fn covered_size(&self) -> Option<u64> {
        self.covered.as_ref()?.lines().nth(1)?.parse().ok()
    }
}

/// Takes what one node said at one time.
pub(crate) struct Witnessed<'a> {
    pub(crate) store: &'a dyn Store,
    pub(crate) received: Timestamp,
}

impl Witnessed<'_> {
    /// A node's report on its own ledger.
    pub(crate) async fn report(&self, node: NodeId, report: pb::LedgerReport) -> Result<(), Status> {
        check_note(&report.covered)?;
        let stored = Stored {
            key: PublicKey::try_from(report.key.as_slice()).map_err(|_| bad("a ledger's key is 32 bytes"))?,
            rows: report.rows,
            covered: Some(report.covered).filter(|note| !note.is_empty()),
            quorum: report.needed,
            witnesses: report.witnesses,
            refused: said(&report.refused),
            fault: said(&report.fault),
        };
        let document = serde_json::to_string(&stored).map_err(|_| bad("the report has no form"))?;
        for (what, text) in [("takes no more rows", &stored.refused), ("does not verify", &stored.fault)] {
            if let Some(text) = text {
                tracing::error!(%node, why = text, "a ledger {what}");
            }
        }
        let row = LedgerRow { node, received_ms: self.received.as_millis(), document };
        self.store.record_ledger(row).await.map_err(|error| failed(node, &error))
    }

    /// A page of what a node holds of the others.
    pub(crate) async fn held(&self, witness: NodeId, page: pb::HeldNotes) -> Result<(), Status> {
        if page.notes.len() > PAGE_NOTES_MAX {
            return Err(bad("a page has at most 512 notes"));
        }
        let rows = page.notes.into_iter().map(|held| {
            check_note(&held.note)?;
            let node = whose(&held.node)?;
            Ok(HeldRow { witness, node, size: number(held.size)?, note: held.note, time_s: number(held.time_s)? })
        });
        let rows = rows.collect::<Result<Vec<_>, Status>>()?;
        self.store.record_held(rows).await.map_err(|error| failed(witness, &error))
    }

    /// A ledger that a node caught.
    pub(crate) async fn alarm(&self, witness: NodeId, alarm: pb::LedgerAlarm) -> Result<(), Status> {
        check_note(&alarm.held)?;
        check_note(&alarm.shown)?;
        if !FINDINGS.contains(&alarm.finding.as_str()) {
            return Err(bad("no such finding"));
        }
        let row = AlarmRow {
            witness,
            node: whose(&alarm.node)?,
            finding: alarm.finding,
            held: alarm.held,
            shown: alarm.shown,
            time_s: number(alarm.time_s)?,
            received_ms: self.received.as_millis(),
        };
        let (node, finding) = (row.node, row.finding.clone());
        if self.store.record_alarm(row).await.map_err(|error| failed(witness, &error))? {
            tracing::error!(%node, %witness, finding, "a ledger was caught by a witness");
        }
        Ok(())
    }
}

/// A text that is bounded and not empty.
fn said(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.chars().take(REFUSED_CHARS_MAX).collect())
}

fn whose(bytes: &[u8]) -> Result<NodeId, Status> {
    NodeId::try_from(bytes).map_err(|_| bad("a node id is 32 bytes"))
}

fn check_note(note: &str) -> Result<(), Status> {
    if note.len() > NOTE_BYTES_MAX { Err(bad("a note is at most 64 KiB")) } else { Ok(()) }
}

/// The database has no numbers above 2⁶³.
fn number(number: u64) -> Result<u64, Status> {
    i64::try_from(number).map(|_| number).map_err(|_| bad("a number is out of range"))
}

fn bad(what: &str) -> Status {
    refuse(ErrorCode::BadRequest, what)
}

fn failed(node: NodeId, error: &StoreError) -> Status {
    tracing::warn!(%node, error = osmoda_kit::error::chain(error), "what a node says of ledgers was not stored");
    refuse(error.code(), "what was said of ledgers was not stored")
}

/// Members that have a ledger: those that are no controllers.
pub(crate) fn keepers(state: &FleetState) -> impl Iterator<Item = &osmoda_types::Member> {
    state.members().map(|entry| &entry.member).filter(|member| matches!(member.role, Role::Voter | Role::Node))
}

/// What is wrong with the ledgers, as far as the nodes themselves say: whom members
/// accuse, and who says of itself that it does not verify, takes no rows, or has
/// fewer or other rows than before. The worst word of each.
/// Invariant: one member alone makes no other more than accused; caught is who also
/// takes no more rows, or whom a second member accuses.
pub(crate) async fn troubles(
    store: &dyn Store,
    state: &FleetState,
) -> Result<BTreeMap<NodeId, LedgerTrouble>, StoreError> {
    let mut troubles = Troubles::default();
    let is_member = |id: &NodeId| state.member(id).is_some();
    for row in store.ledger_heads().await?.into_iter().filter(|row| row.broken) {
        troubles.add(row.node, LedgerTrouble::Changed);
    }
    for row in store.ledgers().await? {
        let Ok(report) = serde_json::from_str::<Stored>(&row.document) else { continue };
        if report.refused.is_some() {
            troubles.sealed.insert(row.node);
            troubles.add(row.node, LedgerTrouble::Sealed);
        }
        if report.fault.is_some() {
            troubles.add(row.node, LedgerTrouble::Faulty);
        }
    }
    for alarm in store.alarms().await?.into_iter().filter(|alarm| is_member(&alarm.witness)) {
        troubles.accuse(alarm.node, alarm.witness);
    }
    let mut worst = troubles.worst;
    worst.retain(|node, _| is_member(node));
    Ok(worst)
}

/// The worst word of each ledger, and what a word of members is worth.
#[derive(Default)]
struct Troubles {
    worst: BTreeMap<NodeId, LedgerTrouble>,
    sealed: BTreeSet<NodeId>,
    accusers: BTreeMap<NodeId, BTreeSet<NodeId>>,
}

impl Troubles {
    fn add(&mut self, node: NodeId, trouble: LedgerTrouble) {
        let worst = self.worst.entry(node).or_insert(trouble);
        *worst = trouble.max(*worst);
    }

    fn accuse(&mut self, node: NodeId, witness: NodeId) {
        let accusers = self.accusers.entry(node).or_default();
        accusers.insert(witness);
        let is_caught = accusers.len() > 1 || self.sealed.contains(&node);
        self.add(node, if is_caught { LedgerTrouble::Caught } else { LedgerTrouble::Accused });
    }
}

/// Sets the gauges: ledgers with an alarm, and ledgers whose newest row nobody
/// covers as far as the nodes themselves say.
pub(crate) async fn measure(store: &dyn Store, state: &FleetState) -> Result<(), StoreError> {
    let rows = store.ledgers().await?;
    let covered: BTreeSet<NodeId> = rows
        .iter()
        .filter_map(|row| Some((row.node, serde_json::from_str::<Stored>(&row.document).ok()?)))
        .filter(|(_, report)| report.refused.is_none() && report.covered_size().is_some_and(|size| size >= report.rows))
        .map(|(node, _)| node)
        .collect();
    let uncovered = keepers(state).filter(|member| !covered.contains(&member.node)).count();
    metrics::gauge!("osmoda_controller_ledger_alarms").set(troubles(store, state).await?.len() as f64);
    metrics::gauge!("osmoda_controller_ledgers_uncovered").set(uncovered as f64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_member_makes_no_other_more_than_accused() {
        let id = |number| NodeId::from_bytes([number; 32]);
        let mut troubles = Troubles::default();
        (2..9).for_each(|node| troubles.accuse(id(node), id(1)));
        troubles.accuse(id(2), id(1));
        assert!(troubles.worst.values().all(|trouble| *trouble == LedgerTrouble::Accused), "{:?}", troubles.worst);
        troubles.accuse(id(2), id(3));
        assert_eq!(troubles.worst[&id(2)], LedgerTrouble::Caught);
        troubles.sealed.insert(id(4));
        troubles.add(id(4), LedgerTrouble::Sealed);
        troubles.accuse(id(4), id(1));
        assert_eq!(troubles.worst[&id(4)], LedgerTrouble::Caught);
        troubles.add(id(5), LedgerTrouble::Faulty);
        troubles.accuse(id(5), id(1));
        assert_eq!(troubles.worst[&id(5)], LedgerTrouble::Faulty, "the worse word stays");
    }
}
