//! `bench memory`: what an idle fleet holds in memory.
//!
//! The sum of `Pss` over all processes of a member, from `smaps_rollup`: a page
//! that n processes share counts as 1/n for each. All members run on one
//! machine here, so the program text of a node is shared with the other nodes;
//! a node that is alone on its machine pays it alone. The `anon` figures leave
//! file pages out and are the same in both cases.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use osmoda_ctl::dev::fleet::Fleet;
use osmoda_ctl::dev::member::{Kind, Member};

use super::fleet::{on_fleet, say};
use super::report::Report;

/// How long the fleet is left alone: two of the longest periods at rest, so
/// that start-up buffers are given back and every loop has gone round.
const IDLE: Duration = Duration::from_secs(10);

/// Kibibytes of one process or of many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Memory {
    pss_kib: u64,
    anon_kib: u64,
}

/// Runs the benchmark.
///
/// # Errors
/// When the fleet does not come up or a process cannot be read: then there is
/// nothing to report.
pub fn run() -> anyhow::Result<Report> {
    on_fleet(|fleet, _| {
        say(&format!("the fleet is whole; leaving it alone for {IDLE:?}"));
        // The idleness itself is what is measured: there is nothing to wait for.
        std::thread::sleep(IDLE);
        measure(fleet)
    })
}

fn measure(fleet: &Fleet) -> anyhow::Result<Report> {
    let mut report = Report::new("memory");
    report.note(format!(
        "PSS of all processes of a member after {IDLE:?} of idleness; {} nodes and a controller on one machine",
        fleet.nodes.len()
    ));
    for (name, kind) in [("voter", Kind::Voter), ("node", Kind::Node), ("controller", Kind::Controller)] {
        let members = fleet.nodes.iter().chain([&fleet.controller]).filter(|member| member.kind == kind);
        let (mut pss, mut anon) = (Vec::new(), Vec::new());
        for member in members {
            let by_process = processes(fleet, member).with_context(|| format!("the processes of {}", member.name))?;
            report.note(format!("{:<10} {}", member.name, breakdown(&by_process)));
            pss.push(by_process.values().map(|memory| memory.pss_kib as f64).sum());
            anon.push(by_process.values().map(|memory| memory.anon_kib as f64).sum());
        }
        report.add(format!("{name}_pss_kib"), &pss, None)?;
        report.add(format!("{name}_anon_kib"), &anon, None)?;
    }
    Ok(report)
}

/// The member's processes by what they are called.
fn processes(fleet: &Fleet, member: &Member) -> anyhow::Result<BTreeMap<String, Memory>> {
    let mut found: BTreeMap<String, Memory> = BTreeMap::new();
    for pid in fleet.processes().pids(member) {
        let line = std::fs::read(format!("/proc/{pid}/cmdline"))?;
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let memory = parse(&rollup).with_context(|| format!("smaps_rollup of process {pid}"))?;
        let sum = found.entry(name_of(&line)).or_default();
        sum.pss_kib += memory.pss_kib;
        sum.anon_kib += memory.anon_kib;
    }
    ensure!(!found.is_empty(), "none is running");
    Ok(found)
}

/// The program and its verb, up to the first option: `osmoda-node daemon watch`.
fn name_of(cmdline: &[u8]) -> String {
    let mut words = cmdline.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let program = words.next().unwrap_or_default();
    let mut name = program.rsplit('/').next().unwrap_or_default().to_owned();
    for word in words.take_while(|word| !word.is_empty() && !word.starts_with('-')).take(2) {
        name.push(' ');
        name.push_str(&word);
    }
    name
}

fn parse(rollup: &str) -> anyhow::Result<Memory> {
    let value = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok());
        number.with_context(|| format!("no {name}"))
    };
    Ok(Memory { pss_kib: value("Pss")?, anon_kib: value("Pss_Anon")? })
}

fn breakdown(by_process: &BTreeMap<String, Memory>) -> String {
    let one = |(name, memory): (&String, &Memory)| format!("{name} {}", memory.pss_kib);
    by_process.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read_and_missing_ones_are_an_error() {
        let rollup = "55d0-7ffe ---p 00000000 00:00 0    [rollup]\nRss:   9000 kB\nPss:   4321 kB\n\
                      Pss_Dirty:    10 kB\nPss_Anon:    1234 kB\nPss_File:  3087 kB\n";
        assert_eq!(parse(rollup).unwrap(), Memory { pss_kib: 4321, anon_kib: 1234 });
        assert!(parse("Rss: 1 kB\n").is_err());
    }

    #[test]
    fn a_process_is_called_by_program_and_verb() {
        assert_eq!(name_of(b"/usr/bin/osmoda-node\0daemon\0watch\0--root\0/r\0"), "osmoda-node daemon watch");
        assert_eq!(name_of(b"/usr/bin/osmoda-guard\0--root\0/r\0"), "osmoda-guard");
    }
}
