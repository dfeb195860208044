//! Which role may call which service at which role: one table, default deny
//! (`architecture.md` 3.2).
//!
//! A compromised node holds valid keys, so the handshake lets it in; this table
//! is what keeps it from services that only voters or a controller may call.

use osmoda_types::Role;

use crate::rate::Rate;

/// A kind of stream between two members. Closed list: a stream that names
/// another service is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// Consensus messages between voters.
    Raft,
    /// Submitting to, reading and following the committed log.
    Fleet,
    /// A node's reports to a controller; the node dials.
    Link,
    /// Messages of rooms and their healing, between members of a room.
    Rooms,
    /// Content-addressed bytes, after everything else.
    Blobs,
    /// The secrets of epochs for members, and those for coming back for voters.
    Keys,
    /// Checkpoints to cosign and evidence of forks, between the ledgers of
    /// nodes.
    Witness,
    /// Short messages between two nodes, kept in the receiver's ledger.
    Messages,
}

struct Row {
    service: Service,
    name: &'static str,
    callers: &'static [Role],
    owners: &'static [Role],
    priority: i32,
}

/// What one peer may ask of a service, beside the bounds of its link.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// Streams; each is one request.
    pub requests: Rate,
    /// Bytes per second both ways, after a burst of one second's worth.
    pub bytes_per_second: u64,
    /// Streams at once.
    pub at_once: usize,
}

/// A ledger shows a new checkpoint to each of its witnesses every few seconds at
/// most and asks for theirs as often, which is one request per second; the burst
/// is for a node that was away. A checkpoint with its proof has under 4 KiB and
/// evidence of a fork under 64 KiB, so 64 KiB per second never delays an honest
/// peer. More would let one compromised node keep the ledger's thread, which all
/// daemons wait for, at checking signatures.
const WITNESS: Allowance =
    Allowance { requests: Rate { per_second: 2, burst: 20 }, bytes_per_second: 64 * 1024, at_once: 4 };

/// The table. Priorities are quinn's: a stream with a higher number is sent
/// first. Raft heartbeats must not wait behind anything (an election follows),
/// fleet streams carry grants, rooms carry people's words, link streams only
/// tell, blobs are bulk. A room guest reaches rooms and nothing else; which
/// room is the room's own record.
const TABLE: [Row; 8] = [
    Row { service: Service::Raft, name: "raft", callers: &[Role::Voter], owners: &[Role::Voter], priority: 100 },
    Row {
        service: Service::Fleet,
        name: "fleet",
        callers: &[Role::Voter, Role::Node, Role::Controller],
        owners: &[Role::Voter],
        priority: 50,
    },
    Row {
        service: Service::Link,
        name: "link",
        callers: &[Role::Node, Role::Voter],
        owners: &[Role::Controller],
        priority: 20,
    },
    Row {
        service: Service::Rooms,
        name: "rooms",
        callers: &[Role::Voter, Role::Node, Role::RoomGuest],
        owners: &[Role::Voter, Role::Node, Role::RoomGuest],
        priority: 50,
    },
    Row {
        service: Service::Blobs,
        name: "blobs",
        callers: &[Role::Voter, Role::Node],
        owners: &[Role::Voter, Role::Node],
        priority: -10,
    },
    Row {
        service: Service::Keys,
        name: "keys",
        callers: &[Role::Voter, Role::Node, Role::Controller],
        owners: &[Role::Voter],
        priority: 90,
    },
    Row {
        service: Service::Witness,
        name: "witness",
        callers: &[Role::Voter, Role::Node],
        owners: &[Role::Voter, Role::Node],
        priority: 30,
    },
    Row {
        service: Service::Messages,
        name: "messages",
        callers: &[Role::Voter, Role::Node],
        owners: &[Role::Voter, Role::Node],
        priority: 40,
    },
];

impl Service {
    /// Every service, in the order of the table.
    pub const ALL: [Service; 8] = [
        Service::Raft,
        Service::Fleet,
        Service::Link,
        Service::Rooms,
        Service::Blobs,
        Service::Keys,
        Service::Witness,
        Service::Messages,
    ];

    fn row(self) -> &'static Row {
        match self {
            Service::Raft => &TABLE[0],
            Service::Fleet => &TABLE[1],
            Service::Link => &TABLE[2],
            Service::Rooms => &TABLE[3],
            Service::Blobs => &TABLE[4],
            Service::Keys => &TABLE[5],
            Service::Witness => &TABLE[6],
            Service::Messages => &TABLE[7],
        }
    }

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.row().name
    }

    /// The send priority of its streams; higher goes first.
    #[must_use]
    pub fn priority(self) -> i32 {
        self.row().priority
    }

    /// What one peer may ask of it, if it has such a limit.
    #[must_use]
    pub fn allowance(self) -> Option<Allowance> {
        (self == Service::Witness).then_some(WITNESS)
    }

    /// Whether a `caller` may open this service at an `owner`. Both sides ask:
    /// the dialler so as not to try, the listener because the dialler may lie.
    #[must_use]
    pub fn allows(self, caller: Role, owner: Role) -> bool {
        let row = self.row();
        row.callers.contains(&caller) && row.owners.contains(&owner)
    }
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Service {
    type Err = UnknownService;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        TABLE
            .iter()
            .find(|row| row.name == text)
            .map(|row| row.service)
            .ok_or_else(|| UnknownService(text.chars().take(40).collect()))
    }
}

impl serde::Serialize for Service {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for Service {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A name that is no service of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown mesh service {0:?}; services are raft, fleet, link, rooms, blobs, keys, witness, messages")]
pub struct UnknownService(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_exactly_this() {
        let mut allowed = Vec::new();
        for service in Service::ALL {
            assert_eq!(service.row().service, service);
            assert_eq!(service.as_str().parse(), Ok(service));
            for caller in Role::ALL {
                for owner in Role::ALL {
                    if service.allows(caller, owner) {
                        allowed.push(format!("{caller} -{service}-> {owner}"));
                    }
                }
            }
        }
        assert_eq!(
            allowed,
            [
                "voter -raft-> voter",
                "voter -fleet-> voter",
                "node -fleet-> voter",
                "controller -fleet-> voter",
                "voter -link-> controller",
                "node -link-> controller",
                "voter -rooms-> voter",
                "voter -rooms-> node",
                "voter -rooms-> room_guest",
                "node -rooms-> voter",
                "node -rooms-> node",
                "node -rooms-> room_guest",
                "room_guest -rooms-> voter",
                "room_guest -rooms-> node",
                "room_guest -rooms-> room_guest",
                "voter -blobs-> voter",
                "voter -blobs-> node",
                "node -blobs-> voter",
                "node -blobs-> node",
                "voter -keys-> voter",
                "node -keys-> voter",
                "controller -keys-> voter",
                "voter -witness-> voter",
                "voter -witness-> node",
                "node -witness-> voter",
                "node -witness-> node",
                "voter -messages-> voter",
                "voter -messages-> node",
                "node -messages-> voter",
                "node -messages-> node",
            ]
        );
        assert!("bulk".parse::<Service>().is_err());
    }

    #[test]
    fn raft_goes_before_everything_else() {
        for service in [Service::Fleet, Service::Link, Service::Rooms, Service::Blobs] {
            assert!(Service::Raft.priority() > service.priority());
            assert!(service == Service::Blobs || service.priority() > Service::Blobs.priority());
        }
    }
}
