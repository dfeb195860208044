//! The systemd files of a node, rendered from the daemon registry, and those of
//! the controller.
//!
//! Pure: a list of file names with their text. `cargo xtask codegen` writes them
//! to `deploy/systemd`, a test compares, and the real hosts install exactly these.
//! Invariant: a socket is made by systemd with mode 0660 and group `osmoda`; the
//! control is the callers table, not the mode (docs/decisions/0001).

use std::fmt::Write as _;

use osmoda_node_api::registry::{DAEMONS, DaemonEntry, GROUP, Network, Privilege};

/// Where the units expect the programs; the NixOS module replaces it.
pub const PROGRAM_FOLDER: &str = "/usr/local/bin";

/// First line of every file.
const HEADER: &str = "# Rendered from the daemon registry by `cargo xtask codegen`. Do not edit.\n";

/// What every daemon without root privileges is denied.
const CONFINEMENT: &str = "\
# Its own state folder and its sockets are all that this daemon can touch.
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProcSubset=pid
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
# Keys and secrets in its memory reach no disk, neither as swap nor as a core file.
MemorySwapMax=0
LimitCORE=0
";

/// The controller, as a daemon of a machine that may have no node. Not in the
/// registry: nodes find it over the mesh and nothing on its machine calls it.
pub const CONTROLLER: DaemonEntry = DaemonEntry {
    name: "controller",
    user: "osmoda-controller",
    about: "shows the fleet and carries signed orders",
    sockets: &["controller"],
    privilege: Privilege::Own,
    network: Network::Host,
    after: &[],
};

/// Every file: name and text.
#[must_use]
pub fn files() -> Vec<(String, String)> {
    let mut files = vec![("osmoda.target".to_owned(), target())];
    for (name, daemons) in [("osmoda", DAEMONS), ("osmoda-controller", &[CONTROLLER])] {
        files.push((format!("{name}.sysusers.conf"), users(daemons)));
        files.push((format!("{name}.tmpfiles.conf"), folders(daemons)));
        for daemon in daemons {
            files.push((format!("osmoda-{}.service", daemon.name), service(daemon)));
            files.push((format!("osmoda-{}.socket", daemon.name), socket(daemon)));
        }
    }
    files
}

fn target() -> String {
    let wants: Vec<_> = DAEMONS.iter().map(|daemon| format!("osmoda-{}.service", daemon.name)).collect();
    format!(
        "{HEADER}[Unit]\nDescription=osModa node\nWants={}\n\n[Install]\nWantedBy=multi-user.target\n",
        wants.join(" ")
    )
}

/// Root for files and units of the host, and for nothing else: no network, no
/// new privileges, no capability that loads code into the kernel. Not
/// `RestrictSUIDSGID`: with it `openat2`, with which the executor walks a path,
/// fails as unknown, because a filter cannot see the mode that it would be given.
const EXECUTOR: &str = "PrivateNetwork=yes\nRestrictAddressFamilies=AF_UNIX\nNoNewPrivileges=yes\n\
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID\n\
LockPersonality=yes\nMemoryDenyWriteExecute=yes\nProtectClock=yes\nProtectKernelModules=yes\n\
RestrictRealtime=yes\nSystemCallArchitectures=native\n";

fn is_of_node(daemon: &DaemonEntry) -> bool {
    daemon.name != CONTROLLER.name
}

fn service(daemon: &DaemonEntry) -> String {
    let name = daemon.name;
    let after: String = daemon.after.iter().map(|other| format!(" osmoda-{other}.service")).collect();
    let mut text = format!(
        "{HEADER}[Unit]\nDescription=osModa {name}: {about}\nRequires=osmoda-{name}.socket\nAfter=osmoda-{name}.socket{after}\n",
        about = daemon.about
    );
    let (program, target) = match is_of_node(daemon) {
        true => (format!("osmoda-node daemon {name}"), "osmoda.target"),
        false => ("osmoda-controller serve".to_owned(), "multi-user.target"),
    };
    if is_of_node(daemon) {
        text.push_str("PartOf=osmoda.target\n");
    }
    text.push_str(
        "# Trying again costs nothing; giving up would need a person on the host.\nStartLimitIntervalSec=0\n\n",
    );
    push(&mut text, format_args!("[Service]\nType=notify\nExecStart={PROGRAM_FOLDER}/{program}\n"));
    push(&mut text, format_args!("User={}\n", daemon.user));
    if daemon.privilege == Privilege::Own {
        push(&mut text, format_args!("Group={}\nSupplementaryGroups={GROUP}\n", daemon.user));
    }
    text.push_str("UMask=0077\nRestart=on-failure\nRestartSec=2s\nTimeoutStopSec=30s\n");
    match daemon.privilege {
        Privilege::Own => confined(&mut text, daemon),
        Privilege::Root if daemon.network == Network::None => text.push_str(EXECUTOR),
        Privilege::Root => text.push_str(
            "# The guard is a child in this unit's group and must outlive it: only the main\n\
             # process is stopped. Activation may touch anything, so nothing is denied here.\n\
             KillMode=process\n\
             # A NixOS activation must not stop the daemon that started it half-way.\n\
             X-RestartIfChanged=yes\nX-StopIfChanged=no\n",
        ),
    }
    push(&mut text, format_args!("\n[Install]\nWantedBy={target}\n"));
    text
}

fn confined(text: &mut String, daemon: &DaemonEntry) {
    text.push_str(CONFINEMENT);
    if daemon.name == "agentd" {
        // The later lines count: it tells how the host is, which the kernel says there.
        text.push_str("# Processes, load and ports of the host are its answers (/health, /system/*).\n");
        text.push_str("ProtectProc=default\nProcSubset=all\n");
    }
    push(text, format_args!("ReadWritePaths=/var/lib/osmoda/{} /var/lib/osmoda/lock\n", daemon.name));
    match daemon.network {
        Network::None => text.push_str("RestrictAddressFamilies=AF_UNIX\nPrivateNetwork=yes\n"),
        Network::Host => text.push_str("RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n"),
    }
}

fn socket(daemon: &DaemonEntry) -> String {
    let name = daemon.name;
    let part = if is_of_node(daemon) { "PartOf=osmoda.target\n" } else { "" };
    let mut text = format!("{HEADER}[Unit]\nDescription=Sockets of osModa {name}\n{part}\n[Socket]\n");
    for socket in daemon.sockets {
        push(&mut text, format_args!("ListenStream=/run/osmoda/{socket}.sock\n"));
    }
    push(&mut text, format_args!("SocketMode=0660\nSocketUser=root\nSocketGroup={GROUP}\n"));
    text.push_str("\n[Install]\nWantedBy=sockets.target\n");
    text
}

fn users(daemons: &[DaemonEntry]) -> String {
    let mut text = format!("{HEADER}g {GROUP} -\n");
    for daemon in daemons.iter().filter(|daemon| daemon.privilege == Privilege::Own) {
        let (user, name) = (daemon.user, daemon.name);
        push(&mut text, format_args!("u {user} - \"osModa {name}\" /var/lib/osmoda/{name}\nm {user} {GROUP}\n"));
    }
    text
}

fn folders(daemons: &[DaemonEntry]) -> String {
    let mut text = format!(
        "{HEADER}d /run/osmoda 0750 root {GROUP}\nd /etc/osmoda 0755 root root\nd /var/lib/osmoda 0751 root {GROUP}\nf /var/lib/osmoda/lock 0660 root {GROUP}\n"
    );
    text.push_str("# What `init` and `join` wrote as root is handed to its daemon here.\n");
    for daemon in daemons {
        let (user, name) = (daemon.user, daemon.name);
        push(
            &mut text,
            format_args!("d /var/lib/osmoda/{name} 0700 {user} {user}\nZ /var/lib/osmoda/{name} - {user} {user}\n"),
        );
    }
    text
}

fn push(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// The checked-in files, relative to this crate.
    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/systemd");

    #[test]
    fn checked_in_units_are_the_rendered_ones() {
        let files = files();
        for (name, text) in &files {
            let found = std::fs::read_to_string(Path::new(FOLDER).join(name)).unwrap_or_default();
            assert_eq!(&found, text, "{name} differs: run `cargo xtask codegen`");
        }
        let present = std::fs::read_dir(FOLDER).unwrap().count();
        assert_eq!(present, files.len(), "deploy/systemd holds a file that nothing renders");
    }

    #[test]
    fn the_controller_is_no_part_of_a_node() {
        assert!(DAEMONS.iter().all(is_of_node));
        assert!(!service(&CONTROLLER).contains("osmoda.target") && !socket(&CONTROLLER).contains("osmoda.target"));
        assert!(!target().contains("controller"));
    }

    #[test]
    fn every_daemon_without_root_is_confined_and_only_watch_and_execd_are_root() {
        for daemon in DAEMONS.iter().chain([&CONTROLLER]) {
            let text = service(daemon);
            let root = ["watch", "execd"].contains(&daemon.name);
            assert_eq!(text.contains("User=root\n"), root, "{}", daemon.name);
            assert_eq!(text.contains("ProtectSystem=strict"), !root, "{}", daemon.name);
            assert_eq!(text.contains("\nMemorySwapMax=0\nLimitCORE=0\n"), !root, "{}", daemon.name);
        }
    }
}
