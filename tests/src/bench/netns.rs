//! Network namespaces of benchmarks: programs that make them, and sockets inside.
//!
//! Always holds: a thread that enters a namespace is back when its work is done.
//! Not here: which networks there are.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use osmoda_kit::process::{Spec, run};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where network programs may lie; the environment of programs is empty.
const FOLDERS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/bin"];

/// Runs `work` with this thread in that namespace: sockets it makes belong to it
/// for good. The thread is back when this returns.
pub(super) fn within<T>(name: &str, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let own = File::open("/proc/thread-self/ns/net")?;
    let other = File::open(PathBuf::from("/run/netns").join(name))?;
    move_into_link_name_space(other.as_fd(), Some(LinkNameSpaceType::Network))?;
    let done = work();
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("a thread may return to the network it was started in");
    done
}

/// Runs `ip` with these arguments.
pub(super) async fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let path = find("ip").context("ip (iproute2) is not installed")?;
    let output = run(&Spec::new(path).args(arguments.iter().copied())).await?;
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Where a network program lies.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    FOLDERS.iter().map(|folder| PathBuf::from(folder).join(program)).find(|path| path.is_file())
}
