//! Who may begin a handshake now: the limits before anything is known about a
//! peer but its address (`mesh.md` section 7, items 3, 4, 8 and 13). *Pure.*
//!
//! Only packets that knocked come here, and a few from members' addresses (the
//! sieve sees to it), so a blind flood meets silence and leaves no state. Whoever knocks without having proven its address is asked to
//! prove it with a Retry when there is much to do; whoever has proven it is
//! limited by its prefix and otherwise ignored. Invariant: no limit is kept per
//! invite, because whoever saw an invite's knock could then lock it.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use osmoda_mesh_protocol::{Bucket, Buckets, Members, Prefix, Rate};

use crate::tuning::KnockFallback;

/// Handshakes under way at once. Each is a connection of quinn's and about
/// 300 us of processor time; a fleet of 32 restarting together needs 31.
pub(crate) const HANDSHAKES_MAX: usize = 128;

/// Above this many the source address must prove itself with a Retry first, so
/// forged addresses hold at most half of the places.
pub(crate) const RETRY_ABOVE: usize = 64;

/// First packets of one prefix before its addresses must be proven: a rack of
/// 32 nodes behind one prefix restarts without a Retry.
const UNPROVEN: Rate = Rate { per_second: 10, burst: 32 };

/// Handshakes of one prefix with proven addresses; beyond, its packets are
/// ignored and its nodes try again.
const PROVEN: Rate = Rate { per_second: 20, burst: 128 };

/// Handshakes of all: 200 a second are about 6 % of one core.
const TOTAL: Rate = Rate { per_second: 200, burst: 400 };

/// Joiners under way at once. Whoever holds an old invite may take all of them,
/// so they are few beside the members' places; each has its answer within
/// `Tuning::spend`, and who is refused is gone a `Tuning::handshake` later. More
/// than these join in turn.
pub(crate) const JOINERS_MAX: usize = 16;

/// Joiners of one prefix that were not admitted, or not yet: the token is taken
/// when one begins and given back when it is in. People mistype; programs that
/// guess need 2^256 tries.
const PAIR_REFUSALS: Rate = Rate { per_second: 1, burst: 10 };

/// Members let in without a knock: a fleet whose clock jumped comes back in
/// seconds, and an attacker who writes members' addresses on packets gets ten
/// small answers a second sent to them.
const FALLBACKS: Rate = Rate { per_second: 10, burst: 32 };

/// How long a knock is remembered after it let somebody in: longer than the three
/// slots of 30 s in which it is valid. Two such spans are kept, so at the most
/// `TOTAL` times 240 s: 48,400 connection ids, about 3 MiB, under a flood by
/// somebody who holds the secret; in peace none.
const REMEMBERED: Duration = Duration::from_secs(120);

/// What a first packet has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Knocked {
    /// Nothing.
    Nowhere,
    /// The secret of an epoch, or a member's own.
    Member,
    /// The secret of an invite.
    Joiner,
}

/// What to do with a first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No byte back.
    Ignore,
    /// Over a limit: no byte back, and counted.
    Limit,
    /// Its knock has let somebody in before: no byte back, and counted.
    Replay,
    /// It must prove its address.
    Retry,
    /// It may go on.
    Accept,
    /// It may go on although it did not knock.
    AcceptUnknocked,
}

/// The state of all limits. Owned by the listener.
pub(crate) struct Gate {
    unproven: Buckets,
    proven: Buckets,
    refusals: Buckets,
    /// At most [`JOINERS_MAX`].
    joiners: usize,
    total: Bucket,
    fallbacks: Bucket,
    policy: KnockFallback,
    known: Known,
    used: Used,
}

/// Knocks that let somebody in. Whoever saw one on the way may send it again
/// within its slots; without this, each copy would begin a handshake.
#[derive(Default)]
struct Used {
    now: HashSet<Vec<u8>>,
    before: HashSet<Vec<u8>>,
    since: Duration,
}

impl Used {
    fn has(&self, dcid: &[u8]) -> bool {
        self.now.contains(dcid) || self.before.contains(dcid)
    }

    fn add(&mut self, dcid: &[u8], now: Duration) {
        if now.saturating_sub(self.since) >= REMEMBERED {
            self.before = std::mem::take(&mut self.now);
            self.since = now;
        }
        self.now.insert(dcid.to_vec());
    }
}

/// The addresses of the members of one snapshot.
#[derive(Debug, Default)]
pub(crate) struct Known {
    of: Arc<Members>,
    addresses: HashSet<SocketAddr>,
}

impl Known {
    /// Follows the snapshot; costs nothing while it is the same.
    pub(crate) fn follow(&mut self, members: &Arc<Members>) {
        if !Arc::ptr_eq(&self.of, members) {
            let addresses = members.members.iter().flat_map(|member| member.addresses.iter().copied());
            *self = Self { of: members.clone(), addresses: addresses.collect() };
        }
    }

    /// Whether a member may be there.
    pub(crate) fn has(&self, address: &SocketAddr) -> bool {
        self.addresses.contains(address)
    }
}

impl Gate {
    /// Full buckets, spread by `seed`.
    pub(crate) fn new(policy: KnockFallback, seed: [u8; 32]) -> Self {
        let buckets = |rate| Buckets::new(rate, seed);
        let (total, fallbacks, known, used) = (Bucket::full(), Bucket::full(), Known::default(), Used::default());
        let (unproven, proven, refusals) = (buckets(UNPROVEN), buckets(PROVEN), buckets(PAIR_REFUSALS));
        Self { unproven, proven, refusals, joiners: 0, total, fallbacks, policy, known, used }
    }

    /// Judges a first packet at boot time `now`, with so many handshakes under
    /// way. `dcid` is the connection id that knocked; `proven` says whether the
    /// address has answered a Retry.
    pub(crate) fn admit(
        &mut self,
        (knocked, dcid): (Knocked, &[u8]),
        source: SocketAddr,
        proven: bool,
        under_way: usize,
        now: Duration,
    ) -> Verdict {
        if knocked != Knocked::Nowhere && self.used.has(dcid) {
            return Verdict::Replay;
        }
        let verdict = self.judge(knocked, source, proven, under_way, now);
        if verdict == Verdict::Accept {
            self.used.add(dcid, now);
        }
        verdict
    }

    fn judge(
        &mut self,
        knocked: Knocked,
        source: SocketAddr,
        proven: bool,
        under_way: usize,
        now: Duration,
    ) -> Verdict {
        if under_way >= HANDSHAKES_MAX {
            return if knocked == Knocked::Nowhere { Verdict::Ignore } else { Verdict::Limit };
        }
        let prefix = Prefix::from(source.ip());
        match knocked {
            Knocked::Nowhere => self.unknocked(source, proven, now),
            Knocked::Joiner if !proven => Verdict::Retry,
            Knocked::Joiner if self.joiners >= JOINERS_MAX || !self.refusals.has(prefix, now) => Verdict::Limit,
            Knocked::Member if !proven && (under_way >= RETRY_ABOVE || !self.unproven.take(prefix, now)) => {
                Verdict::Retry
            }
            Knocked::Joiner | Knocked::Member if proven && !self.proven.take(prefix, now) => Verdict::Limit,
            Knocked::Joiner | Knocked::Member if !self.total.take(TOTAL, now) => {
                if proven {
                    Verdict::Limit
                } else {
                    Verdict::Retry
                }
            }
            Knocked::Joiner => {
                self.joiners += 1;
                self.refusals.take(prefix, now);
                Verdict::Accept
            }
            Knocked::Member => Verdict::Accept,
        }
    }

    /// Whoever is let in without a knock proves its address first.
    fn unknocked(&mut self, source: SocketAddr, proven: bool, now: Duration) -> Verdict {
        let may = match self.policy {
            KnockFallback::Off => false,
            KnockFallback::Members => self.known.has(&source),
            KnockFallback::Anyone => true,
        };
        match may {
            true if proven => Verdict::AcceptUnknocked,
            true if self.fallbacks.take(FALLBACKS, now) => Verdict::Retry,
            _ => Verdict::Ignore,
        }
    }

    /// Notes the end of a joiner that was accepted from there.
    pub(crate) fn joiner_left(&mut self, source: IpAddr, admitted: bool) {
        self.joiners = self.joiners.saturating_sub(1);
        if admitted {
            self.refusals.give_back(source.into());
        }
    }

    /// Whose addresses are known.
    pub(crate) fn know(&mut self, members: &Arc<Members>) {
        self.known.follow(members);
    }
}

#[cfg(test)]
mod tests {
    use osmoda_mesh_protocol::{Member, node_id};
    use osmoda_types::{MeshEpoch, MeshKey, PublicKey, Role};

    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn gate(policy: KnockFallback) -> Gate {
        Gate::new(policy, [3; 32])
    }

    fn from(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn hygiene_03_retry_is_asked_for_under_load_over_the_rate_and_always_when_pairing() {
        let mut gate = gate(KnockFallback::Off);
        let source = from("192.0.2.1:1");
        assert_eq!(gate.judge(Knocked::Member, source, false, RETRY_ABOVE - 1, NOW), Verdict::Accept);
        assert_eq!(gate.judge(Knocked::Member, source, false, RETRY_ABOVE, NOW), Verdict::Retry);
        assert_eq!(gate.judge(Knocked::Member, source, true, RETRY_ABOVE, NOW), Verdict::Accept);
        assert_eq!(gate.judge(Knocked::Joiner, source, false, 0, NOW), Verdict::Retry);
        assert_eq!(gate.judge(Knocked::Joiner, source, true, 0, NOW), Verdict::Accept);
        // Other addresses of the same /24 share its rate, others do not.
        let burst = (2..=200).take_while(|host| {
            let source = SocketAddr::from(([192, 0, 2, *host], 1));
            gate.judge(Knocked::Member, source, false, 0, NOW) == Verdict::Accept
        });
        assert_eq!(burst.count(), UNPROVEN.burst as usize - 1);
        assert_eq!(gate.judge(Knocked::Member, from("198.51.100.1:1"), false, 0, NOW), Verdict::Accept);
        assert_eq!(gate.judge(Knocked::Member, from("[2001:db8:1::1]:1"), false, 0, NOW), Verdict::Accept);
    }

    #[test]
    fn hygiene_04_handshakes_are_limited_per_prefix_and_in_all() {
        let mut gate = gate(KnockFallback::Off);
        let accepted = |gate: &mut Gate, source: SocketAddr, now| {
            (0..1_000).take_while(|_| gate.judge(Knocked::Member, source, true, 0, now) == Verdict::Accept).count()
        };
        assert_eq!(accepted(&mut gate, from("192.0.2.1:1"), NOW), PROVEN.burst as usize);
        let later = NOW + Duration::from_secs(1);
        assert_eq!(accepted(&mut gate, from("192.0.2.9:1"), later), PROVEN.per_second as usize);
        let all: usize = (0..=255).map(|net| accepted(&mut gate, from(&format!("10.0.{net}.1:1")), later)).sum();
        assert!(all <= (TOTAL.burst + TOTAL.per_second) as usize, "{all}");
        assert_eq!(gate.judge(Knocked::Member, from("203.0.113.1:1"), false, 0, later), Verdict::Retry);
        assert_eq!(gate.judge(Knocked::Member, from("203.0.113.1:1"), true, HANDSHAKES_MAX, NOW * 9), Verdict::Limit);
    }

    #[test]
    fn hygiene_08_refused_joiners_slow_their_prefix_and_never_lock_the_invite() {
        let mut gate = gate(KnockFallback::Off);
        let (guesser, joiner) = (from("192.0.2.1:1"), from("198.51.100.1:1"));
        for _ in 0..PAIR_REFUSALS.burst {
            assert_eq!(gate.judge(Knocked::Joiner, guesser, true, 0, NOW), Verdict::Accept);
            gate.joiner_left(guesser.ip(), false);
        }
        assert_eq!(gate.judge(Knocked::Joiner, guesser, true, 0, NOW), Verdict::Limit);
        assert_eq!(gate.judge(Knocked::Joiner, joiner, true, 0, NOW), Verdict::Accept);
        // The members of that prefix are not touched, and its joiners may try again.
        assert_eq!(gate.judge(Knocked::Member, guesser, true, 0, NOW), Verdict::Accept);
        let later = NOW + Duration::from_secs(2);
        assert_eq!(gate.judge(Knocked::Joiner, guesser, true, 0, later), Verdict::Accept);
    }

    #[test]
    fn hygiene_08_joiners_that_have_no_answer_yet_count_and_leave_the_members_their_places() {
        let mut gate = gate(KnockFallback::Off);
        let joins = |gate: &mut Gate, source| gate.judge(Knocked::Joiner, source, true, 0, NOW) == Verdict::Accept;
        let source = from("192.0.2.1:1");
        assert_eq!((0..100).filter(|_| joins(&mut gate, source)).count(), PAIR_REFUSALS.burst as usize);
        // Who is in gives its turn back, who is not does not.
        gate.joiner_left(source.ip(), true);
        gate.joiner_left(source.ip(), false);
        assert_eq!([(); 2].map(|()| joins(&mut gate, source)), [true, false]);
        // From everywhere at once there are no more than their places.
        let more = (0..100u8).filter(|net| joins(&mut gate, from(&format!("10.0.{net}.1:1")))).count();
        assert_eq!(PAIR_REFUSALS.burst as usize - 1 + more, JOINERS_MAX);
        assert_eq!(gate.judge(Knocked::Member, source, true, JOINERS_MAX, NOW), Verdict::Accept);
        gate.joiner_left(source.ip(), true);
        assert!(joins(&mut gate, source));
    }

    #[test]
    fn hygiene_09_a_knock_lets_in_once_and_a_retry_does_not_use_it_up() {
        let mut gate = gate(KnockFallback::Off);
        let (source, thief) = (from("192.0.2.1:1"), from("198.51.100.1:1"));
        let ask = |gate: &mut Gate, dcid: &[u8], source, proven, load, now| {
            gate.admit((Knocked::Member, dcid), source, proven, load, now)
        };
        assert_eq!(ask(&mut gate, b"one", source, false, RETRY_ABOVE, NOW), Verdict::Retry);
        assert_eq!(ask(&mut gate, b"one", source, true, RETRY_ABOVE, NOW), Verdict::Accept);
        // Again from anywhere, proven or not, for as long as its slots last.
        for later in [0, 60, 119] {
            let now = NOW + Duration::from_secs(later);
            assert_eq!(ask(&mut gate, b"one", thief, true, 0, now), Verdict::Replay);
            assert_eq!(ask(&mut gate, &[u8::try_from(later).unwrap()], source, true, 0, now), Verdict::Accept);
        }
        // Forgotten when it has long been void; strangers are not remembered at all.
        for later in [121, 242] {
            let now = NOW + Duration::from_secs(later);
            ask(&mut gate, &[2, u8::try_from(later).unwrap()], source, true, 0, now);
        }
        assert!(!gate.used.has(b"one"));
        assert_eq!(gate.admit((Knocked::Nowhere, b"x"), thief, false, 0, NOW), Verdict::Ignore);
        assert!(!gate.used.has(b"x"));
    }

    #[test]
    fn hygiene_13_a_member_whose_clock_is_wrong_may_prove_its_address_instead_of_knocking() {
        let (mesh_key, identity_key) = (MeshKey::from_bytes([1; 32]), PublicKey::from_bytes([2; 32]));
        let known = from("192.0.2.1:18800");
        let member = Member {
            node: node_id(&mesh_key, &identity_key),
            mesh_key,
            identity_key,
            role: Role::Node,
            name: "n".into(),
            addresses: vec![known],
        };
        let members = Arc::new(Members { index: 1, epoch: MeshEpoch(1), members: vec![member] });
        let verdicts = |policy| {
            let mut gate = gate(policy);
            gate.know(&members);
            [known, from("192.0.2.1:18801"), from("203.0.113.1:1")]
                .map(|source| gate.judge(Knocked::Nowhere, source, false, 0, NOW))
        };
        use Verdict::{Ignore, Retry};
        assert_eq!(verdicts(KnockFallback::Off), [Ignore, Ignore, Ignore]);
        assert_eq!(verdicts(KnockFallback::Members), [Retry, Ignore, Ignore]);
        assert_eq!(verdicts(KnockFallback::Anyone), [Retry, Retry, Retry]);
        assert_eq!(gate(KnockFallback::Off).judge(Knocked::Nowhere, known, true, 0, NOW), Ignore);
        // With the token of that Retry it goes on; the answers have a rate.
        let mut gate = gate(KnockFallback::Members);
        gate.know(&members);
        assert_eq!(gate.judge(Knocked::Nowhere, known, true, 0, NOW), Verdict::AcceptUnknocked);
        let answered = (0..1_000).filter(|_| gate.judge(Knocked::Nowhere, known, false, 0, NOW) == Retry).count();
        assert_eq!(answered, FALLBACKS.burst as usize);
        assert_eq!(gate.judge(Knocked::Nowhere, known, true, HANDSHAKES_MAX, NOW), Ignore);
    }
}
