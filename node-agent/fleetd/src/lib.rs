//! Fleet membership, ballots, rollout driver and participant.
