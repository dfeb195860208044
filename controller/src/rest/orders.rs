//! Signed orders: the controller checks their form and carries them to the log.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use osmoda_controller_api::{
    AddPrincipal, AllowOrder, ControlOrder, DeniedTarget, ExcludeOrder, Freeze, FreezeOrder, Principal, RevokedNode,
    Rollout,
};
use osmoda_kit::error::ApiError;
use osmoda_types::command::{Body, Order, SignedOrder};
use osmoda_types::{ErrorCode, NodeId, PublicKey, RolloutId, Signature, statement};

use super::body::{Object, id};
use super::rollouts::{find, submit, unknown, verify};
use super::{Answer, App};
use crate::view::principal_name;

async fn give(app: &App, order: Order, serial: u64, key: PublicKey, signature: Signature) -> Result<(), ApiError> {
    verify(&key, &statement::control(&order, serial, &app.network), &signature)?;
    let verb = order.verb();
    submit(app, Body::Control(SignedOrder { order, serial, key, signature }), &signature).await?;
    tracing::info!(verb, key = key.short(), "order given");
    Ok(())
}

async fn control(
    app: App,
    text: String,
    signed: ControlOrder,
    order: fn(RolloutId) -> Order,
) -> Answer<(StatusCode, Json<Rollout>)> {
    let rollout = known(&app, &text)?;
    give(&app, order(rollout), signed.serial, signed.operator_key, signed.signature).await?;
    Ok((StatusCode::ACCEPTED, Json(find(&app, rollout).await?)))
}

/// The rollout of the path; the log remembers only so many ended ones, and
/// none of the others can be ordered about.
fn known(app: &App, text: &str) -> Answer<RolloutId> {
    let rollout: RolloutId = id("the rollout id", text)?;
    match app.view().state.rollout(&rollout) {
        Some(_) => Ok(rollout),
        None => Err(unknown().into()),
    }
}

/// `POST /rollouts/{id}/pause`.
pub(super) async fn pause(
    State(app): State<App>,
    Path(text): Path<String>,
    Object(signed): Object<ControlOrder>,
) -> Answer<(StatusCode, Json<Rollout>)> {
    control(app, text, signed, |rollout| Order::Pause { rollout }).await
}

/// `POST /rollouts/{id}/resume`.
pub(super) async fn resume(
    State(app): State<App>,
    Path(text): Path<String>,
    Object(signed): Object<ControlOrder>,
) -> Answer<(StatusCode, Json<Rollout>)> {
    control(app, text, signed, |rollout| Order::Resume { rollout }).await
}

/// `POST /rollouts/{id}/abort`.
pub(super) async fn abort(
    State(app): State<App>,
    Path(text): Path<String>,
    Object(signed): Object<ControlOrder>,
) -> Answer<(StatusCode, Json<Rollout>)> {
    control(app, text, signed, |rollout| Order::Abort { rollout }).await
}

/// `POST /rollouts/{id}/exclude`.
pub(super) async fn exclude(
    State(app): State<App>,
    Path(text): Path<String>,
    Object(signed): Object<ExcludeOrder>,
) -> Answer<(StatusCode, Json<Rollout>)> {
    let rollout = known(&app, &text)?;
    let order = Order::Exclude { rollout, node: signed.node };
    give(&app, order, signed.serial, signed.operator_key, signed.signature).await?;
    Ok((StatusCode::ACCEPTED, Json(find(&app, rollout).await?)))
}

/// `POST /nodes/{id}/revoke`.
pub(super) async fn revoke(
    State(app): State<App>,
    Path(text): Path<String>,
    Object(signed): Object<ControlOrder>,
) -> Answer<(StatusCode, Json<RevokedNode>)> {
    let node: NodeId = id("the node id", &text)?;
    let view = app.view();
    let name = match view.state.member(&node) {
        Some(entry) => entry.member.name.clone(),
        // Asked again: the order is given again, and changes nothing.
        None => match view.state.revoked().find(|(revoked, _)| **revoked == node) {
            Some((_, revoked)) => revoked.name.clone(),
            None => return Err(ApiError::new(ErrorCode::NodeUnknown, "no member of the fleet has this node id").into()),
        },
    };
    give(&app, Order::Revoke { node }, signed.serial, signed.operator_key, signed.signature).await?;
    let view = app.view();
    let index = view.state.revoked().find(|(revoked, _)| **revoked == node).map(|(_, revoked)| revoked.index);
    Ok((StatusCode::ACCEPTED, Json(RevokedNode { id: node, name, index })))
}

/// `POST /principals`.
pub(super) async fn add_principal(
    State(app): State<App>,
    Object(signed): Object<AddPrincipal>,
) -> Answer<(StatusCode, Json<Principal>)> {
    let AddPrincipal { name, key, rights, .. } = signed;
    let principal = osmoda_types::Principal { name: name.clone(), key, rights: rights.clone() };
    let order = Order::AddPrincipal(principal);
    give(&app, order, signed.serial, signed.operator_key, signed.signature).await?;
    Ok((StatusCode::CREATED, Json(Principal { name, key, rights })))
}

/// `POST /freezes`.
pub(super) async fn freeze(
    State(app): State<App>,
    Object(signed): Object<FreezeOrder>,
) -> Answer<(StatusCode, Json<Freeze>)> {
    let order = Order::Freeze { scope: signed.scope.clone() };
    let key = signed.operator_key;
    give(&app, order, signed.serial, key, signed.signature).await?;
    Ok((StatusCode::CREATED, Json(scope_of(&app, signed.scope, &key))))
}

/// `POST /freezes/lift`.
pub(super) async fn unfreeze(State(app): State<App>, Object(signed): Object<FreezeOrder>) -> Answer<Json<Freeze>> {
    let order = Order::Unfreeze { scope: signed.scope.clone() };
    let key = signed.operator_key;
    give(&app, order, signed.serial, key, signed.signature).await?;
    Ok(Json(scope_of(&app, signed.scope, &key)))
}

fn scope_of(app: &App, scope: String, key: &PublicKey) -> Freeze {
    let view = app.view();
    Freeze { scope, by: principal_name(&view.state, key), index: view.applied_index }
}

/// `POST /targets/allow`.
pub(super) async fn allow(State(app): State<App>, Object(signed): Object<AllowOrder>) -> Answer<Json<DeniedTarget>> {
    let view = app.view();
    let Some(denied) = view.state.denied(&signed.target) else {
        return Err(ApiError::new(ErrorCode::NotFound, "the target is not on the deny-list").into());
    };
    let was = DeniedTarget { target: signed.target.clone(), rollout: Some(denied.rollout), index: Some(denied.index) };
    let order = Order::Allow { target: signed.target };
    give(&app, order, signed.serial, signed.operator_key, signed.signature).await?;
    Ok(Json(was))
}
