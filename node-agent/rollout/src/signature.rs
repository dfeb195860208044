//! Checking signatures. In tests the result is remembered, because 100,000
//! histories ask the same few thousand questions; the first answer is real.

use osmoda_types::{ErrorCode, PublicKey, Signature, statement};

#[cfg(not(test))]
pub(crate) fn verify(key: &PublicKey, message: &[u8], signature: &Signature) -> Result<(), ErrorCode> {
    statement::verify(key, message, signature)
}

#[cfg(test)]
pub(crate) fn verify(key: &PublicKey, message: &[u8], signature: &Signature) -> Result<(), ErrorCode> {
    use std::cell::RefCell;
    use std::collections::HashMap;
    type Known = HashMap<(PublicKey, Signature, Vec<u8>), Result<(), ErrorCode>>;
    thread_local! {
        static KNOWN: RefCell<Known> = RefCell::new(HashMap::new());
    }
    KNOWN.with_borrow_mut(|known| {
        *known.entry((*key, *signature, message.to_vec())).or_insert_with(|| statement::verify(key, message, signature))
    })
}
