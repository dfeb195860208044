//! Who may write what to the log. *Pure*.
//!
//! The mesh decides who may call the fleet service at all; this table decides
//! which commands a caller may submit through it. Commands that only the leader
//! makes (waves, grants, accepts, deadlines) cannot be submitted by anyone: the
//! driver proposes them on the leader itself.
//!
//! Invariant: a peer speaks for itself only. A node cannot vote, report or
//! register a key for another, whatever its role
//! (`tests::nobody_speaks_for_another`).

use osmoda_types::command::Body;
use osmoda_types::{ErrorCode, NodeId, Role};

/// Whether `peer`, admitted with `role`, may submit the command.
///
/// # Errors
/// [`ErrorCode::ServiceDenied`].
pub(crate) fn may_submit(peer: NodeId, role: Role, body: &Body) -> Result<(), ErrorCode> {
    let allowed = match role {
        Role::Voter => voter_may(peer, body) || is_signed_by_an_operator(body),
        Role::Node => member_may(peer, body),
        Role::Controller => member_may(peer, body) || is_signed_by_an_operator(body),
        Role::RoomGuest => false,
    };
    if allowed { Ok(()) } else { Err(ErrorCode::ServiceDenied) }
}

fn voter_may(peer: NodeId, body: &Body) -> bool {
    match body {
        Body::RegisterVoter { node, .. } => *node == peer,
        Body::Ballot(ballot) => ballot.voter == peer,
        Body::OpenInvite(invite) => invite.issuer == peer,
        // The voter that held the secret saw it proven; `apply` checks the rest.
        Body::SpendInvite(_) | Body::ExpireInvite(_) => true,
        other => member_may(peer, other),
    }
}

/// An operator's signature is what counts, and `apply` checks it; a controller,
/// or a voter whose administrator was given the order, only carries it.
fn is_signed_by_an_operator(body: &Body) -> bool {
    matches!(body, Body::Propose(_) | Body::Control(_))
}

fn member_may(peer: NodeId, body: &Body) -> bool {
    match body {
        Body::RegisterSubkey(subkey) => subkey.node == peer,
        Body::UpdateAddresses { node, .. } => *node == peer,
        Body::LedgerHead(head) => head.node == peer,
        Body::RotateKeys(succession) => succession.node == peer,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use osmoda_types::command::{Ballot, Deadline, Grant, LedgerHead, NodeAttempt};
    use osmoda_types::{AttemptId, LedgerHash, MeshKey, PublicKey, RaftId, RolloutId, Signature, Succession, Vote};

    use super::*;

    const ME: NodeId = NodeId::from_bytes([1; 32]);
    const OTHER: NodeId = NodeId::from_bytes([2; 32]);

    fn own_commands(node: NodeId) -> Vec<Body> {
        vec![
            Body::RotateKeys(Succession {
                node,
                mesh_key: MeshKey::from_bytes([1; 32]),
                identity_key: PublicKey::from_bytes([2; 32]),
                by_old: Signature::from_bytes([0; 64]),
                by_new: Signature::from_bytes([0; 64]),
            }),
            Body::RegisterVoter { node, raft_id: RaftId(1) },
            Body::UpdateAddresses { node, addresses: Vec::new() },
            Body::LedgerHead(LedgerHead {
                node,
                size: 1,
                hash: LedgerHash::from_bytes([0; 32]),
                root: LedgerHash::from_bytes([0; 32]),
                signature: Signature::from_bytes([0; 64]),
            }),
            Body::Ballot(Ballot {
                rollout: RolloutId::new(),
                voter: node,
                vote: Vote::Yes,
                reason: None,
                signature: Signature::from_bytes([0; 64]),
            }),
        ]
    }

    #[test]
    fn nobody_speaks_for_another() {
        for role in Role::ALL {
            for body in own_commands(OTHER) {
                assert_eq!(may_submit(ME, role, &body), Err(ErrorCode::ServiceDenied), "{role} {body:?}");
            }
        }
        assert!(own_commands(ME).iter().all(|body| may_submit(ME, Role::Voter, body).is_ok()));
    }

    #[test]
    fn only_voters_vote() {
        for role in [Role::Node, Role::Controller, Role::RoomGuest] {
            let may = |wanted: fn(&Body) -> bool| {
                own_commands(ME).iter().filter(|body| wanted(body)).all(|body| may_submit(ME, role, body).is_ok())
            };
            assert!(!may(|body| matches!(body, Body::RegisterVoter { .. })), "{role} registers no Raft id");
            assert!(!may(|body| matches!(body, Body::Ballot(_))), "{role} casts no ballot");
            assert_eq!(may(|body| matches!(body, Body::RotateKeys(_))), role != Role::RoomGuest);
        }
    }

    #[test]
    fn what_the_leader_decides_comes_from_nobody_else() {
        let rollout = RolloutId::new();
        let attempt = NodeAttempt { rollout, node: ME, attempt: AttemptId(1) };
        let decided = [
            Body::Grant(Grant { rollout, wave: 0, nodes: vec![ME] }),
            Body::Accept(attempt),
            Body::Deadline(Deadline::Node(attempt)),
            Body::HoldQuorumLost { rollout },
        ];
        for role in Role::ALL {
            for body in &decided {
                assert!(may_submit(ME, role, body).is_err(), "{role} {body:?}");
            }
        }
    }
}
