//! The three voter processes, from outside.
//!
//! Invariant: a voter ends when its standard input does, and is killed by its
//! id when its handle is dropped, so no run leaves one behind.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use osmoda_kit::secret::Secret;
use osmoda_mesh::state::{Initial, create_identity, write_initial};
use osmoda_mesh::{EpochSecret, Identity};
use osmoda_mesh_protocol::{Member, Members, SecretBytes};
use osmoda_types::{MeshEpoch, NetworkId, Role};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::voter::{COMMAND, MESH_DIR};
use super::words::{Answer, Ask, Load, Loaded, Totals};

/// Voters of the group.
const VOTERS: usize = 3;

/// How long a voter may take for anything but a window: links, an election and
/// two changes of members on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// How long a voter may take to stop; its own drain is shorter.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// The running group.
pub(super) struct Fleet {
    voters: Vec<Voter>,
    /// Keys and logs; goes last.
    _dir: TempDir,
}

impl Fleet {
    /// Makes keys, starts the processes, introduces them to each other and
    /// begins the group.
    pub(super) async fn start(here: &Path) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("osmr").tempdir_in(here)?;
        let mut members = enrol(dir.path())?;
        let mut voters = Vec::new();
        for (place, member) in members.members.iter_mut().enumerate() {
            let (voter, address) = Voter::start(dir.path(), place).await?;
            member.addresses.push(address);
            voters.push(voter);
        }
        members.index += 1;
        for voter in &mut voters {
            voter.done(&Ask::Meet(members.clone())).await?;
        }
        voters[0].done(&Ask::Begin).await?;
        Ok(Self { voters, _dir: dir })
    }

    /// Running totals of all voters.
    pub(super) async fn totals(&mut self) -> anyhow::Result<Vec<Totals>> {
        let mut all = Vec::new();
        for voter in &mut self.voters {
            match voter.ask(&Ask::Totals, LIMIT).await? {
                Answer::Totals(totals) => all.push(totals),
                other => bail!("asked for totals, got {other:?}"),
            }
        }
        Ok(all)
    }

    /// One window of proposals in the leader's process.
    pub(super) async fn load(&mut self, load: Load) -> anyhow::Result<Loaded> {
        let leader = match self.voters[0].ask(&Ask::Leader, LIMIT).await? {
            Answer::Leader(place) => self.voters.get_mut(place).context("a leader from outside the group")?,
            other => bail!("asked for the leader, got {other:?}"),
        };
        match leader.ask(&Ask::Load(load), load.warm_up + load.window + LIMIT).await? {
            Answer::Loaded(loaded) => Ok(loaded),
            other => bail!("asked for a window, got {other:?}"),
        }
    }

    /// Stops all voters and waits for them.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        // All are asked before the first is waited for: a voter that is left
        // alone would begin elections.
        let children: Vec<Child> = self.voters.into_iter().map(|voter| voter.child).collect();
        for mut child in children {
            let status = tokio::time::timeout(STOP_LIMIT, child.wait()).await.context("a voter does not stop")??;
            anyhow::ensure!(status.success(), "a voter ended with {status}");
        }
        Ok(())
    }
}

/// Writes the mesh state of every voter, as `init` and `join` would: one
/// network, one epoch, and an allow-list that has no addresses yet.
fn enrol(dir: &Path) -> anyhow::Result<Members> {
    let folder = |place: usize| dir.join(place.to_string()).join(MESH_DIR);
    let identities = (0..VOTERS)
        .map(|place| Ok(create_identity(&folder(place))?))
        .collect::<anyhow::Result<Vec<Arc<Identity>>>>()?;
    let epoch = MeshEpoch(1);
    let members = Members { index: 1, epoch, members: identities.iter().zip(0..).map(member).collect() };
    let random = || SecretBytes::new(*Secret::<[u8; 32]>::random().expose());
    let initial = Initial {
        network: NetworkId::from_bytes(*Secret::<[u8; 32]>::random().expose()),
        secret: EpochSecret { epoch, secret: random() },
        rejoin_secret: random(),
        members: members.clone(),
    };
    for place in 0..VOTERS {
        write_initial(&folder(place), &initial)?;
    }
    Ok(members)
}

fn member((identity, place): (&Arc<Identity>, usize)) -> Member {
    Member {
        node: identity.node(),
        mesh_key: identity.mesh_key(),
        identity_key: identity.identity_key(),
        role: Role::Voter,
        name: format!("voter-{place}"),
        addresses: Vec::new(),
    }
}

/// One voter process.
struct Voter {
    child: Child,
    asks: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Voter {
    /// Starts this program again as a voter; returns where it listens.
    #[expect(clippy::disallowed_methods, reason = "kept and talked to over its pipes, not a bounded run of kit")]
    async fn start(dir: &Path, place: usize) -> anyhow::Result<(Self, SocketAddr)> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(COMMAND)
            .arg("--dir")
            .arg(dir.join(place.to_string()))
            .args(["--place", &place.to_string()])
            .env_clear()
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("a voter does not start")?;
        let asks = child.stdin.take().context("a piped standard input")?;
        let answers = BufReader::new(child.stdout.take().context("a piped standard output")?).lines();
        let mut voter = Self { child, asks, answers };
        match voter.next(LIMIT).await? {
            Answer::Listens(address) => Ok((voter, address)),
            other => bail!("a voter begins with {other:?}"),
        }
    }

    async fn done(&mut self, ask: &Ask) -> anyhow::Result<()> {
        match self.ask(ask, LIMIT).await? {
            Answer::Done => Ok(()),
            other => bail!("asked {ask:?}, got {other:?}"),
        }
    }

    async fn ask(&mut self, ask: &Ask, limit: Duration) -> anyhow::Result<Answer> {
        let mut line = serde_json::to_vec(ask)?;
        line.push(b'\n');
        self.asks.write_all(&line).await.context("a voter is gone")?;
        match self.next(limit).await? {
            Answer::Failed(reason) => bail!("voter: {reason}"),
            answer => Ok(answer),
        }
    }

    async fn next(&mut self, limit: Duration) -> anyhow::Result<Answer> {
        let line = tokio::time::timeout(limit, self.answers.next_line()).await.context("a voter does not answer")??;
        Ok(serde_json::from_str(&line.context("a voter ended")?)?)
    }
}
