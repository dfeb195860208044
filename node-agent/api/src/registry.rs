//! The registry of a node's daemons: what each is, runs as and listens on.
//!
//! One list from which the callers table takes its users and the systemd files
//! of `deploy/systemd` are rendered, so that a daemon cannot exist in one place
//! and not in the other. It says nothing about who may call what.

/// Which network a daemon needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Unix sockets only; its unit has no network at all.
    None,
    /// The host's network.
    Host,
}

/// How much of the host a daemon may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// Its own user, its own state folder and nothing else.
    Own,
    /// Root, because it activates generations or executes approved calls.
    Root,
}

/// One daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DaemonEntry {
    /// Its name, also of its socket and of its state folder.
    pub name: &'static str,
    /// Its user under systemd.
    pub user: &'static str,
    /// What it is, for people.
    pub about: &'static str,
    /// Names of its sockets; the first one is that of its HTTP interface.
    pub sockets: &'static [&'static str],
    /// What it may touch.
    pub privilege: Privilege,
    /// Which network it needs.
    pub network: Network,
    /// Daemons that should be up before it; it starts without them too. The
    /// executor first finishes a restoration of their state that was cut off.
    pub after: &'static [&'static str],
}

/// The group that may reach the sockets' folder.
pub const GROUP: &str = "osmoda";

/// Every daemon of a node, in starting order.
pub const DAEMONS: &[DaemonEntry] = &[
    DaemonEntry {
        name: "agentd",
        user: "osmoda-agentd",
        about: "ledger",
        sockets: &["agentd", "agentd-mesh"],
        privilege: Privilege::Own,
        network: Network::None,
        after: &[],
    },
    DaemonEntry {
        name: "execd",
        user: "root",
        about: "the only executor of typed system operations",
        sockets: &["execd"],
        privilege: Privilege::Root,
        network: Network::None,
        after: &["agentd"],
    },
    DaemonEntry {
        name: "mesh",
        user: "osmoda-mesh",
        about: "authenticated streams between nodes",
        sockets: &["mesh", "mesh-stream"],
        privilege: Privilege::Own,
        network: Network::Host,
        after: &["agentd", "execd"],
    },
    DaemonEntry {
        name: "watch",
        user: "root",
        about: "SafeSwitch on this host",
        sockets: &["watch"],
        privilege: Privilege::Root,
        network: Network::Host,
        after: &["agentd", "execd"],
    },
    DaemonEntry {
        name: "fleetd",
        user: "osmoda-fleetd",
        about: "fleet membership, ballots and rollouts",
        sockets: &["fleetd", "fleetd-mesh"],
        privilege: Privilege::Own,
        network: Network::None,
        after: &["agentd", "execd", "mesh", "watch"],
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_and_sockets_are_unique_and_the_first_socket_is_the_daemons_own() {
        let names: BTreeSet<_> = DAEMONS.iter().map(|daemon| daemon.name).collect();
        let sockets: Vec<_> = DAEMONS.iter().flat_map(|daemon| daemon.sockets).collect();
        assert_eq!(names.len(), DAEMONS.len());
        assert_eq!(sockets.iter().collect::<BTreeSet<_>>().len(), sockets.len());
        assert!(DAEMONS.iter().all(|daemon| daemon.sockets[0] == daemon.name));
    }

    #[test]
    fn each_daemon_starts_after_earlier_ones_and_has_its_own_user() {
        for (index, daemon) in DAEMONS.iter().enumerate() {
            let earlier: Vec<_> = DAEMONS[..index].iter().map(|daemon| daemon.name).collect();
            assert!(daemon.after.iter().all(|name| earlier.contains(name)), "{}", daemon.name);
            let own = format!("osmoda-{}", daemon.name);
            assert_eq!(daemon.user, if daemon.privilege == Privilege::Root { "root" } else { &own });
        }
    }
}
