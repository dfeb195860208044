//! Changes of keys in a fleet of real processes: a node and a voter change
//! theirs, everybody follows without an invite, and what died in between comes
//! back.
//!
//! Facts are read from the daemons' own sockets and files. Invariant: each claim
//! is waited for with a limit, and the fleet is taken down whatever came of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use osmoda_ctl::dev::fleet::Fleet;
use osmoda_ctl::dev::member::{Member, Programs};
use osmoda_kit::clock::SystemClock;
use osmoda_kit::paths::Paths;
use osmoda_kit::shutdown::Shutdown;
use osmoda_kit::tasks::Tasks;
use osmoda_kit::testing::look_until;
use osmoda_mesh::{Mesh, MeshConfig, Tuning, state};
use osmoda_node_api::mesh::Identity;
use osmoda_types::NodeId;

use crate::demo::report::{Reporter, Style};
use crate::demo::steps::Demo;
use crate::sockets::MeshSocket;

/// How long anything may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// What a node says that was started a moment ago and is not there yet, or that
/// finds no leader just now. The prepared keys stay, so it may be asked again, also
/// where the first answer was lost.
const NOT_READY: [&str; 6] =
    ["(ledger_unavailable)", "does not answer", "(raft_unavailable)", "(peer_offline)", "(outcome_unknown)", "(busy)"];

/// How long stolen keys are tried: their pauses between two tries begin with
/// fractions of a second and grow to two.
const TRIED: Duration = Duration::from_secs(5);

/// Runs all of it below `dir`, which is not there yet.
///
/// # Errors
/// The first claim that does not hold.
pub fn run(dir: &Path, programs: Programs) -> anyhow::Result<()> {
    let fleet = Fleet::plan(dir, programs, 4, 3).context("planning the fleet")?;
    let done = fleet.up(&mut |_| {}).context("starting the fleet").and_then(|()| all(&fleet));
    // A process that had to be killed is no fault of a run that failed.
    let killed = fleet.down();
    ensure!(done.is_err() || killed == 0, "{killed} processes did not stop by themselves");
    done
}

fn all(fleet: &Fleet) -> anyhow::Result<()> {
    let test = Test { fleet };
    let [n1, n2, n3, n4] = [0, 1, 2, 3].map(|place| &fleet.nodes[place]);
    let stolen = fleet.layout.dir().join("stolen");
    copy(&test.mesh_dir(n4), &stolen)?;
    // A voter sleeps through what follows.
    test.stop(n3)?;
    for member in [n4, n1] {
        test.rotate(member)?;
        for other in [n1, n2, n4] {
            test.linked(other, member)?;
        }
    }
    refused(&stolen).context("the old keys of n4")?;
    fleet.start(n3)?;
    for member in [n1, n4] {
        test.linked(n3, member)?;
        test.linked(member, n3)?;
    }
    test.died_before_it_heard(n4, &stolen)?;
    test.killed_in_the_middle(n2)?;
    fleet.wait_until_whole().context("after the changes")?;
    let mut demo = Demo::new(fleet)?;
    demo.good(&mut Reporter::new(Style::Json)).context("a rollout after the changes")?;
    fleet.wait_until_whole().context("after the rollout")?;
    test.revoked(n1, n4)
}

struct Test<'a> {
    fleet: &'a Fleet,
}

impl Test<'_> {
    fn mesh_dir(&self, member: &Member) -> PathBuf {
        Paths::new(self.fleet.layout.root(&member.name)).state("mesh")
    }

    fn socket(&self, member: &Member) -> anyhow::Result<MeshSocket> {
        MeshSocket::of(&self.fleet.layout, &member.name)
    }

    fn identity(&self, member: &Member) -> anyhow::Result<Identity> {
        let socket = self.socket(member)?;
        until(&format!("{} answers", member.name), || Ok(socket.identity().ok()))
    }

    fn stop(&self, member: &Member) -> anyhow::Result<()> {
        self.fleet.processes().stop(member);
        until(&format!("{} stops", member.name), || Ok(self.fleet.processes().pids(member).is_empty().then_some(())))
    }

    fn ask_to_rotate(&self, member: &Member) -> anyhow::Result<String> {
        let root = self.fleet.layout.root(&member.name).display().to_string();
        Ok(self.fleet.osmoda(&["mesh", "rotate", "--root", &root])?)
    }

    /// The node's keys are other ones, and its id is the same.
    fn rotate(&self, member: &Member) -> anyhow::Result<()> {
        let before = self.identity(member)?;
        let what = format!("new keys for {}", member.name);
        let said = until(&what, || match self.ask_to_rotate(member) {
            Ok(said) => Ok(Some(said)),
            // Its daemons start one after the other, and leaders change.
            Err(error) if NOT_READY.iter().any(|word| format!("{error:#}").contains(word)) => Ok(None),
            Err(error) => Err(error),
        });
        let said = said.context(what)?;
        let after = self.identity(member)?;
        ensure!(said.contains(&after.mesh_key.to_string()), "{said} does not name the new key");
        ensure!(after.node == before.node && after.role == before.role, "{} became another node", member.name);
        ensure!(after.mesh_key != before.mesh_key && after.identity_key != before.identity_key, "a key is the same");
        Ok(())
    }

    /// One node has a link to the other, and knows the keys it has by then: who was
    /// killed in the middle may start with its old ones and hear of the new later.
    fn linked(&self, from: &Member, to: &Member) -> anyhow::Result<()> {
        if from.name == to.name {
            return Ok(());
        }
        let (socket, other) = (self.socket(from)?, self.socket(to)?);
        until(&format!("{} follows {}", from.name, to.name), || {
            let Ok(wanted) = other.identity() else { return Ok(None) };
            let Ok(known) = socket.peer_key(wanted.node) else { return Ok(None) };
            Ok((known == wanted.mesh_key.to_string() && socket.is_linked(wanted.node)?).then_some(()))
        })
    }

    /// The log took the change and the node went down before it heard so: it has
    /// its old keys and allow-list, and the new keys are only prepared.
    fn died_before_it_heard(&self, member: &Member, before: &Path) -> anyhow::Result<()> {
        let now = self.identity(member)?;
        self.stop(member)?;
        let (dir, next) = (self.mesh_dir(member), self.mesh_dir(member).join("next"));
        osmoda_kit::fsio::create_private_dir(&next)?;
        let changes: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(dir.join("successions.json"))?)?;
        let last = changes.last().context("no change was noted")?;
        for name in ["mesh.key", "identity.key"] {
            std::fs::copy(dir.join(name), next.join(name))?;
        }
        osmoda_kit::fsio::write_atomic(&next.join("succession.json"), &serde_json::to_vec(last)?, 0o600)?;
        std::fs::remove_file(dir.join("successions.json"))?;
        for name in ["mesh.key", "identity.key", "members.json"] {
            std::fs::copy(before.join(name), dir.join(name))?;
        }
        self.fleet.start(member)?;
        until("the node learns that it may use its new keys", || {
            Ok(self
                .identity(member)
                .ok()
                .filter(|again| *again == Identity { members_index: again.members_index, ..now.clone() }))
        })?;
        ensure!(!next.exists(), "the prepared keys are still there");
        for other in &self.fleet.nodes {
            self.linked(other, member)?;
        }
        Ok(())
    }

    /// Killed while it changes its keys, wherever that was: it comes back with
    /// one pair or the other, and may try again.
    fn killed_in_the_middle(&self, member: &Member) -> anyhow::Result<()> {
        let before = self.identity(member)?;
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| self.ask_to_rotate(member).is_ok());
            // The folder of the prepared keys is the first sign of life of it.
            let next = self.mesh_dir(member).join("next");
            let began = || anyhow::Ok((next.exists() || asked.is_finished()).then_some(()));
            look_until(LIMIT, began)?.context("neither begun nor refused in time")?;
            let killed = self.fleet.processes().kill(member);
            ensure!(!killed.is_empty(), "{} was not running", member.name);
            Ok(())
        })?;
        self.fleet.start(member)?;
        let back = self.identity(member)?;
        ensure!(back.node == before.node, "{} became another node", member.name);
        for other in &self.fleet.nodes {
            self.linked(other, member)?;
        }
        self.rotate(member)?;
        for other in &self.fleet.nodes {
            self.linked(other, member)?;
        }
        Ok(())
    }

    /// A revocation takes everything, whatever the keys were.
    fn revoked(&self, from: &Member, member: &Member) -> anyhow::Result<()> {
        let id: NodeId = self.identity(member)?.node;
        let key = self.fleet.layout.operator_key().display().to_string();
        self.fleet.osmoda(&["node", "revoke", &member.name, "--key", &key, "--yes"])?;
        let socket = self.socket(from)?;
        until("the link of a revoked node ends", || {
            Ok(socket.peers()?.iter().all(|peer| peer.id != id).then_some(()))
        })?;
        ensure!(self.ask_to_rotate(member).is_err(), "a revoked node changed its keys");
        Ok(())
    }
}

/// Nobody lets these keys in, in several tries.
fn refused(dir: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let state = state::load(dir)?;
        let tasks = Tasks::new(Shutdown::new());
        let config = MeshConfig {
            identity: state.identity,
            network: state.network,
            listen: ([127, 0, 0, 1], 0).into(),
            secrets: state.secrets,
            members: state.members,
            enroller: None,
            tuning: Tuning::default(),
        };
        let handle = Mesh::start(config, &tasks, SystemClock::shared())?;
        let mut links = handle.subscribe();
        let linked = links.wait_for(|links| links.nodes().next().is_some());
        ensure!(tokio::time::timeout(TRIED, linked).await.is_err(), "somebody was let in");
        tasks.drain(Duration::from_secs(5)).await;
        Ok(())
    })
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    osmoda_kit::fsio::create_private_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()? {
            kind if kind.is_file() => drop(std::fs::copy(entry.path(), target)?),
            kind if kind.is_dir() && entry.file_name() == "epochs" => copy(&entry.path(), &target)?,
            // Rooms and blobs are no matter here.
            _ => {}
        }
    }
    Ok(())
}

fn until<T>(what: &str, look: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    look_until(LIMIT, look)?.with_context(|| format!("not in time: {what}"))
}
