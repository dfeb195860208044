//! New keys for an old node: on disk without a gap, in the fleet without an
//! invite.

use std::path::Path;

use osmoda_mesh::{Identity, rotation, state};
use osmoda_mesh_protocol::{Members, Service};
use osmoda_types::{ErrorCode, Role};
use tempfile::TempDir;

use crate::node::{NETWORK, Start, introduce};

/// A host with its keys, and what they are.
fn host() -> (TempDir, std::sync::Arc<Identity>) {
    let root = tempfile::tempdir().unwrap();
    let identity = state::create_identity(root.path()).unwrap();
    (root, identity)
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
    assert_eq!(state::load_identity(dir).unwrap().node(), old.node());

    let new = rotation::commit(dir).unwrap();
    assert_eq!(new.node(), succession.successor());
    assert_eq!(state::load_identity(dir).unwrap().node(), new.node());
    assert_eq!(names(dir), ["identity.key", "mesh.key"]);
    // The next change names the new node.
    assert_eq!(rotation::prepare(dir, &NETWORK).unwrap().node, new.node());
    rotation::abandon(dir).unwrap();
    assert_eq!(state::load_identity(dir).unwrap().node(), new.node());
    assert_eq!(names(dir), ["identity.key", "mesh.key"]);
}

#[test]
fn hygiene_14_a_change_that_was_cut_short_anywhere_leaves_both_old_or_both_new_keys() {
    let copy = |from: &Path, to: &Path| std::fs::copy(from, to).map(drop).unwrap();
    // What had been written when the host went down, in the order of writing.
    for steps in 0..=6 {
        let (root, old) = host();
        let dir = root.path();
        let next = dir.join("next");
        if steps == 0 {
            // Keys without their succession: preparing begins again.
            std::fs::create_dir(&next).unwrap();
            std::fs::write(next.join("mesh.key"), [1; 7]).unwrap();
            assert_eq!(state::load_identity(dir).unwrap().node(), old.node());
            rotation::prepare(dir, &NETWORK).unwrap();
            continue;
        }
        let successor = rotation::prepare(dir, &NETWORK).unwrap().successor();
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
        let expected = if steps == 1 { old.node() } else { successor };
        for _ in 0..2 {
            assert_eq!(state::load_identity(dir).unwrap().node(), expected, "after step {steps}");
        }
        assert_eq!(rotation::prepare(dir, &NETWORK).unwrap().node, old_or(expected, steps, old.node()));
    }
}

/// Before the commit, preparing again still speaks for the old node.
fn old_or(expected: osmoda_types::NodeId, steps: u32, old: osmoda_types::NodeId) -> osmoda_types::NodeId {
    if steps == 1 { old } else { expected }
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
    assert_eq!(state::load_identity(dir).unwrap().node(), old.node());
}

#[tokio::test]
async fn peers_follow_a_node_to_its_new_keys_without_an_invite() {
    let (root, old) = host();
    let start = Start::new(1, Role::Voter);
    let a = Start { identity: old.clone(), members: Members::default(), ..start }.run();
    let b = Start::new(2, Role::Voter).run();
    introduce(2, &[&a, &b]).await;
    b.linked(a.id(), true).await;

    let succession = rotation::prepare(root.path(), &NETWORK).unwrap();
    let after = b.handle.members().succeeded(&succession, &NETWORK, 3).unwrap();
    b.handle.update_members(after.clone()).await.unwrap();
    // The old keys open nothing any more.
    b.linked(a.id(), false).await;
    let old_id = a.id();
    let listen = a.handle.local_address();
    let error = a.handle.connect_stream(b.id(), Service::Raft).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::PeerOffline);
    a.stop().await;

    let identity = rotation::commit(root.path()).unwrap();
    let again = Start { identity, listen, members: after, ..Start::new(1, Role::Voter) };
    let again = osmoda_kit::testing::wait_for("the port", crate::node::LIMIT, async || again.try_run().ok()).await;
    again.linked(b.id(), true).await;
    b.linked(again.id(), true).await;
    assert!(again.id() != old_id && !b.handle.subscribe().borrow().is_up(&old_id));
}
