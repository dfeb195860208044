//! An invite that is asked for before the log knows its issuer, that the mesh does
//! not take, and that has ended.

mod leader;

use std::collections::BTreeSet;
use std::sync::Mutex;

use futures_util::FutureExt as _;
use osmoda_kit::http::{Credentials, UnixClient};
use osmoda_kit::shutdown::Shutdown;
use osmoda_kit::testing::FakeClock;
use osmoda_node_api::mesh::{JoinRequest, Service};
use osmoda_rollout::testing::{Log, genesis, invite, member, node, raft_id, spend, subkey};
use osmoda_types::{InviteId, Signature};

use self::leader::Leader;
use super::*;
use crate::peers::{Dial, Dialled, Peers};
use crate::replica::{self, Follower};

/// Nobody can be dialled; who was tried is noted.
#[derive(Default)]
struct Nobody(Mutex<BTreeSet<NodeId>>);

impl Dial for Nobody {
    fn dial(&self, node: NodeId, _: Service) -> Dialled {
        self.0.lock().unwrap().insert(node);
        Box::pin(async { Err(std::io::ErrorKind::NotConnected.into()) })
    }
}

/// Voter 0 of a fleet whose log has only the genesis.
struct Scene {
    log: Log,
    follower: Follower,
    replica: Replica,
    dialled: Arc<Nobody>,
    invites: Invites,
}

impl Scene {
    fn new() -> Self {
        let dialled = Arc::new(Nobody::default());
        Self { dialled: dialled.clone(), ..Self::with(dialled) }
    }

    /// With voters that are dialled so.
    fn with(dial: Arc<dyn Dial>) -> Self {
        let (follower, replica, _events) = replica::new(Shutdown::new());
        let client = LeaderClient::new(Peers::new(dial));
        let voters = Voters::new(replica.clone(), vec![node(0)]);
        let mesh = MeshClient::new(UnixClient::new("/nowhere.sock", Credentials::none()));
        let clock = Arc::new(FakeClock::new());
        let invites = Invites::new(node(0), mesh, client, voters, replica.clone(), clock);
        Self { log: Log::new(), follower, replica, dialled: Arc::default(), invites }
    }

    /// A fleet whose log knows voter 0.
    fn begin(&mut self) {
        self.applies(genesis());
        self.applies(subkey(0));
        self.applies(Body::RegisterVoter { node: node(0), raft_id: raft_id(0) });
    }

    /// What a joiner with the keys of that number hears.
    async fn spend(&self, invite: u8, number: u8) -> ErrorCode {
        let Member { node, mesh_key, identity_key, name, .. } = member(number, Role::Voter);
        let request = JoinRequest { identity_key, name, addresses: vec![], signature: Signature::from_bytes([0; 64]) };
        let invite = InviteId::from_bytes([invite; 16]);
        match self.invites.spend(SpendRequest { invite, node, mesh_key, request }).await {
            Ok(_) => panic!("nobody can be dialled"),
            Err(error) => error.code,
        }
    }

    fn applies(&mut self, body: Body) {
        self.log.expect(body);
        self.follower.restore(self.log.state.last_index() + 1, &self.log.state.encode()).unwrap();
    }

    async fn mint(&self) -> ErrorCode {
        match self.invites.mint(pb::Role::Voter, 0).await {
            Ok(_) => panic!("nobody can be dialled"),
            Err(error) => error.code,
        }
    }

    fn was_submitted(&self) -> bool {
        !self.dialled.0.lock().unwrap().is_empty()
    }
}

/// The log refuses such an invite for good (`node_unknown`), so it is not
/// submitted: the asker waits, and may ask again.
#[tokio::test(start_paused = true)]
async fn an_invite_by_a_voter_that_the_log_does_not_know_yet_is_not_submitted() {
    let mut scene = Scene::new();
    let refused = scene.log.apply(Body::OpenInvite(invite(1, Role::Voter)));
    assert_eq!(refused.reply.refused, Some(ErrorCode::Conflict), "before the genesis");
    scene.applies(genesis());
    let refused = scene.log.apply(Body::OpenInvite(invite(1, Role::Voter)));
    assert_eq!(refused.reply.refused, Some(ErrorCode::NodeUnknown), "before its issuer is registered");
    let code = scene.mint().await;
    assert_eq!(code, ErrorCode::RaftUnavailable);
    assert!(code.is_retryable());
    assert!(!scene.was_submitted());
}

#[tokio::test(start_paused = true)]
async fn an_invite_waits_for_the_registration_of_its_issuer_and_no_other() {
    let mut scene = Scene::new();
    scene.applies(genesis());
    scene.applies(subkey(0));
    let invites = scene.invites.clone();
    let mut waiting = std::pin::pin!(invites.mint(pb::Role::Voter, 0));
    assert!((&mut waiting).now_or_never().is_none() && !scene.was_submitted());
    scene.applies(Body::RegisterVoter { node: node(0), raft_id: raft_id(0) });
    assert!(waiting.await.is_err(), "nobody can be dialled");
    assert!(scene.was_submitted());

    scene.applies(Body::OpenInvite(invite(1, Role::Voter)));
    scene.applies(spend(1, member(1, Role::Voter), 1));
    assert!(registered(&scene.replica, node(0)).await.is_ok());
    assert!(registered(&scene.replica, node(1)).await.is_err(), "a member, not a voter");
}

/// Each costs the voters an entry, and the holder of such an invite asks for free.
#[tokio::test(start_paused = true)]
async fn a_spent_or_expired_invite_is_refused_without_the_log_and_its_spender_goes_on_to_it() {
    let mut scene = Scene::new();
    scene.begin();
    for number in 1..=3 {
        scene.applies(Body::OpenInvite(invite(number, Role::Voter)));
    }
    scene.applies(spend(1, member(1, Role::Voter), 1));
    scene.applies(Body::ExpireInvite(InviteId::from_bytes([3; 16])));
    assert_eq!(scene.spend(1, 2).await, ErrorCode::InviteSpent);
    // The clock is past its end; the other one was ended by the log.
    assert_eq!(scene.spend(2, 2).await, ErrorCode::InviteExpired);
    assert_eq!(scene.spend(3, 2).await, ErrorCode::InviteExpired);
    assert_eq!(scene.spend(4, 2).await, ErrorCode::InviteUnknown);
    assert!(!scene.was_submitted());
    assert_eq!(scene.spend(1, 1).await, ErrorCode::PeerOffline);
    assert!(scene.was_submitted());
}

#[tokio::test]
async fn an_invite_that_the_mesh_does_not_take_is_withdrawn_from_the_log() {
    let leader = Leader::new();
    let mut scene = Scene::with(Arc::new(leader.clone()));
    scene.begin();
    assert!(scene.invites.mint(pb::Role::Voter, 0).await.is_err(), "there is no mesh");
    let [Body::OpenInvite(opened), Body::ExpireInvite(ended)] = &leader.log()[..] else { panic!("{:?}", leader.log()) };
    assert_eq!(opened.id, *ended);
}
