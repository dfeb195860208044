//! Paths and units that run later, or that guard the host. *Pure.*
//!
//! Writing a file is a change of what the file means. One that a timer, a
//! shell, a login, the boot or our own daemons will read is a program that
//! runs later (P21), so such a write is destructive wherever the policy lets
//! files be written.

/// Folders and files; a path is protected when it is one of them or below.
const PATHS: &[&str] = &[
    // Configuration: too much of it is run, by root, at a login, a mount, a lease
    // or a renewal (`update-motd.d`, `network/if-up.d`, `dhcp`, `ppp`, `grub.d`)
    // for a list of what is harmless or not to stay true.
    "/etc",
    // Our own state, backups and sockets.
    "/var/lib/osmoda",
    "/var/backups/osmoda",
    "/run/osmoda",
    // Generations and how the host boots.
    "/nix",
    "/boot",
    "/efi",
    // Units, timers, cron.
    "/run/systemd",
    "/usr/lib/systemd",
    "/usr/local/lib/systemd",
    "/lib/systemd",
    "/var/lib/systemd",
    "/var/spool",
    "/var/at",
    // Root's home.
    "/root",
    // The kernel and what loads into it.
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

/// Ends of a part, anywhere: a bare repository is called `NAME.git`, and has its
/// hooks and what its configuration runs in it like any other.
const ENDINGS: &[&str] = &[".git"];

/// Parts of a path, anywhere, that a shell, git, a login or a program that people
/// start with one reads, and that can name a command.
const PARTS: &[&str] = &[
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
    ".zlogout",
    ".kshrc",
    ".mkshrc",
    ".cshrc",
    ".tcshrc",
    ".login",
    ".logout",
    ".inputrc",
    ".rhosts",
    ".shosts",
    ".k5login",
    ".xinitrc",
    ".xserverrc",
    ".xsession",
    ".xsessionrc",
    ".xprofile",
    ".xresources",
    ".tmux.conf",
    ".screenrc",
    ".psqlrc",
    ".my.cnf",
    ".mylogin.cnf",
    ".sqliterc",
    ".gdbinit",
    ".lldbinit",
    ".irbrc",
    ".pryrc",
    ".rprofile",
    ".pythonrc",
    ".perldb",
    ".curlrc",
    ".wgetrc",
    ".pypirc",
    ".gemrc",
    ".yarnrc",
    ".cargo",
    ".gnupg",
    ".docker",
    ".kube",
    ".direnvrc",
    ".hg",
    ".hgrc",
    ".lesskey",
    ".mailrc",
    ".muttrc",
    ".procmailrc",
    ".exrc",
    ".gvimrc",
    ".nanorc",
    ".emacs",
    ".emacs.d",
    ".vim",
    ".nix-profile",
    ".nix-defexpr",
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

/// Ends of a file's name: what systemd or a desktop reads as a unit.
const UNIT_ENDINGS: &[&str] = &[".service", ".timer", ".socket", ".path", ".mount", ".target", ".desktop"];

/// Units whose restart stops the gate itself.
const OWN_UNITS: &[&str] =
    &["osmoda", "systemd-", "dbus", "ssh", "sshd", "init", "network", "NetworkManager", "polkit", "nix-daemon"];

/// The protected folders and files that have a fixed place.
pub fn paths() -> impl Iterator<Item = &'static str> {
    PATHS.iter().copied()
}

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
    listed(path) || listed(&lower) || is_named(path)
}

/// Whether a path is protected by what it or a folder on the way is called,
/// wherever it begins: below the host root, in a file system, at a mount.
#[must_use]
pub fn is_named(path: &str) -> bool {
    let lower = path.to_lowercase();
    let ends = |name: &str, endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    lower.split('/').any(|part| PARTS.contains(&part) || ends(part, ENDINGS)) || ends(&lower, UNIT_ENDINGS)
}

/// Whether a folder is above something protected, or protected itself: no root
/// for writing without a permit.
#[must_use]
pub fn is_too_wide(folder: &str) -> bool {
    let folder = folder.trim_end_matches('/');
    folder.is_empty() || is_protected(folder) || PATHS.iter().any(|entry| is_below(entry, folder))
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
            "/srv/git/site.git/config",
            "/srv/git/site.git/hooks/post-receive",
            "/srv/git/Site.GIT/info/attributes",
            "/home/u/.inputrc",
            "/home/u/.cshrc",
            "/home/u/.tcshrc",
            "/home/u/.login",
            "/home/u/.xinitrc",
            "/home/u/.xprofile",
            "/home/u/.psqlrc",
            "/home/u/.tmux.conf",
            "/root/x",
            "/usr/bin/ls",
            "/etc/passwd",
            "/etc/motd",
            "/etc/update-motd.d/00-header",
            "/etc/NetworkManager/dispatcher.d/x",
            "/Etc/network/if-up.d/x",
        ] {
            assert!(is_protected(path), "{path}");
        }
        for path in ["/srv/www/index.html", "/var/lib/app/data", "/var/lib/osmodax", "/home/u/notes", "/srv/www/x.gitx"]
        {
            assert!(!is_protected(path), "{path}");
        }
        assert!(is_named("/keys/.ssh/x") && is_named(".git") && !is_named("/etc/passwd"), "a place says nothing here");
        for folder in ["/", "/etc", "/etc/nginx", "/var", "/var/lib", "/srv/.git", "/usr/local/"] {
            assert!(is_too_wide(folder), "{folder}");
        }
        for folder in ["/srv", "/srv/www/", "/home", "/var/www"] {
            assert!(!is_too_wide(folder), "{folder}");
        }
        assert!(is_own_unit("osmoda-execd.service") && is_own_unit("sshd.service") && !is_own_unit("nginx.service"));
        assert!(!is_below("/srv", "/srv") && is_below("/srv/a", "/srv/") && !is_below("/srvx/a", "/srv"));
    }
}
