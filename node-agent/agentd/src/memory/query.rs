//! What may be asked of the index: words, and nothing of its query language.
//! *Pure.*
//!
//! Invariant: the expression holds quoted words and `OR` only, whatever was
//! asked, so no text of a caller is read as an operator, a column filter or a
//! prefix (property test `no_text_breaks_out_of_its_quotes`).

/// Words of one question that are looked for. More would make one question as
/// costly as that many; people and models name the words that matter first.
const WORDS_MAX: usize = 32;

/// Longest word, in characters. Longer ones are hashes or noise; the longest
/// name a row can have is 64.
const WORD_CHARS_MAX: usize = 64;

/// The words of a question, each once, as the earlier product took them: split
/// at white space, with everything but letters, digits and `_ - .` dropped.
pub(super) fn words(question: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for part in question.split_whitespace() {
        let word: String = part
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))
            .take(WORD_CHARS_MAX)
            .flat_map(char::to_lowercase)
            .collect();
        // A word without a letter or digit has no token and would match nothing.
        if word.chars().any(char::is_alphanumeric) && !words.contains(&word) {
            words.push(word);
            if words.len() == WORDS_MAX {
                break;
            }
        }
    }
    words
}

/// The expression that finds rows with this word. A word with `-` or `.` in it
/// is several tokens to the index; in quotes they must stand together.
pub(super) fn quoted(word: &str) -> String {
    format!("\"{}\"", word.replace('"', ""))
}

/// The expression that finds rows with any of the words.
pub(super) fn any_of(words: &[String]) -> String {
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" OR ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_cleaned_and_each_is_taken_once() {
        for (question, expected) in [
            ("nginx restart", vec!["nginx", "restart"]),
            ("  Nginx   nginx ", vec!["nginx"]),
            ("type:\"x\" OR NEAR(a b) *", vec!["typex", "or", "neara", "b"]),
            ("'; DROP TABLE words; --", vec!["drop", "table", "words"]),
            ("web-1.example_x ü", vec!["web-1.example_x", "ü"]),
            ("\"\" - . _ ()", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(words(question), expected, "{question}");
        }
        let many = (0..100).map(|n| format!("w{n}")).collect::<Vec<_>>().join(" ");
        assert_eq!(words(&many).len(), WORDS_MAX);
        assert_eq!(words(&"x".repeat(5000))[0].len(), WORD_CHARS_MAX);
    }

    proptest! {
        #[test]
        fn no_text_breaks_out_of_its_quotes(question in "\\PC{0,200}|[\"*^:(){}+ORNAND-]{0,80}") {
            let words = words(&question);
            for (place, part) in any_of(&words).split('"').enumerate() {
                if place % 2 == 0 {
                    prop_assert!(part.is_empty() || part == " OR ", "{part:?}");
                }
            }
            if words.is_empty() {
                return Ok(());
            }
            let conn = rusqlite::Connection::open_in_memory().unwrap();
            conn.execute_batch("CREATE VIRTUAL TABLE w USING fts5(a, tokenize='porter unicode61')").unwrap();
            let found: rusqlite::Result<i64> =
                conn.query_row("SELECT count(*) FROM w WHERE w MATCH ?1", [any_of(&words)], |row| row.get(0));
            prop_assert_eq!(found.unwrap(), 0);
        }
    }
}
