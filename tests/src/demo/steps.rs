//! The steps of the main job and the claims each of them makes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use osmoda_controller_api::Rollout;
use osmoda_ctl::dev::fleet::Fleet;
use osmoda_ctl::dev::member::{Kind as MemberKind, Member};
use osmoda_ctl::dev::toplevel::Health;
use osmoda_journal::Kind;
use osmoda_types::{AttemptId, ErrorCode, NodeId, RolloutId, RolloutState, StorePath, Wave};

use super::facts::Facts;
use super::orders::{Operator, Release, row};
use super::report::Reporter;

/// How long a rollout of five nodes may take, with room for a busy machine.
const ROLLOUT_TIME: Duration = Duration::from_secs(75);

/// How often the nodes' files are looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How often the controller is asked.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// How many nodes may be at risk where a step does not say otherwise.
const AT_RISK: u32 = 3;

/// The exit code of `osmoda` for what contradicts the present state.
const EXIT_CONFLICT: i32 = 5;

/// One node.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its processes.
    pub(crate) member: Member,
    /// Its id in the fleet.
    pub(crate) id: NodeId,
    /// Its files.
    pub(crate) facts: Facts,
}

/// A rollout that is over, and how it ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Past {
    /// The release.
    pub(crate) name: &'static str,
    /// The rollout.
    pub(crate) id: RolloutId,
    /// Its end.
    pub(crate) state: RolloutState,
}

/// The fleet under demonstration.
#[derive(Debug)]
pub(crate) struct Demo<'a> {
    pub(crate) fleet: &'a Fleet,
    pub(crate) operator: Operator<'a>,
    pub(crate) peers: Vec<Peer>,
    pub(super) past: Vec<Past>,
    canary: Option<NodeId>,
}

impl<'a> Demo<'a> {
    /// A fleet that is up.
    pub(crate) fn new(fleet: &'a Fleet) -> anyhow::Result<Self> {
        let operator = Operator(fleet);
        let ids: BTreeMap<String, NodeId> = operator.nodes()?.into_iter().map(|node| (node.name, node.id)).collect();
        let peer = |member: &Member| {
            let id = ids.get(&member.name).copied();
            let id = id.with_context(|| format!("the controller does not know {}", member.name))?;
            Ok(Peer { member: member.clone(), id, facts: Facts::of(fleet, member) })
        };
        let peers = fleet.nodes.iter().map(peer).collect::<anyhow::Result<_>>()?;
        Ok(Self { fleet, operator, peers, past: Vec::new(), canary: None })
    }

    /// Step 1: a good generation commits.
    pub(crate) fn good(&mut self, reporter: &mut Reporter) -> anyhow::Result<Vec<String>> {
        let release = self.release("g2", |_| Health::Good, ladder(1), AT_RISK, 0)?;
        let id = RolloutId::default();
        self.operator.must_start(&release, id)?;
        let rollout = self.wait_over(reporter, id)?;
        self.committed_everywhere("g2", &release, &rollout)?;
        let first = self.by_attempt(id)?;
        let (canary, attempt) = *first.first().context("nobody was granted")?;
        let kept = self.peer(canary)?.facts.record(attempt, Kind::Committed)?.at.boot_ms;
        for (other, attempt) in first.iter().skip(1) {
            let granted = self.peer(*other)?.facts.record(*attempt, Kind::Granted)?.at.boot_ms;
            ensure!(granted >= kept, "{} moved before the canary was done", self.peer(*other)?.member.name);
        }
        self.canary = Some(canary);
        let votes = rollout.votes.iter().filter(|vote| vote.yes == Some(true)).count();
        Ok(vec![
            format!("{votes} of {} votes", rollout.votes.len()),
            format!("canary {}, then {} others", self.peer(canary)?.member.name, first.len() - 1),
            "all five run and boot g2".to_owned(),
        ])
    }

    /// Step 2: a generation that fails on one node undoes itself everywhere.
    pub(crate) fn bad(&mut self, reporter: &mut Reporter) -> anyhow::Result<Vec<String>> {
        let canary = self.canary.context("there was no canary")?;
        let others = |peer: &&Peer| peer.id != canary && peer.member.kind == MemberKind::Node;
        let failing = self.peers.iter().find(others).context("no node without a vote is left")?.id;
        let before: BTreeMap<NodeId, StorePath> = self.running()?;
        let health = |peer: &Peer| if peer.id == failing { Health::Bad } else { Health::Good };
        let release = self.release("g3", health, ladder(1), AT_RISK, 0)?;
        let id = RolloutId::default();
        self.operator.must_start(&release, id)?;
        let rollout = self.wait_over(reporter, id)?;
        self.past.push(Past { name: "g3", id, state: rollout.summary.state });
        ensure!(rollout.summary.state == RolloutState::RolledBack, "g3 ended as {}", rollout.summary.state);

        let moved = self.undone(id, &before)?;
        self.canary_was_there(id, canary, &release)?;
        self.never_kept(id, failing, &release)?;
        let denied = self.operator.denied()?;
        let target = |node| release.rows.get(node).map(|row| &row.target);
        ensure!(
            [canary, failing].iter().filter_map(target).all(|target| denied.contains(target)),
            "g3 is not on the deny-list: {denied:?}"
        );
        let refused = match self.operator.start(&release, RolloutId::default())? {
            Ok(()) => bail!("a second attempt of g3 was taken"),
            Err(refused) => refused,
        };
        let code = ErrorCode::TargetDenied.as_str();
        ensure!(refused.exit == EXIT_CONFLICT && refused.why.contains(code), "refused, but: {refused:?}");
        self.all_run(&before)?;
        Ok(vec![
            format!("{} failed its check after the canary {} had passed", self.name(failing), self.name(canary)),
            format!("{moved} nodes had moved; all five run and boot g2"),
            format!("a second attempt was refused: {code}"),
        ])
    }

    /// Step 4: the controller dies in the middle and nothing is lost.
    pub(crate) fn controller_kill(&mut self, reporter: &mut Reporter) -> anyhow::Result<Vec<String>> {
        let release = self.release("g5", |_| Health::Good, ladder(1), AT_RISK, 0)?;
        let id = RolloutId::default();
        self.operator.must_start(&release, id)?;
        self.wait_files(reporter, "the first grant", |demo| Ok(!demo.by_attempt(id)?.is_empty()))?;
        let killed = self.fleet.processes().kill(&self.fleet.controller).len();
        ensure!(killed > 0, "the controller was not running");
        let killed_at = Instant::now();
        let open = self.peers.len() - self.count_committed(id)?;
        ensure!(open > 0, "g5 was over before the controller was killed");
        self.wait_files(reporter, "g5 on all five without a controller", |demo| {
            Ok(demo.count_committed(id)? == demo.peers.len() && demo.all_on(&release).is_ok())
        })?;
        ensure!(self.fleet.processes().pids(&self.fleet.controller).is_empty(), "somebody started the controller");
        let alone = killed_at.elapsed();
        self.fleet.start(&self.fleet.controller)?;
        let started_at = Instant::now();
        self.wait_files(reporter, "g5 in the restarted controller", |demo| {
            Ok(demo.operator.rollout(id).is_ok_and(|rollout| rollout.summary.state.is_terminal()))
        })?;
        let caught_up = started_at.elapsed();
        let rollout = self.operator.rollout(id)?;
        self.committed_everywhere("g5", &release, &rollout)?;
        for past in &self.past {
            let shown = self.operator.rollout(past.id)?;
            ensure!(shown.summary.state == past.state, "{} is shown as {}", past.name, shown.summary.state);
            ensure!(shown.nodes.len() == self.peers.len(), "{} is shown with {} nodes", past.name, shown.nodes.len());
        }
        Ok(vec![
            format!("the controller was killed with {open} of {} nodes to go", self.peers.len()),
            format!("g5 committed on all five without it within {:.1} s", alone.as_secs_f64()),
            format!("started again, it showed all {} rollouts after {:.1} s", self.past.len(), caught_up.as_secs_f64()),
        ])
    }

    /// A release that moves every node from what it runs now.
    pub(crate) fn release(
        &self,
        name: &'static str,
        health: impl Fn(&Peer) -> Health,
        waves: Vec<Wave>,
        max_unavailable: u32,
        stagger_ms: u64,
    ) -> anyhow::Result<Release> {
        let mut rows = BTreeMap::new();
        for peer in &self.peers {
            let target = self.fleet.toplevel(&peer.member, name, health(peer))?;
            rows.insert(peer.id, row(target, peer.facts.running()?));
        }
        Ok(Release { name, rows, waves, max_unavailable, stagger_ms })
    }

    /// Waits until the fleet says that a rollout is over.
    pub(crate) fn wait_over(&self, reporter: &mut Reporter, id: RolloutId) -> anyhow::Result<Rollout> {
        let began = Instant::now();
        loop {
            self.show(reporter);
            let rollout = self.operator.rollout(id)?;
            if rollout.summary.state.is_terminal() {
                return Ok(rollout);
            }
            let summary = &rollout.summary;
            reporter.row("fleet", &format!("{} {}", summary.name, summary.state));
            ensure!(began.elapsed() < ROLLOUT_TIME, "{} is {} after {ROLLOUT_TIME:?}", summary.name, summary.state);
            std::thread::sleep(ASK_EVERY);
        }
    }

    /// Waits for something in the nodes' files.
    pub(crate) fn wait_files(
        &self,
        reporter: &mut Reporter,
        what: &str,
        mut there: impl FnMut(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        while !there(self)? {
            ensure!(began.elapsed() < ROLLOUT_TIME, "no sign of {what} after {ROLLOUT_TIME:?}");
            self.show(reporter);
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn show(&self, reporter: &mut Reporter) {
        for peer in &self.peers {
            reporter.row(&peer.member.name, &peer.facts.line());
        }
    }

    /// Checks on every node that it keeps the release for good, and notes it.
    pub(crate) fn committed_everywhere(
        &mut self,
        name: &'static str,
        release: &Release,
        rollout: &Rollout,
    ) -> anyhow::Result<()> {
        let state = rollout.summary.state;
        self.past.push(Past { name, id: rollout.summary.id, state });
        ensure!(state == RolloutState::Committed, "{name} ended as {state}: {:?}", rollout.summary.reason);
        let kept = self.count_committed(rollout.summary.id)?;
        ensure!(kept == self.peers.len(), "{kept} of {} journals say committed", self.peers.len());
        self.all_on(release)
    }

    fn all_on(&self, release: &Release) -> anyhow::Result<()> {
        self.all_run(&release.rows.iter().map(|(node, row)| (*node, row.target.clone())).collect())
    }

    fn all_run(&self, wanted: &BTreeMap<NodeId, StorePath>) -> anyhow::Result<()> {
        for peer in &self.peers {
            let wanted = wanted.get(&peer.id).with_context(|| format!("nothing is wanted of {}", peer.member.name))?;
            let (runs, boots) = (peer.facts.running()?, peer.facts.boots()?);
            ensure!(runs == *wanted, "{} runs {runs}, not {wanted}", peer.member.name);
            ensure!(boots == *wanted, "{} boots {boots}, not {wanted}", peer.member.name);
        }
        Ok(())
    }

    fn running(&self) -> anyhow::Result<BTreeMap<NodeId, StorePath>> {
        self.peers.iter().map(|peer| Ok((peer.id, peer.facts.running()?))).collect()
    }

    /// Nodes whose journal says that an attempt of the rollout is committed.
    fn count_committed(&self, id: RolloutId) -> anyhow::Result<usize> {
        let mut count = 0;
        for peer in &self.peers {
            if let Some(attempt) = peer.facts.attempts(id)?.last() {
                count += usize::from(peer.facts.kinds(*attempt)?.last() == Some(&Kind::Committed));
            }
        }
        Ok(count)
    }

    /// Nodes with their attempt of a rollout, earliest grant first.
    pub(crate) fn by_attempt(&self, id: RolloutId) -> anyhow::Result<Vec<(NodeId, AttemptId)>> {
        let mut granted = Vec::new();
        for peer in &self.peers {
            granted.extend(peer.facts.attempts(id)?.into_iter().map(|attempt| (peer.id, attempt)));
        }
        granted.sort_by_key(|(_, attempt)| *attempt);
        Ok(granted)
    }

    /// Every node that moved is back, by its own journal. Returns how many did.
    fn undone(&self, id: RolloutId, before: &BTreeMap<NodeId, StorePath>) -> anyhow::Result<usize> {
        let granted = self.by_attempt(id)?;
        for (node, attempt) in &granted {
            let kinds = self.peer(*node)?.facts.kinds(*attempt)?;
            let back = matches!(kinds.last(), Some(Kind::RolledBack | Kind::Deferred));
            ensure!(back, "the journal of {} ends with {:?}", self.name(*node), kinds.last());
        }
        self.all_run(before)?;
        Ok(granted.len())
    }

    /// The canary passed and kept the release before it was told to go back.
    fn canary_was_there(&self, id: RolloutId, canary: NodeId, release: &Release) -> anyhow::Result<()> {
        let facts = &self.peer(canary)?.facts;
        let attempt = *facts.attempts(id)?.first().context("the canary was not granted")?;
        let kinds = facts.kinds(attempt)?;
        ensure!(kinds.contains(&Kind::Committed), "the canary did not commit g3: {kinds:?}");
        let target = release.rows.get(&canary).map(|row| &row.target);
        let list = facts.generations()?;
        ensure!(list.iter().any(|path| Some(path) == target), "the canary's generation list lacks g3: {list:?}");
        Ok(())
    }

    /// The failing node activated the release and never made it its default.
    fn never_kept(&self, id: RolloutId, failing: NodeId, release: &Release) -> anyhow::Result<()> {
        let facts = &self.peer(failing)?.facts;
        let attempt = *facts.attempts(id)?.first().context("the failing node was not granted")?;
        let kinds = facts.kinds(attempt)?;
        ensure!(kinds.contains(&Kind::Activating), "the failing node did not try: {kinds:?}");
        ensure!(!kinds.contains(&Kind::Accepted), "the failing node was accepted: {kinds:?}");
        let target = release.rows.get(&failing).map(|row| &row.target);
        ensure!(facts.generations()?.iter().all(|path| Some(path) != target), "the failing node kept g3");
        Ok(())
    }

    pub(crate) fn peer(&self, node: NodeId) -> anyhow::Result<&Peer> {
        self.peers.iter().find(|peer| peer.id == node).with_context(|| format!("no node {node}"))
    }

    pub(super) fn name(&self, node: NodeId) -> String {
        self.peer(node).map_or_else(|_| node.short(), |peer| peer.member.name.clone())
    }
}

/// So many first, then everybody.
pub(crate) fn ladder(first: u32) -> Vec<Wave> {
    vec![Wave::Count(first), Wave::Percent(100)]
}
