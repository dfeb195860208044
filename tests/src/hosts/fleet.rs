//! A fleet on the hosts of a bed: enrolment, signed rollouts, what became of them.
//!
//! Uses what an operator and a host's administrator would use: `osmoda-node init`,
//! `invite` and `join`, units, and the daemons' sockets. There is no controller
//! in most scenarios, so the manifest is put on each voter by file. Closures are in
//! the cache and on no host: staging fetches them.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, chown};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use ed25519_dalek::SigningKey;
use osmoda_kit::clock::SystemClock;
use osmoda_node_api::watch::{AttemptView, History, TRUST_FILE, TrustFile};
use osmoda_types::command::Order;
use osmoda_types::manifest::{Mode, NodeTarget};
use osmoda_types::{
    FleetEpoch, HealthCheck, Manifest, ManifestHash, NetworkId, NodeId, Policy, RolloutId, Timings, Wave, statement,
};
use serde_json::{Value, json};

use super::bed::Bed;
use super::cell::BOOT_ID_FILE;
use super::command::until;
use super::host::Host;
use super::programs;

/// Units start, keys are made, the log elects a leader: seconds, but three hosts
/// of a debug build share two cores.
const ENROL_TIME_MAX: Duration = Duration::from_secs(120);

/// Longer than any rollout of the scenarios, dead-man time and lost time included.
const ROLLOUT_TIME_MAX: Duration = Duration::from_secs(300);

/// UDP port of the mesh.
const MESH_PORT: u16 = 18_800;

/// How long a host's log is looked at for words that staging has left there.
const LOG_TIME_MAX: Duration = Duration::from_secs(30);

/// One release: a target per host, in the order of the hosts.
#[derive(Debug, Clone)]
pub(super) struct Release {
    name: &'static str,
    pub(super) targets: Vec<String>,
    activation_ms: u64,
}

impl Release {
    /// Moves every host to its target.
    pub(super) fn new(name: &'static str, targets: Vec<String>) -> Self {
        // A minute of a busy machine is more than any activation here takes.
        Self { name, targets, activation_ms: 30_000 }
    }

    /// Sets how long an activation may take.
    pub(super) fn activation_ms(self, activation_ms: u64) -> Self {
        Self { activation_ms, ..self }
    }
}

/// The fleet of a bed.
#[derive(Debug)]
pub(super) struct Fleet {
    network: NetworkId,
    operator: SigningKey,
    /// Node ids, in the order of the hosts.
    nodes: Vec<NodeId>,
}

impl Fleet {
    /// Makes every host of the bed a voter of one new fleet.
    pub(super) async fn enrol(bed: &Bed) -> anyhow::Result<Self> {
        // A fixed key: nothing outside this bed knows it.
        let operator = SigningKey::from_bytes(&[7; 32]);
        let line = format!("ed25519 {} tests\n", statement::public_key(&operator));
        let mut nodes = Vec::new();
        for host in bed.hosts() {
            programs::write(&host.file("/etc/osmoda/operator.pub")?, &line)?;
            let advertise = format!("{}:{MESH_PORT}", host.address());
            let name = host.name();
            let rest = ["--name", &name, "--advertise", &advertise, "--operator", "/etc/osmoda/operator.pub"];
            let said = match bed.hosts().first() {
                Some(first) if first.index != host.index => {
                    let invite = first.run(&["osmoda-node", "invite", "--role", "voter"]).await?;
                    host.run(&[["osmoda-node", "join", invite.trim()].as_slice(), &rest].concat()).await?
                }
                _ => host.run(&[["osmoda-node", "init"].as_slice(), &rest].concat()).await?,
            };
            let node = said.split_whitespace().next().context("enrolment printed nothing")?;
            nodes.push(node.parse().with_context(|| format!("enrolment printed {said:?}"))?);
            settings(host)?;
            host.run(&["systemctl", "start", "osmoda.target"]).await?;
            let wanted = nodes.len();
            until("fleetd's leader", ENROL_TIME_MAX, || async move { leader(host).await }).await?;
            // A joint change goes from one voter to three, never to two.
            let voters = if wanted == 2 { 1 } else { wanted };
            until("the voters", ENROL_TIME_MAX, || async move { has_members(host, wanted, voters).await }).await?;
        }
        let first = bed.hosts().first().context("the bed has no hosts")?;
        let path = first.file("/var/lib/osmoda/watch")?.join(TRUST_FILE);
        let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let trust: TrustFile = serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
        Ok(Self { network: trust.network_id, operator, nodes })
    }

    /// The operator's key.
    pub(super) fn operator(&self) -> &SigningKey {
        &self.operator
    }

    /// The node id of a host.
    pub(super) fn node(&self, host: &Host) -> anyhow::Result<NodeId> {
        self.nodes.get(usize::from(host.index) - 1).copied().context("the host is not in the fleet")
    }

    /// Signs and proposes a manifest that moves every host to its target.
    pub(super) async fn propose(&self, bed: &Bed, release: &Release) -> anyhow::Result<RolloutId> {
        let mut rows = BTreeMap::new();
        for ((host, node), target) in bed.hosts().iter().zip(&self.nodes).zip(&release.targets) {
            let baseline = host.systems()?.runs.context("the host runs no generation")?;
            let row = NodeTarget { target: target.parse()?, baseline: baseline.parse()?, mode: Mode::Live };
            rows.insert(*node, row);
        }
        let bytes = serde_json::to_vec_pretty(&manifest(release, rows)).context("writing the manifest")?;
        let manifest = ManifestHash::of(&bytes);
        for host in bed.hosts() {
            put_manifest(host, manifest, &bytes)?;
        }
        let leader = &bed.hosts()[0];
        let status: Value = leader.client("fleetd")?.get("/status").await?;
        let parent = FleetEpoch(status["epoch"].as_u64().context("fleetd tells no epoch")?);
        let rollout = RolloutId::new();
        let signature =
            statement::sign(&self.operator, &statement::rollout(&manifest, &rollout, parent, &self.network));
        let body = json!({
            "plan": manifest, "peer_ids": ["fleet"], "rollout": rollout, "parent_epoch": parent,
            "operator_key": statement::public_key(&self.operator), "signature": signature,
        });
        let _answer: Value = leader.client("fleetd")?.post("/fleet/propose", &body).await?;
        Ok(rollout)
    }

    /// Gives a rollout up, as its operator.
    pub(super) async fn abort(&self, bed: &Bed, rollout: RolloutId) -> anyhow::Result<()> {
        // Orders of one operator have growing serials; the clock's are.
        let serial = u64::try_from(SystemClock::shared().now_wall().as_millis()).context("the clock is before 1970")?;
        let order = statement::control(&Order::Abort { rollout }, serial, &self.network);
        let body = json!({
            "operator_key": statement::public_key(&self.operator), "serial": serial,
            "signature": statement::sign(&self.operator, &order),
        });
        let leader = bed.hosts().first().context("the bed has no hosts")?;
        let _answer: Value = leader.client("fleetd")?.post(&format!("/fleet/rollback/{rollout}"), &body).await?;
        Ok(())
    }

    /// Waits until staging a rollout was refused on a host, and returns the line
    /// that its fleetd logged.
    pub(super) async fn refusal(&self, host: &Host, since: &str) -> anyhow::Result<String> {
        until("the refusal of a rollout", LOG_TIME_MAX, || async move {
            let unit = ["journalctl", "--no-pager", "-o", "cat", "--since", since, "-u", "osmoda-fleetd.service"];
            let log = host.run(&unit).await?;
            Ok(log.lines().find(|line| line.contains("rollout cannot be staged")).map(str::to_owned))
        })
        .await
    }

    /// Waits until a rollout is over and returns how it ended.
    pub(super) async fn ended(&self, bed: &Bed, rollout: RolloutId) -> anyhow::Result<String> {
        until("the end of the rollout", ROLLOUT_TIME_MAX, || async move {
            for host in bed.hosts() {
                // A host that is cut off, or a daemon that restarts, says nothing for a while.
                let Ok(status) = rollout_status(host, rollout).await else { continue };
                let phase = status["phase"].as_str().unwrap_or_default().to_owned();
                if !matches!(phase.as_str(), "propose" | "vote" | "execute") && status["result_summary"].is_string() {
                    return Ok(Some(phase));
                }
            }
            Ok(None)
        })
        .await
    }

    /// What every host did for a manifest: its journal.
    pub(super) async fn history(&self, host: &Host) -> anyhow::Result<History> {
        Ok(host.client("watch")?.get("/attempt/history").await?)
    }

    /// Waits until a host is at rest, and returns where it stands.
    pub(super) async fn resting(&self, host: &Host) -> anyhow::Result<AttemptView> {
        until("a host at rest", ROLLOUT_TIME_MAX, || async move {
            let Ok(client) = host.client("watch") else { return Ok(None) };
            let view: Result<AttemptView, _> = client.get("/attempt").await;
            Ok(view.ok().filter(|view| view.resting))
        })
        .await
    }
}

async fn leader(host: &Host) -> anyhow::Result<Option<()>> {
    let status: Result<Value, _> = host.client("fleetd")?.get("/status").await;
    if let Ok(status) = status {
        return Ok((!status["leader"].is_null()).then_some(()));
    }
    // A unit that gave up is not worth waiting for.
    let state = host.run_any(&["systemctl", "is-failed", "osmoda-fleetd.service", "osmoda-mesh.service"]).await?;
    if state.lines().any(|line| line == "failed") {
        let log = host.run_any(&["journalctl", "-n", "30", "--no-pager", "-u", "osmoda-*"]).await?;
        bail!("a daemon failed on host {}:\n{log}", host.name());
    }
    Ok(None)
}

async fn has_members(host: &Host, members: usize, voters: usize) -> anyhow::Result<Option<()>> {
    let status: Result<Value, _> = host.client("fleetd")?.get("/status").await;
    let Ok(status) = status else { return Ok(None) };
    let count = |name: &str| status[name].as_array().map_or(0, Vec::len);
    let known = status["members"].as_u64().is_some_and(|known| known >= members as u64);
    // A leader exists before the log says who it is.
    Ok((known && count("voters") >= voters && count("raft_voters") >= voters).then_some(()))
}

async fn rollout_status(host: &Host, rollout: RolloutId) -> anyhow::Result<Value> {
    let client = host.client("fleetd")?.with_time_limit(Duration::from_secs(2));
    Ok(client.get(&format!("/fleet/status/{rollout}")).await?)
}

/// What differs from a host's defaults: signatures are required, and the file
/// that names this start of the host is not the kernel's.
fn settings(host: &Host) -> anyhow::Result<()> {
    let path = host.file("/etc/osmoda/watch.toml")?;
    let mut text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    text.push_str(&format!("require_signatures = true\nboot_id_file = \"{BOOT_ID_FILE}\"\n"));
    programs::write(&path, &text)
}

fn put_manifest(host: &Host, hash: ManifestHash, bytes: &[u8]) -> anyhow::Result<()> {
    let folder = host.file("/var/lib/osmoda/fleetd/manifests")?;
    let owner = std::fs::metadata(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let path = folder.join(hash.to_string());
    osmoda_kit::fsio::write_atomic(&path, bytes, 0o600).with_context(|| format!("writing {}", path.display()))?;
    chown(&path, Some(owner.uid()), Some(owner.gid())).with_context(|| format!("giving away {}", path.display()))?;
    ensure!(path.exists(), "the manifest is not on host {}", host.name());
    Ok(())
}

fn manifest(release: &Release, nodes: BTreeMap<NodeId, NodeTarget>) -> Manifest {
    Manifest {
        version: 1,
        name: release.name.to_owned(),
        scope: "hosts".to_owned(),
        nodes,
        checks: vec![HealthCheck::SystemdUnit { unit: "workload.service".to_owned() }],
        node_checks: BTreeMap::new(),
        supersedes: None,
        policy: Policy {
            waves: vec![Wave::Count(1), Wave::Percent(100)],
            max_unavailable: 1,
            failure_budget: 0,
            max_parallel: None,
            stagger_ms: 0,
            threshold: None,
            auto_resume: true,
            // The dead-man time is that of the host tests; the rest is short
            // because a workload here is healthy within a second or never.
            timings: Timings {
                healthy_ms: 3_000,
                soak_ms: 1_000,
                check_deadline_ms: 15_000,
                dead_man_ms: 30_000,
                activation_ms: release.activation_ms,
                wave_deadline_ms: 240_000,
                vote_deadline_ms: 60_000,
                prefetch_deadline_ms: 60_000,
                ..Timings::default()
            },
        },
    }
}
