//! One member of a development fleet: a node or the controller, as processes.
//!
//! All commands run with an empty environment. A member is started apart from
//! this process and found again by its root directory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use super::layout::Layout;
use super::proc::{self, ProcError};

/// The folder with `osmoda-node`, `osmoda-controller` and the others.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Programs(PathBuf);

impl Programs {
    /// The programs in `dir`.
    #[must_use]
    pub fn in_dir(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// The folder of the running program, where an installation and a build
    /// both put all of them.
    ///
    /// # Errors
    /// When the kernel does not say where the running program is.
    pub fn beside_this() -> std::io::Result<Self> {
        let own = std::env::current_exe()?;
        Ok(Self(own.parent().unwrap_or(Path::new("/")).to_path_buf()))
    }

    /// The path of one program.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A node with a vote.
    Voter,
    /// A node without one.
    Node,
    /// The controller.
    Controller,
}

impl Kind {
    /// The role an invite gives it.
    #[must_use]
    pub const fn role(self) -> &'static str {
        match self {
            Self::Voter => "voter",
            Self::Node => "node",
            Self::Controller => "controller",
        }
    }
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name, also the name of its root directory.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its address in the mesh.
    pub mesh: SocketAddr,
    /// Where it serves REST; the controller only.
    pub rest: Option<SocketAddr>,
}

/// A fleet's members as processes.
#[derive(Debug, Clone)]
pub struct Processes {
    layout: Layout,
    programs: Programs,
}

impl Processes {
    /// Processes of the fleet in `layout`, from `programs`.
    #[must_use]
    pub fn new(layout: Layout, programs: Programs) -> Self {
        Self { layout, programs }
    }

    /// Begins a fleet with this member as its first voter.
    ///
    /// # Errors
    /// [`ProcError::Failed`] with what the program said.
    pub fn init(&self, member: &Member) -> Result<(), ProcError> {
        let operator = self.layout.operator_public().display().to_string();
        self.node(member, &["init"], &["--operator", &operator])
    }

    /// Lets a node join with an invite.
    ///
    /// # Errors
    /// [`ProcError::Failed`] with what the program said.
    pub fn join(&self, member: &Member, invite: &str) -> Result<(), ProcError> {
        if member.kind == Kind::Controller {
            let root = self.layout.root(&member.name).display().to_string();
            let mesh = member.mesh.to_string();
            let args = ["join", invite, "--root", &root, "--name", &member.name, "--mesh-listen", &mesh];
            return proc::output(&self.programs.path("osmoda-controller"), &args).map(drop);
        }
        let operator = self.layout.operator_public().display().to_string();
        self.node(member, &["join", invite], &["--operator", &operator])
    }

    fn node(&self, member: &Member, verb: &[&str], more: &[&str]) -> Result<(), ProcError> {
        let root = self.layout.root(&member.name).display().to_string();
        let listen = member.mesh.to_string();
        let common = ["--root", &root, "--name", &member.name, "--listen", &listen];
        let args: Vec<&str> = verb.iter().chain(&common).chain(more).copied().collect();
        proc::output(&self.programs.path("osmoda-node"), &args).map(drop)
    }

    /// Mints an invite on a voter, through its own local socket.
    ///
    /// # Errors
    /// [`ProcError::Failed`] with what the program said.
    pub fn invite(&self, voter: &Member, role: &str) -> Result<String, ProcError> {
        let root = self.layout.root(&voter.name).display().to_string();
        let args = ["invite", "--root", &root, "--role", role];
        Ok(proc::output(&self.programs.path("osmoda-node"), &args)?.trim().to_owned())
    }

    /// Starts a member. It runs until [`Processes::stop`] or [`Processes::kill`].
    ///
    /// # Errors
    /// [`ProcError::Start`] and [`ProcError::Log`].
    pub fn start(&self, member: &Member) -> Result<(), ProcError> {
        let root = self.layout.root(&member.name).display().to_string();
        let log = self.layout.log(&member.name);
        let child = match (member.kind, member.rest) {
            (Kind::Controller, Some(rest)) => {
                let (rest, mesh) = (rest.to_string(), member.mesh.to_string());
                let args = ["serve", "--root", &root, "--listen", &rest, "--mesh-listen", &mesh];
                proc::start_apart(&self.programs.path("osmoda-controller"), &args, &log)?
            }
            _ => proc::start_apart(&self.programs.path("osmoda-node"), &["run", "--root", &root], &log)?,
        };
        // The child is meant to outlive this handle; it is found again by its root.
        drop(child);
        Ok(())
    }

    /// Asks the member to stop, with SIGTERM to the process that keeps the
    /// others: it stops them in their turn.
    pub fn stop(&self, member: &Member) {
        let pids = proc::of_root(&self.layout.root(&member.name));
        proc::signal_all(&proc::supervisors(&pids), Signal::TERM);
    }

    /// Ends every process of the member, guard included, with SIGKILL.
    #[must_use]
    pub fn kill(&self, member: &Member) -> Vec<i32> {
        proc::kill_root(&self.layout.root(&member.name))
    }

    /// The ids of the member's live processes.
    #[must_use]
    pub fn pids(&self, member: &Member) -> Vec<i32> {
        proc::of_root(&self.layout.root(&member.name))
    }
}
