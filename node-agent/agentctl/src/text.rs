//! Text from a ledger on a terminal. *Pure.*

use std::fmt;

/// Shows a text with everything escaped that could move the cursor, colour the
/// line or turn its direction: a damaged or hostile row must not lie about the
/// rows beside it.
pub(crate) struct Plain<'a>(pub(crate) &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            let is_turning = matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}');
            if c.is_control() || is_turning || c == '\u{feff}' {
                write!(f, "{}", c.escape_unicode())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_deceive_is_escaped_and_the_rest_stays() {
        assert_eq!(Plain("a \"é\" {1}").to_string(), "a \"é\" {1}");
        assert_eq!(Plain("\x1b[2J\u{202e}\n").to_string(), "\\u{1b}[2J\\u{202e}\\u{a}");
    }
}
