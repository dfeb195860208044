//! Witness before act: the seam between a consumed permit and its effect.

use osmoda_kit::error::ApiError;
use osmoda_types::ErrorCode;

use super::Answer;

/// Says whether enough other nodes hold a ledger head that covers an intent
/// (`architecture.md` 3.1). Asked for grave classes only.
pub trait HeadGate: Send + Sync + 'static {
    /// Whether witnesses could be asked now; before a permit is spent.
    ///
    /// # Errors
    /// [`ErrorCode::WitnessUnavailable`].
    fn ready(&self) -> Answer<'_, ()>;

    /// Returns when enough witnesses signed a head at or after this row.
    ///
    /// # Errors
    /// [`ErrorCode::WitnessUnavailable`]; then the effect must not happen.
    fn witnessed(&self, intent: u64) -> Answer<'_, ()>;
}

/// A host without witnesses: grave calls are refused, unless the glass is broken.
#[derive(Debug, Clone, Copy)]
pub struct NoWitness;

impl HeadGate for NoWitness {
    fn ready(&self) -> Answer<'_, ()> {
        Box::pin(async {
            let text = "no other node can confirm the intent; only an approver named in break_glass can allow it";
            Err(ApiError::new(ErrorCode::WitnessUnavailable, text))
        })
    }

    fn witnessed(&self, _: u64) -> Answer<'_, ()> {
        self.ready()
    }
}
