//! What cargo says about the workspace: packages, targets, edges, licences.
//!
//! Read once per task from `cargo metadata`; nothing is guessed from manifests
//! that cargo itself can answer.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Context;
use serde::Deserialize;

use crate::run;

/// The parts of `cargo metadata` that the checks need.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    /// Every package, of the workspace and from outside.
    pub(crate) packages: Vec<Package>,
    /// Ids of the packages of this workspace.
    pub(crate) workspace_members: BTreeSet<String>,
    /// Where build results go.
    pub(crate) target_directory: PathBuf,
}

/// One package.
#[derive(Debug, Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    /// SPDX expression, if the author gave one.
    pub(crate) license: Option<String>,
    /// `None` for a package of this workspace.
    pub(crate) source: Option<String>,
    pub(crate) manifest_path: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) targets: Vec<Target>,
}

/// One declared dependency.
#[derive(Debug, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `None` means a normal one, else `dev` or `build`.
    pub(crate) kind: Option<String>,
}

/// One build target of a package.
#[derive(Debug, Deserialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) kind: Vec<String>,
}

impl Metadata {
    /// Asks cargo.
    pub(crate) fn load() -> anyhow::Result<Self> {
        let text = run::output(run::root(), &run::cargo(), &["metadata", "--format-version", "1", "--quiet"])?;
        serde_json::from_str(&text).context("reading cargo metadata")
    }

    /// Packages of this workspace.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.workspace_members.contains(&package.id))
    }

    /// Whether a package of the workspace has a binary of this name.
    pub(crate) fn has_binary(&self, package: &str, binary: &str) -> bool {
        self.members()
            .filter(|member| member.name == package)
            .flat_map(|member| &member.targets)
            .any(|target| target.name == binary && target.kind.iter().any(|kind| kind == "bin"))
    }
}
