//! JSON with exactly one reading, and its canonical form. *Pure.*
//!
//! Invariant: what [`parse`] returns holds only what a reader of any language
//! sees in the text: no duplicate keys, no fractions or exponents, no integers
//! a double would round, no lone surrogates. Canonical form is RFC 8785.

use osmoda_ledger::strict::{SAFE_INTEGER_MAX, StrictValue};
use serde::de::{Deserialize, Deserializer, Error as _};
use serde_json::Value;

/// Largest text of a call in bytes: a page of configuration with its frame.
/// Larger content has no place in a thing that a person must read and approve.
pub const TEXT_BYTES_MAX: usize = 128 * 1024;

/// The text has no single reading.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonFault {
    /// It is longer than [`TEXT_BYTES_MAX`].
    #[error("{0} bytes are over the limit of {TEXT_BYTES_MAX}")]
    TooLarge(usize),
    /// Not strict JSON; the text says where.
    #[error("not strict JSON: {0}")]
    Strict(String),
}

/// Reads a text.
///
/// # Errors
/// [`JsonFault`].
pub fn parse(text: &[u8]) -> Result<Value, JsonFault> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(JsonFault::TooLarge(text.len()));
    }
    let value: Strict = serde_json::from_slice(text).map_err(|error| JsonFault::Strict(error.to_string()))?;
    Ok(value.0)
}

/// Checks a value that was made in memory as [`parse`] checks a text.
///
/// # Errors
/// [`JsonFault::Strict`].
pub fn check(value: &Value) -> Result<(), JsonFault> {
    check_numbers(value).map_err(JsonFault::Strict)
}

fn check_numbers(value: &Value) -> Result<(), String> {
    match value {
        Value::Number(number) if !is_safe(number) => Err(format!("number {number} is no integer within 2^53 - 1")),
        Value::Array(items) => items.iter().try_for_each(check_numbers),
        Value::Object(object) => object.values().try_for_each(check_numbers),
        _ => Ok(()),
    }
}

/// The canonical text of a value (RFC 8785).
///
/// # Errors
/// As [`check`].
pub fn canonical(value: &Value) -> Result<String, JsonFault> {
    check(value)?;
    serde_json_canonicalizer::to_string(value).map_err(|error| JsonFault::Strict(error.to_string()))
}

fn is_safe(number: &serde_json::Number) -> bool {
    match (number.as_u64(), number.as_i64()) {
        (Some(n), _) => n <= SAFE_INTEGER_MAX,
        (None, Some(n)) => n.unsigned_abs() <= SAFE_INTEGER_MAX,
        (None, None) => false,
    }
}

/// A JSON value with one reading, whose numbers are safe integers; for bodies
/// that hold a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Strict(pub Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let StrictValue(value) = StrictValue::deserialize(deserializer)?;
        check_numbers(&value).map_err(D::Error::custom)?;
        Ok(Self(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_with_two_readings_is_refused() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"{"a":1.0}"#,
            r#"{"a":1e2}"#,
            r#"{"a":-0}"#,
            r#"{"a":9007199254740992}"#,
            r#"{"a":-9007199254740992}"#,
            r#"{"a":123456789012345678901}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":"\udc00\ud800"}"#,
            r#"{"a":NaN}"#,
            r#"{"a":Infinity}"#,
            r#"{"a":1}x"#,
            r#"{"a":01}"#,
            r#"{"a":1,}"#,
            "{\"a\":\"\u{1}\"}",
            "",
        ] {
            assert!(matches!(parse(text.as_bytes()), Err(JsonFault::Strict(_))), "{text}");
        }
        assert!(parse(b"{\"a\":\"\xff\"}").is_err());
        assert!(parse(format!("{}1{}", "[".repeat(500), "]".repeat(500)).as_bytes()).is_err());
        assert_eq!(parse(&vec![b' '; TEXT_BYTES_MAX + 1]), Err(JsonFault::TooLarge(TEXT_BYTES_MAX + 1)));
    }

    #[test]
    fn one_value_has_one_canonical_text() {
        let one = parse(r#"{"b":[1,true,null],"a":"\u0041\/"}"#.as_bytes()).unwrap();
        let two = parse(r#" { "a" : "A/" , "b" : [1 , true , null] } "#.as_bytes()).unwrap();
        assert_eq!(canonical(&one).unwrap(), r#"{"a":"A/","b":[1,true,null]}"#);
        assert_eq!(canonical(&one), canonical(&two));
        assert!(canonical(&serde_json::json!({"a": 1.5})).is_err());
    }
}
