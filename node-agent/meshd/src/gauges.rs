//! The links in `/metrics`: what `osmoda mesh peers` shows, for machines.
//!
//! Labels are node ids, of which a fleet has at most 1,024. A member that left
//! keeps its last figures with `mesh_peer_up` 0 until the daemon starts again.

use std::collections::BTreeSet;
use std::time::Duration;

use metrics::gauge;
use osmoda_kit::shutdown::{Shutdown, Stage};
use osmoda_mesh::{MeshHandle, PeerInfo};
use osmoda_types::NodeId;

/// Half of the usual scrape interval.
const LOOK_EVERY: Duration = Duration::from_secs(7);

/// Keeps the gauges until the stop.
pub(crate) async fn run(handle: MeshHandle, shutdown: Shutdown) {
    let stop = shutdown.token(Stage::RefuseNew);
    let mut known: BTreeSet<NodeId> = BTreeSet::new();
    loop {
        let peers = handle.peers();
        for peer in &peers {
            show(peer);
        }
        let now: BTreeSet<NodeId> = peers.iter().map(|peer| peer.id).collect();
        for gone in known.difference(&now) {
            gauge!("mesh_peer_up", "peer" => gone.to_string()).set(0.0);
        }
        known = now;
        tokio::select! {
            biased;
            // Cancel-safe: waiting for a token takes nothing.
            () = stop.cancelled() => return,
            // Cancel-safe: a timer.
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

fn show(peer: &PeerInfo) {
    let set = |name: &'static str, value: f64| gauge!(name, "peer" => peer.id.to_string()).set(value);
    set("mesh_peer_up", if peer.connected { 1.0 } else { 0.0 });
    if let Some(rtt_us) = peer.rtt_us {
        set("mesh_peer_rtt_seconds", rtt_us as f64 / 1e6);
    }
    if let Some(epoch) = peer.epoch {
        set("mesh_peer_epoch", f64::from(epoch.0));
    }
    if let Some(link) = &peer.link {
        set("mesh_peer_loss_ratio", link.loss_ppm() as f64 / 1e6);
        set("mesh_peer_mtu_bytes", f64::from(link.mtu));
        set("mesh_peer_received_bytes", link.bytes_in as f64);
        set("mesh_peer_sent_bytes", link.bytes_out as f64);
        set("mesh_peer_key_age_seconds", link.key_age_ms as f64 / 1e3);
    }
}
