//! `osmoda operator`: keys that sign orders, held off the hosts.

use std::path::{Path, PathBuf};

use osmoda_controller_api::{AddPrincipal, Principal};
use osmoda_kit::{fsio, keys};
use osmoda_types::command::Order;
use osmoda_types::{PublicKey, Right, statement};

use crate::cli::{Global, Operator as Command};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::{Output, Rows};
use crate::session::Session;

/// The largest public key file: one line of a key and a name.
const PUBLIC_BYTES_MAX: u64 = 4096;

/// How the line of a public key begins.
const LINE_KIND: &str = "ed25519";

/// Runs a command about operators.
pub(crate) async fn run(global: &Global, command: Command) -> Result<Exit, CliError> {
    match command {
        Command::Keygen { file, name } => keygen(&mut Output::stdout(global.output), &file, &name),
        Command::Ls => {
            let session = &mut Session::open(global)?;
            super::list::<Principal>(session, "cannot list principals", "/principals", false).await
        }
        Command::Add { public_key, rights, key } => {
            add(&mut Session::open(global)?, &public_key, rights, key.key.as_deref()).await
        }
    }
}

fn keygen(out: &mut Output, file: &Path, name: &str) -> Result<Exit, CliError> {
    let what = format!("cannot make the key {}", file.display());
    if name.is_empty() || name.len() > 64 || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(CliError::usage(what, "a name is 1 to 64 characters without blanks"));
    }
    let public = public_path(file);
    if public.exists() {
        return Err(CliError::new(Exit::Conflict, what, format!("{} exists already", public.display())));
    }
    let key = keys::generate_signing(file).map_err(|error| {
        let exit = if matches!(error, keys::KeyError::Exists { .. }) { Exit::Conflict } else { Exit::Failed };
        CliError::new(exit, &what, osmoda_kit::error::chain(&error))
    })?;
    let public_key = statement::public_key(&key);
    let line = format!("{LINE_KIND} {public_key} {name}");
    fsio::write_new(&public, format!("{line}\n").as_bytes(), 0o644)
        .map_err(|error| CliError::failed(&what, osmoda_kit::error::chain(&error)))?;
    let value = serde_json::json!({
        "name": name, "key": public_key, "line": line, "secret_file": file, "public_file": public,
    });
    out.object(&value, |_: &serde_json::Value| public_key.to_string(), |_| line.clone())?;
    Ok(Exit::Ok)
}

/// `me.key` → `me.key.pub`.
fn public_path(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".pub");
    PathBuf::from(name)
}

async fn add(session: &mut Session, file: &Path, rights: Vec<Right>, key: Option<&Path>) -> Result<Exit, CliError> {
    let (public, name) = read_public(file)?;
    let signer = session.key(key)?;
    let mut rights = rights;
    rights.sort_unstable();
    rights.dedup();
    let principal = osmoda_types::Principal { name: name.clone(), key: public, rights: rights.clone() };
    let signed = session.sign(&signer, &Order::AddPrincipal(principal)).await?;
    let body = AddPrincipal {
        serial: signed.serial,
        name,
        key: public,
        rights,
        operator_key: signed.operator_key,
        signature: signed.signature,
    };
    let value = session.client.post("cannot add the principal", "/principals", &body).await?;
    let text = |principal: &Principal| format!("{} may {}", principal.name, words(&principal.rights));
    session.out.object(&value, |principal: &Principal| principal.name.clone(), text)?;
    Ok(Exit::Ok)
}

/// Reads the line `ed25519 HEX NAME`.
fn read_public(file: &Path) -> Result<(PublicKey, String), CliError> {
    let what = format!("cannot read the public key {}", file.display());
    let bytes = fsio::read_limited(file, PUBLIC_BYTES_MAX)
        .map_err(|error| CliError::usage(&what, osmoda_kit::error::chain(&error)))?
        .ok_or_else(|| CliError::usage(&what, "it does not exist"))?;
    let text = String::from_utf8_lossy(&bytes);
    parse_public(&text).ok_or_else(|| CliError::usage(what, "a public key is one line: ed25519 HEX NAME"))
}

fn parse_public(text: &str) -> Option<(PublicKey, String)> {
    let mut parts = text.split_whitespace();
    let (kind, key, name) = (parts.next()?, parts.next()?, parts.next()?);
    if kind != LINE_KIND || parts.next().is_some() {
        return None;
    }
    Some((key.parse().ok()?, name.to_owned()))
}

/// Reads the word for a right.
pub(crate) fn right(text: &str) -> Result<Right, String> {
    Right::ALL
        .into_iter()
        .find(|right| word(*right) == text)
        .ok_or_else(|| format!("rights are {}", words(&Right::ALL)))
}

const fn word(right: Right) -> &'static str {
    match right {
        Right::Deploy => "deploy",
        Right::Control => "control",
        Right::Admin => "admin",
        Right::Approve => "approve",
    }
}

fn words(rights: &[Right]) -> String {
    rights.iter().map(|right| word(*right)).collect::<Vec<_>>().join(", ")
}

impl Rows for Principal {
    const HEADS: &'static [&'static str] = &["name", "rights", "key"];

    fn cells(&self) -> Vec<String> {
        vec![self.name.clone(), words(&self.rights), self.key.to_string()]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_is_one_line_of_three_words() {
        let hex = "ab".repeat(32);
        let (key, name) = parse_public(&format!("ed25519 {hex} me\n")).unwrap();
        assert_eq!((key.to_string(), name.as_str()), (hex.clone(), "me"));
        for bad in ["", "ed25519", &hex, &format!("rsa {hex} me"), &format!("ed25519 {hex} me too")] {
            assert!(parse_public(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn words_of_rights_are_those_of_the_api() {
        for right in Right::ALL {
            assert_eq!(serde_json::to_value(right).unwrap(), word(right));
            assert_eq!(self::right(word(right)), Ok(right));
        }
        assert!(self::right("root").is_err());
    }
}
