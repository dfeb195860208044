//! The grammar of a row: rules L1 and L2 of `trust.md` 1.3, and which types
//! are intents and outcomes. *Pure.*
//!
//! - L1: `id` counts from 1 without gaps; `ts` is exactly 24 bytes and never
//!   goes back (both are checked over the sequence, in `verify.rs`).
//! - L2: `type` and `actor` match `[a-z0-9_.:@/-]{1,64}`, so neither can hold
//!   the separator of the hash's pre-image.
//! - L3, the payload, is in `payload.rs`.

/// Longest `type` or `actor`, in bytes (rule L2).
pub const NAME_BYTES_MAX: usize = 64;

/// Length of a `ts`, in bytes: `YYYY-MM-DDTHH:MM:SS.mmmZ`.
pub const TS_BYTES: usize = 24;

/// The first half of an act: what is about to be done.
pub const INTENT_SUFFIX: &str = ".intent";

/// The second half of an act: how it ended. Its payload names the intent's id.
pub const OUTCOME_SUFFIX: &str = ".outcome";

/// How a row breaks the grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarFault {
    /// The id does not follow the one before.
    #[error("id is {found}, expected {expected}")]
    Id {
        /// The id that should stand here.
        expected: i64,
        /// The id that does.
        found: i64,
    },
    /// The time is not `YYYY-MM-DDTHH:MM:SS.mmmZ`.
    #[error("ts is not YYYY-MM-DDTHH:MM:SS.mmmZ")]
    Ts,
    /// The time is before that of the row before.
    #[error("ts is before the row before")]
    TsBack,
    /// The type is empty, too long, or has a byte outside the alphabet.
    #[error("type does not match [a-z0-9_.:@/-]{{1,64}}")]
    Type,
    /// The actor is empty, too long, or has a byte outside the alphabet.
    #[error("actor does not match [a-z0-9_.:@/-]{{1,64}}")]
    Actor,
    /// The payload breaks rule L3.
    #[error(transparent)]
    Payload(#[from] crate::payload::PayloadError),
}

/// Whether the bytes are a `type` or an `actor` (rule L2).
#[must_use]
pub fn is_name(bytes: &[u8]) -> bool {
    (1..=NAME_BYTES_MAX).contains(&bytes.len())
        && bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b':' | b'@' | b'/' | b'-'))
}

/// Whether the bytes are a time of exactly the stored form, and a real one.
#[must_use]
pub fn is_ts(bytes: &[u8]) -> bool {
    const SHAPE: &[u8; TS_BYTES] = b"0000-00-00T00:00:00.000Z";
    let same_shape = bytes.len() == TS_BYTES
        && bytes.iter().zip(SHAPE).all(|(b, shape)| match shape {
            b'0' => b.is_ascii_digit(),
            other => b == other,
        });
    if !same_shape {
        return false;
    }
    let number =
        |range: std::ops::Range<usize>| bytes[range].iter().fold(0_u32, |sum, b| sum * 10 + u32::from(b - b'0'));
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let leap = (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    let days = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 31,
    };
    (1..=12).contains(&month)
        && (1..=days).contains(&day)
        && number(11..13) < 24
        && number(14..16) < 60
        && number(17..19) < 60
}

/// The part of an act's type before `.intent`, if it is one.
#[must_use]
pub fn intent_stem(kind: &[u8]) -> Option<&[u8]> {
    kind.strip_suffix(INTENT_SUFFIX.as_bytes())
}

/// The part of an act's type before `.outcome`, if it is one.
#[must_use]
pub fn outcome_stem(kind: &[u8]) -> Option<&[u8]> {
    kind.strip_suffix(OUTCOME_SUFFIX.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_the_alphabet_and_the_length() {
        for good in ["a", "daemon.start", "fleet:x/y@z_0-9", &"a".repeat(64)] {
            assert!(is_name(good.as_bytes()), "{good}");
        }
        for bad in ["", "A", "a b", "a|b", "a\n", "a\0", "é", &"a".repeat(65)] {
            assert!(!is_name(bad.as_bytes()), "{bad:?}");
        }
    }

    #[test]
    fn times_are_of_the_stored_form_and_real() {
        for good in ["2026-01-02T03:04:05.678Z", "2024-02-29T23:59:59.999Z", "0000-02-29T00:00:00.000Z"] {
            assert!(is_ts(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "2026-01-02T03:04:05.678",
            "2026-01-02 03:04:05.678Z",
            "2026-01-02T03:04:05,678Z",
            "2026-01-02T03:04:05.678z",
            "2026-13-02T03:04:05.678Z",
            "2026-00-02T03:04:05.678Z",
            "2026-02-29T03:04:05.678Z",
            "2026-04-31T03:04:05.678Z",
            "2026-01-00T03:04:05.678Z",
            "2026-01-02T24:04:05.678Z",
            "2026-01-02T03:60:05.678Z",
            "2026-01-02T03:04:60.678Z",
            "2026-01-02T03:04:05.6789Z",
            "+026-01-02T03:04:05.678Z",
        ] {
            assert!(!is_ts(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn stems_name_the_act() {
        assert_eq!(intent_stem(b"watch.activate.intent"), Some(&b"watch.activate"[..]));
        assert_eq!(outcome_stem(b"watch.activate.outcome"), Some(&b"watch.activate"[..]));
        assert_eq!(intent_stem(b"daemon.start"), None);
    }
}
