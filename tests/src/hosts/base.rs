//! The Debian tree that every host is an overlay of.
//!
//! Made once by debootstrap and kept in a cache folder; a half-made tree is
//! never used, because the finished one is renamed into place. What is changed
//! in it beyond the distribution is in this file, and its version is part of the
//! folder's name.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::command::run_within;

/// Raised when anything in this file changes the tree.
const LAYOUT: &str = "bookworm-2";

/// Packages beside the minimal base: systemd and its bus, network tools, Nix.
/// `libdbi-perl` stands for a virtual package that debootstrap cannot resolve.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,procps,libdbi-perl,nix-bin";

/// About 70 s on two cores with a near mirror; a slow mirror takes minutes.
const DEBOOTSTRAP_TIME_MAX: Duration = Duration::from_secs(900);

/// Units that would reach through to the machine's kernel or terminals.
const MASKED: &[&str] = &[
    "systemd-sysctl.service",
    "systemd-modules-load.service",
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
    "systemd-remount-fs.service",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-networkd-wait-online.service",
    "console-getty.service",
    "getty@tty1.service",
    "getty-static.service",
    "e2scrub_reap.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "systemd-tmpfiles-clean.timer",
];

/// What NixOS does before PID 1: the boot default's system is activated.
const BOOT_UNIT: &str = "[Unit]
Description=Activation of the boot default
ConditionPathExists=/boot/default
After=dbus.service
Before=osmoda-watch.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'top=$(readlink /boot/default) && ln -sfn \"$top\" /run/booted-system && exec \"$top/bin/switch-to-configuration\" test'

[Install]
WantedBy=multi-user.target
";

/// Returns the tree, making it first where the cache has none.
pub(super) async fn ensure(cache: &Path) -> anyhow::Result<PathBuf> {
    let tree = cache.join(LAYOUT);
    if tree.join("usr/lib/systemd/systemd").exists() {
        return Ok(tree);
    }
    std::fs::create_dir_all(cache).with_context(|| format!("making {}", cache.display()))?;
    let making = cache.join(format!("{LAYOUT}.{}", std::process::id()));
    let folder = making.to_str().context("the cache folder's name is not UTF-8")?;
    let include = format!("--include={PACKAGES}");
    run_within("debootstrap", &["--variant=minbase", &include, "bookworm", folder], DEBOOTSTRAP_TIME_MAX).await?;
    adapt(&making)?;
    match std::fs::rename(&making, &tree) {
        Ok(()) => Ok(tree),
        // Another run was faster; its tree is as good.
        Err(_) if tree.exists() => {
            std::fs::remove_dir_all(&making).with_context(|| format!("removing {}", making.display()))?;
            Ok(tree)
        }
        Err(cause) => Err(cause).with_context(|| format!("renaming {} into place", making.display())),
    }
}

fn adapt(tree: &Path) -> anyhow::Result<()> {
    let units = tree.join("etc/systemd/system");
    for unit in MASKED {
        symlink("/dev/null", units.join(unit)).with_context(|| format!("masking {unit}"))?;
    }
    let wants = units.join("multi-user.target.wants");
    for folder in [&wants, &tree.join("etc/nix"), &tree.join("boot"), &tree.join("srv/cache")] {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    write(&units.join("boot-default.service"), BOOT_UNIT)?;
    symlink("../boot-default.service", wants.join("boot-default.service")).context("enabling boot-default.service")?;
    // An own id per host and start; the distribution's would be shared by all.
    write(&tree.join("etc/machine-id"), "")?;
    // The package cache is a third of the tree and no host installs anything.
    let archives = tree.join("var/cache/apt/archives");
    std::fs::remove_dir_all(&archives).with_context(|| format!("removing {}", archives.display()))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
