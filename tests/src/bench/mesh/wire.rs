//! A cable as of Ethernet: packets of one size at most, each handed on by itself.
//!
//! Loopback gives TCP segments of 64 KiB, which no network does. Here two
//! namespaces are joined by a veth whose offloads are off (TSO, GSO, GRO), so
//! both protocols pay for every packet. UDP may still give the
//! kernel several datagrams at once and TCP its whole buffer; both are cut before
//! the cable. Needs root, iproute2 and ethtool.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::{Context as _, ensure};
use osmoda_kit::tasks::Tasks;

use super::ends::{End, LIMIT, socket};
use super::pipe::Pipe;
use super::quic;
use crate::bench::netns::{find, ip, within};

/// Ethernet's own size, and one whose UDP payload over IPv4 is
/// [`LARGE_MTU`](super::LARGE_MTU).
pub(super) const USUAL: u16 = 1500;
pub(super) const JUMBO: u16 = super::LARGE_MTU + 28;

/// What `ethtool -K` turns off at both ends.
const OFFLOADS: [&str; 4] = ["tso", "gso", "gro", "tx-udp-segmentation"];

const NEAR: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 2);

/// Two namespaces and the cable between them.
pub(super) struct Wire {
    mtu: u16,
    near: String,
    far: String,
}

impl Wire {
    /// Lays one for IP packets of `mtu` bytes.
    pub(super) async fn up(mtu: u16) -> anyhow::Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "network namespaces need root");
        let name = |end| format!("osmoda-wire-{}-{mtu}-{end}", std::process::id());
        let wire = Self { mtu, near: name("near"), far: name("far") };
        if let Err(error) = wire.lay().await {
            wire.down().await;
            return Err(error);
        }
        Ok(wire)
    }

    async fn lay(&self) -> anyhow::Result<()> {
        let ethtool = find("ethtool").context("ethtool is not installed")?;
        let ethtool = ethtool.to_str().context("the path of ethtool is text")?;
        let (near, far) = (self.near.as_str(), self.far.as_str());
        ip(&["netns", "add", near]).await?;
        ip(&["netns", "add", far]).await?;
        ip(&["-n", near, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", far]).await?;
        let mtu = self.mtu.to_string();
        for (name, address) in [(near, NEAR), (far, FAR)] {
            ip(&["-n", name, "address", "add", &format!("{address}/24"), "dev", "cable"]).await?;
            ip(&["-n", name, "link", "set", "cable", "mtu", &mtu, "up"]).await?;
            for offload in OFFLOADS {
                ip(&["netns", "exec", name, ethtool, "-K", "cable", offload, "off"]).await?;
            }
        }
        Ok(())
    }

    /// Removes all of it; what is not there is no fault.
    pub(super) async fn down(&self) {
        for name in [&self.near, &self.far] {
            if let Err(error) = ip(&["netns", "delete", name]).await {
                tracing::debug!(%error, name, "a network was gone already");
            }
        }
    }

    /// Two mesh endpoints, one at each end, with a link that the first dialled.
    pub(super) async fn mesh(&self) -> anyhow::Result<(End, End)> {
        let near = within(&self.near, || End::start(1, (NEAR, 0).into()))?;
        let far = within(&self.far, || End::start(2, (FAR, 0).into()))?;
        super::ends::link(&near, &far).await?;
        Ok((near, far))
    }

    /// quinn with the mesh's keys from one end to the other, at [`JUMBO`]'s payload.
    pub(super) async fn noise(&self, tasks: &Tasks) -> anyhow::Result<Pipe> {
        let near = within(&self.near, || socket((NEAR, 0).into()))?;
        let far = within(&self.far, || socket((FAR, 0).into()))?;
        quic::noise_pipe_on(tasks, super::LARGE_MTU, [near, far]).await
    }

    /// Noise over TCP from one end to the other.
    pub(super) async fn tcp(&self, tasks: &Tasks) -> anyhow::Result<Pipe> {
        let listener = within(&self.far, || Ok(TcpListener::bind((FAR, 0))?))?;
        let to = listener.local_addr()?;
        // The kernel completes the connection by itself: nothing here waits.
        let out = within(&self.near, || Ok(TcpStream::connect_timeout(&to, LIMIT)?))?;
        let (incoming, _) = listener.accept()?;
        let ready = |stream: TcpStream| -> anyhow::Result<tokio::net::TcpStream> {
            stream.set_nonblocking(true)?;
            Ok(tokio::net::TcpStream::from_std(stream)?)
        };
        super::noise_pipe(tasks, ready(out)?, ready(incoming)?).await
    }
}
