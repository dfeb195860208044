//! The controller as a member of the mesh: channels to voters, the allow-list
//! kept up with the log, and the streams on which nodes dial in.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use osmoda_kit::error::{ApiError, chain};
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_mesh::state::MeshState;
use osmoda_mesh::{
    KeyChange, Mesh, MeshConfig, MeshError, MeshHandle, Tuning, fetch_epoch, incoming_stream, tonic_channel,
};
use osmoda_mesh_protocol::{Members, Service};
use osmoda_proto::link::v1::link_server::LinkServer;
use osmoda_rollout::FleetState;
use osmoda_types::{NodeId, Role};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use crate::link::LinkService;
use crate::view::View;
use crate::voters::Voters;

/// The largest message of a node: a status with its daemons has a few kB, an
/// event at most 64 kB.
const LINK_MESSAGE_BYTES_MAX: usize = 256 << 10;

/// Voters over the mesh: who they are comes from the allow-list, which follows
/// the log.
pub(crate) struct MeshVoters {
    handle: MeshHandle,
}

impl MeshVoters {
    pub(crate) fn new(handle: MeshHandle) -> Self {
        Self { handle }
    }
}

impl Voters for MeshVoters {
    fn nodes(&self) -> Vec<NodeId> {
        let mut voters: Vec<_> = self.handle.peers().into_iter().filter(|peer| peer.role == Role::Voter).collect();
        voters.sort_by_key(|peer| (!peer.connected, peer.rtt_us, peer.id));
        voters.into_iter().map(|peer| peer.id).collect()
    }

    fn channel(&self, node: NodeId) -> Channel {
        tonic_channel(&self.handle, node, Service::Fleet)
    }
}

/// Starts the mesh from what `join` stored.
///
/// # Errors
/// The mesh's own.
pub(crate) fn start(
    state: MeshState,
    listen: SocketAddr,
    tasks: &Tasks,
    clock: osmoda_kit::clock::SharedClock,
) -> Result<MeshHandle, MeshError> {
    let next = state.next;
    let config = MeshConfig {
        identity: state.identity,
        network: state.network,
        listen,
        secrets: state.secrets,
        members: state.members,
        // A controller admits nobody: issuers are voters.
        enroller: None,
        tuning: Tuning::default(),
    };
    let handle = Mesh::start(config, tasks, clock)?;
    handle.prepare_identity(next)?;
    Ok(handle)
}

/// The allow-list as the log has it. A member whose entry the mesh cannot use
/// is left out and named: one bad entry must not lock out the others.
pub(crate) fn members_of(state: &FleetState) -> Members {
    let members = state.members().map(|entry| &entry.member);
    let (members, left_out) = Members::of_log(state.members_index(), state.mesh_epoch().0, members);
    for (node, error) in left_out {
        tracing::warn!(%node, %error, "member cannot be used by the mesh");
    }
    members
}

/// Keeps the mesh's allow-list, on disk and in force, up with the log.
pub(crate) async fn follow_members(
    handle: MeshHandle,
    keys: Arc<KeyChange>,
    dir: PathBuf,
    mut view: watch::Receiver<View>,
    stop: CancellationToken,
) -> Result<(), ApiError> {
    let mut index = handle.members().index;
    loop {
        let state = Arc::clone(&view.borrow_and_update().state);
        if state.members_index() > index {
            let members = members_of(&state);
            index = members.index;
            // Durable before in force, so that a crash never goes back.
            osmoda_mesh::state::store_members(&dir, &members)
                .map_err(|error| ApiError::new(error.code(), error.to_string()).with_source(error))?;
            keys.members_come(&members).await?;
            match handle.update_members(members).await {
                Ok(()) => tracing::info!(index, "members updated"),
                Err(MeshError::Stopping) => return Ok(()),
                Err(error) => tracing::error!(error = chain(&error), "members were not updated"),
            }
        }
        tokio::select! {
            biased;
            // Cancel-safe: a token.
            () = stop.cancelled() => return Ok(()),
            // Cancel-safe, as documented for `changed`.
            changed = view.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

/// Between two tries to get the secret of an epoch.
const EPOCH_AGAIN: Duration = Duration::from_secs(2);

/// Keeps the mesh's epoch, on disk and in force, up with the log: the secret is
/// fetched from voters and believed only under the hash in the log.
pub(crate) async fn follow_epoch(
    handle: MeshHandle,
    dir: PathBuf,
    mut view: watch::Receiver<View>,
    stop: CancellationToken,
) -> Result<(), ApiError> {
    loop {
        let state = Arc::clone(&view.borrow_and_update().state);
        let (epoch, hash) = state.mesh_epoch();
        let mut is_behind = false;
        if let Some(hash) = hash.filter(|_| handle.epoch().is_some_and(|now| now < epoch)) {
            let voters: Vec<NodeId> = state.voters().map(|(node, _)| *node).collect();
            match fetch_epoch(&handle, &voters, epoch, hash).await {
                Ok(secret) => {
                    osmoda_mesh::state::store_epoch(&dir, &secret)
                        .map_err(|error| ApiError::new(error.code(), error.to_string()).with_source(error))?;
                    if let Err(error) = handle.install_epoch(secret).await {
                        tracing::error!(error = chain(&error), "the mesh epoch was not put in force");
                    }
                    tracing::info!(epoch = epoch.0, "mesh epoch in force");
                }
                Err(error) => {
                    tracing::info!(epoch = epoch.0, error = chain(&error), "no voter gave the epoch's secret yet");
                    is_behind = true;
                }
            }
        }
        tokio::select! {
            biased;
            // Cancel-safe: a token.
            () = stop.cancelled() => return Ok(()),
            // Cancel-safe, as documented for `changed`.
            changed = view.changed() => if changed.is_err() { return Ok(()) },
            // Cancel-safe: a timer.
            () = tokio::time::sleep(EPOCH_AGAIN), if is_behind => {}
        }
    }
}

/// Serves the nodes' links until the stop.
///
/// # Errors
/// [`MeshError::Registered`].
pub(crate) fn serve_links(handle: &MeshHandle, service: LinkService, tasks: &Tasks) -> Result<(), MeshError> {
    let accepted = handle.accept(Service::Link)?;
    let stop = tasks.shutdown().token(Stage::RefuseNew);
    let server = LinkServer::new(service).max_decoding_message_size(LINK_MESSAGE_BYTES_MAX);
    let serving = tonic::transport::Server::builder()
        .add_service(server)
        .serve_with_incoming_shutdown(incoming_stream(accepted), async move { stop.cancelled().await });
    tasks.spawn(TaskKind::CRITICAL, "link server", serving);
    Ok(())
}
