//! A fleet from nothing to ready, and down again.
//!
//! Invariant: [`Fleet::up`] returns only when the controller has heard every
//! node and the planned voters vote; the record that [`Fleet::load`] reads is
//! written before the first process starts, so `down` finds all of them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use osmoda_types::StorePath;

use super::layout::{self, Layout};
use super::member::{Kind, Member, Processes, Programs};
use super::proc::{self, ProcError};
use super::profile::{self, ProfileError};
use super::toplevel::{self, ClosureStore, Health, ToplevelError};

/// How long one step may take: a join retries for 30 s by itself.
const STEP_TIME: Duration = Duration::from_secs(45);

/// How often a step looks whether it is there.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long processes may take to stop before they are killed: a supervisor
/// gives each daemon 15 s, and its own drain 20 s.
const STOP_TIME: Duration = Duration::from_secs(22);

/// The name of the controller.
const CONTROLLER: &str = "controller";

/// Why a fleet is not up.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// The folder is in use.
    #[error("{} holds a fleet already: `osmoda dev down --dir {}`", dir.display(), dir.display())]
    Exists {
        /// The folder.
        dir: PathBuf,
    },
    /// The folder holds no fleet.
    #[error("{} holds no fleet", dir.display())]
    Absent {
        /// The folder.
        dir: PathBuf,
    },
    /// A file or folder.
    #[error("could not use {}", path.display())]
    File {
        /// The path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The record is damaged.
    #[error("the record {} is damaged", path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// No free ports.
    #[error("no free port on loopback")]
    Ports(#[source] std::io::Error),
    /// A program.
    #[error("{step}")]
    Program {
        /// What was being done.
        step: String,
        /// The cause.
        #[source]
        source: ProcError,
    },
    /// The first generation.
    #[error("the first generation of {node} is not in place")]
    Generation {
        /// The node.
        node: String,
        /// The cause.
        #[source]
        source: ProfileError,
    },
    /// A closure.
    #[error("could not make a toplevel")]
    Toplevel(#[from] ToplevelError),
    /// Something did not happen in time.
    #[error("{what} did not happen within {seconds} s; last seen: {last}; logs are in {}", dir.display())]
    Late {
        /// What was waited for.
        what: String,
        /// For how long.
        seconds: u64,
        /// What was seen instead.
        last: String,
        /// The folder of the fleet.
        dir: PathBuf,
    },
}

/// A development fleet; also its record on disk.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    /// Where everything is.
    pub layout: Layout,
    /// From where the programs are started.
    pub programs: Programs,
    /// Where closures are kept.
    pub store: ClosureStore,
    /// The nodes; the first one begins the fleet.
    pub nodes: Vec<Member>,
    /// The controller.
    pub controller: Member,
    /// Where it serves REST.
    pub rest: SocketAddr,
}

impl Fleet {
    /// Plans a fleet of `nodes` nodes, the first `voters` of which vote, and
    /// writes its record. Nothing runs yet.
    ///
    /// # Errors
    /// [`FleetError::Exists`], [`FleetError::File`], [`FleetError::Ports`].
    pub fn plan(dir: &Path, programs: Programs, nodes: usize, voters: usize) -> Result<Self, FleetError> {
        let dir = std::path::absolute(dir).map_err(file(dir))?;
        let layout = Layout::new(&dir);
        if layout.record().exists() {
            return Err(FleetError::Exists { dir });
        }
        for folder in [&dir, &layout.scratch(), &layout.closures()] {
            std::fs::create_dir_all(folder).map_err(file(folder))?;
        }
        let mesh = layout::free_udp_ports(nodes + 1).map_err(FleetError::Ports)?;
        let rest = layout::free_tcp_port().map_err(FleetError::Ports)?;
        let kind = |index| if index < voters { Kind::Voter } else { Kind::Node };
        let member =
            |index: usize| Member { name: format!("n{}", index + 1), kind: kind(index), mesh: mesh[index], rest: None };
        let controller =
            Member { name: CONTROLLER.to_owned(), kind: Kind::Controller, mesh: mesh[nodes], rest: Some(rest) };
        let store = ClosureStore::detect(&layout.closures());
        let fleet = Self { layout, programs, store, nodes: (0..nodes).map(member).collect(), controller, rest };
        fleet.write_record()?;
        Ok(fleet)
    }

    /// Reads the record of a fleet.
    ///
    /// # Errors
    /// [`FleetError::Absent`], [`FleetError::File`], [`FleetError::Record`].
    pub fn load(dir: &Path) -> Result<Self, FleetError> {
        let dir = std::path::absolute(dir).map_err(file(dir))?;
        let path = Layout::new(&dir).record();
        if !path.exists() {
            return Err(FleetError::Absent { dir });
        }
        let text = std::fs::read(&path).map_err(file(&path))?;
        serde_json::from_slice(&text).map_err(|source| FleetError::Record { path, source })
    }

    fn write_record(&self) -> Result<(), FleetError> {
        let path = self.layout.record();
        let text =
            serde_json::to_vec_pretty(self).map_err(|source| FleetError::Record { path: path.clone(), source })?;
        std::fs::write(&path, text).map_err(file(&path))
    }

    /// Starts and enrols everything; `say` is told how far it has come.
    ///
    /// # Errors
    /// See [`FleetError`]. What was started runs on; [`Fleet::down`] ends it.
    pub fn up(&self, say: &mut dyn FnMut(&str)) -> Result<(), FleetError> {
        let processes = self.processes();
        self.make_operator_key()?;
        let Some((first, others)) = self.nodes.split_first() else { return Ok(()) };
        say(&format!("{} begins the fleet", first.name));
        self.put_first_generation(first)?;
        processes.init(first).map_err(program(format!("{} did not begin the fleet", first.name)))?;
        self.start(first)?;

        let invite = self.invite(first, Kind::Controller)?;
        say("the controller joins");
        processes.join(&self.controller, &invite).map_err(program("the controller did not join".to_owned()))?;
        self.start(&self.controller)?;
        for node in others {
            say(&format!("{} joins", node.name));
            self.enrol(node)?;
        }
        say("waiting until everybody is heard");
        self.wait_until_whole()
    }

    /// Lets one more node join by an invite of the first one, and starts it. A
    /// node that the fleet was not planned with is the caller's to end.
    ///
    /// # Errors
    /// See [`FleetError`].
    pub fn enrol(&self, node: &Member) -> Result<(), FleetError> {
        let Some(first) = self.nodes.first() else { return Ok(()) };
        self.put_first_generation(node)?;
        let invite = self.invite(first, node.kind)?;
        self.processes().join(node, &invite).map_err(program(format!("{} did not join", node.name)))?;
        self.start(node)
    }

    /// Starts a member that has joined, or starts it again.
    ///
    /// # Errors
    /// [`FleetError::Program`].
    pub fn start(&self, member: &Member) -> Result<(), FleetError> {
        self.processes().start(member).map_err(program(format!("{} did not start", member.name)))
    }

    /// Waits until the controller hears every node and all voters vote.
    ///
    /// # Errors
    /// [`FleetError::Late`].
    pub fn wait_until_whole(&self) -> Result<(), FleetError> {
        let voters = self.nodes.iter().filter(|node| node.kind == Kind::Voter).count();
        self.wait("a whole fleet", || {
            let status = self.osmoda(&["status", "-o", "json"]).map_err(|error| error.to_string())?;
            let status: serde_json::Value = serde_json::from_str(&status).map_err(|error| error.to_string())?;
            let voting = status["voters"].as_array().map_or(0, Vec::len);
            let online = status["online"].as_u64().unwrap_or(0);
            if voting == voters && online >= self.nodes.len() as u64 {
                return Ok(());
            }
            Err(format!("{voting} of {voters} voters, {online} of {} nodes online", self.nodes.len()))
        })
    }

    /// Asks every process to stop, ends those that do not, and returns how many
    /// had to be killed.
    #[must_use]
    pub fn down(&self) -> usize {
        let processes = self.processes();
        let members: Vec<&Member> = self.nodes.iter().chain([&self.controller]).collect();
        for member in &members {
            processes.stop(member);
        }
        let began = Instant::now();
        while began.elapsed() < STOP_TIME && members.iter().any(|member| !processes.pids(member).is_empty()) {
            std::thread::sleep(LOOK_EVERY);
        }
        members.iter().map(|member| processes.kill(member).len()).sum()
    }

    /// Removes the fleet's folder; call it after [`Fleet::down`].
    ///
    /// # Errors
    /// [`FleetError::File`].
    pub fn remove(&self) -> Result<(), FleetError> {
        let dir = self.layout.dir();
        std::fs::remove_dir_all(dir).map_err(file(dir))
    }

    /// Its processes.
    #[must_use]
    pub fn processes(&self) -> Processes {
        Processes::new(self.layout.clone(), self.programs.clone())
    }

    /// The controller's address, as `--server` takes it.
    #[must_use]
    pub fn server(&self) -> String {
        format!("http://{}", self.rest)
    }

    /// Runs `osmoda` against this fleet's controller; returns what it printed.
    ///
    /// # Errors
    /// [`ProcError::Failed`] with what it said.
    pub fn osmoda(&self, args: &[&str]) -> Result<String, ProcError> {
        let (token, server) = (self.layout.admin_token(&self.controller.name).display().to_string(), self.server());
        let all: Vec<&str> =
            ["--server", &server, "--token-file", &token].into_iter().chain(args.iter().copied()).collect();
        proc::output_with(&self.programs.path("osmoda"), &all, &[("HOME", self.layout.dir())])
    }

    /// Makes the toplevel of a node.
    ///
    /// # Errors
    /// [`FleetError::Toplevel`].
    pub fn toplevel(&self, node: &Member, generation: &str, health: Health) -> Result<StorePath, FleetError> {
        // The folder's own name is in it: fleets that share a store share nothing.
        let label = format!("{}-{}", self.layout.label(), node.name);
        Ok(toplevel::make(&self.store, &self.layout.scratch(), &label, generation, health)?)
    }

    fn make_operator_key(&self) -> Result<(), FleetError> {
        let file = self.layout.operator_key().display().to_string();
        let args = ["operator", "keygen", file.as_str(), "--name", "dev"];
        proc::output_with(&self.programs.path("osmoda"), &args, &[("HOME", self.layout.dir())])
            .map(drop)
            .map_err(program("no operator key was made".to_owned()))
    }

    fn put_first_generation(&self, node: &Member) -> Result<(), FleetError> {
        let first = self.toplevel(node, "g1", Health::Good)?;
        let failed = |source| FleetError::Generation { node: node.name.clone(), source };
        profile::set_first(&self.store, &self.layout.profile(&node.name), &first).map_err(failed)?;
        profile::activate(&self.layout.root(&node.name), &first).map_err(failed)
    }

    /// An invite, as soon as the voter can make one.
    fn invite(&self, voter: &Member, kind: Kind) -> Result<String, FleetError> {
        let processes = self.processes();
        self.wait("an invite", || processes.invite(voter, kind.role()).map_err(|error| error.to_string()))
    }

    fn wait<T>(&self, what: &str, mut look: impl FnMut() -> Result<T, String>) -> Result<T, FleetError> {
        let began = Instant::now();
        loop {
            match look() {
                Ok(found) => return Ok(found),
                Err(last) if began.elapsed() > STEP_TIME => {
                    return Err(FleetError::Late {
                        what: what.to_owned(),
                        seconds: STEP_TIME.as_secs(),
                        last,
                        dir: self.layout.dir().to_path_buf(),
                    });
                }
                Err(_) => std::thread::sleep(LOOK_EVERY),
            }
        }
    }
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> FleetError {
    let path = path.to_path_buf();
    move |source| FleetError::File { path, source }
}

fn program(step: String) -> impl FnOnce(ProcError) -> FleetError {
    move |source| FleetError::Program { step, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_recorded_before_anything_runs_and_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let fleet = Fleet::plan(dir.path(), Programs::in_dir("/nowhere"), 5, 3).unwrap();
        assert_eq!(Fleet::load(dir.path()).unwrap(), fleet);
        assert_eq!(fleet.nodes.iter().filter(|node| node.kind == Kind::Voter).count(), 3);
        let ports: std::collections::BTreeSet<u16> =
            fleet.nodes.iter().chain([&fleet.controller]).map(|member| member.mesh.port()).collect();
        assert_eq!(ports.len(), 6);
        assert!(matches!(Fleet::plan(dir.path(), Programs::in_dir("/nowhere"), 5, 3), Err(FleetError::Exists { .. })));
        assert_eq!(fleet.down(), 0, "nothing runs");
        fleet.remove().unwrap();
        assert!(matches!(Fleet::load(dir.path()), Err(FleetError::Absent { .. })));
    }
}
