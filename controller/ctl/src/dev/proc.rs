//! The processes of a development fleet: start them apart from this one, find
//! them again by their root directory, end them by id.
//!
//! Every program of a node takes `--root DIR`, so the processes of a node are
//! those with that very argument. Nothing is ever ended by name.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal};

/// Where programs are looked for; a development fleet does not read `PATH`,
/// because its children get none.
const PROGRAM_FOLDERS: [&str; 4] =
    ["/run/current-system/sw/bin", "/nix/var/nix/profiles/default/bin", "/usr/bin", "/bin"];

/// Why a child process could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    /// It could not be started.
    #[error("could not start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Its log file could not be opened.
    #[error("could not open the log {}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It ended with an error.
    #[error(transparent)]
    Failed(Box<Failed>),
}

/// A program that ended with an error.
#[derive(Debug, thiserror::Error)]
#[error("{} ended with {status}: {stderr}", program.display())]
pub struct Failed {
    /// The program.
    pub program: PathBuf,
    /// Its exit status in words.
    pub status: String,
    /// Its exit code; absent when a signal ended it.
    pub code: Option<i32>,
    /// The last 2,000 characters it wrote to standard error.
    pub stderr: String,
    /// What it wrote to standard output.
    pub stdout: String,
}

/// The first program of that name in the usual folders.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    PROGRAM_FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}

/// Runs a program to its end with an empty environment and returns its standard output.
///
/// # Errors
/// [`ProcError::Start`], or [`ProcError::Failed`] when it ends with an error.
pub fn output<S: AsRef<OsStr>>(program: &Path, args: &[S]) -> Result<String, ProcError> {
    output_with(program, args, &[])
}

/// Like [`output`], with these variables as the whole environment.
///
/// # Errors
/// As [`output`].
#[expect(clippy::disallowed_methods, reason = "a command line tool's own short-lived, blocking children")]
pub fn output_with<S: AsRef<OsStr>>(
    program: &Path,
    args: &[S],
    variables: &[(&str, &Path)],
) -> Result<String, ProcError> {
    let done = Command::new(program)
        .args(args)
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .map_err(|source| ProcError::Start { program: program.to_path_buf(), source })?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&done.stderr);
    let tail = stderr.chars().count().saturating_sub(2000);
    Err(ProcError::Failed(Box::new(Failed {
        program: program.to_path_buf(),
        status: done.status.to_string(),
        code: done.status.code(),
        stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
        stderr: stderr.chars().skip(tail).collect::<String>().trim().to_owned(),
    })))
}

/// Starts a long-lived program with an empty environment, in a process group
/// of its own, writing to `log`. It outlives this process.
///
/// # Errors
/// [`ProcError::Log`] and [`ProcError::Start`].
#[expect(clippy::disallowed_methods, reason = "the child must outlive the command that starts it")]
pub fn start_apart<S: AsRef<OsStr>>(program: &Path, args: &[S], log: &Path) -> Result<Child, ProcError> {
    let open = || -> io::Result<(File, File)> {
        let file = OpenOptions::new().create(true).append(true).open(log)?;
        Ok((file.try_clone()?, file))
    };
    let (out, err) = open().map_err(|source| ProcError::Log { path: log.to_path_buf(), source })?;
    Command::new(program)
        .args(args)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .process_group(0)
        .spawn()
        .map_err(|source| ProcError::Start { program: program.to_path_buf(), source })
}

/// The ids of all live processes that were given `root` as an argument.
#[must_use]
pub fn of_root(root: &Path) -> Vec<i32> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut found: Vec<i32> = pids.filter(|pid| *pid != own && has_argument(*pid, root) && !is_zombie(*pid)).collect();
    found.sort_unstable();
    found
}

/// Of these processes, those that keep the others: `osmoda-node run` and
/// `osmoda-controller serve`.
#[must_use]
pub fn supervisors(pids: &[i32]) -> Vec<i32> {
    let keeps = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        matches!(line.split(|byte| *byte == 0).nth(1), Some(b"run" | b"serve"))
    };
    pids.iter().copied().filter(keeps).collect()
}

fn has_argument(pid: i32, root: &Path) -> bool {
    let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let wanted = root.as_os_str().as_encoded_bytes();
    line.split(|byte| *byte == 0).skip(1).any(|argument| argument == wanted)
}

fn is_zombie(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

/// Sends `signal` to each process; one that has ended already is no error.
pub fn signal_all(pids: &[i32], signal: Signal) {
    for pid in pids.iter().copied().filter_map(Pid::from_raw) {
        // ESRCH: it ended between the look and the signal, which is what we want.
        if let Err(error) = rustix::process::kill_process(pid, signal)
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(pid = pid.as_raw_nonzero().get(), %error, "could not signal a process");
        }
    }
}

/// Ends every process of `root` with SIGKILL, again and again until none is
/// left (a supervisor may start one between two looks), at most ten times.
/// Returns the ids that were ended.
#[must_use]
pub fn kill_root(root: &Path) -> Vec<i32> {
    let mut killed = Vec::new();
    for _ in 0..10 {
        let pids = of_root(root);
        if pids.is_empty() {
            break;
        }
        signal_all(&pids, Signal::KILL);
        killed.extend(pids);
    }
    killed
}
