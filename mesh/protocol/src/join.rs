//! What a joiner says and what it gets.
//!
//! The request travels inside the third handshake message, so it is bound to
//! the transport key that the handshake proves; its signature binds the
//! identity key to the same transport key, network and invite. Invariant: a
//! request is acted on only after [`JoinRequest::check`].

use std::net::SocketAddr;

use osmoda_types::{ErrorCode, InviteId, MeshEpoch, MeshKey, NetworkId, NodeId, PublicKey, Role, Signature};
use serde::{Deserialize, Serialize};

use crate::{
    members::{ADDRESSES_MAX, Members, name_is_valid, node_id},
    secret::SecretBytes,
};

/// Bound on an encoded request: it must fit the hello of the handshake
/// (`osmoda_mesh_crypto::HELLO_BYTES_MAX`, 1,984 bytes).
pub const JOIN_REQUEST_BYTES_MAX: usize = 1900;
/// Bound on a [`Welcome`]: 1,024 members of at most 700 bytes and some room.
pub const WELCOME_BYTES_MAX: usize = 1024 * 1024;

/// What a joiner says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Its identity key.
    pub identity_key: PublicKey,
    /// The name it would like.
    pub name: String,
    /// Where it will listen. An unspecified IP (`0.0.0.0`, `::`) stands for the
    /// address the issuer sees; the issuer replaces it.
    pub addresses: Vec<SocketAddr>,
    /// By the identity key, over [`JoinRequest::statement`].
    pub signature: Signature,
}

impl JoinRequest {
    /// The bytes the identity key signs: `"mesh1 join" | network | invite |
    /// transport key | identity key`.
    #[must_use]
    pub fn statement(network: &NetworkId, invite: &InviteId, mesh_key: &MeshKey, identity_key: &PublicKey) -> Vec<u8> {
        let mut out = b"mesh1 join".to_vec();
        out.extend_from_slice(network.as_bytes());
        out.extend_from_slice(invite.as_bytes());
        out.extend_from_slice(mesh_key.as_bytes());
        out.extend_from_slice(identity_key.as_bytes());
        out
    }

    /// Checks shape and bounds; the signature is the caller's to verify.
    ///
    /// # Errors
    /// [`JoinError`] names what is wrong.
    pub fn check(&self) -> Result<(), JoinError> {
        if !name_is_valid(&self.name) {
            return Err(JoinError::Name);
        }
        if self.addresses.len() > ADDRESSES_MAX {
            return Err(JoinError::Addresses);
        }
        Ok(())
    }

    /// The id of the joiner with this transport key.
    #[must_use]
    pub fn node_id(&self, mesh_key: &MeshKey) -> NodeId {
        node_id(mesh_key, &self.identity_key)
    }

    /// Replaces every unspecified IP by the one the request came from.
    #[must_use]
    pub fn seen_from(mut self, source: SocketAddr) -> Self {
        for address in &mut self.addresses {
            if address.ip().is_unspecified() {
                address.set_ip(source.ip());
            }
        }
        self
    }
}

/// Why a request is refused before anyone is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// See `name_is_valid`.
    #[error("the name must be 1 to 63 of a-z, 0-9, dot and hyphen")]
    Name,
    /// Over the bound.
    #[error("more than {ADDRESSES_MAX} addresses")]
    Addresses,
    /// Not by the identity key.
    #[error("the identity signature is not valid")]
    Signature,
}

impl JoinError {
    /// The code for the caller.
    #[must_use]
    pub const fn code(self) -> ErrorCode {
        match self {
            JoinError::Name | JoinError::Addresses => ErrorCode::BadRequest,
            JoinError::Signature => ErrorCode::SignatureInvalid,
        }
    }
}

/// An operator as a joiner must know it: root `watch` verifies deploys with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// For people.
    pub name: String,
    /// The Ed25519 public key.
    pub key: PublicKey,
    /// What the operator may do, by name.
    pub rights: Vec<String>,
}

/// What the fleet grants for a spent invite, decided by whoever can commit to
/// the log. Holds no secret of the mesh: those the mesh adds itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The granted role.
    pub role: Role,
    /// The members, the joiner among them.
    pub members: Members,
    /// The operators.
    pub operators: Vec<Operator>,
    /// The secret for coming back after the epoch has moved on; voters keep
    /// it and delete it at revocation.
    pub rejoin_secret: SecretBytes,
}

/// What the joiner gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The fleet.
    pub network: NetworkId,
    /// The epoch in force.
    pub epoch: MeshEpoch,
    /// Its secret.
    pub epoch_secret: SecretBytes,
    /// See [`Enrolment::rejoin_secret`].
    pub rejoin_secret: SecretBytes,
    /// The granted role.
    pub role: Role,
    /// The members, the joiner among them.
    pub members: Members,
    /// The operators.
    pub operators: Vec<Operator>,
    /// Who admitted the joiner.
    pub issuer: NodeId,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> JoinRequest {
        JoinRequest {
            identity_key: PublicKey::from_bytes([1; 32]),
            name: "n".repeat(63),
            addresses: vec!["[2001:db8:1111:2222:3333:4444:5555:6666]:18800".parse().unwrap(); ADDRESSES_MAX],
            signature: Signature::from_bytes([0xaa; 64]),
        }
    }

    #[test]
    fn the_largest_request_fits_the_handshake() {
        assert_eq!(request().check(), Ok(()));
        assert!(serde_json::to_vec(&request()).unwrap().len() <= JOIN_REQUEST_BYTES_MAX);
    }

    #[test]
    fn a_request_outside_its_bounds_is_refused() {
        let with = |change: fn(&mut JoinRequest)| {
            let mut request = request();
            change(&mut request);
            request.check()
        };
        assert_eq!(with(|r| r.name.clear()), Err(JoinError::Name));
        assert_eq!(with(|r| r.addresses.push(r.addresses[0])), Err(JoinError::Addresses));
    }

    #[test]
    fn an_unspecified_address_becomes_the_one_that_was_seen() {
        let mut request = request();
        request.addresses = vec!["0.0.0.0:5".parse().unwrap(), "192.0.2.7:6".parse().unwrap()];
        let seen = request.seen_from("198.51.100.1:999".parse().unwrap());
        assert_eq!(seen.addresses, ["198.51.100.1:5".parse().unwrap(), "192.0.2.7:6".parse().unwrap()]);
    }

    #[test]
    fn the_statement_binds_all_four() {
        let statement = |n, i, m, k| {
            JoinRequest::statement(
                &NetworkId::from_bytes([n; 32]),
                &InviteId::from_bytes([i; 16]),
                &MeshKey::from_bytes([m; 32]),
                &PublicKey::from_bytes([k; 32]),
            )
        };
        let base = statement(1, 1, 1, 1);
        for other in [statement(2, 1, 1, 1), statement(1, 2, 1, 1), statement(1, 1, 2, 1), statement(1, 1, 1, 2)] {
            assert_ne!(base, other);
        }
    }
}
