//! Our programs on a host: the same files a package would install.
//!
//! Programs are shown read-only under `/usr/local/bin`, units, users and folders
//! are those of `deploy/systemd`. Nothing is started here.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::command::run;
use crate::units;

/// Programs a host needs, as cargo builds them.
pub(super) const PROGRAMS: &[&str] =
    &["osmoda-node", "osmoda-guard", "agentctl", "osmoda-controller", "osmoda", "hosts"];

/// Collects the programs in one folder; a missing one is named.
///
/// Copies, stripped of what only a debugger reads: three hosts read them from
/// the page cache, and a build during the test cannot change them.
pub(super) async fn collect(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let own = std::env::current_exe().context("finding this program")?;
    let built = own.parent().context("this program lies in no folder")?;
    for name in PROGRAMS {
        let (from, to) = (built.join(name), folder.join(name));
        std::fs::copy(&from, &to)
            .with_context(|| format!("taking {} (cargo xtask hosts builds it)", from.display()))?;
        if super::command::find("strip").is_some() {
            run("strip", &["--strip-debug", to.to_str().context("a folder's name is not UTF-8")?]).await?;
        }
    }
    Ok(())
}

/// Writes units, users and folders into a host's own layer, before it starts. The
/// controller's are there too; nothing starts it by itself.
pub(super) fn install_units(upper: &Path) -> anyhow::Result<()> {
    let units = upper.join("etc/systemd/system");
    for (name, text) in units::files() {
        let configuration = |kind: &str| name.strip_suffix(&format!(".{kind}.conf")).map(str::to_owned);
        let place = match (configuration("sysusers"), configuration("tmpfiles")) {
            (Some(name), _) => upper.join(format!("etc/sysusers.d/{name}.conf")),
            (_, Some(name)) => upper.join(format!("etc/tmpfiles.d/{name}.conf")),
            _ => units.join(&name),
        };
        write(&place, &text)?;
    }
    // Sockets are there from the start; services wait for the node to be initialised.
    for daemon in osmoda_node_api::registry::DAEMONS {
        let socket = format!("osmoda-{}.socket", daemon.name);
        link(&format!("../{socket}"), &units.join("sockets.target.wants").join(&socket))?;
        let service = format!("osmoda-{}.service", daemon.name);
        link(&format!("../{service}"), &units.join("osmoda.target.wants").join(&service))?;
    }
    Ok(())
}

/// Writes a file of a host's own layer, with the folders above it.
pub(super) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    make_parent(path)?;
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn link(target: &str, path: &PathBuf) -> anyhow::Result<()> {
    make_parent(path)?;
    symlink(target, path).with_context(|| format!("linking {}", path.display()))
}

fn make_parent(path: &Path) -> anyhow::Result<()> {
    let folder = path.parent().context("a file has a folder above it")?;
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
}
