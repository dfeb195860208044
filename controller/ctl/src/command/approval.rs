//! `osmoda approval`: looks at what waits for a person, and signs it.
//!
//! What is shown and signed is made here, from the call itself: the call is read
//! strictly, hashed, and must be the one the permit names. Neither the node nor
//! the controller can show one thing and have another signed. With `--root` the
//! node on this machine is asked, else the controller, which only transports.
//! Asking for a call and running it happen on the node alone (`approval/calls.rs`).

mod calls;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use osmoda_kit::fsio;
use osmoda_node_api::approval::PermitView;
use osmoda_permit::display::{escape, render};
use osmoda_permit::signature::SSH_NAMESPACE;
use osmoda_permit::{ApproverSignature, Call, Covers, Decision, Proof, Taint, plan};
use osmoda_types::statement;
use serde_json::{Value, json};

use crate::cli::{Global, Key};
use crate::error::CliError;
use crate::exit::Exit;
use crate::local::Local;
use crate::output::{Output, Rows, note, printable, typed};
use crate::session::Session;

/// Largest signature file: a FIDO signature has under 700 bytes.
const SIGNATURE_BYTES_MAX: u64 = 8192;

/// Longest name of a person that is shown.
const NAME_CHARS_MAX: usize = 80;

/// Asks for calls that need a person, shows, signs, denies and runs them.
#[derive(Debug, Args)]
pub(crate) struct Approval {
    /// Ask the node on this machine, with this root directory, instead of the controller
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists what waits and what may be used
    #[command(after_help = "Examples:\n  osmoda approval ls\n  osmoda approval ls --root /")]
    Ls,
    /// Shows exactly what would run
    #[command(after_help = "Examples:\n  osmoda approval show 9f2c…\n  osmoda approval show 9f2c… --full")]
    Show {
        /// The permit
        id: String,
        /// Every argument whole, however long, with what is not plain text escaped
        #[arg(long)]
        full: bool,
    },
    /// Writes the bytes to sign, for `ssh-keygen -Y sign -n osmoda-permit`
    #[command(
        after_help = "Examples:\n  osmoda approval statement 9f2c… --out p.bin\n  ssh-keygen -Y sign -n osmoda-permit -f ~/.ssh/id_ed25519_sk p.bin\n  osmoda approval approve 9f2c… --signature p.bin.sig"
    )]
    Statement {
        /// The permit
        id: String,
        /// The file to write
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Say no instead of yes
        #[arg(long, conflicts_with = "break_glass")]
        deny: bool,
        /// Say that it is an emergency; `approve --break-glass --signature` takes it
        #[arg(long)]
        break_glass: bool,
    },
    /// Signs: it may run, once
    #[command(after_help = "Examples:\n  osmoda approval approve 9f2c… --key me.key")]
    Approve {
        /// The permit
        id: String,
        #[command(flatten)]
        with: With,
        /// An emergency: without other approvers and without witnesses, for those the host's policy names
        #[arg(long)]
        break_glass: bool,
    },
    /// Signs: it may not run, and may not be asked for again for a time
    #[command(after_help = "Examples:\n  osmoda approval deny 9f2c… --key me.key")]
    Deny {
        /// The permit
        id: String,
        #[command(flatten)]
        with: With,
    },
    /// Asks, on the node, that a call may run
    #[command(
        after_help = "Examples:\n  osmoda approval request service.restart unit=nginx.service --root /\n  osmoda approval request file.write path=/etc/motd content=hello --reason \"new greeting\" --root /"
    )]
    Request(calls::Request),
    /// Runs, on the node, what was approved: once
    #[command(after_help = "Examples:\n  osmoda approval run 9f2c… --root /")]
    Run {
        /// The permit
        id: String,
    },
}

/// What to sign with.
#[derive(Debug, Args)]
struct With {
    #[command(flatten)]
    key: Key,
    /// A signature made by `ssh-keygen -Y sign` over `osmoda approval statement`
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    signature: Option<PathBuf>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Where permits are read and signatures go.
enum Source {
    Node(Local),
    Controller(Session),
}

/// Runs the command.
pub(crate) async fn run(global: &Global, approval: Approval) -> Result<Exit, CliError> {
    let source = match &approval.root {
        Some(root) => Source::Node(Local::daemon(root, "agentd")),
        None if matches!(approval.command, Command::Request(_) | Command::Run { .. }) => return Err(only_on_the_node()),
        None => Source::Controller(Session::open(global)?),
    };
    let mut out = Output::stdout(global.output);
    match approval.command {
        Command::Ls => {
            let page = source.list().await?;
            out.list::<PermitView>(&page)?;
            left_out(&page).iter().try_for_each(|line| note(line))?;
        }
        Command::Show { id, full } => {
            let (value, view) = source.find(&id).await?;
            let text = describe(&view)? + &if full { whole(&view) } else { String::new() };
            out.object(&value, |view: &PermitView| view.signed.permit.id.to_string(), |_| text)?;
        }
        Command::Statement { id, out: file, deny, break_glass } => {
            let (_, view) = source.find(&id).await?;
            note(&describe(&view)?)?;
            let bytes = view.signed.permit.statement(said(deny, break_glass));
            fsio::write_atomic(&file, &bytes, 0o600)
                .map_err(|error| CliError::failed("cannot write the statement", osmoda_kit::error::chain(&error)))?;
            note(&format!("sign it: ssh-keygen -Y sign -n {SSH_NAMESPACE} -f KEY {}", file.display()))?;
        }
        Command::Approve { id, with, break_glass } => {
            let decision = if break_glass { Decision::BreakGlass } else { Decision::Approve };
            return source.decide(&mut out, global, &id, decision, &with).await;
        }
        Command::Deny { id, with } => return source.decide(&mut out, global, &id, Decision::Deny, &with).await,
        Command::Request(request) => calls::request(source.node()?, &mut out, request).await?,
        Command::Run { id } => calls::run(&source, approval.root.as_deref(), &mut out, &id).await?,
    }
    Ok(Exit::Ok)
}

impl Source {
    /// The node on this machine; a controller neither asks nor runs.
    fn node(&self) -> Result<&Local, CliError> {
        match self {
            Self::Node(local) => Ok(local),
            Self::Controller(_) => Err(only_on_the_node()),
        }
    }

    /// Everything that is open, as a page.
    async fn list(&self) -> Result<Value, CliError> {
        let what = "cannot list approvals";
        match self {
            Self::Node(local) => Ok(json!({ "items": local.get(what, "/permit/list").await? })),
            Self::Controller(session) => {
                let page = session.client.list(what, "/approvals").await?;
                let items = page["items"].as_array().cloned().unwrap_or_default();
                Ok(of_fleet(items))
            }
        }
    }

    /// One permit, by the beginning of its id.
    async fn find(&self, id: &str) -> Result<(Value, PermitView), CliError> {
        let page = self.list().await?;
        let items = page["items"].as_array().cloned().unwrap_or_default();
        let is_meant = |item: &&Value| {
            item["signed"]["permit"]["id"].as_str().is_some_and(|full| id.len() >= 4 && full.starts_with(id))
        };
        let mut found = items.iter().filter(is_meant);
        match (found.next(), found.next()) {
            (Some(item), None) => Ok((item.clone(), typed(item.clone())?)),
            (None, _) => {
                let why = [vec!["none begins with it".to_owned()], left_out(&page)].concat().join("; ");
                Err(CliError::new(Exit::NotFound, format!("no open permit {id:?}"), why).next("osmoda approval ls"))
            }
            _ => Err(CliError::usage(format!("{id:?} is no single permit"), "several ids begin with it")
                .next("give more digits of the id")),
        }
    }

    async fn decide(
        &self,
        out: &mut Output,
        global: &Global,
        id: &str,
        decision: Decision,
        with: &With,
    ) -> Result<Exit, CliError> {
        let (_, view) = self.find(id).await?;
        let permit = &view.signed.permit;
        note(&describe(&view)?)?;
        let question = match decision {
            Decision::Approve => "Sign that this may run, once?",
            Decision::Deny => "Sign that this may not run?",
            Decision::BreakGlass => "Break the glass: run without other approvers and without witnesses?",
        };
        if !with.yes && !super::confirmed(question)? {
            return Err(CliError::usage("nothing was signed", "it was not confirmed"));
        }
        let proof = match &with.signature {
            Some(file) => ssh_proof(file)?,
            None => {
                let key = signing_key(global, with.key.key.as_deref())?;
                let signature = statement::sign(&key, &permit.statement(decision));
                Proof::Ed25519 { key: statement::public_key(&key), signature }
            }
        };
        let signature = ApproverSignature { decision, proof };
        if signature.signer(permit).is_err() {
            return Err(CliError::usage(
                "the signature does not fit",
                "it was made over another statement or namespace",
            )
            .next(format!("osmoda approval statement {} --out FILE", permit.id)));
        }
        let what = "the signature was not taken";
        let value = match self {
            Self::Node(local) => local.post(what, &format!("/permit/{}/sign", permit.id), &signature).await?,
            Self::Controller(session) => {
                let path = format!("/approvals/{}/signatures", permit.id);
                session.client.post(what, &path, &signature).await?["permit"].take()
            }
        };
        let text = |view: &PermitView| {
            let signed = view.approved_by.len();
            format!("{} is {}, {signed} of {} signed", view.signed.permit.id, view.state, view.signed.permit.approvers)
        };
        out.object(&value, |view: &PermitView| view.signed.permit.id.to_string(), text)?;
        Ok(Exit::Ok)
    }
}

/// The permits of the controller's rows, and which nodes have more than they told.
fn of_fleet(items: Vec<Value>) -> Value {
    let more = items.iter().filter(|item| item["left_out"].as_u64().is_some_and(|count| count > 0));
    let left_out: BTreeMap<String, Value> = more
        .filter_map(|item| {
            Some((item["node"].as_str()?.to_owned(), json!({ "name": item["name"], "count": item["left_out"] })))
        })
        .collect();
    let permits: Vec<Value> = items.into_iter().map(|mut item| item["permit"].take()).collect();
    json!({ "items": permits, "left_out": left_out })
}

/// A line for each node that has more open than it told.
fn left_out(page: &Value) -> Vec<String> {
    let nodes = page["left_out"].as_object().into_iter().flatten();
    let line = |(node, more): (&String, &Value)| {
        let name = printable(more["name"].as_str().unwrap_or(node));
        format!("{} more on {name} are not shown, the largest: osmoda approval ls --root / there", more["count"])
    };
    nodes.map(line).collect()
}

fn only_on_the_node() -> CliError {
    CliError::usage("a call is asked for and run on its node", "--root is absent").next("give --root /")
}

/// What a statement says; the command line takes no two of these together.
fn said(deny: bool, break_glass: bool) -> Decision {
    match (deny, break_glass) {
        (true, _) => Decision::Deny,
        (false, true) => Decision::BreakGlass,
        (false, false) => Decision::Approve,
    }
}

/// What would run, in our own words, after checking that it is what the permit
/// binds.
fn describe(view: &PermitView) -> Result<String, CliError> {
    let permit = &view.signed.permit;
    let wrong = |why: String| CliError::failed("this permit must not be signed", why);
    let calls = view.calls.iter().map(Call::from_value).collect::<Result<Vec<_>, _>>();
    let calls = calls.map_err(|fault| wrong(format!("a call cannot be read: {fault}")))?;
    let hashes = calls.iter().map(Call::hash).collect::<Result<Vec<_>, _>>();
    let hashes = hashes.map_err(|fault| wrong(format!("a call cannot be hashed: {fault}")))?;
    let bound = match &permit.covers {
        Covers::Call { hash } => hashes == [*hash],
        Covers::Plan { root, calls } => {
            u32::try_from(hashes.len()) == Ok(*calls) && plan::root(&hashes).as_ref() == Some(root)
        }
    };
    if !bound || calls.iter().any(|call| call.host_id != permit.host_id) {
        return Err(wrong("the calls shown are not the ones it binds".into()));
    }
    let taint = if view.tainted { Taint::Tainted } else { Taint::Clean };
    // The class that is signed; a class of our own would need the host's policy.
    let shown: Vec<String> = calls.iter().map(|call| render(call, permit.class, taint, &view.reason)).collect();
    let text = format!(
        "permit    {}\nstate     {}\nneeds     {} approver(s)\nuntil     {}\n",
        permit.id,
        view.state,
        permit.approvers,
        osmoda_kit::clock::Timestamp::from_millis(permit.not_after.wall_ms),
    );
    let glass = view.break_glass.as_ref().map(|by| {
        format!(
            "glass     broken by \"{}\": runs without other approvers and without witnesses\n",
            escape(by, NAME_CHARS_MAX)
        )
    });
    Ok(text + &glass.unwrap_or_default() + &shown.join("\n"))
}

/// The arguments of each call, nothing left out. Escaped, so that no content looks
/// like a line of ours.
fn whole(view: &PermitView) -> String {
    let of = |call: &Value| {
        let args = call["args"]["asked"].as_object().cloned().unwrap_or_default();
        let line = |(name, value): (&String, &Value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
            format!("whole     {} \"{}\"\n", escape(name, NAME_CHARS_MAX), escape(&text, usize::MAX))
        };
        args.iter().map(line).collect::<String>()
    };
    view.calls.iter().map(of).collect()
}

/// The operator's key: the flag's, else the context's.
pub(super) fn signing_key(global: &Global, flag: Option<&Path>) -> Result<ed25519_dalek::SigningKey, CliError> {
    match flag {
        Some(path) => osmoda_kit::keys::load_signing(path)
            .map_err(|error| CliError::failed("cannot use the operator key", osmoda_kit::error::chain(&error))),
        None => Session::open(global)?.key(None),
    }
}

fn ssh_proof(file: &Path) -> Result<Proof, CliError> {
    let what = format!("cannot read the signature {}", file.display());
    let bytes = fsio::read_limited(file, SIGNATURE_BYTES_MAX)
        .map_err(|error| CliError::usage(&what, osmoda_kit::error::chain(&error)))?
        .ok_or_else(|| CliError::usage(&what, "it does not exist"))?;
    let armored = String::from_utf8(bytes).map_err(|_| CliError::usage(what, "it is no text"))?;
    Ok(Proof::Ssh { armored })
}

impl Rows for PermitView {
    const HEADS: &'static [&'static str] = &["permit", "state", "class", "tools", "host", "signed", "until"];

    fn cells(&self) -> Vec<String> {
        let permit = &self.signed.permit;
        let tools: Vec<&str> = self.calls.iter().filter_map(|call| call["tool"].as_str()).collect();
        let glass = if self.break_glass.is_some() { " (glass broken)" } else { "" };
        vec![
            permit.id.to_string(),
            format!("{}{glass}", self.state),
            permit.class.to_string(),
            tools.join(" "),
            permit.host_id.short(),
            format!("{}/{}", self.approved_by.len(), permit.approvers),
            self.expires_at.clone(),
        ]
    }

    fn name(&self) -> String {
        self.signed.permit.id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use osmoda_permit::testing::{call, permit};
    use osmoda_permit::{SignedPermit, State};

    fn view() -> PermitView {
        let call = call();
        let hash = call.hash().unwrap();
        PermitView {
            signed: SignedPermit { permit: permit(hash), plan: Vec::new(), signatures: Vec::new() },
            state: State::Pending,
            next: 0,
            calls: vec![call.to_value()],
            hashes: vec![hash],
            display: "delete nothing".into(),
            actor: "admin".into(),
            reason: "tidy up".into(),
            session_id: "s-1".into(),
            tainted: false,
            approved_by: Vec::new(),
            decided_by: None,
            decided_at: None,
            created_at: String::new(),
            expires_at: String::new(),
            break_glass: None,
        }
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        approval: Approval,
    }

    #[test]
    fn a_statement_says_yes_no_or_that_the_glass_is_broken() {
        let said = |flags: &[&str]| {
            let words = [&["osmoda", "statement", "9f2c", "--out", "p"], flags].concat();
            let line = <Line as clap::Parser>::try_parse_from(words).ok()?;
            let Command::Statement { deny, break_glass, .. } = line.approval.command else { panic!("a statement") };
            Some(said(deny, break_glass))
        };
        assert_eq!(said(&[]), Some(Decision::Approve));
        assert_eq!(said(&["--deny"]), Some(Decision::Deny));
        assert_eq!(said(&["--break-glass"]), Some(Decision::BreakGlass));
        assert_eq!(said(&["--deny", "--break-glass"]), None);
    }

    #[test]
    fn broken_glass_is_shown() {
        assert!(!describe(&view()).unwrap().contains("glass"));
        let broken = PermitView { break_glass: Some("ada\u{202e}".into()), ..view() };
        let text = describe(&broken).unwrap();
        assert!(text.contains("glass     broken by \"ada\\u{202e}\"") && text.is_ascii(), "{text}");
    }

    #[test]
    fn a_long_argument_can_be_seen_whole_and_cannot_forge_a_line() {
        let mut view = view();
        let content = "x".repeat(5000) + "\nstate     approved\u{202e}";
        view.calls[0]["args"]["asked"]["content"] = json!(content);
        let text = whole(&view);
        assert!(text.is_ascii() && text.lines().all(|line| line.starts_with("whole     ")), "{text}");
        assert!(text.contains(&("x".repeat(5000) + "\\nstate     approved\\u{202e}\"")));
    }

    #[test]
    fn nodes_that_have_more_than_they_tell_are_named() {
        let row = |name: &str, left_out: u32| json!({ "node": name, "name": name, "left_out": left_out, "permit": {} });
        let page = of_fleet(vec![row("web-1", 3), row("web-1", 3), row("web-2", 0)]);
        assert_eq!(page["items"].as_array().unwrap().len(), 3);
        let lines = left_out(&page);
        assert!(lines.len() == 1 && lines[0].starts_with("3 more on web-1 "), "{lines:?}");
        assert!(left_out(&json!({ "items": [] })).is_empty(), "a node tells all of its own");
    }

    #[test]
    fn what_is_shown_is_made_here_and_must_be_what_is_bound() {
        let text = describe(&view()).unwrap();
        assert!(text.contains("path      \"/etc/motd\"") && !text.contains("delete nothing"), "{text}");
        let mut other = view();
        other.calls[0]["args"]["asked"]["path"] = json!("/etc/issue");
        assert!(describe(&other).is_err(), "a call the permit does not bind");
        let mut more = view();
        more.calls.push(more.calls[0].clone());
        assert!(describe(&more).is_err(), "one call more");
        let mut crooked = view();
        crooked.calls[0]["extra"] = json!(1);
        assert!(describe(&crooked).is_err());
    }
}
