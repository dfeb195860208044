//! A small fleet with real keys: nodes 0, 1 and 2 are voters, 3, 4 and 5 are
//! not, 6 is unknown. Short words ([`Cmd`]) become real, signed commands.

use std::cell::RefCell;
use std::collections::HashMap;

use ed25519_dalek::SigningKey;
use osmoda_types::command::{
    Ballot, Body, Command, Deadline, Ending, Genesis, Grant, NodeAttempt, OpenWave, Order, Proposal, ProposalRow,
    Report, SignedOrder, Staged,
};
use osmoda_types::statement::{self, public_key};
use osmoda_types::{
    AttemptId, ErrorCode, FleetEpoch, Invite, InviteId, ManifestHash, Member, MeshEpoch, MeshKey, NetworkId, NodeId,
    Policy, Principal, PublicKey, Purpose, RaftId, RequestId, Right, Role, RolloutId, SecretHash, Signature, StorePath,
    Subkey, Timings, Vote, Wave,
};

use crate::FleetState;

pub(super) const VOTERS: u8 = 3;
pub(super) const NODES: u8 = 6;

/// What a rollout is about; the manifest's hash is its place in [`SPECS`].
pub(super) struct Spec {
    pub(super) scope: &'static str,
    /// Node and number of its target.
    pub(super) rows: &'static [(u8, u8)],
    pub(super) waves: &'static [Wave],
    pub(super) max_unavailable: u32,
    pub(super) failure_budget: u32,
    pub(super) max_parallel: Option<u32>,
    pub(super) threshold: Option<u32>,
    pub(super) auto_resume: bool,
    pub(super) supersedes: Option<u8>,
}

const PLAIN: Spec = Spec {
    scope: "a",
    rows: &[(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1)],
    waves: &[Wave::Count(1), Wave::Percent(100)],
    max_unavailable: 2,
    failure_budget: 0,
    max_parallel: None,
    threshold: None,
    auto_resume: false,
    supersedes: None,
};

/// Every kind of rollout the histories use. Two with the same target number
/// deploy the same closures.
pub(super) const SPECS: &[Spec] = &[
    PLAIN,
    Spec { failure_budget: 1, ..PLAIN },
    Spec {
        max_unavailable: 3,
        failure_budget: 2,
        waves: &[Wave::Count(2), Wave::Percent(60), Wave::Count(9)],
        ..PLAIN
    },
    Spec {
        rows: &[(3, 2), (4, 2), (5, 2)],
        failure_budget: 1,
        waves: &[Wave::Count(1), Wave::Count(1), Wave::Percent(100)],
        ..PLAIN
    },
    Spec { rows: &[(3, 3), (4, 3)], max_unavailable: 1, waves: &[Wave::Percent(100)], supersedes: Some(0), ..PLAIN },
    Spec { rows: &[(0, 4), (3, 4), (4, 4)], max_parallel: Some(1), failure_budget: 3, auto_resume: true, ..PLAIN },
    Spec { scope: "b", rows: &[(2, 5), (5, 5)], failure_budget: 1, waves: &[Wave::Count(1), Wave::Count(1)], ..PLAIN },
    Spec {
        scope: "b",
        rows: &[(1, 6), (5, 6)],
        threshold: Some(3),
        max_unavailable: 5,
        waves: &[Wave::Percent(50), Wave::Percent(100)],
        ..PLAIN
    },
    Spec { threshold: Some(4), ..PLAIN },
    Spec { rows: &[(5, 7), (6, 7)], ..PLAIN },
    Spec {
        rows: &[(3, 8), (4, 8), (5, 8)],
        max_unavailable: 3,
        failure_budget: 0,
        waves: &[Wave::Count(1), Wave::Count(2)],
        ..PLAIN
    },
    Spec {
        rows: &[(0, 9), (1, 9)],
        failure_budget: 2,
        waves: &[Wave::Count(1), Wave::Count(1)],
        supersedes: Some(1),
        ..PLAIN
    },
];

/// Who signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// The operator with every right.
    Ann,
    /// A principal without the right.
    Bob,
    /// Somebody.
    Eve,
    /// Somebody, in the name of the operator.
    Forged,
}

/// What a node says about its closure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// The expected baseline.
    Expected,
    /// Another one.
    Other,
    /// That it cannot.
    Cannot,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Committed,
    RolledBack,
    /// Rolled back because it lost contact.
    CutOff,
    RollbackFailed,
    Quarantined,
}

/// An operator's order, shortly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Short {
    Pause(u8),
    Resume(u8),
    Abort(u8),
    Exclude(u8, u8),
    Freeze(bool),
    Unfreeze(bool),
    Allow(u8, u8),
}

/// A command, shortly. Rollouts and nodes are small numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cmd {
    Propose { rollout: u8, spec: u8, parent: u64, by: By },
    Ballot { rollout: u8, voter: u8, yes: bool, forged: bool },
    Staged { rollout: u8, node: u8, said: Said },
    Open { rollout: u8, wave: u32, eligible: Vec<u8>, deferred: Vec<u8> },
    Grant { rollout: u8, wave: u32, nodes: Vec<u8> },
    Accept { rollout: u8, node: u8, attempt: u64 },
    Report { rollout: u8, node: u8, attempt: u64, end: End, observed_right: bool },
    StateDeadline { rollout: u8, state_epoch: u64 },
    NodeDeadline { rollout: u8, node: u8, attempt: u64 },
    Hold { rollout: u8 },
    Order { order: Short, serial: u64, by: By },
}

pub(super) fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

pub(super) fn rollout(number: u8) -> RolloutId {
    RolloutId::from_bytes([number; 16])
}

pub(super) fn path(text: &str) -> StorePath {
    StorePath::new(text).expect("a plain path")
}

pub(super) fn target(node: u8, number: u8) -> StorePath {
    path(&format!("/t/{node}/{number}"))
}

pub(super) fn baseline(node: u8) -> StorePath {
    path(&format!("/b/{node}"))
}

pub(super) fn network() -> NetworkId {
    NetworkId::from_bytes([77; 32])
}

pub(super) fn raft_id(node: u8) -> RaftId {
    RaftId(1000 + u64::from(node))
}

/// The seed of a key. Making a key from it is slow, so only seeds are passed on.
pub(super) const ANN: u8 = 200;
const BOB: u8 = 201;
const EVE: u8 = 202;

pub(super) fn identity(node: u8) -> u8 {
    100 + node
}

fn ballot_key(node: u8) -> u8 {
    150 + node
}

/// The key that is named, and the one that signs.
fn signer(by: By) -> (u8, u8) {
    match by {
        By::Ann => (ANN, ANN),
        By::Bob => (BOB, BOB),
        By::Eve => (EVE, EVE),
        By::Forged => (ANN, EVE),
    }
}

thread_local! {
    /// Signing is the slowest part of a history, and the same statements recur.
    static SIGNED: RefCell<HashMap<(u8, Vec<u8>), Signature>> = RefCell::new(HashMap::new());
    static KEYS: RefCell<HashMap<u8, PublicKey>> = RefCell::new(HashMap::new());
}

fn signing_key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(super) fn public(seed: u8) -> PublicKey {
    KEYS.with_borrow_mut(|keys| *keys.entry(seed).or_insert_with(|| public_key(&signing_key(seed))))
}

pub(super) fn sign(seed: u8, message: Vec<u8>) -> Signature {
    SIGNED.with_borrow_mut(|signed| {
        *signed
            .entry((seed, message))
            .or_insert_with_key(|(seed, message)| statement::sign(&signing_key(*seed), message))
    })
}

pub(super) fn member(number: u8, role: Role) -> Member {
    Member {
        node: node(number),
        name: format!("node-{number}"),
        role,
        mesh_key: MeshKey::from_bytes([number; 32]),
        identity_key: public(identity(number)),
        addresses: vec![format!("127.0.0.1:{}", 18800 + u16::from(number))],
    }
}

pub(super) fn principal(name: &str, seed: u8, rights: &[Right]) -> Principal {
    Principal { name: name.into(), key: public(seed), rights: rights.to_vec() }
}

pub(super) fn genesis() -> Body {
    Body::Genesis(Genesis {
        network: network(),
        mesh_epoch: MeshEpoch(1),
        secret_hash: SecretHash::from_bytes([1; 32]),
        principals: vec![principal("ann", ANN, &Right::ALL), principal("bob", BOB, &[Right::Approve])],
        member: member(0, Role::Voter),
    })
}

pub(super) fn subkey(number: u8) -> Body {
    let key = public(ballot_key(number));
    let message = statement::subkey(Purpose::Ballot, &key, &node(number), MeshEpoch(1), &network());
    let endorsement = sign(identity(number), message);
    Body::RegisterSubkey(Subkey { node: node(number), purpose: Purpose::Ballot, key, epoch: MeshEpoch(1), endorsement })
}

pub(super) fn invite(number: u8, role: Role) -> Invite {
    Invite { id: InviteId::from_bytes([number; 16]), role, expires_ms: 1000, issuer: node(0) }
}

pub(super) fn spend(invite: u8, member: Member, at_ms: i64) -> Body {
    let invite = InviteId::from_bytes([invite; 16]);
    Body::SpendInvite(osmoda_types::command::SpendInvite { network: network(), invite, member, at_ms })
}

/// Applies bodies, each as an entry of its own, from the index after the last.
pub(super) struct Log {
    pub(super) state: FleetState,
    pub(super) requests: u64,
}

impl Log {
    pub(super) fn new() -> Self {
        Self { state: FleetState::new(), requests: 0 }
    }

    pub(super) fn request(&mut self) -> RequestId {
        self.requests += 1;
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.requests.to_be_bytes());
        RequestId::from_bytes(bytes)
    }

    pub(super) fn apply(&mut self, body: Body) -> crate::Outcome {
        let command = Command { request: self.request(), body };
        let index = self.state.last_index() + 1;
        self.state.apply(index, raft_id(0), &command)
    }

    pub(super) fn expect(&mut self, body: Body) {
        let outcome = self.apply(body);
        assert_eq!(outcome.reply.result(), Ok(()));
    }

    /// The whole small fleet.
    pub(super) fn fleet() -> Self {
        let mut log = Self::new();
        log.expect(genesis());
        for number in 0..VOTERS {
            if number > 0 {
                // Only voters issue invites, so node 0 is one by now.
                log.expect(Body::OpenInvite(invite(number, Role::Voter)));
                log.expect(spend(number, member(number, Role::Voter), 1));
            }
            log.expect(subkey(number));
            log.expect(Body::RegisterVoter { node: node(number), raft_id: raft_id(number) });
        }
        for number in VOTERS..NODES {
            log.expect(Body::OpenInvite(invite(number, Role::Node)));
            log.expect(spend(number, member(number, Role::Node), 1));
        }
        log
    }
}

fn policy(spec: &Spec) -> Policy {
    Policy {
        waves: spec.waves.to_vec(),
        max_unavailable: spec.max_unavailable,
        failure_budget: spec.failure_budget,
        max_parallel: spec.max_parallel,
        stagger_ms: 0,
        threshold: spec.threshold,
        auto_resume: spec.auto_resume,
        timings: Timings::default(),
    }
}

fn proposal(number: u8, spec: u8, parent: u64, by: By) -> Proposal {
    let (claimed, real) = signer(by);
    let manifest = ManifestHash::from_bytes([spec; 32]);
    let parent = FleetEpoch(parent);
    let message = statement::rollout(&manifest, &rollout(number), parent, &network());
    let spec = &SPECS[usize::from(spec)];
    let row = |(number, wanted): &(u8, u8)| ProposalRow {
        node: node(*number),
        target: target(*number, *wanted),
        baseline: baseline(*number),
    };
    Proposal {
        rollout: rollout(number),
        manifest,
        parent,
        name: "release".into(),
        scope: spec.scope.into(),
        rows: spec.rows.iter().map(row).collect(),
        supersedes: spec.supersedes.map(rollout),
        policy: policy(spec),
        key: public(claimed),
        signature: sign(real, message),
    }
}

fn order(order: Short) -> Order {
    let scope = |all: bool| if all { "*".to_owned() } else { "a".to_owned() };
    match order {
        Short::Pause(number) => Order::Pause { rollout: rollout(number) },
        Short::Resume(number) => Order::Resume { rollout: rollout(number) },
        Short::Abort(number) => Order::Abort { rollout: rollout(number) },
        Short::Exclude(number, who) => Order::Exclude { rollout: rollout(number), node: node(who) },
        Short::Freeze(all) => Order::Freeze { scope: scope(all) },
        Short::Unfreeze(all) => Order::Unfreeze { scope: scope(all) },
        Short::Allow(who, number) => Order::Allow { target: target(who, number) },
    }
}

impl Cmd {
    /// The real command. A ballot is signed over what the rollout has in `state`.
    pub(super) fn body(&self, state: &FleetState) -> Body {
        let of = |number: &u8, who: &u8, attempt: &u64| NodeAttempt {
            rollout: rollout(*number),
            node: node(*who),
            attempt: AttemptId(*attempt),
        };
        let nodes = |list: &[u8]| list.iter().map(|number| node(*number)).collect();
        match self {
            Self::Propose { rollout, spec, parent, by } => {
                Body::Propose(Box::new(proposal(*rollout, *spec, *parent, *by)))
            }
            Self::Ballot { rollout, voter, yes, forged } => ballot(state, *rollout, *voter, *yes, *forged),
            Self::Staged { rollout: number, node: who, said } => {
                let result = match said {
                    Said::Expected => Ok(baseline(*who)),
                    Said::Other => Ok(path("/elsewhere")),
                    Said::Cannot => Err(ErrorCode::ClosureMissing),
                };
                Body::Staged(Staged { rollout: rollout(*number), node: node(*who), result })
            }
            Self::Open { rollout: number, wave, eligible, deferred } => Body::OpenWave(OpenWave {
                rollout: rollout(*number),
                wave: *wave,
                eligible: nodes(eligible),
                deferred: nodes(deferred),
            }),
            Self::Grant { rollout: number, wave, nodes: list } => {
                Body::Grant(Grant { rollout: rollout(*number), wave: *wave, nodes: nodes(list) })
            }
            Self::Accept { rollout, node, attempt } => Body::Accept(of(rollout, node, attempt)),
            Self::Report { rollout, node, attempt, end, observed_right } => {
                let row = state
                    .rollout(&of(rollout, node, attempt).rollout)
                    .and_then(|it| it.rows.get(&of(rollout, node, attempt).node));
                let goal = row.map_or_else(|| path("/none"), |row| row.target.clone());
                let ending = ending(*node, *end, *observed_right, goal);
                Body::Report(Report { attempt: of(rollout, node, attempt), ending })
            }
            Self::StateDeadline { rollout: number, state_epoch } => {
                Body::Deadline(Deadline::State { rollout: rollout(*number), state_epoch: *state_epoch })
            }
            Self::NodeDeadline { rollout, node, attempt } => Body::Deadline(Deadline::Node(of(rollout, node, attempt))),
            Self::Hold { rollout: number } => Body::HoldQuorumLost { rollout: rollout(*number) },
            Self::Order { order: short, serial, by } => {
                let (claimed, real) = signer(*by);
                let order = order(*short);
                let signature = sign(real, statement::control(&order, *serial, &network()));
                Body::Control(SignedOrder { order, serial: *serial, key: public(claimed), signature })
            }
        }
    }
}

fn ballot(state: &FleetState, number: u8, voter: u8, yes: bool, forged: bool) -> Body {
    let vote = if yes { Vote::Yes } else { Vote::No };
    let id = rollout(number);
    let (manifest, epoch) = match state.rollout(&id) {
        Some(rollout) => (rollout.manifest, rollout.epoch),
        None => (ManifestHash::from_bytes([0; 32]), FleetEpoch(0)),
    };
    let message = statement::ballot(&id, &manifest, epoch, &node(voter), vote, &network());
    let seed = if forged { EVE } else { ballot_key(voter) };
    let signature = sign(seed, message);
    Body::Ballot(Ballot { rollout: id, voter: node(voter), vote, reason: None, signature })
}

fn ending(who: u8, end: End, right: bool, goal: StorePath) -> Ending {
    let observed = |wanted: StorePath| if right { wanted } else { path("/elsewhere") };
    let code = ErrorCode::CheckFailed;
    match end {
        End::Committed => Ending::Committed { observed: observed(goal) },
        End::RolledBack => Ending::RolledBack { observed: observed(baseline(who)), code },
        End::CutOff => Ending::RolledBack { observed: observed(baseline(who)), code: ErrorCode::GuardFired },
        End::RollbackFailed => Ending::RollbackFailed { code },
        End::Quarantined => Ending::Quarantined { code },
    }
}
