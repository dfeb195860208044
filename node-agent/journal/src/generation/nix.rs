//! Generations kept by Nix.
//!
//! The raw toplevel is set, never a wrapper, because the boot loader builder
//! finds the default entry by comparing it with the profile's target. Going
//! back is the same call with the recorded path: `--rollback` is relative to
//! whatever is current and can move one generation too far.

use super::{Generation, GenerationStore, Profile, Program, StoreError, find_program};
use osmoda_types::StorePath;
use std::path::PathBuf;
use std::time::Duration;

/// Setting a profile only writes two links and takes the profile's lock. A
/// minute is what the earlier product allowed; a store that is slower hangs.
const SET_TIME_MAX: Duration = Duration::from_secs(60);

/// Reading the signatures of a closure is one database query per path; ten
/// thousand paths on a slow disk stay below this.
const VERIFY_TIME_MAX: Duration = Duration::from_secs(300);

/// A profile of the Nix store.
#[derive(Debug, Clone)]
pub struct NixStore {
    profile: Profile,
    /// Where output of the store's programs goes.
    log: PathBuf,
    require_signatures: bool,
}

impl NixStore {
    /// The store of `profile`; the output of each program replaces the text of `log`.
    #[must_use]
    pub fn new(profile: impl Into<PathBuf>, log: impl Into<PathBuf>, require_signatures: bool) -> Self {
        Self { profile: Profile { path: profile.into() }, log: log.into(), require_signatures }
    }

    /// Whether this host has the programs of a Nix store.
    #[must_use]
    pub fn is_available() -> bool {
        find_program("nix-env").is_some() && find_program("nix-store").is_some()
    }

    fn run(&self, name: &'static str, args: &[&str], limit: Duration) -> Result<super::Ended, StoreError> {
        let program = find_program(name)
            .ok_or_else(|| StoreError::Failed { program: name, detail: "the program is not installed".to_owned() })?;
        Ok(Program::new(program, args, limit)
            // Nix asks for a home folder even where it needs none.
            .env("HOME", "/root")
            .output_to(&self.log)
            .run()?)
    }
}

impl GenerationStore for NixStore {
    fn current(&self) -> Result<Option<StorePath>, StoreError> {
        self.profile.current()
    }

    fn set(&self, toplevel: &StorePath) -> Result<(), StoreError> {
        if self.current()?.as_ref() == Some(toplevel) {
            return Ok(());
        }
        let profile = self.profile.path.to_string_lossy().into_owned();
        let ended = self.run("nix-env", &["-p", &profile, "--set", toplevel.as_str()], SET_TIME_MAX)?;
        if !ended.success() {
            return Err(StoreError::Failed { program: "nix-env", detail: ended.describe() });
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<Generation>, StoreError> {
        self.profile.list()
    }

    fn verify(&self, toplevel: &StorePath) -> Result<(), StoreError> {
        // The database knows a path as valid only when its whole closure is.
        let ended = self.run("nix-store", &["--check-validity", toplevel.as_str()], SET_TIME_MAX)?;
        if !ended.success() {
            return Err(StoreError::Missing { toplevel: toplevel.clone(), detail: ended.describe() });
        }
        if !self.require_signatures {
            return Ok(());
        }
        let args = [
            "--extra-experimental-features",
            "nix-command",
            "store",
            "verify",
            "--recursive",
            "--sigs-needed",
            "1",
            "--no-contents",
            toplevel.as_str(),
        ];
        let ended = self.run("nix", &args, VERIFY_TIME_MAX)?;
        if ended.success() {
            return Ok(());
        }
        Err(StoreError::Unsigned { toplevel: toplevel.clone(), detail: ended.describe() })
    }
}
