//! The UDP port: bound when it is first needed.
//!
//! A fleet of one talks to nobody, so it listens nowhere: the port is bound when
//! there is a second member or an invite, and stays bound from then on.
//! Invariant: nothing is bound before (`tests/one/port.rs`). Port 0 is bound at
//! the start, since nobody could be told of it otherwise.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use osmoda_mesh_crypto::endpoint_config;
use quinn::{Endpoint, ServerConfig, TokioRuntime};
use tokio::sync::watch;

use crate::{error::MeshError, identity::Keyring, sieve::Knocks, sieve::Sieve, socket};

/// A port that may be bound.
pub(crate) struct Port {
    listen: SocketAddr,
    keyring: Arc<Keyring>,
    server: Mutex<ServerConfig>,
    knocks: Arc<Knocks>,
    /// Held while binding, so that two who need it bind once.
    binding: Mutex<()>,
    bound: watch::Sender<Option<Endpoint>>,
}

impl Port {
    pub(crate) fn new(listen: SocketAddr, keyring: Arc<Keyring>, server: ServerConfig, knocks: Arc<Knocks>) -> Self {
        let (server, binding, bound) = (Mutex::new(server), Mutex::new(()), watch::channel(None).0);
        Self { listen, keyring, server, knocks, binding, bound }
    }

    /// Begins handshakes with another configuration from now on: the old one
    /// holds keys that this node has given up.
    pub(crate) fn configure(&self, server: ServerConfig) {
        let _turn = self.binding.lock().unwrap_or_else(PoisonError::into_inner);
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = server.clone();
        if let Some(endpoint) = self.bound() {
            endpoint.set_server_config(Some(server));
        }
    }

    /// Whether the port must be bound before anybody needs it.
    pub(crate) fn is_system_chosen(&self) -> bool {
        self.listen.port() == 0
    }

    /// The endpoint, bound now if it was not. Must be called inside the runtime.
    pub(crate) fn open(&self) -> Result<Endpoint, MeshError> {
        let _turn = self.binding.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(endpoint) = self.bound() {
            return Ok(endpoint);
        }
        let failed = |source| MeshError::Socket { address: self.listen, source };
        // The port keeps the connection ids of the key it was opened with.
        let key = self.keyring.now().transport();
        let sieve = Sieve::new(&key, self.knocks.clone());
        let socket = socket::open(self.listen, sieve).map_err(failed)?;
        let settings = endpoint_config(&key);
        let runtime = Arc::new(TokioRuntime);
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let endpoint = Endpoint::new_with_abstract_socket(settings, Some(server), socket, runtime).map_err(failed)?;
        let address = endpoint.local_addr().map_err(failed)?;
        tracing::info!(%address, node = %self.keyring.node(), "mesh listens");
        self.bound.send_replace(Some(endpoint.clone()));
        Ok(endpoint)
    }

    /// The endpoint, if it is bound.
    pub(crate) fn bound(&self) -> Option<Endpoint> {
        self.bound.borrow().clone()
    }

    /// Waits until it is bound.
    pub(crate) async fn opened(&self) -> Option<Endpoint> {
        let mut bound = self.bound.subscribe();
        bound.wait_for(Option::is_some).await.ok().and_then(|endpoint| endpoint.clone())
    }

    /// Where it is bound, or will be.
    pub(crate) fn address(&self) -> SocketAddr {
        self.bound().and_then(|endpoint| endpoint.local_addr().ok()).unwrap_or(self.listen)
    }
}
