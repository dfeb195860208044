//! `osmoda ledger cosign`: this operator as the witness of a fleet of one.
//!
//! The node's checkpoint and the proof that it goes on from what was cosigned last
//! are fetched, judged here (`kept.rs`), and only then is the cosignature handed
//! back. Invariant: a ledger that contradicts what it signed is never cosigned,
//! whatever the node or the controller says.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ed25519_dalek::SigningKey;
use osmoda_kit::clock::{Clock as _, SystemClock};
use osmoda_ledger::checkpoint::Checkpoint;
use osmoda_ledger::exchange::AddCheckpoint;
use osmoda_ledger::note::Note;
use osmoda_ledger::tree::TreeHash;
use osmoda_node_api::ledger::{ConsistencyProof, LedgerCheckpoint};
use osmoda_node_api::witness::{Cosign, Cosigned, Roster, WitnessReport};
use osmoda_types::{NodeId, PublicKey, statement};
use serde_json::{Value, json};

use crate::cli::{Global, Key};
use crate::context::Env;
use crate::error::CliError;
use crate::exit::Exit;
use crate::kept::{self, Judged, Kept};
use crate::local::Local;
use crate::output::{Output, printable, typed};

/// Between two looks while following: a live ledger signs every second.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Whose ledger, and with which key.
#[derive(Debug, Args)]
pub(crate) struct CosignArgs {
    /// The root directory of the node on this machine; over ssh, of its forwarded sockets
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    #[command(flatten)]
    key: Key,
    /// Go on until Ctrl-C: calls of the grave classes then have their witness
    #[arg(long)]
    follow: bool,
}

/// Cosigns once, or until Ctrl-C.
pub(crate) async fn run(global: &Global, args: CosignArgs) -> Result<Exit, CliError> {
    let signer = super::approval::signing_key(global, args.key.key.as_deref())?;
    let dir = kept::folder(&Env::read().file()?);
    let mut out = Output::stdout(global.output);
    let node = Node::at(&args.root).await?;
    loop {
        // Held for one look only, so that another terminal gets its turn.
        let kept = Kept::open(&dir)?;
        let done = look(&node, &kept, &signer).await?;
        drop(kept);
        let exit = tell(&mut out, &node, &done)?;
        if exit != Exit::Ok || !args.follow {
            return Ok(exit);
        }
        out.flush()?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn look(node: &Node, kept: &Kept, signer: &SigningKey) -> Result<Judged, CliError> {
    let old = match kept.head(&node.id)? {
        Some(head) => size_of(&head.note)?,
        None => 0,
    };
    let request = node.request(old).await?;
    let by = statement::public_key(signer);
    let now_s = u64::try_from(SystemClock::new().now_wall().as_millis() / 1000).unwrap_or(0);
    let judged = kept.judge(node.id, node.ledger, &request, (signer, by), now_s)?;
    if let Judged::Cosigned { size, line } = &judged {
        node.hand_in(&Cosign { size: *size, key: by, line: line.to_string() }).await?;
    }
    Ok(judged)
}

fn tell(out: &mut Output, node: &Node, judged: &Judged) -> Result<Exit, CliError> {
    let (value, text, exit) = match judged {
        Judged::Cosigned { size, .. } => {
            let value = json!({ "node": node.id, "outcome": "cosigned", "rows": size });
            (value, format!("{}: {size} rows cosigned\n", node.id.short()), Exit::Ok)
        }
        Judged::Caught { what, notes: [before, later] } => {
            let value = json!({ "node": node.id, "outcome": "caught", "what": what, "notes": [before, later] });
            let mut text = format!("{}: CAUGHT: {what}\nnothing was cosigned\n", node.id.short());
            for (head, note) in [("signed before", before), ("signed later", later)] {
                text.push_str(&format!("    --- {head}\n"));
                note.lines().for_each(|line| text.push_str(&format!("    {}\n", printable(line))));
            }
            (value, text, Exit::NotFound)
        }
    };
    out.object(&value, |_: &Value| node.id.to_string(), |_| text)?;
    Ok(exit)
}

/// The node whose ledger it is.
struct Node {
    agentd: Local,
    id: NodeId,
    ledger: PublicKey,
}

impl Node {
    async fn at(root: &Path) -> Result<Self, CliError> {
        let (agentd, fleetd) = (Local::daemon(root, "agentd"), Local::daemon(root, "fleetd"));
        let what = "the node does not say whose ledger it is";
        let roster: Roster = typed(fleetd.get(what, "/ledger/roster").await?)?;
        let report: WitnessReport = typed(agentd.get(what, "/ledger/witness").await?)?;
        Ok(Self { agentd, id: roster.node, ledger: report.key })
    }

    /// The newest checkpoint and the proof from `old` rows to it. A shorter
    /// checkpoint needs none: it contradicts by itself.
    async fn request(&self, old: u64) -> Result<AddCheckpoint, CliError> {
        let what = "the node shows no checkpoint";
        let newest: LedgerCheckpoint = typed(self.agentd.get(what, "/ledger/checkpoint").await?)?;
        let malformed = |why: String| CliError::failed(what, why);
        let note = Note::parse(newest.note.as_bytes()).map_err(|error| malformed(error.to_string()))?;
        let size = size_of(&newest.note)?;
        if old == 0 || size <= old {
            return Ok(AddCheckpoint { old: old.min(size), proof: Vec::new(), note });
        }
        let path = format!("/ledger/proof/consistency?from={old}&to={size}");
        let proof: ConsistencyProof = typed(self.agentd.get("the node shows no proof", &path).await?)?;
        let hashes = proof.hashes.iter().map(|hash| TreeHash::from_base64(hash));
        let proof =
            hashes.collect::<Option<Vec<_>>>().ok_or_else(|| malformed("a hash of the proof is none".into()))?;
        Ok(AddCheckpoint { old, proof, note })
    }

    async fn hand_in(&self, cosign: &Cosign) -> Result<Cosigned, CliError> {
        typed(self.agentd.post("the node did not take the cosignature", "/ledger/cosign", cosign).await?)
    }
}

fn size_of(note: &str) -> Result<u64, CliError> {
    let malformed = |why: String| CliError::failed("a checkpoint cannot be read", why);
    let note = Note::parse(note.as_bytes()).map_err(|error| malformed(error.to_string()))?;
    Checkpoint::parse(note.text()).map(|checkpoint| checkpoint.size).map_err(|error| malformed(error.to_string()))
}
