//! Streams that peers open: pushes, sessions, and questions to a room's creator.
//!
//! The peer is who the handshake proved; the rooms it may touch are decided by
//! each room's record, for every frame. A frame that makes no sense ends that
//! stream and nothing else.

use std::io;
use std::time::Duration;

use osmoda_kit::tasks::TaskKind;
use osmoda_mesh::{IncomingStream, Intake, MeshStream};
use osmoda_mesh_protocol::Rate;
use osmoda_mesh_rooms::limits::ROOMS_MAX;
use osmoda_mesh_rooms::{Blob, Frame, Refusal, Signed};
use osmoda_node_api::mesh::Member;
use osmoda_types::{NodeId, Role};
use tokio::io::{ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;

use super::command::{Asked, Change, ChangeRefused, Command, Membership, Standing, Way};
use super::cx::Cx;
use super::heal;
use super::wire::{FrameReader, send};

/// How long a peer may take for the first frame, and for reading an answer.
pub(crate) const FRAME_TIME: Duration = Duration::from_secs(15);

/// Pushed messages taken into one commit.
const PUSHES_MAX: usize = 128;

/// Questions of one peer to this node as the creator of rooms. Most that are granted have
/// a record signed, written and sent to all members, who all heal the room then. A node
/// that left all its rooms while this one was away asks for each when it is linked again.
pub(crate) const QUESTIONS: Rate = Rate { per_second: 16, burst: 256 };

/// Records that one peer pushes: those of all rooms that it can share with this node, twice,
/// and then a member that comes or goes in each once a second. What is over it is not
/// looked at: a signature takes 50 µs of an async thread, and only the newest record of a
/// room matters, which the next session brings.
pub(crate) const RECORDS: Rate = Rate { per_second: 64, burst: 128 };

/// Push streams and questions of one peer beside its sessions: one stream, and a few
/// that are ending or ask.
const BESIDE_SESSIONS: usize = 16;

/// A session per room, a push stream and questions; each has time limits of its own
/// at every frame.
const INTAKE: Intake =
    Intake { name: "rooms", kind: TaskKind::BACKGROUND, per_peer_max: ROOMS_MAX + BESIDE_SESSIONS, time_limit: None };

/// Serves streams until a stop begins.
pub(crate) fn serve(cx: Cx, accepted: mpsc::Receiver<IncomingStream>) {
    let tasks = cx.tasks.clone();
    INTAKE.spawn(&tasks, accepted, move |IncomingStream { peer, stream }| one(cx.clone(), peer.node, stream));
}

async fn one(cx: Cx, peer: NodeId, stream: MeshStream) -> io::Result<()> {
    let (read, mut write) = split(stream);
    let mut frames = FrameReader::new(read);
    match frames.within(FRAME_TIME).await? {
        Frame::Push => pushes(&cx, peer, frames, write).await,
        Frame::Sync { room, revision, horizon_ms, fingerprint } => {
            heal::answer(&cx, peer, Asked { room, revision, horizon_ms, fingerprint }, frames, write).await
        }
        Frame::Join { .. } | Frame::Leave { .. } if !cx.questions.take(peer) => {
            let busy = Frame::Refused(Refusal::Busy);
            send(&mut write, &busy, FRAME_TIME, &cx.traffic.push_sent).await
        }
        Frame::Join { room, node } => {
            let node = NodeId::from(node);
            let members = cx.mesh.members();
            let answer = match members.by_node(&node).filter(|member| member.role != Role::Controller) {
                Some(member) => {
                    let may_join = matches!(member.role, Role::Voter | Role::Node);
                    let what = Membership::Add { node, key: member.identity_key, may_join };
                    change(&cx, Change { room, by: peer, what }).await
                }
                None => Frame::Refused(Refusal::NotFound),
            };
            send(&mut write, &answer, FRAME_TIME, &cx.traffic.push_sent).await
        }
        Frame::Leave { room, node } => {
            let what = Membership::Remove { node: node.into() };
            let answer = change(&cx, Change { room, by: peer, what }).await;
            send(&mut write, &answer, FRAME_TIME, &cx.traffic.push_sent).await
        }
        _ => Err(out_of_turn()),
    }
}

/// Asks the owner for a change that a peer wants; the answer is the new record.
async fn change(cx: &Cx, change: Change) -> Frame {
    let refusal = match cx.ask(|reply| Command::Change { change, reply }).await {
        Ok(Ok(signed)) => return Frame::Record(Blob(signed.wire().to_vec())),
        Ok(Err(ChangeRefused::NotFound)) => Refusal::NotFound,
        Ok(Err(ChangeRefused::Full)) => Refusal::Full,
        Ok(Err(ChangeRefused::Store(_))) | Err(_) => Refusal::Store,
    };
    Frame::Refused(refusal)
}

/// Takes what a peer pushes, as many at a time as have arrived, and says what
/// became of each.
async fn pushes(
    cx: &Cx,
    peer: NodeId,
    mut frames: FrameReader<ReadHalf<MeshStream>>,
    mut write: WriteHalf<MeshStream>,
) -> io::Result<()> {
    while let Some(first) = frames.next().await? {
        let mut posts = Vec::new();
        let mut next = Some(first);
        while let Some(frame) = next {
            match frame {
                Frame::Post(blob) => posts.push(blob),
                Frame::Record(Blob(wire)) if cx.records.take(peer) => {
                    take_record(cx, peer, &wire).await?;
                }
                Frame::Record(_) => tracing::debug!(%peer, "a peer pushes too many records"),
                _ => return Err(out_of_turn()),
            }
            next = if posts.len() < PUSHES_MAX { frames.ready()? } else { None };
        }
        if posts.is_empty() {
            continue;
        }
        let (verdicts, _) = cx.take(peer, Way::Pushed, posts).await?;
        for (id, verdict) in verdicts {
            send(&mut write, &Frame::Ack { id, verdict }, FRAME_TIME, &cx.traffic.push_sent).await?;
        }
    }
    Ok(())
}

/// Takes a record that a peer sends, at once or with the owner's next tick. A room that
/// is new here must be a voter's or node's of this fleet: guests make no rooms here. False
/// when it changes nothing here yet.
///
/// # Errors
/// `InvalidData` for what is no record, and when the rooms are stopping.
pub(crate) async fn take_record(cx: &Cx, peer: NodeId, wire: &[u8]) -> io::Result<bool> {
    let (from, signed, standing) = judge_record(cx, peer, wire)?;
    let taken = cx.ask(|reply| Command::HearRecord { from, signed, standing, reply }).await;
    taken.map_err(io::Error::other)
}

/// Takes a record with which a peer answers a question, at once.
///
/// # Errors
/// As [`take_record`].
pub(crate) async fn take_answer(cx: &Cx, peer: NodeId, wire: &[u8]) -> io::Result<bool> {
    let (from, signed, standing) = judge_record(cx, peer, wire)?;
    let taken = cx.ask(|reply| Command::TakeRecord { from, signed, standing, reply }).await;
    taken.map_err(io::Error::other)
}

fn judge_record(cx: &Cx, peer: NodeId, wire: &[u8]) -> io::Result<(NodeId, Signed, Standing)> {
    let signed = Signed::decode(wire).map_err(|error| wrong(peer, &error))?;
    let creator = signed.record().creator;
    let members = cx.mesh.members();
    let named = signed.record().member_of(&creator).and_then(|member| members.by_node(&member.node));
    let may = |member: &&Member| matches!(member.role, Role::Voter | Role::Node);
    // The key is that of the node the record names, or the node itself speaks for a
    // key of its own that was replaced since. So no room counts as another node's.
    let is_its = |member: &&Member| member.identity_key == creator || member.node == peer;
    let goes_on = named.filter(may);
    let standing = Standing { begins: goes_on.filter(is_its).is_some(), goes_on: goes_on.is_some() };
    Ok((peer, signed, standing))
}

/// What no honest peer sends ends its stream: the next one would be as wrong, and
/// each would cost a line of the log.
pub(crate) fn wrong(peer: NodeId, error: &dyn std::fmt::Display) -> io::Error {
    tracing::warn!(%peer, %error, "a peer sends what is not of a room");
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

pub(crate) fn out_of_turn() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a frame out of turn")
}
