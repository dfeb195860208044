//! The host as watch acts on it: preflight, guard, activation, commit. All
//! blocking work runs on threads of its own.

use crate::config::Settings;
use osmoda_journal::generation::{
    Action, Activation, ActivationError, Ended, GenerationStore, NixStore, Runner, StoreError, StoreKind, SymlinkStore,
};
use osmoda_journal::{Cause, GuardLock, Holder, LOCK_FILE, Plan};
use osmoda_kit::error::{ApiError, chain};
use osmoda_kit::fsio;
use osmoda_kit::process::{Spec, run, start_detached};
use osmoda_types::{AttemptId, ErrorCode, StorePath};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the guard may take to acknowledge. It takes a lock and reads a
/// small file; a host that needs longer is in no state to be changed.
const ACK_TIME_MAX: Duration = Duration::from_secs(10);

/// How often the acknowledgement is looked for.
const ACK_LOOK: Duration = Duration::from_millis(20);

/// How long somebody else's activation is waited for before the attempt is
/// deferred. Deferring is cheap: the log grants again.
const LOCK_TIME_MAX: Duration = Duration::from_secs(10);

/// How often a step of the commit is tried.
const COMMIT_TRIES: u32 = 3;

/// Between two looks at a busy lock, and two tries of a commit.
const PAUSE: Duration = Duration::from_secs(1);

/// Exit code of an activation after which some unit is failed.
pub(crate) const EXIT_UNITS_FAILED: i32 = 4;

/// The host.
pub struct Host {
    settings: Settings,
    store: Box<dyn GenerationStore>,
    activation: Activation,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Host {
    /// The host these settings describe.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let store: Box<dyn GenerationStore> = match settings.store {
            StoreKind::Symlink => Box::new(SymlinkStore::new(&settings.profile)),
            StoreKind::Nix => {
                let log = settings.state_dir.join("nix.log");
                Box::new(NixStore::new(&settings.profile, log, settings.require_signatures))
            }
        };
        let activation = Activation::new(&settings.host_root, &settings.state_dir, settings.runner);
        Self { settings, store, activation }
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The generation store.
    #[must_use]
    pub fn store(&self) -> &dyn GenerationStore {
        self.store.as_ref()
    }

    /// The activation machinery.
    #[must_use]
    pub fn activation(&self) -> &Activation {
        &self.activation
    }

    /// The guard's lock file.
    #[must_use]
    pub fn lock_path(&self) -> PathBuf {
        self.settings.state_dir.join(LOCK_FILE)
    }

    /// Who guards, if anyone.
    ///
    /// # Errors
    /// [`ErrorCode::StateDirUnusable`].
    pub fn guard(&self) -> Result<Option<Holder>, ApiError> {
        GuardLock::holder(&self.lock_path()).map_err(|error| {
            ApiError::new(ErrorCode::StateDirUnusable, "the guard's lock is unreadable").with_source(error)
        })
    }

    /// What the host runs and what its profile points to.
    ///
    /// # Errors
    /// [`ErrorCode::StoreUnavailable`] when either cannot be told.
    pub fn observed(&self) -> Result<(Option<StorePath>, Option<StorePath>), ApiError> {
        let running = self.activation.running().map_err(|error| {
            ApiError::new(ErrorCode::StoreUnavailable, "what the host runs cannot be told").with_source(error)
        })?;
        let profile = self.store.current().map_err(|error| store_error(&error))?;
        Ok((running, profile))
    }

    /// Everything that must hold before a guard is worth starting. Returns the
    /// units that are failed already. Blocking.
    ///
    /// # Errors
    /// The cause for which the attempt is deferred.
    pub fn preflight(&self, plan: &Plan) -> Result<Vec<String>, Cause> {
        let (running, profile) = self.observed().map_err(|error| Cause::new(error.code, chain(&error)))?;
        for (what, found) in [("runs", running), ("has the profile", profile)] {
            if found.as_ref() != Some(&plan.baseline) {
                let found = found.map_or_else(|| "nothing".to_owned(), |path| path.to_string());
                let text = format!("the host {what} {found}, not the baseline {}", plan.baseline);
                return Err(Cause::new(ErrorCode::Conflict, text));
            }
        }
        for toplevel in [&plan.baseline, &plan.target] {
            let program = toplevel.as_path().join("bin/switch-to-configuration");
            if !program.is_file() {
                return Err(Cause::new(ErrorCode::ClosureMissing, format!("{} is not there", program.display())));
            }
        }
        self.store.verify(&plan.target).map_err(|error| Cause::new(error.code(), chain(&error)))?;
        self.wait_until_free()?;
        self.check_space()?;
        self.hold_roots(plan)?;
        self.activation.failed_units().map_err(|error| Cause::new(error.code(), chain(&error)))
    }

    fn wait_until_free(&self) -> Result<(), Cause> {
        let deadline = Instant::now() + LOCK_TIME_MAX;
        loop {
            let busy = self.activation.is_busy().map_err(|error| Cause::new(error.code(), chain(&error)))?;
            if !busy {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Cause::new(ErrorCode::LockBusy, "another activation is running on this host"));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn check_space(&self) -> Result<(), Cause> {
        let profiles = self.settings.profile.parent().unwrap_or(Path::new("/")).to_owned();
        let boot = self.settings.host_root.join("boot");
        for folder in [self.settings.state_dir.clone(), profiles, boot].into_iter().filter(|folder| folder.is_dir()) {
            let free = fsio::free_bytes(&folder).map_err(|error| Cause::new(error.code(), chain(&error)))?;
            if free < self.settings.free_bytes_min {
                let text = format!("{} has {free} bytes free", folder.display());
                return Err(Cause::new(ErrorCode::DiskFull, text));
            }
        }
        Ok(())
    }

    /// Keeps baseline, target and guard from the garbage collector (I4).
    fn hold_roots(&self, plan: &Plan) -> Result<(), Cause> {
        if self.settings.store != StoreKind::Nix {
            return Ok(());
        }
        let guard = self.settings.guard_program.canonicalize().map_err(no_root)?;
        self.hold("baseline", plan.baseline.as_path())?;
        self.hold("target", plan.target.as_path())?;
        let store_folder: PathBuf = guard.components().take(4).collect();
        if store_folder.starts_with("/nix/store") {
            self.hold("guard", &store_folder)?;
        }
        Ok(())
    }

    /// Keeps a store path from the garbage collector, in the place of what was
    /// held under the name before.
    ///
    /// # Errors
    /// [`ErrorCode::StoreUnavailable`] as a cause.
    pub fn hold(&self, name: &str, target: &Path) -> Result<(), Cause> {
        let folder = self.settings.host_root.join("nix/var/nix/gcroots/osmoda");
        std::fs::create_dir_all(&folder).map_err(no_root)?;
        let (link, fresh) = (folder.join(name), folder.join(format!(".{name}.new")));
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(no_root(error)),
            _ => {}
        }
        std::os::unix::fs::symlink(target, &fresh).map_err(no_root)?;
        std::fs::rename(&fresh, &link).map_err(no_root)
    }

    /// Checks that the closure is here and, where that is demanded, signed. Blocking.
    ///
    /// # Errors
    /// [`ErrorCode::ClosureMissing`], [`ErrorCode::ClosureUnsigned`].
    pub fn verify(&self, target: &StorePath) -> Result<(), ApiError> {
        self.store.verify(target).map_err(|error| store_error(&error))
    }

    /// Starts a guard for the attempt, unless one stands by already, and waits
    /// for its acknowledgement.
    ///
    /// # Errors
    /// [`ErrorCode::GuardUnavailable`] as a cause.
    pub async fn start_guard(&self, attempt: AttemptId) -> Result<Holder, Cause> {
        let unavailable = |detail: String| Cause::new(ErrorCode::GuardUnavailable, detail);
        if let Some(holder) = self.guard().map_err(|error| unavailable(chain(&error)))? {
            if holder.attempt == attempt {
                return Ok(holder);
            }
            return Err(unavailable(format!("the guard of attempt {} has not ended", holder.attempt)));
        }
        match self.settings.runner {
            Runner::Process => {
                let spec = Spec::new(&self.settings.guard_program).args(self.guard_args(attempt));
                // The handle is dropped on purpose: the guard outlives us, and
                // the runtime collects it when it does not.
                start_detached(&spec).map(drop).map_err(|error| unavailable(chain(&error)))?;
            }
            Runner::Systemd => self.start_guard_unit(attempt).await.map_err(unavailable)?,
        }
        let deadline = Instant::now() + ACK_TIME_MAX;
        loop {
            match self.guard().map_err(|error| unavailable(chain(&error)))? {
                Some(holder) if holder.attempt == attempt => return Ok(holder),
                _ if Instant::now() >= deadline => return Err(unavailable("no acknowledgement".to_owned())),
                _ => tokio::time::sleep(ACK_LOOK).await,
            }
        }
    }

    async fn start_guard_unit(&self, attempt: AttemptId) -> Result<(), String> {
        let program = osmoda_journal::generation::find_program("systemd-run")
            .ok_or_else(|| "systemd-run is not installed".to_owned())?;
        let spec = Spec::new(program)
            .args(["--quiet", "--collect", "--no-ask-password", "--service-type=exec"])
            .args([format!("--unit=osmoda-guard-{attempt}"), "--property=KillMode=process".to_owned(), "--".to_owned()])
            .args([&self.settings.guard_program])
            .args(self.guard_args(attempt));
        let output = run(&spec).await.map_err(|error| chain(&error))?;
        if output.success() { Ok(()) } else { Err(output.tail(300)) }
    }

    /// The guard's command line; the guard's own parser is the other half.
    #[must_use]
    pub fn guard_args(&self, attempt: AttemptId) -> Vec<std::ffi::OsString> {
        let settings = &self.settings;
        vec![
            "--attempt".into(),
            attempt.to_string().into(),
            "--state-dir".into(),
            settings.state_dir.clone().into(),
            "--host-root".into(),
            settings.host_root.clone().into(),
            "--profile".into(),
            settings.profile.clone().into(),
            "--store".into(),
            settings.store.as_str().into(),
            "--runner".into(),
            settings.runner.as_str().into(),
            "--boot-id".into(),
            settings.clock.boot_id_file().into(),
        ]
    }

    /// Activates the target, if `is_wanted` still says so at the last moment. Blocking.
    ///
    /// # Errors
    /// The cause for which the attempt is rolled back.
    pub fn activate(
        &self,
        plan: &Plan,
        failed_before: &[String],
        is_wanted: impl FnOnce() -> bool,
    ) -> Result<i32, Cause> {
        let limit = Duration::from_millis(plan.periods.activation_ms);
        let ended = self.activation.run_if(&plan.target, Action::Test, limit, is_wanted);
        self.judge(plan, failed_before, ended.map(Some)).map(|exit| exit.unwrap_or(0))
    }

    /// Waits for an activation that an earlier run of the daemon began. Blocking.
    ///
    /// # Errors
    /// As [`Host::activate`].
    pub fn rejoin(&self, plan: &Plan, failed_before: &[String]) -> Result<Option<i32>, Cause> {
        let limit = Duration::from_millis(plan.periods.activation_ms);
        self.judge(plan, failed_before, self.activation.join(limit))
    }

    fn judge(
        &self,
        plan: &Plan,
        failed_before: &[String],
        ended: Result<Option<Ended>, ActivationError>,
    ) -> Result<Option<i32>, Cause> {
        let failed = |detail: String| Cause::new(ErrorCode::ActivationFailed, detail);
        let ended = ended.map_err(|error| Cause::new(error.code(), chain(&error)))?;
        if let Some(ended) = &ended {
            if ended.timed_out {
                return Err(Cause::new(ErrorCode::ActivationTimeout, ended.describe()));
            }
            let has_units = self.settings.runner == Runner::Systemd;
            match ended.code() {
                0 => {}
                EXIT_UNITS_FAILED if has_units => {
                    let fresh = self.fresh_failures(failed_before)?;
                    if !fresh.is_empty() {
                        return Err(failed(format!("failed since the activation: {}", fresh.join(" "))));
                    }
                }
                _ => return Err(failed(ended.describe())),
            }
        }
        match self.activation.running() {
            Ok(Some(running)) if running == plan.target => Ok(ended.map(|ended| ended.code())),
            Ok(running) => Err(failed(format!("the host runs {running:?} after the activation"))),
            Err(error) => Err(failed(chain(&error))),
        }
    }

    /// Units that are failed now and were not before. Waiting for the network
    /// fails for reasons of its own and is not the generation's fault.
    ///
    /// # Errors
    /// A cause when the service manager does not answer.
    pub fn fresh_failures(&self, before: &[String]) -> Result<Vec<String>, Cause> {
        let now = self.activation.failed_units().map_err(|error| Cause::new(error.code(), chain(&error)))?;
        Ok(now.into_iter().filter(|unit| !before.contains(unit) && !unit.contains("wait-online")).collect())
    }

    /// Makes the target the profile and the boot default, and reads both back. Blocking.
    ///
    /// # Errors
    /// The cause for which the attempt is reverted.
    pub fn commit(&self, plan: &Plan) -> Result<(), Cause> {
        let mut last = Cause::new(ErrorCode::Internal, "no try was made");
        for _ in 0..COMMIT_TRIES {
            match self.commit_once(plan) {
                Ok(()) => return Ok(()),
                Err(cause) => last = cause,
            }
            std::thread::sleep(PAUSE);
        }
        Err(last)
    }

    fn commit_once(&self, plan: &Plan) -> Result<(), Cause> {
        let limit = Duration::from_millis(plan.periods.activation_ms);
        self.wait_until_free()?;
        self.store.set(&plan.target).map_err(|error| Cause::new(error.code(), chain(&error)))?;
        let ended = self
            .activation
            .run(&plan.target, Action::Boot, limit)
            .map_err(|error| Cause::new(error.code(), chain(&error)))?;
        if !ended.success() {
            return Err(Cause::new(ErrorCode::ActivationFailed, format!("boot default: {}", ended.describe())));
        }
        match self.observed() {
            Ok((Some(running), Some(profile))) if running == plan.target && profile == plan.target => Ok(()),
            Ok(found) => Err(Cause::new(ErrorCode::ActivationFailed, format!("read back {found:?}"))),
            Err(error) => Err(Cause::new(error.code, chain(&error))),
        }
    }
}

fn no_root(error: std::io::Error) -> Cause {
    Cause::new(ErrorCode::StoreUnavailable, format!("no GC root: {error}"))
}

/// The wire form of a store error.
#[must_use]
fn store_error(error: &StoreError) -> ApiError {
    ApiError::new(error.code(), chain(error))
}

/// Runs work on a thread of its own that nobody waits for at the end of the
/// process: an activation goes on by itself, and the journal says where it was.
/// (A pool thread would hold up the stop that the activation itself may ask for.)
///
/// # Errors
/// [`ErrorCode::Internal`] when the thread cannot be started or panicked.
///
/// # Cancel safety
/// Dropped before it resolves, the work goes on.
pub(crate) async fn detached<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Nobody listens any more when the process is stopping.
            drop(sender.send(work()));
        })
        .map_err(ApiError::internal)?;
    receiver.await.map_err(ApiError::internal)
}
