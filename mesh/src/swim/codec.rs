//! The bytes of SWIM's packets, and what of them is believed. *Pure.*
//!
//! ```text
//! packet    kind u8 | source | incarnation u16 | destination | probe u8 | other
//!           [ count u16 | update * ]      probe and other only where the kind has them
//! update    identity | incarnation u16 | state u8
//! identity  node 32 | boot u64                                        (big-endian)
//! ```
//! Invariant: what goes on to the protocol comes from the peer that the link
//! proved, is meant for this node, and speaks of members of the snapshot only;
//! a revoked member is therefore never believed to live, whoever says so.

use std::collections::BTreeSet;

use bytes::{Buf, BufMut};
use foca::{Header, Member, Message, State};
use osmoda_types::NodeId;

/// A member's start: who, and which of its starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Start {
    pub(crate) node: NodeId,
    /// The wall clock in milliseconds when it started, or more: see
    /// [`Start::renew`](foca::Identity::renew).
    pub(crate) boot: u64,
}

impl foca::Identity for Start {
    type Addr = NodeId;

    /// The next start of this member, when the others believe that this one is
    /// over. A thousandth is some 20 days of clock, so a node whose clock went
    /// back by less needs one round to be believed again.
    fn renew(&self) -> Option<Self> {
        Some(Self { boot: self.boot.saturating_add(self.boot / 1000 + 1), ..*self })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, other: &Self) -> bool {
        self.boot > other.boot
    }
}

/// Bytes of an identity.
const START_BYTES: usize = 32 + 8;

/// Bytes of an update.
const MEMBER_BYTES: usize = START_BYTES + 2 + 1;

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Ping = 0,
    Ack = 1,
    PingReq = 2,
    IndirectPing = 3,
    IndirectAck = 4,
    ForwardedAck = 5,
    Announce = 6,
    Feed = 7,
    Gossip = 8,
    TurnUndead = 9,
}

const KINDS: [Kind; 10] = [
    Kind::Ping,
    Kind::Ack,
    Kind::PingReq,
    Kind::IndirectPing,
    Kind::IndirectAck,
    Kind::ForwardedAck,
    Kind::Announce,
    Kind::Feed,
    Kind::Gossip,
    Kind::TurnUndead,
];

/// Whether a packet is worth a link that is not there yet: one that begins an
/// exchange. Answers go back where the question came from, gossip goes where a
/// link is.
pub(crate) fn begins_exchange(packet: &[u8]) -> bool {
    const KINDS: [u8; 4] = [Kind::Ping as u8, Kind::PingReq as u8, Kind::IndirectPing as u8, Kind::Announce as u8];
    packet.first().is_some_and(|kind| KINDS.contains(kind))
}

/// What of a packet may be believed: the packet without updates about strangers,
/// or nothing.
pub(crate) fn believable(
    packet: &[u8],
    from: NodeId,
    own: NodeId,
    members: &BTreeSet<NodeId>,
) -> Result<Vec<u8>, Malformed> {
    let mut rest = packet;
    let header = Codec.header(&mut rest)?;
    let other = match header.message {
        Message::PingReq { target: other, .. }
        | Message::IndirectAck { target: other, .. }
        | Message::IndirectPing { origin: other, .. }
        | Message::ForwardedAck { origin: other, .. } => Some(other.node),
        _ => None,
    };
    let strange = |node: NodeId| !members.contains(&node);
    if header.src.node != from || header.dst.node != own || strange(from) || other.is_some_and(strange) {
        return Err(Malformed);
    }
    let mut kept = packet[..packet.len() - rest.len()].to_vec();
    if rest.is_empty() {
        return Ok(kept);
    }
    let (mut count, announced) = (0u16, rest.try_get_u16().map_err(|_| Malformed)?);
    let at = kept.len();
    kept.put_u16(0);
    for _ in 0..announced {
        let update = rest.get(..MEMBER_BYTES).ok_or(Malformed)?;
        if members.contains(&Codec.member(&mut rest)?.id().node) {
            kept.put_slice(update);
            count += 1;
        }
    }
    kept[at..at + 2].copy_from_slice(&count.to_be_bytes());
    // There are no broadcasts of other kinds.
    if rest.is_empty() { Ok(kept) } else { Err(Malformed) }
}

/// The bytes are no packet, or none that concerns this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a packet that may be believed")]
pub(crate) struct Malformed;

/// The codec.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Codec;

impl Codec {
    fn header(self, mut buf: impl Buf) -> Result<Header<Start>, Malformed> {
        let kind = usize::from(buf.try_get_u8().map_err(|_| Malformed)?);
        let kind = *KINDS.get(kind).ok_or(Malformed)?;
        let src = start(&mut buf)?;
        let src_incarnation = buf.try_get_u16().map_err(|_| Malformed)?;
        let dst = start(&mut buf)?;
        let mut probe = || -> Result<_, Malformed> {
            let number = buf.try_get_u8().map_err(|_| Malformed)?;
            let other = match kind {
                Kind::Ping | Kind::Ack => src,
                _ => start(&mut buf)?,
            };
            Ok((number, other))
        };
        let message = match kind {
            Kind::Ping => Message::Ping(probe()?.0),
            Kind::Ack => Message::Ack(probe()?.0),
            Kind::PingReq => probe().map(|(probe_number, target)| Message::PingReq { target, probe_number })?,
            Kind::IndirectPing => {
                probe().map(|(probe_number, origin)| Message::IndirectPing { origin, probe_number })?
            }
            Kind::IndirectAck => probe().map(|(probe_number, target)| Message::IndirectAck { target, probe_number })?,
            Kind::ForwardedAck => {
                probe().map(|(probe_number, origin)| Message::ForwardedAck { origin, probe_number })?
            }
            Kind::Announce => Message::Announce,
            Kind::Feed => Message::Feed,
            Kind::Gossip => Message::Gossip,
            Kind::TurnUndead => Message::TurnUndead,
        };
        Ok(Header { src, src_incarnation, dst, message })
    }

    fn member(self, mut buf: impl Buf) -> Result<Member<Start>, Malformed> {
        let id = start(&mut buf)?;
        let incarnation = buf.try_get_u16().map_err(|_| Malformed)?;
        let state = match buf.try_get_u8().map_err(|_| Malformed)? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            _ => return Err(Malformed),
        };
        Ok(Member::new(id, incarnation, state))
    }
}

fn start(mut buf: impl Buf) -> Result<Start, Malformed> {
    let mut node = [0; 32];
    buf.try_copy_to_slice(&mut node).map_err(|_| Malformed)?;
    let boot = buf.try_get_u64().map_err(|_| Malformed)?;
    Ok(Start { node: NodeId::from_bytes(node), boot })
}

fn put_start(start: &Start, mut buf: impl BufMut) {
    buf.put_slice(start.node.as_bytes());
    buf.put_u64(start.boot);
}

impl foca::Codec<Start> for Codec {
    type Error = Malformed;

    fn encode_header(&mut self, header: &Header<Start>, mut buf: impl BufMut) -> Result<(), Malformed> {
        let (kind, probe, other) = match &header.message {
            Message::Ping(number) => (Kind::Ping, Some(number), None),
            Message::Ack(number) => (Kind::Ack, Some(number), None),
            Message::PingReq { target, probe_number } => (Kind::PingReq, Some(probe_number), Some(target)),
            Message::IndirectPing { origin, probe_number } => (Kind::IndirectPing, Some(probe_number), Some(origin)),
            Message::IndirectAck { target, probe_number } => (Kind::IndirectAck, Some(probe_number), Some(target)),
            Message::ForwardedAck { origin, probe_number } => (Kind::ForwardedAck, Some(probe_number), Some(origin)),
            Message::Announce => (Kind::Announce, None, None),
            Message::Feed => (Kind::Feed, None, None),
            Message::Gossip => (Kind::Gossip, None, None),
            Message::TurnUndead => (Kind::TurnUndead, None, None),
            // This node broadcasts nothing else.
            Message::Broadcast => return Err(Malformed),
        };
        buf.put_u8(kind as u8);
        put_start(&header.src, &mut buf);
        buf.put_u16(header.src_incarnation);
        put_start(&header.dst, &mut buf);
        if let Some(number) = probe {
            buf.put_u8(*number);
        }
        if let Some(other) = other {
            put_start(other, &mut buf);
        }
        Ok(())
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<Start>, Malformed> {
        self.header(buf)
    }

    fn encode_member(&mut self, member: &Member<Start>, mut buf: impl BufMut) -> Result<(), Malformed> {
        if buf.remaining_mut() < MEMBER_BYTES {
            return Err(Malformed);
        }
        put_start(member.id(), &mut buf);
        buf.put_u16(member.incarnation());
        buf.put_u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        Ok(())
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<Start>, Malformed> {
        self.member(buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use foca::Codec as _;

    fn id(number: u8) -> Start {
        Start { node: NodeId::from_bytes([number; 32]), boot: u64::from(number) << 40 }
    }

    fn packet(message: Message<Start>, updates: &[Member<Start>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let header = Header { src: id(1), src_incarnation: 3, dst: id(2), message };
        Codec.encode_header(&header, &mut bytes).unwrap();
        assert_eq!(Codec.decode_header(&bytes[..]), Ok(header));
        if !updates.is_empty() {
            bytes.put_u16(updates.len() as u16);
            for update in updates {
                Codec.encode_member(update, &mut bytes).unwrap();
            }
        }
        bytes
    }

    fn members(numbers: &[u8]) -> BTreeSet<NodeId> {
        numbers.iter().map(|number| id(*number).node).collect()
    }

    fn check(packet: &[u8], from: u8, members_of: &[u8]) -> Result<Vec<u8>, Malformed> {
        believable(packet, id(from).node, id(2).node, &members(members_of))
    }

    #[test]
    fn every_message_reads_back_and_no_cut_or_longer_one_does() {
        let (probe_number, target, origin) = (9, id(3), id(4));
        let messages = [
            Message::Ping(7),
            Message::Ack(7),
            Message::PingReq { target, probe_number },
            Message::IndirectPing { origin, probe_number },
            Message::IndirectAck { target, probe_number },
            Message::ForwardedAck { origin, probe_number },
            Message::Announce,
            Message::Feed,
            Message::Gossip,
            Message::TurnUndead,
        ];
        for message in messages {
            let updates = [Member::new(id(3), 8, State::Suspect), Member::down(id(4)), Member::alive(id(1))];
            let whole = packet(message.clone(), &updates);
            let header = packet(message, &[]).len();
            assert_eq!(check(&whole, 1, &[1, 2, 3, 4]), Ok(whole.clone()));
            for cut in (0..whole.len()).filter(|cut| *cut != header) {
                assert_eq!(check(&whole[..cut], 1, &[1, 2, 3, 4]), Err(Malformed), "{cut}");
            }
            assert_eq!(check(&[&whole[..], b"x"].concat(), 1, &[1, 2, 3, 4]), Err(Malformed));
        }
        assert!(
            Codec
                .encode_header(
                    &Header { src: id(1), src_incarnation: 0, dst: id(2), message: Message::Broadcast },
                    Vec::new()
                )
                .is_err()
        );
    }

    #[test]
    fn only_the_link_s_peer_is_believed_and_only_about_members() {
        let updates = [Member::alive(id(3)), Member::alive(id(9)), Member::down(id(4))];
        let whole = packet(Message::Gossip, &updates);
        let believed = check(&whole, 1, &[1, 2, 3, 4]).unwrap();
        assert_eq!(believed, packet(Message::Gossip, &[updates[0].clone(), updates[2].clone()]));
        assert!(check(&whole, 3, &[1, 2, 3, 4]).is_err(), "another source than the link");
        assert!(check(&whole, 1, &[2, 3, 4]).is_err(), "a source that is no member");
        let other = believable(&whole, id(1).node, id(3).node, &members(&[1, 2, 3, 4]));
        assert!(other.is_err(), "for another node");
        let about = packet(Message::PingReq { target: id(9), probe_number: 1 }, &[]);
        assert!(check(&about, 1, &[1, 2, 3, 4]).is_err(), "about a stranger");
    }

    #[test]
    fn a_later_start_wins_and_renewing_is_one() {
        use foca::Identity as _;
        let first = Start { node: id(1).node, boot: 1_790_000_000_000 };
        let renewed = first.renew().unwrap();
        assert!(renewed.win_addr_conflict(&first) && !first.win_addr_conflict(&renewed));
        assert!(renewed.boot - first.boot > 20 * 24 * 3600 * 1000);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_a_packet_or_an_error(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            drop(check(&bytes, 1, &[1, 2]));
        }
    }
}
