//! The suite every implementation of [`Store`] passes. Each function takes an
//! empty store and panics with what is wrong.

use osmoda_types::{ManifestHash, NodeId, RolloutId};

use crate::{
    ALARMS_OF_A_WITNESS_MAX, AlarmRow, EventBounds, HeadChange, HeadRow, HeldRow, LedgerRow, NewEvent, NodeSeen,
    Projection, RolloutRow, Snapshot, Store, StoreError,
};

const OK: &str = "the store does what is asked";

/// Runs the whole suite; `fresh` makes an empty store for each part.
pub async fn run<S, F, Fut>(fresh: F)
where
    S: Store,
    F: Fn() -> Fut,
    Fut: Future<Output = S>,
{
    projection_is_atomic_and_in_order(&fresh().await).await;
    rollouts_are_listed_newest_first(&fresh().await).await;
    event_ids_only_grow(&fresh().await).await;
    manifests_are_kept_as_they_are(&fresh().await).await;
    nodes_are_remembered(&fresh().await).await;
    a_contradicting_head_marks_the_ledger_broken(&fresh().await).await;
    what_witnesses_say_is_kept(&fresh().await).await;
    tokens_are_replaced(&fresh().await).await;
}

fn rollout(number: u128, proposed_index: u64) -> RolloutRow {
    RolloutRow {
        id: rollout_id(number),
        state: "voting".into(),
        terminal: false,
        proposed_index,
        updated_index: proposed_index,
        created_ms: 10,
        updated_ms: 10,
        document: format!("{{\"n\":{number}}}"),
    }
}

fn rollout_id(number: u128) -> RolloutId {
    let text = format!("{number:032x}");
    text.parse().expect("32 hex digits are a UUID")
}

fn event(index: u64, number: Option<u128>) -> NewEvent {
    NewEvent { index, rollout: number.map(rollout_id), at_ms: 5, body: format!("{{\"index\":{index}}}") }
}

/// Progress, rollouts and events move together, and never backwards.
pub async fn projection_is_atomic_and_in_order(store: &dyn Store) {
    let empty = store.progress().await.expect(OK);
    assert_eq!((empty.applied_index, empty.snapshot), (0, None));
    let snapshot = Snapshot { index: 3, bytes: vec![1, 2, 3] };
    let first = Projection {
        applied_index: 4,
        snapshot: Some(snapshot.clone()),
        rollouts: vec![rollout(1, 4)],
        events: vec![event(3, None), event(4, Some(1))],
    };
    assert_eq!(store.commit(first.clone()).await.expect(OK), 2);
    let progress = store.progress().await.expect(OK);
    assert_eq!((progress.applied_index, progress.snapshot), (4, Some(snapshot.clone())));

    let again = Projection { rollouts: vec![rollout(9, 4)], ..first };
    assert!(matches!(store.commit(again).await, Err(StoreError::Stale { stored: 4, offered: 3 })));
    let behind = Projection { applied_index: 2, ..Projection::default() };
    assert!(matches!(store.commit(behind).await, Err(StoreError::Stale { stored: 4, offered: 2 })));
    assert_eq!(store.rollout(rollout_id(9)).await.expect(OK), None, "a refused projection leaves nothing");
    assert_eq!(store.event_bounds().await.expect(OK), EventBounds { oldest: 1, newest: 2 });

    let quiet = Projection { applied_index: 7, ..Projection::default() };
    assert_eq!(store.commit(quiet).await.expect(OK), 2);
    let progress = store.progress().await.expect(OK);
    assert_eq!((progress.applied_index, progress.snapshot), (7, Some(snapshot)));
}

/// Lists page without gaps; an update keeps place and creation time.
pub async fn rollouts_are_listed_newest_first(store: &dyn Store) {
    let rows = vec![rollout(1, 4), rollout(2, 8), rollout(3, 8), rollout(4, 9)];
    let all = Projection { applied_index: 9, rollouts: rows, ..Projection::default() };
    store.commit(all).await.expect(OK);
    let changed = RolloutRow {
        state: "committed".into(),
        terminal: true,
        updated_index: 11,
        created_ms: 99,
        updated_ms: 99,
        document: "{}".into(),
        ..rollout(2, 8)
    };
    let update = Projection { applied_index: 11, rollouts: vec![changed], ..Projection::default() };
    store.commit(update).await.expect(OK);

    let first = store.rollouts(None, 2).await.expect(OK);
    assert_eq!(ids(&first), vec![rollout_id(4), rollout_id(3)]);
    let last = first.last().expect("two rows");
    let rest = store.rollouts(Some((last.proposed_index, last.id)), 10).await.expect(OK);
    assert_eq!(ids(&rest), vec![rollout_id(2), rollout_id(1)]);
    let two = &rest[0];
    assert_eq!((two.state.as_str(), two.terminal, two.created_ms, two.updated_ms), ("committed", true, 10, 99));
    assert_eq!(store.rollout(rollout_id(2)).await.expect(OK).as_ref(), Some(two));
}

fn ids(rows: &[RolloutRow]) -> Vec<RolloutId> {
    rows.iter().map(|row| row.id).collect()
}

/// Ids grow across pruning, and a stream resumes exactly after its last id.
pub async fn event_ids_only_grow(store: &dyn Store) {
    assert_eq!(store.event_bounds().await.expect(OK), EventBounds::default());
    let events = vec![event(1, Some(1)), event(1, Some(2)), event(2, Some(1)), event(3, None)];
    let run = Projection { applied_index: 3, events, ..Projection::default() };
    assert_eq!(store.commit(run).await.expect(OK), 4);

    let all = store.events(None, 0, 10).await.expect(OK);
    assert_eq!(all.iter().map(|row| row.id).collect::<Vec<_>>(), vec![1, 2, 3, 4]);
    assert_eq!(all[3].event, event(3, None));
    let of_one = store.events(Some(rollout_id(1)), 1, 10).await.expect(OK);
    assert_eq!(of_one.iter().map(|row| row.id).collect::<Vec<_>>(), vec![3]);
    assert_eq!(store.events(None, 0, 2).await.expect(OK).len(), 2);

    assert_eq!(store.prune_events(1).await.expect(OK), 3);
    assert_eq!(store.event_bounds().await.expect(OK), EventBounds { oldest: 4, newest: 4 });
    assert_eq!(store.prune_events(0).await.expect(OK), 1);
    assert_eq!(store.event_bounds().await.expect(OK), EventBounds { oldest: 0, newest: 4 });
    let next = Projection { applied_index: 4, events: vec![event(4, None)], ..Projection::default() };
    assert_eq!(store.commit(next).await.expect(OK), 5, "an id is never given twice");
}

/// A manifest's bytes come back exactly.
pub async fn manifests_are_kept_as_they_are(store: &dyn Store) {
    let hash = ManifestHash::from_bytes([7; 32]);
    assert_eq!(store.manifest(hash).await.expect(OK), None);
    let bytes: Vec<u8> = (0..=255).collect();
    store.put_manifest(hash, bytes.clone(), 1).await.expect(OK);
    store.put_manifest(hash, bytes.clone(), 2).await.expect(OK);
    assert_eq!(store.manifest(hash).await.expect(OK), Some(bytes));
}

/// The newest report is kept, and last-seen never goes back.
pub async fn nodes_are_remembered(store: &dyn Store) {
    let seen = |byte, last_seen_ms, report: &str| NodeSeen {
        node: NodeId::from_bytes([byte; 32]),
        last_seen_ms,
        report: report.to_owned(),
    };
    store.nodes_seen(vec![seen(2, 50, "{}"), seen(1, 60, "{}")]).await.expect(OK);
    store.nodes_seen(vec![seen(2, 40, "{\"a\":1}")]).await.expect(OK);
    assert_eq!(store.nodes().await.expect(OK), vec![seen(1, 60, "{}"), seen(2, 50, "{\"a\":1}")]);
}

/// A ledger may only grow; anything else is remembered for ever.
pub async fn a_contradicting_head_marks_the_ledger_broken(store: &dyn Store) {
    let node = NodeId::from_bytes([3; 32]);
    let head = |size, hash: &str| HeadRow { node, size, hash: hash.to_owned(), seen_ms: 1, broken: false };
    assert_eq!(store.record_head(head(5, "aa")).await.expect(OK), HeadChange::Advanced);
    assert_eq!(store.record_head(head(5, "aa")).await.expect(OK), HeadChange::Unchanged);
    assert_eq!(store.record_head(head(6, "bb")).await.expect(OK), HeadChange::Advanced);
    assert_eq!(store.ledger_heads().await.expect(OK), vec![head(6, "bb")]);
    assert_eq!(store.record_head(head(6, "cc")).await.expect(OK), HeadChange::Contradicts);
    assert_eq!(store.record_head(head(2, "aa")).await.expect(OK), HeadChange::Contradicts);
    assert_eq!(store.record_head(head(7, "dd")).await.expect(OK), HeadChange::Advanced);
    let broken = HeadRow { broken: true, ..head(7, "dd") };
    assert_eq!(store.ledger_heads().await.expect(OK), vec![broken]);
}

/// Of a ledger the newest report and notes are kept, and every alarm once.
pub async fn what_witnesses_say_is_kept(store: &dyn Store) {
    let node = |byte| NodeId::from_bytes([byte; 32]);
    let ledger = |byte, received_ms| LedgerRow { node: node(byte), received_ms, document: format!("{received_ms}") };
    for row in [ledger(2, 1), ledger(1, 2), ledger(2, 3)] {
        store.record_ledger(row).await.expect(OK);
    }
    assert_eq!(store.ledgers().await.expect(OK), vec![ledger(1, 2), ledger(2, 3)]);

    let held = |witness, of, size| {
        let (witness, node) = (node(witness), node(of));
        HeldRow { witness, node, size, note: format!("{size}"), time_s: size }
    };
    store.record_held(vec![held(2, 1, 4), held(3, 1, 4), held(1, 2, 9)]).await.expect(OK);
    store.record_held(vec![held(2, 1, 5)]).await.expect(OK);
    assert_eq!(store.held_of(node(1)).await.expect(OK), vec![held(2, 1, 5), held(3, 1, 4)]);

    let alarm = |witness, shown: u32| AlarmRow {
        witness: node(witness),
        node: node(1),
        finding: "forked".into(),
        held: "a".into(),
        shown: shown.to_string(),
        time_s: 1,
        received_ms: 2,
    };
    assert!(store.record_alarm(alarm(2, 0)).await.expect(OK));
    let again = AlarmRow { time_s: 9, received_ms: 9, ..alarm(2, 0) };
    assert!(!store.record_alarm(again).await.expect(OK));
    for shown in 1..ALARMS_OF_A_WITNESS_MAX + 5 {
        let kept = store.record_alarm(alarm(2, shown)).await.expect(OK);
        assert_eq!(kept, shown < ALARMS_OF_A_WITNESS_MAX, "{shown}");
    }
    assert!(store.record_alarm(alarm(3, 0)).await.expect(OK));
    let other = AlarmRow { node: node(4), ..alarm(2, 0) };
    assert!(store.record_alarm(other.clone()).await.expect(OK), "one ledger's share hides no other");
    let all = store.alarms().await.expect(OK);
    assert_eq!((all.len(), &all[0]), (ALARMS_OF_A_WITNESS_MAX as usize + 2, &alarm(2, 0)));
}

/// A token's hash can be set and set again.
pub async fn tokens_are_replaced(store: &dyn Store) {
    assert_eq!(store.token_hash("admin").await.expect(OK), None);
    store.set_token_hash("admin", vec![1]).await.expect(OK);
    store.set_token_hash("admin", vec![2]).await.expect(OK);
    assert_eq!(store.token_hash("admin").await.expect(OK), Some(vec![2]));
    assert_eq!(store.token_hash("other").await.expect(OK), None);
}
