//! Where the parts of a development fleet live, and on which ports.
//!
//! Invariant: everything is below one folder; a member's own files are below
//! `<folder>/<member>`, which is its `--root`. Folder names are kept short,
//! because the path of a Unix socket has at most 107 bytes.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

/// The folders of a development fleet.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// A fleet in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The folder of the whole fleet.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The root directory of a member, such as `n1` or `controller`.
    #[must_use]
    pub fn root(&self, member: &str) -> PathBuf {
        self.dir.join(member)
    }

    /// The file a member's output goes to.
    #[must_use]
    pub fn log(&self, member: &str) -> PathBuf {
        self.dir.join(format!("{member}.log"))
    }

    /// The operator's secret key.
    #[must_use]
    pub fn operator_key(&self) -> PathBuf {
        self.dir.join("operator.key")
    }

    /// The operator's public key.
    #[must_use]
    pub fn operator_public(&self) -> PathBuf {
        self.dir.join("operator.key.pub")
    }

    /// The controller's admin token.
    #[must_use]
    pub fn admin_token(&self, controller: &str) -> PathBuf {
        self.root(controller).join("var/lib/osmoda/controller/admin.token")
    }

    /// The folder's own name, in characters that a store path may have.
    #[must_use]
    pub fn label(&self) -> String {
        let name = self.dir.file_name().unwrap_or_default().to_string_lossy();
        let plain = name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).collect::<String>();
        plain.trim_start_matches('-').to_owned()
    }

    /// The profile of a node.
    #[must_use]
    pub fn profile(&self, node: &str) -> PathBuf {
        self.root(node).join("nix/var/nix/profiles/system")
    }

    /// Where closures of the symlink store are kept, shared by all nodes.
    #[must_use]
    pub fn closures(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// Where closures are put together before they go into a store.
    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        self.dir.join("scratch")
    }

    /// The record of what runs, for `dev down`.
    #[must_use]
    pub fn record(&self) -> PathBuf {
        self.dir.join("fleet.json")
    }
}

/// Finds `count` free UDP ports on loopback, all different.
///
/// They are free when this returns; another program may take one before it is
/// used, and the program that then fails to bind says `port_in_use`.
///
/// # Errors
/// When the machine has no free ports.
pub fn free_udp_ports(count: usize) -> std::io::Result<Vec<SocketAddr>> {
    let held: Vec<UdpSocket> =
        (0..count).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
    held.iter().map(UdpSocket::local_addr).collect()
}

/// Finds a free TCP port on loopback, with the same caution.
///
/// # Errors
/// When the machine has no free port.
pub fn free_tcp_port() -> std::io::Result<SocketAddr> {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
