//! The rules that look at one file's text, and the one on error pages.
//!
//! Words that are themselves refused are written here in pieces, so that this
//! file passes its own check.

use std::path::Path;

use anyhow::Context;

use super::functions::words as whole_words;
use super::mask::Masked;
use super::{Exceptions, Findings};

/// Text that belongs to one developer's machine and means nothing elsewhere.
const MACHINE_WORDS: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/mnt/sand", "boxing"), concat!("/tmp/bash", "_jobs"), concat!("/Use", "rs/")];

/// Macros that stand for something not built.
const STUB_MACROS: &[&str] = &[concat!("to", "do!"), concat!("unimple", "mented!")];

/// Calls that wait for time to pass instead of for something to happen.
const SLEEPS: &[&str] = &[
    concat!("thread::sl", "eep"),
    concat!("time::sl", "eep"),
    concat!("tokio::sl", "eep"),
    concat!("thread::yield", "_now"),
];

/// Sections every page of `docs/errors/` has.
const ERROR_PAGE_SECTIONS: &[&str] = &["## What it means", "## What to check", "## What to do"];

/// Refuses machine paths, in every kind of file.
pub(crate) fn words(path: &str, text: &str, findings: &mut Findings) {
    for (index, line) in text.lines().enumerate() {
        for word in MACHINE_WORDS.iter().filter(|word| line.contains(**word)) {
            findings.fault(path, index + 1, &format!("names a path of one machine: {word}"));
        }
    }
}

/// The first line says what the file is (STYLE.md 1).
pub(crate) fn header(path: &str, text: &str, findings: &mut Findings) {
    if !text.starts_with("//! ") {
        findings.fault(path, 1, "does not open with a `//!` header");
    }
}

/// Open notes in comments carry their issue number or do not land (STYLE.md 17).
pub(crate) fn comments(path: &str, masked: &Masked, findings: &mut Findings) {
    for position in whole_words(&masked.comments, concat!("FIX", "ME")) {
        findings.fault(path, masked.line_of(position), "a fix-me note may not land: mend it or open an issue");
    }
    let todo = concat!("TO", "DO");
    for position in whole_words(&masked.comments, todo) {
        let after = &masked.comments[position + todo.len()..];
        let number = after.strip_prefix("(#").and_then(|rest| rest.split_once(')')).map(|(number, _)| number);
        if !number.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())) {
            findings.fault(
                path,
                masked.line_of(position),
                "a to-do note names its issue: write `(#12)` after the word",
            );
        }
    }
}

/// Nothing stands for something not built, and no test is switched off.
pub(crate) fn forbidden_macros(path: &str, masked: &Masked, findings: &mut Findings) {
    for stub in STUB_MACROS {
        for (position, _) in masked.code.match_indices(stub) {
            findings.fault(
                path,
                masked.line_of(position),
                &format!("{stub} is refused: leave it out or fail with a code"),
            );
        }
    }
    let ignored = concat!("#[ig", "nore");
    for (position, _) in masked.code.match_indices(ignored) {
        findings.fault(path, masked.line_of(position), "no test is switched off: assert today's behaviour instead");
    }
}

/// Every allowed or expected lint says why.
pub(crate) fn attributes_have_reasons(path: &str, text: &str, masked: &Masked, findings: &mut Findings) {
    for opening in ["#[allow(", "#![allow(", "#[expect(", "#![expect("] {
        for (position, _) in masked.code.match_indices(opening) {
            let end = masked.code[position..].find(']').map_or(text.len(), |length| position + length);
            if !masked.code[position..end].contains("reason") {
                findings.fault(path, masked.line_of(position), "an allowed lint needs `reason = \"…\"`");
            }
        }
    }
}

/// Waiting for time to pass is allowed only where the list says why.
pub(crate) fn sleeps(path: &str, masked: &Masked, exceptions: &Exceptions, findings: &mut Findings) {
    for call in SLEEPS {
        for position in whole_words(&masked.code, call) {
            match exceptions.sleep.iter().find(|exception| exception.path == path) {
                Some(exception) => {
                    findings.used_exceptions.insert(exception.path.clone());
                }
                None => {
                    let what =
                        "sleeps: wait for a value with a limit, or list the file in xtask/tidy.toml with a reason";
                    findings.fault(path, masked.line_of(position), what);
                }
            }
        }
    }
}

/// Every error page says what it means, what to check and what to do.
pub(crate) fn error_pages(root: &Path, findings: &mut Findings) -> anyhow::Result<()> {
    let folder = root.join("docs/errors");
    let mut pages: Vec<_> = std::fs::read_dir(&folder)
        .with_context(|| format!("listing {}", folder.display()))?
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("listing {}", folder.display()))?
        .into_iter()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    pages.sort();
    for page in pages {
        let text = std::fs::read_to_string(&page).with_context(|| format!("reading {}", page.display()))?;
        let name = page.strip_prefix(root).unwrap_or(&page).display().to_string();
        for section in ERROR_PAGE_SECTIONS.iter().filter(|section| !text.contains(**section)) {
            findings.fault(&name, 1, &format!("has no section `{section}`"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(rule: impl Fn(&Masked, &mut Findings), source: &str) -> usize {
        let mut findings = Findings::default();
        rule(&Masked::new(source), &mut findings);
        findings.faults.len()
    }

    #[test]
    fn a_note_without_an_issue_is_refused() {
        let rule = |masked: &Masked, findings: &mut Findings| comments("f.rs", masked, findings);
        assert_eq!(faults(rule, concat!("// TO", "DO later\n")), 1);
        assert_eq!(faults(rule, concat!("// TO", "DO(#12): later\n")), 0);
        assert_eq!(faults(rule, concat!("// FIX", "ME\n")), 1);
        assert_eq!(faults(rule, concat!("let s = \"FIX", "ME\";\n")), 0);
    }

    #[test]
    fn stubs_and_ignored_tests_are_refused() {
        let rule = |masked: &Masked, findings: &mut Findings| forbidden_macros("f.rs", masked, findings);
        assert_eq!(faults(rule, concat!("fn f() { to", "do!() }\n")), 1);
        assert_eq!(faults(rule, concat!("#[ig", "nore = \"slow\"]\nfn f() {}\n")), 1);
        assert_eq!(faults(rule, concat!("// to", "do!() is refused\n")), 0);
    }

    #[test]
    fn an_unlisted_sleep_is_refused_and_a_listed_one_is_used() {
        let source = concat!("fn f() { std::thread::sl", "eep(d) }\n");
        let mut findings = Findings::default();
        sleeps("f.rs", &Masked::new(source), &Exceptions::default(), &mut findings);
        assert_eq!(findings.faults.len(), 1);
        let listed = super::super::Exception { path: "f.rs".to_owned(), reason: "why".to_owned() };
        let mut findings = Findings::default();
        sleeps("f.rs", &Masked::new(source), &Exceptions { sleep: vec![listed] }, &mut findings);
        assert!(findings.faults.is_empty());
        assert!(findings.used_exceptions.contains("f.rs"));
    }

    #[test]
    fn an_allowed_lint_without_a_reason_is_refused() {
        let rule = |source: &str| {
            let mut findings = Findings::default();
            attributes_have_reasons("f.rs", source, &Masked::new(source), &mut findings);
            findings.faults.len()
        };
        assert_eq!(rule("#[allow(dead_code)]\nfn f() {}\n"), 1);
        assert_eq!(rule("#[expect(\n  dead_code,\n  reason = \"used by tests\",\n)]\nfn f() {}\n"), 0);
    }
}
