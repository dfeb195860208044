//! Who is at the other end of a socket, and what they may call.
//!
//! Two ways to know a daemon: by its uid, where each has its own user, or by
//! its token, where all share one. uid 0, and a tokenless connection of the
//! shared uid, is the local administrator. A model session is nobody.
//! Invariant: what no row allows is refused, and an identity that cannot be
//! told is refused before any row is looked at.

use std::collections::HashMap;

use osmoda_types::ErrorCode;

use super::refusals::{Refusal, Refusals};
use super::tokens::PeerTokens;
use crate::error::ApiError;

/// The first uid of model sessions. The 65,536 uids from 0x70000000 lie above
/// the container range (ends 1,879,048,191) and below the foreign range (begins
/// 2,147,352,576) of systemd's table of uids, so no distribution hands them out.
pub const MODEL_UID_FIRST: u32 = 0x7000_0000;

/// The last uid of model sessions.
pub const MODEL_UID_LAST: u32 = 0x7000_ffff;

/// The "method" of a raw stream socket in a [`Row`]; its path is `/<socket name>`.
pub const STREAM: &str = "STREAM";

/// Methods that are told by name; a method is the caller's own text.
const METHODS: [&str; 8] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", STREAM];

/// A daemon as the operating system sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DaemonUser {
    /// Its name, also of its socket and state folder.
    pub name: &'static str,
    /// Its user under systemd.
    pub user: &'static str,
}

/// Whom a row lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// The local administrator.
    Admin,
    /// Every daemon of the registry.
    AnyDaemon,
    /// This daemon.
    Daemon(&'static str),
}

/// One row of the callers table. An endpoint that only other daemons may call
/// has no [`Allowed::Admin`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// An HTTP method, `*` for every one, or [`STREAM`].
    pub method: &'static str,
    /// A path; a segment `{}` stands for any one, a last segment `*` for one or more.
    pub path: &'static str,
    /// Who may call it.
    pub allowed: &'static [Allowed],
}

/// The callers table of one daemon, and the daemons that exist.
#[derive(Debug, Clone, Copy)]
pub struct CallerTable {
    /// Every daemon of the host.
    pub daemons: &'static [DaemonUser],
    /// The rows of this daemon; several may match, any may allow.
    pub rows: &'static [Row],
}

/// How far the daemons of this host are kept apart; part of ledger rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Each daemon has its own user.
    Users,
    /// One user for all; tokens tell them apart.
    None,
}

impl Isolation {
    /// The stable text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Isolation::Users => "users",
            Isolation::None => "none",
        }
    }
}

/// What a caller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Who {
    /// A daemon of the registry.
    Daemon(&'static str),
    /// The local administrator.
    Admin,
}

impl std::fmt::Display for Who {
    /// The actor of ledger rows: a daemon's name, or `admin`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Who::Daemon(name) => name,
            Who::Admin => "admin",
        })
    }
}

/// The identity behind one request; handlers get it as a request extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// What it is.
    pub who: Who,
    /// Its uid, from the kernel.
    pub uid: u32,
    /// Its process when it connected, where the kernel tells.
    pub pid: Option<i32>,
    /// How it was told apart.
    pub isolation: Isolation,
}

/// Tells callers and judges them; one per daemon, made at start.
#[derive(Debug)]
pub struct Callers {
    table: CallerTable,
    by: By,
    refusals: Refusals,
}

#[derive(Debug)]
enum By {
    Users { names: HashMap<u32, &'static str>, root: Vec<&'static str> },
    Tokens { own_uid: u32, peers: PeerTokens },
}

impl Callers {
    /// Tells daemons by uid. `passwd` is the text of `/etc/passwd`, resolved
    /// here, once: users that appear later are strangers until the next start.
    #[must_use]
    pub fn by_users(table: CallerTable, passwd: &str) -> Self {
        let (mut names, mut root) = (HashMap::new(), Vec::new());
        for daemon in table.daemons {
            match uid_of(daemon.user, passwd) {
                Some(0) => root.push(daemon.name),
                Some(uid) => {
                    names.insert(uid, daemon.name);
                }
                None => tracing::debug!(daemon = daemon.name, user = daemon.user, "user does not exist here"),
            }
        }
        Self { table, by: By::Users { names, root }, refusals: Refusals::default() }
    }

    /// Tells daemons by token, among processes of `own_uid` and root.
    #[must_use]
    pub fn by_tokens(table: CallerTable, own_uid: u32, peers: PeerTokens) -> Self {
        Self { table, by: By::Tokens { own_uid, peers }, refusals: Refusals::default() }
    }

    /// How far daemons are kept apart here.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        match self.by {
            By::Users { .. } => Isolation::Users,
            By::Tokens { .. } => Isolation::None,
        }
    }

    /// What was refused, for the ledger.
    #[must_use]
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Tells who makes a request and checks it against the table; a refusal is
    /// noted in [`Callers::refusals`]. `peer` is the kernel's word on uid and process.
    ///
    /// # Errors
    /// As [`Callers::identify`] and [`Callers::allow`].
    pub fn admit(
        &self,
        peer: (u32, Option<i32>),
        token: Option<&str>,
        daemon: Option<&str>,
        method: &str,
        path: &str,
    ) -> Result<Caller, ApiError> {
        let (uid, pid) = peer;
        let identified = self.identify(uid, pid, token, daemon);
        let name = match &identified {
            Ok(caller) => caller.who.to_string(),
            Err(_) if is_model(uid) => format!("model:{uid}"),
            Err(_) => format!("uid:{uid}"),
        };
        let admitted = identified.and_then(|caller| self.allow(caller.who, method, path).map(|()| caller));
        if let Err(error) = &admitted {
            self.refusals.note(Refusal { caller: name, call: self.call(method, path), code: error.code });
        }
        admitted
    }

    /// A call in the table's words.
    fn call(&self, method: &str, path: &str) -> String {
        let row = self.table.rows.iter().find(|row| path_matches(row.path, path));
        let method = METHODS.iter().find(|known| **known == method).unwrap_or(&"other");
        format!("{method} {}", row.map_or("unknown path", |row| row.path))
    }

    /// Tells who a connection is. `token` and `daemon` are what it said in
    /// [`TOKEN_HEADER`](super::TOKEN_HEADER) and [`DAEMON_HEADER`](super::DAEMON_HEADER),
    /// or in the first line of a raw stream.
    ///
    /// # Errors
    /// [`ErrorCode::CallerDenied`] for a uid without a meaning here,
    /// [`ErrorCode::Unauthorized`] for a token nobody has.
    pub fn identify(
        &self,
        uid: u32,
        pid: Option<i32>,
        token: Option<&str>,
        daemon: Option<&str>,
    ) -> Result<Caller, ApiError> {
        let denied = |text: &str| Err(ApiError::new(ErrorCode::CallerDenied, format!("{text} (uid {uid})")));
        if is_model(uid) {
            return denied("a model session may not call a daemon");
        }
        let who = match &self.by {
            By::Users { root, .. } if uid == 0 => {
                let claimed = root.iter().find(|name| Some(**name) == daemon);
                claimed.map_or(Who::Admin, |name| Who::Daemon(name))
            }
            By::Users { names, .. } => match names.get(&uid) {
                Some(name) => Who::Daemon(name),
                None => return denied("this user may not call a daemon"),
            },
            By::Tokens { own_uid, .. } if uid != 0 && uid != *own_uid => {
                return denied("this user may not call a daemon");
            }
            By::Tokens { peers, .. } => match token {
                None => Who::Admin,
                Some(token) => Who::Daemon(
                    peers
                        .name(token)
                        .ok_or_else(|| ApiError::new(ErrorCode::Unauthorized, "the token belongs to no daemon"))?,
                ),
            },
        };
        Ok(Caller { who, uid, pid, isolation: self.isolation() })
    }

    /// Checks a call against the table.
    ///
    /// # Errors
    /// [`ErrorCode::CallerDenied`] when no row allows it.
    pub fn allow(&self, who: Who, method: &str, path: &str) -> Result<(), ApiError> {
        let rows = self.table.rows.iter().filter(|row| row.matches(method, path));
        let allowed = rows.flat_map(|row| row.allowed).any(|allowed| match (allowed, who) {
            (Allowed::Admin, Who::Admin) | (Allowed::AnyDaemon, Who::Daemon(_)) => true,
            (Allowed::Daemon(name), Who::Daemon(caller)) => *name == caller,
            _ => false,
        });
        if allowed {
            return Ok(());
        }
        Err(ApiError::new(ErrorCode::CallerDenied, format!("{who} may not call {method} {path}")))
    }

    /// Checks the opening of a raw stream socket.
    ///
    /// # Errors
    /// As [`Callers::allow`].
    pub fn allow_stream(&self, who: Who, socket: &str) -> Result<(), ApiError> {
        let path = format!("/{socket}");
        self.allow(who, STREAM, &path).inspect_err(|error| {
            let call = self.call(STREAM, &path);
            self.refusals.note(Refusal { caller: who.to_string(), call, code: error.code });
        })
    }
}

impl Row {
    /// Whether this row speaks of a call.
    #[must_use]
    pub fn matches(&self, method: &str, path: &str) -> bool {
        let any_method = self.method == "*" && method != STREAM;
        (any_method || self.method == method) && path_matches(self.path, path)
    }
}

/// Whether a uid is a model session's.
fn is_model(uid: u32) -> bool {
    (MODEL_UID_FIRST..=MODEL_UID_LAST).contains(&uid)
}

/// Compares segment by segment, on the raw path: what is percent-encoded is
/// another path, for this table as for the router.
fn path_matches(pattern: &str, path: &str) -> bool {
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some("*"), Some(part)) => return !part.is_empty(),
            (Some("{}"), Some(part)) if !part.is_empty() => {}
            (Some(want), Some(part)) if want == part => {}
            _ => return false,
        }
    }
}

fn uid_of(user: &str, passwd: &str) -> Option<u32> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(user)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::tokens;

    const TABLE: CallerTable = CallerTable {
        daemons: &[
            DaemonUser { name: "agentd", user: "osmoda-agentd" },
            DaemonUser { name: "fleetd", user: "osmoda-fleetd" },
            DaemonUser { name: "watch", user: "root" },
        ],
        rows: &[
            Row { method: "GET", path: "/health", allowed: &[Allowed::Admin, Allowed::AnyDaemon] },
            Row { method: "*", path: "/attempt/*", allowed: &[Allowed::Daemon("fleetd")] },
            Row { method: "POST", path: "/switch/commit/{}", allowed: &[Allowed::Admin] },
            Row { method: STREAM, path: "/pipe", allowed: &[Allowed::Daemon("watch")] },
        ],
    };
    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nosmoda-agentd:x:901:900::/:/x\nosmoda-fleetd:x:902:900::/:/x\nuser:x:1000:1::/:/x\n";

    fn who(callers: &Callers, uid: u32, token: Option<&str>, daemon: Option<&str>) -> Result<Who, ErrorCode> {
        callers.identify(uid, None, token, daemon).map(|caller| caller.who).map_err(|error| error.code)
    }

    #[test]
    fn users_are_told_by_uid_and_strangers_refused() {
        let callers = Callers::by_users(TABLE, PASSWD);
        assert_eq!(who(&callers, 901, None, None), Ok(Who::Daemon("agentd")));
        assert_eq!(who(&callers, 902, None, None), Ok(Who::Daemon("fleetd")));
        assert_eq!(who(&callers, 0, None, None), Ok(Who::Admin));
        assert_eq!(who(&callers, 0, None, Some("watch")), Ok(Who::Daemon("watch")));
        assert_eq!(who(&callers, 0, None, Some("fleetd")), Ok(Who::Admin), "fleetd does not run as root");
        assert_eq!(who(&callers, 901, None, Some("watch")), Ok(Who::Daemon("agentd")), "a claim needs root");
        for stranger in [1000, 903, MODEL_UID_FIRST, MODEL_UID_LAST] {
            assert_eq!(who(&callers, stranger, None, Some("watch")), Err(ErrorCode::CallerDenied));
        }
    }

    #[test]
    fn tokens_tell_daemons_that_share_a_uid() {
        let (text, peers) = tokens("fleetd", TABLE.daemons);
        let callers = Callers::by_tokens(TABLE, 1000, peers);
        assert_eq!(who(&callers, 1000, Some(&text), None), Ok(Who::Daemon("fleetd")));
        assert_eq!(who(&callers, 1000, None, Some("fleetd")), Ok(Who::Admin), "a claim is no token");
        assert_eq!(who(&callers, 0, None, None), Ok(Who::Admin));
        assert_eq!(who(&callers, 1000, Some("00"), None), Err(ErrorCode::Unauthorized));
        assert_eq!(who(&callers, 1001, Some(&text), None), Err(ErrorCode::CallerDenied));
        assert_eq!(who(&callers, MODEL_UID_FIRST, Some(&text), None), Err(ErrorCode::CallerDenied));
    }

    #[test]
    fn a_call_needs_a_row_that_allows_it() {
        let callers = Callers::by_users(TABLE, PASSWD);
        let ok = |who, method, path| callers.allow(who, method, path).is_ok();
        let (fleetd, watch) = (Who::Daemon("fleetd"), Who::Daemon("watch"));
        assert!(ok(Who::Admin, "GET", "/health") && ok(watch, "GET", "/health"));
        assert!(!ok(Who::Admin, "POST", "/health") && !ok(Who::Admin, "GET", "/other"));
        assert!(ok(fleetd, "POST", "/attempt/grant") && ok(fleetd, "GET", "/attempt/a/b"));
        assert!(!ok(watch, "POST", "/attempt/grant") && !ok(Who::Admin, "POST", "/attempt/grant"));
        assert!(!ok(fleetd, "POST", "/attempt") && !ok(fleetd, "POST", "/attempt/"));
        assert!(!ok(fleetd, "POST", "/%61ttempt/grant") && !ok(fleetd, "POST", "//attempt/grant"));
        assert!(ok(Who::Admin, "POST", "/switch/commit/7"));
        assert!(!ok(Who::Admin, "POST", "/switch/commit/") && !ok(Who::Admin, "POST", "/switch/commit/7/8"));
        assert!(callers.allow_stream(watch, "pipe").is_ok());
        assert!(callers.allow_stream(fleetd, "pipe").is_err());
        assert!(!ok(fleetd, STREAM, "/attempt/x"), "a star is every HTTP method, not a stream");
    }
}
