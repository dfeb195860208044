//! Whose word is enough: a ledger's key, its witnesses, and how many of them
//! must have cosigned (C2SP tlog-policy, with one group). *Pure.*
//!
//! ```text
//! log osmoda.ledger/5f0c…+7d3c…+ASd…
//! witness b osmoda.witness/91aa…+11ce…+BKx…
//! witness c osmoda.witness/0d2f…+85b0…+BPe…
//! group peers 2 b c
//! quorum peers
//! ```
//! Invariant: each witness counts once, whatever it signed and how often.

use std::fmt::{self, Write as _};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::note::{KeyKind, Note, VerifierKey};

/// Largest policy file, in bytes: room for a thousand witnesses.
pub const POLICY_BYTES_MAX: usize = 256 << 10;

/// Most witnesses. A note carries at most 100 signatures.
pub const WITNESSES_MAX: usize = 64;

/// The name of the group that [`Policy`] writes.
const GROUP: &str = "witnesses";

/// A text is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the policy: {what}")]
pub struct PolicyError {
    /// Which line, from 1; 0 for the whole.
    pub line: usize,
    /// What is wrong with it.
    pub what: &'static str,
}

/// A witness under the name the policy gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownWitness {
    /// The name within the policy.
    pub name: String,
    /// Its key.
    pub key: VerifierKey,
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    logs: Vec<VerifierKey>,
    witnesses: Vec<KnownWitness>,
    /// The members of the quorum, as places in `witnesses`.
    members: Vec<usize>,
    needed: usize,
}

/// How well a checkpoint is covered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What the ledger signed.
    pub checkpoint: Checkpoint,
    /// Members of the quorum that cosigned, with the time in seconds.
    pub cosigned: Vec<(String, u64)>,
    /// How many must.
    pub needed: usize,
    /// Out of how many.
    pub of: usize,
}

impl Standing {
    /// Whether enough witnesses cosigned. A policy without quorum asks for none.
    #[must_use]
    pub fn is_covered(&self) -> bool {
        self.cosigned.len() >= self.needed
    }

    /// The newest cosignature, in seconds since the epoch.
    #[must_use]
    pub fn newest_s(&self) -> Option<u64> {
        self.cosigned.iter().map(|(_, time)| *time).max()
    }
}

impl Policy {
    /// A ledger and its witnesses, of whom `needed` must cosign.
    ///
    /// # Errors
    /// [`PolicyError`] for a key of the wrong kind, the same key twice, or more
    /// needed than there are.
    pub fn new(log: VerifierKey, witnesses: Vec<KnownWitness>, needed: usize) -> Result<Self, PolicyError> {
        let members = (0..witnesses.len()).collect();
        Self { logs: vec![log], witnesses, members, needed }.checked()
    }

    /// A majority of the witnesses, `trust.md` 1.3: ⌊n/2⌋ + 1; none of none.
    ///
    /// # Errors
    /// As [`Policy::new`].
    pub fn majority(log: VerifierKey, witnesses: Vec<KnownWitness>) -> Result<Self, PolicyError> {
        let needed = if witnesses.is_empty() { 0 } else { witnesses.len() / 2 + 1 };
        Self::new(log, witnesses, needed)
    }

    /// Reads a policy file.
    ///
    /// # Errors
    /// [`PolicyError`], also for what the specification allows and this does
    /// not: groups of groups.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(PolicyError { line: 0, what: "it is too long" });
        }
        let mut reading = Reading::default();
        for (number, line) in text.split('\n').enumerate() {
            let words: Vec<&str> = line.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
            if words.first().is_none_or(|word| word.starts_with('#')) {
                continue;
            }
            reading.line(&words).map_err(|what| PolicyError { line: number + 1, what })?;
        }
        let (needed, members) = reading.quorum.ok_or(PolicyError { line: 0, what: "it has no quorum" })?;
        Self { logs: reading.logs, witnesses: reading.witnesses, members, needed }.checked()
    }

    fn checked(self) -> Result<Self, PolicyError> {
        let fault = |what| PolicyError { line: 0, what };
        let keys = self.logs.iter().chain(self.witnesses.iter().map(|witness| &witness.key));
        let mut seen: Vec<(KeyKind, [u8; 32])> = keys.map(|key| (key.kind(), *key.public())).collect();
        let count = seen.len();
        seen.sort_by_key(|(kind, key)| (*kind == KeyKind::Witness, *key));
        seen.dedup();
        if self.logs.is_empty() {
            Err(fault("it names no log"))
        } else if self.logs.iter().any(|key| key.kind() != KeyKind::Log) {
            Err(fault("the key of a log is no log key"))
        } else if self.witnesses.iter().any(|witness| witness.key.kind() != KeyKind::Witness) {
            Err(fault("the key of a witness is no witness key"))
        } else if seen.len() != count {
            Err(fault("the same key stands twice"))
        } else if self.witnesses.len() > WITNESSES_MAX {
            Err(fault("it has too many witnesses"))
        } else if self.needed > self.members.len() {
            Err(fault("the quorum needs more witnesses than it has"))
        } else {
            Ok(self)
        }
    }

    /// The ledgers' keys.
    #[must_use]
    pub fn logs(&self) -> &[VerifierKey] {
        &self.logs
    }

    /// The witnesses.
    #[must_use]
    pub fn witnesses(&self) -> &[KnownWitness] {
        &self.witnesses
    }

    /// How many must cosign, out of how many.
    #[must_use]
    pub fn quorum(&self) -> (usize, usize) {
        (self.needed, self.members.len())
    }

    /// Reads a checkpoint that one of the logs signed and says who cosigned it.
    ///
    /// # Errors
    /// [`CheckpointError`] when no log of the policy signed it, or when any
    /// known key's signature is wrong.
    pub fn judge(&self, note: &Note) -> Result<Standing, CheckpointError> {
        let claimed = Checkpoint::parse(note.text())?;
        let key = self.logs.iter().find(|key| key.name() == claimed.origin);
        let key = key.ok_or_else(|| CheckpointError::Unsigned("any ledger of the policy".to_owned()))?;
        let checkpoint = Checkpoint::open(note, key)?;
        let mut cosigned = Vec::new();
        for witness in self.members.iter().filter_map(|place| self.witnesses.get(*place)) {
            if let Some(time) = note.check(&witness.key)?.and_then(|signed| signed.time_s) {
                cosigned.push((witness.name.clone(), time));
            }
        }
        Ok(Standing { checkpoint, cosigned, needed: self.needed, of: self.members.len() })
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.logs.iter().try_for_each(|key| writeln!(f, "log {key}"))?;
        self.witnesses.iter().try_for_each(|witness| writeln!(f, "witness {} {}", witness.name, witness.key))?;
        if self.needed == 0 {
            return f.write_str("quorum none\n");
        }
        let mut members = String::new();
        for witness in self.members.iter().filter_map(|place| self.witnesses.get(*place)) {
            write!(members, " {}", witness.name)?;
        }
        writeln!(f, "group {GROUP} {}{members}\nquorum {GROUP}", self.needed)
    }
}

#[derive(Default)]
struct Reading {
    logs: Vec<VerifierKey>,
    witnesses: Vec<KnownWitness>,
    groups: Vec<(String, usize, Vec<usize>)>,
    quorum: Option<(usize, Vec<usize>)>,
}

impl Reading {
    fn line(&mut self, words: &[&str]) -> Result<(), &'static str> {
        match words {
            ["log", key] | ["log", key, _] => {
                self.logs.push(VerifierKey::parse(key).map_err(|_| "the key of the log is no key")?);
            }
            ["witness", name, key] | ["witness", name, key, _] => {
                self.free(name)?;
                let key = VerifierKey::parse(key).map_err(|_| "the key of the witness is no key")?;
                self.witnesses.push(KnownWitness { name: (*name).to_owned(), key });
            }
            ["group", name, needed, members @ ..] if !members.is_empty() => self.group(name, needed, members)?,
            ["quorum", name] => {
                if self.quorum.is_some() {
                    return Err("a second quorum");
                }
                self.quorum = Some(self.named(name)?);
            }
            _ => return Err("neither log, witness, group nor quorum"),
        }
        Ok(())
    }

    fn group(&mut self, name: &str, needed: &str, members: &[&str]) -> Result<(), &'static str> {
        self.free(name)?;
        let mut places = Vec::with_capacity(members.len());
        for member in members {
            let place = self.place(member).ok_or("a member of the group is no witness named before")?;
            if places.contains(&place) {
                return Err("a member stands twice in the group");
            }
            places.push(place);
        }
        let needed = match needed {
            "all" => places.len(),
            "any" => 1,
            number => crate::checkpoint::decimal(number)
                .and_then(|number| usize::try_from(number).ok())
                .filter(|number| (1..=places.len()).contains(number))
                .ok_or("the group needs none or more than all of its members")?,
        };
        self.groups.push((name.to_owned(), needed, places));
        Ok(())
    }

    fn named(&self, name: &str) -> Result<(usize, Vec<usize>), &'static str> {
        if name == "none" {
            return Ok((0, (0..self.witnesses.len()).collect()));
        }
        if let Some((_, needed, members)) = self.groups.iter().find(|(group, _, _)| group == name) {
            return Ok((*needed, members.clone()));
        }
        self.place(name).map(|place| (1, vec![place])).ok_or("the quorum is neither witness nor group named before")
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.witnesses.iter().position(|witness| witness.name == name)
    }

    fn free(&self, name: &str) -> Result<(), &'static str> {
        let is_taken =
            name == "none" || self.place(name).is_some() || self.groups.iter().any(|(group, _, _)| group == name);
        if is_taken { Err("the name is taken") } else { Ok(()) }
    }
}
