//! The tools: name, arguments, effect class. *Pure.*
//!
//! Invariant: a tool's class and schema are compiled in. The schema's hash is
//! part of every call, so a tool that changes its arguments voids the permits
//! that were given for the old ones (P16).

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::call::{CallFault, exactly};
use crate::class::EffectClass;

/// Most content of one file write, in bytes: a large unit or configuration
/// file. What has more of what JSON escapes than fits is refused as a call
/// ([`CALL_BYTES_MAX`](crate::call::CALL_BYTES_MAX)).
pub const CONTENT_BYTES_MAX: usize = 64 * 1024;

/// Longest path, Linux's own limit.
pub const PATH_BYTES_MAX: usize = 4095;

/// Longest raw command, the earlier product's limit.
pub const COMMAND_BYTES_MAX: usize = 4096;

/// Longest unit name, systemd's own limit.
const UNIT_BYTES_MAX: usize = 255;

/// Longest backup id: `backup-YYYYMMDD-HHMMSS` and some room.
const BACKUP_BYTES_MAX: usize = 64;

/// The tools of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tool {
    /// Restarts a unit.
    ServiceRestart,
    /// Replaces a file or makes one.
    FileWrite,
    /// Restarts the host; refused everywhere.
    SystemReboot,
    /// Brings back the state of the daemons from a backup.
    BackupRestore,
    /// A text for a shell: can be asked for and shown, and never runs.
    RawExec,
}

/// A tool with its arguments, read by its schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// [`Tool::ServiceRestart`].
    ServiceRestart {
        /// The unit, such as `nginx.service`.
        unit: String,
    },
    /// [`Tool::FileWrite`].
    FileWrite {
        /// Absolute, without `.`, `..` or empty parts.
        path: String,
        /// The new content.
        content: String,
    },
    /// [`Tool::SystemReboot`].
    SystemReboot,
    /// [`Tool::BackupRestore`].
    BackupRestore {
        /// The backup's name.
        backup_id: String,
    },
    /// [`Tool::RawExec`].
    RawExec {
        /// The text.
        command: String,
    },
}

impl Tool {
    /// Every tool.
    pub const ALL: [Self; 5] =
        [Self::ServiceRestart, Self::FileWrite, Self::SystemReboot, Self::BackupRestore, Self::RawExec];

    /// Its stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ServiceRestart => "service.restart",
            Self::FileWrite => "file.write",
            Self::SystemReboot => "system.reboot",
            Self::BackupRestore => "backup.restore",
            Self::RawExec => "raw.exec",
        }
    }

    /// The tool with that name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.name() == name)
    }

    /// What its arguments are, as JSON Schema. The text itself is hashed, so a
    /// space more is another schema.
    #[must_use]
    pub const fn schema(self) -> &'static str {
        match self {
            Self::ServiceRestart => {
                r#"{"additionalProperties":false,"properties":{"unit":{"maxLength":255,"type":"string"}},"required":["unit"],"type":"object"}"#
            }
            Self::FileWrite => {
                r#"{"additionalProperties":false,"properties":{"content":{"maxLength":65536,"type":"string"},"path":{"maxLength":4095,"type":"string"}},"required":["content","path"],"type":"object"}"#
            }
            Self::SystemReboot => r#"{"additionalProperties":false,"properties":{},"type":"object"}"#,
            Self::BackupRestore => {
                r#"{"additionalProperties":false,"properties":{"backup_id":{"maxLength":64,"type":"string"}},"required":["backup_id"],"type":"object"}"#
            }
            Self::RawExec => {
                r#"{"additionalProperties":false,"properties":{"command":{"maxLength":4096,"type":"string"}},"required":["command"],"type":"object"}"#
            }
        }
    }

    /// SHA-256 of [`Tool::schema`], hex.
    #[must_use]
    pub fn schema_sha256(self) -> String {
        data_encoding::HEXLOWER.encode(&Sha256::digest(self.schema()))
    }

    /// Reads arguments by the tool's schema.
    ///
    /// # Errors
    /// [`CallFault::Field`].
    pub fn parse(self, args: &Map<String, Value>) -> Result<Operation, CallFault> {
        let text = |name: &str, bytes_max: usize| {
            let text = args[name].as_str().ok_or_else(|| CallFault::Field(format!("{name} is no text")))?;
            if text.len() > bytes_max {
                return Err(CallFault::Field(format!("{name} is over {bytes_max} bytes")));
            }
            Ok(text.to_owned())
        };
        match self {
            Self::ServiceRestart => {
                exactly(args, &["unit"], "args.asked")?;
                let unit = text("unit", UNIT_BYTES_MAX)?;
                check_unit(&unit)?;
                Ok(Operation::ServiceRestart { unit })
            }
            Self::FileWrite => {
                exactly(args, &["content", "path"], "args.asked")?;
                let path = text("path", PATH_BYTES_MAX)?;
                check_path(&path)?;
                Ok(Operation::FileWrite { path, content: text("content", CONTENT_BYTES_MAX)? })
            }
            Self::SystemReboot => {
                exactly(args, &[], "args.asked")?;
                Ok(Operation::SystemReboot)
            }
            Self::BackupRestore => {
                exactly(args, &["backup_id"], "args.asked")?;
                let backup_id = text("backup_id", BACKUP_BYTES_MAX)?;
                check_backup(&backup_id)?;
                Ok(Operation::BackupRestore { backup_id })
            }
            Self::RawExec => {
                exactly(args, &["command"], "args.asked")?;
                let command = text("command", COMMAND_BYTES_MAX)?;
                if command.is_empty() {
                    return Err(CallFault::Field("command is empty".into()));
                }
                Ok(Operation::RawExec { command })
            }
        }
    }
}

impl Operation {
    /// The tool it belongs to.
    #[must_use]
    pub const fn tool(&self) -> Tool {
        match self {
            Self::ServiceRestart { .. } => Tool::ServiceRestart,
            Self::FileWrite { .. } => Tool::FileWrite,
            Self::SystemReboot => Tool::SystemReboot,
            Self::BackupRestore { .. } => Tool::BackupRestore,
            Self::RawExec { .. } => Tool::RawExec,
        }
    }

    /// The arguments as the schema describes them.
    #[must_use]
    pub fn to_args(&self) -> Value {
        match self {
            Self::ServiceRestart { unit } => json!({ "unit": unit }),
            Self::FileWrite { path, content } => json!({ "content": content, "path": path }),
            Self::SystemReboot => json!({}),
            Self::BackupRestore { backup_id } => json!({ "backup_id": backup_id }),
            Self::RawExec { command } => json!({ "command": command }),
        }
    }

    /// The class, where files below `write_roots` may be changed.
    ///
    /// A write is reversible only inside a root and outside what runs later or
    /// guards the host ([`crate::protected`]); the executor keeps the old file.
    #[must_use]
    pub fn class(&self, write_roots: &[String]) -> EffectClass {
        match self {
            Self::ServiceRestart { unit } if crate::protected::is_own_unit(unit) => EffectClass::Destructive,
            Self::ServiceRestart { .. } => EffectClass::ChangeReversible,
            Self::FileWrite { path, .. } => {
                let inside = write_roots.iter().any(|root| crate::protected::is_below(path, root));
                if inside && !crate::protected::is_protected(path) {
                    EffectClass::ChangeReversible
                } else {
                    EffectClass::Destructive
                }
            }
            Self::SystemReboot | Self::BackupRestore { .. } => EffectClass::Destructive,
            Self::RawExec { .. } => EffectClass::RawExec,
        }
    }

    /// The object and the folder it is in, for quotas (P14): many small changes
    /// to one thing, or to its neighbours, are one large change.
    #[must_use]
    pub fn object_keys(&self) -> [String; 2] {
        match self {
            Self::ServiceRestart { unit } => [format!("unit:{unit}"), "units".to_owned()],
            Self::FileWrite { path, .. } => {
                let folder = path.rsplit_once('/').map_or("/", |(folder, _)| folder);
                [format!("file:{path}"), format!("folder:{folder}/")]
            }
            Self::SystemReboot => ["host".to_owned(), "host".to_owned()],
            Self::BackupRestore { backup_id } => [format!("backup:{backup_id}"), "backups".to_owned()],
            Self::RawExec { .. } => ["raw".to_owned(), "raw".to_owned()],
        }
    }
}

fn check_unit(unit: &str) -> Result<(), CallFault> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'@' | b'.' | b'_' | b':' | b'-');
    let known = [".service", ".socket", ".timer"].iter().any(|ending| unit.ends_with(ending));
    if unit.bytes().all(plain) && known && !unit.starts_with(['-', '.']) {
        return Ok(());
    }
    Err(CallFault::Field("unit is no name of a .service, .socket or .timer".into()))
}

fn check_path(path: &str) -> Result<(), CallFault> {
    let fault = |text: &str| Err(CallFault::Field(format!("path {text}")));
    let Some(rest) = path.strip_prefix('/') else { return fault("is not absolute") };
    if path.chars().any(char::is_control) {
        return fault("has a control character");
    }
    if rest.split('/').any(|part| matches!(part, "" | "." | "..") || part.len() > 255) {
        return fault("has an empty, a dot or an over-long part");
    }
    Ok(())
}

fn check_backup(id: &str) -> Result<(), CallFault> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if !id.is_empty() && id.bytes().all(plain) {
        return Ok(());
    }
    Err(CallFault::Field("backup_id has other characters than letters, digits, - and _".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn parse(tool: Tool, args: Value) -> Result<Operation, CallFault> {
        tool.parse(args.as_object().unwrap())
    }

    #[test]
    fn arguments_read_back_and_nothing_is_added_or_left_out() {
        for (tool, args) in [
            (Tool::ServiceRestart, json!({"unit": "nginx.service"})),
            (Tool::FileWrite, json!({"path": "/etc/motd", "content": "hi\n"})),
            (Tool::SystemReboot, json!({})),
            (Tool::BackupRestore, json!({"backup_id": "backup-20260101-000000"})),
            (Tool::RawExec, json!({"command": "ls"})),
        ] {
            let operation = parse(tool, args.clone()).unwrap();
            assert_eq!((operation.tool(), operation.to_args()), (tool, args.clone()));
            let mut more = args;
            more["object"] = json!(1);
            assert!(parse(tool, more).is_err(), "{}", tool.name());
            assert_eq!(Tool::of(tool.name()), Some(tool));
            assert!(serde_json::from_str::<Value>(tool.schema()).is_ok());
        }
    }

    #[test]
    fn crooked_arguments_are_refused() {
        for path in ["etc/motd", "/etc/../shadow", "/etc//motd", "/etc/motd/", "/", "", "/a\nb", "/a\0", "/./a"] {
            assert!(parse(Tool::FileWrite, json!({"path": path, "content": ""})).is_err(), "{path:?}");
        }
        for unit in ["nginx", "a b.service", "../x.service", "-x.service", "a/b.service", "é.service", ".service"] {
            assert!(parse(Tool::ServiceRestart, json!({"unit": unit})).is_err(), "{unit:?}");
        }
        for id in ["", "../x", "a/b", "a.b", "é"] {
            assert!(parse(Tool::BackupRestore, json!({"backup_id": id})).is_err(), "{id:?}");
        }
        assert!(parse(Tool::RawExec, json!({"command": 1})).is_err());
        let large = "x".repeat(CONTENT_BYTES_MAX + 1);
        assert!(parse(Tool::FileWrite, json!({"path": "/a", "content": large})).is_err());
    }

    #[test]
    fn the_class_of_a_write_depends_on_where_it_goes() {
        let roots = ["/srv/www".to_owned(), "/etc".to_owned()];
        let class = |path: &str| Operation::FileWrite { path: path.into(), content: String::new() }.class(&roots);
        assert_eq!(class("/srv/www/a"), EffectClass::ChangeReversible);
        for path in [
            "/srv/wwwx",
            "/srv/www",
            "/usr/a",
            "/etc/motd",
            "/etc/cron.d/x",
            "/etc/osmoda/a.toml",
            "/srv/www/.git/hooks/a",
        ] {
            assert_eq!(class(path), EffectClass::Destructive, "{path}");
        }
    }
}
