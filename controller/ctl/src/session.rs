//! What one run of the program works with: the controller, the output, the
//! operator's key.

use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use osmoda_controller_api::{FleetStatus, Node, Page, RolloutSummary};
use osmoda_kit::clock::{Clock as _, SystemClock};
use osmoda_kit::keys::{self, KeyError};
use osmoda_types::command::Order;
use osmoda_types::{NetworkId, PublicKey, RolloutId, Signature, statement};

use crate::cli::Global;
use crate::client::Client;
use crate::context::{self, Env, Overrides};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::{Output, typed};

/// The shortest beginning of a node id that is accepted: below it a typing
/// mistake finds some node too easily.
const ID_PREFIX_MIN: usize = 4;

/// A controller to talk to.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) out: Output,
    operator_key: Option<PathBuf>,
}

/// A signed order, as every order endpoint takes it.
pub(crate) struct Signed {
    pub(crate) serial: u64,
    pub(crate) operator_key: PublicKey,
    pub(crate) signature: Signature,
}

impl Session {
    /// Finds out which controller is meant.
    pub(crate) fn open(global: &Global) -> Result<Self, CliError> {
        let env = Env::read();
        let file = context::read(&env.file()?)?;
        let target = context::resolve(&overrides(global), &env, &file)?;
        let operator_key = target.operator_key.clone();
        Ok(Self { client: Client::new(target)?, out: Output::stdout(global.output), operator_key })
    }

    /// Reads the operator's key: the flag's, else the context's.
    pub(crate) fn key(&self, flag: Option<&Path>) -> Result<SigningKey, CliError> {
        let Some(path) = flag.or(self.operator_key.as_deref()) else {
            return Err(CliError::usage("this must be signed", "there is no operator key: --key is absent")
                .next("osmoda operator keygen FILE --name NAME, or name the key in the context"));
        };
        keys::load_signing(path).map_err(|error| key_error(path, &error))
    }

    /// The fleet as it is now.
    pub(crate) async fn status(&self) -> Result<FleetStatus, CliError> {
        typed(self.client.get("cannot read the fleet's status", "/status").await?)
    }

    /// Signs an order. The clock is the serial: it grows from one order to the
    /// next without anything to remember.
    pub(crate) async fn sign(&self, key: &SigningKey, order: &Order) -> Result<Signed, CliError> {
        let network = self.status().await?.network_id;
        let serial = u64::try_from(SystemClock::new().now_wall().as_millis())
            .map_err(|_| CliError::failed("cannot sign", "the clock of this machine is before 1970"))?;
        Ok(sign_as(key, order, serial, &network))
    }

    /// Finds a rollout by id or `latest`.
    pub(crate) async fn rollout_id(&self, text: &str) -> Result<RolloutId, CliError> {
        if text != "latest" {
            return text.parse().map_err(|_| {
                CliError::usage(format!("{text:?} is no rollout"), "a rollout is named by its UUID or by `latest`")
                    .next("osmoda rollout ls")
            });
        }
        let page = self.client.get("cannot list rollouts", "/rollouts?limit=1").await?;
        let page: Page<RolloutSummary> = typed(page)?;
        page.items.first().map(|rollout| rollout.id).ok_or_else(|| {
            CliError::new(Exit::NotFound, "there is no latest rollout", "this fleet has had none")
                .next("osmoda rollout start MANIFEST --key FILE")
        })
    }

    /// Reads all nodes.
    pub(crate) async fn nodes(&self) -> Result<Vec<Node>, CliError> {
        let page: Page<Node> = typed(self.client.list("cannot list nodes", "/nodes").await?)?;
        Ok(page.items)
    }

    /// Finds one node by name, id or the beginning of an id.
    pub(crate) async fn node(&self, text: &str) -> Result<Node, CliError> {
        find_node(&self.nodes().await?, text).cloned()
    }
}

/// What the flags say about the controller.
pub(crate) fn overrides(global: &Global) -> Overrides {
    Overrides { context: global.context.clone(), server: global.server.clone(), token_file: global.token_file.clone() }
}

/// Signs an order with a given serial.
pub(crate) fn sign_as(key: &SigningKey, order: &Order, serial: u64, network: &NetworkId) -> Signed {
    let signature = statement::sign(key, &statement::control(order, serial, network));
    Signed { serial, operator_key: statement::public_key(key), signature }
}

/// Finds one node: a name wins over the beginning of an id.
pub(crate) fn find_node<'a>(nodes: &'a [Node], text: &str) -> Result<&'a Node, CliError> {
    if let Some(node) = nodes.iter().find(|node| node.name == text) {
        return Ok(node);
    }
    let hits: Vec<&Node> = match text.len() >= ID_PREFIX_MIN {
        true => nodes.iter().filter(|node| node.id.to_string().starts_with(text)).collect(),
        false => Vec::new(),
    };
    match hits[..] {
        [node] => Ok(node),
        [] => Err(CliError::new(Exit::NotFound, format!("no node {text:?}"), "no name is it and no id begins with it")
            .next("osmoda node ls")),
        _ => Err(CliError::usage(format!("{text:?} is no single node"), format!("{} ids begin with it", hits.len()))
            .next("give more digits of the id")),
    }
}

fn key_error(path: &Path, error: &KeyError) -> CliError {
    let what = format!("cannot use the operator key {}", path.display());
    let error = CliError::failed(what, osmoda_kit::error::chain(error));
    match path.exists() {
        true => error.next(format!("a key is 32 bytes that only you can read: chmod 600 {}", path.display())),
        false => error.next("osmoda operator keygen FILE --name NAME"),
    }
}
