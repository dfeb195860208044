//! New keys for a member: who may name them, and what is remembered of the old.

use std::collections::{BTreeMap, BTreeSet};

use osmoda_types::command::{Body, Order};
use osmoda_types::{ErrorCode, InviteId, MeshKey, NodeId, Purpose, Role};

use super::generate::Rng;
use crate::testing::{
    ANN, Cmd, EVE, Log, NODES, Point, identity, invite, member, node, public, raft_id, rollout, signed, spend, subkey,
    succession,
};
use crate::{FleetState, InviteState, Signer, What};

/// The seed of the first new identity key; all fixtures use lower ones.
const NEW: u8 = 210;

/// Node `number` gets new keys, properly signed.
fn rotate(number: u8, (mesh, seed): (u8, u8), old: u8) -> Body {
    Body::RotateKeys(succession(number, (mesh, seed), (old, seed)))
}

#[test]
fn a_member_keeps_everything_but_its_keys() {
    let mut log = Log::fleet();
    log.expect(Body::OpenInvite(invite(50, Role::Node)));
    let before = log.state.member(&node(0)).unwrap().clone();
    let ballot_key = log.state.subkey(node(0), Purpose::Ballot).cloned();
    let outcome = log.apply(rotate(0, (NEW, NEW), identity(0)));
    assert_eq!(outcome.reply.result(), Ok(()));
    assert_eq!(outcome.events[0].what, What::KeysRotated(node(0)));
    assert_eq!(outcome.events[0].signer, Signer::Node(node(0)));
    let after = log.state.member(&node(0)).unwrap().clone();
    assert_eq!((after.member.mesh_key, after.member.identity_key), (MeshKey::from_bytes([NEW; 32]), public(NEW)));
    let mut same = after;
    same.member.mesh_key = before.member.mesh_key;
    same.member.identity_key = before.member.identity_key;
    assert_eq!(same, before, "id, name, role, addresses");
    assert_eq!(log.state.members_index(), outcome.reply.index, "peers are told");
    assert_eq!(log.state.voter_by_raft_id(raft_id(0)), Some(node(0)));
    assert_eq!(log.state.subkey(node(0), Purpose::Ballot).cloned(), ballot_key, "what it signed stays checkable");
    let invite = log.state.invite(&InviteId::from_bytes([50; 16])).unwrap();
    assert_eq!(invite.state, InviteState::Expired, "its text names the old key");
    // The old identity endorses nothing any more; a changed subkey needs the new one.
    let Body::RegisterSubkey(mut other) = subkey(0) else { panic!("a subkey") };
    other.key = public(EVE);
    assert_eq!(log.apply(Body::RegisterSubkey(other)).reply.refused, Some(ErrorCode::SignatureInvalid));
    assert!(log.apply(subkey(0)).reply.repeated, "the registered one is no change");
    assert_eq!(FleetState::decode(&log.state.encode()).unwrap(), log.state);
}

#[test]
fn only_the_keys_in_force_name_new_ones_that_are_proven_and_were_never_used() {
    let mut log = Log::fleet();
    let old = identity(3);
    let mut check = |body: Body, code| assert_eq!(log.apply(body.clone()).reply.refused, code, "{body:?}");
    let by = |signers| Body::RotateKeys(succession(3, (NEW, NEW), signers));
    check(by((EVE, NEW)), Some(ErrorCode::SignatureInvalid));
    check(by((old, EVE)), Some(ErrorCode::SignatureInvalid));
    check(by((identity(4), NEW)), Some(ErrorCode::SignatureInvalid));
    check(rotate(77, (NEW, NEW), old), Some(ErrorCode::NodeUnknown));
    check(rotate(3, (3, NEW), old), Some(ErrorCode::BadRequest));
    check(rotate(3, (NEW, identity(3)), old), Some(ErrorCode::BadRequest));
    // Another member's.
    check(rotate(3, (4, NEW), old), Some(ErrorCode::Conflict));
    check(rotate(3, (NEW, identity(4)), old), Some(ErrorCode::Conflict));
    check(by((old, NEW)), None);
    check(by((old, NEW)), None);
    // Both its own old ones and, to others, its new ones.
    check(rotate(3, (3, NEW + 1), NEW), Some(ErrorCode::Conflict));
    check(rotate(3, (NEW + 1, identity(3)), NEW), Some(ErrorCode::Conflict));
    check(rotate(4, (3, NEW + 1), identity(4)), Some(ErrorCode::Conflict));
    check(rotate(4, (NEW, NEW + 1), identity(4)), Some(ErrorCode::Conflict));
    // The old identity has no word any more.
    check(rotate(3, (NEW + 1, NEW + 1), old), Some(ErrorCode::SignatureInvalid));
}

#[test]
fn a_statement_counts_once() {
    let mut log = Log::fleet();
    let first = rotate(3, (NEW, NEW), identity(3));
    log.expect(first.clone());
    assert!(log.apply(first.clone()).reply.repeated, "a submitter that lost its answer");
    log.expect(rotate(3, (NEW + 1, NEW + 1), NEW));
    assert_eq!(log.apply(first).reply.refused, Some(ErrorCode::SignatureInvalid));
}

#[test]
fn whoever_was_revoked_is_known_by_every_key_it_had() {
    let mut log = Log::fleet();
    log.expect(rotate(3, (NEW, NEW), identity(3)));
    let join = |log: &mut Log, number: u8, keys: (MeshKey, u8)| {
        log.expect(Body::OpenInvite(invite(number, Role::Node)));
        let mut joiner = member(number, Role::Node);
        (joiner.mesh_key, joiner.identity_key) = (keys.0, public(keys.1));
        log.apply(spend(number, joiner, 1)).reply.refused
    };
    let fresh = MeshKey::from_bytes([NEW + 5; 32]);
    assert_eq!(join(&mut log, 50, (MeshKey::from_bytes([3; 32]), NEW + 5)), Some(ErrorCode::Conflict));
    log.expect(signed(Order::Revoke { node: node(3) }, 1, ANN, ANN));
    let again = rotate(3, (NEW + 1, NEW + 1), NEW);
    assert_eq!(log.apply(again).reply.refused, Some(ErrorCode::NodeRevoked));
    for keys in [(MeshKey::from_bytes([3; 32]), NEW + 5), (fresh, identity(3)), (fresh, NEW)] {
        let number = 51 + keys.1 % 40;
        assert_eq!(join(&mut log, number, keys), Some(ErrorCode::NodeRevoked), "{keys:?}");
    }
}

#[test]
fn a_node_in_flight_keeps_its_keys_until_it_is_through() {
    let mut log = Log::at(0, Point::Granted);
    let rows = &log.state.rollout(&rollout(0)).unwrap().rows;
    let (who, row) = rows.iter().find(|(_, row)| row.state.is_charged()).expect("a canary is granted");
    let (number, attempt) = (who.as_bytes()[0], row.attempt.unwrap().0);
    let change = rotate(number, (NEW, NEW), identity(number));
    assert_eq!(log.apply(change.clone()).reply.refused, Some(ErrorCode::AttemptConflict));
    // Others are not kept from it.
    let other = (0..NODES).find(|other| *other != number).unwrap();
    log.expect(rotate(other, (NEW + 1, NEW + 1), identity(other)));
    let end = crate::testing::End::RolledBack;
    log.must(&Cmd::Report { rollout: 0, node: number, attempt, end, observed_right: true });
    log.expect(change);
}

/// The rule said another way: sets of keys that were ever seen, and the seeds in force.
#[derive(Default)]
struct Oracle {
    in_force: BTreeMap<NodeId, (u8, u8)>,
    seen_mesh: BTreeSet<u8>,
    seen_identity: BTreeSet<u8>,
}

impl Oracle {
    fn judge(&mut self, who: NodeId, new: (u8, u8), signers: (u8, u8)) -> bool {
        let Some(now) = self.in_force.get(&who).copied() else { return false };
        if now == new {
            return true;
        }
        let right = signers == (now.1, new.1);
        if !right || self.seen_mesh.contains(&new.0) || self.seen_identity.contains(&new.1) {
            return false;
        }
        self.seen_mesh.insert(new.0);
        self.seen_identity.insert(new.1);
        self.in_force.insert(who, new);
        true
    }
}

#[test]
fn random_changes_of_keys_agree_with_the_rule_and_no_key_has_two_owners() {
    for seed in 0..200 {
        let mut rng = Rng(seed);
        let mut log = Log::fleet();
        let mut oracle = Oracle::default();
        for number in 0..NODES {
            oracle.in_force.insert(node(number), (number, identity(number)));
            oracle.seen_mesh.insert(number);
            oracle.seen_identity.insert(identity(number));
        }
        for _ in 0..40 {
            let who = rng.below(usize::from(NODES) + 1) as u8;
            let now = oracle.in_force.get(&node(who)).copied().unwrap_or((who, identity(0)));
            let fresh = NEW + rng.below(12) as u8;
            let mesh = if rng.percent(85) { fresh } else { rng.below(usize::from(NODES)) as u8 };
            let key = if rng.percent(85) { fresh } else { identity(rng.below(usize::from(NODES)) as u8) };
            let by_old = if rng.percent(85) { now.1 } else { identity(rng.below(usize::from(NODES)) as u8) };
            let by_new = if rng.percent(90) { key } else { EVE };
            let body = Body::RotateKeys(succession(who, (mesh, key), (by_old, by_new)));
            let before = log.state.clone();
            let outcome = log.apply(body);
            let expected = oracle.judge(node(who), (mesh, key), (by_old, by_new));
            assert_eq!(outcome.reply.refused.is_none(), expected, "seed {seed}: {who} {mesh} {key}");
            if outcome.events.is_empty() {
                let same = |now: &FleetState| (now.members.clone(), now.spent_keys.clone(), now.members_index);
                assert_eq!(same(&before), same(&log.state), "seed {seed}: nothing happened");
            }
            check_owners(&log.state);
        }
        assert_eq!(FleetState::decode(&log.state.encode()).unwrap(), log.state);
    }
}

fn check_owners(state: &FleetState) {
    let members = state.members().map(|entry| (entry.member.mesh_key, entry.member.identity_key));
    let spent = state.spent_keys().map(|(mesh, spent)| (*mesh, spent.identity_key));
    let all: Vec<_> = members.chain(spent).collect();
    let (meshes, identities): (BTreeSet<_>, BTreeSet<_>) = all.iter().copied().unzip();
    assert!(meshes.len() == all.len() && identities.len() == all.len(), "a key has two owners");
}
