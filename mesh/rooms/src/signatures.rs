//! Checking signatures of authors that say much.
//!
//! A check computes s*B - h*A. B is the same for everybody, so its multiples
//! stand in a table; A is the author's key, and healing brings thousands of
//! messages of few authors. An author that was met often gets such a table too,
//! and one inversion serves all messages of a call: 31 us instead of 50 on a
//! 2-core machine of 2026-11. Batch verification would be faster still, but
//! accepts signatures that the strict check refuses; two members of a room could
//! then keep different messages for ever.
//!
//! Invariant: the answer is that of the strict check for every key, message and
//! signature, the malformed ones included (`tests`).

use std::collections::{BTreeMap, btree_map};
use std::sync::{Arc, Mutex, PoisonError};

use curve25519_dalek::constants::ED25519_BASEPOINT_TABLE;
use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsBasepointTable, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::BasepointTable as _;
use osmoda_types::{PublicKey, Signature, statement};
use sha2::{Digest as _, Sha512};

use crate::id::MessageId;
use crate::message::{Unverified, Verified};

/// Signatures of an author after which its table is made: a table costs 1.2 ms,
/// what it saves in 64 checks, and authors that say a word now and then need
/// none.
const TABLE_AFTER: u32 = 64;

/// Authors that are remembered: a room's members. A table takes 30 KiB, so all
/// together 2 MiB at most; who was not met for longest is forgotten.
const AUTHORS_MAX: usize = 64;

/// What is known of authors whose signatures were checked. Shared by whoever
/// checks; locked for moments only.
#[derive(Default)]
pub struct Signatures {
    authors: Mutex<Authors>,
}

#[derive(Default)]
struct Authors {
    calls: u64,
    known: BTreeMap<PublicKey, Author>,
}

#[derive(Default)]
struct Author {
    checked: u32,
    met: u64,
    table: Option<Arc<Table>>,
}

/// A statement: who, what, and the signature.
type Claim = (PublicKey, Vec<u8>, Signature);

impl Signatures {
    /// Checks messages, each on its own; in their order, the id of one that is
    /// false. Some 30 to 50 us each: not for async threads.
    pub fn check(&self, messages: Vec<Unverified>) -> Vec<Result<Verified, MessageId>> {
        let claims: Vec<Claim> = messages.iter().map(Unverified::claim).collect();
        let valid = self.are_valid(&claims);
        messages.into_iter().zip(valid).map(|(message, valid)| message.checked(valid)).collect()
    }

    fn are_valid(&self, claims: &[Claim]) -> Vec<bool> {
        let mut counts: BTreeMap<PublicKey, u32> = BTreeMap::new();
        for (author, ..) in claims {
            *counts.entry(*author).or_default() += 1;
        }
        let tables: BTreeMap<PublicKey, Arc<Table>> =
            counts.into_iter().filter_map(|(key, count)| Some((key, self.table(key, count)?))).collect();
        let points: Vec<Found> = claims
            .iter()
            .map(|(author, message, signature)| match tables.get(author) {
                None => Found::NoTable,
                Some(table) => table.nonce_point(message, signature).map_or(Found::Malformed, Found::Point),
            })
            .collect();
        let bare: Vec<EdwardsPoint> = points.iter().filter_map(Found::point).collect();
        let mut compressed = EdwardsPoint::compress_batch_alloc(&bare).into_iter();
        let judged = claims.iter().zip(points).map(|((author, message, signature), found)| match found {
            Found::NoTable => statement::verify(author, message, signature).is_ok(),
            Found::Malformed => false,
            Found::Point(point) => compressed.next().is_some_and(|bytes| is_nonce(&point, &bytes, signature)),
        });
        judged.collect()
    }

    /// The author's table, if it has or deserves one.
    fn table(&self, key: PublicKey, count: u32) -> Option<Arc<Table>> {
        {
            let mut authors = self.authors.lock().unwrap_or_else(PoisonError::into_inner);
            let author = authors.meet(key);
            author.checked = author.checked.saturating_add(count);
            if author.table.is_some() || author.checked < TABLE_AFTER {
                return author.table.clone();
            }
        }
        // Made without the lock; two may make the same one.
        let table = Arc::new(Table::new(&key)?);
        let mut authors = self.authors.lock().unwrap_or_else(PoisonError::into_inner);
        if let btree_map::Entry::Occupied(mut author) = authors.known.entry(key) {
            author.get_mut().table = Some(table.clone());
        }
        Some(table)
    }
}

impl Authors {
    fn meet(&mut self, key: PublicKey) -> &mut Author {
        self.calls += 1;
        if self.known.len() >= AUTHORS_MAX && !self.known.contains_key(&key) {
            let oldest = self.known.iter().min_by_key(|(_, author)| author.met).map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                self.known.remove(&oldest);
            }
        }
        let author = self.known.entry(key).or_default();
        author.met = self.calls;
        author
    }
}

impl std::fmt::Debug for Signatures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signatures(..)")
    }
}

/// Multiples of an author's negated key.
struct Table {
    key: PublicKey,
    negated: EdwardsBasepointTable,
}

impl Table {
    /// `None` for bytes that are no key, and for keys under which anything could
    /// verify: the strict check refuses both.
    fn new(key: &PublicKey) -> Option<Self> {
        let point = CompressedEdwardsY(*key.as_bytes()).decompress()?;
        (!point.is_small_order()).then(|| Self { key: *key, negated: EdwardsBasepointTable::create(&-point) })
    }

    /// The point that the signature's first half must name, if the second half
    /// is a number in its one form.
    fn nonce_point(&self, message: &[u8], signature: &Signature) -> Option<EdwardsPoint> {
        let (r, s) = halves(signature);
        let s: Scalar = Option::from(Scalar::from_canonical_bytes(s))?;
        let hash = Sha512::new().chain_update(r).chain_update(self.key.as_bytes()).chain_update(message).finalize();
        let h = Scalar::from_bytes_mod_order_wide(&hash.into());
        Some(ED25519_BASEPOINT_TABLE * &s + &self.negated * &h)
    }
}

/// What a signature's first half must name.
enum Found {
    /// Its author has no table.
    NoTable,
    /// The second half is no number in its one form.
    Malformed,
    /// This point.
    Point(EdwardsPoint),
}

impl Found {
    fn point(&self) -> Option<EdwardsPoint> {
        match self {
            Found::Point(point) => Some(*point),
            Found::NoTable | Found::Malformed => None,
        }
    }
}

/// Whether the signature names this point, in its one form, and the point is not
/// of small order.
fn is_nonce(point: &EdwardsPoint, compressed: &CompressedEdwardsY, signature: &Signature) -> bool {
    *compressed.as_bytes() == halves(signature).0 && !point.is_small_order()
}

fn halves(signature: &Signature) -> ([u8; 32], [u8; 32]) {
    let (mut r, mut s) = ([0; 32], [0; 32]);
    r.copy_from_slice(&signature.as_bytes()[..32]);
    s.copy_from_slice(&signature.as_bytes()[32..]);
    (r, s)
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
    use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
    use proptest::prelude::*;

    use super::*;

    /// What this file must agree with.
    fn strict(key: [u8; 32], message: &[u8], signature: [u8; 64]) -> bool {
        let signature = ed25519_dalek::Signature::from_bytes(&signature);
        VerifyingKey::from_bytes(&key).is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
    }

    /// Checks the same claims often enough for a table, and without one.
    fn both(key: [u8; 32], message: &[u8], signature: [u8; 64]) -> bool {
        let claim = (PublicKey::from_bytes(key), message.to_vec(), Signature::from_bytes(signature));
        let with = Signatures::default().are_valid(&vec![claim.clone(); TABLE_AFTER as usize]);
        let without = Signatures::default().are_valid(&[claim]);
        let expected = strict(key, message, signature);
        assert!(with.into_iter().chain(without).all(|valid| valid == expected), "{key:?} {signature:?}");
        expected
    }

    fn signed(seed: u8, message: &[u8]) -> ([u8; 32], [u8; 64]) {
        let key = SigningKey::from_bytes(&[seed; 32]);
        (key.verifying_key().to_bytes(), key.sign(message).to_bytes())
    }

    #[test]
    fn one_bit_of_a_signature_or_key_makes_it_false() {
        let (key, signature) = signed(1, b"hello");
        assert!(both(key, b"hello", signature));
        assert!(!both(key, b"hallo", signature));
        assert!(!both(signed(2, b"hello").0, b"hello", signature));
        for bit in (0..512).step_by(7) {
            let mut wrong = signature;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(!both(key, b"hello", wrong), "{bit}");
        }
        for bit in (0..256).step_by(11) {
            let mut wrong = key;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(!both(wrong, b"hello", signature), "{bit}");
        }
        assert!(!both(key, b"hello", [0; 64]) && !both([0; 32], b"hello", signature));
    }

    #[test]
    fn a_number_with_the_order_added_is_false() {
        // The order of the group, little-endian (RFC 8032 section 5.1).
        let mut order = [0; 32];
        order[31] = 0x10;
        order[..16].copy_from_slice(&0x14de_f9de_a2f7_9cd6_5812_631a_5cf5_d3ed_u128.to_le_bytes());
        let (key, mut signature) = signed(1, b"hello");
        let mut carry = 0;
        for (byte, added) in signature[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(added) + carry;
            (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
        }
        assert!(!both(key, b"hello", signature));
    }

    /// Every key and every nonce point with a part of small order, where checks
    /// with and without the cofactor, and in batches, disagree with each other.
    #[test]
    fn parts_of_small_order_are_judged_as_the_strict_check_judges_them() {
        let secret = Scalar::from(0x1234_5678_u64);
        let nonce = Scalar::from(0x8765_4321_u64);
        let (mut accepted, mut judged) = (0, 0);
        for message in [&b"a"[..], b"b", b"c", b"d"] {
            for (key_part, nonce_part) in EIGHT_TORSION.iter().flat_map(|a| EIGHT_TORSION.iter().map(move |b| (a, b))) {
                for (of_key, of_nonce) in
                    [(1, 1), (0, 1), (1, 0), (0, 0)].map(|(a, b): (u64, u64)| (Scalar::from(a), Scalar::from(b)))
                {
                    let (a, r): (Scalar, Scalar) = (secret * of_key, nonce * of_nonce);
                    let key = (ED25519_BASEPOINT_POINT * a + key_part).compress().to_bytes();
                    let point = (ED25519_BASEPOINT_POINT * r + nonce_part).compress().to_bytes();
                    let hash = Sha512::new().chain_update(point).chain_update(key).chain_update(message).finalize();
                    let s = r + Scalar::from_bytes_mod_order_wide(&hash.into()) * a;
                    let mut signature = [0; 64];
                    signature[..32].copy_from_slice(&point);
                    signature[32..].copy_from_slice(s.as_bytes());
                    judged += 1;
                    accepted += usize::from(both(key, message, signature));
                }
            }
        }
        assert!(accepted > 4 && accepted < judged / 2, "{accepted} of {judged}");
    }

    #[test]
    fn points_in_another_form_than_their_own_are_judged_as_the_strict_check_judges_them() {
        // y = p + n, and x = 0 with a sign: the forms that decoders differ in.
        let forms = (0..=18_u8).flat_map(|n| {
            [0x7f, 0xff].map(|last| {
                let mut bytes = [0xff; 32];
                (bytes[0], bytes[31]) = (0xed + n, last);
                bytes
            })
        });
        let (key, signature) = signed(1, b"hello");
        for form in forms {
            let mut other = signature;
            other[..32].copy_from_slice(&form);
            assert!(!both(key, b"hello", other));
            both(form, b"hello", signature);
        }
    }

    #[test]
    fn whoever_was_met_long_ago_is_forgotten() {
        let signatures = Signatures::default();
        let claims: Vec<Claim> = (0..200_u8)
            .map(|seed| {
                let (key, signature) = signed(seed, b"x");
                (PublicKey::from_bytes(key), b"x".to_vec(), Signature::from_bytes(signature))
            })
            .collect();
        assert!(signatures.are_valid(&claims).into_iter().all(|valid| valid));
        assert_eq!(signatures.authors.lock().unwrap().known.len(), AUTHORS_MAX);
    }

    proptest! {
        #[test]
        fn mixed_lists_are_judged_one_by_one(
            authors in proptest::collection::vec((0..4_u8, any::<bool>(), any::<[u8; 3]>()), 0..200),
        ) {
            let claims: Vec<Claim> = authors.iter().map(|(seed, honest, message)| {
                let (key, signature) = signed(*seed, if *honest { message } else { b"other" });
                (PublicKey::from_bytes(key), message.to_vec(), Signature::from_bytes(signature))
            }).collect();
            let valid = Signatures::default().are_valid(&claims);
            prop_assert_eq!(valid, authors.iter().map(|(_, honest, _)| *honest).collect::<Vec<_>>());
        }
    }
}
