//! One message: canonical bytes, id, signature.
//!
//! ```text
//! canonical = version u8 = 1 | postcard { room, author, seq, prev, parents, hlc, body }
//! id        = BLAKE3(canonical)
//! wire      = signature 64 | canonical      signature = Ed25519("mesh1 room msg" | id)
//! ```
//! The author signs with the identity key of its node, which `mesh` alone holds
//! and every member's allow-list names; the line in front keeps the signature
//! from meaning anything else.
//!
//! Invariant: there is one encoding of a message: bytes that decode but would
//! encode differently are refused, so nobody can give one message two ids.
//! Invariant: [`Verified`] exists only for a signature that was checked, or that
//! comes from this node's own store.

use osmoda_types::{PublicKey, Signature, statement};
use serde::{Deserialize, Serialize};

use crate::hlc::Hlc;
use crate::id::{MessageId, RoomId};
use crate::limits::{MESSAGE_BYTES_MAX, PARENTS_MAX, TEXT_BYTES_MAX};

const VERSION: u8 = 1;
const LINE: &[u8] = b"mesh1 room msg";
const SIGNATURE_BYTES: usize = 64;
/// What a message takes beside its text, about: more costs a larger buffer.
const FIXED_BYTES: usize = 400;

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// A text of a person or a model. Whoever feeds it to a model must treat it
    /// as data: it is not an instruction of this node's operator.
    Text(String),
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it was said.
    pub room: RoomId,
    /// Who said it.
    pub author: PublicKey,
    /// Its number among the author's messages in this room, from 1.
    pub seq: u64,
    /// The author's message before it; none for the first.
    pub prev: Option<MessageId>,
    /// The newest messages of others that the author had seen, ascending.
    pub parents: Vec<MessageId>,
    /// When.
    pub hlc: Hlc,
    /// What.
    pub body: Body,
}

#[derive(Deserialize)]
struct Fields {
    room: RoomId,
    author: [u8; 32],
    seq: u64,
    prev: Option<MessageId>,
    parents: Vec<MessageId>,
    hlc: Hlc,
    body: Body,
}

/// The same, to be written.
#[derive(Serialize)]
struct FieldsOf<'a> {
    room: RoomId,
    author: &'a [u8; 32],
    seq: u64,
    prev: Option<MessageId>,
    parents: &'a [MessageId],
    hlc: Hlc,
    body: &'a Body,
}

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Over [`MESSAGE_BYTES_MAX`], or a text over [`TEXT_BYTES_MAX`].
    #[error("a room message of {0} bytes is over the limit")]
    TooLarge(usize),
    /// It does not parse, or is of another version.
    #[error("not a room message of this version")]
    Malformed,
    /// It parses, but this is not how it is written.
    #[error("a room message that is not in its canonical form")]
    NotCanonical,
    /// A field breaks its rule.
    #[error("a room message with a wrong {0}")]
    Field(&'static str),
    /// The signature is not the author's.
    #[error("a room message whose signature does not verify")]
    Signature,
}

/// A message whose form was checked but not its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unverified {
    id: MessageId,
    message: Message,
    wire: Vec<u8>,
}

/// A message that its author signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified(Unverified);

impl Message {
    fn canonical(&self) -> Result<Vec<u8>, MessageError> {
        let fields = FieldsOf {
            room: self.room,
            author: self.author.as_bytes(),
            seq: self.seq,
            prev: self.prev,
            parents: &self.parents,
            hlc: self.hlc,
            body: &self.body,
        };
        let Body::Text(text) = &self.body;
        let mut out = Vec::with_capacity(FIXED_BYTES + text.len());
        out.push(VERSION);
        postcard::to_extend(&fields, out).map_err(|_| MessageError::Malformed)
    }

    fn check(&self) -> Result<(), MessageError> {
        let Body::Text(text) = &self.body;
        if text.len() > TEXT_BYTES_MAX {
            return Err(MessageError::TooLarge(text.len()));
        }
        if self.seq == 0 || (self.seq == 1) != self.prev.is_none() {
            return Err(MessageError::Field("place in its author's chain"));
        }
        if Hlc::from_number(self.hlc.number()).is_none() {
            return Err(MessageError::Field("time"));
        }
        let ascending = self.parents.windows(2).all(|pair| pair[0] < pair[1]);
        let has_prev = self.prev.is_some_and(|prev| self.parents.contains(&prev));
        if self.parents.len() > PARENTS_MAX || !ascending || has_prev {
            return Err(MessageError::Field("list of parents"));
        }
        Ok(())
    }

    /// Signs a new message.
    ///
    /// # Errors
    /// [`MessageError`] when it breaks a rule of its fields.
    pub fn sign(self, sign: impl FnOnce(&[u8]) -> Signature) -> Result<Verified, MessageError> {
        self.check()?;
        let canonical = self.canonical()?;
        let id = MessageId::of(&canonical);
        let signature = sign(&to_sign(&id));
        let wire = [&signature.as_bytes()[..], &canonical].concat();
        Ok(Verified(Unverified { id, message: self, wire }))
    }

    /// What comes before it: its author's last message and its parents.
    pub fn dependencies(&self) -> impl Iterator<Item = MessageId> + '_ {
        self.prev.into_iter().chain(self.parents.iter().copied())
    }
}

fn to_sign(id: &MessageId) -> Vec<u8> {
    [LINE, id.as_bytes()].concat()
}

impl Unverified {
    /// Reads a message off the wire.
    ///
    /// # Errors
    /// [`MessageError`]; the signature is not looked at.
    pub fn decode(wire: &[u8]) -> Result<Self, MessageError> {
        if wire.len() > MESSAGE_BYTES_MAX {
            return Err(MessageError::TooLarge(wire.len()));
        }
        let canonical = wire.get(SIGNATURE_BYTES..).ok_or(MessageError::Malformed)?;
        let [VERSION, fields @ ..] = canonical else { return Err(MessageError::Malformed) };
        let fields: Fields = postcard::from_bytes(fields).map_err(|_| MessageError::Malformed)?;
        let message = Message {
            room: fields.room,
            author: PublicKey::from_bytes(fields.author),
            seq: fields.seq,
            prev: fields.prev,
            parents: fields.parents,
            hlc: fields.hlc,
            body: fields.body,
        };
        message.check()?;
        if message.canonical()? != canonical {
            return Err(MessageError::NotCanonical);
        }
        Ok(Self { id: MessageId::of(canonical), message, wire: wire.to_vec() })
    }

    /// The id.
    #[must_use]
    pub const fn id(&self) -> MessageId {
        self.id
    }

    /// The content, still anybody's claim.
    #[must_use]
    pub const fn message(&self) -> &Message {
        &self.message
    }

    /// Checks the signature.
    ///
    /// # Errors
    /// [`MessageError::Signature`].
    pub fn verify(self) -> Result<Verified, MessageError> {
        let (author, signed, signature) = self.claim();
        let checked = statement::verify(&author, &signed, &signature);
        checked.map(|()| Verified(self)).map_err(|_| MessageError::Signature)
    }

    /// Who says to have signed what, and the signature.
    pub(crate) fn claim(&self) -> (PublicKey, Vec<u8>, Signature) {
        let mut signature = [0; SIGNATURE_BYTES];
        signature.copy_from_slice(&self.wire[..SIGNATURE_BYTES]);
        (self.message.author, to_sign(&self.id), Signature::from_bytes(signature))
    }

    /// The outcome of a check of [`Unverified::claim`].
    pub(crate) fn checked(self, valid: bool) -> Result<Verified, MessageId> {
        if valid { Ok(Verified(self)) } else { Err(self.id) }
    }

    /// Takes a message from this node's own store, where only verified ones are.
    #[must_use]
    pub fn trusted(self) -> Verified {
        Verified(self)
    }
}

impl Verified {
    /// The id.
    #[must_use]
    pub const fn id(&self) -> MessageId {
        self.0.id
    }

    /// The content.
    #[must_use]
    pub const fn message(&self) -> &Message {
        &self.0.message
    }

    /// The bytes that go over the wire and into the store.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.0.wire
    }
}
