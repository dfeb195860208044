//! What waits for a person on the nodes.

use axum::Json;
use axum::extract::{Path, State};
use osmoda_controller_api::{Approval, Page, SignApproval};
use osmoda_kit::error::ApiError;

use super::body::Object;
use super::paging::Paging;
use super::{Answer, App};

/// `GET /approvals`.
pub(super) async fn list(State(app): State<App>, paging: Paging) -> Answer<Json<Page<Approval>>> {
    let view = app.view();
    let rows = app.inbox.open().into_iter().map(|open| {
        let approval = Approval {
            name: view.name(&open.node),
            id: open.id,
            node: open.node,
            seen_at: open.seen.to_string(),
            left_out: open.left_out,
            permit: open.permit,
        };
        (format!("{} {}", approval.name, approval.id), approval)
    });
    Ok(Json(paging.page(rows)))
}

/// `POST /approvals/{id}/signatures`.
pub(super) async fn sign(
    State(app): State<App>,
    Path(id): Path<String>,
    Object(signature): Object<SignApproval>,
) -> Answer<Json<Approval>> {
    let before = app.inbox.open().into_iter().find(|open| open.id == id);
    let text = serde_json::to_string(&signature).map_err(ApiError::internal)?;
    let permit = app.inbox.sign(&id, text).await?;
    let (node, left_out) = before.map_or((app.own, 0), |open| (open.node, open.left_out));
    let (name, seen_at) = (app.view().name(&node), app.clock.now_wall().to_string());
    Ok(Json(Approval { id, node, name, seen_at, left_out, permit }))
}
