//! A member that is removed for good, and one that slept through it.

use std::time::{Duration, Instant};

use osmoda_ctl::dev::fleet::Fleet;
use osmoda_tests::sockets::MeshSocket;
use osmoda_types::{MeshEpoch, NodeId};

use crate::{Running, programs, until};

/// Two members are revoked while a third is away: its epoch has passed by two,
/// so only its own secret lets it back in. The revoked ones stay out, also when
/// their programs are started again.
#[test]
fn revoked_members_stay_out_and_one_that_was_away_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = Running(Fleet::plan(dir.path().join("f").as_path(), programs(), 4, 1).unwrap());
    let fleet = &fleet.0;
    fleet.up(&mut |_| {}).unwrap();
    let mesh = |name: &str| MeshSocket::of(&fleet.layout, name).unwrap();
    let [n1, n2, n3, n4] = [mesh("n1"), mesh("n2"), mesh("n3"), mesh("n4")];
    let gone: Vec<NodeId> = ["n2", "n3"].iter().map(|name| mesh(name).identity().unwrap().node).collect();
    let away = n4.identity().unwrap();
    assert_eq!(away.epoch, MeshEpoch(1));
    fleet.processes().stop(&fleet.nodes[3]);
    until("n4 stops", || fleet.processes().pids(&fleet.nodes[3]).is_empty().then_some(()));

    let key = fleet.layout.operator_key().display().to_string();
    for (epoch, name) in [(2, "n2"), (3, "n3")] {
        fleet.osmoda(&["node", "revoke", name, "--key", &key, "--yes"]).unwrap();
        until("the next epoch", || (n1.identity().unwrap().epoch == MeshEpoch(epoch)).then_some(()));
        if name == "n2" {
            // Else n3 is out before it hears of it, and the two who are out stay linked.
            until("n3 has n2 no more", || n3.peers().unwrap().iter().all(|peer| peer.id != gone[0]).then_some(()));
        }
    }
    until("n1 has both no more", || n1.peers().unwrap().iter().all(|peer| !gone.contains(&peer.id)).then_some(()));
    assert!(fleet.osmoda(&["node", "revoke", "n2", "--key", &key, "--yes"]).is_err(), "the name is free again");

    fleet.start(&fleet.nodes[3]).unwrap();
    let back = until("n4 comes back and learns the epoch", || {
        n4.identity().ok().filter(|identity| identity.epoch == MeshEpoch(3))
    });
    assert_eq!((back.node, back.mesh_key), (away.node, away.mesh_key));
    until("n1 and n4 are linked", || n1.is_linked(away.node).unwrap().then_some(()));

    fleet.processes().stop(&fleet.nodes[1]);
    until("n2 stops", || fleet.processes().pids(&fleet.nodes[1]).is_empty().then_some(()));
    fleet.start(&fleet.nodes[1]).unwrap();
    until("n2 runs again", || n2.identity().ok());
    // Long enough for several tries: its first pauses are fractions of a second.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        assert!(n2.peers().unwrap().iter().all(|peer| !peer.connected), "a revoked member was let in");
    }
}
