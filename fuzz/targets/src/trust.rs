//! The parsers of what ledgers, witnesses and approvers say: signed notes,
//! requests, rows, calls and permits.

use osmoda_ledger::checkpoint::Checkpoint;
use osmoda_ledger::exchange::{AddCheckpoint, Response};
use osmoda_ledger::note::{Note, NoteSignature, VerifierKey};
use osmoda_ledger::payload::Payload;
use osmoda_ledger::policy::Policy;
use osmoda_ledger::record::Row;
use osmoda_permit::{Call, Decision, HostTrust, SignedPermit, json};
use osmoda_types::ErrorCode;

/// A signed note, what stands in one, and what is asked and answered with it.
///
/// # Panics
/// When a text that is accepted has another spelling.
pub fn note(bytes: &[u8]) {
    if let Ok(note) = Note::parse(bytes) {
        assert_eq!(note.to_string().as_bytes(), bytes, "a note has one spelling");
        if let Ok(checkpoint) = Checkpoint::parse(note.text()) {
            assert_eq!(checkpoint.to_string(), note.text(), "a checkpoint has one spelling");
        }
    }
    if let Ok(request) = AddCheckpoint::parse(bytes) {
        assert_eq!(request.to_string().as_bytes(), bytes, "a request has one spelling");
    }
    if let Some(row) = Row::from_record(bytes) {
        let mut record = Vec::new();
        row.record_into(&mut record);
        assert_eq!(record, bytes, "a record has one spelling");
    }
    let full = Payload::check(bytes);
    assert_eq!(Payload::check_form(bytes), full.clone().map(drop), "the quick look and the full check agree");
    let intent = full.map(|object| object.get("intent").and_then(serde_json::Value::as_u64));
    assert_eq!(Payload::check_intent(bytes), intent, "and on the intent");
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(line) = NoteSignature::parse(text) {
        assert_eq!(line.to_string(), text, "a signature line has one spelling");
    }
    for status in [200, 409] {
        if let Ok(response) = Response::parse(status, text) {
            assert_eq!(response.body(), text, "an answer has one spelling");
        }
    }
    // Both have comments or white space: only that they end in order is asked.
    drop((VerifierKey::parse(text), Policy::parse(text)));
}

/// Strict JSON, a call, a permit, a host's trust file.
///
/// # Panics
/// When an accepted call is not the one that its canonical text says.
pub fn permit(bytes: &[u8]) {
    if let Ok(value) = json::parse(bytes) {
        let text = json::canonical(&value).expect("what was read strictly has a canonical text");
        assert_eq!(json::parse(text.as_bytes()).as_ref(), Ok(&value), "its canonical text says the same");
    }
    if let Ok(call) = Call::parse(bytes) {
        let text = call.canonical().expect("a call that was read has a canonical text");
        let again = Call::parse(text.as_bytes()).expect("and is read again");
        assert_eq!(again.hash(), call.hash(), "one call, one hash");
    }
    if let Ok(signed) = serde_json::from_slice::<SignedPermit>(bytes) {
        let said = [Decision::Approve, Decision::Deny].map(|decision| signed.permit.statement(decision));
        assert_ne!(said[0], said[1], "a yes is no no");
    }
    let trust: Result<HostTrust, ErrorCode> = HostTrust::parse(bytes);
    drop(trust);
}
