//! A bed: a bridge, a builder and some hosts, below one directory.
//!
//! The state file is written before anything outside the directory is made, so
//! that `down` can remove what a broken-off `up` left. Invariant: `down` removes
//! only what carries the bed's tag or was started by it.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::cell::CellSpec;
use super::generation::{Builder, Generation, nix_configuration};
use super::host::{Host, namespace_exists, remove_cgroup};
use super::{base, network, prerequisites, programs};

/// Where beds live when nothing else is said.
const FOLDER: &str = "/tmp/osmoda-hosts";

/// Where the Debian tree is kept between runs.
const CACHE: &str = "/var/cache/osmoda-tests";

/// One network of /24 with room for a few; more hosts than this on one machine
/// only measure the machine.
const HOSTS_MAX: u8 = 20;

/// Why a bed could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BedError {
    /// The machine lacks something.
    #[error("hosts cannot be started here; missing: {}", .0.join(", "))]
    Prerequisites(Vec<String>),
    /// A step failed.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// What is remembered between runs of the program.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct State {
    tag: String,
    hosts: Vec<Host>,
}

/// A bed with running hosts.
#[derive(Debug)]
pub struct Bed {
    folder: PathBuf,
    state: State,
    builder: Builder,
    lower: PathBuf,
}

impl Bed {
    /// The folder of the bed: the argument, else `OSMODA_HOSTS_DIR`, else a fixed one.
    #[must_use]
    pub fn folder(argument: Option<PathBuf>) -> PathBuf {
        argument.unwrap_or_else(|| std::env::var_os("OSMODA_HOSTS_DIR").map_or_else(|| FOLDER.into(), PathBuf::from))
    }

    /// Starts `count` hosts in `folder`, each on its first generation.
    ///
    /// # Errors
    /// [`BedError::Prerequisites`] when the machine cannot; else the step that failed.
    pub async fn up(folder: &Path, count: u8) -> Result<Self, BedError> {
        let missing = prerequisites::missing();
        if !missing.is_empty() {
            return Err(BedError::Prerequisites(missing));
        }
        Ok(Self::create(folder, count).await?)
    }

    async fn create(folder: &Path, count: u8) -> anyhow::Result<Self> {
        if !(1..=HOSTS_MAX).contains(&count) {
            bail!("{count} hosts: between 1 and {HOSTS_MAX} can be started");
        }
        if folder.join("state.json").exists() {
            bail!("{} holds a bed already; `hosts down` removes it", folder.display());
        }
        let cache = std::env::var_os("OSMODA_HOSTS_CACHE").map_or_else(|| CACHE.into(), PathBuf::from);
        let lower = base::ensure(&cache).await?;
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let tag = format!("{:04x}", std::process::id() & 0xffff);
        let state = State { tag: tag.clone(), hosts: (1..=count).map(|index| Host::new(&tag, index)).collect() };
        save(folder, &state)?;
        programs::collect(&folder.join("programs")).await?;
        let builder = Builder::create(&lower, &folder.join("builder"), &folder.join("build")).await?;
        let mut bed = Self { folder: folder.to_owned(), state, builder, lower };
        network::create_bridge(&tag).await?;
        for index in 0..bed.state.hosts.len() {
            bed.create_host(index).await?;
        }
        Ok(bed)
    }

    async fn create_host(&mut self, index: usize) -> anyhow::Result<()> {
        let host = self.state.hosts[index].clone();
        let own = self.own(&host);
        for folder in ["upper", "work", "root"] {
            let folder = own.join(folder);
            std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        }
        programs::install_units(&own.join("upper"))?;
        let configuration = nix_configuration("file:///srv/cache", &self.builder.public_key()?);
        programs::write(&own.join("upper/etc/nix/nix.conf"), &configuration)?;
        network::connect(&host.tag, host.index).await?;
        self.start(index).await?;
        let first = self.builder.build(&Generation::new("g1", &host.name()).workload("1")).await?;
        let host = &self.state.hosts[index];
        host.run(&["nix-store", "--realise", &first]).await?;
        host.run(&["nix-env", "-p", "/nix/var/nix/profiles/system", "--set", &first]).await?;
        host.run(&[&format!("{first}/bin/switch-to-configuration"), "switch"]).await?;
        Ok(())
    }

    /// Starts a host that is not running; its own layer is as it was left.
    pub(super) async fn start(&mut self, index: usize) -> anyhow::Result<()> {
        let host = &self.state.hosts[index];
        let cgroup = self.cgroup()?.join(host.name());
        std::fs::create_dir_all(&cgroup).with_context(|| format!("making {}", cgroup.display()))?;
        let spec = CellSpec {
            name: host.name(),
            network: Some(network::namespace(&host.tag, host.index)),
            cgroup: Some(cgroup),
            lower: self.lower.clone(),
            own: self.own(host),
            binds: vec![
                (self.folder.join("programs"), units_folder(), true),
                (self.folder.join("build/cache"), "/srv/cache".to_owned(), true),
            ],
            command: Vec::new(),
        };
        let cache = self.folder.join("build/cache");
        std::fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
        let started = self.state.hosts[index].start(&spec).await;
        // Written in any case: what was started must be found again.
        save(&self.folder, &self.state)?;
        started
    }

    /// The running hosts.
    pub(super) fn hosts(&self) -> &[Host] {
        &self.state.hosts
    }

    /// What builds, signs and publishes generations.
    pub(super) fn builder(&self) -> &Builder {
        &self.builder
    }

    /// Where the bed lives.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// One line per host: how to reach it.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let enter = |pid| format!("nsenter -t {pid} -p -m -u -i -n -C -r -w -- bash");
        let line = |host: &Host| {
            let how = host.init.map_or_else(|| "not running".to_owned(), enter);
            format!("{} {} {how}", host.name(), host.address())
        };
        self.state.hosts.iter().map(line).collect()
    }

    /// Ends every host and removes everything, also after a broken-off start.
    ///
    /// # Errors
    /// The first thing that could not be removed; running it again goes on.
    pub async fn down(folder: &Path) -> anyhow::Result<()> {
        let path = folder.join("state.json");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(cause) => return Err(cause).with_context(|| format!("reading {}", path.display())),
        };
        let mut state: State = serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
        for host in &mut state.hosts {
            host.kill().await?;
            if namespace_exists(&network::namespace(&host.tag, host.index)).await? {
                network::disconnect(&host.tag, host.index).await?;
            }
        }
        if Path::new("/sys/class/net").join(network::bridge(&state.tag)).exists() {
            network::remove_bridge(&state.tag).await?;
        }
        remove_cgroup(&cgroup_of(&state.tag)?).await?;
        std::fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))
    }

    fn own(&self, host: &Host) -> PathBuf {
        self.folder.join(host.name())
    }

    fn cgroup(&self) -> anyhow::Result<PathBuf> {
        cgroup_of(&self.state.tag)
    }
}

fn cgroup_of(tag: &str) -> anyhow::Result<PathBuf> {
    let mount = prerequisites::cgroup2_mount().context("no cgroup2 hierarchy is mounted")?;
    Ok(mount.join(format!("osmoda-hosts-{tag}")))
}

fn units_folder() -> String {
    crate::units::PROGRAM_FOLDER.to_owned()
}

fn save(folder: &Path, state: &State) -> anyhow::Result<()> {
    let path = folder.join("state.json");
    let text = serde_json::to_vec_pretty(state).context("writing the bed's state")?;
    osmoda_kit::fsio::write_atomic(&path, &text, 0o600).with_context(|| format!("writing {}", path.display()))
}
