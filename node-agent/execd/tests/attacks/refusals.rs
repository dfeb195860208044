//! What is refused, and how that is told.

use super::*;

#[tokio::test]
async fn p15_programs_are_started_with_nothing_of_the_callers_environment() {
    let host = Host::new();
    let view = host.ask("service.restart", json!({ "unit": "app.service" })).await.unwrap();
    host.executor.run(RunRequest { permit: None, ..request(&view) }).await.unwrap();
    let environment = std::fs::read_to_string(host.root().join("environment")).unwrap();
    // What the shell of the small systemd sets for itself.
    let own = ["PWD=", "SHLVL=", "_=", "OLDPWD="];
    for line in environment.lines() {
        assert!(own.iter().any(|name| line.starts_with(name)), "{line}");
    }
    for unit in ["--help", "-x.service", "app.service;reboot", "app service", "../x.service"] {
        let asked =
            host.executor.resolve(&AskedCall { tool: "service.restart".into(), args: json!({ "unit": unit }) }).await;
        assert_eq!(code(asked).unwrap_err(), ErrorCode::CallMalformed, "{unit}");
    }
    host.close().await;
}

#[tokio::test]
async fn p18_a_gate_that_is_gone_slow_or_false_runs_nothing() {
    let host = Host::new();
    let view = host.approved("file.write", write("/etc/motd")).await;
    let gone = UnixClient::new(host.dir.path().join("none.sock"), osmoda_kit::http::Credentials::none());
    // One that lets everything begin, and one that never answers.
    let yes = Router::new()
        .route("/run/begin", post(async || Json(RunBegun { run: 1, hash: "0".repeat(64) })))
        .route("/ledger/append", post(async || Json(json!({ "id": 1, "hash": "0".repeat(64) }))))
        .route("/run/end", post(async || Json(json!({ "run": 1, "tool": "x", "call_hash": "0".repeat(64) }))));
    let (yes, slow) =
        (TestServer::open(yes), TestServer::open(Router::new().route("/run/begin", post(std::future::pending::<()>))));
    let with = |client: UnixClient| {
        let parts =
            Parts { approvals: ApprovalClient::new(client.clone()), audit: Audit::new(client), ..host.parts.clone() };
        Executor::open(parts).unwrap()
    };
    for client in [gone, slow.client().with_time_limit(Duration::from_millis(200))] {
        let refused = code(with(client).run(request(&view)).await).unwrap_err();
        assert!(refused.is_retryable(), "{refused}");
        assert!(!host.root().join("etc/motd").exists());
    }
    // The false gate says yes; the executor judges for itself.
    let lied_to = with(yes.client());
    let unsigned = host.ask("file.write", write("/etc/issue")).await.unwrap();
    assert_eq!(code(lied_to.run(request(&unsigned)).await).unwrap_err(), ErrorCode::ApprovalInvalid);
    let without = RunRequest { permit: None, ..request(&unsigned) };
    assert_eq!(code(lied_to.run(without).await).unwrap_err(), ErrorCode::ApprovalRequired);
    let mut foreign = request(&unsigned);
    foreign.permit.as_mut().unwrap().signatures = vec![sign(9, &unsigned.signed.permit, Decision::Approve)];
    assert_eq!(code(lied_to.run(foreign).await).unwrap_err(), ErrorCode::ApprovalInvalid);
    assert!(!host.root().join("etc/issue").exists());
    host.close().await;
}

#[tokio::test]
async fn p21_files_that_run_later_need_a_permit_wherever_files_may_be_written() {
    let host = Host::new();
    std::fs::write(&host.parts.policy, "write_roots = [\"/srv\"]\n").unwrap();
    std::fs::create_dir_all(host.root().join("srv/repo/.git/hooks")).unwrap();
    for folder in
        ["etc/systemd/system", "etc/profile.d", "etc/osmoda", "var/lib/osmoda/execd", "var/spool/cron", "root"]
    {
        std::fs::create_dir_all(host.root().join(folder)).unwrap();
    }
    for path in [
        "/etc/cron.d/job",
        "/etc/systemd/system/evil.service",
        "/etc/osmoda/approvals.toml",
        "/var/lib/osmoda/execd/trust.json",
        "/var/spool/cron/root",
        "/root/.bashrc",
        "/srv/repo/.git/hooks/pre-commit",
        "/srv/repo/evil.timer",
        "/srv/repo/.bashrc",
    ] {
        let view = host.ask("file.write", write(path)).await.unwrap();
        assert_eq!(view.signed.permit.class, EffectClass::Destructive, "{path}");
        let free = RunRequest { permit: None, ..request(&view) };
        assert_eq!(code(host.executor.run(free).await).unwrap_err(), ErrorCode::ApprovalRequired, "{path}");
        assert!(!host.root().join(&path[1..]).exists());
    }
    let harmless = host.ask("file.write", write("/srv/repo/readme")).await.unwrap();
    host.executor.run(RunRequest { permit: None, ..request(&harmless) }).await.unwrap();
    assert!(host.events().iter().filter(|event| event.kind == "exec.refused").count() >= 9, "refusals are recorded");
    host.close().await;
}

/// Who tries the same in a loop makes no row each time; all are counted.
#[tokio::test]
async fn refusals_in_a_loop_are_counted_and_do_not_grow_the_ledger() {
    let host = Host::new();
    let view = host.ask("file.write", write("/etc/motd")).await.unwrap();
    for _ in 0..50 {
        let free = RunRequest { permit: None, ..request(&view) };
        assert_eq!(code(host.executor.run(free).await).unwrap_err(), ErrorCode::ApprovalRequired);
    }
    assert_eq!(host.refusals(), [1], "the first, before its answer");
    let tasks = host.parts.tasks.clone();
    tasks.spawn(TaskKind::REQUEST, "reconcile", host.executor.clone().reconcile());
    tasks.shutdown().request(StopReason::Asked("test".to_owned()));
    assert!(tasks.drain(Duration::from_secs(20)).await.is_graceful());
    assert_eq!(host.refusals(), [1, 49], "the rest at the stop");
    host.close().await;
}

/// A run that was accepted before a stop may be refused after the last look for counts.
#[tokio::test]
async fn a_refusal_that_is_only_counted_during_a_stop_is_recorded() {
    let host = Host::new();
    let (begun, mut seen) = watch::channel(0);
    let go = Arc::new(Semaphore::new(1));
    let hands = Hands { restore: Some(Arc::new(Slow { begun, go: go.clone() })), ..host.parts.hands.clone() };
    let executor = Executor::open(Parts { hands, ..host.parts.clone() }).unwrap();
    // Another object than the one that is seen.
    let operation = Operation::BackupRestore { backup_id: "backup-1".into() };
    let call = Call { tool: operation.tool(), operation, ..testing::call() };
    let hash = call.hash().unwrap();
    let not_after =
        Moment { wall_ms: host.clock.now_wall().as_millis(), boot_ms: 3_600_000, boot_id: host.clock.boot_id() };
    let permit = Permit { not_after: not_after.plus_ms(600_000), ..testing::permit(hash) };
    let signatures = vec![sign(1, &permit, Decision::Approve)];
    let permit = SignedPermit { permit, plan: Vec::new(), signatures };
    let run = RunRequest { call: call.to_value(), permit: Some(permit), position: 0 };
    assert_eq!(code(executor.run(run.clone()).await).unwrap_err(), ErrorCode::ObjectChanged);
    assert_eq!(host.refusals(), [1]);
    // The reconciler has looked, and sleeps: what was open is closed, and the turn is free.
    let view = host.approved("file.write", write("/etc/motd")).await;
    let begin = RunBegin { call: view.calls[0].clone(), permit: Some(view.signed.permit.id), position: 0 };
    host.parts.approvals.begin(&begin).await.unwrap();
    let tasks = host.parts.tasks.clone();
    let mut reconciler = tasks.spawn(TaskKind::REQUEST, "reconcile", executor.clone().reconcile());
    let closed = || async { host.events().iter().any(|event| event.kind == "exec.run.outcome").then_some(()) };
    wait_for("the outcome", Duration::from_secs(20), closed).await;
    assert_eq!(executor.close_open_runs().await.unwrap(), 0);
    let late = executor.run(run);
    let stop = async {
        seen.wait_for(|begun| *begun == 2).await.unwrap();
        tasks.shutdown().request(StopReason::Asked("test".to_owned()));
        let last = async {
            reconciler.finished().await;
            assert_eq!(host.refusals(), [1], "nothing to record in its last look");
            go.add_permits(1);
        };
        let (end, ()) = tokio::join!(tasks.drain(Duration::from_secs(20)), last);
        assert!(end.is_graceful());
    };
    let (late, ()) = tokio::join!(late, stop);
    assert_eq!(code(late).unwrap_err(), ErrorCode::ObjectChanged);
    assert_eq!(host.refusals(), [1, 1]);
    host.close().await;
}

/// A unit's file may lie where others write; a pipe in its place holds up nobody.
#[tokio::test]
async fn a_unit_whose_file_is_a_pipe_is_refused_at_once() {
    let host = Host::new();
    let file = host.root().join("etc/app.service");
    std::fs::remove_file(&file).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
    let refused = host.ask("service.restart", json!({ "unit": "app.service" })).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::CallMalformed);
    host.close().await;
}

#[tokio::test]
async fn refused_where_daemons_share_a_user_and_expired_for_the_executor_too() {
    let host = Host::new();
    let view = host.approved("file.write", write("/etc/motd")).await;
    let shared = Executor::open(Parts { isolation: Isolation::None, ..host.parts.clone() }).unwrap();
    assert_eq!(code(shared.run(request(&view)).await).unwrap_err(), ErrorCode::ClassRefused);
    host.clock.advance(Duration::from_secs(600));
    assert_eq!(host.run(&view).await, Err(ErrorCode::ApprovalExpired));
    host.close().await;
}
