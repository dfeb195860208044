//! The link to each controller: this node dials in and tells how it is.
//!
//! Nothing here decides anything, and nothing waits for it: a controller that
//! is away is tried again with a growing, jittered pause.

use std::collections::BTreeMap;
use std::time::Duration;

use osmoda_kit::clock::SharedClock;
use osmoda_kit::error::ApiError;
use osmoda_kit::shutdown::{Shutdown, Stage};
use osmoda_kit::tasks::{TaskHandle, TaskKind, Tasks};
use osmoda_kit::version::VERSION;
use osmoda_node_api::agentd::AgentdClient;
use osmoda_node_api::approval::ApprovalClient;
use osmoda_node_api::mesh::Service;
use osmoda_node_api::watch::WatchClient;
use osmoda_proto::link::v1::{self as pb, link_client::LinkClient};
use osmoda_types::{NodeId, Role};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::peers::Peers;
use crate::permits;
use crate::replica::Replica;
use crate::wire::error_of;
use crate::witnessed::Witnessed;

/// Messages on their way up. The controller takes them as they come; a full
/// queue ends the link, and the next one begins with the whole status.
const UP_MAX: usize = 32;

/// The first and the longest pause before a controller is dialled again. At
/// 1,000 nodes a controller that returns is met by some 125 hellos a second; a
/// longer pause would keep a small fleet in the dark for no gain.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// Heartbeats until the controller says otherwise.
const INTERVAL: Duration = Duration::from_secs(2);

/// How often a changed status is looked for: what people watch during a rollout.
const STATUS_EVERY: Duration = Duration::from_millis(500);

/// What a link tells about.
#[derive(Clone)]
pub(crate) struct Links {
    /// This node.
    pub(crate) node: NodeId,
    /// Its name.
    pub(crate) name: String,
    /// What the log says.
    pub(crate) replica: Replica,
    /// Channels.
    pub(crate) peers: Peers,
    /// The host.
    pub(crate) host: WatchClient,
    /// The ledger.
    pub(crate) ledger: AgentdClient,
    /// What waits for a person.
    pub(crate) approvals: ApprovalClient,
    /// Time.
    pub(crate) clock: SharedClock,
    /// For a task per controller.
    pub(crate) tasks: Tasks,
    /// The stop.
    pub(crate) shutdown: Shutdown,
}

impl Links {
    /// Keeps a link to every controller in the log until the stop.
    pub(crate) async fn run(self) {
        let stop = self.shutdown.token(Stage::RefuseNew);
        let mut changes = self.replica.subscribe();
        let mut links: BTreeMap<NodeId, TaskHandle> = BTreeMap::new();
        loop {
            let state = changes.borrow_and_update().state.clone();
            let controllers = state.members().filter(|entry| entry.member.role == Role::Controller);
            for node in controllers.map(|entry| entry.member.node) {
                links.entry(node).or_insert_with(|| {
                    let link = self.clone().keep(node);
                    self.tasks.spawn(TaskKind::BACKGROUND, format!("link to {}", node.short()), link)
                });
            }
            links.retain(|node, handle| {
                let stays = state.member(node).is_some();
                if !stays {
                    handle.abort();
                }
                stays
            });
            tokio::select! {
                biased;
                // Cancel-safe: waiting for a token takes nothing.
                () = stop.cancelled() => return,
                // Cancel-safe: the watch keeps its newest value.
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn keep(self, controller: NodeId) {
        let mut pause = PAUSE_MIN;
        loop {
            let began = self.clock.now_boot();
            if let Err(error) = self.hold(controller).await {
                tracing::debug!(controller = %controller.short(), code = %error.code, "link down");
            }
            let lasted = self.clock.now_boot().saturating_sub(began);
            pause = if lasted > PAUSE_MAX { PAUSE_MIN } else { pause.saturating_mul(2).min(PAUSE_MAX) };
            tokio::time::sleep(jittered(pause)).await;
        }
    }

    /// One link, from its hello to its end.
    async fn hold(&self, controller: NodeId) -> Result<(), ApiError> {
        let (up, waiting) = mpsc::channel(UP_MAX);
        let mut client = LinkClient::new(self.peers.channel(controller, Service::Link));
        let hello = pb::Hello {
            node: self.node.as_bytes().to_vec(),
            name: self.name.clone(),
            version: VERSION.text.to_owned(),
            boot_ms: u64::try_from(self.clock.now_boot().as_millis()).unwrap_or(u64::MAX),
        };
        send(&up, pb::up::Item::Hello(hello))?;
        let attached = client.attach(ReceiverStream::new(waiting)).await.map_err(|status| error_of(&status))?;
        let mut down = attached.into_inner();
        let mut told = Told { interval: INTERVAL, ..Told::default() };
        let mut look = tokio::time::interval(STATUS_EVERY);
        let stop = self.shutdown.token(Stage::RefuseNew);
        loop {
            tokio::select! {
                biased;
                // Cancel-safe: waiting for a token takes nothing.
                () = stop.cancelled() => return Ok(()),
                // Cancel-safe: tonic keeps what was received of a message.
                message = down.message() => match message.map_err(|status| error_of(&status))? {
                    Some(pb::Down { item: Some(pb::down::Item::Signature(signature)) }) => {
                        send(&up, pb::up::Item::SignatureAnswer(permits::sign(&self.approvals, signature).await))?;
                        told.approvals_hash.clear();
                    }
                    Some(message) => told.take(message),
                    None => return Ok(()),
                },
                // Cancel-safe: a timer keeps its ticks.
                _ = look.tick() => self.tell(&up, &mut told).await?,
            }
        }
    }

    async fn tell(&self, up: &mpsc::Sender<pb::Up>, told: &mut Told) -> Result<(), ApiError> {
        let status = self.status().await;
        let hash = Sha256::digest(prost::Message::encode_to_vec(&pb::NodeStatus { uptime_ms: 0, ..status.clone() }));
        if told.status_hash != hash[..] {
            told.status_hash = hash.to_vec();
            send(up, pb::up::Item::Status(status))?;
        }
        let now = self.clock.now_boot();
        if told.seq == 0 || now.saturating_sub(told.beat_at) >= told.interval {
            told.seq += 1;
            told.beat_at = now;
            let beat = pb::Heartbeat {
                seq: told.seq,
                interval_ms: u32::try_from(told.interval.as_millis()).unwrap_or(u32::MAX),
                status_hash: told.status_hash.clone(),
                applied_index: self.replica.view().next_index.saturating_sub(1),
            };
            send(up, pb::up::Item::Heartbeat(beat))?;
            self.tell_head(up, told).await?;
            self.tell_approvals(up, told).await?;
            self.tell_witnessed(up, told).await?;
        }
        Ok(())
    }

    async fn tell_head(&self, up: &mpsc::Sender<pb::Up>, told: &mut Told) -> Result<(), ApiError> {
        // A ledger that does not answer is seen by its own health, not here.
        let Ok(head) = self.ledger.head().await else { return Ok(()) };
        if told.ledger_size != Some(head.size) {
            told.ledger_size = Some(head.size);
            let hash = data_encoding::HEXLOWER.decode(head.hash.as_bytes()).unwrap_or_default();
            send(up, pb::up::Item::LedgerHead(pb::LedgerHead { size: head.size, hash }))?;
        }
        Ok(())
    }

    async fn tell_approvals(&self, up: &mpsc::Sender<pb::Up>, told: &mut Told) -> Result<(), ApiError> {
        // Without an answer nothing is told: the inbox keeps what it had.
        let Some(open) = permits::told(&self.approvals).await else { return Ok(()) };
        let hash = Sha256::digest(prost::Message::encode_to_vec(&open));
        if told.approvals_hash != hash[..] {
            told.approvals_hash = hash.to_vec();
            send(up, pb::up::Item::Approvals(open))?;
        }
        Ok(())
    }

    async fn tell_witnessed(&self, up: &mpsc::Sender<pb::Up>, told: &mut Told) -> Result<(), ApiError> {
        // Nothing is told for a daemon that is away: the controller shows how
        // old its last word is.
        let Ok(report) = self.ledger.witness().await else { return Ok(()) };
        let items = told.witnessed.next(&report, self.clock.now_boot());
        items.into_iter().try_for_each(|item| send(up, item))
    }

    async fn status(&self) -> pb::NodeStatus {
        let view = self.replica.view();
        let uptime_ms = u64::try_from(self.clock.now_boot().as_millis()).unwrap_or(u64::MAX);
        let leader = view.leader.map(|node| node.as_bytes().to_vec()).unwrap_or_default();
        let base = pb::NodeStatus { leader, uptime_ms, ..pb::NodeStatus::default() };
        let Ok(host) = self.host.attempt().await else {
            let watch = pb::DaemonHealth { name: "watch".into(), healthy: false, version: String::new() };
            return pb::NodeStatus { daemons: vec![watch], ..base };
        };
        let text = |path: Option<osmoda_types::StorePath>| path.map(|path| path.to_string()).unwrap_or_default();
        pb::NodeStatus {
            current: text(host.current),
            boot_default: text(host.profile),
            step: host.state,
            rollout: host.rollout.map(|id| id.as_bytes().to_vec()).unwrap_or_default(),
            attempt: host.attempt.map_or(0, |attempt| attempt.0),
            ..base
        }
    }
}

/// What this link has said so far.
#[derive(Default)]
struct Told {
    interval: Duration,
    seq: u64,
    beat_at: Duration,
    status_hash: Vec<u8>,
    ledger_size: Option<u64>,
    approvals_hash: Vec<u8>,
    witnessed: Witnessed,
}

impl Told {
    fn take(&mut self, message: pb::Down) {
        match message.item {
            Some(pb::down::Item::Welcome(welcome)) if welcome.interval_ms > 0 => {
                self.interval = Duration::from_millis(u64::from(welcome.interval_ms));
            }
            // The next look tells it again.
            Some(pb::down::Item::WantStatus(_)) => self.status_hash.clear(),
            _ => {}
        }
    }
}

fn send(up: &mpsc::Sender<pb::Up>, item: pb::up::Item) -> Result<(), ApiError> {
    up.try_send(pb::Up { item: Some(item) })
        .map_err(|_| ApiError::new(osmoda_types::ErrorCode::Busy, "the controller takes nothing"))
}

/// Between half of the pause and all of it, so that nodes do not come together.
fn jittered(pause: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_u128() as u32;
    pause / 2 + pause.mul_f64(f64::from(random) / f64::from(u32::MAX) / 2.0)
}
