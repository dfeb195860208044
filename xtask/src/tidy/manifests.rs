//! The rules for manifests of workspace members.
//!
//! Every member opts in to the workspace lints and takes every dependency's
//! version from the workspace, so that a version or a lint is chosen once.

use anyhow::Context;

use super::Findings;
use crate::run;
use crate::workspace::Metadata;

const SECTIONS: &[&str] = &["dependencies", "dev-dependencies", "build-dependencies"];

/// Checks every member's manifest.
pub(crate) fn check(findings: &mut Findings) -> anyhow::Result<()> {
    let metadata = Metadata::load()?;
    for member in metadata.members() {
        let path = &member.manifest_path;
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let manifest: toml::Table = toml::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        let name = path.strip_prefix(run::root()).unwrap_or(path).display().to_string();
        faults(&manifest).into_iter().for_each(|what| findings.fault(&name, 1, &what));
    }
    Ok(())
}

fn faults(manifest: &toml::Table) -> Vec<String> {
    let mut faults = Vec::new();
    if !from_workspace(manifest.get("lints")) {
        faults.push("does not say `[lints] workspace = true`".to_owned());
    }
    let targets = manifest.get("target").and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::values);
    let tables = std::iter::once(manifest).chain(targets.filter_map(toml::Value::as_table));
    for table in tables {
        for section in SECTIONS {
            let Some(dependencies) = table.get(*section).and_then(toml::Value::as_table) else { continue };
            for (name, value) in dependencies.iter().filter(|(_, value)| !from_workspace(Some(value))) {
                faults.push(format!("{section}: {name} = {value} must be `{name}.workspace = true`"));
            }
        }
    }
    faults
}

fn from_workspace(value: Option<&toml::Value>) -> bool {
    value.and_then(|value| value.get("workspace")).and_then(toml::Value::as_bool) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> usize {
        faults(&toml::from_str(text).unwrap()).len()
    }

    #[test]
    fn versions_and_lints_come_from_the_workspace() {
        assert_eq!(check("[lints]\nworkspace = true\n[dependencies]\nserde.workspace = true\n"), 0);
        assert_eq!(check("[lints]\nworkspace = true\n[dependencies]\nserde = \"1\"\n"), 1);
        assert_eq!(check("[dev-dependencies]\nx = { path = \"../x\" }\n"), 2);
        assert_eq!(check("[lints]\nworkspace = true\n[target.'cfg(unix)'.dependencies]\nserde = \"1\"\n"), 1);
    }
}
