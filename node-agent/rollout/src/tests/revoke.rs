//! Removing a member for good, and the epoch that follows.

use osmoda_types::command::{Body, Order};
use osmoda_types::{ErrorCode, InviteId, MeshEpoch, NodeState, Role, SecretHash};

use crate::testing::{ANN, Log, invite, member, node, rollout, signed, spend, subkey};
use crate::{InviteState, What};

fn revoke(number: u8, serial: u64) -> Body {
    signed(Order::Revoke { node: node(number) }, serial, ANN, ANN)
}

fn rotate(epoch: u32, hash: u8) -> Body {
    Body::RotateEpoch { epoch: MeshEpoch(epoch), secret_hash: SecretHash::from_bytes([hash; 32]) }
}

#[test]
fn a_revoked_member_has_nothing_left_and_its_keys_never_come_back() {
    let mut log = Log::fleet();
    assert!(log.apply(Body::OpenInvite(invite(50, Role::Node))).reply.result().is_ok());
    let issuer = log.state.invite(&InviteId::from_bytes([50; 16])).unwrap().invite.issuer;
    assert_eq!(issuer, node(0), "the fixture's invites are the first voter's");
    let before = log.state.members_index();
    let outcome = log.apply(revoke(0, 1));
    assert_eq!(outcome.reply.result(), Ok(()));
    assert!(outcome.events.iter().any(|event| event.what == What::Revoked(node(0))));
    assert!(log.state.member(&node(0)).is_none());
    assert!(log.state.voters().all(|(voter, _)| *voter != node(0)));
    assert!(log.state.subkey(node(0), osmoda_types::Purpose::Ballot).is_none());
    assert!(log.state.members_index() > before && log.state.rotation_due());
    let invited = log.state.invite(&InviteId::from_bytes([50; 16])).unwrap();
    assert_eq!(invited.state, InviteState::Expired, "nobody else knows its secret");
    assert_eq!(log.apply(subkey(0)).reply.refused, Some(ErrorCode::NodeUnknown));
    // A new invite lets in neither the node nor one of its keys.
    let mut other = invite(51, Role::Voter);
    other.issuer = node(1);
    assert!(log.apply(Body::OpenInvite(other)).reply.result().is_ok());
    assert_eq!(log.apply(spend(51, member(0, Role::Voter), 1)).reply.refused, Some(ErrorCode::NodeRevoked));
    let mut disguised = member(9, Role::Voter);
    disguised.identity_key = member(0, Role::Voter).identity_key;
    assert_eq!(log.apply(spend(51, disguised, 1)).reply.refused, Some(ErrorCode::NodeRevoked));
    assert!(log.apply(spend(51, member(9, Role::Voter), 1)).reply.result().is_ok());
    // Nor does the invite that let it in: repeating its joining gets no answer any more.
    assert!(log.apply(spend(51, member(9, Role::Voter), 1)).reply.repeated);
    assert_eq!(log.apply(revoke(9, 2)).reply.result(), Ok(()));
    assert_eq!(log.apply(spend(51, member(9, Role::Voter), 1)).reply.refused, Some(ErrorCode::NodeRevoked));
    // The order may be given again; nothing happens twice.
    assert!(log.apply(revoke(0, 3)).reply.repeated);
    assert_eq!(log.apply(revoke(77, 4)).reply.refused, Some(ErrorCode::NodeUnknown));
}

#[test]
fn only_an_administrator_revokes_and_never_the_last_voter() {
    let mut log = Log::fleet();
    let by = |key: u8, serial| signed(Order::Revoke { node: node(1) }, serial, key, key);
    assert_eq!(log.apply(by(201, 1)).reply.refused, Some(ErrorCode::PrincipalDenied));
    let voters: Vec<_> = log.state.voters().map(|(voter, _)| *voter).collect();
    for (serial, voter) in (1..).zip(&voters) {
        let order = Order::Revoke { node: *voter };
        let refused = log.apply(signed(order, serial, ANN, ANN)).reply.refused;
        let is_last = serial == voters.len() as u64;
        assert_eq!(refused, is_last.then_some(ErrorCode::Conflict));
    }
}

#[test]
fn the_mesh_epoch_goes_on_by_one_and_settles_the_debt() {
    let mut log = Log::fleet();
    let (now, _) = log.state.mesh_epoch();
    assert!(log.apply(revoke(1, 1)).reply.result().is_ok());
    assert_eq!(log.apply(rotate(now.0 + 2, 7)).reply.refused, Some(ErrorCode::EpochStale));
    assert_eq!(log.apply(rotate(now.0, 7)).reply.refused, Some(ErrorCode::EpochStale));
    let before = log.state.members_index();
    assert!(log.apply(rotate(now.0 + 1, 7)).reply.result().is_ok());
    assert_eq!(log.state.mesh_epoch(), (MeshEpoch(now.0 + 1), Some(SecretHash::from_bytes([7; 32]))));
    assert!(!log.state.rotation_due() && log.state.members_index() > before);
    assert!(log.apply(rotate(now.0 + 1, 7)).reply.repeated);
    assert_eq!(log.apply(rotate(now.0 + 1, 8)).reply.refused, Some(ErrorCode::EpochStale));
    // A snapshot carries all of it.
    let again = crate::FleetState::decode(&log.state.encode()).unwrap();
    assert_eq!(again, log.state);
}

#[test]
fn a_revoked_node_is_out_of_what_runs() {
    let mut log = Log::at(0, crate::testing::Point::Granted);
    let id = rollout(0);
    let granted = log.state.rollout(&id).unwrap().rows.iter().find(|(_, row)| row.state == NodeState::Granted);
    let (granted, _) = granted.expect("a canary is granted");
    let order = Order::Revoke { node: *granted };
    let granted = *granted;
    assert!(log.apply(signed(order, 1, ANN, ANN)).reply.result().is_ok());
    assert_eq!(log.state.rollout(&id).unwrap().rows[&granted].state, NodeState::Excluded);
}
