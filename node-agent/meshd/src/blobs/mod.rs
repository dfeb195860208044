//! Blobs: bytes by their BLAKE3 hash, fetched from other nodes in proven slices.
//!
//! ```text
//! asker  -> owner   hash 32 | from u64            (big-endian)
//! owner  -> asker   0 | size u64 | length u32 | slice with its proof
//!                   1 there is no such blob       2 too many askers
//! ```
//! The stream has the lowest priority, so nothing on the link waits for a blob,
//! and the owner caps what one peer gets per second. Any voter or node of the
//! fleet that knows a hash may fetch it: a hash is not a secret, so blobs are for
//! what the whole fleet may see. A fetch that ends early goes on later where it
//! ended.
//!
//! Invariant: no byte is kept that was not proven to belong to the hash, and
//! none is handed out before the whole was.

pub(crate) mod http;
mod serve;
mod store;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use bao_tree::blake3::Hash;
use osmoda_kit::error::ApiError;
use osmoda_kit::tasks::Tasks;
use osmoda_mesh::{MeshHandle, MeshStream};
use osmoda_node_api::blobs::BlobStored;
use osmoda_node_api::mesh::Service;
use osmoda_types::{ErrorCode, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::serve::{ABSENT, BUSY, FOUND, QUESTION_BYTES, SLICE_WIRE_MAX, Serving};
use self::store::Store;

pub(crate) use self::store::fuzz_slice;
use crate::counts::{self, Transfer};

/// How long an owner may take for one slice: it is paced, and last in line.
const SLICE_TIME: Duration = Duration::from_secs(60);

/// How much blobs may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of the store.
    pub(crate) bytes_max: u64,
    /// Bytes per second to one peer.
    pub(crate) rate: u64,
}

/// The blobs of this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Blobs {
    mesh: MeshHandle,
    tasks: Tasks,
    store: Store,
}

impl Blobs {
    /// Opens the store and serves the service.
    pub(crate) async fn start(
        mesh: MeshHandle,
        folder: PathBuf,
        limits: Limits,
        tasks: &Tasks,
    ) -> Result<Self, ApiError> {
        let open = move || Store::open(folder, limits.bytes_max);
        let store = tasks.blocking("open blobs", open).await.map_err(ApiError::internal)??;
        let accepted = mesh.accept(Service::Blobs)?;
        Serving::new(store.clone(), limits.rate, tasks.clone()).spawn(accepted);
        Ok(Self { mesh, tasks: tasks.clone(), store })
    }

    /// Runs work on the store off the async threads.
    async fn on_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let store = self.store.clone();
        self.tasks.blocking("blob store", move || work(&store)).await.map_err(ApiError::internal)?
    }

    /// Brings a blob of at most so many bytes here.
    ///
    /// # Errors
    /// `NotFound` when the peer has no such blob, `Busy` when it is being fetched
    /// already or the peer serves too many, `Conflict` when the peer sends other
    /// bytes, `TooLarge` for one that is larger, `QuotaExceeded`, the mesh's and the store's codes.
    pub(crate) async fn fetch(&self, hash: Hash, peer: NodeId, bytes_max: u64) -> Result<BlobStored, ApiError> {
        let too_large = || ApiError::new(ErrorCode::TooLarge, format!("the blob has more than {bytes_max} bytes"));
        if let Some(size) = self.on_store(move |store| store.size(&hash)).await? {
            return if size > bytes_max { Err(too_large()) } else { Ok(stored(&hash, size)) };
        }
        let turn = self.on_store(move |store| store.turn(hash)).await?;
        let _transfer = Transfer::begin("fetch");
        let mut stream = self.mesh.connect_stream(peer, Service::Blobs).await?;
        let mut partial = self.on_store(move |store| store.partial(turn)).await?;
        loop {
            let (size, slice) = self.slice(&mut stream, &hash, partial.has).await?;
            // Only what the peer says: what is here of others stays.
            if size > bytes_max {
                return Err(too_large());
            }
            counts::blob_received(slice.len());
            let take = move |store: &Store| {
                let whole = store.take(&mut partial, size, &slice)?;
                Ok((partial, whole))
            };
            let whole;
            (partial, whole) = self.on_store(take).await?;
            if whole {
                let size = self.on_store(move |store| store.finish(partial)).await?;
                tracing::info!(blob = %hash, %peer, size, "blob fetched");
                return Ok(stored(&hash, size));
            }
        }
    }

    /// Asks for one slice.
    async fn slice(&self, stream: &mut MeshStream, hash: &Hash, from: u64) -> Result<(u64, Vec<u8>), ApiError> {
        let exchange = async {
            let mut question = [0; QUESTION_BYTES];
            question[..32].copy_from_slice(hash.as_bytes());
            question[32..].copy_from_slice(&from.to_be_bytes());
            stream.write_all(&question).await?;
            stream.flush().await?;
            match stream.read_u8().await? {
                FOUND => {}
                other => return Ok(Err(other)),
            }
            let (size, length) = (stream.read_u64().await?, stream.read_u32().await? as usize);
            if length > SLICE_WIRE_MAX {
                return Err(std::io::Error::from(std::io::ErrorKind::InvalidData));
            }
            let mut slice = vec![0; length];
            stream.read_exact(&mut slice).await?;
            Ok(Ok((size, slice)))
        };
        match tokio::time::timeout(SLICE_TIME, exchange).await {
            Ok(Ok(Ok(found))) => Ok(found),
            Ok(Ok(Err(ABSENT))) => Err(ApiError::new(ErrorCode::NotFound, "the peer has no such blob")),
            Ok(Ok(Err(BUSY))) => Err(ApiError::new(ErrorCode::Busy, "the peer serves too many blobs now")),
            Ok(Ok(Err(_))) => Err(ApiError::new(ErrorCode::Internal, "the peer answered in another form")),
            Ok(Err(error)) => {
                let text = "the stream ended; fetch again, it goes on where it ended";
                Err(ApiError::new(ErrorCode::PeerOffline, text).with_source(error))
            }
            Err(_) => Err(ApiError::new(ErrorCode::Timeout, format!("no slice within {SLICE_TIME:?}"))),
        }
    }
}

fn stored(hash: &Hash, size: u64) -> BlobStored {
    BlobStored { hash: hash.to_hex().to_string(), size }
}
