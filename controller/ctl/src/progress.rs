//! The progress line of a rollout: on a terminal's standard error only.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use osmoda_controller_api::{Event, EventBody};
use osmoda_types::NodeState;

use crate::output::printable;

/// Draws how far a rollout has come; draws nothing when nobody watches.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Begins, for a rollout of so many nodes.
    pub(crate) fn new(nodes: u32) -> Self {
        if !std::io::stderr().is_terminal() || std::env::var_os("TERM").is_some_and(|term| term == "dumb") {
            return Self { bar: None };
        }
        let bar = ProgressBar::with_draw_target(Some(u64::from(nodes)), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{elapsed:>4} [{bar:30}] {pos}/{len} {msg}");
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar: Some(bar) }
    }

    /// Takes the next event.
    pub(crate) fn event(&self, event: &Event) {
        let Some(bar) = &self.bar else { return };
        match &event.body {
            EventBody::RolloutState { to, wave: Some(wave), .. } => bar.set_message(format!("{to}, wave {}", wave + 1)),
            EventBody::RolloutState { to, .. } => bar.set_message(to.to_string()),
            EventBody::NodeState { from, to, name, .. } => {
                let was = is_moved(*from);
                match (was, is_moved(*to)) {
                    (false, true) => bar.inc(1),
                    (true, false) => bar.set_position(bar.position().saturating_sub(1)),
                    _ => {}
                }
                bar.set_message(format!("{} {to}", printable(name)));
            }
            _ => {}
        }
    }

    /// Runs `print` with the line out of the way.
    pub(crate) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn is_moved(state: NodeState) -> bool {
    matches!(state, NodeState::Accepted | NodeState::Committed)
}
