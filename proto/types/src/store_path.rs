//! A path to a system closure: absolute, plain, and safe to put in an argument list.

/// The longest path accepted, in bytes (`PATH_MAX` of Linux, less its NUL).
pub const STORE_PATH_BYTES_MAX: usize = 4095;

/// An absolute path of a toplevel, such as `/nix/store/…-nixos-system-web-1`.
///
/// Invariant: begins with `/`, has no empty, `.` or `..` component, and only
/// bytes `[A-Za-z0-9+._?=/-]` (Nix's own alphabet for store paths), so it can
/// neither leave its folder nor be read as an option or as shell text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct StorePath(String);

/// Why a text is not a [`StorePath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {path:?}")]
pub struct StorePathError {
    /// What is wrong with it.
    pub reason: &'static str,
    /// The offending text, cut to 120 characters.
    pub path: String,
}

impl StorePath {
    /// Checks and wraps a path.
    ///
    /// # Errors
    /// [`StorePathError`] when the text breaks the invariant of the type.
    pub fn new(text: impl Into<String>) -> Result<Self, StorePathError> {
        let text = text.into();
        let fail = |reason| Err(StorePathError { reason, path: text.chars().take(120).collect() });
        if text.len() > STORE_PATH_BYTES_MAX {
            return fail("a store path is at most 4095 bytes");
        }
        let Some(rest) = text.strip_prefix('/') else {
            return fail("a store path is absolute");
        };
        if rest.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return fail("a store path has no empty, '.' or '..' component");
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+._?=/-".contains(&b)) {
            return fail("a store path has only letters, digits and + . _ ? = / -");
        }
        Ok(Self(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path.
    #[must_use]
    pub fn as_path(&self) -> &std::path::Path {
        std::path::Path::new(&self.0)
    }

    /// The last component, such as `…-nixos-system-web-1`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl std::fmt::Display for StorePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::fmt::Debug for StorePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StorePath({})", self.0)
    }
}

impl std::str::FromStr for StorePath {
    type Err = StorePathError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl<'de> serde::Deserialize<'de> for StorePath {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_store_paths_and_refuses_everything_that_could_bite() {
        assert!(StorePath::new("/nix/store/abc-nixos-system-web_1-26.05.2+x?=").is_ok());
        for bad in
            ["", "/", "nix/store/x", "/nix//store", "/nix/../etc", "/nix/./x", "/a b", "/a\n", "/a;b", "/a\0", "/é"]
        {
            assert!(StorePath::new(bad).is_err(), "{bad:?}");
        }
        assert!(StorePath::new(format!("/{}", "a".repeat(5000))).is_err());
    }
}
