//! The agent's card: who this node says it is, with nothing in it that is not so.
//!
//! Name, description and additional services are the operator's words and are
//! kept in `agent-card.json`; everything else is asked for when the card is: a
//! service is listed when its daemon answers. The earlier product's default card
//! listed services whether or not they ran, and a registry it was not in.

use std::path::PathBuf;
use std::time::Duration;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Extension, Router};
use osmoda_kit::error::ApiError;
use osmoda_kit::fsio;
use osmoda_kit::http::{Caller, Json, UnixClient};
use osmoda_kit::tasks::Tasks;
use osmoda_kit::version::VERSION;
use osmoda_node_api::agentd_card::{AgentCard, CardKey, CardService, CardWitnesses, GenerateCard};
use osmoda_types::ErrorCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::api::{ledger_error, new_row};
use crate::ledger::Ledger;
use crate::limits::{Limit, too_large};
use crate::witness::Coverage;

/// Name of the file in the daemon's state folder.
pub const FILE_NAME: &str = "agent-card.json";

/// The form that EIP-8004 gives to registration files.
const KIND: &str = "https://eips.ethereum.org/EIPS/eip-8004#registration-v1";

/// Why this node may be trusted: its ledger. Registries are added when the node
/// is in one.
const TRUST: &str = "hash-chain-ledger";

/// And while enough other nodes cosign it.
const WITNESSED: &str = "witnessed-ledger";

/// How long a daemon may take to say that it is there. It is a round trip on
/// one host; one that needs longer is not serving.
const ASK_TIME_LIMIT: Duration = Duration::from_secs(2);

/// Services the operator may add; a card is read by people.
const ADDED_MAX: usize = 32;

/// The whole file: the words below and 32 services, doubled.
const FILE_BYTES_MAX: u64 = 128 * 1024;

const NAME_BYTES: Limit = Limit::new(128);
const TEXT_BYTES: Limit = Limit::new(1024);

/// A daemon that may be on the card, and what it is called there: the earlier
/// product's names where it had one.
const OFFERED: [(&str, &str); 4] = [("agentd", "mcp"), ("watch", "safeswitch"), ("mesh", "mesh"), ("fleetd", "fleet")];

/// The operator's words, as they are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    name: String,
    description: String,
    services: Vec<CardService>,
}

/// The card of this node; cheap to clone.
#[derive(Debug, Clone)]
pub struct Card {
    /// Where the operator's words are kept.
    pub file: PathBuf,
    /// Says whether the node can act.
    pub ledger: Ledger,
    /// For files.
    pub tasks: Tasks,
    /// A client of each other daemon, by its name.
    pub daemons: Vec<(&'static str, UnixClient)>,
    /// This daemon's own socket.
    pub own_socket: PathBuf,
    /// The key that signs the ledger's checkpoints, as hex.
    pub ledger_key: String,
    /// Which other nodes cosign them, and how far.
    pub coverage: watch::Receiver<Coverage>,
}

impl Card {
    /// The daemons that are asked, beside this one.
    pub fn asked() -> impl Iterator<Item = &'static str> {
        OFFERED.into_iter().map(|(daemon, _)| daemon).filter(|daemon| *daemon != "agentd")
    }

    async fn words(&self) -> Result<Words, ApiError> {
        let file = self.file.clone();
        let read = self.tasks.blocking("read card", move || fsio::read_limited(&file, FILE_BYTES_MAX)).await;
        match read.map_err(ApiError::internal)?? {
            // Damage is said: silent defaults would put other words in the operator's mouth.
            Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                ApiError::new(ErrorCode::StateDirUnusable, format!("{FILE_NAME} is damaged: {error}"))
            }),
            None => Ok(Words {
                name: sysinfo::System::host_name().unwrap_or_else(|_| "osmoda".to_owned()),
                description: "an osModa node".to_owned(),
                services: Vec::new(),
            }),
        }
    }

    async fn make(&self, words: Words) -> AgentCard {
        let mut services = vec![CardService {
            name: "mcp".to_owned(),
            endpoint: format!("unix:{}", self.own_socket.display()),
            version: Some(VERSION.version.to_owned()),
            verified: true,
        }];
        let answers = self.daemons.iter().map(|(daemon, client)| ask(daemon, client));
        let answers = futures_util::future::join_all(answers).await;
        services.extend(answers.into_iter().flatten());
        services.extend(words.services.into_iter().map(|service| CardService { verified: false, ..service }));
        let witnesses = self.witnesses();
        AgentCard {
            kind: KIND.to_owned(),
            name: words.name,
            description: words.description,
            image: None,
            services,
            active: self.ledger.state().is_writable,
            supported_trust: [Some(TRUST), witnesses.is_some_and(|now| now.answer).then_some(WITNESSED)]
                .into_iter()
                .flatten()
                .map(str::to_owned)
                .collect(),
            witnesses,
            version: VERSION.version.to_owned(),
            keys: self.keys().await,
        }
    }

    /// Who cosigns the ledger now; nothing where nobody could.
    fn witnesses(&self) -> Option<CardWitnesses> {
        let coverage = self.coverage.borrow();
        let (needed, of) = coverage.quorum();
        let (needed, of) = (needed as u64, of as u64);
        (needed > 0).then(|| CardWitnesses { needed, of, answer: coverage.is_ready(), rows: coverage.rows() })
    }

    /// The ledger's key, and those by which the mesh knows this node while it is up.
    async fn keys(&self) -> Vec<CardKey> {
        let mut keys = vec![CardKey { purpose: "ledger_key".to_owned(), key: self.ledger_key.clone() }];
        keys.extend(self.mesh_keys().await);
        keys
    }

    async fn mesh_keys(&self) -> Vec<CardKey> {
        let Some((_, mesh)) = self.daemons.iter().find(|(daemon, _)| *daemon == "mesh") else { return Vec::new() };
        let identity: Result<Map<String, Value>, _> =
            mesh.clone().with_time_limit(ASK_TIME_LIMIT).get("/identity").await;
        let Ok(identity) = identity else { return Vec::new() };
        let key = |purpose: &str| {
            let key = identity.get(purpose)?.as_str()?.to_owned();
            Some(CardKey { purpose: purpose.to_owned(), key })
        };
        ["node", "identity_key", "mesh_key"].into_iter().filter_map(key).collect()
    }
}

/// Whether a daemon answers, and with which version.
async fn ask(daemon: &'static str, client: &UnixClient) -> Option<CardService> {
    let health: Result<Map<String, Value>, _> = client.clone().with_time_limit(ASK_TIME_LIMIT).get("/health").await;
    let health = health.ok()?;
    let name = OFFERED.iter().find(|(offered, _)| *offered == daemon).map_or(daemon, |(_, name)| name);
    Some(CardService {
        name: name.to_owned(),
        endpoint: format!("unix:{}", client.socket().display()),
        version: health.get("version").and_then(Value::as_str).map(str::to_owned),
        verified: true,
    })
}

/// The routes.
pub fn router(card: Card) -> Router {
    Router::new().route("/agent/card", get(show)).route("/agent/card/generate", post(generate)).with_state(card)
}

async fn show(State(card): State<Card>) -> Result<Json<AgentCard>, ApiError> {
    let words = card.words().await?;
    Ok(Json(card.make(words).await))
}

async fn generate(
    State(card): State<Card>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<GenerateCard>,
) -> Result<Json<AgentCard>, ApiError> {
    NAME_BYTES.check("name", &body.name)?;
    TEXT_BYTES.check("description", &body.description)?;
    let services = body.services.unwrap_or_default();
    if services.len() > ADDED_MAX {
        return Err(too_large(format!("{} services, the limit is {ADDED_MAX}", services.len())));
    }
    for service in &services {
        NAME_BYTES.check("service name", &service.name)?;
        TEXT_BYTES.check("service endpoint", &service.endpoint)?;
        NAME_BYTES.check("service version", service.version.as_deref().unwrap_or_default())?;
    }
    let words = Words { name: body.name, description: body.description, services };
    let payload = Map::from_iter([
        ("name".to_owned(), Value::from(words.name.as_str())),
        ("description".to_owned(), Value::from(words.description.as_str())),
        ("services".to_owned(), Value::from(words.services.len())),
    ]);
    // Recorded first: a card that changed without a row would be nobody's.
    let row = new_row("agent.card.generate".to_owned(), payload, &caller.who.to_string(), caller.isolation)?;
    card.ledger.append(row).await.map_err(ledger_error)?;
    let bytes = serde_json::to_vec_pretty(&words).map_err(ApiError::internal)?;
    let file = card.file.clone();
    let written = card.tasks.blocking("write card", move || fsio::write_atomic(&file, &bytes, 0o600)).await;
    written.map_err(ApiError::internal)??;
    Ok(Json(card.make(words).await))
}
