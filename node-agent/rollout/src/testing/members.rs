//! How the small fleet becomes one: genesis, invites, members, keys, orders.

use osmoda_types::command::{Body, Genesis, LedgerHead, Order, SignedOrder, SpendInvite};
use osmoda_types::statement;
use osmoda_types::{
    Invite, InviteId, LedgerHash, Member, MeshEpoch, MeshKey, Principal, Purpose, Right, Role, SecretHash, Subkey,
    Succession,
};

use super::ids::{network, node};
use super::keys::{ANN, BOB, ballot_key, identity, ledger_key, public, sign};

/// A member with that number.
pub fn member(number: u8, role: Role) -> Member {
    Member {
        node: node(number),
        name: format!("node-{number}"),
        role,
        mesh_key: MeshKey::from_bytes([number; 32]),
        identity_key: public(identity(number)),
        addresses: vec![format!("127.0.0.1:{}", 18800 + u16::from(number))],
    }
}

/// A principal with a seed's key.
pub fn principal(name: &str, seed: u8, rights: &[Right]) -> Principal {
    Principal { name: name.into(), key: public(seed), rights: rights.to_vec() }
}

/// The first entry: operator ann, approver bob, node 0.
pub fn genesis() -> Body {
    Body::Genesis(Genesis {
        network: network(),
        mesh_epoch: MeshEpoch(1),
        secret_hash: SecretHash::from_bytes([1; 32]),
        principals: vec![principal("ann", ANN, &Right::ALL), principal("bob", BOB, &[Right::Approve])],
        member: member(0, Role::Voter),
    })
}

/// A voter's ballot key, endorsed by its identity.
pub fn subkey(number: u8) -> Body {
    endorsed(number, Purpose::Ballot, ballot_key(number))
}

/// A seed's key as that of a node's ledger, endorsed by its identity.
pub fn ledger_subkey(number: u8, seed: u8) -> Body {
    endorsed(number, Purpose::Ledger, seed)
}

fn endorsed(number: u8, purpose: Purpose, seed: u8) -> Body {
    let key = public(seed);
    let message = statement::subkey(purpose, &key, &node(number), MeshEpoch(1), &network());
    let endorsement = sign(identity(number), message);
    Body::RegisterSubkey(Subkey { node: node(number), purpose, key, epoch: MeshEpoch(1), endorsement })
}

/// The head of a node's ledger, whose hashes have that byte, signed by its key.
pub fn head(number: u8, size: u64, byte: u8) -> LedgerHead {
    let (hash, root) = (LedgerHash::from_bytes([byte; 32]), LedgerHash::from_bytes([byte + 1; 32]));
    let seed = ledger_key(number);
    let signature = sign(seed, statement::checkpoint(&public(seed), size, &root, &hash));
    LedgerHead { node: node(number), size, hash, root, signature }
}

/// An invite by node 0 that ends at one second.
pub fn invite(number: u8, role: Role) -> Invite {
    Invite { id: InviteId::from_bytes([number; 16]), role, expires_ms: 1000, issuer: node(0) }
}

/// A member that comes with an invite.
pub fn spend(invite: u8, member: Member, at_ms: i64) -> Body {
    let invite = InviteId::from_bytes([invite; 16]);
    Body::SpendInvite(SpendInvite { network: network(), invite, member, at_ms })
}

/// An order that names one seed's key and is signed by another's (or the same).
pub fn signed(order: Order, serial: u64, claimed: u8, real: u8) -> Body {
    let signature = sign(real, statement::control(&order, serial, &network()));
    Body::Control(SignedOrder { order, serial, key: public(claimed), signature })
}

/// New keys for a node: the transport key of that number and the identity key of
/// a seed, signed by the identity keys of two seeds.
pub fn succession(number: u8, (mesh, identity): (u8, u8), (by_old, by_new): (u8, u8)) -> Succession {
    let (mesh_key, identity_key) = (MeshKey::from_bytes([mesh; 32]), public(identity));
    let message = statement::succession(&node(number), &mesh_key, &identity_key, &network());
    let (by_old, by_new) = (sign(by_old, message.clone()), sign(by_new, message));
    Succession { node: node(number), mesh_key, identity_key, by_old, by_new }
}
