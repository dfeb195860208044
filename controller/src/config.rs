//! The controller's settings: `<root>/etc/osmoda/controller.toml`, overridden
//! by the flags of `osmoda-controller serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;

use osmoda_kit::config::Validate;

/// Where REST is served unless told otherwise: loopback, because the token
/// travels in the clear; a proxy or `[tls]` comes before the network.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8700);

/// Where the mesh listens unless told otherwise (`architecture.md` 7).
const MESH_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 18800);

/// The settings.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where REST is served.
    pub listen: SocketAddr,
    /// Where the mesh listens (UDP).
    pub mesh_listen: SocketAddr,
    /// The controller's own TLS.
    pub tls: Option<TlsFiles>,
}

/// The files of the controller's own TLS.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// The certificate chain, PEM.
    pub certificate: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self { listen: LISTEN, mesh_listen: MESH_LISTEN, tls: None }
    }
}

impl Validate for Config {
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.tls.is_some() && cfg!(not(feature = "tls")) {
            faults.push("tls: this build has no TLS (cargo feature tls); put a proxy in front".to_owned());
        }
        if self.tls.is_none() && !self.listen.ip().is_loopback() {
            faults
                .push("listen: the token would travel in the clear; set [tls] or listen on a loopback address".into());
        }
        faults
    }
}

/// What the flags of `serve` say. kit's boot takes a daemon's type, not a
/// value, so `main` leaves them here, once, before it boots.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--listen`.
    pub listen: Option<SocketAddr>,
    /// `--mesh-listen`.
    pub mesh_listen: Option<SocketAddr>,
}

static FLAGS: OnceLock<Flags> = OnceLock::new();

impl Flags {
    /// Makes these the flags of this process; returns false when there are some.
    #[must_use]
    pub fn install(self) -> bool {
        FLAGS.set(self).is_ok()
    }
}

impl Config {
    /// The settings with this process's flags on top.
    #[must_use]
    pub(crate) fn with_flags(mut self) -> Self {
        if let Some(flags) = FLAGS.get() {
            self.listen = flags.listen.unwrap_or(self.listen);
            self.mesh_listen = flags.mesh_listen.unwrap_or(self.mesh_listen);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_is_not_listened_on_in_the_clear() {
        assert_eq!(Config::default().faults(), Vec::<String>::new());
        let open = Config { listen: "0.0.0.0:8700".parse().unwrap(), ..Config::default() };
        assert_eq!(open.faults().len(), 1);
        assert!(toml::from_str::<Config>("listn = 1").is_err());
    }
}
