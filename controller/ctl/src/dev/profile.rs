//! The first generation of a node, put in place before its daemons run.
//!
//! From then on only the node's own `watch` moves its profile. Invariant: the
//! links are named as both generation stores of a node name them.

use std::io;
use std::path::{Path, PathBuf};

use osmoda_types::StorePath;

use super::proc::{self, ProcError};
use super::toplevel::ClosureStore;

/// Why the first generation is not in place.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// A link or folder could not be made.
    #[error("could not write {}", path.display())]
    Write {
        /// The link or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// `nix-env` is gone.
    #[error("nix-env is not installed")]
    NoNix,
    /// `nix-env` or the generation's own program failed.
    #[error("the first generation could not be put in place")]
    Program(#[from] ProcError),
}

/// Makes `toplevel` the profile's current generation.
///
/// # Errors
/// See [`ProfileError`].
pub fn set_first(store: &ClosureStore, profile: &Path, toplevel: &StorePath) -> Result<(), ProfileError> {
    let folder = profile.parent().unwrap_or(Path::new("/"));
    make_folder(folder)?;
    if matches!(store, ClosureStore::Nix(_)) {
        let program = proc::find_program("nix-env").ok_or(ProfileError::NoNix)?;
        let profile = profile.display().to_string();
        proc::output_with(&program, &["-p", &profile, "--set", toplevel.as_str()], &[("HOME", Path::new("/root"))])?;
        return Ok(());
    }
    let name = profile.file_name().unwrap_or_default().to_string_lossy();
    let first = format!("{name}-1-link");
    link(toplevel.as_path(), &folder.join(&first))?;
    link(Path::new(&first), profile)
}

/// Activates `toplevel` on the node below `root`.
///
/// # Errors
/// [`ProfileError::Program`] with what the program said.
pub fn activate(root: &Path, toplevel: &StorePath) -> Result<(), ProfileError> {
    make_folder(&root.join("run"))?;
    let program = toplevel.as_path().join("bin/switch-to-configuration");
    proc::output_with(&program, &["test"], &[("OSMODA_HOST_ROOT", root)])?;
    Ok(())
}

fn make_folder(path: &Path) -> Result<(), ProfileError> {
    std::fs::create_dir_all(path).map_err(|source| ProfileError::Write { path: path.to_path_buf(), source })
}

fn link(target: &Path, path: &Path) -> Result<(), ProfileError> {
    std::os::unix::fs::symlink(target, path).map_err(|source| ProfileError::Write { path: path.to_path_buf(), source })
}
