//! Every caller against every row of every daemon's table, under real users.
//!
//! The callers are the daemons' own users, root as administrator and as watch,
//! a stranger in group `osmoda` and a model session in group `osmoda`: being able
//! to reach a socket must not be enough. A call that the table allows must not be
//! refused for who it is; what the daemon then thinks of its empty body does not
//! matter here. Calls run inside the host, so the kernel tells the daemon the truth.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, ensure};
use osmoda_kit::http::{Allowed, DAEMON_HEADER, MODEL_UID_FIRST, Row, STREAM};
use osmoda_node_api::callers;
use osmoda_node_api::registry::{DAEMONS, GROUP, Privilege};

use super::bed::Bed;
use super::host::Host;

/// A daemon answers a refusal at once; half a minute is a hung daemon.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

/// A refusal is a few hundred bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// One call to try.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Call {
    /// Name of the socket.
    pub socket: String,
    /// Method, or `STREAM` for a raw stream.
    pub method: String,
    /// Path.
    pub path: String,
    /// Which daemon of root the caller says it is.
    pub claim: Option<String>,
}

/// How a call was answered, as far as who may call is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Refusal {
    /// Refused because of who called.
    Caller,
    /// Anything else.
    NotForCaller,
}

/// Somebody who calls.
struct Caller {
    name: &'static str,
    /// Arguments of `setpriv`; empty for root.
    identity: Vec<String>,
    claim: Option<&'static str>,
    /// How the table names it; `None` for one that it never lets in.
    row: Option<Kind>,
}

#[derive(Clone, Copy)]
enum Kind {
    Admin,
    Daemon(&'static str),
}

/// Tries everything on one host: the table is the same on all.
pub(super) async fn run(bed: &Bed) -> anyhow::Result<Vec<String>> {
    let host = bed.hosts().first().context("the bed has no hosts")?;
    let (mut allowed, mut refused) = (0_usize, 0_usize);
    for caller in callers_of_a_host() {
        let (calls, expected): (Vec<Call>, Vec<Refusal>) = calls(&caller).into_iter().unzip();
        let found = ask(host, &caller, &calls).await.with_context(|| format!("calling as {}", caller.name))?;
        ensure!(found.len() == calls.len(), "{}: {} answers to {} calls", caller.name, found.len(), calls.len());
        for ((call, expected), found) in calls.iter().zip(&expected).zip(&found) {
            ensure!(found == expected, "{} {call:?}: expected {expected:?}, found {found:?}", caller.name);
            match expected {
                Refusal::Caller => refused += 1,
                Refusal::NotForCaller => allowed += 1,
            }
        }
    }
    ensure!(refused > 0 && allowed > 0, "nothing was tried");
    let kept = secrets_off_disk(host).await?;
    Ok(vec![
        format!("{refused} calls outside the caller's row are refused, {allowed} inside it are let in"),
        format!("{kept} may neither be swapped nor leave a core file"),
    ])
}

/// What systemd and the kernel say of the daemons that hold keys.
async fn secrets_off_disk(host: &Host) -> anyhow::Result<String> {
    let mut kept = Vec::new();
    for daemon in DAEMONS.iter().filter(|daemon| daemon.privilege == Privilege::Own) {
        let unit = format!("osmoda-{}.service", daemon.name);
        let show = ["systemctl", "show", "--value", "-p", "MainPID", "-p", "MemorySwapMax", &unit];
        let said = host.run(&show).await?;
        let (pid, swap) = said.trim().split_once('\n').with_context(|| said.clone())?;
        ensure!(swap == "0", "{unit}: up to {swap} bytes of it may be swapped");
        let limits = host.run(&["cat", &format!("/proc/{pid}/limits")]).await?;
        let core =
            limits.lines().find(|line| line.starts_with("Max core file size")).with_context(|| limits.clone())?;
        let is_none = core.split_whitespace().filter(|word| *word == "0").count() == 2;
        ensure!(is_none, "{unit}: {core}");
        kept.push(daemon.name);
    }
    ensure!(!kept.is_empty(), "no daemon holds keys");
    Ok(kept.join(", "))
}

fn callers_of_a_host() -> Vec<Caller> {
    let number = |uid: u32| vec![format!("--reuid={uid}"), format!("--regid={uid}"), format!("--groups={GROUP}")];
    let mut callers = vec![
        Caller { name: "root", identity: Vec::new(), claim: None, row: Some(Kind::Admin) },
        Caller { name: "a stranger", identity: number(54_321), claim: None, row: None },
        Caller { name: "a stranger who claims to be watch", identity: number(54_321), claim: Some("watch"), row: None },
        Caller { name: "a model session", identity: number(MODEL_UID_FIRST), claim: None, row: None },
    ];
    for daemon in DAEMONS {
        let (identity, claim) = match daemon.privilege {
            Privilege::Root => (Vec::new(), Some(daemon.name)),
            Privilege::Own => {
                let user = daemon.user;
                (vec![format!("--reuid={user}"), format!("--regid={user}"), "--init-groups".to_owned()], None)
            }
        };
        callers.push(Caller { name: daemon.name, identity, claim, row: Some(Kind::Daemon(daemon.name)) });
    }
    callers
}

/// Every row of every table, as this caller would call it, and what must come of it.
fn calls(caller: &Caller) -> Vec<(Call, Refusal)> {
    let mut calls = Vec::new();
    for daemon in DAEMONS {
        let rows = callers::table(daemon.name).map_or(&[][..], |table| table.rows);
        for row in rows {
            let path = row.path.replace("{}", "none").replace('*', "none");
            let method = if row.method == "*" { "POST" } else { row.method };
            let socket = if method == STREAM { path.trim_start_matches('/') } else { daemon.name };
            let is_allowed = rows.iter().filter(|row| row.matches(method, &path)).any(|row| lets_in(row, caller.row));
            let call = Call {
                socket: socket.to_owned(),
                method: method.to_owned(),
                path: path.clone(),
                claim: caller.claim.map(str::to_owned),
            };
            calls.push((call, if is_allowed { Refusal::NotForCaller } else { Refusal::Caller }));
        }
    }
    calls
}

fn lets_in(row: &Row, caller: Option<Kind>) -> bool {
    row.allowed.iter().any(|allowed| match (allowed, caller) {
        (Allowed::Admin, Some(Kind::Admin)) | (Allowed::AnyDaemon, Some(Kind::Daemon(_))) => true,
        (Allowed::Daemon(name), Some(Kind::Daemon(caller))) => *name == caller,
        _ => false,
    })
}

async fn ask(host: &Host, caller: &Caller, calls: &[Call]) -> anyhow::Result<Vec<Refusal>> {
    let calls = serde_json::to_string(calls).context("writing the calls")?;
    let mut words: Vec<&str> = Vec::new();
    if !caller.identity.is_empty() {
        words.push("setpriv");
        words.extend(caller.identity.iter().map(String::as_str));
    }
    words.extend(["/usr/local/bin/hosts", "probe", &calls]);
    let answer = host.run(&words).await?;
    serde_json::from_str(&answer).with_context(|| format!("the probe printed {answer:?}"))
}

/// Makes the calls as the user this program runs as; the body is empty.
///
/// # Errors
/// A socket cannot be reached, or the answer is neither HTTP nor JSON.
pub fn probe(calls: &[Call]) -> anyhow::Result<Vec<Refusal>> {
    calls.iter().map(|call| one(call).with_context(|| format!("calling {call:?}"))).collect()
}

fn one(call: &Call) -> anyhow::Result<Refusal> {
    let mut stream = UnixStream::connect(format!("/run/osmoda/{}.sock", call.socket)).context("connecting")?;
    stream.set_read_timeout(Some(ANSWER_TIME_MAX)).context("setting the time limit")?;
    let request = if call.method == STREAM {
        let claim = call.claim.as_ref().map(|name| format!(",\"daemon\":\"{name}\"")).unwrap_or_default();
        format!("{{\"peer\":\"00\",\"service\":\"none\"{claim}}}\n")
    } else {
        let claim = call.claim.as_ref().map(|name| format!("{DAEMON_HEADER}: {name}\r\n")).unwrap_or_default();
        let (method, path) = (&call.method, &call.path);
        format!("{method} {path} HTTP/1.1\r\nhost: osmoda\r\n{claim}content-length: 0\r\nconnection: close\r\n\r\n")
    };
    // A daemon that refuses before it has read everything may have hung up.
    if let Err(cause) = stream.write_all(request.as_bytes())
        && cause.kind() != std::io::ErrorKind::BrokenPipe
    {
        return Err(cause).context("asking");
    }
    let mut answer = Vec::new();
    match stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer) {
        Ok(_) => {}
        Err(cause) if cause.kind() == std::io::ErrorKind::ConnectionReset && !answer.is_empty() => {}
        Err(cause) => return Err(cause).context("reading the answer"),
    }
    let text = String::from_utf8_lossy(&answer);
    ensure!(text.starts_with("HTTP/1.1 ") || text.starts_with('{'), "the answer is {text:?}");
    let refused = text.contains("\"caller_denied\"");
    Ok(if refused { Refusal::Caller } else { Refusal::NotForCaller })
}
