//! Starting the daemon: state, mesh, pipes, endpoints.

use std::sync::Arc;

use osmoda_kit::boot::{Boot, BootError, Daemon, Service};
use osmoda_kit::error::ApiError;
use osmoda_kit::http::CallerTable;
use osmoda_kit::tasks::TaskKind;
use osmoda_mesh::{KeyChange, Mesh, MeshConfig, serve_keys, state};
use osmoda_node_api::callers;

use crate::added::Added;
use crate::api::{self, Api};
use crate::blobs::{self, Blobs};
use crate::config::Config;
use crate::enrol::FleetdEnroller;
use crate::keys::Keys;
use crate::messages;
use crate::pipes;
use crate::reference::{self, Reference};
use crate::rooms::{self, Rooms, RoomsConfig};
use crate::rotation::{self, Rotation};

/// The daemon `mesh`.
pub struct Meshd;

impl Daemon for Meshd {
    const NAME: &'static str = "mesh";
    type Config = Config;

    fn callers() -> CallerTable {
        callers::MESH
    }

    async fn build(cx: Boot, config: Config) -> Result<Service, BootError> {
        let dir = cx.state_dir();
        let loaded = cx.tasks().blocking("load mesh state", move || state::load(&dir)).await;
        let state = loaded.map_err(ApiError::internal)?.map_err(ApiError::from)?;
        if state.members.members.is_empty() {
            tracing::warn!("no allow-list is cached, so only pairing works");
        }
        let network = state.network;
        let next = state.next.clone();
        let (own, rejoins) = (state.secrets.rejoin.clone(), state.secrets.rejoins.clone());
        let enroller = Arc::new(FleetdEnroller::new(cx.client("fleetd")));
        let handle = Mesh::start(
            MeshConfig {
                identity: state.identity,
                network,
                listen: config.listen,
                secrets: state.secrets,
                members: state.members,
                enroller: Some(enroller.clone()),
                tuning: config.tuning(),
            },
            cx.tasks(),
            cx.clock(),
        )
        .map_err(ApiError::from)?;
        handle.prepare_identity(next).map_err(ApiError::from)?;
        let secrets = Keys::new(handle.clone(), cx.state_dir(), cx.tasks().clone(), own, rejoins);
        enroller.keep_with(secrets.clone());
        serve_keys(&handle, secrets.clone(), cx.tasks()).map_err(ApiError::from)?;
        cx.tasks().spawn(TaskKind::BACKGROUND, "mesh secrets", secrets.clone().share());
        pipes::serve_outbound(&cx, cx.listen("mesh-stream")?, &handle);
        pipes::deliver_inbound(&cx, &handle)?;
        let rooms = RoomsConfig::new(handle.clone(), cx.state_dir());
        let rooms = Rooms::start(rooms, cx.tasks(), cx.clock()).await;
        let rooms = rooms::http::Api::new(rooms, cx.audit(), cx.tasks().clone());
        let blobs = Blobs::start(handle.clone(), cx.state_dir().join("blobs"), config.blobs(), cx.tasks()).await;
        messages::serve(&handle, cx.audit(), cx.clock(), cx.tasks())?;
        let (dir, tasks) = (cx.state_dir(), cx.tasks().clone());
        let added = cx.tasks().blocking("read since when", move || Added::open(&dir, tasks)).await;
        let added = added.map_err(ApiError::internal)?;
        let reference = Reference::new(handle.clone(), (added, cx.clock()), cx.client("fleetd"), cx.audit());
        let (tasks, dir) = (cx.tasks().clone(), cx.state_dir());
        let change = Arc::new(KeyChange::new(handle.clone(), network, dir, tasks.clone()));
        let rotation = Rotation::new(handle.clone(), change.clone(), cx.client("fleetd"), cx.audit(), tasks);
        let api = Api::new(handle, change, secrets, network, cx.state_dir(), cx.audit(), cx.tasks().clone());
        Ok(Service::new(
            api::router(Arc::new(api))
                .merge(reference::router(reference))
                .merge(rotation::router(rotation))
                .merge(rooms::http::router(Arc::new(rooms)))
                .merge(blobs::http::router(blobs)),
        ))
    }
}
