//! Lengths of functions and files, by counting braces.
//!
//! A function's length is its lines of code from `fn` to its closing brace:
//! blank lines and lines that hold only a comment do not count, so explaining
//! never costs. A file's length leaves out its `#[cfg(test)]` modules.

use super::mask::Masked;

/// One function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) first_line: usize,
    pub(crate) lines: usize,
}

/// Every function that has a body, nested ones included.
pub(crate) fn functions(masked: &Masked) -> Vec<Function> {
    let code = &masked.code;
    words(code, "fn")
        .filter_map(|start| {
            let name: String =
                code[start + 2..].trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let open = body_start(code, start)?;
            let close = matching_brace(code, open)?;
            let lines = code[start..=close].lines().filter(|line| !line.trim().is_empty()).count();
            (!name.is_empty()).then(|| Function { name, first_line: masked.line_of(start), lines })
        })
        .collect()
}

/// Lines of the file without its test modules; every other line counts.
pub(crate) fn lines_outside_tests(masked: &Masked) -> usize {
    let code = &masked.code;
    let all = code.lines().count();
    let mut tests = 0;
    let mut from = 0;
    while let Some(found) = code[from..].find("#[cfg(test)]") {
        let start = from + found;
        from = start + 1;
        let after = code[start + "#[cfg(test)]".len()..].trim_start();
        if !after.starts_with("mod ") && !after.starts_with("pub(crate) mod ") {
            continue;
        }
        let Some(open) = body_start(code, start + "#[cfg(test)]".len()) else { continue };
        let Some(close) = matching_brace(code, open) else { continue };
        tests += masked.line_of(close) - masked.line_of(start) + 1;
        from = close;
    }
    all - tests
}

/// Positions where `word` stands alone.
pub(crate) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part_of_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    code.match_indices(word).map(|(start, _)| start).filter(move |start| {
        let bytes = code.as_bytes();
        let before = start.checked_sub(1).is_some_and(|index| part_of_word(bytes[index]));
        let after = bytes.get(start + word.len()).is_some_and(|byte| part_of_word(*byte));
        !before && !after
    })
}

/// The opening brace of the item at `start`; `None` when it ends in a semicolon.
fn body_start(code: &str, start: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (offset, byte) in code.as_bytes()[start..].iter().enumerate() {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b';' if depth == 0 => return None,
            b'{' if depth == 0 => return Some(start + offset),
            _ => {}
        }
        if depth < 0 {
            // `fn` was a type inside someone's argument list.
            return None;
        }
    }
    None
}

fn matching_brace(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (offset, byte) in code.as_bytes()[open..].iter().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(open + offset);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_blank_lines_do_not_count() {
        let source = "fn long(\n  a: [u8; 2],\n) {\n\n  // why\n  if a { '}' } else { \"}\" }\n}\nfn declared();\n";
        let found = functions(&Masked::new(source));
        assert_eq!(found, [Function { name: "long".to_owned(), first_line: 1, lines: 5 }]);
    }

    #[test]
    fn a_function_type_is_no_function() {
        let found = functions(&Masked::new("struct S { f: fn(u8) -> u8, g: u8 }\nfn real() {}\n"));
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn test_modules_do_not_count() {
        let source = "//! x\nfn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\n";
        assert_eq!(lines_outside_tests(&Masked::new(source)), 2);
    }
}
