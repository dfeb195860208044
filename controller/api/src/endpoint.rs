//! The table of endpoints: the one list that the OpenAPI document, the
//! controller's router and the refusal tests share.
//!
//! Invariant: an endpoint that is not in [`endpoints`] is not served, and one
//! that is in it has a refusal test (both checked in the controller's tests).

use osmoda_types::ErrorCode;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::{
    AddPrincipal, AllowOrder, Approval, ControlOrder, DeniedTarget, Event, ExcludeOrder, FleetStatus, Freeze,
    FreezeOrder, InviteRow, LedgerHead, MintInvite, MintedInvite, Node, NodeLedger, Page, Principal, RevokedNode,
    Rollout, RolloutSummary, SignApproval, StartRollout, StoredManifest, Vote,
};

/// The method of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Reads.
    Get,
    /// Stores under a name the content decides.
    Put,
    /// Does something.
    Post,
}

impl Method {
    /// The method's name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Put => "PUT",
            Method::Post => "POST",
        }
    }
}

/// A JSON type and everything it refers to.
pub struct Shape {
    /// The name of the schema.
    pub name: String,
    /// The schemas it needs, itself included.
    pub schemas: Vec<(String, RefOr<Schema>)>,
}

impl Shape {
    fn of<T: ToSchema>() -> Self {
        let name = T::name().into_owned();
        let mut schemas = vec![(name.clone(), T::schema())];
        T::schemas(&mut schemas);
        Self { name, schemas }
    }

    /// `Page<T>` under a name of its own: the derive names every page alike.
    fn page<T: ToSchema>() -> Self {
        let name = format!("{}Page", T::name());
        let mut schemas = vec![(name.clone(), Page::<T>::schema()), (T::name().into_owned(), T::schema())];
        T::schemas(&mut schemas);
        Self { name, schemas }
    }
}

/// What a request carries.
pub enum Body {
    /// Nothing.
    None,
    /// A JSON object.
    Json(Shape),
    /// The exact bytes of a manifest.
    Manifest,
}

/// What an answer carries.
pub enum Reply {
    /// A JSON object.
    Json(Shape),
    /// The exact bytes of a manifest.
    Manifest,
    /// A stream of server-sent events, each a JSON object.
    Events(Shape),
    /// This document.
    OpenApi,
}

/// A query parameter.
#[derive(Debug, Clone, Copy)]
pub struct Query {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
}

/// One endpoint.
pub struct Endpoint {
    /// Its name, unique; also the operation id.
    pub operation: &'static str,
    /// The section of the document it is in.
    pub tag: &'static str,
    /// Its method.
    pub method: Method,
    /// Its path, with `{parameters}`.
    pub path: &'static str,
    /// What it does, in one sentence.
    pub about: &'static str,
    /// Whether it answers without a token.
    pub open: bool,
    /// Its query parameters.
    pub query: &'static [Query],
    /// What the request carries.
    pub body: Body,
    /// The status of success.
    pub status: u16,
    /// What the answer carries.
    pub reply: Reply,
    /// Its own refusals, beside those every endpoint has.
    pub refusals: &'static [ErrorCode],
}

const PAGE: &[Query] = &[
    Query { name: "limit", about: "Rows wanted, 1 to 500; 50 when absent." },
    Query { name: "cursor", about: "`next_cursor` of the page before." },
];

const RESUME: &[Query] =
    &[Query { name: "cursor", about: "Resume after this event id; `Last-Event-ID` wins when both are sent." }];

/// What a voter may answer to a signed order, beside the order's own refusals.
const ORDER: &[ErrorCode] = &[
    ErrorCode::SignatureInvalid,
    ErrorCode::PrincipalUnknown,
    ErrorCode::PrincipalDenied,
    ErrorCode::RaftUnavailable,
    ErrorCode::OutcomeUnknown,
];

const REVOKE: &[ErrorCode] = &[
    ErrorCode::NodeUnknown,
    ErrorCode::Conflict,
    ErrorCode::SignatureInvalid,
    ErrorCode::PrincipalUnknown,
    ErrorCode::PrincipalDenied,
    ErrorCode::RaftUnavailable,
    ErrorCode::OutcomeUnknown,
];

/// What a node may answer to a signature, beside what the way there may.
const APPROVE: &[ErrorCode] = &[
    ErrorCode::NotFound,
    ErrorCode::SignatureInvalid,
    ErrorCode::PrincipalUnknown,
    ErrorCode::PrincipalDenied,
    ErrorCode::ApprovalDenied,
    ErrorCode::ApprovalExpired,
    ErrorCode::ApprovalSpent,
    ErrorCode::Conflict,
    ErrorCode::PeerOffline,
    ErrorCode::OutcomeUnknown,
];

const START: &[ErrorCode] = &[
    ErrorCode::SignatureInvalid,
    ErrorCode::PrincipalUnknown,
    ErrorCode::PrincipalDenied,
    ErrorCode::ManifestUnknown,
    ErrorCode::NodeUnknown,
    ErrorCode::TargetIsBaseline,
    ErrorCode::TargetDenied,
    ErrorCode::RolloutDuplicate,
    ErrorCode::RolloutConflict,
    ErrorCode::EpochStale,
    ErrorCode::FreezeLocked,
    ErrorCode::RaftUnavailable,
    ErrorCode::OutcomeUnknown,
];

const CONTROL: &[ErrorCode] = &[
    ErrorCode::RolloutUnknown,
    ErrorCode::RolloutState,
    ErrorCode::SignatureInvalid,
    ErrorCode::PrincipalUnknown,
    ErrorCode::PrincipalDenied,
    ErrorCode::RaftUnavailable,
    ErrorCode::OutcomeUnknown,
];

fn get(
    operation: &'static str,
    tag: &'static str,
    path: &'static str,
    about: &'static str,
    reply: Reply,
    refusals: &'static [ErrorCode],
) -> Endpoint {
    Endpoint {
        operation,
        tag,
        method: Method::Get,
        path,
        about,
        open: false,
        query: &[],
        body: Body::None,
        status: 200,
        reply,
        refusals,
    }
}

fn list(operation: &'static str, tag: &'static str, path: &'static str, about: &'static str, rows: Shape) -> Endpoint {
    Endpoint { query: PAGE, ..get(operation, tag, path, about, Reply::Json(rows), &[]) }
}

fn post(
    operation: &'static str,
    tag: &'static str,
    path: &'static str,
    about: &'static str,
    (body, status, reply): (Shape, u16, Shape),
    refusals: &'static [ErrorCode],
) -> Endpoint {
    Endpoint {
        operation,
        tag,
        method: Method::Post,
        path,
        about,
        open: false,
        query: &[],
        body: Body::Json(body),
        status,
        reply: Reply::Json(reply),
        refusals,
    }
}

/// Every endpoint, in the order of the document.
#[must_use]
pub fn endpoints() -> Vec<Endpoint> {
    let groups =
        [fleet_endpoints(), principal_endpoints(), scope_endpoints(), manifest_endpoints(), rollout_endpoints()];
    groups.into_iter().flatten().chain(ledger_endpoints()).chain(approval_endpoints()).collect()
}

fn fleet_endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint {
            open: true,
            ..get("openapi", "meta", "/api/v1/fleet/openapi.json", "This document.", Reply::OpenApi, &[])
        },
        get(
            "fleet_status",
            "fleet",
            "/api/v1/fleet/status",
            "The fleet and this controller's view of it.",
            Reply::Json(Shape::of::<FleetStatus>()),
            &[],
        ),
        Endpoint {
            query: RESUME,
            ..get(
                "fleet_events",
                "fleet",
                "/api/v1/fleet/events",
                "Everything that happens in the fleet, as server-sent events.",
                Reply::Events(Shape::of::<Event>()),
                &[ErrorCode::Busy],
            )
        },
        list("list_nodes", "nodes", "/api/v1/fleet/nodes", "The nodes, by name.", Shape::page::<Node>()),
        get(
            "show_node",
            "nodes",
            "/api/v1/fleet/nodes/{id}",
            "One node.",
            Reply::Json(Shape::of::<Node>()),
            &[ErrorCode::NodeUnknown],
        ),
        post(
            "revoke_node",
            "nodes",
            "/api/v1/fleet/nodes/{id}/revoke",
            "Removes a member for good: its links are closed and its keys are never admitted again.",
            (Shape::of::<ControlOrder>(), 202, Shape::of::<RevokedNode>()),
            REVOKE,
        ),
        list("list_invites", "nodes", "/api/v1/fleet/invites", "The invites.", Shape::page::<InviteRow>()),
        post(
            "mint_invite",
            "nodes",
            "/api/v1/fleet/invites",
            "Asks a voter for an invite. The answer holds the secret and is given once.",
            (Shape::of::<MintInvite>(), 201, Shape::of::<MintedInvite>()),
            &[ErrorCode::RaftUnavailable, ErrorCode::OutcomeUnknown],
        ),
    ]
}

fn ledger_endpoints() -> Vec<Endpoint> {
    vec![
        list(
            "list_ledgers",
            "ledger",
            "/api/v1/fleet/ledger",
            "Every node's ledger with the signed notes of it that exist, for a client that checks the signatures itself; \
             at most 16 rows a page.",
            Shape::page::<NodeLedger>(),
        ),
        get(
            "show_ledger",
            "ledger",
            "/api/v1/fleet/ledger/{id}",
            "One node's ledger with the signed notes of it that exist.",
            Reply::Json(Shape::of::<NodeLedger>()),
            &[ErrorCode::NodeUnknown],
        ),
        list(
            "list_ledger_heads",
            "ledger",
            "/api/v1/fleet/ledger/heads",
            "The heads of the nodes' ledgers, as last \
             seen.",
            Shape::page::<LedgerHead>(),
        ),
    ]
}

fn approval_endpoints() -> Vec<Endpoint> {
    vec![
        list(
            "list_approvals",
            "approvals",
            "/api/v1/fleet/approvals",
            "What waits for a person on the nodes that are linked.",
            Shape::page::<Approval>(),
        ),
        post(
            "sign_approval",
            "approvals",
            "/api/v1/fleet/approvals/{id}/signatures",
            "Hands an approver's signature to the node, which judges it.",
            (Shape::of::<SignApproval>(), 200, Shape::of::<Approval>()),
            APPROVE,
        ),
    ]
}

fn principal_endpoints() -> Vec<Endpoint> {
    vec![
        list(
            "list_principals",
            "principals",
            "/api/v1/fleet/principals",
            "Who may sign orders.",
            Shape::page::<Principal>(),
        ),
        post(
            "add_principal",
            "principals",
            "/api/v1/fleet/principals",
            "Adds a principal; signed by one with the right to.",
            (Shape::of::<AddPrincipal>(), 201, Shape::of::<Principal>()),
            ORDER,
        ),
    ]
}

fn scope_endpoints() -> Vec<Endpoint> {
    vec![
        list(
            "list_freezes",
            "freezes",
            "/api/v1/fleet/freezes",
            "Scopes under a freeze lock.",
            Shape::page::<Freeze>(),
        ),
        post(
            "freeze",
            "freezes",
            "/api/v1/fleet/freezes",
            "Forbids rollouts on a scope.",
            (Shape::of::<FreezeOrder>(), 201, Shape::of::<Freeze>()),
            ORDER,
        ),
        post(
            "unfreeze",
            "freezes",
            "/api/v1/fleet/freezes/lift",
            "Allows rollouts on a scope again.",
            (Shape::of::<FreezeOrder>(), 200, Shape::of::<Freeze>()),
            ORDER,
        ),
        list(
            "list_denied_targets",
            "targets",
            "/api/v1/fleet/targets/denied",
            "Targets that failed and may not be proposed again.",
            Shape::page::<DeniedTarget>(),
        ),
        post(
            "allow_target",
            "targets",
            "/api/v1/fleet/targets/allow",
            "Takes a target off the deny-list.",
            (Shape::of::<AllowOrder>(), 200, Shape::of::<DeniedTarget>()),
            ORDER,
        ),
    ]
}

fn manifest_endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint {
            method: Method::Put,
            body: Body::Manifest,
            status: 201,
            ..get(
                "put_manifest",
                "manifests",
                "/api/v1/fleet/manifests",
                "Stores a manifest under the hash of its exact bytes.",
                Reply::Json(Shape::of::<StoredManifest>()),
                &[ErrorCode::ManifestMalformed, ErrorCode::ManifestTooLarge],
            )
        },
        get(
            "get_manifest",
            "manifests",
            "/api/v1/fleet/manifests/{hash}",
            "The exact bytes of a manifest.",
            Reply::Manifest,
            &[ErrorCode::ManifestUnknown],
        ),
    ]
}

fn rollout_endpoints() -> Vec<Endpoint> {
    let control = |operation, path, about| {
        post(operation, "rollouts", path, about, (Shape::of::<ControlOrder>(), 202, Shape::of::<Rollout>()), CONTROL)
    };
    vec![
        list(
            "list_rollouts",
            "rollouts",
            "/api/v1/fleet/rollouts",
            "The rollouts, newest first.",
            Shape::page::<RolloutSummary>(),
        ),
        post(
            "start_rollout",
            "rollouts",
            "/api/v1/fleet/rollouts",
            "Proposes a rollout to the fleet. The voters decide; this answers when the proposal is in the log.",
            (Shape::of::<StartRollout>(), 202, Shape::of::<Rollout>()),
            START,
        ),
        get(
            "show_rollout",
            "rollouts",
            "/api/v1/fleet/rollouts/{id}",
            "One rollout with its nodes and its ballot.",
            Reply::Json(Shape::of::<Rollout>()),
            &[ErrorCode::RolloutUnknown],
        ),
        list(
            "list_votes",
            "rollouts",
            "/api/v1/fleet/rollouts/{id}/votes",
            "The ballot of a rollout.",
            Shape::page::<Vote>(),
        ),
        control("pause_rollout", "/api/v1/fleet/rollouts/{id}/pause", "Stops granting until an operator resumes."),
        control("resume_rollout", "/api/v1/fleet/rollouts/{id}/resume", "Goes on after a pause."),
        control(
            "abort_rollout",
            "/api/v1/fleet/rollouts/{id}/abort",
            "Ends the rollout; every node that moved returns to its baseline.",
        ),
        post(
            "exclude_node",
            "rollouts",
            "/api/v1/fleet/rollouts/{id}/exclude",
            "Takes a node out of a rollout; it is no longer charged.",
            (Shape::of::<ExcludeOrder>(), 202, Shape::of::<Rollout>()),
            CONTROL,
        ),
        Endpoint {
            query: RESUME,
            ..get(
                "rollout_events",
                "rollouts",
                "/api/v1/fleet/rollouts/{id}/events",
                "What happens in one rollout, as server-sent events, from its beginning or after the last id seen.",
                Reply::Events(Shape::of::<Event>()),
                &[ErrorCode::RolloutUnknown, ErrorCode::Busy],
            )
        },
    ]
}
