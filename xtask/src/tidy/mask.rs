//! A Rust source with strings and comments blanked out, byte for byte.
//!
//! Always holds: `code` and `comments` have the length and the line breaks of
//! the source, so a position in one is the same position in the others. This is
//! a scanner of tokens that can hide braces, not a parser.

/// One source file, split into what runs and what is said about it.
#[derive(Debug)]
pub(crate) struct Masked {
    /// The source with every comment and the inside of every literal as spaces.
    pub(crate) code: String,
    /// The source with everything but comments as spaces.
    pub(crate) comments: String,
}

impl Masked {
    /// Scans a source.
    pub(crate) fn new(source: &str) -> Self {
        let bytes = source.as_bytes();
        let mut scan = Scan { bytes, at: 0, code: Vec::with_capacity(bytes.len()), comments: Vec::new() };
        while scan.at < bytes.len() {
            scan.token();
        }
        let text = |bytes| String::from_utf8(bytes).expect("bytes outside ASCII are replaced or copied whole");
        Self { code: text(scan.code), comments: text(scan.comments) }
    }

    /// The line number, from 1, of a byte position.
    pub(crate) fn line_of(&self, position: usize) -> usize {
        1 + self.code.as_bytes()[..position].iter().filter(|byte| **byte == b'\n').count()
    }
}

struct Scan<'a> {
    bytes: &'a [u8],
    at: usize,
    code: Vec<u8>,
    comments: Vec<u8>,
}

/// Where a byte is kept; everywhere else it becomes a space.
#[derive(Clone, Copy)]
enum Keep {
    Code,
    Comment,
    Neither,
}

impl Scan<'_> {
    fn token(&mut self) {
        let rest = &self.bytes[self.at..];
        if rest.starts_with(b"//") {
            let length = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            self.take(length, Keep::Comment);
        } else if rest.starts_with(b"/*") {
            self.take(block_comment(rest), Keep::Comment);
        } else if let Some(length) = raw_string(rest, self.before()) {
            self.take(length, Keep::Neither);
        } else if rest[0] == b'"' {
            self.take(1, Keep::Code);
            self.take(string_inside(&self.bytes[self.at..]), Keep::Neither);
            self.take(1, Keep::Code);
        } else if rest[0] == b'\'' {
            self.take(character(rest), Keep::Neither);
        } else {
            self.take(1, Keep::Code);
        }
    }

    fn before(&self) -> Option<u8> {
        self.at.checked_sub(1).map(|index| self.bytes[index])
    }

    fn take(&mut self, length: usize, keep: Keep) {
        let end = (self.at + length).min(self.bytes.len());
        for byte in &self.bytes[self.at..end] {
            let blank = if *byte == b'\n' { b'\n' } else { b' ' };
            // A character outside ASCII is several bytes: blanked, so that both texts stay UTF-8.
            let plain = if byte.is_ascii() { *byte } else { blank };
            self.code.push(if matches!(keep, Keep::Code) { plain } else { blank });
            self.comments.push(if matches!(keep, Keep::Comment) { plain } else { blank });
        }
        self.at = end;
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// Length of `r"…"`, `r#"…"#`, `br#"…"#` at the start, if one is there.
fn raw_string(rest: &[u8], before: Option<u8>) -> Option<usize> {
    if before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return None;
    }
    let prefix = [b"br".as_slice(), b"cr", b"r"].into_iter().find(|prefix| rest.starts_with(prefix))?;
    let hashes = rest[prefix.len()..].iter().take_while(|byte| **byte == b'#').count();
    let open = prefix.len() + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let inside = &rest[open + 1..];
    let length = inside.windows(close.len()).position(|window| window == close)?;
    Some(open + 1 + length + close.len())
}

fn string_inside(rest: &[u8]) -> usize {
    let mut at = 0;
    while at < rest.len() && rest[at] != b'"' {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    at.min(rest.len())
}

/// Length of a character literal, or 1 for the quote of a lifetime.
fn character(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        let close = rest.iter().skip(3).position(|byte| *byte == b'\'');
        return close.map_or(1, |position| position + 4);
    }
    // One character of up to four bytes, then the closing quote.
    (2..=5).find(|index| rest.get(*index) == Some(&b'\'') && rest[1] != b'\'').map_or(1, |index| {
        let one = std::str::from_utf8(&rest[1..index]).is_ok_and(|text| text.chars().count() == 1);
        if one { index + 1 } else { 1 }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, code: &str) {
        assert_eq!(Masked::new(source).code, code);
    }

    #[test]
    fn braces_in_literals_and_comments_are_hidden() {
        check("a(\"{\") // {", "a(\" \")     ");
        check("r#\"{\"#;", "      ;");
        check("'{' '\\'' 'a str", "          a str");
        check("/* { /* } */ */x", "               x");
        check("\"\\\"{\" {", "\"   \" {");
    }

    #[test]
    fn lengths_and_lines_are_kept() {
        let source = "let x = \"é\nü\"; // ö\nfn f() {}\n";
        let masked = Masked::new(source);
        assert_eq!(masked.code.len(), source.len());
        assert_eq!(masked.comments.len(), source.len());
        assert_eq!(masked.line_of(source.len() - 1), 3);
    }
}
