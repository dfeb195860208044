//! `service.restart`: a unit, by the files it is made of.
//!
//! Invariant: a restart starts no unit that was asked for and did not run. Units that
//! do one thing and end (a garbage collection, an upgrade), that are off on purpose, or
//! that a template makes for any name, are acts of their own and no restart (A1); so
//! are timers, which a restart sets again and which then start such a unit.
//! It is no promise about others: what the unit wants or requires and does not run
//! systemd starts with it, as the unit's administrator wrote.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use osmoda_kit::error::ApiError;
use osmoda_kit::process::{self, Spec};
use osmoda_kit::tasks::Tasks;
use osmoda_types::ErrorCode;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{ActError, Object};

/// Where systemd's own program is looked for.
const PROGRAMS: [&str; 3] = ["/run/current-system/sw/bin/systemctl", "/usr/bin/systemctl", "/bin/systemctl"];

/// The folder that exists where systemd runs (`sd_booted(3)`).
const BOOTED: &str = "/run/systemd/system";

/// Longest restart: systemd gives a unit 90 s to stop and as long to start.
const RESTART_TIME_MAX: Duration = Duration::from_secs(120);

/// Largest unit file read.
const UNIT_BYTES_MAX: u64 = 1 << 20;

/// How the names of timers end.
const TIMER: &str = ".timer";

/// What is asked about a unit.
const PROPERTIES: &str = "--property=Id,LoadState,ActiveState,Type,FragmentPath,DropInPaths,NeedDaemonReload";

/// systemd's program.
#[derive(Debug, Clone)]
pub struct Systemctl {
    program: PathBuf,
}

impl Systemctl {
    /// Uses this program, whatever it is.
    #[must_use]
    pub fn at(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into() }
    }

    /// The host's own, where systemd runs.
    #[must_use]
    pub fn of_host() -> Option<Self> {
        let program = PROGRAMS.into_iter().map(Path::new).find(|path| path.exists())?;
        Path::new(BOOTED).is_dir().then(|| Self::at(program))
    }

    pub(super) async fn look(&self, tasks: &Tasks, unit: &str) -> Result<Object, ApiError> {
        if unit.ends_with(TIMER) {
            let text = format!("{unit} is a timer; to restart it would be to start its unit, soon or at once");
            return Err(ApiError::new(ErrorCode::Conflict, text));
        }
        let output = self.run(&["show", PROPERTIES, "--", unit], Duration::from_secs(10)).await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let property = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or("").to_owned()
        };
        if !output.success() || property("LoadState") != "loaded" {
            return Err(ApiError::new(ErrorCode::NotFound, format!("no unit {unit} is loaded")));
        }
        // The class of a call comes from the name that was asked for, so that name has
        // to be the unit's own: an alias could hide one of ours.
        if property("Id") != unit {
            let text = format!("{unit} is another name of {}; ask for that", property("Id"));
            return Err(ApiError::new(ErrorCode::CallMalformed, text));
        }
        let (state, kind) = (property("ActiveState"), property("Type"));
        if state != "active" || kind == "oneshot" {
            let is = if kind == "oneshot" { "does one thing and ends".to_owned() } else { format!("is {state:?}") };
            let text = format!("{unit} {is}; to restart it would be to start it");
            return Err(ApiError::new(ErrorCode::Conflict, text));
        }
        let mut paths = vec![property("FragmentPath")];
        paths.extend(property("DropInPaths").split(' ').map(str::to_owned));
        paths.retain(|path| !path.is_empty());
        // On a thread of its own: who owns the folder can make each reading take long.
        let hash = move || paths.iter().map(|path| hashed(path)).collect::<Result<Vec<_>, _>>();
        let files = tasks.blocking("read unit files", hash).await.map_err(ApiError::internal)??;
        if files.is_empty() {
            return Err(ApiError::new(ErrorCode::NotFound, format!("unit {unit} has no file")));
        }
        Ok([
            ("unit".to_owned(), Value::from(property("Id"))),
            ("files".to_owned(), Value::from(files)),
            ("reload_needed".to_owned(), Value::from(property("NeedDaemonReload") == "yes")),
        ]
        .into_iter()
        .collect())
    }

    pub(super) async fn restart(&self, tasks: &Tasks, object: &Object) -> Result<String, ActError> {
        let unit = object.get("unit").and_then(Value::as_str).filter(|unit| !unit.is_empty());
        let unit =
            unit.ok_or_else(|| ActError::Refused(ApiError::new(ErrorCode::CallMalformed, "object has no unit")))?;
        // Witnesses were waited for since the last look. What is left between this
        // one and systemd's own is systemd's: it runs what it has loaded.
        if self.look(tasks, unit).await.map_err(ActError::Refused)? != *object {
            return Err(ActError::Refused(ApiError::new(ErrorCode::ObjectChanged, "the unit was changed meanwhile")));
        }
        // A unit that stopped since stays stopped.
        let output = self.run(&["try-restart", "--", unit], RESTART_TIME_MAX).await.map_err(ActError::Failed)?;
        if output.success() {
            return Ok(format!("{unit} restarted"));
        }
        let text = format!("restarting {unit} failed: {}", output.tail(300));
        Err(ActError::Failed(ApiError::new(ErrorCode::Internal, text)))
    }

    /// Those of the units that are active now.
    pub(super) async fn active(&self, units: &[String]) -> Result<Vec<String>, ApiError> {
        let mut args = vec!["is-active", "--"];
        args.extend(units.iter().map(String::as_str));
        // Its status is a failure as soon as one is not active; its lines are in order.
        let output = self.run(&args, Duration::from_secs(10)).await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let states: Vec<&str> = text.lines().collect();
        if states.len() != units.len() {
            return Err(ApiError::new(ErrorCode::Internal, "systemd did not tell the state of every unit"));
        }
        let pairs = units.iter().zip(states);
        Ok(pairs.filter(|(_, state)| *state == "active").map(|(unit, _)| unit.clone()).collect())
    }

    /// Stops or starts units, all in one transaction of systemd.
    pub(super) async fn change(&self, verb: &'static str, units: &[String]) -> Result<(), ApiError> {
        if units.is_empty() {
            return Ok(());
        }
        let mut args = vec![verb, "--"];
        args.extend(units.iter().map(String::as_str));
        let output = self.run(&args, RESTART_TIME_MAX).await?;
        if output.success() {
            return Ok(());
        }
        Err(ApiError::new(ErrorCode::Internal, format!("systemctl {verb} failed: {}", output.tail(300))))
    }

    async fn run(&self, args: &[&str], limit: Duration) -> Result<process::Output, ApiError> {
        let spec = Spec::new(&self.program).args(args.iter().copied()).time_limit(limit);
        let output = process::run(&spec).await.map_err(ApiError::internal)?;
        if output.timed_out {
            return Err(ApiError::new(ErrorCode::Timeout, "systemd did not answer in time"));
        }
        Ok(output)
    }
}

/// A unit's file and its hash. Whatever lies there by now: opening a pipe must not wait
/// for its other end.
fn hashed(path: &str) -> Result<Value, ApiError> {
    let system = |error: Errno| ApiError::new(ErrorCode::Internal, format!("cannot read {path}: {error}"));
    let file = match openat(CWD, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Err(ApiError::new(ErrorCode::NotFound, format!("unit file {path} is gone"))),
        Err(error) => return Err(system(error)),
    };
    if FileType::from_raw_mode(fstat(&file).map_err(system)?.st_mode) != FileType::RegularFile {
        return Err(ApiError::new(ErrorCode::CallMalformed, format!("unit file {path} is no regular file")));
    }
    let mut bytes = Vec::new();
    File::from(file).take(UNIT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(ApiError::internal)?;
    if bytes.len() as u64 > UNIT_BYTES_MAX {
        return Err(ApiError::new(ErrorCode::TooLarge, format!("unit file {path} is over {UNIT_BYTES_MAX} bytes")));
    }
    Ok(json!({ "path": path, "sha256": data_encoding::HEXLOWER.encode(&Sha256::digest(bytes)) }))
}
