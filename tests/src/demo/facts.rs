//! What a node itself says: its profile, what it runs, its journal.
//!
//! Read from its files, so a daemon that lies or is dead changes nothing.

use std::path::PathBuf;

use anyhow::Context as _;
use osmoda_ctl::dev::fleet::Fleet;
use osmoda_ctl::dev::member::Member;
use osmoda_journal::generation::{GenerationStore as _, SymlinkStore};
use osmoda_journal::{Entry, JOURNAL_FILE, Journal, Kind, Record};
use osmoda_kit::paths::Paths;
use osmoda_types::{AttemptId, RolloutId, StorePath};

/// One node's files.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    root: PathBuf,
    profile: PathBuf,
}

impl Facts {
    /// The files of `node`.
    pub(crate) fn of(fleet: &Fleet, node: &Member) -> Self {
        Self { root: fleet.layout.root(&node.name), profile: fleet.layout.profile(&node.name) }
    }

    /// The node's root directory.
    pub(crate) fn root(&self) -> &std::path::Path {
        &self.root
    }

    /// What it runs: where `run/current-system` leads.
    pub(crate) fn running(&self) -> anyhow::Result<StorePath> {
        let link = self.root.join("run/current-system");
        let target = std::fs::read_link(&link).with_context(|| format!("reading {}", link.display()))?;
        StorePath::new(target.display().to_string()).context("run/current-system")
    }

    /// What it will boot: where its profile leads.
    pub(crate) fn boots(&self) -> anyhow::Result<StorePath> {
        // Both stores keep the same links, so one reader does for both.
        let current = SymlinkStore::new(&self.profile).current()?;
        current.with_context(|| format!("{} was never set", self.profile.display()))
    }

    /// Every generation its profile ever had, oldest first.
    pub(crate) fn generations(&self) -> anyhow::Result<Vec<StorePath>> {
        let list = SymlinkStore::new(&self.profile).list()?;
        Ok(list.into_iter().map(|generation| generation.toplevel).collect())
    }

    /// Its journal, oldest first.
    pub(crate) fn journal(&self) -> anyhow::Result<Vec<Record>> {
        let path = Paths::new(&self.root).state("watch").join(JOURNAL_FILE);
        if !path.exists() {
            return Ok(Vec::new());
        }
        Journal::new(&path).history().with_context(|| format!("reading {}", path.display()))
    }

    /// Its attempts of one rollout, oldest first.
    pub(crate) fn attempts(&self, rollout: RolloutId) -> anyhow::Result<Vec<AttemptId>> {
        let of = |record: &Record| matches!(&record.entry, Entry::Granted(plan) if plan.rollout == Some(rollout));
        Ok(self.journal()?.iter().filter(|record| of(record)).map(|record| record.attempt).collect())
    }

    /// The kinds of an attempt's records, in order.
    pub(crate) fn kinds(&self, attempt: AttemptId) -> anyhow::Result<Vec<Kind>> {
        let records = self.journal()?;
        Ok(records.iter().filter(|record| record.attempt == attempt).filter_map(|record| record.entry.kind()).collect())
    }

    /// The record of an attempt, for its moment.
    pub(crate) fn record(&self, attempt: AttemptId, kind: Kind) -> anyhow::Result<Record> {
        let records = self.journal()?;
        let found = records.into_iter().find(|record| record.attempt == attempt && record.entry.kind() == Some(kind));
        found.with_context(|| format!("{} has no {kind} record of attempt {attempt}", self.root.display()))
    }

    /// With whom an attempt talked and when, by `CLOCK_BOOTTIME` in milliseconds.
    pub(crate) fn contacts(&self, attempt: AttemptId) -> anyhow::Result<Vec<(u64, String)>> {
        let records = self.journal()?.into_iter().filter(|record| record.attempt == attempt);
        let contact = |record: Record| match record.entry {
            Entry::Contact { leader, .. } => Some((record.at.boot_ms, leader)),
            _ => None,
        };
        Ok(records.filter_map(contact).collect())
    }

    /// A line for the live table: what it runs, and how far its attempt is.
    pub(crate) fn line(&self) -> String {
        let running = self.running().map_or_else(|_| "-".to_owned(), |path| generation_of(&path));
        let phase = self.journal().ok().and_then(|records| records.last().and_then(|record| record.entry.kind()));
        format!("{running:<4} {}", phase.map_or("idle", Kind::as_str))
    }
}

/// The end of a toplevel's name: `g2`.
pub(crate) fn generation_of(path: &StorePath) -> String {
    path.name().rsplit('-').next().unwrap_or_default().to_owned()
}
