//! Tokens of daemons that share one uid.
//!
//! The supervisor makes one token per daemon at start and hands each child a
//! descriptor from which it reads its own and everybody's. Tokens live in
//! memory only and end with the supervisor.
//! Use a pipe: what was read from it is gone, so programs that a daemon starts
//! later find nothing in an inherited descriptor.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::callers::DaemonUser;
use crate::secret::Secret;

/// Length of a token's text: 32 random bytes in hex.
pub const TOKEN_HEX_LEN: usize = 64;

/// The largest token file in bytes: a hundred daemons of some eighty bytes each.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// What a daemon reads from its token descriptor. The supervisor writes it as JSON.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenFile {
    /// The daemon's own token.
    #[serde(rename = "self")]
    pub own: String,
    /// Token → daemon name, of every daemon.
    pub peers: BTreeMap<String, String>,
}

impl std::fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.peers.values().collect();
        f.debug_struct("TokenFile").field("peers", &names).finish_non_exhaustive()
    }
}

/// Why tokens were not taken over.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The descriptor could not be read.
    #[error("cannot read tokens from descriptor {descriptor}")]
    Read {
        /// Its number.
        descriptor: u32,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// What was read is no token file.
    #[error("descriptor {descriptor} does not hold a token file")]
    Malformed {
        /// Its number.
        descriptor: u32,
    },
    /// A token for a daemon that does not exist.
    #[error("token for an unknown daemon {name:?}")]
    UnknownDaemon {
        /// The name.
        name: String,
    },
    /// A token that is not 64 hex digits.
    #[error("token of {name} is not {TOKEN_HEX_LEN} lower-case hex digits")]
    BadToken {
        /// The daemon.
        name: String,
    },
}

impl TokenFile {
    /// Makes fresh tokens: one file per daemon, in the order of the names.
    #[must_use]
    pub fn mint(daemons: &[DaemonUser]) -> Vec<(&'static str, TokenFile)> {
        let tokens: Vec<_> = daemons.iter().map(|daemon| (daemon.name, hex(Secret::random().expose()))).collect();
        let peers: BTreeMap<_, _> = tokens.iter().map(|(name, token)| (token.clone(), (*name).to_owned())).collect();
        tokens.into_iter().map(|(name, own)| (name, TokenFile { own, peers: peers.clone() })).collect()
    }

    /// Reads the file to its end from an inherited descriptor; blocks until the
    /// writer has closed it.
    ///
    /// # Errors
    /// [`TokenError::Read`], [`TokenError::Malformed`]; what was read is never shown.
    pub fn read(descriptor: u32) -> Result<Self, TokenError> {
        // Opening through /proc needs no unsafe taking over of a bare number.
        // A socket cannot be opened so; pipes and files can.
        let path = format!("/proc/self/fd/{descriptor}");
        let mut content = Vec::new();
        File::open(Path::new(&path))
            .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut content))
            .map_err(|source| TokenError::Read { descriptor, source })?;
        serde_json::from_slice(&content).map_err(|_| TokenError::Malformed { descriptor })
    }

    /// Checks the peers against the registry.
    ///
    /// # Errors
    /// [`TokenError::UnknownDaemon`], [`TokenError::BadToken`].
    pub fn peers(&self, daemons: &[DaemonUser]) -> Result<PeerTokens, TokenError> {
        let mut peers = Vec::new();
        for (token, name) in &self.peers {
            let known = daemons.iter().find(|daemon| daemon.name == name);
            let known = known.ok_or_else(|| TokenError::UnknownDaemon { name: name.clone() })?;
            let good = token.len() == TOKEN_HEX_LEN && token.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if !good {
                return Err(TokenError::BadToken { name: name.clone() });
            }
            peers.push((Secret::new(token.clone()), known.name));
        }
        Ok(PeerTokens { peers })
    }
}

/// Tokens and the daemons they stand for.
#[derive(Debug, Default)]
pub struct PeerTokens {
    peers: Vec<(Secret<String>, &'static str)>,
}

impl PeerTokens {
    /// The daemon of a token. Every token is compared, in constant time each.
    #[must_use]
    pub fn name(&self, token: &str) -> Option<&'static str> {
        let mut found = None;
        for (known, name) in &self.peers {
            if known.matches(token.as_bytes()) {
                found = Some(*name);
            }
        }
        found
    }
}

fn hex(bytes: &[u8; 32]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(TOKEN_HEX_LEN), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes every text");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};
    use std::os::fd::AsRawFd;

    const DAEMONS: &[DaemonUser] =
        &[DaemonUser { name: "agentd", user: "a" }, DaemonUser { name: "watch", user: "root" }];

    #[test]
    fn minted_tokens_are_distinct_and_read_back_from_a_descriptor() {
        let minted = TokenFile::mint(DAEMONS);
        assert_eq!(minted.len(), 2);
        let (name, file) = &minted[1];
        let mut on_disk = tempfile::tempfile().unwrap();
        on_disk.write_all(&serde_json::to_vec(file).unwrap()).unwrap();
        on_disk.rewind().unwrap();
        let read = TokenFile::read(on_disk.as_raw_fd().unsigned_abs()).unwrap();
        let peers = read.peers(DAEMONS).unwrap();
        assert_eq!(peers.name(&file.own), Some(*name));
        assert_eq!(peers.name(&minted[0].1.own), Some("agentd"));
        assert_eq!(peers.name(&"0".repeat(64)), None);
        assert!(!format!("{read:?}").contains(&file.own));
    }

    #[test]
    fn unknown_daemons_and_weak_tokens_are_refused() {
        let with = |token: &str, name: &str| TokenFile {
            own: "0".repeat(64),
            peers: BTreeMap::from([(token.to_owned(), name.to_owned())]),
        };
        let strong = "a".repeat(64);
        assert!(matches!(with(&strong, "evil").peers(DAEMONS), Err(TokenError::UnknownDaemon { .. })));
        assert!(matches!(with("abc", "watch").peers(DAEMONS), Err(TokenError::BadToken { .. })));
        assert!(matches!(TokenFile::read(9_999), Err(TokenError::Read { .. })));
    }
}
