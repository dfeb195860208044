//! Orders to the fleet, given with the real `osmoda`, as an operator would.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use osmoda_controller_api::{DeniedTarget, Event, FleetStatus, Node, Page, Rollout};
use osmoda_ctl::dev::fleet::Fleet;
use osmoda_ctl::dev::proc::ProcError;
use osmoda_types::manifest::{Mode, NodeTarget};
use osmoda_types::{HealthCheck, Manifest, NodeId, Policy, RolloutId, StorePath, Timings, Wave};
use serde::de::DeserializeOwned;

/// The scope of every rollout here.
const SCOPE: &str = "demo";

/// What a release is made of.
#[derive(Debug)]
pub(crate) struct Release {
    /// What people call it.
    pub(crate) name: &'static str,
    /// Where each node goes, and where from.
    pub(crate) rows: BTreeMap<NodeId, NodeTarget>,
    /// The waves.
    pub(crate) waves: Vec<Wave>,
    /// How many nodes may be at risk.
    pub(crate) max_unavailable: u32,
    /// Pause between grants.
    pub(crate) stagger_ms: u64,
}

/// One row.
pub(crate) fn row(target: StorePath, baseline: StorePath) -> NodeTarget {
    NodeTarget { target, baseline, mode: Mode::Live }
}

impl Release {
    fn manifest(&self) -> Manifest {
        // `architecture.md` 4.1: the demo's periods. The others are long enough
        // for a busy machine and short enough to end a demo that hangs.
        let timings = Timings {
            healthy_ms: 1_000,
            soak_ms: 1_000,
            check_deadline_ms: 5_000,
            dead_man_ms: 15_000,
            activation_ms: 10_000,
            wave_deadline_ms: 90_000,
            vote_deadline_ms: 20_000,
            prefetch_deadline_ms: 20_000,
            rollback_deadline_ms: 60_000,
            ..Timings::default()
        };
        let check = HealthCheck::Command {
            cmd: "/usr/bin/test".to_owned(),
            args: vec!["-f".to_owned(), "run/healthy".to_owned()],
        };
        Manifest {
            version: 1,
            name: self.name.to_owned(),
            scope: SCOPE.to_owned(),
            nodes: self.rows.clone(),
            checks: vec![check],
            node_checks: BTreeMap::new(),
            supersedes: None,
            policy: Policy {
                waves: self.waves.clone(),
                max_unavailable: self.max_unavailable,
                failure_budget: 0,
                max_parallel: None,
                stagger_ms: self.stagger_ms,
                threshold: None,
                auto_resume: false,
                timings,
            },
        }
    }
}

/// What came of an order.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The exit code of `osmoda`.
    pub(crate) exit: i32,
    /// What it wrote to standard error.
    pub(crate) why: String,
}

/// The operator of the fleet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operator<'a>(pub(crate) &'a Fleet);

impl Operator<'_> {
    fn ask<T: DeserializeOwned>(self, args: &[&str]) -> anyhow::Result<T> {
        let args: Vec<&str> = args.iter().copied().chain(["-o", "json"]).collect();
        let text = self.0.osmoda(&args).with_context(|| format!("osmoda {}", args.join(" ")))?;
        serde_json::from_str(&text).with_context(|| format!("reading what osmoda {} printed", args.join(" ")))
    }

    /// The fleet as the controller sees it.
    pub(crate) fn status(self) -> anyhow::Result<FleetStatus> {
        self.ask(&["status"])
    }

    /// The nodes.
    pub(crate) fn nodes(self) -> anyhow::Result<Vec<Node>> {
        Ok(self.ask::<Page<Node>>(&["node", "ls"])?.items)
    }

    /// The deny-list.
    pub(crate) fn denied(self) -> anyhow::Result<Vec<StorePath>> {
        let page: Page<DeniedTarget> = self.ask(&["target", "denied"])?;
        Ok(page.items.into_iter().map(|denied| denied.target).collect())
    }

    /// A rollout.
    pub(crate) fn rollout(self, id: RolloutId) -> anyhow::Result<Rollout> {
        self.ask(&["rollout", "status", &id.to_string()])
    }

    /// Everything that happened in a rollout that is over.
    pub(crate) fn events(self, id: RolloutId) -> anyhow::Result<Vec<Event>> {
        let id = id.to_string();
        let args = ["rollout", "watch", &id, "--timeout", "10", "-o", "jsonl"];
        let text = match self.0.osmoda(&args) {
            Ok(text) => text,
            // The exit code tells how the rollout ended; the events are the same.
            Err(ProcError::Failed(failed)) if failed.code.is_some() && !failed.stdout.is_empty() => failed.stdout,
            Err(error) => return Err(error).context("osmoda rollout watch"),
        };
        text.lines().map(|line| serde_json::from_str(line).context("an event")).collect()
    }

    /// Signs and proposes a release under a given id.
    pub(crate) fn start(self, release: &Release, id: RolloutId) -> anyhow::Result<Result<(), Refused>> {
        let file = self.0.layout.dir().join(format!("{}.json", release.name));
        std::fs::write(&file, serde_json::to_vec_pretty(&release.manifest())?)?;
        let (file, key) = (file.display().to_string(), self.0.layout.operator_key().display().to_string());
        let id = id.to_string();
        match self.0.osmoda(&["rollout", "start", &file, "--key", &key, "--id", &id, "-o", "json"]) {
            Ok(_) => Ok(Ok(())),
            Err(ProcError::Failed(failed)) => {
                let exit = failed.code.context("osmoda was ended by a signal")?;
                Ok(Err(Refused { exit, why: failed.stderr }))
            }
            Err(error) => Err(error).context("osmoda rollout start"),
        }
    }

    /// As [`Operator::start`], of a release that must be taken.
    pub(crate) fn must_start(self, release: &Release, id: RolloutId) -> anyhow::Result<()> {
        match self.start(release, id)? {
            Ok(()) => Ok(()),
            Err(Refused { exit, why }) => bail!("{} was refused with exit {exit}: {why}", release.name),
        }
    }
}
