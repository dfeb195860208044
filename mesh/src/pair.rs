//! Joining by invite: the issuer's answer and the joiner's question.
//!
//! Invariant: an invite is spent after the handshake has proven its secret and
//! the joiner's key, and before the joiner gets a byte of the network's secret;
//! no stream of the joiner is ever served on this connection.

use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use osmoda_kit::{clock::SharedClock, frames};
use osmoda_mesh_crypto::{Mode, Party, PeerIdentity, Psk, endpoint_config};
use osmoda_mesh_protocol::{
    Backoff, CLOSE_NORMAL, Enrolment, Invite, InviteError, JoinError, JoinRequest, PairAnswer, WELCOME_BYTES_MAX,
    Welcome, decode_json, encode_frame,
};
use osmoda_types::{ErrorCode, InviteId, MeshKey, NodeId, statement};
use quinn::{Connection, Endpoint, TokioRuntime};

use crate::{
    dial::{connect, random},
    door::Door,
    hub::close,
    identity::Identity,
    shared::Shared,
    sieve::Sieve,
    socket,
    tuning::Tuning,
};

/// How a listener says no to a joiner.
type Refusal = (ErrorCode, String);

/// A joiner whose keys are proven.
#[derive(Debug, Clone)]
pub struct Joiner {
    /// The id its keys make.
    pub node: NodeId,
    /// Its transport key, proven by the handshake.
    pub mesh_key: MeshKey,
    /// What it says, checked, with the address it was seen at.
    pub request: JoinRequest,
    /// Where its packets came from.
    pub source: SocketAddr,
}

/// The answer of an [`Enroller`], later.
pub type Spend<'a> = Pin<Box<dyn Future<Output = Result<Enrolment, ErrorCode>> + Send + 'a>>;

/// Whoever can commit to the fleet's log.
pub trait Enroller: Send + Sync {
    /// Spends the invite for this joiner: once, and again with the same result
    /// for the same `(invite, joiner key)`. Answers `InviteSpent` for another
    /// key, `InviteExpired`, `InviteUnknown`, or a retryable code.
    fn spend(&self, invite: InviteId, joiner: Joiner) -> Spend<'_>;
}

/// The issuer's side, after the handshake; whether the joiner was admitted and
/// heard of it.
pub(crate) async fn answer(
    shared: &Shared,
    connection: Connection,
    identity: PeerIdentity,
    invite: InviteId,
    door: &Door,
) -> bool {
    let source = connection.remote_address();
    let now_ms = || shared.clock.now_wall().as_millis();
    let answer = match enrol(shared, &identity, invite, door.expired(now_ms()), source).await {
        Ok(welcome) => {
            tracing::info!(%invite, %source, role = %welcome.role, "joiner admitted");
            door.spend(now_ms());
            PairAnswer::Welcome(welcome)
        }
        Err((code, message)) => {
            tracing::warn!(%invite, %source, %code, "joiner refused");
            if matches!(code, ErrorCode::InviteSpent | ErrorCode::InviteExpired) {
                door.spend(now_ms());
            }
            PairAnswer::Refused { code, message }
        }
    };
    // A welcome has the whole membership in it. Who is refused and does not listen
    // keeps its place no longer than who does not finish its handshake.
    let is_welcome = matches!(answer, PairAnswer::Welcome(_));
    let limit = if is_welcome { shared.tuning.spend } else { shared.tuning.handshake };
    let told = match tokio::time::timeout(limit, tell(&connection, &answer)).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::debug!(%error, "joiner did not get its answer");
            false
        }
        Err(_) => {
            tracing::debug!("joiner took too long to take its answer");
            false
        }
    };
    close(&connection, CLOSE_NORMAL);
    told && is_welcome
}

async fn tell(connection: &Connection, answer: &PairAnswer) -> std::io::Result<()> {
    let frame = encode_frame(answer, WELCOME_BYTES_MAX).map_err(std::io::Error::other)?;
    let mut stream = connection.open_uni().await?;
    stream.write_all(&frame).await?;
    stream.finish().map_err(std::io::Error::other)?;
    // Closing at once would drop what is still in flight; the joiner closes.
    connection.closed().await;
    Ok(())
}

async fn enrol(
    shared: &Shared,
    identity: &PeerIdentity,
    invite: InviteId,
    expired: bool,
    source: SocketAddr,
) -> Result<Welcome, Refusal> {
    let refuse = |code: ErrorCode, message: &str| (code, message.to_owned());
    if expired {
        return Err(refuse(ErrorCode::InviteExpired, "the invite has expired; ask for a new one"));
    }
    let joiner = checked(shared, identity, invite, source)?;
    let Some(enroller) = &shared.enroller else {
        return Err(refuse(ErrorCode::Unsupported, "this node does not admit joiners"));
    };
    let spent = tokio::time::timeout(shared.tuning.spend, enroller.spend(invite, joiner)).await;
    let enrolment = match spent {
        Ok(Ok(enrolment)) => enrolment,
        Ok(Err(code)) => return Err((code, format!("the fleet did not accept the invite: {code}"))),
        // It may have been committed: asking again with the same key tells.
        Err(_) => return Err(refuse(ErrorCode::OutcomeUnknown, "the fleet did not answer in time; try again")),
    };
    let secret = shared.epochs.load().current().clone();
    Ok(Welcome {
        network: shared.network,
        epoch: secret.epoch,
        epoch_secret: secret.secret,
        rejoin_secret: enrolment.rejoin_secret,
        role: enrolment.role,
        members: enrolment.members,
        operators: enrolment.operators,
        issuer: shared.keyring.node(),
    })
}

fn checked(shared: &Shared, identity: &PeerIdentity, invite: InviteId, source: SocketAddr) -> Result<Joiner, Refusal> {
    let request: JoinRequest = decode_json(&identity.hello)
        .map_err(|_| (ErrorCode::BadRequest, "the join request cannot be read".to_owned()))?;
    let said = JoinRequest::statement(&shared.network, &invite, &identity.key, &request.identity_key);
    let signed = statement::verify(&request.identity_key, &said, &request.signature).is_ok();
    request
        .check()
        .and(if signed { Ok(()) } else { Err(JoinError::Signature) })
        .map_err(|error| (error.code(), error.to_string()))?;
    let node = request.node_id(&identity.key);
    Ok(Joiner { node, mesh_key: identity.key, request: request.seen_from(source), source })
}

/// What a joiner brings.
pub struct PairRequest {
    /// The invite, decoded.
    pub invite: Invite,
    /// The joiner's keys, already stored: an answer lost on the way is asked
    /// for again with the same keys.
    pub identity: Arc<Identity>,
    /// The name it would like.
    pub name: String,
    /// Where it will listen; see [`JoinRequest::addresses`].
    pub addresses: Vec<SocketAddr>,
    /// How long to try. Silence and retryable answers are tried again.
    pub time_limit: Duration,
    /// For expiry and the knock.
    pub clock: SharedClock,
}

/// Why joining failed.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The invite is of no use.
    #[error("the invite is not usable")]
    Invite(#[from] InviteError),
    /// No local socket.
    #[error("cannot open a UDP socket")]
    Socket(#[source] std::io::Error),
    /// No address of the invite answered. A listener is silent until the
    /// secret is proven, so this is also what a foreign invite looks like.
    #[error("no address of the invite answers: {addresses}")]
    Silent {
        /// The addresses that were tried.
        addresses: String,
    },
    /// The issuer refused.
    #[error("the issuer refused: {message}")]
    Refused {
        /// Its code.
        code: ErrorCode,
        /// Its words.
        message: String,
    },
    /// The answer contradicts the invite or itself.
    #[error("the issuer's answer is not valid: {0}")]
    Invalid(&'static str),
}

impl PairError {
    /// The code for the caller.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            PairError::Invite(error) => error.code(),
            PairError::Socket(_) => ErrorCode::Internal,
            PairError::Silent { .. } => ErrorCode::PeerSilent,
            PairError::Refused { code, .. } => *code,
            PairError::Invalid(_) => ErrorCode::BadRequest,
        }
    }
}

/// Joins: asks the issuer to spend the invite for these keys. Safe to repeat.
///
/// # Errors
/// [`PairError`]; retryable ones have been retried until the time limit.
///
/// # Cancel safety
/// Dropping it may leave the invite spent for these keys; asking again with the
/// same keys returns the same welcome.
pub async fn pair(request: PairRequest) -> Result<Welcome, PairError> {
    request.invite.check(request.clock.now_wall().as_millis(), None)?;
    let tuning = Tuning::default();
    let deadline = tokio::time::Instant::now() + request.time_limit;
    let mut backoff = Backoff::new(tuning.redial_first, tuning.redial_max);
    loop {
        let error = match pair_once(&request, &tuning).await {
            Ok(welcome) => return Ok(welcome),
            Err(error) => error,
        };
        let wait = backoff.after_failure(random());
        if !error.code().is_retryable() || tokio::time::Instant::now() + wait >= deadline {
            return Err(error);
        }
        tracing::debug!(code = %error.code(), "joining is tried again");
        tokio::time::sleep(wait).await;
    }
}

async fn pair_once(request: &PairRequest, tuning: &Tuning) -> Result<Welcome, PairError> {
    let silent = || PairError::Silent {
        addresses: request.invite.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    let mut last = silent();
    for address in &request.invite.addresses {
        match ask(request, *address, tuning).await {
            Ok(Some(PairAnswer::Welcome(welcome))) => {
                check_welcome(&welcome, request)?;
                return Ok(welcome);
            }
            Ok(Some(PairAnswer::Refused { code, message })) => last = PairError::Refused { code, message },
            Ok(None) => tracing::debug!(%address, "no answer"),
            Err(error) => last = PairError::Socket(error),
        }
    }
    Err(last)
}

/// One address; `None` is silence or a broken answer.
async fn ask(request: &PairRequest, address: SocketAddr, tuning: &Tuning) -> std::io::Result<Option<PairAnswer>> {
    let any: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = socket::open(any, Sieve::of_dialler(&request.identity.transport()))?;
    let settings = endpoint_config(&request.identity.transport());
    let endpoint = Endpoint::new_with_abstract_socket(settings, None, socket, Arc::new(TokioRuntime))?;
    let Invite { network, id, secret, issuer, .. } = &request.invite;
    let issuer = *issuer;
    let hello = request.identity.join_request(network, id, request.name.clone(), request.addresses.clone());
    let hello = serde_json::to_vec(&hello).map_err(std::io::Error::other)?;
    let party = Party {
        key: request.identity.transport(),
        psk: Psk::pair(network, id, secret.bytes()),
        network: *network,
        mode: Mode::Pair(*id),
        authorize: Arc::new(move |key: &MeshKey| *key == issuer),
    };
    let Ok(connection) = connect(&endpoint, party, hello, address, tuning, &request.clock).await else {
        return Ok(None);
    };
    let answer = async {
        let mut stream = connection.accept_uni().await.ok()?;
        frames::read::<PairAnswer>(&mut stream, WELCOME_BYTES_MAX).await.ok()
    };
    let answer = tokio::time::timeout(tuning.spend + tuning.handshake, answer).await.ok().flatten();
    close(&connection, CLOSE_NORMAL);
    if tokio::time::timeout(tuning.handshake, endpoint.wait_idle()).await.is_err() {
        tracing::debug!("issuer did not hear of the close");
    }
    Ok(answer)
}

fn check_welcome(welcome: &Welcome, request: &PairRequest) -> Result<(), PairError> {
    let own = welcome.members.by_node(&request.identity.node());
    let issuer = welcome.members.by_key(&request.invite.issuer);
    if welcome.network != request.invite.network {
        Err(PairError::Invalid("it names another network"))
    } else if welcome.members.check().is_err() {
        Err(PairError::Invalid("its membership breaks the rules"))
    } else if own.is_none_or(|own| own.role != welcome.role) {
        Err(PairError::Invalid("this node is not in its membership with the granted role"))
    } else if issuer.is_none_or(|issuer| issuer.node != welcome.issuer) {
        Err(PairError::Invalid("the issuer is not in its membership"))
    } else {
        Ok(())
    }
}
