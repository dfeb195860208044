//! The built-in generation store, for hosts without Nix and for development.
//!
//! It keeps the layout and the numbering of Nix profiles, including the rule
//! that setting what the highest generation already holds makes no new one. It
//! has no signatures: a configuration that demands them is refused before this
//! store is made.

use super::{Generation, GenerationStore, Profile, StoreError, io, replace_link};
use osmoda_types::StorePath;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// A profile kept as plain links.
#[derive(Debug, Clone)]
pub struct SymlinkStore {
    profile: Profile,
}

impl SymlinkStore {
    /// The store of `profile`, such as `/nix/var/nix/profiles/system`.
    #[must_use]
    pub fn new(profile: impl Into<PathBuf>) -> Self {
        Self { profile: Profile { path: profile.into() } }
    }
}

impl GenerationStore for SymlinkStore {
    fn current(&self) -> Result<Option<StorePath>, StoreError> {
        self.profile.current()
    }

    fn set(&self, toplevel: &StorePath) -> Result<(), StoreError> {
        if self.current()?.as_ref() == Some(toplevel) {
            return Ok(());
        }
        let folder = self.profile.folder();
        std::fs::create_dir_all(folder).map_err(|source| io("create", folder, source))?;
        let highest = self.list()?.pop();
        let number = match &highest {
            Some(generation) if generation.toplevel == *toplevel => generation.number,
            Some(generation) => generation.number + 1,
            None => 1,
        };
        let link = self.profile.link_of(number);
        if highest.is_none_or(|generation| generation.number != number) {
            replace_link(&link, toplevel.as_path())?;
        }
        let name = link.file_name().map(PathBuf::from).unwrap_or(link);
        replace_link(&self.profile.path, &name)
    }

    fn list(&self) -> Result<Vec<Generation>, StoreError> {
        self.profile.list()
    }

    fn verify(&self, toplevel: &StorePath) -> Result<(), StoreError> {
        let missing = |detail: String| StoreError::Missing { toplevel: toplevel.clone(), detail };
        let program = toplevel.as_path().join("bin/switch-to-configuration");
        let meta = std::fs::metadata(&program).map_err(|error| missing(format!("{}: {error}", program.display())))?;
        if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 {
            return Err(missing(format!("{} is no program", program.display())));
        }
        Ok(())
    }
}
