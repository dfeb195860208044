//! Which build this is.

use serde::Serialize;

/// The version of this build, as `--version` and every `/health` show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Version {
    /// The version of the workspace.
    pub version: &'static str,
    /// The commit the build was made from, 40 hex digits; `unknown` for a build
    /// from an export or of the debug profile (see `build.rs`).
    pub commit: &'static str,
    /// Whether tracked files differed from that commit.
    pub dirty: bool,
    /// `0.1.0 (0123456789ab)`, or `0.1.0 (0123456789ab, dirty)`: for clap's `version`.
    #[serde(skip)]
    pub text: &'static str,
}

/// This build.
pub const VERSION: Version = Version {
    version: env!("CARGO_PKG_VERSION"),
    commit: env!("OSMODA_BUILD_COMMIT"),
    dirty: matches!(env!("OSMODA_BUILD_DIRTY").as_bytes(), b"true"),
    text: env!("OSMODA_BUILD_TEXT"),
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commit_is_a_commit_or_openly_unknown() {
        let commit = VERSION.commit;
        let hex = commit.len() == 40 && commit.bytes().all(|b| b.is_ascii_hexdigit());
        assert!(hex || commit == "unknown", "{commit}");
        assert!(VERSION.text.starts_with(VERSION.version));
        assert_eq!(VERSION.text.contains("dirty"), VERSION.dirty);
    }
}
