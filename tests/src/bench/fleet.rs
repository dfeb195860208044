//! A development fleet for the length of one benchmark.
//!
//! Invariant: whatever happens in between, the fleet is taken down; its folder
//! stays only after a failure, and is then named on standard error.

use std::io::Write as _;
use std::str::FromStr;

use anyhow::Context as _;
use osmoda_ctl::dev::fleet::Fleet;
use osmoda_ctl::dev::member::Programs;

use crate::demo;
use crate::demo::report::{Reporter, Style};

/// Starts the demonstration's five nodes, three votes and controller from the
/// programs beside this one, runs `work`, and takes them down.
///
/// # Errors
/// When the fleet does not come up, or what `work` returned.
pub(super) fn on_fleet<T>(work: impl FnOnce(&Fleet, &mut Reporter) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut reporter = Reporter::new(Style::Human);
    let fleet = demo::plan(None, Programs::beside_this()?)?;
    say(&format!("fleet in {}, generations in the {} store", fleet.layout.dir().display(), fleet.store.name()));
    let up = fleet.up(&mut |text| say(text)).context("starting the fleet");
    let result = up.and_then(|()| work(&fleet, &mut reporter));
    demo::leave(&fleet, false, result.is_ok(), &mut reporter)?;
    result
}

/// Progress, on standard error; nobody there to read it is no reason to stop.
pub(super) fn say(text: &str) {
    if let Err(error) = writeln!(std::io::stderr(), "{text}") {
        tracing::debug!(%error, "standard error is closed");
    }
}

/// A number from the environment, such as how often to repeat something.
///
/// # Errors
/// When the variable is there and is no number above zero.
pub(super) fn count_of(variable: &str, usual: usize) -> anyhow::Result<usize> {
    let Some(text) = std::env::var_os(variable) else { return Ok(usual) };
    let number = text.to_str().and_then(|text| usize::from_str(text).ok()).filter(|number| *number > 0);
    number.with_context(|| format!("{variable} must be a number above zero, not {}", text.display()))
}
