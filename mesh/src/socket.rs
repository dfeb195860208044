//! The UDP socket: larger buffers, and silence towards other QUIC versions.
//!
//! quinn answers a long-header packet of a version it does not know with a
//! version negotiation packet (43 bytes, `mesh.md` section 7, item 2). That
//! would tell any scanner that something listens here, so such packets are
//! dropped before quinn sees them.

use std::{
    fmt::Debug,
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use osmoda_mesh_crypto::QUIC_VERSION;
use quinn::{
    AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use socket2::{Domain, Protocol, Socket, Type};

/// Wanted kernel buffers: about 35 ms of 1 Gbit/s, so that a stalled process
/// does not drop packets at once. Best effort: the system may allow less.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// The long-header bit of a QUIC packet (RFC 8999 section 5.1).
const LONG_HEADER: u8 = 0x80;

/// Opens the socket for quinn.
pub(crate) fn open(address: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    for (what, result) in
        [("receive", socket.set_recv_buffer_size(BUFFER_BYTES)), ("send", socket.set_send_buffer_size(BUFFER_BYTES))]
    {
        if let Err(error) = result {
            tracing::debug!(what, %error, "socket buffer stays small");
        }
    }
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    let inner = TokioRuntime.wrap_udp_socket(UdpSocket::from(socket))?;
    Ok(Arc::new(OurVersionOnly { inner }))
}

#[derive(Debug)]
struct OurVersionOnly {
    inner: Arc<dyn AsyncUdpSocket>,
}

impl AsyncUdpSocket for OurVersionOnly {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(self.inner.poll_recv(cx, bufs, meta))?;
        for (buf, meta) in bufs.iter_mut().zip(meta.iter_mut()).take(count) {
            let bytes = buf.get_mut(..meta.len).unwrap_or_default();
            meta.len = keep_ours(bytes, meta.stride);
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// Closes up the datagrams of one buffer over the foreign ones among them and
/// returns the length that is left. The kernel puts datagrams of one source and
/// one size together, the last one possibly shorter; whoever writes that source
/// on a packet must not get the honest ones dropped.
fn keep_ours(bytes: &mut [u8], stride: usize) -> usize {
    let (stride, length) = (stride.max(1), bytes.len());
    let mut kept = 0;
    for from in (0..length).step_by(stride) {
        let to = length.min(from + stride);
        if !is_foreign(&bytes[from..to]) {
            bytes.copy_within(from..to, kept);
            kept += to - from;
        }
    }
    kept
}

/// Whether a datagram begins with a long header of another version.
fn is_foreign(datagram: &[u8]) -> bool {
    match datagram {
        [first, version @ ..] if first & LONG_HEADER != 0 => !version.starts_with(&QUIC_VERSION.to_be_bytes()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_headers_of_other_versions_are_foreign() {
        let ours = [&[0xc0][..], &QUIC_VERSION.to_be_bytes(), &[1, 2, 3]].concat();
        assert!(!is_foreign(&ours));
        assert!(!is_foreign(&[0x40, 1, 2, 3, 4, 5]));
        assert!(!is_foreign(&[]));
        assert!(is_foreign(&[0xc0, 0, 0, 0, 1, 9]));
        assert!(is_foreign(&ours[..4]));
    }

    #[test]
    fn hygiene_02_a_foreign_datagram_in_a_burst_does_not_take_ours_along() {
        let ours = |byte| [&[0xc0][..], &QUIC_VERSION.to_be_bytes(), &[byte; 3]].concat();
        let foreign = [0xc0, 0, 0, 0, 1, 9, 9, 9].to_vec();
        let short = vec![0x40, 7];
        for (burst, left) in [
            (vec![ours(1), foreign.clone(), ours(2), short.clone()], vec![ours(1), ours(2), short.clone()]),
            (vec![foreign.clone(), foreign.clone()], vec![]),
            (vec![foreign, short.clone()], vec![short]),
            (vec![ours(1), ours(2)], vec![ours(1), ours(2)]),
        ] {
            let mut bytes = burst.concat();
            let kept = keep_ours(&mut bytes, 8);
            assert_eq!(bytes[..kept], left.concat());
        }
        assert_eq!(keep_ours(&mut [], 0), 0);
    }
}
