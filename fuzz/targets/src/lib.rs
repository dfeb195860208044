//! One plain function per parser that a peer can reach, before or after it is
//! admitted.
//!
//! Each takes any bytes, panics only when a promise is broken and is called in
//! two places: by a cargo-fuzz target in `fuzz/fuzz_targets` (nightly, for
//! as long as one likes) and by `tests/one/bounded.rs` (every CI run, a fixed number of mutations of
//! the corpus with a printed seed). Invariant: every target has a corpus folder
//! with at least one file that its parser accepts or nearly accepts
//! (`tests/one/bounded.rs`).

mod handshake;
mod trust;
mod words;

use osmoda_mesh::fuzz::fuzz_datagram;
use osmoda_mesh_rooms::{fuzz_reconcile, fuzz_room_frame, fuzz_room_message, fuzz_room_record};
use osmoda_meshd::fuzz::{fuzz_blob, fuzz_message};

pub use handshake::{handshake, transport_parameters};
pub use trust::{note, permit};
pub use words::{command, frame, invite, keys, knock, preamble, witness};

/// A parser under test.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: of the cargo-fuzz target and of the corpus folder.
    pub name: &'static str,
    /// Whether a stranger reaches it, before any proof.
    pub before_admission: bool,
    /// How many mutations a CI run gives it: cheap ones more.
    pub rounds: u32,
    /// The parser.
    pub body: fn(&[u8]),
}

/// Rounds of a parser that takes microseconds: 20,000 are under a second.
const CHEAP: u32 = 20_000;
/// Rounds of one that runs key exchanges: 400 are about two seconds.
const COSTLY: u32 = 400;

/// Every parser.
pub const TARGETS: &[Target] = &[
    Target { name: "knock", before_admission: true, rounds: CHEAP, body: knock },
    Target { name: "handshake", before_admission: true, rounds: COSTLY, body: handshake },
    Target { name: "transport_parameters", before_admission: true, rounds: CHEAP, body: transport_parameters },
    Target { name: "invite", before_admission: true, rounds: CHEAP, body: invite },
    Target { name: "frame", before_admission: false, rounds: CHEAP, body: frame },
    Target { name: "preamble", before_admission: false, rounds: CHEAP, body: preamble },
    Target { name: "room_message", before_admission: false, rounds: CHEAP, body: fuzz_room_message },
    Target { name: "room_record", before_admission: false, rounds: CHEAP, body: fuzz_room_record },
    Target { name: "room_frame", before_admission: false, rounds: CHEAP, body: fuzz_room_frame },
    Target { name: "reconcile", before_admission: false, rounds: COSTLY, body: fuzz_reconcile },
    Target { name: "datagram", before_admission: true, rounds: CHEAP, body: fuzz_datagram },
    Target { name: "keys", before_admission: false, rounds: CHEAP, body: keys },
    Target { name: "message", before_admission: false, rounds: CHEAP, body: fuzz_message },
    Target { name: "blob", before_admission: false, rounds: COSTLY, body: fuzz_blob },
    Target { name: "witness", before_admission: false, rounds: CHEAP, body: witness },
    Target { name: "command", before_admission: false, rounds: CHEAP, body: command },
    Target { name: "note", before_admission: false, rounds: CHEAP, body: note },
    Target { name: "permit", before_admission: false, rounds: CHEAP, body: permit },
    // The last, because it is there only with its feature.
    #[cfg(feature = "swim")]
    Target { name: "swim", before_admission: false, rounds: CHEAP, body: osmoda_mesh::fuzz::fuzz_swim },
];

/// The parser of that name.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).expect("a target of this name")
}
