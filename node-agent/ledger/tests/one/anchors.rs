//! Two histories of one ledger, each shown to another half of the witnesses at sizes
//! that never meet: the head in the fleet's log ends one of them.

use osmoda_ledger::anchor::{Anchor, LOGGED_WITHIN_S};
use osmoda_ledger::exchange::AddCheckpoint;
use osmoda_ledger::tree::TreeHash;
use osmoda_ledger::witness::{Decision, WitnessedHead};
use proptest::prelude::*;

use crate::world::{Ledger, Peer};

/// A witness that also keeps what binds its cosignatures to the log.
struct Bound {
    peer: Peer,
    anchor: Anchor,
}

impl Bound {
    fn of(ledger: &Ledger, number: u8) -> Self {
        Self { peer: Peer::of(ledger, number), anchor: Anchor::default() }
    }

    fn held(&self) -> u64 {
        self.peer.held.as_ref().map_or(0, |head| head.size)
    }

    /// Judges as a witness does, and keeps what it accepts.
    fn judge(
        &mut self,
        request: &AddCheckpoint,
        logged: Option<&WitnessedHead>,
        shown: Option<&AddCheckpoint>,
        now_s: u64,
    ) -> Decision {
        let decision = self.peer.judge(request, now_s);
        let Decision::Accept { new, .. } = &decision else { return decision };
        match self.anchor.judge(&self.peer.known, logged, new, shown, now_s) {
            Ok(anchor) => {
                (self.anchor, self.peer.held) = (anchor, Some((**new).clone()));
                decision
            }
            Err(refused) => refused,
        }
    }

    /// As a ledger asks that wants its newest checkpoint cosigned and proves what it can.
    fn cosigns(&mut self, ledger: &Ledger, logged: Option<&WitnessedHead>, now_s: u64) -> bool {
        let request = ledger.request(self.held());
        let shown = logged.map(|logged| ledger.request(logged.size));
        matches!(self.judge(&request, logged, shown.as_ref(), now_s), Decision::Accept { .. })
    }
}

/// The head of the log after the ledger wrote its newest checkpoint there.
fn logged(ledger: &Ledger) -> WitnessedHead {
    WitnessedHead { size: ledger.size(), root: ledger.root(), note: ledger.note(), time_s: 0 }
}

fn grown(ledger: &Ledger, rows: usize, payload: &str) -> Ledger {
    let mut grown = ledger.clone();
    (0..rows).for_each(|_| grown.append(payload));
    grown
}

const ONE: &str = r#"{"history":"one"}"#;
const TWO: &str = r#"{"history":"two"}"#;

#[test]
fn split_view_ends_at_the_next_head_of_the_log() {
    let common = Ledger::of(20);
    let [mut a, mut b] = [1, 2].map(|number| Bound::of(&common, number));
    let (one, two) = (grown(&common, 5, ONE), grown(&common, 7, TWO));
    for (witness, history) in [(&mut a, &one), (&mut b, &two)] {
        assert!(witness.cosigns(&common, None, 0));
        assert!(witness.cosigns(history, None, 0), "no head in the log tells them apart yet");
    }
    let head = logged(&one);
    let two = grown(&two, 3, TWO);
    let request = two.request(b.held());
    let unanchored = Decision::Unanchored { size: 25, evidence: None };
    assert_eq!(b.judge(&request, Some(&head), None, 1), unanchored);
    assert_eq!(b.judge(&request, Some(&head), Some(&two.request(25)), 1), Decision::BadProof);
    // A true proof of the other history, or from another size, is no proof of this one.
    let one = grown(&one, 5, ONE);
    assert_eq!(one.size(), two.size());
    assert_eq!(b.judge(&request, Some(&head), Some(&one.request(25)), 1), unanchored);
    assert_eq!(b.judge(&request, Some(&head), Some(&two.request(24)), 1), unanchored);
    assert_eq!(b.held(), 27, "what was refused is not held");
    assert!(!b.cosigns(&one, Some(&head), 1), "and the first one it cannot go back to");
    assert!(a.cosigns(&one, Some(&head), 1));
    assert_eq!(a.anchor, Anchor { proven: 25, ahead_since_s: Some(1) });
}

#[test]
fn split_view_of_one_size_is_evidence() {
    let common = Ledger::of(20);
    let mut b = Bound::of(&common, 2);
    assert!(b.cosigns(&common, None, 0));
    let (one, two) = (grown(&common, 5, ONE), grown(&common, 5, TWO));
    let head = logged(&one);
    let Decision::Unanchored { size: 25, evidence: Some(seen) } = b.judge(&two.request(20), Some(&head), None, 1)
    else {
        panic!("two notes of one size prove it")
    };
    assert_eq!((&seen.held, &seen.shown), (&one.note(), &two.note()));
    // Less than the log has is never cosigned, whatever is shown with it.
    let shorter = grown(&common, 4, ONE);
    for shown in [None, Some(&one.request(25)), Some(&shorter.request(20))] {
        let refused = b.judge(&shorter.request(20), Some(&head), shown, 1);
        assert_eq!(refused, Decision::Unanchored { size: 25, evidence: None });
    }
    assert!(b.cosigns(&one, Some(&head), 1), "the head itself needs no proof");
    assert_eq!(b.anchor, Anchor { proven: 25, ahead_since_s: None });
    let longer = grown(&one, 1, ONE);
    let request = longer.request(25);
    assert!(matches!(b.judge(&request, Some(&head), None, 2), Decision::Accept { .. }), "a head is proven once");
}

#[test]
fn split_view_cannot_be_kept_by_writing_no_heads() {
    let mut ledger = Ledger::of(20);
    let mut witness = Bound::of(&ledger, 1);
    let start = 1_000;
    assert!(witness.cosigns(&ledger, None, start));
    for (head, until) in [(None, start), (Some(()), start + LOGGED_WITHIN_S)] {
        let head = head.map(|()| logged(&ledger));
        ledger.append("{}");
        assert!(witness.cosigns(&ledger, head.as_ref(), until), "within its time");
        ledger.append("{}");
        assert!(witness.cosigns(&ledger, head.as_ref(), until + LOGGED_WITHIN_S));
        let held = witness.held();
        ledger.append("{}");
        let late = until + LOGGED_WITHIN_S + 1;
        let request = ledger.request(held);
        assert_eq!(witness.judge(&request, head.as_ref(), None, late), Decision::Unlogged);
        assert_eq!(witness.held(), held);
        // A clock that is set back is no reason to refuse, and the time runs from there.
        let mut back = Bound { peer: Peer::of(&ledger, 1), anchor: witness.anchor };
        back.peer.held = witness.peer.held.clone();
        assert!(back.cosigns(&ledger, head.as_ref(), 7));
        assert_eq!(back.anchor, Anchor { ahead_since_s: Some(7), ..witness.anchor });
        let late = 7 + LOGGED_WITHIN_S + 1;
        assert!(!back.cosigns(&ledger, head.as_ref(), late), "and not from when it was ahead");
    }
    // The newest head can still be written into the log, and then it goes on.
    let head = logged(&ledger);
    assert!(witness.cosigns(&ledger, Some(&head), start + 10 * LOGGED_WITHIN_S));
    assert_eq!(witness.anchor.ahead_since_s, None);
}

/// Two of three witnesses are enough, and they come back one at a time: no head is
/// cosigned by two before each of them waits for one. The newest head is one then, whoever
/// cosigned it.
#[test]
fn witnesses_that_come_back_one_at_a_time_go_on_from_the_newest_head() {
    let mut ledger = Ledger::of(20);
    let mut witnesses = [1, 2].map(|number| Bound::of(&ledger, number));
    witnesses.iter_mut().for_each(|witness| assert!(witness.cosigns(&ledger, None, 0)));
    let cosigned_by_both = logged(&ledger);
    let mut now_s = 0;
    for witness in &mut witnesses {
        now_s += 2 * LOGGED_WITHIN_S;
        witness.anchor.ahead_since_s = None;
        for at in [0, LOGGED_WITHIN_S] {
            ledger.append("{}");
            assert!(witness.cosigns(&ledger, Some(&cosigned_by_both), now_s + at), "alone, for its time");
        }
        ledger.append("{}");
        let request = ledger.request(witness.held());
        let late = now_s + LOGGED_WITHIN_S + 1;
        assert_eq!(witness.judge(&request, Some(&cosigned_by_both), None, late), Decision::Unlogged);
    }
    let newest = logged(&ledger);
    ledger.append("{}");
    for witness in &mut witnesses {
        assert!(witness.cosigns(&ledger, Some(&newest), 10 * LOGGED_WITHIN_S));
    }
}

#[test]
fn a_proof_that_is_changed_is_none() {
    let common = Ledger::of(20);
    let mut witness = Bound::of(&common, 1);
    assert!(witness.cosigns(&common, None, 0));
    let head = logged(&grown(&common, 5, ONE));
    let ledger = grown(&common, 13, ONE);
    let good = ledger.request(25);
    assert!(!good.proof.is_empty());
    for at in 0..good.proof.len() {
        let mut bad = good.clone();
        bad.proof[at] = TreeHash::new([7; 32]);
        assert_eq!(witness.judge(&ledger.request(20), Some(&head), Some(&bad), 1), Decision::BadProof);
    }
    assert!(witness.cosigns(&ledger, Some(&head), 1));
}

proptest! {
    /// A ledger with two histories shows either to any witness, and writes heads of
    /// either into the log, in any order. After a head behind the fork nobody who knows
    /// it cosigns the other history; an honest ledger is always cosigned.
    #[test]
    fn split_view_in_any_order(
        fork in 1_usize..20,
        steps in prop::collection::vec((0_usize..3, any::<bool>(), 1_usize..4, any::<bool>()), 1..40),
    ) {
        let common = Ledger::of(fork);
        let mut histories = [common.clone(), common.clone()];
        let mut witnesses = [1, 2, 3].map(|number| Bound::of(&common, number));
        let mut honest = Bound::of(&common, 4);
        let mut head: Option<(WitnessedHead, usize)> = None;
        for (step, (who, of_two, rows, writes)) in steps.into_iter().enumerate() {
            let (which, now_s) = (usize::from(of_two), step as u64);
            histories[which] = grown(&histories[which], rows, [ONE, TWO][which]);
            let shown = &histories[which];
            let known = head.as_ref().map(|(head, _)| head);
            let is_cosigned = witnesses[who].cosigns(shown, known, now_s);
            if let Some((_, of)) = &head {
                prop_assert!(!is_cosigned || *of == which, "the other history, after the head");
            }
            // The log takes only what grows.
            if writes && known.is_none_or(|known| known.size < shown.size()) {
                head = Some((logged(shown), which));
            }
            let mut own = Bound { peer: Peer::of(&common, 4), anchor: honest.anchor };
            own.peer.held = honest.peer.held.clone();
            let known = head.as_ref().filter(|(_, of)| *of == 0).map(|(head, _)| head);
            if known.is_none_or(|known| known.size <= histories[0].size()) {
                prop_assert!(own.cosigns(&histories[0], known, now_s), "an honest one");
                honest = own;
            }
        }
    }
}
