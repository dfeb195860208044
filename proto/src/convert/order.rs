//! Operators' orders.

use osmoda_types::command::{Order, SignedOrder};

use super::{ConvertError, id, path, required, rollout_id};
use crate::fleet::v1 as pb;
use pb::signed_order::Order as Wire;

impl From<&SignedOrder> for pb::SignedOrder {
    fn from(signed: &SignedOrder) -> Self {
        let of = |rollout: &osmoda_types::RolloutId| pb::OfRollout { rollout: rollout.as_bytes().to_vec() };
        let order = match &signed.order {
            Order::AddPrincipal(principal) => Wire::AddPrincipal(principal.into()),
            Order::Pause { rollout } => Wire::Pause(of(rollout)),
            Order::Resume { rollout } => Wire::Resume(of(rollout)),
            Order::Abort { rollout } => Wire::Abort(of(rollout)),
            Order::Exclude { rollout, node } => {
                Wire::Exclude(pb::Exclude { rollout: rollout.as_bytes().to_vec(), node: node.as_bytes().to_vec() })
            }
            Order::Freeze { scope } => Wire::Freeze(pb::OfScope { scope: scope.clone() }),
            Order::Unfreeze { scope } => Wire::Unfreeze(pb::OfScope { scope: scope.clone() }),
            Order::Allow { target } => Wire::Allow(pb::OfTarget { target: target.to_string() }),
            Order::Revoke { node } => Wire::Revoke(pb::OfNode { node: node.as_bytes().to_vec() }),
        };
        Self {
            order: Some(order),
            serial: signed.serial,
            key: signed.key.as_bytes().to_vec(),
            signature: signed.signature.as_bytes().to_vec(),
        }
    }
}

impl TryFrom<pb::SignedOrder> for SignedOrder {
    type Error = ConvertError;
    fn try_from(wire: pb::SignedOrder) -> Result<Self, ConvertError> {
        let of = |wire: pb::OfRollout| rollout_id("control.rollout", &wire.rollout);
        let order = match required("control.order", wire.order)? {
            Wire::AddPrincipal(principal) => Order::AddPrincipal(principal.try_into()?),
            Wire::Pause(wire) => Order::Pause { rollout: of(wire)? },
            Wire::Resume(wire) => Order::Resume { rollout: of(wire)? },
            Wire::Abort(wire) => Order::Abort { rollout: of(wire)? },
            Wire::Exclude(wire) => Order::Exclude {
                rollout: rollout_id("control.rollout", &wire.rollout)?,
                node: id("control.node", &wire.node)?,
            },
            Wire::Freeze(wire) => Order::Freeze { scope: wire.scope },
            Wire::Unfreeze(wire) => Order::Unfreeze { scope: wire.scope },
            Wire::Allow(wire) => Order::Allow { target: path("control.target", wire.target)? },
            Wire::Revoke(wire) => Order::Revoke { node: id("control.node", &wire.node)? },
        };
        Ok(Self {
            order,
            serial: wire.serial,
            key: id("control.key", &wire.key)?,
            signature: id("control.signature", &wire.signature)?,
        })
    }
}
