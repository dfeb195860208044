//! The closed list of error codes.
//!
//! A code is what a program may act on; the message beside it is for people.
//! Each code has one HTTP status and one page, `docs/errors/<code>.md`.

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal;)*) => {
        /// Why something was refused or failed. Closed: a new way to fail gets
        /// a new code here, with its page, or uses one that already fits.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// Every code, in the order of the list.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name,)*];

            /// The stable text, `snake_case`, also the name of its page.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$name => $text,)* }
            }

            /// The HTTP status it maps to.
            #[must_use]
            pub const fn http_status(self) -> u16 {
                match self { $(ErrorCode::$name => $status,)* }
            }
        }
    };
}

codes! {
    /// A request that cannot be parsed or breaks a documented shape.
    BadRequest = "bad_request", 400;
    /// The thing that was asked for does not exist here.
    NotFound = "not_found", 404;
    /// The request contradicts the present state.
    Conflict = "conflict", 409;
    /// The body or value is over its limit.
    TooLarge = "too_large", 413;
    /// A bounded queue is full; nothing was done; ask again later.
    Busy = "busy", 503;
    /// The answer did not come within the limit; the request did not change anything.
    Timeout = "timeout", 504;
    /// A fault of the program itself; the log has the chain.
    Internal = "internal", 500;
    /// The program is draining and takes no new work.
    ShuttingDown = "shutting_down", 503;
    /// This host cannot do that (the message says what it lacks).
    Unsupported = "unsupported", 501;
    /// No valid token or key came with the request.
    Unauthorized = "unauthorized", 401;
    /// The caller's identity is outside the endpoint's row of the callers table.
    CallerDenied = "caller_denied", 403;
    /// The daemon's socket does not answer; the request was not done.
    DaemonUnavailable = "daemon_unavailable", 503;
    /// The configuration has faults; all of them are listed.
    ConfigInvalid = "config_invalid", 400;
    /// Another program holds the address.
    PortInUse = "port_in_use", 409;
    /// Another program runs on the same root directory.
    RootLocked = "root_locked", 409;
    /// The state directory cannot be read or written as this user.
    StateDirUnusable = "state_dir_unusable", 500;
    /// No space is left for a write that must be durable.
    DiskFull = "disk_full", 507;
    /// The host has no systemd as PID 1; the process runner must be chosen.
    NoSystemd = "no_systemd", 501;
    /// The generation store does not answer.
    StoreUnavailable = "store_unavailable", 503;
    /// The manifest is not valid: the message names the field.
    ManifestMalformed = "manifest_malformed", 422;
    /// The manifest is over 1 MiB.
    ManifestTooLarge = "manifest_too_large", 413;
    /// No stored manifest has this hash.
    ManifestUnknown = "manifest_unknown", 404;
    /// A signed statement came without its signature.
    SignatureMissing = "signature_missing", 401;
    /// The signature does not verify over the statement.
    SignatureInvalid = "signature_invalid", 401;
    /// The signing key is no principal of this fleet.
    PrincipalUnknown = "principal_unknown", 403;
    /// The principal lacks the right for this.
    PrincipalDenied = "principal_denied", 403;
    /// The signed order was used before, or is older than one its key signed.
    OrderReplayed = "order_replayed", 409;
    /// No member of the fleet has this node id.
    NodeUnknown = "node_unknown", 404;
    /// The node was removed from the fleet; its keys are never admitted again.
    NodeRevoked = "node_revoked", 403;
    /// The target closure is not in the store and cannot be fetched.
    ClosureMissing = "closure_missing", 404;
    /// The target closure is on its way, or no cache of the host gives it yet.
    ClosurePending = "closure_pending", 503;
    /// The target closure carries no signature of a trusted key.
    ClosureUnsigned = "closure_unsigned", 403;
    /// The target equals the node's baseline, so there is nothing to deploy or prove.
    TargetIsBaseline = "target_is_baseline", 422;
    /// The target is on the deny-list because an earlier rollout of it failed.
    TargetDenied = "target_denied", 409;
    /// No rollout has this id.
    RolloutUnknown = "rollout_unknown", 404;
    /// The id was used before with another content.
    RolloutDuplicate = "rollout_duplicate", 409;
    /// Another rollout is active on the scope.
    RolloutConflict = "rollout_conflict", 409;
    /// The rollout is not in a state that allows this.
    RolloutState = "rollout_state", 409;
    /// The proposal was made against a fleet epoch that has passed.
    EpochStale = "epoch_stale", 409;
    /// A freeze lock forbids rollouts on the scope.
    FreezeLocked = "freeze_locked", 423;
    /// The ballot does not count: not an elector, already voted, or voting is over.
    BallotRefused = "ballot_refused", 409;
    /// The grant would put more nodes at risk than max_unavailable.
    BudgetExceeded = "budget_exceeded", 409;
    /// The wave is not open for grants.
    WaveClosed = "wave_closed", 409;
    /// The grant would put a second voter at risk, or the leader itself.
    VoterRule = "voter_rule", 409;
    /// The deadline belongs to a state that has passed; nothing happened.
    DeadlineStale = "deadline_stale", 409;
    /// No open invite matches.
    InviteUnknown = "invite_unknown", 404;
    /// The invite was used by another key.
    InviteSpent = "invite_spent", 409;
    /// The invite is past its expiry.
    InviteExpired = "invite_expired", 410;
    /// The invite belongs to another fleet.
    InviteWrongNetwork = "invite_wrong_network", 403;
    /// The text is no invite.
    InviteMalformed = "invite_malformed", 400;
    /// The peer did not answer; before the secret is proven a listener stays silent.
    PeerSilent = "peer_silent", 504;
    /// No admitted peer has this node id.
    PeerUnknown = "peer_unknown", 404;
    /// The peer is a member but no link to it is up.
    PeerOffline = "peer_offline", 503;
    /// The peer has not admitted this node.
    NotAdmitted = "not_admitted", 403;
    /// The peer's role may not call this service.
    ServiceDenied = "service_denied", 403;
    /// A key file is missing; keys are never made again by themselves.
    IdentityMissing = "identity_missing", 500;
    /// A key file is damaged or of the wrong length.
    IdentityPartial = "identity_partial", 500;
    /// This voter is not the leader; the leader, if known, is named.
    NotLeader = "not_leader", 503;
    /// No quorum of voters answers.
    RaftUnavailable = "raft_unavailable", 503;
    /// The command may or may not be committed; ask again with the same id.
    OutcomeUnknown = "outcome_unknown", 504;
    /// The Raft log is damaged; this voter refuses to vote.
    RaftLogCorrupt = "raft_log_corrupt", 500;
    /// The log is gone although the fleet was begun; this voter refuses to vote.
    RaftAmnesia = "raft_amnesia", 500;
    /// The SafeSwitch journal is damaged; the host stays on its running generation.
    JournalCorrupt = "journal_corrupt", 500;
    /// The journal does not allow this transition.
    JournalIllegal = "journal_illegal", 409;
    /// No attempt has this id.
    AttemptUnknown = "attempt_unknown", 404;
    /// Another attempt is in progress on this node.
    AttemptConflict = "attempt_conflict", 409;
    /// The order is older than one already journaled.
    AttemptStale = "attempt_stale", 409;
    /// The activation ended with an error.
    ActivationFailed = "activation_failed", 500;
    /// The activation did not end in time and was stopped.
    ActivationTimeout = "activation_timeout", 504;
    /// A health check failed.
    CheckFailed = "check_failed", 424;
    /// The guard did not start or did not acknowledge; nothing was activated.
    GuardUnavailable = "guard_unavailable", 503;
    /// The guard restored the baseline; the attempt is over.
    GuardFired = "guard_fired", 409;
    /// The baseline could not be restored; a person must look.
    RollbackFailed = "rollback_failed", 500;
    /// Another activation holds the host's switch lock; it will be tried again.
    LockBusy = "lock_busy", 503;
    /// The ledger did not record the intent, so the mutation was refused.
    LedgerUnavailable = "ledger_unavailable", 503;
    /// The hash chain does not verify; the daemon stopped.
    LedgerBroken = "ledger_broken", 500;
    /// The record breaks the ledger's grammar.
    LedgerGrammar = "ledger_grammar", 422;
    /// The call is not strict JSON of the documented shape, or its arguments do not fit the tool.
    CallMalformed = "call_malformed", 422;
    /// No tool of this version has this name.
    ToolUnknown = "tool_unknown", 404;
    /// This host refuses the class of the call, whatever was approved.
    ClassRefused = "class_refused", 403;
    /// The object of the call is not the one that was looked at when it was asked for.
    ObjectChanged = "object_changed", 409;
    /// The call needs a permit and came without one that is approved.
    ApprovalRequired = "approval_required", 403;
    /// The permit does not bind this call, this host, or enough approvers.
    ApprovalInvalid = "approval_invalid", 403;
    /// The permit was denied, or the same call was and the denial still holds.
    ApprovalDenied = "approval_denied", 403;
    /// The permit is past its time, by the wall clock, the boot clock or a reboot.
    ApprovalExpired = "approval_expired", 410;
    /// The permit was used before; each works once.
    ApprovalSpent = "approval_spent", 409;
    /// Too few other nodes confirmed the record of a destructive call.
    WitnessUnavailable = "witness_unavailable", 503;
    /// A room, an author or the blob store has used up what it may keep or send.
    QuotaExceeded = "quota_exceeded", 429;
}

impl ErrorCode {
    /// Whether the same request may succeed later without anyone changing it.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self.http_status(), 503 | 504)
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for ErrorCode {
    type Err = UnknownCode;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text).ok_or(UnknownCode)
    }
}

/// A text that is no code of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an error code of this version")]
pub struct UnknownCode;

impl serde::Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for ErrorCode {
    /// A code of a newer version reads as [`ErrorCode::Internal`], so that an
    /// old client still sees the message.
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        Ok(text.parse().unwrap_or(ErrorCode::Internal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_parse_back() {
        let mut seen = std::collections::BTreeSet::new();
        for code in ErrorCode::ALL {
            assert!(seen.insert(code.as_str()), "{code} twice");
            assert_eq!(code.as_str().parse(), Ok(*code));
            assert!((400..600).contains(&code.http_status()));
        }
    }

    #[test]
    fn every_code_has_its_page() {
        let pages = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors");
        for code in ErrorCode::ALL {
            let page = std::path::Path::new(pages).join(format!("{code}.md"));
            assert!(page.is_file(), "missing {}", page.display());
        }
    }
}
