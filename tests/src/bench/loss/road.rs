//! Two networks of their own with a shaped road between them, for TCP and QUIC
//! alike.
//!
//! Each is a network namespace with a VXLAN interface; the kernel wraps every
//! packet of it into a UDP datagram to the shaper, in a third namespace between
//! them, which carries it to the other one. So real TCP and real QUIC meet the
//! same losses, and nothing of the machine's own network is touched. Needs root
//! and iproute2; without, only the mesh is measured, over loopback and the
//! shaper alone.

use std::net::{Ipv4Addr, UdpSocket};

use anyhow::ensure;
use osmoda_kit::tasks::Tasks;

use crate::bench::netns::{ip, within};
use crate::shaper::{Head, Road, Shaper};

/// The port of VXLAN (RFC 7348), at both ends of a cable.
const PORT: u16 = 4789;

/// What carries wrapped packets: an MTU with room for the wrapping.
const CABLE_MTU: &str = "1600";

/// The usual one of Ethernet; the road itself carries any datagram.
const MTU: &str = "1500";

/// Both networks.
pub(super) struct Nets {
    near: String,
    far: String,
    between: String,
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

impl Place {
    /// Its end of the cable to the namespace between, and the other end.
    const fn cable(self) -> [Ipv4Addr; 2] {
        let net = match self {
            Place::Near => 1,
            Place::Far => 2,
        };
        [Ipv4Addr::new(10, 98, net, 1), Ipv4Addr::new(10, 98, net, 2)]
    }
}

impl Nets {
    /// Makes both.
    pub(super) async fn up() -> anyhow::Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "network namespaces need root");
        let name = |end| format!("osmoda-loss-{}-{end}", std::process::id());
        let nets = Self { near: name("near"), far: name("far"), between: name("between") };
        if let Err(error) = nets.make().await {
            nets.down().await;
            return Err(error);
        }
        Ok(nets)
    }

    async fn make(&self) -> anyhow::Result<()> {
        ip(&["netns", "add", &self.between]).await?;
        for place in [Place::Near, Place::Far] {
            let name = self.name(place);
            ip(&["netns", "add", name]).await?;
            self.lay_cable(place).await?;
            let [local, remote] = place.cable().map(|address| address.to_string());
            let port = PORT.to_string();
            let vxlan = ["type", "vxlan", "id", "7", "local", &local, "remote", &remote, "dstport", &port];
            ip(&[&["-n", name, "link", "add", "road"][..], &vxlan].concat()).await?;
            // One packet is one packet: no bundles that would be lost as a whole.
            ip(&["-n", name, "link", "set", "road", "mtu", MTU, "gso_max_segs", "1", "up"]).await?;
            ip(&["-n", name, "address", "add", &format!("{}/24", place.address()), "dev", "road"]).await?;
        }
        Ok(())
    }

    async fn lay_cable(&self, place: Place) -> anyhow::Result<()> {
        let (name, between) = (self.name(place), self.between.as_str());
        let inner = if place == Place::Near { "near" } else { "far" };
        let pair = ["type", "veth", "peer", "name", inner, "netns", between];
        ip(&[&["-n", name, "link", "add", "cable"][..], &pair].concat()).await?;
        for ((net, link), address) in [(name, "cable"), (between, inner)].into_iter().zip(place.cable()) {
            ip(&["-n", net, "address", "add", &format!("{address}/24"), "dev", link]).await?;
            ip(&["-n", net, "link", "set", link, "mtu", CABLE_MTU, "up"]).await?;
        }
        Ok(())
    }

    /// Removes all of it; what is not there is no fault.
    pub(super) async fn down(&self) {
        for name in [&self.near, &self.far, &self.between] {
            if let Err(error) = ip(&["netns", "delete", name]).await {
                tracing::debug!(%error, name, "a network was gone already");
            }
        }
    }

    fn name(&self, place: Place) -> &str {
        match place {
            Place::Near => &self.near,
            Place::Far => &self.far,
        }
    }

    /// A road between them.
    pub(super) fn shaper(&self, road: Road, tasks: &Tasks) -> anyhow::Result<Shaper> {
        let head = |place: Place| -> anyhow::Result<Head> {
            let [outer, inner] = place.cable();
            let socket = within(&self.between, || Ok(UdpSocket::bind((inner, PORT))?))?;
            Ok(Head { socket, to: Some((outer, PORT).into()), mend: sum_up })
        };
        Ok(Shaper::between(head(Place::Near)?, head(Place::Far)?, road, tasks)?)
    }

    /// Runs `work` with this thread in that network: sockets it makes belong to
    /// it for good. The thread is back when this returns.
    pub(super) fn inside<T>(&self, place: Place, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        within(self.name(place), work)
    }
}

/// Offsets in a wrapped packet: VXLAN has 8 bytes, Ethernet 14, IPv4 here 20.
const ETHERTYPE: usize = 8 + 12;
const IP: usize = 8 + 14;
const IP_HEADER: usize = 20;

/// Writes the checksum of TCP or UDP into a wrapped packet. The kernel leaves it
/// to the device that sends the packet off, and there is none: the wrapping ends
/// in this program.
fn sum_up(wrapped: &mut [u8]) {
    let is_plain_ipv4 = wrapped.get(ETHERTYPE..ETHERTYPE + 3) == Some(&[8, 0, 0x45]);
    let Some(packet) = wrapped.get_mut(IP..).filter(|packet| is_plain_ipv4 && packet.len() > IP_HEADER) else { return };
    let length = usize::from(u16::from_be_bytes([packet[2], packet[3]])).min(packet.len());
    let protocol = packet[9];
    let at = match protocol {
        6 => IP_HEADER + 16,
        17 => IP_HEADER + 6,
        _ => return,
    };
    if length < at + 2 {
        return;
    }
    packet[at..at + 2].fill(0);
    let words =
        packet[12..length].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let mut sum = words.sum::<u32>() + u32::from(protocol) + (length - IP_HEADER) as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // A sum of zero would mean none in UDP.
    let sum = if sum == 0xffff { 0xffff } else { !(sum as u16) };
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}
