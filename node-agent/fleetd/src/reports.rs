//! What nodes last told this voter, kept while it leads.
//!
//! Only endings and staged closures go into the log. That a node is ready, and
//! how far it is, lives here and is told again within a second, so a new leader
//! knows it as soon as it leads.

use std::collections::BTreeMap;
use std::sync::Arc;

use osmoda_kit::error::ApiError;
use osmoda_proto::ConvertError;
use osmoda_proto::fleet::v1 as pb;
use osmoda_types::command::{Body, NodeAttempt, Report, Staged};
use osmoda_types::{ErrorCode, NodeId, RequestId};
use tokio::sync::watch;

/// Endings in one report: a node has one attempt at a time and may have missed
/// telling about a few.
const ENDINGS_MAX: usize = 16;

/// What one node last said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The log index it had applied.
    pub(crate) observed_index: u64,
    /// The attempt it is ready in.
    pub(crate) ready: Option<NodeAttempt>,
}

/// The newest words of all nodes.
pub(crate) type AllSeen = Arc<BTreeMap<NodeId, Seen>>;

/// The store of reports; clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Reports {
    seen: Arc<watch::Sender<AllSeen>>,
}

impl Default for Reports {
    fn default() -> Self {
        Self { seen: Arc::new(watch::Sender::new(AllSeen::default())) }
    }
}

impl Reports {
    /// Wakes at each report that says something new.
    pub(crate) fn subscribe(&self) -> watch::Receiver<AllSeen> {
        self.seen.subscribe()
    }

    /// Keeps a report of `node` and returns what of it belongs into the log.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`] and [`ErrorCode::ServiceDenied`] when the report is
    /// malformed or speaks of another node.
    pub(crate) fn take(&self, node: NodeId, report: pb::ReportRequest) -> Result<Vec<Body>, ApiError> {
        if report.endings.len() > ENDINGS_MAX {
            return Err(ApiError::new(ErrorCode::BadRequest, format!("at most {ENDINGS_MAX} endings in one report")));
        }
        let malformed = |error: ConvertError| ApiError::new(error.code(), error.to_string());
        let ready = report.ready.map(NodeAttempt::try_from).transpose().map_err(malformed)?;
        let staged = report.staged.map(Staged::try_from).transpose().map_err(malformed)?;
        let endings: Vec<Report> =
            report.endings.into_iter().map(Report::try_from).collect::<Result<_, _>>().map_err(malformed)?;
        let about = ready.iter().map(|of| of.node).chain(staged.iter().map(|staged| staged.node));
        if about.chain(endings.iter().map(|ending| ending.attempt.node)).any(|other| other != node) {
            return Err(ApiError::new(ErrorCode::ServiceDenied, "a node reports about itself only"));
        }
        let seen = Seen { observed_index: report.observed_index, ready };
        self.seen.send_if_modified(|all| {
            let is_new = all.get(&node) != Some(&seen);
            if is_new {
                Arc::make_mut(all).insert(node, seen);
            }
            is_new
        });
        let staged = staged.map(Body::Staged);
        Ok(staged.into_iter().chain(endings.into_iter().map(Body::Report)).collect())
    }
}

/// A new request id. Reported facts get one each time: `apply` knows a repeated
/// fact by what it says, and a node may say the same again later (staged,
/// withdrawn, staged), which a derived id would swallow.
pub(crate) fn fresh_request() -> RequestId {
    RequestId::from_bytes(*uuid::Uuid::now_v7().as_bytes())
}
