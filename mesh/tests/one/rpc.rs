//! tonic through a mesh stream, with the peer in the request's extensions.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    task::{Context, Poll},
};

use osmoda_kit::{
    shutdown::Shutdown,
    tasks::{TaskKind, Tasks},
};
use osmoda_mesh::{StreamPeer, incoming_stream, tonic_channel};
use osmoda_mesh_protocol::Service;
use osmoda_types::Role;
use tonic::{
    Code, Request, Response, Status,
    body::Body,
    server::{NamedService, UnaryService},
    transport::Server,
};
use tonic_prost::ProstCodec;

use crate::node::{Start, introduce};

/// Answers with the text and the id of whoever asked.
#[derive(Clone)]
struct Echo;

impl UnaryService<String> for Echo {
    type Response = String;
    type Future = Ready<Result<Response<String>, Status>>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let Some(peer) = request.extensions().get::<StreamPeer>().copied() else {
            return ready(Err(Status::unauthenticated("no peer")));
        };
        ready(Ok(Response::new(format!("{} from {} {}", request.into_inner(), peer.role, peer.node))))
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl tower::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<String, String>::default());
            Ok(grpc.unary(Echo, request).await)
        })
    }
}

async fn call(channel: &tonic::transport::Channel) -> Result<String, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = http::uri::PathAndQuery::from_static("/test.Echo/Say");
    let codec = ProstCodec::<String, String>::default();
    grpc.unary(Request::new("hello".to_owned()), path, codec).await.map(Response::into_inner)
}

#[tokio::test]
async fn a_unary_call_crosses_and_the_channel_survives_a_lost_link() {
    let (a, b) = (Start::new(1, Role::Voter).run(), Start::new(2, Role::Voter).run());
    introduce(2, &[&a, &b]).await;
    let accepted = b.handle.accept(Service::Fleet).unwrap();
    let tasks = Tasks::new(Shutdown::new());
    tasks.spawn(
        TaskKind::BACKGROUND,
        "echo",
        Server::builder().add_service(Echo).serve_with_incoming(incoming_stream(accepted)),
    );

    let channel = tonic_channel(&a.handle, b.id(), Service::Fleet);
    let expected = format!("hello from voter {}", a.id());
    assert_eq!(call(&channel).await.unwrap(), expected);

    // The link goes and comes back; the same channel connects again.
    let mut alone = (*b.handle.members()).clone();
    (alone.index, alone.members) = (3, vec![b.member()]);
    b.handle.update_members(alone).await.unwrap();
    a.linked(b.id(), false).await;
    assert_eq!(call(&channel).await.unwrap_err().code(), Code::Unavailable);
    introduce(4, &[&a, &b]).await;
    a.linked(b.id(), true).await;
    assert_eq!(call(&channel).await.unwrap(), expected);

    // A service that the table does not open at all.
    let denied = tonic_channel(&a.handle, b.id(), Service::Link);
    assert_eq!(call(&denied).await.unwrap_err().code(), Code::Unavailable);
}
