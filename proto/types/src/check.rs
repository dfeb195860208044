//! Health checks: how a manifest says that a generation works.
//!
//! Invariant: a [`HealthCheck`] that passed [`HealthCheck::validate`] cannot
//! start a shell or an interpreter and cannot smuggle shell text into an
//! argument. It is validated when it is registered and again when it is run.

/// Longest unit name of systemd.
const UNIT_CHARS_MAX: usize = 256;
/// Longest host name of DNS.
const HOST_CHARS_MAX: usize = 253;
/// Longest URL accepted; longer ones are refused by common servers.
const URL_BYTES_MAX: usize = 2048;
/// Most arguments of a command; a check that needs more is a program of its own.
const ARGS_MAX: usize = 64;
/// Longest argument or program path.
const ARG_BYTES_MAX: usize = 4096;
/// Programs that would run whatever their arguments say.
const INTERPRETERS: [&str; 14] =
    ["sh", "bash", "zsh", "dash", "fish", "csh", "tcsh", "env", "python", "python3", "perl", "ruby", "node", "lua"];
/// Characters with a meaning to a shell.
const SHELL_CHARS: &[char] = &['$', '\\', '`', '|', ';', '&', '(', ')', '{', '}', '<', '>', '!', '\n', '\r', '\0'];

/// One question to a host whose answer is yes or no.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum HealthCheck {
    /// The unit is active.
    SystemdUnit {
        /// Name with suffix, such as `nginx.service`.
        unit: String,
    },
    /// A TCP connection opens.
    TcpPort {
        /// Name or address.
        host: String,
        /// Port, 1 to 65535.
        port: u16,
    },
    /// A GET answers with the status.
    HttpGet {
        /// An `http` or `https` URL.
        url: String,
        /// The status that counts as healthy.
        expect_status: u16,
    },
    /// A program ends with status 0. It runs in the host's root folder.
    Command {
        /// Absolute path of the program.
        cmd: String,
        /// Its arguments.
        #[serde(default)]
        args: Vec<String>,
    },
}

/// Why a check is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {value:?}")]
pub struct CheckError {
    /// The rule that is broken.
    pub reason: &'static str,
    /// The offending text, cut to 80 characters.
    pub value: String,
}

fn refuse(reason: &'static str, value: &str) -> Result<(), CheckError> {
    Err(CheckError { reason, value: value.chars().take(80).collect() })
}

impl HealthCheck {
    /// Checks the rules of the reference (`node-daemons.md` section 3).
    ///
    /// # Errors
    /// [`CheckError`] with the first rule that is broken.
    pub fn validate(&self) -> Result<(), CheckError> {
        match self {
            Self::SystemdUnit { unit } => validate_unit(unit),
            Self::TcpPort { host, port } => validate_host(host, *port),
            Self::HttpGet { url, expect_status } => validate_url(url, *expect_status),
            Self::Command { cmd, args } => validate_command(cmd, args),
        }
    }
}

fn validate_unit(unit: &str) -> Result<(), CheckError> {
    if unit.is_empty() || unit.chars().count() > UNIT_CHARS_MAX {
        return refuse("a unit name has 1 to 256 characters", unit);
    }
    if unit.starts_with('-') {
        return refuse("a unit name does not begin with '-'", unit);
    }
    if !unit.chars().all(|c| c.is_ascii_alphanumeric() || "@._-".contains(c)) {
        return refuse("a unit name has only letters, digits and @ . _ -", unit);
    }
    Ok(())
}

fn validate_host(host: &str, port: u16) -> Result<(), CheckError> {
    if host.is_empty() || host.len() > HOST_CHARS_MAX {
        return refuse("a host has 1 to 253 characters", host);
    }
    if !host.chars().all(|c| c.is_ascii_alphanumeric() || ".:-_[]".contains(c)) {
        return refuse("a host is a name or an address", host);
    }
    if port == 0 {
        return refuse("a port is 1 to 65535", "0");
    }
    Ok(())
}

fn validate_url(url: &str, status: u16) -> Result<(), CheckError> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    if rest.is_none_or(|rest| rest.is_empty() || rest.starts_with('/')) {
        return refuse("a url is http:// or https:// with a host", url);
    }
    if url.len() > URL_BYTES_MAX || url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return refuse("a url has at most 2048 bytes and no blanks", url);
    }
    if !(100..600).contains(&status) {
        return refuse("an HTTP status is 100 to 599", &status.to_string());
    }
    Ok(())
}

fn validate_command(cmd: &str, args: &[String]) -> Result<(), CheckError> {
    if !cmd.starts_with('/') || cmd.len() > ARG_BYTES_MAX {
        return refuse("a command is an absolute path of at most 4096 bytes", cmd);
    }
    if cmd.split('/').any(|part| part == "..") {
        return refuse("a command has no '..'", cmd);
    }
    if cmd.contains(SHELL_CHARS) {
        return refuse("a command has no shell characters", cmd);
    }
    let name = cmd.rsplit('/').next().unwrap_or_default();
    if name.is_empty() || INTERPRETERS.contains(&name) {
        return refuse("a command is a program, not a shell or interpreter", cmd);
    }
    if args.len() > ARGS_MAX {
        return refuse("a command has at most 64 arguments", cmd);
    }
    for arg in args {
        if arg.len() > ARG_BYTES_MAX || arg.contains(SHELL_CHARS) {
            return refuse("an argument has at most 4096 bytes and no shell characters", arg);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, valid: bool) {
        let parsed = serde_json::from_str::<HealthCheck>(json);
        let verdict = parsed.is_ok_and(|check| check.validate().is_ok());
        assert_eq!(verdict, valid, "{json}");
    }

    #[test]
    fn checks_follow_the_rules_of_the_reference() {
        check(r#"{"type":"systemd_unit","unit":"nginx@1.service"}"#, true);
        check(r#"{"type":"systemd_unit","unit":""}"#, false);
        check(r#"{"type":"systemd_unit","unit":"--all"}"#, false);
        check(r#"{"type":"systemd_unit","unit":"a b"}"#, false);
        check(r#"{"type":"tcp_port","host":"127.0.0.1","port":22}"#, true);
        check(r#"{"type":"tcp_port","host":"[::1]","port":22}"#, true);
        check(r#"{"type":"tcp_port","host":"x","port":0}"#, false);
        check(r#"{"type":"tcp_port","host":"x","port":70000}"#, false);
        check(r#"{"type":"http_get","url":"http://127.0.0.1:80/","expect_status":200}"#, true);
        check(r#"{"type":"http_get","url":"file:///etc/passwd","expect_status":200}"#, false);
        check(r#"{"type":"http_get","url":"http:///x","expect_status":200}"#, false);
        check(r#"{"type":"http_get","url":"http://x","expect_status":7}"#, false);
        check(r#"{"type":"command","cmd":"/usr/bin/test","args":["-e","run/x"]}"#, true);
        check(r#"{"type":"command","cmd":"/usr/bin/test"}"#, true);
        check(r#"{"type":"command","cmd":"test"}"#, false);
        check(r#"{"type":"command","cmd":"/bin/bash","args":["-c","x"]}"#, false);
        check(r#"{"type":"command","cmd":"/bin/../bin/test"}"#, false);
        check(r#"{"type":"command","cmd":"/bin/test","args":["$(x)"]}"#, false);
        check(r#"{"type":"command","cmd":"/bin/test","args":["a\nb"]}"#, false);
        check(r#"{"type":"command","cmd":"/bin/test","shell":true}"#, false);
        check(r#"{"type":"ping","host":"x"}"#, false);
    }
}
