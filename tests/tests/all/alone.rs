//! A fleet of one: the operator's command line is the witness of its ledger.

use osmoda_ctl::dev::fleet::Fleet;
use osmoda_ctl::dev::proc::ProcError;
use osmoda_kit::paths::Paths;
use osmoda_tests::hosts::{Attack, carry_out};

use crate::{Running, programs, until};

/// What he cosigned counts and is shown; a ledger that was rewritten meanwhile is
/// not cosigned again, and both signed notes are printed.
#[test]
fn an_operator_witnesses_a_fleet_of_one_and_finds_a_ledger_that_was_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = Running(Fleet::plan(dir.path().join("f").as_path(), programs(), 1, 1).unwrap());
    let fleet = &fleet.0;
    fleet.up(&mut |_| {}).unwrap();
    let root = fleet.layout.root("n1");
    let (text, key) = (root.display().to_string(), fleet.layout.operator_key().display().to_string());
    let cosign = || fleet.osmoda(&["ledger", "cosign", "--root", &text, "--key", &key]);
    let said = until("the ledger is cosigned", || cosign().ok());
    assert!(said.contains("rows cosigned"), "{said}");
    let stranger = fleet.layout.dir().join("stranger.key").display().to_string();
    fleet.osmoda(&["operator", "keygen", &stranger, "--name", "stranger"]).unwrap();
    let refused = fleet.osmoda(&["ledger", "cosign", "--root", &text, "--key", &stranger]).unwrap_err().to_string();
    assert!(refused.contains("principal_denied"), "{refused}");
    until("the cosignature counts", || {
        drop(cosign());
        let said = fleet.osmoda(&["ledger", "verify", "--all", "--wait", "3"]).ok()?;
        said.contains("quorum 1 of 1 (1 needed)").then_some(())
    });

    let member = &fleet.nodes[0];
    fleet.processes().stop(member);
    until("n1 stops", || fleet.processes().pids(member).is_empty().then_some(()));
    carry_out(&Paths::new(&root).state("agentd"), Attack::Rewrite).unwrap();
    fleet.start(member).unwrap();
    let (code, said) = until("the operator looks again", || match cosign() {
        Err(ProcError::Failed(failed)) if failed.stdout.contains("CAUGHT") => Some((failed.code, failed.stdout)),
        // The daemon is not back yet.
        Err(_) => None,
        Ok(said) => panic!("a ledger that was rewritten was cosigned: {said}"),
    });
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("signed before") && said.contains("signed later"), "{said}");
    until("the controller's notes are not enough any more", || {
        fleet.osmoda(&["ledger", "verify", "--all", "--wait", "1"]).is_err().then_some(())
    });
}
