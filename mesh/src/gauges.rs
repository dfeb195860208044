//! Links as numbers for `/metrics`: what `peers()` shows, per peer.
//!
//! Written by each link when it looks at its age, so a few seconds old at most;
//! whether a link is up is written at once. The label is the short node id; there
//! are as many as members.

use std::time::Duration;

use osmoda_mesh_protocol::{LinkInfo, Members};
use osmoda_types::NodeId;

use crate::{handle::Linked, made::Link, shared::Shared};

/// Says that there is no link to who was a member `before` and is none any more:
/// a gauge keeps its last value for ever.
pub(crate) fn left(before: &Members, members: &Members) {
    for member in before.members.iter().filter(|member| members.by_node(&member.node).is_none()) {
        metrics::gauge!("osmoda_mesh_link_up", "peer" => member.node.short()).set(0.0);
    }
}

/// Which members have a link.
pub(crate) fn links(members: &Members, own: NodeId, linked: &Linked) {
    for member in members.members.iter().filter(|member| member.node != own) {
        let up = f64::from(u8::from(linked.is_up(&member.node)));
        metrics::gauge!("osmoda_mesh_link_up", "peer" => member.node.short()).set(up);
    }
}

/// What one link has carried, at boot time `now`.
pub(crate) fn link(shared: &Shared, peer: NodeId, link: &Link, now: Duration) {
    let current = shared.links.borrow().0.get(&peer).map(|link| link.connection.stable_id());
    if current != Some(link.connection.stable_id()) {
        return;
    }
    let LinkInfo { sent_packets, lost_packets, mtu, bytes_in, bytes_out, key_age_ms } = link.info(now);
    let peer = peer.short();
    let set = |name: &'static str, value: f64| metrics::gauge!(name, "peer" => peer.clone()).set(value);
    set("osmoda_mesh_rtt_seconds", link.connection.rtt().as_secs_f64());
    set("osmoda_mesh_packets_sent", sent_packets as f64);
    set("osmoda_mesh_packets_lost", lost_packets as f64);
    set("osmoda_mesh_mtu_bytes", f64::from(mtu));
    set("osmoda_mesh_bytes_in", bytes_in as f64);
    set("osmoda_mesh_bytes_out", bytes_out as f64);
    set("osmoda_mesh_key_age_seconds", Duration::from_millis(key_age_ms).as_secs_f64());
    set("osmoda_mesh_epoch", f64::from(link.epoch.0));
}
