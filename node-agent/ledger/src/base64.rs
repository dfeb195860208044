//! Standard base64 with padding, in its one spelling. *Pure.*

use data_encoding::BASE64;

/// The bytes of a text that encoding them gives again.
///
/// The library refuses trailing bits, white space and missing padding; but two
/// texts with padding, one behind the other, it reads as one.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let bytes = BASE64.decode(text.as_bytes()).ok()?;
    (BASE64.encode(&bytes) == text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_one_spelling() {
        assert_eq!(decode("AAEC").as_deref(), Some(&[0, 1, 2][..]));
        assert_eq!(decode("AA==").as_deref(), Some(&[0][..]));
        for bad in ["AA==AQ==", "AAE=AAE=", "AA==AAEC", "AAECAA", "AA=", "AB==", "AAEC\n", " AAEC", "-_8="] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
