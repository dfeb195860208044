//! A controller on one of the hosts: enrolled by invite, under its own user.
//!
//! What is claimed is what an operator would see: `osmoda node ls` lists every host
//! as online with the generation that the host itself says it runs.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::bed::Bed;
use super::command::until;
use super::host::Host;
use super::programs;
use crate::units::CONTROLLER;

/// Its REST address: the default, loopback of the host that it runs on.
pub(super) const SERVER: &str = "http://127.0.0.1:8700";

/// The operator's access, on the controller's host.
pub(super) const TOKEN: &str = "/var/lib/osmoda/controller/admin.token";

/// Its mesh port: the default belongs to the node on the same host.
const MESH: &str = "0.0.0.0:18801";

/// It follows the log from the start, and nodes dial it within eight seconds.
pub(super) const VIEW_TIME_MAX: Duration = Duration::from_secs(60);

/// The host with the controller; it is started where there is none yet.
pub(super) async fn ensure(bed: &Bed) -> anyhow::Result<&Host> {
    let last = bed.hosts().last().context("the bed has no hosts")?;
    if !last.file(TOKEN)?.exists() {
        run(bed).await?;
    }
    Ok(last)
}

/// Starts a controller on the last host, with an invite of the first one.
pub(super) async fn run(bed: &Bed) -> anyhow::Result<Vec<String>> {
    let (first, last) = bed.hosts().first().zip(bed.hosts().last()).context("the bed has no hosts")?;
    programs::write(&last.file("/etc/osmoda/controller.toml")?, &format!("mesh_listen = \"{MESH}\"\n"))?;
    let invite = first.run(&["osmoda-node", "invite", "--role", "controller"]).await?;
    // As its own user, so that what it writes is its own.
    let user = [format!("--reuid={}", CONTROLLER.user), format!("--regid={}", CONTROLLER.user)];
    let join = ["osmoda-controller", "join", invite.trim(), "--mesh-listen", MESH];
    let setpriv = ["setpriv", user[0].as_str(), user[1].as_str(), "--init-groups"];
    last.run(&[setpriv.as_slice(), &join].concat()).await?;
    last.run(&["systemctl", "start", "osmoda-controller.service"]).await?;
    let unit = last.run(&["systemctl", "show", "-p", "User", "-p", "ActiveState", "osmoda-controller.service"]).await?;
    ensure!(unit.contains(CONTROLLER.user) && unit.contains("ActiveState=active"), "{unit}");
    let nodes = until("every host in `osmoda node ls`", VIEW_TIME_MAX, || async move { all_online(bed, last).await });
    let nodes = nodes.await.with_context(|| format!("the controller on {}", last.name()))?;
    Ok(vec![format!("`osmoda node ls` on {} shows {nodes} hosts online, each with what it runs", last.name())])
}

/// How many hosts there are, once each is shown as it is.
async fn all_online(bed: &Bed, at: &Host) -> anyhow::Result<Option<usize>> {
    let ls = ["osmoda", "node", "ls", "--server", SERVER, "--token-file", TOKEN, "-o", "jsonl"];
    let said = at.run(&ls).await?;
    let nodes: Vec<Value> = said.lines().map(serde_json::from_str).collect::<Result<_, _>>().context(said.clone())?;
    for host in bed.hosts() {
        let runs = host.systems()?.runs.context("the host runs no generation")?;
        let is_shown = |node: &&Value| {
            node["name"] == host.name()
                && node["presence"] == "online"
                && node["generation"].to_string().contains(&runs)
        };
        if nodes.iter().find(is_shown).is_none() {
            return Ok(None);
        }
    }
    Ok(Some(bed.hosts().len()))
}
