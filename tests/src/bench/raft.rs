//! `bench raft`: commands committed by three voters over the mesh.
//!
//! Three processes of this program, each with its own keys, mesh socket, log
//! on the real disk and runtime; the leader's process also holds the proposers.
//! Rounds are interleaved, so that a slow minute of the machine hits every
//! number of proposers; the ratio is taken within a round. One proposer is the
//! baseline without batching: each entry then carries one command.
//!
//! Invariant: a window in which a proposal was refused or left unknown (an
//! election, a stalled disk) is thrown away whole and measured again, and the
//! report says how many were. Not measured here: more voters, real networks.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use self::fleet::Fleet;
use self::words::{Load, Loaded, Totals};
use super::ledger::probe_disk;
use super::report::{Report, Target};

mod fleet;
mod proposers;
pub mod voter;
mod words;

/// Rounds; the median of three survives one disturbed round.
const ROUNDS: usize = 3;

/// Proposers at the same time (issue 2, "Show").
const PROPOSERS: [usize; 3] = [1, 64, 512];

/// Before the window: channels open, pages of the log allocated.
const WARM_UP: Duration = Duration::from_millis(500);

/// What is counted: thousands of commands even with one proposer, and 20
/// heartbeats.
const WINDOW: Duration = Duration::from_secs(4);

/// Windows that may be measured again, in all. More means that the group does
/// not hold its leader, and then there is nothing to report.
const REPEATS_MAX: usize = 3;

/// `consensus.md`, G1: syncs of all three logs per committed command, at 256
/// proposers or more.
const SYNCS_PER_COMMAND_MAX: f64 = 0.05;

/// What one number of proposers did in one window.
#[derive(Debug, Clone, Copy)]
struct Sample {
    proposers: usize,
    round: usize,
    loaded: Loaded,
    /// Warm-up included, on both sides of the division.
    syncs_per_command: f64,
    commands_per_entry: f64,
}

/// Runs the benchmark. The running program must be `bench`: it starts itself.
///
/// # Errors
/// When a voter cannot be started, or the group does not hold its leader.
pub fn run() -> anyhow::Result<Report> {
    let here = std::env::current_exe()?.parent().context("the program lies in a folder")?.to_owned();
    let sync_us = probe_disk(&here)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (samples, repeats) = runtime.block_on(measure(&here))?;
    report(&samples, repeats, &sync_us)
}

async fn measure(here: &Path) -> anyhow::Result<(Vec<Sample>, usize)> {
    let mut fleet = Fleet::start(here).await?;
    let mut samples = Vec::new();
    let mut repeats = 0;
    for round in 0..ROUNDS {
        for proposers in PROPOSERS {
            let sample = loop {
                match window(&mut fleet, proposers, round).await {
                    Ok(sample) => break sample,
                    Err(error) if repeats < REPEATS_MAX => {
                        repeats += 1;
                        writeln!(std::io::stderr(), "a window is measured again: {error:#}")?;
                    }
                    Err(error) => return Err(error),
                }
            };
            writeln!(
                std::io::stderr(),
                "round {} of {ROUNDS}: {proposers:3} proposers, {:8.0} commits/s, p50 {:6.2} ms, p99 {:6.2} ms, {:.4} syncs/command",
                round + 1,
                sample.loaded.commits_per_s,
                sample.loaded.p50_ms,
                sample.loaded.p99_ms,
                sample.syncs_per_command
            )?;
            samples.push(sample);
        }
    }
    fleet.stop().await?;
    Ok((samples, repeats))
}

async fn window(fleet: &mut Fleet, proposers: usize, round: usize) -> anyhow::Result<Sample> {
    let before = fleet.totals().await?;
    let loaded = fleet.load(Load { proposers, warm_up: WARM_UP, window: WINDOW }).await?;
    let after = fleet.totals().await?;
    let grown = |of: fn(&Totals) -> u64| -> f64 {
        let sum = |totals: &[Totals]| totals.iter().map(of).sum::<u64>();
        (sum(&after) - sum(&before)) as f64
    };
    let commands = grown(|totals| totals.commands);
    Ok(Sample {
        proposers,
        round,
        loaded,
        syncs_per_command: grown(|totals| totals.syncs) / commands,
        commands_per_entry: commands / grown(|totals| totals.batches),
    })
}

fn report(samples: &[Sample], repeats: usize, sync_us: &[f64]) -> anyhow::Result<Report> {
    let mut report = Report::new("raft");
    report.note(format!(
        "3 processes over the mesh on 127.0.0.1, redb log with fsync; {ROUNDS} interleaved rounds of {WINDOW:?}; \
         commands of {} bytes; {} cores; {repeats} windows measured again",
        words::COMMAND_BYTES,
        std::thread::available_parallelism()?
    ));
    let of = |proposers: usize, value: fn(&Sample) -> f64| -> Vec<f64> {
        samples.iter().filter(|sample| sample.proposers == proposers).map(value).collect()
    };
    for proposers in PROPOSERS {
        report.add(format!("commits_per_s_{proposers}"), &of(proposers, |s| s.loaded.commits_per_s), None)?;
        report.add(format!("p50_ms_{proposers}"), &of(proposers, |s| s.loaded.p50_ms), None)?;
        report.add(format!("p99_ms_{proposers}"), &of(proposers, |s| s.loaded.p99_ms), None)?;
        report.add(format!("commands_per_entry_{proposers}"), &of(proposers, |s| s.commands_per_entry), None)?;
        let is_judged = proposers >= 256;
        report.add(
            format!("fsyncs_per_command_{proposers}"),
            &of(proposers, |s| s.syncs_per_command),
            is_judged.then_some(Target::AtMost(SYNCS_PER_COMMAND_MAX)),
        )?;
    }
    report.add("commits_512_over_1", &ratios(samples, 512, 1), None)?;
    report.add("disk_fdatasync_us", sync_us, None)?;
    Ok(report)
}

/// Commits per second of many proposers against few, round by round.
fn ratios(samples: &[Sample], many: usize, few: usize) -> Vec<f64> {
    let rate = |proposers: usize, round: usize| {
        let found = samples.iter().find(|sample| sample.proposers == proposers && sample.round == round);
        found.map(|sample| sample.loaded.commits_per_s)
    };
    (0..ROUNDS).filter_map(|round| Some(rate(many, round)? / rate(few, round)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_judges_the_syncs_at_512_only() {
        let sample = |proposers, round| Sample {
            proposers,
            round,
            loaded: Loaded { commits_per_s: proposers as f64 * 10.0, p50_ms: 1.0, p99_ms: 2.0 },
            syncs_per_command: 0.04,
            commands_per_entry: 1.0,
        };
        let samples: Vec<Sample> =
            (0..ROUNDS).flat_map(|round| PROPOSERS.map(|proposers| sample(proposers, round))).collect();
        let report = report(&samples, 0, &[100.0]).unwrap();
        let judged: Vec<&str> =
            report.figures().iter().filter(|(_, f)| f.met().is_some()).map(|(name, _)| name.as_str()).collect();
        assert_eq!(judged, ["fsyncs_per_command_512"]);
        let (_, ratio) = report.figures().iter().find(|(name, _)| name == "commits_512_over_1").unwrap();
        assert_eq!((ratio.value, ratio.min, ratio.max), (512.0, 512.0, 512.0));
    }
}
