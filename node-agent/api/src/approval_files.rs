//! The two files behind every approval: the host's policy and whom a daemon
//! believes. agentd and the executor each read them by themselves, again for
//! every decision. All functions block.
//!
//! Invariant: a file that is damaged or not there is nobody's permission.

use osmoda_kit::config::{self, Validate};
use osmoda_kit::error::ApiError;
use osmoda_kit::fsio;
use osmoda_permit::trust::{TRUST_BYTES_MAX, TRUST_FILE};
use osmoda_permit::{HostTrust, Policy, TrustOrder};
use osmoda_types::ErrorCode;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The name of the policy in `/etc/osmoda`, without its ending.
pub const POLICY_NAME: &str = "approvals";

/// The policy as a configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PolicyFile(pub Policy);

impl Validate for PolicyFile {
    fn faults(&self) -> Vec<String> {
        self.0.faults()
    }
}

/// Reads the policy; an absent file is the default one, which is the strictest.
///
/// # Errors
/// [`ErrorCode::ConfigInvalid`] with every fault.
pub fn load_policy(path: &Path) -> Result<Policy, ApiError> {
    config::load::<PolicyFile>(path).map(|file| file.0).map_err(|errors| {
        ApiError::new(ErrorCode::ConfigInvalid, format!("the approval policy of this host is not valid: {errors}"))
    })
}

/// Reads whom the daemon with this state folder believes.
///
/// # Errors
/// [`ErrorCode::PrincipalUnknown`] when nobody, the codes of the file system.
pub fn load_trust(state_dir: &Path) -> Result<HostTrust, ApiError> {
    let bytes = fsio::read_limited(&state_dir.join(TRUST_FILE), TRUST_BYTES_MAX)
        .map_err(|error| ApiError::new(error.code(), "the trust file cannot be read").with_source(error))?
        .ok_or_else(|| ApiError::new(ErrorCode::PrincipalUnknown, "this daemon trusts no operator yet"))?;
    HostTrust::parse(&bytes).map_err(|code| ApiError::new(code, "the trust file of this daemon is damaged"))
}

/// Writes whom the daemon with this state folder believes.
///
/// # Errors
/// The codes of the file system.
pub fn store_trust(state_dir: &Path, trust: &HostTrust) -> Result<(), ApiError> {
    let text = serde_json::to_vec_pretty(trust).map_err(ApiError::internal)?;
    fsio::write_atomic(&state_dir.join(TRUST_FILE), &text, 0o600)
        .map_err(|error| ApiError::new(error.code(), "the trust file cannot be written").with_source(error))
}

/// Takes an operator's order about operators; returns how many there are then.
///
/// # Errors
/// As [`load_trust`] and [`HostTrust::add`].
pub fn add_trust(state_dir: &Path, order: TrustOrder) -> Result<usize, ApiError> {
    let mut trust = load_trust(state_dir)?;
    let name = order.principal.name.clone();
    let changed =
        trust.add(order).map_err(|code| ApiError::new(code, format!("the order about {name:?} is not taken")))?;
    if changed {
        store_trust(state_dir, &trust)?;
    }
    Ok(trust.operators.len())
}
