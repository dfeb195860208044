//! What a stranger hears: nothing.

use std::{net::SocketAddr, net::UdpSocket, time::Duration};

use osmoda_mesh_crypto::{Psk, QUIC_VERSION};
use osmoda_mesh_protocol::knock;
use osmoda_types::{MeshEpoch, Role};

use quinn::udp::{Transmit, UdpSockRef, UdpSocketState};

use crate::hygiene::{first_flight, send_from};
use crate::node::{NETWORK, Start, clock, converged, introduce};
use crate::raw::Claim;

/// A long-header Initial of the right size with this version and connection id.
fn initial(version: u32, dcid: &[u8]) -> Vec<u8> {
    let mut packet = vec![0xc3];
    packet.extend_from_slice(&version.to_be_bytes());
    packet.push(dcid.len() as u8);
    packet.extend_from_slice(dcid);
    packet.extend_from_slice(&[8, 1, 2, 3, 4, 5, 6, 7, 8]);
    // No token, then a length that fills the datagram.
    packet.push(0);
    let rest = 1200 - packet.len() - 2;
    packet.extend_from_slice(&(0x4000 | rest as u16).to_be_bytes());
    packet.resize(1200, 0x55);
    packet
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hygiene_01_02_a_stranger_and_a_foreign_version_get_zero_bytes() {
    let (a, b) = (Start::new(1, Role::Voter).run(), Start::new(2, Role::Voter).run());
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let wrong =
        knock(Psk::mesh(&NETWORK, MeshEpoch(2), &[1; 32]).knock_key().bytes(), [1; 8], clock().now_wall().as_millis());
    let old = knock(Psk::mesh(&NETWORK, MeshEpoch(1), &[1; 32]).knock_key().bytes(), [1; 8], 0);
    let probes = [
        initial(QUIC_VERSION, &[9; 20]),
        initial(QUIC_VERSION, &wrong),
        initial(QUIC_VERSION, &old),
        initial(QUIC_VERSION, &[9; 8]),
        // QUIC v1, and a version that asks for negotiation.
        initial(1, &[9; 20]),
        initial(0x1a2a_3a4a, &[9; 20]),
        vec![0x40; 1200],
        vec![0; 1],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ];
    for probe in &probes {
        for _ in 0..3 {
            stranger.send_to(probe, a.handle.local_address()).unwrap();
        }
    }
    // A whole link made after the probes: by then they have been judged.
    introduce(2, &[&a, &b]).await;
    converged(&a, &b).await;
    stranger.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let heard = stranger.recv_from(&mut [0; 2000]);
    assert!(heard.is_err(), "a stranger was answered: {heard:?}");
}

#[tokio::test]
async fn hygiene_01_a_well_protected_first_packet_with_a_short_connection_id_is_not_answered() {
    // quinn would say that the id is too short, in a packet of its own.
    let a = Start::new(1, Role::Voter).run();
    for length in [0, 1, 7, 14, 20] {
        let flight = first_flight(Claim { dcid: Some(vec![9; length]), ..Claim::member(9) }).await;
        assert_eq!(send_from(SocketAddr::from(([127, 0, 0, 1], 0)), &a, &flight).await, 0, "{length}");
    }
}

#[tokio::test]
async fn hygiene_01_a_knock_is_heard_among_strangers_in_one_burst() {
    let a = Start::new(1, Role::Voter).run();
    let flight = first_flight(Claim::member(9)).await;
    let (bad, size) = (initial(QUIC_VERSION, &[9; 20]), flight[0].len());
    assert_eq!((bad.len(), flight[1].len()), (size, size), "the kernel joins datagrams of one size");
    let burst = [&bad[..], &flight[0], &bad, &bad, &flight[1], &bad[..100]].concat();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let state = UdpSocketState::new(UdpSockRef::from(&socket)).unwrap();
    let segments = burst.len().div_ceil(size);
    assert!(state.max_gso_segments() >= segments, "this kernel sends no bursts");
    let destination = a.handle.local_address();
    let transmit = Transmit { destination, ecn: None, contents: &burst, segment_size: Some(size), src_ip: None };
    state.send(UdpSockRef::from(&socket), &transmit).unwrap();
    // Its handshake goes on: message 2 comes back.
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(socket.set_nonblocking(false).is_ok());
    let heard = tokio::task::spawn_blocking(move || socket.recv(&mut [0; 2000])).await.unwrap();
    assert!(heard.unwrap() >= 1200, "message 2");
}
