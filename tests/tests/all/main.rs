//! Integration tests with the real programs, as one binary: each module is one
//! subject. The programs are those beside this binary (`cargo xtask test`
//! builds them first).
#![allow(clippy::unwrap_used, reason = "tests: a failure shows the line that surprised it")]

mod node;
mod revoke;

use osmoda_ctl::dev::member::Programs;

/// The programs of the same build: this test lies one folder below them.
fn programs() -> Programs {
    let own = std::env::current_exe().expect("the kernel says where a program is");
    Programs::in_dir(own.parent().and_then(std::path::Path::parent).expect("target/<profile>/deps"))
}
