//! Times and sizes of links. One set for all members: each side's idle time
//! counts, the smaller wins.

use std::sync::Arc;
use std::time::Duration;

use crate::lifetime::Periods;
use quinn::{IdleTimeout, TransportConfig, VarInt};

/// Streams of one peer that may be open at once after admission: three
/// services, each a handful of HTTP/2 connections, with room for bulk later.
/// Too small blocks openers, too large lets a peer hold that many tasks.
pub(crate) const PEER_STREAMS_MAX: u32 = 256;

/// Received but unread bytes per connection before admission: a hello's answer
/// fits, a stranger can pin no more than this.
const WINDOW_BEFORE_BYTES: u32 = 64 * 1024;

/// The same after admission; 8 MiB fills 1 Gbit/s at 60 ms round trip.
const WINDOW_AFTER_BYTES: u32 = 8 * 1024 * 1024;

/// Unread bytes per stream: below the connection's, so that one slow reader
/// (a bulk transfer) does not stop Raft on the same link.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// Handshake bytes quinn reassembles per connection; our largest message is
/// 2 KiB and only one is in flight.
const CRYPTO_BUFFER_BYTES: usize = 4096;

/// Received datagrams that wait to be read, per connection: a dozen packets of
/// SWIM. Only there are any.
const DATAGRAM_BUFFER_BYTES: usize = 16 * 1024;

/// Who may begin a handshake without a knock, after proving its address. The
/// knock needs clocks that agree to half a minute; a member whose clock jumped
/// must not be locked out by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KnockFallback {
    /// Nobody.
    Off,
    /// Packets from the exact address of a member. They are answered with a
    /// Retry, which goes to that member whoever wrote them.
    #[default]
    Members,
    /// Everybody: the port is no longer silent. For a fleet whose clocks cannot
    /// be trusted.
    Anyone,
}

/// Times and sizes.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// A link without any packet for this long is dead. Five seconds: a Raft
    /// election takes about two, and a peer that is gone must not hold streams
    /// much longer; shorter kills links of hosts that stall on disk.
    pub idle: Duration,
    /// How often an idle link is probed; several probes fit into `idle`, so a
    /// few lost ones do not end it.
    pub keep_alive: Duration,
    /// From the first packet to the end of the handshake, and again to
    /// `Admitted` (`mesh.md` section 7, item 5); also for a peer to take the
    /// answer to a stream's opening.
    pub handshake: Duration,
    /// How long opening a stream waits for a link, and then for the answer.
    pub open: Duration,
    /// The first wait after a failed dial; doubles up to `redial_max`.
    pub redial_first: Duration,
    /// The longest wait between dials: bounds how long a peer that came back
    /// without dialling us stays unlinked.
    pub redial_max: Duration,
    /// How long the node with the larger id lets the other one dial first where
    /// both may. Crossed links are resolved anyway; this makes them rare.
    pub yield_first: Duration,
    /// How often a link updates its keys (`mesh.md` section 7, item 12).
    pub key_update: Duration,
    /// How often a link is made anew, for fresh ephemeral secrets.
    pub rehandshake: Duration,
    /// Between two tries of that; a peer that does not know the newest secret
    /// yet is silent for `handshake`.
    pub rehandshake_retry: Duration,
    /// How often a link looks at its age and at its successor.
    pub look: Duration,
    /// How long no stream must have used a followed link before it ends: a
    /// retransmission of the last bytes takes less.
    pub drain_quiet: Duration,
    /// How long streams may keep a followed link: long calls end (the longest, the
    /// transfer of a blob's slice, has as long), endless ones are cut and come
    /// again on the new link. Longer keeps old keys in use, shorter cuts calls.
    pub drain_max: Duration,
    /// What happens to first packets without a knock.
    pub knock_fallback: KnockFallback,
    /// Time for an invite to be spent, a commit of the log included.
    pub spend: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(5),
            keep_alive: Duration::from_secs(1),
            handshake: Duration::from_secs(3),
            open: Duration::from_secs(5),
            redial_first: Duration::from_millis(100),
            redial_max: Duration::from_secs(2),
            yield_first: Duration::from_millis(150),
            key_update: Duration::from_secs(30 * 60),
            rehandshake: Duration::from_secs(2 * 60 * 60),
            rehandshake_retry: Duration::from_secs(30),
            look: Duration::from_secs(5),
            drain_quiet: Duration::from_secs(2),
            drain_max: Duration::from_secs(60),
            knock_fallback: KnockFallback::default(),
            spend: Duration::from_secs(15),
        }
    }
}

impl Tuning {
    pub(crate) fn periods(&self) -> Periods {
        Periods { key_update: self.key_update, handshake: self.rehandshake, retry: self.rehandshake_retry }
    }

    /// The transport of a connection before admission: no stream of the peer,
    /// except the `answers` that a dialler must let its listener open.
    pub(crate) fn transport(&self, answers: u32) -> Arc<TransportConfig> {
        let mut transport = TransportConfig::default();
        // An idle time beyond what QUIC can say means none at all.
        transport.max_idle_timeout(IdleTimeout::try_from(self.idle).ok());
        transport.keep_alive_interval(Some(self.keep_alive));
        transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
        transport.max_concurrent_uni_streams(VarInt::from_u32(answers));
        transport.receive_window(VarInt::from_u32(WINDOW_BEFORE_BYTES));
        transport.stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES));
        transport.crypto_buffer_size(CRYPTO_BUFFER_BYTES);
        // Before the first sample; the default of 333 ms makes one lost
        // handshake packet cost a second.
        transport.initial_rtt(Duration::from_millis(100));
        transport.datagram_receive_buffer_size(cfg!(feature = "swim").then_some(DATAGRAM_BUFFER_BYTES));
        Arc::new(transport)
    }
}

/// Lets an admitted peer open streams.
pub(crate) fn raise_limits(connection: &quinn::Connection) {
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(PEER_STREAMS_MAX));
    connection.set_receive_window(VarInt::from_u32(WINDOW_AFTER_BYTES));
}
