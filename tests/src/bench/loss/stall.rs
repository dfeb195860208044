//! Whether the streams that lost nothing go on. *Pure.*
//!
//! A packet holds a few small messages of neighbouring streams, so a lost one
//! hits `hit` streams at most; which ones cannot be seen from outside, since
//! packets are encrypted. They are taken to be those with the longest gaps: the
//! most favourable reading for a single loss, and the same for every variant.

use std::time::{Duration, Instant};

use super::streams::{Arrival, MESSAGE_BYTES, STREAMS};
use crate::shaper::Drop;

/// What one lost packet did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effect {
    /// The longest gap of any stream.
    pub(super) worst: Duration,
    /// The longest gap of any stream that the packet held nothing of.
    pub(super) others: Duration,
    /// Streams that the packet held nothing of and that delivered nothing in the
    /// middle of the longest gap.
    pub(super) silent: usize,
}

/// The effect of `lost` on deliveries up to `reach` later; `None` when there are
/// too few to tell.
pub(super) fn effect(lost: &Drop, reach: Duration, arrivals: &[Arrival]) -> Option<Effect> {
    let hit = lost.bytes.div_ceil(MESSAGE_BYTES).min(STREAMS - 1);
    let mut gaps = Vec::new();
    for stream in 0..STREAMS {
        let times: Vec<_> = arrivals.iter().filter(|of| of.stream == stream).map(|of| of.at).collect();
        let during = times.windows(2).filter(|pair| pair[1] > lost.at && pair[0] < lost.at + reach);
        gaps.push((during.map(|pair| (pair[1] - pair[0], pair[0], pair[1])).max()?, stream));
    }
    gaps.sort_by_key(|(gap, _)| std::cmp::Reverse(*gap));
    let ((worst, from, to), _) = gaps[0];
    let others = &gaps[hit..];
    let spoke = |stream: usize| arrivals.iter().any(|of| of.stream == stream && within(of.at, from, to));
    let silent = others.iter().filter(|(_, stream)| !spoke(*stream)).count();
    Some(Effect { worst, others: others[0].0.0, silent })
}

/// Whether `at` lies in the middle half: what waited comes out in one burst at
/// the end, a little before or after the stream it waited for.
fn within(at: Instant, from: Instant, to: Instant) -> bool {
    let quarter = (to - from) / 4;
    from + quarter < at && at + quarter < to
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every stream delivers each 10 ms, except that those in `quiet` deliver
    /// nothing from 100 ms to 200 ms.
    fn deliveries(begin: Instant, quiet: &[usize]) -> Vec<Arrival> {
        let all = (0..40).flat_map(|tick| (0..STREAMS).map(move |stream| (tick, stream)));
        all.filter(|(tick, stream)| !(quiet.contains(stream) && (10..20).contains(tick)))
            .map(|(tick, stream)| {
                let at = begin + Duration::from_millis(tick * 10) + Duration::from_micros(stream as u64);
                Arrival { stream, bytes: MESSAGE_BYTES, at }
            })
            .collect()
    }

    fn seen(quiet: &[usize]) -> Effect {
        let begin = Instant::now();
        let lost = Drop { at: begin + Duration::from_millis(95), bytes: MESSAGE_BYTES };
        effect(&lost, Duration::from_millis(150), &deliveries(begin, quiet)).unwrap()
    }

    #[test]
    fn one_stream_that_waits_is_the_one_that_was_hit() {
        let effect = seen(&[3]);
        assert_eq!((effect.worst, effect.others), (Duration::from_millis(110), Duration::from_millis(10)));
        assert_eq!(effect.silent, 0);
    }

    #[test]
    fn streams_that_wait_for_the_one_that_was_hit_are_seen() {
        let effect = seen(&[0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(effect.others, Duration::from_millis(110));
        assert!(effect.silent > 0);
    }
}
