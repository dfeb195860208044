//! `osmoda-node` from the outside: a host becomes a node once, runs once, and
//! says no with one line what, one line why and a code.

use std::path::Path;

use osmoda_ctl::dev::layout::free_udp_ports;
use osmoda_ctl::dev::proc::{self, ProcError};
use osmoda_node_api::registry::DAEMONS;
use osmoda_types::ErrorCode;
use rustix::process::Signal;

use crate::{programs, until};

/// The operator's public key, as `init` takes it.
const OPERATOR: &str = "ed25519 d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a dev\n";

fn node(args: &[&str]) -> Result<String, ProcError> {
    proc::output(&programs().path("osmoda-node"), args)
}

/// The exit code and what was said.
fn refusal(args: &[&str]) -> (Option<i32>, String) {
    match node(args) {
        Err(ProcError::Failed(failed)) => (failed.code, failed.stderr.clone()),
        other => panic!("{args:?}: {other:?}"),
    }
}

fn check(args: &[&str], exit: i32, code: ErrorCode) {
    let (got, text) = refusal(args);
    assert_eq!(got, Some(exit), "{args:?}: {text}");
    assert!(text.starts_with("error: ") && text.lines().count() == 2, "{args:?}: {text}");
    assert!(text.ends_with(&format!("({code})")), "{args:?}: {text}");
}

/// A root directory, an operator's key and a listening address.
struct Host {
    dir: tempfile::TempDir,
    listen: String,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("op.pub"), OPERATOR).unwrap();
        Self { dir, listen: free_udp_ports(1).unwrap()[0].to_string() }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn init(&self) {
        let (root, operator) = (self.path("n1"), self.path("op.pub"));
        node(&["init", "--root", &root, "--name", "n1", "--listen", &self.listen, "--operator", &operator]).unwrap();
    }
}

#[test]
fn bad_input_gets_one_clear_error_with_a_code() {
    let host = Host::new();
    let (root, operator, listen) = (host.path("n1"), host.path("op.pub"), host.listen.as_str());
    let init = ["init", "--root", &root, "--name", "n1", "--listen", listen];
    check(&init, 2, ErrorCode::BadRequest);
    check(&[&init[..], &["--operator", "/no/such.pub"]].concat(), 2, ErrorCode::BadRequest);
    let systemd = [&init[..], &["--operator", &operator, "--runner", "systemd"]].concat();
    check(&systemd, 1, ErrorCode::NoSystemd);
    check(&["init", "--root", &root, "--name", "n1", "--operator", &operator], 2, ErrorCode::BadRequest);
    check(&["join", "nonsense", "--root", &root, "--name", "n1"], 2, ErrorCode::InviteMalformed);
    check(&["run", "--root", &root], 2, ErrorCode::ConfigInvalid);
    check(&["invite", "--root", &root], 1, ErrorCode::DaemonUnavailable);
    host.init();
    check(&[&init[..], &["--operator", &operator]].concat(), 1, ErrorCode::Conflict);
}

#[test]
fn a_real_process_runs_once_per_root_answers_and_stops() {
    let host = Host::new();
    host.init();
    let root = host.path("n1");
    let log = host.dir.path().join("log");
    let mut running = proc::start_apart(&programs().path("osmoda-node"), &["run", "--root", &root], &log).unwrap();
    until("the daemons answer", || node(&["status", "--root", &root]).ok());
    check(&["run", "--root", &root], 1, ErrorCode::RootLocked);
    let invite = node(&["invite", "--root", &root, "--role", "voter", "--ttl", "5m"]).unwrap();
    assert!(invite.trim().len() > 64, "{invite}");
    let pids = proc::of_root(Path::new(&root));
    assert_eq!(pids.len(), 1 + DAEMONS.len(), "a supervisor and its daemons");
    proc::signal_all(&proc::supervisors(&pids), Signal::TERM);
    let ended = running.wait().unwrap();
    assert!(ended.success(), "{ended}: {}", std::fs::read_to_string(&log).unwrap());
    assert_eq!(proc::of_root(Path::new(&root)), Vec::<i32>::new());
}
