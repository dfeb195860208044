//! What of a ledger's witnessing has gone up to a controller, and what goes next.
//! *Pure.*
//!
//! Invariant: what one heartbeat sends is bounded, whatever the daemon answers
//! (test `a_beat_is_bounded_and_the_rest_follows`). Nothing is judged here: the
//! notes are carried as they are, and who reads them checks the signatures.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use osmoda_node_api::witness::{Alarm, Finding, HeldNote, WitnessReport};
use osmoda_proto::link::v1::{self as pb, up::Item};
use osmoda_types::NodeId;
use sha2::{Digest as _, Sha256};

/// The longest note that is carried: that of `osmoda_ledger`. A checkpoint has
/// 250 bytes and each cosignature 200.
const NOTE_BYTES_MAX: usize = 64 << 10;

/// Where a page of held notes closes: some ninety notes, so that 200 heartbeats
/// a second (what one controller takes) are 6 MiB, and 1,023 notes go in a
/// minute. With its last note a page has 96 KiB, far below the 4 MiB of a message.
const PAGE_BYTES: usize = 32 << 10;

/// Alarms of one heartbeat: with them the queue of a link is never full.
const ALARMS_A_BEAT: usize = 4;

/// The own report goes at least this often, changed or not: its age at the
/// controller then says whether the ledger's daemon answers.
const REPORT_EVERY: Duration = Duration::from_secs(30);

/// What one link has told of witnessing.
#[derive(Default)]
pub(crate) struct Witnessed {
    own: Option<(Duration, pb::LedgerReport)>,
    alarms: BTreeSet<[u8; 32]>,
    held: BTreeMap<NodeId, [u8; 32]>,
}

impl Witnessed {
    /// What goes up now; it counts as told.
    pub(crate) fn next(&mut self, report: &WitnessReport, now: Duration) -> Vec<Item> {
        let alarms = report.alarms.iter().filter_map(|alarm| self.alarm(alarm)).take(ALARMS_A_BEAT).collect::<Vec<_>>();
        let own = self.own(report, now);
        own.into_iter().chain(alarms).chain(self.page(&report.held)).collect()
    }

    fn own(&mut self, report: &WitnessReport, now: Duration) -> Option<Item> {
        let own = pb::LedgerReport {
            key: report.key.as_bytes().to_vec(),
            rows: report.rows,
            covered: report.covered.clone().filter(|note| note.len() <= NOTE_BYTES_MAX).unwrap_or_default(),
            needed: u32::try_from(report.quorum.0).unwrap_or(u32::MAX),
            witnesses: u32::try_from(report.quorum.1).unwrap_or(u32::MAX),
            refused: report.refused.clone().unwrap_or_default(),
            fault: report.fault.clone().unwrap_or_default(),
        };
        let is_told = |(at, told): &(Duration, _)| *told == own && now.saturating_sub(*at) < REPORT_EVERY;
        if self.own.as_ref().is_some_and(is_told) {
            return None;
        }
        self.own = Some((now, own.clone()));
        Some(Item::LedgerReport(own))
    }

    fn alarm(&mut self, alarm: &Alarm) -> Option<Item> {
        if alarm.held.len().max(alarm.shown.len()) > NOTE_BYTES_MAX {
            return None;
        }
        let finding = match alarm.finding {
            Finding::Forked => "forked",
            Finding::Rewritten => "rewritten",
            Finding::Shortened => "shortened",
        };
        let digest = Sha256::new()
            .chain_update(alarm.node.as_bytes())
            .chain_update(Sha256::digest(&alarm.held))
            .chain_update(Sha256::digest(&alarm.shown))
            .chain_update(finding)
            .finalize();
        self.alarms.insert(digest.into()).then(|| {
            Item::LedgerAlarm(pb::LedgerAlarm {
                node: alarm.node.as_bytes().to_vec(),
                finding: finding.to_owned(),
                held: alarm.held.clone(),
                shown: alarm.shown.clone(),
                time_s: alarm.time_s,
            })
        })
    }

    /// The next page of notes that changed; those never told come first.
    fn page(&mut self, held: &[HeldNote]) -> Option<Item> {
        let mut changed: Vec<(&HeldNote, [u8; 32])> = held
            .iter()
            .filter(|held| held.note.len() <= NOTE_BYTES_MAX)
            .map(|held| (held, Sha256::digest(&held.note).into()))
            .filter(|(held, digest)| self.held.get(&held.node) != Some(digest))
            .collect();
        // A note that was told waits for those that were not, and the oldest
        // goes first, so nobody is passed over for ever.
        changed.sort_by_key(|(held, _)| (self.held.contains_key(&held.node), held.time_s));
        let (mut bytes, mut notes) = (0, Vec::new());
        for (held, digest) in changed {
            if bytes >= PAGE_BYTES {
                break;
            }
            bytes += held.note.len();
            self.held.insert(held.node, digest);
            let node = held.node.as_bytes().to_vec();
            notes.push(pb::HeldNote { node, size: held.size, note: held.note.clone(), time_s: held.time_s });
        }
        (!notes.is_empty()).then_some(Item::HeldNotes(pb::HeldNotes { notes }))
    }
}

#[cfg(test)]
mod tests {
    use osmoda_types::PublicKey;

    use super::*;

    fn node(number: u16) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    fn held(number: u16, note: &str) -> HeldNote {
        HeldNote { node: node(number), size: 3, note: note.to_owned(), time_s: 5 }
    }

    fn alarm(number: u16) -> Alarm {
        let (held, shown) = ("a".to_owned(), "b".to_owned());
        Alarm { node: node(number), finding: Finding::Shortened, held, shown, time_s: 1 }
    }

    fn report(held: Vec<HeldNote>, alarms: Vec<Alarm>) -> WitnessReport {
        WitnessReport {
            key: PublicKey::from_bytes([1; 32]),
            rows: 3,
            covered: Some("note".into()),
            quorum: (1, 2),
            refused: None,
            fault: None,
            held,
            alarms,
        }
    }

    fn kinds(items: &[Item]) -> Vec<&'static str> {
        items
            .iter()
            .map(|item| match item {
                Item::LedgerReport(_) => "own",
                Item::HeldNotes(_) => "held",
                Item::LedgerAlarm(_) => "alarm",
                _ => "other",
            })
            .collect()
    }

    #[test]
    fn what_was_told_is_told_again_only_when_it_changed_or_its_age_matters() {
        let mut told = Witnessed::default();
        let mut report = report(vec![held(1, "x")], vec![alarm(2)]);
        let at = Duration::from_secs;
        assert_eq!(kinds(&told.next(&report, at(0))), ["own", "alarm", "held"]);
        report.held[0].time_s = 9;
        report.alarms[0].time_s = 9;
        assert_eq!(kinds(&told.next(&report, at(2))), [""; 0]);
        report.rows = 4;
        report.held[0].note = "y".into();
        assert_eq!(kinds(&told.next(&report, at(4))), ["own", "held"]);
        assert_eq!(kinds(&told.next(&report, at(33))), [""; 0]);
        assert_eq!(kinds(&told.next(&report, at(34))), ["own"]);
    }

    #[test]
    fn a_beat_is_bounded_and_the_rest_follows() {
        let mut told = Witnessed::default();
        let note = "n".repeat(350);
        let report = report((0..1023).map(|n| held(n, &note)).collect(), (0..64).map(alarm).collect());
        let (mut notes, mut alarms, mut beats) = (BTreeSet::new(), 0, 0);
        loop {
            let items = told.next(&report, Duration::ZERO);
            if items.is_empty() {
                break;
            }
            beats += 1;
            assert!(items.len() <= 2 + ALARMS_A_BEAT);
            for item in items {
                let up = pb::Up { item: Some(item.clone()) };
                assert!(prost::Message::encoded_len(&up) <= PAGE_BYTES + 2 * NOTE_BYTES_MAX);
                match item {
                    Item::HeldNotes(page) => notes.extend(page.notes.into_iter().map(|note| note.node)),
                    Item::LedgerAlarm(_) => alarms += 1,
                    _ => {}
                }
            }
        }
        assert_eq!((notes.len(), alarms, beats), (1023, 64, 16));
    }

    #[test]
    fn a_note_that_is_too_long_is_not_carried() {
        let long = "n".repeat(NOTE_BYTES_MAX + 1);
        let accused = Alarm { held: long.clone(), ..alarm(1) };
        let report = WitnessReport { covered: Some(long.clone()), ..report(vec![held(1, &long)], vec![accused]) };
        let items = Witnessed::default().next(&report, Duration::ZERO);
        assert!(matches!(&items[..], [Item::LedgerReport(own)] if own.covered.is_empty()));
    }
}
