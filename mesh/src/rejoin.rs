//! Members that come back after their epochs have passed, at the voters that
//! hold their secrets.
//!
//! Invariant: a returning member is served only while the newest snapshot has
//! it *and* its secret is held here; a revocation takes away both.

use std::sync::Mutex;

use osmoda_mesh_crypto::{KnockKey, Mode, Psk};
use osmoda_mesh_protocol::{RejoinTable, knock_is_valid};
use osmoda_types::{NetworkId, NodeId};

use crate::config::RejoinSecret;

/// The secrets of others, ready to be knocked with.
pub(crate) struct Returners {
    entries: Vec<Returner>,
    /// Tags of the present slot. Only the socket and the listener look, for
    /// moments, so nobody waits.
    table: Mutex<RejoinTable>,
}

struct Returner {
    node: NodeId,
    psk: Psk,
    knock: KnockKey,
}

impl Returners {
    pub(crate) fn new(network: &NetworkId, secrets: &[RejoinSecret]) -> Self {
        let entry = |secret: &RejoinSecret| {
            let psk = Psk::rejoin(network, &secret.node, secret.secret.bytes());
            Returner { node: secret.node, knock: psk.knock_key(), psk }
        };
        Self { entries: secrets.iter().map(entry).collect(), table: Mutex::default() }
    }

    /// Who knocked, with the key of its handshake.
    pub(crate) fn knocked(&self, dcid: &[u8], now_ms: i64) -> Option<(Mode, Psk)> {
        self.find(dcid, now_ms).map(|entry| (Mode::Rejoin(entry.node), entry.psk.clone()))
    }

    /// Whether one of them knocked.
    pub(crate) fn has_knocked(&self, dcid: &[u8], now_ms: i64) -> bool {
        self.find(dcid, now_ms).is_some()
    }

    fn find(&self, dcid: &[u8], now_ms: i64) -> Option<&Returner> {
        if self.entries.is_empty() {
            return None;
        }
        let at = {
            let mut table = self.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if !table.is_for(now_ms) {
                *table = RejoinTable::new(self.entries.iter().map(|entry| entry.knock.bytes()), now_ms);
            }
            table.find(dcid)?
        };
        self.entries.get(at).filter(|entry| knock_is_valid(entry.knock.bytes(), dcid, now_ms))
    }
}
