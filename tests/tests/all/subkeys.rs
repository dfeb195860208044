//! The keys of the daemons: each ledger's own key is in the fleet's log.

use std::collections::BTreeSet;

use osmoda_ctl::dev::fleet::Fleet;
use osmoda_tests::sockets::{LedgerSocket, MeshSocket};

use crate::{Running, programs, until};

/// Every agentd makes its key at its first start, has the mesh endorse it and
/// the log record it, also on a node that has no vote; a restart keeps the key.
#[test]
fn the_key_of_every_ledger_is_endorsed_and_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = Running(Fleet::plan(dir.path().join("f").as_path(), programs(), 2, 1).unwrap());
    let fleet = &fleet.0;
    fleet.up(&mut |_| {}).unwrap();
    let nodes: BTreeSet<String> = ["n1", "n2"]
        .map(|name| MeshSocket::of(&fleet.layout, name).unwrap().identity().unwrap().node.to_string())
        .into();
    let ledger = LedgerSocket::of(&fleet.layout, "n1").unwrap();
    // The log's entries as this node saw them, so each of them was committed.
    let registered = || -> Option<Vec<String>> {
        let rows = ledger.rows("fleet.subkey").ok()?;
        let said = rows.iter().map(|row| serde_json::from_str::<serde_json::Value>(&row.payload).unwrap());
        let ledgers = said.filter(|said| said["what"]["purpose"] == "ledger");
        Some(ledgers.map(|said| said["what"]["node"].as_str().unwrap().to_owned()).collect())
    };
    // A key may be in the log twice, so the nodes are counted and not the rows.
    let all = || registered().filter(|keys| keys.iter().cloned().collect::<BTreeSet<_>>() == nodes);
    until("both keys are in the log", all);

    let key = fleet.layout.root("n2").join("var/lib/osmoda/agentd/ledger.key");
    let made = std::fs::read(&key).unwrap();
    fleet.processes().stop(&fleet.nodes[1]);
    until("n2 stops", || fleet.processes().pids(&fleet.nodes[1]).is_empty().then_some(()));
    fleet.start(&fleet.nodes[1]).unwrap();
    let n2 = LedgerSocket::of(&fleet.layout, "n2").unwrap();
    let starts = || n2.rows("daemon.start").ok().filter(|rows| rows.len() >= 2);
    until("n2's ledger runs again", starts);
    assert_eq!(std::fs::read(&key).unwrap(), made, "a key is made once");
}
