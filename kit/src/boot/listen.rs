//! Sockets to listen on: passed by systemd, or bound here.
//!
//! Invariant: a socket on which somebody answers is never taken away from him;
//! one that a crash left behind is replaced.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use osmoda_types::ErrorCode;
use tokio::net::UnixListener;

use crate::error::ApiError;
use crate::paths::check_socket_path;

/// Why a socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A live program listens there.
    #[error("another program listens on {}", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket has the name.
    #[error("{} exists and is not a socket", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The path is too long for a socket.
    #[error("socket path cannot be used")]
    Path(#[source] ApiError),
    /// The system refused.
    #[error("cannot listen on {}", path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A descriptor of the service manager is not what the unit should pass.
    #[error("descriptor {index} of the service manager is not a bound unix stream socket")]
    Activation {
        /// Its place, from 0.
        index: usize,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl ListenError {
    /// The code callers see.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            ListenError::InUse { .. } => ErrorCode::PortInUse,
            ListenError::Path(error) => error.code,
            ListenError::NotASocket { .. } | ListenError::System { .. } | ListenError::Activation { .. } => {
                ErrorCode::StateDirUnusable
            }
        }
    }
}

/// Sockets passed by the service manager, told apart by their path, so that the
/// order of lines in a unit does not matter.
#[derive(Debug, Default)]
pub(super) struct Activated {
    listeners: Vec<(PathBuf, StdListener)>,
}

impl Activated {
    pub(super) fn from_environment() -> Result<Self, ListenError> {
        let mut passed = ListenFd::from_env();
        let mut listeners = Vec::new();
        for index in 0..passed.len() {
            let fault = |source| ListenError::Activation { index, source };
            let Some(listener) = passed.take_unix_listener(index).map_err(fault)? else { continue };
            let address = listener.local_addr().map_err(fault)?;
            let path = address.as_pathname().ok_or_else(|| fault(io::ErrorKind::InvalidInput.into()))?;
            listeners.push((path.to_owned(), listener));
        }
        Ok(Self { listeners })
    }

    pub(super) fn take(&mut self, path: &Path) -> Result<Option<UnixListener>, ListenError> {
        let Some(place) = self.listeners.iter().position(|(known, _)| same_file(known, path)) else {
            return Ok(None);
        };
        let (path, listener) = self.listeners.swap_remove(place);
        into_tokio(listener, &path).map(Some)
    }
}

/// `/run` and `/var/run` are the same on most hosts, so the files are compared
/// where the texts differ.
fn same_file(one: &Path, other: &Path) -> bool {
    if one == other {
        return true;
    }
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// A socket file this process made.
#[derive(Debug)]
pub(super) struct Owned {
    path: PathBuf,
}

impl Owned {
    /// Binds with mode 0600. The caller holds the daemon's lock, so between the
    /// look and the bind nobody else takes the name.
    pub(super) fn bind(path: &Path) -> Result<(UnixListener, Self), ListenError> {
        check_socket_path(path).map_err(ListenError::Path)?;
        clear_stale(path)?;
        let fault = |source| ListenError::System { path: path.to_owned(), source };
        let listener = StdListener::bind(path).map_err(fault)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(fault)?;
        Ok((into_tokio(listener, path)?, Self { path: path.to_owned() }))
    }

    pub(super) fn remove(self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "socket file was gone");
        }
    }
}

/// Removes a socket that nobody answers on.
fn clear_stale(path: &Path) -> Result<(), ListenError> {
    let fault = |source| ListenError::System { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fault(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ListenError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match StdStream::connect(path) {
        // Nobody holds the other end: left behind by a crash.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(fault),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(fault(error)),
        Ok(_) => Err(ListenError::InUse { path: path.to_owned() }),
    }
}

fn into_tokio(listener: StdListener, path: &Path) -> Result<UnixListener, ListenError> {
    let fault = |source| ListenError::System { path: path.to_owned(), source };
    listener.set_nonblocking(true).map_err(fault)?;
    UnixListener::from_std(listener).map_err(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        drop(StdListener::bind(&path).unwrap());
        let (listener, owned) = Owned::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let error = Owned::bind(&path).unwrap_err();
        assert_eq!(error.code(), ErrorCode::PortInUse);
        assert!(StdStream::connect(&path).is_ok(), "the live one still answers");
        drop(listener);
        owned.remove();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_in_the_way_and_an_overlong_path_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        std::fs::write(&path, b"precious").unwrap();
        assert!(matches!(Owned::bind(&path), Err(ListenError::NotASocket { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let long = dir.path().join("x".repeat(120));
        assert_eq!(Owned::bind(&long).unwrap_err().code(), ErrorCode::ConfigInvalid);
    }

    #[tokio::test]
    async fn a_passed_socket_is_found_by_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("1.sock"), dir.path().join("2.sock"));
        let passed = |path: &PathBuf| (path.clone(), StdListener::bind(path).unwrap());
        let mut activated = Activated { listeners: vec![passed(&one), passed(&two)] };
        assert!(activated.take(&dir.path().join("3.sock")).unwrap().is_none());
        let listener = activated.take(&two).unwrap().unwrap();
        assert_eq!(listener.local_addr().unwrap().as_pathname(), Some(two.as_path()));
        assert!(activated.take(&two).unwrap().is_none());
    }
}
