//! A quick look at a payload: is it *surely* in canonical form? *Pure.*
//!
//! A start of the daemon checks every payload there is, and reading each one
//! into a tree of values costs five times as much as hashing it. Nearly all of
//! them are plain: ASCII keys in order, integers, strings. Those this accepts
//! without allocating; about anything else it says nothing, and the full check
//! (`payload.rs`) decides.
//!
//! Invariant: what is accepted here, the full check accepts
//! (test `what_the_quick_look_accepts_the_full_check_accepts`).

/// Nesting up to which it looks; deeper is for the full check.
const DEPTH_MAX: usize = 32;

/// Digits of an integer that cannot reach 2⁵³.
const DIGITS_MAX: usize = 15;

/// What the quick look saw of an object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The whole number under `intent`.
    pub(crate) intent: Option<u64>,
}

/// Looks at bytes; `None` unless they are surely a canonical object.
pub(crate) fn sure_look(bytes: &[u8]) -> Option<Seen> {
    // UTF-8 is checked once and fast; the scanner may then skip what is not ASCII.
    std::str::from_utf8(bytes).ok()?;
    let mut look = Look { bytes, at: 0, intent: None };
    look.object(0)?;
    (look.at == bytes.len()).then_some(Seen { intent: look.intent })
}

struct Look<'a> {
    bytes: &'a [u8],
    at: usize,
    intent: Option<u64>,
}

impl<'a> Look<'a> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn eat(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        self.eat(b'{')?;
        if self.eat(b'}').is_some() {
            return Some(());
        }
        let mut last: Option<&[u8]> = None;
        loop {
            let key = self.key()?;
            // Plain ASCII keys sort by bytes as they sort by UTF-16 units.
            if last.is_some_and(|last| last >= key) {
                return None;
            }
            last = Some(key);
            self.eat(b':')?;
            let value = self.at;
            self.value(depth + 1)?;
            if depth == 0 && key == b"intent" {
                self.intent = whole(&self.bytes[value..self.at]);
            }
            if self.eat(b'}').is_some() {
                return Some(());
            }
            self.eat(b',')?;
        }
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        self.eat(b'[')?;
        if self.eat(b']').is_some() {
            return Some(());
        }
        loop {
            self.value(depth + 1)?;
            if self.eat(b']').is_some() {
                return Some(());
            }
            self.eat(b',')?;
        }
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        match self.peek()? {
            b'"' => self.string(),
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => self.integer(),
        }
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.bytes[self.at..].starts_with(word).then(|| self.at += word.len())
    }

    /// A key without escapes, all of it ASCII.
    fn key(&mut self) -> Option<&'a [u8]> {
        self.eat(b'"')?;
        let from = self.at;
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(&self.bytes[from..self.at - 1]);
                }
                b'\\' | 0..=0x1f | 0x80.. => return None,
                _ => self.at += 1,
            }
        }
    }

    fn string(&mut self) -> Option<()> {
        self.eat(b'"')?;
        loop {
            self.skip_plain();
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                // The escapes that RFC 8785 asks for by name; `\u` is for the full check.
                b'\\'
                    if matches!(self.bytes.get(self.at + 1), Some(b'b' | b't' | b'n' | b'f' | b'r' | b'"' | b'\\')) =>
                {
                    self.at += 2;
                }
                b'\\' | 0..=0x1f => return None,
                _ => self.at += 1,
            }
        }
    }

    /// Goes on by eight bytes as long as none of them is a quote, a backslash or a
    /// control byte.
    fn skip_plain(&mut self) {
        while let Some(eight) = self.bytes[self.at..].first_chunk::<8>() {
            if has_special(u64::from_le_bytes(*eight)) {
                return;
            }
            self.at += 8;
        }
    }

    fn integer(&mut self) -> Option<()> {
        let is_negative = self.eat(b'-').is_some();
        let from = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        let digits = &self.bytes[from..self.at];
        let is_plain = match digits {
            [] => false,
            [b'0'] => !is_negative,
            [b'0', ..] => false,
            _ => digits.len() <= DIGITS_MAX,
        };
        // A point or an exponent makes whoever asked for a comma or an end fail.
        is_plain.then_some(())
    }
}

/// Whether any of eight bytes is a quote, a backslash or below a space. May say
/// yes of bytes that are none (the reader then looks at each), never no of one
/// that is.
const fn has_special(eight: u64) -> bool {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const TOPS: u64 = ONES << 7;
    // A byte below n borrows into its top bit; one with its top bit set is not ASCII.
    const fn below(eight: u64, n: u64) -> u64 {
        eight.wrapping_sub(ONES * n) & !eight & TOPS
    }
    const fn is(eight: u64, byte: u8) -> u64 {
        below(eight ^ (ONES * byte as u64), 1)
    }
    below(eight, 0x20) | is(eight, b'"') | is(eight, b'\\') != 0
}

/// The number that a value is, where it is a whole one of digits alone.
fn whole(value: &[u8]) -> Option<u64> {
    value.iter().try_fold(0_u64, |sum, b| b.is_ascii_digit().then(|| sum * 10 + u64::from(b - b'0')))
}
