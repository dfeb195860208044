//! Rooms, without any I/O: what a message is, who may write it, in which order
//! a room is read, and how two nodes bring theirs together.
//!
//! ```text
//!  text ─► Message ─sign─► Verified ─push─► every linked member
//!                             │
//!            RoomLog (order) ◄┴─ Snapshot ◄─ Opener ══ frames ══ Answerer
//! ```
//! Everything is pure: time and randomness are arguments. Invariant: the same
//! set of messages has the same order on every node (`tests/one/order.rs`), and after
//! healing two nodes have the same set (`tests/one/sim.rs`).
//!
//! Not here: the store, the streams and the endpoints (`osmoda-meshd`). Text of
//! a room is anybody's text: whoever gives it to a model marks it as untrusted.

mod fuzz;
mod hlc;
mod id;
pub mod limits;
mod log;
mod message;
mod quota;
mod record;
mod seen;
mod signatures;
mod slot;
mod sync;
mod wire;

pub use fuzz::{fuzz_reconcile, fuzz_room_frame, fuzz_room_message, fuzz_room_record};
pub use hlc::{Ahead, Clock, Hlc, WALL_MS_MAX, judge};
pub use id::{IdPrefix, MessageId, NotARoomId, RoomId};
pub use log::{Author, Inserted, Line, RoomLog, Summary};
pub use message::{Body, Message, MessageError, Unverified, Verified};
pub use quota::{Kept, Meter, OverQuota, Share, author_messages_max, fits, is_over_retention, too_full};
pub use record::{Join, Keys, Member, Record, RecordError, Retention, Signed};
pub use seen::Seen;
pub use signatures::Signatures;
pub use slot::{Slot, Ticket};
pub use sync::{Answerer, Do, Opener, Snapshot, Stored, SyncError};
pub use wire::{Blob, Frame, FrameError, NodeBytes, Refusal, Verdict};
