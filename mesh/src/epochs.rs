//! Which secrets of the network are in force. *Pure.*
//!
//! The newest is used for dialling. The one before it stays accepted for a
//! written time after the change, so that members who have not heard of the new
//! one yet are not cut off; a member that was removed is kept out by the
//! allow-list, not by the secret. Invariant: never more than two are accepted,
//! and the older one ends by boot time, which no clock step can lengthen
//! (`tests::the_old_epoch_ends_ten_minutes_after_the_change`).

use std::time::Duration;

use osmoda_types::MeshEpoch;

use crate::{
    config::{EpochSecret, Secrets},
    error::MeshError,
};

/// How long the epoch before the newest is accepted after the change
/// (`architecture.md` 3.2): ten minutes reach every member that is not away;
/// a longer time keeps a leaked secret of use for knocking.
pub(crate) const OVERLAP: Duration = Duration::from_secs(600);

/// The secrets in force.
#[derive(Debug, Clone)]
pub(crate) struct Epochs {
    current: EpochSecret,
    previous: Option<Previous>,
}

#[derive(Debug, Clone)]
struct Previous {
    secret: EpochSecret,
    /// Boot time after which it is refused.
    until: Duration,
}

impl Epochs {
    /// What a restarted node accepts. The wall time of the change says how much
    /// of the overlap is left; a clock that ran backwards gives the whole
    /// overlap again and never more.
    pub(crate) fn begin(secrets: &Secrets, now_wall_ms: i64, now_boot: Duration) -> Result<Self, MeshError> {
        let mut epochs = secrets.epochs.clone();
        epochs.sort_by_key(|secret| secret.epoch);
        let current = epochs.pop().ok_or(MeshError::NoSecret)?;
        let age_ms = secrets.changed_ms.map_or(i64::MAX, |changed| now_wall_ms.saturating_sub(changed));
        let age = Duration::from_millis(u64::try_from(age_ms).unwrap_or(0));
        let previous =
            epochs.pop().filter(|_| age < OVERLAP).map(|secret| Previous { secret, until: now_boot + (OVERLAP - age) });
        Ok(Self { current, previous })
    }

    /// With a newer epoch in force; `None` when this one is in force already or
    /// older.
    pub(crate) fn with(&self, secret: &EpochSecret, now_boot: Duration) -> Result<Option<Self>, MeshError> {
        if secret.epoch == self.current.epoch && *secret != self.current {
            return Err(MeshError::OtherSecret(secret.epoch));
        }
        if secret.epoch <= self.current.epoch {
            return Ok(None);
        }
        let previous = Previous { secret: self.current.clone(), until: now_boot + OVERLAP };
        Ok(Some(Self { current: secret.clone(), previous: Some(previous) }))
    }

    /// The newest.
    pub(crate) fn current(&self) -> &EpochSecret {
        &self.current
    }

    /// The one before, while it is accepted.
    pub(crate) fn previous(&self, now_boot: Duration) -> Option<&EpochSecret> {
        self.previous.as_ref().filter(|previous| now_boot < previous.until).map(|previous| &previous.secret)
    }

    /// When the one before ends, in boot time.
    pub(crate) fn previous_until(&self) -> Option<(&EpochSecret, Duration)> {
        self.previous.as_ref().map(|previous| (&previous.secret, previous.until))
    }

    /// What is accepted now, newest first.
    pub(crate) fn accepted(&self, now_boot: Duration) -> Vec<MeshEpoch> {
        let previous = self.previous(now_boot).map(|secret| secret.epoch);
        [Some(self.current.epoch), previous].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use osmoda_mesh_protocol::SecretBytes;

    use super::*;

    const BOOT: Duration = Duration::from_secs(1_000);

    fn secret(epoch: u32, byte: u8) -> EpochSecret {
        EpochSecret { epoch: MeshEpoch(epoch), secret: SecretBytes::new([byte; 32]) }
    }

    fn begin(epochs: &[u32], changed_ms: Option<i64>, now_ms: i64) -> Vec<u32> {
        let epochs = epochs.iter().map(|epoch| secret(*epoch, 1)).collect();
        let secrets = Secrets { epochs, changed_ms, ..Secrets::default() };
        let begun = Epochs::begin(&secrets, now_ms, BOOT).unwrap();
        begun.accepted(BOOT).into_iter().map(|epoch| epoch.0).collect()
    }

    #[test]
    fn the_old_epoch_ends_ten_minutes_after_the_change() {
        let first = Epochs::begin(&Secrets::from(secret(1, 1)), 0, BOOT).unwrap();
        let second = first.with(&secret(4, 2), BOOT).unwrap().unwrap();
        assert_eq!(second.accepted(BOOT), [MeshEpoch(4), MeshEpoch(1)]);
        assert_eq!(second.accepted(BOOT + OVERLAP - Duration::from_secs(1)).len(), 2);
        assert_eq!(second.accepted(BOOT + OVERLAP), [MeshEpoch(4)]);
        // A third one ends the first at once.
        let third = second.with(&secret(5, 3), BOOT).unwrap().unwrap();
        assert_eq!(third.accepted(BOOT), [MeshEpoch(5), MeshEpoch(4)]);
    }

    #[test]
    fn older_and_repeated_epochs_change_nothing_and_a_second_secret_is_an_error() {
        let epochs = Epochs::begin(&Secrets::from(secret(4, 1)), 0, BOOT).unwrap();
        assert!(epochs.with(&secret(4, 1), BOOT).unwrap().is_none());
        assert!(epochs.with(&secret(3, 9), BOOT).unwrap().is_none());
        assert!(matches!(epochs.with(&secret(4, 9), BOOT), Err(MeshError::OtherSecret(MeshEpoch(4)))));
    }

    #[test]
    fn a_restart_goes_on_with_what_is_left_of_the_overlap() {
        assert_eq!(begin(&[2, 1], Some(0), 599_999), [2, 1]);
        assert_eq!(begin(&[1, 2], Some(0), 600_000), [2]);
        assert_eq!(begin(&[1, 2], None, 0), [2]);
        // A clock that was set back gives one overlap and no more.
        assert_eq!(begin(&[1, 2, 3], Some(900_000), 0), [3, 2]);
        assert!(Epochs::begin(&Secrets::default(), 0, BOOT).is_err());
    }
}
