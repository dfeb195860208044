//! A call as it is hashed, shown, approved and run. *Pure.*
//!
//! Invariant: two calls with the same hash are the same call on the same host,
//! in the same session, asked for once: the hash is over all that decides what
//! runs (`trust.md` 3.3), the *resolved* object included.

use osmoda_types::{CallHash, NodeId};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::json::{self, JsonFault};
use crate::tool::{Operation, Tool};

/// What every call hash begins with.
const CALL_DOMAIN: &[u8] = b"osm-call-v1\0";

/// What every subject hash begins with.
const SUBJECT_DOMAIN: &[u8] = b"osm-subject-v1\0";

/// Longest session id: a UUID with a prefix fits twice.
pub const SESSION_BYTES_MAX: usize = 64;

/// Largest canonical text of a call that is stored. It is read again from the
/// tables, and inside the body of a run together with its permit, the hashes of a
/// plan (4 KiB) and the signatures (16 FIDO ones have 12 KiB): all of that has to
/// stay below [`TEXT_BYTES_MAX`](json::TEXT_BYTES_MAX), or the permit could be
/// asked for and never read, denied or used.
pub const CALL_BYTES_MAX: usize = json::TEXT_BYTES_MAX - 32 * 1024;

/// Random bytes of a nonce: as many as make a repeat impossible.
pub const NONCE_BYTES: usize = 16;

const FIELDS: [&str; 6] = ["args", "host_id", "nonce", "schema_sha256", "session_id", "tool"];

/// A text or value that is no call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallFault {
    /// It has more than one reading.
    #[error(transparent)]
    Json(#[from] JsonFault),
    /// A field is missing, unknown or of the wrong shape.
    #[error("{0}")]
    Field(String),
    /// No tool has this name.
    #[error("no tool is called {0:?}")]
    Tool(String),
    /// The tool's arguments are described by another text than when it was asked for.
    #[error("the tool's schema is another one")]
    Schema,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The host it is for.
    pub host_id: NodeId,
    /// What runs.
    pub tool: Tool,
    /// What the caller asked for, as the tool's schema reads it.
    pub operation: Operation,
    /// What it will be done to, as the executor found it.
    pub object: Map<String, Value>,
    /// The session that asked.
    pub session_id: String,
    /// Random, so that asking again is another call.
    pub nonce: [u8; NONCE_BYTES],
}

impl Call {
    /// The call as a value, with every field the hash covers.
    #[must_use]
    pub fn to_value(&self) -> Value {
        json!({
            "args": { "asked": self.operation.to_args(), "object": self.object },
            "host_id": self.host_id,
            "nonce": data_encoding::HEXLOWER.encode(&self.nonce),
            "schema_sha256": self.tool.schema_sha256(),
            "session_id": self.session_id,
            "tool": self.tool.name(),
        })
    }

    /// The canonical text.
    ///
    /// # Errors
    /// [`JsonFault`] when the object holds what is no strict JSON.
    pub fn canonical(&self) -> Result<String, JsonFault> {
        json::canonical(&self.to_value())
    }

    /// The hash a permit is bound to.
    ///
    /// # Errors
    /// As [`Call::canonical`].
    pub fn hash(&self) -> Result<CallHash, JsonFault> {
        let text = self.canonical()?;
        let digest = Sha256::new().chain_update(CALL_DOMAIN).chain_update(text).finalize();
        Ok(CallHash::from_bytes(digest.into()))
    }

    /// The hash of what is asked for, whoever asks and how often: a denial
    /// holds for this, so that asking again is no way around it.
    ///
    /// # Errors
    /// As [`Call::canonical`].
    pub fn subject(&self) -> Result<CallHash, JsonFault> {
        let subject = json!({ "asked": self.operation.to_args(), "host_id": self.host_id, "tool": self.tool.name() });
        let text = json::canonical(&subject)?;
        let digest = Sha256::new().chain_update(SUBJECT_DOMAIN).chain_update(text).finalize();
        Ok(CallHash::from_bytes(digest.into()))
    }

    /// Reads a call from text.
    ///
    /// # Errors
    /// [`CallFault`].
    pub fn parse(text: &[u8]) -> Result<Self, CallFault> {
        Self::from_value(&json::parse(text)?)
    }

    /// Reads a call from a value that was read strictly.
    ///
    /// # Errors
    /// [`CallFault`].
    pub fn from_value(value: &Value) -> Result<Self, CallFault> {
        json::check(value)?;
        let fields = object(value, "the call")?;
        exactly(fields, &FIELDS, "the call")?;
        let name = text(fields, "tool")?;
        let tool = Tool::of(name).ok_or_else(|| CallFault::Tool(name.chars().take(64).collect()))?;
        if text(fields, "schema_sha256")? != tool.schema_sha256() {
            return Err(CallFault::Schema);
        }
        let args = object(&fields["args"], "args")?;
        exactly(args, &["asked", "object"], "args")?;
        let operation = tool.parse(object(&args["asked"], "args.asked")?)?;
        let host_id = text(fields, "host_id")?;
        let nonce = text(fields, "nonce")?;
        let session_id = text(fields, "session_id")?;
        check_session(session_id)?;
        Ok(Self {
            host_id: host_id.parse().map_err(|_| CallFault::Field("host_id is no node id".into()))?,
            tool,
            operation,
            object: object(&args["object"], "args.object")?.clone(),
            session_id: session_id.to_owned(),
            nonce: parse_nonce(nonce).ok_or_else(|| CallFault::Field("nonce is not 32 hex digits".into()))?,
        })
    }
}

/// Checks a session id: 1 to [`SESSION_BYTES_MAX`] of `[a-z0-9_.:-]`.
///
/// # Errors
/// [`CallFault::Field`].
pub fn check_session(id: &str) -> Result<(), CallFault> {
    let fits = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b':' | b'-');
    if (1..=SESSION_BYTES_MAX).contains(&id.len()) && id.bytes().all(fits) {
        return Ok(());
    }
    Err(CallFault::Field(format!("session_id does not match [a-z0-9_.:-]{{1,{SESSION_BYTES_MAX}}}")))
}

fn parse_nonce(text: &str) -> Option<[u8; NONCE_BYTES]> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

fn object<'a>(value: &'a Value, name: &str) -> Result<&'a Map<String, Value>, CallFault> {
    value.as_object().ok_or_else(|| CallFault::Field(format!("{name} is no object")))
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a str, CallFault> {
    fields[name].as_str().ok_or_else(|| CallFault::Field(format!("{name} is no text")))
}

/// Every name once, and no other.
pub(crate) fn exactly(fields: &Map<String, Value>, names: &[&str], of: &str) -> Result<(), CallFault> {
    if let Some(unknown) = fields.keys().find(|key| !names.contains(&key.as_str())) {
        let unknown: String = unknown.chars().take(40).collect();
        return Err(CallFault::Field(format!("{of} has the unknown field {unknown:?}")));
    }
    match names.iter().find(|name| !fields.contains_key(**name)) {
        Some(missing) => Err(CallFault::Field(format!("{of} lacks the field {missing:?}"))),
        None => Ok(()),
    }
}
