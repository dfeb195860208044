//! Signed notes (C2SP signed-note) with the two kinds of signatures that a
//! ledger needs: a log's own (Ed25519, type 0x01) and a witness's timestamped
//! cosignature (C2SP tlog-cosignature v1, type 0x04). *Pure.*
//!
//! Invariant: a text has one reading. What the specification leaves to taste
//! (line ends, a dash for the em dash, a key that signs twice) is refused.
//!
//! This file does not know what a note says; that is `checkpoint.rs`.

use std::fmt;

use data_encoding::{BASE64, HEXLOWER};
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::base64;

/// Longest note, in bytes. A checkpoint is 250 bytes and each signature 200 at
/// most, so this is room for hundreds; anything longer is an attack on memory.
pub const NOTE_BYTES_MAX: usize = 64 << 10;

/// Most signatures on a note. C2SP asks for at least 16.
pub const SIGNATURES_MAX: usize = 100;

/// Longest key name, in bytes: a limit of ours, so that a line fits a screen.
pub const NAME_BYTES_MAX: usize = 255;

/// What a signature line begins with.
const SIGNATURE_MARK: &str = "\u{2014} ";

const KEY_ID_BYTES: usize = 4;
const SIGNATURE_BYTES: usize = 64;
const TIME_BYTES: usize = 8;

/// Whoever can sign: a key in memory, or one that lies elsewhere.
pub trait Signer: Send + Sync {
    /// The Ed25519 public key.
    fn public(&self) -> [u8; 32];

    /// The Ed25519 signature over the message.
    fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES];
}

impl Signer for SigningKey {
    fn public(&self) -> [u8; 32] {
        self.verifying_key().to_bytes()
    }

    fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        ed25519_dalek::Signer::sign(self, message).to_bytes()
    }
}

/// What a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// The text as it is.
    Log,
    /// The text under the header `cosignature/v1` and a time.
    Witness,
}

impl KeyKind {
    const fn byte(self) -> u8 {
        match self {
            KeyKind::Log => 0x01,
            KeyKind::Witness => 0x04,
        }
    }
}

/// Something is no note, no key, or not signed as it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// The bytes break the form of a note.
    #[error("no signed note: {0}")]
    Form(&'static str),
    /// A text is no verifier key.
    #[error("no verifier key: {0}")]
    Key(&'static str),
    /// A signature of a known key does not verify.
    #[error("the signature of {name} does not verify")]
    Signature {
        /// The key's name.
        name: String,
    },
    /// A known key signed more than once, so which signature counts is open.
    #[error("{name} signed more than once")]
    Twice {
        /// The key's name.
        name: String,
    },
}

/// A public key under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    kind: KeyKind,
    public: VerifyingKey,
    id: [u8; KEY_ID_BYTES],
}

impl VerifierKey {
    /// A key from its parts.
    ///
    /// # Errors
    /// [`NoteError::Key`] for a name that may not stand in a note or bytes that
    /// are no usable Ed25519 key.
    pub fn new(name: &str, kind: KeyKind, public: &[u8; 32]) -> Result<Self, NoteError> {
        if !is_name(name) {
            return Err(NoteError::Key("the name is empty, too long, or has a space or a plus"));
        }
        let key = VerifyingKey::from_bytes(public).map_err(|_| NoteError::Key("not an Ed25519 public key"))?;
        if key.is_weak() {
            return Err(NoteError::Key("a key of small order verifies anything"));
        }
        let id = Sha256::new().chain_update(name).chain_update([b'\n', kind.byte()]).chain_update(public).finalize();
        let id = [id[0], id[1], id[2], id[3]];
        Ok(Self { name: name.to_owned(), kind, public: key, id })
    }

    /// Reads `name+id+key`, as `Display` writes it.
    ///
    /// # Errors
    /// [`NoteError::Key`], also when the id is not that of the name and key.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::Key("not three parts joined by plus"));
        };
        let bytes = base64::decode(key).ok_or(NoteError::Key("the key is not base64"))?;
        let kind = match bytes.first() {
            Some(0x01) => KeyKind::Log,
            Some(0x04) => KeyKind::Witness,
            _ => return Err(NoteError::Key("unknown signature type")),
        };
        let public = bytes[1..].try_into().map_err(|_| NoteError::Key("the key has not 32 bytes"))?;
        let key = Self::new(name, kind, public)?;
        if HEXLOWER.encode(&key.id) != id {
            return Err(NoteError::Key("the id is not that of the name and key"));
        }
        Ok(key)
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the key signs.
    #[must_use]
    pub const fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The key's bytes.
    #[must_use]
    pub fn public(&self) -> &[u8; 32] {
        self.public.as_bytes()
    }

    fn is_of(&self, signature: &NoteSignature) -> bool {
        signature.name == self.name && signature.id == self.id
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&[self.kind.byte()][..], self.public.as_bytes()].concat();
        write!(f, "{}+{}+{}", self.name, HEXLOWER.encode(&self.id), BASE64.encode(&bytes))
    }
}

/// One signature line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    name: String,
    id: [u8; KEY_ID_BYTES],
    bytes: Vec<u8>,
}

impl NoteSignature {
    /// The name the line carries.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads one line, without its line end.
    ///
    /// # Errors
    /// [`NoteError::Form`].
    pub fn parse(line: &str) -> Result<Self, NoteError> {
        let rest =
            line.strip_prefix(SIGNATURE_MARK).ok_or(NoteError::Form("a signature line begins with an em dash"))?;
        let (name, signature) = rest.split_once(' ').ok_or(NoteError::Form("a signature line has three parts"))?;
        if !is_name(name) {
            return Err(NoteError::Form("the name of a key is empty, too long, or has a space or a plus"));
        }
        let bytes = base64::decode(signature).ok_or(NoteError::Form("a signature is not plain base64"))?;
        let (id, bytes) =
            bytes.split_first_chunk::<KEY_ID_BYTES>().ok_or(NoteError::Form("a signature is shorter than its id"))?;
        if bytes.is_empty() {
            return Err(NoteError::Form("a signature is empty"));
        }
        Ok(Self { name: name.to_owned(), id: *id, bytes: bytes.to_vec() })
    }
}

impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.id[..], &self.bytes].concat();
        write!(f, "{SIGNATURE_MARK}{} {}", self.name, BASE64.encode(&bytes))
    }
}

/// What a verified signature says beyond the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signed {
    /// When a witness signed, in seconds since the epoch; logs do not say.
    pub time_s: Option<u64>,
}

/// A text and the signatures under it, none of them checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

impl Note {
    /// Reads a note.
    ///
    /// # Errors
    /// [`NoteError::Form`].
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > NOTE_BYTES_MAX {
            return Err(NoteError::Form("it is too long"));
        }
        let note = std::str::from_utf8(bytes).map_err(|_| NoteError::Form("it is not UTF-8"))?;
        if note.chars().any(|c| c < ' ' && c != '\n') {
            return Err(NoteError::Form("it has a control character"));
        }
        let at = note.rfind("\n\n").ok_or(NoteError::Form("no empty line before the signatures"))?;
        let (text, lines) = (&note[..=at], &note[at + 2..]);
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Form("the last line does not end"))?;
        if text == "\n" {
            return Err(NoteError::Form("it has no text"));
        }
        let signatures = lines.split('\n').map(NoteSignature::parse).collect::<Result<Vec<_>, _>>()?;
        if signatures.len() > SIGNATURES_MAX {
            return Err(NoteError::Form("it has too many signatures"));
        }
        Ok(Self { text: text.to_owned(), signatures })
    }

    /// Signs a text as a log.
    ///
    /// # Errors
    /// [`NoteError::Key`] when the name may not stand in a note;
    /// [`NoteError::Form`] when the text may not.
    pub fn sign(text: &str, name: &str, signer: &dyn Signer) -> Result<Self, NoteError> {
        let is_text = text.len() > 1 && text.ends_with('\n') && !text.chars().any(|c| c < ' ' && c != '\n');
        if !is_text {
            return Err(NoteError::Form("the text is empty, does not end, or has a control character"));
        }
        let key = VerifierKey::new(name, KeyKind::Log, &signer.public())?;
        let bytes = signer.sign(text.as_bytes()).to_vec();
        Ok(Self { text: text.to_owned(), signatures: vec![NoteSignature { name: key.name, id: key.id, bytes }] })
    }

    /// The cosignature of a witness over a text.
    ///
    /// # Errors
    /// [`NoteError::Key`] when the name may not stand in a note;
    /// [`NoteError::Form`] when the time is above 2⁶³ − 1.
    pub fn cosign(text: &str, name: &str, signer: &dyn Signer, time_s: u64) -> Result<NoteSignature, NoteError> {
        if i64::try_from(time_s).is_err() {
            return Err(NoteError::Form("the time is out of range"));
        }
        let key = VerifierKey::new(name, KeyKind::Witness, &signer.public())?;
        let signature = signer.sign(cosigned(text, time_s).as_bytes());
        let bytes = [&time_s.to_be_bytes()[..], &signature].concat();
        Ok(NoteSignature { name: key.name, id: key.id, bytes })
    }

    /// The text, with its last line end.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signature lines.
    #[must_use]
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// The same text with the lines of one key alone. Whoever keeps a note keeps
    /// this: the lines of others were not asked for and can be made to any length.
    #[must_use]
    pub fn only_of(&self, key: &VerifierKey) -> Self {
        let is_of = |line: &&NoteSignature| line.name == key.name && line.id == key.id;
        Self { text: self.text.clone(), signatures: self.signatures.iter().filter(is_of).take(1).cloned().collect() }
    }

    /// A text with the signature of one log, checked.
    ///
    /// # Errors
    /// [`NoteError::Signature`].
    pub fn of(text: &str, key: &VerifierKey, signature: &[u8; SIGNATURE_BYTES]) -> Result<Self, NoteError> {
        let line = NoteSignature { name: key.name.clone(), id: key.id, bytes: signature.to_vec() };
        check(text, &line, key)?;
        Ok(Self { text: text.to_owned(), signatures: vec![line] })
    }

    /// The bytes of a log's signature, unchecked; `None` when it did not sign.
    #[must_use]
    pub fn signature_of(&self, key: &VerifierKey) -> Option<[u8; SIGNATURE_BYTES]> {
        let line = self.signatures.iter().find(|line| key.is_of(line))?;
        line.bytes.as_slice().try_into().ok()
    }

    /// Adds a line, in the place of one of the same key.
    pub fn add(&mut self, signature: NoteSignature) {
        let same = |other: &&mut NoteSignature| other.name == signature.name && other.id == signature.id;
        match self.signatures.iter_mut().find(same) {
            Some(place) => *place = signature,
            None => self.signatures.push(signature),
        }
    }

    /// What the key says about the text; `None` when it did not sign. Lines of
    /// other keys are not looked at.
    ///
    /// # Errors
    /// [`NoteError::Signature`] when its signature does not verify,
    /// [`NoteError::Twice`] when it has more than one.
    pub fn check(&self, key: &VerifierKey) -> Result<Option<Signed>, NoteError> {
        let mut own = self.signatures.iter().filter(|signature| key.is_of(signature));
        let Some(signature) = own.next() else { return Ok(None) };
        if own.next().is_some() {
            return Err(NoteError::Twice { name: key.name.clone() });
        }
        check(&self.text, signature, key).map(Some)
    }

    /// Checks a line that is not in the note (yet).
    ///
    /// # Errors
    /// [`NoteError::Signature`], also when the line is not of that key.
    pub fn check_line(&self, signature: &NoteSignature, key: &VerifierKey) -> Result<Signed, NoteError> {
        if !key.is_of(signature) {
            return Err(NoteError::Signature { name: signature.name.clone() });
        }
        check(&self.text, signature, key)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

fn check(text: &str, signature: &NoteSignature, key: &VerifierKey) -> Result<Signed, NoteError> {
    let refused = || NoteError::Signature { name: key.name.clone() };
    let (time_s, bytes) = match key.kind {
        KeyKind::Log => (None, &signature.bytes[..]),
        KeyKind::Witness => {
            let (time, rest) = signature.bytes.split_first_chunk::<TIME_BYTES>().ok_or_else(refused)?;
            (Some(u64::from_be_bytes(*time)).filter(|time| i64::try_from(*time).is_ok()), rest)
        }
    };
    let message = match (key.kind, time_s) {
        (KeyKind::Log, _) => text.to_owned(),
        (KeyKind::Witness, Some(time_s)) => cosigned(text, time_s),
        (KeyKind::Witness, None) => return Err(refused()),
    };
    let bytes: &[u8; SIGNATURE_BYTES] = bytes.try_into().map_err(|_| refused())?;
    key.public.verify_strict(message.as_bytes(), &Signature::from_bytes(bytes)).map_err(|_| refused())?;
    Ok(Signed { time_s })
}

/// The message of a cosignature (tlog-cosignature, "Ed25519 signed message").
fn cosigned(text: &str, time_s: u64) -> String {
    format!("cosignature/v1\ntime {time_s}\n{text}")
}

/// Whether a text may be the name of a key.
#[must_use]
pub fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n";

    /// The example of C2SP tlog-cosignature: two real signatures.
    const EXAMPLE: &str = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\
        \u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n\
        \u{2014} witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n";

    fn signer(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    fn key(name: &str, kind: KeyKind, n: u8) -> VerifierKey {
        VerifierKey::new(name, kind, &signer(n).public()).unwrap()
    }

    #[test]
    fn the_example_of_the_specification_is_read_and_written_back() {
        let note = Note::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(note.signatures().len(), 2);
        assert_eq!(note.to_string(), EXAMPLE);
        assert_eq!(note.signatures()[1].bytes[..8], 1_679_315_147_u64.to_be_bytes());
    }

    #[test]
    fn the_reference_key_of_the_go_library_is_read() {
        // golang.org/x/mod/sumdb/note, its documentation's example.
        let text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let key = VerifierKey::parse(text).unwrap();
        assert_eq!(key.to_string(), text);
        let note = format!(
            "{TEXT}\n\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
        );
        assert_eq!(Note::parse(note.as_bytes()).unwrap().check(&key), Ok(Some(Signed { time_s: None })));
        assert!(VerifierKey::parse(&text.replace("c74f", "c74e")).is_err());
        assert!(VerifierKey::parse(&text.replace("Peter", "Paul")).is_err());
    }

    #[test]
    fn logs_and_witnesses_sign_and_are_checked_apart() {
        let mut note = Note::sign(TEXT, "log", &signer(1)).unwrap();
        note.add(Note::cosign(TEXT, "w", &signer(2), 1_700_000_000).unwrap());
        let note = Note::parse(note.to_string().as_bytes()).unwrap();
        assert_eq!(note.check(&key("log", KeyKind::Log, 1)), Ok(Some(Signed { time_s: None })));
        assert_eq!(note.check(&key("w", KeyKind::Witness, 2)), Ok(Some(Signed { time_s: Some(1_700_000_000) })));
        for other in [key("log", KeyKind::Log, 3), key("log", KeyKind::Witness, 1), key("l", KeyKind::Log, 1)] {
            assert_eq!(note.check(&other), Ok(None));
        }
    }

    #[test]
    fn a_line_of_the_same_key_is_replaced() {
        let mut note = Note::sign(TEXT, "log", &signer(1)).unwrap();
        for time in [1, 2, 3] {
            note.add(Note::cosign(TEXT, "w", &signer(2), time).unwrap());
        }
        assert_eq!(note.signatures().len(), 2);
        assert_eq!(note.check(&key("w", KeyKind::Witness, 2)), Ok(Some(Signed { time_s: Some(3) })));
    }

    #[test]
    fn a_time_that_was_changed_does_not_verify() {
        let note = Note::sign(TEXT, "log", &signer(1)).unwrap();
        let mut line = Note::cosign(TEXT, "w", &signer(2), 1000).unwrap();
        line.bytes[7] ^= 1;
        assert!(note.check_line(&line, &key("w", KeyKind::Witness, 2)).is_err());
        assert!(Note::cosign(TEXT, "w", &signer(2), u64::MAX).is_err());
    }
}
