//! Members: genesis, invites, subkeys, voters, ledger heads.

use std::collections::BTreeSet;

use osmoda_types::command::{Genesis, LedgerHead, SpendInvite};
use osmoda_types::manifest::validate_name;
use osmoda_types::member::name_is_valid;
use osmoda_types::member::{ADDRESS_BYTES_MAX, ADDRESSES_MAX, INVITES_OPEN_MAX};
use osmoda_types::principal::PRINCIPALS_MAX;
use osmoda_types::{ErrorCode, Invite, InviteId, Member, NodeId, Purpose, RaftId, Role, Subkey, statement};

use super::{Cx, Done, Handled};
use crate::outcome::{Signer, What};
use crate::signature;
use crate::state::{ENDED_INVITES_MAX, FleetState, InviteEntry, InviteState, MEMBERS_MAX, MemberEntry, PrincipalEntry};

impl FleetState {
    pub(super) fn genesis(&mut self, cx: &mut Cx, genesis: &Genesis) -> Handled {
        if let Some(network) = self.network {
            let same = network == genesis.network && self.members.contains_key(&genesis.member.node);
            return if same { Done::BEFORE } else { Err(ErrorCode::Conflict) };
        }
        let keys: BTreeSet<_> = genesis.principals.iter().map(|principal| principal.key).collect();
        let named = genesis.principals.iter().all(|principal| validate_name(&principal.name).is_ok());
        if keys.len() != genesis.principals.len() || keys.len() > PRINCIPALS_MAX || !named {
            return Err(ErrorCode::BadRequest);
        }
        check_member(&genesis.member)?;
        if genesis.member.role != Role::Voter {
            return Err(ErrorCode::BadRequest);
        }
        self.network = Some(genesis.network);
        self.mesh_epoch = genesis.mesh_epoch;
        self.secret_hash = Some(genesis.secret_hash);
        for principal in &genesis.principals {
            self.principals
                .insert(principal.key, PrincipalEntry { principal: principal.clone(), serial: 0, order: None });
        }
        cx.event(What::Begun(genesis.network), "genesis");
        self.admit(cx, &genesis.member, "genesis");
        Done::NOW
    }

    pub(super) fn open_invite(&mut self, cx: &mut Cx, invite: &Invite) -> Handled {
        if let Some(entry) = self.invites.get(&invite.id) {
            return if entry.invite == *invite { Done::BEFORE } else { Err(ErrorCode::Conflict) };
        }
        if !self.voters.contains_key(&invite.issuer) {
            return Err(ErrorCode::NodeUnknown);
        }
        let open = self.invites.values().filter(|entry| entry.state == InviteState::Open).count();
        if open >= INVITES_OPEN_MAX {
            return Err(ErrorCode::Busy);
        }
        self.forget_ended_invites();
        self.invites.insert(invite.id, InviteEntry { invite: invite.clone(), state: InviteState::Open });
        cx.signer = Signer::Node(invite.issuer);
        cx.event(What::InviteOpened(invite.id), invite.role.as_str());
        Done::NOW
    }

    pub(super) fn expire_invite(&mut self, cx: &mut Cx, id: InviteId) -> Handled {
        let entry = self.invites.get_mut(&id).ok_or(ErrorCode::InviteUnknown)?;
        match entry.state {
            InviteState::Open => {
                entry.state = InviteState::Expired;
                cx.event(What::InviteExpired(id), "expiry");
                Done::NOW
            }
            InviteState::Expired => Done::BEFORE,
            InviteState::Spent { .. } => Err(ErrorCode::InviteSpent),
        }
    }

    pub(super) fn spend_invite(&mut self, cx: &mut Cx, spend: &SpendInvite) -> Handled {
        if self.network != Some(spend.network) {
            return Err(ErrorCode::InviteWrongNetwork);
        }
        let entry = self.invites.get(&spend.invite).ok_or(ErrorCode::InviteUnknown)?;
        match entry.state {
            // Idempotent on (invite, joiner key): a joiner that lost the answer asks again.
            // Only while it is a member by that key: an answer to this order carries the
            // newest secret, which a revoked or replaced key must not get again.
            InviteState::Spent { joiner, node } if joiner == spend.member.mesh_key && node == spend.member.node => {
                let is_member = self.members.get(&node).is_some_and(|entry| entry.member.mesh_key == joiner);
                return if is_member { Done::BEFORE } else { Err(ErrorCode::NodeRevoked) };
            }
            InviteState::Spent { .. } => return Err(ErrorCode::InviteSpent),
            InviteState::Expired => return Err(ErrorCode::InviteExpired),
            InviteState::Open if spend.at_ms > entry.invite.expires_ms => return Err(ErrorCode::InviteExpired),
            InviteState::Open => {}
        }
        check_member(&spend.member)?;
        if spend.member.role != entry.invite.role {
            return Err(ErrorCode::BadRequest);
        }
        let taken = |entry: &MemberEntry| {
            let member = &entry.member;
            member.name == spend.member.name
                || member.mesh_key == spend.member.mesh_key
                || member.identity_key == spend.member.identity_key
        };
        if self.members.contains_key(&spend.member.node) || self.members.values().any(taken) {
            return Err(ErrorCode::Conflict);
        }
        // Replaced keys are refused as those of whoever had them.
        let spent_by = self.spent_by(&spend.member);
        if self.is_revoked(&spend.member) || spent_by.is_some_and(|node| !self.members.contains_key(&node)) {
            return Err(ErrorCode::NodeRevoked);
        }
        if spent_by.is_some() {
            return Err(ErrorCode::Conflict);
        }
        if self.members.len() >= MEMBERS_MAX {
            return Err(ErrorCode::TooLarge);
        }
        cx.signer = Signer::Node(entry.invite.issuer);
        if let Some(entry) = self.invites.get_mut(&spend.invite) {
            entry.state = InviteState::Spent { joiner: spend.member.mesh_key, node: spend.member.node };
        }
        self.admit(cx, &spend.member, "invite");
        Done::NOW
    }

    fn admit(&mut self, cx: &mut Cx, member: &Member, reason: &'static str) {
        self.members.insert(member.node, MemberEntry { member: member.clone(), joined_index: cx.index });
        self.members_index = cx.index;
        cx.event(What::Joined(member.node), reason);
    }

    pub(super) fn update_addresses(&mut self, cx: &mut Cx, node: NodeId, addresses: &[String]) -> Handled {
        check_addresses(addresses)?;
        let entry = self.members.get_mut(&node).ok_or(ErrorCode::NodeUnknown)?;
        if entry.member.addresses == addresses {
            return Done::BEFORE;
        }
        entry.member.addresses = addresses.to_vec();
        self.members_index = cx.index;
        cx.signer = Signer::Node(node);
        cx.event(What::Moved(node), "addresses");
        Done::NOW
    }

    pub(super) fn register_subkey(&mut self, cx: &mut Cx, subkey: &Subkey) -> Handled {
        let member = &self.members.get(&subkey.node).ok_or(ErrorCode::NodeUnknown)?.member;
        let known = self.subkeys.get(&(subkey.node, subkey.purpose));
        if known == Some(subkey) {
            return Done::BEFORE;
        }
        // A ledger is its key: with another one it could begin a new history, and
        // nobody would miss the old. Who lost the key joins as a new node.
        if subkey.purpose == Purpose::Ledger && known.is_some_and(|known| known.key != subkey.key) {
            return Err(ErrorCode::LedgerBroken);
        }
        if subkey.epoch != self.mesh_epoch {
            return Err(ErrorCode::EpochStale);
        }
        let network = self.network.ok_or(ErrorCode::Conflict)?;
        let message = statement::subkey(subkey.purpose, &subkey.key, &subkey.node, subkey.epoch, &network);
        signature::verify(&member.identity_key, &message, &subkey.endorsement)?;
        self.subkeys.insert((subkey.node, subkey.purpose), subkey.clone());
        cx.signer = Signer::Node(subkey.node);
        cx.event(What::SubkeyRegistered(subkey.node, subkey.purpose), subkey.purpose.as_str());
        Done::NOW
    }

    /// A voter needs its ballot key first, so that every elector can vote. A
    /// node that lost its disk registers anew; its old Raft id stays used up.
    pub(super) fn register_voter(&mut self, cx: &mut Cx, node: NodeId, raft_id: RaftId) -> Handled {
        let member = &self.members.get(&node).ok_or(ErrorCode::NodeUnknown)?.member;
        if self.voters.get(&node) == Some(&raft_id) {
            return Done::BEFORE;
        }
        if member.role != Role::Voter {
            return Err(ErrorCode::ServiceDenied);
        }
        if !self.subkeys.contains_key(&(node, Purpose::Ballot)) {
            return Err(ErrorCode::SignatureMissing);
        }
        if self.used_raft_ids.contains(&raft_id) {
            return Err(ErrorCode::Conflict);
        }
        self.used_raft_ids.insert(raft_id);
        self.voters.insert(node, raft_id);
        cx.signer = Signer::Node(node);
        cx.event(What::VoterRegistered(node, raft_id), "voter");
        Done::NOW
    }

    /// A head may only grow; another hash at the same size is a rewritten past.
    /// Invariant: only a checkpoint that the ledger's own key signed is a head, so
    /// whoever leads cannot say of a ledger what it never was
    /// (`tests::members::a_ledger_head_needs_the_signature_of_its_ledger`). Entries
    /// of before carry none: they are refused too, here and in a replay, and a head
    /// without a signature is dropped from a snapshot, so both lead to one state.
    pub(super) fn record_ledger_head(&mut self, cx: &mut Cx, head: &LedgerHead) -> Handled {
        if !self.members.contains_key(&head.node) {
            return Err(ErrorCode::NodeUnknown);
        }
        let known = self.ledger_heads.get(&head.node);
        if known == Some(head) {
            return Done::BEFORE;
        }
        let subkey = self.subkeys.get(&(head.node, Purpose::Ledger)).ok_or(ErrorCode::SignatureMissing)?;
        let text = statement::checkpoint(&subkey.key, head.size, &head.root, &head.hash);
        signature::verify(&subkey.key, &text, &head.signature)?;
        if known.is_some_and(|known| head.size <= known.size) {
            return Err(ErrorCode::LedgerBroken);
        }
        self.ledger_heads.insert(head.node, *head);
        cx.signer = Signer::Node(head.node);
        cx.event(What::LedgerHead(head.node, head.size), "ledger");
        Done::NOW
    }

    fn forget_ended_invites(&mut self) {
        let ended = |entry: &InviteEntry| entry.state != InviteState::Open;
        while self.invites.values().filter(|entry| ended(entry)).count() >= ENDED_INVITES_MAX {
            let oldest = self.invites.values().filter(|entry| ended(entry)).min_by_key(|entry| entry.invite.expires_ms);
            let Some(id) = oldest.map(|entry| entry.invite.id) else { return };
            self.invites.remove(&id);
        }
    }
}

fn check_member(member: &Member) -> Result<(), ErrorCode> {
    if !name_is_valid(&member.name) {
        return Err(ErrorCode::BadRequest);
    }
    check_addresses(&member.addresses)
}

fn check_addresses(addresses: &[String]) -> Result<(), ErrorCode> {
    let plain = |text: &String| {
        !text.is_empty() && text.len() <= ADDRESS_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if addresses.len() > ADDRESSES_MAX || !addresses.iter().all(plain) {
        return Err(ErrorCode::BadRequest);
    }
    Ok(())
}
