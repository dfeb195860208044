//! Installing what a task needs from the distribution, once, as root only.
//!
//! Always holds: running it again changes nothing; without root or without apt
//! it installs nothing and says what will be used or skipped instead.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

/// What the real hosts need beside the kernel: (program, distribution package).
const HOST_TOOLS: &[(&str, &str)] =
    &[("debootstrap", "debootstrap"), ("nix-env", "nix-bin"), ("ip", "iproute2"), ("nsenter", "util-linux")];

/// What the networks of benchmarks need.
const NETWORK_TOOLS: &[(&str, &str)] = &[("ip", "iproute2"), ("ethtool", "ethtool")];

/// Makes `nix-env` available where that is possible. Returns whether it is.
///
/// Without it the programs use the built-in symlink store, which needs nothing.
pub(crate) fn nix() -> anyhow::Result<bool> {
    let present = ensure(&[("nix-env", "nix-bin")])?;
    if !present {
        eprintln!("nix-env is not installed and cannot be: the built-in symlink store is used");
    }
    Ok(present)
}

/// Makes the tools of the real hosts available where that is possible.
pub(crate) fn host_tools() -> anyhow::Result<bool> {
    ensure(HOST_TOOLS)
}

/// Makes the tools of benchmarks' networks available where that is possible.
pub(crate) fn network_tools() -> anyhow::Result<bool> {
    ensure(NETWORK_TOOLS)
}

/// Installs the packages of the missing programs. False where it may not.
fn ensure(tools: &[(&str, &str)]) -> anyhow::Result<bool> {
    let missing: Vec<&str> =
        tools.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(true);
    }
    if !rustix::process::geteuid().is_root() || find("apt-get").is_none() {
        eprintln!("missing {}; not root or no apt-get here, so nothing is installed", missing.join(" "));
        return Ok(false);
    }
    eprintln!("installing {} from the distribution", missing.join(" "));
    if !apt(&["install", "-y", "--no-install-recommends"], &missing)? {
        // The package lists of a fresh machine are empty or old.
        apt(&["update"], &[])?;
        if !apt(&["install", "-y", "--no-install-recommends"], &missing)? {
            // A machine without a usable package source: what needs these tools goes
            // without them or says that it cannot, as for a user who is not root.
            eprintln!("apt-get could not install {}", missing.join(" "));
            return Ok(false);
        }
    }
    Ok(true)
}

fn apt(verb: &[&str], packages: &[&str]) -> anyhow::Result<bool> {
    let status = Command::new("apt-get")
        .args(verb)
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("cannot start apt-get")?;
    Ok(status.success())
}

/// Where a program lies; the sbin folders count even when PATH leaves them out.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| Path::is_file(file))
}
