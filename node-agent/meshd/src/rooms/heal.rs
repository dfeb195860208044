//! Sessions of healing over streams: both sides of the exchange that
//! `osmoda-mesh-rooms` decides.
//!
//! Sent bytes are paced per peer, so that a node which was away for long does
//! not take its peers' links for itself. A session that takes too long ends; the
//! next one goes on with what is still missing.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::TaskKind;
use osmoda_mesh::MeshStream;
use osmoda_mesh_rooms::{Answerer, Blob, Do, Frame, MessageId, Opener, Refusal, RoomId, Stored, Ticket, Verdict};
use osmoda_node_api::mesh::Service;
use osmoda_types::NodeId;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf, split};

use super::command::{Answered, Asked, Begin, Command, Healed, Release, Way};
use super::cx::Cx;
use super::inbound::{out_of_turn, take_record};
use super::session::random;
use super::wire::{FrameReader, send};
use crate::counts;

/// How long a peer may take for one frame: it may have to check and write the
/// messages of a batch first.
const TURN_TIME: Duration = Duration::from_secs(15);

/// How long a session may hold the room's slot.
const SESSION_TIME: Duration = Duration::from_secs(120);

/// Before a busy peer is asked again, at least and at most: a session of a few
/// thousand messages takes about this long.
const BUSY_PAUSE_MS: std::ops::Range<u64> = 20..120;

/// How often a peer is asked in vain before that pause doubles: those who wait for one of
/// the long sessions after a partition ask for some seconds at the first pace.
const BUSY_PER_DOUBLING: u32 = 32;

/// How often it doubles: one that is always busy costs a snapshot of the room each time.
/// Its longest pause is half of what others are waited for (`slot`), so that who waits
/// for long does not miss its turn.
const BUSY_DOUBLINGS_MAX: u32 = 2;

/// Before a peer that was too slow for a session is asked again: others have their
/// turn first, and one that does it on purpose has the slot less than always.
const SLOW_PAUSE: Duration = Duration::from_secs(10);

/// Opens sessions whenever a room has somebody waiting, until a stop begins.
pub(crate) async fn run(cx: Cx) {
    let stop = cx.tasks.shutdown().token(Stage::RefuseNew);
    loop {
        tokio::select! {
            biased;
            // Safe to drop: a token stays cancelled.
            () = stop.cancelled() => return,
            // Safe to drop: a wake that was not taken stays.
            () = cx.wake.notified() => {}
        }
        let Ok(begun) = cx.ask(|reply| Command::Begin { reply }).await else { return };
        for begin in begun {
            let cx_of_session = cx.clone();
            // Bounded: one session per room.
            cx.tasks.spawn(TaskKind::BACKGROUND, format!("heal {} with {}", begin.room, begin.peer), async move {
                session(cx_of_session, begin).await;
            });
        }
    }
}

/// Frees a room's slot when a session ends, however it ends.
struct Held {
    cx: Cx,
    release: Release,
}

impl Held {
    fn new(cx: &Cx, room: RoomId, peer: NodeId, ticket: Ticket) -> Self {
        Self { cx: cx.clone(), release: Release { room, peer, ticket, healed: None } }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let command = Command::Release(self.release);
        if let Err(tokio::sync::mpsc::error::TrySendError::Full(command)) = self.cx.owner.try_send(command) {
            let cx = self.cx.clone();
            self.cx.tasks.spawn(TaskKind::BACKGROUND, "release a room", async move { cx.tell(command).await });
        }
    }
}

async fn session(cx: Cx, begin: Begin) {
    let (room, peer, in_vain) = (begin.room, begin.peer, begin.in_vain);
    let mut held = Held::new(&cx, room, peer, begin.ticket);
    let ours = begin.ours;
    let outcome = tokio::time::timeout(SESSION_TIME, open(&cx, begin)).await;
    match outcome {
        Ok(Ok(Ended::Through { confirmed, horizon_ms })) => {
            held.release.healed = confirmed.then_some(Healed { ours, horizon_ms });
            cx.traffic.sessions.fetch_add(1, Relaxed);
            counts::heal_session();
        }
        Ok(Ok(Ended::Refused(Refusal::Busy))) => {
            drop(held);
            tokio::time::sleep(busy_pause(in_vain, random())).await;
            cx.tell(Command::Want { room, peer }).await;
        }
        Ok(Ok(Ended::Refused(refusal))) => tracing::debug!(%room, %peer, ?refusal, "healing refused"),
        Ok(Err(error)) => tracing::debug!(%room, %peer, %error, "healing ended early"),
        Err(_) => {
            // What is missing still is found by the next session.
            drop(held);
            tokio::time::sleep(SLOW_PAUSE).await;
            cx.tell(Command::Want { room, peer }).await;
        }
    }
}

/// How long to wait before a busy peer is asked again that was asked so often.
fn busy_pause(in_vain: u32, random: u64) -> Duration {
    let first = BUSY_PAUSE_MS.start + random % (BUSY_PAUSE_MS.end - BUSY_PAUSE_MS.start);
    Duration::from_millis(first) * 2_u32.pow((in_vain / BUSY_PER_DOUBLING).min(BUSY_DOUBLINGS_MAX))
}

/// How a session ended that was not cut.
enum Ended {
    /// It went through; whether the peer has all of ours now, from a time on.
    Through { confirmed: bool, horizon_ms: u64 },
    /// The peer does not want one.
    Refused(Refusal),
}

/// The opener's side.
async fn open(cx: &Cx, begin: Begin) -> io::Result<Ended> {
    let Begin { room, peer, ticket, revision, snapshot, skip, .. } = begin;
    let stream = cx.mesh.connect_stream(peer, Service::Rooms).await.map_err(io::Error::other)?;
    let (read, write) = split(stream);
    let mut line = Line { cx, room, peer, frames: FrameReader::new(read).of_session(), write };
    let mut both_from_ms = snapshot.horizon_ms;
    let (mut opener, first) = Opener::new(room, revision, snapshot, skip);
    line.send(&first).await?;
    let opened = line.receive().await?;
    match &opened {
        Frame::Refused(refusal) => {
            if *refusal == Refusal::NotFound {
                // Its record is older, or it was away when the room was made.
                cx.tell(Command::OfferRecord { room, peer }).await;
            }
            return Ok(Ended::Refused(*refusal));
        }
        Frame::Opened { horizon_ms, record, wants_record, .. } => {
            both_from_ms = both_from_ms.max(*horizon_ms);
            // The peer may have opened one to us meanwhile, and that one goes on.
            if !cx.ask(|reply| Command::Answered { room, ticket, reply }).await.map_err(io::Error::other)? {
                return Ok(Ended::Refused(Refusal::Busy));
            }
            if let Some(Blob(wire)) = record {
                take_record(cx, peer, wire).await?;
            }
            if *wants_record {
                line.offer_record().await?;
            }
        }
        _ => return Err(out_of_turn()),
    }
    let mut next = opener.frame(opened).map_err(io::Error::other)?;
    loop {
        next = match next {
            Do::Send(frame) => {
                line.send(&frame).await?;
                let answer = line.receive().await?;
                opener.frame(answer).map_err(io::Error::other)?
            }
            Do::Load(ids) => {
                let (taken, list) = line.load(ids).await?;
                opener.loaded(taken, list)
            }
            Do::Store(list) => {
                let stored = line.store(list).await?;
                opener.stored(stored)
            }
            Do::Done(last) => {
                if let Some(frame) = last {
                    line.send(&frame).await?;
                }
                line.write.shutdown().await?;
                return Ok(Ended::Through { confirmed: opener.is_confirmed(), horizon_ms: both_from_ms });
            }
            Do::Arrange(ids) => {
                let ask = cx.ask(|reply| Command::Sort { room, ids, reply }).await;
                opener.arranged(ask.map_err(io::Error::other)?)
            }
            Do::Resolve(_) => return Err(out_of_turn()),
        };
    }
}

/// The answerer's side, after the opener's first frame.
pub(crate) async fn answer(
    cx: &Cx,
    peer: NodeId,
    asked: Asked,
    frames: FrameReader<ReadHalf<MeshStream>>,
    write: WriteHalf<MeshStream>,
) -> io::Result<()> {
    let room = asked.room;
    let mut line = Line { cx, room, peer, frames, write };
    let answered = cx.ask(|reply| Command::Answer { from: peer, asked, reply }).await.map_err(io::Error::other)?;
    let Answered { ticket, snapshot, equal, record, wants_record, ours } = match answered {
        Ok(answered) => answered,
        Err(refusal) => return line.send(&Frame::Refused(refusal)).await,
    };
    let mut held = Held::new(cx, room, peer, ticket);
    line.frames = line.frames.of_session();
    let record = record.map(|signed| Blob(signed.wire().to_vec()));
    let horizon_ms = snapshot.horizon_ms;
    line.send(&Frame::Opened { horizon_ms, equal, record, wants_record }).await?;
    if wants_record {
        let Frame::Record(Blob(wire)) = line.receive().await? else { return Err(out_of_turn()) };
        take_record(cx, peer, &wire).await?;
    }
    if equal {
        held.release.healed = Some(Healed { ours, horizon_ms });
        return Ok(());
    }
    let mut answerer = Answerer::new(snapshot).map_err(io::Error::other)?;
    let talk = async {
        loop {
            let mut next = answerer.frame(line.receive().await?).map_err(io::Error::other)?;
            loop {
                next = match next {
                    Do::Send(frame) => {
                        line.send(&frame).await?;
                        break;
                    }
                    Do::Load(ids) => {
                        let (taken, list) = line.load(ids).await?;
                        answerer.loaded(taken, list)
                    }
                    Do::Resolve(prefixes) => {
                        let ask = cx.ask(|reply| Command::Resolve { room, peer, prefixes, reply }).await;
                        answerer.resolved(ask.map_err(io::Error::other)?)
                    }
                    Do::Store(list) => {
                        let stored = line.store(list).await?;
                        answerer.stored(stored)
                    }
                    Do::Done(_) => return Ok(()),
                    Do::Arrange(_) => return Err(out_of_turn()),
                };
            }
        }
    };
    // What the opener kept of ours is for it to say: in the next session both are equal.
    tokio::time::timeout(SESSION_TIME, talk).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// One session's stream.
struct Line<'a> {
    cx: &'a Cx,
    room: RoomId,
    peer: NodeId,
    frames: FrameReader<ReadHalf<MeshStream>>,
    write: WriteHalf<MeshStream>,
}

impl Line<'_> {
    async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        let traffic = &self.cx.traffic;
        if let Frame::Messages { list, .. } = frame {
            let bytes: usize = list.iter().map(|blob| blob.0.len()).sum();
            traffic.heal_messages_sent.fetch_add(bytes as u64, Relaxed);
            counts::heal_sent(bytes);
            self.cx.pace.take(self.peer, bytes).await;
        }
        send(&mut self.write, frame, TURN_TIME, &traffic.heal_sent).await
    }

    async fn receive(&mut self) -> io::Result<Frame> {
        self.frames.within(TURN_TIME).await
    }

    /// The newest record is asked before anything is read: a member that was
    /// taken out in the middle of a session gets nothing more.
    async fn load(&self, ids: Vec<MessageId>) -> io::Result<(usize, Vec<Blob>)> {
        let (room, peer) = (self.room, self.peer);
        let may_read = self.cx.ask(|reply| Command::MayRead { room, peer, reply }).await.map_err(io::Error::other)?;
        if !may_read {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.cx.load(room, ids).await.map_err(io::Error::other)
    }

    async fn store(&self, list: Vec<Blob>) -> io::Result<Stored> {
        let (verdicts, known) = self.cx.take(self.peer, Way::Healed, list).await?;
        self.cx.traffic.heal_repeated.fetch_add(known as u64, Relaxed);
        let has = |wanted: Verdict| verdicts.iter().any(|(_, verdict)| *verdict == wanted);
        Ok(match () {
            () if has(Verdict::Later) => Stored::Full,
            () if has(Verdict::Refused) || has(Verdict::Waits) => Stored::Some,
            () => Stored::All,
        })
    }

    async fn offer_record(&mut self) -> io::Result<()> {
        let room = self.room;
        let shown = self.cx.ask(|reply| Command::Show { room, limit: 0, reply }).await.map_err(io::Error::other)?;
        let (shown, _) = shown.map_err(io::Error::other)?;
        self.send(&Frame::Record(Blob(shown.signed.wire().to_vec()))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_busy_again_and_again_is_asked_less_often_and_soon_enough_for_its_turn() {
        let pause = |in_vain| busy_pause(in_vain, 99).as_millis();
        assert_eq!([0, 1, 31, 32, 64, 200, u32::MAX].map(pause), [119, 119, 119, 238, 476, 476, 476]);
        assert_eq!(busy_pause(1, 100).as_millis(), 20);
    }
}
