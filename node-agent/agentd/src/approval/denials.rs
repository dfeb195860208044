//! Denials: what was said no to, for every permit of the call (A6).
//!
//! Like `store`: writing functions take the connection of a guard.

use osmoda_permit::Moment;
use osmoda_permit::policy::TTL_SECS_DEFAULT;
use osmoda_types::{CallHash, PermitId};
use rusqlite::Connection;

use super::store::{self, Stored, signed};

/// Shortest time a denial holds. Whoever asks says how long the permit lives; a
/// life of seconds must not make a no worth as little.
const HELD_MS_MIN: u64 = TTL_SECS_DEFAULT * 1000;

/// Whether a denial of the subject holds: by either clock that still can tell.
pub(super) fn denied(connection: &Connection, subject: &CallHash, now: &Moment) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM denials
                        WHERE subject = ?1 AND (wall_end > ?2 OR (boot_id = ?3 AND boot_end > ?4)))",
        (subject.to_string(), now.wall_ms, &now.boot_id, signed(now.boot_ms)),
        |row| row.get(0),
    )
}

/// Whether a denial holds for any call of the permit, whichever permit it was
/// made for: one denial is final for the call, not for one request of it.
pub(super) fn is_denied(connection: &Connection, id: &PermitId, now: &Moment) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM permit_calls JOIN denials ON denials.subject = permit_calls.subject
                        WHERE permit_calls.permit = ?1 AND (wall_end > ?2 OR (boot_id = ?3 AND boot_end > ?4)))",
        (id.to_string(), now.wall_ms, &now.boot_id, signed(now.boot_ms)),
        |row| row.get(0),
    )
}

/// Open permits whose call was denied under another permit.
pub(super) fn denied_ids(connection: &Connection, now: &Moment) -> rusqlite::Result<Vec<PermitId>> {
    let mut denied = store::open_ids(connection)?;
    let mut failed = Ok(());
    denied.retain(|id| match is_denied(connection, id, now) {
        Ok(is_denied) => is_denied,
        Err(error) => {
            failed = Err(error);
            false
        }
    });
    failed.map(|()| denied)
}

/// Makes a denial hold for every call of the permit until the permit's end, and at
/// least for [`HELD_MS_MIN`] from now. One that holds longer already is not made
/// shorter, by either clock.
pub(super) fn deny_subjects(connection: &Connection, stored: &Stored, now: &Moment) -> rusqlite::Result<()> {
    let (id, asked, least) =
        (stored.signed.permit.id.to_string(), &stored.signed.permit.not_after, now.plus_ms(HELD_MS_MIN));
    // A permit of another boot is over, and what is over is not denied.
    let end = Moment { wall_ms: asked.wall_ms.max(least.wall_ms), boot_ms: asked.boot_ms.max(least.boot_ms), ..least };
    for call in &stored.calls {
        connection.execute(
            "INSERT INTO denials (subject, permit, wall_end, boot_end, boot_id) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (subject) DO UPDATE SET
                 permit = CASE WHEN ?3 > wall_end THEN ?2 ELSE permit END,
                 wall_end = max(wall_end, ?3),
                 boot_end = CASE WHEN boot_id = ?5 THEN max(boot_end, ?4) ELSE ?4 END,
                 boot_id = ?5",
            (call.subject.to_string(), &id, end.wall_ms, signed(end.boot_ms), &end.boot_id),
        )?;
    }
    Ok(())
}

/// Removes denials that are over since before `ended_ms`, and by the boot clock: a
/// wall clock that was set forward ends none.
pub(super) fn prune(connection: &Connection, ended_ms: i64, now: &Moment) -> rusqlite::Result<()> {
    connection.execute(
        "DELETE FROM denials WHERE wall_end < ?1 AND (boot_id <> ?2 OR boot_end < ?3)",
        (ended_ms, &now.boot_id, signed(now.boot_ms)),
    )?;
    Ok(())
}
