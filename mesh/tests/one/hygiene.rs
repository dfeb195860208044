//! The list of `mesh.md` section 7 on the wire: what a peer can make us spend
//! before it is admitted.

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use osmoda_kit::{clock::SharedClock, testing::FakeClock, testing::wait_for};
use osmoda_mesh::{Enroller, Event, InviteSecret, Joiner, Spend};
use osmoda_mesh_crypto::{Mode, Psk};
use osmoda_mesh_protocol::{Preamble, SecretBytes, Service};
use osmoda_types::{ErrorCode, InviteId, Role};
use tokio::net::UdpSocket;

use crate::{
    node::{LIMIT, NETWORK, Node, Start, clock, converged, introduce, member, members},
    raw::{self, Claim},
};

/// How long to listen for an answer that must not come.
const HEARING: Duration = Duration::from_millis(300);

/// How long joiners try that come all at once: longer than their handshakes take on
/// a busy machine, and shorter than an invite may take to be spent, after which
/// their places are free again.
const JOINING: Duration = Duration::from_secs(8);

/// The first datagrams of a handshake, caught before they arrive.
pub(crate) async fn first_flight(claim: Claim) -> Vec<Vec<u8>> {
    let sink = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let endpoint = raw::endpoint(None);
    let to = sink.local_addr().unwrap();
    // Held, so that it goes on sending.
    let _dialling = endpoint.connect_with(claim.client(), to, "mesh").unwrap();
    // The first message takes two datagrams; what follows are the same again.
    let mut flight = Vec::new();
    let mut buffer = [0; 2000];
    while flight.len() < 2 {
        let (length, _) = tokio::time::timeout(LIMIT, sink.recv_from(&mut buffer)).await.unwrap().unwrap();
        flight.push(buffer[..length].to_vec());
    }
    flight
}

/// Sends datagrams from an address and returns the bytes that come back.
pub(crate) async fn send_from(from: SocketAddr, to: &Node, datagrams: &[Vec<u8>]) -> usize {
    exchanged(from, to, datagrams, HEARING).await
}

/// The same, when the first datagram may come so late; those that follow come soon.
async fn exchanged(from: SocketAddr, to: &Node, datagrams: &[Vec<u8>], first: Duration) -> usize {
    let socket = UdpSocket::bind(from).await.unwrap();
    for datagram in datagrams {
        socket.send_to(datagram, to.handle.local_address()).await.unwrap();
    }
    let (mut heard, mut limit, mut buffer) = (0, first, [0; 2000]);
    while let Ok(Ok((length, _))) = tokio::time::timeout(limit, socket.recv_from(&mut buffer)).await {
        heard += length;
        limit = HEARING;
    }
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hygiene_03_05_half_open_handshakes_are_bounded_and_honest_peers_still_get_in() {
    let a = Start::new(1, Role::Voter).run();
    let flights = futures_util::future::join_all((0..100).map(|_| first_flight(Claim::member(9)))).await;
    // Each from a network of its own, so that only the load counts; none goes on.
    let senders = flights.iter().enumerate().map(|(at, flight)| {
        let from = SocketAddr::from(([127, 0, u8::try_from(at).unwrap() + 1, 1], 0));
        send_from(from, &a, flight)
    });
    let peak = async {
        let peak = AtomicUsize::new(0);
        wait_for("the retries", LIMIT, async || {
            peak.fetch_max(a.handle.handshakes(), Ordering::Relaxed);
            (a.handle.count(Event::RetryAsked) >= 30).then_some(())
        })
        .await;
        peak.into_inner().max(a.handle.handshakes())
    };
    let (heard, peak) = tokio::join!(futures_util::future::join_all(senders), peak);
    assert!((40..=64).contains(&peak), "{peak} half-open handshakes");
    // Nobody got more than three times what it sent.
    assert!(heard.iter().all(|bytes| *bytes <= 3 * 2400), "{heard:?}");

    // An honest peer proves its address and is in while the places are taken.
    let b = Start::new(2, Role::Voter).run();
    introduce(2, &[&a, &b]).await;
    converged(&a, &b).await;
    // After the handshake's time the places are free.
    wait_for("free places", LIMIT, async || (a.handle.handshakes() == 0).then_some(())).await;
}

/// An enroller that never decides.
struct Undecided;

impl Enroller for Undecided {
    fn spend(&self, _: InviteId, _: Joiner) -> Spend<'_> {
        Box::pin(std::future::pending())
    }
}

/// A joiner's claim with this invite.
fn joiner(invite: InviteId, secret: [u8; 32]) -> Claim {
    let identity = crate::node::identity(9);
    let request = identity.join_request(&NETWORK, &invite, "raw".to_owned(), vec![]);
    Claim {
        psk: Psk::pair(&NETWORK, &invite, &secret),
        mode: Mode::Pair(invite),
        hello: serde_json::to_vec(&request).unwrap(),
        ..Claim::member(9)
    }
}

#[tokio::test]
async fn hygiene_03_pairing_always_proves_the_address_first() {
    let a = Start { enroller: Some(Arc::new(Undecided)), ..Start::new(1, Role::Voter) }.run();
    let (invite, secret) = (InviteId::from_bytes([1; 16]), [2; 32]);
    let expires_ms = clock().now_wall().plus(LIMIT).as_millis();
    a.handle.open_invite(&InviteSecret { id: invite, secret: SecretBytes::new(secret), expires_ms }).unwrap();
    let endpoint = raw::endpoint(None);
    raw::dial(&endpoint, joiner(invite, secret), a.handle.local_address()).await.unwrap();
    assert_eq!(a.handle.count(Event::RetryAsked), 1);
}

/// Opens an invite at a node and dials it as so many joiners, each from a network
/// of its own, that never close. Those without a place meet silence.
async fn joiners(a: &Node, count: u8) -> Vec<(quinn::Endpoint, Result<quinn::Connection, String>)> {
    let (invite, secret) = (InviteId::from_bytes([1; 16]), [2; 32]);
    let expires_ms = clock().now_wall().plus(LIMIT).as_millis();
    a.handle.open_invite(&InviteSecret { id: invite, secret: SecretBytes::new(secret), expires_ms }).unwrap();
    let dials = (1..=count).map(|net| async move {
        let socket = std::net::UdpSocket::bind(SocketAddr::from(([127, 0, net, 1], 0))).unwrap();
        let endpoint = raw::at(socket, None);
        let to = a.handle.local_address();
        let dialled = raw::dial_within(JOINING, &endpoint, joiner(invite, secret), to).await;
        (endpoint, dialled)
    });
    futures_util::future::join_all(dials).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hygiene_08_joiners_at_once_leave_the_members_their_places() {
    let a = Start { enroller: Some(Arc::new(Undecided)), ..Start::new(1, Role::Voter) }.run();
    let held = joiners(&a, 40).await;
    assert_eq!(held.iter().filter(|(_, dialled)| dialled.is_ok()).count(), 16);
    assert_eq!(a.handle.handshakes(), 16);
    assert!(a.handle.count(Event::Limited) > 0);
    let b = Start::new(2, Role::Voter).run();
    introduce(2, &[&a, &b]).await;
    converged(&a, &b).await;
}

/// An enroller whose invites are all spent.
struct Spent;

impl Enroller for Spent {
    fn spend(&self, _: InviteId, _: Joiner) -> Spend<'_> {
        Box::pin(std::future::ready(Err(ErrorCode::InviteSpent)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hygiene_08_a_refused_joiner_that_stays_is_let_go_soon() {
    let a = Start { enroller: Some(Arc::new(Spent)), ..Start::new(1, Role::Voter) }.run();
    let held = joiners(&a, 16).await;
    assert!(held.iter().all(|(_, dialled)| dialled.is_ok()));
    // Well below the time that an invite may take to be spent.
    wait_for("free places", Duration::from_secs(8), async || (a.handle.handshakes() == 0).then_some(())).await;
    for (_, dialled) in &held {
        raw::closed(dialled.as_ref().unwrap()).await;
    }
}

#[tokio::test]
async fn hygiene_06_before_admission_a_peer_opens_no_stream_and_sends_no_datagram() {
    let a = Start { enroller: Some(Arc::new(Undecided)), ..Start::new(1, Role::Voter) }.run();
    let (invite, secret) = (InviteId::from_bytes([1; 16]), [2; 32]);
    let expires_ms = clock().now_wall().plus(LIMIT).as_millis();
    a.handle.open_invite(&InviteSecret { id: invite, secret: SecretBytes::new(secret), expires_ms }).unwrap();
    let endpoint = raw::endpoint(None);
    let link = raw::dial(&endpoint, joiner(invite, secret), a.handle.local_address()).await.unwrap();
    assert!(tokio::time::timeout(HEARING, link.open_bi()).await.is_err(), "a stream was allowed");
    assert!(tokio::time::timeout(HEARING, link.open_uni()).await.is_err(), "a stream was allowed");
    // With SWIM datagrams go into a bounded buffer that nobody reads before
    // admission.
    assert_eq!(link.max_datagram_size().is_some(), cfg!(feature = "swim"));
}

#[tokio::test]
async fn hygiene_09_there_is_no_early_data_and_a_replayed_first_message_makes_no_link() {
    let clock = FakeClock::new();
    let shared: SharedClock = Arc::new(clock.clone());
    let a = Start { clock: shared, ..Start::new(1, Role::Voter) }.run();
    let victim = crate::node::identity(2);
    let listed = member(&victim, Role::Voter, vec![]);
    a.handle.update_members(members(2, vec![a.member(), listed])).await.unwrap();
    let skew_ms = osmoda_kit::clock::Clock::now_wall(&clock).as_millis() - crate::node::clock().now_wall().as_millis();

    // The member's own first message, with its real keys, seen by somebody on the way.
    let flight = first_flight(Claim { key: [2; 32], skew_ms, ..Claim::member(2) }).await;
    let at = |last: u8| SocketAddr::from(([127, 0, 0, last], 0));
    let answer = exchanged(at(1), &a, &flight, LIMIT).await;
    assert!(answer > 0 && answer <= 3 * 2400, "message 2 and nothing more: {answer}");
    // Again, when the first is over and from elsewhere: not even message 2.
    wait_for("the time-out", LIMIT, async || (a.handle.handshakes() == 0).then_some(())).await;
    wait_for("silence", LIMIT, async || {
        // quinn lets go of the first connection a moment later.
        let heard = send_from(at(2), &a, &flight).await;
        (heard == 0 && a.handle.count(Event::Replayed) > 0).then_some(())
    })
    .await;
    assert!(a.handle.peers().iter().all(|peer| !peer.connected));
    // A minute later its knock is over too.
    clock.advance(Duration::from_secs(90));
    assert_eq!(send_from(at(3), &a, &flight).await, 0);

    let endpoint = raw::endpoint(None);
    let early = endpoint.connect_with(Claim::member(2).client(), a.handle.local_address(), "mesh").unwrap();
    assert!(early.into_0rtt().is_err(), "early data was offered");
}

#[tokio::test]
async fn hygiene_13_a_wrong_clock_is_made_up_for_by_a_proven_member_address_and_nothing_else() {
    let a = Start::new(1, Role::Voter).run();
    let away = crate::node::identity(2);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let listed = member(&away, Role::Voter, vec![socket.local_addr().unwrap()]);
    a.handle.update_members(members(2, vec![a.member(), listed])).await.unwrap();
    let wrong = || Claim { skew_ms: 3_600_000, ..Claim::member(2) };

    let elsewhere = raw::endpoint(None);
    assert_eq!(raw::dial(&elsewhere, wrong(), a.handle.local_address()).await.unwrap_err(), "silence");
    assert_eq!((a.handle.count(Event::RetryAsked), a.handle.count(Event::KnockMissed)), (0, 0));

    let known = raw::at(socket, Some(&away));
    let link = raw::dial(&known, wrong(), a.handle.local_address()).await.unwrap();
    link.accept_uni().await.expect("admitted");
    assert_eq!(a.handle.count(Event::KnockMissed), 1);
    assert!(a.handle.count(Event::RetryAsked) >= 1);
}

#[tokio::test]
async fn hygiene_13_nothing_but_the_knock_depends_on_the_wall_clock() {
    let clock = FakeClock::new();
    let start = |seed| {
        let clock: SharedClock = Arc::new(clock.clone());
        Start { clock, ..Start::new(seed, Role::Voter) }.run()
    };
    let (a, b) = (start(1), start(2));
    introduce(2, &[&a, &b]).await;
    converged(&a, &b).await;
    // NTP steps by a year, both ways: links stay and new ones come up.
    for wall in [1_000, 4_000_000_000_000] {
        clock.jump_wall(osmoda_kit::clock::Timestamp::from_millis(wall));
        assert!(a.handle.subscribe().borrow().is_up(&b.id()));
        let c = start(u8::try_from(wall % 7).unwrap() + 10);
        let all = members(u64::try_from(wall).unwrap(), vec![a.member(), b.member(), c.member()]);
        for node in [&a, &b, &c] {
            node.handle.update_members(all.clone()).await.unwrap();
        }
        c.linked(a.id(), true).await;
        assert_eq!(a.handle.epochs().len(), 1);
    }
}

/// The peer reads nothing but `Admitted` and grants 128 bytes beside it: as many
/// streams are accepted, and the others wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_takes_no_answers_costs_the_others_no_place() {
    let adjust = |tuning: &mut osmoda_mesh::Tuning| tuning.handshake = Duration::from_secs(2);
    let a = Start { adjust, ..Start::new(1, Role::Voter) }.run();
    let honest = Start::new(3, Role::Voter).run();
    let thief = member(&crate::node::identity(2), Role::Voter, vec![]);
    let all = members(2, vec![a.member(), honest.member(), thief]);
    a.handle.update_members(all.clone()).await.unwrap();
    let mut accepted = a.handle.accept(Service::Keys).unwrap();

    let endpoint = raw::endpoint(None);
    let mut config = Claim::member(2).client();
    let mut transport = quinn::TransportConfig::default();
    transport.receive_window(quinn::VarInt::from_u32(128));
    config.transport_config(Arc::new(transport));
    let link = endpoint.connect_with(config, a.handle.local_address(), "mesh").unwrap().await.unwrap();
    link.accept_uni().await.unwrap().read_to_end(1000).await.unwrap();
    honest.handle.update_members(all).await.unwrap();
    honest.linked(a.id(), true).await;
    let taken = AtomicUsize::new(0);
    let served = async {
        let mut held = Vec::new();
        while let Some(stream) = accepted.recv().await {
            held.extend((stream.peer.node != honest.id()).then_some(stream));
            taken.store(held.len(), Ordering::Relaxed);
        }
    };
    let asked = async {
        let mut held = Vec::new();
        // Slowly at first, so that it is never the queue that is full.
        for (opened, accepted) in [(32, 32), (64, 64), (96, 96), (128, 128), (256, 128)] {
            while held.len() < opened {
                let (mut send, recv) = link.open_bi().await.unwrap();
                send.write_all(&Preamble { service: Service::Keys }.encode()).await.unwrap();
                held.push((send, recv));
            }
            let is_taken = async || (taken.load(Ordering::Relaxed) >= accepted).then_some(());
            wait_for("the streams", LIMIT, is_taken).await;
        }
        // Until the last of them has waited in vain: it loses the stream, not the link.
        let mut last = pin!(held.last_mut().unwrap().1.read_to_end(16));
        let heard = loop {
            tokio::select! {
                // Safe to drop: another one is asked for.
                heard = &mut last => break heard,
                asked = honest.handle.connect_stream(a.id(), Service::Keys) => drop(asked.expect("a place")),
            }
        };
        assert!(heard.unwrap().is_empty() && link.close_reason().is_none());
    };
    tokio::select! {
        // Safe to drop: the test is over then.
        () = served => panic!("the queue ended"),
        () = asked => {}
    }
}

#[tokio::test]
async fn a_peer_that_lets_itself_not_be_admitted_loses_its_link() {
    let adjust = |tuning: &mut osmoda_mesh::Tuning| tuning.handshake = Duration::from_millis(500);
    let a = Start { adjust, ..Start::new(1, Role::Voter) }.run();
    let thief = member(&crate::node::identity(2), Role::Voter, vec![]);
    let node = thief.node;
    a.handle.update_members(members(2, vec![a.member(), thief])).await.unwrap();
    let endpoint = raw::endpoint(None);
    let mut config = Claim::member(2).client();
    let mut transport = quinn::TransportConfig::default();
    transport.max_concurrent_uni_streams(0u8.into());
    config.transport_config(Arc::new(transport));
    let link = endpoint.connect_with(config, a.handle.local_address(), "mesh").unwrap().await.unwrap();
    let quinn::ConnectionError::ApplicationClosed(close) = raw::closed(&link).await else { panic!("another close") };
    assert_eq!(u64::from(close.error_code), u64::from(osmoda_mesh_protocol::CLOSE_REFUSED));
    a.linked(node, false).await;
}

/// Everything that is logged while a host joins and links, at the finest level.
#[tokio::test]
async fn hygiene_15_no_secret_is_logged() {
    #[derive(Clone, Default)]
    struct Captured(Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let (a, b) = (Start { secret: [0xa1; 32], ..Start::new(0x91, Role::Voter) }, Start::new(0x51, Role::Voter));
    let (a, b) = (a.run(), Start { secret: [0xa1; 32], rejoin: Some(SecretBytes::new([0xc1; 32])), ..b }.run());
    introduce(2, &[&a, &b]).await;
    converged(&a, &b).await;
    let invite = InviteSecret {
        id: InviteId::from_bytes([1; 16]),
        secret: SecretBytes::new([0xd1; 32]),
        expires_ms: clock().now_wall().plus(LIMIT).as_millis(),
    };
    a.handle.open_invite(&invite).unwrap();
    let endpoint = raw::endpoint(None);
    raw::dial(&endpoint, joiner(invite.id, [0xd1; 32]), a.handle.local_address()).await.unwrap();
    a.handle.install_epoch(crate::node::epoch(2, [0xe1; 32])).await.unwrap();
    drop(guard);
    let text = String::from_utf8_lossy(&captured.0.lock().unwrap()).to_lowercase();
    assert!(text.contains("link up") && text.len() > 1000, "something was captured");
    for byte in [0xa1u8, 0x91, 0x51, 0xc1, 0xd1, 0xe1] {
        let (hex, list) = (format!("{byte:02x}").repeat(8), format!("{byte}, ").repeat(8));
        assert!(!text.contains(&hex) && !text.contains(&list), "a secret of {byte:02x} was logged");
    }
}

#[tokio::test]
async fn every_refusal_after_the_secret_looks_the_same() {
    let a = Start::new(1, Role::Voter).run();
    let (known, gone) = (crate::node::identity(2), crate::node::identity(3));
    let with = |index, list| members(index, list);
    let listed = member(&known, Role::Voter, vec![]);
    let removed = member(&gone, Role::Voter, vec![]);
    a.handle.update_members(with(2, vec![a.member(), listed.clone(), removed])).await.unwrap();
    a.handle.update_members(with(3, vec![a.member(), listed])).await.unwrap();
    let to = a.handle.local_address();
    let endpoint = raw::endpoint(None);
    let mut refusals = std::collections::BTreeSet::new();
    // A key nobody knows, a revoked one, and our own.
    for key in [9, 3, 1] {
        let outcome = match raw::dial(&endpoint, Claim::member(key), to).await {
            Ok(link) => raw::closed(&link).await.to_string(),
            Err(error) => error,
        };
        refusals.insert(outcome);
    }
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    // A member that says nonsense is closed with the code of every refusal.
    let nonsense = Claim { hello: b"{}".to_vec(), ..Claim::member(2) };
    let link = raw::dial(&endpoint, nonsense, to).await.unwrap();
    let quinn::ConnectionError::ApplicationClosed(close) = raw::closed(&link).await else { panic!("another close") };
    assert_eq!((u64::from(close.error_code), close.reason.len()), (u64::from(osmoda_mesh_protocol::CLOSE_REFUSED), 0));
    assert_eq!(a.handle.connect_stream(known.node(), Service::Raft).await.unwrap_err().code(), ErrorCode::PeerOffline);
}
