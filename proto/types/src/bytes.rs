//! Fixed-size byte newtypes that read and write as lower-case hex.
//!
//! Invariant: a value of such a type has exactly its length; every way in
//! (`FromStr`, serde, `TryFrom<&[u8]>`) checks it.

/// A text or byte slice that is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} must be {expected} bytes of lower-case hex, got {got:?}")]
pub struct IdError {
    /// The name of the type that was asked for.
    pub kind: &'static str,
    /// Its length in bytes.
    pub expected: usize,
    /// The offending text, cut to 80 characters.
    pub got: String,
}

impl IdError {
    pub(crate) fn new(kind: &'static str, expected: usize, got: &str) -> Self {
        Self { kind, expected, got: got.chars().take(80).collect() }
    }
}

/// Declares a newtype over `[u8; $len]` with hex text, serde and ordering.
macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// Wraps the bytes as they are.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The first eight hex digits, for people; never for lookup.
            #[must_use]
            pub fn short(&self) -> String {
                data_encoding::HEXLOWER.encode(&self.0[..4])
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::bytes::IdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let wrong = || $crate::bytes::IdError::new(stringify!($name), $len, text);
                if text.len() != 2 * $len {
                    return Err(wrong());
                }
                let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(|_| wrong())?;
                Ok(Self(bytes.try_into().map_err(|_| wrong())?))
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = $crate::bytes::IdError;
            fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
                bytes.try_into().map(Self).map_err(|_| {
                    $crate::bytes::IdError::new(
                        stringify!($name),
                        $len,
                        &data_encoding::HEXLOWER.encode(&bytes[..bytes.len().min(40)]),
                    )
                })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use hex_id;
