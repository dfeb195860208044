//! One owner of rooms without links: a clock that moves when told, a disk that fills up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use osmoda_kit::clock::Clock as _;
use osmoda_kit::shutdown::Shutdown;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_kit::testing::{FakeClock, TempRoot};
use osmoda_mesh::{Identity, Keyring, state};
use osmoda_mesh_rooms::{
    Body, Hlc, Join, Member, Message, MessageId, Record, Retention, RoomId, Signed, Unverified, Verdict, Verified,
};
use osmoda_types::{ErrorCode, Signature};
use tokio::sync::{Notify, mpsc, oneshot};

use super::world::LIMIT;
use crate::rooms::command::{Command, Reply, Screened, Way};
use crate::rooms::owner::{Owner, Parts};

pub(super) struct World {
    pub(super) clock: FakeClock,
    pub(super) keyring: Arc<Keyring>,
    pub(super) other: Arc<Identity>,
    pub(super) own_member: Member,
    pub(super) owner: mpsc::Sender<Command>,
    pub(super) room: RoomId,
    /// Notified when there may be a session to open.
    pub(super) wake: Arc<Notify>,
    tasks: Tasks,
    roots: [TempRoot; 2],
}

impl World {
    /// A room of this node and another one; `pages` bounds the database.
    pub(super) async fn new(retain: u32, pages: Option<u32>) -> Self {
        let (world, mut owner, commands, signed) = Self::at_rest(retain, 16);
        if let Some(pages) = pages {
            owner.store_mut().limit_pages(pages);
        }
        world.run(owner, commands);
        world.ask(|reply| Command::Create { signed, reply }).await.unwrap();
        world
    }

    /// The same with an owner that does not run yet and has no room, and that room's
    /// record; `waiting` commands fit into its queue.
    pub(super) fn at_rest(retain: u32, waiting: usize) -> (Self, Owner, mpsc::Receiver<Command>, Signed) {
        let roots = [TempRoot::new(), TempRoot::new()];
        let own = state::create_identity(&roots[0].paths().state("mesh")).unwrap();
        let other = state::create_identity(&roots[1].paths().state("mesh")).unwrap();
        let (tasks, clock, wake) = (Tasks::new(Shutdown::new()), FakeClock::new(), Arc::new(Notify::new()));
        let (sender, commands) = mpsc::channel(waiting);
        let record = Record {
            creator: own.identity_key(),
            nonce: [1; 16],
            name: "ops".to_owned(),
            created_ms: 1,
            revision: 1,
            join: Join::Added,
            retention: Retention { messages: retain, days: 1 },
            members: [&own, &other].map(|of| Member { node: of.node(), key: of.identity_key(), left: None }).to_vec(),
        };
        let signed = record.sign(|bytes| own.sign(bytes)).unwrap();
        let (room, own_member) = (signed.id(), signed.record().members[0]);
        let keyring = Arc::new(Keyring::new(own));
        let world = Self { clock, keyring, other, own_member, owner: sender, room, wake, tasks, roots };
        let owner = world.open();
        (world, owner, commands, signed)
    }

    fn open(&self) -> Owner {
        let parts = Parts {
            keyring: Arc::clone(&self.keyring),
            clock: Arc::new(self.clock.clone()),
            path: self.path(),
            tasks: self.tasks.clone(),
            wake: Arc::clone(&self.wake),
            heal_every: Duration::from_secs(3600),
        };
        Owner::open(parts).unwrap()
    }

    /// Ends the owner and begins another one with what is on disk.
    pub(super) async fn restarted(mut self) -> Self {
        let (owner, commands) = mpsc::channel(16);
        let before = std::mem::replace(&mut self.tasks, Tasks::new(Shutdown::new()));
        self.owner = owner;
        assert!(before.drain(LIMIT).await.is_graceful());
        self.run(self.open(), commands);
        self
    }

    pub(super) fn run(&self, owner: Owner, commands: mpsc::Receiver<Command>) {
        self.tasks.spawn(TaskKind::STORE, "rooms", owner.run(commands));
    }

    pub(super) async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> T {
        let (reply, answer) = oneshot::channel();
        assert!(self.owner.send(command(reply)).await.is_ok());
        answer.await.unwrap()
    }

    pub(super) fn path(&self) -> std::path::PathBuf {
        self.roots[0].path().join("rooms.db")
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.clock.now_wall().as_millis().unsigned_abs()
    }

    pub(super) async fn send(&self, text: String) -> Result<MessageId, ErrorCode> {
        let room = self.room;
        let sent = self.ask(|reply| Command::Send { room, text, reply }).await;
        sent.map(|sent| sent.id).map_err(|error| error.code)
    }

    /// A message of the other member with a chosen time.
    pub(super) async fn receive(&self, seq: u64, wall_ms: u64) -> (MessageId, Verdict) {
        let message = self.message(seq, wall_ms, format!("{seq}"));
        self.ingest(Way::Pushed, vec![message]).await[0]
    }

    pub(super) fn message(&self, seq: u64, wall_ms: u64, text: String) -> Verified {
        said(self.room, &self.other, (seq, wall_ms), text)
    }

    pub(super) async fn ingest(&self, way: Way, messages: Vec<Verified>) -> Vec<(MessageId, Verdict)> {
        let from = self.other.node();
        self.ask(|reply| Command::Ingest { from, way, messages, reply }).await
    }

    /// What of these messages of the other member needs no look at its signature.
    pub(super) async fn screen(&self, messages: Vec<Unverified>) -> Screened {
        let from = self.other.node();
        self.ask(|reply| Command::Unknown { from, messages, reply }).await
    }

    /// What a session with the other member would not fetch.
    pub(super) async fn skipped(&self) -> BTreeSet<MessageId> {
        let (room, peer) = (self.room, self.other.node());
        // Nobody reads the queue: it is there so that the peer is linked.
        let (queue, _frames) = mpsc::channel(1);
        assert!(self.owner.send(Command::LinkUp { peer, queue }).await.is_ok());
        assert!(self.owner.send(Command::Want { room, peer }).await.is_ok());
        self.ask(|reply| Command::Begin { reply }).await.pop().unwrap().skip
    }

    /// A room that the other member makes under some key, with this node in it.
    pub(super) fn trap(&self, key: &Identity, nonce: u128) -> Record {
        let creator = Member { node: self.other.node(), key: key.identity_key(), left: None };
        Record {
            creator: creator.key,
            nonce: nonce.to_be_bytes(),
            name: "trap".to_owned(),
            created_ms: 1,
            revision: 1,
            join: Join::Added,
            retention: Retention::default(),
            members: vec![creator, self.own_member],
        }
    }

    pub(super) async fn ids(&self) -> Vec<MessageId> {
        let (room, limit) = (self.room, usize::MAX);
        let (_, said) = self.ask(|reply| Command::Show { room, limit, reply }).await.unwrap();
        said.into_iter().map(|said| said.line.id).collect()
    }

    pub(super) async fn stop(self) {
        let Self { tasks, owner, .. } = self;
        drop(owner);
        assert!(tasks.drain(LIMIT).await.is_graceful());
    }
}

/// A message of some author with this number and time.
pub(super) fn said(room: RoomId, author: &Identity, at: (u64, u64), text: String) -> Verified {
    content(room, author, at, text).sign(|bytes| author.sign(bytes)).unwrap()
}

/// The same for those who do not look at signatures, which takes a tenth of the time.
pub(super) fn unsigned(room: RoomId, author: &Identity, at: (u64, u64)) -> Verified {
    content(room, author, at, String::new()).sign(|_| Signature::from_bytes([0; 64])).unwrap()
}

fn content(room: RoomId, author: &Identity, (seq, wall_ms): (u64, u64), text: String) -> Message {
    Message {
        room,
        author: author.identity_key(),
        seq,
        prev: (seq > 1).then(|| MessageId::from_bytes([seq as u8; 32])),
        parents: vec![],
        hlc: Hlc::at(wall_ms),
        body: Body::Text(text),
    }
}

/// The same as it comes off the wire.
pub(super) fn unverified(message: &Verified) -> Unverified {
    Unverified::decode(message.wire()).unwrap()
}
