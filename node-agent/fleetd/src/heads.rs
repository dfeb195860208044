//! Signs of life in a log stream, and who leads.
//!
//! A follower has only this stream to learn that its voter died, and every
//! grant it waits for comes this way. So while a rollout is active the signs
//! come often, and every one promises when the next will be there at the latest.
//! A change of leader is told at once.

use std::time::Duration;

use futures_util::Stream;
use osmoda_consensus::Status;
use osmoda_proto::fleet::v1 as pb;
use osmoda_rollout::FleetState;
use osmoda_types::NodeId;
use tokio::sync::watch;

use crate::replica::View;
use crate::voter::Voter;

/// Between two signs when nothing is deployed: the pipe's own probes find a
/// dead voter in as long.
const RESTING: Duration = Duration::from_secs(2);

/// Between two signs while a rollout is active: three missed ones are noticed
/// before voters that lost their leader have elected another.
const DEPLOYING: Duration = Duration::from_millis(250);

/// Followers that one voter may tell at that pace: 4,000 small messages a
/// second. A larger fleet is told less often, in proportion.
const FOLLOWERS_AT_FULL_PACE: u32 = 1_000;

/// Heads for one follower.
pub(crate) struct Heads {
    voter: Voter,
    status: watch::Receiver<Option<Status>>,
    views: watch::Receiver<View>,
    /// What was told last.
    told: Option<Told>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    leader: Option<NodeId>,
    next_within: Duration,
}

impl Heads {
    /// Heads of that voter.
    pub(crate) fn new(voter: Voter) -> Self {
        let (status, views) = (voter.raft().status(), voter.subscribe());
        Self { voter, status, views, told: None }
    }

    /// One head at once, then one when it is due or when the leader changed.
    pub(crate) fn into_stream(self) -> impl Stream<Item = pb::WatchItem> + Send {
        futures_util::stream::unfold(self, |mut heads| async move {
            let head = heads.next().await?;
            Some((head, heads))
        })
    }

    /// `None` when this voter stops.
    async fn next(&mut self) -> Option<pb::WatchItem> {
        if let Some(told) = self.told {
            tokio::select! {
                biased;
                // Cancel-safe: watches keep their newest value.
                changed = self.status.wait_for(|status| leader_of(status.as_ref()) != told.leader) => {
                    changed.ok()?;
                }
                changed = self.views.wait_for(|view| next_within(&view.state) < told.next_within) => {
                    changed.ok()?;
                }
                // Cancel-safe: a timer.
                () = tokio::time::sleep(told.next_within) => {}
            }
        }
        let view = self.voter.view();
        let (leader, term) = self.voter.leader();
        let next_within = next_within(&view.state);
        self.told = Some(Told { leader, next_within });
        let head = pb::WatchHead {
            index: view.next_index.saturating_sub(1),
            leader: leader.map(|node| node.as_bytes().to_vec()).unwrap_or_default(),
            term,
            next_within_ms: u32::try_from(next_within.as_millis()).unwrap_or(0),
        };
        Some(pb::WatchItem { item: Some(pb::watch_item::Item::Head(head)) })
    }
}

fn leader_of(status: Option<&Status>) -> Option<NodeId> {
    status.and_then(|status| status.leader).map(|leader| leader.node_id)
}

/// How soon the next sign of life must come in that state. *pure*
fn next_within(state: &FleetState) -> Duration {
    if state.active().next().is_none() {
        return RESTING;
    }
    let members = u32::try_from(state.members().count()).unwrap_or(u32::MAX);
    let stretch = members.div_ceil(FOLLOWERS_AT_FULL_PACE).max(1);
    DEPLOYING.saturating_mul(stretch).min(RESTING)
}
