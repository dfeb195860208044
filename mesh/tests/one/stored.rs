//! The files of the mesh: made once, refused when damaged, never older.

use std::os::unix::fs::PermissionsExt;

use osmoda_mesh::{EpochSecret, RejoinSecret, state};
use osmoda_mesh_protocol::SecretBytes;
use osmoda_types::{ErrorCode, MeshEpoch, NetworkId, NodeId, Role};

use crate::node::{NETWORK, member, members};

fn initial(dir: &std::path::Path) -> state::Initial {
    let identity = state::create_identity(dir).unwrap();
    state::Initial {
        network: NETWORK,
        secret: EpochSecret { epoch: MeshEpoch(1), secret: SecretBytes::new([3; 32]) },
        rejoin_secret: SecretBytes::new([4; 32]),
        members: members(5, vec![member(&identity, Role::Voter, vec![])]),
    }
}

#[test]
fn what_init_writes_is_what_the_daemon_loads() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("mesh");
    let identity = state::create_identity(&dir).unwrap();
    assert_eq!(state::create_identity(&dir).unwrap().node(), identity.node());
    assert_eq!(state::load(&dir).unwrap_err().code(), ErrorCode::IdentityMissing);

    let initial = initial(&dir);
    state::write_initial(&dir, &initial).unwrap();
    let loaded = state::load(&dir).unwrap();
    assert_eq!(loaded.identity.node(), identity.node());
    assert_eq!((loaded.network, &loaded.members), (NETWORK, &initial.members));
    assert_eq!(loaded.secrets.epochs, std::slice::from_ref(&initial.secret));
    assert_eq!(loaded.secrets.rejoin.as_ref(), Some(&initial.rejoin_secret));
    assert!(loaded.secrets.rejoins.is_empty() && loaded.secrets.changed_ms.is_some());
    for file in ["mesh.key", "identity.key", "rejoin.key", "members.json", "network.json", "epochs/1.key"] {
        let mode = std::fs::metadata(dir.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{file}");
    }

    let other = state::Initial { network: NetworkId::from_bytes([9; 32]), ..initial };
    assert_eq!(state::write_initial(&dir, &other).unwrap_err().code(), ErrorCode::InviteWrongNetwork);
}

#[test]
fn a_newer_epoch_is_loaded_last_and_an_older_list_is_not_stored() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    let initial = initial(dir);
    state::write_initial(dir, &initial).unwrap();
    let secret = |epoch, byte| EpochSecret { epoch: MeshEpoch(epoch), secret: SecretBytes::new([byte; 32]) };
    for (epoch, kept) in [(10, vec![1, 10]), (2, vec![2, 10]), (11, vec![10, 11]), (11, vec![10, 11])] {
        state::store_epoch(dir, &secret(epoch, 9)).unwrap();
        let epochs: Vec<_> = state::load(dir).unwrap().secrets.epochs.iter().map(|secret| secret.epoch.0).collect();
        assert_eq!(epochs, kept);
    }
    assert_eq!(state::store_epoch(dir, &secret(11, 8)).unwrap_err().code(), ErrorCode::Conflict);

    let list = |index| members(index, initial.members.members.clone());
    assert!(!state::store_members(dir, &list(4)).unwrap());
    assert!(state::store_members(dir, &list(6)).unwrap());
    assert_eq!(state::load(dir).unwrap().members.index, 6);
}

#[test]
fn secrets_of_others_are_replaced_as_a_whole() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    state::write_initial(dir, &initial(dir)).unwrap();
    let of = |byte| RejoinSecret { node: NodeId::from_bytes([byte; 32]), secret: SecretBytes::new([byte; 32]) };
    for held in [vec![of(1), of(2)], vec![of(2)], vec![]] {
        state::store_rejoins(dir, &held).unwrap();
        assert_eq!(state::load(dir).unwrap().secrets.rejoins, held);
    }
    state::store_rejoin(dir, &SecretBytes::new([9; 32])).unwrap();
    assert_eq!(state::load(dir).unwrap().secrets.rejoin, Some(SecretBytes::new([9; 32])));
    assert_eq!(std::fs::metadata(dir.join("rejoins.json")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn hygiene_14_a_missing_or_partial_key_is_an_error_and_stays_so() {
    for (file, keep, code) in [
        ("mesh.key", None, ErrorCode::IdentityMissing),
        ("identity.key", None, ErrorCode::IdentityMissing),
        ("mesh.key", Some(31), ErrorCode::IdentityPartial),
        ("identity.key", Some(0), ErrorCode::IdentityPartial),
        ("epochs/1.key", Some(16), ErrorCode::IdentityPartial),
        ("epochs/1.key", None, ErrorCode::IdentityMissing),
    ] {
        let root = tempfile::tempdir().unwrap();
        state::write_initial(root.path(), &initial(root.path())).unwrap();
        let path = root.path().join(file);
        match keep {
            Some(bytes) => std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        for _ in 0..2 {
            assert_eq!(state::load(root.path()).unwrap_err().code(), code, "{file} {keep:?}");
        }
        if !file.starts_with("epochs") {
            assert_eq!(state::create_identity(root.path()).unwrap_err().code(), code, "{file} {keep:?}");
        }
    }
}

#[test]
fn hygiene_14_a_key_that_others_can_read_is_refused() {
    for file in ["mesh.key", "identity.key", "rejoin.key", "epochs/1.key"] {
        let root = tempfile::tempdir().unwrap();
        state::write_initial(root.path(), &initial(root.path())).unwrap();
        std::fs::set_permissions(root.path().join(file), std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = state::load(root.path()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::IdentityPartial, "{file}");
    }
}

#[test]
fn a_damaged_list_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    state::write_initial(root.path(), &initial(root.path())).unwrap();
    std::fs::write(root.path().join("members.json"), b"{").unwrap();
    assert_eq!(state::load(root.path()).unwrap_err().code(), ErrorCode::StateDirUnusable);
}
