//! Who may call what on a node: one table per daemon (`architecture.md` 2.1).
//!
//! Default deny: a call that no row allows is refused by `kit` before it reaches
//! the daemon. Three groups of rows, and each new endpoint joins one of them:
//! status (every daemon and the administrator), reference (the administrator,
//! so that clients of the earlier product work), internal (named daemons only,
//! never the administrator: a vote, a grant or a spent invite is not his to make).
//! A model session is refused everywhere, by its uid, before any row is read.

use osmoda_kit::http::Allowed::{Admin, AnyDaemon, Daemon};
use osmoda_kit::http::{Allowed, CallerTable, DaemonUser, Row, STREAM};

use crate::registry::DAEMONS;

/// Every daemon and its user.
pub const USERS: &[DaemonUser] = &users();

/// For what only tells how things are.
const STATUS: &[Allowed] = &[Admin, AnyDaemon];

/// For the endpoints of the earlier product.
const REFERENCE: &[Allowed] = &[Admin];

/// The ledger.
pub const AGENTD: CallerTable = CallerTable {
    daemons: USERS,
    rows: &[
        Row { method: "GET", path: "/health", allowed: STATUS },
        Row { method: "GET", path: "/metrics", allowed: STATUS },
        Row { method: "GET", path: "/events/log", allowed: STATUS },
        Row { method: "GET", path: "/ledger/head", allowed: STATUS },
        Row { method: "GET", path: "/ledger/checkpoint", allowed: STATUS },
        Row { method: "GET", path: "/ledger/proof/inclusion", allowed: STATUS },
        Row { method: "GET", path: "/ledger/proof/consistency", allowed: STATUS },
        Row { method: "GET", path: "/ledger/export", allowed: STATUS },
        Row { method: "GET", path: "/ledger/witness", allowed: STATUS },
        Row { method: "GET", path: "/ledger/next-head", allowed: STATUS },
        Row { method: "POST", path: "/ledger/append", allowed: &[AnyDaemon] },
        Row { method: "GET", path: "/receipts", allowed: REFERENCE },
        Row { method: "POST", path: "/incident/create", allowed: REFERENCE },
        Row { method: "GET", path: "/incident/{}", allowed: REFERENCE },
        Row { method: "POST", path: "/incident/{}/step", allowed: REFERENCE },
        Row { method: "POST", path: "/incident/{}/resolve", allowed: REFERENCE },
        Row { method: "GET", path: "/incidents", allowed: REFERENCE },
        Row { method: "POST", path: "/system/query", allowed: REFERENCE },
        Row { method: "GET", path: "/system/discover", allowed: REFERENCE },
        Row { method: "POST", path: "/backup/create", allowed: REFERENCE },
        Row { method: "GET", path: "/backup/list", allowed: REFERENCE },
        Row { method: "POST", path: "/backup/restore", allowed: REFERENCE },
        Row { method: "GET", path: "/agent/card", allowed: STATUS },
        Row { method: "POST", path: "/agent/card/generate", allowed: REFERENCE },
        Row { method: "GET", path: "/memory/health", allowed: STATUS },
        Row { method: "POST", path: "/memory/ingest", allowed: REFERENCE },
        Row { method: "POST", path: "/memory/recall", allowed: REFERENCE },
        Row { method: "POST", path: "/memory/store", allowed: REFERENCE },
        Row { method: "POST", path: "/ledger/cosign", allowed: &[Admin, Daemon("fleetd")] },
        Row { method: STREAM, path: "/agentd-mesh", allowed: &[Daemon("mesh")] },
        Row { method: "POST", path: "/approval/request", allowed: REFERENCE },
        Row { method: "GET", path: "/approval/pending", allowed: REFERENCE },
        Row { method: "GET", path: "/approval/{}", allowed: REFERENCE },
        Row { method: "POST", path: "/approval/{}/approve", allowed: REFERENCE },
        Row { method: "POST", path: "/approval/{}/deny", allowed: REFERENCE },
        Row { method: "POST", path: "/permit/request", allowed: REFERENCE },
        Row { method: "POST", path: "/permit/plan", allowed: REFERENCE },
        Row { method: "GET", path: "/permit/{}", allowed: &[Admin, Daemon("fleetd"), Daemon("execd")] },
        Row { method: "POST", path: "/permit/{}/sign", allowed: &[Admin, Daemon("fleetd")] },
        Row { method: "POST", path: "/session/taint", allowed: STATUS },
        Row { method: "GET", path: "/session/{}", allowed: STATUS },
        Row { method: "POST", path: "/run/begin", allowed: &[Daemon("execd")] },
        Row { method: "POST", path: "/run/end", allowed: &[Daemon("execd")] },
        Row { method: "GET", path: "/run/open", allowed: &[Admin, Daemon("execd")] },
        Row { method: "POST", path: "/trust/add", allowed: &[Daemon("fleetd")] },
    ],
};

/// The executor. What it is asked to run it checks by itself, whoever asks: the
/// administrator needs a permit like anybody.
pub const EXECD: CallerTable = CallerTable {
    daemons: USERS,
    rows: &[
        Row { method: "GET", path: "/health", allowed: STATUS },
        Row { method: "GET", path: "/metrics", allowed: STATUS },
        Row { method: "POST", path: "/exec/resolve", allowed: &[Daemon("agentd")] },
        Row { method: "POST", path: "/exec/run", allowed: &[Admin, Daemon("agentd")] },
        Row { method: "GET", path: "/trust", allowed: &[Daemon("agentd")] },
        Row { method: "POST", path: "/backup/create", allowed: &[Daemon("agentd")] },
        Row { method: "GET", path: "/backup/list", allowed: &[Admin, Daemon("agentd")] },
        Row { method: "POST", path: "/trust/add", allowed: &[Daemon("fleetd")] },
    ],
};

/// SafeSwitch. Grants and trust come through fleetd from the committed log; the
/// operator's signature in them is checked all the same.
pub const WATCH: CallerTable = CallerTable {
    daemons: USERS,
    rows: &[
        Row { method: "GET", path: "/health", allowed: STATUS },
        Row { method: "GET", path: "/metrics", allowed: STATUS },
        Row { method: "GET", path: "/attempt", allowed: STATUS },
        Row { method: "GET", path: "/attempt/history", allowed: STATUS },
        Row { method: "POST", path: "/attempt/*", allowed: &[Daemon("fleetd")] },
        Row { method: "POST", path: "/trust/add", allowed: &[Daemon("fleetd")] },
        Row { method: "*", path: "/switch/*", allowed: REFERENCE },
        Row { method: "*", path: "/watcher/*", allowed: REFERENCE },
        Row { method: "*", path: "/fleet/*", allowed: REFERENCE },
    ],
};

/// The mesh. Only fleetd, which follows the log, changes who is a member; the
/// two daemons with subkeys have them endorsed.
pub const MESH: CallerTable = CallerTable {
    daemons: USERS,
    rows: &[
        Row { method: "GET", path: "/health", allowed: STATUS },
        Row { method: "GET", path: "/metrics", allowed: STATUS },
        Row { method: "GET", path: "/peers", allowed: STATUS },
        Row { method: "GET", path: "/identity", allowed: STATUS },
        Row { method: "POST", path: "/members", allowed: &[Daemon("fleetd")] },
        Row { method: "POST", path: "/epoch", allowed: &[Daemon("fleetd")] },
        Row { method: "POST", path: "/epoch/new", allowed: &[Daemon("fleetd")] },
        Row { method: "POST", path: "/invite/open", allowed: &[Daemon("fleetd")] },
        Row { method: "POST", path: "/identity/endorse", allowed: &[Daemon("fleetd"), Daemon("agentd")] },
        Row { method: "*", path: "/peer/*", allowed: REFERENCE },
        Row { method: "POST", path: "/invite/create", allowed: REFERENCE },
        Row { method: "POST", path: "/invite/accept", allowed: REFERENCE },
        Row { method: "POST", path: "/identity/rotate", allowed: REFERENCE },
        Row { method: "GET", path: "/rooms", allowed: REFERENCE },
        Row { method: "*", path: "/room/*", allowed: REFERENCE },
        Row { method: "PUT", path: "/blob", allowed: STATUS },
        Row { method: "POST", path: "/blob/fetch", allowed: STATUS },
        Row { method: "GET", path: "/blob/{}", allowed: STATUS },
        Row { method: STREAM, path: "/mesh-stream", allowed: &[Daemon("fleetd"), Daemon("agentd")] },
    ],
};

/// The fleet. The reference paths arrive through watch, or from the local
/// administrator's command line; inbound pipes and spent invites from the mesh.
pub const FLEETD: CallerTable = CallerTable {
    daemons: USERS,
    rows: &[
        Row { method: "GET", path: "/health", allowed: STATUS },
        Row { method: "GET", path: "/metrics", allowed: STATUS },
        Row { method: "GET", path: "/status", allowed: STATUS },
        Row { method: "*", path: "/fleet/*", allowed: &[Admin, Daemon("watch")] },
        Row { method: "POST", path: "/fleet/invite", allowed: &[Daemon("mesh")] },
        Row { method: "POST", path: "/mesh/spend", allowed: &[Daemon("mesh")] },
        Row { method: "POST", path: "/mesh/rotate", allowed: &[Daemon("mesh")] },
        Row { method: "POST", path: "/subkey/register", allowed: &[Daemon("agentd")] },
        Row { method: "GET", path: "/ledger/roster", allowed: STATUS },
        Row { method: STREAM, path: "/fleetd-mesh", allowed: &[Daemon("mesh")] },
    ],
};

/// The table of a daemon, by its name.
#[must_use]
pub fn table(daemon: &str) -> Option<CallerTable> {
    match daemon {
        "agentd" => Some(AGENTD),
        "execd" => Some(EXECD),
        "watch" => Some(WATCH),
        "mesh" => Some(MESH),
        "fleetd" => Some(FLEETD),
        _ => None,
    }
}

const fn users() -> [DaemonUser; DAEMONS.len()] {
    let mut users = [DaemonUser { name: "", user: "" }; DAEMONS.len()];
    let mut place = 0;
    while place < DAEMONS.len() {
        users[place] = DaemonUser { name: DAEMONS[place].name, user: DAEMONS[place].user };
        place += 1;
    }
    users
}

#[cfg(test)]
mod tests {
    use super::*;
    use osmoda_kit::http::{Callers, MODEL_UID_FIRST, MODEL_UID_LAST, Who};
    use std::collections::BTreeSet;

    /// The specification, written a second time: daemon, call, and exactly who
    /// may make it (`a` agentd, `w` watch, `m` mesh, `f` fleetd, `x` execd, `A`
    /// administrator). `awmf` together mean every daemon.
    const SPECIFIED: &[(&str, &str, &str, &str)] = &[
        ("agentd", "GET", "/health", "Aawmf"),
        ("agentd", "GET", "/metrics", "Aawmf"),
        ("agentd", "GET", "/events/log", "Aawmf"),
        ("agentd", "GET", "/ledger/head", "Aawmf"),
        ("agentd", "GET", "/ledger/checkpoint", "Aawmf"),
        ("agentd", "GET", "/ledger/proof/inclusion", "Aawmf"),
        ("agentd", "GET", "/ledger/proof/consistency", "Aawmf"),
        ("agentd", "GET", "/ledger/export", "Aawmf"),
        ("agentd", "GET", "/ledger/witness", "Aawmf"),
        ("agentd", "GET", "/ledger/next-head", "Aawmf"),
        ("agentd", "POST", "/ledger/cosign", "Af"),
        ("agentd", "POST", "/ledger/append", "awmf"),
        ("agentd", "GET", "/receipts", "A"),
        ("agentd", "POST", "/incident/create", "A"),
        ("agentd", "GET", "/incident/7", "A"),
        ("agentd", "POST", "/incident/7/step", "A"),
        ("agentd", "POST", "/incident/7/resolve", "A"),
        ("agentd", "GET", "/incidents", "A"),
        ("agentd", "POST", "/system/query", "A"),
        ("agentd", "GET", "/system/discover", "A"),
        ("agentd", "POST", "/backup/create", "A"),
        ("agentd", "GET", "/backup/list", "A"),
        ("agentd", "POST", "/backup/restore", "A"),
        ("agentd", "GET", "/agent/card", "Aawmf"),
        ("agentd", "POST", "/agent/card/generate", "A"),
        ("agentd", "GET", "/memory/health", "Aawmf"),
        ("agentd", "POST", "/memory/ingest", "A"),
        ("agentd", "POST", "/memory/recall", "A"),
        ("agentd", "POST", "/memory/store", "A"),
        ("agentd", STREAM, "/agentd-mesh", "m"),
        ("agentd", "POST", "/approval/request", "A"),
        ("agentd", "GET", "/approval/pending", "A"),
        ("agentd", "GET", "/approval/7", "A"),
        ("agentd", "POST", "/approval/7/approve", "A"),
        ("agentd", "POST", "/approval/7/deny", "A"),
        ("agentd", "POST", "/permit/request", "A"),
        ("agentd", "POST", "/permit/plan", "A"),
        ("agentd", "GET", "/permit/list", "Afx"),
        ("agentd", "GET", "/permit/7", "Afx"),
        ("agentd", "POST", "/permit/7/sign", "Af"),
        ("agentd", "POST", "/session/taint", "Aawmf"),
        ("agentd", "GET", "/session/7", "Aawmf"),
        ("agentd", "POST", "/run/begin", "x"),
        ("agentd", "POST", "/run/end", "x"),
        ("agentd", "GET", "/run/open", "Ax"),
        ("agentd", "POST", "/trust/add", "f"),
        ("execd", "GET", "/health", "Aawmf"),
        ("execd", "GET", "/metrics", "Aawmf"),
        ("execd", "POST", "/exec/resolve", "a"),
        ("execd", "POST", "/exec/run", "Aa"),
        ("execd", "GET", "/trust", "a"),
        ("execd", "POST", "/backup/create", "a"),
        ("execd", "GET", "/backup/list", "Aa"),
        ("execd", "POST", "/trust/add", "f"),
        ("watch", "GET", "/health", "Aawmf"),
        ("watch", "GET", "/metrics", "Aawmf"),
        ("watch", "GET", "/attempt", "Aawmf"),
        ("watch", "GET", "/attempt/history", "Aawmf"),
        ("watch", "POST", "/attempt/stage", "f"),
        ("watch", "POST", "/attempt/grant", "f"),
        ("watch", "POST", "/attempt/contact", "f"),
        ("watch", "POST", "/attempt/accept", "f"),
        ("watch", "POST", "/attempt/revert", "f"),
        ("watch", "POST", "/trust/add", "f"),
        ("watch", "POST", "/switch/begin", "A"),
        ("watch", "GET", "/switch/status/7", "A"),
        ("watch", "DELETE", "/watcher/remove/7", "A"),
        ("watch", "POST", "/fleet/propose", "A"),
        ("mesh", "GET", "/health", "Aawmf"),
        ("mesh", "GET", "/metrics", "Aawmf"),
        ("mesh", "GET", "/peers", "Aawmf"),
        ("mesh", "GET", "/identity", "Aawmf"),
        ("mesh", "POST", "/members", "f"),
        ("mesh", "POST", "/epoch", "f"),
        ("mesh", "POST", "/epoch/new", "f"),
        ("mesh", "POST", "/invite/open", "f"),
        ("mesh", "POST", "/identity/endorse", "af"),
        ("mesh", "GET", "/peer/7", "A"),
        ("mesh", "DELETE", "/peer/7", "A"),
        ("mesh", "POST", "/peer/7/send", "A"),
        ("mesh", "POST", "/peer/7/ping", "A"),
        ("mesh", "POST", "/invite/create", "A"),
        ("mesh", "POST", "/invite/accept", "A"),
        ("mesh", "POST", "/identity/rotate", "A"),
        ("mesh", "GET", "/rooms", "A"),
        ("mesh", "POST", "/room/create", "A"),
        ("mesh", "POST", "/room/join", "A"),
        ("mesh", "POST", "/room/leave", "A"),
        ("mesh", "POST", "/room/send", "A"),
        ("mesh", "GET", "/room/history", "A"),
        ("mesh", "GET", "/room/7/history", "A"),
        ("mesh", "GET", "/room/7/tail", "A"),
        ("mesh", "GET", "/room/7/delivery", "A"),
        ("mesh", "PUT", "/blob", "Aawmf"),
        ("mesh", "POST", "/blob/fetch", "Aawmf"),
        ("mesh", "GET", "/blob/7", "Aawmf"),
        ("mesh", STREAM, "/mesh-stream", "af"),
        ("fleetd", "GET", "/health", "Aawmf"),
        ("fleetd", "GET", "/metrics", "Aawmf"),
        ("fleetd", "GET", "/status", "Aawmf"),
        ("fleetd", "POST", "/fleet/vote/7", "Aw"),
        ("fleetd", "POST", "/fleet/invite", "Awm"),
        ("fleetd", "POST", "/subkey/register", "a"),
        ("fleetd", "GET", "/ledger/roster", "Aawmf"),
        ("fleetd", "POST", "/mesh/spend", "m"),
        ("fleetd", "POST", "/mesh/rotate", "m"),
        ("fleetd", STREAM, "/fleetd-mesh", "m"),
    ];

    const EVERYBODY: [(char, Who); 6] = [
        ('x', Who::Daemon("execd")),
        ('A', Who::Admin),
        ('a', Who::Daemon("agentd")),
        ('w', Who::Daemon("watch")),
        ('m', Who::Daemon("mesh")),
        ('f', Who::Daemon("fleetd")),
    ];

    fn passwd() -> String {
        let own = USERS.iter().filter(|user| user.user != "root").enumerate();
        own.map(|(place, user)| format!("{}:x:{}:900::/:/x\n", user.user, 900 + place)).collect::<String>()
            + "root:x:0:0::/root:/bin/sh\n"
    }

    fn callers(daemon: &str) -> Callers {
        Callers::by_users(table(daemon).unwrap(), &passwd())
    }

    #[test]
    fn every_call_is_open_to_exactly_the_specified_callers() {
        for (daemon, method, path, specified) in SPECIFIED {
            let callers = callers(daemon);
            for (letter, who) in EVERYBODY {
                let allowed = callers.allow(who, method, path).is_ok();
                let any_daemon = letter != 'A' && specified.contains("awmf");
                assert_eq!(allowed, specified.contains(letter) || any_daemon, "{daemon}: {who} {method} {path}");
            }
        }
    }

    #[test]
    fn every_row_is_specified_and_every_socket_of_streams_has_a_row() {
        for daemon in DAEMONS {
            let rows = table(daemon.name).expect("every daemon of the registry has a table").rows;
            for row in rows {
                let specified =
                    SPECIFIED.iter().any(|(name, method, path, _)| *name == daemon.name && row.matches(method, path));
                assert!(specified, "{}: {} {} is not in the test's table", daemon.name, row.method, row.path);
            }
            let streams: BTreeSet<_> =
                rows.iter().filter(|row| row.method == STREAM).map(|row| &row.path[1..]).collect();
            let sockets: BTreeSet<_> = daemon.sockets[1..].iter().copied().collect();
            assert_eq!(streams, sockets, "{}", daemon.name);
        }
    }

    #[test]
    fn other_methods_other_paths_and_other_users_are_refused() {
        for (daemon, method, path, _) in SPECIFIED {
            let callers = callers(daemon);
            for (_, who) in EVERYBODY {
                assert!(callers.allow(who, method, &format!("/nowhere{path}")).is_err());
                assert!(callers.allow(who, method, &format!("/{path}")).is_err());
                assert!(callers.allow(who, method, "/").is_err());
            }
            for uid in [MODEL_UID_FIRST, MODEL_UID_LAST, 1000, 65_534] {
                assert!(callers.identify(uid, None, None, Some("watch")).is_err(), "{daemon}: uid {uid}");
            }
        }
        assert!(table("mcp").is_none());
    }

    #[test]
    fn watch_is_told_from_the_administrator_by_its_claim() {
        let callers = callers("fleetd");
        assert_eq!(callers.identify(0, None, None, Some("watch")).unwrap().who, Who::Daemon("watch"));
        assert_eq!(callers.identify(0, None, None, None).unwrap().who, Who::Admin);
        assert_eq!(callers.identify(0, None, None, Some("mesh")).unwrap().who, Who::Admin);
        let mesh = passwd().lines().find(|line| line.contains("mesh")).unwrap().split(':').nth(2).unwrap().to_owned();
        assert_eq!(callers.identify(mesh.parse().unwrap(), None, None, None).unwrap().who, Who::Daemon("mesh"));
    }
}
