//! Shape rules of STYLE.md that the compiler and clippy do not check.
//!
//! Reads every text file git knows or would add. All faults are listed before
//! the task fails. Exceptions live in `xtask/tidy.toml`, each with its reason;
//! an exception that matches nothing is itself a fault, so the list can only
//! shrink by itself.

mod functions;
mod manifests;
mod mask;
mod rules;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::run;
use mask::Masked;

/// Non-test lines over which a file is listed as worth splitting.
const FILE_LINES_DISCUSS: usize = 500;
/// Non-test lines over which a file is refused (STYLE.md 3).
const FILE_LINES_MAX: usize = 800;
/// Code lines over which a function is refused (STYLE.md 3).
const FUNCTION_LINES_MAX: usize = 70;
/// Generated code is checked by regeneration, not by shape.
const GENERATED: &str = "proto/src/gen/";

/// `xtask/tidy.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exceptions {
    /// Files that may sleep.
    #[serde(default)]
    sleep: Vec<Exception>,
}

/// One file that may break one rule.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    path: String,
    reason: String,
}

/// What a run found.
#[derive(Debug, Default)]
struct Findings {
    faults: Vec<String>,
    long_files: Vec<String>,
    used_exceptions: BTreeSet<String>,
}

impl Findings {
    fn fault(&mut self, path: &str, line: usize, what: &str) {
        self.faults.push(format!("{path}:{line}: {what}"));
    }
}

/// Runs every rule and fails when one is broken.
pub(crate) fn run() -> anyhow::Result<()> {
    let root = run::root();
    let exceptions = load_exceptions(root)?;
    let mut findings = Findings::default();
    let mut files = 0_usize;
    for path in text_files(root)? {
        // A file that was deleted but not committed is listed and gone.
        let Ok(text) = std::fs::read_to_string(root.join(&path)) else { continue };
        files += 1;
        rules::words(&path, &text, &mut findings);
        if path.ends_with(".rs") && !path.starts_with(GENERATED) {
            rust_file(&path, &text, &exceptions, &mut findings);
        }
    }
    manifests::check(&mut findings)?;
    rules::error_pages(root, &mut findings)?;
    for exception in &exceptions.sleep {
        if !findings.used_exceptions.contains(&exception.path) {
            findings.fault("xtask/tidy.toml", 1, &format!("exception for {} matches nothing", exception.path));
        }
    }
    report(files, findings)
}

fn rust_file(path: &str, text: &str, exceptions: &Exceptions, findings: &mut Findings) {
    let masked = Masked::new(text);
    rules::header(path, text, findings);
    rules::comments(path, &masked, findings);
    rules::forbidden_macros(path, &masked, findings);
    rules::attributes_have_reasons(path, text, &masked, findings);
    rules::sleeps(path, &masked, exceptions, findings);
    let lines = functions::lines_outside_tests(&masked);
    if lines > FILE_LINES_MAX {
        findings.fault(path, 1, &format!("{lines} lines outside tests, the limit is {FILE_LINES_MAX}"));
    } else if lines > FILE_LINES_DISCUSS {
        findings.long_files.push(format!("{path} ({lines})"));
    }
    for function in functions::functions(&masked) {
        if function.lines > FUNCTION_LINES_MAX {
            let (name, lines) = (&function.name, function.lines);
            let what = format!("function {name} has {lines} code lines, the limit is {FUNCTION_LINES_MAX}");
            findings.fault(path, function.first_line, &what);
        }
    }
}

fn report(files: usize, findings: Findings) -> anyhow::Result<()> {
    for long in &findings.long_files {
        eprintln!("worth splitting: {long}");
    }
    for fault in &findings.faults {
        println!("{fault}");
    }
    if !findings.faults.is_empty() {
        bail!("tidy: {} faults in {files} files", findings.faults.len());
    }
    println!("tidy: {files} files, no fault");
    Ok(())
}

fn load_exceptions(root: &Path) -> anyhow::Result<Exceptions> {
    let path = root.join("xtask/tidy.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let exceptions: Exceptions = toml::from_str(&text).context("reading xtask/tidy.toml")?;
    if let Some(bare) = exceptions.sleep.iter().find(|exception| exception.reason.trim().is_empty()) {
        bail!("xtask/tidy.toml: the exception for {} gives no reason", bare.path);
    }
    Ok(exceptions)
}

/// Text files in git or about to be added, relative to the root.
fn text_files(root: &Path) -> anyhow::Result<Vec<String>> {
    const ENDINGS: &[&str] =
        &[".rs", ".toml", ".md", ".proto", ".nix", ".service", ".socket", ".timer", ".sh", ".json"];
    let list = run::output(root, "git".as_ref(), &["ls-files", "-z", "--cached", "--others", "--exclude-standard"])?;
    Ok(list
        .split('\0')
        .filter(|path| path.starts_with(".ci/") || ENDINGS.iter().any(|ending| path.ends_with(ending)))
        .map(str::to_owned)
        .collect())
}
