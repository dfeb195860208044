//! Whose signatures count on this host, and how that grows. *Pure.*
//!
//! The file has the form of root `watch`'s, plus the host's own id; agentd and
//! the executor keep one each, written by `init` and `join`. Invariant: after
//! that a principal is added, or changed, only by an order that a principal
//! with the right `admin` signed, once and in the order of its serials.

use osmoda_types::command::Order;
use osmoda_types::principal::PRINCIPALS_MAX;
use osmoda_types::{ErrorCode, NetworkId, NodeId, Principal, PublicKey, Right, Signature, statement};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The name of the file in a daemon's state folder.
pub const TRUST_FILE: &str = "trust.json";

/// The largest file: the most principals, with long names.
pub const TRUST_BYTES_MAX: u64 = 256 * 1024;

/// Whom a daemon of this host believes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostTrust {
    /// The fleet.
    pub network_id: NetworkId,
    /// This host.
    pub host_id: NodeId,
    /// Its operators.
    pub operators: Vec<Principal>,
    /// The highest serial seen of each operator's orders, against replays.
    #[serde(default)]
    pub serials: BTreeMap<String, u64>,
}

/// A signed order to add a principal, or to replace its rights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustOrder {
    /// The principal.
    pub principal: Principal,
    /// The serial of the order.
    pub serial: u64,
    /// The key of the operator who gave it.
    pub operator_key: PublicKey,
    /// The signature over the control statement.
    pub signature: Signature,
}

impl HostTrust {
    /// Reads the file.
    ///
    /// # Errors
    /// [`ErrorCode::PrincipalUnknown`]: a damaged file is nobody's permission.
    pub fn parse(bytes: &[u8]) -> Result<Self, ErrorCode> {
        serde_json::from_slice(bytes).map_err(|_| ErrorCode::PrincipalUnknown)
    }

    /// Takes an order. Returns whether it changed anything: the log may bring
    /// one twice.
    ///
    /// # Errors
    /// [`ErrorCode::PrincipalUnknown`], [`ErrorCode::PrincipalDenied`], the codes
    /// of [`statement::verify`], [`ErrorCode::OrderReplayed`],
    /// [`ErrorCode::TooLarge`].
    pub fn add(&mut self, order: TrustOrder) -> Result<bool, ErrorCode> {
        let signer = self.operators.iter().find(|operator| operator.key == order.operator_key);
        if !signer.ok_or(ErrorCode::PrincipalUnknown)?.may(Right::Admin) {
            return Err(ErrorCode::PrincipalDenied);
        }
        let command = Order::AddPrincipal(order.principal.clone());
        let message = statement::control(&command, order.serial, &self.network_id);
        statement::verify(&order.operator_key, &message, &order.signature)?;
        let known = self.operators.contains(&order.principal);
        let seen = self.serials.entry(order.operator_key.to_string()).or_insert(0);
        if order.serial <= *seen {
            return if known { Ok(false) } else { Err(ErrorCode::OrderReplayed) };
        }
        let others = self.operators.iter().filter(|operator| operator.key != order.principal.key).count();
        if others >= PRINCIPALS_MAX {
            return Err(ErrorCode::TooLarge);
        }
        *seen = order.serial;
        self.operators.retain(|operator| operator.key != order.principal.key);
        self.operators.push(order.principal);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{approver, key};

    fn order(by: u8, serial: u64, principal: Principal, network_id: &NetworkId) -> TrustOrder {
        let message = statement::control(&Order::AddPrincipal(principal.clone()), serial, network_id);
        let operator_key = statement::public_key(&key(by));
        TrustOrder { principal, serial, operator_key, signature: statement::sign(&key(by), &message) }
    }

    #[test]
    fn approvers_are_added_by_a_fresh_signed_order_of_an_admin_only() {
        let network_id = NetworkId::from_bytes([1; 32]);
        let mut trust = HostTrust {
            network_id,
            host_id: NodeId::from_bytes([2; 32]),
            operators: vec![Principal { rights: Right::ALL.to_vec(), ..approver("ada", 1) }, approver("bob", 2)],
            serials: BTreeMap::new(),
        };
        let eve = approver("eve", 3);
        assert_eq!(trust.add(order(2, 1, eve.clone(), &network_id)), Err(ErrorCode::PrincipalDenied));
        assert_eq!(trust.add(order(3, 1, eve.clone(), &network_id)), Err(ErrorCode::PrincipalUnknown));
        let elsewhere = NetworkId::from_bytes([9; 32]);
        assert_eq!(trust.add(order(1, 1, eve.clone(), &elsewhere)), Err(ErrorCode::SignatureInvalid));
        assert_eq!(trust.add(order(1, 1, eve.clone(), &network_id)), Ok(true));
        assert_eq!(trust.add(order(1, 1, eve.clone(), &network_id)), Ok(false), "the log may bring it twice");
        let nobody = Principal { rights: Vec::new(), ..eve.clone() };
        assert_eq!(trust.add(order(1, 2, nobody, &network_id)), Ok(true));
        assert_eq!(trust.add(order(1, 1, eve, &network_id)), Err(ErrorCode::OrderReplayed));
        let text = serde_json::to_vec(&trust).unwrap();
        assert_eq!(HostTrust::parse(&text), Ok(trust));
        assert_eq!(HostTrust::parse(b"{}"), Err(ErrorCode::PrincipalUnknown));
    }
}
