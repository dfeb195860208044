//! Asking a member's daemons over their sockets, from tests that have no runtime
//! of their own.
//!
//! Invariant: a question has a limit; a daemon that is away is an error, never a
//! wait.

use anyhow::Context as _;
use osmoda_ctl::dev::layout::Layout;
use osmoda_kit::http::{Credentials, UnixClient};
use osmoda_kit::paths::Paths;
use osmoda_node_api::agentd::{AgentdClient, Event, EventQuery};
use osmoda_node_api::mesh::{Identity, MeshClient, PeerInfo};
use osmoda_types::NodeId;
use tokio::runtime::Runtime;

/// The mesh daemon of one member, asked as the administrator.
#[derive(Debug)]
pub struct MeshSocket {
    client: MeshClient,
    http: UnixClient,
    runtime: Runtime,
}

impl MeshSocket {
    /// The daemon of the member with that name.
    ///
    /// # Errors
    /// When no runtime can be made.
    pub fn of(layout: &Layout, member: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let socket = Paths::new(layout.root(member)).socket("mesh");
        let http = UnixClient::new(socket, Credentials::default());
        Ok(Self { client: MeshClient::new(http.clone()), http, runtime })
    }

    /// Who the node is.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn identity(&self) -> anyhow::Result<Identity> {
        self.runtime.block_on(self.client.identity()).context("asking who the node is")
    }

    /// All other members, as the node sees them.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn peers(&self) -> anyhow::Result<Vec<PeerInfo>> {
        self.runtime.block_on(self.client.peers()).context("asking for peers")
    }

    /// The transport key that the node knows of that one.
    ///
    /// # Errors
    /// When the daemon does not answer, or knows no such member.
    pub fn peer_key(&self, peer: NodeId) -> anyhow::Result<String> {
        #[derive(serde::Deserialize)]
        struct Known {
            noise_static_pubkey: String,
        }
        let known = self.runtime.block_on(self.http.get::<Known>(&format!("/peer/{peer}")));
        Ok(known.context("asking for a peer")?.noise_static_pubkey)
    }

    /// Whether the node has a link to that one.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn is_linked(&self, peer: NodeId) -> anyhow::Result<bool> {
        Ok(self.peers()?.iter().any(|known| known.id == peer && known.connected))
    }
}

/// The ledger of one member, asked as the administrator.
#[derive(Debug)]
pub struct LedgerSocket {
    client: AgentdClient,
    runtime: Runtime,
}

impl LedgerSocket {
    /// The daemon of the member with that name.
    ///
    /// # Errors
    /// When no runtime can be made.
    pub fn of(layout: &Layout, member: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let socket = Paths::new(layout.root(member)).socket("agentd");
        let client = AgentdClient::new(UnixClient::new(socket, Credentials::default()));
        Ok(Self { client, runtime })
    }

    /// Its newest rows of one type.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub fn rows(&self, kind: &str) -> anyhow::Result<Vec<Event>> {
        let query = EventQuery { kind: Some(kind.to_owned()), ..EventQuery::default() };
        self.runtime.block_on(self.client.events(&query)).context("asking for rows")
    }
}
