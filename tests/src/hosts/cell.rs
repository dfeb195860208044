//! Becoming the first process of a host, from inside its namespaces.
//!
//! Two hidden subcommands of the `hosts` program run one after the other in one
//! chain of `exec`s, so the id that was started first stays the id to end:
//! `cell-enter` joins the host's cgroup and its network and makes the other
//! namespaces; `cell-root` builds the root file system and starts systemd, or one
//! command of the builder. No shell is involved.

#![expect(
    clippy::disallowed_methods,
    reason = "replaces itself by the next program; the runner of kit starts children"
)]

use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use rustix::fs::{FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_remount};

use super::command::{PATH, find};

/// What to build and what to start in it. Handed on as JSON.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct CellSpec {
    /// Host name inside.
    pub name: String,
    /// Network namespace to join, if not the machine's.
    pub network: Option<String>,
    /// Cgroup folder to join, so that hosts do not see each other's slices.
    pub cgroup: Option<PathBuf>,
    /// The Debian tree below.
    pub lower: PathBuf,
    /// This host's own folder: `upper`, `work` and `root` lie in it.
    pub own: PathBuf,
    /// Folders of the machine that show inside: from, to, whether read-only.
    pub binds: Vec<(PathBuf, String, bool)>,
    /// What to start; systemd when empty.
    pub command: Vec<String>,
}

/// Names one start of a host. The kernel's own boot id is the same for all hosts
/// of the machine and does not change when one of them starts again.
pub(super) const BOOT_ID_FILE: &str = "/run/boot-id";

/// Device files a host has: name, major, minor.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// First stage. Returns only when it fails.
///
/// # Errors
/// The cgroup cannot be joined or the next program cannot be started.
pub fn enter_cell(spec: &CellSpec) -> anyhow::Result<()> {
    if let Some(cgroup) = &spec.cgroup {
        let processes = cgroup.join("cgroup.procs");
        std::fs::write(&processes, std::process::id().to_string())
            .with_context(|| format!("joining {}", cgroup.display()))?;
    }
    let own = std::env::current_exe().context("finding this program")?;
    let unshare = find("unshare").context("unshare is not installed")?;
    let mut words: Vec<OsString> = Vec::new();
    if let Some(network) = &spec.network {
        let ip = find("ip").context("ip is not installed")?;
        words.extend([ip.into_os_string(), "netns".into(), "exec".into(), network.into()]);
    }
    words.push(unshare.into_os_string());
    words.extend(["--pid", "--mount", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child"].map(OsString::from));
    words.extend([own.into_os_string(), "cell-root".into()]);
    words.push(serde_json::to_string(spec).context("writing the cell's description")?.into());
    let cause = Command::new(&words[0]).args(&words[1..]).env_clear().env("PATH", PATH).exec();
    Err(cause).with_context(|| format!("starting {}", words[0].display()))
}

/// Second stage, inside the namespaces. Returns only when it fails.
///
/// # Errors
/// A mount fails or the program cannot be started.
pub fn root_cell(spec: &CellSpec) -> anyhow::Result<()> {
    let root = mount_root(spec)?;
    for (from, to, read_only) in &spec.binds {
        bind(from, &root.join(to.trim_start_matches('/')), *read_only)?;
    }
    rustix::system::sethostname(spec.name.as_bytes()).context("setting the host's name")?;
    std::env::set_current_dir(&root).context("entering the root")?;
    rustix::process::chroot(".").context("changing the root")?;
    let systemd = ["/lib/systemd/systemd".to_owned(), "--unit=multi-user.target".to_owned()];
    let words = if spec.command.is_empty() { &systemd } else { spec.command.as_slice() };
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).current_dir("/").env_clear().env("container", "osmoda-tests").env("PATH", PATH);
    let cause = command.env("HOME", "/root").exec();
    Err(cause).with_context(|| format!("starting {}", words[0]))
}

fn mount_root(spec: &CellSpec) -> anyhow::Result<PathBuf> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).context("making the mounts private")?;
    let root = spec.own.join("root");
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}",
        spec.lower.display(),
        spec.own.join("upper").display(),
        spec.own.join("work").display()
    );
    mounted("overlay", &root, "overlay", MountFlags::empty(), &layers)?;
    let plain = MountFlags::NOSUID | MountFlags::NODEV;
    mounted("proc", &root.join("proc"), "proc", plain, "")?;
    mounted("sysfs", &root.join("sys"), "sysfs", plain, "")?;
    mounted("cgroup2", &root.join("sys/fs/cgroup"), "cgroup2", plain, "")?;
    mounted("tmpfs", &root.join("run"), "tmpfs", plain, "mode=755")?;
    mounted("tmpfs", &root.join("tmp"), "tmpfs", plain, "mode=1777")?;
    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("asking for a random id")?;
    std::fs::write(root.join(BOOT_ID_FILE.trim_start_matches('/')), id).context("naming this start of the host")?;
    devices(&root.join("dev"))?;
    Ok(root)
}

/// Own device files: the machine's terminals and disks do not show.
fn devices(folder: &Path) -> anyhow::Result<()> {
    mounted("tmpfs", folder, "tmpfs", MountFlags::NOSUID, "mode=755")?;
    for (name, major, minor) in DEVICES {
        let path = folder.join(name);
        let mode = Mode::from_raw_mode(0o666);
        mknodat(rustix::fs::CWD, &path, FileType::CharacterDevice, mode, makedev(major, minor))
            .with_context(|| format!("making {}", path.display()))?;
        // The mode above is cut by the umask.
        rustix::fs::chmod(&path, mode).with_context(|| format!("setting the mode of {}", path.display()))?;
    }
    for name in ["pts", "shm"] {
        std::fs::create_dir(folder.join(name)).with_context(|| format!("making {name}"))?;
    }
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mounted("devpts", &folder.join("pts"), "devpts", flags, "newinstance,ptmxmode=0666,mode=620,gid=5")?;
    mounted("tmpfs", &folder.join("shm"), "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, "mode=1777")?;
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, folder.join(name)).with_context(|| format!("linking {name}"))?;
    }
    Ok(())
}

fn mounted(source: &str, place: &Path, kind: &str, flags: MountFlags, data: &str) -> anyhow::Result<()> {
    let data = std::ffi::CString::new(data).context("mount options contain a zero byte")?;
    mount(source, place, kind, flags, Some(data.as_c_str()))
        .with_context(|| format!("mounting {kind} on {}", place.display()))
}

fn bind(from: &Path, to: &Path, read_only: bool) -> anyhow::Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    mount_bind(from, to).with_context(|| format!("showing {} as {}", from.display(), to.display()))?;
    if read_only {
        mount_remount(to, MountFlags::BIND | MountFlags::RDONLY, "")
            .with_context(|| format!("making {} read-only", to.display()))?;
    }
    Ok(())
}
