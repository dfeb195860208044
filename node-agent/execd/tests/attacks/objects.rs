//! What was looked at is what is acted on: links, renames, mounts, units in between.

use std::io::Write as _;
use std::os::unix::fs::symlink;

use super::*;

/// What somebody does to the host after the signature.
type Change = fn(&Path);

#[tokio::test]
async fn p09_links_renames_and_other_folders_between_approval_and_act_are_refused() {
    let host = Host::new();
    let (root, target) = (host.root(), host.root().join("srv/www/page"));
    let outside = root.join("etc/shadow");
    std::fs::write(&outside, "secret\n").unwrap();
    let changes: [(&str, Change); 6] = [
        ("a link in its place", |root| {
            std::fs::remove_file(root.join("srv/www/page")).unwrap();
            symlink(root.join("etc/shadow"), root.join("srv/www/page")).unwrap();
        }),
        ("another file in its place", |root| {
            std::fs::write(root.join("srv/www/other"), "old\n").unwrap();
            std::fs::rename(root.join("srv/www/other"), root.join("srv/www/page")).unwrap();
        }),
        ("other content", |root| std::fs::write(root.join("srv/www/page"), "edited\n").unwrap()),
        ("gone", |root| std::fs::remove_file(root.join("srv/www/page")).unwrap()),
        ("the folder is another one", |root| {
            std::fs::rename(root.join("srv/www"), root.join("srv/www.old")).unwrap();
            std::fs::create_dir(root.join("srv/www")).unwrap();
            std::fs::hard_link(root.join("srv/www.old/page"), root.join("srv/www/page")).unwrap();
        }),
        ("the folder is a link", |root| {
            std::fs::rename(root.join("srv/www"), root.join("srv/www.old")).unwrap();
            symlink(root.join("srv/www.old"), root.join("srv/www")).unwrap();
        }),
    ];
    for (what, change) in changes {
        let folder = root.join("srv/www");
        if folder.is_symlink() {
            std::fs::remove_file(&folder).unwrap();
        } else {
            std::fs::remove_dir_all(&folder).unwrap();
        }
        if root.join("srv/www.old").exists() {
            std::fs::remove_dir_all(root.join("srv/www.old")).unwrap();
        }
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(&target, "old\n").unwrap();
        let view = host.approved("file.write", write("/srv/www/page")).await;
        change(&root);
        let refused = host.run(&view).await.unwrap_err();
        assert!(matches!(refused, ErrorCode::ObjectChanged | ErrorCode::CallMalformed), "{what}: {refused}");
        assert_eq!(
            host.admin().show(&view.signed.permit.id).await.unwrap().state,
            State::Approved,
            "{what}: not used up"
        );
    }
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "secret\n");
    // And what leads through a link is not even asked for.
    symlink(root.join("etc"), root.join("srv/link")).unwrap();
    assert_eq!(code(host.ask("file.write", write("/srv/link/motd")).await).unwrap_err(), ErrorCode::CallMalformed);
    host.close().await;
}

/// Witnesses who answer after somebody has changed the host: the permit was judged,
/// the object looked at, the intent written, and the act is next.
struct Changing {
    root: PathBuf,
    change: Change,
}

impl HeadGate for Changing {
    fn ready(&self) -> Answer<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn witnessed(&self, _: u64) -> Answer<'_, ()> {
        (self.change)(&self.root);
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test]
async fn p09_what_changes_while_witnesses_are_asked_is_seen_by_the_second_look() {
    let changes: [(&str, Change, &str); 5] = [
        (
            "another file in its place",
            |root| {
                std::fs::write(root.join("etc/other"), "theirs\n").unwrap();
                std::fs::rename(root.join("etc/other"), root.join("etc/motd")).unwrap();
            },
            "theirs\n",
        ),
        ("other content", |root| std::fs::write(root.join("etc/motd"), "theirs\n").unwrap(), "theirs\n"),
        (
            "a link in its place",
            |root| {
                std::fs::write(root.join("etc/shadow"), "theirs\n").unwrap();
                std::fs::remove_file(root.join("etc/motd")).unwrap();
                symlink(root.join("etc/shadow"), root.join("etc/motd")).unwrap();
            },
            "theirs\n",
        ),
        ("gone", |root| std::fs::remove_file(root.join("etc/motd")).unwrap(), ""),
        (
            "the folder is another one",
            |root| {
                std::fs::rename(root.join("etc"), root.join("etc.old")).unwrap();
                std::fs::create_dir(root.join("etc")).unwrap();
                std::fs::hard_link(root.join("etc.old/motd"), root.join("etc/motd")).unwrap();
            },
            "old\n",
        ),
    ];
    for (what, change, left) in changes {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let host = Host::with(dir, Arc::new(Changing { root: root.clone(), change }));
        std::fs::write(root.join("etc/motd"), "old\n").unwrap();
        let view = host.approved("file.write", write("/etc/motd")).await;
        let refused = host.run(&view).await.unwrap_err();
        assert!(matches!(refused, ErrorCode::ObjectChanged | ErrorCode::CallMalformed), "{what}: {refused}");
        assert_eq!(std::fs::read_to_string(root.join("etc/motd")).unwrap_or_default(), left, "{what}");
        assert_eq!(host.last_outcome(), "refused", "{what}");
        assert_eq!(host.run(&view).await, Err(ErrorCode::ApprovalSpent), "{what}: the permit is used up");
        host.close().await;
    }
}

#[tokio::test]
async fn p10_a_unit_that_changes_while_witnesses_are_asked_is_not_restarted() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let change: Change = |root| std::fs::write(root.join("etc/app.service"), "[Service]\nExecStart=/evil\n").unwrap();
    let host = Host::with(dir, Arc::new(Changing { root: root.clone(), change }));
    let view = host.approved("service.restart", json!({ "unit": "sshd.service" })).await;
    assert_eq!(host.run(&view).await, Err(ErrorCode::ObjectChanged));
    assert_eq!(host.last_outcome(), "refused");
    assert!(!root.join("restarts").exists());
    host.close().await;
}

/// Shows a folder at another place too. Needs root and the right to mount, and says so
/// where it has neither.
async fn bind(folder: &Path, point: &Path) -> bool {
    use osmoda_kit::process::{Spec, run};
    let spec = Spec::new("/bin/mount").args([Path::new("--bind"), folder, point]);
    let is_done = run(&spec.time_limit(Duration::from_secs(10))).await.is_ok_and(|output| output.success());
    if !is_done {
        let mut log = std::io::stderr();
        writeln!(log, "SKIPPED: this process may not mount").unwrap();
    }
    is_done
}

async fn unbind(point: &Path) {
    use osmoda_kit::process::{Spec, run};
    let spec = Spec::new("/bin/umount").args([point]);
    assert!(run(&spec.time_limit(Duration::from_secs(10))).await.unwrap().success());
}

#[tokio::test]
async fn p09_a_protected_folder_mounted_below_a_write_root_stays_protected() {
    let host = Host::new();
    for (folder, mounted) in [("etc/cron.d", "srv/jobs"), ("srv/harmless", "srv/www")] {
        let (folder, mounted) = (host.root().join(folder), host.root().join(mounted));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::create_dir_all(&mounted).unwrap();
        if !bind(&folder, &mounted).await {
            return host.close().await.close().unwrap();
        }
    }
    let mut results = Vec::new();
    for path in ["/srv/jobs/evil", "/srv/www/page"] {
        let view = host.ask("file.write", write(path)).await.unwrap();
        assert_eq!(view.signed.permit.class, EffectClass::ChangeReversible);
        let free = RunRequest { permit: None, ..request(&view) };
        results.push(code(host.executor.run(free).await).map(|_| ()));
    }
    for mounted in ["srv/jobs", "srv/www"] {
        unbind(&host.root().join(mounted)).await;
    }
    assert_eq!(results, [Err(ErrorCode::ClassRefused), Ok(())]);
    assert!(!host.root().join("etc/cron.d/evil").exists());
    host.close().await;
}

/// Another folder over the one that was looked at is another object. The folder itself
/// by another mount is none: each start of the executor has mounts of its own.
#[tokio::test]
async fn p09_what_is_mounted_over_a_folder_is_another_object_and_the_same_folder_is_not() {
    let host = Host::new();
    let (folder, other) = (host.root().join("srv/www"), host.root().join("srv/other"));
    std::fs::create_dir(&other).unwrap();
    for dir in [&folder, &other] {
        std::fs::write(dir.join("page"), "old\n").unwrap();
    }
    let view = host.approved("file.write", write("/srv/www/page")).await;
    if !bind(&other, &folder).await {
        return host.close().await.close().unwrap();
    }
    let over = host.run(&view).await.map(drop);
    unbind(&folder).await;
    assert!(bind(&folder, &folder).await);
    let again = host.run(&view).await.map(drop);
    unbind(&folder).await;
    assert_eq!((over, again), (Err(ErrorCode::ObjectChanged), Ok(())));
    assert_eq!(std::fs::read_to_string(other.join("page")).unwrap(), "old\n");
    host.close().await;
}

#[tokio::test]
async fn p10_the_same_unit_name_with_another_file_is_refused() {
    let host = Host::new();
    let view = host.ask("service.restart", json!({ "unit": "app.service" })).await.unwrap();
    std::fs::write(host.root().join("etc/app.service"), "[Service]\nExecStart=/bin/evil\n").unwrap();
    let free = RunRequest { permit: None, ..request(&view) };
    assert_eq!(code(host.executor.run(free).await).unwrap_err(), ErrorCode::ObjectChanged);
    assert!(!host.root().join("restarts").exists());
    host.close().await;
}
