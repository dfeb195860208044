//! Runs one program to its end, without an async runtime.
//!
//! An own process group, an explicit environment that is empty unless given, a
//! time limit after which the whole group is killed, and output into a file
//! rather than a pipe: a grandchild that keeps a pipe open would make the
//! reader wait for ever, and a reader that dies would kill the program.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How much of the end of the output is kept for messages: enough for the
/// list of failed units, small enough for a record.
const OUTPUT_TAIL_BYTES: u64 = 1500;

/// Where programs are looked for. A service on NixOS has almost nothing in its
/// path, so the places are fixed here instead.
const PROGRAM_FOLDERS: [&str; 6] = [
    "/run/current-system/sw/bin",
    "/nix/var/nix/profiles/default/bin",
    "/usr/local/bin",
    "/usr/bin",
    "/bin",
    "/usr/sbin",
];

/// Finds a program by name in the fixed list of folders.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    PROGRAM_FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}

/// Why a program could not be run.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {program}")]
pub struct ProgramError {
    action: &'static str,
    program: PathBuf,
    #[source]
    source: std::io::Error,
}

impl ProgramError {
    /// Whether the program file itself is not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.action == "start" && self.source.kind() == std::io::ErrorKind::NotFound
    }
}

/// How a program ended.
#[derive(Debug, Clone)]
pub struct Ended {
    status: ExitStatus,
    /// The time limit passed and the group was killed.
    pub timed_out: bool,
    /// The end of what it wrote.
    pub output: String,
}

impl Ended {
    /// An end that somebody else observed.
    pub(super) fn of(code: i32, timed_out: bool, output: String) -> Self {
        // The exit code is the second byte of a wait status.
        Self { status: ExitStatus::from_raw((code & 0xff) << 8), timed_out, output }
    }

    /// It ended by itself with code 0.
    #[must_use]
    pub fn success(&self) -> bool {
        !self.timed_out && self.status.success()
    }

    /// The exit code, or 128 and the signal, as shells count.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.status.code().or_else(|| self.status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
    }

    /// One line for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let how = if self.timed_out { "stopped at its time limit".to_owned() } else { format!("exit {}", self.code()) };
        let output = self.output.trim();
        if output.is_empty() { how } else { format!("{how}: {output}") }
    }
}

/// A program about to run.
#[derive(Debug)]
pub struct Program {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    stdin: Option<PathBuf>,
    output: Option<PathBuf>,
    limit: Duration,
}

impl Program {
    /// `program` with `args` and nothing else, to be stopped after `limit`.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>, args: &[&str], limit: Duration) -> Self {
        Self {
            program: program.into(),
            args: args.iter().map(OsString::from).collect(),
            env: Vec::new(),
            folder: None,
            stdin: None,
            output: None,
            limit,
        }
    }

    /// Adds one environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets the working folder.
    #[must_use]
    pub fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Gives the file as standard input instead of `/dev/null`.
    #[must_use]
    pub fn input_from(mut self, path: &Path) -> Self {
        self.stdin = Some(path.to_owned());
        self
    }

    /// Sends both outputs to the file, whose old text is dropped.
    #[must_use]
    pub fn output_to(mut self, path: &Path) -> Self {
        self.output = Some(path.to_owned());
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// [`ProgramError`] when it could not be started or waited for.
    pub fn run(self) -> Result<Ended, ProgramError> {
        self.start()?.wait()
    }

    /// Starts it.
    ///
    /// # Errors
    /// [`ProgramError`] when it could not be started.
    pub fn start(self) -> Result<Started, ProgramError> {
        let fail = |action| {
            let program = self.program.clone();
            move |source| ProgramError { action, program, source }
        };
        let log = self.open_log().map_err(fail("open the output of"))?;
        let child = self.spawn(log.as_ref()).map_err(fail("start"))?;
        Ok(Started { program: self.program, child, log, limit: self.limit })
    }

    fn open_log(&self) -> std::io::Result<Option<File>> {
        let Some(path) = &self.output else { return Ok(None) };
        let mut options = OpenOptions::new();
        options.create(true).truncate(true).read(true).write(true).mode(0o600);
        options.open(path).map(Some)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the guard has no async runtime, so kit's runner is out of its reach"
    )]
    fn spawn(&self, log: Option<&File>) -> std::io::Result<Child> {
        let mut command = std::process::Command::new(&self.program);
        command.args(&self.args).env_clear().envs(self.env.iter().cloned()).process_group(0);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command.stdin(match &self.stdin {
            Some(path) => Stdio::from(File::open(path)?),
            None => Stdio::null(),
        });
        match log {
            Some(file) => command.stdout(file.try_clone()?).stderr(file.try_clone()?),
            None => command.stdout(Stdio::null()).stderr(Stdio::null()),
        };
        command.spawn()
    }
}

/// A program that runs.
#[derive(Debug)]
pub struct Started {
    program: PathBuf,
    child: Child,
    log: Option<File>,
    limit: Duration,
}

impl Started {
    /// Waits for its end, at most its time limit.
    ///
    /// # Errors
    /// [`ProgramError`] when it cannot be waited for.
    pub fn wait(mut self) -> Result<Ended, ProgramError> {
        let (status, timed_out) = wait(&mut self.child, self.limit).map_err(|source| ProgramError {
            action: "wait for",
            program: self.program.clone(),
            source,
        })?;
        let output = self.log.as_mut().map_or_else(String::new, tail);
        Ok(Ended { status, timed_out, output })
    }
}

/// Waits for the child, at most `limit`; then kills its group. The group is
/// also killed after a normal end only by the caller: an activation may leave
/// services behind on a host without systemd.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<(ExitStatus, bool)> {
    let deadline = Instant::now() + limit;
    let pid = process_id(child)?;
    let watched = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, false));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let mut events = [rustix::event::PollFd::new(&watched, rustix::event::PollFlags::IN)];
        let left = rustix::time::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match rustix::event::poll(&mut events, Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    match rustix::process::kill_process_group(pid, rustix::process::Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok((child.wait()?, true))
}

fn process_id(child: &Child) -> std::io::Result<rustix::process::Pid> {
    i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .ok_or_else(|| std::io::Error::other("the process id is out of range"))
}

/// The end of the output, as text; an unreadable log has none.
fn tail(file: &mut File) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let from = file.metadata()?.len().saturating_sub(OUTPUT_TAIL_BYTES);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(OUTPUT_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let mut read = read;
    read().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
