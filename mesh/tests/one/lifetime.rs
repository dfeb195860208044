//! How long keys and links live, with a clock that moves only when told.

use std::{sync::Arc, time::Duration};

use osmoda_kit::{
    clock::SharedClock,
    testing::{FakeClock, wait_for},
};
use osmoda_mesh::{Event, IncomingStream, LinkInfo, MeshStream, Tuning};
use osmoda_mesh_protocol::Service;
use osmoda_types::{MeshEpoch, Role};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc::Receiver,
};

use crate::node::{LIMIT, Node, Start, converged, epoch, introduce, members};

const MINUTE: Duration = Duration::from_secs(60);

/// Two linked voters, and the acceptor of the second.
async fn linked(clock: &FakeClock) -> (Node, Node, Receiver<IncomingStream>) {
    linked_by(clock, clock, |_| ()).await
}

/// The same with a clock for each.
async fn linked_by(
    first: &FakeClock,
    second: &FakeClock,
    adjust: fn(&mut Tuning),
) -> (Node, Node, Receiver<IncomingStream>) {
    let start = |seed, clock: &FakeClock| {
        let clock: SharedClock = Arc::new(clock.clone());
        Start { clock, adjust, ..Start::new(seed, Role::Voter) }.run()
    };
    let (a, b) = (start(1, first), start(2, second));
    introduce(2, &[&a, &b]).await;
    converged(&a, &b).await;
    let accepted = b.handle.accept(Service::Raft).unwrap();
    (a, b, accepted)
}

/// A stream with both its ends.
struct Pipe {
    near: MeshStream,
    far: MeshStream,
}

impl Pipe {
    async fn open(from: &Node, to: &Node, accepted: &mut Receiver<IncomingStream>) -> Self {
        let near = from.handle.connect_stream(to.id(), Service::Raft).await.unwrap();
        let far = tokio::time::timeout(LIMIT, accepted.recv()).await.unwrap().unwrap().stream;
        Self { near, far }
    }

    async fn works(&mut self) {
        for (from, to) in [(&mut self.near, &mut self.far)] {
            from.write_all(b"both").await.unwrap();
            to.write_all(b"ways").await.unwrap();
            let mut got = [0; 4];
            to.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"both");
            from.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"ways");
        }
    }
}

async fn counted(node: &Node, event: Event, least: u64) {
    wait_for(event.as_str(), LIMIT, async || (node.handle.count(event) >= least).then_some(())).await;
}

/// Keys are updated and nothing else happens.
fn one_handshake(tuning: &mut Tuning) {
    tuning.rehandshake = Duration::MAX;
}

/// Moves the clock until `node` has updated keys so often. Both quinn's own
/// first update and an update just before put the next one off.
async fn updated(node: &Node, clock: &FakeClock, least: u64) {
    wait_for("an update", LIMIT, async || {
        clock.advance(MINUTE);
        (node.handle.count(Event::KeysUpdated) >= least).then_some(())
    })
    .await;
}

fn link(node: &Node) -> LinkInfo {
    node.handle.peers()[0].link.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hygiene_12_keys_are_updated_every_half_hour_at_both_ends() {
    osmoda_kit::metrics::init();
    let clock = FakeClock::new();
    let (a, b, mut accepted) = linked_by(&clock, &clock, one_handshake).await;
    let mut pipe = Pipe::open(&a, &b, &mut accepted).await;
    pipe.works().await;
    clock.advance(29 * MINUTE);
    assert!(link(&a).key_age_ms <= 29 * 60_000);
    assert_eq!(a.handle.count(Event::KeysUpdated) + b.handle.count(Event::KeysUpdated), 0);
    let counts = || [&a, &b].map(|node| node.handle.count(Event::KeysUpdated));
    for _ in 0..3 {
        let before = counts();
        wait_for("an update", LIMIT, async || {
            clock.advance(MINUTE);
            (counts() != before).then_some(())
        })
        .await;
        // Both ends see it, whoever began it.
        pipe.works().await;
        wait_for("fresh keys", LIMIT, async || {
            [&a, &b].iter().all(|node| link(node).key_age_ms < 30 * 60_000).then_some(())
        })
        .await;
    }
    assert_eq!(a.handle.count(Event::LinkRenewed), 0);
    let info = link(&a);
    assert!(info.bytes_in > 0 && info.bytes_out > 0 && info.sent_packets > 0 && info.mtu >= 1200, "{info:?}");
    assert!(info.loss_ppm() < 1_000_000);
    // The same for whoever reads /metrics.
    let (up, mtu) = (format!("osmoda_mesh_link_up{{peer=\"{0}\"}} 1", b.id().short()), "osmoda_mesh_mtu_bytes{peer=");
    let rendered = wait_for("the numbers", LIMIT, async || {
        let text = osmoda_kit::metrics::render();
        (text.contains(&up) && text.contains(mtu)).then_some(text)
    });
    assert!(rendered.await.contains("osmoda_mesh_events_total{event=\"keys_updated\"}"));
}

/// A peer that never updates does not keep the keys old.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hygiene_12_either_end_alone_updates_the_keys() {
    for first_moves in [true, false] {
        let (first, second) = (FakeClock::new(), FakeClock::new());
        let (a, b, mut accepted) = linked_by(&first, &second, one_handshake).await;
        let mut pipe = Pipe::open(&a, &b, &mut accepted).await;
        let (clock, node) = if first_moves { (&first, &a) } else { (&second, &b) };
        for round in 1..=3 {
            updated(node, clock, round).await;
            pipe.works().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hygiene_12_a_link_is_made_anew_after_two_hours_before_the_old_one_ends() {
    let clock = FakeClock::new();
    let (a, b, mut accepted) = linked(&clock).await;
    let mut old = Pipe::open(&a, &b, &mut accepted).await;
    let mut links = a.handle.subscribe();
    let watched = b.id();
    let never_down = async {
        loop {
            links.changed().await.unwrap();
            assert!(links.borrow().is_up(&watched), "the link was down between the two");
        }
    };
    let renewal = async {
        clock.advance(120 * MINUTE);
        counted(&a, Event::LinkRenewed, 1).await;
        counted(&b, Event::LinkRenewed, 1).await;
        // The old stream lives on, a new one uses the new link.
        old.works().await;
        let mut new = Pipe::open(&a, &b, &mut accepted).await;
        new.works().await;
        old.works().await;
        // At its limit the old link ends; the new one stays.
        let limit = async {
            let mut look = tokio::time::interval(Duration::from_millis(20));
            loop {
                look.tick().await;
                clock.advance(Duration::from_secs(10));
            }
        };
        tokio::select! {
            byte = old.near.read_u8() => assert!(byte.is_err()),
            () = limit => {}
        }
        new.works().await;
        // Once more, with nothing open on the old one: it ends when it is quiet.
        drop(new);
        clock.advance(121 * MINUTE);
        counted(&a, Event::LinkRenewed, 2).await;
        Pipe::open(&a, &b, &mut accepted).await.works().await;
    };
    tokio::select! {
        () = never_down => {}
        () = renewal => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_epoch_moves_the_links_to_its_secret_without_a_gap() {
    let clock = FakeClock::new();
    let (a, b, mut accepted) = linked(&clock).await;
    let mut pipe = Pipe::open(&a, &b, &mut accepted).await;
    // Nor does a crossed dial with the old secret end after the change.
    for node in [&a, &b] {
        wait_for("no handshakes", LIMIT, async || (node.handle.handshakes() == 0).then_some(())).await;
    }
    for node in [&a, &b] {
        node.handle.install_epoch(epoch(2, [2; 32])).await.unwrap();
    }
    for node in [&a, &b] {
        wait_for("the new epoch", LIMIT, async || {
            // A try before the other end knew the secret is repeated.
            clock.advance(Duration::from_secs(1));
            node.handle.peers()[0].epoch.filter(|epoch| *epoch == MeshEpoch(2))
        })
        .await;
        assert_eq!(node.handle.count(Event::OldEpochAccepted), 0);
    }
    drop(pipe.near);
    pipe = Pipe::open(&a, &b, &mut accepted).await;
    pipe.works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_loses_the_followed_link_too() {
    let clock = FakeClock::new();
    let (a, b, mut accepted) = linked(&clock).await;
    let mut old = Pipe::open(&a, &b, &mut accepted).await;
    clock.advance(120 * MINUTE);
    counted(&a, Event::LinkRenewed, 1).await;
    counted(&b, Event::LinkRenewed, 1).await;
    let mut new = Pipe::open(&a, &b, &mut accepted).await;
    old.works().await;
    new.works().await;
    a.handle.update_members(members(3, vec![a.member()])).await.unwrap();
    assert!(old.near.read_u8().await.is_err() && new.near.read_u8().await.is_err());
    assert!(old.far.read_u8().await.is_err() && new.far.read_u8().await.is_err());
}
