//! A real server on a temporary socket, for tests of clients and handlers.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;

use super::{
    Allowed, CallerTable, Callers, Credentials, DaemonUser, PeerTokens, Row, TokenFile, UnixClient, serve_unix,
};
use crate::secret::Secret;
use crate::shutdown::{Shutdown, StopReason};
use crate::tasks::{DrainReport, Tasks};
use crate::testing::TempRoot;

/// Everything is open to the administrator and to every daemon.
const OPEN: CallerTable = CallerTable {
    daemons: &[
        DaemonUser { name: "agentd", user: "osmoda-agentd" },
        DaemonUser { name: "fleetd", user: "osmoda-fleetd" },
    ],
    rows: &[Row { method: "*", path: "/*", allowed: &[Allowed::Admin, Allowed::AnyDaemon] }],
};

/// A router on a socket `test.sock` of its own root directory.
#[derive(Debug)]
pub struct TestServer {
    root: TempRoot,
    tasks: Tasks,
    tokens: Vec<(&'static str, TokenFile)>,
}

impl TestServer {
    /// Serves with a table that allows everything; callers are told by token.
    ///
    /// # Panics
    /// When the socket cannot be bound.
    #[must_use]
    pub fn open(router: Router) -> Self {
        Self::with_table(router, OPEN)
    }

    /// Serves with the given table; callers are told by token.
    ///
    /// # Panics
    /// When the socket cannot be bound.
    #[must_use]
    pub fn with_table(router: Router, table: CallerTable) -> Self {
        let root = TempRoot::new();
        let tasks = Tasks::new(Shutdown::new());
        let tokens = TokenFile::mint(table.daemons);
        let peers = match tokens.first() {
            Some((_, file)) => file.peers(table.daemons).expect("minted tokens are good"),
            None => PeerTokens::default(),
        };
        let callers = Callers::by_tokens(table, rustix::process::geteuid().as_raw(), peers);
        let listener = tokio::net::UnixListener::bind(root.paths().socket("test")).expect("the socket can be bound");
        serve_unix(&tasks, "test", listener, router, Arc::new(callers));
        Self { root, tasks, tokens }
    }

    /// A client that calls as the administrator.
    #[must_use]
    pub fn client(&self) -> UnixClient {
        UnixClient::new(self.root.paths().socket("test"), Credentials::none())
    }

    /// A client that calls as a daemon of the table.
    ///
    /// # Panics
    /// When the table has no such daemon.
    #[must_use]
    pub fn client_as(&self, daemon: &str) -> UnixClient {
        let (_, file) = self.tokens.iter().find(|(name, _)| *name == daemon).expect("a daemon of the table");
        UnixClient::new(self.root.paths().socket("test"), Credentials::token(Secret::new(file.own.clone())))
    }

    /// Its tasks and stop signal.
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Stops it the way a daemon stops.
    pub async fn stop(&self, limit: Duration) -> DrainReport {
        self.tasks.shutdown().request(StopReason::Asked("end of test".to_owned()));
        self.tasks.drain(limit).await
    }
}

/// Fresh tokens of a registry, and the text of one daemon's.
///
/// # Panics
/// When the registry has no such daemon.
#[must_use]
pub fn tokens(daemon: &str, daemons: &[DaemonUser]) -> (String, PeerTokens) {
    let minted = TokenFile::mint(daemons);
    let (_, file) = minted.iter().find(|(name, _)| *name == daemon).expect("a daemon of the registry");
    (file.own.clone(), file.peers(daemons).expect("minted tokens are good"))
}
