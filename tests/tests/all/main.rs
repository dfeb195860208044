//! Integration tests with the real programs, as one binary: each module is one
//! subject. The programs are those beside this binary (`cargo xtask test`
//! builds them first).
#![allow(clippy::unwrap_used, reason = "tests: a failure shows the line that surprised it")]

mod alone;
mod node;
mod revoke;
mod rotate;
mod subkeys;

use std::convert::Infallible;
use std::time::Duration;

use osmoda_ctl::dev::fleet::Fleet;
use osmoda_ctl::dev::member::Programs;
use osmoda_kit::testing::look_until;

/// The programs of the same build: this test lies one folder below them.
fn programs() -> Programs {
    let own = std::env::current_exe().expect("the kernel says where a program is");
    Programs::in_dir(own.parent().and_then(std::path::Path::parent).expect("target/<profile>/deps"))
}

/// How long anything may take on a busy machine.
const TIME: Duration = Duration::from_secs(60);

/// Takes the fleet down whatever happened.
struct Running(Fleet);

impl Drop for Running {
    fn drop(&mut self) {
        // A process that had to be killed is no fault of a test that failed.
        let _killed = self.0.down();
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let Ok(found) = look_until(TIME, || Ok::<_, Infallible>(look()));
    found.unwrap_or_else(|| panic!("not in time: {what}"))
}
