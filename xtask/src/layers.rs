//! The table of which crate may depend on which, against what cargo sees.
//!
//! Always holds: an edge that is not in `xtask/layers.toml` fails, and the table
//! itself cannot allow an edge upwards. Tests may add the edges under `dev`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::run;
use crate::workspace::Metadata;

/// `xtask/layers.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    crates: BTreeMap<String, Row>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    layer: u8,
    /// Crates it may depend on; `*` for the crate of whole-system tests.
    #[serde(default)]
    may: BTreeSet<String>,
    /// Crates its tests may use in addition.
    #[serde(default)]
    dev: BTreeSet<String>,
    #[serde(default)]
    why: Option<String>,
}

/// One edge between crates of the workspace.
#[derive(Debug)]
struct Edge {
    from: String,
    to: String,
    dev: bool,
}

/// Checks the table and every edge.
pub(crate) fn run() -> anyhow::Result<()> {
    let path = run::root().join("xtask/layers.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let table: Table = toml::from_str(&text).context("reading xtask/layers.toml")?;
    let metadata = Metadata::load()?;
    let members: BTreeSet<String> = metadata.members().map(|member| member.name.clone()).collect();
    let edges: Vec<Edge> = metadata
        .members()
        .flat_map(|member| {
            member.dependencies.iter().filter(|dependency| members.contains(&dependency.name)).map(|dependency| Edge {
                from: member.name.clone(),
                to: dependency.name.clone(),
                dev: dependency.kind.as_deref() == Some("dev"),
            })
        })
        .collect();
    let mut faults = table_faults(&table, &members);
    faults.extend(edge_faults(&table, &edges));
    for fault in &faults {
        println!("{fault}");
    }
    if !faults.is_empty() {
        bail!("layers: {} faults", faults.len());
    }
    println!("layers: {} crates, {} edges, all in the table", members.len(), edges.len());
    Ok(())
}

fn table_faults(table: &Table, members: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    for name in members.iter().filter(|name| !table.crates.contains_key(*name)) {
        faults.push(format!("{name} is not in xtask/layers.toml"));
    }
    for (name, row) in &table.crates {
        if !members.contains(name) {
            faults.push(format!("{name} is in xtask/layers.toml but not in the workspace"));
        }
        for to in row.may.iter().filter(|to| *to != "*") {
            match table.crates.get(to) {
                None => faults.push(format!("{name} may use {to}, which is not in the table")),
                Some(lower) if lower.layer > row.layer => {
                    faults.push(format!("{name} (layer {}) may not use {to} (layer {})", row.layer, lower.layer));
                }
                Some(lower) if lower.layer == row.layer && row.why.is_none() => {
                    faults.push(format!("{name} uses {to} of its own layer and gives no reason in `why`"));
                }
                Some(_) => {}
            }
        }
        if !row.dev.is_empty() && row.why.is_none() {
            faults.push(format!("{name} has edges for tests and gives no reason in `why`"));
        }
    }
    faults
}

fn edge_faults(table: &Table, edges: &[Edge]) -> Vec<String> {
    edges
        .iter()
        .filter(|edge| {
            table.crates.get(&edge.from).is_some_and(|row| {
                let allowed = row.may.contains("*") || row.may.contains(&edge.to);
                !(allowed || edge.dev && (row.dev.contains(&edge.to) || edge.from == edge.to))
            })
        })
        .map(|edge| {
            let kind = if edge.dev { "a test edge" } else { "an edge" };
            format!("{} → {} is {kind} that xtask/layers.toml does not allow", edge.from, edge.to)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        toml::from_str(
            "[crates.words]\nlayer = 0\n[crates.part]\nlayer = 1\nmay = [\"words\"]\n[crates.peer]\nlayer = 1\nmay = [\"part\"]\n",
        )
        .unwrap()
    }

    fn edge(from: &str, to: &str, dev: bool) -> Edge {
        Edge { from: from.to_owned(), to: to.to_owned(), dev }
    }

    #[test]
    fn an_edge_outside_the_table_is_a_fault() {
        let edges = [edge("part", "words", false), edge("words", "part", false), edge("part", "peer", true)];
        assert_eq!(edge_faults(&table(), &edges).len(), 2);
    }

    #[test]
    fn the_table_itself_is_checked() {
        let members = ["words", "part", "new"].map(str::to_owned).into();
        let faults = table_faults(&table(), &members);
        assert_eq!(faults.len(), 3, "a missing row, a row too many, an edge inside a layer without reason: {faults:?}");
    }
}
