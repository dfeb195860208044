//! Snapshots, hashes, and bytes that are no commands.

use osmoda_proto::fleet::v1 as pb;
use osmoda_types::ErrorCode;
use osmoda_types::command::Body;
use prost::Message as _;

use super::generate::Rng;
use crate::testing::{By, Cmd, End, Log, Said, Short, head, ledger_key, ledger_subkey, raft_id, rollout};
use crate::{FleetState, Reply};

/// A state with something in every list.
fn rich() -> FleetState {
    let mut log = Log::fleet();
    let cmds = [
        Cmd::Propose { rollout: 0, spec: 10, parent: 0, by: By::Ann },
        Cmd::Ballot { rollout: 0, voter: 0, yes: true, forged: false },
        Cmd::Ballot { rollout: 0, voter: 1, yes: true, forged: false },
        Cmd::Staged { rollout: 0, node: 3, said: Said::Expected },
        Cmd::Staged { rollout: 0, node: 4, said: Said::Cannot },
        Cmd::Open { rollout: 0, wave: 0, eligible: vec![3], deferred: vec![4] },
        Cmd::Grant { rollout: 0, wave: 0, nodes: vec![3] },
        Cmd::Hold { rollout: 0 },
        Cmd::Order { order: Short::Freeze(false), serial: 1, by: By::Ann },
    ];
    for cmd in cmds {
        let body = cmd.body(&log.state);
        log.expect(body);
    }
    let attempt = log.state.rollout(&rollout(0)).unwrap().rows.values().find_map(|row| row.attempt).unwrap();
    let failed = Cmd::Report { rollout: 0, node: 3, attempt: attempt.0, end: End::Quarantined, observed_right: true };
    let resumed = Cmd::Order { order: Short::Resume(0), serial: 2, by: By::Ann };
    for cmd in [failed, resumed] {
        let body = cmd.body(&log.state);
        log.expect(body);
    }
    log.expect(ledger_subkey(0, ledger_key(0)));
    log.expect(Body::LedgerHead(head(0, 1, 1)));
    log.state
}

#[test]
fn a_snapshot_keeps_its_bytes_and_comes_back() {
    let state = rich();
    let bytes = state.encode();
    assert_eq!(FleetState::decode(&bytes).unwrap(), state);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/state.bin");
    if std::env::var_os("OSMODA_UPDATE").is_some() {
        std::fs::write(path, &bytes).unwrap();
    }
    let golden = std::fs::read(path).unwrap();
    assert!(golden == bytes, "snapshots of this version can no longer be read by the last one");
    assert_eq!(FleetState::decode(&golden).unwrap().hash(), state.hash());
}

/// Heads were once stored without a signature.
#[test]
fn a_head_that_nobody_signed_is_dropped_from_a_snapshot() {
    let state = rich();
    let mut wire = pb::State::decode(state.encode().as_slice()).unwrap();
    (wire.ledger_heads[0].root, wire.ledger_heads[0].signature) = (Vec::new(), Vec::new());
    let before = FleetState::decode(&wire.encode_to_vec()).unwrap();
    assert_eq!((before.ledger_heads().count(), state.ledger_heads().count()), (0, 1));
    assert_eq!(FleetState::decode(&before.encode()).unwrap().hash(), before.hash());
}

#[test]
fn a_damaged_snapshot_is_refused_or_another_state() {
    let bytes = rich().encode();
    for end in 0..bytes.len() {
        // A cut between two fields is still a message, but of less.
        if let Ok(less) = FleetState::decode(&bytes[..end]) {
            assert_ne!(less, rich());
        }
    }
    let mut other = bytes;
    other[1] = 2;
    let error = FleetState::decode(&other).unwrap_err();
    assert_eq!((error.to_string().contains("version 2"), error.code()), (true, ErrorCode::RaftLogCorrupt));
}

#[test]
fn bytes_that_are_no_command_change_nothing_but_the_place() {
    let state = rich();
    let mut rng = Rng(1);
    for length in 0..2_000 {
        let bytes: Vec<u8> = (0..length % 97).map(|_| rng.next() as u8).collect();
        let mut copy = state.clone();
        let outcome = copy.apply_bytes(state.last_index() + 1, raft_id(0), &bytes);
        assert!(outcome.reply.refused.is_some() && outcome.events.is_empty());
        copy.last_index = state.last_index;
        copy.position = state.position;
        assert!(copy == state);
    }
}

#[test]
fn replies_come_back_from_their_bytes() {
    let mut log = Log::fleet();
    let body = Cmd::Propose { rollout: 0, spec: 0, parent: 0, by: By::Ann }.body(&log.state);
    let reply = log.apply(body).reply;
    assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
    let refused = log.apply(Cmd::Hold { rollout: 3 }.body(&log.state)).reply;
    assert_eq!(Reply::decode(&refused.encode()), Ok(refused));
    assert_eq!(Reply::decode(&[0xff]), Err(ErrorCode::BadRequest));
}

#[test]
fn answers_are_remembered_up_to_the_bound() {
    let mut log = Log::fleet();
    for _ in 0..crate::state::ANSWERS_MAX + 10 {
        let body = Cmd::Hold { rollout: 3 }.body(&log.state);
        log.apply(body);
    }
    assert_eq!(log.state.answers.len(), crate::state::ANSWERS_MAX);
    assert_eq!(log.state.answered.len(), crate::state::ANSWERS_MAX);
}
