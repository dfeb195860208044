//! The parsers of the mesh's plain words: connection ids, invites, frames, first
//! bytes of a stream.

use osmoda_mesh_protocol::{
    ADDRESSES_MAX, Admitted, Answer, Hello, INVITE_ADDRESSES_MAX, Invite, JoinRequest, KEYS_ANSWER_BYTES_MAX,
    KEYS_ASK_BYTES_MAX, KeysAnswer, KeysAsk, MEMBERS_MAX, Members, PairAnswer, Preamble, RejoinTable, Succession,
    decode_json, encode_frame, frame_length, knock_is_valid,
};
use osmoda_node_api::witness::{Question, Reply};
use osmoda_proto::{decode_command, encode_command};
use osmoda_types::NetworkId;

/// Larger than any frame of the mesh.
const FRAME_BYTES_MAX: usize = 1024 * 1024;

/// A first packet's connection id, against an epoch's key and those of members
/// that may come back. The first 8 bytes are the time.
///
/// # Panics
/// When a connection id that nobody made is accepted.
pub fn knock(bytes: &[u8]) {
    let Some((now_ms, dcid)) = bytes.split_first_chunk::<8>() else { return };
    let now_ms = i64::from_be_bytes(*now_ms);
    let keys: Vec<[u8; 32]> = (0..4).map(|seed| [seed; 32]).collect();
    let table = RejoinTable::new(keys.iter(), now_ms);
    if let Some(at) = table.find(dcid) {
        assert!(at < keys.len(), "a place outside the keys");
    }
    // 96 bits: found by chance never, by a fuzzer neither.
    assert!(!knock_is_valid(&[0xee; 32], dcid, now_ms), "a knock was guessed");
}

/// The text of an invite.
///
/// # Panics
/// When an accepted text has another reading of its own.
pub fn invite(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(invite) = Invite::decode(&text) {
        assert!(invite.addresses.len() <= INVITE_ADDRESSES_MAX);
        assert_eq!(Invite::decode(&invite.encode()).as_ref(), Ok(&invite));
        assert!(invite.check(i64::MAX, Some(&invite.network)).is_err(), "an invite without an end");
    }
}

/// A frame: prefix and body, as each kind that a peer may send.
///
/// # Panics
/// When a frame over its bound is let through, or a snapshot that breaks its
/// rules passes its check.
pub fn frame(bytes: &[u8]) {
    let Some((prefix, body)) = bytes.split_first_chunk::<4>() else { return };
    if let Ok(length) = frame_length(*prefix, FRAME_BYTES_MAX) {
        assert!(length <= FRAME_BYTES_MAX);
    }
    drop(decode_json::<Hello>(body));
    drop(decode_json::<Admitted>(body));
    if let Ok(answer) = decode_json::<PairAnswer>(body) {
        drop(encode_frame(&answer, FRAME_BYTES_MAX));
    }
    if let Ok(request) = decode_json::<JoinRequest>(body) {
        assert!(request.check().is_err() || request.addresses.len() <= ADDRESSES_MAX);
    }
    if let Ok(members) = decode_json::<Members>(body) {
        let checked = members.check();
        assert!(checked.is_err() || members.members.len() <= MEMBERS_MAX);
    }
    if let Ok(succession) = decode_json::<Succession>(body) {
        let nobody = Members::default();
        assert!(nobody.succeeded(&succession, &NetworkId::from_bytes([0; 32])).is_err());
    }
}

/// The first bytes of a stream, and the answer to them.
///
/// # Panics
/// When more is taken than was there, or a piece reads differently than the whole.
pub fn preamble(bytes: &[u8]) {
    if let Ok(Some((preamble, used))) = Preamble::decode(bytes) {
        assert_eq!(preamble.encode(), bytes[..used], "another encoding of one preamble");
        for cut in 0..used {
            assert_eq!(Preamble::decode(&bytes[..cut]), Ok(None), "a piece was taken for the whole");
        }
    }
    if let Ok(Some((_, used))) = Answer::decode(bytes) {
        assert!(used <= bytes.len());
    }
}

/// What members ask voters for, and the answers.
///
/// # Panics
/// When a question or an answer that was read has another form of its own.
pub fn keys(bytes: &[u8]) {
    if let Ok(ask) = decode_json::<KeysAsk>(bytes)
        && let Ok(frame) = encode_frame(&ask, KEYS_ASK_BYTES_MAX)
    {
        assert_eq!(decode_json(&frame[4..]).ok(), Some(ask));
    }
    if let Ok(answer) = decode_json::<KeysAnswer>(bytes)
        && let Ok(frame) = encode_frame(&answer, KEYS_ANSWER_BYTES_MAX)
    {
        assert_eq!(decode_json(&frame[4..]).ok(), Some(answer));
    }
}

/// What ledgers ask each other, and the answers. What is inside is
/// `osmoda_ledger`'s to read.
///
/// # Panics
/// When what was read has no form of its own.
pub fn witness(bytes: &[u8]) {
    if let Ok(question) = decode_json::<Question>(bytes) {
        assert!(encode_frame(&question, usize::MAX).is_ok());
    }
    if let Ok(reply) = decode_json::<Reply>(bytes) {
        assert!(encode_frame(&reply, usize::MAX).is_ok());
    }
}

/// A command of the log, as members hand it in.
///
/// # Panics
/// When a command that was read is written differently than it is read again.
pub fn command(bytes: &[u8]) {
    if let Ok(command) = decode_command(bytes) {
        assert_eq!(decode_command(&encode_command(&command)).as_ref(), Ok(&command));
    }
}
