//! Configuration files: TOML, unknown fields refused, all faults reported together.
//!
//! Invariant: [`load`] returns either a configuration without a fault or every
//! fault it could find; it never fills a wrong value with a default.
//! This file knows no daemon's settings.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::fsio;

/// The largest configuration file, in bytes. The largest real one has under
/// two kilobytes; the limit keeps a mistaken path (a log, a disk) from being read.
const CONFIG_BYTES_MAX: u64 = 256 * 1024;

/// After so many faults of form the rest is not worth listing.
const FAULTS_MAX: usize = 50;

/// What a configuration checks about itself once it has its form.
pub trait Validate {
    /// Every value that is well-formed but wrong, one line each, field first.
    fn faults(&self) -> Vec<String> {
        Vec::new()
    }
}

/// For daemons without settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

impl Validate for NoConfig {}

/// Everything wrong with one file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    /// The file.
    pub path: PathBuf,
    /// One line per fault; never empty.
    pub faults: Vec<String>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.faults.len();
        let word = if count == 1 { "fault" } else { "faults" };
        write!(f, "{count} {word} in {}: {}", self.path.display(), self.faults.join("; "))
    }
}

/// Reads and checks a configuration; an absent file is the default one.
///
/// # Errors
/// [`ConfigErrors`] with every fault of form (unknown field, wrong type) and,
/// for what could be read, of sense ([`Validate`]).
pub fn load<C>(path: &Path) -> Result<C, ConfigErrors>
where
    C: DeserializeOwned + Default + Validate,
{
    let fail = |faults| ConfigErrors { path: path.to_owned(), faults };
    let content =
        fsio::read_limited(path, CONFIG_BYTES_MAX).map_err(|error| fail(vec![crate::error::chain(&error)]))?;
    let Some(content) = content else {
        return check(C::default()).map_err(fail);
    };
    let text = String::from_utf8(content).map_err(|_| fail(vec!["the file is not UTF-8".to_owned()]))?;
    parse(&text).map_err(fail)
}

/// Checks a configuration given as text.
///
/// # Errors
/// Every fault found, one line each.
pub fn parse<C: DeserializeOwned + Validate>(text: &str) -> Result<C, Vec<String>> {
    let (mut table, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        return Err(syntax.iter().take(FAULTS_MAX).map(|error| located(text, error)).collect());
    }
    let mut faults = Vec::new();
    loop {
        match C::deserialize(toml::de::Deserializer::from(table.clone())) {
            Ok(config) if faults.is_empty() => return check(config),
            Ok(config) => return Err(in_order(faults).chain(config.faults()).collect()),
            Err(error) => {
                let span = error.span();
                faults.push((span.as_ref().map_or(0, |span| span.start), located(text, &error)));
                // Without the entry at fault, the next fault comes to light.
                let removed = span.is_some_and(|span| remove_at(table.get_mut(), &span));
                if !removed || faults.len() >= FAULTS_MAX {
                    return Err(in_order(faults).collect());
                }
            }
        }
    }
}

/// Faults in the order of the file, whatever order they were found in.
fn in_order(mut faults: Vec<(usize, String)>) -> impl Iterator<Item = String> {
    faults.sort();
    faults.into_iter().map(|(_, fault)| fault)
}

/// Checks the sense of a configuration that has its form.
fn check<C: Validate>(config: C) -> Result<C, Vec<String>> {
    let faults = config.faults();
    if faults.is_empty() { Ok(config) } else { Err(faults) }
}

/// `line 3: unknown field …`, without toml's picture of the source.
fn located(text: &str, error: &toml::de::Error) -> String {
    let message = error.message();
    match error.span() {
        Some(span) => {
            let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
            format!("line {line}: {message}")
        }
        None => message.to_owned(),
    }
}

/// Removes the innermost entry whose key or value covers `span`.
fn remove_at(table: &mut DeTable<'_>, span: &Range<usize>) -> bool {
    let covers = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end && outer != (0..0);
    let mut hit = None;
    for (key, value) in table.iter_mut() {
        if covers(key.span()) {
            hit = Some(key.clone());
            break;
        }
        if remove_inside(value, span) {
            return true;
        }
        if covers(value.span()) {
            hit = Some(key.clone());
            break;
        }
    }
    hit.is_some_and(|key| table.remove(&key).is_some())
}

fn remove_inside(value: &mut Spanned<DeValue<'_>>, span: &Range<usize>) -> bool {
    match value.get_mut() {
        DeValue::Table(inner) => remove_at(inner, span),
        DeValue::Array(items) => items.iter_mut().any(|item| remove_inside(item, span)),
        _ => false,
    }
}

/// A span of time in a configuration: `"500ms"`, `"30s"`, `"1m 30s"`, `"2h"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

impl Period {
    /// So many milliseconds.
    #[must_use]
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// So many seconds.
    #[must_use]
    pub const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }
}

impl From<Period> for Duration {
    fn from(period: Period) -> Self {
        period.0
    }
}

impl Serialize for Period {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}ms", self.0.as_millis()))
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong =
            || serde::de::Error::custom(format!("not a span of time such as \"500ms\" or \"1m 30s\": {text:?}"));
        let span: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
        Duration::try_from(span).map(Self).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Config {
        listen: u16,
        wait: Option<Period>,
        mesh: Mesh,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Mesh {
        name: String,
        peers: u8,
    }

    impl Validate for Config {
        fn faults(&self) -> Vec<String> {
            let short = self.wait.is_some_and(|wait| wait.0 < Duration::from_secs(1));
            if short { vec!["wait: under one second".to_owned()] } else { Vec::new() }
        }
    }

    #[test]
    fn a_good_file_and_an_absent_one_are_read() {
        let config: Config = parse("listen = 1\nwait = \"1m 30s\"\n[mesh]\nname = \"a\"\n").unwrap();
        assert_eq!(config.wait, Some(Period::secs(90)));
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load::<Config>(&dir.path().join("none.toml")).unwrap(), Config::default());
    }

    #[test]
    fn all_faults_of_form_and_sense_come_together() {
        let text = "listen = \"x\"\nwait = \"10ms\"\ncolour = 1\n[mesh]\npeers = 300\nsize = 2\n";
        let faults = parse::<Config>(text).unwrap_err();
        let all = faults.join("\n");
        for part in ["line 1", "line 3", "colour", "line 5", "line 6", "size", "wait: under one second"] {
            assert!(all.contains(part), "{part} not in:\n{all}");
        }
        assert_eq!(faults.len(), 5, "{all}");
    }

    #[test]
    fn a_syntax_fault_and_an_oversized_file_are_refused_with_the_path() {
        assert!(parse::<Config>("listen = \n").unwrap_err()[0].starts_with("line 1"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big.toml");
        std::fs::write(&path, vec![b'#'; 300_000]).unwrap();
        let error = load::<Config>(&path).unwrap_err();
        assert!(error.to_string().contains("big.toml"), "{error}");
    }
}
