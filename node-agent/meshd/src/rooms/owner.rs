//! The one task that owns all rooms of a node.
//!
//! ```text
//!  commands ─► as many as wait ─► change memory, collect writes ─► one commit
//!                                                   │ failed: memory is read again
//!                                                   ▼
//!                                        answers, pushes, tails
//! ```
//! Invariant: nobody is told of a message, and it is pushed to nobody, before it
//! is on disk here. Invariant: after a failed commit the memory is what the disk
//! says (`tests::a_full_disk_refuses_and_nothing_is_half_done`); until it can be read
//! again, nothing is written and no room is healed
//! (`tests::a_store_that_cannot_be_read_again_refuses_until_it_can`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use osmoda_kit::clock::SharedClock;
use osmoda_kit::error::{ApiError, chain};
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::Tasks;
use osmoda_mesh::Keyring;
use osmoda_mesh_rooms::limits::{AUTHOR_OF_CREATOR_MAX, AUTHOR_OF_NODE_MAX, SEEN_MAX};
use osmoda_mesh_rooms::{Clock, Frame, Kept, MessageId, Meter, RoomId, Seen};
use osmoda_types::{ErrorCode, NodeId, PublicKey};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::command::{Command, Queue, newest};
use super::room::Room;
use super::session::SESSIONS;
use super::store::{Loaded, Store, StoreError, Write};
use crate::pace::PerPeer;

/// Commands taken into one commit: more than all links of a full mesh ask at once.
pub(crate) const COMMANDS_MAX: usize = 128;

/// How often waiting messages, records and full rooms are looked at; a message waits a
/// minute at most when its clock is a little ahead, so a second is soon enough.
const TICK: Duration = Duration::from_secs(1);

/// How often retention is looked at, in ticks.
const PRUNE_TICKS: u64 = 60;

/// After a failed commit writes are refused for this long without a try: a disk
/// that is full stays so for a while, and after each try all is read again. Twice as
/// long after each failure in a row.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

/// But no longer than this: reading 200,000 messages takes about a second, and who frees
/// a disk waits that long for rooms.
const FAILED_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Called after the commit, with its outcome.
type Then = Box<dyn FnOnce(&mut Owner, Result<(), ErrorCode>) + Send>;

/// What one round of commands changes.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) writes: Vec<Write>,
    /// Authors whose state changed; each is written once, as it is in the end.
    pub(crate) authors: BTreeSet<(RoomId, PublicKey)>,
    pub(crate) then: Vec<Then>,
}

impl Batch {
    /// Does something once the writes so far are durable, or have failed.
    pub(crate) fn then(&mut self, done: impl FnOnce(&mut Owner, Result<(), ErrorCode>) + Send + 'static) {
        self.then.push(Box::new(done));
    }
}

/// The last of some failures in a row, with nothing written between.
#[derive(Clone, Copy)]
struct Failed {
    at: Instant,
    code: ErrorCode,
    /// Until the next try.
    pause: Duration,
}

impl Failed {
    fn after(before: Option<Self>, code: ErrorCode) -> Self {
        let pause = before.map_or(FAILED_PAUSE, |before| (2 * before.pause).min(FAILED_PAUSE_MAX));
        Self { at: Instant::now(), code, pause }
    }

    fn is_over(&self) -> bool {
        self.at.elapsed() >= self.pause
    }
}

/// All rooms.
pub(crate) struct Owner {
    pub(crate) own: NodeId,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) clock: SharedClock,
    pub(crate) hlc: Clock,
    pub(crate) meter: Meter,
    pub(crate) rooms: BTreeMap<RoomId, Room>,
    pub(crate) seen: Seen,
    pub(crate) links: BTreeMap<NodeId, Queue>,
    /// Sessions that peers open.
    pub(crate) sessions: PerPeer,
    /// Wakes whoever opens sessions.
    pub(crate) wake: Arc<Notify>,
    pub(crate) heal_every: Duration,
    store: Option<Store>,
    failed: Option<Failed>,
    /// The memory has what a failed commit did not write.
    is_stale: bool,
    path: PathBuf,
    tasks: Tasks,
}

/// What an owner is made of.
pub(crate) struct Parts {
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) clock: SharedClock,
    pub(crate) path: PathBuf,
    pub(crate) tasks: Tasks,
    pub(crate) wake: Arc<Notify>,
    pub(crate) heal_every: Duration,
}

impl Owner {
    /// Reads all rooms. Blocks.
    pub(crate) fn open(parts: Parts) -> Result<Self, StoreError> {
        let Parts { keyring, clock, path, tasks, wake, heal_every } = parts;
        let store = Store::open(&path)?;
        let mut owner = Self {
            own: keyring.node(),
            sessions: PerPeer::new(SESSIONS, clock.clone()),
            keyring,
            clock,
            hlc: Clock::default(),
            meter: Meter::default(),
            rooms: BTreeMap::new(),
            seen: Seen::new(SEEN_MAX),
            links: BTreeMap::new(),
            wake,
            heal_every,
            store: None,
            failed: None,
            is_stale: false,
            path,
            tasks,
        };
        owner.replace(store.load()?);
        owner.store = Some(store);
        Ok(owner)
    }

    /// Puts the rooms as they are on disk into memory; what only memory has
    /// (who waits, who listens) stays.
    fn replace(&mut self, rooms: Vec<Loaded>) {
        let mut before = std::mem::take(&mut self.rooms);
        for loaded in rooms {
            let mut room = Room::new(loaded.signed, loaded.log);
            room.has_left = loaded.has_left;
            if let Some(old) = before.remove(&room.signed.id()) {
                (room.slot, room.tail, room.confirmed) = (old.slot, old.tail, old.confirmed);
                room.heard = old.heard;
            }
            self.rooms.insert(room.signed.id(), room);
        }
        self.seen.clear();
        self.hlc = Clock::after(newest(self.rooms.values().map(|room| &room.log)));
    }

    /// Serves commands until the stores close.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let stop = self.tasks.shutdown().token(Stage::CloseStores);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks: u64 = 0;
        let mut heal_at = Instant::now() + self.heal_every;
        let mut waiting = Vec::with_capacity(COMMANDS_MAX);
        loop {
            let mut batch = Batch::default();
            tokio::select! {
                biased;
                // Safe to drop: a token stays cancelled.
                () = stop.cancelled() => return,
                // Safe to drop: a tick that was missed comes at once. Before the commands,
                // which may never end; it is ready once a second at most.
                _ = tick.tick() => {
                    ticks += 1;
                    self.try_again().await;
                    self.take_heard(&mut batch);
                    self.release_waiting(&mut batch);
                    self.make_space(&mut batch);
                    if ticks.is_multiple_of(PRUNE_TICKS) {
                        self.prune(&mut batch);
                    }
                    if Instant::now() >= heal_at {
                        heal_at = Instant::now() + self.heal_every;
                        self.want_one_each();
                    }
                    self.wake_for_waiting();
                }
                // Safe to drop: nothing is taken before it is ready.
                taken = commands.recv_many(&mut waiting, COMMANDS_MAX) => {
                    if taken == 0 {
                        return;
                    }
                    for command in waiting.drain(..) {
                        self.command(command, &mut batch);
                    }
                }
            }
            self.commit(batch).await;
        }
    }

    /// Makes the batch durable and tells everybody; on failure reads the disk
    /// again and tells those who asked.
    pub(crate) async fn commit(&mut self, batch: Batch) {
        let Batch { mut writes, authors, then } = batch;
        writes.extend(authors.iter().filter_map(|(room, key)| Some(self.rooms.get(room)?.author_write(key))));
        let has_gone = writes.iter().any(|write| matches!(write, Write::Delete(..) | Write::Empty(_)));
        let outcome = if writes.is_empty() { Ok(()) } else { self.write(writes).await };
        if has_gone {
            self.ask_again();
        }
        for done in then {
            done(self, outcome);
        }
    }

    async fn write(&mut self, writes: Vec<Write>) -> Result<(), ErrorCode> {
        let Some(mut store) = self.store.take() else { return Err(ErrorCode::StateDirUnusable) };
        let work = move || (store.commit(&writes), store);
        let written = match self.tasks.blocking("room store", work).await {
            Ok((written, store)) => {
                self.store = Some(store);
                written.map_err(|error| {
                    tracing::error!(error = chain(&error), "rooms are not written");
                    error.code()
                })
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "the store of rooms is gone");
                Err(ErrorCode::StateDirUnusable)
            }
        };
        self.failed = match written {
            Ok(()) => None,
            Err(code) => {
                self.is_stale = true;
                let code = self.reopen().await.err().unwrap_or(code);
                Some(Failed::after(self.failed, code))
            }
        };
        written
    }

    /// Reads again what could not be read after a failed commit.
    async fn try_again(&mut self) {
        if self.is_stale
            && self.failed.is_none_or(|failed| failed.is_over())
            && let Err(code) = self.reopen().await
        {
            self.failed = Some(Failed::after(self.failed, code));
        }
    }

    /// Whether a write may be tried now.
    pub(crate) fn may_write(&self) -> Result<(), ErrorCode> {
        match self.failed {
            Some(failed) if self.is_stale || !failed.is_over() => Err(failed.code),
            _ => Ok(()),
        }
    }

    /// Whether the memory is what the disk says.
    pub(crate) const fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// Brings the memory back to what the disk says; if that fails, it stays as it
    /// is and stale.
    async fn reopen(&mut self) -> Result<(), ErrorCode> {
        let (store, path) = (self.store.take(), self.path.clone());
        let read = move || {
            let store = store.map_or_else(|| Store::open(&path), Ok)?;
            store.load().map(|rooms| (rooms, store))
        };
        match self.tasks.blocking("read rooms again", read).await {
            Ok(Ok((rooms, store))) => {
                self.store = Some(store);
                self.replace(rooms);
                self.is_stale = false;
                Ok(())
            }
            Ok(Err(error)) => {
                tracing::error!(error = chain(&error), "rooms cannot be read again");
                Err(error.code())
            }
            Err(error) => {
                tracing::debug!(%error, "rooms are not read again");
                Err(ErrorCode::StateDirUnusable)
            }
        }
    }

    /// The wall time in ms.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.now_wall().as_millis()).unwrap_or(0)
    }

    /// What is kept of all rooms, and of those that the maker of this one made, where one
    /// more of this author is to come in. In its own rooms this node counts only what it
    /// says itself: the others do, and would refuse what it was told is sent.
    pub(crate) fn kept(&self, room: &RoomId, author: &PublicKey) -> Kept {
        let creator = self.rooms.get(room).and_then(|room| room.creator);
        let of_creator = || self.rooms.values().filter(|room| creator.is_some() && room.creator == creator);
        let of_author = |room: &Room| room.log.author(author).messages as usize;
        let sum = of_creator().map(|room| (room.log.len(), room.log.bytes()));
        let (count, bytes) = sum.fold((0, 0), |sum, more| (sum.0 + more.0, sum.1 + more.1));
        let (is_own, is_ours) = (creator == Some(self.own), self.keyring.now().holds(author));
        let mut kept = Kept {
            node: self.rooms.values().map(|room| room.log.len()).sum(),
            creator: if is_own { 0 } else { count },
            node_bytes: self.rooms.values().map(|room| room.log.bytes()).sum(),
            creator_bytes: if is_own { 0 } else { bytes },
            ..Kept::default()
        };
        // For each message that comes: not counted where it cannot matter.
        if count >= AUTHOR_OF_CREATOR_MAX && (is_ours || !is_own) {
            kept.author_of_creator = of_creator().map(of_author).sum();
        }
        if kept.node >= AUTHOR_OF_NODE_MAX && !is_ours {
            kept.author_of_node = self.rooms.values().map(of_author).sum();
        }
        kept
    }

    /// A room of which this node is a member.
    pub(crate) fn member_room(&self, id: &RoomId) -> Result<&Room, ApiError> {
        self.rooms.get(id).filter(|room| room.is_of(&self.own)).ok_or_else(unknown_room)
    }

    /// Sends a frame to those of the nodes that are linked; how many that are.
    /// A queue that is full is healed later.
    pub(crate) fn push(&self, nodes: impl Iterator<Item = NodeId>, frame: &Frame) -> (usize, Vec<NodeId>) {
        let Ok(bytes) = frame.encode() else { return (0, Vec::new()) };
        let bytes = Arc::new(bytes);
        let (mut sent, mut behind) = (0, Vec::new());
        for node in nodes {
            let Some(queue) = self.links.get(&node) else { continue };
            if queue.try_send(Arc::clone(&bytes)).is_ok() {
                sent += 1;
            } else {
                behind.push(node);
            }
        }
        (sent, behind)
    }

    /// Tells whoever reads the tail.
    pub(crate) fn tell(&self, room: &RoomId, id: MessageId) {
        if let Some(room) = self.rooms.get(room) {
            // No receiver is the usual case.
            drop(room.tail.send(id));
        }
    }

    #[cfg(test)]
    pub(crate) fn store_mut(&mut self) -> &mut Store {
        self.store.as_mut().unwrap()
    }
}

/// One answer for rooms that do not exist and rooms of others.
pub(crate) fn unknown_room() -> ApiError {
    ApiError::new(ErrorCode::NotFound, "this node is a member of no such room")
}
