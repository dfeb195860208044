//! The guard's arguments. Plain `--name value` pairs, read by hand: the guard
//! links as little as it can.

use osmoda_journal::BOOT_ID_FILE;
use osmoda_journal::generation::{Runner, StoreKind};
use osmoda_types::AttemptId;
use std::ffi::OsString;
use std::path::PathBuf;

/// What `--help` prints.
pub const USAGE: &str = "\
osmoda-guard: restores the baseline of an attempt without help

  --attempt N        the attempt to watch over
  --state-dir DIR    where journal, guard.lock and marker files are
  --host-root DIR    the root of the host (default /)
  --profile PATH     the system profile
  --store nix|symlink
  --runner systemd|process
  --boot-id PATH     the file that names the boot (default: the kernel's)
";

/// Parsed arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The attempt to watch over.
    pub attempt: AttemptId,
    /// Where journal, lock and marker files are.
    pub state_dir: PathBuf,
    /// The root of the host.
    pub host_root: PathBuf,
    /// The system profile.
    pub profile: PathBuf,
    /// Where generations are kept.
    pub store: StoreKind,
    /// What runs activations.
    pub runner: Runner,
    /// The file that names the boot.
    pub boot_id: PathBuf,
}

/// Why the arguments make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// Help was asked for.
    #[error("help was asked for")]
    Help,
    /// An argument that does not exist.
    #[error("unknown argument {0}")]
    Unknown(String),
    /// An argument without its value, or with a value that does not fit.
    #[error("{0} needs a fitting value")]
    Value(&'static str),
    /// A required argument is absent.
    #[error("{0} is required")]
    Missing(&'static str),
}

impl Options {
    /// Reads the arguments, without the program's name.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, UsageError> {
        let (mut attempt, mut state_dir, mut profile) = (None, None, None);
        let (mut store, mut runner) = (None, None);
        let mut host_root = PathBuf::from("/");
        let mut boot_id = PathBuf::from(BOOT_ID_FILE);
        let mut args = args.into_iter();
        while let Some(name) = args.next() {
            let mut value = |name| args.next().ok_or(UsageError::Value(name));
            let text = |name, value: OsString| value.into_string().map_err(|_| UsageError::Value(name));
            match name.to_str() {
                Some("--help" | "-h") => return Err(UsageError::Help),
                Some("--attempt") => {
                    let number = text("--attempt", value("--attempt")?)?.parse();
                    attempt = Some(AttemptId(number.map_err(|_| UsageError::Value("--attempt"))?));
                }
                Some("--state-dir") => state_dir = Some(value("--state-dir")?.into()),
                Some("--host-root") => host_root = value("--host-root")?.into(),
                Some("--profile") => profile = Some(value("--profile")?.into()),
                Some("--boot-id") => boot_id = value("--boot-id")?.into(),
                Some("--store") => {
                    store = Some(match text("--store", value("--store")?)?.as_str() {
                        "nix" => StoreKind::Nix,
                        "symlink" => StoreKind::Symlink,
                        _ => return Err(UsageError::Value("--store")),
                    });
                }
                Some("--runner") => {
                    runner = Some(match text("--runner", value("--runner")?)?.as_str() {
                        "systemd" => Runner::Systemd,
                        "process" => Runner::Process,
                        _ => return Err(UsageError::Value("--runner")),
                    });
                }
                _ => return Err(UsageError::Unknown(name.to_string_lossy().into_owned())),
            }
        }
        Ok(Self {
            attempt: attempt.ok_or(UsageError::Missing("--attempt"))?,
            state_dir: state_dir.ok_or(UsageError::Missing("--state-dir"))?,
            host_root,
            profile: profile.ok_or(UsageError::Missing("--profile"))?,
            store: store.ok_or(UsageError::Missing("--store"))?,
            runner: runner.ok_or(UsageError::Missing("--runner"))?,
            boot_id,
        })
    }

    /// The arguments that give these options again.
    #[must_use]
    pub fn to_args(&self) -> Vec<OsString> {
        let attempt = self.attempt.to_string();
        let mut args: Vec<OsString> = vec!["--attempt".into(), attempt.into()];
        let mut pair = |name: &str, value: &std::ffi::OsStr| args.extend([name.into(), value.to_owned()]);
        pair("--state-dir", self.state_dir.as_os_str());
        pair("--host-root", self.host_root.as_os_str());
        pair("--profile", self.profile.as_os_str());
        pair("--store", self.store.as_str().as_ref());
        pair("--runner", self.runner.as_str().as_ref());
        pair("--boot-id", self.boot_id.as_os_str());
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            attempt: AttemptId(65_536),
            state_dir: "/var/lib/osmoda/watch".into(),
            host_root: "/".into(),
            profile: "/nix/var/nix/profiles/system".into(),
            store: StoreKind::Nix,
            runner: Runner::Systemd,
            boot_id: BOOT_ID_FILE.into(),
        }
    }

    #[test]
    fn arguments_survive_the_way_there_and_back() {
        assert_eq!(Options::parse(options().to_args()), Ok(options()));
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        let mut args = options().to_args();
        args.truncate(args.len() - 3);
        assert_eq!(Options::parse(args), Err(UsageError::Value("--runner")));
        assert_eq!(Options::parse(["--attempt".into(), "7".into()]), Err(UsageError::Missing("--state-dir")));
        assert_eq!(Options::parse(["--fast".into()]), Err(UsageError::Unknown("--fast".to_owned())));
        assert_eq!(Options::parse(["--attempt".into(), "x".into()]), Err(UsageError::Value("--attempt")));
        assert_eq!(Options::parse(["--help".into()]), Err(UsageError::Help));
    }
}
