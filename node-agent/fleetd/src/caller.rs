//! Who is at the other end of an inbound pipe, as the mesh proved it.

use osmoda_types::{ErrorCode, NodeId, Role};
use tonic::{Extensions, Request, Status};

use crate::wire::refuse;

/// The proven peer of one pipe, put into every request on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Who.
    pub(crate) node: NodeId,
    /// What it was admitted as.
    pub(crate) role: Role,
}

impl tonic::service::Interceptor for Caller {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.extensions_mut().insert(*self);
        Ok(request)
    }
}

impl Caller {
    /// The peer a request came from.
    ///
    /// # Errors
    /// A request without one is refused: unknown means no.
    pub(crate) fn of(extensions: &Extensions) -> Result<Self, Status> {
        extensions
            .get::<Self>()
            .copied()
            .ok_or_else(|| refuse(ErrorCode::ServiceDenied, "the connection has no proven peer"))
    }
}
