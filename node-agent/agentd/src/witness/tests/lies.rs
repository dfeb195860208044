//! Witnesses that lie, are slow, or tell the truth: only what this ledger's own
//! key signed seals it.

use osmoda_ledger::checkpoint::Checkpoint;
use osmoda_ledger::tree::TreeHash;

use super::*;

/// What a witness answers instead of doing its duty.
pub(super) struct Lie {
    /// To a checkpoint; none when it never answers.
    judged: Option<(u16, String)>,
    /// What it says it holds.
    held: Option<String>,
    /// Checkpoints that it was asked about.
    asked: usize,
}

impl Lie {
    pub(super) fn answer(&mut self, question: &Question) -> BoxFuture<'static, Result<Reply, ApiError>> {
        let reply = match question {
            Question::Held => Some(Reply::Held(self.held.clone())),
            Question::AddCheckpoint(_) | Question::Anchored { .. } => {
                self.asked += 1;
                self.judged.clone().map(|(status, body)| Reply::Judged { status, body })
            }
        };
        match reply {
            Some(reply) => async { Ok(reply) }.boxed(),
            None => std::future::pending().boxed(),
        }
    }
}

impl Fleet {
    fn lie(&self, witness: u8, judged: Option<(u16, &str)>, held: Option<String>) {
        let judged = judged.map(|(status, body)| (status, body.to_owned()));
        self.lies.lock().unwrap().insert(id(witness), Lie { judged, held, asked: 0 });
    }

    /// A note of node 1 that its own key signed, whatever its rows are.
    pub(super) fn note(&self, size: u64, root: u8) -> String {
        let key = LedgerKey::load_or_generate(&self.dir(1).join(KEY_FILE), History::Signed).unwrap();
        let chain = osmoda_ledger::record::ChainHash::from_stored("ab".repeat(32).as_bytes()).unwrap();
        let checkpoint = Checkpoint { origin: key.origin(), size, root: TreeHash::new([root; 32]), chain };
        checkpoint.sign(&key).unwrap().to_string()
    }
}

#[tokio::test]
async fn r17_a_witness_that_lies_seals_nobody() {
    let fleet = Fleet::of(3);
    let [one, two] = [1, 2].map(|number| fleet.start(number));
    one.covered(3).await;
    let genuine = one.gate.checkpoints.newest().unwrap().note.to_string();
    let foreign = two.gate.checkpoints.now().await;
    assert!(foreign.is_err(), "the other ledger has no rows: {foreign:?}");
    let other = LedgerKey::load_or_generate(&fleet.dir(2).join(KEY_FILE), History::Signed).unwrap();
    let signed = Note::parse(fleet.note(900, 7).as_bytes()).unwrap();
    let forged = Note::sign(signed.text(), &other.origin(), &other).unwrap().to_string();
    let huge = "900000\n";
    for judged in [(422, ""), (409, huge)] {
        for held in [None, Some(String::from("no note")), Some(forged.clone()), Some(genuine.clone())] {
            fleet.lie(3, Some(judged), held.clone());
            one.append(1).await;
            // A turn that is sent on asks up to three times.
            let least = if judged.0 == 422 { 2 } else { 4 };
            let asked = || async { (fleet.lies.lock().unwrap()[&id(3)].asked > least).then_some(()) };
            wait_for("more than one turn", LIMIT, asked).await;
            assert_eq!(one.ledger.sealed(), None, "{judged:?} {held:?}");
        }
    }
    one.covered(1).await;
    for node in [one, two] {
        fleet.stop(node).await;
    }
}

#[tokio::test]
async fn r17_a_slow_witness_seals_nobody_and_holds_up_nobody() {
    let fleet = Fleet::of(3);
    let [one, two] = [1, 2].map(|number| fleet.start(number));
    fleet.lie(3, None, None);
    let intent = one.covered(3).await;
    one.gate.witnessed(intent).await.unwrap();
    assert_eq!(one.ledger.sealed(), None);
    for node in [one, two] {
        fleet.stop(node).await;
    }
}

#[tokio::test]
async fn r17_a_witness_that_shows_what_this_key_signed_seals_it() {
    for (size, root, says) in [(2, 9, "rewritten"), (900, 9, "old disk")] {
        for judged in [(422, ""), (409, "900000\n")] {
            let fleet = Fleet::of(3);
            let [one, two] = [1, 2].map(|number| fleet.start(number));
            one.covered(3).await;
            fleet.lie(3, Some(judged), Some(fleet.note(size, root)));
            one.append(1).await;
            assert!(one.sealed().await.contains(says), "{size} {judged:?}");
            for node in [one, two] {
                fleet.stop(node).await;
            }
        }
    }
}

/// Enough witnesses cosigned, and one of them caught the ledger meanwhile.
#[tokio::test]
async fn an_act_is_refused_when_the_ledger_was_sealed_while_it_waited() {
    let fleet = Fleet::of(2);
    let one = fleet.start(1);
    let intent = one.append(1).await;
    let mut known = Coverage::default();
    known.set_witnesses([id(2)], 1);
    known.cosigned(id(2), intent - 1);
    let (say, coverage) = watch::channel(known);
    let gate = WitnessGate { coverage, ..one.gate.clone() };
    let mut waits = gate.witnessed(intent);
    assert!(futures_util::poll!(&mut waits).is_pending());
    assert!(one.ledger.seal("caught"));
    say.send_modify(|coverage| coverage.cosigned(id(2), intent));
    assert_eq!(waits.await.unwrap_err().code, ErrorCode::WitnessUnavailable);
    fleet.stop(one).await;
}
