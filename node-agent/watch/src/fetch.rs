//! Fetching a closure that is not in the store from the host's own caches.
//!
//! Invariant: nothing is built and nothing unsigned gets in, whatever the host's
//! Nix configuration says. One closure at a time; the program runs beside the
//! daemon's work, within a time limit, and ends with the daemon. A caller waits a
//! moment and else is told to come again: a download can take longer than a call.

use osmoda_journal::Cause;
use osmoda_kit::error::{ApiError, chain};
use osmoda_kit::process::{Output, Spec, run};
use osmoda_kit::tasks::{TaskHandle, TaskKind, Tasks};
use osmoda_types::{ErrorCode, StorePath};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// How long one call waits for the closure. A generation that shares most of its
/// paths with the one before is there by then; a caller that has to come again
/// loses two seconds.
const WAIT: Duration = Duration::from_secs(10);

/// How long the caches are left alone after a failure: a fleet that waits for a
/// push must not become a load on them.
const PAUSE: Duration = Duration::from_secs(3);

/// Output that is kept. It is a few lines; a download says nothing on the way.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;

/// How much of it goes into a message.
const MESSAGE_CHARS_MAX: usize = 1500;

/// What fetches; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Fetcher {
    /// `nix-store`; `None` where there is nothing to fetch with.
    program: Option<PathBuf>,
    tasks: Tasks,
    job: Arc<Mutex<Option<Job>>>,
}

#[derive(Debug)]
struct Job {
    target: StorePath,
    task: TaskHandle,
    outcome: watch::Receiver<Option<Outcome>>,
}

#[derive(Debug, Clone)]
struct Outcome {
    at: Instant,
    result: Result<(), Cause>,
}

impl Fetcher {
    /// Fetches with `program`, which takes the arguments of `nix-store`.
    #[must_use]
    pub(crate) fn new(program: Option<PathBuf>, tasks: Tasks) -> Self {
        Self { program, tasks, job: Arc::default() }
    }

    /// Whether there are caches to fetch from.
    #[must_use]
    pub(crate) fn can_fetch(&self) -> bool {
        self.program.is_some()
    }

    /// Gets `target` and everything it refers to into the store, within `limit`.
    ///
    /// # Errors
    /// [`ErrorCode::ClosurePending`] while it is on its way or no cache gives it;
    /// [`ErrorCode::ClosureUnsigned`] when what the caches have is not signed by a
    /// trusted key; [`ErrorCode::ClosureMissing`] where there are no caches.
    pub(crate) async fn fetch(&self, target: &StorePath, limit: Duration) -> Result<(), ApiError> {
        let Some(program) = &self.program else {
            let text = format!("{target} is not on this host, which has no caches to fetch it from");
            return Err(ApiError::new(ErrorCode::ClosureMissing, text));
        };
        let mut outcome = self.job_for(program, target, limit);
        match timeout(WAIT, outcome.wait_for(Option::is_some)).await {
            Ok(Ok(done)) => match done.as_ref().map(|outcome| outcome.result.clone()) {
                Some(Err(cause)) => Err(ApiError::new(cause.code, cause.detail)),
                _ => Ok(()),
            },
            Ok(Err(_)) => Err(ApiError::new(ErrorCode::ShuttingDown, "the download was ended")),
            Err(_) => Err(ApiError::new(ErrorCode::ClosurePending, format!("{target} is being fetched"))),
        }
    }

    /// The job that is under way, or has just failed, or a new one.
    fn job_for(&self, program: &PathBuf, target: &StorePath, limit: Duration) -> watch::Receiver<Option<Outcome>> {
        let mut job = self.job.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(present) = job.as_ref().filter(|job| job.target == *target) {
            let is_recent = match &*present.outcome.borrow() {
                Some(outcome) => outcome.result.is_err() && outcome.at.elapsed() < PAUSE,
                None => !present.task.is_finished(),
            };
            if is_recent {
                return present.outcome.clone();
            }
        }
        if let Some(other) = job.take() {
            // Nobody waits for the older rollout's closure any more.
            other.task.abort();
        }
        let (sender, outcome) = watch::channel(None);
        let (spec, wanted) = (spec(program, target, limit), target.clone());
        let task = self.tasks.spawn(TaskKind::BACKGROUND, "closure download", async move {
            let begun = Instant::now();
            tracing::info!(target = %wanted, "closure is fetched");
            let result = match run(&spec).await {
                Ok(output) => judge(&wanted, &output),
                Err(error) => Err(Cause::new(ErrorCode::StoreUnavailable, chain(&error))),
            };
            match &result {
                Ok(()) => tracing::info!(target = %wanted, seconds = begun.elapsed().as_secs(), "closure is here"),
                Err(cause) => tracing::warn!(target = %wanted, code = %cause.code, detail = cause.detail, "no closure"),
            }
            sender.send_replace(Some(Outcome { at: Instant::now(), result }));
        });
        *job = Some(Job { target: target.clone(), task, outcome: outcome.clone() });
        outcome
    }
}

fn spec(program: &PathBuf, target: &StorePath, limit: Duration) -> Spec {
    let options = [
        ("require-sigs", "true"),
        // Fetched or nothing: a host that builds is a host that was not tested.
        ("max-jobs", "0"),
        ("builders", ""),
        ("fallback", "false"),
        // What a cache did not have, or had unsigned, a minute ago says nothing.
        ("narinfo-cache-negative-ttl", "0"),
        ("narinfo-cache-positive-ttl", "0"),
    ];
    let options = options.into_iter().flat_map(|(name, value)| ["--option", name, value]);
    Spec::new(program)
        .args(["--realise", target.as_str(), "--quiet"])
        .args(options)
        // Nix asks for a home folder even where it needs none.
        .env("HOME", "/root")
        .time_limit(limit)
        .output_bytes_max(OUTPUT_BYTES_MAX)
}

/// What came of it. Nix has one exit code for all of these, so its words are
/// read; whatever they are, nothing counts as fetched but a success.
fn judge(target: &StorePath, output: &Output) -> Result<(), Cause> {
    if output.success() {
        return Ok(());
    }
    let said = output.tail(MESSAGE_CHARS_MAX);
    let failed = |code, text: &str| Err(Cause::new(code, format!("{target}: {text}: {said}")));
    let has = |words: &str| String::from_utf8_lossy(&output.stderr).contains(words);
    if output.timed_out {
        return failed(ErrorCode::ClosurePending, "not fetched within the prefetch deadline");
    }
    if has("is not signed by any of the keys") || has("lacks a valid signature") || has("lacks a signature") {
        return failed(ErrorCode::ClosureUnsigned, "the caches have it without a trusted signature");
    }
    if has("No space left on device") {
        return failed(ErrorCode::DiskFull, "no space for it");
    }
    failed(ErrorCode::ClosurePending, "no cache gives it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use osmoda_kit::shutdown::{Shutdown, StopReason};
    use osmoda_kit::testing::wait_for;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    const LIMIT: Duration = Duration::from_secs(30);

    fn target(name: &str) -> StorePath {
        StorePath::new(format!("/nix/store/00000000000000000000000000000000-{name}")).unwrap()
    }

    /// A `nix-store` that notes its arguments and environment and runs `body`.
    fn program(root: &Path, body: &str) -> PathBuf {
        let path = root.join("nix-store");
        let notes = root.join("notes").display().to_string();
        std::fs::write(&path, format!("#!/bin/sh\necho \"$*\" >> {notes}; export -p >> {notes}\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    async fn code(body: &str, limit: Duration) -> ErrorCode {
        let root = tempfile::tempdir().unwrap();
        let fetcher = Fetcher::new(Some(program(root.path(), body)), Tasks::new(Shutdown::new()));
        fetcher.fetch(&target("a"), limit).await.unwrap_err().code
    }

    #[tokio::test]
    async fn what_nix_says_becomes_a_code() {
        let unsigned = "echo \"warning: the substitute for 'x' is not signed by any of the keys in 'k'\" >&2; exit 1";
        assert_eq!(code(unsigned, LIMIT).await, ErrorCode::ClosureUnsigned);
        let missing = "echo \"don't know how to build these paths\" >&2; exit 1";
        assert_eq!(code(missing, LIMIT).await, ErrorCode::ClosurePending);
        assert_eq!(code("echo 'No space left on device' >&2; exit 1", LIMIT).await, ErrorCode::DiskFull);
        assert_eq!(code("sleep 300", Duration::from_millis(200)).await, ErrorCode::ClosurePending);
        let tasks = Tasks::new(Shutdown::new());
        let gone = Fetcher::new(Some("/nowhere/nix-store".into()), tasks.clone());
        assert_eq!(gone.fetch(&target("a"), LIMIT).await.unwrap_err().code, ErrorCode::StoreUnavailable);
        let none = Fetcher::new(None, tasks);
        assert_eq!(none.fetch(&target("a"), LIMIT).await.unwrap_err().code, ErrorCode::ClosureMissing);
        assert!(ErrorCode::ClosurePending.is_retryable() && !ErrorCode::ClosureUnsigned.is_retryable());
    }

    #[tokio::test]
    async fn signatures_are_required_whatever_the_host_is_configured_for() {
        let root = tempfile::tempdir().unwrap();
        let fetcher = Fetcher::new(Some(program(root.path(), "exit 0")), Tasks::new(Shutdown::new()));
        fetcher.fetch(&target("a"), LIMIT).await.unwrap();
        let notes = std::fs::read_to_string(root.path().join("notes")).unwrap();
        assert!(notes.contains("--option require-sigs true --option max-jobs 0"), "{notes}");
        // What a shell makes up by itself aside.
        let given = notes.lines().filter(|line| line.contains('=') && !line.contains("PWD") && !line.contains("SHLVL"));
        let given: Vec<&str> = given.filter(|line| !line.contains("--realise")).collect();
        assert!(given.len() == 1 && given[0].contains("HOME="), "{given:?}");
    }

    #[tokio::test]
    async fn a_failure_is_answered_from_memory_for_a_while_and_callers_share_a_download() {
        let root = tempfile::tempdir().unwrap();
        let body = format!("[ -e {} ]", root.path().join("pushed").display());
        let fetcher = Fetcher::new(Some(program(root.path(), &body)), Tasks::new(Shutdown::new()));
        let wanted = target("a");
        let both = tokio::join!(fetcher.fetch(&wanted, LIMIT), fetcher.fetch(&wanted, LIMIT));
        assert_eq!(both.0.unwrap_err().code, both.1.unwrap_err().code);
        assert_eq!(fetcher.fetch(&wanted, LIMIT).await.unwrap_err().code, ErrorCode::ClosurePending);
        let starts = || std::fs::read_to_string(root.path().join("notes")).unwrap().matches("--realise").count();
        assert_eq!(starts(), 1);
        std::fs::write(root.path().join("pushed"), "").unwrap();
        wait_for("the pushed closure", LIMIT, async || fetcher.fetch(&wanted, LIMIT).await.ok()).await;
        assert_eq!(starts(), 2);
    }

    #[tokio::test]
    async fn another_target_or_the_stop_ends_a_download() {
        let root = tempfile::tempdir().unwrap();
        let tasks = Tasks::new(Shutdown::new());
        let slow =
            format!("case \"$*\" in *-slow*) echo $$ > {}; exec sleep 300;; esac", root.path().join("pid").display());
        let fetcher = Fetcher::new(Some(program(root.path(), &slow)), tasks.clone());
        let waiting = {
            let fetcher = fetcher.clone();
            async move { fetcher.fetch(&target("slow"), LIMIT).await }
        };
        let other = async {
            let read = || std::fs::read_to_string(root.path().join("pid")).ok().filter(|pid| pid.ends_with('\n'));
            let pid = wait_for("the download", LIMIT, async || read()).await;
            fetcher.fetch(&target("quick"), LIMIT).await.unwrap();
            pid.trim().to_owned()
        };
        let (ended, pid) = tokio::join!(waiting, other);
        assert_eq!(ended.unwrap_err().code, ErrorCode::ShuttingDown);
        let process = Path::new("/proc").join(pid);
        wait_for("the end of the program", LIMIT, async || (!process.exists()).then_some(())).await;
        tasks.shutdown().request(StopReason::Asked("test".to_owned()));
        tasks.drain(LIMIT).await;
    }
}
