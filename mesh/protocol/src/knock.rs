//! The knock: the first packet's connection id proves that its sender knows a
//! secret of this network, before the listener answers one byte.
//!
//! `DCID = nonce 8 | HMAC-SHA256(K, nonce | slot)[..12]`, where slot counts 30 s
//! of wall time (`mesh.md` section 7, item 1). It keeps scanners and blind
//! floods out at the price of an HMAC. It is not authentication: whoever sees
//! a packet may replay its connection id within the window, and then meets the
//! handshake.

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
    let Ok(dcid) = <&[u8; KNOCK_BYTES]>::try_from(dcid) else { return false };
    let (nonce, given) = dcid.split_at(KNOCK_NONCE_BYTES);
    let (key, now) = (prepared(key), slot(now_ms));
    let slots = [now, now.saturating_sub(1), now.saturating_add(1)];
    slots.into_iter().any(|slot| bool::from(tag(&key, nonce, slot)[..].ct_eq(given)))
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
    fn clocks_at_the_ends_of_time_do_not_panic() {
        for now in [i64::MIN, -1, 0, i64::MAX] {
            assert!(knock_is_valid(&[1; 32], &knock(&[1; 32], [0; 8], now), now));
        }
    }
}
