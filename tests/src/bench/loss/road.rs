//! Two networks of their own with a shaped road between them, for TCP and QUIC
//! alike.
//!
//! Each is a network namespace with a VXLAN interface; the kernel wraps every
//! packet of it into a UDP datagram to the shaper, which carries it to the other
//! one. So real TCP and real QUIC meet the same losses, and nothing of the
//! machine's own network is touched: the namespaces have a loopback interface
//! and that one. Needs root and iproute2; without, only the mesh is measured,
//! over loopback and the shaper alone.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use osmoda_kit::process::{Spec, run};
use osmoda_kit::tasks::Tasks;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::shaper::{Head, Road, Shaper};

/// The kernel's end of a road inside a namespace, and the shaper's.
const KERNEL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 4789);
const SHAPER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), 4790);

/// The usual one of Ethernet; the road itself carries any datagram.
const MTU: &str = "1500";

/// Where `ip` and `bridge` may lie; the environment of programs is empty.
const FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/bin"];

/// Both networks.
pub(super) struct Nets {
    names: [String; 2],
}

/// Which end of the road.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The sending one.
    Near,
    /// The receiving one.
    Far,
}

impl Place {
    /// Its address on the road.
    pub(super) const fn address(self) -> Ipv4Addr {
        match self {
            Place::Near => Ipv4Addr::new(10, 99, 0, 1),
            Place::Far => Ipv4Addr::new(10, 99, 0, 2),
        }
    }
}

impl Nets {
    /// Makes both.
    pub(super) async fn up() -> anyhow::Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "network namespaces need root");
        let name = |end| format!("osmoda-loss-{}-{end}", std::process::id());
        let nets = Self { names: [name("near"), name("far")] };
        for place in [Place::Near, Place::Far] {
            if let Err(error) = nets.make(place).await {
                nets.down().await;
                return Err(error);
            }
        }
        Ok(nets)
    }

    async fn make(&self, place: Place) -> anyhow::Result<()> {
        let (name, address) = (self.name(place), format!("{}/24", place.address()));
        let (local, port) = (KERNEL.ip().to_string(), KERNEL.port().to_string());
        let (shaper, shaper_port) = (SHAPER.ip().to_string(), SHAPER.port().to_string());
        tool("ip", &["netns", "add", name]).await?;
        tool("ip", &["-n", name, "link", "set", "lo", "up"]).await?;
        let vxlan = ["type", "vxlan", "id", "7", "local", &local, "dstport", &port, "nolearning"];
        tool("ip", &[&["-n", name, "link", "add", "road"][..], &vxlan].concat()).await?;
        // One packet is one packet: no bundles that would be lost as a whole.
        tool("ip", &["-n", name, "link", "set", "road", "mtu", MTU, "gso_max_segs", "1", "up"]).await?;
        tool("ip", &["-n", name, "address", "add", &address, "dev", "road"]).await?;
        let to = ["dev", "road", "dst", &shaper, "port", &shaper_port];
        tool("bridge", &[&["-n", name, "fdb", "append", "00:00:00:00:00:00"][..], &to].concat()).await?;
        Ok(())
    }

    /// Removes both; what is not there is no fault.
    pub(super) async fn down(&self) {
        for name in &self.names {
            if let Err(error) = tool("ip", &["netns", "delete", name]).await {
                tracing::debug!(%error, name, "a network was gone already");
            }
        }
    }

    fn name(&self, place: Place) -> &str {
        match place {
            Place::Near => &self.names[0],
            Place::Far => &self.names[1],
        }
    }

    /// A road between them.
    pub(super) fn shaper(&self, road: Road, tasks: &Tasks) -> anyhow::Result<Shaper> {
        let head = |place| -> anyhow::Result<Head> {
            let socket = self.inside(place, || Ok(UdpSocket::bind(SHAPER)?))?;
            Ok(Head { socket, to: Some(KERNEL) })
        };
        Ok(Shaper::between(head(Place::Near)?, head(Place::Far)?, road, tasks)?)
    }

    /// Runs `work` with this thread in that network: sockets it makes belong to
    /// it for good. The thread is back when this returns.
    pub(super) fn inside<T>(&self, place: Place, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let own = File::open("/proc/thread-self/ns/net")?;
        let other = File::open(PathBuf::from("/run/netns").join(self.name(place)))?;
        move_into_link_name_space(other.as_fd(), Some(LinkNameSpaceType::Network))?;
        let done = work();
        move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))
            .expect("a thread may return to the network it was started in");
        done
    }
}

async fn tool(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let path = FOLDERS.iter().map(|folder| PathBuf::from(folder).join(program)).find(|path| path.is_file());
    let path = path.with_context(|| format!("{program} (iproute2) is not installed"))?;
    let output = run(&Spec::new(path).args(arguments.iter().copied())).await?;
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}
