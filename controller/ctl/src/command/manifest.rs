//! `osmoda manifest`: release manifests from short descriptions.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::Path;

use osmoda_controller_api::Node;
use osmoda_kit::fsio;
use osmoda_types::manifest::{MANIFEST_BYTES_MAX, NodeTarget};
use osmoda_types::{HealthCheck, Manifest, ManifestHash, NodeId, Policy, RolloutId, StorePath, Wave};

use crate::cli::{Global, Manifest as Command};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::Output;
use crate::session::{Session, find_node};

/// Help of `manifest build`.
pub(crate) const BUILD_HELP: &str = "\
Examples:
  osmoda manifest build release.toml --out release.json

A description:
  name = \"web 42\"
  scope = \"web\"
  target = \"/nix/store/…-nixos-system-web-42\"   # for nodes that name none

  [nodes.web-1]                                 # a name, or an id
  [nodes.web-2]
  target = \"/nix/store/…-nixos-system-web-2-42\"
  baseline = \"/nix/store/…-nixos-system-web-2-41\"

  [[checks]]
  type = \"systemd_unit\"
  unit = \"nginx.service\"

  [policy]                                      # absent: one canary, then the rest, one at a time
  waves = [{ count = 1 }, { percent = 100 }]
  max_unavailable = 1

The controller is asked for names, and for baselines that are absent (what the
node last reported to run).";

/// A short description of a release.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    name: String,
    scope: String,
    #[serde(default)]
    target: Option<StorePath>,
    nodes: BTreeMap<String, NodeSpec>,
    #[serde(default)]
    checks: Vec<HealthCheck>,
    #[serde(default)]
    node_checks: BTreeMap<String, Vec<HealthCheck>>,
    #[serde(default)]
    supersedes: Option<RolloutId>,
    #[serde(default)]
    policy: Option<Policy>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeSpec {
    #[serde(default)]
    target: Option<StorePath>,
    #[serde(default)]
    baseline: Option<StorePath>,
}

impl Spec {
    /// Whether everything is in it, so that no controller is needed.
    fn is_whole(&self) -> bool {
        let ids = self.nodes.keys().chain(self.node_checks.keys()).all(|name| name.parse::<NodeId>().is_ok());
        ids && self.nodes.values().all(|node| node.baseline.is_some())
    }
}

/// Runs a command about manifests.
pub(crate) async fn run(global: &Global, command: Command) -> Result<Exit, CliError> {
    match command {
        Command::Build { spec, out } => build(global, &spec, out.as_deref()).await,
        Command::Check { manifest } => {
            let (bytes, manifest, hash) = read(&manifest)?;
            let value = serde_json::json!({
                "hash": hash, "bytes": bytes.len(), "name": manifest.name, "scope": manifest.scope,
                "nodes": manifest.nodes.len(), "waves": manifest.policy.waves.len(),
            });
            let text = |_: &serde_json::Value| format!("{hash}  {} nodes", manifest.nodes.len());
            Output::stdout(global.output).object(&value, |_: &serde_json::Value| hash.to_string(), text)?;
            Ok(Exit::Ok)
        }
        Command::Get { hash } => {
            let session = Session::open(global)?;
            let bytes = session.client.get_bytes("cannot read the manifest", &format!("/manifests/{hash}")).await?;
            std::io::stdout().write_all(&bytes)?;
            Ok(Exit::Ok)
        }
    }
}

/// Reads and checks a manifest file; `-` is standard input.
pub(crate) fn read(path: &Path) -> Result<(Vec<u8>, Manifest, ManifestHash), CliError> {
    let what = format!("cannot use the manifest {}", path.display());
    let bytes = read_file(path, &what)?;
    let (manifest, hash) =
        Manifest::parse(&bytes).map_err(|error| CliError::failed(&what, format!("{error} ({})", error.code)))?;
    Ok((bytes, manifest, hash))
}

fn read_file(path: &Path, what: &str) -> Result<Vec<u8>, CliError> {
    // One byte more than allowed, so that too large is seen and not cut.
    let limit = MANIFEST_BYTES_MAX as u64 + 1;
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().take(limit).read_to_end(&mut bytes)?;
        return Ok(bytes);
    }
    fsio::read_limited(path, limit)
        .map_err(|error| CliError::failed(what, osmoda_kit::error::chain(&error)))?
        .ok_or_else(|| CliError::new(Exit::NotFound, what, "it does not exist"))
}

async fn build(global: &Global, path: &Path, out: Option<&Path>) -> Result<Exit, CliError> {
    let what = format!("cannot build a manifest from {}", path.display());
    let text = String::from_utf8(read_file(path, &what)?).map_err(|_| CliError::failed(&what, "it is not UTF-8"))?;
    let spec = parse(&text).map_err(|why| CliError::failed(&what, why))?;
    let known = match spec.is_whole() {
        true => Vec::new(),
        false => Session::open(global)?.nodes().await.map_err(|error| error.about(&what))?,
    };
    let manifest = fill(spec, &known).map_err(|error| error.about(&what))?;
    manifest.validate().map_err(|error| CliError::failed(&what, format!("{error} ({})", error.code)))?;
    let mut bytes = serde_json::to_vec_pretty(&manifest).map_err(|error| CliError::failed(&what, error.to_string()))?;
    bytes.push(b'\n');
    // Read back what will be read by everybody else, size included.
    Manifest::parse(&bytes).map_err(|error| CliError::failed(&what, format!("{error} ({})", error.code)))?;
    match out {
        Some(out) => fsio::write_atomic(out, &bytes, 0o644).map_err(|error| {
            CliError::failed(format!("cannot write {}", out.display()), osmoda_kit::error::chain(&error))
        })?,
        None => std::io::stdout().write_all(&bytes)?,
    }
    Ok(Exit::Ok)
}

/// JSON begins with a brace; TOML never does.
fn parse(text: &str) -> Result<Spec, String> {
    if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| error.to_string())
    } else {
        toml::from_str(text).map_err(|error| error.to_string().trim().to_owned())
    }
}

fn fill(spec: Spec, known: &[Node]) -> Result<Manifest, CliError> {
    let id = |name: &str| match name.parse::<NodeId>() {
        Ok(id) => Ok(id),
        Err(_) => find_node(known, name).map(|node| node.id),
    };
    let mut nodes = BTreeMap::new();
    for (name, row) in spec.nodes {
        let node = id(&name)?;
        let target = row.target.or_else(|| spec.target.clone());
        let target =
            target.ok_or_else(|| CliError::failed("", format!("nodes.{name}: no target, and no common one")))?;
        let reported = known.iter().find(|known| known.id == node).and_then(|node| node.generation.as_ref());
        let baseline = row.baseline.or_else(|| reported.map(|generation| generation.current.clone()));
        let baseline = baseline.ok_or_else(|| {
            CliError::failed("", format!("nodes.{name}: no baseline, and the node has not reported what it runs"))
                .next("name the baseline, or wait until the node is online: osmoda node ls")
        })?;
        if nodes.insert(node, NodeTarget { target, baseline, mode: Default::default() }).is_some() {
            return Err(CliError::failed("", format!("nodes.{name}: the same node is named twice")));
        }
    }
    let mut node_checks = BTreeMap::new();
    for (name, checks) in spec.node_checks {
        node_checks.insert(id(&name)?, checks);
    }
    Ok(Manifest {
        version: 1,
        name: spec.name,
        scope: spec.scope,
        nodes,
        checks: spec.checks,
        node_checks,
        supersedes: spec.supersedes,
        policy: spec.policy.unwrap_or_else(default_policy),
    })
}

/// One canary, then the rest, one at a time.
fn default_policy() -> Policy {
    Policy {
        waves: vec![Wave::Count(1), Wave::Percent(100)],
        max_unavailable: 1,
        failure_budget: 0,
        max_parallel: None,
        stagger_ms: 0,
        threshold: None,
        auto_resume: false,
        timings: Default::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
        name = "web 2"
        scope = "web"
        target = "/nix/store/b"
        [nodes.1111111111111111111111111111111111111111111111111111111111111111]
        baseline = "/nix/store/a"
        [[checks]]
        type = "systemd_unit"
        unit = "nginx.service"
    "#;

    #[test]
    fn a_whole_description_needs_no_controller() {
        let spec = parse(WHOLE).unwrap();
        assert!(spec.is_whole());
        let manifest = fill(spec, &[]).unwrap();
        manifest.validate().unwrap();
        assert_eq!(manifest.policy.waves, [Wave::Count(1), Wave::Percent(100)]);
        let row = manifest.nodes.values().next().unwrap();
        assert_eq!((row.target.as_str(), row.baseline.as_str()), ("/nix/store/b", "/nix/store/a"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let spec = parse(&WHOLE.replace("baseline = \"/nix/store/a\"", "")).unwrap();
        assert!(!spec.is_whole());
        assert!(fill(spec, &[]).unwrap_err().why.contains("no baseline"));
        let spec = parse(&WHOLE.replace("target = \"/nix/store/b\"", "")).unwrap();
        assert!(fill(spec, &[]).unwrap_err().why.contains("no target"));
        let spec = parse(&WHOLE.replace("nodes.1111", "nodes.x1111")).unwrap();
        assert_eq!(fill(spec, &[]).unwrap_err().exit, Exit::NotFound);
        assert!(parse(&WHOLE.replace("scope", "scop")).unwrap_err().contains("scop"));
        assert!(parse("{\"name\":1}").is_err());
    }
}
