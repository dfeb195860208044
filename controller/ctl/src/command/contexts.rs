//! `osmoda context`.

use std::path::{Path, PathBuf};

use crate::cli::{Context as Command, Global};
use crate::context::{self, Context, ContextFile, Env};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::{Output, Rows, or_dash};
use crate::session::overrides;

/// Runs a command about contexts.
pub(crate) fn run(global: &Global, command: Command) -> Result<Exit, CliError> {
    let env = Env::read();
    let path = env.file()?;
    let mut file = context::read(&path)?;
    let out = &mut Output::stdout(global.output);
    match command {
        Command::Ls => return list(out, &file),
        Command::Show => return show(out, global, &env, &file),
        Command::Add { name, operator_key, current } => {
            let context = made(global, operator_key)?;
            file.contexts.insert(name.clone(), context);
            if current || file.current.is_none() {
                file.current = Some(name);
            }
        }
        Command::Use { name } => {
            known(&file, &name)?;
            file.current = Some(name);
        }
        Command::Rm { name } => {
            known(&file, &name)?;
            file.contexts.remove(&name);
            file.current = file.current.filter(|current| *current != name);
        }
    }
    context::write(&path, &file)?;
    Ok(Exit::Ok)
}

fn made(global: &Global, operator_key: Option<PathBuf>) -> Result<Context, CliError> {
    let Some(server) = &global.server else {
        return Err(CliError::usage("cannot add the context", "--server is missing")
            .next("osmoda context add NAME --server http://127.0.0.1:8700 --token-file FILE"));
    };
    let server = server.trim_end_matches('/').to_owned();
    context::check_server(&server)?;
    let absolute = |path: Option<PathBuf>| path.map(|path| std::path::absolute(&path).unwrap_or(path));
    Ok(Context { server, token_file: absolute(global.token_file.clone()), operator_key: absolute(operator_key) })
}

fn known(file: &ContextFile, name: &str) -> Result<(), CliError> {
    match file.contexts.contains_key(name) {
        true => Ok(()),
        false => Err(CliError::new(Exit::NotFound, format!("no context {name:?}"), "it was never added")
            .next("osmoda context ls")),
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Row {
    name: String,
    current: bool,
    server: String,
    token_file: Option<PathBuf>,
    operator_key: Option<PathBuf>,
}

fn list(out: &mut Output, file: &ContextFile) -> Result<Exit, CliError> {
    let rows = file.contexts.iter().map(|(name, context)| Row {
        name: name.clone(),
        current: file.current.as_ref() == Some(name),
        server: context.server.clone(),
        token_file: context.token_file.clone(),
        operator_key: context.operator_key.clone(),
    });
    let rows: Vec<Row> = rows.collect();
    out.list::<Row>(&serde_json::json!({ "items": rows }))?;
    Ok(Exit::Ok)
}

impl Rows for Row {
    const HEADS: &'static [&'static str] = &["", "name", "server", "token file", "operator key"];

    fn cells(&self) -> Vec<String> {
        let path = |path: &Option<PathBuf>| or_dash(path.as_deref().map(Path::display));
        let mark = if self.current { "*" } else { "" };
        vec![mark.into(), self.name.clone(), self.server.clone(), path(&self.token_file), path(&self.operator_key)]
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

fn show(out: &mut Output, global: &Global, env: &Env, file: &ContextFile) -> Result<Exit, CliError> {
    let target = context::resolve(&overrides(global), env, file)?;
    let value = serde_json::json!({
        "context": target.context.as_ref().map(|(name, _)| name),
        "context_from": target.context.as_ref().map(|(_, source)| source),
        "server": target.server.0, "server_from": target.server.1,
        "token_from": target.token.as_ref().map(|(_, source)| source),
        "operator_key": target.operator_key,
    });
    let text = |value: &serde_json::Value| {
        let word = |field: &str| value[field].as_str().unwrap_or("-").to_owned();
        format!(
            "context   {} ({})\nserver    {} ({})\ntoken     {}\nkey       {}\n",
            word("context"),
            word("context_from"),
            word("server"),
            word("server_from"),
            word("token_from"),
            word("operator_key"),
        )
    };
    out.object(&value, |value: &serde_json::Value| value["server"].as_str().unwrap_or_default().to_owned(), text)?;
    Ok(Exit::Ok)
}
