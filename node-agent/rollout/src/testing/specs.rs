//! Every kind of rollout that tests use, as numbers.
//!
//! The place in [`SPECS`] is the byte that its manifest's hash is made of.

use osmoda_types::Wave;

/// What a rollout is about; the manifest's hash is its place in [`SPECS`].
#[derive(Debug)]
pub struct Spec {
    /// Its scope.
    pub scope: &'static str,
    /// Node and number of its target.
    pub rows: &'static [(u8, u8)],
    /// Its waves.
    pub waves: &'static [Wave],
    /// Nodes at risk at a time.
    pub max_unavailable: u32,
    /// Failures that it bears.
    pub failure_budget: u32,
    /// Nodes in flight at a time, if bounded apart.
    pub max_parallel: Option<u32>,
    /// Yes votes needed; none for a majority.
    pub threshold: Option<u32>,
    /// Whether it goes on by itself after a lost quorum.
    pub auto_resume: bool,
    /// The rollout that it replaces.
    pub supersedes: Option<u8>,
}

const PLAIN: Spec = Spec {
    scope: "a",
    rows: &[(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1)],
    waves: &[Wave::Count(1), Wave::Percent(100)],
    max_unavailable: 2,
    failure_budget: 0,
    max_parallel: None,
    threshold: None,
    auto_resume: false,
    supersedes: None,
};

/// Every kind of rollout the histories use. Two with the same target number
/// deploy the same closures.
pub const SPECS: &[Spec] = &[
    PLAIN,
    Spec { failure_budget: 1, ..PLAIN },
    Spec {
        max_unavailable: 3,
        failure_budget: 2,
        waves: &[Wave::Count(2), Wave::Percent(60), Wave::Count(9)],
        ..PLAIN
    },
    Spec {
        rows: &[(3, 2), (4, 2), (5, 2)],
        failure_budget: 1,
        waves: &[Wave::Count(1), Wave::Count(1), Wave::Percent(100)],
        ..PLAIN
    },
    Spec { rows: &[(3, 3), (4, 3)], max_unavailable: 1, waves: &[Wave::Percent(100)], supersedes: Some(0), ..PLAIN },
    Spec { rows: &[(0, 4), (3, 4), (4, 4)], max_parallel: Some(1), failure_budget: 3, auto_resume: true, ..PLAIN },
    Spec { scope: "b", rows: &[(2, 5), (5, 5)], failure_budget: 1, waves: &[Wave::Count(1), Wave::Count(1)], ..PLAIN },
    Spec {
        scope: "b",
        rows: &[(1, 6), (5, 6)],
        threshold: Some(3),
        max_unavailable: 5,
        waves: &[Wave::Percent(50), Wave::Percent(100)],
        ..PLAIN
    },
    Spec { threshold: Some(4), ..PLAIN },
    Spec { rows: &[(5, 7), (6, 7)], ..PLAIN },
    Spec {
        rows: &[(3, 8), (4, 8), (5, 8)],
        max_unavailable: 3,
        failure_budget: 0,
        waves: &[Wave::Count(1), Wave::Count(2)],
        ..PLAIN
    },
    Spec {
        rows: &[(0, 9), (1, 9)],
        failure_budget: 2,
        waves: &[Wave::Count(1), Wave::Count(1)],
        supersedes: Some(1),
        ..PLAIN
    },
];
