//! Settings of the watch daemon. All have defaults that fit a NixOS host; a
//! host without Nix or systemd, or below a root directory, is recognised.

use osmoda_journal::generation::{NixStore, Runner, StoreKind, find_program};
use osmoda_journal::{BOOT_ID_FILE, HostClock};
use osmoda_kit::config::Validate;
use osmoda_kit::error::ApiError;
use osmoda_kit::paths::Paths;
use osmoda_types::ErrorCode;
use std::path::{Path, PathBuf};

/// Space that must be free before an attempt: an activation writes a few
/// megabytes of state, a kernel and initrd on `/boot` some 60. Below this a
/// rollback could fail for want of space.
const FREE_BYTES_MIN: u64 = 128 * 1024 * 1024;

/// `<etc>/watch.toml`.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What runs activations; by default systemd where it is PID 1, and always
    /// the process runner below a root directory.
    pub runner: Option<Runner>,
    /// Where generations are kept; by default Nix where it is installed and
    /// the root is `/`.
    pub store: Option<StoreKind>,
    /// The system profile.
    pub profile: Option<PathBuf>,
    /// Whether every path of a target's closure needs a signature of a key the
    /// store trusts.
    pub require_signatures: bool,
    /// The guard's program; by default `osmoda-guard` beside this one.
    pub guard_program: Option<PathBuf>,
    /// The file that names the boot, for hosts that share a kernel.
    pub boot_id_file: Option<PathBuf>,
    /// Space that must be free before an attempt, in bytes.
    pub free_bytes_min: Option<u64>,
}

impl Validate for Config {
    fn faults(&self) -> Vec<String> {
        let absolute = |name: &str, path: &Option<PathBuf>| {
            path.as_ref().filter(|path| !path.is_absolute()).map(|_| format!("{name}: must be an absolute path"))
        };
        let mut faults: Vec<String> = [
            absolute("profile", &self.profile),
            absolute("guard_program", &self.guard_program),
            absolute("boot_id_file", &self.boot_id_file),
        ]
        .into_iter()
        .flatten()
        .collect();
        if self.require_signatures && self.store == Some(StoreKind::Symlink) {
            faults.push("require_signatures: the symlink store has no signatures".to_owned());
        }
        faults
    }
}

/// What the settings come to on this host.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The root of the host.
    pub host_root: PathBuf,
    /// The daemon's state folder.
    pub state_dir: PathBuf,
    /// What runs activations.
    pub runner: Runner,
    /// Where generations are kept.
    pub store: StoreKind,
    /// The system profile.
    pub profile: PathBuf,
    /// See [`Config::require_signatures`].
    pub require_signatures: bool,
    /// The guard's program.
    pub guard_program: PathBuf,
    /// The host's clock.
    pub clock: HostClock,
    /// See [`Config::free_bytes_min`].
    pub free_bytes_min: u64,
}

impl Settings {
    /// Fits the configuration to the host.
    ///
    /// # Errors
    /// [`ErrorCode::NoSystemd`] and [`ErrorCode::StoreUnavailable`] for what
    /// was asked for but is not there.
    pub fn resolve(config: Config, paths: &Paths, state_dir: PathBuf) -> Result<Self, ApiError> {
        let is_system = paths.is_system();
        let has_systemd = Path::new("/run/systemd/system").is_dir() && find_program("systemd-run").is_some();
        // Nodes below a root directory never touch the machine's systemd.
        let runner = match config.runner {
            Some(Runner::Systemd) if !is_system => {
                let text = "below a root directory only the process runner is possible";
                return Err(ApiError::new(ErrorCode::NoSystemd, text));
            }
            Some(Runner::Systemd) if !has_systemd => {
                return Err(ApiError::new(ErrorCode::NoSystemd, "this host has no systemd as PID 1"));
            }
            Some(runner) => runner,
            None if is_system && has_systemd => Runner::Systemd,
            None => Runner::Process,
        };
        let store = match config.store {
            Some(StoreKind::Nix) if !NixStore::is_available() => {
                return Err(ApiError::new(ErrorCode::StoreUnavailable, "nix-env is not installed"));
            }
            Some(store) => store,
            None if NixStore::is_available() && is_system => StoreKind::Nix,
            None => StoreKind::Symlink,
        };
        if config.require_signatures && store == StoreKind::Symlink {
            let text = "signatures are required, but this host has no Nix store to check them";
            return Err(ApiError::new(ErrorCode::StoreUnavailable, text));
        }
        Ok(Self {
            host_root: paths.host_root().to_owned(),
            state_dir,
            runner,
            store,
            profile: config.profile.unwrap_or_else(|| paths.profile()),
            require_signatures: config.require_signatures,
            guard_program: match config.guard_program {
                Some(path) => path,
                None => beside_this_program()?,
            },
            clock: HostClock::new(config.boot_id_file.unwrap_or_else(|| PathBuf::from(BOOT_ID_FILE))),
            free_bytes_min: config.free_bytes_min.unwrap_or(FREE_BYTES_MIN),
        })
    }
}

fn beside_this_program() -> Result<PathBuf, ApiError> {
    let own = std::env::current_exe().map_err(ApiError::internal)?;
    Ok(own.with_file_name("osmoda-guard"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_below_a_root_directory_gets_the_process_runner() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::new(root.path());
        let settings = Settings::resolve(Config::default(), &paths, root.path().into()).unwrap();
        assert_eq!((settings.runner, settings.store), (Runner::Process, StoreKind::Symlink));
        let asked = Config { runner: Some(Runner::Systemd), ..Config::default() };
        let refused = Settings::resolve(asked, &paths, root.path().into()).unwrap_err();
        assert_eq!(refused.code, ErrorCode::NoSystemd);
        let signed = Config { require_signatures: true, ..Config::default() };
        assert_eq!(
            Settings::resolve(signed, &paths, root.path().into()).unwrap_err().code,
            ErrorCode::StoreUnavailable
        );
    }

    #[test]
    fn faults_are_reported_together() {
        let config = Config {
            profile: Some("profiles/system".into()),
            guard_program: Some("osmoda-guard".into()),
            require_signatures: true,
            store: Some(StoreKind::Symlink),
            ..Config::default()
        };
        assert_eq!(config.faults().len(), 3);
    }
}
