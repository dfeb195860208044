//! The handshake's models in `docs/models`, where Verifpal is installed: every
//! query has the outcome that the documentation gives.

use std::{
    env,
    io::Write,
    path::PathBuf,
    process::{Command, Output},
};

/// Each model with Verifpal's result code: `c` confidentiality, `a`
/// authentication, 0 holds, 1 is broken; in the order of the queries.
const MODELS: [(&str, &str); 3] = [
    ("mesh-quantum-later", "c1c0c0c0c0a0a0a0"),
    ("mesh-kem-broken", "c1c1c0c0c0a0a0a0"),
    ("mesh-outsider", "c0c0c0c0c0"),
];

#[expect(clippy::disallowed_methods, reason = "this crate lies below kit; the program is a developer's tool")]
fn verifpal(model: &str) -> Option<Output> {
    let program = env::var_os("OSMODA_VERIFPAL").unwrap_or_else(|| "verifpal".into());
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../../docs/models/{model}.vp"));
    assert!(path.exists(), "{}", path.display());
    Command::new(program).args(["verify", "--result-code"]).arg(path).output().ok()
}

#[test]
fn models_say_what_they_are_said_to_say() {
    for (model, expected) in MODELS {
        let Some(output) = verifpal(model) else {
            // Said, because a model that was not run is not a model that passed.
            let said = writeln!(std::io::stderr(), "skipped: verifpal is not installed, {model} was not run");
            assert!(said.is_ok());
            continue;
        };
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(text.lines().next_back(), Some(expected), "{model}:\n{text}");
    }
}
