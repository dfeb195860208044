//! What an endpoint keeps across restarts: how it recognises its own connection
//! ids, and the token with which it ends connections it has forgotten.
//!
//! A node that was killed comes back without its connections. Packets of peers
//! that do not know yet then carry connection ids of ours, and only those are
//! answered, with a stateless reset (RFC 9000 section 10.3): the peer dials anew
//! after its next keep-alive instead of after its idle time. quinn's own
//! generator signs ids with a hash that can be computed back from a few samples;
//! here it is an HMAC, so a stranger cannot make an id that would be answered.

use std::sync::Arc;
use std::time::Duration;

use quinn_proto::{ConnectionId, ConnectionIdGenerator, EndpointConfig, InvalidCid};
use ring::hmac;
use subtle::ConstantTimeEq;

use crate::{QUIC_VERSION, keys, secret::StaticKey};

/// Random part of a connection id: no clash among the ids of one endpoint.
const NONCE_BYTES: usize = 6;
/// The rest of it: a blind guess is answered once in 2^64.
const TAG_BYTES: usize = 8;

/// quinn's endpoint configuration for the owner of this key: our one version,
/// and ids and reset tokens that stay the same across restarts.
#[must_use]
pub fn endpoint_config(key: &StaticKey) -> EndpointConfig {
    let reset = hmac::Key::new(hmac::HMAC_SHA256, &keys::expand::<32>(key.secret_bytes(), "stateless reset")[..]);
    let ids = OwnIds::new(key);
    let mut config = EndpointConfig::new(Arc::new(reset));
    config.cid_generator(move || Box::new(ids.clone()));
    config.supported_versions(vec![QUIC_VERSION]);
    config
}

/// Makes and recognises connection ids: `nonce 6 | HMAC(nonce)[..8]`.
#[derive(Clone, Debug)]
pub struct OwnIds {
    key: hmac::Key,
}

impl OwnIds {
    /// The ids of the endpoint that has this key.
    #[must_use]
    pub fn new(key: &StaticKey) -> Self {
        let key = keys::expand::<32>(key.secret_bytes(), "connection id");
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key[..]) }
    }

    /// Whether this id was made by its endpoint, now or before a restart.
    #[must_use]
    pub fn made(&self, id: &[u8]) -> bool {
        let Some((nonce, tag)) = id.split_at_checked(NONCE_BYTES) else { return false };
        bool::from(self.tag(nonce)[..].ct_eq(tag))
    }

    fn tag(&self, nonce: &[u8]) -> [u8; TAG_BYTES] {
        let mut out = [0; TAG_BYTES];
        out.copy_from_slice(&hmac::sign(&self.key, nonce).as_ref()[..TAG_BYTES]);
        out
    }
}

impl ConnectionIdGenerator for OwnIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; NONCE_BYTES + TAG_BYTES];
        keys::fill_random(&mut id[..NONCE_BYTES]).expect("the operating system has randomness once it has booted");
        let tag = self.tag(&id[..NONCE_BYTES]);
        id[NONCE_BYTES..].copy_from_slice(&tag);
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        if self.made(id) { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        NONCE_BYTES + TAG_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_recognised_by_its_owner_only_and_after_a_restart() {
        let mut ids = OwnIds::new(&StaticKey::from_bytes(&[1; 32]));
        let id = ids.generate_cid();
        assert_eq!(id.len(), ids.cid_len());
        assert_ne!(id, ids.generate_cid());
        assert!(OwnIds::new(&StaticKey::from_bytes(&[1; 32])).validate(&id).is_ok());
        assert!(OwnIds::new(&StaticKey::from_bytes(&[2; 32])).validate(&id).is_err());
        for bit in 0..id.len() * 8 {
            let mut bad = id.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(ids.validate(&ConnectionId::new(&bad)).is_err());
        }
        assert!(ids.validate(&ConnectionId::new(&[])).is_err());
    }
}
