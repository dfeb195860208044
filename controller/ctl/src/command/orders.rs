//! `osmoda freeze` and `osmoda target`: orders that are not about one rollout.

use osmoda_controller_api::{AllowOrder, DeniedTarget, Freeze, FreezeOrder};
use osmoda_types::command::Order;

use crate::cli::{Freeze as FreezeCommand, ScopeOrder, Target as TargetCommand};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output::{Rows, or_dash};
use crate::session::Session;

/// Runs a command about freezes.
pub(crate) async fn freeze(session: &mut Session, command: FreezeCommand) -> Result<Exit, CliError> {
    let (args, order, path): (ScopeOrder, fn(String) -> Order, _) = match command {
        FreezeCommand::Ls => {
            return super::list::<Freeze>(session, "cannot list freezes", "/freezes", false).await;
        }
        FreezeCommand::Set(args) => (args, |scope| Order::Freeze { scope }, "/freezes"),
        FreezeCommand::Lift(args) => (args, |scope| Order::Unfreeze { scope }, "/freezes/lift"),
    };
    let key = session.key(args.key.key.as_deref())?;
    let order = order(args.scope.clone());
    let signed = session.sign(&key, &order).await?;
    let body = FreezeOrder {
        serial: signed.serial,
        scope: args.scope,
        operator_key: signed.operator_key,
        signature: signed.signature,
    };
    let value = session.client.post(&format!("cannot {} the scope", order.verb()), path, &body).await?;
    let done = match order {
        Order::Freeze { .. } => "frozen",
        _ => "thawed",
    };
    session.out.object(&value, |freeze: &Freeze| freeze.scope.clone(), |freeze| format!("{} {done}", freeze.scope))?;
    Ok(Exit::Ok)
}

/// Runs a command about the deny-list.
pub(crate) async fn target(session: &mut Session, command: TargetCommand) -> Result<Exit, CliError> {
    match command {
        TargetCommand::Denied => {
            super::list::<DeniedTarget>(session, "cannot list denied targets", "/targets/denied", false).await
        }
        TargetCommand::Allow { target, key } => {
            let key = session.key(key.key.as_deref())?;
            let signed = session.sign(&key, &Order::Allow { target: target.clone() }).await?;
            let body = AllowOrder {
                target,
                serial: signed.serial,
                operator_key: signed.operator_key,
                signature: signed.signature,
            };
            let value = session.client.post("cannot allow the target", "/targets/allow", &body).await?;
            let text = |denied: &DeniedTarget| format!("{} may be proposed again", denied.target);
            session.out.object(&value, |denied: &DeniedTarget| denied.target.to_string(), text)?;
            Ok(Exit::Ok)
        }
    }
}

impl Rows for Freeze {
    const HEADS: &'static [&'static str] = &["scope", "by", "index"];

    fn cells(&self) -> Vec<String> {
        vec![self.scope.clone(), self.by.clone(), self.index.to_string()]
    }

    fn name(&self) -> String {
        self.scope.clone()
    }
}

impl Rows for DeniedTarget {
    const HEADS: &'static [&'static str] = &["target", "rollout", "index"];

    fn cells(&self) -> Vec<String> {
        vec![self.target.to_string(), or_dash(self.rollout), or_dash(self.index)]
    }

    fn name(&self) -> String {
        self.target.to_string()
    }
}
