//! Which controller is meant: contexts in a file, overridden by environment
//! and flags, in that order.
//!
//! Invariant: a token is never in the file nor on the command line; the file
//! names the file that holds it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use osmoda_kit::fsio;
use osmoda_kit::secret::Secret;

use crate::error::CliError;
use crate::exit::Exit;

/// The largest file of contexts: thousands of them; keeps a mistaken path out.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The largest token file. A token is 43 characters; the rest is for a newline
/// and for tokens that another service in front of the controller wants.
const TOKEN_BYTES_MAX: u64 = 4096;

/// The file of contexts.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ContextFile {
    /// The context used when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// The contexts by name.
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// One controller.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// Its address, such as `http://127.0.0.1:8700`.
    pub(crate) server: String,
    /// The file that holds the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    /// The operator key used when `--key` is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) operator_key: Option<PathBuf>,
}

/// Where a setting came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Source {
    /// A flag.
    Flag,
    /// The environment.
    Env,
    /// The file of contexts.
    File,
}

/// What flags and environment say. clap fills both into one value, so the
/// caller reads the environment itself to keep them apart.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    pub(crate) context: Option<String>,
    pub(crate) server: Option<String>,
    pub(crate) token_file: Option<PathBuf>,
}

/// The environment, read once in `main`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Env {
    pub(crate) context: Option<String>,
    pub(crate) server: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) config_home: Option<PathBuf>,
    pub(crate) home: Option<PathBuf>,
}

impl Env {
    /// Reads the variables this program knows.
    pub(crate) fn read() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            context: text("OSMODA_CONTEXT"),
            server: text("OSMODA_SERVER"),
            token: text("OSMODA_TOKEN"),
            token_file: text("OSMODA_TOKEN_FILE").map(PathBuf::from),
            config_home: text("XDG_CONFIG_HOME").map(PathBuf::from),
            home: text("HOME").map(PathBuf::from),
        }
    }

    /// The file of contexts.
    pub(crate) fn file(&self) -> Result<PathBuf, CliError> {
        let base = match (&self.config_home, &self.home) {
            (Some(base), _) => base.clone(),
            (None, Some(home)) => home.join(".config"),
            (None, None) => {
                return Err(CliError::usage(
                    "cannot find the configuration",
                    "neither XDG_CONFIG_HOME nor HOME is set",
                ));
            }
        };
        Ok(base.join("osmoda/config.toml"))
    }
}

/// The controller to talk to.
#[derive(Debug)]
pub(crate) struct Target {
    /// The name of the context, if one was used.
    pub(crate) context: Option<(String, Source)>,
    /// The address, without a slash at the end.
    pub(crate) server: (String, Source),
    /// The token.
    pub(crate) token: Option<(Secret<String>, Source)>,
    /// The operator key used when `--key` is absent.
    pub(crate) operator_key: Option<PathBuf>,
}

/// Reads the file of contexts; an absent file has none.
pub(crate) fn read(path: &Path) -> Result<ContextFile, CliError> {
    let what = format!("cannot read {}", path.display());
    let Some(bytes) = fsio::read_limited(path, FILE_BYTES_MAX)
        .map_err(|error| CliError::failed(&what, osmoda_kit::error::chain(&error)))?
    else {
        return Ok(ContextFile::default());
    };
    let text = String::from_utf8(bytes).map_err(|_| CliError::usage(&what, "it is not UTF-8"))?;
    toml::from_str(&text).map_err(|error| CliError::usage(what, error.to_string().trim().replace('\n', " ")))
}

/// Replaces the file of contexts.
pub(crate) fn write(path: &Path, file: &ContextFile) -> Result<(), CliError> {
    let what = format!("cannot write {}", path.display());
    let text = toml::to_string_pretty(file).map_err(|error| CliError::failed(&what, error.to_string()))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|error| CliError::failed(&what, error.to_string()))?;
    fsio::write_atomic(path, text.as_bytes(), 0o600)
        .map_err(|error| CliError::failed(what, osmoda_kit::error::chain(&error)))
}

/// Decides which controller is meant: flag before environment before file.
pub(crate) fn resolve(flags: &Overrides, env: &Env, file: &ContextFile) -> Result<Target, CliError> {
    let named = pick(flags.context.clone(), env.context.clone(), file.current.clone());
    let context = match &named {
        Some((name, source)) => match file.contexts.get(name) {
            Some(context) => Some(context),
            // A flag may name everything itself; a wrong name is still an error.
            None => return Err(unknown_context(name, *source, file)),
        },
        None => None,
    };
    let from_file = context.map(|context| context.server.clone());
    let Some((server, source)) = pick(flags.server.clone(), env.server.clone(), from_file) else {
        return Err(CliError::usage(
            "no controller is named",
            "there is no context, and neither --server nor OSMODA_SERVER",
        )
        .next("osmoda context add NAME --server http://127.0.0.1:8700 --token-file FILE"));
    };
    let token = match (&flags.token_file, &env.token, &env.token_file) {
        (Some(path), _, _) => Some((read_token(path)?, Source::Flag)),
        (None, Some(token), _) => Some((Secret::new(token.trim().to_owned()), Source::Env)),
        (None, None, Some(path)) => Some((read_token(path)?, Source::Env)),
        (None, None, None) => match context.and_then(|context| context.token_file.as_deref()) {
            Some(path) => Some((read_token(path)?, Source::File)),
            None => None,
        },
    };
    let server = server.trim_end_matches('/').to_owned();
    check_server(&server)?;
    let operator_key = context.and_then(|context| context.operator_key.clone());
    Ok(Target { context: named, server: (server, source), token, operator_key })
}

/// Checks an address before it is stored or used.
pub(crate) fn check_server(server: &str) -> Result<(), CliError> {
    if cfg!(not(feature = "tls")) && server.starts_with("https://") {
        return Err(CliError::usage(
            format!("cannot use {server}"),
            "this build of osmoda has no TLS (cargo feature tls)",
        )
        .next("use an ssh tunnel to the controller's loopback address, or a build with `--features osmoda-ctl/tls`"));
    }
    let rest = server.strip_prefix("http://").or_else(|| server.strip_prefix("https://"));
    match rest {
        Some(host) if !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']) => Ok(()),
        _ => Err(CliError::usage(
            format!("cannot use {server:?} as a controller"),
            "an address is http://HOST:PORT or https://HOST:PORT",
        )),
    }
}

fn pick<T>(flag: Option<T>, env: Option<T>, file: Option<T>) -> Option<(T, Source)> {
    flag.map(|value| (value, Source::Flag))
        .or(env.map(|value| (value, Source::Env)))
        .or(file.map(|value| (value, Source::File)))
}

fn unknown_context(name: &str, source: Source, file: &ContextFile) -> CliError {
    let known: Vec<&str> = file.contexts.keys().map(String::as_str).collect();
    let known = if known.is_empty() { "there is none".to_owned() } else { format!("there are {}", known.join(", ")) };
    let source = match source {
        Source::Flag => "--context",
        Source::Env => "OSMODA_CONTEXT",
        Source::File => "the file of contexts",
    };
    CliError::new(Exit::NotFound, format!("no context {name:?}"), format!("{source} names it; {known}"))
        .next("osmoda context ls")
}

fn read_token(path: &Path) -> Result<Secret<String>, CliError> {
    let what = format!("cannot read the token file {}", path.display());
    match fsio::read_limited(path, TOKEN_BYTES_MAX) {
        Ok(Some(bytes)) => match String::from_utf8(bytes) {
            Ok(text) if !text.trim().is_empty() => Ok(Secret::new(text.trim().to_owned())),
            Ok(_) => Err(CliError::usage(what, "it is empty")),
            Err(_) => Err(CliError::usage(what, "it is not text")),
        },
        Ok(None) => Err(CliError::usage(what, "it does not exist")
            .next("the controller writes it on its first start: <root>/var/lib/osmoda/controller/admin.token")),
        Err(error) => Err(CliError::usage(what, osmoda_kit::error::chain(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> ContextFile {
        let context = |server: &str| Context { server: server.into(), token_file: None, operator_key: None };
        ContextFile {
            current: Some("prod".into()),
            contexts: BTreeMap::from([
                ("prod".to_owned(), context("http://prod:1")),
                ("lab".to_owned(), context("http://lab:1/")),
            ]),
        }
    }

    fn check(flags: &Overrides, env: &Env, expected: (&str, Source)) {
        let target = resolve(flags, env, &file()).unwrap();
        assert_eq!((target.server.0.as_str(), target.server.1), expected);
    }

    #[test]
    fn a_flag_beats_the_environment_and_the_environment_the_file() {
        let none = Overrides::default();
        let flag = Overrides { context: Some("lab".into()), ..Overrides::default() };
        let env = Env { context: Some("lab".into()), ..Env::default() };
        let prod = Env { context: Some("prod".into()), ..Env::default() };
        check(&none, &Env::default(), ("http://prod:1", Source::File));
        check(&none, &env, ("http://lab:1", Source::File));
        check(&flag, &prod, ("http://lab:1", Source::File));
        let server = Overrides { server: Some("http://x:1".into()), ..Overrides::default() };
        let env_server = Env { server: Some("http://y:1".into()), ..Env::default() };
        check(&none, &env_server, ("http://y:1", Source::Env));
        check(&server, &env_server, ("http://x:1", Source::Flag));
    }

    #[test]
    fn an_unknown_context_is_named_with_the_known_ones() {
        let flags = Overrides { context: Some("tset".into()), ..Overrides::default() };
        let error = resolve(&flags, &Env::default(), &file()).unwrap_err();
        assert_eq!(error.exit, Exit::NotFound);
        assert!(error.why.contains("lab, prod"), "{error}");
    }

    #[test]
    fn without_any_context_the_next_step_is_named() {
        let error = resolve(&Overrides::default(), &Env::default(), &ContextFile::default()).unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
        assert!(error.next.unwrap().contains("context add"));
    }

    #[test]
    fn a_token_comes_from_a_file_or_the_environment_and_is_trimmed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "abc\n").unwrap();
        let flags = Overrides { token_file: Some(path), ..Overrides::default() };
        let env = Env { token: Some("env".into()), ..Env::default() };
        let token = |flags: &Overrides| resolve(flags, &env, &file()).unwrap().token.unwrap().0.expose().clone();
        assert_eq!(token(&flags), "abc");
        assert_eq!(token(&Overrides::default()), "env");
    }

    #[test]
    fn addresses_that_are_no_origins_are_refused() {
        for bad in ["", "prod", "ftp://x", "http://", "http://a/b", "http://u@h", "http://a b"] {
            assert!(check_server(bad).is_err(), "{bad}");
        }
        assert!(check_server("http://[::1]:8700").is_ok());
    }

    #[test]
    fn the_file_reads_back_and_refuses_unknown_fields() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("osmoda/config.toml");
        assert_eq!(read(&path).unwrap(), ContextFile::default());
        write(&path, &file()).unwrap();
        assert_eq!(read(&path).unwrap(), file());
        std::fs::write(&path, "tokn = 1\n").unwrap();
        assert!(read(&path).unwrap_err().why.contains("tokn"));
    }
}
