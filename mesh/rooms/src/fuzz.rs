//! Plain functions over any bytes, for fuzzers and for the property tests here.
//!
//! Each reads the bytes as a peer's and panics only on a broken promise.

use std::collections::BTreeSet;

use crate::id::RoomId;
use crate::message::Unverified;
use crate::record::Signed;
use crate::sync::{Answerer, Do, Opener, Snapshot};
use crate::wire::{Blob, Frame};

/// A signed message off the wire: total, and one message has one encoding.
///
/// # Panics
/// When what was accepted does not encode to what was read.
pub fn fuzz_room_message(bytes: &[u8]) {
    if let Ok(message) = Unverified::decode(bytes) {
        assert_eq!(message.clone().trusted().wire(), bytes, "another encoding of one message was accepted");
        drop(message.verify());
    }
}

/// A room record off the wire.
///
/// # Panics
/// When what was accepted does not encode to what was read.
pub fn fuzz_room_record(bytes: &[u8]) {
    if let Ok(record) = Signed::decode(bytes) {
        assert_eq!(record.wire(), bytes, "another encoding of one record was accepted");
    }
}

/// A frame off the wire.
///
/// # Panics
/// When a frame that was read cannot be written.
pub fn fuzz_room_frame(bytes: &[u8]) {
    if let Ok(frame) = Frame::decode(bytes) {
        assert!(frame.encode().is_ok(), "a frame was read that is too large to write");
    }
}

/// Frames of a healing session, in any order, at both sides: each is answered or
/// ends the session.
///
/// # Panics
/// When the opener holds more ids than there are.
pub fn fuzz_reconcile(bytes: &[u8]) {
    let items: Vec<_> = (0..100u64).map(|n| (n / 3, crate::MessageId::of(&n.to_le_bytes()))).collect();
    // All of its own, and what the bytes can name.
    let held_max = items.len() + bytes.len() / 32;
    let snapshot = Snapshot { horizon_ms: 0, items };
    let (mut opener, _) = Opener::new(RoomId::from_bytes([0; 16]), 1, snapshot.clone(), BTreeSet::new());
    let Ok(mut answerer) = Answerer::new(snapshot) else { return };
    let opened = Frame::Opened { horizon_ms: 0, equal: false, record: None, wants_record: false };
    let frames = std::iter::once(opened).chain(bytes.split(|byte| *byte == 0xa5).map(frame));
    let (mut opener_lives, mut answerer_lives) = (true, true);
    for frame in frames {
        if opener_lives {
            opener_lives =
                opener.frame(frame.clone()).map(|next| drive(next, |taken, list| opener.loaded(taken, list))).is_ok();
            assert!(opener.held() <= held_max, "the opener holds ids that nobody has");
        }
        if answerer_lives {
            answerer_lives =
                answerer.frame(frame).map(|next| drive(next, |taken, list| answerer.loaded(taken, list))).is_ok();
        }
    }
}

/// Half of the time a whole frame, half of the time a range, which is deeper.
fn frame(bytes: &[u8]) -> Frame {
    match bytes.split_first() {
        Some((first, rest)) if first % 2 == 0 => {
            Frame::decode(rest).unwrap_or_else(|_| Frame::Range(Blob(rest.to_vec())))
        }
        _ => Frame::Range(Blob(bytes.to_vec())),
    }
}

fn drive(next: Do, mut loaded: impl FnMut(usize, Vec<Blob>) -> Do) {
    if let Do::Load(ids) = next {
        drop(loaded(ids.len(), ids.iter().map(|_| Blob(vec![0])).collect()));
    }
}
