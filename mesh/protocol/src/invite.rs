//! The text that lets one new host in, once.
//!
//! `base32(version u8 | network 32 | invite id 16 | secret 32 | issuer X25519 32
//! | expiry ms u64 | count u8 | addresses | checksum 4)`, lower case, without
//! padding; an address is `4 | 4 bytes | port u16` or `6 | 16 bytes | port u16`
//! (`architecture.md` 3.2). The checksum is the start of a BLAKE3 hash and only
//! catches typing and cutting; the secret is what counts.

use std::net::{IpAddr, SocketAddr};

use data_encoding::BASE32_NOPAD;
use osmoda_types::{ErrorCode, InviteId, MeshKey, NetworkId};
use zeroize::Zeroizing;

use crate::secret::SecretBytes;

const VERSION: u8 = 1;
const FIXED_BYTES: usize = 1 + 32 + 16 + 32 + 32 + 8 + 1;
const CHECKSUM_BYTES: usize = 4;
const ADDRESS_BYTES_MAX: usize = 1 + 16 + 2;

/// Bound on the addresses in an invite: the text stays short enough to paste.
pub const INVITE_ADDRESSES_MAX: usize = 8;
/// The longest life of an invite (`mesh.md` section 7, item 8): 24 h.
pub const INVITE_LIFE_MS_MAX: i64 = 24 * 60 * 60 * 1000;
/// Bound on the text: base32 of the largest invite, 8 characters per 5 bytes.
pub const INVITE_TEXT_BYTES_MAX: usize =
    (FIXED_BYTES + INVITE_ADDRESSES_MAX * ADDRESS_BYTES_MAX + CHECKSUM_BYTES).div_ceil(5) * 8;

/// A decoded invite. Whoever holds it can join as whatever role the issuer
/// recorded for its id; the role is not in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// The fleet.
    pub network: NetworkId,
    /// Its public name.
    pub id: InviteId,
    /// What proves the holder.
    pub secret: SecretBytes,
    /// The issuer's transport key; the joiner talks to no other.
    pub issuer: MeshKey,
    /// Wall time in ms after which it is void.
    pub expires_ms: i64,
    /// Where the issuer listens.
    pub addresses: Vec<SocketAddr>,
}

impl Invite {
    /// The text. Addresses over [`INVITE_ADDRESSES_MAX`] are left out.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut bytes = Zeroizing::new(vec![VERSION]);
        bytes.extend_from_slice(self.network.as_bytes());
        bytes.extend_from_slice(self.id.as_bytes());
        bytes.extend_from_slice(self.secret.bytes());
        bytes.extend_from_slice(self.issuer.as_bytes());
        bytes.extend_from_slice(&self.expires_ms.to_be_bytes());
        let addresses = &self.addresses[..self.addresses.len().min(INVITE_ADDRESSES_MAX)];
        bytes.push(addresses.len() as u8);
        for address in addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    bytes.push(4);
                    bytes.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes.push(6);
                    bytes.extend_from_slice(&ip.octets());
                }
            }
            bytes.extend_from_slice(&address.port().to_be_bytes());
        }
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()
    }

    /// Reads the text, in either case and with white space around it.
    ///
    /// # Errors
    /// [`InviteError::Malformed`] for anything that is not exactly an invite.
    pub fn decode(text: &str) -> Result<Self, InviteError> {
        let text = text.trim();
        if text.len() > INVITE_TEXT_BYTES_MAX {
            return Err(InviteError::Malformed);
        }
        let text = Zeroizing::new(text.to_ascii_uppercase());
        let bytes = BASE32_NOPAD.decode(text.as_bytes()).map(Zeroizing::new).map_err(|_| InviteError::Malformed)?;
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(InviteError::Malformed)?;
        if checksum(body) != *sum {
            return Err(InviteError::Malformed);
        }
        let mut reader = Reader(body);
        if reader.take()? != [VERSION] {
            return Err(InviteError::Malformed);
        }
        let invite = Self {
            network: NetworkId::from_bytes(reader.take()?),
            id: InviteId::from_bytes(reader.take()?),
            secret: SecretBytes::new(reader.take()?),
            issuer: MeshKey::from_bytes(reader.take()?),
            expires_ms: i64::from_be_bytes(reader.take()?),
            addresses: reader.addresses()?,
        };
        if reader.0.is_empty() { Ok(invite) } else { Err(InviteError::Malformed) }
    }

    /// Checks what the text itself can tell: its expiry at wall time `now_ms`
    /// and, for a host that already belongs to a fleet, the network.
    ///
    /// # Errors
    /// [`InviteError::WrongNetwork`], then [`InviteError::Expired`].
    pub fn check(&self, now_ms: i64, expected: Option<&NetworkId>) -> Result<(), InviteError> {
        if expected.is_some_and(|network| *network != self.network) {
            return Err(InviteError::WrongNetwork);
        }
        if now_ms >= self.expires_ms {
            return Err(InviteError::Expired);
        }
        Ok(())
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], InviteError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(InviteError::Malformed)?;
        self.0 = rest;
        Ok(*head)
    }

    fn addresses(&mut self) -> Result<Vec<SocketAddr>, InviteError> {
        let [count] = self.take()?;
        if usize::from(count) > INVITE_ADDRESSES_MAX {
            return Err(InviteError::Malformed);
        }
        (0..count).map(|_| self.address()).collect()
    }

    fn address(&mut self) -> Result<SocketAddr, InviteError> {
        let ip = match self.take()? {
            [4] => IpAddr::from(self.take::<4>()?),
            [6] => IpAddr::from(self.take::<16>()?),
            _ => return Err(InviteError::Malformed),
        };
        Ok(SocketAddr::new(ip, u16::from_be_bytes(self.take()?)))
    }
}

fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"mesh1 invite");
    hasher.update(body);
    let mut out = [0; CHECKSUM_BYTES];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..CHECKSUM_BYTES]);
    out
}

/// Why an invite is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InviteError {
    /// Not an invite, or damaged on the way.
    #[error("the text is not an invite; copy it again, whole")]
    Malformed,
    /// Past its expiry.
    #[error("the invite has expired; ask for a new one")]
    Expired,
    /// For another fleet than this host belongs to.
    #[error("the invite belongs to another fleet")]
    WrongNetwork,
}

impl InviteError {
    /// The code for the caller.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            InviteError::Malformed => ErrorCode::InviteMalformed,
            InviteError::Expired => ErrorCode::InviteExpired,
            InviteError::WrongNetwork => ErrorCode::InviteWrongNetwork,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn invite(addresses: Vec<SocketAddr>) -> Invite {
        Invite {
            network: NetworkId::from_bytes([1; 32]),
            id: InviteId::from_bytes([2; 16]),
            secret: SecretBytes::new([3; 32]),
            issuer: MeshKey::from_bytes([4; 32]),
            expires_ms: 1_000,
            addresses,
        }
    }

    #[test]
    fn the_text_reads_back() {
        let v6 = "[2001:db8::1]:18800".parse().unwrap();
        let v4 = "192.0.2.1:1".parse().unwrap();
        for addresses in [vec![], vec![v4], vec![v6, v4], vec![v6; INVITE_ADDRESSES_MAX]] {
            let invite = invite(addresses);
            let text = invite.encode();
            assert!(text.len() <= INVITE_TEXT_BYTES_MAX);
            assert_eq!(Invite::decode(&text), Ok(invite.clone()));
            assert_eq!(Invite::decode(&format!("  {}\n", text.to_uppercase())), Ok(invite));
        }
        let many = invite(vec![v4; INVITE_ADDRESSES_MAX + 1]);
        assert_eq!(Invite::decode(&many.encode()).unwrap().addresses.len(), INVITE_ADDRESSES_MAX);
    }

    #[test]
    fn every_single_wrong_letter_is_noticed() {
        let text = invite(vec!["192.0.2.1:1".parse().unwrap()]).encode();
        for at in 0..text.len() {
            let mut bad: Vec<u8> = text.clone().into_bytes();
            bad[at] = if bad[at] == b'a' { b'b' } else { b'a' };
            assert_eq!(Invite::decode(&String::from_utf8(bad).unwrap()), Err(InviteError::Malformed), "{at}");
            assert_eq!(Invite::decode(&text[..at]), Err(InviteError::Malformed));
        }
        assert_eq!(Invite::decode(&"a".repeat(100_000)), Err(InviteError::Malformed));
    }

    #[test]
    fn expiry_and_network_are_told_apart() {
        let invite = invite(vec![]);
        assert_eq!(invite.check(999, None), Ok(()));
        assert_eq!(invite.check(1_000, Some(&invite.network)), Err(InviteError::Expired));
        let other = NetworkId::from_bytes([9; 32]);
        assert_eq!(invite.check(999, Some(&other)), Err(InviteError::WrongNetwork));
    }

    proptest! {
        #[test]
        fn any_body_with_a_right_checksum_is_a_value_or_an_error(mut body in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(first) = body.first_mut() {
                *first = VERSION;
            }
            let sum = checksum(&body);
            let text = BASE32_NOPAD.encode(&[&body[..], &sum].concat());
            if let Ok(invite) = Invite::decode(&text) {
                prop_assert!(invite.addresses.len() <= INVITE_ADDRESSES_MAX);
            }
        }

        #[test]
        fn any_text_is_a_value_or_an_error(text in "\\PC{0,400}") {
            prop_assert!(Invite::decode(&text).is_err());
        }
    }
}
