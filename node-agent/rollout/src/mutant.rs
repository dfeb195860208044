//! Seeded faults of `apply`, for the test that shows the tests would notice.
//!
//! Outside of tests none is ever active: the question is a constant `false`.

/// One seeded fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// A grant may put one node more at risk than allowed (I2).
    BudgetOffByOne,
    /// The next wave opens while the one before is still watched (I13).
    VerdictSkipped,
    /// A node that goes back after the end undoes a committed rollout (I1, I10).
    SecondRollback,
    /// A node counts as committed whatever it runs (I15).
    ToplevelIgnored,
    /// A baseline is recorded after the change, too (I8).
    BaselineRecordedLate,
}

#[cfg(not(test))]
pub(crate) const fn is(_: Mutant) -> bool {
    false
}

#[cfg(test)]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

#[cfg(test)]
pub(crate) fn is(mutant: Mutant) -> bool {
    ACTIVE.get() == Some(mutant)
}

/// Makes a fault active on this thread.
#[cfg(test)]
pub(crate) fn set(mutant: Option<Mutant>) {
    ACTIVE.set(mutant);
}

#[cfg(test)]
impl Mutant {
    pub(crate) const ALL: [Self; 5] = [
        Self::BudgetOffByOne,
        Self::VerdictSkipped,
        Self::SecondRollback,
        Self::ToplevelIgnored,
        Self::BaselineRecordedLate,
    ];
}
