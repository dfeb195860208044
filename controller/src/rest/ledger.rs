//! The nodes' ledgers, for whoever verifies them.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use osmoda_controller_api::{LedgerAlarm, LedgerHeld, LedgerLogged, LedgerReport, NodeLedger, Page};
use osmoda_controller_store::{AlarmRow, LedgerRow};
use osmoda_kit::clock::Timestamp;
use osmoda_kit::error::ApiError;
use osmoda_types::{ErrorCode, Member, NodeId, Purpose};

use super::body::id;
use super::paging::Paging;
use super::{Answer, App, stored};
use crate::view::View;
use crate::witnessed::{Stored, keepers};

/// Rows of a page: each may carry a note of every other node, half a megabyte in
/// a fleet of a thousand, and clients take answers up to 16 MiB.
const ROWS_MAX: usize = 16;

/// What the database has of all ledgers.
struct Said {
    reports: BTreeMap<NodeId, LedgerRow>,
    alarms: Vec<AlarmRow>,
}

/// `GET /ledger`.
pub(super) async fn list(State(app): State<App>, paging: Paging) -> Answer<Json<Page<NodeLedger>>> {
    let (view, said) = (app.view(), said(&app).await?);
    let paging = Paging { limit: paging.limit.min(ROWS_MAX), ..paging };
    let page = paging.page(keepers(&view.state).map(|member| (format!("{} {}", member.name, member.node), member)));
    let mut items = Vec::with_capacity(page.items.len());
    for member in page.items {
        items.push(picture(&app, &view, &said, member).await?);
    }
    Ok(Json(Page { items, next_cursor: page.next_cursor }))
}

/// `GET /ledger/{id}`.
pub(super) async fn show(State(app): State<App>, Path(text): Path<String>) -> Answer<Json<NodeLedger>> {
    let node: NodeId = id("the node id", &text)?;
    let (view, said) = (app.view(), said(&app).await?);
    match keepers(&view.state).find(|member| member.node == node) {
        Some(member) => Ok(Json(picture(&app, &view, &said, member).await?)),
        None => Err(ApiError::new(ErrorCode::NodeUnknown, "no member with a ledger has this node id").into()),
    }
}

async fn said(app: &App) -> Result<Said, ApiError> {
    let rows = app.store.ledgers().await.map_err(stored)?;
    let alarms = app.store.alarms().await.map_err(stored)?;
    Ok(Said { reports: rows.into_iter().map(|row| (row.node, row)).collect(), alarms })
}

async fn picture(app: &App, view: &View, said: &Said, member: &Member) -> Result<NodeLedger, ApiError> {
    let (node, is_member) = (member.node, |id: &NodeId| view.state.member(id).is_some());
    let held = app.store.held_of(node).await.map_err(stored)?;
    let held = held.into_iter().filter(|row| is_member(&row.witness)).map(|row| LedgerHeld {
        witness: row.witness,
        size: row.size,
        note: row.note,
        time_s: row.time_s,
    });
    // What a removed witness saw remains true: its notes are signed.
    let alarms = said.alarms.iter().filter(|row| row.node == node).map(|row| LedgerAlarm {
        witness: row.witness,
        finding: row.finding.clone(),
        held: row.held.clone(),
        shown: row.shown.clone(),
        time_s: row.time_s,
        received_at: Timestamp::from_millis(row.received_ms).to_string(),
    });
    Ok(NodeLedger {
        node,
        name: member.name.clone(),
        key: view.state.subkey(node, Purpose::Ledger).map(|subkey| subkey.key),
        logged: view.state.ledger_head(&node).map(|head| LedgerLogged { size: head.size, hash: head.hash.to_string() }),
        report: said.reports.get(&node).map(report).transpose()?,
        held: held.collect(),
        alarms: alarms.collect(),
    })
}

fn report(row: &LedgerRow) -> Result<LedgerReport, ApiError> {
    let Stored { key, rows, covered, quorum, witnesses, refused, fault } =
        serde_json::from_str(&row.document).map_err(ApiError::internal)?;
    let received_at = Timestamp::from_millis(row.received_ms).to_string();
    Ok(LedgerReport { key, rows, covered, quorum, witnesses, refused, fault, received_at })
}
