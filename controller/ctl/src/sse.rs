//! Server-sent events, pure: bytes in, events out (HTML standard, 9.2).

/// The longest line kept. Our own lines have under 2 kB; a server that sends
/// more is not ours, and the rest of its line is dropped.
const LINE_BYTES_MAX: usize = 64 << 10;

/// One event of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// The id to resume after.
    pub(crate) id: Option<String>,
    /// The name, `message` when none was given.
    pub(crate) event: String,
    /// The data.
    pub(crate) data: String,
}

/// Collects bytes until events are whole.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    id: Option<String>,
    event: Option<String>,
    data: Option<String>,
}

impl Parser {
    /// Takes the next bytes; returns the events that became whole.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<Message> {
        let mut whole = Vec::new();
        for byte in bytes {
            match byte {
                b'\n' => {
                    let line = std::mem::take(&mut self.line);
                    let text = String::from_utf8_lossy(&line);
                    if let Some(message) = self.line(text.trim_end_matches('\r')) {
                        whole.push(message);
                    }
                }
                byte if self.line.len() < LINE_BYTES_MAX => self.line.push(*byte),
                _ => {}
            }
        }
        whole
    }

    fn line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            let event = self.event.take().unwrap_or_else(|| "message".to_owned());
            let data = self.data.take()?;
            return Some(Message { id: self.id.clone(), event, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.id = Some(value.to_owned()),
            "event" => self.event = Some(value.to_owned()),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            // `retry` and comments: the client has its own backoff.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_whole_however_the_bytes_are_cut() {
        let text = ": hello\nretry: 2000\n\nid: 7\nevent: rollout\ndata: {\"a\":\ndata: 1}\n\nid: 8\r\ndata:x\r\n\r\n";
        let expected = [
            Message { id: Some("7".into()), event: "rollout".into(), data: "{\"a\":\n1}".into() },
            Message { id: Some("8".into()), event: "message".into(), data: "x".into() },
        ];
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let all: Vec<Message> = text.as_bytes().chunks(size).flat_map(|chunk| parser.feed(chunk)).collect();
            assert_eq!(all, expected, "cut every {size} bytes");
        }
    }

    #[test]
    fn an_endless_line_does_not_eat_the_memory() {
        let mut parser = Parser::default();
        assert!(parser.feed(&vec![b'x'; LINE_BYTES_MAX * 3]).is_empty());
        assert_eq!(parser.line.len(), LINE_BYTES_MAX);
    }
}
