//! New keys for an old node: on disk without a gap, in the fleet without an
//! invite.

use std::path::Path;

use osmoda_kit::testing::wait_for;
use osmoda_mesh::{Event, Identity, Tuning, rotation, state};
use osmoda_mesh_protocol::{Members, Service};
use osmoda_types::{ErrorCode, MeshKey, PublicKey, Role};
use tempfile::TempDir;

use crate::node::{LIMIT, NETWORK, Node, Start, introduce};

/// A host with its keys, and what they are.
fn host() -> (TempDir, std::sync::Arc<Identity>) {
    let root = tempfile::tempdir().unwrap();
    let identity = state::create_identity(root.path()).unwrap();
    (root, identity)
}

/// What a change of keys changes.
fn keys(identity: &Identity) -> (MeshKey, PublicKey) {
    (identity.mesh_key(), identity.identity_key())
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn hygiene_14_keys_change_in_two_steps_and_the_old_ones_serve_until_the_second() {
    let (root, old) = host();
    let dir = root.path();
    assert!(matches!(rotation::commit(dir), Err(state::StateError::NothingPrepared(_))));
    let succession = rotation::prepare(dir, &NETWORK).unwrap();
    assert_eq!(rotation::prepare(dir, &NETWORK).unwrap(), succession, "made once");
    assert_eq!(keys(&state::load_identity(dir).unwrap()), keys(&old));

    let new = rotation::commit(dir).unwrap();
    assert_eq!((new.node(), new.mesh_key()), (old.node(), succession.mesh_key), "the id stays");
    assert_eq!((new.identity_key(), new.past()), (succession.identity_key, &[succession][..]));
    assert_eq!(keys(&state::load_identity(dir).unwrap()), keys(&new));
    const FILES: [&str; 5] = ["identity.key", "mesh.key", "node.json", "retired", "successions.json"];
    assert_eq!(names(dir), FILES);
    // Rooms that name the old identity key are written to under it.
    assert!(new.holds(&old.identity_key()) && new.holds(&new.identity_key()) && !old.holds(&new.identity_key()));
    let signed = new.signer(old.identity_key()).unwrap()(b"a line");
    assert_eq!(osmoda_types::statement::verify(&old.identity_key(), b"a line", &signed), Ok(()));
    assert!(old.signer(new.identity_key()).is_none());
    // The next change is named by the new keys.
    let second = rotation::prepare(dir, &NETWORK).unwrap();
    assert_eq!(second.node, old.node());
    let said = second.statement(&NETWORK);
    assert_eq!(osmoda_types::statement::verify(&new.identity_key(), &said, &second.by_old), Ok(()));
    rotation::abandon(dir).unwrap();
    assert_eq!(keys(&state::load_identity(dir).unwrap()), keys(&new));
    assert_eq!(names(dir), FILES);
    // Of many changes the last eight are shown.
    for _ in 0..10 {
        rotation::prepare(dir, &NETWORK).unwrap();
        rotation::commit(dir).unwrap();
    }
    let now = state::load_identity(dir).unwrap();
    assert_eq!((now.node(), now.past().len()), (old.node(), 8));
    assert_eq!(now.past()[7].mesh_key, now.mesh_key());
}

#[test]
fn hygiene_14_a_change_that_was_cut_short_anywhere_leaves_both_old_or_both_new_keys() {
    let copy = |from: &Path, to: &Path| std::fs::copy(from, to).map(drop).unwrap();
    // What had been written when the host went down, in the order of writing; the
    // id and the list of changes are written between the second and the third.
    for steps in 0..=6 {
        let (root, old) = host();
        let dir = root.path();
        let next = dir.join("next");
        if steps == 0 {
            // Keys without their succession: preparing begins again.
            std::fs::create_dir(&next).unwrap();
            std::fs::write(next.join("mesh.key"), [1; 7]).unwrap();
            assert_eq!(keys(&state::load_identity(dir).unwrap()), keys(&old));
            rotation::prepare(dir, &NETWORK).unwrap();
            continue;
        }
        let prepared = rotation::prepare(dir, &NETWORK).unwrap();
        let new = (prepared.mesh_key, prepared.identity_key);
        if steps >= 2 {
            std::fs::write(next.join("commit"), b"").unwrap();
        }
        if steps >= 3 {
            copy(&next.join("mesh.key"), &dir.join("mesh.key"));
        }
        if steps >= 4 {
            copy(&next.join("identity.key"), &dir.join("identity.key"));
        }
        if steps >= 5 {
            std::fs::rename(&next, dir.join("last")).unwrap();
        }
        if steps >= 6 {
            std::fs::remove_file(dir.join("last/mesh.key")).unwrap();
        }
        let expected = if steps == 1 { keys(&old) } else { new };
        for _ in 0..2 {
            let now = state::load_identity(dir).unwrap();
            assert_eq!((keys(&now), now.node()), (expected, old.node()), "after step {steps}");
        }
        assert_eq!(rotation::prepare(dir, &NETWORK).unwrap().node, old.node());
    }
}

#[test]
fn a_prepared_key_that_is_damaged_is_not_committed_into_half_an_identity() {
    let (root, old) = host();
    let dir = root.path();
    rotation::prepare(dir, &NETWORK).unwrap();
    std::fs::OpenOptions::new().write(true).open(dir.join("next/mesh.key")).unwrap().set_len(3).unwrap();
    assert_eq!(rotation::commit(dir).unwrap_err().code(), ErrorCode::IdentityPartial);
    // It stays an error, and nothing was replaced.
    assert_eq!(state::load_identity(dir).unwrap_err().code(), ErrorCode::IdentityPartial);
    std::fs::remove_dir_all(dir.join("next")).unwrap();
    assert_eq!(keys(&state::load_identity(dir).unwrap()), keys(&old));
}

/// A node `a` on a root of its own and its peer `b`, linked.
async fn pair_of(root: &Path) -> (Node, Node) {
    let identity = state::load_identity(root).unwrap();
    let a = Start { identity, members: Members::default(), adjust: quick, ..Start::new(1, Role::Voter) }.run();
    let b = Start { adjust: quick, ..Start::new(2, Role::Voter) }.run();
    introduce(2, &[&a, &b]).await;
    b.linked(a.id(), true).await;
    a.linked(b.id(), true).await;
    (a, b)
}

/// Tries again soon, so that a test need not wait for what takes half a minute.
fn quick(tuning: &mut Tuning) {
    tuning.rehandshake_retry = std::time::Duration::from_millis(200);
}

fn later(members: &Members, index: u64) -> Members {
    Members { index, ..members.clone() }
}

#[tokio::test]
async fn a_node_changes_its_keys_without_losing_a_link_and_its_peer_follows() {
    let (root, _) = host();
    let (a, b) = pair_of(root.path()).await;
    let succession = rotation::prepare(root.path(), &NETWORK).unwrap();
    let after = later(&b.handle.members().succeeded(&succession, &NETWORK).unwrap(), 3);
    let mut links = b.handle.subscribe();
    links.borrow_and_update();
    b.handle.update_members(after.clone()).await.unwrap();
    let identity = rotation::commit(root.path()).unwrap();
    a.handle.change_identity(identity).await.unwrap();
    a.handle.update_members(after).await.unwrap();
    // The link is made anew by whoever dialled it, and is up all the while.
    wait_for("a new link", LIMIT, async || {
        let renewed = a.handle.count(Event::LinkRenewed) + b.handle.count(Event::LinkRenewed);
        (renewed >= 2).then_some(())
    })
    .await;
    assert!(a.handle.subscribe().borrow().is_up(&b.id()) && b.handle.subscribe().borrow().is_up(&a.id()));
    assert!(links.borrow_and_update().is_up(&a.id()));
    let queue = b.handle.accept(Service::Raft).unwrap();
    a.handle.connect_stream(b.id(), Service::Raft).await.unwrap();
    drop(queue);
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn the_old_keys_open_nothing_once_the_peer_has_the_new_ones() {
    let (root, old) = host();
    let (a, b) = pair_of(root.path()).await;
    let succession = rotation::prepare(root.path(), &NETWORK).unwrap();
    let before = later(&a.handle.members(), 1);
    let listen = a.handle.local_address();
    b.handle.update_members(later(&before.succeeded(&succession, &NETWORK).unwrap(), 3)).await.unwrap();
    a.stop().await;
    b.linked(old.node(), false).await;
    // Somebody has stolen them, or the node came back without its new ones.
    let thief = Start { identity: old.clone(), listen, members: before, ..Start::new(1, Role::Voter) };
    let thief = wait_for("the port", LIMIT, async || thief.try_run().ok()).await;
    let error = thief.handle.connect_stream(b.id(), Service::Raft).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::PeerOffline);
    assert!(!b.handle.subscribe().borrow().is_up(&old.node()));
    thief.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_node_that_went_down_before_it_heard_the_answer_comes_back_with_its_prepared_keys() {
    let (root, old) = host();
    let (a, b) = pair_of(root.path()).await;
    let succession = rotation::prepare(root.path(), &NETWORK).unwrap();
    let (before, listen) = (later(&a.handle.members(), 1), a.handle.local_address());
    a.stop().await;
    b.handle.update_members(later(&before.succeeded(&succession, &NETWORK).unwrap(), 3)).await.unwrap();
    b.linked(old.node(), false).await;
    // It starts as it went down: with the old keys, and the new ones at hand.
    let (_, next) = rotation::prepared(root.path()).unwrap().unwrap();
    let again = Start { identity: old.clone(), listen, members: before, ..Start::new(1, Role::Voter) };
    let again = wait_for("the port", LIMIT, async || again.try_run().ok()).await;
    again.handle.prepare_identity(Some(next.clone())).unwrap();
    again.linked(b.id(), true).await;
    b.linked(again.id(), true).await;
    // Over that link it learns that it may commit; the link stays.
    assert!(rotation::is_logged(&b.handle.members(), &next) && !rotation::is_logged(&b.handle.members(), &old));
    again.handle.change_identity(rotation::commit(root.path()).unwrap()).await.unwrap();
    again.handle.update_members(later(&b.handle.members(), 3)).await.unwrap();
    again.linked(b.id(), true).await;
    assert_eq!(again.handle.identity().mesh_key(), succession.mesh_key);
    again.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn a_peer_that_slept_through_two_changes_follows_over_the_statements() {
    let (root, _) = host();
    let (a, b) = pair_of(root.path()).await;
    let (id, asleep, listen) = (a.id(), later(&b.handle.members(), 2), b.handle.local_address());
    b.stop().await;
    for index in [3, 4] {
        let succession = rotation::prepare(root.path(), &NETWORK).unwrap();
        let after = later(&a.handle.members().succeeded(&succession, &NETWORK).unwrap(), index);
        a.handle.change_identity(rotation::commit(root.path()).unwrap()).await.unwrap();
        a.handle.update_members(after).await.unwrap();
    }
    let again = Start { listen, members: asleep, adjust: quick, ..Start::new(2, Role::Voter) };
    let again = wait_for("the port", LIMIT, async || again.try_run().ok()).await;
    again.linked(id, true).await;
    a.linked(again.id(), true).await;
    assert_eq!(again.handle.members().by_node(&id).unwrap().mesh_key, a.handle.identity().mesh_key());
    assert_eq!(again.handle.members().index, 2, "the log will say more");
    a.stop().await;
    again.stop().await;
}

#[tokio::test]
async fn keys_of_another_node_are_not_taken() {
    let (root, _) = host();
    let (a, b) = pair_of(root.path()).await;
    let (_other_root, other) = host();
    let refused = a.handle.change_identity(other.clone()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Conflict);
    assert!(a.handle.prepare_identity(Some(other)).is_err());
    a.stop().await;
    b.stop().await;
}

#[test]
fn a_cached_allow_list_with_the_prepared_keys_commits_them_at_the_next_start() {
    let (root, old) = host();
    let dir = root.path();
    let succession = rotation::prepare(dir, &NETWORK).unwrap();
    let member = osmoda_mesh_protocol::Member {
        node: old.node(),
        mesh_key: old.mesh_key(),
        identity_key: old.identity_key(),
        role: Role::Voter,
        name: "n1".into(),
        addresses: vec![],
    };
    let members = Members { index: 1, epoch: osmoda_types::MeshEpoch(1), members: vec![member] };
    let secret = osmoda_mesh::EpochSecret {
        epoch: osmoda_types::MeshEpoch(1),
        secret: osmoda_mesh_protocol::SecretBytes::new([8; 32]),
    };
    let rejoin_secret = osmoda_mesh_protocol::SecretBytes::new([9; 32]);
    state::write_initial(dir, &state::Initial { network: NETWORK, secret, rejoin_secret, members: members.clone() })
        .unwrap();
    let before = state::load(dir).unwrap();
    assert_eq!((keys(&before.identity), before.next.is_some()), (keys(&old), true));
    state::store_members(dir, &later(&members.succeeded(&succession, &NETWORK).unwrap(), 2)).unwrap();
    let after = state::load(dir).unwrap();
    assert_eq!(keys(&after.identity), (succession.mesh_key, succession.identity_key));
    assert!(after.next.is_none() && after.identity.node() == old.node());
}
