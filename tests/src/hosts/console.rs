//! The operator's terminal on a host: `osmoda` with its exit code, against the
//! node on that host or against the controller.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context, ensure};
use osmoda_types::PermitId;
use serde_json::Value;

use super::bed::Bed;
use super::command::until;
use super::controller;
use super::fleet::Fleet;
use super::host::Host;

/// Where the operator's key is, on the controller's host.
const KEY: &str = "/root/operator.key";

/// Cosignatures of all rows are there within seconds of the last row.
pub(super) const WITNESSED_TIME_MAX: Duration = Duration::from_secs(30);

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub(super) exit: u8,
    /// Standard output and standard error.
    pub(super) text: String,
}

impl Said {
    /// The JSON of a command that ended well.
    pub(super) fn json(&self) -> anyhow::Result<Value> {
        ensure!(self.exit == 0, "exit code {}: {}", self.exit, self.text);
        let begin = self.text.find(['{', '[']).with_context(|| self.text.clone())?;
        let mut values = serde_json::Deserializer::from_str(&self.text[begin..]).into_iter();
        values.next().context("nothing was printed")?.with_context(|| self.text.clone())
    }
}

/// Runs `osmoda` on a host, however it ends.
pub(super) async fn osmoda(host: &Host, words: &[&str]) -> anyhow::Result<Said> {
    let script = "\"$@\" 2>&1; code=$?; echo; echo $code";
    let line = [["sh", "-c", script, "sh", "osmoda"].as_slice(), words].concat();
    let text = host.run(&line).await?;
    let (text, exit) = text.trim_end().rsplit_once('\n').with_context(|| text.clone())?;
    Ok(Said { exit: exit.parse().with_context(|| text.to_owned())?, text: text.to_owned() })
}

/// The controller as an operator with a key uses it.
pub(super) struct Console<'a> {
    host: &'a Host,
}

impl<'a> Console<'a> {
    /// Opens it on the controller's host, where there is a controller.
    pub(super) async fn open(bed: &'a Bed, fleet: &Fleet) -> anyhow::Result<Self> {
        let host = controller::ensure(bed).await?;
        let key = host.file(KEY)?;
        std::fs::write(&key, fleet.operator().to_bytes()).context("writing the operator's key")?;
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).context("closing the operator's key")?;
        Ok(Self { host })
    }

    /// Runs `osmoda` against the controller.
    pub(super) async fn run(&self, words: &[&str]) -> anyhow::Result<Said> {
        let to = ["--server", controller::SERVER, "--token-file", controller::TOKEN];
        osmoda(self.host, &[words, &to].concat()).await
    }

    /// Waits until a permit is in the inbox; returns how it is listed.
    pub(super) async fn arrived(&self, permit: &PermitId) -> anyhow::Result<Value> {
        until("the permit in the controller's inbox", controller::VIEW_TIME_MAX, || async move {
            let page = self.run(&["approval", "ls", "-o", "json"]).await?.json()?;
            let items = page["items"].as_array().cloned().unwrap_or_default();
            Ok(items.into_iter().find(|item| item["signed"]["permit"]["id"] == permit.to_string()))
        })
        .await
    }

    /// Signs a permit that arrived, or denies it.
    pub(super) async fn decide(&self, what: &str, permit: &PermitId) -> anyhow::Result<Said> {
        self.run(&["approval", what, &permit.to_string(), "--key", KEY, "--yes"]).await
    }
}

/// Asks on a host that a file be written, which is destructive there.
pub(super) async fn ask_to_write(host: &Host, path: &str, content: &str) -> anyhow::Result<PermitId> {
    ask_to_write_in(host, "operator", path, content).await
}

/// Like [`ask_to_write`], in a session of that name.
pub(super) async fn ask_to_write_in(host: &Host, session: &str, path: &str, content: &str) -> anyhow::Result<PermitId> {
    let (path, content) = (format!("path={path}"), format!("content={content}"));
    let call = ["approval", "request", "file.write", &path, &content, "--reason", "hosts"];
    let rest = ["--session", session, "--root", "/", "-o", "json"];
    let view = osmoda(host, &[call.as_slice(), &rest].concat()).await?.json()?;
    ensure!(view["signed"]["permit"]["class"] == "destructive", "{view}");
    let id = view["signed"]["permit"]["id"].as_str().context("a permit has an id")?;
    id.parse().with_context(|| view.to_string())
}

/// Runs what was approved, again while too few witnesses answer: the permit is kept
/// then. One that was begun is used up, and what it ends with is for the caller.
pub(super) async fn run_witnessed(host: &Host, permit: &PermitId) -> anyhow::Result<Said> {
    until("witnesses of a run", WITNESSED_TIME_MAX, || async move {
        let ran = run_permit(host, permit).await?;
        Ok((ran.exit == 0 || !ran.text.contains("witness_unavailable")).then_some(ran))
    })
    .await
}

/// Runs what was approved.
pub(super) async fn run_permit(host: &Host, permit: &PermitId) -> anyhow::Result<Said> {
    osmoda(host, &["approval", "run", &permit.to_string(), "--root", "/"]).await
}
