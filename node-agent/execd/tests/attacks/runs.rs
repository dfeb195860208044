//! What runs, how often, and what power that is lost leaves.

use super::*;

#[tokio::test]
async fn an_approved_write_happens_once_and_can_be_taken_back() {
    let host = Host::new();
    let file = host.root().join("etc/motd");
    std::fs::write(&file, "old\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let view = host.approved("file.write", write("/etc/motd")).await;
    assert_eq!(view.signed.permit.class, EffectClass::Destructive);
    let detail = host.run(&view).await.unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "new\n");
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o640);
    let kept = detail.rsplit(' ').next().unwrap();
    assert_eq!(std::fs::read_to_string(host.parts.hands.undo_dir.join(kept)).unwrap(), "old\n");
    assert_eq!(host.run(&view).await, Err(ErrorCode::ApprovalSpent));
    let made = host.approved("file.write", write("/srv/www/new")).await;
    host.run(&made).await.unwrap();
    assert_eq!(host.root().join("srv/www").read_dir().unwrap().count(), 1, "no temporary file is left");
    assert_eq!(host.last_outcome(), "done");
    host.close().await;
}

#[tokio::test]
async fn a_service_restarts_without_a_permit_and_a_reboot_never_happens() {
    let host = Host::new();
    let view = host.ask("service.restart", json!({ "unit": "app.service" })).await.unwrap();
    let free = RunRequest { permit: None, ..request(&view) };
    let answer = host.executor.run(free.clone()).await.unwrap();
    assert_eq!(answer.detail, "app.service restarted");
    assert_eq!(std::fs::read_to_string(host.root().join("restarts")).unwrap(), "try-restart -- app.service\n");
    assert_eq!(code(host.executor.run(free).await).unwrap_err(), ErrorCode::ApprovalSpent);
    assert_eq!(code(host.ask("system.reboot", json!({})).await).unwrap_err(), ErrorCode::ClassRefused);
    let alias = host.ask("service.restart", json!({ "unit": "alias.service" })).await;
    assert_eq!(
        code(alias).unwrap_err(),
        ErrorCode::CallMalformed,
        "the name decides the class, so it is the unit's own"
    );
    let own = host.ask("service.restart", json!({ "unit": "osmoda-execd.service" })).await.unwrap();
    assert_eq!(own.signed.permit.class, EffectClass::Destructive);
    host.close().await;
}

/// A restart of what does not run is a start: of a garbage collection, an upgrade, a
/// root shell on a console, any instance of a template.
#[tokio::test]
async fn a_restart_starts_nothing_that_did_not_run() {
    let host = Host::new();
    for unit in ["off.service", "off@any.service", "once.service", "off.timer", "app.timer"] {
        let asked = host.ask("service.restart", json!({ "unit": unit })).await;
        assert_eq!(code(asked).unwrap_err(), ErrorCode::Conflict, "{unit}");
    }
    // One that ran when it was asked for and does not any more.
    let view = host.ask("service.restart", json!({ "unit": "app.service" })).await.unwrap();
    let program = host.root().join("bin/systemctl");
    let text = std::fs::read_to_string(&program).unwrap();
    std::fs::write(&program, text.replace("active=active", "active=inactive")).unwrap();
    let free = RunRequest { permit: None, ..request(&view) };
    assert_eq!(code(host.executor.run(free).await).unwrap_err(), ErrorCode::Conflict);
    assert!(!host.root().join("restarts").exists());
    host.close().await;
}

/// To look costs root work, and whoever may ask may ask at once.
#[tokio::test]
async fn p19_a_flood_of_looks_is_told_to_come_again() {
    let host = Host::new();
    let asked = AskedCall { tool: "service.restart".into(), args: json!({ "unit": "app.service" }) };
    let look = || host.executor.resolve(&asked);
    // Each of those that look waits for a program; the one too many waits for nothing.
    let (one, two, three, four, five) = tokio::join!(look(), look(), look(), look(), look());
    for looked in [one, two, three, four] {
        looked.unwrap();
    }
    assert_eq!(code(five).unwrap_err(), ErrorCode::Busy);
    host.executor.resolve(&asked).await.unwrap();
    host.close().await;
}

/// Whoever asks and hangs up, again and again, has no more looks than who waits.
#[tokio::test]
async fn p19_a_look_holds_its_place_when_its_asker_has_left() {
    let host = Host::new();
    let (begun, mut seen) = watch::channel(0);
    let go = Arc::new(Semaphore::new(0));
    let hands = Hands { restore: Some(Arc::new(Slow { begun, go: go.clone() })), ..host.parts.hands.clone() };
    let executor = Executor::open(Parts { hands, ..host.parts.clone() }).unwrap();
    let asked = AskedCall { tool: "backup.restore".into(), args: json!({ "backup_id": "backup-1" }) };
    for n in 1..=4 {
        let leaving = executor.resolve(&asked);
        tokio::select! {
            biased;
            looked = leaving => panic!("{looked:?}"),
            // Dropping the look is what is tested.
            seen = seen.wait_for(|begun| *begun == n) => drop(seen.unwrap()),
        }
    }
    tokio::select! {
        biased;
        // Dropping it would end nothing that counts: it is the last that is asked.
        looked = executor.resolve(&asked) => assert_eq!(code(looked).unwrap_err(), ErrorCode::Busy),
        // Dropping a watch loses nothing.
        _ = seen.wait_for(|begun| *begun == 5) => panic!("a fifth looks"),
    }
    go.add_permits(5);
    let looked = loop {
        match executor.resolve(&asked).await {
            Err(error) if error.code == ErrorCode::Busy => tokio::task::yield_now().await,
            looked => break looked,
        }
    };
    looked.unwrap();
    host.close().await;
}

#[tokio::test]
async fn p04_power_lost_between_consumption_and_act_is_an_unknown_outcome() {
    let host = Host::new();
    let view = host.approved("file.write", write("/etc/motd")).await;
    // The executor consumed the permit and died before it touched anything.
    let begin = RunBegin { call: view.calls[0].clone(), permit: Some(view.signed.permit.id), position: 0 };
    host.parts.approvals.begin(&begin).await.unwrap();
    let restarted = Executor::open(host.parts.clone()).unwrap();
    assert_eq!(restarted.close_open_runs().await.unwrap(), 1);
    assert_eq!(host.last_outcome(), "unknown");
    assert_eq!(restarted.close_open_runs().await.unwrap(), 0);
    assert_eq!(host.run(&view).await, Err(ErrorCode::ApprovalSpent));
    assert!(!host.root().join("etc/motd").exists());
    host.close().await;
}

#[tokio::test]
async fn p05_a_ledger_of_yesterday_does_not_bring_a_permit_back() {
    let host = Host::new();
    std::fs::write(host.root().join("etc/motd"), "old\n").unwrap();
    let view = host.approved("file.write", write("/etc/motd")).await;
    let dir = host.close().await;
    let database = dir.path().join("agentd").join(FILE_NAME);
    let yesterday = std::fs::read(&database).unwrap();
    let host = Host::at(dir);
    host.run(&view).await.unwrap();
    let dir = host.close().await;
    // The disk of agentd goes back; the boot, the clocks and the file are as when it was signed.
    for entry in std::fs::read_dir(dir.path().join("agentd")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with(FILE_NAME) {
            std::fs::remove_file(path).unwrap();
        }
    }
    std::fs::write(&database, yesterday).unwrap();
    std::fs::write(dir.path().join("root/etc/motd"), "old\n").unwrap();
    let host = Host::at(dir);
    assert_eq!(host.admin().show(&view.signed.permit.id).await.unwrap().state, State::Approved, "agentd has forgotten");
    assert_eq!(host.run(&view).await, Err(ErrorCode::ApprovalSpent), "the executor has not");
    host.close().await;
}
