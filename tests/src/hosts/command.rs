//! Running a program of the machine, with its output in the error.
//!
//! Everything goes through the process runner of `kit`: empty environment, time
//! limit, whole group killed. Nothing is retried here.

use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use osmoda_kit::process::{self, Spec};

/// Most steps write a few files or ask the kernel for something.
pub(super) const STEP_TIME_MAX: Duration = Duration::from_secs(60);

/// How often a value that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Where the machine's programs lie; the environment is empty.
const FOLDERS: [&str; 5] = ["/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The search path for programs that start programs.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Finds a program of the machine.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    FOLDERS.iter().map(|folder| PathBuf::from(folder).join(program)).find(|path| path.is_file())
}

/// Runs a program and returns what it printed; anything but success is an error.
pub(super) async fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    run_within(program, arguments, STEP_TIME_MAX).await
}

/// Like [`run`], with another time limit.
pub(super) async fn run_within(program: &str, arguments: &[&str], limit: Duration) -> anyhow::Result<String> {
    let path = find(program).with_context(|| format!("{program} is not installed"))?;
    let spec = Spec::new(path)
        .args(arguments.iter().map(OsString::from))
        .env("PATH", PATH)
        .env("HOME", "/root")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output_bytes_max(1024 * 1024)
        .time_limit(limit);
    let line = || format!("{program} {}", arguments.join(" "));
    let output = process::run(&spec).await.with_context(line)?;
    if output.timed_out {
        bail!("`{}` did not end within {limit:?}: {}", line(), output.tail(2000));
    }
    if !output.success() {
        bail!("`{}` ended with {}: {}", line(), output.status, output.tail(2000));
    }
    String::from_utf8(output.stdout).with_context(line)
}

/// Looks until `look` gives a value or fails; the error names what was waited for.
pub(crate) async fn until<T, F, Fut>(what: &str, limit: Duration, mut look: F) -> anyhow::Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<Option<T>>>,
{
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    let waiting = async {
        loop {
            ticks.tick().await;
            if let Some(value) = look().await? {
                return anyhow::Ok(value);
            }
        }
    };
    match tokio::time::timeout(limit, waiting).await {
        Ok(found) => found.with_context(|| format!("waiting for {what}")),
        Err(_) => bail!("waited {limit:?} for {what}"),
    }
}
