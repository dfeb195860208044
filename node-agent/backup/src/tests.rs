//! Backups of real folders: consistent, checked, and nothing that should not be
//! in them or be replaced by them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use osmoda_kit::clock::Timestamp;
use rusqlite::Connection;

use crate::archive::is_id;
use crate::restore::Target;
use crate::{Archive, BackupError, Entry, Form, Limits, Listed, Manifest, Plan, Reason, Skipped, Source};

/// 2026-11-22T12:00:00Z.
const NOW: Timestamp = Timestamp::from_millis(1_795_348_800_000);

struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(host.state()).unwrap();
        host
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state/agentd")
    }

    fn archive(&self, keep: usize) -> Archive {
        Archive::new(self.dir.path().join("backups"), keep)
    }

    fn write(&self, path: &str, content: &[u8]) {
        let path = self.state().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn plan(&self) -> Plan {
        let source = Source { name: "agentd".to_owned(), folder: self.state() };
        Plan { sources: vec![source], limits: Limits::default() }
    }

    fn backup(&self) -> (Listed, Manifest) {
        self.archive(7).create(&self.plan(), NOW).unwrap()
    }

    fn targets(&self, folder: &str) -> BTreeMap<String, Target> {
        BTreeMap::from([("agentd".to_owned(), Target::new(self.dir.path().join(folder)))])
    }
}

fn paths(manifest: &Manifest) -> Vec<&str> {
    manifest.files.iter().map(|file| file.path.as_str()).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn database(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.pragma_update(None, "journal_mode", "WAL").unwrap();
    conn.execute_batch(
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, x TEXT); INSERT INTO t (x) VALUES ('a');",
    )
    .unwrap();
    conn
}

#[test]
fn what_was_backed_up_comes_back() {
    let host = Host::new();
    host.write("agent-card.json", b"{}");
    host.write("deep/er/state.json", b"deep");
    fs::set_permissions(host.state().join("agent-card.json"), fs::Permissions::from_mode(0o640)).unwrap();
    let (listed, manifest) = host.backup();
    assert_eq!(listed.id, "backup-20261122-120000");
    assert_eq!(paths(&manifest), ["agent-card.json", "deep/er/state.json"]);
    assert_eq!((listed.files, listed.bytes, listed.created_at), (2, 6, NOW));
    assert_eq!(host.archive(7).list().unwrap(), std::slice::from_ref(&listed));
    assert_eq!(names(&host.dir.path().join("backups")), ["backup-20261122-120000"], "nothing unfinished stays");
    host.archive(7).check(&listed.id, Limits::default()).unwrap();

    host.write("agent-card.json", b"changed");
    let targets = host.targets("state/agentd");
    let restored =
        host.archive(7).restore(&listed.id, Some(&listed.manifest_sha256), &targets, Limits::default()).unwrap();
    assert_eq!((restored.files, restored.bytes, restored.skipped), (2, 6, vec![]));
    let card = host.state().join("agent-card.json");
    assert_eq!(fs::read(&card).unwrap(), b"{}");
    assert_eq!(fs::metadata(&card).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(names(&host.state()), ["agent-card.json", "deep"], "no temporary files");
}

#[test]
fn a_database_is_copied_as_one_transaction_saw_it() {
    let host = Host::new();
    let conn = database(&host.state().join("rooms.db"));
    // A writer in the middle of a transaction, as any daemon may be.
    conn.execute_batch("BEGIN IMMEDIATE; INSERT INTO t (x) VALUES ('half');").unwrap();
    let (listed, manifest) = host.backup();
    conn.execute_batch("COMMIT").unwrap();
    assert_eq!(paths(&manifest), ["rooms.db"], "neither -wal nor -shm");
    assert_eq!(manifest.files[0].form, Form::Sqlite);
    assert_eq!(names(&listed.path.join("files/agentd")), ["rooms.db"]);

    host.archive(7).restore(&listed.id, None, &host.targets("new"), Limits::default()).unwrap();
    let copy = Connection::open(host.dir.path().join("new/rooms.db")).unwrap();
    let rows: i64 = copy.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    let seq: i64 = copy.query_row("SELECT seq FROM sqlite_sequence", [], |row| row.get(0)).unwrap();
    assert_eq!((rows, seq), (1, 1));
}

#[test]
fn an_old_log_does_not_survive_beside_a_restored_database() {
    let host = Host::new();
    drop(database(&host.state().join("rooms.db")));
    let (listed, _) = host.backup();
    let conn = Connection::open(host.state().join("rooms.db")).unwrap();
    conn.execute_batch("INSERT INTO t (x) VALUES ('later')").unwrap();
    assert!(host.state().join("rooms.db-wal").exists());
    // As a killed daemon would leave it: the log stays.
    fs::copy(host.state().join("rooms.db-wal"), host.dir.path().join("wal")).unwrap();
    drop(conn);
    fs::copy(host.dir.path().join("wal"), host.state().join("rooms.db-wal")).unwrap();
    host.archive(7).restore(&listed.id, None, &host.targets("state/agentd"), Limits::default()).unwrap();
    let conn = Connection::open(host.state().join("rooms.db")).unwrap();
    let rows: i64 = conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1);
}

#[test]
fn keys_links_and_what_is_not_state_stay_out_and_are_named() {
    let host = Host::new();
    host.write("mesh.key", b"canary-secret");
    host.write("keys/7.json", b"canary-secret");
    host.write("ledger.db-wal", b"x");
    host.write("fts.db", b"x");
    host.write("backups/backup-20200101-000000/x", b"x");
    host.write("plain", b"x");
    host.write("../outside", b"canary-secret");
    symlink(host.dir.path().join("state/outside"), host.state().join("link")).unwrap();
    symlink("/etc", host.state().join("folder")).unwrap();
    std::os::unix::net::UnixListener::bind(host.state().join("pipe")).unwrap();
    let (listed, manifest) = host.backup();
    assert_eq!(paths(&manifest), ["plain"]);
    let reasons: BTreeMap<_, _> = manifest.left_out.iter().map(|out| (out.path.as_str(), out.reason)).collect();
    let expected = [
        ("backups", Reason::Derived),
        ("folder", Reason::NotAFile),
        ("fts.db", Reason::Derived),
        ("keys", Reason::Secret),
        ("ledger.db-wal", Reason::Transient),
        ("link", Reason::NotAFile),
        ("mesh.key", Reason::Secret),
        ("pipe", Reason::NotAFile),
    ];
    assert_eq!(reasons, BTreeMap::from(expected));
    assert_eq!(names(&listed.path.join("files/agentd")), ["plain"]);
}

#[test]
fn a_source_that_cannot_be_read_is_named_and_does_not_end_the_backup() {
    let host = Host::new();
    host.write("plain", b"x");
    let mut plan = host.plan();
    plan.sources.push(Source { name: "mesh".to_owned(), folder: host.dir.path().join("state/mesh") });
    let (_, manifest) = host.archive(7).create(&plan, NOW).unwrap();
    assert_eq!(manifest.left_out.len(), 1);
    assert_eq!((manifest.left_out[0].source.as_str(), manifest.left_out[0].reason), ("mesh", Reason::Gone));
}

#[test]
fn a_history_is_never_taken_back_and_never_missing() {
    let host = Host::new();
    drop(database(&host.state().join("ledger.db")));
    host.write("plain", b"old");
    let (listed, _) = host.backup();
    let conn = Connection::open(host.state().join("ledger.db")).unwrap();
    conn.execute_batch("INSERT INTO t (x) VALUES ('later')").unwrap();
    host.write("plain", b"new");
    let restored = host.archive(7).restore(&listed.id, None, &host.targets("state/agentd"), Limits::default()).unwrap();
    assert_eq!(restored.skipped, [("agentd/ledger.db".to_owned(), Skipped::History)]);
    let rows: i64 = conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!((rows, fs::read(host.state().join("plain")).unwrap()), (2, b"old".to_vec()));
    let fresh = host.archive(7).restore(&listed.id, None, &host.targets("fresh"), Limits::default()).unwrap();
    assert_eq!((fresh.files, fresh.skipped), (2, vec![]));
}

#[test]
fn limits_end_a_backup_and_leave_nothing() {
    let host = Host::new();
    host.write("a", &[0; 1000]);
    host.write("b", &[0; 1000]);
    for limits in [
        Limits { file_bytes_max: 999, ..Limits::default() },
        Limits { total_bytes_max: 1999, ..Limits::default() },
        Limits { files_max: 1, ..Limits::default() },
    ] {
        let error = host.archive(7).create(&Plan { limits, ..host.plan() }, NOW).unwrap_err();
        assert!(matches!(error, BackupError::OverLimit { .. }), "{error}");
        assert_eq!(names(&host.dir.path().join("backups")), [""; 0]);
    }
    let limits = Limits { time_max: Duration::ZERO, ..Limits::default() };
    assert!(matches!(host.archive(7).create(&Plan { limits, ..host.plan() }, NOW), Err(BackupError::TimeOut)));
}

#[test]
fn the_newest_stay_and_one_second_may_have_several() {
    let host = Host::new();
    host.write("a", b"x");
    let archive = host.archive(3);
    let ids: Vec<String> = [0, 0, 0, 1, 0]
        .into_iter()
        .map(|second| {
            let now = Timestamp::from_millis(NOW.as_millis() + second * 1000);
            archive.create(&host.plan(), now).unwrap().0.id
        })
        .collect();
    assert_eq!(
        &ids[..4],
        ["backup-20261122-120000", "backup-20261122-120000-2", "backup-20261122-120000-3", "backup-20261122-120001"]
    );
    let listed: Vec<_> = archive.list().unwrap().into_iter().map(|listed| listed.id).collect();
    assert_eq!(listed.len(), 3);
    assert_eq!(listed[0], "backup-20261122-120001");
}

#[test]
fn what_was_changed_in_a_backup_is_refused_before_anything_is_replaced() {
    let host = Host::new();
    host.write("a", b"old");
    host.write("b", b"old");
    let (listed, manifest) = host.backup();
    host.write("a", b"new");
    let restore =
        |sha: Option<&str>| host.archive(7).restore(&listed.id, sha, &host.targets("state/agentd"), Limits::default());
    let copy_b = listed.path.join("files/agentd/b");
    fs::write(&copy_b, b"bad").unwrap();
    assert!(matches!(restore(None), Err(BackupError::Damaged { .. })));
    fs::remove_file(&copy_b).unwrap();
    assert!(matches!(restore(None), Err(BackupError::Damaged { .. })));
    symlink("/etc/hostname", &copy_b).unwrap();
    assert!(matches!(restore(None), Err(BackupError::Damaged { .. })));
    assert_eq!(fs::read(host.state().join("a")).unwrap(), b"new");

    let forged = Manifest { files: vec![], ..manifest };
    fs::write(listed.path.join("manifest.json"), serde_json::to_vec(&forged).unwrap()).unwrap();
    assert!(matches!(restore(Some(&listed.manifest_sha256)), Err(BackupError::Manifest(_))));
}

#[test]
fn a_manifest_cannot_lead_out_of_its_folder() {
    let host = Host::new();
    host.write("a", b"x");
    let (listed, manifest) = host.backup();
    for (source, path) in [("agentd", "../../a"), ("agentd", "/etc/x"), ("..", "a"), ("a/b", "a"), ("agentd", "")] {
        let file = Entry { source: source.to_owned(), path: path.to_owned(), ..manifest.files[0].clone() };
        let forged = Manifest { files: vec![file], ..manifest.clone() };
        fs::write(listed.path.join("manifest.json"), serde_json::to_vec(&forged).unwrap()).unwrap();
        assert!(matches!(host.archive(7).find(&listed.id, None), Err(BackupError::Manifest(_))), "{source} {path}");
    }
    for id in ["..", "../backups/backup-20261122-120000", "backup-20261122-120000/", "backup-2026112-120000", ""] {
        assert!(matches!(host.archive(7).find(id, None), Err(BackupError::BadId)), "{id}");
    }
    assert!(matches!(host.archive(7).find("backup-19990101-000000", None), Err(BackupError::Unknown(_))));
    assert!(
        is_id("backup-20261122-120000-99") && !is_id("backup-20261122-120000-100") && !is_id("backup-20261122-120000-")
    );
}

#[test]
fn a_link_in_the_target_is_not_followed() {
    let host = Host::new();
    host.write("deep/a", b"x");
    let (listed, _) = host.backup();
    fs::create_dir_all(host.dir.path().join("new")).unwrap();
    fs::create_dir_all(host.dir.path().join("elsewhere")).unwrap();
    symlink(host.dir.path().join("elsewhere"), host.dir.path().join("new/deep")).unwrap();
    assert!(host.archive(7).restore(&listed.id, None, &host.targets("new"), Limits::default()).is_err());
    assert_eq!(names(&host.dir.path().join("elsewhere")), [""; 0]);
}

#[test]
fn a_database_that_is_damaged_ends_the_backup() {
    let host = Host::new();
    drop(database(&host.state().join("rooms.db")));
    let path = host.state().join("rooms.db");
    let mut bytes = fs::read(&path).unwrap();
    let half = bytes.len() / 2;
    bytes[half..].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    assert!(host.archive(7).create(&host.plan(), NOW).is_err());
    assert_eq!(host.archive(7).list().unwrap(), []);
}

#[test]
fn what_an_earlier_run_left_unfinished_is_removed() {
    let host = Host::new();
    host.write("a", b"x");
    fs::create_dir_all(host.dir.path().join("backups/.unfinished-backup-20200101-000000/files")).unwrap();
    let (listed, _) = host.backup();
    assert_eq!(names(&host.dir.path().join("backups")), [listed.id]);
}
