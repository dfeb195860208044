//! A 32-byte secret that travels in JSON as hex, is wiped when dropped and
//! prints as nothing.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// 32 secret bytes. Invariant: `Debug` never shows them
/// (`tests::a_secret_is_not_formatted_and_reads_back`).
#[derive(Clone)]
pub struct SecretBytes(Zeroizing<[u8; 32]>);

impl SecretBytes {
    /// Wraps the bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for a key derivation or a key file.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for SecretBytes {
    fn eq(&self, other: &Self) -> bool {
        bool::from(self.0.ct_eq(&*other.0))
    }
}

impl Eq for SecretBytes {}

impl std::fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretBytes(..)")
    }
}

impl Serialize for SecretBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(data_encoding::HEXLOWER.encode(&self.0[..])))
    }
}

impl<'de> Deserialize<'de> for SecretBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map(Zeroizing::new).ok();
        let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(&bytes[..]).ok());
        // The text itself is a secret, so the error does not repeat it.
        bytes.map(Self::new).ok_or_else(|| serde::de::Error::custom("a secret must be 64 lower-case hex digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_formatted_and_reads_back() {
        let secret = SecretBytes::new([0xab; 32]);
        assert_eq!(format!("{secret:?}"), "SecretBytes(..)");
        let text = serde_json::to_string(&secret).unwrap();
        assert_eq!(serde_json::from_str::<SecretBytes>(&text).unwrap(), secret);
        let error = serde_json::from_str::<SecretBytes>("\"abcd\"").unwrap_err();
        assert!(!error.to_string().contains("abcd"));
    }
}
