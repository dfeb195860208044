//! The release manifest: what each node shall run, and how to get there.
//!
//! A manifest is an immutable JSON document. Only the hash of its exact bytes
//! and what `apply` must enforce (rows and policy) go into the log.
//!
//! Invariant: a [`Manifest`] from [`Manifest::parse`] is valid as a whole. No
//! field is ignored and no node is named twice, so that what the operator
//! signed is what everybody reads.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};

use crate::check::HealthCheck;
use crate::code::ErrorCode;
use crate::ids::{ManifestHash, NodeId, RolloutId};
use crate::policy::Policy;
use crate::store_path::StorePath;

/// Largest manifest in bytes: 10,000 nodes at about 100 bytes a row. Larger
/// ones would hold up the control stream they travel on.
pub const MANIFEST_BYTES_MAX: usize = 1024 * 1024;
/// Most nodes of one manifest (`rollout.md` 5.6: cells of 10,000).
pub const MANIFEST_NODES_MAX: usize = 10_000;
/// Most health checks of one node; each costs a program start per second.
pub const CHECKS_MAX: usize = 64;
/// Longest name of a manifest or scope.
pub const NAME_CHARS_MAX: usize = 128;
/// The only format there is.
const VERSION: u32 = 1;

/// How a node takes up its target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Activated in the running system.
    #[default]
    Live,
}

/// One node's line.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeTarget {
    /// The closure to move to.
    pub target: StorePath,
    /// The closure the node is expected to run now, and to return to.
    pub baseline: StorePath,
    /// How.
    #[serde(default)]
    pub mode: Mode,
}

/// A release.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the format, now 1.
    pub version: u32,
    /// What people call the release.
    pub name: String,
    /// What is locked while the rollout runs: one rollout per scope.
    pub scope: String,
    /// Who moves where.
    #[serde(deserialize_with = "unique_map")]
    pub nodes: BTreeMap<NodeId, NodeTarget>,
    /// Checks every node must pass.
    #[serde(default)]
    pub checks: Vec<HealthCheck>,
    /// Further checks of single nodes.
    #[serde(default, deserialize_with = "unique_map", skip_serializing_if = "BTreeMap::is_empty")]
    pub node_checks: BTreeMap<NodeId, Vec<HealthCheck>>,
    /// A rollout that has moved nothing yet and gives way to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supersedes: Option<RolloutId>,
    /// How.
    pub policy: Policy,
}

/// Why a manifest is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ManifestError {
    /// The code for programs.
    pub code: ErrorCode,
    /// The field, with dots.
    pub field: String,
    /// The rule that is broken.
    pub reason: String,
}

impl ManifestError {
    fn new(code: ErrorCode, field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { code, field: field.into(), reason: reason.into() }
    }

    fn malformed(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::new(ErrorCode::ManifestMalformed, field, reason)
    }
}

impl Manifest {
    /// Reads and checks a manifest, and gives the hash that names it.
    ///
    /// # Errors
    /// [`ManifestError`] with code `manifest_too_large`, `manifest_malformed`
    /// or `target_is_baseline`, and the field it is about.
    pub fn parse(bytes: &[u8]) -> Result<(Self, ManifestHash), ManifestError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            let reason = format!("{} bytes; at most {MANIFEST_BYTES_MAX}", bytes.len());
            return Err(ManifestError::new(ErrorCode::ManifestTooLarge, "manifest", reason));
        }
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|error| ManifestError::malformed("manifest", error.to_string()))?;
        manifest.validate()?;
        Ok((manifest, ManifestHash::of(bytes)))
    }

    /// The checks a node must pass: those of all, then its own.
    pub fn checks_of(&self, node: &NodeId) -> impl Iterator<Item = &HealthCheck> {
        self.checks.iter().chain(self.node_checks.get(node).into_iter().flatten())
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`ManifestError`] with the first field that breaks a rule.
    pub fn validate(&self) -> Result<(), ManifestError> {
        if self.version != VERSION {
            return Err(ManifestError::malformed("version", format!("this program reads version {VERSION}")));
        }
        validate_name(&self.name).map_err(|reason| ManifestError::malformed("name", reason))?;
        validate_scope(&self.scope).map_err(|reason| ManifestError::malformed("scope", reason))?;
        let rows = self.nodes.iter().map(|(node, row)| (node, &row.target, &row.baseline));
        validate_rows(rows)?;
        self.validate_checks()?;
        self.policy
            .validate()
            .map_err(|error| ManifestError::malformed(format!("policy.{}", error.field), error.reason))
    }

    fn validate_checks(&self) -> Result<(), ManifestError> {
        let own = self.node_checks.iter().map(|(node, checks)| (format!("node_checks.{node}"), checks));
        for (field, checks) in std::iter::once(("checks".to_owned(), &self.checks)).chain(own) {
            if checks.len() > CHECKS_MAX {
                return Err(ManifestError::malformed(field, format!("at most {CHECKS_MAX} checks")));
            }
            for (position, check) in checks.iter().enumerate() {
                check
                    .validate()
                    .map_err(|error| ManifestError::malformed(format!("{field}[{position}]"), error.to_string()))?;
            }
        }
        match self.node_checks.keys().find(|node| !self.nodes.contains_key(node)) {
            Some(node) => Err(ManifestError::malformed(format!("node_checks.{node}"), "no such node in nodes")),
            None => Ok(()),
        }
    }
}

/// Checks the rows of a manifest or of its proposal: not none, not too many,
/// every target another than its baseline.
///
/// # Errors
/// [`ManifestError`] that names the row.
pub fn validate_rows<'a>(
    rows: impl ExactSizeIterator<Item = (&'a NodeId, &'a StorePath, &'a StorePath)>,
) -> Result<(), ManifestError> {
    if rows.len() == 0 || rows.len() > MANIFEST_NODES_MAX {
        return Err(ManifestError::malformed("nodes", format!("1 to {MANIFEST_NODES_MAX} nodes")));
    }
    for (node, target, baseline) in rows {
        if target == baseline {
            let field = format!("nodes.{node}.target");
            return Err(ManifestError::new(ErrorCode::TargetIsBaseline, field, "equals the baseline"));
        }
    }
    Ok(())
}

/// Checks a name that people see: 1 to 128 characters, none of them control.
///
/// # Errors
/// The rule, as text.
pub fn validate_name(name: &str) -> Result<(), &'static str> {
    let chars = name.chars().count();
    if chars == 0 || chars > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        return Err("1 to 128 characters, no control characters");
    }
    Ok(())
}

/// Checks the name of a scope: 1 to 128 of `[A-Za-z0-9._-]`.
///
/// # Errors
/// The rule, as text.
pub fn validate_scope(scope: &str) -> Result<(), &'static str> {
    let plain = scope.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if scope.is_empty() || scope.len() > NAME_CHARS_MAX || !plain {
        return Err("1 to 128 letters, digits and . _ -");
    }
    Ok(())
}

/// A map that refuses a key given twice; serde's own keeps the last one.
fn unique_map<'de, D, V>(deserializer: D) -> Result<BTreeMap<NodeId, V>, D::Error>
where
    D: serde::Deserializer<'de>,
    V: serde::Deserialize<'de>,
{
    struct Unique<V>(std::marker::PhantomData<V>);
    impl<'de, V: serde::Deserialize<'de>> Visitor<'de> for Unique<V> {
        type Value = BTreeMap<NodeId, V>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map of node ids")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((node, value)) = access.next_entry::<NodeId, V>()? {
                if map.insert(node, value).is_some() {
                    return Err(A::Error::custom(format!("node {node} is named twice")));
                }
            }
            Ok(map)
        }
    }
    deserializer.deserialize_map(Unique(std::marker::PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"version":1,"name":"web 1","scope":"web","nodes":{"NODE":{"target":"/nix/store/b","baseline":"/nix/store/a"}},
        "checks":[{"type":"tcp_port","host":"::1","port":22}],"policy":{"waves":[{"count":1}],"max_unavailable":1}}"#;

    fn check(change: impl FnOnce(String) -> String, expected: Result<(), (ErrorCode, &str)>) {
        let node = NodeId::from_bytes([7; 32]).to_string();
        let text = change(GOOD.to_owned()).replace("NODE", &node);
        let got = Manifest::parse(text.as_bytes()).map(|_| ());
        match (got, expected) {
            (Ok(()), Ok(())) => {}
            (Err(got), Err((code, part))) => {
                assert_eq!(got.code, code, "{got}");
                assert!(got.to_string().contains(part), "{got}");
            }
            (got, expected) => panic!("{got:?} is not {expected:?} for {text}"),
        }
    }

    fn swap(from: &'static str, to: &'static str) -> impl FnOnce(String) -> String {
        move |text| {
            assert!(text.contains(from));
            text.replace(from, to)
        }
    }

    #[test]
    fn bad_manifests_are_refused_with_the_field() {
        let malformed = |part| Err((ErrorCode::ManifestMalformed, part));
        check(|text| text, Ok(()));
        check(|_| "{".into(), malformed("EOF"));
        check(|_| " ".repeat(MANIFEST_BYTES_MAX + 1), Err((ErrorCode::ManifestTooLarge, "1048577")));
        check(swap("\"version\":1", "\"version\":2"), malformed("version"));
        check(swap("\"web 1\"", "\"\""), malformed("name"));
        check(swap("\"scope\":\"web\"", "\"scope\":\"a b\""), malformed("scope"));
        check(swap("/nix/store/b", "/nix/store/a"), Err((ErrorCode::TargetIsBaseline, "nodes.0707")));
        check(swap("/nix/store/b", "/nix/../b"), malformed("'..'"));
        check(swap("NODE", "abc"), malformed("NodeId"));
        check(swap("\"port\":22", "\"port\":0"), malformed("checks[0]"));
        check(swap("\"max_unavailable\":1", "\"max_unavailable\":0"), malformed("policy.max_unavailable"));
        check(swap("\"max_unavailable\":1", "\"max_unavailable\":1,\"extra\":1"), malformed("extra"));
        check(
            swap(
                "\"policy\"",
                "\"node_checks\":{\"0000000000000000000000000000000000000000000000000000000000000000\":[]},\"policy\"",
            ),
            malformed("no such node"),
        );
        check(swap("{\"NODE\":", "{\"NODE\":{\"target\":\"/c\",\"baseline\":\"/d\"},\"NODE\":"), malformed("twice"));
    }

    #[test]
    fn periods_left_out_are_those_of_production() {
        let text = GOOD.replace("NODE", &NodeId::from_bytes([7; 32]).to_string());
        let (manifest, hash) = Manifest::parse(text.as_bytes()).unwrap();
        assert_eq!(manifest.policy.timings, crate::Timings::default());
        assert_eq!(hash, ManifestHash::of(text.as_bytes()));
    }
}
