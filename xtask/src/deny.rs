//! Banned crates, licences and sources, from `cargo metadata`.
//!
//! The lists are those of `deny.toml`, read here as well, so that the check is
//! made on every machine and cargo-deny, where installed, reads the same. Only
//! the keys that the lists use are understood; an unknown one is an error here,
//! so that no rule is thought to hold and does not.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::run;
use crate::workspace::{Metadata, Package};

/// The parts of `deny.toml` that are checked here.
#[derive(Debug, Deserialize)]
struct Rules {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Debug, Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
}

/// Licences that one crate may have beside those of all.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: BTreeSet<String>,
}

impl Licenses {
    /// What this package may have.
    fn allowed(&self, package: &Package) -> BTreeSet<String> {
        let own = self.exceptions.iter().filter(|exception| exception.name == package.name);
        own.flat_map(|exception| &exception.allow).chain(&self.allow).cloned().collect()
    }
}

#[derive(Debug, Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ban {
    /// `name` or `name@<1.2.3`.
    #[serde(rename = "crate")]
    spec: String,
    /// The crate is welcome, a second version of it is not.
    #[serde(default, rename = "deny-multiple-versions")]
    single: bool,
    reason: String,
}

/// The only registry that packages may come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks every package of the lock file.
pub(crate) fn run() -> anyhow::Result<()> {
    let path = run::root().join("deny.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let rules: Rules = toml::from_str(&text).context("reading deny.toml")?;
    let metadata = Metadata::load()?;
    let mut faults = Vec::new();
    for package in &metadata.packages {
        faults.extend(licence_fault(&rules.licenses.allowed(package), package));
        faults.extend(source_fault(package));
    }
    for ban in &rules.bans.deny {
        faults.extend(ban_faults(ban, &metadata.packages)?);
    }
    for fault in &faults {
        println!("{fault}");
    }
    if !faults.is_empty() {
        bail!("deny: {} faults", faults.len());
    }
    println!("deny: {} packages, no fault", metadata.packages.len());
    if run::available("cargo-deny", &["--version"]) {
        run::checked(run::root(), "cargo-deny".as_ref(), &["--offline", "check", "bans", "licenses", "sources"])?;
    }
    Ok(())
}

fn source_fault(package: &Package) -> Option<String> {
    let source = package.source.as_deref()?;
    (source != REGISTRY).then(|| format!("{} {}: comes from {source}", package.name, package.version))
}

fn licence_fault(allowed: &BTreeSet<String>, package: &Package) -> Option<String> {
    let Some(expression) = &package.license else {
        return Some(format!("{} {}: names no licence", package.name, package.version));
    };
    (!Expression::new(expression).satisfied_by(allowed))
        .then(|| format!("{} {}: licence {expression} is not in the list", package.name, package.version))
}

fn ban_faults(ban: &Ban, packages: &[Package]) -> anyhow::Result<Vec<String>> {
    let (name, below) = match ban.spec.split_once("@<") {
        Some((name, version)) => (name, Some(numbers(version).with_context(|| format!("deny.toml: {}", ban.spec))?)),
        None if ban.spec.contains('@') => {
            bail!("deny.toml: {}: only `name` and `name@<version` are understood", ban.spec)
        }
        None => (ban.spec.as_str(), None),
    };
    let found: BTreeMap<&str, &Package> = packages
        .iter()
        .filter(|package| package.name == name)
        .filter(|package| below.is_none_or(|limit| numbers(&package.version).is_none_or(|version| version < limit)))
        .map(|package| (package.version.as_str(), package))
        .collect();
    let versions = found.keys().copied().collect::<Vec<_>>().join(", ");
    let faulty = if ban.single { found.len() > 1 } else { !found.is_empty() };
    Ok(faulty.then(|| format!("{name} {versions}: {}", ban.reason)).into_iter().collect())
}

/// `1.2.3` as numbers; what follows a `-` or `+` does not count.
fn numbers(version: &str) -> Option<[u64; 3]> {
    let mut parts = version.split(['-', '+']).next()?.split('.').map(|part| part.parse().ok());
    Some([parts.next()??, parts.next()??, parts.next()??])
}

/// A walk through an SPDX expression: `AND` binds tighter than `OR`; a slash, as
/// older manifests write it, means `OR`.
struct Expression {
    tokens: Vec<String>,
    at: usize,
}

impl Expression {
    fn new(text: &str) -> Self {
        let spaced = text.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
        Self { tokens: spaced.split_whitespace().map(str::to_owned).collect(), at: 0 }
    }

    fn satisfied_by(mut self, allowed: &BTreeSet<String>) -> bool {
        let satisfied = self.any(allowed);
        satisfied && self.at == self.tokens.len()
    }

    fn any(&mut self, allowed: &BTreeSet<String>) -> bool {
        let mut satisfied = self.all(allowed);
        while self.accept("OR") {
            satisfied |= self.all(allowed);
        }
        satisfied
    }

    fn all(&mut self, allowed: &BTreeSet<String>) -> bool {
        let mut satisfied = self.one(allowed);
        while self.accept("AND") {
            satisfied &= self.one(allowed);
        }
        satisfied
    }

    fn one(&mut self, allowed: &BTreeSet<String>) -> bool {
        if self.accept("(") {
            let satisfied = self.any(allowed);
            return self.accept(")") && satisfied;
        }
        let Some(mut name) = self.tokens.get(self.at).cloned() else { return false };
        self.at += 1;
        if self.accept("WITH") {
            let exception = self.tokens.get(self.at).cloned().unwrap_or_default();
            self.at += 1;
            name = format!("{name} WITH {exception}");
        }
        allowed.contains(&name)
    }

    fn accept(&mut self, word: &str) -> bool {
        let found = self.tokens.get(self.at).is_some_and(|token| token == word);
        self.at += usize::from(found);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn satisfied(expression: &str) -> bool {
        let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "ISC"].map(str::to_owned).into();
        Expression::new(expression).satisfied_by(&allowed)
    }

    #[test]
    fn licence_expressions() {
        assert!(satisfied("MIT"));
        assert!(satisfied("GPL-3.0 OR MIT"));
        assert!(satisfied("MIT/GPL-3.0"));
        assert!(satisfied("(GPL-3.0 OR MIT) AND ISC"));
        assert!(satisfied("Apache-2.0 WITH LLVM-exception"));
        assert!(!satisfied("MIT AND GPL-3.0"));
        assert!(!satisfied("Apache-2.0 WITH other-exception"));
        assert!(!satisfied("(MIT"));
        assert!(!satisfied(""));
    }

    fn package(name: &str, version: &str) -> Package {
        Package {
            id: format!("{name} {version}"),
            name: name.to_owned(),
            version: version.to_owned(),
            license: None,
            source: None,
            manifest_path: std::path::PathBuf::new(),
            dependencies: Vec::new(),
            targets: Vec::new(),
        }
    }

    fn faults(spec: &str, single: bool, packages: &[Package]) -> usize {
        ban_faults(&Ban { spec: spec.to_owned(), single, reason: "why".to_owned() }, packages).unwrap().len()
    }

    #[test]
    fn bans_by_name_by_version_and_by_second_version() {
        let packages = [package("openssl", "0.10.1"), package("openraft", "0.9.25"), package("sys", "1.0.0")];
        assert_eq!(faults("openssl", false, &packages), 1);
        assert_eq!(faults("native-tls", false, &packages), 0);
        assert_eq!(faults("openraft@<0.9.25", false, &packages), 0);
        assert_eq!(faults("openraft@<0.9.26", false, &packages), 1);
        assert_eq!(faults("sys", true, &packages), 0);
        assert_eq!(faults("sys", true, &[package("sys", "1.0.0"), package("sys", "1.1.0")]), 1);
    }

    #[test]
    fn a_package_from_elsewhere_or_without_licence_is_a_fault() {
        let mut stray = package("stray", "1.0.0");
        stray.source = Some("git+https://example.org/stray".to_owned());
        assert!(source_fault(&stray).is_some());
        assert!(licence_fault(&BTreeSet::new(), &stray).is_some());
    }
}
