//! What the mesh counts: events that people ask about afterwards.
//!
//! Each is kept twice, here for whoever holds the handle and in the process's
//! metrics as `osmoda_mesh_events_total{event}`. Counting never fails and holds
//! no lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// One kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// A link was accepted under the epoch before the newest.
    OldEpochAccepted,
    /// A member came back by its own secret.
    RejoinAccepted,
    /// A link's keys were updated by this end.
    KeysUpdated,
    /// A link was made anew while the old one was up.
    LinkRenewed,
    /// Two nodes had dialled each other at once; the link of the larger id is
    /// drained.
    LinksCrossed,
    /// A first packet was asked to prove its address.
    RetryAsked,
    /// A first packet that knocked was over a limit.
    Limited,
    /// A member was let in without a knock: a clock is wrong.
    KnockMissed,
    /// A knock that had let somebody in came again.
    Replayed,
}

impl Event {
    /// Every kind.
    pub const ALL: [Event; 9] = [
        Event::OldEpochAccepted,
        Event::RejoinAccepted,
        Event::KeysUpdated,
        Event::LinkRenewed,
        Event::LinksCrossed,
        Event::RetryAsked,
        Event::Limited,
        Event::KnockMissed,
        Event::Replayed,
    ];

    /// Its name in the metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Event::OldEpochAccepted => "old_epoch_accepted",
            Event::RejoinAccepted => "rejoin_accepted",
            Event::KeysUpdated => "keys_updated",
            Event::LinkRenewed => "link_renewed",
            Event::LinksCrossed => "links_crossed",
            Event::RetryAsked => "retry_asked",
            Event::Limited => "limited",
            Event::KnockMissed => "knock_missed",
            Event::Replayed => "replayed",
        }
    }
}

/// How often each happened since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters([AtomicU64; Event::ALL.len()]);

impl Counters {
    pub(crate) fn note(&self, event: Event) {
        self.0[event as usize].fetch_add(1, Ordering::Relaxed);
        metrics::counter!("osmoda_mesh_events_total", "event" => event.as_str()).increment(1);
    }

    pub(crate) fn count(&self, event: Event) -> u64 {
        self.0[event as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_its_own_place_and_name() {
        let counters = Counters::default();
        for (at, event) in Event::ALL.into_iter().enumerate() {
            assert_eq!(event as usize, at);
            (0..=at).for_each(|_| counters.note(event));
        }
        for (at, event) in Event::ALL.into_iter().enumerate() {
            assert_eq!(counters.count(event), at as u64 + 1);
        }
        let names: std::collections::BTreeSet<_> = Event::ALL.into_iter().map(Event::as_str).collect();
        assert_eq!(names.len(), Event::ALL.len());
    }
}
