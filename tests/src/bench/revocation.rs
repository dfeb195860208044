//! `bench revocation`: how soon a revoked member has no link anywhere.
//!
//! A member joins a fleet of five nodes and a controller, links to all of them,
//! and is revoked by an operator's order. The time runs from the start of the
//! operator's command, which signs, carries the order to the leader and commits
//! it, to the moment at which a node's mesh has no link to the member any more:
//! an upper bound of the time after the commit. The revoked member's programs
//! run on and dial; being let in once would end the benchmark.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use osmoda_ctl::dev::fleet::Fleet;
use osmoda_ctl::dev::layout::free_udp_ports;
use osmoda_ctl::dev::member::{Kind, Member};
use osmoda_kit::testing::look_until;
use osmoda_types::{MeshEpoch, NodeId};

use super::fleet::{count_of, on_fleet, say};
use super::report::{Report, Target};
use crate::sockets::MeshSocket;

/// Members revoked one after the other; each has a link to five nodes.
const ROUNDS: usize = 8;
const ROUNDS_VARIABLE: &str = "OSMODA_BENCH_REVOCATIONS";

/// The target of the mesh (`mesh.md`, G6).
const CLOSED_P99_MAX_S: f64 = 2.0;

/// How long anything may take here before the benchmark gives up.
const LIMIT: Duration = Duration::from_secs(30);

/// How long the revoked member is watched while it dials: its pauses between
/// two tries grow to a few seconds.
const WATCHED: Duration = Duration::from_secs(5);

/// Runs the benchmark.
///
/// # Errors
/// When the fleet does not come up, a link is not closed in time, or a revoked
/// member is let in again.
pub fn run() -> anyhow::Result<Report> {
    let rounds = count_of(ROUNDS_VARIABLE, ROUNDS)?;
    on_fleet(|fleet, _| {
        let (mut closed, mut rotated) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            let member =
                Member { name: format!("x{round}"), kind: Kind::Node, mesh: free_udp_ports(1)?[0], rest: None };
            let done = revoke_one(fleet, &member);
            // Whatever came of it, its programs are no part of the fleet's folder.
            let killed = fleet.processes().kill(&member).len();
            let (links, epoch) = done?;
            say(&format!(
                "{round} of {rounds}: links closed after {links:?} s, new epoch everywhere after {epoch:.3} s, \
                 {killed} processes ended"
            ));
            closed.extend(links);
            rotated.push(epoch);
        }
        let mut report = Report::new("revocation");
        report.note(format!(
            "{rounds} members revoked, {} links; {WATCHED:?} of dialling each, 0 accepted",
            closed.len()
        ));
        report.add("closed_p50_s", &closed, None)?;
        report.add_quantile("closed_p99_s", &closed, 0.99, Some(Target::AtMost(CLOSED_P99_MAX_S)))?;
        report.add("epoch_in_force_p50_s", &rotated, None)?;
        Ok(report)
    })
}

/// Seconds until each node's link was closed, and until all had the new epoch.
fn revoke_one(fleet: &Fleet, member: &Member) -> anyhow::Result<(Vec<f64>, f64)> {
    fleet.enrol(member).with_context(|| format!("enrolling {}", member.name))?;
    let own = MeshSocket::of(&fleet.layout, &member.name)?;
    let nodes = fleet.nodes.iter().map(|node| MeshSocket::of(&fleet.layout, &node.name));
    let nodes = nodes.collect::<anyhow::Result<Vec<_>>>()?;
    let id = until(&format!("{} runs", member.name), || Ok(own.identity().ok()))?.node;
    until("every node has a link to it", || {
        let linked = nodes.iter().map(|node| node.is_linked(id)).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(linked.iter().all(|linked| *linked).then_some(()))
    })?;
    let before = nodes.first().context("a fleet has nodes")?.identity()?.epoch;

    let began = Instant::now();
    let key = fleet.layout.operator_key().display().to_string();
    let (closed, epoch) = std::thread::scope(|scope| {
        let waiting: Vec<_> =
            nodes.iter().map(|node| scope.spawn(move || seconds_until_closed(node, id, began))).collect();
        fleet.osmoda(&["node", "revoke", &member.name, "--key", &key, "--yes"])?;
        let closed = waiting.into_iter().map(|of| of.join().expect("a looking thread does not panic"));
        let closed = closed.collect::<anyhow::Result<Vec<f64>>>()?;
        until("the next epoch is in force on every node", || {
            let epochs = nodes.iter().map(|node| Ok(node.identity()?.epoch)).collect::<anyhow::Result<Vec<_>>>()?;
            Ok(epochs.iter().all(|epoch| *epoch > MeshEpoch(before.0)).then_some(()))
        })?;
        anyhow::Ok((closed, began.elapsed().as_secs_f64()))
    })?;

    let watched = Instant::now();
    while watched.elapsed() < WATCHED {
        ensure!(!own.peers()?.iter().any(|peer| peer.connected), "a revoked member has a link again");
        for node in &nodes {
            ensure!(!node.is_linked(id)?, "a node has a link to a revoked member");
        }
    }
    Ok((closed, epoch))
}

fn seconds_until_closed(node: &MeshSocket, peer: NodeId, began: Instant) -> anyhow::Result<f64> {
    until("a link is closed", || Ok((!node.is_linked(peer)?).then(|| began.elapsed().as_secs_f64())))
}

fn until<T>(what: &str, look: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    look_until(LIMIT, look)?.with_context(|| format!("not in time: {what}"))
}
