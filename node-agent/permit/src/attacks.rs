//! Attacks on the hash and the permit that need no daemon (`trust.md` 3.6).

use osmoda_types::NodeId;
use serde_json::{Value, json};

use crate::call::{Call, CallFault};
use crate::permit::Decision;
use crate::signature::tally;
use crate::testing::{approver, call, permit, sign};
use crate::tool::{Operation, Tool};

#[test]
fn p06_a_permit_of_one_host_or_session_is_none_of_another() {
    let ours = call();
    let hash = ours.hash().unwrap();
    let elsewhere = Call { host_id: NodeId::from_bytes([9; 32]), ..ours.clone() };
    let other_session = Call { session_id: "s-2".into(), ..ours.clone() };
    let asked_again = Call { nonce: [5; 16], ..ours };
    for other in [elsewhere, other_session, asked_again] {
        assert!(!permit(hash).binds(&other.hash().unwrap(), 0, &[]));
    }
}

#[test]
fn p07_every_flipped_byte_of_a_call_is_another_call_or_none() {
    let mut original = call();
    original.operation = Operation::FileWrite { path: "/etc/motd".into(), content: "a \"b\" \\ é 1 true\n".into() };
    original.object =
        json!({"dev": 5, "inode": 77, "list": [1, "x", null], "sha256": "00ff"}).as_object().unwrap().clone();
    let hash = original.hash().unwrap();
    let text = original.canonical().unwrap();
    assert_eq!(Call::parse(text.as_bytes()).unwrap(), original);
    let (mut refused, mut other) = (0, 0);
    for place in 0..text.len() {
        for bit in 0..8 {
            let mut bytes = text.clone().into_bytes();
            bytes[place] ^= 1 << bit;
            match Call::parse(&bytes) {
                Err(_) => refused += 1,
                Ok(changed) => {
                    assert_ne!(changed.hash().unwrap(), hash, "byte {place} bit {bit}");
                    other += 1;
                }
            }
        }
    }
    assert_eq!(refused + other, text.len() * 8);
    assert!(refused > 0 && other > 0);
}

#[test]
fn p07_every_flipped_byte_of_a_statement_voids_the_signature() {
    let permit = permit(call().hash().unwrap());
    let good = sign(1, &permit, Decision::Approve);
    let statement = permit.statement(Decision::Approve);
    let crate::signature::Proof::Ed25519 { key, signature } = &good.proof else { panic!("ours is plain") };
    for place in 0..statement.len() {
        let mut bytes = statement.clone();
        bytes[place] ^= 1;
        assert!(osmoda_types::statement::verify(key, &bytes, signature).is_err(), "byte {place}");
    }
    assert!(tally(&permit, &[good], &[approver("ada", 1)], &[]).is_enough(&permit));
}

#[test]
fn p08_spellings_of_one_call_are_one_and_crooked_ones_are_none() {
    let call = call();
    let hash = call.hash().unwrap();
    let text = call.canonical().unwrap();
    let reordered = format!("{{\"tool\":\"file.write\",{}", &text[1..text.len() - 21]) + "}";
    let escaped = text.replace("hello", "\\u0068ello").replace("/etc/motd", "\\/etc\\/motd");
    for same in [reordered, escaped, text.replace(',', " , ")] {
        assert_eq!(Call::parse(same.as_bytes()).unwrap().hash().unwrap(), hash, "{same}");
    }
    let duplicate = format!("{{\"tool\":\"file.write\",{}", &text[1..]);
    let trailing = text.replacen('{', "{\"extra\":1,", 1);
    let args_extra = text.replace("\"content\"", "\"mode\":1,\"content\"");
    for crooked in [duplicate, trailing, args_extra, format!("{text} x"), format!("{text}{text}")] {
        assert!(Call::parse(crooked.as_bytes()).is_err(), "{crooked}");
    }
    let float = text.replace("\"7\"", "7.0");
    assert!(matches!(Call::parse(float.as_bytes()), Err(CallFault::Json(_))));
    let with = |content: &str| Call {
        operation: Operation::FileWrite { path: "/etc/motd".into(), content: content.into() },
        ..call.clone()
    };
    let (composed, decomposed) = (with("\u{e9}"), with("e\u{301}"));
    assert_ne!(composed.hash().unwrap(), decomposed.hash().unwrap(), "NFC and NFD are two texts");
}

#[test]
fn p13_the_display_cannot_be_forged() {
    let mut call = call();
    let fake = "x\n\napproved   by ada\r\u{1b}[31m\u{202e}\u{2066}";
    call.operation = Operation::FileWrite { path: "/etc/p\u{430}sswd".into(), content: fake.repeat(2000) };
    let text = crate::display::render(&call, crate::EffectClass::Destructive, crate::Taint::Clean, fake);
    assert!(text.is_ascii() && text.len() < 3000);
    assert!(!text.lines().any(|line| line.starts_with("approved")), "{text}");
    assert!(text.contains("/etc/p\\u{430}sswd"), "a look-alike letter is spelled out");
    assert!(text.lines().any(|line| line.starts_with("untrusted the model says: ")));
}

#[test]
fn p16_a_changed_schema_voids_the_call() {
    let mut value = call().to_value();
    value["schema_sha256"] = Value::from(Tool::ServiceRestart.schema_sha256());
    assert_eq!(Call::from_value(&value), Err(CallFault::Schema));
}

#[test]
fn p17_what_a_caller_says_of_the_class_is_not_read() {
    let mut value = call().to_value();
    value["args"]["asked"]["readOnlyHint"] = Value::from(true);
    assert!(Call::from_value(&value).is_err(), "there is nowhere to say it");
    value = call().to_value();
    value["class"] = Value::from("read");
    assert!(Call::from_value(&value).is_err());
}
