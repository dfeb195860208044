//! A hand-made peer below the mesh: it says and leaves out what it likes.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use osmoda_mesh::Identity;
use osmoda_mesh_crypto::{ClientCrypto, Mode, Party, Psk, QUIC_VERSION, StaticKey, endpoint_config};
use osmoda_mesh_protocol::knock;
use osmoda_types::{MeshEpoch, MeshKey};
use quinn::{ClientConfig, Connection, ConnectionError, ConnectionId, Endpoint, EndpointConfig, TokioRuntime};

use crate::node::{NETWORK, clock};

/// Nonces of knocks: two equal ones would be one connection to the listener.
static NONCES: AtomicU64 = AtomicU64::new(0);

/// What the hand-made peer claims.
pub(crate) struct Claim {
    pub(crate) key: [u8; 32],
    pub(crate) psk: Psk,
    pub(crate) mode: Mode,
    pub(crate) hello: Vec<u8>,
    /// How far its clock is off, in ms.
    pub(crate) skew_ms: i64,
    /// Its first connection id, instead of a knock.
    pub(crate) dcid: Option<Vec<u8>>,
}

impl Claim {
    /// What an honest member of epoch 1 with this transport key would say.
    pub(crate) fn member(key: u8) -> Self {
        Self {
            key: [key; 32],
            psk: Psk::mesh(&NETWORK, MeshEpoch(1), &[1; 32]),
            mode: Mode::Mesh(MeshEpoch(1)),
            hello: br#"{"version":1,"incarnation":7}"#.to_vec(),
            skew_ms: 0,
            dcid: None,
        }
    }

    /// The configuration for quinn.
    pub(crate) fn client(self) -> ClientConfig {
        let key = self.psk.knock_key();
        let party = Party {
            key: Arc::new(StaticKey::from_bytes(&self.key)),
            psk: self.psk,
            network: NETWORK,
            mode: self.mode,
            authorize: Arc::new(|_: &MeshKey| true),
        };
        let mut config = ClientConfig::new(Arc::new(ClientCrypto::new(party, self.hello)));
        config.version(QUIC_VERSION);
        let (skew_ms, dcid) = (self.skew_ms, self.dcid);
        config.initial_dst_cid_provider(Arc::new(move || {
            let nonce = NONCES.fetch_add(1, Ordering::Relaxed).to_be_bytes();
            let now_ms = clock().now_wall().as_millis() + skew_ms;
            match &dcid {
                Some(dcid) => ConnectionId::new(dcid),
                None => ConnectionId::new(&knock(key.bytes(), nonce, now_ms)),
            }
        }));
        config
    }
}

/// An endpoint of that peer, with the identity it was given.
pub(crate) fn endpoint(identity: Option<&Identity>) -> Endpoint {
    at(UdpSocket::bind("127.0.0.1:0").unwrap(), identity)
}

/// The same on a socket of the caller's.
pub(crate) fn at(socket: UdpSocket, identity: Option<&Identity>) -> Endpoint {
    let settings = match identity {
        Some(_) => endpoint_config(&StaticKey::from_bytes(&[1; 32])),
        None => {
            let mut settings = EndpointConfig::default();
            settings.supported_versions(vec![QUIC_VERSION]);
            settings
        }
    };
    Endpoint::new(settings, None, socket, Arc::new(TokioRuntime)).unwrap()
}

/// Dials; silence ends after two seconds.
pub(crate) async fn dial(endpoint: &Endpoint, claim: Claim, to: SocketAddr) -> Result<Connection, String> {
    dial_within(Duration::from_secs(2), endpoint, claim, to).await
}

/// Dials; silence ends after so long.
pub(crate) async fn dial_within(
    limit: Duration,
    endpoint: &Endpoint,
    claim: Claim,
    to: SocketAddr,
) -> Result<Connection, String> {
    let connecting = endpoint.connect_with(claim.client(), to, "mesh").map_err(|error| error.to_string())?;
    match tokio::time::timeout(limit, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("silence".to_owned()),
    }
}

/// How the other end closed, waited for.
pub(crate) async fn closed(connection: &Connection) -> ConnectionError {
    tokio::time::timeout(Duration::from_secs(10), connection.closed()).await.expect("a close")
}
