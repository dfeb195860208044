//! Members, invites, keys and voters, with the code that each breach gets.

use osmoda_proto::fleet::v1 as pb;
use osmoda_types::command::{Body, LedgerHead, Order};
use osmoda_types::{
    ErrorCode, InviteId, LedgerHash, MeshEpoch, MeshKey, Purpose, RaftId, Right, Role, Signature, Subkey, statement,
};
use prost::Message as _;

use crate::testing::{
    ANN, Log, genesis, head, identity, invite, ledger_key, ledger_subkey, member, network, node, principal, public,
    raft_id, sign, signed, spend, subkey, succession,
};
use crate::{InviteState, What};

fn check(log: &mut Log, body: Body, expected: Result<(), ErrorCode>) {
    let outcome = log.apply(body.clone());
    assert_eq!(outcome.reply.result(), expected, "{body:?}");
    assert_eq!(outcome.events.is_empty(), expected.is_err() || outcome.reply.repeated);
}

#[test]
fn nothing_happens_before_genesis_and_genesis_only_once() {
    let mut log = Log::new();
    check(&mut log, subkey(0), Err(ErrorCode::Conflict));
    check(&mut log, genesis(), Ok(()));
    assert!(log.apply(genesis()).reply.repeated);
    let Body::Genesis(mut other) = genesis() else { panic!("a genesis") };
    other.network = osmoda_types::NetworkId::from_bytes([9; 32]);
    check(&mut log, Body::Genesis(other), Err(ErrorCode::Conflict));
}

#[test]
fn an_invite_admits_one_joiner_once() {
    let mut log = Log::fleet();
    let joiner = member(7, Role::Node);
    let id = InviteId::from_bytes([50; 16]);
    check(&mut log, spend(50, joiner.clone(), 1), Err(ErrorCode::InviteUnknown));
    check(&mut log, Body::OpenInvite(invite(50, Role::Node)), Ok(()));
    assert!(log.apply(Body::OpenInvite(invite(50, Role::Node))).reply.repeated);
    check(&mut log, Body::OpenInvite(invite(50, Role::Voter)), Err(ErrorCode::Conflict));
    check(&mut log, spend(50, member(7, Role::Voter), 1), Err(ErrorCode::BadRequest));
    check(&mut log, spend(50, member(3, Role::Node), 1), Err(ErrorCode::Conflict));
    check(&mut log, spend(50, joiner.clone(), 1001), Err(ErrorCode::InviteExpired));
    let Body::SpendInvite(mut foreign) = spend(50, joiner.clone(), 1) else { panic!("a spend") };
    foreign.network = osmoda_types::NetworkId::from_bytes([9; 32]);
    check(&mut log, Body::SpendInvite(foreign), Err(ErrorCode::InviteWrongNetwork));
    check(&mut log, spend(50, joiner.clone(), 1000), Ok(()));
    // The answer was lost; the same joiner asks again, also after the expiry.
    assert!(log.apply(spend(50, joiner, 2000)).reply.repeated);
    check(&mut log, spend(50, member(8, Role::Node), 1), Err(ErrorCode::InviteSpent));
    check(&mut log, Body::ExpireInvite(id), Err(ErrorCode::InviteSpent));
    let spent = InviteState::Spent { joiner: MeshKey::from_bytes([7; 32]), node: node(7) };
    assert_eq!(log.state.invite(&id).map(|entry| entry.state), Some(spent));
    assert_eq!(log.state.members_index(), log.state.member(&node(7)).unwrap().joined_index);
}

#[test]
fn an_expired_invite_admits_nobody() {
    let mut log = Log::fleet();
    let id = InviteId::from_bytes([50; 16]);
    check(&mut log, Body::OpenInvite(invite(50, Role::Node)), Ok(()));
    check(&mut log, Body::ExpireInvite(id), Ok(()));
    assert!(log.apply(Body::ExpireInvite(id)).reply.repeated);
    check(&mut log, spend(50, member(7, Role::Node), 1), Err(ErrorCode::InviteExpired));
}

#[test]
fn only_voters_issue_invites_and_only_so_many() {
    let mut log = Log::fleet();
    let mut by_node = invite(50, Role::Node);
    by_node.issuer = node(3);
    check(&mut log, Body::OpenInvite(by_node), Err(ErrorCode::NodeUnknown));
    (0..64).for_each(|number| check(&mut log, Body::OpenInvite(invite(100 + number, Role::Node)), Ok(())));
    check(&mut log, Body::OpenInvite(invite(200, Role::Node)), Err(ErrorCode::Busy));
}

#[test]
fn a_subkey_needs_the_endorsement_of_its_own_node() {
    let mut log = Log::fleet();
    check(&mut log, subkey(7), Err(ErrorCode::NodeUnknown));
    let Body::RegisterSubkey(good) = subkey(0) else { panic!("a subkey") };
    let mut other = good.clone();
    other.key = public(9);
    check(&mut log, Body::RegisterSubkey(other), Err(ErrorCode::SignatureInvalid));
    let mut old = good;
    old.epoch = osmoda_types::MeshEpoch(0);
    check(&mut log, Body::RegisterSubkey(old), Err(ErrorCode::EpochStale));
}

#[test]
fn a_raft_id_is_bound_once_and_only_to_a_voter_with_its_key() {
    let mut log = Log::fleet();
    let register = |number, id| Body::RegisterVoter { node: node(number), raft_id: id };
    assert!(log.apply(register(0, raft_id(0))).reply.repeated);
    check(&mut log, register(3, RaftId(5)), Err(ErrorCode::ServiceDenied));
    check(&mut log, register(1, raft_id(0)), Err(ErrorCode::Conflict));
    check(&mut log, register(9, RaftId(5)), Err(ErrorCode::NodeUnknown));
    check(&mut log, Body::OpenInvite(invite(50, Role::Voter)), Ok(()));
    check(&mut log, spend(50, member(7, Role::Voter), 1), Ok(()));
    check(&mut log, register(7, RaftId(5)), Err(ErrorCode::SignatureMissing));
    // A lost disk is a new voter; the old id stays used up.
    check(&mut log, register(1, RaftId(6)), Ok(()));
    check(&mut log, register(1, raft_id(1)), Err(ErrorCode::Conflict));
}

#[test]
fn principals_are_added_by_signed_order_only() {
    let mut log = Log::fleet();
    let carl = principal("carl", 210, &[Right::Deploy]);
    let order = |seed: u8, serial| signed(Order::AddPrincipal(carl.clone()), serial, seed, seed);
    check(&mut log, order(201, 1), Err(ErrorCode::PrincipalDenied));
    check(&mut log, order(ANN, 1), Ok(()));
    check(&mut log, order(ANN, 1), Err(ErrorCode::OrderReplayed));
    assert!(log.state.principals().any(|entry| entry.principal == carl));
}

#[test]
fn a_ledger_head_only_grows() {
    let mut log = Log::fleet();
    log.expect(ledger_subkey(0, ledger_key(0)));
    let head = |size, hash: u8| Body::LedgerHead(head(0, size, hash));
    check(&mut log, head(5, 1), Ok(()));
    assert!(log.apply(head(5, 1)).reply.repeated);
    check(&mut log, head(5, 2), Err(ErrorCode::LedgerBroken));
    check(&mut log, head(4, 1), Err(ErrorCode::LedgerBroken));
    check(&mut log, head(6, 2), Ok(()));
}

/// A leader that was taken over writes whatever it likes; it cannot sign.
#[test]
fn a_ledger_head_needs_the_signature_of_its_ledger() {
    let mut log = Log::fleet();
    let refused = |log: &mut Log, head: LedgerHead, code| check(log, Body::LedgerHead(head), Err(code));
    refused(&mut log, head(0, 5, 1), ErrorCode::SignatureMissing);
    log.expect(ledger_subkey(0, ledger_key(0)));
    log.expect(ledger_subkey(1, ledger_key(1)));
    let good = head(0, 5, 1);
    let other = |byte| LedgerHash::from_bytes([byte; 32]);
    refused(&mut log, LedgerHead { size: 900_000, ..good }, ErrorCode::SignatureInvalid);
    refused(&mut log, LedgerHead { hash: other(9), ..good }, ErrorCode::SignatureInvalid);
    refused(&mut log, LedgerHead { root: other(9), ..good }, ErrorCode::SignatureInvalid);
    refused(&mut log, LedgerHead { node: node(1), ..good }, ErrorCode::SignatureInvalid);
    refused(&mut log, LedgerHead { signature: Signature::from_bytes([0; 64]), ..good }, ErrorCode::SignatureMissing);
    refused(&mut log, LedgerHead { node: node(9), ..good }, ErrorCode::NodeUnknown);
    assert_eq!(log.state.ledger_heads().count(), 0);
    check(&mut log, Body::LedgerHead(good), Ok(()));
}

/// An entry as it was written before heads were signed says nothing any more.
#[test]
fn a_ledger_head_of_before_is_refused_in_a_replay_too() {
    let mut log = Log::fleet();
    log.expect(ledger_subkey(0, ledger_key(0)));
    let before = pb::LedgerHead {
        node: node(0).as_bytes().to_vec(),
        size: 5,
        hash: vec![1; 32],
        root: Vec::new(),
        signature: Vec::new(),
    };
    let body = Some(pb::command::Body::LedgerHead(before));
    let bytes = pb::Command { request: vec![7; 16], body }.encode_to_vec();
    let outcome = log.state.apply_bytes(log.state.last_index() + 1, raft_id(0), &bytes);
    assert_eq!((outcome.reply.refused, outcome.events.len()), (Some(ErrorCode::SignatureMissing), 0));
    assert_eq!(log.state.ledger_heads().count(), 0);
}

#[test]
fn r06_a_ledger_keeps_its_key_for_as_long_as_its_node_is_a_member() {
    let mut log = Log::fleet();
    check(&mut log, ledger_subkey(0, ledger_key(0)), Ok(()));
    check(&mut log, Body::LedgerHead(head(0, 5, 1)), Ok(()));
    assert!(log.apply(ledger_subkey(0, ledger_key(0))).reply.repeated);
    // Its own identity vouches for the other key, and the history would be gone.
    check(&mut log, ledger_subkey(0, ledger_key(1)), Err(ErrorCode::LedgerBroken));
    let Body::RegisterSubkey(first) = ledger_subkey(0, ledger_key(0)) else { panic!("a subkey") };
    assert_eq!(log.state.subkey(node(0), Purpose::Ledger), Some(&first));
    // After a change of the node's own keys the same ledger key is vouched for anew.
    log.expect(Body::RotateKeys(succession(0, (60, 160), (identity(0), 160))));
    let message = statement::subkey(Purpose::Ledger, &first.key, &node(0), first.epoch, &network());
    let anew = Subkey { endorsement: sign(160, message), ..first };
    check(&mut log, Body::RegisterSubkey(anew), Ok(()));
    assert_eq!(log.state.ledger_head(&node(0)), Some(&head(0, 5, 1)));
    // The key of a ballot may change.
    let message = statement::subkey(Purpose::Ballot, &public(61), &node(1), MeshEpoch(1), &network());
    let (key, endorsement) = (public(61), sign(identity(1), message));
    let ballot = Subkey { node: node(1), purpose: Purpose::Ballot, key, epoch: MeshEpoch(1), endorsement };
    check(&mut log, Body::RegisterSubkey(ballot), Ok(()));
}

#[test]
fn a_member_that_moved_changes_the_allow_list() {
    let mut log = Log::fleet();
    let moved = |text: &str| Body::UpdateAddresses { node: node(3), addresses: vec![text.to_owned()] };
    check(&mut log, moved("a b"), Err(ErrorCode::BadRequest));
    let outcome = log.apply(moved("[::1]:1"));
    assert_eq!(outcome.events[0].what, What::Moved(node(3)));
    assert_eq!(log.state.members_index(), outcome.reply.index);
}
