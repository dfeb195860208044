//! Starting programs from a task: printed, checked, from the workspace root.
//!
//! A step that ends with anything but success is an error that names the whole
//! command. Nothing here retries.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};

/// Folder of the workspace: the parent of this crate's folder.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies one folder below the workspace root")
}

/// The cargo that started this task, so that one toolchain is used throughout.
pub(crate) fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"))
}

/// Whether `program --version` starts and succeeds.
pub(crate) fn available(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs a program with inherited output and fails unless it succeeds.
pub(crate) fn checked(folder: &Path, program: &OsStr, arguments: &[&str]) -> anyhow::Result<()> {
    checked_with(folder, program, arguments, &[])
}

/// Like [`checked`], with variables added to the environment.
pub(crate) fn checked_with(
    folder: &Path,
    program: &OsStr,
    arguments: &[&str],
    variables: &[(&str, &OsStr)],
) -> anyhow::Result<()> {
    let line = describe(program, arguments);
    eprintln!("  $ {line}");
    let status = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}

/// Runs a program and returns its standard output; its errors go to the terminal.
pub(crate) fn output(folder: &Path, program: &OsStr, arguments: &[&str]) -> anyhow::Result<String> {
    let line = describe(program, arguments);
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` ended with {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` printed bytes that are not UTF-8"))
}

/// Runs a program with inherited output and returns its exit code, `None` for a signal.
pub(crate) fn status(program: &Path, arguments: &[&str]) -> anyhow::Result<Option<i32>> {
    let status = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    Ok(status.code())
}

/// Runs a program whose standard error is shown and also handed to `each_line`.
///
/// Returns whether the program succeeded, so that the caller can first report
/// what it counted.
pub(crate) fn tee_stderr(
    folder: &Path,
    program: &OsStr,
    arguments: &[&str],
    each_line: impl FnMut(&str),
) -> anyhow::Result<bool> {
    let mut child = start(folder, program, arguments, Stdio::inherit(), Stdio::piped())?;
    let pipe = child.stderr.take().expect("standard error was asked for as a pipe");
    tee(pipe, std::io::stderr().lock(), each_line)?;
    Ok(child.wait().context("waiting for the program")?.success())
}

/// Runs a program whose standard output is shown and also handed to `each_line`.
pub(crate) fn tee_stdout(
    folder: &Path,
    program: &OsStr,
    arguments: &[&str],
    each_line: impl FnMut(&str),
) -> anyhow::Result<bool> {
    let mut child = start(folder, program, arguments, Stdio::piped(), Stdio::inherit())?;
    let pipe = child.stdout.take().expect("standard output was asked for as a pipe");
    tee(pipe, std::io::stdout().lock(), each_line)?;
    Ok(child.wait().context("waiting for the program")?.success())
}

fn start(folder: &Path, program: &OsStr, arguments: &[&str], out: Stdio, err: Stdio) -> anyhow::Result<Child> {
    let line = describe(program, arguments);
    eprintln!("  $ {line}");
    Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))
}

fn tee(pipe: impl Read, mut terminal: impl Write, mut each_line: impl FnMut(&str)) -> anyhow::Result<()> {
    for text in BufReader::new(pipe).split(b'\n') {
        let text = text.context("reading what the program prints")?;
        terminal.write_all(&text).and_then(|()| terminal.write_all(b"\n")).context("writing to the terminal")?;
        each_line(&String::from_utf8_lossy(&text));
    }
    Ok(())
}

fn describe(program: &OsStr, arguments: &[&str]) -> String {
    let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned();
    std::iter::once(name.as_str()).chain(arguments.iter().copied()).collect::<Vec<_>>().join(" ")
}
