//! Keys by their seeds, and signatures, each made once per thread.

use std::cell::RefCell;
use std::collections::HashMap;

use ed25519_dalek::SigningKey;
use osmoda_types::statement::{self, public_key};
use osmoda_types::{PublicKey, Signature};

use super::words::By;

/// The seed of the operator's key. Making a key from it is slow, so only seeds are passed on.
pub const ANN: u8 = 200;
/// The seed of a principal that may only approve.
pub const BOB: u8 = 201;
/// The seed of somebody's key.
pub const EVE: u8 = 202;

/// The seed of a node's identity key.
pub fn identity(node: u8) -> u8 {
    100 + node
}

/// The seed of a node's ledger key.
pub fn ledger_key(node: u8) -> u8 {
    170 + node
}

pub(super) fn ballot_key(node: u8) -> u8 {
    150 + node
}

/// The key that is named, and the one that signs.
pub(super) fn signer(by: By) -> (u8, u8) {
    match by {
        By::Ann => (ANN, ANN),
        By::Bob => (BOB, BOB),
        By::Eve => (EVE, EVE),
        By::Forged => (ANN, EVE),
    }
}

thread_local! {
    /// Signing is the slowest part of a history, and the same statements recur.
    static SIGNED: RefCell<HashMap<(u8, Vec<u8>), Signature>> = RefCell::new(HashMap::new());
    static KEYS: RefCell<HashMap<u8, PublicKey>> = RefCell::new(HashMap::new());
}

fn signing_key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// The public key of a seed.
pub fn public(seed: u8) -> PublicKey {
    KEYS.with_borrow_mut(|keys| *keys.entry(seed).or_insert_with(|| public_key(&signing_key(seed))))
}

/// The signature of a seed's key over a statement.
pub fn sign(seed: u8, message: Vec<u8>) -> Signature {
    SIGNED.with_borrow_mut(|signed| {
        *signed
            .entry((seed, message))
            .or_insert_with_key(|(seed, message)| statement::sign(&signing_key(*seed), message))
    })
}
