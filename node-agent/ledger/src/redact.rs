//! Keeps secrets out of records: rule L4 of `trust.md` 1.3. *Pure.*
//!
//! A record cannot be taken back, so a value whose key says that it is a
//! secret, or that looks like a private key, is replaced before the row is
//! hashed. This is the last net, for a daemon that forgot; it knows names and
//! one shape, not every secret.

use serde_json::{Map, Value};

/// What stands in the place of a secret.
pub const REDACTED: &str = "[redacted]";

/// Last words of keys whose text values are secrets. The match is on the whole
/// key or on its end after `_` or `-`, so `public_key` and `token_count` stay.
const SECRET_KEYS: [&str; 10] = [
    "password",
    "passphrase",
    "secret",
    "token",
    "private_key",
    "secret_key",
    "api_key",
    "apikey",
    "authorization",
    "cookie",
];

/// Replaces secrets in place, at every depth.
pub fn redact(object: &mut Map<String, Value>) {
    for (key, value) in object.iter_mut() {
        if is_secret_key(key) {
            hide(value);
        } else {
            redact_value(value);
        }
    }
}

fn redact_value(value: &mut Value) {
    match value {
        Value::Object(object) => redact(object),
        Value::Array(items) => items.iter_mut().for_each(redact_value),
        Value::String(text) if is_private_key(text) => hide(value),
        _ => {}
    }
}

/// Booleans and null say only whether there is a secret, so they stay.
fn hide(value: &mut Value) {
    if !matches!(value, Value::Null | Value::Bool(_)) {
        *value = Value::from(REDACTED);
    }
}

fn is_secret_key(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    SECRET_KEYS.iter().any(|word| {
        key.strip_suffix(word).is_some_and(|rest| rest.is_empty() || rest.ends_with('_') || rest.ends_with('-'))
    })
}

fn is_private_key(text: &str) -> bool {
    text.contains("PRIVATE KEY-----") || text.contains("AGE-SECRET-KEY-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(json: Value) -> Value {
        let Value::Object(mut object) = json else { panic!("an object") };
        redact(&mut object);
        Value::Object(object)
    }

    #[test]
    fn secrets_are_replaced_at_every_depth() {
        let canary = "canary-5f2c";
        let out = redacted(serde_json::json!({
            "password": canary,
            "nested": [{"db_Password": canary, "api-token": [canary]}, {"secret": {"inner": canary}}],
            "text": format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{canary}"),
            "list": [format!("-----BEGIN PRIVATE KEY-----{canary}")],
        }));
        assert!(!out.to_string().contains(canary), "{out}");
        assert_eq!(out["nested"][0]["db_Password"], REDACTED);
    }

    #[test]
    fn what_only_mentions_a_secret_stays() {
        let plain = serde_json::json!({
            "public_key": "ab", "token_count": 3, "secretary": "x", "has_password": true, "secret_hash": "cd", "n": 1
        });
        assert_eq!(redacted(plain.clone()), plain);
    }
}
