//! Which rows a timeframe means. *Pure.*
//!
//! The earlier product documented `7d` and did a prefix match on the time, so
//! that `7d` found nothing (`weaknesses.md` A12). Both are taken here: a span
//! back from now, a prefix of a time, and a range of two of them.
//! Receipts use the same words for `since`.

use std::time::Duration;

use osmoda_kit::clock::Timestamp;

/// A half-open range of row times, as they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Timeframe {
    /// Rows of this time or later.
    pub(crate) from: String,
    /// Rows before this time; `None` for no end.
    pub(crate) until: Option<String>,
}

/// The text means no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("timeframe is none of: a span such as 7d, 12h, 30m or 2w; a time or a prefix of one such as 2026-11; A..B")]
pub(crate) struct NotATimeframe;

/// Reads a timeframe.
///
/// # Errors
/// [`NotATimeframe`].
pub(crate) fn parse(text: &str, now: Timestamp) -> Result<Timeframe, NotATimeframe> {
    let text = text.trim();
    if let Some((from, until)) = text.split_once("..") {
        let until = if until.is_empty() { None } else { Some(after(bound(until, now)?)) };
        let from = if from.is_empty() { String::new() } else { bound(from, now)? };
        return Ok(Timeframe { from, until });
    }
    let from = bound(text, now)?;
    let until = is_prefix(text).then(|| after(from.clone()));
    Ok(Timeframe { from, until })
}

/// One end of a range: a span back from now, or a time.
///
/// # Errors
/// [`NotATimeframe`].
pub(crate) fn bound(text: &str, now: Timestamp) -> Result<String, NotATimeframe> {
    if is_prefix(text) {
        return Ok(text.replace(' ', "T"));
    }
    span(text).map(|span| {
        let back = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        // Before 1970 there are no rows, and a time of the year -5000 does not sort.
        Timestamp::from_millis(now.as_millis().saturating_sub(back).max(0)).to_string()
    })
}

/// The first text that sorts behind every time with this prefix.
fn after(mut prefix: String) -> String {
    prefix.push('~');
    prefix
}

/// Whether the text is a time or the beginning of one, of at least a year.
fn is_prefix(text: &str) -> bool {
    const SHAPE: &[u8; 24] = b"0000-00-00T00:00:00.000Z";
    (4..=SHAPE.len()).contains(&text.len())
        && text.bytes().zip(SHAPE).all(|(byte, shape)| match shape {
            b'0' => byte.is_ascii_digit(),
            b'T' => matches!(byte, b'T' | b' '),
            shape => byte == *shape,
        })
}

fn span(text: &str) -> Result<Duration, NotATimeframe> {
    let unit = text.chars().next_back().ok_or(NotATimeframe)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        'y' => 365 * 86_400,
        _ => return Err(NotATimeframe),
    };
    let number = text.strip_suffix(unit).unwrap_or(text).trim();
    if number.is_empty() || number.len() > 6 || !number.bytes().all(|b| b.is_ascii_digit()) {
        return Err(NotATimeframe);
    }
    let number: u64 = number.parse().map_err(|_| NotATimeframe)?;
    Ok(Duration::from_secs(number * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-22T12:00:00.000Z.
    const NOW: i64 = 1_795_348_800_000;

    #[track_caller]
    fn check(text: &str, from: &str, until: Option<&str>) {
        let expected = Timeframe { from: from.to_owned(), until: until.map(str::to_owned) };
        assert_eq!(parse(text, Timestamp::from_millis(NOW)), Ok(expected), "{text}");
    }

    #[test]
    fn spans_prefixes_and_ranges_are_understood() {
        check("7d", "2026-11-15T12:00:00.000Z", None);
        check("24h", "2026-11-21T12:00:00.000Z", None);
        check("30m", "2026-11-22T11:30:00.000Z", None);
        check("2w", "2026-11-08T12:00:00.000Z", None);
        check("999999y", "1970-01-01T00:00:00.000Z", None);
        check("2026-11", "2026-11", Some("2026-11~"));
        check("2026-11-22 10:1", "2026-11-22T10:1", Some("2026-11-22T10:1~"));
        check("2026-10..2026-11", "2026-10", Some("2026-11~"));
        check("..7d", "", Some("2026-11-15T12:00:00.000Z~"));
        check("7d..", "2026-11-15T12:00:00.000Z", None);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["", "d", "7", "7 years", "-7d", "1e9d", "9999999d", "20", "abcd", "2026/11", "2026-11-22T10:00:00.000ZZ"]
        {
            assert_eq!(parse(text, Timestamp::from_millis(NOW)), Err(NotATimeframe), "{text}");
        }
    }

    #[test]
    fn the_end_of_a_range_holds_its_whole_prefix() {
        let frame = parse("2026-11", Timestamp::from_millis(NOW)).unwrap();
        let until = frame.until.unwrap();
        assert!("2026-11-30T23:59:59.999Z" < until.as_str() && until.as_str() < "2026-12-01T00:00:00.000Z");
    }
}
