//! A real daemon process: its signals, its tokens, its last log line.
//!
//! The test program starts itself again as the daemon: with `OSMODA_TEST_ROOT`
//! set, the "test" `the_daemon_itself` runs [`boot::run`] and nothing else does.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails with the line that surprised it")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use osmoda_kit::boot::{self, Boot, BootArgs, BootError, Daemon, Service};
use osmoda_kit::config::Validate;
use osmoda_kit::http::{Allowed, CallerTable, Credentials, DaemonUser, Row, TokenFile, UnixClient};
use osmoda_kit::secret::Secret;
use osmoda_kit::tasks::TaskKind;
use osmoda_kit::testing::{TempRoot, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

const ROOT: &str = "OSMODA_TEST_ROOT";
const TOKENS: &str = "OSMODA_TEST_TOKENS";
const LIMIT: Duration = Duration::from_secs(20);
const DAEMONS: &[DaemonUser] = &[DaemonUser { name: "small", user: "s" }, DaemonUser { name: "fleetd", user: "f" }];

struct Small;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    hang: bool,
}

impl Validate for Settings {}

impl Daemon for Small {
    const NAME: &'static str = "small";
    type Config = Settings;

    fn callers() -> CallerTable {
        CallerTable {
            daemons: DAEMONS,
            rows: &[
                Row { method: "GET", path: "/pid", allowed: &[Allowed::Admin, Allowed::AnyDaemon] },
                Row { method: "GET", path: "/metrics", allowed: &[Allowed::Admin] },
                Row { method: "GET", path: "/fleetd-only", allowed: &[Allowed::Daemon("fleetd")] },
            ],
        }
    }

    async fn build(cx: Boot, config: Settings) -> Result<Service, BootError> {
        if config.hang {
            cx.tasks().spawn(TaskKind::REQUEST, "stuck", std::future::pending::<()>());
        }
        let pid = get(async || std::process::id().to_string());
        Ok(Service::new(Router::new().route("/pid", pid).route("/fleetd-only", get(async || "true"))))
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the test harness would turn every failure into code 101")]
fn the_daemon_itself() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let token_fd = std::env::var_os(TOKENS).map(|_| 0);
    let ended = boot::run::<Small>(&BootArgs { token_fd, ..BootArgs::at(root) });
    let codes = [0, boot::EXIT_FAILED, boot::EXIT_USAGE];
    let code = codes.into_iter().find(|code| ExitCode::from(*code) == ended).unwrap();
    std::process::exit(code.into());
}

/// Runs the daemon below `root` in a thread of its own, with `input` on its stdin.
#[expect(clippy::disallowed_methods, reason = "the daemon under test is not a bounded run")]
fn daemon(root: &Path, input: Option<Vec<u8>>) -> std::thread::JoinHandle<Output> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "the_daemon_itself", "--nocapture"]).env_clear().env(ROOT, root);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if input.is_some() {
        command.env(TOKENS, "yes");
    }
    std::thread::spawn(move || {
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&input.unwrap_or_default()).unwrap();
        child.wait_with_output().unwrap()
    })
}

async fn pid(client: &UnixClient) -> Pid {
    let pid = wait_for("the daemon", LIMIT, async || client.get::<i32>("/pid").await.ok()).await;
    Pid::from_raw(pid).unwrap()
}

fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned()
}

fn admin(root: &TempRoot) -> UnixClient {
    UnixClient::new(root.paths().socket("small"), Credentials::none())
}

#[tokio::test]
async fn sigterm_ends_a_daemon_gracefully_and_the_last_line_says_so() {
    let root = TempRoot::new();
    let running = daemon(root.path(), None);
    let client = admin(&root);
    let pid = pid(&client).await;
    let (_, metrics) = client.exchange(axum::http::Method::GET, "/metrics", None).await.unwrap();
    assert!(String::from_utf8_lossy(&metrics).contains("osmoda_http_requests_total"));
    kill_process(pid, Signal::TERM).unwrap();
    let output = running.join().unwrap();
    let line = last_line(&output);
    assert!(line.contains("stopped gracefully") && line.contains("SIGTERM"), "{line}");
    assert!(output.status.success());
    assert!(!root.paths().socket("small").exists());
}

#[tokio::test]
async fn a_second_signal_ends_a_hanging_daemon_at_once() {
    let root = TempRoot::new();
    std::fs::write(root.paths().config("small"), "hang = true\n").unwrap();
    let running = daemon(root.path(), None);
    let client = admin(&root);
    let pid = pid(&client).await;
    kill_process(pid, Signal::TERM).unwrap();
    wait_for("the listener to close", LIMIT, async || client.get::<i32>("/pid").await.is_err().then_some(())).await;
    kill_process(pid, Signal::INT).unwrap();
    let output = running.join().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(last_line(&output).contains("second signal"), "{}", last_line(&output));
}

#[tokio::test]
async fn a_configuration_with_faults_lists_them_and_exits_with_usage() {
    let root = TempRoot::new();
    std::fs::write(root.paths().config("small"), "hang = 3\ncolour = 1\n").unwrap();
    let output = daemon(root.path(), None).join().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{log}");
    assert!(log.contains("line 1") && log.contains("line 2"), "{log}");
    assert!(last_line(&output).contains("config_invalid"), "{log}");
}

#[tokio::test]
async fn tokens_on_standard_input_tell_daemons_of_one_uid_apart() {
    let root = TempRoot::new();
    let minted = TokenFile::mint(DAEMONS);
    let file = |name: &str| minted.iter().find(|(known, _)| *known == name).unwrap().1.clone();
    let running = daemon(root.path(), Some(serde_json::to_vec(&file("small")).unwrap()));
    let admin = admin(&root);
    let pid = pid(&admin).await;
    let fleetd = Credentials::token(Secret::new(file("fleetd").own));
    let fleetd = UnixClient::new(root.paths().socket("small"), fleetd);
    assert!(fleetd.get::<bool>("/fleetd-only").await.unwrap());
    assert!(admin.get::<bool>("/fleetd-only").await.is_err());
    kill_process(pid, Signal::INT).unwrap();
    assert!(running.join().unwrap().status.success());

    // The tokens of another daemon are refused at the start.
    let output = daemon(root.path(), Some(serde_json::to_vec(&file("fleetd")).unwrap())).join().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(last_line(&output).contains("unauthorized"), "{}", last_line(&output));
}
