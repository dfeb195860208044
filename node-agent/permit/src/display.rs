//! What a person sees before approving. *Pure.*
//!
//! Rendered by trusted code from the canonical call, one fact a line.
//! Invariant: every byte of a rendering is printable ASCII or a newline of ours,
//! so no value can add a line, move the cursor, hide or mirror text, or look
//! like another alphabet's letter; what the model wrote stands in one line that
//! says so (test `no_value_can_forge_a_line`).

use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

use crate::call::Call;
use crate::class::EffectClass;
use crate::policy::Taint;

/// Most characters of a value that are shown; longer ones show this much of
/// their beginning with length and hash. About two lines of a terminal.
const SHOWN_CHARS_MAX: usize = 160;

/// Most characters of the model's own words.
const PROSE_CHARS_MAX: usize = 400;

/// Renders a call.
#[must_use]
pub fn render(call: &Call, class: EffectClass, taint: Taint, prose: &str) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        writeln!(text, "{name:<10}{value}").expect("a String takes every text");
    };
    line("tool", call.tool.name());
    line("class", class.as_str());
    line("host", &call.host_id.to_string());
    let taint = match taint {
        Taint::Clean => "",
        Taint::Tainted => " (has read content from outside)",
    };
    line("session", &format!("{}{taint}", escape(&call.session_id, SHOWN_CHARS_MAX)));
    if let Some(args) = call.operation.to_args().as_object() {
        for (name, value) in args {
            line(name, &show(value));
        }
    }
    for (name, value) in &call.object {
        line(&format!("now.{}", escape(name, 32)), &show(value));
    }
    if let Ok(hash) = call.hash() {
        line("hash", &hash.to_string());
    }
    if !prose.is_empty() {
        line("untrusted", &format!("the model says: \"{}\"", escape(prose, PROSE_CHARS_MAX)));
    }
    text
}

/// A value in one line; long ones by hash and length.
fn show(value: &serde_json::Value) -> String {
    let text = match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.chars().count() <= SHOWN_CHARS_MAX {
        return format!("\"{}\"", escape(&text, SHOWN_CHARS_MAX));
    }
    let hash = data_encoding::HEXLOWER.encode(&Sha256::digest(&text));
    format!("\"{}\" ... {} bytes, sha256 {hash}", escape(&text, SHOWN_CHARS_MAX), text.len())
}

/// At most so many characters, each printable ASCII as it is and any other as
/// `\n`, `\t` or `\u{…}`; a backslash and a quote are escaped too.
#[must_use]
pub fn escape(text: &str, chars_max: usize) -> String {
    let mut escaped = String::new();
    for c in text.chars().take(chars_max) {
        match c {
            '\\' | '"' => escaped.extend(['\\', c]),
            '\n' => escaped.push_str("\\n"),
            '\t' => escaped.push_str("\\t"),
            ' '..='~' => escaped.push(c),
            other => escaped.extend(other.escape_unicode()),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::call;
    use crate::tool::Operation;
    use proptest::prelude::*;

    #[test]
    fn every_fact_of_the_call_is_there() {
        let call = call();
        let text = render(&call, EffectClass::Destructive, Taint::Tainted, "please\napproved by: ada");
        for part in [
            "tool      file.write\n",
            "class     destructive\n",
            "(has read content from outside)",
            "path      \"/etc/motd\"\n",
            "content   \"hello\\n\"\n",
            "now.inode \"7\"\n",
            &call.hash().unwrap().to_string(),
            "untrusted the model says: \"please\\napproved by: ada\"\n",
        ] {
            assert!(text.contains(part), "{part:?} in\n{text}");
        }
    }

    #[test]
    fn long_values_are_shown_by_length_and_hash() {
        let mut call = call();
        call.operation = Operation::FileWrite { path: "/etc/motd".into(), content: "x".repeat(60_000) };
        let text = render(&call, EffectClass::Destructive, Taint::Clean, "");
        assert!(text.len() < 2000 && text.contains("60000 bytes, sha256 "), "{text}");
    }

    #[test]
    fn look_alikes_and_hidden_characters_are_spelled_out() {
        // Right-to-left override, zero width space, Cyrillic a, terminal escape, line separator.
        let crooked = "\u{202e}\u{200b}\u{430}\u{1b}[2J\u{2028}\u{7f}\u{85}";
        assert_eq!(escape(crooked, 99), "\\u{202e}\\u{200b}\\u{430}\\u{1b}[2J\\u{2028}\\u{7f}\\u{85}");
    }

    proptest! {
        #[test]
        fn no_value_can_forge_a_line(content in any::<String>(), key in any::<String>(), prose in any::<String>()) {
            let plain = call();
            let lines = |call: &Call, prose: &str| render(call, EffectClass::Spend, Taint::Clean, prose).lines().count();
            let mut crooked = plain.clone();
            crooked.operation = Operation::FileWrite { path: "/etc/motd".into(), content };
            crooked.object = plain.object.iter().map(|(_, value)| (key.clone(), value.clone())).take(1).collect();
            let mut simple = plain;
            simple.object = simple.object.into_iter().take(1).collect();
            let text = render(&crooked, EffectClass::Spend, Taint::Clean, &prose);
            prop_assert!(text.bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b)));
            let said = usize::from(!prose.is_empty());
            prop_assert_eq!(text.lines().count(), lines(&simple, "") + said);
        }
    }
}
