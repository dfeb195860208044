//! Where things are on a host, below one root directory.
//!
//! Invariant: every path of a node begins with its root, so many nodes can
//! live on one machine, each with `--root DIR`, and never meet.
//! This file makes no directory and opens nothing.

use std::path::{Path, PathBuf};

use osmoda_types::ErrorCode;

use crate::error::ApiError;

/// The longest path of a Unix socket in bytes: `sun_path` of Linux has 108,
/// one of them the closing NUL (`man 7 unix`). A longer root directory must be
/// refused with a clear text; the kernel only says "invalid argument".
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The paths of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// The paths below `root`; `/` on a real host.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The host root itself: what activation programs get as `OSMODA_HOST_ROOT`.
    #[must_use]
    pub fn host_root(&self) -> &Path {
        &self.root
    }

    /// Whether this is the real root of the machine.
    #[must_use]
    pub fn is_system(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The folder of all sockets.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.root.join("run/osmoda")
    }

    /// The socket `<run>/<name>.sock`; the name is a daemon's, or one of the
    /// service sockets (`mesh-stream`, `fleetd-mesh`, `agentd-mesh`).
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.run_dir().join(format!("{name}.sock"))
    }

    /// The folder above all state folders.
    #[must_use]
    pub fn state_root(&self) -> PathBuf {
        self.root.join("var/lib/osmoda")
    }

    /// The state folder of one daemon: 0700, its own user's.
    #[must_use]
    pub fn state(&self, daemon: &str) -> PathBuf {
        self.state_root().join(daemon)
    }

    /// The configuration folder.
    #[must_use]
    pub fn etc(&self) -> PathBuf {
        self.root.join("etc/osmoda")
    }

    /// The configuration file of one daemon; it may be absent.
    #[must_use]
    pub fn config(&self, daemon: &str) -> PathBuf {
        self.etc().join(format!("{daemon}.toml"))
    }

    /// The system profile whose generations are this host's.
    #[must_use]
    pub fn profile(&self) -> PathBuf {
        self.root.join("nix/var/nix/profiles/system")
    }

    /// The lock of the whole root directory: shared by running daemons,
    /// exclusive for what must run alone (`init`, `join`).
    #[must_use]
    pub fn root_lock(&self) -> PathBuf {
        self.state_root().join("lock")
    }

    /// The lock that makes a daemon the only one of its name here.
    #[must_use]
    pub fn daemon_lock(&self, daemon: &str) -> PathBuf {
        self.state(daemon).join("lock")
    }
}

/// Checks that a socket can be bound at this path.
///
/// # Errors
/// [`ErrorCode::ConfigInvalid`] when the path is longer than [`SOCKET_PATH_BYTES_MAX`].
pub fn check_socket_path(path: &Path) -> Result<(), ApiError> {
    let bytes = path.as_os_str().len();
    if bytes <= SOCKET_PATH_BYTES_MAX {
        return Ok(());
    }
    Err(ApiError::new(
        ErrorCode::ConfigInvalid,
        format!(
            "socket path is {bytes} bytes, at most {SOCKET_PATH_BYTES_MAX} are possible; choose a shorter --root: {}",
            path.display()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_below_the_root() {
        let paths = Paths::new("/tmp/n1");
        assert_eq!(paths.socket("mesh"), Path::new("/tmp/n1/run/osmoda/mesh.sock"));
        assert_eq!(paths.state("watch"), Path::new("/tmp/n1/var/lib/osmoda/watch"));
        assert_eq!(paths.config("fleetd"), Path::new("/tmp/n1/etc/osmoda/fleetd.toml"));
        assert_eq!(paths.profile(), Path::new("/tmp/n1/nix/var/nix/profiles/system"));
        assert!(!paths.is_system());
        assert!(Paths::new("/").is_system());
        assert_eq!(Paths::new("/").socket("watch"), Path::new("/run/osmoda/watch.sock"));
    }

    #[test]
    fn a_socket_path_over_the_kernel_limit_is_refused_with_its_length() {
        let longest = format!("/{}", "a".repeat(SOCKET_PATH_BYTES_MAX - 1));
        assert!(check_socket_path(Path::new(&longest)).is_ok());
        let error = check_socket_path(Path::new(&format!("{longest}a"))).unwrap_err();
        assert_eq!(error.code, ErrorCode::ConfigInvalid);
        assert!(error.message.contains("108 bytes"), "{}", error.message);
    }
}
