//! The UDP socket: larger buffers, and a sieve in front of quinn.
//!
//! What the sieve drops, quinn never sees: strangers cost no keys and hear
//! nothing, not even which version is spoken here (`mesh.md` section 7, items 1
//! and 2).

use std::{
    fmt::Debug,
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::sieve::Sieve;

/// Wanted kernel buffers: about 35 ms of 1 Gbit/s, so that a stalled process
/// does not drop packets at once. Best effort: the system may allow less.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Opens the socket for quinn.
pub(crate) fn open(address: SocketAddr, sieve: Sieve) -> io::Result<Arc<dyn AsyncUdpSocket>> {
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
    Ok(Arc::new(Sieved { inner, sieve }))
}

#[derive(Debug)]
struct Sieved {
    inner: Arc<dyn AsyncUdpSocket>,
    sieve: Sieve,
}

impl AsyncUdpSocket for Sieved {
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
            meta.len = self.sieve.keep(bytes, meta.stride, meta.addr);
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
