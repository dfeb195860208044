//! One bridge, one network namespace and one address per host.
//!
//! Names carry the bed's tag, so several beds on one machine do not meet. All of
//! it is removed by these names and nothing else is touched.

use std::net::Ipv4Addr;

use super::command::run;

/// The bridge of a bed. Interface names have at most 15 bytes.
pub(super) fn bridge(tag: &str) -> String {
    format!("osm{tag}br")
}

/// The network namespace of a host.
pub(super) fn namespace(tag: &str, index: u8) -> String {
    format!("osm-{tag}-h{index}")
}

/// The address of a host: the tag picks one of 256 networks.
pub(super) fn address(tag: &str, index: u8) -> Ipv4Addr {
    let network = u8::from_str_radix(&tag[..2], 16).unwrap_or(0);
    Ipv4Addr::new(10, 83, network, index)
}

/// Makes the bridge.
pub(super) async fn create_bridge(tag: &str) -> anyhow::Result<()> {
    let bridge = bridge(tag);
    run("ip", &["link", "add", &bridge, "type", "bridge"]).await?;
    run("ip", &["link", "set", &bridge, "up"]).await?;
    Ok(())
}

/// Makes a host's namespace and connects it to the bridge.
pub(super) async fn connect(tag: &str, index: u8) -> anyhow::Result<()> {
    let (namespace, outside) = (namespace(tag, index), format!("osm{tag}v{index}"));
    let address = format!("{}/24", address(tag, index));
    run("ip", &["netns", "add", &namespace]).await?;
    run("ip", &["link", "add", &outside, "type", "veth", "peer", "name", "eth0", "netns", &namespace]).await?;
    run("ip", &["link", "set", &outside, "master", &bridge(tag), "up"]).await?;
    run("ip", &["-n", &namespace, "address", "add", &address, "dev", "eth0"]).await?;
    run("ip", &["-n", &namespace, "link", "set", "eth0", "up"]).await?;
    run("ip", &["-n", &namespace, "link", "set", "lo", "up"]).await?;
    Ok(())
}

/// Removes a host's namespace; its end of the cable goes with it.
pub(super) async fn disconnect(tag: &str, index: u8) -> anyhow::Result<()> {
    run("ip", &["netns", "delete", &namespace(tag, index)]).await.map(drop)
}

/// Removes the bridge.
pub(super) async fn remove_bridge(tag: &str) -> anyhow::Result<()> {
    run("ip", &["link", "delete", &bridge(tag)]).await.map(drop)
}
