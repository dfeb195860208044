//! A call that needs a person, from the node to the controller's inbox and back:
//! asked for on one host, shown, approved and denied at the controller, run on
//! the host, once.

use anyhow::ensure;

use super::bed::Bed;
use super::command::until;
use super::console::{Console, ask_to_write, osmoda, run_permit, run_witnessed};
use super::controller::VIEW_TIME_MAX;
use super::fleet::Fleet;

/// What is written, and what is not.
const APPROVED: &str = "/etc/osmoda-approved";
const DENIED: &str = "/etc/osmoda-denied";

/// All of it.
pub(super) async fn run(bed: &Bed, fleet: &Fleet) -> anyhow::Result<Vec<String>> {
    let console = Console::open(bed, fleet).await?;
    let host = &bed.hosts()[0];
    let permit = ask_to_write(host, APPROVED, "approved by a person").await?;
    let early = run_permit(host, &permit).await?;
    ensure!(early.exit != 0 && !host.file(APPROVED)?.exists(), "it ran before anybody approved: {}", early.text);
    let listed = console.arrived(&permit).await?;
    ensure!(listed["state"] == "pending", "{listed}");
    let shown = console.run(&["approval", "show", &permit.to_string()]).await?;
    for fact in [APPROVED, "approved by a person", "destructive", "file.write"] {
        ensure!(shown.text.contains(fact), "the console does not show {fact}: {}", shown.text);
    }
    let signed = console.decide("approve", &permit).await?;
    ensure!(signed.exit == 0 && signed.text.contains("approved"), "{}", signed.text);
    let ran = run_witnessed(host, &permit).await?;
    ensure!(ran.exit == 0 && ran.text.contains("done"), "exit code {}: {}", ran.exit, ran.text);
    ensure!(host.run(&["cat", APPROVED]).await? == "approved by a person", "something else was written");
    host.run(&["rm", APPROVED]).await?;
    let again = run_permit(host, &permit).await?;
    ensure!(again.exit != 0 && !host.file(APPROVED)?.exists(), "one approval was good for two calls");
    let gone = until("an inbox without the permit", VIEW_TIME_MAX, || {
        let (console, permit) = (&console, permit.to_string());
        async move {
            let said = console.run(&["approval", "ls", "-o", "name"]).await?;
            Ok((!said.text.contains(&permit)).then_some(()))
        }
    });
    gone.await?;

    let denied = ask_to_write(host, DENIED, "never").await?;
    console.arrived(&denied).await?;
    let signed = console.decide("deny", &denied).await?;
    ensure!(signed.exit == 0 && signed.text.contains("denied"), "{}", signed.text);
    let refused = run_permit(host, &denied).await?;
    ensure!(refused.exit != 0 && !host.file(DENIED)?.exists(), "it ran although it was denied: {}", refused.text);
    let path = format!("path={DENIED}");
    let words = ["approval", "request", "file.write", &path, "content=never", "--session", "another", "--root", "/"];
    let asked = osmoda(host, &words).await?;
    ensure!(asked.exit != 0 && asked.text.contains("approval_denied"), "a denial is final: {}", asked.text);
    Ok(vec![
        format!("a call on {} waited in the controller's inbox, was approved there and ran once", host.name()),
        "a denied one did not run and cannot be asked for again".to_owned(),
    ])
}
