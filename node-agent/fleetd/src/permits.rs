//! Open permits on their way to a controller, and signatures on their way back.
//!
//! Both are only carried: agentd lists and agentd judges. Invariant: no permit
//! makes another one unseen but by fitting where the other does not. What does not
//! fit is what is largest, decided ones before those that wait, whatever came
//! first; and how many were left out is told.

use osmoda_kit::error::ApiError;
use osmoda_node_api::approval::{ApprovalClient, PermitView};
use osmoda_permit::{ApproverSignature, State};
use osmoda_proto::link::v1 as pb;
use osmoda_types::ErrorCode;

/// Most that is told of open permits; a gRPC message has 4 MiB.
const BYTES_MAX: usize = 1 << 20;

/// What is told of the permits that are open now; `None` when agentd does not say.
pub(crate) async fn told(approvals: &ApprovalClient) -> Option<pb::Approvals> {
    approvals.list().await.ok().map(|open| fit(&open))
}

/// The permits that fit, in the order they came.
fn fit(open: &[PermitView]) -> pb::Approvals {
    let texts: Vec<String> = open.iter().map(json).collect();
    let mut order: Vec<usize> = (0..open.len()).collect();
    order.sort_by_key(|place| (open[*place].state != State::Pending, texts[*place].len()));
    // The brackets; and each with the comma before it.
    let mut bytes = 2;
    let fits = |place: &usize| {
        bytes += texts[*place].len() + 1;
        bytes <= BYTES_MAX
    };
    let mut told: Vec<usize> = order.into_iter().take_while(fits).collect();
    told.sort_unstable();
    let left_out = u32::try_from(open.len() - told.len()).unwrap_or(u32::MAX);
    let texts: Vec<&str> = told.into_iter().map(|place| texts[place].as_str()).collect();
    pb::Approvals { permits: format!("[{}]", texts.join(",")), left_out }
}

/// Hands a signature to agentd, which judges it.
pub(crate) async fn sign(approvals: &ApprovalClient, asked: pb::Signature) -> pb::SignatureAnswer {
    let done = async {
        let malformed = |_| ApiError::new(ErrorCode::BadRequest, "the signature cannot be read");
        let id = asked.permit.parse().map_err(|_| ApiError::new(ErrorCode::NotFound, "no permit has this id"))?;
        let signature: ApproverSignature = serde_json::from_str(&asked.signature).map_err(malformed)?;
        approvals.sign(&id, &signature).await
    };
    match done.await {
        Ok(view) => pb::SignatureAnswer { request: asked.request, permit: json(&view), ..Default::default() },
        Err(error) => pb::SignatureAnswer {
            request: asked.request,
            code: error.code.to_string(),
            message: error.message,
            permit: String::new(),
        },
    }
}

fn json(view: &PermitView) -> String {
    serde_json::to_string(view).expect("views have text keys only")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use axum::extract::{Path, State as Shared};
    use axum::routing::{get, post};
    use axum::{Json, Router};
    use osmoda_kit::http::testing::TestServer;
    use osmoda_permit::testing::{call, permit, sign as signed};
    use osmoda_permit::{Decision, SignedPermit};
    use osmoda_types::PermitId;

    fn view(number: u8, state: State, display_bytes: usize) -> PermitView {
        let call = call();
        let hash = call.hash().unwrap();
        let permit = osmoda_permit::Permit { id: PermitId::from_bytes([number; 16]), ..permit(hash) };
        PermitView {
            signed: SignedPermit { permit, plan: Vec::new(), signatures: Vec::new() },
            state,
            next: 0,
            calls: vec![call.to_value()],
            hashes: vec![hash],
            display: "x".repeat(display_bytes),
            actor: "admin".into(),
            reason: String::new(),
            session_id: "s-1".into(),
            tainted: false,
            approved_by: Vec::new(),
            decided_by: None,
            decided_at: None,
            created_at: String::new(),
            expires_at: String::new(),
            break_glass: None,
        }
    }

    fn numbers(told: &pb::Approvals) -> Vec<u8> {
        let views: Vec<PermitView> = serde_json::from_str(&told.permits).unwrap();
        views.iter().map(|view| view.signed.permit.id.as_bytes()[0]).collect()
    }

    #[test]
    fn what_does_not_fit_is_the_largest_and_decided_ones_before_those_that_wait() {
        // Newest first, as agentd lists. The old small one is somebody else's.
        let mut open: Vec<PermitView> = (1..=20).map(|number| view(number, State::Pending, 100_000)).collect();
        open.push(view(50, State::Pending, 10));
        open.push(view(60, State::Approved, 10));
        let told = fit(&open);
        assert!(told.permits.len() <= BYTES_MAX);
        let shown = numbers(&told);
        assert!(shown.contains(&50) && !shown.contains(&60), "{shown:?}");
        assert_eq!(shown.len() + told.left_out as usize, 22);
        assert!((9..=11).contains(&shown.len()), "as many as fit: {shown:?}");
        let all = fit(&open[19..]);
        assert_eq!((numbers(&all), all.left_out), (vec![20, 50, 60], 0));
        assert_eq!(fit(&[]), pb::Approvals { permits: "[]".into(), left_out: 0 });
    }

    #[tokio::test]
    async fn agentd_lists_and_judges_and_its_words_are_carried() {
        let judge = async |Shared(view): Shared<PermitView>,
                           Path(id): Path<String>,
                           Json(signature): Json<ApproverSignature>| {
            let denied = || ApiError::new(ErrorCode::ApprovalDenied, "it was denied");
            assert_eq!(id, view.signed.permit.id.to_string());
            if signature.decision == Decision::Deny { Err(denied()) } else { Ok(Json(view)) }
        };
        let ours = view(7, State::Pending, 10);
        let router = Router::new()
            .route("/permit/list", get(async |Shared(view): Shared<PermitView>| Json(vec![view])))
            .route("/permit/{id}/sign", post(judge))
            .with_state(ours.clone());
        let server = TestServer::open(router);
        let agentd = ApprovalClient::new(server.client());
        assert_eq!(numbers(&told(&agentd).await.unwrap()), [7]);
        let permit = &ours.signed.permit;
        let asked = |id: String, signature: String| pb::Signature { request: 9, permit: id, signature };
        let text = |decision| serde_json::to_string(&signed(1, permit, decision)).unwrap();
        let id = permit.id.to_string();
        for (id, signature, code) in [
            (id.clone(), text(Decision::Approve), ""),
            (id.clone(), text(Decision::Deny), "approval_denied"),
            (id, "{}".to_owned(), "bad_request"),
            ("x".to_owned(), text(Decision::Approve), "not_found"),
        ] {
            let answer = sign(&agentd, asked(id, signature)).await;
            assert_eq!((answer.request, answer.code.as_str()), (9, code));
            assert_eq!(answer.permit.is_empty(), !code.is_empty());
        }
        server.stop(Duration::from_secs(10)).await;
        assert_eq!(told(&agentd).await, None, "an agentd that is away empties no inbox");
    }
}
