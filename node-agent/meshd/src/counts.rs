//! What rooms, blobs and pipes do, as numbers for `/metrics`.
//!
//! All names are here, so that none is written twice. Counting never fails and
//! waits for nobody; labels are of a closed list.

/// A room's message came to be kept here; `way` is `said`, `pushed` or `healed`.
pub(crate) fn room_message(way: &'static str) {
    metrics::counter!("osmoda_room_messages_total", "way" => way).increment(1);
}

/// An author was found to have forked.
pub(crate) fn room_fork() {
    metrics::counter!("osmoda_room_forks_total").increment(1);
}

/// A message was not kept for a quota.
pub(crate) fn room_over_quota() {
    metrics::counter!("osmoda_room_quota_refused_total").increment(1);
}

/// A session of healing that this node began went through.
pub(crate) fn heal_session() {
    metrics::counter!("osmoda_room_heal_sessions_total").increment(1);
}

/// Bytes of messages were sent by healing.
pub(crate) fn heal_sent(bytes: usize) {
    metrics::counter!("osmoda_room_heal_message_bytes_total").increment(bytes as u64);
}

/// Bytes of blobs, proofs included, were sent to a peer.
pub(crate) fn blob_sent(bytes: usize) {
    metrics::counter!("osmoda_blob_sent_bytes_total").increment(bytes as u64);
}

/// Bytes of blobs, proofs included, came from a peer.
pub(crate) fn blob_received(bytes: usize) {
    metrics::counter!("osmoda_blob_received_bytes_total").increment(bytes as u64);
}

/// An asker was refused; `why` is `busy` or `absent`.
pub(crate) fn blob_refused(why: &'static str) {
    metrics::counter!("osmoda_blob_refused_total", "why" => why).increment(1);
}

/// A peer's stream was refused by its service's allowance, or nobody took it.
pub(crate) fn stream_refused(service: &'static str) {
    metrics::counter!("osmoda_mesh_streams_refused_total", "service" => service).increment(1);
}

/// A transfer of a blob that is under way, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Transfer(metrics::Gauge);

impl Transfer {
    /// Begins; `side` is `serve` or `fetch`.
    pub(crate) fn begin(side: &'static str) -> Self {
        let active = metrics::gauge!("osmoda_blob_active", "side" => side);
        active.increment(1.0);
        Self(active)
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
