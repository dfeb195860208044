//! What a daemon is given to build itself from.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use osmoda_types::ErrorCode;
use tokio::net::UnixListener;

use super::listen::{Activated, Owned};
use super::{BootArgs, BootError, Daemon};
use crate::audit::Audit;
use crate::clock::{SharedClock, SystemClock};
use crate::error::ApiError;
use crate::fsio::{self, FsError};
use crate::http::{CallerTable, Callers, Credentials, Isolation, TokenFile, UnixClient};
use crate::paths::Paths;
use crate::secret::Secret;
use crate::shutdown::Shutdown;
use crate::tasks::Tasks;

/// The user database. Users of the node's daemons are static (sysusers), so the
/// file has them; those of nss modules are not looked for.
const PASSWD: &str = "/etc/passwd";

/// The surroundings of one daemon; cheap to clone.
#[derive(Debug, Clone)]
pub struct Boot {
    name: &'static str,
    paths: Paths,
    clock: SharedClock,
    tasks: Tasks,
    callers: Arc<Callers>,
    credentials: Credentials,
    sockets: Arc<Mutex<Sockets>>,
}

#[derive(Debug, Default)]
struct Sockets {
    activated: Activated,
    owned: Vec<Owned>,
}

impl Boot {
    /// Resolves identities and takes over descriptors, for daemon `D`.
    pub(super) fn prepare<D: Daemon>(args: &BootArgs, shutdown: Shutdown) -> Result<Self, BootError> {
        let (callers, credentials) = identities(args, D::NAME, D::callers())?;
        let sockets = Sockets { activated: Activated::from_environment()?, owned: Vec::new() };
        Ok(Self {
            name: D::NAME,
            paths: Paths::new(&args.root),
            clock: SystemClock::shared(),
            tasks: Tasks::new(shutdown),
            callers: Arc::new(callers),
            credentials,
            sockets: Arc::new(Mutex::new(sockets)),
        })
    }

    /// The daemon's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Where things are.
    #[must_use]
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The machine's clocks.
    #[must_use]
    pub fn clock(&self) -> SharedClock {
        Arc::clone(&self.clock)
    }

    /// The task registry; its stop signal is [`Tasks::shutdown`].
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// The stop signal.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        self.tasks.shutdown()
    }

    /// Who may call, for raw stream sockets; HTTP is checked before the router.
    #[must_use]
    pub fn callers(&self) -> Arc<Callers> {
        Arc::clone(&self.callers)
    }

    /// How far daemons are kept apart here.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        self.callers.isolation()
    }

    /// How this daemon says who it is.
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }

    /// The daemon's state folder; exists, mode 0700.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.paths.state(self.name)
    }

    /// A client of another daemon.
    #[must_use]
    pub fn client(&self, daemon: &str) -> UnixClient {
        UnixClient::new(self.paths.socket(daemon), self.credentials())
    }

    /// The ledger.
    #[must_use]
    pub fn audit(&self) -> Audit {
        Audit::new(self.client("agentd"))
    }

    /// Listens on `<run>/<name>.sock`: the descriptor systemd passed for that
    /// path, else a new socket of mode 0600. A stale socket is replaced.
    ///
    /// # Errors
    /// [`BootError::Listen`]; its code is [`ErrorCode::PortInUse`] when somebody answers there.
    pub fn listen(&self, name: &str) -> Result<UnixListener, BootError> {
        let path = self.paths.socket(name);
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listener) = sockets.activated.take(&path)? {
            return Ok(listener);
        }
        let (listener, owned) = Owned::bind(&path)?;
        sockets.owned.push(owned);
        Ok(listener)
    }

    /// Removes the sockets this process made; those of systemd stay.
    pub(super) fn remove_sockets(&self) {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        for owned in sockets.owned.drain(..) {
            owned.remove();
        }
    }
}

/// Under a supervisor, and anywhere below a root directory of its own, all
/// daemons share a uid and tokens tell them apart; on the real root each has its
/// own user.
fn identities(args: &BootArgs, name: &'static str, table: CallerTable) -> Result<(Callers, Credentials), BootError> {
    let own_uid = rustix::process::geteuid().as_raw();
    if let Some(descriptor) = args.token_fd {
        let file = TokenFile::read(descriptor)?;
        let peers = file.peers(table.daemons)?;
        if peers.name(&file.own) != Some(name) {
            let text = format!("the tokens handed over are not those of {name}");
            return Err(ApiError::new(ErrorCode::Unauthorized, text).into());
        }
        let callers = Callers::by_tokens(table, own_uid, peers);
        return Ok((callers, Credentials::token(Secret::new(file.own))));
    }
    if !Paths::new(&args.root).is_system() {
        return Ok((Callers::by_tokens(table, own_uid, Default::default()), Credentials::none()));
    }
    let passwd = std::fs::read_to_string(PASSWD).map_err(|error| FsError::new("read", PASSWD.as_ref(), error))?;
    let credentials = if own_uid == 0 { Credentials::claim(name) } else { Credentials::none() };
    Ok((Callers::by_users(table, &passwd), credentials))
}

/// Makes the folders this daemon needs, where they do not exist. Under systemd
/// they do; the folder above the state folders is walked through by all users.
pub(super) fn make_folders(paths: &Paths, name: &str) -> Result<(), FsError> {
    fsio::create_shared_dir(&paths.state_root())?;
    fsio::create_private_dir(&paths.state(name))?;
    fsio::create_private_dir(&paths.run_dir())
}
