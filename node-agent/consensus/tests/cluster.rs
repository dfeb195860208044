//! Three voters over real tonic: elections, loss, isolation, catching up.

#[allow(clippy::unwrap_used, reason = "helpers of tests may panic like tests")]
mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use osmoda_consensus::{Committed, Compaction, MembershipError, ProposeError, ReadError};
use osmoda_proto::raft::v1 as wire;
use osmoda_proto::raft::v1::raft_client::RaftClient;
use osmoda_types::RaftId;
use support::{Fleet, node, seat, wait_for};
use tonic::Code;

fn words(prefix: &str, n: usize) -> BTreeSet<String> {
    (0..n).map(|i| format!("{prefix}{i}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_voters_commit_the_same_words_in_the_same_order() {
    let fleet = Fleet::of_three().await;
    let all = words("w", 200);
    let leader = fleet.leader_among(&[1, 2, 3]).await;
    let replies = join_all(all.iter().map(|word| fleet.raft(leader).propose([1; 16], word.clone().into_bytes()))).await;
    let mut indexes = BTreeSet::new();
    for (reply, word) in replies.into_iter().zip(&all) {
        let reply = reply.unwrap();
        assert_eq!(reply.bytes, word.as_bytes());
        assert!(indexes.insert(reply.command_index), "command indexes are unique");
    }
    fleet.all_hold(&[1, 2, 3], &all).await;

    let index = fleet.raft(leader).linearizable().await.unwrap();
    assert!(fleet.raft(leader).read(|_, next| next) >= index);
    let follower = [1, 2, 3].into_iter().find(|id| *id != leader).unwrap();
    let elsewhere = Some(seat(leader));
    assert_eq!(fleet.raft(follower).linearizable().await, Err(ReadError::NotLeader { leader: elsewhere }));
    let refused = fleet.raft(follower).propose([2; 16], vec![1]).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: elsewhere }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_leader_is_replaced_and_every_word_is_said_once() {
    let mut fleet = Fleet::of_three().await;
    let leader = fleet.leader_among(&[1, 2, 3]).await;
    let (before, after) = (words("before", 30), words("after", 30));
    join_all(before.iter().map(|word| fleet.say(word))).await;
    let rest: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
    let stopped = Instant::now();
    fleet.stop(leader).await;
    let new = fleet.leader_among(&rest).await;
    assert_ne!(new, leader);
    // 2.1 s by design; the rest is for a machine shared with other builds.
    assert!(stopped.elapsed() < Duration::from_secs(10), "took {:?}", stopped.elapsed());
    // Twice each, as impatient clients do.
    join_all(after.iter().chain(&after).map(|word| fleet.say(word))).await;
    fleet.start(leader).await;
    let all = before.union(&after).cloned().collect();
    fleet.all_hold(&[1, 2, 3], &all).await;
    assert_eq!(fleet.leader_among(&[1, 2, 3]).await, new, "the one that came back deposes nobody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_was_cut_off_deposes_nobody() {
    let fleet = Fleet::of_three().await;
    let leader = fleet.leader_among(&[1, 2, 3]).await;
    let lonely = [1, 2, 3].into_iter().find(|id| *id != leader).unwrap();
    let term = fleet.status(leader).term;
    fleet.net.set_cut(node(lonely), true);
    // The others go on; long enough that an ungated voter would have stood
    // for election several times.
    let begin = Instant::now();
    let mut said = BTreeSet::new();
    while begin.elapsed() < Duration::from_secs(5) {
        let word = format!("word{}", said.len());
        fleet.say(&word).await;
        said.insert(word);
    }
    assert_eq!(fleet.status(lonely).term, term, "it may not even try");
    fleet.net.set_cut(node(lonely), false);
    fleet.all_hold(&[1, 2, 3], &said).await;
    assert_eq!(fleet.leader_among(&[1, 2, 3]).await, leader);
    assert_eq!(fleet.status(leader).term, term);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_refuses_and_follows_when_it_is_back() {
    let fleet = Fleet::of_three().await;
    let old = fleet.leader_among(&[1, 2, 3]).await;
    let rest: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != old).collect();
    fleet.say("together").await;
    fleet.net.set_cut(node(old), true);
    let new = fleet.leader_among(&rest).await;
    wait_for("the old one notices", || (!fleet.raft(old).leads_with_quorum()).then_some(())).await;
    let refused = fleet.raft(old).propose([9; 16], b"alone".to_vec()).await;
    assert_eq!(refused, Err(ProposeError::Unavailable));
    assert!(fleet.raft(old).linearizable().await.is_err(), "no stale reads");
    fleet.raft(new).propose([1; 16], b"majority".to_vec()).await.unwrap();
    fleet.net.set_cut(node(old), false);
    let all = ["together", "majority"].map(str::to_owned).into();
    fleet.all_hold(&[1, 2, 3], &all).await;
    assert_eq!(fleet.leader_among(&[1, 2, 3]).await, new);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_voter_gets_the_snapshot_and_so_does_a_late_reader() {
    let mut fleet = Fleet::new(Compaction { snapshot_after_entries: 20, keep_entries: 5 });
    fleet.begin().await;
    let mut said = BTreeSet::new();
    for n in 0..120 {
        let word = format!("{n}:{}", "x".repeat(8000));
        fleet.say(&word).await;
        said.insert(word);
    }
    // Nearly a megabyte of state: several chunks.
    fleet.grow().await;
    fleet.all_hold(&[1, 2, 3], &said).await;

    let mut log = fleet.raft(1).committed_from(0);
    let Some(Committed::Snapshot { next_index, state }) = log.next().await.unwrap() else {
        panic!("the first entries are gone, so the state comes first");
    };
    assert_eq!(state.split(|b| *b == b'\n').count(), said.len());
    fleet.say("later").await;
    let mut expected = next_index;
    loop {
        let Some(Committed::Entry { index, items, .. }) = log.next().await.unwrap() else { panic!("entries follow") };
        assert_eq!(index, expected, "no gap");
        expected += 1;
        if items.iter().any(|item| item.command == "later") {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_steps_aside_and_another_one_leads() {
    let fleet = Fleet::of_three().await;
    let old = fleet.leader_among(&[1, 2, 3]).await;
    let new = fleet.raft(old).step_aside().await.unwrap();
    assert_ne!(new.raft_id, RaftId(old));
    assert_eq!(fleet.leader_among(&[1, 2, 3]).await, new.raft_id.0);
    fleet.say("onwards").await;
    fleet.all_hold(&[1, 2, 3], &BTreeSet::from(["onwards".to_owned()])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alone_nobody_can_take_over_and_sets_of_two_are_refused() {
    let mut fleet = Fleet::new(Compaction::default());
    fleet.begin().await;
    assert_eq!(fleet.raft(1).step_aside().await, Err(MembershipError::NoSuccessor));
    fleet.start(2).await;
    fleet.raft(1).add_learner(seat(2)).await.unwrap();
    fleet.raft(1).add_learner(seat(2)).await.unwrap();
    let moved = osmoda_consensus::Member { raft_id: RaftId(2), node_id: node(7) };
    assert!(matches!(fleet.raft(1).add_learner(moved).await, Err(MembershipError::Invalid { .. })));
    let two = fleet.raft(1).change_membership([1, 2].map(RaftId).into()).await;
    assert!(matches!(two, Err(MembershipError::Invalid { .. })), "{two:?}");
    let unknown = fleet.raft(1).change_membership([1, 2, 9].map(RaftId).into()).await;
    assert!(matches!(unknown, Err(MembershipError::Invalid { .. })), "{unknown:?}");
    assert_eq!(fleet.status(1).members.learners, [seat(2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_speaks_only_for_the_voter_on_its_own_node() {
    let fleet = Fleet::of_three().await;
    let probe = |raft_id, to| wire::ProbeRequest { raft_id, seq: 1, to };
    // Node 2 as itself, as voter 3, and to a voter that lives elsewhere.
    let mut from_2 = RaftClient::new(fleet.net.channel(node(2), node(1)));
    from_2.probe(probe(2, 1)).await.unwrap();
    assert_eq!(from_2.probe(probe(3, 1)).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(from_2.probe(probe(2, 3)).await.unwrap_err().code(), Code::FailedPrecondition);
    // A vote for 3 and an append in its name, from node 2.
    let vote = Some(osmoda_proto::log::v1::Vote { term: 99, node_id: 3, committed: false });
    let asked = from_2.vote(wire::VoteRequest { vote, last_log_id: None, to: 1 }).await;
    assert_eq!(asked.unwrap_err().code(), Code::PermissionDenied);
    let append = wire::AppendRequest { vote, to: 1, ..Default::default() };
    assert_eq!(from_2.append(append).await.unwrap_err().code(), Code::PermissionDenied);
    let head = wire::SnapshotHead { vote, to: 1, ..Default::default() };
    let chunk = wire::SnapshotChunk { head: Some(head), ..Default::default() };
    let sent = from_2.install_snapshot(tokio_stream::once(chunk)).await;
    assert_eq!(sent.unwrap_err().code(), Code::PermissionDenied);
    // Only the leader hands over, and in its own name.
    let follower = [2, 3].into_iter().find(|id| fleet.status(1).leader.map(|of| of.raft_id.0) != Some(*id)).unwrap();
    let mut from_follower = RaftClient::new(fleet.net.channel(node(follower), node(1)));
    let term = fleet.status(1).term;
    let hand_over = |leader| wire::TimeoutNowRequest { leader, term, to: 1 };
    let refused = from_follower.timeout_now(hand_over(follower)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let refused = from_follower.timeout_now(hand_over(5 - follower)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(fleet.status(1).term, term);
    // An id nobody has: the first node that uses it keeps it.
    from_2.probe(probe(77, 1)).await.unwrap();
    let mut from_3 = RaftClient::new(fleet.net.channel(node(3), node(1)));
    assert_eq!(from_3.probe(probe(77, 1)).await.unwrap_err().code(), Code::PermissionDenied);
    assert!(fleet.status(1).term < 99);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_voter_does_not_count_as_one_that_answers() {
    let mut fleet = Fleet::of_three().await;
    let probe = wire::ProbeRequest { raft_id: 2, seq: 1, to: 1 };
    // The connection is older than the stop and may outlive it.
    let mut from_2 = RaftClient::new(fleet.net.channel(node(2), node(1)));
    from_2.probe(probe).await.unwrap();
    fleet.stop(1).await;
    assert!(from_2.probe(probe).await.is_err());
}
