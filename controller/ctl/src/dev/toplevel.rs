//! Small system closures for development fleets and demonstrations.
//!
//! A toplevel here is what `switch-to-configuration` needs and no more: a
//! script that points `run/current-system` below the host root at its own
//! closure and says whether the host would be healthy. It writes nowhere else,
//! so many nodes can share one machine (`architecture.md` 4.1).
//!
//! Invariant: two toplevels of different nodes or generations differ in
//! content, and so in path, even when both are healthy.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use osmoda_types::StorePath;

use super::proc::{self, ProcError};

/// What a generation does once it is activated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// The check `run/healthy` passes.
    Good,
    /// The check `run/healthy` fails: activation itself succeeds.
    Bad,
}

/// Which store the closures are put into.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClosureStore {
    /// The machine's Nix store, through `nix-store --add`; needs `nix-store`.
    Nix(PathBuf),
    /// A plain folder; generations are then kept by the symlink store.
    Folder(PathBuf),
}

impl ClosureStore {
    /// Nix when `nix-store` is on the usual paths and the caller may write to
    /// the store, else the given folder.
    #[must_use]
    pub fn detect(folder: &Path) -> Self {
        match proc::find_program("nix-store") {
            Some(program) if rustix::process::geteuid().is_root() => Self::Nix(program),
            _ => Self::Folder(folder.to_path_buf()),
        }
    }

    /// The word shown to people: `nix` or `symlink`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Nix(_) => "nix",
            Self::Folder(_) => "symlink",
        }
    }
}

/// Why a toplevel could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ToplevelError {
    /// A file of the closure could not be written.
    #[error("could not write the closure at {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// `nix-store` failed.
    #[error("could not add the closure to the nix store")]
    Add(#[source] ProcError),
    /// The store answered with something that is no store path.
    #[error("the store named an unusable path")]
    Path(#[from] osmoda_types::StorePathError),
}

/// Makes the toplevel of `node` for generation `generation` and returns its path.
///
/// Making the same one twice gives the same path. Blocking: file writes and,
/// for Nix, one child process of well under a second.
///
/// # Errors
/// See [`ToplevelError`].
pub fn make(
    store: &ClosureStore,
    scratch: &Path,
    node: &str,
    generation: &str,
    health: Health,
) -> Result<StorePath, ToplevelError> {
    let name = format!("osmoda-dev-{node}-{generation}");
    let folder = match store {
        ClosureStore::Nix(_) => scratch.join(&name),
        ClosureStore::Folder(store) => store.join(&name),
    };
    write_closure(&folder, node, generation, health)?;
    match store {
        ClosureStore::Folder(_) => Ok(StorePath::new(folder.display().to_string())?),
        ClosureStore::Nix(program) => {
            let args = ["--add".to_owned(), folder.display().to_string()];
            let out = proc::output_with(program, &args, &[("HOME", Path::new("/root"))]).map_err(ToplevelError::Add)?;
            Ok(StorePath::new(out.trim())?)
        }
    }
}

fn write_closure(folder: &Path, node: &str, generation: &str, health: Health) -> Result<(), ToplevelError> {
    let bin = folder.join("bin");
    let fail = |path: &Path| {
        let path = path.to_path_buf();
        move |source| ToplevelError::Write { path, source }
    };
    std::fs::create_dir_all(&bin).map_err(fail(&bin))?;
    let label = folder.join("nixos-version");
    std::fs::write(&label, format!("osmoda-dev {node} {generation}\n")).map_err(fail(&label))?;
    let program = bin.join("switch-to-configuration");
    std::fs::write(&program, switch_script(health)).map_err(fail(&program))?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o555)).map_err(fail(&program))
}

/// The script honours the actions and exit codes of `rollout.md` 4.3 that a
/// closure without units can have. `boot` touches nothing: there is no loader.
fn switch_script(health: Health) -> String {
    let health = match health {
        Health::Good => "/bin/touch \"$root/run/healthy\"",
        Health::Bad => "/bin/rm -f \"$root/run/healthy\"",
    };
    format!(
        r#"#!/bin/sh
# A toplevel for development fleets: writes only below $OSMODA_HOST_ROOT.
set -eu
root="${{OSMODA_HOST_ROOT:?the process runner sets this}}"
toplevel="$(cd "${{0%/*}}/.." && pwd -P)"
case "${{1:-}}" in
boot|dry-activate|check) exit 0 ;;
switch|test) ;;
*) echo "usage: switch-to-configuration switch|test|boot|dry-activate|check" >&2; exit 1 ;;
esac
/bin/mkdir -p "$root/run/nixos"
exec 9>"$root/run/nixos/switch-to-configuration.lock"
/usr/bin/flock --nonblock 9 || exit 11
/bin/ln -sfn "$toplevel" "$root/run/current-system.next"
/bin/mv -T "$root/run/current-system.next" "$root/run/current-system"
{health}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closures_of_other_nodes_and_generations_have_other_paths_and_the_switch_works() {
        let dir = tempfile::tempdir().unwrap();
        let store = ClosureStore::Folder(dir.path().join("store"));
        let one = make(&store, dir.path(), "n1", "g1", Health::Good).unwrap();
        let two = make(&store, dir.path(), "n1", "g2", Health::Bad).unwrap();
        let other = make(&store, dir.path(), "n2", "g1", Health::Good).unwrap();
        assert!(one != two && one != other);

        let root = dir.path().join("root");
        std::fs::create_dir_all(&root).unwrap();
        let switch = |top: &StorePath, action: &str| {
            let program = top.as_path().join("bin/switch-to-configuration");
            match proc::output_with(&program, &[action], &[("OSMODA_HOST_ROOT", &root)]) {
                Ok(_) => Some(0),
                Err(ProcError::Failed(failed)) => failed.code,
                Err(error) => panic!("{error}"),
            }
        };
        assert_eq!(switch(&one, "test"), Some(0));
        assert!(root.join("run/healthy").exists());
        assert_eq!(switch(&two, "test"), Some(0));
        assert!(!root.join("run/healthy").exists());
        assert_eq!(std::fs::read_link(root.join("run/current-system")).unwrap(), two.as_path().canonicalize().unwrap());
        assert_eq!(switch(&two, "nonsense"), Some(1));
    }
}
