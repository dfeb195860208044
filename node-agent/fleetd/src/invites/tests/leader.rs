//! A leader that notes what is submitted, and takes it.

use std::sync::{Arc, Mutex};

use osmoda_kit::shutdown::Shutdown;
use osmoda_kit::tasks::{TaskKind, Tasks};
use osmoda_node_api::mesh::Service;
use osmoda_proto::fleet::v1::fleet_server::{Fleet, FleetServer};
use osmoda_proto::fleet::v1::{self as pb, submit_reply};
use osmoda_types::NodeId;
use osmoda_types::command::Body;
use tokio::net::UnixStream;
use tonic::{Request, Response, Status};

use crate::peers::{Dial, Dialled};

/// The leader; clones are the same.
#[derive(Clone)]
pub(super) struct Leader {
    log: Arc<Mutex<Vec<Body>>>,
    tasks: Tasks,
}

impl Leader {
    pub(super) fn new() -> Self {
        Self { log: Arc::default(), tasks: Tasks::new(Shutdown::new()) }
    }

    /// What was submitted so far.
    pub(super) fn log(&self) -> Vec<Body> {
        self.log.lock().unwrap().clone()
    }
}

impl Dial for Leader {
    fn dial(&self, _: NodeId, _: Service) -> Dialled {
        let opened = UnixStream::pair().map(|(here, there)| {
            let served = tonic::transport::Server::builder()
                .add_service(FleetServer::new(self.clone()))
                .serve_with_incoming(tokio_stream::once(Ok::<_, std::io::Error>(there)));
            self.tasks.spawn(TaskKind::BACKGROUND, "leader", async move { drop(served.await) });
            here
        });
        Box::pin(std::future::ready(opened))
    }
}

fn not_asked<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not asked here"))
}

#[tonic::async_trait]
impl Fleet for Leader {
    type WatchStream = tokio_stream::Empty<Result<pb::WatchItem, Status>>;

    async fn submit(&self, request: Request<pb::SubmitRequest>) -> Result<Response<pb::SubmitReply>, Status> {
        let command = osmoda_proto::decode_command(&request.into_inner().command).unwrap();
        self.log.lock().unwrap().push(command.body);
        let result = Some(submit_reply::Result::Reply(pb::Reply::default()));
        Ok(Response::new(pb::SubmitReply { result }))
    }

    async fn get_manifest(&self, _: Request<pb::GetManifestRequest>) -> Result<Response<pb::GetManifestReply>, Status> {
        not_asked()
    }

    async fn report(&self, _: Request<pb::ReportRequest>) -> Result<Response<pb::ReportReply>, Status> {
        not_asked()
    }

    async fn watch(&self, _: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        not_asked()
    }

    async fn lease(&self, _: Request<pb::LeaseRequest>) -> Result<Response<pb::LeaseReply>, Status> {
        not_asked()
    }

    async fn put_manifest(&self, _: Request<pb::PutManifestRequest>) -> Result<Response<pb::PutManifestReply>, Status> {
        not_asked()
    }

    async fn mint_invite(&self, _: Request<pb::MintInviteRequest>) -> Result<Response<pb::MintInviteReply>, Status> {
        not_asked()
    }

    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusReply>, Status> {
        not_asked()
    }
}
