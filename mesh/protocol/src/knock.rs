//! The knock: the first packet's connection id proves that its sender knows a
//! secret of this network, before the listener answers one byte.
//!
//! `DCID = nonce 8 | HMAC-SHA256(K, nonce | slot)[..12]`, where slot counts 30 s
//! of wall time (`mesh.md` section 7, item 1). It keeps scanners and blind
//! floods out at the price of an HMAC. It is not authentication: whoever sees
//! a packet may replay its connection id within the window, and then meets the
//! handshake.
//!
//! A listener tries each of its few epoch and invite keys. Members that come
//! back have a key each, up to a thousand, so their nonce begins with a tag by
//! which the listener finds the one key to try: `tag = HMAC(K, "rejoin" |
//! slot)[..6]`, new in every slot, so it names nobody to an observer.

use std::collections::HashMap;

use ring::hmac;
use subtle::ConstantTimeEq;

/// Length of a knocking connection id: the most that QUIC allows.
pub const KNOCK_BYTES: usize = 20;
/// Length of its random part. 64 bits: unique among the connections of a slot.
pub const KNOCK_NONCE_BYTES: usize = 8;
/// Length of a time slot. One slot to either side is accepted, so clocks may
/// differ by 30 to 60 s; longer slots lengthen the replay window, shorter ones
/// lock out hosts whose clock is only roughly set.
pub const KNOCK_SLOT_MS: i64 = 30_000;

/// Length of the tag that finds a returning member's key. 48 bits: no clash
/// among a thousand members; a clash costs one of them a slot.
const REJOIN_TAG_BYTES: usize = 6;
/// The random rest of a returning member's nonce: tells its tries in one slot
/// apart.
pub const REJOIN_RANDOM_BYTES: usize = KNOCK_NONCE_BYTES - REJOIN_TAG_BYTES;

const TAG_BYTES: usize = KNOCK_BYTES - KNOCK_NONCE_BYTES;

/// The connection id to begin with, at wall time `now_ms`.
#[must_use]
pub fn knock(key: &[u8; 32], nonce: [u8; KNOCK_NONCE_BYTES], now_ms: i64) -> [u8; KNOCK_BYTES] {
    let mut out = [0; KNOCK_BYTES];
    out[..KNOCK_NONCE_BYTES].copy_from_slice(&nonce);
    out[KNOCK_NONCE_BYTES..].copy_from_slice(&tag(&prepared(key), &nonce, slot(now_ms)));
    out
}

/// Whether a first packet's connection id was made with `key` at about `now_ms`.
#[must_use]
pub fn knock_is_valid(key: &[u8; 32], dcid: &[u8], now_ms: i64) -> bool {
    KnockCheck::new(key).is_valid(dcid, now_ms)
}

/// The same with the key made ready once: half of the work per packet. For
/// listeners, which look at every stranger's packet. ring does not wipe it when
/// it is dropped; it opens nothing but an answer to a first packet.
#[derive(Debug, Clone)]
pub struct KnockCheck {
    key: hmac::Key,
}

impl KnockCheck {
    /// Makes a key ready.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self { key: prepared(key) }
    }

    /// Whether a first packet's connection id was made with the key at about
    /// `now_ms`.
    #[must_use]
    pub fn is_valid(&self, dcid: &[u8], now_ms: i64) -> bool {
        let Ok(dcid) = <&[u8; KNOCK_BYTES]>::try_from(dcid) else { return false };
        let (nonce, given) = dcid.split_at(KNOCK_NONCE_BYTES);
        around(slot(now_ms)).into_iter().any(|slot| bool::from(tag(&self.key, nonce, slot)[..].ct_eq(given)))
    }
}

/// The connection id of a returning member, at wall time `now_ms`.
#[must_use]
pub fn rejoin_knock(key: &[u8; 32], random: [u8; REJOIN_RANDOM_BYTES], now_ms: i64) -> [u8; KNOCK_BYTES] {
    let mut nonce = [0; KNOCK_NONCE_BYTES];
    nonce[..REJOIN_TAG_BYTES].copy_from_slice(&rejoin_tag(key, slot(now_ms)));
    nonce[REJOIN_TAG_BYTES..].copy_from_slice(&random);
    knock(key, nonce, now_ms)
}

/// Finds whose key a returning member's connection id was made with. Holds the
/// tags of one slot and its neighbours; made anew when the slot has passed.
#[derive(Debug, Default)]
pub struct RejoinTable {
    slot: i64,
    tags: HashMap<[u8; REJOIN_TAG_BYTES], usize>,
}

impl RejoinTable {
    /// The tags of these keys around wall time `now_ms`.
    pub fn new<'a>(keys: impl Iterator<Item = &'a [u8; 32]>, now_ms: i64) -> Self {
        let slot = slot(now_ms);
        let tags = keys.enumerate().flat_map(|(at, key)| around(slot).map(|slot| (rejoin_tag(key, slot), at)));
        Self { slot, tags: tags.collect() }
    }

    /// Whether this table is for the slot of `now_ms`.
    #[must_use]
    pub fn is_for(&self, now_ms: i64) -> bool {
        self.slot == slot(now_ms)
    }

    /// The place of the one key to try with [`knock_is_valid`].
    #[must_use]
    pub fn find(&self, dcid: &[u8]) -> Option<usize> {
        let tag = dcid.first_chunk::<REJOIN_TAG_BYTES>()?;
        self.tags.get(tag).copied()
    }
}

fn around(slot: i64) -> [i64; 3] {
    [slot, slot.saturating_sub(1), slot.saturating_add(1)]
}

fn rejoin_tag(key: &[u8; 32], slot: i64) -> [u8; REJOIN_TAG_BYTES] {
    let mut context = hmac::Context::with_key(&prepared(key));
    context.update(b"rejoin");
    context.update(&slot.to_be_bytes());
    let mut out = [0; REJOIN_TAG_BYTES];
    out.copy_from_slice(&context.sign().as_ref()[..REJOIN_TAG_BYTES]);
    out
}

fn prepared(key: &[u8; 32]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key)
}

fn slot(now_ms: i64) -> i64 {
    now_ms.div_euclid(KNOCK_SLOT_MS)
}

fn tag(key: &hmac::Key, nonce: &[u8], slot: i64) -> [u8; TAG_BYTES] {
    let mut context = hmac::Context::with_key(key);
    context.update(nonce);
    context.update(&slot.to_be_bytes());
    let mut out = [0; TAG_BYTES];
    out.copy_from_slice(&context.sign().as_ref()[..TAG_BYTES]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_knock_is_valid_for_its_slot_and_the_two_beside_it() {
        let now = 1_000 * KNOCK_SLOT_MS + 5;
        let dcid = knock(&[1; 32], [7; 8], now);
        for slots in -3..=3 {
            let valid = knock_is_valid(&[1; 32], &dcid, now + slots * KNOCK_SLOT_MS);
            assert_eq!(valid, (-1..=1).contains(&slots), "{slots}");
        }
        assert!(!knock_is_valid(&[2; 32], &dcid, now));
        assert!(!knock_is_valid(&[1; 32], &dcid[1..], now));
        for bit in 0..dcid.len() * 8 {
            let mut bad = dcid;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(!knock_is_valid(&[1; 32], &bad, now));
        }
    }

    #[test]
    fn a_returning_member_is_found_by_its_tag_in_its_slot_and_the_two_beside_it() {
        let now = 1_000 * KNOCK_SLOT_MS;
        let keys: Vec<[u8; 32]> = (0..200).map(|seed| [seed; 32]).collect();
        let table = RejoinTable::new(keys.iter(), now);
        assert!(table.is_for(now) && !table.is_for(now + KNOCK_SLOT_MS));
        for (at, key) in keys.iter().enumerate() {
            for slots in -3..=3 {
                let dcid = rejoin_knock(key, [1, 2], now + slots * KNOCK_SLOT_MS);
                let near = (-1..=1).contains(&slots);
                assert_eq!(table.find(&dcid), near.then_some(at), "{at} {slots}");
                assert_eq!(knock_is_valid(key, &dcid, now), near);
            }
        }
        assert_ne!(rejoin_knock(&[1; 32], [1, 2], now), rejoin_knock(&[1; 32], [1, 3], now));
        assert_eq!(table.find(&[1, 2]), None);
    }

    #[test]
    fn clocks_at_the_ends_of_time_do_not_panic() {
        for now in [i64::MIN, -1, 0, i64::MAX] {
            assert!(knock_is_valid(&[1; 32], &knock(&[1; 32], [0; 8], now), now));
        }
    }
}
