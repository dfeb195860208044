//! What daemons say to each other's peers through pipes: who speaks which
//! service, and services with one question and one answer per pipe.
//!
//! ```text
//! agentd ── mesh-stream.sock ──► mesh ══ link ══► mesh ── agentd-mesh.sock ──► agentd
//!           question ─────────────────────────────────────────────►
//!           ◄───────────────────────────────── {"ok":…} or {"refused":code}
//! ```
//! Each is one frame, `length u32 | JSON`. Invariant: no question or answer over
//! its bound is taken in, none is waited for beyond its time, and who asks is the
//! peer that the mesh proved, whatever the question says.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use osmoda_kit::error::ApiError;
use osmoda_kit::frames;
use osmoda_kit::http::Callers;
use osmoda_kit::stream::{Opening, serve_streams};
use osmoda_kit::tasks::Tasks;
use osmoda_types::{ErrorCode, NodeId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};

use crate::mesh::{MeshPipes, Service, StreamPeer};

/// The socket on which agentd takes the streams of its service.
pub const AGENTD_SOCKET: &str = "agentd-mesh";

/// The daemon that speaks a service through pipes: it alone opens them. The
/// others are spoken by the mesh daemon in its own name.
#[must_use]
pub const fn speaker(service: Service) -> Option<&'static str> {
    match service {
        Service::Raft | Service::Fleet | Service::Link => Some("fleetd"),
        Service::Witness => Some("agentd"),
        Service::Rooms | Service::Blobs | Service::Keys | Service::Messages => None,
    }
}

/// A service whose pipes carry one question and one answer.
#[derive(Debug, Clone, Copy)]
pub struct Exchange {
    /// Which.
    pub service: Service,
    /// Bound on a question's JSON.
    pub question_bytes_max: usize,
    /// Bound on an answer's JSON.
    pub answer_bytes_max: usize,
    /// From the pipe to the answer.
    pub time_limit: Duration,
}

/// Checkpoints to cosign and evidence of forks. A checkpoint with its proof of
/// consistency has under 4 KiB, two that contradict each other with theirs under
/// 16 KiB; the mesh lets one peer have 64 KiB per second. The time is one ledger
/// row on a slow disk.
pub const WITNESS: Exchange = Exchange {
    service: Service::Witness,
    question_bytes_max: 32 * 1024,
    answer_bytes_max: 32 * 1024,
    time_limit: Duration::from_secs(10),
};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer<A> {
    Ok(A),
    Refused(ErrorCode),
}

impl Exchange {
    /// Asks a peer.
    ///
    /// # Errors
    /// As [`MeshPipes::open`], `Busy` when the peer was asked too often,
    /// `PeerOffline` when the pipe broke, `Timeout`, `TooLarge` for a question
    /// over its bound, `Internal` for an answer in another form, and the code of
    /// the peer's refusal.
    ///
    /// # Cancel safety
    /// Dropping it leaves open whether the peer heard the question.
    pub async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        pipes: &MeshPipes,
        peer: NodeId,
        question: &Q,
    ) -> Result<A, ApiError> {
        let mut pipe = pipes.open(peer, self.service).await?;
        let exchanged = async {
            frames::write(&mut pipe, question, self.question_bytes_max).await.map_err(unfit_question)?;
            pipe.shutdown().await.map_err(broken)?;
            frames::read::<Answer<A>>(&mut pipe, self.answer_bytes_max).await.map_err(broken)
        };
        match tokio::time::timeout(self.time_limit, exchanged).await {
            Ok(Ok(Answer::Ok(answer))) => Ok(answer),
            Ok(Ok(Answer::Refused(code))) => {
                Err(ApiError::new(code, format!("{} refused to answer about {}: {code}", peer.short(), self.service)))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let text = format!("{} did not answer about {} in time", peer.short(), self.service);
                Err(ApiError::new(ErrorCode::Timeout, text))
            }
        }
    }

    /// Answers peers' questions that come in on a socket, until a stop begins.
    /// `name` is the socket's, as in the callers table. Of an error the peer
    /// learns the code only.
    pub fn serve<Q, A, F, Fut>(
        self,
        tasks: &Tasks,
        name: &'static str,
        listener: UnixListener,
        callers: Arc<Callers>,
        answer: F,
    ) where
        Q: DeserializeOwned + Send + 'static,
        A: Serialize + Send + Sync + 'static,
        F: Fn(StreamPeer, Q) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<A, ApiError>> + Send + 'static,
    {
        serve_streams(tasks, name, listener, callers, move |opening: Opening<StreamPeer>| {
            let answer = answer.clone();
            async move {
                let peer = opening.hello.node;
                match tokio::time::timeout(self.time_limit, self.one(opening, answer)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%peer, service = %self.service, %error, "a question broke off"),
                    Err(_) => tracing::debug!(%peer, service = %self.service, "a question was not answered in time"),
                }
            }
        });
    }

    async fn one<Q, A, F, Fut>(self, opening: Opening<StreamPeer>, answer: F) -> io::Result<()>
    where
        Q: DeserializeOwned,
        A: Serialize,
        F: FnOnce(StreamPeer, Q) -> Fut,
        Fut: Future<Output = Result<A, ApiError>>,
    {
        if opening.hello.service != self.service {
            let text = format!("service {} is not served on this socket", opening.hello.service);
            opening.refuse(ApiError::new(ErrorCode::ServiceDenied, text)).await;
            return Ok(());
        }
        let (peer, mut pipe) = opening.accept().await.map_err(io::Error::other)?;
        let answered = match frames::read::<Q>(&mut pipe, self.question_bytes_max).await {
            Ok(question) => answer(peer, question).await,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(ApiError::new(ErrorCode::BadRequest, error.to_string()))
            }
            Err(error) => return Err(error),
        };
        let answer = answered.map_or_else(|error| self.refused(peer.node, &error), Answer::Ok);
        self.reply(&mut pipe, &answer).await
    }

    fn refused<A>(self, peer: NodeId, error: &ApiError) -> Answer<A> {
        tracing::info!(%peer, service = %self.service, code = %error.code, "a peer's question was refused");
        Answer::Refused(error.code)
    }

    async fn reply<A: Serialize>(self, pipe: &mut UnixStream, answer: &Answer<A>) -> io::Result<()> {
        frames::write(pipe, answer, self.answer_bytes_max).await?;
        pipe.shutdown().await
    }
}

fn unfit_question(error: io::Error) -> ApiError {
    if error.kind() == io::ErrorKind::InvalidData {
        return ApiError::new(ErrorCode::TooLarge, error.to_string());
    }
    broken(error)
}

fn broken(error: io::Error) -> ApiError {
    if error.kind() == io::ErrorKind::InvalidData {
        return ApiError::new(ErrorCode::Internal, "the peer answered in another form").with_source(error);
    }
    ApiError::new(ErrorCode::PeerOffline, "the pipe to the peer broke").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use osmoda_types::Role;

    #[test]
    fn every_service_between_nodes_is_spoken_by_one_daemon() {
        let spoken = |by| Service::ALL.into_iter().filter(|service| speaker(*service) == by).collect::<Vec<_>>();
        assert_eq!(spoken(Some("fleetd")), [Service::Raft, Service::Fleet, Service::Link]);
        assert_eq!(spoken(Some("agentd")), [Service::Witness]);
        assert_eq!(spoken(None), [Service::Rooms, Service::Blobs, Service::Keys, Service::Messages]);
        assert!(
            WITNESS.service.allows(Role::Node, Role::Node) && !WITNESS.service.allows(Role::Controller, Role::Node)
        );
    }

    #[test]
    fn an_answer_fits_the_mesh_allowance() {
        let allowance = WITNESS.service.allowance().unwrap();
        let bytes = WITNESS.question_bytes_max + WITNESS.answer_bytes_max;
        assert!(bytes as u64 <= allowance.bytes_per_second);
    }

    #[test]
    fn answers_have_this_form() {
        let text = |answer: Answer<u8>| serde_json::to_string(&answer).unwrap();
        assert_eq!(text(Answer::Ok(7)), r#"{"ok":7}"#);
        assert_eq!(text(Answer::Refused(ErrorCode::Busy)), r#"{"refused":"busy"}"#);
    }
}
