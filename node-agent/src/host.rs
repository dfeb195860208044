//! What this host can do: systemd, and a Nix store.
//!
//! Invariant: on the real root a host without systemd is refused until somebody
//! chose the process runner; nothing is activated in a weaker way unasked.

use std::path::{Path, PathBuf};

use osmoda_journal::generation::NixStore;
use osmoda_kit::config::{self, ConfigErrors};
use osmoda_kit::paths::Paths;
use osmoda_types::ErrorCode;

/// Exists where systemd is PID 1 (`man 3 sd_booted`).
const SYSTEMD_MARK: &str = "/run/systemd/system";

/// What runs activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Runner {
    /// A transient unit of systemd.
    Systemd,
    /// A process group of the daemon's own.
    Process,
}

/// Where generations are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Store {
    /// A Nix profile.
    Nix,
    /// Plain links.
    Symlink,
}

/// What a host was asked to do and cannot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No systemd, and nobody chose to go without.
    #[error(
        "this host has no systemd as PID 1; `--runner process` at init or join, or `runner = \"process\"` in {}, \
         goes without it",
        settings.display()
    )]
    NoSystemd {
        /// The settings of the daemon it is about.
        settings: PathBuf,
    },
    /// systemd was asked for below a root directory.
    #[error("below a root directory only the process runner is possible")]
    SystemdBelowRoot,
    /// Nix was asked for.
    #[error("nix-env is not installed")]
    NoNix,
    /// The settings of watch.
    #[error("the settings are not valid")]
    Config(#[from] ConfigErrors),
}

impl Error {
    /// The code shown beside the message.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::NoSystemd { .. } | Self::SystemdBelowRoot => ErrorCode::NoSystemd,
            Self::NoNix => ErrorCode::StoreUnavailable,
            Self::Config(_) => ErrorCode::ConfigInvalid,
        }
    }
}

/// Whether systemd runs this host.
fn has_systemd() -> bool {
    Path::new(SYSTEMD_MARK).is_dir()
}

/// The settings of `watch` that fit this host: asked for, or found.
///
/// # Errors
/// [`Error::NoSystemd`], [`Error::SystemdBelowRoot`], [`Error::NoNix`].
pub(crate) fn watch_settings(paths: &Paths, runner: Option<Runner>, store: Option<Store>) -> Result<String, Error> {
    let runner = match (runner, paths.is_system()) {
        (Some(Runner::Systemd), false) => return Err(Error::SystemdBelowRoot),
        (Some(Runner::Process), _) | (None, false) => "process",
        (Some(Runner::Systemd) | None, true) if has_systemd() => "systemd",
        (Some(Runner::Systemd) | None, true) => return Err(Error::NoSystemd { settings: paths.config("watch") }),
    };
    // Only root may write to the machine's store and its profiles.
    let has_nix = NixStore::is_available() && rustix::process::geteuid().is_root();
    let store = match store {
        Some(Store::Nix) if !NixStore::is_available() => return Err(Error::NoNix),
        Some(Store::Nix) => "nix",
        None if has_nix => "nix",
        Some(Store::Symlink) | None => "symlink",
    };
    Ok(format!("# Written at enrolment.\nrunner = \"{runner}\"\nstore = \"{store}\"\n"))
}

/// Refuses to start `watch` where activations would need a systemd that is not
/// there.
///
/// # Errors
/// [`Error::NoSystemd`], [`Error::Config`].
pub(crate) fn check_runner(paths: &Paths, settings: Option<&Path>) -> Result<(), Error> {
    if !paths.is_system() || has_systemd() {
        return Ok(());
    }
    let settings = settings.map_or_else(|| paths.config("watch"), Path::to_path_buf);
    let chosen = match settings.exists() {
        true => config::load::<osmoda_watch::Config>(&settings)?.runner,
        false => None,
    };
    match chosen {
        Some(osmoda_journal::generation::Runner::Process) => Ok(()),
        _ => Err(Error::NoSystemd { settings }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_a_root_directory_only_the_process_runner_is_written() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::new(root.path());
        let text = watch_settings(&paths, None, Some(Store::Symlink)).unwrap();
        assert!(text.contains("runner = \"process\"") && text.contains("store = \"symlink\""), "{text}");
        assert!(config::parse::<osmoda_watch::Config>(&text).is_ok());
        let refused = watch_settings(&paths, Some(Runner::Systemd), None).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::NoSystemd);
        assert!(check_runner(&paths, None).is_ok());
    }

    #[test]
    fn the_real_root_without_systemd_needs_a_choice() {
        if has_systemd() {
            return;
        }
        let paths = Paths::new("/");
        assert_eq!(watch_settings(&paths, None, None).unwrap_err().code(), ErrorCode::NoSystemd);
        assert!(watch_settings(&paths, Some(Runner::Process), Some(Store::Symlink)).is_ok());
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("watch.toml");
        assert_eq!(check_runner(&paths, Some(&file)).unwrap_err().code(), ErrorCode::NoSystemd);
        std::fs::write(&file, "runner = \"process\"\n").unwrap();
        assert!(check_runner(&paths, Some(&file)).is_ok());
    }
}
