//! `osmoda-node init` and `osmoda-node join`: how a host becomes a node.
//!
//! Both run while no daemon does, under the root lock, and write the parts that
//! the daemons start from: the mesh's keys and allow-list, fleetd's beginning,
//! watch's trusted operators, and the settings that depend on the host.
//!
//! Invariant: fleetd's beginning is written last, so a host that was
//! interrupted is not enrolled yet and the same command can be given again; the
//! keys of the first try are kept, and an invite may be spent twice by one key.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use osmoda_fleetd::beginning::{self, FleetDir, Genesis, Joined};
use osmoda_kit::clock::SystemClock;
use osmoda_kit::fsio::{self, FsError};
use osmoda_kit::lock::{LockError, RootLock};
use osmoda_kit::paths::Paths;
use osmoda_kit::secret::Secret;
use osmoda_mesh::state::{Initial, StateError};
use osmoda_mesh::{EpochSecret, Identity, PairError, PairRequest};
use osmoda_mesh_protocol::{Invite, InviteError, Member as MeshMember, Members, MembersError, SecretBytes};
use osmoda_node_api::watch::{TRUST_FILE, TrustFile};
use osmoda_permit::HostTrust;
use osmoda_types::{ErrorCode, Member, MeshEpoch, NetworkId, NodeId, Principal, PublicKey, Right, Role, SecretHash};

use crate::host;

/// How long a join keeps trying. An election takes at most 2.1 s on a LAN and
/// 5 s on a WAN; after half a minute a person should hear about it.
const JOIN_TIME: Duration = Duration::from_secs(30);

/// The largest operator key file: one line.
const KEY_FILE_BYTES_MAX: u64 = 4096;

/// What `init` and `join` are told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct HostArgs {
    /// Directory that holds everything of this node.
    #[arg(long, default_value = "/")]
    pub(crate) root: PathBuf,
    /// Name of the node, unique in the fleet: 1 to 63 of a-z, 0-9, dot, hyphen.
    #[arg(long)]
    pub(crate) name: String,
    /// Where the mesh listens, UDP.
    #[arg(long, default_value = "0.0.0.0:18800")]
    pub(crate) listen: SocketAddr,
    /// Address at which others reach the mesh; may be given several times.
    /// Left out, it is the listening address.
    #[arg(long)]
    pub(crate) advertise: Vec<SocketAddr>,
    /// Public key file of an operator who may deploy to this host.
    #[arg(long)]
    pub(crate) operator: Option<PathBuf>,
    /// What runs activations; left out, systemd on a real root and a process
    /// below a root directory.
    #[arg(long, value_enum)]
    pub(crate) runner: Option<host::Runner>,
    /// Where generations are kept; left out, Nix where it is installed.
    #[arg(long, value_enum)]
    pub(crate) store: Option<host::Store>,
}

/// Why a host did not become a node.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Something runs on this root directory.
    #[error("the daemons of this node must be stopped first")]
    Lock(#[from] LockError),
    /// The mesh's folder.
    #[error("the mesh state could not be written")]
    Mesh(#[from] StateError),
    /// fleetd's folder.
    #[error("the fleet state could not be written")]
    Fleet(#[from] beginning::Error),
    /// Another file.
    #[error("a file could not be written")]
    File(#[from] FsError),
    /// The trust file.
    #[error("the trusted operators could not be written")]
    Encode(#[source] serde_json::Error),
    /// The name or an address.
    #[error("this is no valid member")]
    Member(#[from] MembersError),
    /// The operator's key file.
    #[error("{} is no operator key: one line, `ed25519 <64 hex digits> <name>`", path.display())]
    Operator {
        /// The file.
        path: PathBuf,
    },
    /// `init` without an operator.
    #[error("a fleet begins with an operator: give --operator KEY.pub")]
    NoOperator,
    /// The operator given on this host is not one of the fleet's.
    #[error("the fleet does not know the operator key {key}")]
    ForeignOperator {
        /// The key given on this host.
        key: PublicKey,
    },
    /// The invite text.
    #[error("the invite cannot be used")]
    Invite(#[from] InviteError),
    /// The exchange with the issuer.
    #[error("joining failed")]
    Pair(#[from] PairError),
    /// The host cannot be what was asked for.
    #[error("the host is not fit")]
    Host(#[from] host::Error),
    /// A fleet's first member must say where it is; joiners are seen by the issuer.
    #[error("others cannot reach {listen}: give --advertise ADDRESS:PORT")]
    NoAddress {
        /// The listening address.
        listen: SocketAddr,
    },
    /// The issuer's answer is not consistent.
    #[error("the welcome is not valid: {0}")]
    Welcome(&'static str),
}

impl Error {
    /// The code shown beside the message.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Lock(error) => error.code(),
            Self::Mesh(error) => error.code(),
            Self::Fleet(error) => error.code(),
            Self::File(error) => error.code(),
            Self::Encode(_) => ErrorCode::Internal,
            Self::Host(error) => error.code(),
            Self::Member(_) | Self::Operator { .. } | Self::NoOperator | Self::NoAddress { .. } | Self::Welcome(_) => {
                ErrorCode::BadRequest
            }
            Self::ForeignOperator { .. } => ErrorCode::PrincipalUnknown,
            Self::Invite(error) => error.code(),
            Self::Pair(error) => error.code(),
        }
    }
}

/// Begins a fleet of one.
pub(crate) fn init(args: &HostArgs) -> Result<Member, Error> {
    let operator = read_operator(args.operator.as_deref().ok_or(Error::NoOperator)?)?;
    if addresses(args).iter().any(|address| address.ip().is_unspecified()) {
        return Err(Error::NoAddress { listen: args.listen });
    }
    let begun = Enrolling::begin(args)?;
    let identity = osmoda_mesh::state::create_identity(&begun.paths.state("mesh"))?;
    let network = NetworkId::from_bytes(*Secret::random().expose());
    let secret = SecretBytes::new(*Secret::random().expose());
    let member = mesh_member(args, &identity, Role::Voter);
    let members = Members { index: 0, epoch: MeshEpoch(1), members: vec![member.clone()] };
    members.check()?;
    let genesis = Genesis {
        version: 1,
        network,
        mesh_epoch: MeshEpoch(1),
        secret_hash: SecretHash::from_bytes(sha256(secret.bytes())),
        principals: vec![operator],
        member: log_member(&member),
    };
    let initial = Initial {
        network,
        secret: EpochSecret { epoch: MeshEpoch(1), secret },
        rejoin_secret: SecretBytes::new(*Secret::random().expose()),
        members,
    };
    begun.write(args, &initial, identity.node(), genesis.principals.clone())?;
    begun.fleet.write_genesis(&genesis)?;
    give_to_users(&begun.paths)?;
    Ok(genesis.member)
}

/// Joins a fleet with an invite.
pub(crate) async fn join(args: &HostArgs, invite: &str) -> Result<Member, Error> {
    let operator = args.operator.as_deref().map(read_operator).transpose()?;
    let invite = Invite::decode(invite.trim())?;
    let begun = Enrolling::begin(args)?;
    let identity = osmoda_mesh::state::create_identity(&begun.paths.state("mesh"))?;
    let welcome = osmoda_mesh::pair(PairRequest {
        invite,
        identity: identity.clone(),
        name: args.name.clone(),
        addresses: addresses(args),
        time_limit: JOIN_TIME,
        clock: SystemClock::shared(),
    })
    .await?;
    let own = welcome.members.by_node(&identity.node()).ok_or(Error::Welcome("it does not name this node"))?;
    let member = log_member(own);
    let principals = principals(&welcome.operators)?;
    if let Some(operator) = operator
        && !principals.iter().any(|principal| principal.key == operator.key)
    {
        return Err(Error::ForeignOperator { key: operator.key });
    }
    let voters = welcome.members.members.iter().filter(|peer| peer.role == Role::Voter && peer.node != member.node);
    let voters = voters.map(|peer| peer.node).collect();
    let initial = Initial {
        network: welcome.network,
        secret: EpochSecret { epoch: welcome.epoch, secret: welcome.epoch_secret },
        rejoin_secret: welcome.rejoin_secret,
        members: welcome.members,
    };
    begun.write(args, &initial, identity.node(), principals)?;
    begun.fleet.write_joined(&Joined { version: 1, network: welcome.network, member: member.clone(), voters })?;
    give_to_users(&begun.paths)?;
    Ok(member)
}

/// A host that is becoming a node; nothing else runs on its root meanwhile.
struct Enrolling {
    paths: Paths,
    fleet: FleetDir,
    watch_settings: String,
    _lock: RootLock,
}

impl Enrolling {
    fn begin(args: &HostArgs) -> Result<Self, Error> {
        // Settings are for all to read; secrets have their own modes.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let root = std::path::absolute(&args.root).map_err(|source| FsError::new("find", &args.root, source))?;
        let paths = Paths::new(root);
        let watch_settings = host::watch_settings(&paths, args.runner, args.store)?;
        let lock = RootLock::exclusive(&paths.root_lock())?;
        let fleet = FleetDir::new(paths.state("fleetd"));
        match fleet.beginning() {
            Err(beginning::Error::NotEnrolled { .. }) => Ok(Self { paths, fleet, watch_settings, _lock: lock }),
            Err(error) => Err(error.into()),
            Ok(_) => Err(fleet.already_begun().into()),
        }
    }

    /// Writes what mesh, watch, agentd and the executor start from.
    fn write(&self, args: &HostArgs, initial: &Initial, node: NodeId, operators: Vec<Principal>) -> Result<(), Error> {
        osmoda_mesh::state::write_initial(&self.paths.state("mesh"), initial)?;
        let mesh_settings = format!("# Written at enrolment.\nlisten = \"{}\"\n", args.listen);
        write_settings(&self.paths, "mesh", &mesh_settings)?;
        write_settings(&self.paths, "watch", &self.watch_settings)?;
        if let Some(parent) = self.paths.profile().parent() {
            fsio::create_shared_dir(parent)?;
        }
        write_approvers(&self.paths, initial.network, node, &operators)?;
        write_trust(&self.paths, initial.network, operators)
    }
}

/// Reads `ed25519 <hex> <name>`, as `osmoda operator keygen` prints it, or a line
/// of OpenSSH for an Ed25519 key, on disk or in a FIDO token.
fn read_operator(path: &Path) -> Result<Principal, Error> {
    let wrong = || Error::Operator { path: path.to_path_buf() };
    let bytes = fsio::read_limited(path, KEY_FILE_BYTES_MAX)?.ok_or_else(wrong)?;
    let text = String::from_utf8(bytes).map_err(|_| wrong())?;
    let mut words = text.split_whitespace();
    let (Some(kind), Some(key)) = (words.next(), words.next()) else { return Err(wrong()) };
    let key: PublicKey = match kind {
        "ed25519" => key.parse().map_err(|_| wrong())?,
        _ => osmoda_permit::signature::ssh_public_key(&text).ok_or_else(wrong)?,
    };
    let name = words.next().unwrap_or("operator").to_owned();
    Ok(Principal { name, key, rights: Right::ALL.to_vec() })
}

fn principals(operators: &[osmoda_mesh_protocol::Operator]) -> Result<Vec<Principal>, Error> {
    let right = |text: &String| {
        serde_json::from_value(serde_json::Value::String(text.clone())).map_err(|_| Error::Welcome("an unknown right"))
    };
    let principal = |operator: &osmoda_mesh_protocol::Operator| {
        let rights = operator.rights.iter().map(right).collect::<Result<Vec<Right>, Error>>()?;
        Ok(Principal { name: operator.name.clone(), key: operator.key, rights })
    };
    operators.iter().map(principal).collect()
}

fn addresses(args: &HostArgs) -> Vec<SocketAddr> {
    if args.advertise.is_empty() { vec![args.listen] } else { args.advertise.clone() }
}

fn mesh_member(args: &HostArgs, identity: &Identity, role: Role) -> MeshMember {
    MeshMember {
        node: identity.node(),
        mesh_key: identity.mesh_key(),
        identity_key: identity.identity_key(),
        role,
        name: args.name.clone(),
        addresses: addresses(args),
    }
}

fn log_member(member: &MeshMember) -> Member {
    Member {
        node: member.node,
        name: member.name.clone(),
        role: member.role,
        mesh_key: member.mesh_key,
        identity_key: member.identity_key,
        addresses: member.addresses.iter().map(ToString::to_string).collect(),
    }
}

/// What root `watch` needs to judge a deploy by itself: the operators' keys.
fn write_trust(paths: &Paths, network: NetworkId, operators: Vec<Principal>) -> Result<(), Error> {
    let trust = TrustFile { network_id: network, operators, serials: BTreeMap::new() };
    let text = serde_json::to_string_pretty(&trust).map_err(Error::Encode)?;
    let dir = paths.state("watch");
    fsio::create_private_dir(&dir)?;
    fsio::write_atomic(&dir.join(TRUST_FILE), format!("{text}\n").as_bytes(), 0o600)?;
    Ok(())
}

/// What agentd and the executor, each by itself, need to judge a permit.
fn write_approvers(paths: &Paths, network: NetworkId, node: NodeId, operators: &[Principal]) -> Result<(), Error> {
    let operators = operators.to_vec();
    let trust = HostTrust { network_id: network, host_id: node, operators, serials: BTreeMap::new() };
    let text = serde_json::to_string_pretty(&trust).map_err(Error::Encode)?;
    for daemon in ["agentd", "execd"] {
        let dir = paths.state(daemon);
        fsio::create_private_dir(&dir)?;
        fsio::write_atomic(&dir.join(osmoda_permit::trust::TRUST_FILE), format!("{text}\n").as_bytes(), 0o600)?;
    }
    Ok(())
}

/// Settings are the administrator's: existing ones stay as they are.
fn write_settings(paths: &Paths, daemon: &str, content: &str) -> Result<(), Error> {
    let path = paths.config(daemon);
    if path.exists() {
        return Ok(());
    }
    fsio::create_shared_dir(&paths.etc())?;
    fsio::write_atomic(&path, content.as_bytes(), 0o644)?;
    Ok(())
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).into()
}

/// Hands each daemon's folder to its own user, where there is one.
fn give_to_users(paths: &Paths) -> Result<(), Error> {
    if !paths.is_system() || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    crate::users::give_state(paths).map_err(Error::File)
}
