//! Joining by invite, end to end, and every way it is refused.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use osmoda_mesh::{Enroller, InviteSecret, Joiner, MeshError, PairError, PairRequest, Spend, pair};
use osmoda_mesh_protocol::{Enrolment, Invite, Member, Members, Operator, SecretBytes, Service};
use osmoda_types::{ErrorCode, InviteId, MeshKey, PublicKey, Role};

use crate::node::{LIMIT, NETWORK, Node, Start, clock, identity, members};

/// An enroller with a log of one process: spends once per invite, and again
/// for the same key.
#[derive(Default)]
struct Registry {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    spent: BTreeMap<InviteId, MeshKey>,
    members: Vec<Member>,
    calls: u32,
    /// Answer this once before anything else.
    hiccup: Option<ErrorCode>,
}

impl Enroller for Registry {
    fn spend(&self, invite: InviteId, joiner: Joiner) -> Spend<'_> {
        let mut state = self.state.lock().unwrap();
        state.calls += 1;
        let answer = state.hiccup.take().map_or_else(|| state.admit(invite, &joiner), Err);
        Box::pin(async move { answer })
    }
}

impl State {
    fn admit(&mut self, invite: InviteId, joiner: &Joiner) -> Result<Enrolment, ErrorCode> {
        let key = *self.spent.entry(invite).or_insert(joiner.mesh_key);
        if key != joiner.mesh_key {
            return Err(ErrorCode::InviteSpent);
        }
        if !self.members.iter().any(|member| member.node == joiner.node) {
            self.members.push(Member {
                node: joiner.node,
                mesh_key: joiner.mesh_key,
                identity_key: joiner.request.identity_key,
                role: Role::Node,
                name: joiner.request.name.clone(),
                addresses: joiner.request.addresses.clone(),
            });
        }
        Ok(Enrolment {
            role: Role::Node,
            members: self.members(),
            operators: vec![Operator { name: "op".into(), key: PublicKey::from_bytes([5; 32]), rights: vec![] }],
            rejoin_secret: SecretBytes::new([6; 32]),
        })
    }

    fn members(&self) -> Members {
        members(1 + self.members.len() as u64, self.members.clone())
    }
}

struct Issuer {
    node: Node,
    registry: Arc<Registry>,
}

fn issuer() -> Issuer {
    let registry = Arc::new(Registry::default());
    let enroller: Arc<dyn Enroller> = registry.clone();
    let node = Start { enroller: Some(enroller), ..Start::new(1, Role::Voter) }.run();
    registry.state.lock().unwrap().members.push(node.member());
    Issuer { node, registry }
}

impl Issuer {
    /// Opens an invite that lives this long.
    fn invite(&self, seed: u8, life: Duration) -> Invite {
        self.try_invite(seed, life).unwrap()
    }

    fn try_invite(&self, seed: u8, life: Duration) -> Result<Invite, MeshError> {
        let expires_ms = clock().now_wall().plus(life).as_millis();
        let (id, secret) = (InviteId::from_bytes([seed; 16]), SecretBytes::new([seed; 32]));
        self.node.handle.open_invite(&InviteSecret { id, secret: secret.clone(), expires_ms })?;
        Ok(Invite {
            network: NETWORK,
            id,
            secret,
            issuer: self.node.identity.mesh_key(),
            expires_ms,
            addresses: vec![self.node.handle.local_address()],
        })
    }
}

fn request(seed: u8, invite: Invite) -> PairRequest {
    PairRequest {
        invite: Invite::decode(&invite.encode()).unwrap(),
        identity: identity(seed),
        name: format!("joiner-{seed}"),
        addresses: vec!["0.0.0.0:4000".parse().unwrap()],
        time_limit: LIMIT,
        clock: clock(),
    }
}

/// Silence is waited for once.
fn once(seed: u8, invite: Invite) -> PairRequest {
    PairRequest { time_limit: Duration::ZERO, ..request(seed, invite) }
}

const LONG: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn an_invite_makes_a_member_that_links_and_talks() {
    let issuer = issuer();
    let welcome = pair(request(2, issuer.invite(1, LONG))).await.unwrap();
    assert_eq!((welcome.network, welcome.role, welcome.issuer), (NETWORK, Role::Node, issuer.node.id()));
    assert_eq!(welcome.epoch_secret, SecretBytes::new([1; 32]));
    assert_eq!(welcome.operators.len(), 1);
    let own = welcome.members.by_node(&identity(2).node()).unwrap();
    assert_eq!((own.name.as_str(), own.addresses[0].to_string()), ("joiner-2", "127.0.0.1:4000".to_owned()));

    // The fleet learns of it from the log; the joiner starts from the welcome.
    let all = issuer.registry.state.lock().unwrap().members();
    issuer.node.handle.update_members(all).await.unwrap();
    let joiner = Start { members: welcome.members, ..Start::new(2, Role::Node) }.run();
    let mut fleet = issuer.node.handle.accept(Service::Fleet).unwrap();
    joiner.handle.connect_stream(issuer.node.id(), Service::Fleet).await.unwrap();
    assert_eq!(fleet.recv().await.unwrap().peer.node, joiner.id());
}

#[tokio::test]
async fn hygiene_08_a_stolen_invite_is_of_no_use_once_it_is_spent() {
    let issuer = issuer();
    let invite = issuer.invite(1, LONG);
    let first = pair(request(2, invite.clone())).await.unwrap();
    assert_eq!(pair(request(2, invite.clone())).await.unwrap(), first);
    let error = pair(request(3, invite)).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::InviteSpent);
}

#[tokio::test]
async fn when_there_is_no_room_the_invite_that_ended_first_makes_some() {
    let issuer = issuer();
    let mut invites = Vec::new();
    while let Ok(invite) = issuer.try_invite(u8::try_from(invites.len()).unwrap(), LONG) {
        invites.push(invite);
    }
    assert_eq!(invites.len(), 64, "none of the open ones was closed for another");
    pair(request(2, invites[7].clone())).await.unwrap();
    // Whoever it was spent for may still ask again.
    pair(request(2, invites[7].clone())).await.unwrap();
    issuer.invite(64, Duration::ZERO);
    assert_eq!(pair(once(2, invites[7].clone())).await.unwrap_err().code(), ErrorCode::PeerSilent);
    // One that has expired makes room like one that is spent.
    issuer.invite(65, LONG);
    assert!(matches!(issuer.try_invite(66, LONG), Err(MeshError::InvitesFull(_))));
    pair(request(3, invites[8].clone())).await.unwrap();
}

#[tokio::test]
async fn an_uncertain_answer_is_asked_again() {
    let issuer = issuer();
    issuer.registry.state.lock().unwrap().hiccup = Some(ErrorCode::OutcomeUnknown);
    pair(request(2, issuer.invite(1, LONG))).await.unwrap();
    assert_eq!(issuer.registry.state.lock().unwrap().calls, 2);
}

#[tokio::test]
async fn hygiene_08_an_expired_invite_is_said_by_both_sides() {
    let issuer = issuer();
    let mut invite = issuer.invite(1, Duration::ZERO);
    assert_eq!(pair(request(2, invite.clone())).await.unwrap_err().code(), ErrorCode::InviteExpired);
    // A joiner whose text says otherwise hears it from the issuer.
    invite.expires_ms += 3_600_000;
    let error = pair(request(2, invite)).await.unwrap_err();
    assert!(matches!(error, PairError::Refused { code: ErrorCode::InviteExpired, .. }), "{error}");
    assert_eq!(issuer.registry.state.lock().unwrap().calls, 0);
}

#[tokio::test]
async fn a_foreign_or_unknown_invite_meets_silence() {
    let issuer = issuer();
    let invite = issuer.invite(1, LONG);
    let mut other_network = invite.clone();
    other_network.network = osmoda_types::NetworkId::from_bytes([9; 32]);
    let mut other_secret = invite.clone();
    other_secret.secret = SecretBytes::new([9; 32]);
    for bad in [other_network, other_secret] {
        assert_eq!(pair(once(2, bad)).await.unwrap_err().code(), ErrorCode::PeerSilent);
    }
    // Somebody else at the address: the pinned issuer key stops the joiner.
    let mut other_issuer = invite;
    other_issuer.issuer = identity(9).mesh_key();
    assert_eq!(pair(once(2, other_issuer)).await.unwrap_err().code(), ErrorCode::PeerSilent);
    assert_eq!(issuer.registry.state.lock().unwrap().calls, 0);
}

#[tokio::test]
async fn a_bad_name_is_refused_before_anyone_is_asked() {
    let issuer = issuer();
    let mut bad = request(2, issuer.invite(1, LONG));
    bad.name = "../../etc".into();
    assert_eq!(pair(bad).await.unwrap_err().code(), ErrorCode::BadRequest);
    assert_eq!(issuer.registry.state.lock().unwrap().calls, 0);
}
