//! Staging: everything about a rollout that can be checked before a grant.
//!
//! Invariant: a grant is carried out only for a manifest whose exact bytes an
//! operator signed, whose row names this node, and whose closure was verified
//! here. What was staged survives a restart of the daemon, because the manifest
//! is kept and everything is checked again when it is read.

use crate::fetch::Fetcher;
use crate::host::{Host, detached};
use crate::trust::Trust;
use osmoda_journal::{Origin, Periods, Plan};
use osmoda_kit::error::{ApiError, chain};
use osmoda_kit::fsio;
use osmoda_node_api::watch::{GrantRequest, STAGE_BYTES_MAX, StageRequest, Staged};
use osmoda_types::manifest::MANIFEST_BYTES_MAX;
use osmoda_types::{ErrorCode, Manifest, RolloutId, StorePath};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Round trips to the quorum after the activation (`rollout.md` 5.3, step 4).
const CONTACTS_REQUIRED: u32 = 2;

/// How many staged rollouts are kept. One is under way, one may be next; the
/// rest is history that the log has too.
const STAGED_MAX: usize = 8;

/// The staged rollouts of this host.
#[derive(Debug, Clone)]
pub(crate) struct Staging {
    folder: PathBuf,
    trust: Trust,
}

impl Staging {
    /// Kept in `state_dir`.
    #[must_use]
    pub(crate) fn in_folder(state_dir: &std::path::Path) -> Self {
        Self { folder: state_dir.join("staged"), trust: Trust::in_folder(state_dir) }
    }

    /// Checks and keeps a rollout; fetches its closure where the store has not
    /// all of it.
    ///
    /// # Errors
    /// The code of the first thing that is wrong.
    pub(crate) async fn stage(
        &self,
        host: &Arc<Host>,
        fetcher: &Fetcher,
        request: StageRequest,
    ) -> Result<Staged, ApiError> {
        let (staging, examined, request) = (self.clone(), Arc::clone(host), Arc::new(request));
        let asked = Arc::clone(&request);
        let (manifest, target, running) = detached("stage", move || staging.examine(&examined, &asked)).await??;
        let limit = Duration::from_millis(manifest.policy.timings.prefetch_deadline_ms);
        obtain(host, fetcher, &target, limit).await?;
        tracing::info!(rollout = %request.rollout, name = manifest.name, %target, "rollout staged");
        let staging = self.clone();
        detached("keep", move || staging.keep(&request)).await??;
        Ok(Staged { staged: true, current: running })
    }

    /// Everything but the closure. Returns the target and what the host runs.
    fn examine(&self, host: &Host, request: &StageRequest) -> Result<(Manifest, StorePath, StorePath), ApiError> {
        let (manifest, plan) = self.check(request, request.parent_epoch)?;
        let (running, _) = host.observed()?;
        let running = running.ok_or_else(|| conflict("the host does not say what it runs".to_owned()))?;
        if running != plan.baseline {
            return Err(conflict(format!("the host runs {running}, not the baseline {}", plan.baseline)));
        }
        Ok((manifest, plan.target, running))
    }

    /// The plan of a granted rollout, from what was staged.
    ///
    /// # Errors
    /// [`ErrorCode::ManifestUnknown`] when it was not staged here.
    pub(crate) fn plan(&self, grant: &GrantRequest) -> Result<Plan, ApiError> {
        let unknown = |text: &str| ApiError::new(ErrorCode::ManifestUnknown, text.to_owned());
        let bytes = fsio::read_limited(&self.file(&grant.rollout), STAGE_BYTES_MAX as u64)
            .map_err(|error| ApiError::new(error.code(), "the staged rollout cannot be read").with_source(error))?
            .ok_or_else(|| unknown("the rollout is not staged on this host"))?;
        let request: StageRequest =
            serde_json::from_slice(&bytes).map_err(|_| unknown("what was staged is damaged"))?;
        let (_, plan) = self.check(&request, grant.epoch)?;
        if plan.manifest != Some(grant.manifest) {
            return Err(unknown("another manifest is staged for this rollout"));
        }
        Ok(plan)
    }

    /// Everything that does not depend on the state of the host.
    fn check(&self, request: &StageRequest, epoch: osmoda_types::FleetEpoch) -> Result<(Manifest, Plan), ApiError> {
        let malformed = |text: String| ApiError::new(ErrorCode::ManifestMalformed, text);
        let bytes = data_encoding::BASE64
            .decode(request.manifest_b64.as_bytes())
            .map_err(|error| malformed(format!("manifest_b64: {error}")))?;
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ApiError::new(ErrorCode::ManifestTooLarge, "the manifest is over 1 MiB"));
        }
        // The signature before the content: nobody else's text is parsed.
        let hash = osmoda_types::ManifestHash::of(&bytes);
        self.trust.check_rollout(request, &hash)?;
        let (manifest, hash) = Manifest::parse(&bytes).map_err(|error| ApiError::new(error.code, error.to_string()))?;
        let row = manifest.nodes.get(&request.node).ok_or_else(|| {
            ApiError::new(ErrorCode::NodeUnknown, format!("the manifest has no row for node {}", request.node.short()))
        })?;
        let checks: Result<Vec<_>, _> = manifest.checks_of(&request.node).map(serde_json::to_value).collect();
        let timings = &manifest.policy.timings;
        let plan = Plan {
            epoch,
            origin: Origin::Fleet,
            rollout: Some(request.rollout),
            manifest: Some(hash),
            session: None,
            target: row.target.clone(),
            baseline: row.baseline.clone(),
            periods: Periods {
                healthy_ms: timings.healthy_ms,
                check_deadline_ms: timings.check_deadline_ms,
                dead_man_ms: Some(timings.dead_man_ms),
                activation_ms: timings.activation_ms,
                accept_ms: None,
            },
            contacts_required: CONTACTS_REQUIRED,
            checks: checks.map_err(ApiError::internal)?,
            undo: None,
        };
        distinct(&plan.target, &plan.baseline)?;
        Ok((manifest, plan))
    }

    fn keep(&self, request: &StageRequest) -> Result<(), ApiError> {
        let fail = |error: fsio::FsError| ApiError::new(error.code(), chain(&error));
        fsio::create_private_dir(&self.folder).map_err(fail)?;
        let text = serde_json::to_vec(request).map_err(ApiError::internal)?;
        fsio::write_atomic(&self.file(&request.rollout), &text, 0o600).map_err(fail)?;
        self.drop_oldest(&request.rollout)
    }

    /// Rollout ids sort by time, so the first names are the oldest.
    fn drop_oldest(&self, present: &RolloutId) -> Result<(), ApiError> {
        let listed = std::fs::read_dir(&self.folder).map_err(ApiError::internal)?;
        let mut files: Vec<PathBuf> = listed.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
        files.sort();
        let present = self.file(present);
        let extra = files.len().saturating_sub(STAGED_MAX);
        for old in files.into_iter().filter(|path| *path != present).take(extra) {
            std::fs::remove_file(&old).map_err(ApiError::internal)?;
        }
        Ok(())
    }

    fn file(&self, rollout: &RolloutId) -> PathBuf {
        self.folder.join(format!("{rollout}.json"))
    }
}

/// Makes sure that the whole closure is here and good, fetching what is missing
/// within `limit`.
///
/// # Errors
/// As [`Fetcher::fetch`], and what the store says of the closure.
pub(crate) async fn obtain(
    host: &Arc<Host>,
    fetcher: &Fetcher,
    target: &StorePath,
    limit: Duration,
) -> Result<(), ApiError> {
    let verify = async || {
        let (host, target) = (Arc::clone(host), target.clone());
        detached("verify", move || host.verify(&target)).await?
    };
    match verify().await {
        Err(error) if error.code == ErrorCode::ClosureMissing && fetcher.can_fetch() => {}
        verified => return verified,
    }
    // Held before it is there, so that it is not collected between two calls.
    host.hold("staged", target.as_path()).map_err(|cause| ApiError::new(cause.code, cause.detail))?;
    fetcher.fetch(target, limit).await?;
    verify().await
}

/// A move to where the host already is proves nothing.
///
/// # Errors
/// [`ErrorCode::TargetIsBaseline`].
pub(crate) fn distinct(target: &StorePath, baseline: &StorePath) -> Result<(), ApiError> {
    if target == baseline {
        return Err(ApiError::new(ErrorCode::TargetIsBaseline, "the target equals the baseline"));
    }
    Ok(())
}

fn conflict(text: String) -> ApiError {
    ApiError::new(ErrorCode::Conflict, text)
}
