//! Paths and units that run later, or that guard the host. *Pure.*
//!
//! Writing a file is a change of what the file means. One that a timer, a
//! shell, a login, the boot or our own daemons will read is a program that
//! runs later (P21), so such a write is destructive wherever the policy lets
//! files be written.

/// Folders and files; a path is protected when it is one of them or below.
const PATHS: &[&str] = &[
    // Our own policy, trust, state and sockets.
    "/etc/osmoda",
    "/var/lib/osmoda",
    "/var/backups/osmoda",
    "/run/osmoda",
    // Generations and how the host boots.
    "/nix",
    "/etc/nixos",
    "/boot",
    "/efi",
    // Units, timers, cron.
    "/etc/systemd",
    "/run/systemd",
    "/usr/lib/systemd",
    "/usr/local/lib/systemd",
    "/lib/systemd",
    "/var/lib/systemd",
    "/etc/init.d",
    "/etc/rc.local",
    "/etc/inittab",
    "/etc/crontab",
    "/etc/anacrontab",
    "/var/spool",
    "/var/at",
    // Who may log in and become whom.
    "/etc/passwd",
    "/etc/passwd-",
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/group",
    "/etc/gshadow",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/doas.conf",
    "/etc/pam.d",
    "/etc/security",
    "/etc/polkit-1",
    "/etc/dbus-1",
    "/etc/ssh",
    "/root",
    // What every program or shell reads at its start.
    "/etc/environment",
    "/etc/shells",
    "/etc/bashrc",
    "/etc/bash.bashrc",
    "/etc/zshrc",
    "/etc/zsh",
    "/etc/fish",
    "/etc/gitconfig",
    "/etc/nsswitch.conf",
    // The kernel and what loads into it.
    "/etc/udev",
    "/etc/kernel",
    "/etc/modprobe.d",
    "/etc/modules",
    "/etc/modules-load.d",
    "/etc/tmpfiles.d",
    "/etc/binfmt.d",
    "/etc/apt",
    "/proc",
    "/sys",
    "/dev",
    // Programs and libraries.
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/usr",
    "/opt",
];

/// Beginnings of names in `/etc`: `cron.d`, `cron.daily`, `profile.d`,
/// `ld.so.preload`, `sysctl.conf` and their kin.
const ETC_BEGINNINGS: &[&str] = &["cron", "at.", "profile", "ld.so", "sysctl", "rc", "logrotate", "xdg", "X11"];

/// Parts of a path, anywhere, that a shell, git or a login reads.
const PARTS: &[&str] = &[
    ".git",
    ".ssh",
    ".config",
    ".local",
    ".bashrc",
    ".bash_profile",
    ".bash_login",
    ".bash_logout",
    ".bash_aliases",
    ".profile",
    ".zshrc",
    ".zshenv",
    ".zprofile",
    ".zlogin",
    ".gitconfig",
    ".gitattributes",
    ".gitmodules",
    ".envrc",
    ".netrc",
    ".npmrc",
    ".pam_environment",
    ".vimrc",
    ".forward",
    ".husky",
    "hooks",
];

/// Units whose restart stops the gate itself.
const OWN_UNITS: &[&str] =
    &["osmoda", "systemd-", "dbus", "ssh", "sshd", "init", "network", "NetworkManager", "polkit", "nix-daemon"];

/// Whether a plain absolute path is below a folder. The folder itself is not
/// below itself.
#[must_use]
pub fn is_below(path: &str, folder: &str) -> bool {
    let folder = folder.trim_end_matches('/');
    path.strip_prefix(folder).is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
}

/// Whether a plain absolute path runs later or guards the host.
#[must_use]
pub fn is_protected(path: &str) -> bool {
    let lower = path.to_lowercase();
    // File systems that fold case would let `/ETC/Cron.d` through.
    let listed = |path: &str| PATHS.iter().any(|entry| path == *entry || is_below(path, entry));
    let etc = lower
        .strip_prefix("/etc/")
        .is_some_and(|rest| ETC_BEGINNINGS.iter().any(|beginning| rest.starts_with(&beginning.to_lowercase())));
    let unit = [".service", ".timer", ".socket", ".path", ".mount", ".target", ".desktop"];
    listed(path)
        || listed(&lower)
        || etc
        || lower.split('/').any(|part| PARTS.contains(&part))
        || unit.iter().any(|ending| lower.ends_with(ending))
}

/// Whether restarting the unit stops the host's own guards.
#[must_use]
pub fn is_own_unit(unit: &str) -> bool {
    OWN_UNITS.iter().any(|beginning| unit.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_later_is_protected() {
        for path in [
            "/etc/osmoda/approvals.toml",
            "/var/lib/osmoda/execd/trust.json",
            "/etc/cron.d/x",
            "/etc/crontab",
            "/etc/CRON.daily/x",
            "/var/spool/cron/root",
            "/etc/systemd/system/a.service",
            "/srv/x/evil.timer",
            "/etc/profile.d/x.sh",
            "/etc/ld.so.preload",
            "/home/u/.bashrc",
            "/srv/repo/.git/hooks/pre-commit",
            "/srv/repo/.Git/config",
            "/root/x",
            "/usr/bin/ls",
            "/etc/passwd",
        ] {
            assert!(is_protected(path), "{path}");
        }
        for path in ["/srv/www/index.html", "/etc/motd", "/etc/nginx/nginx.conf", "/var/lib/app/data", "/etc/osmodax"] {
            assert!(!is_protected(path), "{path}");
        }
        assert!(is_own_unit("osmoda-execd.service") && is_own_unit("sshd.service") && !is_own_unit("nginx.service"));
        assert!(!is_below("/srv", "/srv") && is_below("/srv/a", "/srv/") && !is_below("/srvx/a", "/srv"));
    }
}
