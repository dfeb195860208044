//! What the demonstration says while it runs and when it is over.
//!
//! Invariant: a step is reported as done only by [`Reporter::done`], which is
//! called after its claims were checked; the last line says `ok` only when
//! every step was. People get a table, programs one JSON object a line.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// One line per finished step.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct StepLine {
    /// The step's name, such as `g2_good`.
    pub(super) step: &'static str,
    /// Whether every claim held.
    pub(super) ok: bool,
    /// How long it took, in seconds.
    pub(super) seconds: f64,
    /// What was found on the nodes, in words.
    pub(super) found: Vec<String>,
}

/// The last line.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct Summary {
    /// Whether every claim of every step held.
    pub(super) ok: bool,
    /// Seconds of each step.
    pub(super) steps: BTreeMap<&'static str, f64>,
    /// From the SIGKILL of the leader's node to the next grant in the log.
    pub(super) next_grant_after_leader_kill_s: Option<f64>,
    /// Grants of one rollout to one node beyond the first, found by joining
    /// every node's journal to the log.
    pub(super) double_grants: u64,
    /// How many nodes' ledgers verified offline.
    pub(super) ledgers_verified: usize,
}

/// How the output looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// For people: a live table on a terminal, plain lines elsewhere.
    Human,
    /// For programs: one JSON object a line on standard output.
    Json,
}

/// Tells the world how it goes.
#[derive(Debug)]
pub(crate) struct Reporter {
    style: Style,
    table: MultiProgress,
    rows: BTreeMap<String, ProgressBar>,
    steps: BTreeMap<&'static str, f64>,
}

impl Reporter {
    /// A reporter for that style.
    #[must_use]
    pub(crate) fn new(style: Style) -> Self {
        let live = style == Style::Human && io::stderr().is_terminal();
        let target = if live { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
        Self { style, table: MultiProgress::with_draw_target(target), rows: BTreeMap::new(), steps: BTreeMap::new() }
    }

    /// Says what is going on, to people only.
    pub(super) fn note(&self, text: &str) {
        if self.style == Style::Human {
            self.line(text);
        }
    }

    /// Says something that belongs to neither the report nor the table, on
    /// standard error.
    pub(crate) fn aside(&self, text: &str) {
        self.table.suspend(|| {
            if let Err(error) = writeln!(io::stderr().lock(), "{text}") {
                tracing::debug!(%error, "standard error is closed");
            }
        });
    }

    /// Updates a member's row of the live table.
    pub(crate) fn row(&mut self, member: &str, text: &str) {
        let table = &self.table;
        let bar = self.rows.entry(member.to_owned()).or_insert_with(|| {
            let bar = table.add(ProgressBar::new_spinner());
            // The template is a constant; without it the spinner is only plainer.
            if let Ok(style) = ProgressStyle::with_template("  {prefix:<12} {msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(member.to_owned());
            bar
        });
        bar.set_message(text.to_owned());
        bar.tick();
    }

    /// A step is over and its claims held.
    pub(super) fn done(&mut self, step: &'static str, began: Instant, found: Vec<String>) {
        let seconds = round(began.elapsed());
        self.steps.insert(step, seconds);
        match self.style {
            Style::Json => self.json(&StepLine { step, ok: true, seconds, found }),
            Style::Human => {
                self.line(&format!("ok   {step:<14} {seconds:>6.1} s"));
                for fact in found {
                    self.line(&format!("       {fact}"));
                }
            }
        }
    }

    /// A step failed; the summary will say so.
    pub(super) fn failed(&mut self, step: &'static str, began: Instant, why: &anyhow::Error) {
        let seconds = round(began.elapsed());
        self.steps.insert(step, seconds);
        let why = format!("{why:#}");
        match self.style {
            Style::Json => self.json(&StepLine { step, ok: false, seconds, found: vec![why] }),
            Style::Human => self.line(&format!("FAIL {step:<14} {seconds:>6.1} s  {why}")),
        }
    }

    /// The end.
    pub(super) fn summary(
        &self,
        ok: bool,
        next_grant: Option<Duration>,
        double_grants: u64,
        ledgers_verified: usize,
    ) -> Summary {
        for bar in self.rows.values() {
            bar.finish_and_clear();
        }
        let summary = Summary {
            ok,
            steps: self.steps.clone(),
            next_grant_after_leader_kill_s: next_grant.map(round),
            double_grants,
            ledgers_verified,
        };
        match self.style {
            Style::Json => self.json(&summary),
            Style::Human => {
                let total: f64 = summary.steps.values().sum();
                let word = if ok { "every claim held" } else { "NOT every claim held" };
                self.line(&format!("{word}; {total:.1} s in all"));
                if let Some(seconds) = summary.next_grant_after_leader_kill_s {
                    self.line(&format!("next grant {seconds:.2} s after the leader's node was killed"));
                }
                self.line(&format!("{double_grants} double grants, {ledgers_verified} ledgers verified"));
            }
        }
        summary
    }

    fn json(&self, value: &impl serde::Serialize) {
        let text = serde_json::to_string(value).expect("plain structs of numbers and text always serialise");
        self.line(&text);
    }

    fn line(&self, text: &str) {
        // Nobody to talk to any more (a closed pipe) is no reason to stop checking.
        self.table.suspend(|| {
            if let Err(error) = writeln!(io::stdout().lock(), "{text}") {
                tracing::debug!(%error, "standard output is closed");
            }
        });
    }
}

/// Seconds with three digits: more would pretend.
fn round(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}
