//! Whole-system benchmarks: real sockets, real disks, both sides of every ratio
//! measured in the same run.
//!
//! A benchmark is a function that returns a [`report::Report`]; [`ALL`] names
//! them. `cargo xtask bench NAME` runs one.

mod fleet;
pub mod flood;
pub mod ledger;
pub mod loss;
pub mod memory;
pub mod mesh;
mod netns;
pub mod raft;
pub mod report;
pub mod revocation;
pub mod rollout;
pub mod rooms;

use report::Report;

/// One benchmark.
#[derive(Debug, Clone, Copy)]
pub struct Bench {
    /// Its name on the command line and in the JSON line.
    pub name: &'static str,
    /// What it measures, in one line.
    pub about: &'static str,
    /// Runs it; progress goes to standard error.
    pub run: fn() -> anyhow::Result<Report>,
}

/// Every benchmark, by name.
pub const ALL: &[Bench] = &[
    Bench {
        name: "ledger",
        about: "durable appends over the socket, with and without group commit and fsync",
        run: ledger::run,
    },
    Bench {
        name: "raft",
        about: "commands committed by three voter processes over the mesh, at 1, 64 and 512 proposers",
        run: raft::run,
    },
    Bench {
        name: "rollout",
        about: "orchestration overhead of rollouts, and how long a dead leader holds one up",
        run: rollout::run,
    },
    Bench {
        name: "revocation",
        about: "how soon a revoked member has no link anywhere, and the mesh a new epoch",
        run: revocation::run,
    },
    Bench {
        name: "rooms",
        about: "two halves of sixteen nodes, 10,000 room messages a side: time and bytes until healed",
        run: rooms::run,
    },
    Bench {
        name: "mesh",
        about: "a mesh link beside quinn with TLS 1.3 and Noise over TCP: bulk, connect, small calls",
        run: mesh::run,
    },
    Bench {
        name: "flood",
        about: "a member connects while strangers send 50,000 bad packets a second",
        run: flood::run,
    },
    Bench {
        name: "loss",
        about: "eight streams over a road of 50 ms that loses packets, beside Noise over TCP",
        run: loss::run,
    },
    Bench { name: "memory", about: "what the processes of an idle fleet hold in memory", run: memory::run },
];

/// Parts of benchmarks that can be run by themselves.
pub const PARTS: &[Bench] = &[Bench {
    name: "ledger-alone",
    about: "of `ledger`: lone appends, a million rows verified, proofs, witness before act",
    run: ledger::alone::run_alone,
}];

/// Finds a benchmark, or a part of one, by its name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Bench> {
    ALL.iter().chain(PARTS).find(|bench| bench.name == name)
}
