//! A value that is used but never shown.
//!
//! Invariant: no formatting, serialising or plain comparison of a secret
//! compiles or prints its content, and its memory is wiped when dropped.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// Wraps a key, token or password.
#[derive(Clone)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Wraps the value.
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value, for the one call that needs it; never for a log or an error.
    #[must_use]
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize + AsRef<[u8]>> Secret<T> {
    /// Compares in time that depends on the length only.
    #[must_use]
    pub fn matches(&self, other: &[u8]) -> bool {
        self.0.as_ref().ct_eq(other).into()
    }
}

impl Secret<[u8; 32]> {
    /// 32 fresh bytes of the system's generator.
    ///
    /// # Panics
    /// When the system has no randomness, which no program may survive.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the system generator of random bytes works");
        Self(bytes)
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_compared_but_not_shown() {
        let secret = Secret::new(*b"hunter22");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert!(secret.matches(b"hunter22"));
        assert!(!secret.matches(b"hunter23"));
        assert!(!secret.matches(b"hunter2"));
        assert!(!Secret::random().matches(Secret::random().expose()));
    }
}
