//! The proposers of one window, inside the leader's process.

use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use osmoda_consensus::{Consensus, StateMachine};

use super::words::{COMMAND_BYTES, Load, Loaded};

/// Proposes for one window; all proposers have ended when it returns.
///
/// # Errors
/// When this voter does not lead, or a proposal was refused or left unknown.
pub(super) async fn run<S: StateMachine>(raft: &Consensus<S>, load: Load) -> anyhow::Result<Loaded> {
    // Proves that this voter leads, and that a quorum answers.
    raft.linearizable().await.context("before the window")?;
    let open = Instant::now() + load.warm_up;
    let close = open + load.window;
    let mut running: FuturesUnordered<_> =
        (0..load.proposers as u64).map(|number| propose(raft, number, open, close)).collect();
    let mut latencies = Vec::new();
    let mut refused = None;
    // All are awaited, also after a refusal: the next window begins quiet.
    while let Some(ended) = running.next().await {
        match ended {
            Ok(of_one) => latencies.extend(of_one),
            Err(error) => refused = Some(error),
        }
    }
    if let Some(error) = refused {
        return Err(error).context("a proposal was not committed");
    }
    latencies.sort_unstable();
    Ok(Loaded {
        commits_per_s: latencies.len() as f64 / load.window.as_secs_f64(),
        p50_ms: quantile_ms(&latencies, 0.5)?,
        p99_ms: quantile_ms(&latencies, 0.99)?,
    })
}

/// One proposer: one command on its way at a time. Returns the times of
/// those that were answered inside the window.
async fn propose<S: StateMachine>(
    raft: &Consensus<S>,
    number: u64,
    open: Instant,
    close: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    let mut sequence = 0_u64;
    loop {
        let begin = Instant::now();
        if begin >= close {
            return Ok(latencies);
        }
        let mut request_id = [0; 16];
        request_id[..8].copy_from_slice(&number.to_be_bytes());
        request_id[8..].copy_from_slice(&sequence.to_be_bytes());
        raft.propose(request_id, vec![7; COMMAND_BYTES]).await?;
        let end = Instant::now();
        if (open..close).contains(&end) {
            latencies.push(end - begin);
        }
        sequence += 1;
    }
}

/// A quantile of sorted times.
fn quantile_ms(sorted: &[Duration], q: f64) -> anyhow::Result<f64> {
    let at = (sorted.len() as f64 * q) as usize;
    let found = sorted.get(at).or(sorted.last()).context("nothing was committed in the window")?;
    Ok(found.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_times_and_none_of_nothing() {
        let times: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantile_ms(&times, 0.5).unwrap(), 51.0);
        assert_eq!(quantile_ms(&times, 0.99).unwrap(), 100.0);
        assert_eq!(quantile_ms(&times[..1], 0.99).unwrap(), 1.0);
        assert!(quantile_ms(&[], 0.5).is_err());
    }
}
