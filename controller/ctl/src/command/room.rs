//! `osmoda room`: rooms of the node on this machine, over its local socket.
//!
//! Rooms live on nodes and outlive the controller, so these commands talk to the
//! mesh daemon and need no context. Text of a room comes from other machines: it
//! is printed without control characters, and it is nobody's instruction.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use futures_util::StreamExt as _;
use osmoda_kit::error::ApiError;
use osmoda_node_api::rooms::{CreateRoom, HISTORY_MAX, JoinRoom, JoinRule, RoomMessage, RoomSummary, SendText};
use osmoda_types::NodeId;
use serde_json::{Value, json};

use crate::cli::Global;
use crate::error::CliError;
use crate::exit::Exit;
use crate::local::Local;
use crate::output::{Format, Output, Rows, note, printable, typed};
use crate::sse::Parser;

/// A tail that is silent for so long is dead: the daemon sends a comment every
/// 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// Length of a room id in text.
const ID_CHARS: usize = 36;

/// Talks in rooms of the node on this machine.
#[derive(Debug, Args)]
pub(crate) struct Room {
    /// The node's root directory
    #[arg(long, global = true, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the rooms this node is a member of
    #[command(after_help = "Examples:\n  osmoda room ls\n  osmoda room ls --root /tmp/osm-dev/n1 -o json")]
    Ls,
    /// Makes a room; this node signs who is a member
    #[command(after_help = "Examples:\n  osmoda room create ops --add 3fa9…\n  osmoda room create watch --open")]
    Create {
        /// Its name
        name: String,
        /// A node that is a member from the beginning, by its id; may be repeated
        #[arg(long = "add", value_name = "NODE")]
        add: Vec<NodeId>,
        /// Let every voter and node of the fleet join by itself
        #[arg(long)]
        open: bool,
        /// Keep so many messages [default: 50000]
        #[arg(long, value_name = "N")]
        keep_messages: Option<u32>,
        /// Keep them so many days [default: 90]
        #[arg(long, value_name = "DAYS")]
        keep_days: Option<u32>,
    },
    /// Joins a room, or adds another node to it
    #[command(after_help = "Examples:\n  osmoda room join 0b8f2d0e-7a51-8c3e-9d40-5f6a7b8c9d0e\n  \
        osmoda room join ops --node 3fa9…\n\nThe node that made the room decides; it must be linked.")]
    Join {
        /// The room's id, or its name if this node is a member
        room: String,
        /// Whom to add; absent: this node
        #[arg(long, value_name = "NODE")]
        node: Option<NodeId>,
    },
    /// Leaves a room, or takes a node out of one that this node made
    #[command(after_help = "Examples:\n  osmoda room leave ops\n  osmoda room leave ops --node 3fa9…")]
    Leave {
        /// The room's id or name
        room: String,
        /// Whom to take out; absent: this node
        #[arg(long, value_name = "NODE")]
        node: Option<NodeId>,
    },
    /// Writes a message
    #[command(after_help = "Examples:\n  osmoda room send ops 'wave 2 looks good'")]
    Send {
        /// The room's id or name
        room: String,
        /// What to say
        text: String,
    },
    /// Prints messages as they come, until Ctrl-C
    #[command(after_help = "Examples:\n  osmoda room tail ops\n  osmoda room tail ops --last 20 -o jsonl")]
    Tail {
        /// The room's id or name
        room: String,
        /// Begin with so many older messages
        #[arg(long, value_name = "N", default_value_t = 10)]
        last: usize,
    },
    /// Prints the newest messages in the room's order
    #[command(after_help = "Examples:\n  osmoda room history ops\n  osmoda room history ops --limit 200 -o json")]
    History {
        /// The room's id or name
        room: String,
        /// How many, at most 500
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Shows what each member has of this node's messages
    #[command(after_help = "Examples:\n  osmoda room delivery ops")]
    Delivery {
        /// The room's id or name
        room: String,
    },
}

/// Runs the command.
pub(crate) async fn run(global: &Global, room: Room) -> Result<Exit, CliError> {
    let local = Local::new(&room.root);
    let mut out = Output::stdout(global.output);
    match room.command {
        Command::Ls => out.list::<RoomSummary>(&items(local.get("cannot list rooms", "/rooms").await?))?,
        Command::Create { name, add, open, keep_messages, keep_days } => {
            let join = if open { JoinRule::Fleet } else { JoinRule::Added };
            let (retain_messages, retain_days) = (keep_messages, keep_days);
            let create = CreateRoom { name, peer_ids: add, join, retain_messages, retain_days };
            let made = local.post("cannot make the room", "/room/create", &create).await?;
            show(&mut out, &made)?;
        }
        Command::Join { room, node } => {
            let join = JoinRoom { room_id: local.id_or_new(&room).await?, peer_id: node };
            let joined = local.post("cannot join the room", "/room/join", &join).await?;
            show(&mut out, &joined)?;
        }
        Command::Leave { room, node } => {
            let leave = JoinRoom { room_id: local.id(&room).await?, peer_id: node };
            let left = local.post("cannot leave the room", "/room/leave", &leave).await?;
            out.object(&left, |_: &Value| leave.room_id.clone(), |_| format!("left {}", leave.room_id))?;
        }
        Command::Send { room, text } => {
            let send = SendText { room_id: local.id(&room).await?, text };
            let sent = local.post("cannot send", "/room/send", &send).await?;
            let about = |sent: &osmoda_node_api::rooms::Sent| {
                format!("sent as {} of this node, to {} linked members", sent.author_seq, sent.delivered_to)
            };
            out.object(&sent, |sent| sent.id.clone(), about)?;
        }
        Command::History { room, limit } => {
            let path = format!("/room/{}/history?limit={}", local.id(&room).await?, limit.min(HISTORY_MAX));
            let history = local.get("cannot read the room", &path).await?;
            out.list::<RoomMessage>(&items(history))?;
        }
        Command::Delivery { room } => {
            let path = format!("/room/{}/delivery", local.id(&room).await?);
            let delivery = local.get("cannot read deliveries", &path).await?;
            let members = json!({ "items": delivery["members"], "author_seq": delivery["author_seq"] });
            out.list::<osmoda_node_api::rooms::Delivery>(&members)?;
        }
        Command::Tail { room, last } => {
            let id = local.id(&room).await?;
            tail(&local, &mut out, &format!("/room/{id}/tail?limit={}", last.min(HISTORY_MAX))).await?;
        }
    }
    Ok(Exit::Ok)
}

impl Local {
    /// The id of a room that this node is a member of, by id or name.
    async fn id(&self, text: &str) -> Result<String, CliError> {
        let rooms = self.get("cannot list rooms", "/rooms").await?;
        let rooms: Vec<RoomSummary> = typed(rooms)?;
        let mut found = rooms.into_iter().filter(|room| room.id == text || room.name == text);
        match (found.next(), found.next()) {
            (Some(room), None) => Ok(room.id),
            (Some(_), Some(_)) => {
                Err(CliError::usage(format!("{text:?} is more than one room"), "give its id").next("osmoda room ls"))
            }
            (None, _) => Err(CliError::new(
                Exit::NotFound,
                format!("{text:?} is no room"),
                "this node is in no room of that name",
            )
            .next("osmoda room ls")),
        }
    }

    /// The same, but an id is taken as it is: it may be a room to join.
    async fn id_or_new(&self, text: &str) -> Result<String, CliError> {
        let is_id = text.len() == ID_CHARS && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
        if is_id { Ok(text.to_owned()) } else { self.id(text).await }
    }
}

fn items(list: Value) -> Value {
    json!({ "items": list })
}

fn show(out: &mut Output, room: &Value) -> Result<(), CliError> {
    let text = |room: &osmoda_node_api::rooms::Room| {
        let members: Vec<String> = room.members.iter().map(NodeId::short).collect();
        let (id, name) = (&room.id, printable(&room.name));
        format!("id       {id}\nname     {name}\nmembers  {}\nmade by  {}\n", members.join(", "), room.creator.short())
    };
    out.object(room, |room| room.id.clone(), text)
}

/// Follows the stream until it ends.
async fn tail(local: &Local, out: &mut Output, path: &str) -> Result<(), CliError> {
    let what = "cannot follow the room";
    let failed = |error: reqwest::Error| CliError::failed(what, osmoda_kit::error::chain(&error));
    let http = reqwest::Client::builder().unix_socket(local.socket.as_path()).build().map_err(failed)?;
    let answer = http.get(format!("http://localhost{path}")).send().await.map_err(failed)?;
    let status = answer.status();
    if !status.is_success() {
        let body = answer.bytes().await.map_err(failed)?;
        return Err(local.refused(what, &ApiError::from_answer(status, &body)));
    }
    let (mut body, mut parser) = (answer.bytes_stream(), Parser::default());
    loop {
        let Ok(part) = tokio::time::timeout(SILENCE_MAX, body.next()).await else {
            return Err(CliError::new(Exit::TimedOut, what, "the node is silent"));
        };
        let Some(part) = part else { return Err(CliError::failed(what, "the node ended the stream")) };
        for message in parser.feed(&part.map_err(failed)?) {
            event(out, &message)?;
        }
        out.flush()?;
    }
}

fn event(out: &mut Output, message: &crate::sse::Message) -> Result<(), CliError> {
    // A line that is longer than a terminal's worth is cut by the parser.
    let Ok(value) = serde_json::from_str::<Value>(&message.data) else {
        return note("a message is too long for the tail; osmoda room history shows it");
    };
    match (message.event.as_str(), out.format()) {
        ("message", Format::Json | Format::Jsonl) => out.json_line(&value),
        ("message", Format::Name) => out.line(value["id"].as_str().unwrap_or_default()),
        ("message", Format::Table) => {
            let line = line(&typed(value)?);
            out.line(&line)
        }
        ("missed", _) => note(&format!("{} messages were too fast; osmoda room history shows them", value["messages"])),
        _ => Ok(()),
    }
}

fn line(message: &RoomMessage) -> String {
    let [ts, from, text, marks] = cells(message);
    let marks = if marks.is_empty() { String::new() } else { format!(" [{marks}]") };
    format!("{ts}  {from}{marks}: {text}")
}

fn cells(message: &RoomMessage) -> [String; 4] {
    let mut marks = Vec::new();
    if message.late {
        marks.push("late");
    }
    if message.forked {
        marks.push("FORKED");
    }
    let from = message.name.clone().unwrap_or_else(|| message.from.short());
    [message.ts.to_string(), printable(&from), printable(&message.text), marks.join(",")]
}

impl Rows for RoomSummary {
    const HEADS: &'static [&'static str] = &["name", "id", "members", "messages", "created"];

    fn cells(&self) -> Vec<String> {
        let counts = [self.member_count, self.message_count].map(|count| count.to_string());
        let [members, messages] = counts;
        vec![self.name.clone(), self.id.clone(), members, messages, self.created_at.to_string()]
    }

    fn name(&self) -> String {
        self.id.clone()
    }
}

impl Rows for RoomMessage {
    const HEADS: &'static [&'static str] = &["seq", "at", "from", "text", "marks"];

    fn cells(&self) -> Vec<String> {
        let [ts, from, text, marks] = cells(self);
        vec![self.seq.to_string(), ts, from, text, marks]
    }

    fn name(&self) -> String {
        self.id.clone()
    }
}

impl Rows for osmoda_node_api::rooms::Delivery {
    const HEADS: &'static [&'static str] = &["member", "linked", "confirmed", "pending", "healed"];

    fn cells(&self) -> Vec<String> {
        let member = self.name.clone().unwrap_or_else(|| self.node.short());
        let linked = if self.connected { "yes" } else { "no" };
        let healed = crate::output::or_dash(self.healed_at);
        vec![member, linked.to_owned(), self.confirmed.to_string(), self.pending.to_string(), healed]
    }

    fn name(&self) -> String {
        self.node.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_move_the_cursor_and_marks_are_shown() {
        let message = RoomMessage {
            from: NodeId::from_bytes([0xab; 32]),
            name: None,
            text: "hi\x1b[2J\nthere".to_owned(),
            ts: osmoda_kit::clock::Timestamp::from_millis(0),
            seq: 1,
            id: String::new(),
            author_seq: 1,
            late: true,
            forked: true,
            untrusted: true,
        };
        assert_eq!(line(&message), "1970-01-01T00:00:00.000Z  abababab [late,FORKED]: hi\u{fffd}[2J\u{fffd}there");
    }
}
