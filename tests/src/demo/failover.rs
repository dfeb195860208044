//! Step 3: the leader's whole node dies between two grants.
//!
//! The moment of the next grant is read from the journal of the node that got
//! it: a grant reaches a node only from the committed log, so this is an upper
//! bound of the moment at which the log had it. All nodes share one machine and
//! so one `CLOCK_BOOTTIME`.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use osmoda_ctl::dev::toplevel::Health;
use osmoda_journal::Kind;
use osmoda_types::{NodeId, RolloutId};
use rustix::time::{ClockId, clock_gettime};

use super::orders::Release;
use super::report::Reporter;
use super::steps::{Demo, ladder};

/// The first wave has two nodes, so that one is left to grant after the kill.
const FIRST_WAVE: u32 = 2;

/// Both of them may be at risk: the second grant is affordable at once.
const AT_RISK: u32 = 2;

/// The leader pauses between grants for longer than it takes to see the first
/// one and to kill; a new leader knows of no earlier grant and does not wait.
const STAGGER_MS: u64 = 3_000;

/// A leader that was killed between two grants.
#[derive(Debug)]
pub(crate) struct Failover {
    id: RolloutId,
    release: Release,
    leader: NodeId,
    killed: usize,
    first: NodeId,
    second: NodeId,
    /// From the kill to the next grant in a node's journal.
    pub(crate) next_grant: Duration,
    /// Whether the killed node did lead: what the controller says may be half a
    /// second old. `None` when the journals do not tell.
    pub(crate) did_lead: Option<bool>,
}

impl Demo<'_> {
    /// Step 3: kills the leader's node between two grants.
    pub(crate) fn leader_kill(
        &mut self,
        reporter: &mut Reporter,
        next_grant: &mut Option<Duration>,
    ) -> anyhow::Result<Vec<String>> {
        let over = self.kill_between_grants(reporter, "g4")?;
        *next_grant = Some(over.next_grant);
        self.go_on(reporter, &over)?;
        let now = self.operator.status()?.leader.map_or_else(|| "nobody".to_owned(), |node| self.name(node));
        Ok(vec![
            format!(
                "{} led and was killed with {} processes after granting {}",
                self.name(over.leader),
                over.killed,
                self.name(over.first)
            ),
            format!("the next grant, of {}, came {:.2} s later", self.name(over.second), over.next_grant.as_secs_f64()),
            format!("{} was started again; all five run and boot g4; {now} leads", self.name(over.leader)),
        ])
    }

    /// Starts a rollout, kills every process of the leader's node after the
    /// first grant, and waits for the second one.
    pub(crate) fn kill_between_grants(
        &mut self,
        reporter: &mut Reporter,
        name: &'static str,
    ) -> anyhow::Result<Failover> {
        let release = self.release(name, |_| Health::Good, ladder(FIRST_WAVE), AT_RISK, STAGGER_MS)?;
        let id = RolloutId::default();
        self.operator.must_start(&release, id)?;
        self.wait_files(reporter, &format!("the first grant of {name}"), |demo| Ok(!demo.by_attempt(id)?.is_empty()))?;
        let leader = self.operator.status()?.leader.context("the controller knows of no leader")?;
        let killed_at = boot_ms();
        let killed = self.fleet.processes().kill(&self.peer(leader)?.member).len();
        let first = self.only_grant(id)?;
        ensure!(first != leader, "the leader's own node was granted");
        ensure!(self.peer(leader)?.facts.attempts(id)?.is_empty(), "the leader's node holds a grant");
        ensure!(killed > 0, "nothing ran on the leader's node");
        reporter.row(&self.name(leader), "killed");

        self.wait_files(reporter, "a grant by a new leader", |demo| Ok(demo.by_attempt(id)?.len() >= 2))?;
        let (second, attempt) = *self.by_attempt(id)?.get(1).context("there is no second grant")?;
        let granted_at = self.peer(second)?.facts.record(attempt, Kind::Granted)?.at.boot_ms;
        ensure!(granted_at > killed_at, "the second grant came before the kill");
        let next_grant = Duration::from_millis(granted_at - killed_at);
        let did_lead = self.did_lead(id, leader, first, killed_at, granted_at)?;
        Ok(Failover { id, release, leader, killed, first, second, next_grant, did_lead })
    }

    /// Starts the killed node again, and waits until the rollout is committed
    /// on all five.
    pub(crate) fn go_on(&mut self, reporter: &mut Reporter, over: &Failover) -> anyhow::Result<()> {
        self.fleet.start(&self.peer(over.leader)?.member)?;
        let rollout = self.wait_over(reporter, over.id)?;
        self.committed_everywhere(over.release.name, &over.release, &rollout)
    }

    /// A leader that lives pauses between its grants; and the node that was
    /// granted first notes with whom it talks.
    fn did_lead(
        &self,
        id: RolloutId,
        leader: NodeId,
        first: NodeId,
        killed_at: u64,
        granted_at: u64,
    ) -> anyhow::Result<Option<bool>> {
        let facts = &self.peer(first)?.facts;
        let attempt = *facts.attempts(id)?.first().context("the first grant is gone")?;
        let before = facts.record(attempt, Kind::Granted)?.at.boot_ms;
        if granted_at.saturating_sub(before) < STAGGER_MS {
            return Ok(Some(true));
        }
        let contacts = facts.contacts(attempt)?;
        let last = contacts.iter().rfind(|(at, _)| *at < killed_at);
        Ok(last.map(|(_, name)| *name == leader.short()))
    }

    /// The one node that was granted before the kill.
    fn only_grant(&self, id: RolloutId) -> anyhow::Result<NodeId> {
        match self.by_attempt(id)?[..] {
            [(node, _)] => Ok(node),
            ref more => bail!("{} nodes were granted before the kill, not one", more.len()),
        }
    }
}

/// Now, as the journals count it.
fn boot_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}
