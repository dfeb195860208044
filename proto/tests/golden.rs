//! The bytes of the log do not change: every kind of command, and an entry
//! around one, encodes to what `tests/golden/` holds and decodes back.
//!
//! A new kind is added with `OSMODA_UPDATE=1`; a changed line is a broken log.

use osmoda_proto::{ConvertError, decode_command, encode_command, log};
use osmoda_types::command::{
    Ballot, Body, Command, Deadline, Ending, Genesis, Grant, LedgerHead, NodeAttempt, OpenWave, Order, Proposal,
    ProposalRow, Report, SignedOrder, SpendInvite, Staged,
};
use osmoda_types::{
    AttemptId, ErrorCode, FleetEpoch, Invite, InviteId, LedgerHash, ManifestHash, Member, MeshEpoch, MeshKey,
    NetworkId, NodeId, Policy, Principal, PublicKey, Purpose, RaftId, RequestId, Right, Role, RolloutId, SecretHash,
    Signature, StorePath, Subkey, Succession, Timings, Vote, Wave,
};
use prost::Message as _;
use std::fmt::Write as _;

fn node(byte: u8) -> NodeId {
    NodeId::from_bytes([byte; 32])
}

fn path(name: &str) -> StorePath {
    StorePath::new(format!("/nix/store/{name}")).expect("a plain path")
}

fn member() -> Member {
    Member {
        node: node(1),
        name: "one".into(),
        role: Role::Voter,
        mesh_key: MeshKey::from_bytes([2; 32]),
        identity_key: PublicKey::from_bytes([3; 32]),
        addresses: vec!["127.0.0.1:18800".into()],
    }
}

fn principal() -> Principal {
    Principal { name: "ann".into(), key: PublicKey::from_bytes([4; 32]), rights: Right::ALL.to_vec() }
}

fn rollout() -> RolloutId {
    RolloutId::from_bytes([5; 16])
}

fn attempt() -> NodeAttempt {
    NodeAttempt { rollout: rollout(), node: node(1), attempt: AttemptId(7 << 16) }
}

fn proposal() -> Proposal {
    Proposal {
        rollout: rollout(),
        manifest: ManifestHash::from_bytes([6; 32]),
        parent: FleetEpoch(8),
        name: "web 1".into(),
        scope: "web".into(),
        rows: vec![ProposalRow { node: node(1), target: path("b"), baseline: path("a") }],
        supersedes: Some(RolloutId::from_bytes([9; 16])),
        policy: Policy {
            waves: vec![Wave::Count(1), Wave::Percent(100)],
            max_unavailable: 2,
            failure_budget: 1,
            max_parallel: Some(1),
            stagger_ms: 10,
            threshold: Some(2),
            auto_resume: true,
            timings: Timings::default(),
        },
        key: PublicKey::from_bytes([4; 32]),
        signature: Signature::from_bytes([10; 64]),
    }
}

fn orders() -> Vec<Order> {
    vec![
        Order::AddPrincipal(principal()),
        Order::Pause { rollout: rollout() },
        Order::Resume { rollout: rollout() },
        Order::Abort { rollout: rollout() },
        Order::Exclude { rollout: rollout(), node: node(1) },
        Order::Freeze { scope: "web".into() },
        Order::Unfreeze { scope: "web".into() },
        Order::Allow { target: path("b") },
        Order::Revoke { node: node(1) },
    ]
}

fn endings() -> Vec<Ending> {
    let code = ErrorCode::CheckFailed;
    vec![
        Ending::Committed { observed: path("b") },
        Ending::RolledBack { observed: path("a"), code },
        Ending::RollbackFailed { code },
        Ending::Quarantined { code },
    ]
}

fn membership() -> Vec<Body> {
    let invite = InviteId::from_bytes([11; 16]);
    let network = NetworkId::from_bytes([12; 32]);
    vec![
        Body::Genesis(Genesis {
            network,
            mesh_epoch: MeshEpoch(1),
            secret_hash: SecretHash::from_bytes([13; 32]),
            principals: vec![principal()],
            member: member(),
        }),
        Body::OpenInvite(Invite { id: invite, role: Role::Node, expires_ms: 1_800_000_000_000, issuer: node(1) }),
        Body::ExpireInvite(invite),
        Body::SpendInvite(SpendInvite { network, invite, member: member(), at_ms: 1_700_000_000_000 }),
        Body::UpdateAddresses { node: node(1), addresses: vec!["[::1]:18800".into()] },
        Body::RegisterSubkey(Subkey {
            node: node(1),
            purpose: Purpose::Ballot,
            key: PublicKey::from_bytes([14; 32]),
            epoch: MeshEpoch(1),
            endorsement: Signature::from_bytes([15; 64]),
        }),
        Body::RegisterVoter { node: node(1), raft_id: RaftId(u64::MAX) },
        Body::LedgerHead(LedgerHead {
            node: node(1),
            size: 3,
            hash: LedgerHash::from_bytes([16; 32]),
            root: LedgerHash::from_bytes([17; 32]),
            signature: Signature::from_bytes([18; 64]),
        }),
    ]
}

fn bodies() -> Vec<Body> {
    let signature = Signature::from_bytes([10; 64]);
    let rollout = rollout();
    let mut bodies = membership();
    bodies.extend([
        Body::Propose(Box::new(proposal())),
        Body::Ballot(Ballot { rollout, voter: node(1), vote: Vote::Yes, reason: None, signature }),
        Body::Ballot(Ballot {
            rollout,
            voter: node(1),
            vote: Vote::No,
            reason: Some(ErrorCode::ManifestUnknown),
            signature,
        }),
        Body::Staged(Staged { rollout, node: node(1), result: Ok(path("a")) }),
        Body::Staged(Staged { rollout, node: node(1), result: Err(ErrorCode::ClosureUnsigned) }),
        Body::OpenWave(OpenWave { rollout, wave: 1, eligible: vec![node(1)], deferred: vec![node(2)] }),
        Body::Grant(Grant { rollout, wave: 1, nodes: vec![node(1)] }),
        Body::Accept(attempt()),
        Body::Deadline(Deadline::State { rollout, state_epoch: 9 }),
        Body::Deadline(Deadline::Node(attempt())),
        Body::HoldQuorumLost { rollout },
    ]);
    bodies.extend(endings().into_iter().map(|ending| Body::Report(Report { attempt: attempt(), ending })));
    let key = PublicKey::from_bytes([4; 32]);
    bodies.extend(
        orders()
            .into_iter()
            .map(|order| Body::Control(SignedOrder { order, serial: 1_700_000_000_001, key, signature })),
    );
    // What came later is added at the end, so that the lines above stay.
    bodies.push(Body::RotateEpoch { epoch: MeshEpoch(2), secret_hash: SecretHash::from_bytes([17; 32]) });
    bodies.push(Body::RotateKeys(Succession {
        node: node(1),
        mesh_key: MeshKey::from_bytes([18; 32]),
        identity_key: PublicKey::from_bytes([19; 32]),
        by_old: Signature::from_bytes([20; 64]),
        by_new: Signature::from_bytes([21; 64]),
    }));
    bodies
}

fn command(body: Body) -> Command {
    Command { request: RequestId::from_bytes([1; 16]), body }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string");
        text
    })
}

/// Compares with the golden file, or writes it when asked to.
fn check_golden(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("OSMODA_UPDATE").is_some() {
        std::fs::write(&path, text).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).expect("the golden file is there");
    for (line, (got, wanted)) in text.lines().zip(golden.lines()).enumerate() {
        assert_eq!(got, wanted, "{name} line {}: old logs can no longer be read", line + 1);
    }
    assert_eq!(text.lines().count(), golden.lines().count(), "{name}: run with OSMODA_UPDATE=1");
}

#[test]
fn every_command_keeps_its_bytes_and_comes_back() {
    let mut text = String::new();
    for body in bodies() {
        let command = command(body);
        let bytes = encode_command(&command);
        assert_eq!(decode_command(&bytes).as_ref(), Ok(&command));
        writeln!(text, "{}", hex(&bytes)).unwrap();
    }
    check_golden("commands.hex", &text);
}

#[test]
fn a_stored_entry_keeps_its_bytes() {
    let item = log::v1::Item {
        request_id: vec![1; 16],
        command: encode_command(&command(Body::HoldQuorumLost { rollout: rollout() })),
    };
    let batch = log::v1::Batch { items: vec![item], proposer: 3, ts_ms: 1_700_000_000_000, trace_context: vec![2; 4] };
    let entry = log::v1::Entry {
        log_id: Some(log::v1::LogId { term: 2, node_id: 3, index: 4 }),
        payload: Some(log::v1::entry::Payload::Batch(batch)),
    };
    let stored = log::v1::StoredEntry { version: 1, entry: Some(entry) };
    check_golden("entry.hex", &format!("{}\n", hex(&stored.encode_to_vec())));
}

#[test]
fn every_cut_of_every_command_is_refused_or_complete() {
    for body in bodies() {
        let bytes = encode_command(&command(body));
        for end in 0..bytes.len() {
            // A cut between two fields may still be a message; then it lacks one.
            if let Ok(shorter) = decode_command(&bytes[..end]) {
                assert_eq!(decode_command(&encode_command(&shorter)), Ok(shorter));
            }
        }
    }
}

fn check_refused(change: impl FnOnce(&mut osmoda_proto::fleet::v1::Proposal), field: &str) {
    let mut wire = osmoda_proto::fleet::v1::Proposal::from(&proposal());
    change(&mut wire);
    let refused = Proposal::try_from(wire).expect_err("refused");
    assert!(refused.to_string().contains(field), "{refused}");
    assert_eq!(refused.code(), ErrorCode::BadRequest);
}

#[test]
fn broken_fields_are_refused_by_name() {
    check_refused(|wire| wire.rollout.clear(), "propose.rollout");
    check_refused(|wire| wire.manifest.truncate(31), "propose.manifest");
    check_refused(|wire| wire.rows[0].target = "../x".into(), "propose.rows.target");
    check_refused(|wire| wire.policy = None, "propose.policy");
    check_refused(|wire| wire.supersedes = vec![1], "propose.supersedes");
    check_refused(|wire| wire.signature.push(0), "propose.signature");
    check_refused(
        |wire| {
            let size = Some(osmoda_proto::fleet::v1::wave::Size::Percent(256));
            wire.policy.as_mut().expect("a policy").waves[0].size = size;
        },
        "policy.waves.percent",
    );
    assert!(matches!(decode_command(&[0xff]), Err(ConvertError::Wire(_))));
    assert!(matches!(decode_command(&[]), Err(ConvertError::Id { .. })));
    let huge = decode_command(&vec![0; 3 * 1024 * 1024]).expect_err("refused");
    assert_eq!(huge.code(), ErrorCode::TooLarge);
}
