//! The payload of a row: rule L3 of `trust.md` 1.3. *Pure.*
//!
//! Invariant: a [`Payload`] is a JSON object in the canonical form of RFC 8785
//! (JCS), of at most 60 KiB; every way to make one checks it.
//!
//! Stricter than JSON on purpose, so that two readers can never see different
//! things in one record: no duplicate keys (most parsers keep the last
//! silently), and no number outside ±(2⁵³ − 1), which JCS would round; such a
//! number is written as a string (RFC 7493, section 2.2).
//!
//! This file does not look for secrets; that is `redact.rs`.

use serde_json::{Map, Value};

use crate::canonical::sure_look;
use crate::strict::SAFE_INTEGER_MAX;
pub use crate::strict::StrictValue;

/// Largest payload, in bytes of its canonical form. Bounded by the 16-bit
/// lengths of a C2SP entry bundle (`trust.md` 1.3, L3), which will carry whole
/// records: 60 KiB leaves room for the other columns.
pub const PAYLOAD_BYTES_MAX: usize = 60 * 1024;

/// Why a text is no payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// It is not JSON, has a duplicate key, or a number out of range.
    #[error("payload is not strict JSON: {0}")]
    Json(String),
    /// It is JSON but not an object.
    #[error("payload is not a JSON object")]
    NotObject,
    /// Its canonical form is over [`PAYLOAD_BYTES_MAX`].
    #[error("payload is {bytes} bytes, the limit is {PAYLOAD_BYTES_MAX}")]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
    },
    /// It is an object, but not written in canonical form.
    #[error("payload is not in canonical form (RFC 8785)")]
    NotCanonical,
}

/// A canonical JSON object, ready to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload(String);

impl Payload {
    /// Brings an object into canonical form.
    ///
    /// # Errors
    /// [`PayloadError::TooLarge`]; [`PayloadError::Json`] when a number is
    /// outside ±(2⁵³ − 1).
    pub fn new(object: &Map<String, Value>) -> Result<Self, PayloadError> {
        object.values().try_for_each(check_numbers)?;
        let text =
            if is_plain(object) { serde_json::to_string(object) } else { serde_json_canonicalizer::to_string(object) }
                .map_err(|e| PayloadError::Json(e.to_string()))?;
        if text.len() > PAYLOAD_BYTES_MAX {
            return Err(PayloadError::TooLarge { bytes: text.len() });
        }
        Ok(Self(text))
    }

    /// Checks bytes that should already be canonical, as stored rows are.
    ///
    /// # Errors
    /// Each [`PayloadError`]: the bytes are too many, not strict JSON, not an
    /// object, or not in canonical form.
    pub fn check(bytes: &[u8]) -> Result<Map<String, Value>, PayloadError> {
        if bytes.len() > PAYLOAD_BYTES_MAX {
            return Err(PayloadError::TooLarge { bytes: bytes.len() });
        }
        let value: StrictValue = serde_json::from_slice(bytes).map_err(|e| PayloadError::Json(e.to_string()))?;
        let Value::Object(object) = value.0 else {
            return Err(PayloadError::NotObject);
        };
        if Self::new(&object)?.0.as_bytes() == bytes { Ok(object) } else { Err(PayloadError::NotCanonical) }
    }

    /// As [`Payload::check`], for whoever does not need the object: most
    /// payloads are told at a glance.
    ///
    /// # Errors
    /// As [`Payload::check`].
    pub fn check_form(bytes: &[u8]) -> Result<(), PayloadError> {
        Self::check_intent(bytes).map(|_| ())
    }

    /// As [`Payload::check_form`]; returns the number under `intent`, where there
    /// is one and it is a whole number.
    ///
    /// # Errors
    /// As [`Payload::check`].
    pub fn check_intent(bytes: &[u8]) -> Result<Option<u64>, PayloadError> {
        if bytes.len() <= PAYLOAD_BYTES_MAX
            && let Some(seen) = sure_look(bytes)
        {
            return Ok(seen.intent);
        }
        Self::check(bytes).map(|object| object.get("intent").and_then(Value::as_u64))
    }

    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether the compact form of `serde_json` is already the canonical one, at a
/// fifth of the cost: keys in order, each below U+E000 (there the order of
/// UTF-8 and that of UTF-16, which JCS asks for, are the same), no fractions.
/// Both write strings alike. Test `the_short_way_and_the_library_agree`.
fn is_plain(object: &Map<String, Value>) -> bool {
    /// The first byte of U+E000 in UTF-8; every later character begins higher.
    const LEAD_BYTE_E000: u8 = 0xee;
    let mut last: Option<&str> = None;
    object.iter().all(|(key, value)| {
        let follows = last.is_none_or(|last| last < key.as_str());
        last = Some(key);
        follows && key.bytes().all(|b| b < LEAD_BYTE_E000) && is_plain_value(value)
    })
}

fn is_plain_value(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.is_f64(),
        Value::Array(items) => items.iter().all(is_plain_value),
        Value::Object(object) => is_plain(object),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

fn check_numbers(value: &Value) -> Result<(), PayloadError> {
    match value {
        Value::Number(number) if !is_safe(number) => {
            Err(PayloadError::Json(format!("number {number} is outside ±(2^53 - 1); write it as a string")))
        }
        Value::Array(items) => items.iter().try_for_each(check_numbers),
        Value::Object(object) => object.values().try_for_each(check_numbers),
        _ => Ok(()),
    }
}

fn is_safe(number: &serde_json::Number) -> bool {
    if let Some(n) = number.as_u64() {
        n <= SAFE_INTEGER_MAX
    } else if let Some(n) = number.as_i64() {
        n.unsigned_abs() <= SAFE_INTEGER_MAX
    } else {
        // Exact: 2^53 - 1 is a double.
        number.as_f64().is_some_and(|n| n.abs() <= SAFE_INTEGER_MAX as f64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(), PayloadError>) {
        assert_eq!(Payload::check(text.as_bytes()).map(|_| ()), expected, "{text}");
    }

    #[test]
    fn canonical_objects_are_accepted_as_they_are() {
        for text in ["{}", r#"{"a":1,"b":[true,null,"x|y"],"c":{"d":1.5}}"#, r#"{"é":"\n","😂":"\u0001"}"#] {
            check(text, Ok(()));
        }
    }

    #[test]
    fn every_other_spelling_is_refused() {
        for text in [
            "{ }",
            r#"{"b":1,"a":1}"#,
            r#"{"a":1.0}"#,
            r#"{"a":1e2}"#,
            r#"{"a":-0}"#,
            r#"{"a":"\u0041"}"#,
            r#"{"a":"\/"}"#,
            "{}\n",
        ] {
            check(text, Err(PayloadError::NotCanonical));
        }
    }

    #[test]
    fn what_is_no_object_or_no_strict_json_is_refused() {
        check("[]", Err(PayloadError::NotObject));
        check("\"x\"", Err(PayloadError::NotObject));
        for text in [
            "",
            "{",
            "{}{}",
            "NaN",
            r#"{"a":NaN}"#,
            r#"{"a":1e999}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"b":{"a":1,"\u0061":1}}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":9007199254740992}"#,
            r#"{"a":-9007199254740992}"#,
            r#"{"a":12345678901234567890123}"#,
            "{\"a\":\"\n\"}",
        ] {
            assert!(matches!(Payload::check(text.as_bytes()), Err(PayloadError::Json(_))), "{text}");
        }
        assert!(matches!(Payload::check(b"{\"a\":\"\xff\"}"), Err(PayloadError::Json(_))));
        let deep = format!("{}1{}", "{\"a\":".repeat(500), "}".repeat(500));
        assert!(matches!(Payload::check(deep.as_bytes()), Err(PayloadError::Json(_))));
    }

    #[test]
    fn plain_payloads_are_told_at_a_glance() {
        for text in ["{}", r#"{"a":-12,"b":[true,null,"x|y\n",[]],"c":{"d":0,"é":""}}"#.replace("é", "e").as_str()] {
            assert!(sure_look(text.as_bytes()).is_some(), "{text}");
        }
        for text in ["", "{", "{}{}", "[]", r#"{"b":1,"a":1}"#, r#"{"a":1,"a":1}"#, r#"{"a":01}"#, r#"{"a":-0}"#] {
            assert!(sure_look(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn the_intent_is_seen_at_a_glance() {
        for (text, intent) in [
            (r#"{"intent":12,"ok":true}"#, Some(12)),
            (r#"{"a":{"intent":3},"intent":0}"#, Some(0)),
            (r#"{"a":{"intent":3}}"#, None),
            (r#"{"intent":-1}"#, None),
            (r#"{"intent":"1"}"#, None),
            (r#"{"intent":[1]}"#, None),
            (r#"{"intents":1}"#, None),
        ] {
            assert_eq!(sure_look(text.as_bytes()).unwrap().intent, intent, "{text}");
            assert_eq!(Payload::check_intent(text.as_bytes()), Ok(intent), "{text}");
        }
    }

    #[test]
    fn the_size_limit_is_exact() {
        let object = |bytes: usize| Map::from_iter([("a".to_owned(), Value::from("x".repeat(bytes - 8)))]);
        assert_eq!(Payload::new(&object(PAYLOAD_BYTES_MAX)).unwrap().as_str().len(), PAYLOAD_BYTES_MAX);
        let over = PAYLOAD_BYTES_MAX + 1;
        assert_eq!(Payload::new(&object(over)), Err(PayloadError::TooLarge { bytes: over }));
    }

    #[test]
    fn the_largest_safe_integers_survive() {
        check(r#"{"a":9007199254740991,"b":-9007199254740991}"#, Ok(()));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-9_007_199_254_740_991..=9_007_199_254_740_991_i64).prop_map(Value::from),
            (-1e15..1e15_f64).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            let key = prop_oneof![any::<String>(), "[a-z_]{1,8}", "[\u{d000}-\u{ffff}\u{10000}-\u{10fff}]{1,3}"];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::vec((key, inner), 0..5)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_short_way_and_the_library_agree(value in any_value()) {
            let object = Map::from_iter([("value".to_owned(), value)]);
            let library = serde_json_canonicalizer::to_string(&object).unwrap();
            let payload = Payload::new(&object).unwrap();
            prop_assert_eq!(payload.as_str(), library);
            prop_assert!(Payload::check(payload.as_str().as_bytes()).is_ok());
        }

        #[test]
        fn what_the_quick_look_accepts_the_full_check_accepts(
            value in any_value(),
            at: prop::sample::Index,
            byte in prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\",:0123456789-.eE \\ntu".to_vec())],
        ) {
            let mut bytes =
                Payload::new(&Map::from_iter([("intent".to_owned(), value.clone()), ("value".to_owned(), value)]))
                    .unwrap()
                    .0
                    .into_bytes();
            let place = at.index(bytes.len());
            bytes[place] = byte;
            if let Some(seen) = sure_look(&bytes) {
                let full = Payload::check(&bytes);
                prop_assert!(full.is_ok(), "{}", String::from_utf8_lossy(&bytes));
                prop_assert_eq!(seen.intent, full.unwrap().get("intent").and_then(Value::as_u64));
            }
        }

        #[test]
        fn canonical_form_is_a_fixed_point(text in "\\PC{0,40}", number in -1e15..1e15_f64, flag: bool) {
            let object = Map::from_iter([
                (text.clone(), Value::from(number)),
                ("k".to_owned(), Value::from(vec![Value::from(text), Value::from(flag)])),
            ]);
            let payload = Payload::new(&object).unwrap();
            let again = Payload::check(payload.as_str().as_bytes()).unwrap();
            prop_assert_eq!(Payload::new(&again).unwrap(), payload);
        }
    }
}
