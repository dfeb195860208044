//! The controller as a member of the mesh: channels to voters, the allow-list
//! kept up with the log, and the streams on which nodes dial in.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use osmoda_kit::error::{ApiError, chain};
use osmoda_kit::shutdown::Stage;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_mesh::state::MeshState;
use osmoda_mesh::{
    EpochSecret, KeyChange, Mesh, MeshConfig, MeshError, MeshHandle, Tuning, fetch_epoch, incoming_stream,
    tonic_channel,
};
use osmoda_mesh_protocol::{Members, Service};
use osmoda_proto::link::v1::link_server::LinkServer;
use osmoda_rollout::FleetState;
use osmoda_types::{ErrorCode, NodeId, Role};
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

/// Between two tries to take a new allow-list over.
const MEMBERS_AGAIN: Duration = Duration::from_secs(2);

/// Keeps the mesh's allow-list, on disk and in force, up with the log. A disk that
/// is full does not end it: it is tried again.
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
        let mut is_behind = false;
        if state.members_index() > index {
            match take_over(&handle, &keys, &dir, members_of(&state)).await {
                Ok(()) => {
                    index = state.members_index();
                    tracing::info!(index, "members updated");
                }
                Err(error) if error.code == ErrorCode::ShuttingDown => return Ok(()),
                Err(error) => {
                    tracing::warn!(code = %error.code, error = chain(&error), "members not updated yet");
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
            () = tokio::time::sleep(MEMBERS_AGAIN), if is_behind => {}
        }
    }
}

/// Who left is out at once even when the disk takes nothing.
async fn take_over(handle: &MeshHandle, keys: &KeyChange, dir: &Path, members: Members) -> Result<(), ApiError> {
    if let Err(error) = keep(keys, dir, &members).await {
        handle.put_out(&members).await?;
        return Err(error);
    }
    Ok(handle.update_members(members).await?)
}

/// Durable before in force, so that a crash never goes back.
async fn keep(keys: &KeyChange, dir: &Path, members: &Members) -> Result<(), ApiError> {
    osmoda_mesh::state::store_members(dir, members)?;
    keys.members_come(members).await
}

/// Between two tries to get the secret of an epoch.
const EPOCH_AGAIN: Duration = Duration::from_secs(2);

/// Keeps the mesh's epoch, on disk and in force, up with the log: the secret is
/// fetched from voters and believed only under the hash in the log. As for the
/// members, a full disk does not end it.
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
                Ok(secret) => match put_in_force(&handle, &dir, secret).await {
                    Ok(()) => tracing::info!(epoch = epoch.0, "mesh epoch in force"),
                    Err(error) if error.code == ErrorCode::ShuttingDown => return Ok(()),
                    Err(error) => {
                        tracing::warn!(epoch = epoch.0, code = %error.code, error = chain(&error), "mesh epoch not in force yet");
                        is_behind = true;
                    }
                },
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

/// Durable before in force, as the members.
async fn put_in_force(handle: &MeshHandle, dir: &Path, secret: EpochSecret) -> Result<(), ApiError> {
    osmoda_mesh::state::store_epoch(dir, &secret)?;
    handle.install_epoch(secret).await?;
    Ok(())
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

#[cfg(test)]
mod tests {
    use osmoda_kit::clock::SystemClock;
    use osmoda_kit::shutdown::Shutdown;
    use osmoda_kit::testing::{TempRoot, wait_for};
    use osmoda_mesh::{Identity, state as files};
    use osmoda_mesh_protocol::{Member, SecretBytes};
    use osmoda_rollout::testing::{Log, genesis};
    use osmoda_types::{MeshEpoch, NetworkId};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    fn member(keys: &Identity, name: &str) -> Member {
        Member {
            node: keys.node(),
            mesh_key: keys.mesh_key(),
            identity_key: keys.identity_key(),
            role: Role::Controller,
            name: name.to_owned(),
            addresses: vec![],
        }
    }

    #[tokio::test]
    async fn a_full_disk_puts_out_who_left_and_does_not_end_the_controller() {
        let root = TempRoot::new();
        let dir = root.paths().state("mesh");
        let own = files::create_identity(&dir).unwrap();
        let other = files::create_identity(&root.paths().state("other")).unwrap();
        let members = vec![member(&own, "own"), member(&other, "other")];
        let initial = files::Initial {
            network: NetworkId::from_bytes([7; 32]),
            secret: EpochSecret { epoch: MeshEpoch(1), secret: SecretBytes::new([1; 32]) },
            rejoin_secret: SecretBytes::new([2; 32]),
            members: Members { index: 0, epoch: MeshEpoch(1), members },
        };
        files::write_initial(&dir, &initial).unwrap();
        let tasks = Tasks::new(Shutdown::new());
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let handle = start(files::load(&dir).unwrap(), listen, &tasks, SystemClock::shared()).unwrap();
        let keys = Arc::new(KeyChange::new(handle.clone(), initial.network, dir.clone(), tasks.clone()));

        let mut log = Log::new();
        log.expect(genesis());
        let index = log.state.members_index();
        let (views, view) = watch::channel(View { state: Arc::new(log.state.clone()), ..View::default() });
        // A folder where the file belongs: no write can replace it, whoever writes.
        let list = dir.join("members.json");
        std::fs::remove_file(&list).unwrap();
        std::fs::create_dir_all(list.join("taken")).unwrap();
        let stop = CancellationToken::new();
        let followed = follow_members(handle.clone(), keys, dir, view, stop.clone());
        let seen = async {
            let is_out = async || handle.members().by_node(&other.node()).is_none().then_some(());
            wait_for("who left to be out", LIMIT, is_out).await;
            assert!(handle.members().index < index, "what is not stored is not in force");
            std::fs::remove_dir_all(&list).unwrap();
            wait_for("the list", LIMIT, async || (handle.members().index == index).then_some(())).await;
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(followed, seen);
        assert!(ended.is_ok());
        drop(views);
    }
}
