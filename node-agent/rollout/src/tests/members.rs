//! Members, invites, keys and voters, with the code that each breach gets.

use osmoda_types::command::{Body, LedgerHead, Order};
use osmoda_types::{ErrorCode, InviteId, LedgerHash, MeshKey, RaftId, Right, Role};

use crate::testing::{ANN, Log, genesis, invite, member, node, principal, public, raft_id, signed, spend, subkey};
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
    let head =
        |size, hash: u8| Body::LedgerHead(LedgerHead { node: node(0), size, hash: LedgerHash::from_bytes([hash; 32]) });
    check(&mut log, head(5, 1), Ok(()));
    assert!(log.apply(head(5, 1)).reply.repeated);
    check(&mut log, head(5, 2), Err(ErrorCode::LedgerBroken));
    check(&mut log, head(4, 1), Err(ErrorCode::LedgerBroken));
    check(&mut log, head(6, 2), Ok(()));
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
